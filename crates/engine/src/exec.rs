//! Exec sessions: one more process in a running container.
//!
//! A session lives in the engine's memory only: it ends with its container, and its client with the engine. The
//! process's streams are pipes (or a terminal) that the engine holds and the shim only passes on, so nothing is
//! copied twice. An engine that dies leaves the process running with closed pipes, as a closed terminal would.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::Interest;
use tokio::sync::{mpsc, watch};
use wharf_linux::confined::Root;
use wharf_model::{ContainerId, ExecId};
use wharf_shim::protocol::{ExitStatus, Reply, Request};

use crate::blocking::blocking;
use crate::containers::{Container, Phase, Record, random_id};
use crate::readiness::watch as watch_fd;
use crate::session::{DetachKeys, Input, OutputStream, Session, expect_ok};
use crate::spec::{self, SeccompOption};
use crate::{Engine, Error, ExecSpec, ExecView, OutputChunk, Result, Stream};

/// A finished session is forgotten when this many newer ones exist.
const KEPT: usize = 1024;
/// Output that a descendant holds open after the process has ended is waited for this long.
const LINGER: Duration = Duration::from_secs(1);
/// The most that is read of a container's passwd or group file.
const ACCOUNTS: u64 = 4 * 1024 * 1024;
/// How long a resize waits for its session to run.
const RESIZE_PATIENCE: Duration = Duration::from_secs(10);
/// Bytes per read.
const READ: usize = 64 * 1024;

/// How far a session is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Created,
    Starting,
    Running { pid: i32 },
    Ended { pid: i32, code: i32 },
}

struct Exec {
    id: ExecId,
    container: ContainerId,
    spec: ExecSpec,
    state: watch::Sender<State>,
}

/// All sessions of the engine.
#[derive(Default)]
pub(crate) struct Execs {
    sessions: Mutex<(u64, BTreeMap<u64, Arc<Exec>>)>,
}

impl Execs {
    fn lock(&self) -> MutexGuard<'_, (u64, BTreeMap<u64, Arc<Exec>>)> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, exec: Arc<Exec>) {
        let mut sessions = self.lock();
        let number = sessions.0;
        sessions.0 += 1;
        sessions.1.insert(number, exec);
        if sessions.1.len() > KEPT {
            let over =
                |exec: &Arc<Exec>| matches!(*exec.state.borrow(), State::Ended { .. } | State::Created);
            let oldest = sessions.1.iter().find(|(_, exec)| over(exec)).map(|(number, _)| *number);
            if let Some(oldest) = oldest {
                sessions.1.remove(&oldest);
            }
        }
    }

    fn find(&self, id: &str) -> Result<Arc<Exec>> {
        let sessions = self.lock();
        let mut matching =
            sessions.1.values().filter(|exec| !id.is_empty() && exec.id.as_str().starts_with(id));
        matching.next().cloned().ok_or_else(|| Error::NoSuchExec(id.to_owned()))
    }

    /// Ids of a container's sessions that have not ended.
    pub(crate) fn of_container(&self, container: &ContainerId) -> Vec<String> {
        let sessions = self.lock();
        let live = |exec: &&Arc<Exec>| {
            exec.container == *container && !matches!(*exec.state.borrow(), State::Ended { .. })
        };
        sessions.1.values().filter(live).map(|exec| exec.id.to_string()).collect()
    }

    /// The shim says that a process has ended.
    pub(crate) fn ended(&self, engine: &Engine, container: &Container, id: &str, status: ExitStatus) {
        if let Ok(exec) = self.find(id) {
            exec.end(status.code);
            engine.emit(
                container,
                "exec_die",
                &[("execID", id.to_owned()), ("exitCode", status.code.to_string())],
            );
        }
    }

    /// The container has ended, and every process in it.
    pub(crate) fn container_ended(&self, container: &ContainerId) {
        let mut sessions = self.lock();
        // One that was never started cannot be started any more.
        sessions.1.retain(|_, exec| exec.container != *container || *exec.state.borrow() != State::Created);
        for exec in sessions.1.values().filter(|exec| exec.container == *container) {
            if matches!(*exec.state.borrow(), State::Running { .. } | State::Starting) {
                exec.end(137);
            }
        }
    }

    pub(crate) fn forget_container(&self, container: &ContainerId) {
        self.lock().1.retain(|_, exec| exec.container != *container);
    }
}

