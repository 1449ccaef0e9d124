//! What a client may be told, with the specification's codes.

use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use http::{HeaderName, StatusCode};
use wharf_model::{Digest, ErrorKind};
use wharf_registry::spec::{ErrorBody, ErrorCode};

use crate::access::Refusal;
use crate::storage;

/// A request failed.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the specification's names, with their texts")]
pub enum Error {
    #[error("{0}")]
    NameInvalid(String),
    #[error("repository {0} is not known to this registry")]
    NameUnknown(String),
    #[error("blob {0} is not known to this repository")]
    BlobUnknown(Digest),
    #[error("manifest {0} is not known to this repository")]
    ManifestUnknown(String),
    #[error("{0}")]
    ManifestInvalid(String),
    #[error("the manifest names {0}, which this repository does not have; push it first")]
    ManifestBlobUnknown(Digest),
    #[error("upload {0} is not known to this repository; it has ended or expired")]
    UploadUnknown(String),
    #[error("{0}")]
    UploadInvalid(String),
    /// A chunk for another place than the next.
    #[error("the upload has {length} bytes; send what follows")]
    UploadRange { length: u64, location: String },
    #[error("{0}")]
    DigestInvalid(String),
    /// Something is larger than the operator allows: 413.
    #[error("{0}")]
    TooLarge(String),
    /// A length that contradicts itself: 400.
    #[error("{0}")]
    SizeInvalid(String),
    #[error("the range lies outside the {size} bytes of the blob")]
    RangeUnsatisfiable { size: u64 },
    #[error("{0}")]
    Denied(String),
    #[error("{reason}")]
    Unauthorized { header: String, reason: String },
    #[error("{0}")]
    Unsupported(String),
    /// A path that is none of the specification's.
    #[error("{0} is not an address of this registry")]
    NoEndpoint(String),
    /// A parameter that means nothing.
    #[error("{0}")]
    Parameter(String),
    #[error("{0}")]
    TooManyRequests(String),
    #[error("no bytes came for too long")]
    Timeout,
    /// A registry that this one is a cache of does not answer: 502.
    #[error("{0}")]
    Upstream(String),
    #[error(transparent)]
    Storage(storage::Error),
}

