//! A small client of the Docker Engine API: HTTP/1.1 over a unix socket, TCP, TLS, or a program's standard streams.
//!
//! Contract:
//! - A [`Client`] keeps the connections it opened and reuses one as soon as its last response was read to the end, so a
//!   command line usually needs a single `connect`.
//! - Paths are given without a version. The version starts at [`Client::NEWEST_VERSION`] without asking; an engine that
//!   answers "too new" tells its own, the request is sent again with it, and it stays for the life of the client.
//! - A status of 400 and more is an [`Error::Api`]; callers see only successful responses.
//! - [`Client::hijack`] hands out the bare connection (attach, exec). Dropping it closes it.

mod endpoint;
mod request;
mod socket;

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::Incoming,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;

use self::request::{Body, WireBody};
pub use self::{
    endpoint::Endpoint,
    request::{Request, escape},
    socket::Socket,
};
use crate::stream::JsonDocuments;

/// What went wrong between this process and the engine.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address of the engine cannot be understood.
    #[error("unable to parse docker host `{0}`")]
    Endpoint(String),
    /// Nothing accepts connections at the endpoint.
    #[error("cannot connect to {endpoint}: {source}")]
    Connect {
        /// Where the connection was tried.
        endpoint: Endpoint,
        /// What the kernel said.
        source: io::Error,
    },
    /// Somebody accepts connections at the endpoint, and they come to nothing.
    #[error("{endpoint}: {source}")]
    Reach {
        /// Where the connection went.
        endpoint: Endpoint,
        /// What went wrong with it.
        source: io::Error,
    },
    /// The engine answered with an error.
    #[error("{message}")]
    Api {
        /// The HTTP status.
        status: u16,
        /// The engine's words.
        message: String,
    },
    /// The connection broke or did not speak HTTP.
    #[error("{0}")]
    Transport(#[from] hyper::Error),
    /// The bytes of a body could not be moved.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The engine's answer has an unexpected shape.
    #[error("unexpected response from the engine to {path}: {source}")]
    Decode {
        /// The request that was answered.
        path: String,
        /// What does not fit.
        source: serde_json::Error,
    },
    /// A request that cannot be written as HTTP.
    #[error("invalid request: {0}")]
    Request(#[from] http::Error),
}

impl Error {
    /// The HTTP status if the engine itself refused.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Api { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// Whether the engine said that the thing does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.status() == Some(StatusCode::NOT_FOUND.as_u16())
    }
}

/// A successful response whose body has not been read yet.
#[derive(Debug)]
pub struct Response {
    path: String,
    inner: http::Response<Incoming>,
}

impl Response {
    /// The HTTP status, below 400.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.inner.status()
    }

    /// The response's headers.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        self.inner.headers()
    }

    /// The media type without parameters, or nothing.
    #[must_use]
    pub fn media_type(&self) -> &str {
        media_type(self.inner.headers())
    }

    /// Reads the whole body.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn bytes(self) -> Result<Bytes, Error> {
        Ok(self.inner.into_body().collect().await?.to_bytes())
    }

    /// Reads the whole body as JSON.
    ///
    /// # Errors
    /// When the connection breaks or the document has another shape.
    pub async fn json<T: DeserializeOwned>(self) -> Result<T, Error> {
        self.decode(|bytes| serde_json::from_slice(bytes)).await
    }

    /// Reads the body to its end as a JSON document, in a way of the caller's.
    ///
    /// # Errors
    /// As [`Response::json`].
    pub async fn decode<T>(self, read: impl FnOnce(&[u8]) -> serde_json::Result<T>) -> Result<T, Error> {
        let path = self.path;
        let bytes = self.inner.into_body().collect().await?.to_bytes();
        read(&bytes).map_err(|source| Error::Decode { path, source })
    }

    /// The next piece of the body, or `None` at its end.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        while let Some(frame) = self.inner.body_mut().frame().await {
            if let Ok(data) = frame?.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }

    /// The body as a stream of JSON documents.
    #[must_use]
    pub fn documents(self) -> Documents {
        Documents { response: self, decoder: JsonDocuments::new() }
    }
}

/// JSON documents of a response, as they arrive.
#[derive(Debug)]
pub struct Documents {
    response: Response,
    decoder: JsonDocuments,
}

impl Documents {
    /// The next document, or `None` at the end of the body.
    ///
    /// # Errors
    /// When the connection breaks or the bytes are not JSON of that shape.
    pub async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, Error> {
        loop {
            if let Some(document) = self.decoder.next_document()? {
                return Ok(Some(document));
            }
            match self.response.chunk().await? {
                Some(bytes) => self.decoder.push(&bytes),
                None => return Ok(None),
            }
        }
    }
}

