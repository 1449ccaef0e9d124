//! A directory as storage: for one server on one machine.
//!
//! ```text
//! lock                  held by the process that serves
//! registry.db           the records
//! oci-layout, index.json, blobs/, ingest/      a content store; an upload is a download under the name of its id
//! ```
//!
//! Durable: blobs as `wharf-content` does it (file synced, renamed, directory synced); records by group commit.
//! Crash: a blob whose record was not written is found by the collector's pass at start; an upload goes on from the bytes
//! that are in its file, which are hashed again.

mod blobs;
mod records;

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use wharf_linux::hostfs;

use super::{Error, Result, Storage};
use blobs::LocalBlobs;
use records::LocalRecords;

/// Opens a directory as a storage.
#[derive(Debug)]
pub struct Local;

impl Local {
    /// Opens or creates the storage in `root`; it is locked until the last clone is dropped.
    ///
    /// # Errors
    /// When the directory cannot be used, or another process serves it.
    pub async fn open(root: &Path) -> Result<Storage> {
        let root = root.to_owned();
        blocking(move || {
            hostfs::create_dir_all(&root, 0o700)?;
            let lock = Arc::new(lock(&root.join("lock"))?);
            let store = wharf_content::Store::open(&root)?;
            let records = LocalRecords::open(&root.join("registry.db"), Arc::clone(&lock))?;
            Ok(Storage { blobs: Arc::new(LocalBlobs::new(store, lock)), records: Arc::new(records) })
        })
        .await
    }
}

fn lock(path: &Path) -> Result<File> {
    let file = hostfs::append(path, 0o600)?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let reason = "another process serves this directory; stop it or choose another directory";
            Err(Error::other(&path.display().to_string(), reason))
        }
        Err(error) => Err(hostfs::Error::new("lock", path, error).into()),
    }
}

/// Runs disk work off the reactor.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::other("storage", error)),
    }
}

impl From<hostfs::Error> for Error {
    fn from(error: hostfs::Error) -> Self {
        if error.is_full() { Self::Full(error.to_string()) } else { Self::other("local storage", error) }
    }
}

impl From<wharf_content::Error> for Error {
    fn from(error: wharf_content::Error) -> Self {
        match error {
            wharf_content::Error::NotFound(digest) => Self::NotFound(digest),
            wharf_content::Error::Mismatch { expected, found } => Self::Mismatch { expected, found },
            wharf_content::Error::Fs(error) => error.into(),
        }
    }
}

impl From<wharf_state::Error> for Error {
    fn from(error: wharf_state::Error) -> Self {
        if error.is_full() { Self::Full(error.to_string()) } else { Self::other("local storage", error) }
    }
}

impl From<wharf_state::rusqlite::Error> for Error {
    fn from(error: wharf_state::rusqlite::Error) -> Self {
        wharf_state::Error::from(error).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::conformance;

    #[tokio::test]
    async fn a_directory_is_a_storage() {
        let directory = tempfile::tempdir().unwrap();
        conformance::all(|| async { Local::open(directory.path()).await.unwrap() }).await;
    }

    #[tokio::test]
    async fn a_directory_is_served_once() {
        let directory = tempfile::tempdir().unwrap();
        let _first = Local::open(directory.path()).await.unwrap();
        let Err(error) = Local::open(directory.path()).await else { panic!("opened twice") };
        assert!(error.to_string().contains("another process serves this directory"), "{error}");
    }
}
