//! The engine daemon: the one place where the parts are put together. It knows flags, files, sockets and signals, and
//! nothing of containers.
//!
//! Start: settings, locks on both roots, sockets, engine (which finds what its predecessor left running), then
//! `API listen on …` and systemd's `READY=1`. The sockets are bound before the engine is open, so that a client that
//! comes early waits instead of failing. End: no new connections, answers that have begun end, the engine shuts down,
//! sockets and pid file go. Containers live on unless live restore is off. A `kill -9` at any point leaves nothing but
//! a stale socket and pid file, which the next start replaces.
//!
//! SIGHUP reads the settings file and the certificates again. What can change while the engine runs does so, all of it or
//! nothing; the rest needs a restart.

mod listen;
mod lock;
mod logging;
mod notify;
mod pidfile;
mod reload;
mod settings;

use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::fs::Mode;
use rustix::process::{Resource, getrlimit, setrlimit, umask};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, watch};
use wharf_engine::{Engine, EngineConfig};
use wharf_registry_server::Embedded;
use wharf_server::{Authorization, Tls};

use crate::listen::Listener;
use crate::settings::{Flags, Settings};

/// Threads that drive the API and the engine's tasks.
const WORKERS: usize = 2;
/// How long it must be quiet before memory is given back.
const QUIET: Duration = Duration::from_secs(5);
/// What the end of the engine takes beside stopping containers.
const SHUTDOWN_MARGIN: Duration = Duration::from_secs(12);
/// The first descriptor after the standard streams.
const FIRST_DESCRIPTOR: u32 = 3;
/// Threads for kernel and disk work at the most; idle ones end. Far more than do something at the same time: one that
/// waits for a dead disk or a slow client is lost to the others.
const BLOCKING_THREADS: usize = 512;

fn main() -> ExitCode {
    match Flags::read().and_then(run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&error);
            ExitCode::FAILURE
        }
    }
}

/// The log may not be set up yet.
fn report(error: &anyhow::Error) {
    use std::io::Write as _;
    let _nobody_reads = writeln!(std::io::stderr(), "wharfd: {error:#}");
}

fn run(flags: Flags) -> Result<()> {
    // As many as can be in use at a time.
    wharf_linux::daemon::share_heaps(std::thread::available_parallelism().map_or(WORKERS, NonZero::get));
    let settings = Settings::load(&flags)?;
    if flags.validate {
        return say_valid();
    }
    let log = logging::start(&settings);
    // Sockets that a service manager passed are this process's, not its shims'.
    wharf_linux::process::close_on_exec_from(FIRST_DESCRIPTOR).context("closing descriptors at exec")?;
    // Files are made with the modes that are asked for, whatever the parent had.
    umask(Mode::from_bits_truncate(0o022));
    raise_descriptor_limit();
    let _locks = lock::both(&settings.data_root, &settings.exec_root)?;
    let _pidfile = settings.pidfile.as_deref().map(pidfile::write).transpose()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_name("wharfd")
        .enable_all()
        .build()
        .context("starting the runtime")?;
    runtime.block_on(serve(flags, settings, log))
}

#[expect(clippy::print_stdout, reason = "the answer of --validate")]
fn say_valid() -> Result<()> {
    println!("configuration OK");
    Ok(())
}

