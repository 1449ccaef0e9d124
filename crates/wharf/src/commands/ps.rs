//! `ps`: lists containers.

use std::collections::BTreeSet;

use wharf_api::client::Request;

use crate::{
    cli::Cli,
    failure::Result,
    format::{Format, Row, human},
    syntax::filter::{self, Filter},
    template::{Value, quote},
    verb::{Arity, Verb},
};

const TABLE: &str =
    "table {{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}";

/// The raw arguments of `ps`.
#[derive(Debug, clap::Args)]
pub(crate) struct Ps {
    /// Show all containers, not only running ones
    #[arg(short = 'a', long)]
    all: bool,
    /// Show only what matches (name=value)
    #[arg(short = 'f', long, value_parser = filter::parse, value_name = "filter")]
    filter: Vec<Filter>,
    /// How to show it: table, json, or a template
    #[arg(long)]
    format: Option<String>,
    /// Show the last few containers, whatever their state
    #[arg(short = 'n', long, default_value_t = -1)]
    last: i64,
    /// Show the container made last, whatever its state
    #[arg(short = 'l', long)]
    latest: bool,
    /// Show everything in full
    #[arg(long)]
    no_trunc: bool,
    /// Show IDs only
    #[arg(short = 'q', long)]
    quiet: bool,
    /// Show sizes
    #[arg(short = 's', long)]
    size: bool,
}

impl Verb for Ps {
    const ABOUT: &'static str = "List containers";
    const USAGE: &'static str = "[OPTIONS]";
    const ARITY: Arity = Arity::None;

    async fn run(self, cli: &Cli) -> Result {
        let given = self.format.clone().unwrap_or_default();
        if !given.is_empty() && self.quiet {
            cli.warn("WARNING: Ignoring custom format, because both --format and --quiet are set.");
        }
        let configured = cli.config().ps_format.clone();
        let (spec, default) = match (self.quiet, given.is_empty()) {
            (true, _) => ("{{.ID}}".to_owned(), TABLE.to_owned()),
            (false, true) => (configured, self.default_table()),
            (false, false) => (given, self.default_table()),
        };
        let format = Format::parse::<Container>(&spec, &default)?;
        let size = self.size || format.mentions("Size") || format.shows_everything();
        let limit = if self.latest && self.last == -1 { 1 } else { self.last };
        let request = Request::get("/containers/json")
            .flag("all", self.all)
            .flag("size", size)
            .query_if("limit", if limit > 0 { limit.to_string() } else { String::new() })
            .query_if("filters", filter::to_query(&self.filter));
        // Our engine writes only what is shown; others ignore the wish, and what they write more is not read.
        let members = format.columns().map(|columns| members(&columns));
        let request =
            request.query_if("fields", members.as_ref().map(|all| all.join(",")).unwrap_or_default());
        let answer = cli.engine().await?.send(request).await?;
        let list = answer.decode(|bytes| Value::parse_list(bytes, members.as_deref())).await?;
        let rows = list.into_iter().map(|summary| Container {
            summary,
            truncate: !self.no_trunc,
            own_size_only: false,
        });
        cli.print(&format.render(rows)?)
    }
}

impl Ps {
    fn default_table(&self) -> String {
        if self.size { format!("{TABLE}\t{{{{.Size}}}}") } else { TABLE.to_owned() }
    }
}

/// The members of a summary that the columns are made of. A column that there is not is found out later.
fn members(columns: &BTreeSet<&str>) -> Vec<&'static str> {
    let of = |column: &str| -> &'static [&'static str] {
        match column {
            "Command" => &["Command"],
            "CreatedAt" | "RunningFor" => &["Created"],
            "ID" => &["Id"],
            "Image" => &["Image", "ImageID"],
            "Label" | "Labels" => &["Labels"],
            "LocalVolumes" | "Mounts" => &["Mounts"],
            "Names" => &["Names"],
            "Networks" => &["NetworkSettings"],
            "Ports" => &["Ports"],
            "Size" => &["SizeRw", "SizeRootFs"],
            "State" => &["State"],
            "Status" => &["Status"],
            _ => &[],
        }
    };
    let all: BTreeSet<&str> = columns.iter().flat_map(|column| of(column)).copied().collect();
    // Never none: that would ask for all.
    if all.is_empty() { vec!["Id"] } else { all.into_iter().collect() }
}

/// A line of the listing.
pub(super) struct Container {
    pub(super) summary: Value,
    pub(super) truncate: bool,
    /// Whether the size of the image is left out of the size.
    pub(super) own_size_only: bool,
}

