//! The minimal init of `--init`: runs the command as its child, forwards signals to it, reaps every orphan, and ends
//! as the command ends.
//!
//! It stays the runtime's own program, cut down: it has the container's identity, capabilities and filter, holds no
//! descriptor but the standard streams and the command's pidfd, and cannot be read by others.

use std::os::fd::{AsFd, AsRawFd};
use wharf_linux::process::{self, Child, Ended};

/// Puts the command in a process group of its own, in the foreground if there is a terminal: what is typed there goes
/// to the command alone and not to us as well. Runs in the command's process.
pub(crate) fn separate() {
    let _ = rustix::process::setpgid(None, None);
    if rustix::termios::isatty(rustix::stdio::stdin()) {
        let _ = rustix::termios::tcsetpgrp(rustix::stdio::stdin(), rustix::process::getpid());
    }
}

/// Serves until the command has ended; gives our own exit status.
pub(crate) fn run(command: &Child) -> i32 {
    let _ = process::set_command_line("init");
    let keep = command.pidfd.as_raw_fd() as u32;
    let _ = process::close_all_except(3, &[keep]);
    loop {
        match process::next_signal() {
            Ok(process::SIGCHLD) => {
                if let Some(status) = reap(command.pid) {
                    return status;
                }
            }
            // A command that is gone is noticed by the next SIGCHLD.
            Ok(signal) => drop(process::signal(command.pidfd.as_fd(), signal)),
            Err(_) => {}
        }
    }
}

/// Reaps all that have ended; the command's exit status if it is among them.
fn reap(command: i32) -> Option<i32> {
    let mut status = None;
    while let Ok(Some((pid, ended))) = process::reap_any() {
        if pid == command {
            status = Some(match ended {
                Ended::Exited(code) => code,
                Ended::Signaled(signal) => 128 + signal,
            });
        }
    }
    status
}
