//! A connection to a socket in the container's file system, made by a process of its own.
//!
//! A path of a container may lead through a file system that never answers, and who waits for that cannot even be
//! killed. So the shim does not wait: a child looks, and leaves its finding in a pipe. One that does not come back is killed and
//! left alone, and no other is sent as long as it is there. It holds nothing of the shim's: no port, no output.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, connect};
use rustix::pipe::{PipeFlags, pipe_with};
use wharf_linux::confined::Root;
use wharf_linux::hostfs;
use wharf_linux::process::{self, Birth, Child};

use super::dial::{Verdict, refusal, socket};
use crate::container;
use crate::failure::Failure;
use crate::poller::{Interest, Poller, Token};

const SIGKILL: i32 = 9;
/// Bytes of a finding; more than a path has.
const MOST: usize = 8192;

/// A child that looks.
#[derive(Debug)]
pub(crate) struct Look {
    child: Child,
    finding: OwnedFd,
}

impl Look {
    /// Sends it on its way; its end is announced as [`Token::Probe`].
    pub(crate) fn begin(poller: &Poller, pid: i32, path: &Path) -> Result<Self, Failure> {
        let (finding, write) = pipe_with(PipeFlags::CLOEXEC).map_err(Failure::on("make a pipe"))?;
        container::unblock(&finding)?;
        let child = process::spawn(Birth::default(), || {
            let kept = write.as_raw_fd().unsigned_abs();
            if process::close_all_except(0, &[kept]).is_err() {
                return 1;
            }
            let (code, text) = match beneath(pid, path) {
                Ok(()) => (0, format!("connected to {}", path.display())),
                Err(reason) => (1, reason),
            };
            let told = rustix::io::write(&write, format!("{code} {text}").as_bytes());
            i32::from(told.is_err())
        });
        let child = child.map_err(Failure::on("start a process for the health check"))?;
        let look = Self { child, finding };
        match poller.add(&look.child.pidfd, Token::Probe, Interest::Read) {
            Ok(()) => Ok(look),
            Err(failure) => {
                let _gone = look.leave(poller);
                Err(failure)
            }
        }
    }

    /// What it has found; `None` as long as it is on its way.
    pub(crate) fn step(&mut self) -> Option<Verdict> {
        if !self.is_gone() {
            return None;
        }
        let mut bytes = [0; MOST];
        let count = rustix::io::read(&self.finding, &mut bytes).unwrap_or(0);
        let text = String::from_utf8_lossy(&bytes[..count]).into_owned();
        let told = text.split_once(' ').and_then(|(code, text)| Some((code.parse().ok()?, text.to_owned())));
        Some(told.unwrap_or_else(|| (-1, "the health check ended without a word".to_owned())))
    }

    /// Whether it has ended; then it is reaped.
    pub(crate) fn is_gone(&self) -> bool {
        // Errors: somebody else has reaped it.
        !matches!(process::try_wait(self.child.pidfd.as_fd()), Ok(None))
    }

    /// Has it end, without waiting for that; itself, if it is not gone yet.
    pub(crate) fn leave(self, poller: &Poller) -> Option<Self> {
        poller.remove(&self.child.pidfd);
        let _ended_already = process::signal(self.child.pidfd.as_fd(), SIGKILL);
        (!self.is_gone()).then_some(self)
    }
}

/// Connects to a socket in the container's file system, of whatever type it is.
fn beneath(pid: i32, path: &Path) -> Result<(), String> {
    let shown = path.display();
    let root = Root::open(Path::new(&format!("/proc/{pid}/root/."))).map_err(|error| error.to_string())?;
    let reason = |error: hostfs::Error| format!("cannot connect to {shown}: {}", plain(&error));
    let handle = root.open_at(path, OFlags::PATH, Mode::empty()).map_err(reason)?;
    let stat = rustix::fs::fstat(&handle).map_err(|error| refusal(&shown.to_string(), error))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Socket {
        return Err(format!("cannot connect to {shown}: not a socket"));
    }
    // Pinned: the link leads to the inode just looked at, whatever the path is by now.
    let address = SocketAddrUnix::new(format!("/proc/self/fd/{}", handle.as_fd().as_raw_fd()))
        .map_err(|error| refusal(&shown.to_string(), error))?;
    let mut result = Err(Errno::PROTOTYPE);
    for kind in [SocketType::STREAM, SocketType::SEQPACKET, SocketType::DGRAM] {
        if result == Err(Errno::PROTOTYPE) {
            result = socket(AddressFamily::UNIX, kind).and_then(|socket| connect(&socket, &address));
        }
    }
    result.map_err(|error| match error {
        Errno::AGAIN => format!("cannot connect to {shown}: its queue is full"),
        error => refusal(&shown.to_string(), error),
    })
}

fn plain(error: &hostfs::Error) -> String {
    if error.is_not_found() { "no such file or directory".to_owned() } else { error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_of_every_type_are_found_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let look = |path: &Path| beneath(i32::try_from(std::process::id()).unwrap(), path);
        let _stream = std::os::unix::net::UnixListener::bind(path("stream")).unwrap();
        let _datagram = std::os::unix::net::UnixDatagram::bind(path("datagram")).unwrap();
        for name in ["stream", "datagram"] {
            assert_eq!(look(&path(name)), Ok(()));
        }
        drop(std::os::unix::net::UnixListener::bind(path("closed")).unwrap());
        hostfs::write(&path("file"), b"").unwrap();
        for (name, reason) in [
            ("closed", "connection refused"),
            ("file", "not a socket"),
            ("missing", "no such file or directory"),
        ] {
            let shown = path(name);
            assert_eq!(look(&shown), Err(format!("cannot connect to {}: {reason}", shown.display())));
        }
    }
}
