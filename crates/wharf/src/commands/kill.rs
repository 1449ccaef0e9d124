//! `kill`: sends a signal to containers.

use wharf_api::client::{Request, escape};

use super::each;
use crate::{
    cli::Cli,
    failure::Result,
    verb::{Arity, Verb},
};

/// The raw arguments of `kill`.
#[derive(Debug, clap::Args)]
pub(crate) struct Kill {
    /// Signal to send; KILL if not given
    #[arg(short = 's', long)]
    signal: Option<String>,
    #[arg(hide = true)]
    containers: Vec<String>,
}

impl Verb for Kill {
    const ABOUT: &'static str = "Kill running containers, or send them another signal";
    const USAGE: &'static str = "[OPTIONS] CONTAINER [CONTAINER...]";
    const ARITY: Arity = Arity::AtLeast(1);

    async fn run(self, cli: &Cli) -> Result {
        let client = cli.engine().await?;
        let signal = self.signal.as_deref().unwrap_or("");
        each(cli, &self.containers, async |name| {
            let request =
                Request::post(format!("/containers/{}/kill", escape(name))).query_if("signal", signal);
            Ok(client.call(request).await?)
        })
        .await
    }
}
