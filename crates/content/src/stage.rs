//! Blobs on their way into the store.
//!
//! Most are numbered files that go away with the process. A download is called by the digest it must have: what has
//! come so far outlives a failure, a kill and a restart, and is read again instead of fetched again.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use wharf_linux::hostfs::{self, Context};
use wharf_model::Digest;

use crate::Error;

/// A blob being written and hashed. Dropped before [`Ingest::finish`], it leaves nothing, or if it is a download,
/// what has come of it.
#[derive(Debug)]
pub struct Ingest {
    file: Temporary,
    hasher: Sha256,
    size: u64,
    /// Bytes that an earlier attempt left in the file: the first ones written here are only hashed.
    kept: u64,
}

/// A whole blob with its digest, not yet visible. Dropped before [`crate::Store::publish`], it leaves nothing, or if
/// it is a download, the whole of it.
#[derive(Debug)]
pub struct Staged {
    file: Temporary,
    digest: Digest,
    size: u64,
}

/// A file that goes away unless it is renamed or resumable.
#[derive(Debug)]
struct Temporary {
    file: File,
    path: PathBuf,
    resumable: bool,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if self.resumable {
            return;
        }
        // After a rename there is nothing at this path. A failure leaves garbage that the next open sweeps.
        let _ = hostfs::remove_file(&self.path);
    }
}

impl Ingest {
    pub(crate) fn create(path: PathBuf) -> hostfs::Result<Self> {
        let file = hostfs::create_new(&path, 0o644)?;
        let file = Temporary { file, path, resumable: false };
        Ok(Self { file, hasher: Sha256::new(), size: 0, kept: 0 })
    }

    /// Goes on with the file at `path`, or begins it.
    pub(crate) fn resume(path: PathBuf) -> hostfs::Result<Self> {
        let file = hostfs::append(&path, 0o644)?;
        let kept = file.metadata().context("stat", &path)?.len();
        let file = Temporary { file, path, resumable: true };
        Ok(Self { file, hasher: Sha256::new(), size: 0, kept })
    }

    /// How many bytes an earlier attempt left. They have to be written again, read from [`Ingest::kept_reader`], so
    /// that they are hashed.
    #[must_use]
    pub fn kept(&self) -> u64 {
        self.kept
    }

    /// Reads what an earlier attempt left. Not by the file's name: an earlier attempt that waited for the other layers of
    /// its image may be publishing the whole file at this moment.
    ///
    /// # Errors
    /// [`Error::Fs`] when the file cannot be opened.
    pub fn kept_reader(&self) -> Result<File, Error> {
        let open = format!("/proc/self/fd/{}", self.file.file.as_raw_fd());
        Ok(hostfs::open(Path::new(&open))?)
    }

    /// What has come is not what was promised: nothing of it is kept.
    pub fn discard(mut self) {
        self.file.resumable = false;
    }

    /// Bytes written so far.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Names the file in an error of [`Write::write`].
    #[must_use]
    pub fn failure(&self, error: io::Error) -> Error {
        hostfs::Error::new("write", &self.file.path, error).into()
    }

    /// Asks the kernel to begin writing to disk what came since `from`, so that the final sync finds little to do.
    pub fn write_back(&self, from: u64) {
        hostfs::begin_write_back(&self.file.file, from, self.size - from);
    }

    /// The blob is whole.
    #[must_use]
    pub fn finish(self) -> Staged {
        let digest = Digest::from_sha256(self.hasher.finalize().into());
        Staged { file: self.file, digest, size: self.size }
    }
}

impl Write for Ingest {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let left = usize::try_from(self.kept.saturating_sub(self.size)).unwrap_or(usize::MAX);
        let written = match left {
            0 => self.file.file.write(bytes)?,
            left => left.min(bytes.len()),
        };
        self.hasher.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Staged {
    /// The digest of its bytes.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// How many bytes it has.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Opens the bytes for reading, before they are published.
    ///
    /// # Errors
    /// [`Error::Fs`] when the file cannot be opened.
    pub fn reader(&self) -> Result<File, Error> {
        Ok(hostfs::open(&self.file.path)?)
    }

    /// It is not what was promised: nothing of it is kept.
    pub fn discard(mut self) {
        self.file.resumable = false;
    }

    pub(crate) fn sync(&self) -> hostfs::Result<()> {
        self.file.file.sync_data().context("sync", &self.file.path)
    }

    pub(crate) fn rename(self, to: &Path) -> hostfs::Result<()> {
        match hostfs::rename(&self.file.path, to) {
            // Two operations may have brought the same download; the other one was faster.
            Err(error) if error.is_not_found() && self.file.resumable && hostfs::exists(to)? => Ok(()),
            result => result,
        }
    }
}
