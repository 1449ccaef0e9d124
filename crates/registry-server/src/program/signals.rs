//! The signals that mean something to the program, and what the service manager hears of it.

use std::future::Future;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::observe::Observer;

/// Signals that end the program.
pub(super) struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    pub(super) fn new() -> Result<Self> {
        let listen = |kind| signal(kind).context("listening to signals");
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    /// The next signal that means the end.
    pub(super) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Opens the access log anew at every SIGHUP.
pub(super) fn reopening(observer: Arc<Observer>) -> Result<impl Future<Output = ()> + Send> {
    let mut hangup = signal(SignalKind::hangup()).context("listening to signals")?;
    Ok(async move {
        while hangup.recv().await.is_some() {
            observer.reopen();
        }
    })
}

/// Tells the service manager how far this process is.
pub(super) fn tell(state: &str) {
    if let Err(error) = wharf_linux::daemon::notify(state) {
        tracing::warn!("telling the service manager {state}: {error}");
    }
}
