//! `pause` and `unpause`: freeze all processes of containers, and let them go on.

use wharf_api::client::{Request, escape};

use super::each;
use crate::{
    cli::Cli,
    failure::Result,
    verb::{Arity, Verb},
};

/// The raw arguments of `pause`.
#[derive(Debug, clap::Args)]
pub(crate) struct Pause {
    #[arg(hide = true)]
    containers: Vec<String>,
}

impl Verb for Pause {
    const ABOUT: &'static str = "Freeze all processes of containers";
    const USAGE: &'static str = "CONTAINER [CONTAINER...]";
    const ARITY: Arity = Arity::AtLeast(1);

    async fn run(self, cli: &Cli) -> Result {
        all(cli, &self.containers, "pause").await
    }
}

/// The raw arguments of `unpause`.
#[derive(Debug, clap::Args)]
pub(crate) struct Unpause {
    #[arg(hide = true)]
    containers: Vec<String>,
}

impl Verb for Unpause {
    const ABOUT: &'static str = "Let frozen containers go on";
    const USAGE: &'static str = "CONTAINER [CONTAINER...]";
    const ARITY: Arity = Arity::AtLeast(1);

    async fn run(self, cli: &Cli) -> Result {
        all(cli, &self.containers, "unpause").await
    }
}

async fn all(cli: &Cli, names: &[String], what: &str) -> Result {
    let client = cli.engine().await?;
    each(cli, names, async |name| {
        Ok(client.call(Request::post(format!("/containers/{}/{what}", escape(name)))).await?)
    })
    .await
}
