//! The OCI runtime, as a library and as the wharf-runtime command.
//!
//! `create` clones the container's init, which prepares everything inside its own namespaces and waits at a gate;
//! `Starting::start` opens the gate. `exec` runs one more process in a running container. Both are synchronous and
//! need a single-threaded caller, because the child goes on running this program's code after `clone3`.

pub mod apart;
mod capabilities;
mod channel;
mod command;
mod create;
mod devices;
mod error;
mod exec;
pub mod hooks;
mod init;
mod mounts;
mod procfs;
mod program;
mod reaper;
mod resources;
mod root;
mod rootfs;
mod seccomp;
mod stage;
mod user;

pub use create::{cgroup_of, check_id};
pub use error::{Error, Result};
pub use exec::Joining;
pub use oci_spec::runtime as spec;
pub use resources::limits;

use channel::Channel;
use init::Gate;
use oci_spec::runtime::{Process, Spec};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;
use wharf_linux::cgroup::Cgroup;
use wharf_linux::process::Child;

/// Where the container's root file system comes from.
#[derive(Debug, Clone, Copy)]
pub enum Rootfs<'a> {
    /// `root.path` of the spec is a directory that is ready.
    Bundle,
    /// An overlay that the init mounts inside its own mount namespace.
    Overlay {
        /// Directory the names are relative to.
        base: &'a Path,
        /// Read-only layers, topmost first.
        lower: &'a [String],
        /// Writable layer.
        upper: &'a str,
        /// Overlay's work directory.
        work: &'a str,
        /// Directory to mount on; empty and outside `base`'s layers.
        mountpoint: &'a Path,
    },
}

/// What the process's standard streams are.
#[derive(Debug)]
pub enum Stdio {
    /// stdin, stdout, stderr.
    Fds([OwnedFd; 3]),
    /// A pseudo terminal of the container's own devpts.
    Terminal {
        /// Height.
        rows: u16,
        /// Width.
        cols: u16,
    },
}

/// Which system call filter the process gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seccomp {
    /// `linux.seccomp` of the spec; none if it has none.
    FromSpec,
    /// The built-in equal of Docker's default profile.
    DockerDefault,
}

/// Everything `create` needs.
#[derive(Debug)]
pub struct CreateRequest<'a> {
    /// The container's id.
    pub id: &'a str,
    /// The directory relative paths of the spec are relative to.
    pub bundle: &'a Path,
    /// The OCI configuration.
    pub spec: &'a Spec,
    /// The root file system.
    pub rootfs: Rootfs<'a>,
    /// The standard streams.
    pub stdio: Stdio,
    /// The system call filter.
    pub seccomp: Seccomp,
    /// Docker's `user[:group]`, resolved in the container; overrides `process.user`.
    pub user: Option<&'a str>,
    /// Additional groups, by name or number.
    pub groups: &'a [String],
    /// Make a missing working directory.
    pub create_cwd: bool,
    /// Set `HOME` from the container's passwd file if the environment lacks it.
    pub default_home: bool,
    /// Run the command under a minimal init.
    pub init: bool,
    /// Have the kernel kill the init when the caller's process dies.
    pub die_with_caller: bool,
    /// How many descriptors from 3 on the command inherits.
    pub preserve_fds: u32,
}

/// Clones the container's init and returns while it prepares itself. All namespaces and the control group exist.
pub fn create(request: CreateRequest<'_>) -> Result<Starting> {
    create::create(request, Gate::Parent)
}

/// Like [`create`], for a caller that does not stay: the gate is a byte in `fifo`, which is open for reading and
/// writing. The caller waits until it is ready and then [detaches](Starting::detach).
pub fn create_detached(request: CreateRequest<'_>, fifo: OwnedFd) -> Result<Starting> {
    create::create(request, Gate::Fifo(fifo))
}

/// A container whose init exists and has not run the command. Dropping it kills the init and removes the cgroup.
#[derive(Debug)]
pub struct Starting {
    child: Child,
    cgroup: Cgroup,
    channel: Channel,
    console: Option<OwnedFd>,
    ready: bool,
    started: bool,
    reaped: bool,
}

impl Starting {
    /// The init's process id.
    pub fn pid(&self) -> i32 {
        self.child.pid
    }

    /// The init's pidfd.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.child.pidfd.as_fd()
    }

    /// The container's control group.
    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// Makes waiting for the init fail when it makes no progress for so long: a mount may hang, and a process that
    /// shares its pid namespace may stop it.
    pub fn limit_patience(&self, patience: Duration) -> Result<()> {
        self.channel.limit_patience(patience)
    }

    /// Waits until the init has reached its gate.
    pub fn wait_ready(&mut self) -> Result<()> {
        self.await_ready()
    }

    /// The terminal's master side, once ready.
    pub fn take_console(&mut self) -> Option<OwnedFd> {
        self.console.take()
    }

    /// Opens the gate and returns when the command runs.
    pub fn start(self) -> Result<Running> {
        self.open_gate()
    }

    /// Leaves the init waiting at its FIFO.
    pub fn detach(self) -> Result<Running> {
        self.into_running()
    }
}

/// A container whose command runs.
#[derive(Debug)]
pub struct Running {
    /// The init's process id.
    pub pid: i32,
    /// The init's pidfd.
    pub pidfd: OwnedFd,
    /// The container's control group.
    pub cgroup: Cgroup,
}

/// Everything `exec` needs.
#[derive(Debug)]
pub struct ExecRequest<'a> {
    /// Process whose namespaces and cgroup are joined.
    pub init_pid: i32,
    /// Its pidfd.
    pub init_pidfd: BorrowedFd<'a>,
    /// The container's configuration.
    pub spec: &'a Spec,
    /// The process to run.
    pub process: &'a Process,
    /// The standard streams.
    pub stdio: Stdio,
    /// The system call filter.
    pub seccomp: Seccomp,
    /// Docker's `user[:group]`, resolved in the container; overrides `process.user`.
    pub user: Option<&'a str>,
    /// Additional groups, by name or number.
    pub groups: &'a [String],
    /// Set `HOME` from the container's passwd file if the environment lacks it.
    pub default_home: bool,
    /// How many descriptors from 3 on the command inherits.
    pub preserve_fds: u32,
}

/// A process that runs in a container, a child of the caller.
#[derive(Debug)]
pub struct ExecChild {
    /// Its process id.
    pub pid: i32,
    /// Its pidfd.
    pub pidfd: OwnedFd,
    /// The terminal's master side, if it has one.
    pub console: Option<OwnedFd>,
}

/// Runs a process in a running container and returns when `execve` succeeded or failed.
pub fn exec(request: ExecRequest<'_>) -> Result<ExecChild> {
    exec::begin(request)?.finish()
}

/// Like [`exec`], but returns while the process is on its way.
pub fn begin_exec(request: ExecRequest<'_>) -> Result<Joining> {
    exec::begin(request)
}

/// Removes a container's control group.
pub fn delete_cgroup(cgroup: &Cgroup) -> Result<()> {
    Ok(cgroup.delete()?)
}
