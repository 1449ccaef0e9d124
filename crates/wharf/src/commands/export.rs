//! `export`: writes a container's file system to an archive.

use wharf_api::client::{Request, escape};

use crate::{
    cli::Cli,
    commands::save,
    failure::{Failure, Result},
    terminal,
    verb::{Arity, Verb},
};

/// The raw arguments of `export`.
#[derive(Debug, clap::Args)]
pub(crate) struct Export {
    /// Write to a file rather than standard output
    #[arg(short = 'o', long)]
    output: Option<String>,
    #[arg(hide = true)]
    container: Vec<String>,
}

impl Verb for Export {
    const ABOUT: &'static str = "Export a container's file system as a tar archive";
    const USAGE: &'static str = "[OPTIONS] CONTAINER";
    const ARITY: Arity = Arity::Exactly(1);

    async fn run(self, cli: &Cli) -> Result {
        if self.output.is_none() && terminal::output_is_terminal() {
            return Err(Failure::message(
                "cowardly refusing to save to a terminal. Use the -o flag or redirect",
            ));
        }
        if let Some(path) = &self.output {
            save::check(path)
                .map_err(|reason| Failure::message(format!("failed to export container: {reason}")))?;
        }
        let request = Request::get(format!("/containers/{}/export", escape(&self.container[0])));
        let response = cli.engine().await?.send(request).await?;
        save::write(response, self.output.as_deref()).await
    }
}
