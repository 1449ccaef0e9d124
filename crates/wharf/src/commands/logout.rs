//! `logout`: forgets the credentials for a registry.

use crate::{
    cli::Cli,
    credentials::{self, HUB, HUB_DOMAIN},
    failure::Result,
    verb::{Arity, Verb},
};

/// The raw arguments of `logout`.
#[derive(Debug, clap::Args)]
pub(crate) struct Logout {
    #[arg(hide = true)]
    server: Vec<String>,
}

impl Verb for Logout {
    const ABOUT: &'static str = "Log out from a registry, Docker Hub if none is named";
    const USAGE: &'static str = "[SERVER]";
    const ARITY: Arity = Arity::AtMost(1);

    async fn run(self, cli: &Cli) -> Result {
        let (server, shown) = match self.server.first().map_or("", String::as_str) {
            "" | HUB_DOMAIN | HUB => (HUB, HUB),
            address => (address, credentials::host(address)),
        };
        cli.line(&format!("Removing login credentials for {shown}"))?;
        if let Err(error) = cli.credentials().erase(server).await {
            cli.warn(&format!("WARNING: could not erase credentials:\n{server}: {error}"));
        }
        Ok(())
    }
}
