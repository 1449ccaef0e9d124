//! `start`: starts containers, and stays with one if asked to.

use wharf_api::client::{Client, Request, escape};

use super::{attach::Subject, run};
use crate::{
    cli::Cli,
    failure::{Failure, Result},
    session::{self, End, Streams, Target},
    verb::{Arity, Verb},
};

/// The raw arguments of `start`.
#[derive(Debug, clap::Args)]
pub(crate) struct Start {
    /// Stay with the container: its output and signals
    #[arg(short = 'a', long)]
    attach: bool,
    /// Stay with the container: its input
    #[arg(short = 'i', long)]
    interactive: bool,
    /// Keys that leave the container running
    #[arg(long)]
    detach_keys: Option<String>,
    #[arg(hide = true)]
    containers: Vec<String>,
}

impl Verb for Start {
    const ABOUT: &'static str = "Start stopped containers";
    const USAGE: &'static str = "[OPTIONS] CONTAINER [CONTAINER...]";
    const ARITY: Arity = Arity::AtLeast(1);

    async fn run(self, cli: &Cli) -> Result {
        if self.attach || self.interactive {
            let [name] = self.containers.as_slice() else {
                return Err(Failure::message("you cannot start and attach multiple containers at once"));
            };
            return self.attended(cli, name).await;
        }
        let client = cli.engine().await?;
        let mut failed = Vec::new();
        for name in &self.containers {
            match client.call(run::start_request(name, "")).await {
                Ok(()) => cli.line(name)?,
                Err(error) => {
                    cli.warn(&Failure::from(error).to_string());
                    failed.push(name.as_str());
                }
            }
        }
        if failed.is_empty() {
            return Ok(());
        }
        Err(Failure::message(format!("Error: failed to start containers: {}", failed.join(", "))))
    }
}

impl Start {
    async fn attended(&self, cli: &Cli, name: &str) -> Result {
        let client: &Client = cli.engine().await?;
        let subject = Subject::look_up(client, name).await?;
        let keys = run::detach_keys(self.detach_keys.as_deref(), cli, subject.tty)?;
        let target = Target::Container(subject.id.clone());
        let streams = Streams {
            stdin: self.interactive && subject.open_stdin,
            stdout: true,
            stderr: true,
            tty: subject.tty,
            detach_keys: keys,
        };
        let main = async {
            let request = Request::post(format!("/containers/{}/attach", escape(&subject.id)))
                .flag("stream", true)
                .flag("stdin", streams.stdin)
                .flag("stdout", subject.stdout)
                .flag("stderr", subject.stderr)
                .query_if("detachKeys", self.detach_keys.as_deref().unwrap_or(""));
            let condition = if subject.auto_remove { "removed" } else { "next-exit" };
            let wait = client.send(run::wait_request(&subject.id, condition));
            let (hijacked, wait) = tokio::join!(client.hijack(request), wait);
            let (hijacked, wait) = (hijacked?, wait?);
            client.call(run::start_request(&subject.id, "")).await?;
            if subject.tty {
                session::send_size(client, &target).await;
            }
            match session::copy(hijacked, &streams).await? {
                End::Detached => Ok(()),
                End::Closed => run::exit_status(wait).await,
            }
        };
        session::attended(client, &target, subject.tty, !subject.tty, main).await?
    }
}
