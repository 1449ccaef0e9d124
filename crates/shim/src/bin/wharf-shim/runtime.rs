//! The two sorts of runtimes, where it matters which one it is: a container on its way to its start, a process on its way
//! into a container.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Instant;

use wharf_linux::cgroup::Cgroup;
use wharf_runtime::{ExecChild, Running};

use crate::failure::Failure;
use crate::foreign;

/// A container whose init exists and has not run the command. Dropped, nothing is left of it.
#[derive(Debug)]
pub(crate) enum Starting {
    BuiltIn(wharf_runtime::Starting),
    Foreign(foreign::Created),
}

impl Starting {
    /// The init: its process id, its pidfd, its control group.
    pub(crate) fn init(&self) -> Result<(i32, BorrowedFd<'_>, &Cgroup), Failure> {
        match self {
            Self::BuiltIn(starting) => Ok((starting.pid(), starting.pidfd(), starting.cgroup())),
            Self::Foreign(created) => {
                use std::os::fd::AsFd;
                let init = created.init();
                let init = init.ok_or_else(|| Failure::not_running("the container is not running"))?;
                Ok((init.pid, init.pidfd.as_fd(), &init.cgroup))
            }
        }
    }

    /// Waits until it is prepared; gives the master of its terminal, the first time.
    pub(crate) fn get_ready(&mut self) -> Result<Option<OwnedFd>, Failure> {
        match self {
            Self::BuiltIn(starting) => {
                starting.wait_ready()?;
                Ok(starting.take_console())
            }
            Self::Foreign(created) => created.take_console(),
        }
    }

    /// Opens the gate.
    pub(crate) fn start(self) -> Result<Running, Failure> {
        match self {
            Self::BuiltIn(starting) => Ok(starting.start()?),
            Self::Foreign(created) => created.start(),
        }
    }
}

/// A process on its way into the container. Dropped, it is given up.
#[derive(Debug)]
pub(crate) enum Joining {
    BuiltIn(wharf_runtime::Joining),
    Foreign(foreign::Joining),
}

impl Joining {
    /// Readable when there is news.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::BuiltIn(joining) => joining.as_fd(),
            Self::Foreign(joining) => joining.as_fd(),
        }
    }

    /// When to look for news in any case.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match self {
            Self::BuiltIn(_) => None,
            Self::Foreign(joining) => Some(joining.deadline()),
        }
    }

    /// Takes one piece of news; the outcome, once there is one. Not to be called again after that.
    pub(crate) fn step(&mut self) -> Option<Result<ExecChild, Failure>> {
        match self {
            Self::BuiltIn(joining) => joining.step().map(|outcome| outcome.map_err(Failure::from)),
            Self::Foreign(joining) => joining.step(),
        }
    }
}
