//! `top`: lists the processes of a container.

use wharf_api::client::{Request, escape};

use crate::{
    cli::Cli,
    failure::Result,
    format::tabwriter,
    template::Value,
    verb::{Arity, Verb},
};

/// The raw arguments of `top`.
#[derive(Debug, clap::Args)]
pub(crate) struct Top {
    #[arg(hide = true)]
    container_and_options: Vec<String>,
}

impl Verb for Top {
    const ABOUT: &'static str = "List the processes of a container";
    const USAGE: &'static str = "CONTAINER [ps OPTIONS]";
    const ARITY: Arity = Arity::AtLeast(1);
    const LEADING_FLAGS: bool = true;

    async fn run(self, cli: &Cli) -> Result {
        let (name, options) = (&self.container_and_options[0], &self.container_and_options[1..]);
        let request =
            Request::get(format!("/containers/{}/top", escape(name))).query_if("ps_args", options.join(" "));
        let list: Value = cli.engine().await?.send(request).await?.json().await?;
        let line = |cells: &[Value]| cells.iter().map(Value::as_str).collect::<Vec<_>>().join("\t");
        let mut text = line(list.list("Titles"));
        for process in list.list("Processes") {
            if let Value::List(cells) = process {
                text.push('\n');
                text.push_str(&line(cells));
            }
        }
        text.push('\n');
        cli.print(&tabwriter::align(&text, 20, 3))
    }
}
