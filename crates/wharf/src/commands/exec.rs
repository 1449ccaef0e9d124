//! `exec`: runs one more command in a running container.

use serde::Deserialize;
use wharf_api::{
    client::{Request, escape},
    models::{ExecConfig, ExecStartConfig},
};

use super::run;
use crate::{
    cli::Cli,
    failure::{Failure, Result},
    session::{self, End, Streams, Target},
    syntax::environment,
    terminal,
    verb::{Arity, Verb},
};

/// The raw arguments of `exec`.
#[derive(Debug, clap::Args)]
pub(crate) struct Exec {
    /// Leave the command in the background
    #[arg(short = 'd', long)]
    detach: bool,
    /// Keys that leave the command running
    #[arg(long)]
    detach_keys: Option<String>,
    /// Set environment variables
    #[arg(short = 'e', long, value_parser = environment::variable)]
    env: Vec<String>,
    /// Read environment variables from a file
    #[arg(long)]
    env_file: Vec<String>,
    /// Connect its input
    #[arg(short = 'i', long)]
    interactive: bool,
    /// Give the command all privileges
    #[arg(long)]
    privileged: bool,
    /// Give the command a terminal
    #[arg(short = 't', long)]
    tty: bool,
    /// User to run as (name or UID, perhaps with :group or :GID)
    #[arg(short = 'u', long)]
    user: Option<String>,
    /// Working directory in the container
    #[arg(short = 'w', long)]
    workdir: Option<String>,
    #[arg(hide = true)]
    container_and_command: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Created {
    id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Ended {
    exit_code: Option<i64>,
}

impl Verb for Exec {
    const ABOUT: &'static str = "Run a command in a running container";
    const USAGE: &'static str = "[OPTIONS] CONTAINER COMMAND [ARG...]";
    const ARITY: Arity = Arity::AtLeast(2);
    const LEADING_FLAGS: bool = true;

    async fn run(self, cli: &Cli) -> Result {
        if !self.detach && self.interactive && self.tty && !terminal::input_is_terminal() {
            return Err(Failure::message("the input device is not a TTY"));
        }
        let keys = run::detach_keys(self.detach_keys.as_deref(), cli, self.tty)?;
        let client = cli.engine().await?;
        let path = format!("/containers/{}/exec", escape(&self.container_and_command[0]));
        let request = Request::post(path).json(&self.config()?)?;
        let Created { id } = client.send(request).await?.json().await?;
        let start = |detach: bool| {
            let console_size = self.console_size().filter(|_| !detach);
            let body = ExecStartConfig { detach: Some(detach), tty: Some(self.tty), console_size };
            Request::post(format!("/exec/{}/start", escape(&id))).json(&body)
        };
        if self.detach {
            return Ok(client.call(start(true)?).await?);
        }
        let target = Target::Exec(id.clone());
        let streams =
            Streams { stdin: self.interactive, stdout: true, stderr: true, tty: self.tty, detach_keys: keys };
        let main = async {
            let hijacked = client.hijack(start(false)?).await?;
            match session::copy(hijacked, &streams).await? {
                End::Detached => Err(Failure::message("read escape sequence")),
                End::Closed => {
                    let request = Request::get(format!("/exec/{}/json", escape(&id)));
                    let ended: Ended = client.send(request).await?.json().await?;
                    match u8::try_from(ended.exit_code.unwrap_or(0) & 0xff).unwrap_or(1) {
                        0 => Ok(()),
                        code => Err(Failure::Silent(code)),
                    }
                }
            }
        };
        session::attended(client, &target, self.tty, false, main).await?
    }
}

impl Exec {
    fn config(&self) -> Result<ExecConfig> {
        let env = environment::variables(&self.env_file, &self.env).map_err(Failure::Message)?;
        Ok(ExecConfig {
            attach_stdin: Some(self.interactive && !self.detach),
            attach_stdout: Some(!self.detach),
            attach_stderr: Some(!self.detach),
            console_size: self.console_size(),
            detach_keys: self.detach_keys.clone(),
            tty: Some(self.tty),
            env: (!env.is_empty()).then_some(env),
            cmd: Some(self.container_and_command[1..].to_vec()),
            privileged: Some(self.privileged),
            user: self.user.clone(),
            working_dir: self.workdir.clone(),
        })
    }

    fn console_size(&self) -> Option<Vec<usize>> {
        let size = terminal::size().filter(|_| self.tty);
        size.map(|(rows, columns)| vec![usize::from(rows), usize::from(columns)])
    }
}
