//! What can go wrong with images.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use wharf_content as content;
use wharf_linux::hostfs;
use wharf_model::{Digest, ErrorKind};

/// An image operation failed. Nothing half-made is left behind.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No image of that name or id.
    #[error("No such image: {0}")]
    NotFound(String),
    /// No image of that name to save; Docker says it so.
    #[error("reference does not exist")]
    NoReference,
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
    Input(io::Error),
    /// Writing to the client failed.
    #[error("cannot write the archive: {0}")]
    Output(io::Error),
    /// The store on disk failed.
    #[error("{op} {path}: {source}")]
    Store {
        /// What was tried.
        op: String,
        /// Where.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// No image for the platform in an index; Docker says it so.
    #[error("no matching manifest for {0} in the manifest list entries")]
    NoPlatform(String),
    /// The image is of another platform than the one that was asked for; Docker says it so.
    #[error(
        "image with reference {name} was found but its platform ({found}) does not match the specified platform ({wanted})"
    )]
    OtherPlatform {
        /// Its name.
        name: String,
        /// Its platform.
        found: String,
        /// The one that was asked for.
        wanted: String,
    },
    /// An image that cannot run here.
    #[error("{0}")]
    Unsupported(String),
    /// No image of the name that is to be pushed; Docker says it so.
    #[error("An image does not exist locally with the tag: {0}")]
    NothingToPush(String),
    /// A registry refused, failed or could not be reached.
    #[error("{what}: {source}")]
    Registry {
        /// The image or layer.
        what: String,
        /// What the registry or the network said.
        source: Box<wharf_registry::Error>,
    },
    /// What stopped a transfer that several wait for.
    #[error(transparent)]
    Shared(#[from] Arc<Error>),
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
            Self::NotFound(_) | Self::NoReference | Self::NoSnapshot(_) => ErrorKind::NotFound,
            Self::NoPlatform(_) | Self::OtherPlatform { .. } | Self::NothingToPush(_) => ErrorKind::NotFound,
            Self::Registry { source, .. } => source.kind(),
            Self::Shared(error) => error.kind(),
            Self::SnapshotExists(_) | Self::Conflict(_) => ErrorKind::Conflict,
            Self::Reference(_)
            | Self::Invalid(_)
            | Self::Unsupported(_)
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
            Self::Shared(error) => error.is_full(),
            _ => false,
        }
    }

    /// A fault of an archive as a whole or of a named part of it.
    pub(crate) fn archive(what: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Archive { what: what.into(), reason: reason.into() }
    }

    /// A fault of the entry being unpacked; [`Error::in_entry`] adds which.
    pub(crate) fn entry(reason: &str) -> Self {
        Self::archive("", reason)
    }

    pub(crate) fn limit(what: &str, limit: u64) -> Self {
        Self::Limit { what: what.to_owned(), limit: limit.to_string() }
    }

    /// A failure to read a stream: damaged data is the archive's fault, anything else the connection's.
    pub(crate) fn input(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
                Self::archive("invalid archive", error.to_string())
            }
            _ => Self::Input(error),
        }
    }

    /// Names the entry of an archive that caused the failure, unless the machine did.
    pub(crate) fn in_entry(self, entry: &[u8]) -> Self {
        let named = || format!("tar entry {:?}", String::from_utf8_lossy(&entry[..entry.len().min(200)]));
        match self {
            Self::Archive { what, reason } if what.is_empty() => Self::Archive { what: named(), reason },
            Self::Store { op, path, source } if is_caused_by_content(&source) => {
                let reason = format!("cannot {op} {}: {source}", path.display());
                Self::Archive { what: named(), reason }
            }
            other => other,
        }
    }
}

impl Error {
    /// Names the layer whose content is at fault.
    pub(crate) fn in_layer(self, name: &str) -> Self {
        match self {
            Self::Archive { what, reason } if what.is_empty() => {
                Self::archive(format!("layer {name:?}"), reason)
            }
            Self::Archive { what, reason } => Self::archive(format!("layer {name:?}: {what}"), reason),
            other => other,
        }
    }
}

/// Whether the kernel refused because of names, links or types in the archive rather than the state of the machine.
fn is_caused_by_content(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::IsADirectory
            | io::ErrorKind::AlreadyExists
            | io::ErrorKind::InvalidFilename
            | io::ErrorKind::InvalidInput
            | io::ErrorKind::FileTooLarge
            | io::ErrorKind::TooManyLinks
            | io::ErrorKind::ArgumentListTooLong
    ) || error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error())
        || error.raw_os_error() == Some(rustix::io::Errno::RANGE.raw_os_error())
}

impl From<hostfs::Error> for Error {
    fn from(error: hostfs::Error) -> Self {
        let full = error.is_full();
        let hostfs::Error { op, path, source } = error;
        if full {
            Self::Full { op: op.to_owned(), path }
        } else {
            Self::Store { op: op.to_owned(), path, source }
        }
    }
}

impl From<wharf_archive::pack::Error> for Error {
    fn from(error: wharf_archive::pack::Error) -> Self {
        match error {
            wharf_archive::pack::Error::File(error) => error.into(),
            wharf_archive::pack::Error::Output(error) => Self::Output(error),
        }
    }
}

impl From<content::Error> for Error {
    fn from(error: content::Error) -> Self {
        match error {
            content::Error::Fs(error) => error.into(),
            content::Error::NotFound(digest) => Self::Damaged(format!("content {digest} is missing")),
            content::Error::Mismatch { expected, found } => {
                Self::Mismatch { what: "stored content".to_owned(), expected, found }
            }
        }
    }
}

impl From<wharf_state::rusqlite::Error> for Error {
    fn from(error: wharf_state::rusqlite::Error) -> Self {
        Self::State(error.into())
    }
}

/// Results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;