impl Row for Container {
    const TYPE: &'static str = "*formatter.ContainerContext";
    const MISTAKES: (&'static str, &'static str) = ("failed to parse template", "failed to execute template");
    const RAW: &'static str = "container_id: {{.ID}}\nimage: {{.Image}}\ncommand: {{.Command}}\ncreated_at: {{.CreatedAt}}\nstate: {{.State}}\nstatus: {{.Status}}\nnames: {{.Names}}\nlabels: {{.Labels}}\nports: {{.Ports}}\n";
    const COLUMNS: &'static [(&'static str, &'static str)] = &[
        ("Command", "COMMAND"),
        ("CreatedAt", "CREATED AT"),
        ("ID", "CONTAINER ID"),
        ("Image", "IMAGE"),
        ("Labels", "LABELS"),
        ("LocalVolumes", "LOCAL VOLUMES"),
        ("Mounts", "MOUNTS"),
        ("Names", "NAMES"),
        ("Networks", "NETWORKS"),
        ("Platform", "PLATFORM"),
        ("Ports", "PORTS"),
        ("RunningFor", "CREATED"),
        ("Size", "SIZE"),
        ("State", "STATE"),
        ("Status", "STATUS"),
    ];

    fn column(&self, name: &str) -> Value {
        let summary = &self.summary;
        let text = match name {
            "Command" => {
                let command = summary.text("Command");
                let command = if self.truncate { human::ellipsis(command, 20) } else { command.to_owned() };
                quote(&command)
            }
            "CreatedAt" => human::local_time(summary.int("Created")),
            "ID" => self.shorten(summary.text("Id")).to_owned(),
            "Image" => self.image(),
            "Labels" => labels(summary),
            "LocalVolumes" => summary
                .list("Mounts")
                .iter()
                .filter(|mount| mount.text("Driver") == "local")
                .count()
                .to_string(),
            "Mounts" => self.mounts(),
            "Names" => self.names(),
            "Networks" => self.networks(),
            "Platform" => return Value::Nil,
            "Ports" => ports(summary.list("Ports")),
            "RunningFor" => format!("{} ago", human::since(summary.int("Created"))),
            "Size" if self.own_size_only => human::size(summary.int("SizeRw") as f64),
            "Size" => size(summary),
            "State" => summary.text("State").to_owned(),
            _ => summary.text("Status").to_owned(),
        };
        text.into()
    }

    fn method(&self, name: &str, args: &[Value]) -> Option<std::result::Result<Value, String>> {
        label_method(&self.summary, name, args)
    }
}

/// `.Label "name"` of anything that has labels.
pub(super) fn label_method(
    object: &Value,
    name: &str,
    args: &[Value],
) -> Option<std::result::Result<Value, String>> {
    if name != "Label" {
        return None;
    }
    let [Value::Str(label)] = args else {
        return Some(Err(format!("wrong number of args for Label: want 1 got {}", args.len())));
    };
    let found = object.entries("Labels").iter().find(|(key, _)| key == label);
    Some(Ok(found.map_or_else(|| "".into(), |(_, value)| value.clone())))
}

/// All labels as `a=b,c=d`.
pub(super) fn labels(object: &Value) -> String {
    let members = Value::sorted_members(object.entries("Labels"));
    let texts: Vec<String> = members.iter().map(|(key, value)| format!("{key}={}", value.as_str())).collect();
    texts.join(",")
}

impl Container {
    fn shorten<'a>(&self, id: &'a str) -> &'a str {
        if self.truncate { human::short_id(id) } else { id }
    }

    fn image(&self) -> String {
        let (image, id) = (self.summary.text("Image"), self.summary.text("ImageID"));
        match image {
            "" => "<no image>".to_owned(),
            // An image without a name goes by its ID, which is as good in short.
            image if self.truncate && human::short_id(image) == human::short_id(id) => {
                human::short_id(image).to_owned()
            }
            image => image.to_owned(),
        }
    }

    fn names(&self) -> String {
        let names = self.summary.list("Names").iter().map(|name| {
            let name = name.as_str();
            name.strip_prefix('/').unwrap_or(name)
        });
        // Names by which other containers link to this one are long and rarely of interest.
        let shown: Vec<&str> = names.filter(|name| !self.truncate || !name.contains('/')).collect();
        shown.join(",")
    }

    fn mounts(&self) -> String {
        let names = self.summary.list("Mounts").iter().map(|mount| {
            let name = match mount.text("Name") {
                "" => mount.text("Source"),
                name => name,
            };
            if self.truncate { human::ellipsis(name, 15) } else { name.to_owned() }
        });
        names.collect::<Vec<_>>().join(",")
    }

    fn networks(&self) -> String {
        let settings = self.summary.get("NetworkSettings").unwrap_or(&Value::Nil);
        let mut names: Vec<&str> = settings.entries("Networks").iter().map(|(name, _)| &**name).collect();
        names.sort_unstable();
        names.join(",")
    }
}

fn size(summary: &Value) -> String {
    let own = human::size(summary.int("SizeRw") as f64);
    match summary.int("SizeRootFs") {
        0 => own,
        all => format!("{own} (virtual {})", human::size(all as f64)),
    }
}

