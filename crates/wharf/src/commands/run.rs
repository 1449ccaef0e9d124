//! `run`: creates a container, starts it, and stays with it until it ends.
//!
//! Order matters, so that neither output nor the exit status can be lost: create, then attach and wait (both answered by
//! the engine before anything runs), then start.

use serde::Deserialize;
use wharf_api::client::{Client, Hijacked, Request, Response, escape};

use super::create::{self, flags::ContainerFlags, spec::Spec};
use crate::{
    cli::Cli,
    failure::{Failure, Result},
    session::{self, End, Streams, Target},
    terminal::{self, detach},
    verb::{Arity, Verb},
};

/// The raw arguments of `run`.
#[derive(Debug, clap::Args)]
pub(crate) struct Run {
    #[command(flatten)]
    container: ContainerFlags,
    /// Leave the container in the background and print its ID
    #[arg(short = 'd', long)]
    detach: bool,
    /// Keys that leave the container running
    #[arg(long)]
    detach_keys: Option<String>,
    /// Pass signals on to the process
    #[arg(long, default_value = "true")]
    sig_proxy: bool,
}

impl Verb for Run {
    const ABOUT: &'static str = "Make a new container and run it";
    const USAGE: &'static str = "[OPTIONS] IMAGE [COMMAND] [ARG...]";
    const ARITY: Arity = Arity::AtLeast(1);
    const LEADING_FLAGS: bool = true;

    async fn run(mut self, cli: &Cli) -> Result {
        if self.detach && !self.container.process.attach.is_empty() {
            return Err(Failure::message("conflicting options: cannot specify both --attach and --detach"));
        }
        let client = cli.engine().await?;
        let mut spec = create::build(cli, client, &self.container, "run")?;
        if self.detach {
            detached(&mut spec);
        } else if spec.attach.stdin && spec.tty && !terminal::input_is_terminal() {
            return Err(Failure::message("the input device is not a TTY"));
        }
        let keys = detach_keys(self.detach_keys.as_deref(), cli, spec.tty)?;
        self.sig_proxy &= !spec.tty;
        let id = create::create(cli, client, &self.container, &spec).await.map_err(as_run_failure)?;
        if !spec.attach.stdout && !spec.attach.stderr {
            cli.line(&id)?;
        }
        if !spec.attach.any() {
            return client.call(start_request(&id, "")).await.map_err(|error| as_run_failure(error.into()));
        }
        self.attended(client, &spec, &id, keys).await
    }
}

impl Run {
    async fn attended(&self, client: &Client, spec: &Spec, id: &str, keys: Vec<u8>) -> Result {
        let target = Target::Container(id.to_owned());
        let main = async {
            let condition = if spec.auto_remove { "removed" } else { "next-exit" };
            let attach = attach(client, id, spec, self.detach_keys.as_deref());
            let wait = client.send(wait_request(id, condition));
            let (hijacked, wait) = tokio::join!(attach, wait);
            let (hijacked, wait) = (hijacked?, wait?);
            if let Err(error) = client.call(start_request(id, "")).await {
                drop(hijacked);
                if spec.auto_remove {
                    // Whoever runs the next command with the same name relies on the container being gone.
                    let _ = wait.bytes().await;
                }
                return Err(as_run_failure(error.into()));
            }
            if spec.tty {
                session::send_size(client, &target).await;
            }
            let streams = Streams {
                stdin: spec.attach.stdin && spec.open_stdin,
                stdout: spec.attach.stdout,
                stderr: spec.attach.stderr,
                tty: spec.tty,
                detach_keys: keys,
            };
            match session::copy(hijacked, &streams).await? {
                End::Detached => Ok(()),
                End::Closed => exit_status(wait).await,
            }
        };
        session::attended(client, &target, spec.tty, self.sig_proxy, main).await?
    }
}

/// In the background nothing is attached.
fn detached(spec: &mut Spec) {
    spec.attach = create::spec::Attach { stdin: false, stdout: false, stderr: false };
    for stream in ["AttachStdin", "AttachStdout", "AttachStderr", "StdinOnce"] {
        spec.body[stream] = false.into();
    }
}

/// The keys that detach: the flag's, the settings', or the usual ones. Only a terminal has keys.
pub(crate) fn detach_keys(flag: Option<&str>, cli: &Cli, tty: bool) -> Result<Vec<u8>> {
    if !tty {
        return Ok(Vec::new());
    }
    let configured = Some(cli.config().detach_keys.as_str()).filter(|keys| !keys.is_empty());
    detach::parse(flag.or(configured).unwrap_or(detach::DEFAULT))
}

async fn attach(client: &Client, id: &str, spec: &Spec, keys: Option<&str>) -> Result<Hijacked> {
    let request = Request::post(format!("/containers/{}/attach", escape(id)))
        .flag("stream", true)
        .flag("stdin", spec.attach.stdin && spec.open_stdin)
        .flag("stdout", spec.attach.stdout)
        .flag("stderr", spec.attach.stderr)
        .query_if("detachKeys", keys.unwrap_or(""));
    Ok(client.hijack(request).await?)
}

/// The request that starts a container.
pub(crate) fn start_request(id: &str, detach_keys: &str) -> Request {
    Request::post(format!("/containers/{}/start", escape(id))).query_if("detachKeys", detach_keys)
}

/// The request that is answered when the container meets the condition; its head is answered at once.
pub(crate) fn wait_request(id: &str, condition: &str) -> Request {
    Request::post(format!("/containers/{}/wait", escape(id))).query_if("condition", condition)
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Exit {
    status_code: i64,
    #[serde(default)]
    error: Option<ExitError>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ExitError {
    #[serde(default)]
    message: String,
}

/// Waits for the answer to [`wait_request`] and ends with the container's exit status.
pub(crate) async fn exit_status(wait: Response) -> Result {
    let exit: Exit = wait.json().await?;
    if let Some(error) = exit.error.filter(|error| !error.message.is_empty()) {
        return Err(Failure::status(125, format!("Error waiting for container: {}", error.message)));
    }
    match u8::try_from(exit.status_code & 0xff).unwrap_or(125) {
        0 => Ok(()),
        code => Err(Failure::Silent(code)),
    }
}

/// Gives the engine's refusal the exit status scripts know: 127 for a command that is not there, 126 for one that
/// cannot be run, 125 for everything else.
fn as_run_failure(failure: Failure) -> Failure {
    if !matches!(failure, Failure::Engine(_) | Failure::Message(_)) {
        return failure;
    }
    let text = failure.to_string();
    let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
    let code = match () {
        () if has(&["executable file not found", "no such file or directory"]) => 127,
        () if has(&["permission denied", "is a directory"]) => 126,
        () => 125,
    };
    create::with_help(code, &text, "run")
}

#[cfg(test)]
mod tests {
    use super::*;
    use wharf_api::client::Error;

    #[test]
    fn refusals_have_their_own_exit_status() {
        let code = |message: &str| {
            as_run_failure(Error::Api { status: 400, message: message.to_owned() }.into()).code()
        };
        assert_eq!(code("exec: \"x\": executable file not found in $PATH"), 127);
        assert_eq!(code("exec: \"/x\": permission denied"), 126);
        assert_eq!(code("exec: \"/\": is a directory"), 126);
        assert_eq!(code("Conflict. The container name is in use"), 125);
    }
}