/// A connection that stopped speaking HTTP: bytes flow both ways, and each side may close its half.
#[derive(Debug)]
pub struct Hijacked {
    /// Output that arrived together with the response's head; it comes before anything read from `socket`.
    pub early: Bytes,
    /// The connection.
    pub socket: Socket,
    /// Whether output is multiplexed (see [`crate::stream::Demultiplexer`]); `None` if the engine does not tell.
    pub multiplexed: Option<bool>,
}

/// Settings of a [`Client`] other than where the engine is.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The `User-Agent` header.
    pub user_agent: String,
    /// The API version to insist on, such as `1.45`; without it the newest that both sides know.
    pub version: Option<String>,
    /// More headers for every request.
    pub headers: Vec<(String, String)>,
    /// Whom to trust and who we are, for TCP with TLS.
    pub tls: Option<Arc<rustls::ClientConfig>>,
}

/// A client of one engine. Cheap to make: nothing is opened before the first request.
#[derive(Debug)]
pub struct Client {
    endpoint: Endpoint,
    tls: Option<Arc<rustls::ClientConfig>>,
    idle: Mutex<Vec<SendRequest<WireBody>>>,
    headers: HeaderMap,
    /// The minor version in use; the major version has been 1 for ever.
    minor: AtomicU32,
    /// Whether the minor version may still change: false once the engine accepted one or the caller insists.
    settled: std::sync::atomic::AtomicBool,
}

impl Client {
    /// The version that is tried first.
    pub const NEWEST_VERSION: &'static str = "1.51";
    const NEWEST_MINOR: u32 = 51;

