//! Compresses closed segments of spools, one at a time, on a thread of its own with the lowest priority.
//!
//! The shim says when a segment was closed; `Engine::open` and the end of a run look once more, so that what a dead
//! engine left undone is done. The thread ends when it has nothing to do.

use std::collections::{BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use wharf_shim::spool;

/// The least favourable `nice` value.
const NICE: i32 = 19;

/// The packer: cheap to clone, does nothing while there is nothing to do.
#[derive(Clone, Default)]
pub(crate) struct Packer {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    queue: VecDeque<PathBuf>,
    queued: BTreeSet<PathBuf>,
    works: bool,
    closed: bool,
}

impl Packer {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The spool in `directory` may have closed segments.
    pub(crate) fn look_at(&self, directory: PathBuf) {
        let mut state = self.lock();
        if state.closed || !state.queued.insert(directory.clone()) {
            return;
        }
        state.queue.push_back(directory);
        if !std::mem::replace(&mut state.works, true) {
            let packer = self.clone();
            let spawned = std::thread::Builder::new().name("log-packer".into()).spawn(move || packer.work());
            if let Err(error) = spawned {
                tracing::warn!(%error, "logs stay uncompressed for now");
                state.works = false;
            }
        }
    }

    /// Stops soon; a segment in the middle stays as it was.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.queue.clear();
    }

    fn work(&self) {
        // Of this thread only, as Linux counts.
        let _best_effort = rustix::process::setpriority_process(None, NICE);
        loop {
            let directory = {
                let mut state = self.lock();
                let Some(directory) = state.queue.pop_front() else {
                    state.works = false;
                    return;
                };
                state.queued.remove(&directory);
                directory
            };
            if let Err(error) = self.pack(&directory)
                && !error.is_missing()
            {
                tracing::warn!(%error, "a log stays uncompressed");
            }
        }
    }

    fn pack(&self, directory: &Path) -> Result<(), spool::SpoolError> {
        spool::sweep(directory)?;
        for segment in spool::unpacked(directory)? {
            spool::pack(directory, segment, || !self.lock().closed)?;
        }
        Ok(())
    }
}