impl Exec {
    fn end(&self, code: i32) {
        self.state.send_modify(|state| {
            let pid = if let State::Running { pid } = state { *pid } else { 0 };
            *state = State::Ended { pid, code };
        });
    }
}

impl Engine {
    /// Prepares a session.
    ///
    /// # Errors
    /// [`Error::Conflict`] when the container does not run, [`Error::Invalid`] without a command.
    pub async fn create_exec(&self, container: &str, mut spec: ExecSpec) -> Result<ExecId> {
        let name = container;
        let container = self.find(name)?;
        match container.record().phase {
            Phase::Running => {}
            Phase::Paused => {
                return Err(Error::Conflict(format!(
                    "Container {name} is paused, unpause the container before exec"
                )));
            }
            Phase::Restarting => return Err(container.between_runs()),
            _ => return Err(container.not_running()),
        }
        if spec.cmd.is_empty() {
            return Err(Error::Invalid("No exec command specified".into()));
        }
        spec.env.retain(|variable| !variable.is_empty());
        if let Some(bad) = spec.env.iter().find(|variable| variable.starts_with('=')) {
            return Err(Error::Invalid(format!("invalid environment variable: {bad}")));
        }
        DetachKeys::parse(spec.detach_keys.as_deref()).map_err(|_| {
            let keys = spec.detach_keys.as_deref().unwrap_or_default();
            Error::System(format!("Invalid escape keys ({keys}) provided"))
        })?;
        if spec.user.is_empty() {
            spec.user.clone_from(&container.record().spec.user);
        }
        let (user, pid) = (spec.user.clone(), container.record().pid);
        blocking(move || check_user(&user, pid)).await?;
        let id = ExecId::from_bytes(random_id()?);
        let command = spelled(&spec.cmd);
        self.inner.execs.add(Arc::new(Exec {
            id: id.clone(),
            container: container.id.clone(),
            spec,
            state: watch::Sender::new(State::Created),
        }));
        self.emit(&container, &format!("exec_create: {command}"), &[("execID", id.to_string())]);
        Ok(id)
    }

    /// Runs a session's process; answers its streams unless detached.
    ///
    /// # Errors
    /// [`Error::NoSuchExec`], [`Error::Conflict`] when it was started before, [`Error::Start`] when it cannot run.
    pub async fn start_exec(
        &self,
        id: &str,
        detach: bool,
        tty: Option<bool>,
        console_size: Option<(u16, u16)>,
    ) -> Result<Option<Session>> {
        let exec = self.inner.execs.find(id)?;
        let container = self.find(exec.container.as_str())?;
        // A frozen container freezes whoever joins it.
        if container.record().phase == Phase::Paused {
            return Err(Error::Conflict(format!(
                "Container {} is paused, unpause the container before exec",
                container.id
            )));
        }
        let first = exec.state.send_if_modified(|state| {
            let fresh = *state == State::Created;
            if fresh {
                *state = State::Starting;
            }
            fresh
        });
        if !first {
            let how = match *exec.state.borrow() {
                State::Ended { .. } => "has already run",
                _ => "is already running",
            };
            return Err(Error::Conflict(format!("exec command {} {how}", exec.id)));
        }
        let tty = tty.unwrap_or(false) || exec.spec.tty;
        let command = spelled(&exec.spec.cmd);
        self.emit(&container, &format!("exec_start: {command}"), &[("execID", exec.id.to_string())]);
        match self.run_exec(&exec, &container, detach, tty, console_size).await {
            Ok((pid, session)) => {
                // It may have ended already.
                exec.state.send_if_modified(|state| {
                    let starting = *state == State::Starting;
                    if starting {
                        *state = State::Running { pid };
                    } else if let State::Ended { pid: unknown @ 0, .. } = state {
                        *unknown = pid;
                    }
                    starting
                });
                Ok(session)
            }
            Err(error @ Error::ExecStart { exit_code: exit_code @ (126 | 127), .. }) => {
                exec.end(exit_code);
                if detach {
                    return Err(error);
                }
                Ok(Some(failed_session(tty, &error.to_string())))
            }
            Err(error) => {
                exec.end(if let Error::ExecStart { exit_code, .. } = error { exit_code } else { 126 });
                Err(error)
            }
        }
    }

