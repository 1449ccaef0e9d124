//! The other end of [`Action::Notify`](super::Action::Notify): system calls that wait for an answer from outside.
//!
//! Whoever holds the listener decides about each call: it goes on, or it fails and is not done. A caller that is killed
//! while it waits is gone; its answer then gives `ENOENT`. When the listener is closed, waiting and later calls fail with
//! `ENOSYS`.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use crate::namespace::check;

/// `SECCOMP_IOCTL_NOTIF_RECV` and `SECCOMP_IOCTL_NOTIF_SEND`: `_IOWR('!', 0, …)` and `_IOWR('!', 1, …)`.
const RECEIVE: libc::c_ulong = 0xc050_2100;
const SEND: libc::c_ulong = 0xc018_2101;

/// A call that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// What the answer refers to.
    id: u64,
    /// The calling thread, as this process sees it.
    pub thread: u32,
    /// Its number.
    pub number: i64,
    /// Its arguments.
    pub arguments: [u64; 6],
}

/// The listener that [`load`](super::load) gives.
#[derive(Debug)]
pub struct Listener(OwnedFd);

impl From<OwnedFd> for Listener {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl Listener {
    /// The next call; `None` when no process with the filter is left.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn receive(&self) -> io::Result<Option<Call>> {
        loop {
            if !self.wait()? {
                return Ok(None);
            }
            // SAFETY: zero is a valid value of every field, and what the kernel demands.
            let mut notice: libc::seccomp_notif = unsafe { std::mem::zeroed() };
            // SAFETY: the kernel writes one structure of this size, which outlives the call.
            let result = unsafe { libc::ioctl(self.0.as_raw_fd(), RECEIVE as _, &raw mut notice) };
            match check(result.into()) {
                Ok(_) => {
                    return Ok(Some(Call {
                        id: notice.id,
                        thread: notice.pid,
                        number: notice.data.nr.into(),
                        arguments: notice.data.args,
                    }));
                }
                // The caller died in between, or a signal came.
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINTR)) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits for a call; false when none will come.
    fn wait(&self) -> io::Result<bool> {
        use rustix::event::{PollFd, PollFlags, poll};
        let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
        loop {
            match poll(&mut fds, None) {
                Ok(_) => return Ok(!fds[0].revents().contains(PollFlags::HUP)),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Lets a call go on as if nobody had looked.
    ///
    /// # Errors
    /// `ENOENT` when its caller is gone.
    pub fn proceed(&self, call: &Call) -> io::Result<()> {
        self.answer(call, 0, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32)
    }

    /// Makes a call fail with an error number; it is not done.
    ///
    /// # Errors
    /// `ENOENT` when its caller is gone.
    pub fn refuse(&self, call: &Call, errno: i32) -> io::Result<()> {
        self.answer(call, -errno, 0)
    }

    fn answer(&self, call: &Call, error: i32, flags: u32) -> io::Result<()> {
        let mut answer = libc::seccomp_notif_resp { id: call.id, val: 0, error, flags };
        // SAFETY: the kernel reads one structure of this size, which outlives the call.
        let result = unsafe { libc::ioctl(self.0.as_raw_fd(), SEND as _, &raw mut answer) };
        check(result.into()).map(drop)
    }
}
