//! Connections: accepting them, one HTTP/1.1 conversation each, and an orderly end.
//!
//! Promises:
//! - One bad connection, or no descriptor left, never stops the accepting of others.
//! - A door has a limited number of connections at once, those taken over by attach and exec included. When there are as
//!   many, the oldest that has not yet sent a request makes room; when all are at work, newcomers wait in the kernel's
//!   queue.
//! - Over the network: who does not finish the TLS handshake or a head in time is disconnected, a peer that vanished is
//!   noticed, and a request that no client of ours sends is refused before it reaches a route ([`guard`](crate::guard)).

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::response::IntoResponse;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tower::ServiceExt;

use crate::guard::{self, Peer};
use crate::stream::{Stream, Wire};
use crate::tls::Tls;

/// The largest head, and the most that is held for a client that does not read.
const BUFFER: usize = 64 * 1024;
/// The most fields of a head.
const FIELDS: usize = 100;
/// How long a head may take to arrive, and an idle connection may stay.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5 * 60);
/// The same for a client that comes over the network, where anyone may try.
const NETWORK_HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// How long the TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// After how long a peer that sends nothing is asked whether it lives, and how long it may leave bytes unconfirmed.
const KEEPALIVE: Duration = Duration::from_secs(30);
const UNCONFIRMED_MS: u32 = 120_000;
/// Connections at once: a thousand containers with three each, started together, fit.
const LOCAL_CONNECTIONS: usize = 4096;
const NETWORK_CONNECTIONS: usize = 1024;
/// How long answers that have begun may take after the shutdown has.
const DRAIN: Duration = Duration::from_secs(2);
/// Pause after a failed accept (no descriptors left), instead of turning in circles.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where clients come in.
pub enum Door {
    /// A unix socket, whose mode says who may.
    Unix(UnixListener),
    /// A TCP socket. Without TLS the caller has made sure that only this machine can connect.
    Tcp(TcpListener, Option<Arc<Tls>>),
}

enum Accepted {
    Unix(UnixStream),
    Tcp(TcpStream, SocketAddr),
}

impl Door {
    async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Self::Unix(listener) => listener.accept().await.map(|(stream, _)| Accepted::Unix(stream)),
            Self::Tcp(listener, _) => {
                listener.accept().await.map(|(stream, address)| Accepted::Tcp(stream, address))
            }
        }
    }

    fn tls(&self) -> Option<&Arc<Tls>> {
        match self {
            Self::Unix(_) => None,
            Self::Tcp(_, tls) => tls.as_ref(),
        }
    }

    fn connections(&self) -> usize {
        match self {
            Self::Unix(_) => LOCAL_CONNECTIONS,
            Self::Tcp(..) => NETWORK_CONNECTIONS,
        }
    }
}

/// Serves `router` to every client of `door` until `shutdown` completes, then lets answers that have begun end for a
/// short while. Each end of a connection is told to `ended`.
pub async fn serve(door: Door, router: Router, ended: Arc<Notify>, shutdown: impl Future<Output = ()>) {
    let room = Arc::new(Semaphore::new(door.connections()));
    let silent = Arc::new(Silent::default());
    let (stop, stopped) = watch::channel(());
    tokio::pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            accepted = accept(&door, &room, &silent) => accepted,
            () = &mut shutdown => break,
        };
        let Some((accepted, place)) = accepted else { continue };
        let hush = Arc::new(silent.add());
        let evicted = hush.end.clone();
        let connection =
            Connection { router: router.clone(), tls: door.tls().cloned(), stopped: stopped.clone(), hush };
        let ended = ended.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = connection.run(accepted, place) => {}
                () = evicted.notified() => tracing::debug!("a silent connection made room"),
            }
            ended.notify_one();
        });
    }
    drop((door, stopped));
    let _nobody_connected = stop.send(());
    let _late = tokio::time::timeout(DRAIN, stop.closed()).await;
}

