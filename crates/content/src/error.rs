//! What can go wrong with blobs.

use wharf_linux::hostfs;
use wharf_model::{Digest, ErrorKind};

/// A content operation failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such blob.
    #[error("content {0} is not in the store")]
    NotFound(Digest),
    /// The blob's bytes are not those of its digest.
    #[error("content {expected} is damaged: its bytes have the digest {found}")]
    Mismatch {
        /// The blob's name.
        expected: Digest,
        /// The digest of what is there.
        found: Digest,
    },
    /// The disk failed.
    #[error(transparent)]
    Fs(#[from] hostfs::Error),
}

impl Error {
    /// What kind of failure this is, for the edge to map.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound(_) => ErrorKind::NotFound,
            Self::Mismatch { .. } => ErrorKind::DataLoss,
            Self::Fs(error) if error.is_full() => ErrorKind::Exhausted,
            Self::Fs(_) => ErrorKind::System,
        }
    }
}

/// Results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;
