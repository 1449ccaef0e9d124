//! What can go wrong with images.

use std::path::PathBuf;

use wharf_model::{Digest, ErrorKind};

/// An image operation failed. Nothing half-made is left behind.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No image of that name or id.
    #[error("No such image: {0}")]
    NotFound(String),
    /// No snapshot of that key.
    #[error("no such snapshot: {0}")]
    NoSnapshot(String),
    /// A snapshot of that key is there already.
    #[error("snapshot {0} exists already")]
    SnapshotExists(String),
    /// Docker's rules forbid the removal.
    #[error("conflict: {0}")]
    Conflict(String),
    /// What the user typed is no image reference.
    #[error(transparent)]
    Reference(#[from] wharf_model::reference::ReferenceError),
    /// What the user asked for makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// The archive is damaged, hostile, or of a kind we do not read.
    #[error("{what}: {reason}")]
    Archive {
        /// The archive or the entry of it.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Bytes that are not what their digest says.
    #[error("{what} is damaged: expected {expected}, found {found}")]
    Mismatch {
        /// The blob or layer.
        what: String,
        /// The digest that was promised.
        expected: Digest,
        /// The digest of what came.
        found: Digest,
    },
    /// A limit that keeps hostile archives from filling the machine.
    #[error("{what} exceeds the limit of {limit}")]
    Limit {
        /// What grew.
        what: String,
        /// The limit, with its unit.
        limit: String,
    },
    /// The disk is full.
    #[error("{op} {path}: no space left on device; free some space or move the data root, then try again")]
    Full {
        /// What was tried.
        op: String,
        /// Where.
        path: PathBuf,
    },
    /// Reading the client's stream failed.
    #[error("cannot read the archive: {0}")]
    Input(std::io::Error),
    /// Writing to the client failed.
    #[error("cannot write the archive: {0}")]
    Output(std::io::Error),
    /// The store on disk failed.
    #[error("{op} {path}: {source}")]
    Store {
        /// What was tried.
        op: String,
        /// Where.
        path: PathBuf,
        /// The kernel's reason.
        source: std::io::Error,
    },
    /// The state database failed.
    #[error(transparent)]
    State(#[from] wharf_state::Error),
    /// The store contradicts itself.
    #[error("image store: {0}; run `wharf system check`")]
    Damaged(String),
}

impl Error {
    /// What kind of failure this is, for the edge to map.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound(_) | Self::NoSnapshot(_) => ErrorKind::NotFound,
            Self::SnapshotExists(_) | Self::Conflict(_) => ErrorKind::Conflict,
            Self::Reference(_)
            | Self::Invalid(_)
            | Self::Archive { .. }
            | Self::Mismatch { .. }
            | Self::Limit { .. } => ErrorKind::InvalidParameter,
            Self::Full { .. } => ErrorKind::Exhausted,
            Self::State(error) if error.is_full() => ErrorKind::Exhausted,
            Self::Damaged(_) => ErrorKind::DataLoss,
            Self::Input(_) | Self::Output(_) | Self::Store { .. } | Self::State(_) => ErrorKind::System,
        }
    }

    /// True when the disk is full.
    #[must_use]
    pub fn is_full(&self) -> bool {
        match self {
            Self::Full { .. } => true,
            Self::State(error) => error.is_full(),
            _ => false,
        }
    }
}

/// Results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;
