//! create, start, run, kill, delete.

use super::args::{Args, Usage};
use super::state::{self, Claim, Place, Record, Status};
use super::{Failure, Globals, Outcome, terminal};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;
use wharf_linux::process;
use wharf_runtime::hooks::{self, Moment};
use wharf_runtime::spec::Spec;
use wharf_runtime::{CreateRequest, Rootfs, Running, Seccomp, Starting, Stdio};

const CREATE: Usage<'_> = Usage {
    values: &["--bundle", "-b", "--console-socket", "--pid-file", "--pidfd-socket", "--preserve-fds"],
    flags: &["--no-pivot", "--no-new-keyring", "--no-subreaper", "--detach", "-d", "--keep"],
};

/// A container that is being made, with what its commands share.
struct New {
    place: Place,
    claim: Claim,
    bundle: PathBuf,
    spec: Spec,
    config: String,
    args: Args,
    terminal: bool,
}

impl New {
    fn prepare(globals: &Globals, words: Vec<String>) -> Result<Self, Failure> {
        let (args, [id]) = Args::exact(words, &CREATE, ["container id"])?;
        let bundle = args.either("--bundle", "-b").unwrap_or(".");
        let bundle = std::fs::canonicalize(bundle)
            .map_err(|e| format!("bundle {bundle}: {e}: name a directory with --bundle"))?;
        let (spec, config) = state::read_config(&bundle)?;
        let terminal =
            spec.process().as_ref().and_then(wharf_runtime::spec::Process::terminal).unwrap_or(false);
        let (place, claim) = Place::claim(globals, &id)?;
        Ok(Self { place, claim, bundle, spec, config, args, terminal })
    }

    fn request(&self) -> Result<CreateRequest<'_>, Failure> {
        Ok(CreateRequest {
            id: &self.place.id,
            bundle: &self.bundle,
            spec: &self.spec,
            rootfs: Rootfs::Bundle,
            stdio: self.stdio()?,
            seccomp: Seccomp::FromSpec,
            user: None,
            groups: &[],
            create_cwd: true,
            default_home: true,
            init: false,
            die_with_caller: false,
            preserve_fds: self.args.number("--preserve-fds")?.unwrap_or(0),
        })
    }

    fn stdio(&self) -> Result<Stdio, Failure> {
        if !self.terminal {
            return Ok(Stdio::Fds(terminal::own_streams()?));
        }
        let (rows, cols) = self.spec.process().as_ref().map_or_else(terminal::size, terminal::wanted_size);
        Ok(Stdio::Terminal { rows, cols })
    }

    /// Remembers the container and tells its process id to who asked for it.
    fn record(&self, pid: i32) -> Result<(), Failure> {
        let root = self.spec.root().as_ref().map(|root| self.bundle.join(root.path())).unwrap_or_default();
        let record = Record {
            id: self.place.id.clone(),
            pid,
            start_time: state::start_time(pid).unwrap_or(0),
            bundle: self.bundle.clone(),
            rootfs: root,
            created: jiff::Timestamp::now().to_string(),
            owner: "root".into(),
            annotations: self.spec.annotations().clone().unwrap_or_default(),
        };
        self.claim.save(&record, &self.config)?;
        write_pid_file(&self.args, pid)
    }
}

pub(super) fn write_pid_file(args: &Args, pid: i32) -> Result<(), Failure> {
    let Some(path) = args.value("--pid-file").map(Path::new) else { return Ok(()) };
    // A watcher of the directory must never see a file without its number.
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let fresh = path.with_file_name(format!(".{name}.new"));
    std::fs::write(&fresh, pid.to_string())
        .and_then(|()| std::fs::rename(&fresh, path))
        .map_err(|e| format!("write the pid file {}: {e}", path.display()).into())
}

/// Undoes what is left of a container that did not come to be.
fn give_up(place: &Place, failure: Failure) -> Failure {
    match place.remove() {
        Ok(()) => failure,
        Err(also) => {
            Failure { message: format!("{}; {}", failure.message, also.message), status: failure.status }
        }
    }
}

