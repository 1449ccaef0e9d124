//! Images to and from registries.
//!
//! A pull is a job with a [`board`]: everybody who asks for the same thing follows the same one, and when the last of
//! them goes away the job is dropped. A layer travels through three hands at once: the network's task hands frames to a
//! thread that stores and hashes them, which hands them to a thread that decompresses and unpacks
//! ([`crate::stage::take_layer`]). One download of a digest is under way at a time; what has come of it outlives
//! everything but a wrong digest ([`wharf_content::Store::download`]).
//!
//! Nothing is visible before all of it is verified and durable: layers, manifest, config and names are one commit.
//! A crash leaves downloads in part and unpacked layers without a row, which the next start removes.

mod board;
mod fetch;
mod platform;
mod pull;
mod push;
mod repair;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use wharf_model::Digest;
use wharf_registry::Error as RegistryError;

use crate::{Error, Result};

use board::Board;

use board::Follower;
pub use board::{LayerState, Progress};
pub(crate) use platform::Wanted;
pub use pull::{PullRequest, Pulled};
pub use push::{PushRequest, Pushed};
pub use repair::Repositories;

/// Layers that are fetched, and pushed, at the same time, for all images together.
#[derive(Debug, Clone, Copy)]
pub struct Concurrency {
    /// Layers on their way in.
    pub downloads: usize,
    /// Layers on their way out.
    pub uploads: usize,
}

impl Default for Concurrency {
    fn default() -> Self {
        Self { downloads: 3, uploads: 5 }
    }
}

/// What transfers of one store share.
#[derive(Debug)]
pub(crate) struct Transfers {
    /// Exchanged as a whole when the limits change; what is under way keeps its place in the old ones.
    turns: Mutex<Turns>,
    /// One download of a digest at a time.
    digests: Mutex<HashMap<Digest, Weak<tokio::sync::Mutex<()>>>>,
    pulls: Mutex<HashMap<PullRequest, Weak<Job<Pulled>>>>,
}

/// Who may fetch and push a layer now.
#[derive(Debug, Clone)]
struct Turns {
    downloads: Arc<Semaphore>,
    uploads: Arc<Semaphore>,
}

impl Turns {
    fn new(concurrency: Concurrency) -> Self {
        Self {
            downloads: Arc::new(Semaphore::new(concurrency.downloads.max(1))),
            uploads: Arc::new(Semaphore::new(concurrency.uploads.max(1))),
        }
    }
}

impl Transfers {
    pub(crate) fn new(concurrency: Concurrency) -> Self {
        Self {
            turns: Mutex::new(Turns::new(concurrency)),
            digests: Mutex::default(),
            pulls: Mutex::default(),
        }
    }

    pub(crate) fn set_concurrency(&self, concurrency: Concurrency) {
        *self.turns.lock().unwrap_or_else(PoisonError::into_inner) = Turns::new(concurrency);
    }

    fn turns(&self) -> Turns {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The right to download a digest.
    fn digest(&self, digest: &Digest) -> Arc<tokio::sync::Mutex<()>> {
        let mut digests = self.digests.lock().unwrap_or_else(PoisonError::into_inner);
        digests.retain(|_, lock| lock.strong_count() > 0);
        if let Some(lock) = digests.get(digest).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = Arc::new(tokio::sync::Mutex::new(()));
        digests.insert(*digest, Arc::downgrade(&lock));
        lock
    }
}

/// A transfer under way; dropped by the last who holds it, it stops.
#[derive(Debug)]
struct Job<T> {
    board: Arc<Board>,
    result: watch::Receiver<Option<std::result::Result<T, Arc<Error>>>>,
    task: JoinHandle<()>,
}

impl<T> Drop for Job<T> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl<T: Clone + Send + Sync + 'static> Job<T> {
    fn start<F>(work: impl FnOnce(Arc<Board>) -> F) -> Arc<Self>
    where
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let board = Board::new();
        let (sender, result) = watch::channel(None);
        let (work, ending) = (work(Arc::clone(&board)), Arc::clone(&board));
        let task = tokio::spawn(async move {
            sender.send_replace(Some(work.await.map_err(Arc::new)));
            ending.end();
        });
        Arc::new(Self { board, result, task })
    }
}

/// One caller's hold on a transfer.
#[derive(Debug)]
pub struct Transfer<T> {
    job: Arc<Job<T>>,
    follower: Follower,
}

impl<T: Clone + Send + Sync + 'static> Transfer<T> {
    fn of(job: Arc<Job<T>>) -> Self {
        let follower = job.board.follow();
        Self { job, follower }
    }

    /// What happened since the last call; `None` once the transfer has ended.
    pub async fn progress(&mut self) -> Option<Vec<Progress>> {
        self.follower.next().await
    }

    /// What it came to; waits for the end.
    ///
    /// # Errors
    /// Whatever stopped it.
    pub async fn result(self) -> Result<T> {
        let mut result = self.job.result.clone();
        let ended = result.wait_for(Option::is_some).await.map(|result| result.clone());
        match ended {
            Ok(Some(Ok(value))) => Ok(value),
            Ok(Some(Err(error))) => Err(Error::Shared(error)),
            Ok(None) | Err(_) => Err(Error::Invalid("the transfer was stopped".to_owned())),
        }
    }
}

/// The work that blocks, off the reactor.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) if error.is_panic() => Err(Error::Damaged(format!("a transfer panicked: {error}"))),
        Err(_) => Err(Error::Invalid("the engine is stopping".to_owned())),
    }
}

/// A registry's refusal, with what it was about.
fn refused(what: &str, error: RegistryError) -> Error {
    Error::Registry { what: what.to_owned(), source: Box::new(error) }
}
