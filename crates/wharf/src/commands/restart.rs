//! `restart`: stops and starts containers.

use super::{each, stop::StopFlags};
use crate::{
    cli::Cli,
    failure::Result,
    verb::{Arity, Verb},
};

/// The raw arguments of `restart`.
#[derive(Debug, clap::Args)]
pub(crate) struct Restart {
    #[command(flatten)]
    how: StopFlags,
    #[arg(hide = true)]
    containers: Vec<String>,
}

impl Verb for Restart {
    const ABOUT: &'static str = "Stop containers and start them again";
    const USAGE: &'static str = "[OPTIONS] CONTAINER [CONTAINER...]";
    const ARITY: Arity = Arity::AtLeast(1);

    async fn run(self, cli: &Cli) -> Result {
        self.how.warn(cli);
        let client = cli.engine().await?;
        each(cli, &self.containers, async |name| Ok(client.call(self.how.request("restart", name)).await?))
            .await
    }
}
