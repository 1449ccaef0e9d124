//! Requests, built step by step.

use std::{fmt, io};

use bytes::Bytes;
use futures_util::{Stream, TryStreamExt};
use http::{HeaderMap, HeaderValue, Method, header};
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Frame;
use serde::Serialize;

use super::Error;

/// The body of a request as hyper wants it.
pub(super) type WireBody = UnsyncBoxBody<Bytes, io::Error>;

pub(super) enum Body {
    Bytes(Bytes),
    Stream(WireBody),
}

/// One request, built step by step.
pub struct Request {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) query: String,
    pub(super) headers: HeaderMap,
    pub(super) body: Body,
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}?{}", self.method, self.path, self.query)
    }
}

impl Request {
    fn new(method: Method, path: impl Into<String>) -> Self {
        Self {
            method,
            path: path.into(),
            query: String::new(),
            headers: HeaderMap::new(),
            body: Body::Bytes(Bytes::new()),
        }
    }

    /// `GET path`; parts of the path that come from a user go through [`escape`].
    pub fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path)
    }

    /// `HEAD path`.
    pub fn head(path: impl Into<String>) -> Self {
        Self::new(Method::HEAD, path)
    }

    /// `POST path`.
    pub fn post(path: impl Into<String>) -> Self {
        Self::new(Method::POST, path)
    }

    /// `PUT path`.
    pub fn put(path: impl Into<String>) -> Self {
        Self::new(Method::PUT, path)
    }

    /// `DELETE path`.
    pub fn delete(path: impl Into<String>) -> Self {
        Self::new(Method::DELETE, path)
    }

    /// Adds a query parameter.
    #[must_use]
    pub fn query(mut self, key: &str, value: impl AsRef<str>) -> Self {
        if !self.query.is_empty() {
            self.query.push('&');
        }
        self.query.push_str(&escape(key));
        self.query.push('=');
        self.query.push_str(&escape(value.as_ref()));
        self
    }

    /// Adds a query parameter unless the value is empty, which is how the API spells "not given".
    #[must_use]
    pub fn query_if(self, key: &str, value: impl AsRef<str>) -> Self {
        if value.as_ref().is_empty() { self } else { self.query(key, value) }
    }

    /// Adds `key=1` if `set`.
    #[must_use]
    pub fn flag(self, key: &str, set: bool) -> Self {
        if set { self.query(key, "1") } else { self }
    }

    /// Sets a header; a value that HTTP forbids is left out.
    #[must_use]
    pub fn header(mut self, name: header::HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(name, value);
        }
        self
    }

    /// Sets a JSON body.
    ///
    /// # Errors
    /// When the value cannot be written as JSON.
    pub fn json<T: Serialize>(mut self, value: &T) -> Result<Self, Error> {
        let bytes =
            serde_json::to_vec(value).map_err(|source| Error::Decode { path: self.path.clone(), source })?;
        self.body = Body::Bytes(bytes.into());
        self.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Ok(self)
    }

    /// Sets a body that is sent as it is produced; such a request is never sent twice.
    #[must_use]
    pub fn stream(mut self, body: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> Self {
        self.body = Body::Stream(BodyExt::boxed_unsync(StreamBody::new(body.map_ok(Frame::data))));
        self.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-tar"));
        self
    }
}

/// Escapes text for one segment of a path or one part of a query.
#[must_use]
pub fn escape(text: &str) -> String {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(byte as char);
        } else {
            out.push('%');
            out.push(HEX[usize::from(byte >> 4)] as char);
            out.push(HEX[usize::from(byte & 15)] as char);
        }
    }
    out
}
