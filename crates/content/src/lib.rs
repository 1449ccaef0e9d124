//! Blobs by digest; on disk an OCI image layout.
//!
//! Layout of the directory:
//! ```text
//! oci-layout            {"imageLayoutVersion":"1.0.0"}
//! index.json            what is named, for other tools; ours is the state database
//! blobs/sha256/<hex>    every blob, complete and verified
//! ingest/<n>            blobs that are still being written
//! ingest/<hex>          downloads, whole or in part, by the digest they must have
//! damaged/<hex>         what a check found to have another digest; gone at the next start
//! ```
//!
//! Invariants: a file in `blobs/` has the digest of its name and is durable, because [`Store::publish`] syncs it
//! before it renames it there. Blobs are never changed. This crate knows no names of images and removes nothing on its
//! own: `wharf-image` decides what is needed.
//!
//! Locking: none is needed; publishing the same blob twice is harmless. Only one process owns a store.
//!
//! Crash: `ingest/` may hold partial files. [`Store::open`] removes the numbered ones; downloads stay for a day, so that
//! a repeated pull goes on where it was. Their bytes are hashed again before they count.

mod error;
pub mod spec;
mod stage;

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use wharf_linux::hostfs;
use wharf_model::Digest;

pub use error::{Error, Result};
pub use spec::MAX_DOCUMENT;
pub use stage::{Ingest, Staged};

/// How long a download that nobody goes on with is kept.
pub const MAX_DOWNLOAD_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// The blobs of one data root; clones share it.
#[derive(Debug, Clone)]
pub struct Store {
    root: Arc<Path>,
    serial: Arc<AtomicU64>,
}

impl Store {
    /// Opens or creates the layout and removes what a crash left in `ingest/`.
    ///
    /// # Errors
    /// [`Error::Fs`] when the directory cannot be made or written.
    pub fn open(root: &Path) -> Result<Self> {
        let store = Self { root: Arc::from(root), serial: Arc::default() };
        hostfs::create_dir_all(&store.blobs(), 0o755)?;
        hostfs::create_dir_all(&store.ingests(), 0o700)?;
        store.sweep_ingests(MAX_DOWNLOAD_AGE)?;
        hostfs::remove_dir_all(&root.join("damaged"))?;
        let marker = root.join("oci-layout");
        if !hostfs::exists(&marker)? {
            hostfs::write_atomic(&marker, spec::LAYOUT, 0o644)?;
        }
        if !hostfs::exists(&root.join("index.json"))? {
            store.write_index(&spec::Index::default())?;
        }
        Ok(store)
    }

    /// The directory of the layout.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Begins a new blob.
    ///
    /// # Errors
    /// [`Error::Fs`] when the file cannot be made.
    pub fn ingest(&self) -> Result<Ingest> {
        let number = self.serial.fetch_add(1, Ordering::Relaxed);
        Ok(Ingest::create(self.ingests().join(number.to_string()))?)
    }

    /// Begins a download, or goes on with one that was left. The caller sees to it that nobody else does at the same
    /// time.
    ///
    /// # Errors
    /// [`Error::Fs`] when the file cannot be made.
    pub fn download(&self, digest: &Digest) -> Result<Ingest> {
        Ok(Ingest::resume(self.ingests().join(digest.hex()))?)
    }

    /// Removes downloads that nobody went on with for `age`. Not while there are any under way that are older.
    ///
    /// # Errors
    /// [`Error::Fs`] when the disk refuses.
    pub fn forget_downloads(&self, age: Duration) -> Result<()> {
        for name in hostfs::read_dir(&self.ingests())? {
            let path = self.ingests().join(&name);
            let is_download = name.to_str().is_some_and(|name| Digest::from_hex(name).is_ok());
            if is_download && older_than(&path, age) {
                hostfs::remove_file(&path)?;
            }
        }
        Ok(())
    }

    /// Stages a small document.
    ///
    /// # Errors
    /// [`Error::Fs`] when it cannot be written.
    pub fn stage(&self, bytes: &[u8]) -> Result<Staged> {
        let mut ingest = self.ingest()?;
        ingest.write_all(bytes).map_err(|error| ingest.failure(error))?;
        Ok(ingest.finish())
    }

    /// Makes staged blobs visible under their digests; returns when all of them are durable.
    ///
    /// # Errors
    /// [`Error::Fs`] when the disk refuses; what was not published is removed.
    pub fn publish(&self, staged: Vec<Staged>) -> Result<()> {
        if staged.is_empty() {
            return Ok(());
        }
        for blob in &staged {
            blob.sync()?;
        }
        for blob in staged {
            let target = self.path(blob.digest());
            blob.rename(&target)?;
        }
        Ok(hostfs::sync_dir(&self.blobs())?)
    }

