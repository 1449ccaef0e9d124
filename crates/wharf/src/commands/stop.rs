//! `stop`: ends containers, politely first.

use wharf_api::client::{Request, escape};

use super::each;
use crate::{
    cli::Cli,
    failure::Result,
    verb::{Arity, Verb},
};

/// The raw arguments of `stop`.
#[derive(Debug, clap::Args)]
pub(crate) struct Stop {
    #[command(flatten)]
    how: StopFlags,
    #[arg(hide = true)]
    containers: Vec<String>,
}

/// How to end a container.
#[derive(Debug, clap::Args)]
pub(super) struct StopFlags {
    /// Signal to send first
    #[arg(short = 's', long)]
    signal: Option<String>,
    /// Seconds to wait before killing
    #[arg(short = 't', long)]
    timeout: Option<i64>,
    #[arg(long, hide = true)]
    time: Option<i64>,
}

impl StopFlags {
    /// Tells about flags that have a new name.
    pub(super) fn warn(&self, cli: &Cli) {
        if self.time.is_some() {
            cli.warn("Flag --time has been deprecated, use --timeout instead");
        }
    }

    /// The request that does `what` to a container.
    pub(super) fn request(&self, what: &str, name: &str) -> Request {
        let timeout = self.timeout.or(self.time).map(|seconds| seconds.to_string());
        Request::post(format!("/containers/{}/{what}", escape(name)))
            .query_if("signal", self.signal.as_deref().unwrap_or(""))
            .query_if("t", timeout.unwrap_or_default())
    }
}

impl Verb for Stop {
    const ABOUT: &'static str = "Stop running containers";
    const USAGE: &'static str = "[OPTIONS] CONTAINER [CONTAINER...]";
    const ARITY: Arity = Arity::AtLeast(1);

    async fn run(self, cli: &Cli) -> Result {
        self.how.warn(cli);
        let client = cli.engine().await?;
        each(cli, &self.containers, async |name| Ok(client.call(self.how.request("stop", name)).await?)).await
    }
}