/// Results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// What kind of failure this is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self.status().as_u16() {
            401 | 403 => ErrorKind::Forbidden,
            404 => ErrorKind::NotFound,
            405 => ErrorKind::NotImplemented,
            408 => ErrorKind::Deadline,
            409 => ErrorKind::Conflict,
            429 | 502 | 503 => ErrorKind::Unavailable,
            507 => ErrorKind::Exhausted,
            500 => ErrorKind::System,
            _ => ErrorKind::InvalidParameter,
        }
    }

    fn code(&self) -> ErrorCode {
        match self {
            Self::NameInvalid(_) => ErrorCode::NameInvalid,
            Self::NameUnknown(_) => ErrorCode::NameUnknown,
            Self::BlobUnknown(_) | Self::Storage(storage::Error::NotFound(_)) => ErrorCode::BlobUnknown,
            Self::ManifestUnknown(_) => ErrorCode::ManifestUnknown,
            Self::ManifestInvalid(_) => ErrorCode::ManifestInvalid,
            Self::ManifestBlobUnknown(_) => ErrorCode::ManifestBlobUnknown,
            Self::UploadUnknown(_) => ErrorCode::BlobUploadUnknown,
            Self::UploadInvalid(_) | Self::UploadRange { .. } | Self::Timeout => ErrorCode::BlobUploadInvalid,
            Self::Storage(storage::Error::Offset { .. } | storage::Error::Body(_)) => {
                ErrorCode::BlobUploadInvalid
            }
            Self::DigestInvalid(_) | Self::Storage(storage::Error::Mismatch { .. }) => {
                ErrorCode::DigestInvalid
            }
            Self::TooLarge(_) | Self::SizeInvalid(_) => ErrorCode::SizeInvalid,
            Self::Denied(_) | Self::Storage(storage::Error::Full(_)) => ErrorCode::Denied,
            Self::Unauthorized { .. } => ErrorCode::Unauthorized,
            Self::Unsupported(_) | Self::NoEndpoint(_) | Self::Parameter(_) => ErrorCode::Unsupported,
            Self::TooManyRequests(_) => ErrorCode::TooManyRequests,
            Self::RangeUnsatisfiable { .. }
            | Self::Upstream(_)
            | Self::Storage(storage::Error::Other { .. }) => ErrorCode::Unknown,
        }
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::NameUnknown(_)
            | Self::NoEndpoint(_)
            | Self::BlobUnknown(_)
            | Self::ManifestUnknown(_)
            | Self::UploadUnknown(_)
            | Self::Storage(storage::Error::NotFound(_)) => StatusCode::NOT_FOUND,
            Self::NameInvalid(_)
            | Self::ManifestInvalid(_)
            | Self::ManifestBlobUnknown(_)
            | Self::UploadInvalid(_)
            | Self::DigestInvalid(_)
            | Self::SizeInvalid(_)
            | Self::Parameter(_)
            | Self::Storage(storage::Error::Mismatch { .. } | storage::Error::Body(_)) => {
                StatusCode::BAD_REQUEST
            }
            Self::UploadRange { .. }
            | Self::RangeUnsatisfiable { .. }
            | Self::Storage(storage::Error::Offset { .. }) => StatusCode::RANGE_NOT_SATISFIABLE,
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Denied(_) => StatusCode::FORBIDDEN,
            Self::Unauthorized { .. } => StatusCode::UNAUTHORIZED,
            Self::Unsupported(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::TooManyRequests(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::Timeout => StatusCode::REQUEST_TIMEOUT,
            Self::Upstream(_) => StatusCode::BAD_GATEWAY,
            Self::Storage(storage::Error::Full(_)) => StatusCode::INSUFFICIENT_STORAGE,
            Self::Storage(storage::Error::Other { .. }) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The text for the client. Paths and reasons of the machine are for the operator's log.
    fn text(&self) -> String {
        match self {
            Self::Storage(storage::Error::Full(_)) => "the registry's storage is full".to_owned(),
            Self::Storage(storage::Error::Other { .. }) => "the registry's storage failed".to_owned(),
            Self::Storage(storage::Error::Body(_)) => "the body ended before it was whole".to_owned(),
            other => other.to_string(),
        }
    }
}

/// A body that stopped coming is told apart from one that broke.
impl From<storage::Error> for Error {
    fn from(error: storage::Error) -> Self {
        match error {
            storage::Error::Body(error) if error.kind() == std::io::ErrorKind::TimedOut => Self::Timeout,
            other => Self::Storage(other),
        }
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Challenge { header, reason } => Self::Unauthorized { header, reason },
            Refusal::Denied(reason) => Self::Denied(reason),
            Refusal::Busy(reason) => Self::TooManyRequests(reason),
        }
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        if matches!(self, Self::Storage(storage::Error::Full(_) | storage::Error::Other { .. })) {
            tracing::error!(error = %self, "a request failed");
        }
        let body = ErrorBody::new(self.code(), self.text()).to_json();
        let mut response = (self.status(), [(CONTENT_TYPE, "application/json")], body).into_response();
        let mut header = |name: HeaderName, value: String| {
            if let Ok(value) = HeaderValue::try_from(value) {
                response.headers_mut().insert(name, value);
            }
        };
        match self {
            Self::Unauthorized { header: challenge, .. } => header(WWW_AUTHENTICATE, challenge),
            Self::RangeUnsatisfiable { size } => {
                header(http::header::CONTENT_RANGE, format!("bytes */{size}"))
            }
            Self::UploadRange { length, location } => {
                header(http::header::RANGE, format!("0-{}", length.saturating_sub(1)));
                header(http::header::LOCATION, location);
            }
            Self::TooManyRequests(_) => header(http::header::RETRY_AFTER, "5".to_owned()),
            _ => {}
        }
        response
    }
}