/// The next connection, with its place.
async fn accept(
    door: &Door,
    room: &Arc<Semaphore>,
    silent: &Silent,
) -> Option<(Accepted, OwnedSemaphorePermit)> {
    let accepted = match door.accept().await {
        Ok(accepted) => accepted,
        Err(error) => {
            report(&error).await;
            return None;
        }
    };
    if let Ok(place) = room.clone().try_acquire_owned() {
        return Some((accepted, place));
    }
    silent.end_oldest();
    // The semaphore is never closed.
    let place = room.clone().acquire_owned().await.ok()?;
    Some((accepted, place))
}

async fn report(error: &io::Error) {
    if error.kind() != io::ErrorKind::ConnectionAborted {
        tracing::error!("accepting a connection: {error}");
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }
}

/// One connection, until its end or its upgrade.
struct Connection {
    router: Router,
    tls: Option<Arc<Tls>>,
    stopped: watch::Receiver<()>,
    hush: Arc<Hush>,
}

impl Connection {
    async fn run(self, accepted: Accepted, place: OwnedSemaphorePermit) {
        let (stream, address) = match accepted {
            Accepted::Unix(stream) => {
                let stream = Stream::new(Wire::Unix(stream), place);
                return self.converse(stream, HEAD_TIMEOUT, None).await;
            }
            Accepted::Tcp(stream, address) => (stream, address),
        };
        prepare(&stream);
        let Ok(local) = stream.local_addr() else { return };
        let (wire, peer) = match self.tls.clone() {
            None => (Wire::Tcp(stream), Peer::plain(local)),
            Some(tls) => match tokio::time::timeout(HANDSHAKE, tls.acceptor().accept(stream)).await {
                Ok(Ok(stream)) => {
                    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default().to_vec();
                    (Wire::Tls(Box::new(stream)), Peer::over_tls(local, tls, chain))
                }
                Ok(Err(error)) => {
                    tracing::info!("{address}: TLS handshake: {error}");
                    return;
                }
                Err(_) => {
                    tracing::info!("{address}: TLS handshake: too slow");
                    return;
                }
            },
        };
        self.converse(Stream::new(wire, place), NETWORK_HEAD_TIMEOUT, Some(Arc::new(peer))).await;
    }

    async fn converse(self, mut stream: Stream, head_timeout: Duration, peer: Option<Arc<Peer>>) {
        let Self { router, mut stopped, hush, .. } = self;
        // On a socket of this machine, a client that only closed its sending side still wants its answer (a pipe that
        // has been read to its end does so); elsewhere that cannot be told from a client that has left.
        let half_close = peer.is_none();
        let service = hyper::service::service_fn(move |mut request: hyper::Request<Incoming>| {
            hush.speak();
            let refused = peer.as_deref().and_then(|peer| guard::refusal(peer, &request));
            if let Some(peer) = &peer {
                request.extensions_mut().insert(peer.clone());
            }
            let router = router.clone();
            async move {
                match refused {
                    Some(failure) => Ok(failure.into_response()),
                    None => router.oneshot(request.map(axum::body::Body::new)).await,
                }
            }
        });
        let gone = stream.leaving();
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(head_timeout)
            .max_buf_size(BUFFER)
            .max_headers(FIELDS)
            .keep_alive(true)
            .title_case_headers(true)
            .half_close(half_close);
        let connection = http.serve_connection(TokioIo::new(stream), service).with_upgrades();
        tokio::pin!(connection);
        let end = tokio::select! {
            end = &mut connection => end,
            () = gone => return,
            _ = stopped.changed() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        // The client's business: it may leave, or send what is no HTTP.
        if let Err(error) = end {
            tracing::debug!("a connection ended: {error}");
        }
    }
}

/// Has the kernel notice peers that vanish. A socket that refuses is served all the same.
fn prepare(stream: &TcpStream) {
    let set = sockopt::set_tcp_nodelay(stream, true)
        .and_then(|()| sockopt::set_socket_keepalive(stream, true))
        .and_then(|()| sockopt::set_tcp_keepidle(stream, KEEPALIVE))
        .and_then(|()| sockopt::set_tcp_user_timeout(stream, UNCONFIRMED_MS));
    if let Err(error) = set {
        tracing::debug!("setting up a connection: {error}");
    }
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
