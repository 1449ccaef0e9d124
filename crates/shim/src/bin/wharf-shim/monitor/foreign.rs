//! What a container of a foreign runtime needs in addition: its orphans are the shim's children, and have to be reaped.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use wharf_linux::process;

use super::Monitor;
use crate::failure::Failure;
use crate::poller::{Interest, Poller, Token};

/// Orphans reaped before anything else is looked at.
const BURST: usize = 64;

/// Has the poller tell of children that have ended.
pub(super) fn watch_children(poller: &Poller) -> Result<OwnedFd, Failure> {
    let children = process::child_news().map_err(Failure::on("watch for ended children"))?;
    poller.add(&children, Token::Children, Interest::Read)?;
    Ok(children)
}

impl Monitor {
    /// A child has ended: which one is found out by looking.
    pub(super) fn hear_of_children(&mut self) {
        if let Some(children) = &self.children {
            let _news = rustix::io::read(children, &mut [0_u8; 128]);
        }
    }

    /// How long until a process that is on its way into the container has taken too long.
    pub(super) fn until_joined(&self) -> Option<Duration> {
        Some(self.execs.due()?.0.saturating_duration_since(Instant::now()))
    }

    /// Gives up runtimes that take too long, and reaps what nobody waits for.
    pub(super) fn look_after_children(&mut self) {
        if self.foreign.is_none() {
            return;
        }
        while let Some((_, number)) = self.execs.due().filter(|(due, _)| *due <= Instant::now()) {
            self.exec_moved(number);
        }
        // A process whose runtime has not ended yet may have ended before it is known.
        if self.execs.is_joining() {
            return;
        }
        for _ in 0..BURST {
            match process::ended_child() {
                // Somebody waits for this one, and comes by here when it is reaped.
                Ok(Some(pid)) if pid == self.pid || self.execs.owns(pid) => return,
                Ok(Some(pid)) => {
                    let _reaped = process::reap(pid);
                }
                Ok(None) | Err(_) => return,
            }
        }
    }
}
