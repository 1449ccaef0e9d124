//! `attach`: joins the streams of a running container.

use wharf_api::client::{Client, Request, escape};

use super::run;
use crate::{
    cli::Cli,
    failure::{Failure, Result},
    session::{self, End, Streams, Target},
    template::Value,
    terminal,
    verb::{Arity, Verb},
};

/// The raw arguments of `attach`.
#[derive(Debug, clap::Args)]
pub(crate) struct Attach {
    /// Keys that leave the container running
    #[arg(long)]
    detach_keys: Option<String>,
    /// Do not join its input
    #[arg(long)]
    no_stdin: bool,
    /// Pass signals on to the process
    #[arg(long, default_value = "true")]
    sig_proxy: bool,
    #[arg(hide = true)]
    container: Vec<String>,
}

/// What must be known about a container to join it.
pub(super) struct Subject {
    pub(super) id: String,
    pub(super) tty: bool,
    pub(super) open_stdin: bool,
    pub(super) stdout: bool,
    pub(super) stderr: bool,
    pub(super) auto_remove: bool,
    state: Value,
}

impl Subject {
    pub(super) async fn look_up(client: &Client, name: &str) -> Result<Self> {
        let request = Request::get(format!("/containers/{}/json", escape(name)));
        let container: Value = client.send(request).await?.json().await?;
        let member = |key: &str| container.get(key).cloned().unwrap_or_default();
        let config = member("Config");
        Ok(Self {
            id: container.text("Id").to_owned(),
            tty: config.is_set("Tty"),
            open_stdin: config.is_set("OpenStdin"),
            stdout: config.is_set("AttachStdout"),
            stderr: config.is_set("AttachStderr"),
            auto_remove: member("HostConfig").is_set("AutoRemove"),
            state: member("State"),
        })
    }

    fn check_joinable(&self) -> Result {
        let refusal = match () {
            () if self.state.is_set("Paused") => "You cannot attach to a paused container, unpause it first",
            () if self.state.is_set("Restarting") => {
                "You cannot attach to a restarting container, wait until it is running"
            }
            () if !self.state.is_set("Running") => "You cannot attach to a stopped container, start it first",
            () => return Ok(()),
        };
        Err(Failure::message(refusal))
    }
}

impl Verb for Attach {
    const ABOUT: &'static str = "Join the input and output of a running container";
    const USAGE: &'static str = "[OPTIONS] CONTAINER";
    const ARITY: Arity = Arity::Exactly(1);

    async fn run(self, cli: &Cli) -> Result {
        let client = cli.engine().await?;
        let subject = Subject::look_up(client, &self.container[0]).await?;
        subject.check_joinable()?;
        let stdin = !self.no_stdin && subject.open_stdin;
        if stdin && subject.tty && !terminal::input_is_terminal() {
            return Err(Failure::message("the input device is not a TTY"));
        }
        let target = Target::Container(subject.id.clone());
        let streams = Streams {
            stdin,
            stdout: true,
            stderr: true,
            tty: subject.tty,
            // Without input nobody types them; whether the engine likes them is its question.
            detach_keys: run::detach_keys(self.detach_keys.as_deref(), cli, subject.tty && stdin)?,
        };
        let main = async {
            let request = Request::post(format!("/containers/{}/attach", escape(&subject.id)))
                .flag("stream", true)
                .flag("stdin", stdin)
                .flag("stdout", true)
                .flag("stderr", true)
                .query_if("detachKeys", self.detach_keys.as_deref().unwrap_or(""));
            let wait = client.send(run::wait_request(&subject.id, ""));
            let (hijacked, wait) = tokio::join!(client.hijack(request), wait);
            let (hijacked, wait) = (hijacked?, wait?);
            if subject.tty {
                redraw(client, &target).await;
            }
            match session::copy(hijacked, &streams).await? {
                End::Detached => Err(Failure::message("read escape sequence")),
                End::Closed => run::exit_status(wait).await,
            }
        };
        session::attended(client, &target, subject.tty, self.sig_proxy && !subject.tty, main).await?
    }
}

/// Makes the program draw its screen again: a size that really changes is a reason it knows.
async fn redraw(client: &Client, target: &Target) {
    if let Some((rows, columns)) = terminal::size() {
        let _ = client.call(target.resize((rows + 1, columns + 1))).await;
        let _ = client.call(target.resize((rows, columns))).await;
    }
}
