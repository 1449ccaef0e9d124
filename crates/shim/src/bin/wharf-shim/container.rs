//! Making the container out of its configuration, and small things done to its processes.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use oci_spec::runtime::{Process, Spec};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{WaitId, WaitIdOptions, waitid};
use rustix::termios::Winsize;
use wharf_linux::hostfs;
use wharf_runtime::{CreateRequest, Rootfs, Seccomp, Stdio};
use wharf_shim::protocol::{Evidence, ExitStatus, ShimConfig, VERSION};

use crate::failure::Failure;
use crate::foreign::{self, Foreign};
use crate::output::now_ns;
use crate::runtime::Starting;

/// The largest configuration read; an engine writes some 10 KiB.
const MAX_CONFIG: u64 = 16 * 1024 * 1024;

/// How long the init may make no progress before its start is given up; less than engines wait for an answer.
const PATIENCE: Duration = Duration::from_secs(45);

/// The shim's ends of the container's standard streams. With a terminal there are none: it comes later.
#[derive(Debug, Default)]
pub(crate) struct Ends {
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) stdout: Option<OwnedFd>,
    pub(crate) stderr: Option<OwnedFd>,
}

/// Reads the shim's own configuration.
pub(crate) fn load_config(path: &Path) -> Result<ShimConfig, Failure> {
    let config: ShimConfig = load(path)?;
    if config.version == VERSION {
        Ok(config)
    } else {
        Err(Failure::invalid(format!("{} has version {}, not {VERSION}", path.display(), config.version)))
    }
}

/// Reads the container's OCI configuration. It is not kept: parsed, it is most of what a shim would hold. The shim's
/// own out-of-memory score is not the container's: `score` is, unless the configuration says otherwise.
pub(crate) fn load_spec(config: &ShimConfig, score: Option<i32>) -> Result<Spec, Failure> {
    let mut spec: Spec = load(&config.bundle.join("config.json"))?;
    if let Some(process) = spec.process_mut() {
        process.set_oom_score_adj(process.oom_score_adj().or(score));
    }
    Ok(spec)
}

fn load<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, Failure> {
    let bytes =
        hostfs::read_bounded(path, MAX_CONFIG).map_err(|error| Failure::invalid(error.to_string()))?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Failure::invalid(format!("{} is malformed: {error}", path.display())))
}

/// A container that waits for its start.
pub(crate) struct Made {
    pub(crate) starting: Starting,
    pub(crate) ends: Ends,
    /// Who has made it, unless the built-in runtime has.
    pub(crate) foreign: Option<Rc<Foreign>>,
}

/// Makes the container's init.
pub(crate) fn create(config: &ShimConfig, score: Option<i32>) -> Result<Made, Failure> {
    let spec = load_spec(config, score)?;
    let terminal = spec.process().as_ref().and_then(Process::terminal).unwrap_or(false);
    let (stdio, ends) = if terminal {
        (Stdio::Terminal { rows: config.rows, cols: config.cols }, Ends::default())
    } else {
        pipes(config.open_stdin)?
    };
    if let Some(runtime) = config.runtime.clone() {
        let stderr = ends.stderr.as_ref().map(AsFd::as_fd);
        let (created, foreign) = foreign::create(config, runtime, spec, stdio, stderr)?;
        return Ok(Made { starting: Starting::Foreign(created), ends, foreign: Some(foreign) });
    }
    let rootfs = config.rootfs.as_ref().map_or(Rootfs::Bundle, |overlay| Rootfs::Overlay {
        base: &overlay.base,
        lower: &overlay.lower,
        upper: &overlay.upper,
        work: &overlay.work,
        mountpoint: &overlay.mountpoint,
    });
    let starting = wharf_runtime::create(CreateRequest {
        id: &config.id,
        bundle: &config.bundle,
        spec: &spec,
        rootfs,
        stdio,
        seccomp: if config.seccomp_default { Seccomp::DockerDefault } else { Seccomp::FromSpec },
        user: config.user.as_deref(),
        groups: &config.groups,
        create_cwd: config.create_cwd,
        default_home: config.default_home,
        init: config.init,
        // Nothing may run that nobody watches.
        die_with_caller: true,
        preserve_fds: 0,
    })?;
    starting.limit_patience(PATIENCE)?;
    Ok(Made { starting: Starting::BuiltIn(starting), ends, foreign: None })
}

fn pipes(open_stdin: bool) -> Result<(Stdio, Ends), Failure> {
    let pipe = || pipe_with(PipeFlags::CLOEXEC).map_err(Failure::on("make a pipe"));
    let (stdin, stdin_end) = if open_stdin {
        let (read, write) = pipe()?;
        unblock(&write)?;
        (read, Some(write))
    } else {
        (null()?, None)
    };
    let (stdout_end, stdout) = pipe()?;
    let (stderr_end, stderr) = pipe()?;
    // Only our ends: the container's are blocking, as programs expect.
    unblock(&stdout_end)?;
    unblock(&stderr_end)?;
    let ends = Ends { stdin: stdin_end, stdout: Some(stdout_end), stderr: Some(stderr_end) };
    Ok((Stdio::Fds([stdin, stdout, stderr]), ends))
}

/// Three times `/dev/null`.
pub(crate) fn null_stdio() -> Result<[OwnedFd; 3], Failure> {
    Ok([null()?, null()?, null()?])
}

fn null() -> Result<OwnedFd, Failure> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOCTTY;
    rustix::fs::openat(CWD, "/dev/null", flags, Mode::empty()).map_err(Failure::on("open /dev/null"))
}

/// Makes reads and writes of it never wait.
pub(crate) fn unblock(fd: &OwnedFd) -> Result<(), Failure> {
    rustix::io::ioctl_fionbio(fd, true).map_err(Failure::on("make a descriptor non-blocking"))
}

/// Sets a terminal's size.
pub(crate) fn resize(terminal: BorrowedFd<'_>, rows: u16, cols: u16) -> Result<(), Failure> {
    let size = Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(terminal, size).map_err(Failure::on("set the terminal's size"))
}

/// What came of sending a signal.
pub(crate) fn sent(result: io::Result<()>) -> Result<(), Failure> {
    result.map_err(|error| match Errno::from_io_error(&error) {
        Some(Errno::SRCH) => Failure::not_running("the process has ended"),
        Some(Errno::INVAL) => Failure::invalid("there is no such signal"),
        _ => Failure::on("send a signal")(error),
    })
}

/// Reaps a child if it has ended.
pub(crate) fn reap(pidfd: &OwnedFd) -> Result<Option<ExitStatus>, Failure> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    let status = waitid(WaitId::PidFd(pidfd.as_fd()), options).map_err(Failure::on("reap a process"))?;
    Ok(status.map(|status| {
        let signal = status.terminating_signal();
        let code = match (status.exit_status(), signal) {
            (Some(code), _) => code & 0xff,
            (None, signal) => 128 + signal.unwrap_or(0),
        };
        let evidence = Evidence { core_dumped: status.dumped(), ..Evidence::default() };
        ExitStatus { code, signal, oom_killed: false, finished_at_ns: now_ns(), evidence }
    }))
}
