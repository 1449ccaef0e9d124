//! One layer from a registry to the disk.

use std::io::{self, BufRead, BufReader, Read};
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use wharf_content::spec::Descriptor;
use wharf_registry::Repository;

use super::board::{Board, LayerState};
use super::{blocking, refused};
use crate::commit::LayerSource;
use crate::compress::Compression;
use crate::pipe::CHUNK;
use crate::records::{self, LayerBlobRow};
use crate::stage::{self, StagedLayer, read_chunk};
use crate::{Error, Inner, Result};

/// Frames between the network and the disk at most.
const FRAMES: usize = 32;

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
    board: &Board,
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
    let turn = Arc::clone(&inner.transfers.downloads).acquire_owned().await;
    let guard = Arc::new((guard, turn));
    let (layer, resumed) = attempt(inner, repository, blob, board, Arc::clone(&guard)).await?;
    let layer = match check(layer, blob) {
        // What an earlier attempt left may be what is wrong: a disk that lost power keeps lengths without bytes.
        Err(_) if resumed => check(attempt(inner, repository, blob, board, guard).await?.0, blob)?,
        checked => checked?,
    };
    board.layer(&id, LayerState::Downloaded);
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

/// A layer whose bytes are the ones that were promised; others are not kept.
fn check(layer: StagedLayer, blob: &Descriptor) -> Result<StagedLayer> {
    if *layer.blob.digest() == blob.digest {
        return Ok(layer);
    }
    let found = *layer.blob.digest();
    layer.blob.discard();
    Err(Error::Mismatch { what: format!("layer {}", blob.digest.short()), expected: blob.digest, found })
}

/// Downloads, stores and unpacks once; says whether it went on with an earlier attempt.
async fn attempt<G: Send + 'static>(
    inner: &Arc<Inner>,
    repository: &Repository,
    blob: &Descriptor,
    board: &Board,
    guard: G,
) -> Result<(StagedLayer, bool)> {
    let (frames, receiver) = mpsc::channel(FRAMES);
    let (kept, begin) = oneshot::channel();
    let (worker, wanted) = (Arc::clone(inner), blob.clone());
    let work = blocking(move || {
        // Until the last byte is on its way: the next download of this digest finds the file at rest.
        let _guard = guard;
        take(&worker, &wanted, kept, receiver)
    });
    let feed = async {
        // Without an answer the worker has failed and says why.
        let Ok(kept) = begin.await else { return Ok::<u64, Error>(0) };
        feed(repository, blob, kept, frames, board).await?;
        Ok(kept)
    };
    // The network's failure is the cause of the worker's, never the other way round: a worker that fails first makes
    // the feeding end without an error.
    let (fed, taken) = tokio::join!(feed, work);
    let kept = fed?;
    Ok((taken?, kept > 0))
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

/// The worker's part: what was kept, then what comes.
fn take(
    inner: &Inner,
    blob: &Descriptor,
    begin: oneshot::Sender<u64>,
    receiver: mpsc::Receiver<Option<Bytes>>,
) -> Result<StagedLayer> {
    let mut ingest = inner.store.download(&blob.digest)?;
    if ingest.kept() > blob.size {
        ingest.discard();
        ingest = inner.store.download(&blob.digest)?;
    }
    let kept = ingest.kept();
    let earlier = ingest.kept_reader()?.take(kept);
    if begin.send(kept).is_err() {
        return Err(Error::Invalid("the transfer was stopped".to_owned()));
    }
    let mut input = BufReader::with_capacity(CHUNK, earlier).chain(Frames {
        receiver,
        frame: Bytes::new(),
        ended: false,
    });
    let first = read_chunk(&mut input)?;
    let compression = Compression::detect(&first, "layer")?;
    let directory = inner.stage_directory()?;
    stage::take_layer(ingest, directory, first, &mut input, compression, &inner.limits, &mut |_| {})
        .map_err(|error| error.in_layer(&blob.digest.short()))
}

/// Frames from the network as a stream that only ends where the network said so.
struct Frames {
    receiver: mpsc::Receiver<Option<Bytes>>,
    frame: Bytes,
    ended: bool,
}

impl BufRead for Frames {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.frame.is_empty() && !self.ended {
            match self.receiver.blocking_recv() {
                Some(Some(frame)) => self.frame = frame,
                Some(None) => self.ended = true,
                None => return Err(io::Error::other("the transfer was stopped")),
            }
        }
        Ok(&self.frame)
    }

    fn consume(&mut self, taken: usize) {
        let _taken = self.frame.split_to(taken.min(self.frame.len()));
    }
}

impl Read for Frames {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let taken = available.len().min(buffer.len());
        buffer[..taken].copy_from_slice(&available[..taken]);
        self.consume(taken);
        Ok(taken)
    }
}
