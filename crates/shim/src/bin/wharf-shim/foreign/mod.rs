//! Another OCI runtime in the place of the built-in one, driven by runc's command line as containerd drives it.
//!
//! # Who does what
//! The runtime makes the container (`create`), opens its gate (`start`), lets processes join it (`exec --detach`) and
//! forgets it (`delete`). All else goes straight to the kernel, for which the container is like any other: its init and
//! its execs become children of this shim (a subreaper) as soon as the runtime ends, so their ends are seen, and
//! signals, freezing, limits and figures need only processes and the control group. A runtime that hangs can keep
//! nobody from stopping its container.
//!
//! # Files
//! ```text
//! <run_dir>/oci/config.json   the bundle: what the engine wrote, in words that every runtime understands
//! <run_dir>/oci/state/        the runtime's --root
//! <run_dir>/oci/<call>.*      log, process document, process id, console socket of one call
//! ```
//! The root file system is mounted in a mount namespace of the shim's own, which the runtime is started in.
//!
//! # What a crash leaves
//! Nothing tells an init of a foreign runtime to die with its shim, so a [`guard`] does: a child that waits for the
//! shim's end and kills what is in the control group. The mount namespace ends with both; the files go with the run
//! directory.

mod bundle;
mod call;
mod guard;
mod joining;

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use oci_spec::runtime::{Process, Spec};
use wharf_linux::cgroup::Cgroup;
use wharf_linux::{hostfs, process, seqpacket};
use wharf_runtime::{Rootfs, Running, Stdio};
use wharf_shim::protocol::{ForeignRuntime, ShimConfig};

use crate::container::{null_stdio, resize};
use crate::exec::Wish;
use crate::failure::Failure;
use call::{Call, Errors};
use guard::Guard;
pub(crate) use joining::Joining;

/// How long a runtime may take to forget its container: nobody waits for it, and all else is removed in any case.
const DELETION: Duration = Duration::from_secs(10);
/// Longest path of a unix socket that every program can connect to.
const MAX_SOCKET: usize = 100;

/// One container's runtime.
#[derive(Debug)]
pub(crate) struct Foreign {
    runtime: ForeignRuntime,
    id: String,
    dir: PathBuf,
    /// `dir`, for socket paths that would be too long.
    opened: OwnedFd,
    cgroup: Cgroup,
    _guard: Guard,
}

/// A container whose init waits to be started. Dropped, nothing is left of it.
#[derive(Debug)]
pub(crate) struct Created {
    foreign: Rc<Foreign>,
    /// `None` once it is running, or gone.
    init: Option<Running>,
    console: Option<OwnedFd>,
    size: (u16, u16),
    /// Somebody else sees to its end.
    handed_over: bool,
}

/// Makes the container `spec` describes; `stderr` is the other end of its standard error, for what a runtime says there.
pub(crate) fn create(
    config: &ShimConfig,
    runtime: ForeignRuntime,
    spec: Spec,
    stdio: Stdio,
    stderr: Option<BorrowedFd<'_>>,
) -> Result<(Created, Rc<Foreign>), Failure> {
    process::become_subreaper().map_err(Failure::on("become a subreaper"))?;
    let cgroup = wharf_runtime::cgroup_of(&spec, &config.id)?;
    if let Some(root) = &config.rootfs {
        wharf_runtime::apart::mount_apart(Rootfs::Overlay {
            base: &root.base,
            lower: &root.lower,
            upper: &root.upper,
            work: &root.work,
            mountpoint: &root.mountpoint,
        })?;
    }
    let dir = config.run_dir.join("oci");
    hostfs::create_dir(&dir, 0o700).map_err(Failure::on("make the runtime's directory"))?;
    hostfs::create_dir(&dir.join("state"), 0o700).map_err(Failure::on("make the runtime's directory"))?;
    let spec = bundle::adapt(spec, config, &runtime)?;
    bundle::write(&dir.join("config.json"), &spec)?;
    let opened = hostfs::open_dir(&dir).map_err(Failure::on("open the runtime's directory"))?;
    let guard = Guard::new(&cgroup, &config.run_dir)?;
    let id = config.id.clone();
    let foreign = Rc::new(Foreign { runtime, id, dir, opened, cgroup, _guard: guard });
    let created = foreign.clone().create(stdio, stderr)?;
    Ok((created, foreign))
}

impl Foreign {
    fn patience(&self) -> Duration {
        Duration::from_millis(self.runtime.patience_ms)
    }

    fn create(self: Rc<Self>, stdio: Stdio, stderr: Option<BorrowedFd<'_>>) -> Result<Created, Failure> {
        // From here on a failure has something to undo.
        let mut created =
            Created { foreign: self.clone(), init: None, console: None, size: (0, 0), handed_over: false };
        let pid_file = self.dir.join("create.pid");
        let mut words: Vec<&OsStr> = vec!["--bundle".as_ref(), self.dir.as_os_str()];
        words.extend(["--pid-file".as_ref(), pid_file.as_os_str()]);
        let console = match &stdio {
            Stdio::Terminal { rows, cols } => {
                created.size = (*rows, *cols);
                Some(self.console("create")?)
            }
            Stdio::Fds(_) => None,
        };
        if let Some(console) = &console {
            words.extend(["--console-socket".as_ref(), console.path.as_os_str()]);
        }
        words.push(self.id.as_ref());
        let (streams, errors) = match (stdio, stderr) {
            (Stdio::Fds(streams), Some(stderr)) => (streams, Errors::Pipe(stderr)),
            (Stdio::Fds(streams), None) => (streams, Errors::Elsewhere),
            (Stdio::Terminal { .. }, _) => {
                let [stdin, stdout, _] = null_stdio()?;
                (self.with_errors("create", stdin, stdout)?, Errors::File)
            }
        };
        Call::begin(&self, "create", &words, "create", streams, self.patience())?.wait(errors)?;
        created.console = console.map(Console::take).transpose()?;
        created.init = Some(self.running(&pid_file)?);
        Ok(created)
    }

