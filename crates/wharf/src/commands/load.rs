//! `load`: takes images out of an archive.

use std::{
    fs::File,
    io::{self, Read},
};

use wharf_api::client::Request;

use crate::{
    cli::Cli,
    failure::{Failure, Result},
    progress::{self, Sink},
    syntax::environment::plain,
    terminal, upload,
    verb::{Arity, Verb},
};

/// The raw arguments of `load`.
#[derive(Debug, clap::Args)]
pub(crate) struct Load {
    /// Read from a file rather than standard input
    #[arg(short = 'i', long)]
    input: Option<String>,
    /// Load only this platform
    #[arg(long)]
    platform: Option<String>,
    /// Do not show progress
    #[arg(short = 'q', long)]
    quiet: bool,
}

impl Verb for Load {
    const ABOUT: &'static str = "Load images from a tar archive";
    const USAGE: &'static str = "[OPTIONS]";
    const ARITY: Arity = Arity::None;

    async fn run(self, cli: &Cli) -> Result {
        let source: Box<dyn Read + Send> = match self.input.as_deref() {
            Some(path) => Box::new(open(path)?),
            None if terminal::input_is_terminal() => {
                return Err(Failure::message("requested load from stdin, but stdin is empty"));
            }
            None => Box::new(io::stdin()),
        };
        let quiet = self.quiet || !terminal::output_is_terminal();
        let mut request = Request::post("/images/load").query("quiet", if quiet { "1" } else { "0" });
        if let Some(platform) = super::platform(self.platform.as_deref(), "invalid platform: ")? {
            request = request.query("platform", platform.document());
        }
        let response = cli.engine().await?.send(request.stream(upload::pieces(source))).await?;
        progress::show(response.documents(), Sink::Stdout).await
    }
}

/// Opens a file the user named.
pub(super) fn open(path: &str) -> Result<File> {
    File::open(path).map_err(|error| Failure::message(format!("open {path}: {}", plain(&error))))
}
