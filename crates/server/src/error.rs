//! Failures as they leave this process: a status and Docker's error document. The one mapping of [`ErrorKind`] to HTTP.

use axum::response::{IntoResponse, Response};
use http::StatusCode;
use wharf_api::models::ErrorResponse;
use wharf_model::ErrorKind;

use crate::response;

/// The result of a handler.
pub(crate) type Result<T> = std::result::Result<T, Failure>;

/// A request that could not be answered as asked.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) status: StatusCode,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    /// The request itself is wrong.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// Something this engine does not do.
    pub(crate) fn not_implemented(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_IMPLEMENTED, message)
    }

    /// No such route: also for a known path with a method it does not have, as Docker answers.
    pub(crate) fn no_route() -> Self {
        Self::new(StatusCode::NOT_FOUND, NO_ROUTE)
    }
}

const NO_ROUTE: &str = "page not found";

/// Marks the answer to [`Failure::no_route`], which has none of the usual headers.
#[derive(Clone, Copy)]
pub(crate) struct NoRoute;

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        if self.status == StatusCode::NOT_MODIFIED {
            return self.status.into_response();
        }
        if self.status == StatusCode::INTERNAL_SERVER_ERROR {
            tracing::error!("{}", self.message);
        }
        let no_route = self.status == StatusCode::NOT_FOUND && self.message == NO_ROUTE;
        let mut response = response::json(self.status, &ErrorResponse { message: self.message });
        if no_route {
            response.extensions_mut().insert(NoRoute);
        }
        response
    }
}

impl From<wharf_engine::Error> for Failure {
    fn from(error: wharf_engine::Error) -> Self {
        Self::new(status_of(error.kind()), error.to_string())
    }
}

/// The status of a failure. Docker answers 500, not 504 and 507, to what timed out or filled up.
fn status_of(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::InvalidParameter => StatusCode::BAD_REQUEST,
        ErrorKind::NotFound => StatusCode::NOT_FOUND,
        ErrorKind::Conflict => StatusCode::CONFLICT,
        ErrorKind::NotModified => StatusCode::NOT_MODIFIED,
        ErrorKind::Forbidden => StatusCode::FORBIDDEN,
        ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorKind::NotImplemented => StatusCode::NOT_IMPLEMENTED,
        ErrorKind::Deadline | ErrorKind::DataLoss | ErrorKind::Exhausted | ErrorKind::System => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_a_document_with_a_message() {
        let response = Failure::from(wharf_engine::Error::NoSuchContainer("web".into())).into_response();
        assert_eq!(response.status(), StatusCode::NOT_FOUND);
        assert_eq!(response.headers()[http::header::CONTENT_TYPE], "application/json");
    }

    #[test]
    fn not_modified_has_no_body() {
        let response = Failure::from(wharf_engine::Error::NotModified("already".into())).into_response();
        assert_eq!(response.status(), StatusCode::NOT_MODIFIED);
        assert!(response.headers().get(http::header::CONTENT_TYPE).is_none());
    }
}
