//! `diff`: lists what a container changed in its files.

use serde::Deserialize;
use wharf_api::client::{Request, escape};

use crate::{
    cli::Cli,
    failure::{Failure, Result},
    verb::{Arity, Verb},
};

/// The raw arguments of `diff`.
#[derive(Debug, clap::Args)]
pub(crate) struct Diff {
    #[arg(hide = true)]
    container: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Change {
    path: String,
    kind: u8,
}

impl Verb for Diff {
    const ABOUT: &'static str = "List what a container changed in its file system";
    const USAGE: &'static str = "CONTAINER";
    const ARITY: Arity = Arity::Exactly(1);

    async fn run(self, cli: &Cli) -> Result {
        let name = &self.container[0];
        if name.is_empty() {
            return Err(Failure::message("invalid container name or ID: value is empty"));
        }
        let request = Request::get(format!("/containers/{}/changes", escape(name)));
        let changes: Option<Vec<Change>> = cli.engine().await?.send(request).await?.json().await?;
        let line = |change: Change| {
            let letter = match change.kind {
                0 => 'C',
                1 => 'A',
                2 => 'D',
                _ => '?',
            };
            format!("{letter} {}\n", change.path)
        };
        cli.print(&changes.into_iter().flatten().map(line).collect::<String>())
    }
}
