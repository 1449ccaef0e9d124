//! `inspect`: everything the engine knows about things, as JSON or through a template.

use std::rc::Rc;

use wharf_api::client::{Request, escape};

use crate::{
    cli::Cli,
    failure::{Failure, Result},
    syntax::platform::Platform,
    template::{Object, Template, Value, json_indent},
    verb::{Arity, Verb},
};

/// The exit status of a template that cannot be parsed.
const BAD_TEMPLATE: u8 = 64;

/// The raw arguments of `inspect`.
#[derive(Debug, clap::Args)]
pub(crate) struct Inspect {
    /// How to show it: json or a template
    #[arg(short = 'f', long)]
    format: Option<String>,
    /// Show sizes of containers
    #[arg(short = 's', long)]
    size: bool,
    /// Look only for this kind of thing
    #[arg(long = "type", value_name = "string")]
    kind: Option<String>,
    #[arg(hide = true)]
    names: Vec<String>,
}

impl Verb for Inspect {
    const ABOUT: &'static str = "Show everything about containers, images, volumes or networks";
    const USAGE: &'static str = "[OPTIONS] NAME|ID [NAME|ID...]";
    const ARITY: Arity = Arity::AtLeast(1);

    async fn run(self, cli: &Cli) -> Result {
        const KINDS: [(&str, &[Kind]); 5] = [
            ("", &[Kind::Container, Kind::Image, Kind::Network, Kind::Volume]),
            ("container", &[Kind::Container]),
            ("image", &[Kind::Image]),
            ("network", &[Kind::Network]),
            ("volume", &[Kind::Volume]),
        ];
        let wanted = self.kind.clone().unwrap_or_default();
        let Some((_, kinds)) = KINDS.iter().find(|(name, _)| *name == wanted) else {
            return Err(Failure::message(format!(
                "unknown type: \"{wanted}\": must be one of \"config\", \"container\", \"image\", \"network\", \"node\", \"plugin\", \"secret\", \"service\", \"task\", \"volume\""
            )));
        };
        show(
            cli,
            kinds,
            &self.names,
            self.format.as_deref(),
            &Options { size: self.size, ..Options::default() },
        )
        .await
    }
}

/// A kind of thing that can be inspected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Container,
    Image,
    Network,
    Volume,
}

/// What else to ask for.
#[derive(Debug, Default)]
struct Options {
    /// The sizes of containers.
    size: bool,
    /// The image of this platform.
    platform: Option<String>,
}

impl Kind {
    fn request(self, name: &str, options: &Options) -> Request {
        let name = escape(name);
        match self {
            Self::Container => Request::get(format!("/containers/{name}/json")).flag("size", options.size),
            Self::Image => Request::get(format!("/images/{name}/json"))
                .query_if("platform", options.platform.as_deref().unwrap_or_default()),
            Self::Network => Request::get(format!("/networks/{name}")),
            Self::Volume => Request::get(format!("/volumes/{name}")),
        }
    }
}

/// The raw arguments of `image inspect`.
#[derive(Debug, clap::Args)]
pub(crate) struct InspectImage {
    /// How to show it: json or a template
    #[arg(short = 'f', long)]
    format: Option<String>,
    /// Show this platform's image ('os[/arch[/variant]]', as linux/amd64), if there are several
    #[arg(long)]
    platform: Option<String>,
    #[arg(hide = true)]
    names: Vec<String>,
}

impl Verb for InspectImage {
    const ABOUT: &'static str = "Show everything about images";
    const USAGE: &'static str = "[OPTIONS] IMAGE [IMAGE...]";
    const ARITY: Arity = Arity::AtLeast(1);

    async fn run(self, cli: &Cli) -> Result {
        let platform = super::platform(self.platform.as_deref(), "")?;
        let options = Options { platform: platform.as_ref().map(Platform::document), ..Options::default() };
        show(cli, &[Kind::Image], &self.names, self.format.as_deref(), &options).await
    }
}

/// The raw arguments of `volume inspect`.
#[derive(Debug, clap::Args)]
pub(crate) struct InspectVolume {
    /// How to show it: json or a template
    #[arg(short = 'f', long)]
    format: Option<String>,
    #[arg(hide = true)]
    names: Vec<String>,
}

