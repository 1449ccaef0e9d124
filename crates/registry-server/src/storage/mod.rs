//! Where the bytes are: the two seams below the registry.
//!
//! [`Blobs`] hold content by digest, [`Records`] small values by key. Neither knows what a repository is; `records.rs`
//! of this crate defines the keys. An implementation passes [`conformance`].
//!
//! What the registry counts on, and nothing more:
//! - *Durable.* What returned `Ok` is there after a power cut, except [`Blobs::append`], whose bytes may be lost from the
//!   end as long as [`Blobs::length`] says so.
//! - *Verified.* A blob is visible only whole and under its own digest.
//! - *Each change is whole.* One change of [`Records::write`] happens or does not; the changes of one call take effect
//!   in their order, and a crash may cut the list short. The local storage gives more (all or nothing), an object store
//!   cannot, so the registry orders its changes such that every prefix of a list is a state it can live with.
//! - *Read your writes.* What one call wrote, the next one reads.
//!
//! Keys are made of `[A-Za-z0-9._-]` and `/`, have at most 600 bytes and are ordered by bytes. A prefix ends with `/`.

#[cfg(test)]
pub(crate) mod conformance;
mod local;
mod s3;

use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use wharf_model::Digest;

pub use local::Local;
pub use s3::{Bucket, S3};

/// Bytes in pieces. An error of a stream that a client sends is the client's.
pub type Pieces<'a> = BoxStream<'a, io::Result<Bytes>>;

/// Where a registry keeps everything.
#[derive(Clone)]
pub struct Storage {
    /// Content by digest.
    pub blobs: Arc<dyn Blobs>,
    /// Small values by key.
    pub records: Arc<dyn Records>,
}

/// Content by digest, and content on its way in.
pub trait Blobs: Send + Sync {
    /// Adds to an upload, which begins with its first bytes, and returns how many it has then. What came before an error
    /// of `pieces` is kept. The registry never has two calls for one upload at the same time.
    ///
    /// # Errors
    /// [`Error::Body`] when `pieces` failed; [`Error::Offset`] when the upload has not `offset` bytes.
    fn append<'a>(&'a self, upload: UploadId, offset: u64, pieces: Pieces<'a>) -> BoxFuture<'a, Result<u64>>;
    /// How many bytes an upload has: what a client may go on from. 0 for one that was never begun.
    fn length(&self, upload: UploadId) -> BoxFuture<'_, Result<u64>>;
    /// Ends an upload: its bytes are the blob `digest`. Returns the blob's size when it is durable.
    ///
    /// # Errors
    /// [`Error::Mismatch`] when the bytes have another digest; the upload is gone then.
    fn commit(&self, upload: UploadId, digest: Digest) -> BoxFuture<'_, Result<u64>>;
    /// Ends an upload and forgets its bytes. One that is not there is no error.
    fn discard(&self, upload: UploadId) -> BoxFuture<'_, Result<()>>;
    /// The size of a blob, if it is there.
    fn size(&self, digest: Digest) -> BoxFuture<'_, Result<Option<u64>>>;
    /// The bytes `range` of a blob, which lies within it. A blob that is removed meanwhile is read to its end.
    ///
    /// # Errors
    /// [`Error::NotFound`] when it is not there.
    fn read(&self, digest: Digest, range: Range<u64>) -> BoxFuture<'_, Result<Pieces<'static>>>;
    /// Removes a blob. One that is not there is no error.
    fn remove(&self, digest: Digest) -> BoxFuture<'_, Result<()>>;
    /// Blobs with their sizes in the order of their digests, at most `limit`, beginning after `after`.
    fn list(&self, after: Option<Digest>, limit: usize) -> BoxFuture<'_, Result<Vec<(Digest, u64)>>>;
}

/// Small values (at most some 4 MiB) by key.
pub trait Records: Send + Sync {
    /// A value.
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Bytes>>>;
    /// What follows `prefix` in the keys that begin with it, in order, at most `limit`, beginning after `after`.
    fn list<'a>(
        &'a self,
        prefix: &'a str,
        after: &'a str,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<String>>>;
    /// Changes records; returns when it is durable.
    fn write(&self, changes: Vec<Change>) -> BoxFuture<'_, Result<()>>;
}

/// A change of one record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Sets a value, whether or not there was one.
    Put(String, Bytes),
    /// Removes a value, if there is one.
    Delete(String),
}

/// What a client calls an upload: 32 random bytes as 64 hexadecimal digits, so that nobody guesses another's.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct UploadId(Digest);

impl UploadId {
    /// A new one.
    ///
    /// # Errors
    /// [`Error::Other`] when the kernel has no random numbers.
    pub fn random() -> Result<Self> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(|error| Error::other("random numbers", error))?;
        Ok(Self(Digest::from_sha256(bytes)))
    }

    /// Reads the form that [`fmt::Display`] writes, and no other.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Digest::from_hex(text).ok().map(Self)
    }

    /// The 32 bytes, in the type that can name a file.
    pub(crate) fn as_digest(&self) -> &Digest {
        &self.0
    }
}

impl fmt::Display for UploadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.hex())
    }
}

impl fmt::Debug for UploadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What can go wrong below the registry.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such blob.
    #[error("blob {0} is not in the storage")]
    NotFound(Digest),
    /// The bytes are not those of the digest.
    #[error("the bytes have the digest {found}, not {expected}")]
    Mismatch {
        /// What was promised.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// Bytes for the wrong place.
    #[error("the upload goes on at byte {length}")]
    Offset {
        /// How many bytes the upload has.
        length: u64,
    },
    /// The client stopped sending, or sent nonsense.
    #[error("reading the body: {0}")]
    Body(io::Error),
    /// The disk or the bucket is full.
    #[error("the storage is full: {0}")]
    Full(String),
    /// Anything else.
    #[error("{what}: {source}")]
    Other {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Error {
    /// An error without a name of its own.
    pub fn other(what: &str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Other { what: what.to_owned(), source: source.into() }
    }
}

/// Results of a storage.
pub type Result<T, E = Error> = std::result::Result<T, E>;
