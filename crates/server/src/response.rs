//! Encoding: JSON documents, streams of them, and byte streams.

use std::convert::Infallible;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::Stream;
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use serde_json::Value;

use crate::shape::{Shape, Shaped};

/// A JSON document and a line break, as Docker ends its own.
pub(crate) fn json(status: StatusCode, document: &impl Serialize) -> Response {
    encoded(status, line(document))
}

fn encoded(status: StatusCode, document: serde_json::Result<Bytes>) -> Response {
    match document {
        Ok(bytes) => {
            let mut response = Response::new(Body::from(bytes));
            *response.status_mut() = status;
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            response
        }
        Err(error) => {
            tracing::error!("encoding an answer: {error}");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// A list that is encoded element by element, each while its owner shows it.
pub(crate) struct List {
    bytes: Vec<u8>,
    failed: Option<serde_json::Error>,
}

impl Default for List {
    fn default() -> Self {
        Self { bytes: vec![b'['], failed: None }
    }
}

impl List {
    /// Adds an element.
    pub(crate) fn push(&mut self, element: &impl Serialize) {
        if self.bytes.len() > 1 {
            self.bytes.push(b',');
        }
        if let Err(error) = serde_json::to_writer(&mut self.bytes, element) {
            self.failed = Some(error);
        }
    }

    /// 200 with what was added.
    pub(crate) fn finish(mut self) -> Response {
        self.bytes.extend_from_slice(b"]\n");
        encoded(StatusCode::OK, self.failed.map_or(Ok(self.bytes.into()), Err))
    }
}

/// 200 with a document.
pub(crate) fn ok(document: &impl Serialize) -> Response {
    json(StatusCode::OK, document)
}

/// 200 with a document in its shape.
pub(crate) fn shaped(document: &impl Serialize, shape: Shape) -> Response {
    ok(&Shaped::one(&value(document), shape))
}

/// 200 with a list of documents in their shape.
pub(crate) fn shaped_list(documents: &impl Serialize, shape: Shape) -> Response {
    ok(&Shaped::each(&value(documents), shape))
}

/// A document as a value. Models are plain data with text keys, which always encode.
pub(crate) fn value(document: &impl Serialize) -> Value {
    serde_json::to_value(document).unwrap_or_default()
}

/// 204.
pub(crate) fn no_content() -> Response {
    empty(StatusCode::NO_CONTENT)
}

/// A status alone.
pub(crate) fn empty(status: StatusCode) -> Response {
    status.into_response()
}

/// A document as one line of a stream.
pub(crate) fn line(document: &impl Serialize) -> serde_json::Result<Bytes> {
    let mut bytes = serde_json::to_vec(document)?;
    bytes.push(b'\n');
    Ok(bytes.into())
}

/// An answer whose body comes piece by piece. Nothing is produced before the client has taken what came before, and
/// when it leaves, the stream is dropped.
pub(crate) fn stream(
    content_type: &'static str,
    body: impl Stream<Item = Result<Bytes, Infallible>> + Send + 'static,
) -> Response {
    let mut response = Response::new(Body::from_stream(body));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// A stream made by calling `next` until it gives nothing. `next` gets the state back with each piece.
pub(crate) fn pieces<S, F, Fut>(state: S, mut next: F) -> impl Stream<Item = Result<Bytes, Infallible>>
where
    F: FnMut(S) -> Fut,
    Fut: Future<Output = Option<(Bytes, S)>>,
{
    futures_util::stream::unfold(state, move |state| {
        let step = next(state);
        async move { step.await.map(|(bytes, state)| (Ok(bytes), state)) }
    })
}