    /// A client of the engine at `endpoint`.
    ///
    /// # Errors
    /// [`Error::Endpoint`] for a version that is not `1.NN`.
    pub fn new(endpoint: Endpoint, options: &Options) -> Result<Self, Error> {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_static("api.moby.localhost"));
        if let Endpoint::Tcp(authority) = &endpoint
            && let Ok(value) = HeaderValue::from_str(authority)
        {
            headers.insert(header::HOST, value);
        }
        if let Ok(value) = HeaderValue::from_str(&options.user_agent) {
            headers.insert(header::USER_AGENT, value);
        }
        for (name, value) in &options.headers {
            if let (Ok(name), Ok(value)) = (name.parse::<header::HeaderName>(), HeaderValue::from_str(value))
            {
                headers.insert(name, value);
            }
        }
        let minor = match &options.version {
            Some(text) => minor_version(text).ok_or_else(|| Error::Endpoint(text.clone()))?,
            None => Self::NEWEST_MINOR,
        };
        Ok(Self {
            endpoint,
            tls: options.tls.clone(),
            idle: Mutex::default(),
            headers,
            minor: minor.into(),
            settled: options.version.is_some().into(),
        })
    }

    /// Where the engine is.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The API version in use, such as `1.51`.
    #[must_use]
    pub fn version(&self) -> String {
        format!("1.{}", self.minor.load(Ordering::Relaxed))
    }

    /// Whether the version in use is at least `1.minor`.
    #[must_use]
    pub fn at_least(&self, minor: u32) -> bool {
        self.minor.load(Ordering::Relaxed) >= minor
    }

    /// Opens a connection for the next request, to learn whether anybody listens.
    ///
    /// # Errors
    /// [`Error::Connect`] if nobody does.
    pub async fn connect(&self) -> Result<(), Error> {
        let connection = self.connection().await?;
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        Ok(())
    }

    /// Sends a request and waits for the head of a successful response.
    ///
    /// # Errors
    /// [`Error::Api`] if the engine refuses, otherwise what went wrong on the way.
    pub async fn send(&self, request: Request) -> Result<Response, Error> {
        let path = request.path.clone();
        let response = self.exchange(request, false).await?;
        Ok(Response { path, inner: response })
    }

    /// Sends a request whose answer is of no interest.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn call(&self, request: Request) -> Result<(), Error> {
        self.send(request).await?.bytes().await.map(drop)
    }

    /// Sends a request and takes the connection over.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn hijack(&self, request: Request) -> Result<Hijacked, Error> {
        let response = self.exchange(request, true).await?;
        let multiplexed = match media_type(response.headers()) {
            crate::stream::MULTIPLEXED_MEDIA_TYPE => Some(true),
            _ => None,
        };
        let upgraded = hyper::upgrade::on(response).await?;
        let parts = upgraded
            .downcast::<TokioIo<Socket>>()
            .map_err(|_| io::Error::other("the connection cannot be taken over"))?;
        Ok(Hijacked { early: parts.read_buf, socket: parts.io.into_inner(), multiplexed })
    }

    async fn exchange(&self, mut request: Request, upgrade: bool) -> Result<http::Response<Incoming>, Error> {
        if upgrade {
            request.headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
            request.headers.insert(header::UPGRADE, HeaderValue::from_static("tcp"));
        }
        let body = match request.body {
            Body::Bytes(bytes) => bytes,
            Body::Stream(stream) => {
                // It cannot be sent twice, so the version is settled with a small request before.
                if !self.settled.load(Ordering::Relaxed) {
                    Box::pin(self.call(Request::get("/_ping"))).await?;
                }
                let head = Head { method: request.method, path: request.path, query: request.query };
                let response = self.round_trip(&head, &request.headers, stream).await?;
                return Self::check(response, &head.path).await;
            }
        };
        let head = Head { method: request.method, path: request.path, query: request.query };
        loop {
            let wire = Full::new(body.clone()).map_err(|never| match never {}).boxed_unsync();
            let response = self.round_trip(&head, &request.headers, wire).await?;
            match Self::check(response, &head.path).await {
                Ok(response) => {
                    self.settled.store(true, Ordering::Relaxed);
                    return Ok(response);
                }
                Err(Error::Api { status, message }) => {
                    let supported = (status == 400 && !self.settled.swap(true, Ordering::Relaxed))
                        .then(|| maximum_version(&message))
                        .flatten();
                    match supported {
                        Some(minor) => self.minor.store(minor, Ordering::Relaxed),
                        None => return Err(Error::Api { status, message }),
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn round_trip(
        &self,
        head: &Head,
        headers: &HeaderMap,
        body: WireBody,
    ) -> Result<http::Response<Incoming>, Error> {
        let mut connection = self.connection().await?;
        let minor = self.minor.load(Ordering::Relaxed);
        let separator = if head.query.is_empty() { "" } else { "?" };
        let mut builder = http::Request::builder()
            .method(head.method.clone())
            .uri(format!("/v1.{minor}{}{separator}{}", head.path, head.query));
        if let Some(all) = builder.headers_mut() {
            all.extend(self.headers.clone());
            all.extend(headers.clone());
        }
        let response = connection.send_request(builder.body(body)?).await.map_err(|source| {
            match &self.endpoint {
                // The program has said on standard error what is wrong.
                Endpoint::Command { .. } if source.is_incomplete_message() || source.is_closed() => {
                    let why = io::Error::other("the program at the other end has ended");
                    Error::Reach { endpoint: self.endpoint.clone(), source: why }
                }
                _ => Error::Transport(source),
            }
        })?;
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        Ok(response)
    }

    async fn check(
        response: http::Response<Incoming>,
        path: &str,
    ) -> Result<http::Response<Incoming>, Error> {
        let status = response.status();
        if status.as_u16() < 400 {
            return Ok(response);
        }
        let bytes = response.into_body().collect().await?.to_bytes();
        Err(Error::Api { status: status.as_u16(), message: error_message(status, path, &bytes) })
    }

    /// A connection without an exchange under way: a used one if its last response was read, else a new one.
    async fn connection(&self) -> Result<SendRequest<WireBody>, Error> {
        if let Some(idle) = self.take_idle() {
            return Ok(idle);
        }
        // The task that drives a connection may not have run since the last body was read to the end.
        tokio::task::yield_now().await;
        if let Some(idle) = self.take_idle() {
            return Ok(idle);
        }
        let (sender, connection) = http1::handshake(TokioIo::new(self.dial().await?)).await?;
        // An error of the connection reaches the caller through the exchange it breaks.
        tokio::spawn(connection.with_upgrades());
        Ok(sender)
    }

    /// Opens a connection that speaks no HTTP yet.
    ///
    /// # Errors
    /// [`Error::Connect`] if nobody listens, [`Error::Reach`] if the connection cannot be used.
    pub async fn dial(&self) -> Result<Socket, Error> {
        socket::dial(&self.endpoint, self.tls.as_ref()).await
    }

    fn take_idle(&self) -> Option<SendRequest<WireBody>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|connection| !connection.is_closed());
        let position = idle.iter().position(SendRequest::is_ready)?;
        Some(idle.swap_remove(position))
    }
}

struct Head {
    method: Method,
    path: String,
    query: String,
}

fn media_type(headers: &HeaderMap) -> &str {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    value.split(';').next().unwrap_or("").trim()
}

fn error_message(status: StatusCode, path: &str, body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Refusal {
        message: String,
    }
    if let Ok(refusal) = serde_json::from_slice::<Refusal>(body) {
        return refusal.message;
    }
    let text = String::from_utf8_lossy(body);
    match text.trim() {
        "" => format!(
            "request returned {} for API route and version {path}, check if the server supports the requested API version",
            status.canonical_reason().unwrap_or("an error")
        ),
        text => text.to_owned(),
    }
}

fn minor_version(text: &str) -> Option<u32> {
    text.trim_start_matches('v').strip_prefix("1.")?.parse().ok()
}

/// The version an engine offers in "client version 1.51 is too new. Maximum supported API version is 1.47".
fn maximum_version(message: &str) -> Option<u32> {
    let (_, rest) = message.split_once("Maximum supported API version is ")?;
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
    minor_version(rest[..end].trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::UnixListener,
    };

    #[test]
    fn text_is_escaped_for_paths_and_queries() {
        assert_eq!(escape("a b/ü&=~"), "a%20b%2F%C3%BC%26%3D~");
    }

    #[test]
    fn the_engines_version_is_found_in_its_refusal() {
        let text = "client version 1.51 is too new. Maximum supported API version is 1.47";
        assert_eq!(maximum_version(text), Some(47));
        assert_eq!(maximum_version("no such container"), None);
    }

    /// Answers each request of each connection with the next canned response and returns the request lines.
    async fn serve(listener: UnixListener, answers: Vec<&'static str>) -> (Vec<String>, usize) {
        let mut lines = Vec::new();
        let mut connections = 0;
        let mut answers = answers.into_iter();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            connections += 1;
            let mut seen = Vec::new();
            loop {
                let mut buffer = [0; 1024];
                let count = stream.read(&mut buffer).await.unwrap();
                if count == 0 {
                    break;
                }
                seen.extend_from_slice(&buffer[..count]);
                if seen.windows(4).any(|window| window == b"\r\n\r\n") {
                    let text = String::from_utf8(std::mem::take(&mut seen)).unwrap();
                    lines.push(text.lines().next().unwrap().to_owned());
                    stream.write_all(answers.next().unwrap().as_bytes()).await.unwrap();
                    if answers.len() == 0 {
                        return (lines, connections);
                    }
                }
            }
        }
    }

    fn scratch_socket(name: &str) -> (PathBuf, UnixListener) {
        let path = std::env::temp_dir().join(format!("wharf-api-{}-{name}.sock", std::process::id()));
        let _ = std::fs::remove_file(&path);
        (path.clone(), UnixListener::bind(path).unwrap())
    }

    #[tokio::test]
    async fn an_older_engine_is_met_at_its_version_on_one_connection() {
        let (path, listener) = scratch_socket("older");
        let refusal =
            r#"{"message":"client version 1.51 is too new. Maximum supported API version is 1.47"}"#;
        let refusal: &'static str = Box::leak(
            format!("HTTP/1.1 400 Bad Request\r\ncontent-length: {}\r\n\r\n{refusal}", refusal.len())
                .into_boxed_str(),
        );
        let ok = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
        let server = tokio::spawn(serve(listener, vec![refusal, ok, ok]));
        let client = Client::new(Endpoint::Unix(path.clone()), &Options::default()).unwrap();
        for name in ["a", "b c"] {
            let request = Request::get("/info").query("name", name).flag("all", true);
            client.send(request).await.unwrap().bytes().await.unwrap();
        }
        let (lines, connections) = server.await.unwrap();
        let _ = std::fs::remove_file(path);
        assert_eq!(
            lines,
            [
                "GET /v1.51/info?name=a&all=1 HTTP/1.1",
                "GET /v1.47/info?name=a&all=1 HTTP/1.1",
                "GET /v1.47/info?name=b%20c&all=1 HTTP/1.1"
            ]
        );
        assert_eq!(connections, 1);
        assert!(client.at_least(47) && !client.at_least(48));
    }

    #[tokio::test]
    async fn a_hijacked_connection_keeps_early_output() {
        let (path, listener) = scratch_socket("hijack");
        let answer = "HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.multiplexed-stream\r\n\
                      Connection: Upgrade\r\nUpgrade: tcp\r\n\r\nearly";
        let server = tokio::spawn(serve(listener, vec![answer]));
        let client = Client::new(Endpoint::Unix(path.clone()), &Options::default()).unwrap();
        let mut hijacked = client.hijack(Request::post("/containers/x/attach")).await.unwrap();
        server.await.unwrap();
        let _ = std::fs::remove_file(path);
        let mut all = hijacked.early.to_vec();
        hijacked.socket.read_to_end(&mut all).await.unwrap();
        assert_eq!((all.as_slice(), hijacked.multiplexed), (b"early".as_slice(), Some(true)));
    }

    #[tokio::test]
    async fn nobody_listening_is_told_apart() {
        let endpoint = Endpoint::Unix("/nonexistent/wharf.sock".into());
        let client = Client::new(endpoint, &Options::default()).unwrap();
        let error = client.call(Request::get("/info")).await.unwrap_err();
        assert!(matches!(error, Error::Connect { .. }), "{error:?}");
    }
}
