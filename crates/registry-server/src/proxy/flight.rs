//! One blob on its way from an upstream to everybody who asked for it.
//!
//! The bytes go into a file without a name, from which each client is served at its own speed: a slow client slows
//! nobody, one that comes late begins at the start, and no more than a piece per client is in memory. The last byte is
//! given to clients only when the digest is right, so that none of them takes a wrong blob for a whole one. Then the
//! blob is stored; until it is, newcomers join the flight. A flight goes on without clients: the next one is served here.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;
use wharf_content::spec::Descriptor;
use wharf_linux::hostfs;
use wharf_model::Digest;

use crate::error::{Error, Result};
use crate::repository::Repository;
use crate::storage::{self, Pieces};

/// What a client is given at once.
const PIECE: u64 = 128 << 10;

/// A download under way.
pub(super) struct Flight {
    file: Arc<File>,
    size: u64,
    progress: watch::Receiver<Progress>,
}

/// How far it is.
#[derive(Debug, Clone, Default)]
struct Progress {
    /// So many bytes may be given to clients.
    bytes: u64,
    /// No more will come: the blob is stored, or this went wrong.
    end: Option<Result<(), String>>,
}

impl Flight {
    pub(super) fn start(
        remote: wharf_registry::Repository,
        blob: Descriptor,
        here: Repository,
        scratch: &Path,
    ) -> Result<Arc<Self>> {
        let file = Arc::new(nameless(scratch).map_err(|error| storage::Error::other("a download", error))?);
        let (sender, progress) = watch::channel(Progress::default());
        let flight = Arc::new(Self { file: file.clone(), size: blob.size, progress });
        tokio::spawn(async move {
            let landed = land(&remote, &blob, &here, &file, &sender).await;
            if let Err(reason) = &landed {
                tracing::warn!("blob {} for {}: {reason}", blob.digest, here.name());
            }
            sender.send_modify(|progress| progress.end = Some(landed));
        });
        Ok(flight)
    }

    pub(super) fn has_ended(&self) -> bool {
        self.progress.borrow().end.is_some() || self.progress.has_changed().is_err()
    }

    /// The blob from its first byte, as it comes.
    pub(super) fn read(&self) -> Pieces<'static> {
        let (file, size) = (self.file.clone(), self.size);
        let state = (0, self.progress.clone());
        stream::try_unfold(state, move |(at, mut progress)| {
            let file = file.clone();
            async move {
                if at == size {
                    return Ok(None);
                }
                let reached = {
                    let arrived = progress.wait_for(|progress| progress.bytes > at || progress.end.is_some());
                    arrived.await.map_err(io::Error::other)?.clone()
                };
                if reached.bytes <= at {
                    let reason = reached.end.and_then(Result::err).unwrap_or_default();
                    return Err(io::Error::other(reason));
                }
                let piece = read_at(file, at, (reached.bytes - at).min(PIECE)).await?;
                let next = at + piece.len() as u64;
                Ok(Some((piece, (next, progress))))
            }
        })
        .boxed()
    }
}

/// Brings the blob here and stores it.
async fn land(
    remote: &wharf_registry::Repository,
    blob: &Descriptor,
    here: &Repository,
    file: &Arc<File>,
    sender: &watch::Sender<Progress>,
) -> Result<(), String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let mut download = remote.blob(blob, 0).await.map_err(|error| text(&error))?;
    let mut hasher = Sha256::new();
    let mut at = 0;
    while let Some(piece) = download.chunk().await.map_err(|error| text(&error))? {
        hasher.update(&piece);
        let length = piece.len() as u64;
        write_at(file.clone(), at, piece).await.map_err(|error| text(&error))?;
        at += length;
        sender.send_modify(|progress| progress.bytes = at.min(blob.size.saturating_sub(1)));
    }
    let found = Digest::from_sha256(hasher.finalize().into());
    if at != blob.size || found != blob.digest {
        return Err(format!("the upstream sent {at} bytes with the digest {found}"));
    }
    sender.send_modify(|progress| progress.bytes = at);
    let whole = stream::try_unfold(0, |from| {
        let file = file.clone();
        async move {
            if from == at {
                return Ok(None);
            }
            let piece = read_at(file, from, (at - from).min(PIECE)).await?;
            let next = from + piece.len() as u64;
            Ok::<_, io::Error>(Some((piece, next)))
        }
    });
    here.put_blob(whole.into_stream().boxed(), &blob.digest).await.map_err(|error: Error| text(&error))
}

async fn read_at(file: Arc<File>, at: u64, length: u64) -> io::Result<Bytes> {
    let read = tokio::task::spawn_blocking(move || {
        let mut piece = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
        file.read_exact_at(&mut piece, at)?;
        Ok(Bytes::from(piece))
    });
    read.await.map_err(io::Error::other)?
}

async fn write_at(file: Arc<File>, at: u64, piece: Bytes) -> io::Result<()> {
    let written = tokio::task::spawn_blocking(move || file.write_all_at(&piece, at));
    written.await.map_err(io::Error::other)?
}

/// A file that is gone when nobody has it open any more.
fn nameless(directory: &Path) -> io::Result<File> {
    static SERIAL: AtomicU64 = AtomicU64::new(0);
    let path = directory.join(SERIAL.fetch_add(1, Ordering::Relaxed).to_string());
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
    hostfs::remove_file(&path).map_err(io::Error::other)?;
    Ok(file)
}