async fn serve(flags: Flags, settings: Settings, log: logging::Log) -> Result<()> {
    let mut signals = Signals::new()?;
    let tls = settings.tls.clone().map(Tls::open).transpose().context("setting up TLS")?;
    let listeners = listen::open(&settings.hosts, settings.group.as_deref(), tls.as_ref())?;
    let authorization = Authorization::default();
    let plugins = settings.exec_root.join("plugins");
    authorization.set(&settings.authorization_plugins, &plugins).await?;
    let engine = Engine::open(engine_config(&settings)?).await.context("opening the engine")?;

    let ended = Arc::new(Notify::new());
    let (closing, closed) = watch::channel(());
    let mut servers = tokio::task::JoinSet::new();
    let mut sockets = Vec::new();
    for Listener { door, guard, name } in listeners {
        let mut closed = closed.clone();
        let until = async move {
            let _sender_gone = closed.changed().await;
        };
        let router = wharf_server::router(engine.clone(), authorization.clone());
        servers.spawn(wharf_server::serve(door, router, ended.clone(), until));
        tracing::info!("API listen on {name}");
        sockets.push(guard);
    }
    if let Some(address) = settings.registry_address {
        let registry = Embedded::open(address, &settings.data_root.join("registry")).await?;
        tracing::info!("registry listen on {}", registry.address().unwrap_or(address));
        let mut closed = closed.clone();
        servers.spawn(registry.serve(async move {
            let _sender_gone = closed.changed().await;
        }));
    }
    notify::ready();
    let slimming = tokio::spawn(slim_when_quiet(ended));

    let shutdown_timeout = Mutex::new(settings.shutdown_timeout);
    let reload =
        reload::Reload { flags, log, tls, authorization, plugins, engine: engine.clone(), shutdown_timeout };
    let reason = loop {
        match signals.next().await {
            Heard::Reload => reload.run().await,
            Heard::End(reason) => break reason,
        }
    };
    tracing::info!("{reason}: shutting down");
    slimming.abort();
    notify::stopping();
    let end = async {
        let _nobody_listens = closing.send(());
        while servers.join_next().await.is_some() {}
        drop(sockets);
        match reload.shutdown_timeout() {
            None => engine.shutdown().await,
            Some(limit) => {
                if tokio::time::timeout(limit + SHUTDOWN_MARGIN, engine.shutdown()).await.is_err() {
                    tracing::warn!("containers did not stop in {limit:?}: leaving them");
                }
            }
        }
    };
    tokio::select! {
        () = end => tracing::info!("shut down"),
        reason = signals.end() => tracing::warn!("{reason}: leaving at once"),
    }
    Ok(())
}

/// Gives memory back after the start, and whenever no connection has ended for a while: freed heap, and code that the
/// past work needed. What of it is needed again comes from the page cache. Sleeps while nothing happens.
async fn slim_when_quiet(ended: Arc<Notify>) {
    loop {
        wharf_linux::daemon::release_heap();
        wharf_linux::daemon::release_code();
        ended.notified().await;
        while tokio::time::timeout(QUIET, ended.notified()).await.is_ok() {}
    }
}

/// The signals the daemon listens to.
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

/// What a signal means.
enum Heard {
    /// The settings have changed.
    Reload,
    /// The end, and the signal's name.
    End(&'static str),
}

impl Signals {
    fn new() -> Result<Self> {
        let listen = |kind| signal(kind).context("listening to signals");
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Heard {
        tokio::select! {
            _ = self.terminate.recv() => Heard::End("SIGTERM"),
            _ = self.interrupt.recv() => Heard::End("SIGINT"),
            _ = self.hangup.recv() => Heard::Reload,
        }
    }

    /// The next signal that means the end.
    async fn end(&mut self) -> &'static str {
        loop {
            if let Heard::End(reason) = self.next().await {
                return reason;
            }
        }
    }
}

fn engine_config(settings: &Settings) -> Result<EngineConfig> {
    Ok(EngineConfig {
        data_root: settings.data_root.clone(),
        exec_root: settings.exec_root.clone(),
        libexec: libexec()?,
        live_restore: settings.live_restore,
        layers: settings.layers,
        debug: settings.debug,
        bridge: settings.bridge.clone(),
        subnet: settings.bip.clone(),
        registries: settings.registries.clone(),
        transfers: settings.transfers,
        image_budget: settings.image_budget,
        plugin_dirs: settings.plugin_dirs.clone(),
        volume_patience: settings.volume_patience,
        runtimes: settings.runtimes.clone(),
        labels: settings.labels.clone(),
        log: settings.log.clone(),
        cdi_dirs: settings.cdi_dirs.clone(),
        defaults: settings.defaults.clone(),
        remap: settings.remap.clone(),
    })
}

/// Where the programs are that the engine starts: beside this one, or in `../libexec/wharf`.
fn libexec() -> Result<PathBuf> {
    let program = std::env::current_exe().context("finding this program")?;
    let beside = program.parent().unwrap_or(Path::new("/"));
    let candidates = [beside.to_path_buf(), beside.join("../libexec/wharf")];
    candidates.into_iter().find(|dir| dir.join("wharf-shim").is_file()).with_context(|| {
        format!("no wharf-shim in {0} or {0}/../libexec/wharf: install it there", beside.display())
    })
}

/// Every container costs descriptors; the soft limit is often 1024.
fn raise_descriptor_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!("raising the limit of open files: {error}");
    }
}
