//! One request on a pooled connection, with deadlines.
//!
//! A connection is lent to one request and goes back when its answer was read to the end; otherwise it is closed. Pools
//! are kept apart by everything that decides whom a connection may be used for.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use hyper::client::conn::http1::{self, SendRequest};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::address::Nearness;
use crate::config::{Config, Timeouts};
use crate::dial::{Dialer, Peer, Spoken};
use crate::error::{Error, Result};
use crate::origin::Origin;

/// Connections that wait for the next request, for each peer.
const MAX_IDLE: usize = 8;
/// Servers close what waits for longer.
const IDLE_FOR: Duration = Duration::from_secs(50);
/// Large reads: a blob should cost few system calls.
const READ_BUFFER: usize = 256 << 10;
/// The head of an answer.
const MAX_HEADERS: usize = 128;
/// A body that brings less than this within the idle time does not progress.
const PROGRESS: u64 = 16 << 10;

/// Sends requests. Shared by everything of a client.
#[derive(Debug)]
pub(crate) struct Transport {
    dialer: Dialer,
    pool: Arc<Pool>,
    /// What [`Spoken::Either`] turned out to be.
    found: Mutex<HashMap<(String, Option<u16>), Spoken>>,
    user_agent: HeaderValue,
    pub(crate) timeouts: Timeouts,
}

/// One request.
pub(crate) struct Call {
    pub(crate) method: Method,
    /// Path and query.
    pub(crate) target: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Payload,
    /// How long the head of the answer may take; `None` when the caller watches.
    pub(crate) wait: Option<Duration>,
}

/// One answer, whatever its status.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Body,
    pub(crate) origin: Origin,
    pub(crate) nearness: Nearness,
}

