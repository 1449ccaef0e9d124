//! `import`: makes an image of a tar archive of a root file system.

use std::io;

use wharf_api::client::Request;
use wharf_model::Reference;

use super::load;
use crate::{
    cli::Cli,
    failure::{Failure, Result},
    progress::{self, Sink},
    upload,
    verb::{Arity, Verb},
};

/// The raw arguments of `import`.
#[derive(Debug, clap::Args)]
pub(crate) struct Import {
    /// Apply a Dockerfile instruction to the image
    #[arg(short = 'c', long)]
    change: Vec<String>,
    /// Comment of the image
    #[arg(short = 'm', long)]
    message: Option<String>,
    /// Platform of the image
    #[arg(long)]
    platform: Option<String>,
    #[arg(hide = true)]
    source_and_name: Vec<String>,
}

impl Verb for Import {
    const ABOUT: &'static str = "Make an image of a root file system in a tar archive";
    const USAGE: &'static str = "[OPTIONS] file|URL|- [REPOSITORY[:TAG]]";
    const ARITY: Arity = Arity::AtLeast(1);

    async fn run(self, cli: &Cli) -> Result {
        let source = self.source_and_name[0].as_str();
        let name = self.source_and_name.get(1).map_or("", String::as_str);
        if !name.is_empty() {
            Reference::parse_normalized(name).map_err(|error| Failure::message(error.to_string()))?;
        }
        let is_url = source.starts_with("http://") || source.starts_with("https://");
        let mut request = Request::post("/images/create")
            .query("fromSrc", if is_url { source } else { "-" })
            .query_if("repo", name)
            .query_if("message", self.message.as_deref().unwrap_or(""))
            .query_if("platform", self.platform.as_deref().unwrap_or("").to_lowercase());
        for change in &self.change {
            request = request.query("changes", change);
        }
        let request = match source {
            "-" => request.stream(upload::pieces(io::stdin())),
            _ if is_url => request,
            path => request.stream(upload::pieces(load::open(path)?)),
        };
        let response = cli.engine().await?.send(request).await?;
        progress::show(response.documents(), Sink::Stdout).await
    }
}
