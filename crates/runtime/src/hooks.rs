//! Programs of the configuration that run at certain points of a container's life.
//!
//! `prestart` and `createRuntime` run in the caller before the root is entered, `createContainer` in the container's
//! namespaces before, `startContainer` inside the container; `poststart` and `poststop` in the caller. Each gets the
//! container's state on its standard input.

use crate::error::{Error, Result};
use crate::spec::{Hook, Spec};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Where in a container's life we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Namespaces exist; the caller's side.
    CreateRuntime,
    /// The same moment, inside the namespaces.
    CreateContainer,
    /// Just before the command.
    StartContainer,
    /// The command runs.
    Poststart,
    /// The container is gone.
    Poststop,
}

impl Moment {
    /// The name in the configuration, and the container's status at that moment.
    const fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::CreateRuntime => ("createRuntime", "creating"),
            Self::CreateContainer => ("createContainer", "creating"),
            Self::StartContainer => ("startContainer", "created"),
            Self::Poststart => ("poststart", "running"),
            Self::Poststop => ("poststop", "stopped"),
        }
    }
}

/// Runs the hooks of one moment, in order. The first that fails ends it.
pub fn run(spec: &Spec, moment: Moment, id: &str, pid: i32, bundle: &Path) -> Result<()> {
    let Some(hooks) = spec.hooks() else { return Ok(()) };
    // prestart is the old name of createRuntime, and still the one most engines use.
    #[allow(deprecated)]
    let old = hooks.prestart();
    let (early, list): (&Option<Vec<Hook>>, _) = match moment {
        Moment::CreateRuntime => (old, hooks.create_runtime()),
        Moment::CreateContainer => (&None, hooks.create_container()),
        Moment::StartContainer => (&None, hooks.start_container()),
        Moment::Poststart => (&None, hooks.poststart()),
        Moment::Poststop => (&None, hooks.poststop()),
    };
    let (name, status) = moment.names();
    let state = serde_json::json!({
        "ociVersion": spec.version(),
        "id": id,
        "status": status,
        "pid": pid,
        "bundle": bundle,
        "annotations": spec.annotations(),
    });
    for hook in early.iter().chain(list).flatten() {
        run_one(hook, &state.to_string()).map_err(|reason| {
            Error::io(format!("run the {name} hook {}", hook.path().display()), std::io::Error::other(reason))
        })?;
    }
    Ok(())
}

/// In the first process, before it enters its root.
pub(crate) fn run_in_container(spec: &Spec, id: &str, bundle: &Path) -> Result<()> {
    run(spec, Moment::CreateContainer, id, own_pid(), bundle)
}

/// In the first process, before it becomes the command.
pub(crate) fn run_before_start(spec: &Spec, id: &str, bundle: &Path) -> Result<()> {
    run(spec, Moment::StartContainer, id, own_pid(), bundle)
}

fn own_pid() -> i32 {
    rustix::process::getpid().as_raw_nonzero().get()
}

fn run_one(hook: &Hook, state: &str) -> std::result::Result<(), String> {
    if !hook.path().is_absolute() {
        return Err("its path is not absolute".into());
    }
    let args = hook.args().as_deref().unwrap_or_default();
    let mut command = Command::new(hook.path());
    if let Some(name) = args.first() {
        command.arg0(name);
    }
    command
        .args(args.iter().skip(1))
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::inherit());
    for pair in hook.env().iter().flatten() {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        command.env(key, value);
    }
    let mut child = command.spawn().map_err(|e| e.to_string())?;
    if let Some(mut stdin) = child.stdin.take() {
        // A hook need not read it.
        let _ = stdin.write_all(state.as_bytes());
    }
    let status = match hook.timeout() {
        None => child.wait().map_err(|e| e.to_string())?,
        Some(seconds) => {
            let limit = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
            wait_for(&mut child, limit)?
        }
    };
    if status.success() { Ok(()) } else { Err(format!("it ended with {status}")) }
}

fn wait_for(child: &mut std::process::Child, limit: Duration) -> std::result::Result<ExitStatus, String> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let deadline = Instant::now() + limit;
    let pidfd = wharf_linux::process::open(child.id() as i32).map_err(|e| e.to_string())?;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("it did not end within {} s", limit.as_secs()));
            }
            Ok(_) => return child.wait().map_err(|e| e.to_string()),
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.to_string()),
        }
    }
}
