//! `tag`: gives an image one more name.

use wharf_api::client::{Request, escape};
use wharf_model::Reference;

use crate::{
    cli::Cli,
    failure::{Failure, Result},
    verb::{Arity, Verb},
};

/// The raw arguments of `tag`.
#[derive(Debug, clap::Args)]
pub(crate) struct Tag {
    #[arg(hide = true)]
    names: Vec<String>,
}

impl Verb for Tag {
    const ABOUT: &'static str = "Give an image another name";
    const USAGE: &'static str = "SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]";
    const ARITY: Arity = Arity::Exactly(2);

    async fn run(self, cli: &Cli) -> Result {
        let (source, target) = (&self.names[0], &self.names[1]);
        let reference = Reference::parse_normalized(target).map_err(|error| {
            Failure::message(format!(
                "Error parsing reference: {target:?} is not a valid repository/tag: {error}"
            ))
        })?;
        if reference.digest().is_some() {
            return Err(Failure::message("refusing to create a tag with a digest reference"));
        }
        let reference = reference.or_latest();
        let request = Request::post(format!("/images/{}/tag", escape(source)))
            .query("repo", reference.name())
            .query("tag", reference.tag().unwrap_or("latest"));
        Ok(cli.engine().await?.call(request).await?)
    }
}