    async fn run_exec(
        &self,
        exec: &Arc<Exec>,
        container: &Arc<Container>,
        detach: bool,
        tty: bool,
        console_size: Option<(u16, u16)>,
    ) -> Result<(i32, Option<Session>)> {
        if !exec.spec.working_dir.is_empty() && !exec.spec.working_dir.starts_with('/') {
            return Err(Error::ExecStart { message: "Cwd must be an absolute path".into(), exit_code: 128 });
        }
        let link = container.running_link()?;
        let record = container.record().clone();
        let process = exec_process(&record, &exec.spec, tty)?;
        let document = memory_file(&process)?;
        let (rows, cols) = console_size.or(exec.spec.console_size).unwrap_or((0, 0));
        let host = &record.spec.host;
        let user = if exec.spec.user.is_empty() { &record.spec.user } else { &exec.spec.user };
        let request = Request::Exec {
            id: exec.id.to_string(),
            terminal: tty,
            rows,
            cols,
            detach,
            user: Some(user.clone()),
            groups: host.group_add.clone(),
            default_home: true,
            seccomp_default: spec::options(host)?.seccomp == SeccompOption::Default
                && !host.privileged
                && !exec.spec.privileged,
        };
        let pipes = if tty || detach { None } else { Some(Pipes::new(&exec.spec)?) };
        let mut fds: Vec<BorrowedFd<'_>> = vec![document.as_fd()];
        if let Some(pipes) = &pipes {
            fds.extend(pipes.theirs.iter().map(AsFd::as_fd));
        }
        let (reply, received) = link.ask(request, &fds).await.map_err(|error| match error {
            // It ended while the process was on its way.
            Error::Conflict(_) | Error::Unavailable(_) => container.not_running(),
            other => exec_error(other),
        })?;
        let Reply::ExecStarted { pid } = reply else {
            return Err(Error::System(format!("the shim answered {reply:?} to an exec")));
        };
        if detach {
            return Ok((pid, None));
        }
        let keys = DetachKeys::parse(exec.spec.detach_keys.as_deref())?;
        let (sender, output) = OutputStream::new();
        let state = exec.state.subscribe();
        let input = match pipes {
            Some(pipes) => {
                let Pipes { input, stdout, stderr, theirs } = pipes;
                // The process holds the other ends now; ours would keep the streams open for ever.
                drop(theirs);
                for (fd, stream) in [(stdout, Stream::Stdout), (stderr, Stream::Stderr)] {
                    if let Some(fd) = fd {
                        tokio::spawn(copy(fd, stream, sender.clone(), state.clone()));
                    }
                }
                if let Some(input) = input { Some(Input::to_exec(input, None)?) } else { None }
            }
            None => {
                let master = received.into_iter().next();
                let master = master.ok_or_else(|| Error::System("the shim sent no terminal".into()))?;
                let input = if exec.spec.attach_stdin {
                    Some(Input::to_exec(
                        rustix::io::fcntl_dupfd_cloexec(&master, 3).map_err(std::io::Error::from)?,
                        Some(keys),
                    )?)
                } else {
                    None
                };
                tokio::spawn(copy(master, Stream::Stdout, sender.clone(), state.clone()));
                input
            }
        };
        // Without any stream to copy the session still lasts as long as the process.
        tokio::spawn(hold(sender, state));
        Ok((pid, Some(Session { tty, output, input })))
    }

    /// Sets the size of a session's terminal.
    ///
    /// # Errors
    /// [`Error::NoSuchExec`], or when it does not run.
    pub async fn resize_exec(&self, id: &str, rows: u16, cols: u16) -> Result<()> {
        let exec = self.inner.execs.find(id)?;
        let container = self.find(exec.container.as_str())?;
        let link = container.running_link()?;
        // Clients resize as soon as they have asked for the start, which may still be on its way.
        let mut state = exec.state.subscribe();
        let started = state.wait_for(|state| matches!(state, State::Running { .. } | State::Ended { .. }));
        match tokio::time::timeout(RESIZE_PATIENCE, started).await {
            Ok(Ok(state)) if matches!(*state, State::Running { .. }) => {}
            Ok(_) => return Err(Error::NoSuchExec(exec.id.to_string())),
            Err(_) => return Err(Error::System("timeout waiting for exec session ready".into())),
        }
        if !exec.spec.tty {
            // Nothing has that size; Docker does not call it a mistake.
            return Ok(());
        }
        let request = Request::Resize { exec: Some(exec.id.to_string()), rows, cols };
        link.ask(request, &[]).await.and_then(expect_ok)
    }

