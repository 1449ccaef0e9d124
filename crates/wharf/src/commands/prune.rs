//! `container prune`, `image prune`, `volume prune`, `system prune`: remove what nobody uses.

use std::io::BufRead as _;

use wharf_api::client::{Client, Request};

use crate::{
    cli::Cli,
    failure::Result,
    format::human,
    syntax::filter::{self, Filter},
    template::Value,
    verb::{Arity, Verb},
};

/// The flags every prune has.
#[derive(Debug, clap::Args)]
pub(crate) struct Common {
    /// Remove only what matches (name=value)
    #[arg(long, value_parser = filter::parse, value_name = "filter")]
    filter: Vec<Filter>,
    /// Do not ask
    #[arg(short = 'f', long)]
    force: bool,
}

impl Common {
    /// Whether to go on: the user said so with a flag, or says so now.
    fn confirmed(&self, cli: &Cli, warning: &str) -> Result<bool> {
        if self.force {
            return Ok(true);
        }
        cli.print(&format!("{warning}\nAre you sure you want to continue? [y/N] "))?;
        let mut answer = String::new();
        std::io::stdin().lock().read_line(&mut answer)?;
        Ok(answer.trim().eq_ignore_ascii_case("y"))
    }
}

/// What was removed, and how much room that made.
#[derive(Default)]
struct Report {
    text: String,
    bytes: i64,
}

impl Report {
    fn add(&mut self, title: &str, lines: impl IntoIterator<Item = String>) {
        let lines: Vec<String> = lines.into_iter().collect();
        if !lines.is_empty() {
            self.text.push_str(&format!("{title}:\n{}\n\n", lines.join("\n")));
        }
    }

    fn print(&self, cli: &Cli) -> Result {
        cli.print(&format!("{}Total reclaimed space: {}\n", self.text, human::size_exact(self.bytes as f64)))
    }
}

fn texts(answer: &Value, key: &str) -> Vec<String> {
    answer.list(key).iter().map(|item| item.as_str().to_owned()).collect()
}

async fn prune(client: &Client, kind: &str, filters: &[Filter]) -> Result<Value> {
    let request = Request::post(format!("/{kind}/prune")).query_if("filters", filter::to_query(filters));
    Ok(client.send(request).await?.json().await?)
}

async fn containers(client: &Client, filters: &[Filter], report: &mut Report) -> Result {
    let answer = prune(client, "containers", filters).await?;
    report.add("Deleted Containers", texts(&answer, "ContainersDeleted"));
    report.bytes += answer.int("SpaceReclaimed");
    Ok(())
}

async fn images(client: &Client, all: bool, filters: &[Filter], report: &mut Report) -> Result {
    let mut filters = filters.to_vec();
    filters.push(Filter { key: "dangling".into(), value: (!all).to_string() });
    let answer = prune(client, "images", &filters).await?;
    let line = |item: &Value| match item.text("Deleted") {
        "" => format!("untagged: {}", item.text("Untagged")),
        digest => format!("deleted: {digest}"),
    };
    report.add("Deleted Images", answer.list("ImagesDeleted").iter().map(line));
    report.bytes += answer.int("SpaceReclaimed");
    Ok(())
}

async fn volumes(client: &Client, all: bool, filters: &[Filter], report: &mut Report) -> Result {
    let mut filters = filters.to_vec();
    if all {
        filters.push(Filter { key: "all".into(), value: "true".into() });
    }
    let answer = prune(client, "volumes", &filters).await?;
    report.add("Deleted Volumes", texts(&answer, "VolumesDeleted"));
    report.bytes += answer.int("SpaceReclaimed");
    Ok(())
}

/// The raw arguments of `container prune`.
#[derive(Debug, clap::Args)]
pub(crate) struct Containers {
    #[command(flatten)]
    common: Common,
}

impl Verb for Containers {
    const ABOUT: &'static str = "Remove all stopped containers";
    const USAGE: &'static str = "[OPTIONS]";
    const ARITY: Arity = Arity::None;

