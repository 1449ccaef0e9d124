//! One layer from a registry to the disk.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use wharf_content::spec::Descriptor;
use wharf_registry::Repository;

use super::board::{Board, LayerState};
use super::{blocking, refused};
use crate::commit::LayerSource;
use crate::records::{self, LayerBlobRow};
use crate::stage::{self, StagedLayer};
use crate::{Error, Inner, Result};

/// Frames between the network and the disk at most.
const FRAMES: usize = 8;

/// A layer that is here.
pub(super) enum Fetched {
    Stored(LayerBlobRow),
    Staged(StagedLayer),
}

impl Fetched {
    /// Puts staged layers in a list, as a commit wants them.
    pub(super) fn source(self, staged: &mut Vec<StagedLayer>) -> LayerSource {
        match self {
            Self::Stored(row) => LayerSource::Stored(row),
            Self::Staged(layer) => {
                staged.push(layer);
                LayerSource::Staged(staged.len() - 1)
            }
        }
    }
}

/// Fetches a layer unless its blob is here.
pub(super) async fn layer(
    inner: &Arc<Inner>,
    repository: &Repository,
    blob: &Descriptor,
    board: &Arc<Board>,
) -> Result<Fetched> {
    let id = blob.digest.short();
    if let Some(row) = stored(inner, blob).await? {
        board.layer(&id, LayerState::Exists);
        return Ok(Fetched::Stored(row));
    }
    let lock = inner.transfers.digest(&blob.digest);
    let guard = lock.lock_owned().await;
    // Somebody else may just have brought it.
    if let Some(row) = stored(inner, blob).await? {
        board.layer(&id, LayerState::Exists);
        return Ok(Fetched::Stored(row));
    }
    let turn = inner.transfers.turns().downloads.acquire_owned().await;
    let guard = Arc::new((guard, turn));
    let (first, resumed) = attempt(inner, repository, blob, board, Arc::clone(&guard)).await;
    let layer = match first {
        // What an earlier attempt left may be what is wrong: a disk that lost power keeps lengths without bytes.
        Err(error) if resumed && is_about_content(&error) => {
            attempt(inner, repository, blob, board, guard).await.0?
        }
        first => first?,
    };
    Ok(Fetched::Staged(layer))
}

async fn stored(inner: &Arc<Inner>, blob: &Descriptor) -> Result<Option<LayerBlobRow>> {
    let (inner, digest, size) = (Arc::clone(inner), blob.digest, blob.size);
    blocking(move || {
        let row = inner.db.read(|conn| records::layer_blob(conn, &digest))?;
        let whole = inner.store.size(&digest)? == Some(size);
        Ok(row.filter(|row| whole && row.size == size))
    })
    .await
}

/// Whether other bytes could help.
fn is_about_content(error: &Error) -> bool {
    matches!(error, Error::Mismatch { .. } | Error::Archive { .. } | Error::Limit { .. })
}

/// Downloads, stores and unpacks once; says whether it went on with an earlier attempt.
async fn attempt<G: Send + 'static>(
    inner: &Arc<Inner>,
    repository: &Repository,
    blob: &Descriptor,
    board: &Arc<Board>,
    guard: G,
) -> (Result<StagedLayer>, bool) {
    let (frames, receiver) = mpsc::channel(FRAMES);
    let (kept, begin) = oneshot::channel();
    let (worker, wanted, shown) = (Arc::clone(inner), blob.clone(), Arc::clone(board));
    let work = blocking(move || {
        // Until the last byte is on its way: the next download of this digest finds the file at rest.
        let _guard = guard;
        take(&worker, &wanted, kept, receiver, &shown)
    });
    let feed = async {
        // Without an answer the worker has failed and says why.
        let Ok(kept) = begin.await else { return (Ok(()), false) };
        (feed(repository, blob, kept, frames, board).await, kept > 0)
    };
    let ((fed, resumed), taken) = tokio::join!(feed, work);
    // The network's failure is the cause of the worker's, never the other way round: a worker that fails first makes
    // the feeding end without an error.
    (fed.and(taken), resumed)
}

async fn feed(
    repository: &Repository,
    blob: &Descriptor,
    kept: u64,
    frames: mpsc::Sender<Option<Bytes>>,
    board: &Board,
) -> Result<()> {
    let id = blob.digest.short();
    let what = || format!("layer {id}");
    let mut done = kept;
    board.layer(&id, LayerState::Downloading(done, blob.size));
    if done < blob.size {
        let mut download = repository.blob(blob, done).await.map_err(|error| refused(&what(), error))?;
        while let Some(frame) = download.chunk().await.map_err(|error| refused(&what(), error))? {
            done += frame.len() as u64;
            if frames.send(Some(frame)).await.is_err() {
                return Ok(());
            }
            board.layer(&id, LayerState::Downloading(done, blob.size));
        }
    }
    board.layer(&id, LayerState::Verifying);
    let _the_worker_may_have_failed = frames.send(None).await;
    Ok(())
}

/// The worker's part. Bytes that turn out to be wrong are not kept for the next attempt.
fn take(
    inner: &Inner,
    blob: &Descriptor,
    begin: oneshot::Sender<u64>,
    mut receiver: mpsc::Receiver<Option<Bytes>>,
    board: &Board,
) -> Result<StagedLayer> {
    let mut ingest = inner.store.download(&blob.digest)?;
    if ingest.kept() > blob.size {
        ingest.discard();
        ingest = inner.store.download(&blob.digest)?;
    }
    let stopped = || Error::Invalid("the transfer was stopped".to_owned());
    begin.send(ingest.kept()).map_err(|_| stopped())?;
    let id = blob.digest.short();
    let whole = AtomicBool::new(false);
    let mut frames = || match receiver.blocking_recv() {
        Some(Some(frame)) => Ok(Some(frame)),
        Some(None) => {
            whole.store(true, Ordering::Relaxed);
            board.layer(&id, LayerState::Downloaded);
            Ok(None)
        }
        None => Err(stopped()),
    };
    let on = |done: u64| {
        if whole.load(Ordering::Relaxed) {
            board.layer(&id, LayerState::Extracting(done, blob.size));
        }
    };
    let directory = inner.stage_directory()?;
    let taken = stage::take_download(ingest, directory, &mut frames, &inner.limits, &on)
        .map_err(|error| error.in_layer(&id))
        .and_then(|layer| check(layer, blob));
    if taken.as_ref().is_err_and(is_about_content) {
        inner.store.download(&blob.digest)?.discard();
    }
    taken
}

/// A layer whose bytes are the ones that were promised.
fn check(layer: StagedLayer, blob: &Descriptor) -> Result<StagedLayer> {
    let found = *layer.blob.digest();
    if found == blob.digest {
        return Ok(layer);
    }
    Err(Error::Mismatch { what: format!("layer {}", blob.digest.short()), expected: blob.digest, found })
}