fn forward_console(starting: &mut Starting, new: &New) -> Result<(), Failure> {
    let socket = new.args.value("--console-socket");
    match (starting.take_console(), socket) {
        (Some(console), Some(path)) => terminal::send_console(Path::new(path), &console),
        (Some(_), None) => Err("a container with a terminal needs --console-socket".into()),
        (None, Some(_)) => Err("--console-socket needs process.terminal".into()),
        (None, None) => Ok(()),
    }
}

pub(super) fn create(globals: &Globals, words: Vec<String>) -> Outcome {
    let new = New::prepare(globals, words)?;
    create_detached(&new).map_err(|failure| give_up(&new.place, failure))?;
    Ok(0)
}

fn create_detached(new: &New) -> Result<Running, Failure> {
    let fifo = new.place.make_fifo()?;
    let mut starting = wharf_runtime::create_detached(new.request()?, fifo)?;
    starting.wait_ready()?;
    forward_console(&mut starting, new)?;
    new.record(starting.pid())?;
    Ok(starting.detach()?)
}

pub(super) fn start(globals: &Globals, words: Vec<String>) -> Outcome {
    let (_, [id]) = Args::exact(words, &Usage { values: &[], flags: &[] }, ["container id"])?;
    let place = Place::find(globals, &id)?;
    let (record, spec) = place.load()?;
    match place.status(&record, None) {
        Status::Created => {}
        Status::Stopped => return Err("cannot start a container that has stopped".into()),
        _ => return Err("cannot start an already running container".into()),
    }
    place.open_gate()?;
    hooks::run(&spec, Moment::Poststart, &id, record.pid, &record.bundle)?;
    Ok(0)
}

pub(super) fn run(globals: &Globals, words: Vec<String>) -> Outcome {
    let new = New::prepare(globals, words)?;
    let detach = new.args.flag("--detach") || new.args.flag("-d");
    // Signals that come from now on wait until there is a container to forward them to.
    process::block_signals().map_err(|e| format!("block signals: {e}"))?;
    let running = match start_attached(&new, detach) {
        Ok(running) => running,
        Err(failure) => return Err(give_up(&new.place, failure)),
    };
    let (running, console) = running;
    if let Err(failure) = hooks::run(&new.spec, Moment::Poststart, &new.place.id, running.pid, &new.bundle) {
        use std::io::Write as _;
        let _nobody_reads = writeln!(std::io::stderr(), "wharf-runtime: {failure}");
    }
    if detach {
        return Ok(0);
    }
    let status = terminal::follow(&running.pidfd, console)?;
    if !new.args.flag("--keep") {
        // Nobody but processes the command left behind can be in the group now.
        running.cgroup.kill_all()?;
        remove(&new.place, &new.spec, &new.bundle, running.pid)?;
    }
    Ok(status)
}

fn start_attached(new: &New, detach: bool) -> Result<(Running, Option<OwnedFd>), Failure> {
    let mut starting = wharf_runtime::create(new.request()?)?;
    let mut console = None;
    if new.terminal {
        starting.wait_ready()?;
        if detach || new.args.value("--console-socket").is_some() {
            forward_console(&mut starting, new)?;
        } else {
            console = starting.take_console();
        }
    }
    new.record(starting.pid())?;
    Ok((starting.start()?, console))
}

fn remove(place: &Place, spec: &Spec, bundle: &Path, pid: i32) -> Result<(), Failure> {
    let cgroup = state::cgroup(spec, &place.id)?;
    cgroup.delete()?;
    // The parent of groups that nobody placed is ours; one that was asked for is its owner's.
    if spec.linux().as_ref().is_none_or(|linux| linux.cgroups_path().is_none()) {
        cgroup.remove_parent_if_empty();
    }
    place.remove()?;
    Ok(hooks::run(spec, Moment::Poststop, &place.id, pid, bundle)?)
}

