//! `volume create`, `volume ls`, `volume rm`.

use wharf_api::{
    client::{Request, escape},
    models::VolumeCreateRequest,
};

use super::{
    each,
    ps::{label_method, labels},
};
use crate::{
    cli::Cli,
    failure::{Failure, Result},
    format::{Format, Row, human},
    syntax::{
        environment,
        filter::{self, Filter},
    },
    template::Value,
    verb::{Arity, Verb},
};

/// The raw arguments of `volume create`.
#[derive(Debug, clap::Args)]
pub(crate) struct Create {
    /// Volume driver
    #[arg(short = 'd', long, default_value = "local")]
    driver: String,
    /// Set a label
    #[arg(long)]
    label: Vec<String>,
    /// Options of the driver
    #[arg(short = 'o', long, value_parser = environment::pair, value_name = "map")]
    opt: Vec<(String, String)>,
    #[arg(long, hide = true)]
    name: Option<String>,
    #[arg(hide = true)]
    volume: Vec<String>,
}

impl Verb for Create {
    const ABOUT: &'static str = "Make a volume";
    const USAGE: &'static str = "[OPTIONS] [VOLUME]";
    const ARITY: Arity = Arity::AtMost(1);

    async fn run(mut self, cli: &Cli) -> Result {
        let name = match (self.name, self.volume.pop()) {
            (Some(_), Some(_)) => {
                return Err(Failure::message(
                    "conflicting options: cannot specify a volume-name through both --name and as a positional arg",
                ));
            }
            (flag, argument) => flag.or(argument),
        };
        let labels = environment::labels(&[], &self.label).map_err(Failure::Message)?;
        let body = VolumeCreateRequest {
            name,
            driver: Some(self.driver),
            driver_opts: (!self.opt.is_empty()).then(|| self.opt.into_iter().collect()),
            labels: (!labels.is_empty()).then(|| labels.into_iter().collect()),
            ..VolumeCreateRequest::default()
        };
        let request = Request::post("/volumes/create").json(&body)?;
        let volume: Value = cli.engine().await?.send(request).await?.json().await?;
        cli.line(volume.text("Name"))
    }
}

/// The raw arguments of `volume ls`.
#[derive(Debug, clap::Args)]
pub(crate) struct Ls {
    /// Show only what matches (name=value)
    #[arg(short = 'f', long, value_parser = filter::parse, value_name = "filter")]
    filter: Vec<Filter>,
    /// How to show it: table, json, or a template
    #[arg(long)]
    format: Option<String>,
    /// Show names only
    #[arg(short = 'q', long)]
    quiet: bool,
}

impl Verb for Ls {
    const ABOUT: &'static str = "List volumes";
    const USAGE: &'static str = "[OPTIONS]";
    const ARITY: Arity = Arity::None;

    async fn run(self, cli: &Cli) -> Result {
        let table = if self.quiet { "{{.Name}}" } else { "table {{.Driver}}\t{{.Name}}" };
        let configured = if self.quiet { "" } else { &cli.config().volumes_format };
        let format = Format::parse::<Volume>(self.format.as_deref().unwrap_or(configured), table)?;
        let request = Request::get("/volumes").query_if("filters", filter::to_query(&self.filter));
        let answer: Value = cli.engine().await?.send(request).await?.json().await?;
        for warning in answer.list("Warnings") {
            cli.warn(&format!("WARNING: {}", warning.as_str()));
        }
        let mut volumes: Vec<Volume> = answer.list("Volumes").iter().cloned().map(Volume).collect();
        volumes.sort_by(|a, b| a.0.text("Name").cmp(b.0.text("Name")));
        cli.print(&format.render(volumes)?)
    }
}

/// A line of the listing.
pub(super) struct Volume(pub(super) Value);

impl Row for Volume {
    const TYPE: &'static str = "*formatter.volumeContext";
    const RAW: &'static str = "name: {{.Name}}\ndriver: {{.Driver}}\n";
    const COLUMNS: &'static [(&'static str, &'static str)] = &[
        ("Availability", "AVAILABILITY"),
        ("Driver", "DRIVER"),
        ("Group", "GROUP"),
        ("Labels", "LABELS"),
        ("Links", "LINKS"),
        ("Mountpoint", "MOUNTPOINT"),
        ("Name", "VOLUME NAME"),
        ("Scope", "SCOPE"),
        ("Size", "SIZE"),
        ("Status", "STATUS"),
    ];

    fn column(&self, name: &str) -> Value {
        let volume = &self.0;
        let usage = volume.get("UsageData").filter(|usage| matches!(usage, Value::Map(_)));
        let text = match name {
            "Labels" => labels(volume),
            "Links" => usage.map_or("N/A".into(), |usage| usage.int("RefCount").to_string()),
            "Size" => match usage.map(|usage| usage.int("Size")) {
                Some(size) if size >= 0 => human::size_exact(size as f64),
                _ => "N/A".into(),
            },
            "Driver" | "Mountpoint" | "Name" | "Scope" => volume.text(name).to_owned(),
            _ => "N/A".into(),
        };
        text.into()
    }

    fn method(&self, name: &str, args: &[Value]) -> Option<std::result::Result<Value, String>> {
        label_method(&self.0, name, args)
    }
}

/// The raw arguments of `volume rm`.
#[derive(Debug, clap::Args)]
pub(crate) struct Rm {
    /// Do not mind volumes that do not exist
    #[arg(short = 'f', long)]
    force: bool,
    #[arg(hide = true)]
    volumes: Vec<String>,
}

impl Verb for Rm {
    const ABOUT: &'static str = "Remove volumes";
    const USAGE: &'static str = "[OPTIONS] VOLUME [VOLUME...]";
    const ARITY: Arity = Arity::AtLeast(1);

    async fn run(self, cli: &Cli) -> Result {
        let client = cli.engine().await?;
        each(cli, &self.volumes, async |name| {
            let request = Request::delete(format!("/volumes/{}", escape(name))).flag("force", self.force);
            match client.call(request).await {
                Err(error) if self.force && error.is_not_found() => Ok(()),
                result => Ok(result?),
            }
        })
        .await
    }
}
