//! Learns that the kernel killed a process of the container for want of memory while the container lives on.
//!
//! Off the start path: the watch is set up a moment after the program began, and what happened before is found by the
//! counter. On cgroup v1 the kernel gives notice before it has chosen and killed, so the counter is looked at a few
//! times after each notice; nothing is looked at without one.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use wharf_linux::cgroup::Cgroup;

use crate::poller::{Interest, Poller, Token};

/// Between two looks at the counter after a notice.
const AGAIN: Duration = Duration::from_millis(10);
/// How often the counter is looked at after a notice.
const LOOKS: u32 = 20;

#[derive(Default)]
pub(crate) struct OomWatch {
    notice: Option<OwnedFd>,
    /// When to look, and how often still.
    due: Option<(Instant, u32)>,
    set_up: bool,
    /// What the counter said last.
    kills: u64,
}

impl OomWatch {
    /// The program began; the watch is set up `later`.
    pub(crate) fn begin(&mut self, later: Duration) {
        self.due = Some((Instant::now() + later, 1));
    }

    /// The kernel gave notice.
    pub(crate) fn wake(&mut self) {
        self.due = Some((Instant::now(), LOOKS));
    }

    /// The container has ended; who reads its last record reads the counter there.
    pub(crate) fn end(&mut self, poller: &Poller) {
        self.due = None;
        if let Some(notice) = self.notice.take() {
            poller.remove(&notice);
        }
    }

    /// Until the next look.
    pub(crate) fn timeout(&self) -> Option<Duration> {
        self.due.map(|(at, _)| at.saturating_duration_since(Instant::now()))
    }

    /// Looks if it is time to; the counter, if it has grown.
    pub(crate) fn look(&mut self, poller: &Poller, cgroup: &Cgroup) -> Option<u64> {
        let (at, looks) = self.due?;
        if Instant::now() < at {
            return None;
        }
        if !self.set_up {
            self.set_up = true;
            // Without a memory controller, or where the kernel refuses, the end still tells.
            self.notice = cgroup.oom_notice().ok().flatten();
            if let Some(notice) = &self.notice
                && let Err(failure) = poller.add(notice, Token::OutOfMemory, Interest::NewsEdge)
            {
                complain!("wharf-shim: {}", failure.message);
            }
        }
        self.due = (looks > 1).then(|| (Instant::now() + AGAIN, looks - 1));
        let kills = cgroup.oom_kills().unwrap_or(0);
        if kills <= self.kills {
            return None;
        }
        self.kills = kills;
        self.due = None;
        Some(kills)
    }
}