    /// What is known about a session.
    ///
    /// # Errors
    /// [`Error::NoSuchExec`].
    #[expect(clippy::unused_async, reason = "one colour for the whole façade")]
    pub async fn inspect_exec(&self, id: &str) -> Result<ExecView> {
        let exec = self.inner.execs.find(id)?;
        let (running, exit_code, pid) = match *exec.state.borrow() {
            State::Created => (false, None, 0),
            State::Starting => (true, None, 0),
            State::Running { pid } => (true, None, pid),
            State::Ended { pid, code } => (false, Some(code), pid),
        };
        Ok(ExecView {
            id: exec.id.clone(),
            container: exec.container.clone(),
            spec: exec.spec.clone(),
            detach_keys: match &exec.spec.detach_keys {
                Some(keys) => DetachKeys::parse(Some(keys))?.bytes().to_vec(),
                None => Vec::new(),
            },
            running,
            exit_code,
            pid,
        })
    }
}

/// A command in events: the program, a blank, and its arguments, if any.
fn spelled(cmd: &[String]) -> String {
    let (program, arguments) =
        cmd.split_first().map_or(("", &[][..]), |(first, rest)| (first.as_str(), rest));
    format!("{program} {}", arguments.join(" "))
}

/// Refuses a user or group that the container does not know, while there is still somebody to tell. The runtime looks
/// again, inside the container, and that is what counts.
fn check_user(user: &str, pid: i32) -> Result<()> {
    let (user, group) = user.split_once(':').unwrap_or((user, ""));
    let known = |name: &str, file: &str| -> bool {
        let root = Root::open(Path::new(&format!("/proc/{pid}/root/.")));
        // What cannot be read is the runtime's to explain.
        let Ok(text) = root.and_then(|root| root.read_file(Path::new(file), ACCOUNTS)) else { return true };
        String::from_utf8_lossy(&text).lines().any(|line| line.split(':').next() == Some(name))
    };
    for (name, file, what) in [(user, "/etc/passwd", "user"), (group, "/etc/group", "group")] {
        if let Some(number) = number(name) {
            // Never a name, and never wrapped into another number (RT-16).
            if !(0..=i64::from(i32::MAX)).contains(&number) {
                return Err(Error::Invalid("uids and gids must be in range 0-2147483647".into()));
            }
        } else if !name.is_empty() && !known(name, file) {
            let file = file.trim_start_matches("/etc/");
            return Err(Error::Invalid(format!(
                "unable to find {what} {name}: no matching entries in {file} file"
            )));
        }
    }
    Ok(())
}

/// What is meant as a number, however large; a sign does not make it a name.
fn number(text: &str) -> Option<i64> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let numeric = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    numeric.then(|| text.parse().unwrap_or(i64::MAX))
}

/// A command that cannot run says so in its own stream, where a person at a terminal looks; the exit code says the rest.
fn failed_session(tty: bool, message: &str) -> Session {
    let (sender, output) = OutputStream::new();
    let text = format!("{message}\r\n");
    // The channel is empty: there is room for one.
    let _taken = sender.try_send(Ok(OutputChunk { stream: Stream::Stdout, bytes: Bytes::from(text) }));
    Session { tty, output, input: None }
}

/// Docker words the failure of an exec differently from that of a start.
fn exec_error(error: Error) -> Error {
    match error {
        Error::Start { message, exit_code } => Error::ExecStart { message, exit_code },
        // The process was on its way; Docker tells this one in the stream, too.
        Error::Invalid(message) if message.starts_with("chdir to cwd") => {
            let exit_code = if message.contains("no such file or directory") { 127 } else { 126 };
            Error::ExecStart { message, exit_code }
        }
        Error::NoSuchExec(message) => Error::System(message),
        other => other,
    }
}

