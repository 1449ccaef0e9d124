//! `wait`: blocks until containers end, then prints their exit statuses.

use serde::Deserialize;

use super::run;
use crate::{
    cli::Cli,
    failure::{self, Failure, Result},
    verb::{Arity, Verb},
};

/// The raw arguments of `wait`.
#[derive(Debug, clap::Args)]
pub(crate) struct Wait {
    #[arg(hide = true)]
    containers: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Exit {
    status_code: i64,
}

impl Verb for Wait {
    const ABOUT: &'static str = "Wait until containers end and print their exit statuses";
    const USAGE: &'static str = "CONTAINER [CONTAINER...]";
    const ARITY: Arity = Arity::AtLeast(1);

    async fn run(self, cli: &Cli) -> Result {
        let client = cli.engine().await?;
        let mut failures = Vec::new();
        for name in &self.containers {
            let answer = async { client.send(run::wait_request(name, "")).await?.json::<Exit>().await };
            match answer.await {
                Ok(exit) => cli.line(&exit.status_code.to_string())?,
                Err(error) => failures.push(Failure::from(error)),
            }
        }
        failure::all(failures)
    }
}
