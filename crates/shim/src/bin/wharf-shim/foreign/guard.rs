//! Ends a container whose shim was killed: a child of the shim that waits for the end of a pipe.
//!
//! It is a copy of the shim that shares its memory, holds nothing but the pipe and a lock ([`GUARD_FILE`]), and listens to
//! no signal. The kernel does the same for the inits of the built-in runtime, which ask for it themselves.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::fs::FlockOperation;
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use wharf_linux::cgroup::Cgroup;
use wharf_linux::hostfs;
use wharf_linux::process::{self, Birth, Child};

use wharf_shim::protocol::GUARD_FILE;

use crate::failure::Failure;

/// A runtime that was just at work dies with the shim, but what it began may appear a moment later: so often the group
/// has to be seen empty.
const EMPTY: u32 = 5;
/// What cannot be killed is left to the engine.
const LOOKS: u32 = 200;
const PAUSE: Duration = Duration::from_millis(20);

/// See the module. Dropped, it is called off.
#[derive(Debug)]
pub(super) struct Guard {
    child: Child,
    _pipe: OwnedFd,
}

impl Guard {
    pub(super) fn new(cgroup: &Cgroup, run_dir: &Path) -> Result<Self, Failure> {
        let lock = hostfs::create_new(&run_dir.join(GUARD_FILE), 0o600)
            .map_err(Failure::on("make the guard's lock"))?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(Failure::on("take the guard's lock"))?;
        let (end, pipe) = pipe_with(PipeFlags::CLOEXEC).map_err(Failure::on("make a pipe"))?;
        let mut held = Some(pipe);
        let child = process::spawn(Birth::default(), || {
            drop(held.take());
            watch(&end, &lock, cgroup)
        })
        .map_err(Failure::on("clone the container's guard"))?;
        let pipe = held.ok_or_else(|| Failure::invalid("a pipe is missing"))?;
        Ok(Self { child, _pipe: pipe })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // Ours to reap, unless that has been done because somebody had killed it.
        let _gone = process::signal(self.child.pidfd.as_fd(), 9);
        let _reaped = process::wait(self.child.pidfd.as_fd());
    }
}

fn watch(end: &OwnedFd, lock: &File, cgroup: &Cgroup) -> i32 {
    let _ignored = process::block_signals();
    let mut kept = [end.as_raw_fd(), lock.as_raw_fd()].map(|fd| u32::try_from(fd).unwrap_or(0));
    kept.sort_unstable();
    // Nothing of the shim's may look alive because of us.
    if process::close_all_except(0, &kept).is_err() {
        return 1;
    }
    while let Err(Errno::INTR) = rustix::io::read(end, &mut [0_u8; 1]) {}
    let mut empty = 0;
    for _ in 0..LOOKS {
        // The engine may be doing the same.
        let _gone = cgroup.kill_all();
        empty = if cgroup.is_empty().unwrap_or(true) { empty + 1 } else { 0 };
        if empty >= EMPTY {
            break;
        }
        std::thread::sleep(PAUSE);
    }
    0
}