    /// The process whose number the runtime has written down. It is our child now, so the number stays its own.
    fn running(&self, pid_file: &Path) -> Result<Running, Failure> {
        let pid = joining::read_pid(pid_file)?;
        let pidfd = process::open(pid).map_err(Failure::on("open the container's first process"))?;
        Ok(Running { pid, pidfd, cgroup: self.cgroup.clone() })
    }

    /// Sends one more process on its way into the container.
    pub(crate) fn begin_exec(
        self: &Rc<Self>,
        number: u32,
        init: &Running,
        process: &Process,
        stdio: Stdio,
        wish: &Wish,
    ) -> Result<Joining, Failure> {
        let process = bundle::joining(process, init.pid, wish)?;
        Joining::begin(self, number, &process, stdio)
    }

    /// Has the runtime forget the container. What it does not do is done in other ways.
    pub(crate) fn delete(&self) {
        let words: [&OsStr; 2] = ["--force".as_ref(), self.id.as_ref()];
        let deleted = null_stdio()
            .and_then(|[stdin, stdout, _]| self.with_errors("delete", stdin, stdout))
            .and_then(|streams| {
                Call::begin(self, "delete", &words, "delete", streams, DELETION.min(self.patience()))
            })
            .and_then(|call| call.wait(Errors::File));
        if let Err(failure) = deleted {
            complain!("wharf-shim: {}", failure.message);
        }
        if let Err(error) = hostfs::remove_dir_all(&self.dir) {
            complain!("wharf-shim: {error}");
        }
    }

    /// Streams of a call, whose errors go to a file.
    fn with_errors(&self, name: &str, stdin: OwnedFd, stdout: OwnedFd) -> Result<[OwnedFd; 3], Failure> {
        let file = hostfs::append(&self.dir.join(format!("{name}.err")), 0o600);
        Ok([stdin, stdout, file.map_err(Failure::on("keep the runtime's errors"))?.into()])
    }

    fn console(&self, name: &str) -> Result<Console, Failure> {
        Console::listen(&self.dir, &self.opened, &format!("{name}.tty"))
    }
}

impl Created {
    pub(crate) fn init(&self) -> Option<&Running> {
        self.init.as_ref()
    }

    pub(crate) fn take_console(&mut self) -> Result<Option<OwnedFd>, Failure> {
        let console = self.console.take();
        if let (Some(console), (1.., 1..)) = (&console, self.size) {
            resize(console.as_fd(), self.size.0, self.size.1)?;
        }
        Ok(console)
    }

    /// Opens the gate.
    pub(crate) fn start(mut self) -> Result<Running, Failure> {
        let foreign = &self.foreign;
        let [stdin, stdout, _] = null_stdio()?;
        let streams = foreign.with_errors("start", stdin, stdout)?;
        let words: [&OsStr; 1] = [foreign.id.as_ref()];
        Call::begin(foreign, "start", &words, "start", streams, foreign.patience())?.wait(Errors::File)?;
        let init = self.init.take();
        let init = init.ok_or_else(|| Failure::not_running("the container has been started before"))?;
        self.handed_over = true;
        Ok(init)
    }
}

impl Drop for Created {
    fn drop(&mut self) {
        if self.handed_over {
            return;
        }
        let foreign = &self.foreign;
        // First of all: a runtime that hangs leaves processes that its own `delete` would wait for.
        let _none = foreign.cgroup.kill_all();
        foreign.delete();
        if let Some(init) = self.init.take() {
            // It is ours to reap, so it cannot have become another.
            let _gone = process::signal(init.pidfd.as_fd(), 9);
        }
        let _none = foreign.cgroup.kill_all();
        if let Err(error) = foreign.cgroup.delete() {
            complain!("wharf-shim: {error}");
        }
    }
}

/// A socket for the master of a terminal that a runtime makes.
#[derive(Debug)]
struct Console {
    listener: OwnedFd,
    path: PathBuf,
    file: PathBuf,
}

impl Console {
    fn listen(dir: &Path, opened: &OwnedFd, name: &str) -> Result<Self, Failure> {
        use std::os::fd::AsRawFd;
        use std::os::unix::net::UnixListener;
        let file = dir.join(name);
        let path = if file.as_os_str().len() <= MAX_SOCKET {
            file.clone()
        } else {
            PathBuf::from(format!("/proc/{}/fd/{}/{name}", std::process::id(), opened.as_raw_fd()))
        };
        let failed = Failure::on("listen for the terminal");
        let listener = UnixListener::bind(&path).map_err(&failed)?;
        listener.set_nonblocking(true).map_err(&failed)?;
        Ok(Self { listener: listener.into(), path, file })
    }

    /// The terminal, which has been sent: the runtime has ended.
    fn take(self) -> Result<OwnedFd, Failure> {
        let failed = Failure::on("take the terminal that the runtime has made");
        let (connection, _) = seqpacket::accept(self.listener.as_fd()).map_err(&failed)?;
        // The text that comes along is the terminal's name.
        match seqpacket::recv(connection.as_fd(), &mut Vec::new(), 4096).map_err(&failed)? {
            seqpacket::Received::Packet(fds) if !fds.is_empty() => {
                fds.into_iter().next().ok_or_else(|| Failure::invalid("the runtime has sent no terminal"))
            }
            _ => Err(Failure::invalid("the runtime has sent no terminal")),
        }
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let _gone = hostfs::remove_file(&self.file);
    }
}
