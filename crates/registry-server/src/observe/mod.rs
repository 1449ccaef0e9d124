//! What happens, for people and for their monitoring: a line for each request in the access log, and numbers.
//!
//! A request is counted and logged when the last byte of its answer was given to the connection, or when the client
//! went away before (status 499). The log never holds a request up: lines go through a bounded queue to a thread of
//! their own, and what does not fit is counted as dropped.

mod access_log;
mod metrics;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, USER_AGENT};
use http::{HeaderValue, Method};
use hyper::body::{Frame, SizeHint};

use crate::listen::Peer;
use crate::{Handled, Registry};

pub(crate) use access_log::{AccessLog, Destination};
pub(crate) use metrics::Traffic;

const REQUEST_ID: &str = "x-request-id";
/// What a client may call its request.
const MAX_REQUEST_ID: usize = 64;
/// The most bytes of a client's text in a line.
const MAX_TEXT: usize = 512;
/// The client went away before it was answered. Not a status of HTTP's, but what other servers log.
const GONE: u16 = 499;

/// Where requests are counted and logged.
pub(crate) struct Observer {
    log: AccessLog,
    requests: metrics::Requests,
    pub(crate) traffic: Arc<Traffic>,
}

impl Observer {
    pub(crate) fn new(log: AccessLog) -> Arc<Self> {
        Arc::new(Self { log, requests: metrics::Requests::default(), traffic: Arc::default() })
    }

    /// Opens the log's file anew.
    pub(crate) fn reopen(&self) {
        self.log.reopen();
    }

    /// Writes what is still in the queue.
    pub(crate) fn finish(&self) {
        self.log.finish();
    }

    /// The same router, observed.
    pub(crate) fn around(self: &Arc<Self>, router: Router) -> Router {
        router.layer(from_fn_with_state(self.clone(), observe))
    }

    /// `/metrics`.
    pub(crate) fn metrics(self: &Arc<Self>, registry: Registry) -> Router {
        let observer = self.clone();
        let page = move || {
            let (observer, registry) = (observer.clone(), registry.clone());
            async move {
                let page = metrics::page(
                    &observer.requests,
                    &observer.traffic,
                    registry.usage(),
                    observer.log.dropped(),
                );
                ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], page).into_response()
            }
        };
        Router::new().route("/metrics", get(page))
    }
}

async fn observe(State(observer): State<Arc<Observer>>, request: Request, next: Next) -> Response {
    let mut record = Record::of(&request, observer);
    let response = next.run(request).await;
    record.status = response.status().as_u16();
    record.handled = response.extensions().get::<Handled>().cloned();
    let (mut head, body) = response.into_parts();
    if let Ok(id) = HeaderValue::from_str(&record.id) {
        head.headers.insert(REQUEST_ID, id);
    }
    Response::from_parts(head, Body::new(Observed { body, record }))
}

/// One request, reported when it is dropped.
struct Record {
    observer: Arc<Observer>,
    started: Instant,
    peer: Option<Peer>,
    method: Method,
    path: String,
    agent: String,
    id: String,
    status: u16,
    handled: Option<Handled>,
    bytes: u64,
}

impl Record {
    fn of(request: &Request, observer: Arc<Observer>) -> Self {
        let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let id =
            header(REQUEST_ID).filter(|id| matches!(id.len(), 1..=MAX_REQUEST_ID) && id.bytes().all(plain));
        Self {
            observer,
            started: Instant::now(),
            peer: request.extensions().get().copied(),
            method: request.method().clone(),
            path: shortened(request.uri().path()),
            agent: shortened(header(USER_AGENT.as_str()).unwrap_or_default()),
            id: id.map_or_else(random_id, str::to_owned),
            status: GONE,
            handled: None,
            bytes: 0,
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let took = self.started.elapsed();
        let handled = self.handled.take();
        let endpoint = handled.as_ref().map_or("other", |handled| handled.endpoint);
        self.observer.requests.answered(endpoint, &self.method, self.status, took);
        let (repository, caller) =
            handled.map_or((None, None), |handled| (handled.repository, handled.caller));
        self.observer.log.write(&access_log::Line {
            time: jiff::Timestamp::now().to_string(),
            remote: self.peer.map(|peer| peer.address.to_string()),
            user: caller.as_deref(),
            method: self.method.as_str(),
            path: &self.path,
            endpoint,
            repository: repository.as_deref(),
            status: self.status,
            bytes: self.bytes,
            duration_ms: u64::try_from(took.as_micros()).map_or(f64::MAX, |micros| micros as f64 / 1000.0),
            agent: &self.agent,
            id: &self.id,
        });
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(MAX_TEXT).collect()
}

fn random_id() -> String {
    let mut bytes = [0; 8];
    // Without random numbers the id is useless, and nothing else is.
    let _zeros = getrandom::fill(&mut bytes);
    format!("{:016x}", u64::from_le_bytes(bytes))
}

/// A body whose bytes are counted.
struct Observed {
    body: Body,
    record: Record,
}

impl hyper::body::Body for Observed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            self.record.bytes += data.len() as u64;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