/// The container's process with the session's wishes.
fn exec_process(record: &Record, wishes: &ExecSpec, tty: bool) -> Result<oci_spec::runtime::Process> {
    let mut process = spec::process(record)?;
    process.set_args(Some(wishes.cmd.clone())).set_terminal(Some(tty));
    let mut env = process.env().clone().unwrap_or_default();
    let name = |variable: &str| variable.split('=').next().unwrap_or(variable).to_owned();
    if tty && !env.iter().any(|variable| name(variable) == "TERM") {
        env.push("TERM=xterm".into());
    }
    for variable in &wishes.env {
        env.retain(|have| name(have) != name(variable));
        if variable.contains('=') {
            env.push(variable.clone());
        }
    }
    process.set_env(Some(env));
    if !wishes.working_dir.is_empty() {
        process.set_cwd(wishes.working_dir.clone().into());
    }
    if wishes.privileged {
        let all = wharf_model::spec::HostSpec { privileged: true, ..Default::default() };
        process.set_capabilities(Some(spec::capability_sets(&spec::capabilities(&all)?)?));
    }
    Ok(process)
}

/// A document in memory for the shim to read.
fn memory_file(process: &oci_spec::runtime::Process) -> Result<OwnedFd> {
    let json = serde_json::to_vec(process)
        .map_err(|error| Error::System(format!("cannot encode the process of an exec: {error}")))?;
    let file = rustix::fs::memfd_create("wharf-exec", rustix::fs::MemfdFlags::CLOEXEC)
        .map_err(std::io::Error::from)?;
    let mut file = std::fs::File::from(file);
    std::io::Write::write_all(&mut file, &json)?;
    std::io::Seek::rewind(&mut file)?;
    Ok(file.into())
}

/// Both ends of an exec's streams.
struct Pipes {
    input: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    theirs: [OwnedFd; 3],
}

impl Pipes {
    fn new(spec: &ExecSpec) -> Result<Self> {
        let null = || -> Result<OwnedFd> {
            Ok(std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?.into())
        };
        let pipe = || -> Result<(OwnedFd, OwnedFd)> {
            Ok(rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(std::io::Error::from)?)
        };
        // Only our end is non-blocking: the flag belongs to each end's own open file.
        let ours = |fd: OwnedFd| -> Result<Option<OwnedFd>> {
            rustix::io::ioctl_fionbio(&fd, true).map_err(std::io::Error::from)?;
            Ok(Some(fd))
        };
        let (input, stdin) = if spec.attach_stdin {
            let (read, write) = pipe()?;
            (ours(write)?, read)
        } else {
            (None, null()?)
        };
        let output = |wanted: bool| -> Result<(Option<OwnedFd>, OwnedFd)> {
            if !wanted {
                return Ok((None, null()?));
            }
            let (read, write) = pipe()?;
            Ok((ours(read)?, write))
        };
        let (stdout, theirs_out) = output(spec.attach_stdout)?;
        let (stderr, theirs_err) = output(spec.attach_stderr)?;
        Ok(Self { input, stdout, stderr, theirs: [stdin, theirs_out, theirs_err] })
    }
}

/// Carries one stream of a process to its client until it ends; after the process's end it waits only a little for
/// descendants that hold the stream open.
async fn copy(
    fd: OwnedFd,
    stream: Stream,
    sender: mpsc::Sender<Result<OutputChunk>>,
    mut state: watch::Receiver<State>,
) {
    let Ok(fd) = watch_fd(fd, Interest::READABLE) else { return };
    let read = async {
        let mut buffer = vec![0; READ];
        loop {
            let count = fd.async_io(Interest::READABLE, |fd| Ok(rustix::io::read(fd, &mut buffer)?)).await;
            // The master of a terminal nobody has open any more says EIO: the end.
            let Ok(count @ 1..) = count else { return };
            let bytes = Bytes::copy_from_slice(&buffer[..count]);
            if sender.send(Ok(OutputChunk { stream, bytes })).await.is_err() {
                return;
            }
        }
    };
    let over = async {
        drop(state.wait_for(|state| matches!(state, State::Ended { .. })).await);
        tokio::time::sleep(LINGER).await;
    };
    tokio::select! {
        biased;
        () = read => {}
        () = over => {}
        () = sender.closed() => {}
    }
}

/// Keeps the output stream open until the process has ended.
async fn hold(sender: mpsc::Sender<Result<OutputChunk>>, mut state: watch::Receiver<State>) {
    tokio::select! {
        _ = state.wait_for(|state| matches!(state, State::Ended { .. })) => {}
        () = sender.closed() => {}
    }
}
