//! Blobs on their way into the store.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use wharf_linux::hostfs::{self, Context};
use wharf_model::Digest;

use crate::Error;

/// A blob being written and hashed. Dropped before [`Ingest::finish`], it leaves nothing.
#[derive(Debug)]
pub struct Ingest {
    file: Temporary,
    hasher: Sha256,
    size: u64,
}

/// A whole blob with its digest, not yet visible. Dropped before [`crate::Store::publish`], it leaves nothing.
#[derive(Debug)]
pub struct Staged {
    file: Temporary,
    digest: Digest,
    size: u64,
}

/// A file that goes away unless it is renamed.
#[derive(Debug)]
struct Temporary {
    file: File,
    path: PathBuf,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // After a rename there is nothing at this path. A failure leaves garbage that the next open sweeps.
        let _ = hostfs::remove_file(&self.path);
    }
}

impl Ingest {
    pub(crate) fn create(path: PathBuf) -> hostfs::Result<Self> {
        let file = hostfs::create_new(&path, 0o644)?;
        Ok(Self { file: Temporary { file, path }, hasher: Sha256::new(), size: 0 })
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
        let written = self.file.file.write(bytes)?;
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

    pub(crate) fn sync(&self) -> hostfs::Result<()> {
        self.file.file.sync_data().context("sync", &self.file.path)
    }

    pub(crate) fn rename(self, to: &Path) -> hostfs::Result<()> {
        hostfs::rename(&self.file.path, to)
    }
}
