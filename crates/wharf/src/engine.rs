//! Finds the engine, and starts one in the background if nothing listens at the place that is ours by default.

use std::{
    ffi::OsString,
    fs::OpenOptions,
    io,
    os::unix::{fs::OpenOptionsExt, process::CommandExt},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use wharf_api::client::{Client, Error, Options};

use crate::{
    cli::Globals,
    config::Config,
    connection::{self, Target},
    failure::{Failure, Result},
};

/// How long an engine that was just started may take to listen.
const START_DEADLINE: Duration = Duration::from_secs(20);

/// The internal verb that turns this process into a detached engine (see [`become_engine`]).
pub(crate) const DETACH_WORD: &str = "__engine";

/// The internal verb that runs a program in a session of its own (see [`become_session`]).
pub(crate) const SESSION_WORD: &str = "__session";

/// A client with an open connection to the engine the user means.
pub(crate) async fn connect(globals: &Globals, config: &Config) -> Result<Client> {
    let Target { endpoint, tls, chosen } = connection::target(globals, config)?;
    let options = Options {
        user_agent: concat!("Wharf-Client/", env!("CARGO_PKG_VERSION"), " (linux)").to_owned(),
        version: std::env::var("DOCKER_API_VERSION").ok().filter(|version| !version.is_empty()),
        headers: config.http_headers.clone().into_iter().collect(),
        tls,
    };
    let client = Client::new(endpoint, &options)?;
    match client.connect().await {
        Ok(()) => Ok(client),
        Err(error) if !chosen && nobody_listens(&error) => {
            start(&client, error).await?;
            Ok(client)
        }
        Err(error) => Err(error.into()),
    }
}

fn nobody_listens(error: &Error) -> bool {
    matches!(error, Error::Connect { source, .. }
        if matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused))
}

/// Starts `wharfd` and waits until it answers.
async fn start(client: &Client, refused: Error) -> Result {
    let Some(program) = find_engine() else { return Err(refused.into()) };
    let log = log_path();
    let mut child = spawn(&log).map_err(|error| {
        Failure::message(format!("{}\nCannot start {}: {error}", Failure::from(refused), program.display()))
    })?;
    let deadline = Instant::now() + START_DEADLINE;
    let mut pause = Duration::from_millis(2);
    loop {
        match client.connect().await {
            Ok(()) => return Ok(()),
            Err(error) if !nobody_listens(&error) => return Err(error.into()),
            Err(_) => {}
        }
        let hint = || format!("see {}, or start wharfd by hand to learn why", log.display());
        if let Ok(Some(status)) = child.try_wait() {
            // Two command lines may have started one each; the loser ends because the winner is there.
            if client.connect().await.is_ok() {
                return Ok(());
            }
            return Err(Failure::message(format!("The engine could not be started ({status}): {}", hint())));
        }
        if Instant::now() > deadline {
            return Err(Failure::message(format!("The engine was started but does not answer: {}", hint())));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// `wharfd` beside this program, else in `PATH`.
fn find_engine() -> Option<PathBuf> {
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join("wharfd")));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&path).map(|directory| directory.join("wharfd"));
    beside.into_iter().chain(in_path).find(|candidate| candidate.is_file())
}

fn log_path() -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return PathBuf::from("/var/log/wharfd.log");
    }
    let home = PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".local/state");
    std::env::var_os("XDG_STATE_HOME").map_or(home, PathBuf::from).join("wharfd.log")
}

fn spawn(log: &PathBuf) -> io::Result<Child> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("open {}: {error}", log.display()));
    let output = OpenOptions::new().create(true).append(true).mode(0o600).open(log).map_err(named)?;
    // This process cannot leave its session before exec without unsafe code; a copy of it can.
    Command::new(std::env::current_exe()?)
        .arg(DETACH_WORD)
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .current_dir("/")
        .spawn()
}

/// Leaves the terminal's session and becomes the engine. Returns only if that fails.
pub(crate) fn become_engine(args: &[OsString]) -> Failure {
    let Some(program) = find_engine() else { return Failure::message("wharfd is not installed") };
    if let Err(error) = rustix::process::setsid() {
        return Failure::message(format!("setsid: {error}"));
    }
    let error = Command::new(&program).args(args).exec();
    Failure::message(format!("cannot run {}: {error}", program.display()))
}

/// Leaves the terminal's session and becomes the program that `args` name. Returns only if that fails.
pub(crate) fn become_session(args: &[OsString]) -> Failure {
    let Some((program, args)) = args.split_first() else { return Failure::message("no program is given") };
    // Whoever leads a process group cannot leave; it is in a session of its own as good as.
    let _already_alone = rustix::process::setsid();
    let error = Command::new(program).args(args).exec();
    let reason = match error.kind() {
        io::ErrorKind::NotFound => "executable file not found in $PATH".to_owned(),
        _ => error.to_string(),
    };
    Failure::message(format!("exec: {:?}: {reason}", program.to_string_lossy()))
}
