//! A registry within another program, such as the engine: no accounts, no TLS, and therefore for this machine only.

use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::net::TcpListener;

use crate::listen::Listener;
use crate::storage::Local;
use crate::{Options, Registry};

/// Connections at once.
const CONNECTIONS: usize = 256;
/// How long open requests may go on at the end.
const DRAIN: Duration = Duration::from_secs(5);

/// A registry that listens and does not serve yet.
pub struct Embedded {
    socket: TcpListener,
    registry: Registry,
}

impl Embedded {
    /// Opens the data and the socket.
    ///
    /// # Errors
    /// When the address is not this machine's own or not free, or the data cannot be used.
    pub async fn open(address: SocketAddr, data: &Path) -> Result<Self> {
        ensure!(
            address.ip().is_loopback(),
            "everyone who can reach {address} could push and delete: use a loopback address, or run \
             `wharf registry serve` with --htpasswd"
        );
        let socket = TcpListener::bind(address).await.with_context(|| format!("listening on {address}"))?;
        wharf_linux::hostfs::create_dir_all(data, 0o700)?;
        let storage = Local::open(data).await?;
        Ok(Self { socket, registry: Registry::new(storage, Options::default()) })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.socket.local_addr().ok()
    }

    /// Serves and collects until `end`.
    pub async fn serve(self, end: impl Future<Output = ()>) {
        let Self { socket, registry } = self;
        let listener = Listener { socket, tls: None, connections: CONNECTIONS, traffic: Arc::default() };
        let drain = async { tokio::time::sleep(DRAIN).await };
        tokio::select! {
            () = listener.serve(registry.router(), end, drain) => {}
            () = registry.collect() => {}
        }
    }
}
