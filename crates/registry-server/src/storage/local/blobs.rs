//! Blobs in a content store.
//!
//! An upload is a [`Session`] behind a lock that only blocking threads take, so that a request that is dropped in the
//! middle leaves a session in a state the next request can go on from. Bytes are gathered on the reactor, up to
//! [`BATCH`] at a time, while a blocking thread hashes and writes the batch before: both cores work, a connection never
//! holds more than two batches, and a slow client holds no thread.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Write};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{StreamExt, stream};
use tokio::task::JoinHandle;
use wharf_content::{Ingest, Store};
use wharf_linux::hostfs;
use wharf_model::Digest;

use super::blocking;
use crate::storage::{Blobs, Error, Pieces, Result, UploadId};

/// How much is gathered before a thread hashes and writes it.
const BATCH: usize = 1 << 20;
/// How much is read at once.
const PIECE: u64 = 256 << 10;
/// The kernel is asked to begin writing after so many bytes.
const WRITE_BACK: u64 = 8 << 20;
/// Idle uploads whose file stays open and whose hash stays in memory; the others are read again when they go on.
const MAX_OPEN: usize = 256;

pub(super) struct LocalBlobs {
    store: Store,
    sessions: Mutex<HashMap<UploadId, Arc<Mutex<Session>>>>,
    _lock: Arc<File>,
}

/// An upload's file, opened when it is needed.
#[derive(Default)]
struct Session {
    ingest: Option<Ingest>,
    written_back: u64,
}

impl Session {
    /// The upload with everything hashed that is there.
    fn resume(&mut self, store: &Store, upload: UploadId) -> Result<&mut Ingest> {
        let ingest = match self.ingest.take() {
            Some(ingest) => ingest,
            None => {
                let mut ingest = store.download(upload.as_digest())?;
                let mut kept = ingest.kept_reader()?.take(ingest.kept());
                std::io::copy(&mut kept, &mut ingest).map_err(|error| ingest.failure(error))?;
                self.written_back = ingest.size();
                ingest
            }
        };
        Ok(self.ingest.insert(ingest))
    }

    fn append(&mut self, store: &Store, upload: UploadId, offset: u64, batch: &[Bytes]) -> Result<u64> {
        let written_back = self.written_back;
        let ingest = self.resume(store, upload)?;
        if ingest.size() != offset {
            return Err(Error::Offset { length: ingest.size() });
        }
        let written = batch.iter().try_for_each(|piece| ingest.write_all(piece));
        let length = ingest.size();
        if let Err(error) = written {
            let error = ingest.failure(error);
            // What is in the file and what was hashed may differ now.
            self.ingest = None;
            return Err(error.into());
        }
        if length - written_back >= WRITE_BACK {
            ingest.write_back(written_back);
            self.written_back = length;
        }
        Ok(length)
    }

    fn commit(&mut self, store: &Store, upload: UploadId, digest: Digest) -> Result<u64> {
        self.resume(store, upload)?;
        let Some(ingest) = self.ingest.take() else {
            return Err(Error::NotFound(digest));
        };
        let staged = ingest.finish();
        let (size, found) = (staged.size(), *staged.digest());
        if found != digest {
            staged.discard();
            remove(store, upload)?;
            return Err(Error::Mismatch { expected: digest, found });
        }
        store.publish(vec![staged])?;
        Ok(size)
    }
}

/// Forgets an upload's file: a download that is dropped as discarded removes it.
fn remove(store: &Store, upload: UploadId) -> Result<()> {
    store.download(upload.as_digest())?.discard();
    Ok(())
}

impl LocalBlobs {
    pub(super) fn new(store: Store, lock: Arc<File>) -> Self {
        Self { store, sessions: Mutex::default(), _lock: lock }
    }

    fn sessions(&self) -> MutexGuard<'_, HashMap<UploadId, Arc<Mutex<Session>>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn session(&self, upload: UploadId) -> Arc<Mutex<Session>> {
        let mut sessions = self.sessions();
        if sessions.len() >= MAX_OPEN && !sessions.contains_key(&upload) {
            // Clones are made under this lock only: one that is here alone is used by nobody.
            let idle = sessions.iter().find(|(_, session)| Arc::strong_count(session) == 1);
            if let Some(idle) = idle.map(|(id, _)| *id) {
                sessions.remove(&idle);
            }
        }
        Arc::clone(sessions.entry(upload).or_default())
    }

    /// Works on an upload on a blocking thread.
    fn work<T: Send + 'static>(
        &self,
        upload: UploadId,
        work: impl FnOnce(&mut Session, &Store) -> Result<T> + Send + 'static,
    ) -> JoinHandle<Result<T>> {
        let (session, store) = (self.session(upload), self.store.clone());
        tokio::task::spawn_blocking(move || {
            let mut session = session.lock().unwrap_or_else(PoisonError::into_inner);
            work(&mut session, &store)
        })
    }

    async fn write_all(&self, upload: UploadId, mut offset: u64, mut pieces: Pieces<'_>) -> Result<u64> {
        let mut busy = self.work(upload, move |session, store| session.append(store, upload, offset, &[]));
        loop {
            let (batch, gathered, end) = gather(&mut pieces).await;
            offset = join(busy).await?;
            busy = self.work(upload, move |session, store| session.append(store, upload, offset, &batch));
            match end {
                None => debug_assert!(gathered > 0, "an open stream gave something"),
                Some(Ok(())) => return join(busy).await,
                Some(Err(error)) => {
                    join(busy).await?;
                    return Err(Error::Body(error));
                }
            }
        }
    }
}