    async fn run(self, cli: &Cli) -> Result {
        if !self.common.confirmed(cli, "WARNING! This will remove all stopped containers.")? {
            return Ok(());
        }
        let mut report = Report::default();
        containers(cli.engine().await?, &self.common.filter, &mut report).await?;
        report.print(cli)
    }
}

/// The raw arguments of `image prune`.
#[derive(Debug, clap::Args)]
pub(crate) struct Images {
    /// Remove all unused images, not only those without a name
    #[arg(short = 'a', long)]
    all: bool,
    #[command(flatten)]
    common: Common,
}

impl Verb for Images {
    const ABOUT: &'static str = "Remove unused images";
    const USAGE: &'static str = "[OPTIONS]";
    const ARITY: Arity = Arity::None;

    async fn run(self, cli: &Cli) -> Result {
        let what = if self.all {
            "images without at least one container associated to them"
        } else {
            "dangling images"
        };
        if !self.common.confirmed(cli, &format!("WARNING! This will remove all {what}."))? {
            return Ok(());
        }
        let mut report = Report::default();
        images(cli.engine().await?, self.all, &self.common.filter, &mut report).await?;
        report.print(cli)
    }
}

/// The raw arguments of `volume prune`.
#[derive(Debug, clap::Args)]
pub(crate) struct Volumes {
    /// Remove all unused volumes, not only those without a name
    #[arg(short = 'a', long)]
    all: bool,
    #[command(flatten)]
    common: Common,
}

impl Verb for Volumes {
    const ABOUT: &'static str = "Remove unused volumes";
    const USAGE: &'static str = "[OPTIONS]";
    const ARITY: Arity = Arity::None;

    async fn run(self, cli: &Cli) -> Result {
        let what = if self.all { "" } else { "anonymous " };
        let warning =
            format!("WARNING! This will remove {what}local volumes not used by at least one container.");
        let warning = if self.all { warning.replace("remove local", "remove all local") } else { warning };
        if !self.common.confirmed(cli, &warning)? {
            return Ok(());
        }
        let mut report = Report::default();
        volumes(cli.engine().await?, self.all, &self.common.filter, &mut report).await?;
        report.print(cli)
    }
}

/// The raw arguments of `system prune`.
#[derive(Debug, clap::Args)]
pub(crate) struct System {
    /// Remove all unused images, not only those without a name
    #[arg(short = 'a', long)]
    all: bool,
    /// Remove unnamed volumes too
    #[arg(long)]
    volumes: bool,
    #[command(flatten)]
    common: Common,
}

impl Verb for System {
    const ABOUT: &'static str = "Remove unused containers, networks and images";
    const USAGE: &'static str = "[OPTIONS]";
    const ARITY: Arity = Arity::None;

    async fn run(self, cli: &Cli) -> Result {
        if !self.common.confirmed(cli, &self.warning())? {
            return Ok(());
        }
        let client = cli.engine().await?;
        let mut report = Report::default();
        containers(client, &self.common.filter, &mut report).await?;
        let networks = prune(client, "networks", &self.common.filter).await?;
        report.add("Deleted Networks", texts(&networks, "NetworksDeleted"));
        if self.volumes {
            volumes(client, false, &self.common.filter, &mut report).await?;
        }
        images(client, self.all, &self.common.filter, &mut report).await?;
        report.print(cli)
    }
}

impl System {
    fn warning(&self) -> String {
        let mut lines = vec!["all stopped containers", "all networks not used by at least one container"];
        if self.volumes {
            lines.push("all anonymous volumes not used by at least one container");
        }
        if self.all {
            lines.extend(["all images without at least one container associated to them", "all build cache"]);
        } else {
            lines.extend(["all dangling images", "unused build cache"]);
        }
        let lines: String = lines.iter().map(|line| format!("  - {line}\n")).collect();
        let mut text = format!("WARNING! This will remove:\n{lines}");
        if !self.common.filter.is_empty() {
            let filters =
                self.common.filter.iter().map(|filter| format!("  - {}={}\n", filter.key, filter.value));
            text.push_str("\n  Items to be pruned will be filtered with:\n");
            text.extend(filters);
        }
        text
    }
}