impl Answer {
    /// A header as text, if it is there and is text.
    pub(crate) fn header(&self, name: impl http::header::AsHeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

impl Transport {
    pub(crate) fn new(config: &Config) -> Result<Self> {
        let user_agent = HeaderValue::from_str(&config.user_agent)
            .map_err(|_| Error::Config(format!("user agent {:?} cannot be a header", config.user_agent)))?;
        Ok(Self {
            dialer: Dialer::new(config)?,
            pool: Arc::default(),
            found: Mutex::default(),
            user_agent,
            timeouts: config.timeouts,
        })
    }

    /// Sends one request; no status is an error here, and nothing is tried twice.
    pub(crate) async fn send(&self, peer: &Peer, call: Call) -> Result<Answer> {
        let doing = self.doing(peer, &call);
        let Call { method, target, mut headers, body, wait } = call;
        let mut line = self.line(peer, &doing).await?;
        let origin = line.origin.clone();

        let uri = if line.by_proxy.is_some() { format!("{origin}{target}") } else { target };
        if let Some(Some(authorization)) = &line.by_proxy
            && let Ok(value) = HeaderValue::from_str(authorization)
        {
            headers.insert(http::header::PROXY_AUTHORIZATION, value);
        }
        let protocol = |what: String| Error::Protocol { host: origin.authority(), what };
        let host = HeaderValue::from_str(&origin.authority()).map_err(|error| protocol(error.to_string()))?;
        headers.insert(HOST, host);
        headers.insert(USER_AGENT, self.user_agent.clone());
        if body.length() == 0 && matches!(method, Method::POST | Method::PUT | Method::PATCH) {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(0));
        }
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = uri.parse().map_err(|error| protocol(format!("{uri:.200}: {error}")))?;
        *request.headers_mut() = headers;

        let answer = loop {
            let sent = line.sender.try_send_request(request);
            let sent = match wait {
                Some(wait) => timeout(wait, sent).await.map_err(|_| Error::Deadline {
                    doing: doing.clone(),
                    reason: format!("no answer within {wait:?}"),
                })?,
                None => sent.await,
            };
            match sent {
                Ok(answer) => break answer,
                Err(mut failed) => match failed.take_message() {
                    // The server closed a connection that had waited, before the request was on it.
                    Some(unsent) if line.waited => {
                        request = unsent;
                        line = self.line(peer, &doing).await?;
                        if line.origin != origin {
                            return Err(broken(&doing, failed.error()));
                        }
                    }
                    _ => return Err(broken(&doing, failed.error())),
                },
            }
        };
        let nearness = line.nearness;
        let (parts, incoming) = answer.into_parts();
        let mut body = Body {
            incoming,
            lease: Some(Lease { line, pool: Arc::clone(&self.pool) }),
            doing,
            idle: self.timeouts.idle,
            waited: Duration::ZERO,
            brought: 0,
        };
        body.give_back_at_end();
        Ok(Answer { status: parts.status, headers: parts.headers, body, origin, nearness })
    }

    /// How an error of this request begins, in the words of Go's clients, which people search for.
    fn doing(&self, peer: &Peer, call: &Call) -> String {
        let method = call.method.as_str();
        let scheme = if self.spoken(peer) == Spoken::Plain { "http" } else { "https" };
        let path = call.target.split('?').next().unwrap_or_default();
        format!("{}{} \"{scheme}://{peer}{path}\"", &method[..1], method[1..].to_ascii_lowercase())
    }

    fn spoken(&self, peer: &Peer) -> Spoken {
        let known = lock(&self.found).get(&(peer.host.clone(), peer.port)).copied();
        if peer.spoken == Spoken::Either { known.unwrap_or(Spoken::Either) } else { peer.spoken }
    }

    /// A connection that is ready for a request.
    async fn line(&self, peer: &Peer, doing: &str) -> Result<Connection> {
        let key = Key {
            host: peer.host.clone(),
            port: peer.port,
            spoken: peer.spoken,
            trust: peer.trust.id,
            nearest: peer.nearest,
        };
        while let Some(mut waiting) = self.pool.take(&key) {
            // The connection's task may still have to notice that the last body ended, or that the peer closed.
            if !waiting.sender.is_closed() && waiting.sender.ready().await.is_ok() {
                waiting.waited = true;
                return Ok(waiting);
            }
        }
        // TLS that was spoken once is never given up; that it was not is found out anew with each connection, because
        // another address may answer.
        let mut wanted = peer.clone();
        if self.spoken(peer) == Spoken::Tls {
            wanted.spoken = Spoken::Tls;
        }
        let line = self.dialer.dial(&wanted, doing).await?;
        if peer.spoken == Spoken::Either {
            let spoken = if line.origin.tls { Spoken::Tls } else { Spoken::Plain };
            lock(&self.found).insert((peer.host.clone(), peer.port), spoken);
        }
        let (sender, connection) = http1::Builder::new()
            .max_headers(MAX_HEADERS)
            .max_buf_size(READ_BUFFER)
            .read_buf_exact_size(Some(READ_BUFFER))
            .handshake(line.stream)
            .await
            .map_err(|error| broken(doing, &error))?;
        tokio::spawn(async move {
            // The request that was on it has the error.
            let _ = connection.await;
        });
        Ok(Connection {
            sender,
            key,
            origin: line.origin,
            nearness: line.nearness,
            by_proxy: line.by_proxy,
            since: Instant::now(),
            waited: false,
        })
    }
}

fn broken(doing: &str, error: &hyper::Error) -> Error {
    let mut reason = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        reason = inner.downcast_ref::<io::Error>().map_or_else(|| inner.to_string(), crate::dial::words);
        source = inner.source();
    }
    let reason = if error.is_incomplete_message() { "EOF".to_owned() } else { reason };
    if error.is_parse() {
        return Error::Protocol {
            host: doing.to_owned(),
            what: format!("malformed HTTP response: {reason}"),
        };
    }
    Error::Network { doing: doing.to_owned(), reason }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a connection may be used for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    host: String,
    port: Option<u16>,
    spoken: Spoken,
    trust: u64,
    nearest: Nearness,
}

#[derive(Debug)]
struct Connection {
    sender: SendRequest<Payload>,
    key: Key,
    origin: Origin,
    nearness: Nearness,
    by_proxy: Option<Option<String>>,
    /// When it was last used.
    since: Instant,
    /// Whether it served another request before.
    waited: bool,
}

#[derive(Debug, Default)]
struct Pool(Mutex<HashMap<Key, Vec<Connection>>>);

impl Pool {
    fn take(&self, key: &Key) -> Option<Connection> {
        let mut pool = lock(&self.0);
        let waiting = pool.get_mut(key)?;
        waiting.retain(|connection| connection.since.elapsed() < IDLE_FOR && !connection.sender.is_closed());
        waiting.pop()
    }