    /// Where a blob lies, whether or not it is there.
    #[must_use]
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.blobs().join(digest.hex())
    }

    /// The bytes a blob has, if it is there.
    ///
    /// # Errors
    /// [`Error::Fs`] when the directory cannot be read.
    pub fn size(&self, digest: &Digest) -> Result<Option<u64>> {
        match self.reader(digest) {
            Ok(file) => {
                let metadata = file.metadata();
                let path = self.path(digest);
                Ok(Some(metadata.map_err(|error| hostfs::Error::new("stat", &path, error))?.len()))
            }
            Err(Error::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Opens a blob for reading. It was verified when it came in; [`Store::verify`] looks again.
    ///
    /// # Errors
    /// [`Error::NotFound`] when it is not there.
    pub fn reader(&self, digest: &Digest) -> Result<File> {
        match hostfs::open(&self.path(digest)) {
            Ok(file) => Ok(file),
            Err(error) if error.is_not_found() => Err(Error::NotFound(*digest)),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads a document of at most [`MAX_DOCUMENT`] bytes and checks its digest.
    ///
    /// # Errors
    /// [`Error::NotFound`], or [`Error::Mismatch`] when the disk returned other bytes than were stored.
    pub fn document(&self, digest: &Digest) -> Result<Vec<u8>> {
        let bytes = match hostfs::read_bounded(&self.path(digest), MAX_DOCUMENT) {
            Ok(bytes) => bytes,
            Err(error) if error.is_not_found() => return Err(Error::NotFound(*digest)),
            Err(error) => return Err(error.into()),
        };
        let found = digest_of(&bytes);
        if found != *digest {
            return Err(Error::Mismatch { expected: *digest, found });
        }
        Ok(bytes)
    }

    /// Hashes a blob again.
    ///
    /// # Errors
    /// [`Error::NotFound`], or [`Error::Mismatch`] when it is damaged.
    pub fn verify(&self, digest: &Digest) -> Result<()> {
        let mut file = self.reader(digest)?;
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; 256 * 1024];
        loop {
            let read = file
                .read(&mut buffer)
                .map_err(|error| hostfs::Error::new("read", &self.path(digest), error))?;
            if read == 0 {
                break;
            }
            hasher.update(&buffer[..read]);
        }
        let found = Digest::from_sha256(hasher.finalize().into());
        if found == *digest { Ok(()) } else { Err(Error::Mismatch { expected: *digest, found }) }
    }

    /// Every blob there is, in no order.
    ///
    /// # Errors
    /// [`Error::Fs`] when the directory cannot be read.
    pub fn list(&self) -> Result<Vec<Digest>> {
        let names = hostfs::read_dir(&self.blobs())?;
        Ok(names.iter().filter_map(|name| Digest::from_hex(name.to_str()?).ok()).collect())
    }

    /// Removes a blob; one that is not there is no error. Only the collector of `wharf-image` calls this.
    ///
    /// # Errors
    /// [`Error::Fs`] when the disk refuses.
    pub fn remove(&self, digest: &Digest) -> Result<()> {
        Ok(hostfs::remove_file(&self.path(digest))?)
    }

    /// Takes a damaged blob out of the way, so that nothing takes it for whole; one that is not there is no error. It
    /// lies in `damaged/` until the next one of its digest or [`Store::open`].
    ///
    /// # Errors
    /// [`Error::Fs`] when the disk refuses.
    pub fn set_aside(&self, digest: &Digest) -> Result<()> {
        let aside = self.root.join("damaged");
        hostfs::create_dir_all(&aside, 0o700)?;
        match hostfs::rename(&self.path(digest), &aside.join(digest.hex())) {
            Err(error) if !error.is_not_found() => Err(error.into()),
            _ => Ok(hostfs::sync_dir(&self.blobs())?),
        }
    }

    /// Replaces `index.json`.
    ///
    /// # Errors
    /// [`Error::Fs`] when the disk refuses; the old file stays.
    pub fn write_index(&self, index: &spec::Index) -> Result<()> {
        let path = self.root.join("index.json");
        let bytes = spec::to_json(index);
        // Most changes of names do not change what other tools see; spare them the sync.
        if hostfs::read_bounded(&path, MAX_DOCUMENT).is_ok_and(|old| old == bytes) {
            return Ok(());
        }
        Ok(hostfs::write_atomic(&path, &bytes, 0o644)?)
    }

    /// At start: nobody writes yet.
    fn sweep_ingests(&self, age: Duration) -> Result<()> {
        for name in hostfs::read_dir(&self.ingests())? {
            if name.to_str().is_none_or(|name| Digest::from_hex(name).is_err()) {
                hostfs::remove_file(&self.ingests().join(&name))?;
            }
        }
        self.forget_downloads(age)
    }

    fn blobs(&self) -> PathBuf {
        self.root.join("blobs").join(Digest::ALGORITHM)
    }

    fn ingests(&self) -> PathBuf {
        self.root.join("ingest")
    }
}

fn older_than(path: &Path, age: Duration) -> bool {
    let modified = std::fs::metadata(path).and_then(|metadata| metadata.modified());
    modified.is_ok_and(|modified| modified.elapsed().is_ok_and(|elapsed| elapsed > age))
}

/// The digest of some bytes.
#[must_use]
pub fn digest_of(bytes: &[u8]) -> Digest {
    Digest::from_sha256(Sha256::digest(bytes).into())
}
