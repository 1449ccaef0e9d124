//! `system check`: has the engine compare everything it stores with its digests, and on request fetch again what is
//! damaged.
//!
//! The engine streams the messages of any long work; those for programs are [`Finding`]s and at the end, always, one
//! [`Summary`]. A stream without it was cut, and says nothing about what was not reached.

use serde::Deserialize;
use wharf_api::client::Request;

use crate::{
    cli::Cli,
    failure::{Failure, Result},
    format::human,
    progress::{self, Sink},
    verb::{Arity, Verb},
};

/// The raw arguments of `system check`.
#[derive(Debug, clap::Args)]
pub(crate) struct Check {
    /// Show only what is damaged
    #[arg(short = 'q', long)]
    quiet: bool,
    /// Fetch again what is damaged, and remove what nothing needs
    #[arg(long)]
    repair: bool,
}

/// Something damaged.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Finding {
    /// `blob`, `layer` or `image`.
    kind: String,
    id: String,
    reason: String,
    /// The names of images that cannot be used because of it.
    images: Vec<String>,
    /// Whether it is whole again.
    repaired: bool,
}

/// What was checked.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Summary {
    blobs: u64,
    layers: u64,
    images: u64,
    bytes: u64,
}

#[derive(Deserialize)]
enum Report {
    Finding(Finding),
    Summary(Summary),
}

impl Verb for Check {
    const ABOUT: &'static str = "Check that everything stored is whole";
    const USAGE: &'static str = "[OPTIONS]";
    const ARITY: Arity = Arity::None;

    async fn run(self, cli: &Cli) -> Result {
        let request = Request::post("/wharf/check").flag("repair", self.repair);
        let documents = match cli.engine().await?.send(request).await {
            Ok(response) => response.documents(),
            Err(error) if error.is_not_found() => {
                return Err(Failure::message("this engine cannot check what it stores"));
            }
            Err(error) => return Err(error.into()),
        };
        let (mut findings, mut summary) = (Vec::new(), None);
        let ended = progress::show_with(documents, Sink::Stdout.unless(self.quiet), |aux| {
            match serde_json::from_value(aux) {
                Ok(Report::Finding(finding)) => findings.push(finding),
                Ok(Report::Summary(whole)) => summary = Some(whole),
                // A newer engine may have more to say.
                Err(_) => {}
            }
        })
        .await;
        for finding in &findings {
            cli.line(&finding.line())?;
        }
        ended?;
        let Some(summary) = summary else {
            return Err(Failure::message("the check ended before everything was checked"));
        };
        let left = findings.iter().filter(|finding| !finding.repaired).count();
        if !self.quiet {
            cli.line(&summary.line(findings.len(), findings.len() - left))?;
        }
        match left {
            0 => Ok(()),
            _ if self.repair => {
                Err(Failure::message("some damage cannot be repaired: pull or load these images again"))
            }
            _ => Err(Failure::message(
                "there is damage: run 'wharf system check --repair', or pull these images again",
            )),
        }
    }
}

impl Finding {
    fn line(&self) -> String {
        let Self { kind, id, reason, images, repaired } = self;
        let state = if *repaired { "repaired" } else { "damaged" };
        let of = if images.is_empty() { String::new() } else { format!(" (of {})", images.join(", ")) };
        format!("{kind} {id} {state}: {reason}{of}")
    }
}

impl Summary {
    fn line(&self, damaged: usize, repaired: usize) -> String {
        let count = |count: u64, thing: &str| format!("{count} {thing}{}", if count == 1 { "" } else { "s" });
        format!(
            "Checked {}, {} and {}, {}: {damaged} damaged, {repaired} repaired",
            count(self.images, "image"),
            count(self.layers, "layer"),
            count(self.blobs, "blob"),
            human::size_exact(self.bytes as f64)
        )
    }
}
