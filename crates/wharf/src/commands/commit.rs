//! `commit`: makes an image of what a container changed.

use serde::Deserialize;
use wharf_api::client::Request;
use wharf_model::Reference;

use crate::{
    cli::Cli,
    failure::{Failure, Result},
    verb::{Arity, Verb},
};

/// The raw arguments of `commit`.
#[derive(Debug, clap::Args)]
pub(crate) struct Commit {
    /// Who makes it (e.g., "Grace Hopper <grace@example.com>")
    #[arg(short = 'a', long, value_name = "string")]
    author: Option<String>,
    /// Apply a Dockerfile instruction to the image
    #[arg(short = 'c', long, value_name = "list")]
    change: Vec<String>,
    /// Commit message
    #[arg(short = 'm', long, value_name = "string")]
    message: Option<String>,
    /// Pause the container meanwhile
    #[arg(short = 'p', long, default_value = "true")]
    pause: bool,
    #[arg(hide = true)]
    names: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Committed {
    id: String,
}

impl Verb for Commit {
    const ABOUT: &'static str = "Create an image from what a container changed";
    const USAGE: &'static str = "[OPTIONS] CONTAINER [REPOSITORY[:TAG]]";
    const ARITY: Arity = Arity::Between(1, 2);

    async fn run(self, cli: &Cli) -> Result {
        let (repository, tag) = match self.names.get(1).map(String::as_str).filter(|name| !name.is_empty()) {
            Some(name) => {
                let reference =
                    Reference::parse_normalized(name).map_err(|error| Failure::message(error.to_string()))?;
                if reference.digest().is_some() {
                    return Err(Failure::message("refusing to create a tag with a digest reference"));
                }
                let reference = reference.or_latest();
                (reference.familiar_name(), reference.tag().unwrap_or_default().to_owned())
            }
            None => Default::default(),
        };
        let mut request = Request::post("/commit")
            .query("container", &self.names[0])
            .query_if("repo", repository)
            .query_if("tag", tag)
            .query_if("comment", self.message.as_deref().unwrap_or_default())
            .query_if("author", self.author.as_deref().unwrap_or_default());
        if !self.pause {
            request = request.query("pause", "0");
        }
        for change in &self.change {
            request = request.query("changes", change);
        }
        let committed: Committed = cli.engine().await?.send(request).await?.json().await?;
        cli.line(&committed.id)
    }
}