/// Pieces of up to [`BATCH`] bytes, and how the stream ended if it did.
async fn gather(pieces: &mut Pieces<'_>) -> (Vec<Bytes>, usize, Option<std::io::Result<()>>) {
    let (mut batch, mut gathered) = (Vec::new(), 0);
    while gathered < BATCH {
        match pieces.next().await {
            Some(Ok(piece)) => {
                gathered += piece.len();
                batch.push(piece);
            }
            Some(Err(error)) => return (batch, gathered, Some(Err(error))),
            None => return (batch, gathered, Some(Ok(()))),
        }
    }
    (batch, gathered, None)
}

async fn join<T>(work: JoinHandle<Result<T>>) -> Result<T> {
    work.await.unwrap_or_else(|error| Err(Error::other("storage", error)))
}

impl Blobs for LocalBlobs {
    fn append<'a>(&'a self, upload: UploadId, offset: u64, pieces: Pieces<'a>) -> BoxFuture<'a, Result<u64>> {
        Box::pin(self.write_all(upload, offset, pieces))
    }

    fn length(&self, upload: UploadId) -> BoxFuture<'_, Result<u64>> {
        let work = self.work(upload, move |session, store| Ok(session.resume(store, upload)?.size()));
        Box::pin(join(work))
    }

    fn commit(&self, upload: UploadId, digest: Digest) -> BoxFuture<'_, Result<u64>> {
        let work = self.work(upload, move |session, store| session.commit(store, upload, digest));
        self.sessions().remove(&upload);
        Box::pin(join(work))
    }

    fn discard(&self, upload: UploadId) -> BoxFuture<'_, Result<()>> {
        let work = self.work(upload, move |session, store| {
            session.ingest = None;
            remove(store, upload)
        });
        self.sessions().remove(&upload);
        Box::pin(join(work))
    }

    fn size(&self, digest: Digest) -> BoxFuture<'_, Result<Option<u64>>> {
        let store = self.store.clone();
        Box::pin(blocking(move || Ok(store.size(&digest)?)))
    }

    fn read(&self, digest: Digest, range: Range<u64>) -> BoxFuture<'_, Result<Pieces<'static>>> {
        let store = self.store.clone();
        Box::pin(async move {
            let path = store.path(&digest);
            let (first, rest) = blocking(move || {
                let file = Arc::new(store.reader(&digest)?);
                let end = range.end.min(range.start.saturating_add(PIECE));
                let first = read_piece(&file, range.start..end);
                let first = first.map_err(|error| hostfs::Error::new("read", &path, error))?;
                let rest = end..range.end;
                Ok((first, (file, rest)))
            })
            .await?;
            let first = stream::once(async { Ok(first) });
            Ok(first.chain(read_on(rest.0, rest.1)).boxed())
        })
    }

    fn remove(&self, digest: Digest) -> BoxFuture<'_, Result<()>> {
        let store = self.store.clone();
        Box::pin(blocking(move || Ok(store.remove(&digest)?)))
    }

    fn list(&self, after: Option<Digest>, limit: usize) -> BoxFuture<'_, Result<Vec<(Digest, u64)>>> {
        let store = self.store.clone();
        Box::pin(blocking(move || {
            let mut digests = store.list()?;
            digests.retain(|digest| after.is_none_or(|after| *digest > after));
            digests.sort_unstable();
            let mut page = Vec::new();
            for digest in digests {
                if page.len() == limit {
                    break;
                }
                // One that went away meanwhile is not there.
                if let Some(size) = store.size(&digest)? {
                    page.push((digest, size));
                }
            }
            Ok(page)
        }))
    }
}

/// The pieces of `range`, each read while the one before is sent.
fn read_on(file: Arc<File>, range: Range<u64>) -> Pieces<'static> {
    let ahead = move |from: u64| {
        let piece = from..range.end.min(from.saturating_add(PIECE));
        let file = Arc::clone(&file);
        (!piece.is_empty())
            .then(|| (piece.end, tokio::task::spawn_blocking(move || read_piece(&file, piece))))
    };
    let first = ahead(range.start);
    stream::unfold((first, ahead), |(next, ahead)| async move {
        let (end, reading) = next?;
        match reading.await.unwrap_or_else(|error| Err(std::io::Error::other(error))) {
            Ok(bytes) => {
                let next = ahead(end);
                Some((Ok(bytes), (next, ahead)))
            }
            Err(error) => Some((Err(error), (None, ahead))),
        }
    })
    .boxed()
}

/// Exactly `range`.
fn read_piece(file: &File, range: Range<u64>) -> std::io::Result<Bytes> {
    let length = usize::try_from(range.end - range.start).map_err(std::io::Error::other)?;
    let mut bytes = Vec::with_capacity(length);
    while bytes.len() < length {
        let at = range.start + bytes.len() as u64;
        let read = rustix::io::pread(file, rustix::buffer::spare_capacity(&mut bytes), at)?;
        if read == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    // The allocator may have given more room than was asked for.
    bytes.truncate(length);
    Ok(bytes.into())
}