impl Verb for InspectVolume {
    const ABOUT: &'static str = "Show everything about volumes";
    const USAGE: &'static str = "[OPTIONS] VOLUME [VOLUME...]";
    const ARITY: Arity = Arity::AtLeast(1);

    async fn run(self, cli: &Cli) -> Result {
        show(cli, &[Kind::Volume], &self.names, self.format.as_deref(), &Options::default()).await
    }
}

/// The raw arguments of `container inspect`.
#[derive(Debug, clap::Args)]
pub(crate) struct InspectContainer {
    /// How to show it: json or a template
    #[arg(short = 'f', long)]
    format: Option<String>,
    /// Show sizes
    #[arg(short = 's', long)]
    size: bool,
    #[arg(hide = true)]
    names: Vec<String>,
}

impl Verb for InspectContainer {
    const ABOUT: &'static str = "Show everything about containers";
    const USAGE: &'static str = "[OPTIONS] CONTAINER [CONTAINER...]";
    const ARITY: Arity = Arity::AtLeast(1);

    async fn run(self, cli: &Cli) -> Result {
        show(
            cli,
            &[Kind::Container],
            &self.names,
            self.format.as_deref(),
            &Options { size: self.size, ..Options::default() },
        )
        .await
    }
}

/// The raw arguments of `network inspect`.
#[derive(Debug, clap::Args)]
pub(crate) struct InspectNetwork {
    /// How to show it: json or a template
    #[arg(short = 'f', long)]
    format: Option<String>,
    /// Show what other nodes know as well
    #[arg(short = 'v', long)]
    verbose: bool,
    #[arg(hide = true)]
    names: Vec<String>,
}

impl Verb for InspectNetwork {
    const ABOUT: &'static str = "Show everything about networks";
    const USAGE: &'static str = "[OPTIONS] NETWORK [NETWORK...]";
    const ARITY: Arity = Arity::AtLeast(1);

    async fn run(self, cli: &Cli) -> Result {
        show(cli, &[Kind::Network], &self.names, self.format.as_deref(), &Options::default()).await
    }
}

/// Shows each of `names`, looked for as each of `kinds` in turn.
async fn show(
    cli: &Cli,
    kinds: &[Kind],
    names: &[String],
    format: Option<&str>,
    options: &Options,
) -> Result {
    // A template that means nothing is told before anything is asked.
    parsed(format)?;
    let mut found = Vec::new();
    for name in names {
        found.push(find(cli, kinds, name, options).await);
    }
    present(cli, format, found)
}

fn parsed(format: Option<&str>) -> Result<Option<Template>> {
    match format {
        None | Some("" | "json") => Ok(None),
        Some(source) => Template::parse("", source)
            .map(Some)
            .map_err(|error| Failure::status(BAD_TEMPLATE, format!("template parsing error: {error}"))),
    }
}

/// Shows documents as JSON or through a template, and fails with what could not be found.
pub(super) fn present(cli: &Cli, format: Option<&str>, found: Vec<Result<String>>) -> Result {
    let template = parsed(format)?;
    let (mut documents, mut text, mut failures) = (Vec::new(), String::new(), Vec::new());
    for document in found {
        match document {
            Err(failure) => failures.push(failure),
            Ok(document) => match &template {
                None => documents.push(document),
                Some(template) => match render(template, &document, &mut text) {
                    Ok(()) => text.push('\n'),
                    Err(failure) => failures.push(failure),
                },
            },
        }
    }
    match (&template, format) {
        (Some(_), _) if text.is_empty() => text.push('\n'),
        (Some(_), _) => {}
        (None, Some("json")) => text = format!("[{}]\n", documents.join(",").trim_end()),
        (None, _) => text = format!("{}\n", json_indent(&format!("[{}]", documents.join(",")), "", "    ")),
    }
    cli.print(&text)?;
    crate::failure::all(failures)
}

