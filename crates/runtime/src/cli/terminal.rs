//! The program's own terminal and streams, and following a container until it ends.

use super::Failure;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize};
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;
use wharf_linux::process::{self, Ended};
use wharf_runtime::spec::Process;

/// Copies of our three streams, for the container.
pub(super) fn own_streams() -> Result<[OwnedFd; 3], Failure> {
    let copy = |fd: BorrowedFd<'_>| {
        rustix::io::fcntl_dupfd_cloexec(fd, 3).map_err(|e| format!("duplicate a stream: {e}"))
    };
    Ok([copy(rustix::stdio::stdin())?, copy(rustix::stdio::stdout())?, copy(rustix::stdio::stderr())?])
}

/// Our terminal's size, or none.
pub(super) fn size() -> (u16, u16) {
    tcgetwinsize(rustix::stdio::stdin()).map_or((0, 0), |size| (size.ws_row, size.ws_col))
}

/// The size a process asks for its terminal, or our own terminal's.
pub(super) fn wanted_size(process: &Process) -> (u16, u16) {
    process.console_size().map_or_else(size, |size| (size.height() as u16, size.width() as u16))
}

/// Hands a terminal's master side to the engine that listens on a socket.
pub(super) fn send_console(socket: &Path, console: &OwnedFd) -> Result<(), Failure> {
    let failed =
        |e: &dyn std::fmt::Display| Failure::from(format!("console socket {}: {e}", socket.display()));
    let stream = UnixStream::connect(socket).map_err(|e| failed(&e))?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors = [console.as_fd()];
    ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
    // The message is the terminal's name; it must not be empty for the descriptor to go along.
    sendmsg(&stream, &[IoSlice::new(b"/dev/ptmx")], &mut ancillary, SendFlags::NOSIGNAL)
        .map_err(|e| failed(&e))?;
    Ok(())
}

/// Waits until a process that need not be our child has ended; whether it has.
pub(super) fn wait_ended(pidfd: &OwnedFd, limit: Duration) -> Result<bool, Failure> {
    let timeout = Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: limit.subsec_nanos().into() };
    loop {
        match poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&timeout)) {
            Err(Errno::INTR) => {}
            Err(error) => return Err(format!("wait for a process: {error}").into()),
            Ok(count) => return Ok(count > 0),
        }
    }
}

/// Forwards signals, and what is typed and printed if there is a terminal, until the process has ended; its status.
pub(super) fn follow(pidfd: &OwnedFd, console: Option<OwnedFd>) -> Result<i32, Failure> {
    let Some(console) = console else { return follow_signals(pidfd) };
    let raw = RawMode::enter();
    let console = std::sync::Arc::new(console);
    let target = pidfd.try_clone().map_err(|e| format!("duplicate a pidfd: {e}"))?;
    let terminal = std::sync::Arc::clone(&console);
    // Ends with the program.
    std::thread::spawn(move || forward_signals(&target, &terminal));
    copy_streams(&console, pidfd)?;
    let status = process::wait(pidfd.as_fd()).map_err(|e| format!("wait for the container: {e}"))?;
    drop(raw);
    Ok(code(status))
}

fn code(ended: Ended) -> i32 {
    match ended {
        Ended::Exited(code) => code,
        Ended::Signaled(signal) => 128 + signal,
    }
}

fn follow_signals(pidfd: &OwnedFd) -> Result<i32, Failure> {
    loop {
        if let Some(ended) =
            process::try_wait(pidfd.as_fd()).map_err(|e| format!("wait for the container: {e}"))?
        {
            return Ok(code(ended));
        }
        match process::next_signal().map_err(|e| format!("wait for a signal: {e}"))? {
            process::SIGCHLD => {}
            // A container that is just ending takes no more signals.
            signal => drop(process::signal(pidfd.as_fd(), signal)),
        }
    }
}

fn forward_signals(pidfd: &OwnedFd, console: &OwnedFd) {
    loop {
        match process::next_signal() {
            Ok(libc::SIGWINCH) => {
                if let Ok(size) = tcgetwinsize(rustix::stdio::stdin()) {
                    let _ = tcsetwinsize(console, size);
                }
            }
            Ok(libc::SIGCHLD) | Err(_) => {}
            Ok(signal) => drop(process::signal(pidfd.as_fd(), signal)),
        }
    }
}

/// Copies between our streams and the terminal until its last user is gone, or the process is and nothing is left.
fn copy_streams(console: &OwnedFd, pidfd: &OwnedFd) -> Result<(), Failure> {
    let (input, output) = (rustix::stdio::stdin(), rustix::stdio::stdout());
    let mut reading = true;
    let mut buffer = vec![0; 32 << 10];
    loop {
        let mut fds = vec![PollFd::new(console, PollFlags::IN), PollFd::new(pidfd, PollFlags::IN)];
        if reading {
            fds.push(PollFd::new(&input, PollFlags::IN));
        }
        match poll(&mut fds, None) {
            Err(Errno::INTR) => continue,
            Err(error) => return Err(format!("wait for the terminal: {error}").into()),
            Ok(_) => {}
        }
        let ready = |index: usize| fds.get(index).is_some_and(|fd| !fd.revents().is_empty());
        let (from_console, ended, from_input) = (ready(0), ready(1), ready(2));
        if from_console {
            match rustix::io::read(console, &mut buffer) {
                Ok(0) | Err(Errno::IO) => return Ok(()), // every slave is closed
                Ok(length) => write_all(output, &buffer[..length])?,
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(error) => return Err(format!("read the terminal: {error}").into()),
            }
        } else if ended {
            return Ok(());
        }
        if from_input {
            match rustix::io::read(input, &mut buffer) {
                Ok(0) => {
                    // What a terminal sends at its end.
                    write_all(console.as_fd(), &[4])?;
                    reading = false;
                }
                Ok(length) => write_all(console.as_fd(), &buffer[..length])?,
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(_) => reading = false,
            }
        }
    }
}

fn write_all(fd: BorrowedFd<'_>, mut bytes: &[u8]) -> Result<(), Failure> {
    while !bytes.is_empty() {
        match rustix::io::write(fd, bytes) {
            Ok(length) => bytes = &bytes[length..],
            Err(Errno::INTR) => {}
            Err(error) => return Err(format!("copy terminal data: {error}").into()),
        }
    }
    Ok(())
}

/// Our terminal in raw mode for as long as this lives.
struct RawMode(Option<Termios>);

impl RawMode {
    fn enter() -> Self {
        let Ok(before) = tcgetattr(rustix::stdio::stdin()) else { return Self(None) };
        let mut raw = before.clone();
        raw.make_raw();
        let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &raw);
        Self(Some(before))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, before);
        }
    }
}
