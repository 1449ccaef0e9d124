//! `pull`: fetches images from a registry. `run` and `create` do the same when the image is not there.

use http::HeaderName;
use wharf_api::client::{Documents, Request};
use wharf_model::Reference;

use crate::{
    cli::Cli,
    failure::{Failure, Result},
    progress::{self, Sink},
    verb::{Arity, Verb},
};

/// The header that has the credentials for a registry.
pub(super) const AUTH_HEADER: HeaderName = HeaderName::from_static("x-registry-auth");

/// The raw arguments of `pull`.
#[derive(Debug, clap::Args)]
pub(crate) struct Pull {
    /// Fetch every tag of the repository
    #[arg(short = 'a', long)]
    all_tags: bool,
    /// Do not check the image's signature
    #[arg(long, default_value = "true")]
    disable_content_trust: bool,
    /// Platform of the image, if there are several
    #[arg(long)]
    platform: Option<String>,
    /// Show only the image's name
    #[arg(short = 'q', long)]
    quiet: bool,
    #[arg(hide = true)]
    name: Vec<String>,
}

impl Verb for Pull {
    const ABOUT: &'static str = "Fetch an image from a registry";
    const USAGE: &'static str = "[OPTIONS] NAME[:TAG|@DIGEST]";
    const ARITY: Arity = Arity::Exactly(1);

    async fn run(self, cli: &Cli) -> Result {
        let reference = in_registry(cli, &self.name[0], self.all_tags, self.quiet)?;
        let documents = fetch(cli, &reference, self.platform.as_deref()).await?;
        progress::show(documents, Sink::Stdout.unless(self.quiet)).await?;
        cli.line(&reference.to_string())
    }
}

/// The image a user means in a registry: a tag or a digest, or with `all` the whole repository.
pub(super) fn in_registry(cli: &Cli, name: &str, all: bool, quiet: bool) -> Result<Reference> {
    let reference = Reference::parse_normalized(name).map_err(|error| Failure::message(error.to_string()))?;
    let is_name_only = reference.tag().is_none() && reference.digest().is_none();
    match (all, is_name_only) {
        (true, false) => Err(Failure::message("tag can't be used with --all-tags/-a")),
        (false, true) => {
            if !quiet {
                cli.line("Using default tag: latest")?;
            }
            Ok(reference.or_latest())
        }
        _ => Ok(reference),
    }
}

/// Has the engine fetch an image, or all of a repository if the reference has neither tag nor digest.
pub(super) async fn fetch(cli: &Cli, reference: &Reference, platform: Option<&str>) -> Result<Documents> {
    let tag = match reference.digest() {
        Some(digest) => digest.to_string(),
        None => reference.tag().unwrap_or_default().to_owned(),
    };
    let request = Request::post("/images/create")
        .query("fromImage", reference.name())
        .query_if("tag", tag)
        .query_if("platform", platform.unwrap_or_default().to_lowercase())
        .header(AUTH_HEADER, &cli.auth(reference).await.header());
    Ok(cli.engine().await?.send(request).await?.documents())
}
