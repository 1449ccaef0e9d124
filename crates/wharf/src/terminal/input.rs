//! Standard input for the event loop, without a thread and without changing the file's flags.
//!
//! Other processes may share the open file, so it must not become non-blocking. Instead a read happens only right after
//! `poll` said that there is something to read. Files that cannot be waited for (regular ones) never block for long.

use std::io::{self, Stdin};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::io::{Interest, unix::AsyncFd};

/// Standard input.
pub(crate) struct Input {
    /// `None` for a file that is always ready.
    ready: Option<AsyncFd<Stdin>>,
}

impl Input {
    /// Prepares to read.
    #[expect(
        deprecated,
        reason = "its successor is unsafe, for the sake of types whose descriptor may change"
    )]
    pub(crate) fn open() -> io::Result<Self> {
        match AsyncFd::with_interest(io::stdin(), Interest::READABLE) {
            Ok(fd) => Ok(Self { ready: Some(fd) }),
            // epoll's answer for a regular file or /dev/null.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(Self { ready: None }),
            Err(error) => Err(error),
        }
    }

    /// Reads what is there, waiting for it if need be; zero at the end.
    pub(crate) async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(fd) = &self.ready {
                let mut guard = fd.readable().await?;
                let mut polled = [PollFd::new(fd.get_ref(), PollFlags::IN)];
                if poll(&mut polled, Some(&Timespec::default()))? == 0 {
                    guard.clear_ready();
                    continue;
                }
            }
            match read_unbuffered(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // A terminal that hung up reads as an error; it is the end of input all the same.
                Err(error) if error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => {
                    return Ok(0);
                }
                result => return result,
            }
        }
    }
}

fn read_unbuffered(buffer: &mut [u8]) -> io::Result<usize> {
    Ok(rustix::io::read(io::stdin(), buffer)?)
}