/// Ports as they are shown: neighbours with the same number on both sides become a range.
fn ports(list: &[Value]) -> String {
    struct Group {
        address: String,
        kind: String,
        first: i64,
        last: i64,
    }
    let mut sorted: Vec<(i64, &str, i64, &str)> = list
        .iter()
        .map(|port| (port.int("PrivatePort"), port.text("IP"), port.int("PublicPort"), port.text("Type")))
        .collect();
    sorted.sort_unstable();
    let mut groups: Vec<Group> = Vec::new();
    let (mut shown, mut mapped) = (Vec::new(), Vec::new());
    for (private, address, public, kind) in sorted {
        if !address.is_empty() && public != private {
            mapped.push(format!("{}->{private}/{kind}", join_host(address, &public.to_string())));
            continue;
        }
        match groups.iter_mut().find(|group| group.address == address && group.kind == kind) {
            Some(group) if group.last + 1 == private => group.last = private,
            Some(group) => {
                shown.push(range(&group.address, &group.kind, group.first, group.last));
                (group.first, group.last) = (private, private);
            }
            None => groups.push(Group {
                address: address.into(),
                kind: kind.into(),
                first: private,
                last: private,
            }),
        }
    }
    shown.extend(groups.iter().map(|group| range(&group.address, &group.kind, group.first, group.last)));
    shown.extend(mapped);
    shown.join(", ")
}

fn range(address: &str, kind: &str, first: i64, last: i64) -> String {
    let numbers = if first == last { first.to_string() } else { format!("{first}-{last}") };
    match address {
        "" => format!("{numbers}/{kind}"),
        address => format!("{}->{numbers}/{kind}", join_host(address, &numbers)),
    }
}

/// An address and a port, with brackets around an IPv6 address.
pub(super) fn join_host(address: &str, port: &str) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(json: &str) -> Container {
        Container {
            summary: Value::parse_json(json.as_bytes()).unwrap(),
            truncate: true,
            own_size_only: false,
        }
    }

    #[test]
    fn ports_are_gathered_into_ranges() {
        let text = r#"{"Ports":[
            {"IP":"0.0.0.0","PrivatePort":80,"PublicPort":8081,"Type":"tcp"},
            {"IP":"::","PrivatePort":80,"PublicPort":8081,"Type":"tcp"},
            {"IP":"0.0.0.0","PrivatePort":9001,"PublicPort":9001,"Type":"udp"},
            {"IP":"0.0.0.0","PrivatePort":9000,"PublicPort":9000,"Type":"udp"},
            {"PrivatePort":53,"Type":"tcp"},{"PrivatePort":54,"Type":"tcp"},{"PrivatePort":60,"Type":"tcp"}]}"#;
        assert_eq!(
            container(text).column("Ports").as_str(),
            "53-54/tcp, 60/tcp, 0.0.0.0:9000-9001->9000-9001/udp, 0.0.0.0:8081->80/tcp, [::]:8081->80/tcp"
        );
    }

    #[test]
    fn every_column_is_made_of_what_is_asked_for() {
        let full = r#"{"Id":"0123456789abcdef","Names":["/web"],"Image":"sha256:0123456789abcdefgh","Created":1,
            "ImageID":"sha256:0123456789abcdefgh","Command":"sleep","Labels":{"b":"2"},"State":"running",
            "Mounts":[{"Name":"v","Driver":"local"}],"Status":"Up","Ports":[{"PrivatePort":53,"Type":"tcp"}],
            "NetworkSettings":{"Networks":{"bridge":{}}},"SizeRw":10,"SizeRootFs":1000}"#;
        let whole = container(full);
        for (name, _) in Container::COLUMNS {
            let members = members(&[*name].into());
            let list = format!("[{full}]");
            let summary = Value::parse_list(list.as_bytes(), Some(&members)).unwrap().remove(0);
            let part = Container { summary, truncate: true, own_size_only: false };
            assert_eq!(part.column(name).as_str(), whole.column(name).as_str(), "{name}");
        }
        assert_eq!(members(&["Label"].into()), ["Labels"]);
        assert_eq!(members(&["Platform"].into()), ["Id"]);
        assert_eq!(members(&["ID", "Image"].into()), ["Id", "Image", "ImageID"]);
    }

    #[test]
    fn columns() {
        let row = container(
            r#"{"Id":"0123456789abcdef","Names":["/web","/other/link"],"Image":"sha256:0123456789abcdefgh",
                "ImageID":"sha256:0123456789abcdefgh","Command":"sleep 1000 and more of it","Labels":{"b":"2","a":"1"},
                "Mounts":[{"Name":"","Source":"/a/very/long/path/indeed"},{"Name":"v","Driver":"local"}],
                "NetworkSettings":{"Networks":{"bridge":{}}},"SizeRw":10,"SizeRootFs":1000}"#,
        );
        let expected = [
            ("ID", "0123456789ab"),
            ("Names", "web"),
            ("Image", "0123456789ab"),
            ("Command", "\"sleep 1000 and more…\""),
            ("Labels", "a=1,b=2"),
            ("Mounts", "/a/very/long/p…,v"),
            ("LocalVolumes", "1"),
            ("Networks", "bridge"),
            ("Size", "10B (virtual 1kB)"),
        ];
        for (name, text) in expected {
            assert_eq!(row.column(name).as_str(), text, "{name}");
        }
        let label = row.method("Label", &["a".into()]).unwrap().unwrap();
        assert_eq!(label.as_str(), "1");
    }
}
