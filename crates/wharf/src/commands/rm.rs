//! `rm`: removes containers.

use wharf_api::client::{Request, escape};

use super::each;
use crate::{
    cli::Cli,
    failure::{Failure, Result},
    verb::{Arity, Verb},
};

/// The raw arguments of `rm`.
#[derive(Debug, clap::Args)]
pub(crate) struct Rm {
    /// Kill running containers first
    #[arg(short = 'f', long)]
    force: bool,
    /// Remove a link, not the container
    #[arg(short = 'l', long)]
    link: bool,
    /// Remove unnamed volumes too
    #[arg(short = 'v', long)]
    volumes: bool,
    #[arg(hide = true)]
    containers: Vec<String>,
}

impl Verb for Rm {
    const ABOUT: &'static str = "Remove containers";
    const USAGE: &'static str = "[OPTIONS] CONTAINER [CONTAINER...]";
    const ARITY: Arity = Arity::AtLeast(1);

    async fn run(self, cli: &Cli) -> Result {
        let client = cli.engine().await?;
        each(cli, &self.containers, async |name| {
            let trimmed = name.trim_matches('/');
            if trimmed.is_empty() {
                return Err(Failure::message("container name cannot be empty"));
            }
            let request = Request::delete(format!("/containers/{}", escape(trimmed)))
                .flag("force", self.force)
                .flag("link", self.link)
                .flag("v", self.volumes);
            match client.call(request).await {
                // Who forces wants it gone; it is.
                Err(error) if self.force && error.is_not_found() => {
                    Err(Failure::Notice(Failure::from(error).to_string()))
                }
                result => Ok(result?),
            }
        })
        .await
    }
}