    fn give_back(&self, mut connection: Connection) {
        connection.since = Instant::now();
        let mut pool = lock(&self.0);
        pool.retain(|_, waiting| {
            waiting.retain(|other| other.since.elapsed() < IDLE_FOR && !other.sender.is_closed());
            !waiting.is_empty()
        });
        let waiting = pool.entry(connection.key.clone()).or_default();
        if waiting.len() < MAX_IDLE {
            waiting.push(connection);
        }
    }
}

#[derive(Debug)]
struct Lease {
    line: Connection,
    pool: Arc<Pool>,
}

/// The body of an answer.
#[derive(Debug)]
pub(crate) struct Body {
    incoming: Incoming,
    lease: Option<Lease>,
    doing: String,
    idle: Duration,
    /// Waiting, and bytes that came, since there was progress.
    waited: Duration,
    brought: u64,
}

impl Body {
    /// How many bytes are announced to come.
    pub(crate) fn length(&self) -> Option<u64> {
        self.incoming.size_hint().exact()
    }

    /// The next bytes, as they came from the connection.
    pub(crate) async fn frame(&mut self) -> Result<Option<Bytes>> {
        loop {
            let began = Instant::now();
            let next = timeout(self.idle.saturating_sub(self.waited), self.incoming.frame()).await;
            self.waited += began.elapsed();
            let Ok(next) = next else {
                return Err(Error::Deadline {
                    doing: self.doing.clone(),
                    reason: format!("no progress within {:?}", self.idle),
                });
            };
            let Some(frame) = next else {
                self.give_back_at_end();
                return Ok(None);
            };
            let frame = frame.map_err(|error| broken(&self.doing, &error))?;
            // What is no data is a trailer, of which there is at most one.
            let Ok(data) = frame.into_data() else { continue };
            self.brought += data.len() as u64;
            if self.brought >= PROGRESS {
                (self.brought, self.waited) = (0, Duration::ZERO);
            }
            if !data.is_empty() {
                self.give_back_at_end();
                return Ok(Some(data));
            }
        }
    }

    /// A small document as a whole, bounded before it is kept.
    pub(crate) async fn document(mut self, what: &str, limit: u64, patience: Duration) -> Result<Vec<u8>> {
        let doing = self.doing.clone();
        let too_large = || Error::Limit { what: what.to_owned(), limit };
        if self.length().is_some_and(|length| length > limit) {
            return Err(too_large());
        }
        let read = async {
            let mut bytes = Vec::new();
            while let Some(frame) = self.frame().await? {
                if (bytes.len() + frame.len()) as u64 > limit {
                    return Err(too_large());
                }
                bytes.extend_from_slice(&frame);
            }
            Ok(bytes)
        };
        match timeout(patience, read).await {
            Ok(done) => done,
            Err(_) => {
                Err(Error::Deadline { doing, reason: format!("{what} did not come within {patience:?}") })
            }
        }
    }

    fn give_back_at_end(&mut self) {
        if self.incoming.is_end_stream()
            && let Some(Lease { line, pool }) = self.lease.take()
        {
            pool.give_back(line);
        }
    }
}

/// The body of a request.
#[derive(Debug)]
pub(crate) enum Payload {
    Bytes(Bytes),
    /// Exactly `left` more bytes from somebody who reads them.
    Pipe {
        from: mpsc::Receiver<Bytes>,
        left: u64,
    },
}

impl Payload {
    fn length(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Pipe { left, .. } => *left,
        }
    }
}

impl hyper::body::Body for Payload {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match self.get_mut() {
            Self::Bytes(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Bytes(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Pipe { left: 0, .. } => Poll::Ready(None),
            Self::Pipe { from, left } => from.poll_recv(cx).map(|chunk| match chunk {
                Some(chunk) if chunk.len() as u64 <= *left => {
                    *left -= chunk.len() as u64;
                    Some(Ok(Frame::data(chunk)))
                }
                // The reader gave up: the connection must break, so that the registry does not take this for all.
                _ => Some(Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the upload was given up"))),
            }),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.length() == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.length())
    }
}

/// Adds a header whose value is ours.
pub(crate) fn put(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}
