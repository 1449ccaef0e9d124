//! Shims that this engine started, as child processes to be reaped.
//!
//! Not `tokio::process`: asking std for a pidfd makes it fork, and a fork of the engine copies page tables for longer
//! than all the rest of a start takes. This way it is `posix_spawn`, and the pidfd is opened afterwards: safe, since
//! the child stays a zombie until it is waited for here.

use std::os::fd::OwnedFd;
use std::process::{Child, Command};

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::readiness::watch;
use crate::{Error, Result};

/// A shim to be reaped.
pub(crate) struct ShimProcess {
    child: Child,
    ended: AsyncFd<OwnedFd>,
}

/// Starts a shim; blocks until the program is in place.
pub(crate) fn spawn(mut command: Command) -> Result<Child> {
    command.spawn().map_err(|error| Error::System(format!("cannot start wharf-shim: {error}")))
}

impl ShimProcess {
    /// Watches a child. Must be called inside the async runtime.
    pub(crate) fn watch(child: Child) -> Result<Self> {
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| Error::System("a child without a process id".into()))?;
        let pidfd = pidfd_open(pid, PidfdFlags::NONBLOCK).map_err(std::io::Error::from)?;
        Ok(Self { child, ended: watch(pidfd, Interest::READABLE)? })
    }

    /// Waits for its end and reaps it.
    pub(crate) async fn wait(&mut self) {
        // A pidfd is readable once the process is a zombie.
        let _readable = self.ended.readable().await;
        // The code says nothing that the exit record does not say better.
        let _code = self.child.wait();
    }

    /// Ends it by force.
    pub(crate) fn kill(&mut self) {
        let _gone_already = self.child.kill();
    }
}
