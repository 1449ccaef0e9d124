//! Why something did not work.

use std::io;
use std::time::Duration;

use wharf_model::{Digest, ErrorKind};

use crate::spec::{ErrorBody, ErrorCode};

/// The result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a registry could not be used. Where the registry gave a reason, the text is its own
/// (`manifest unknown: manifest unknown`), so that callers can put it into their sentences.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The registry does not have it.
    #[error("{what}")]
    NotFound {
        /// The registry's words.
        what: String,
    },
    /// The registry does not know us, or not with this credential.
    #[error("{message}")]
    Unauthorized {
        /// Its host.
        host: String,
        /// The registry's words.
        message: String,
    },
    /// The registry knows us and says no.
    #[error("{message}")]
    Denied {
        /// Its host.
        host: String,
        /// The registry's words.
        message: String,
    },
    /// The registry wants fewer requests for longer than we wait.
    #[error("{message}")]
    TooManyRequests {
        /// Its host.
        host: String,
        /// The registry's words.
        message: String,
        /// How long it asked us to wait.
        after: Option<Duration>,
    },
    /// The registry cannot do this, or this client does not understand such content.
    #[error("{0}")]
    NotImplemented(String),
    /// The registry refused the request for another reason.
    #[error("{message}")]
    Rejected {
        /// The HTTP status.
        status: u16,
        /// Its code, where it gave one.
        code: Option<ErrorCode>,
        /// The registry's words.
        message: String,
    },
    /// The registry failed, repeatedly.
    #[error("{message}")]
    Unavailable {
        /// The HTTP status.
        status: u16,
        /// The registry's words.
        message: String,
        /// How long it asked us to wait.
        after: Option<Duration>,
    },
    /// No safe connection: a certificate is not trusted, or TLS was expected and not spoken.
    #[error("{doing}: {reason}")]
    Tls {
        /// `Get "https://host/v2/"`.
        doing: String,
        /// What is wrong with it, and what can be done.
        reason: String,
    },
    /// No connection, or it broke.
    #[error("{doing}: {reason}")]
    Network {
        /// `Get "https://host/v2/"`.
        doing: String,
        /// What happened.
        reason: String,
    },
    /// The registry stopped sending.
    #[error("{doing}: {reason}")]
    Deadline {
        /// `Get "https://host/v2/"`.
        doing: String,
        /// What did not happen in time.
        reason: String,
    },
    /// An answer that the specification does not allow.
    #[error("{host}: {what}")]
    Protocol {
        /// Who answered.
        host: String,
        /// What is wrong with it.
        what: String,
    },
    /// A step that would have led somewhere it must not (another host's local addresses, plain HTTP).
    #[error("{host}: refused to {what}")]
    Refused {
        /// Who sent us there.
        host: String,
        /// To do what, and why not.
        what: String,
    },
    /// The bytes are not those that were asked for.
    #[error("{what}: expected {expected}, found {found}")]
    Mismatch {
        /// Which document or blob.
        what: String,
        /// What was asked for.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// More than anybody needs.
    #[error("{what} is larger than the limit of {limit}")]
    Limit {
        /// What.
        what: String,
        /// How much of it is allowed.
        limit: u64,
    },
    /// A setting of ours is wrong.
    #[error("{0}")]
    Config(String),
    /// A certificate or `hosts.toml` of ours could not be read.
    #[error(transparent)]
    Fs(#[from] wharf_linux::hostfs::Error),
    /// The bytes to upload could not be read.
    #[error("reading {what} for the upload: {source}")]
    Source {
        /// Which blob.
        what: Digest,
        /// Why.
        source: io::Error,
    },
}

impl Error {
    /// The sort of the failure.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::Unauthorized { .. } | Self::Denied { .. } | Self::Refused { .. } => ErrorKind::Forbidden,
            Self::TooManyRequests { .. } | Self::Unavailable { .. } | Self::Network { .. } => {
                ErrorKind::Unavailable
            }
            Self::NotImplemented(_) => ErrorKind::NotImplemented,
            Self::Rejected { .. } | Self::Config(_) => ErrorKind::InvalidParameter,
            Self::Deadline { .. } => ErrorKind::Deadline,
            Self::Mismatch { .. } => ErrorKind::DataLoss,
            Self::Tls { .. }
            | Self::Protocol { .. }
            | Self::Limit { .. }
            | Self::Fs(_)
            | Self::Source { .. } => ErrorKind::System,
        }
    }

    /// Whether the same request may succeed a moment later.
    pub(crate) fn is_passing(&self) -> bool {
        matches!(
            self,
            Self::Network { .. }
                | Self::Deadline { .. }
                | Self::Unavailable { .. }
                | Self::TooManyRequests { .. }
        )
    }

    /// Whether nobody is there at all.
    pub(crate) fn is_nobody(&self) -> bool {
        matches!(self, Self::Network { reason, .. } if reason.ends_with("connection refused") || reason.ends_with("no such host"))
    }

    /// What an answer with a status that is no success means. `host` answered; `body` may be anything.
    pub(crate) fn of_answer(host: &str, status: u16, body: &[u8], after: Option<Duration>) -> Self {
        let parsed = ErrorBody::parse(body);
        let code = parsed.as_ref().and_then(|body| body.errors.first()).map(|entry| entry.code);
        let says = |fallback: ErrorCode| match &parsed {
            Some(body) => body.to_string().trim_end().to_owned(),
            None => ErrorBody::new(fallback, "").to_string(),
        };
        let host = host.to_owned();
        match status {
            401 => Self::Unauthorized { host, message: says(ErrorCode::Unauthorized) },
            403 => Self::Denied { host, message: says(ErrorCode::Denied) },
            404 => Self::NotFound {
                what: match parsed {
                    Some(_) => says(ErrorCode::NameUnknown),
                    None => format!("{host}: not found"),
                },
            },
            405 | 501 => Self::NotImplemented(says(ErrorCode::Unsupported)),
            429 => Self::TooManyRequests { host, message: says(ErrorCode::TooManyRequests), after },
            408 | 500..=599 => Self::Unavailable {
                status,
                after,
                message: match parsed {
                    Some(_) => says(ErrorCode::Unknown),
                    None => format!("received unexpected HTTP status: {status} from {host}"),
                },
            },
            _ => Self::Rejected {
                status,
                code,
                message: match parsed {
                    Some(_) => says(ErrorCode::Unknown),
                    None => format!("received unexpected HTTP status: {status} from {host}"),
                },
            },
        }
    }
}
