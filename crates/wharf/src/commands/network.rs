//! `network ls`.

use jiff::{Timestamp, tz::TimeZone};
use wharf_api::client::Request;

use super::ps::{label_method, labels};
use crate::{
    cli::Cli,
    failure::Result,
    format::{Format, Row, human},
    syntax::filter::{self, Filter},
    template::Value,
    verb::{Arity, Verb},
};

/// The raw arguments of `network ls`.
#[derive(Debug, clap::Args)]
pub(crate) struct Ls {
    /// Show only what matches (name=value)
    #[arg(short = 'f', long, value_parser = filter::parse, value_name = "filter")]
    filter: Vec<Filter>,
    /// How to show it: table, json, or a template
    #[arg(long)]
    format: Option<String>,
    /// Show everything in full
    #[arg(long)]
    no_trunc: bool,
    /// Show IDs only
    #[arg(short = 'q', long)]
    quiet: bool,
}

impl Verb for Ls {
    const ABOUT: &'static str = "List networks";
    const USAGE: &'static str = "[OPTIONS]";
    const ARITY: Arity = Arity::None;

    async fn run(self, cli: &Cli) -> Result {
        let table = if self.quiet { "{{.ID}}" } else { "table {{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.Scope}}" };
        let configured = if self.quiet { "" } else { &cli.config().networks_format };
        let format = Format::parse::<Network>(self.format.as_deref().unwrap_or(configured), table)?;
        let request = Request::get("/networks").query_if("filters", filter::to_query(&self.filter));
        let mut networks: Vec<Value> = cli.engine().await?.send(request).await?.json().await?;
        networks.sort_by(|a, b| a.text("Name").cmp(b.text("Name")));
        let row = |network| Network { network, truncate: !self.no_trunc };
        cli.print(&format.render(networks.into_iter().map(row))?)
    }
}

struct Network {
    network: Value,
    truncate: bool,
}

impl Row for Network {
    const TYPE: &'static str = "*network.networkContext";
    const RAW: &'static str =
        "network_id: {{.ID}}\nname: {{.Name}}\ndriver: {{.Driver}}\nscope: {{.Scope}}\n";
    const COLUMNS: &'static [(&'static str, &'static str)] = &[
        ("CreatedAt", "CREATED AT"),
        ("Driver", "DRIVER"),
        ("ID", "NETWORK ID"),
        ("IPv4", "IPV4"),
        ("IPv6", "IPV6"),
        ("Internal", "INTERNAL"),
        ("Labels", "LABELS"),
        ("Name", "NAME"),
        ("Scope", "SCOPE"),
    ];

    fn column(&self, name: &str) -> Value {
        let network = &self.network;
        let text = match name {
            "CreatedAt" => created(network.text("Created")),
            "ID" if self.truncate => human::short_id(network.text("Id")).to_owned(),
            "ID" => network.text("Id").to_owned(),
            "IPv4" => network.is_set("EnableIPv4").to_string(),
            "IPv6" => network.is_set("EnableIPv6").to_string(),
            "Internal" => network.is_set("Internal").to_string(),
            "Labels" => labels(network),
            other => network.text(other).to_owned(),
        };
        text.into()
    }

    fn method(&self, name: &str, args: &[Value]) -> Option<std::result::Result<Value, String>> {
        label_method(&self.network, name, args)
    }
}

fn created(text: &str) -> String {
    let Ok(timestamp) = text.parse::<Timestamp>() else { return text.to_owned() };
    timestamp.to_zoned_datetime(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S%.f %z %Z").to_string()
}
