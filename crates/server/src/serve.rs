//! Connections: accepting them, one HTTP/1.1 conversation each, and an orderly end.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::UnixListener;
use tokio::sync::{Notify, watch};

/// The largest head, and the most that is held for a client that does not read.
const BUFFER: usize = 64 * 1024;
/// How long a head may take to arrive, and an idle connection may stay.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5 * 60);
/// How long answers that have begun may take after the shutdown has.
const DRAIN: Duration = Duration::from_secs(2);
/// Pause after a failed accept (no descriptors left), instead of turning in circles.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves `router` to every client of `listener` until `shutdown` completes, then lets answers that have begun end for
/// a short while. Each end of a connection is told to `ended`.
pub async fn serve(
    listener: UnixListener,
    router: Router,
    ended: Arc<Notify>,
    shutdown: impl Future<Output = ()>,
) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(BUFFER)
        .keep_alive(true)
        .title_case_headers(true)
        // A client that closes its sending side in the middle of a request has left.
        .half_close(false);
    let (stop, stopped) = watch::channel(());
    tokio::pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut shutdown => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                report(&error).await;
                continue;
            }
        };
        let service = TowerToHyperService::new(router.clone());
        let connection = http.serve_connection(TokioIo::new(stream), service).with_upgrades();
        let (mut stopped, ended) = (stopped.clone(), ended.clone());
        tokio::spawn(async move {
            tokio::pin!(connection);
            let end = tokio::select! {
                end = &mut connection => end,
                _ = stopped.changed() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            // The client's business: it may leave, or send what is no HTTP.
            if let Err(error) = end {
                tracing::debug!("a connection ended: {error}");
            }
            ended.notify_one();
        });
    }
    drop((listener, stopped));
    let _nobody_connected = stop.send(());
    let _late = tokio::time::timeout(DRAIN, stop.closed()).await;
}

async fn report(error: &io::Error) {
    if error.kind() != io::ErrorKind::ConnectionAborted {
        tracing::error!("accepting a connection: {error}");
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }
}
