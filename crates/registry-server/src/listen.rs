//! Connections: who may have one, for how long, and how they end.
//!
//! HTTP/1.1 only. A registry's client opens a few connections and moves large bodies over them; HTTP/2 would add its
//! own flow control, its header compression and a family of floods (RS-06) for nothing a client here can feel.
//!
//! Promises:
//! - One bad connection, or no descriptor left, never stops the accepting of others.
//! - At most `connections` at once. When there are as many, the oldest that has not yet sent a request makes room; when
//!   all are at work, newcomers wait in the kernel's queue.
//! - Whoever does not finish the TLS handshake or the head of a request in [`DEADLINE`] is disconnected; so is one that
//!   moves no byte in either direction for [`STALLED`].
//! - What two parsers could read differently is refused before it is parsed, and the connection closed ([`strict`]).
//! - At the end, open requests are served until a deadline, idle connections are closed at once.

mod strict;
mod watchful;

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tower::ServiceExt as _;

use crate::observe::Traffic;
use crate::tls::Tls;
use strict::Strict;
use watchful::Watchful;

/// For the handshake, and again for the head of each request.
const DEADLINE: Duration = Duration::from_secs(10);
/// How long no byte may move while a request is served.
const STALLED: Duration = Duration::from_secs(300);
/// How long accepting rests when the process has no descriptor left.
const BREATH: Duration = Duration::from_millis(50);

/// Where a request came from: an extension of every request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer {
    /// The address.
    pub(crate) address: SocketAddr,
    /// Whether the connection is TLS.
    pub(crate) secure: bool,
}

/// A socket with what is done to its connections.
pub(crate) struct Listener {
    pub(crate) socket: TcpListener,
    pub(crate) tls: Option<Arc<Tls>>,
    /// The most connections at once.
    pub(crate) connections: usize,
    pub(crate) traffic: Arc<Traffic>,
}

impl Listener {
    /// Serves until `end`, then gives open requests until `drain` ends.
    pub(crate) async fn serve(
        self,
        router: Router,
        end: impl Future<Output = ()>,
        drain: impl Future<Output = ()>,
    ) {
        let room = Arc::new(Semaphore::new(self.connections));
        let silent = Arc::new(Silent::default());
        let (closing, closed) = watch::channel(false);
        let mut open = JoinSet::new();
        tokio::pin!(end);
        loop {
            let accepted = tokio::select! {
                () = &mut end => break,
                accepted = self.accept(&room, &silent) => accepted,
            };
            while open.try_join_next().is_some() {}
            let (stream, address, place) = accepted;
            let connection = Connection {
                peer: Peer { address, secure: self.tls.is_some() },
                router: router.clone(),
                closed: closed.clone(),
                traffic: self.traffic.clone(),
                // Before it runs: who comes next may need its place.
                hush: Arc::new(silent.add()),
            };
            open.spawn(connection.run(stream, self.tls.clone(), place));
        }
        drop(self.socket);
        let _nobody_left = closing.send(true);
        tokio::pin!(drain);
        loop {
            tokio::select! {
                ended = open.join_next() => if ended.is_none() { return },
                () = &mut drain => {
                    tracing::warn!("{} connections are cut: their requests took too long", open.len());
                    return;
                }
            }
        }
    }

    /// The next connection, with its place.
    async fn accept(
        &self,
        room: &Arc<Semaphore>,
        silent: &Silent,
    ) -> (TcpStream, SocketAddr, OwnedSemaphorePermit) {
        loop {
            let accepted = self.socket.accept().await;
            match accepted {
                Ok((stream, address)) => {
                    let place = match room.clone().try_acquire_owned() {
                        Ok(place) => Some(place),
                        Err(_) => {
                            silent.end_oldest();
                            room.clone().acquire_owned().await.ok()
                        }
                    };
                    // The semaphore is never closed.
                    if let Some(place) = place {
                        return (stream, address, place);
                    }
                }
                Err(error) if is_of_the_connection(&error) => {}
                Err(error) => {
                    tracing::warn!("accepting a connection: {error}");
                    silent.end_oldest();
                    tokio::time::sleep(BREATH).await;
                }
            }
        }
    }
}

/// Whether accepting failed because the client has gone already.
fn is_of_the_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}

/// Connections that have not sent a request yet, oldest first.
#[derive(Default)]
struct Silent(Mutex<VecDeque<Arc<Notify>>>);

impl Silent {
    fn add(self: &Arc<Self>) -> Hush {
        let end = Arc::new(Notify::new());
        self.list().push_back(end.clone());
        Hush { list: self.clone(), end }
    }

    fn end_oldest(&self) {
        if let Some(oldest) = self.list().pop_front() {
            oldest.notify_one();
        }
    }

    fn list(&self) -> std::sync::MutexGuard<'_, VecDeque<Arc<Notify>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's place among the silent, which it leaves with its first request or its end.
struct Hush {
    list: Arc<Silent>,
    end: Arc<Notify>,
}

impl Hush {
    fn speak(&self) {
        self.list.list().retain(|other| !Arc::ptr_eq(other, &self.end));
    }
}

impl Drop for Hush {
    fn drop(&mut self) {
        self.speak();
    }
}

struct Connection {
    peer: Peer,
    router: Router,
    closed: watch::Receiver<bool>,
    traffic: Arc<Traffic>,
    hush: Arc<Hush>,
}

impl Connection {
    async fn run(self, stream: TcpStream, tls: Option<Arc<Tls>>, place: OwnedSemaphorePermit) {
        let _open = self.traffic.connection();
        let end = self.hush.end.clone();
        // Answers are written whole; waiting for more of them helps nobody.
        let _only_slower = stream.set_nodelay(true);
        let stream = Watchful::new(stream, STALLED, self.traffic.clone());
        let served = async {
            match tls {
                None => self.serve(stream).await,
                Some(tls) => match tokio::time::timeout(DEADLINE, tls.acceptor().accept(stream)).await {
                    Ok(Ok(stream)) => self.serve(stream).await,
                    Ok(Err(error)) => tracing::debug!("{}: TLS handshake: {error}", self.peer.address),
                    Err(_) => tracing::debug!("{}: TLS handshake: too slow", self.peer.address),
                },
            }
        };
        tokio::select! {
            () = served => {}
            () = end.notified() => {}
        }
        drop(place);
    }

    async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(&self, stream: S) {
        let (peer, router, hush) = (self.peer, self.router.clone(), self.hush.clone());
        let service = hyper::service::service_fn(move |mut request: hyper::Request<Incoming>| {
            hush.speak();
            request.extensions_mut().insert(peer);
            router.clone().oneshot(request.map(axum::body::Body::new))
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(DEADLINE)
            .max_header_size(strict::MAX_HEAD)
            .max_headers(strict::MAX_FIELDS)
            .serve_connection(TokioIo::new(Strict::new(stream)), service);
        tokio::pin!(connection);
        let mut closed = self.closed.clone();
        let mut asked = false;
        loop {
            tokio::select! {
                served = &mut connection => {
                    if let Err(error) = served {
                        tracing::debug!("{}: {error}", self.peer.address);
                    }
                    return;
                }
                _ = closed.wait_for(|closed| *closed), if !asked => {
                    asked = true;
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
    }
}
