//! `rmi`: removes images.

use wharf_api::client::{Request, escape};

use crate::{
    cli::Cli,
    failure::{self, Failure, Result},
    syntax::platform,
    template::Value,
    verb::{Arity, Verb},
};

/// The raw arguments of `rmi`.
#[derive(Debug, clap::Args)]
pub(crate) struct Rmi {
    /// Remove images that stopped containers use, or that have several names
    #[arg(short = 'f', long)]
    force: bool,
    /// Keep parents without a name
    #[arg(long)]
    no_prune: bool,
    /// Remove only these platforms
    #[arg(long, value_delimiter = ',', value_name = "strings")]
    platform: Vec<String>,
    #[arg(hide = true)]
    images: Vec<String>,
}

impl Verb for Rmi {
    const ABOUT: &'static str = "Remove images";
    const USAGE: &'static str = "[OPTIONS] IMAGE [IMAGE...]";
    const ARITY: Arity = Arity::AtLeast(1);

    async fn run(self, cli: &Cli) -> Result {
        let platforms = self.platform.iter().map(|text| platform::parse(text).map_err(Failure::message));
        let platforms = platforms.collect::<Result<Vec<_>>>()?;
        let client = cli.engine().await?;
        let (mut failures, mut fatal) = (Vec::new(), false);
        for image in &self.images {
            let mut request = Request::delete(format!("/images/{}", escape(image)))
                .flag("force", self.force)
                .flag("noprune", self.no_prune);
            for platform in &platforms {
                request = request.query("platforms", platform.document());
            }
            let removed = async { client.send(request).await?.json::<Vec<Value>>().await };
            match removed.await {
                Ok(removed) => cli.print(&report(&removed))?,
                Err(error) => {
                    fatal |= !error.is_not_found();
                    failures.push(Failure::from(error));
                }
            }
        }
        // Who forces wants them gone; those that are not there are.
        if self.force && !fatal {
            failures.iter().for_each(|failure| cli.warn(&failure.to_string()));
            return Ok(());
        }
        failure::all(failures)
    }
}

fn report(removed: &[Value]) -> String {
    let line = |item: &Value| match item.text("Deleted") {
        "" => format!("Untagged: {}\n", item.text("Untagged")),
        digest => format!("Deleted: {digest}\n"),
    };
    removed.iter().map(line).collect()
}
