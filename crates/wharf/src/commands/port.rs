//! `port`: shows where a container's ports are published.

use wharf_api::client::{Request, escape};

use super::ps::join_host;
use crate::{
    cli::Cli,
    failure::{Failure, Result},
    template::Value,
    verb::{Arity, Verb},
};

/// The raw arguments of `port`.
#[derive(Debug, clap::Args)]
pub(crate) struct Port {
    #[arg(hide = true)]
    container_and_port: Vec<String>,
}

impl Verb for Port {
    const ABOUT: &'static str = "Show where the ports of a container are published";
    const USAGE: &'static str = "CONTAINER [PRIVATE_PORT[/PROTO]]";
    const ARITY: Arity = Arity::Between(1, 2);

    async fn run(self, cli: &Cli) -> Result {
        let name = &self.container_and_port[0];
        let request = Request::get(format!("/containers/{}/json", escape(name)));
        let container: Value = cli.engine().await?.send(request).await?.json().await?;
        let settings = container.get("NetworkSettings").unwrap_or(&Value::Nil);
        let ports = settings.entries("Ports");
        let bindings = |list: &Value| match list {
            Value::List(items) => {
                items.iter().map(|item| join_host(item.text("HostIp"), item.text("HostPort"))).collect()
            }
            _ => Vec::new(),
        };
        let mut lines = Vec::new();
        if let Some(wanted) = self.container_and_port.get(1) {
            let wanted = normalized(wanted)?;
            lines.extend(
                ports.iter().filter(|(port, _)| **port == *wanted).flat_map(|(_, list)| bindings(list)),
            );
            if lines.is_empty() {
                let shown = &self.container_and_port[1];
                return Err(Failure::message(format!(
                    "Error: No public port '{shown}' published for {name}"
                )));
            }
        } else {
            let mut sorted: Vec<_> = ports.iter().collect();
            sorted.sort_by_key(|(port, _)| sort_key(port));
            for (port, list) in sorted {
                lines.extend(bindings(list).into_iter().map(|host: String| format!("{port} -> {host}")));
            }
        }
        lines.iter().try_for_each(|line| cli.line(line))
    }
}

fn sort_key(port: &str) -> (u16, &str) {
    let (number, protocol) = port.split_once('/').unwrap_or((port, ""));
    (number.parse().unwrap_or(0), protocol)
}

/// `80` is `80/tcp`.
fn normalized(text: &str) -> Result<String> {
    let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    if number.parse::<u16>().is_err() {
        return Err(Failure::message(format!(
            "Error: invalid port ({number}): strconv.ParseUint: parsing \"{number}\": invalid syntax"
        )));
    }
    Ok(format!("{number}/{protocol}"))
}
