//! `rename`: gives a container another name.

use wharf_api::client::{Request, escape};

use crate::{
    cli::Cli,
    failure::{Failure, Result},
    verb::{Arity, Verb},
};

/// The raw arguments of `rename`.
#[derive(Debug, clap::Args)]
pub(crate) struct Rename {
    #[arg(hide = true)]
    names: Vec<String>,
}

impl Verb for Rename {
    const ABOUT: &'static str = "Rename a container";
    const USAGE: &'static str = "CONTAINER NEW_NAME";
    const ARITY: Arity = Arity::Exactly(2);

    async fn run(self, cli: &Cli) -> Result {
        let (old, new) = (self.names[0].trim(), self.names[1].trim());
        if old.is_empty() || new.is_empty() {
            return Err(Failure::message("Error: Neither old nor new names may be empty"));
        }
        let request = Request::post(format!("/containers/{}/rename", escape(old))).query("name", new);
        cli.engine().await?.call(request).await.map_err(|error| {
            Failure::message(format!(
                "{}\nError: failed to rename container named {old}",
                Failure::from(error)
            ))
        })
    }
}