fn render(template: &Template, document: &str, text: &mut String) -> Result {
    let value = Value::parse_json(document.as_bytes())
        .map_err(|error| Failure::message(format!("unable to read inspect data: {error}")))?;
    let before = text.len();
    template.render(&record("", value), text).map_err(|error| {
        text.truncate(before);
        Failure::message(format!("template parsing error: {error}"))
    })
}

async fn find(cli: &Cli, kinds: &[Kind], name: &str, options: &Options) -> Result<String> {
    let client = cli.engine().await?;
    for kind in kinds {
        match client.send(kind.request(name, options)).await {
            Ok(response) => {
                return Ok(String::from_utf8_lossy(&response.bytes().await?).trim_end().to_owned());
            }
            Err(error) if kinds.len() > 1 && (error.is_not_found() || error.status() == Some(400)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(Failure::message(format!("Error: No such object: {name}")))
}

/// Members that are maps of the user's, where any key may be asked for; all other objects have fixed fields.
const MAPS: [&str; 20] = [
    "Annotations",
    "Attributes",
    "Containers",
    "Data",
    "DriverOpts",
    "Endpoints",
    "ExposedPorts",
    "Labels",
    "MaskedPaths",
    "Networks",
    "Options",
    "PortBindings",
    "Ports",
    "Status",
    "StorageOpt",
    "Sysctls",
    "TLSMaterial",
    "Tmpfs",
    "Volumes",
    "DriverStatus",
];

/// Members that are lists, which show as `[]` rather than nothing when the engine leaves them out.
const LISTS: [&str; 36] = [
    "Aliases",
    "Args",
    "Binds",
    "BlkioDeviceReadBps",
    "BlkioDeviceReadIOps",
    "BlkioDeviceWriteBps",
    "BlkioDeviceWriteIOps",
    "BlkioWeightDevice",
    "CapAdd",
    "CapDrop",
    "Cmd",
    "DNSNames",
    "DeviceCgroupRules",
    "DeviceRequests",
    "Devices",
    "Dns",
    "DnsOptions",
    "DnsSearch",
    "Entrypoint",
    "Env",
    "ExecIDs",
    "ExtraHosts",
    "GroupAdd",
    "Layers",
    "Links",
    "MaskedPaths",
    "Mounts",
    "OnBuild",
    "ReadonlyPaths",
    "RepoDigests",
    "RepoTags",
    "SecondaryIPAddresses",
    "SecurityOpt",
    "Shell",
    "Ulimits",
    "VolumesFrom",
];

/// Members that are absent unless they matter.
const OPTIONAL: [&str; 14] = [
    "GraphDriver",
    "Health",
    "Healthcheck",
    "IPAMConfig",
    "ImageManifestDescriptor",
    "Init",
    "MemorySwappiness",
    "OomKillDisable",
    "PidsLimit",
    "SizeRootFs",
    "SizeRw",
    "Status",
    "StopTimeout",
    "UsageData",
];

/// Texts that are absent when empty.
const TEXTS: [&str; 9] = [
    "Author",
    "Comment",
    "CreatedAt",
    "Domainname",
    "MacAddress",
    "Parent",
    "StopSignal",
    "Variant",
    "VirtualSize",
];

/// Texts of a container's mount that are absent when empty.
const MOUNT_TEXTS: [&str; 2] = ["Driver", "Name"];

/// An object with fixed fields: asking for another one is an error, as it is for Go's structs.
struct Record {
    members: Value,
    /// The type an error names, if it is not the JSON document that errors are about.
    type_name: Option<&'static str>,
}

impl Object for Record {
    fn field(&self, name: &str, _args: &[Value]) -> Option<std::result::Result<Value, String>> {
        let member = self.members.get(name).or_else(|| self.members.get(json_name(name)?));
        Some(match member {
            Some(Value::Nil) | None => match empty(name) {
                Some(value) => Ok(value),
                None if MOUNT_TEXTS.contains(&name) && self.members.get("Destination").is_some() => {
                    Ok("".into())
                }
                None if member.is_some() => Ok(Value::Nil),
                None if self.type_name.is_some() => return None,
                None => Err(format!("map has no entry for key \"{name}\"")),
            },
            Some(value) => Ok(value.clone()),
        })
    }

    fn members(&self) -> Value {
        self.members.clone()
    }

    fn type_name(&self) -> &str {
        self.type_name.unwrap_or("struct")
    }
}

/// The JSON name of a field that Go calls something else.
fn json_name(go: &str) -> Option<&'static str> {
    match go {
        "ID" => Some("Id"),
        "APIVersion" => Some("ApiVersion"),
        _ => None,
    }
}

/// What stands for a member that is `null` or absent.
fn empty(name: &str) -> Option<Value> {
    match name {
        name if LISTS.contains(&name) => Some(Value::List(Rc::new([]))),
        name if OPTIONAL.contains(&name) => Some(Value::Nil),
        name if MAPS.contains(&name) => Some(Value::Map(Rc::new([]))),
        name if TEXTS.contains(&name) => Some("".into()),
        _ => None,
    }
}

/// Makes records of a document's objects, except of those that are maps. `name` is the member `value` was found at.
pub(crate) fn record(name: &str, value: Value) -> Value {
    match value {
        Value::Map(members) => {
            let within = |key: &str, value: &Value| {
                // A log driver's settings are a map; a container's are not.
                let key = if name == "LogConfig" && key == "Config" { "Options" } else { key };
                record(key, value.clone())
            };
            let members: Rc<[(Rc<str>, Value)]> =
                members.iter().map(|(key, value)| (Rc::clone(key), within(key, value))).collect();
            let members = Value::Map(members);
            if MAPS.contains(&name) {
                members
            } else {
                Value::Object(Rc::new(Record { members, type_name: None }))
            }
        }
        Value::List(items) => Value::List(items.iter().map(|item| record("", item.clone())).collect()),
        other => other,
    }
}

/// The same for a document whose type has a name; members may have theirs by `members`.
pub(crate) fn named_record(type_name: &'static str, document: Value) -> Value {
    match record("", document) {
        Value::Object(object) => {
            Value::Object(Rc::new(Record { members: object.members(), type_name: Some(type_name) }))
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTAINER: &str = r#"{"Id":"x","State":{"Status":"running","Pid":7},
        "Config":{"Labels":{"a":"b"},"Env":null},"HostConfig":{"LogConfig":{"Type":"t","Config":{}},"Init":null},
        "Mounts":[{"Type":"bind","Source":"/a"}],"NetworkSettings":{"Networks":{"bridge":{"IPAddress":"1.2.3.4"}}}}"#;

    fn show(source: &str) -> String {
        let mut text = String::new();
        let template = Template::parse("", source).unwrap();
        match render(&template, CONTAINER, &mut text) {
            Ok(()) => text,
            Err(failure) => failure.to_string(),
        }
    }

    #[test]
    fn fields_behave_as_those_of_gos_types() {
        let cases = [
            ("{{.State.Pid}} {{.Config.Labels.a}}", "7 b"),
            ("{{.Config.Labels.zzz}}", "<no value>"),
            ("{{.HostConfig.LogConfig.Config.foo}}", "<no value>"),
            ("{{if .State.Health}}{{.State.Health.Status}}{{else}}none{{end}}", "none"),
            ("{{.State.Health}} {{.HostConfig.Init}} {{.SizeRw}}", "<nil> <nil> <nil>"),
            ("{{.Config.Env}} {{.HostConfig.Binds}} {{.HostConfig.PortBindings}}", "[] [] map[]"),
            ("{{range .Mounts}}{{.Source}}{{end}}", "/a"),
            (
                "{{range $name, $net := .NetworkSettings.Networks}}{{$name}}={{$net.IPAddress}}{{end}}",
                "bridge=1.2.3.4",
            ),
            ("{{.NetworkSettings.Networks.bridge.IPAddress}}", "1.2.3.4"),
            ("{{json .State}}", r#"{"Status":"running","Pid":7}"#),
            ("{{.State}}", "{running 7}"),
            (
                "{{.Foo}}",
                "template parsing error: template: :1:2: executing \"\" at <.Foo>: map has no entry for key \"Foo\"",
            ),
        ];
        for (source, expected) in cases {
            assert_eq!(show(source), expected, "{source}");
        }
    }
}