pub(super) fn delete(globals: &Globals, words: Vec<String>) -> Outcome {
    const PATIENCE: Duration = Duration::from_secs(10);
    let usage = Usage { values: &[], flags: &["--force", "-f"] };
    let (args, [id]) = Args::exact(words, &usage, ["container id"])?;
    let force = args.flag("--force") || args.flag("-f");
    let place = match Place::find(globals, &id) {
        Err(_) if force && wharf_runtime::check_id(&id).is_ok() => return Ok(0),
        place => place?,
    };
    if place.is_unfinished()? {
        place.remove()?;
        return Ok(0);
    }
    let (record, spec) = place.load()?;
    let cgroup = state::cgroup(&spec, &id)?;
    match place.status(&record, None) {
        Status::Stopped => {}
        _ if force => {}
        // A container that was never started has nothing to lose.
        Status::Created => {}
        status => {
            return Err(format!("cannot delete container {id} that is not stopped: {}", status.name()).into());
        }
    }
    if start_matches(&record) {
        let pidfd = process::open(record.pid).map_err(|e| format!("open process {}: {e}", record.pid))?;
        if start_matches(&record) {
            process::signal(pidfd.as_fd(), libc::SIGKILL)
                .map_err(|e| format!("kill process {}: {e}", record.pid))?;
            if !terminal::wait_ended(&pidfd, PATIENCE)? {
                return Err(format!("process {} of container {id} does not end", record.pid).into());
            }
        }
    }
    cgroup.kill_all()?;
    remove(&place, &spec, &record.bundle, record.pid)?;
    Ok(0)
}

fn start_matches(record: &Record) -> bool {
    state::start_time(record.pid) == Some(record.start_time)
}

pub(super) fn kill(globals: &Globals, words: Vec<String>) -> Outcome {
    let usage = Usage { values: &[], flags: &["--all", "-a"] };
    let (args, rest) = Args::leading(words, &usage)?;
    let (id, name) = match &rest[..] {
        [id] => (id, "SIGTERM"),
        [id, name] => (id, name.as_str()),
        [] => return Err("missing argument: container id".into()),
        _ => return Err(format!("unexpected argument {:?}", rest[2]).into()),
    };
    let signal = signal_number(name).ok_or_else(|| format!("unknown signal {name:?}"))?;
    let place = Place::find(globals, id)?;
    let (record, spec) = place.load()?;
    if args.flag("--all") || args.flag("-a") {
        let cgroup = state::cgroup(&spec, id)?;
        if signal == libc::SIGKILL {
            cgroup.kill_all()?;
        } else {
            for pid in cgroup.pids()? {
                // One that has just ended needs no signal.
                let _ = process::kill(pid, signal);
            }
        }
        return Ok(0);
    }
    let pidfd = start_matches(&record).then(|| process::open(record.pid)).and_then(Result::ok);
    // Checked again behind the open: now the number cannot have passed to another process.
    let Some(pidfd) = pidfd.filter(|_| start_matches(&record)) else {
        return Err("container not running".into());
    };
    process::signal(pidfd.as_fd(), signal).map_err(|e| format!("signal process {}: {e}", record.pid))?;
    Ok(0)
}

fn signal_number(name: &str) -> Option<i32> {
    if let Ok(number) = name.parse::<i32>() {
        return Some(number).filter(|n| (1..=64).contains(n));
    }
    const NAMES: [(&str, i32); 31] = [
        ("HUP", 1),
        ("INT", 2),
        ("QUIT", 3),
        ("ILL", 4),
        ("TRAP", 5),
        ("ABRT", 6),
        ("BUS", 7),
        ("FPE", 8),
        ("KILL", 9),
        ("USR1", 10),
        ("SEGV", 11),
        ("USR2", 12),
        ("PIPE", 13),
        ("ALRM", 14),
        ("TERM", 15),
        ("STKFLT", 16),
        ("CHLD", 17),
        ("CONT", 18),
        ("STOP", 19),
        ("TSTP", 20),
        ("TTIN", 21),
        ("TTOU", 22),
        ("URG", 23),
        ("XCPU", 24),
        ("XFSZ", 25),
        ("VTALRM", 26),
        ("PROF", 27),
        ("WINCH", 28),
        ("IO", 29),
        ("PWR", 30),
        ("SYS", 31),
    ];
    let name = name.to_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    NAMES.iter().find(|(known, _)| *known == name).map(|(_, number)| *number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_by_name_and_number() {
        for (name, number) in [("SIGKILL", 9), ("kill", 9), ("15", 15), ("sigterm", 15), ("64", 64)] {
            assert_eq!(signal_number(name), Some(number), "{name}");
        }
        for name in ["0", "65", "-9", "SIGNOPE", ""] {
            assert_eq!(signal_number(name), None, "{name}");
        }
    }
}
