//! `wharf-registry serve` and `garbage-collect`.

use std::io::{self, IsTerminal as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use axum::Router;
use axum::routing::get;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing_subscriber::fmt::time::SystemTime;

use super::settings::Settings;
use super::signals::{self, Stop};
use crate::auth::Gate;
use crate::listen::Listener;
use crate::observe::{AccessLog, Observer};
use crate::proxy::Proxies;
use crate::storage::{Local, S3};
use crate::tls::Tls;
use crate::{Options, Registry};

/// Connections of the monitoring at once.
const METRICS_CONNECTIONS: usize = 16;

/// Starts the log, to standard error: standard output is for the access log.
pub(super) fn log(level: tracing::Level) {
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_timer(SystemTime)
        .with_target(false)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr)
        .init();
}

#[expect(clippy::print_stdout, reason = "the answer of the verb")]
pub(super) async fn garbage_collect(data: &Path) -> Result<()> {
    if !wharf_linux::hostfs::exists(&data.join("registry.db"))? {
        bail!("{} is no registry's directory: name the one that was given to `serve --data`", data.display());
    }
    let storage = Local::open(data).await.context("opening the storage")?;
    let registry = Registry::new(storage, Options { grace: Duration::ZERO, ..Options::default() });
    registry.collect_all().await.context("collecting")?;
    let usage = registry.usage();
    println!("removed {} blobs of {} bytes", usage.removed_blobs, usage.removed_bytes);
    println!("kept {} blobs of {} bytes", usage.blobs, usage.bytes);
    Ok(())
}

pub(super) async fn serve(settings: Settings) -> Result<()> {
    raise_descriptor_limit();
    let mut stop = Stop::new()?;
    let observer = Observer::new(AccessLog::open(settings.access_log.clone())?);
    let reopening = tokio::spawn(signals::reopening(observer.clone())?);
    let tls = settings.tls.clone().map(Tls::open).transpose()?.map(Arc::new);
    wharf_linux::hostfs::create_dir_all(&settings.data, 0o700)?;
    let gate = settings.access.clone().map(Gate::open).transpose()?;
    let storage = match &settings.bucket {
        Some(bucket) => S3::open(bucket).await,
        None => Local::open(&settings.data).await,
    };
    let storage = storage.context("opening the storage")?;
    let registry = match &gate {
        Some(gate) => Registry::with_access(storage, settings.options.clone(), Arc::new(gate.clone())),
        None => Registry::new(storage, settings.options.clone()),
    };
    let registry = if settings.upstreams.is_empty() {
        registry
    } else {
        let scratch = settings.data.join("proxy");
        wharf_linux::hostfs::remove_dir_all(&scratch)?;
        wharf_linux::hostfs::create_dir_all(&scratch, 0o700)?;
        registry.caching(Proxies::new(settings.upstreams.clone(), scratch)?)
    };

    let mut public = registry.router().merge(health());
    if let Some(gate) = &gate {
        public = public.merge(gate.token_service());
    }
    let mut doors = vec![];
    match &settings.metrics_address {
        Some(address) => {
            let router = observer.metrics(registry.clone()).merge(health());
            let (socket, address) = bind(address).await?;
            tracing::info!("metrics on http://{address}/metrics");
            let traffic = Arc::default();
            doors.push((Listener { socket, tls: None, connections: METRICS_CONNECTIONS, traffic }, router));
        }
        None => public = public.merge(observer.metrics(registry.clone())),
    }
    let (socket, address) = bind(&settings.address).await?;
    let scheme = if tls.is_some() { "https" } else { "http" };
    if gate.is_none() && !Settings::is_local(address) {
        tracing::warn!("everyone who can reach {address} may push and delete: give --htpasswd");
    } else if tls.is_none() && !Settings::is_local(address) {
        tracing::warn!(
            "passwords cross the network in the clear, unless a proxy in front of {address} speaks TLS"
        );
    }
    let connections = settings.connections;
    let listener = Listener { socket, tls, connections, traffic: observer.traffic.clone() };
    doors.push((listener, observer.around(public)));

    let collecting = tokio::spawn({
        let registry = registry.clone();
        async move { registry.collect().await }
    });
    let (ending, ended) = watch::channel(false);
    let mut serving = JoinSet::new();
    for (listener, router) in doors {
        let mut ended = ended.clone();
        let end = async move {
            let _sender_gone = ended.wait_for(|ended| *ended).await;
        };
        // The clock runs from the first look at it, which is after the end has begun.
        let drain = async move { tokio::time::sleep(settings.drain).await };
        serving.spawn(listener.serve(router, end, drain));
    }
    tracing::info!("listening on {scheme}://{address}");
    signals::tell("READY=1");

    let reason = stop.next().await;
    tracing::info!("{reason}: open requests end, new ones are refused");
    signals::tell("STOPPING=1");
    let _everyone_listens = ending.send(true);
    tokio::select! {
        () = async { while serving.join_next().await.is_some() {} } => tracing::info!("ended"),
        reason = stop.next() => tracing::warn!("{reason}: ending at once"),
    }
    collecting.abort();
    reopening.abort();
    tokio::task::spawn_blocking(move || observer.finish()).await.context("ending the access log")
}

/// Alive, and ready for requests.
fn health() -> Router {
    Router::new().route("/healthz", get(|| async { "ok\n" })).route("/readyz", get(|| async { "ok\n" }))
}

async fn bind(address: &str) -> Result<(TcpListener, std::net::SocketAddr)> {
    let socket = TcpListener::bind(address).await.with_context(|| {
        format!("listening on {address} (expected HOST:PORT of this machine that is free)")
    })?;
    let address = socket.local_addr().with_context(|| format!("listening on {address}"))?;
    Ok((socket, address))
}

/// Every connection costs a descriptor, and its upload another; the soft limit is often 1024.
fn raise_descriptor_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!("raising the limit of open files: {error}");
    }
}
