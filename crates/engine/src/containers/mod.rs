//! The engine's containers: the table of live handles and what every operation needs.
//!
//! Layout per container:
//! ```text
//! <data-root>/containers/<id>/   config.json shim.json hosts hostname resolv.conf shim.log root/ log/
//! <exec-root>/containers/<id>/   shim.sock shim.pid exit.json            (gone after a reboot)
//! ```
//! Invariants: a row exists from the moment `create` answers until `remove` has taken the files away; a handle exists
//! for every row. A running container has exactly one shim.
//!
//! Locking: [`Table`] and each [`Container::record`] are short mutexes, never held across an await.
//! [`Container::change`] is held by whoever changes a container's state, across awaits, but never while a container
//! takes its time to stop.
//!
//! Crash: `create` makes files, then the row; `remove` marks the row, removes the files, then the row.
//! [`recover`](recover) finishes or undoes whatever was half made.

mod archive;
mod attach;
mod commit;
mod create;
mod diff;
mod explain;
mod export;
mod inspect;
mod lingering;
mod links;
mod list;
mod machine;
mod modes;
mod names;
mod prune;
mod record;
mod recover;
mod remove;
mod rename;
mod resources;
mod restart;
mod start;
mod stats;
mod stop;
mod supervise;
mod table;
mod top;
mod tree;
mod update;
mod wait;

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;
use wharf_image::Images;
use wharf_model::{ContainerId, Event};
use wharf_net::{Network, NetworkConfig};
use wharf_shim::protocol::Purpose;
use wharf_shim::spool::Position;
use wharf_state::Database;

pub use archive::{ArchiveTarget, PathStat};
pub use commit::CommitRequest;
pub(crate) use create::environment;
pub(crate) use links::LinkRecord;
pub(crate) use machine::cpu_count;
pub(crate) use prune::until;
pub(crate) use record::{MountRecord, Phase, Record};
pub(crate) use start::timestamp;
pub(crate) use stop::Change;
pub(crate) use table::Table;
pub use update::Update;

use crate::blocking::blocking;
use crate::events::Bus;
use crate::exec::Execs;
use crate::link::Link;
use crate::live::Live;
use crate::logs::{LogFollower, Packer};
use crate::session::Followers;
use crate::volumes::{Plugins, Volumes};
use crate::why::{self, Endings};
use crate::{EngineConfig, Error, Result};

/// How long a shutdown waits for what ended containers leave behind.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(10);
/// How long it waits for the log drivers of stopped containers.
const LOG_DEADLINE: Duration = Duration::from_secs(3);

/// The engine: a handle that is cheap to clone.
#[derive(Clone)]
pub struct Engine {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) config: EngineConfig,
    pub(crate) id: String,
    /// When this engine was opened.
    pub(crate) opened: Timestamp,
    pub(crate) db: Database,
    pub(crate) images: Images,
    /// The settings that may change.
    pub(crate) live: Live,
    pub(crate) network: Network,
    pub(crate) volumes: Volumes,
    pub(crate) events: Bus,
    pub(crate) containers: Table,
    pub(crate) endings: Endings,
    pub(crate) execs: Execs,
    /// Compresses logs.
    pub(crate) packer: Packer,
    /// The shim's executable behind a read-only mount: no container can write to it through `/proc`.
    pub(crate) shim: OwnedFd,
    /// Runs that have ended and are still being cleaned up; their containers may be forgotten already.
    pub(crate) cleanups: watch::Sender<usize>,
    /// Turns at the files of all containers; see [`tree`].
    pub(crate) looks: Arc<tokio::sync::Semaphore>,
    /// Containers of which something is left that could not be removed yet.
    pub(crate) remains: Mutex<BTreeSet<ContainerId>>,
    /// Set at shutdown: exits are left for the next engine, nothing is restarted.
    pub(crate) closing: watch::Sender<bool>,
}

/// How far a container's run has come, for everyone who waits for something.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress {
    /// Counts the starts since this engine opened it.
    pub(crate) run: u64,
    /// A run is going on.
    pub(crate) running: bool,
    /// End of the output so far; final once `complete` is set or `running` is not.
    pub(crate) output: Position,
    /// The present run has ended and its output is complete.
    pub(crate) complete: bool,
    /// Exit code of the last run that ended, or of the start that failed.
    pub(crate) exit: Option<i32>,
    /// Counts the exits since this engine opened it.
    pub(crate) exits: u64,
    /// A shim exists, or what the last run left is being cleaned up.
    pub(crate) busy: bool,
    /// The policy is going to start it again.
    pub(crate) restarting: bool,
    /// How many want it to stay after its run, whatever `--rm` says: they start it again.
    pub(crate) kept: usize,
    /// How many removals by force are under way: each ends its run first and takes it away then, and nobody starts it
    /// in between.
    pub(crate) doomed: usize,
    /// A removal that was asked for is under way.
    pub(crate) removing: bool,
    /// It is gone.
    pub(crate) removed: bool,
}

/// The live handle of one container.
pub(crate) struct Container {
    pub(crate) id: ContainerId,
    /// Held by whoever changes its state.
    pub(crate) change: tokio::sync::Mutex<()>,
    /// Its files: shared by those who read them or go through its running overlay, alone for who mounts them anew.
    /// Taken after `change` where both are.
    pub(crate) files: Arc<tokio::sync::RwLock<()>>,
    /// Turns at its files; see [`tree`].
    pub(crate) looks: Arc<tokio::sync::Semaphore>,
    record: Mutex<Record>,
    link: Mutex<Option<Arc<Link>>>,
    pub(crate) progress: watch::Sender<Progress>,
    pub(crate) followers: Followers,
    /// Who follows its output for its log driver.
    pub(crate) log: LogFollower,
}

impl Container {
    pub(crate) fn new(record: Record) -> Arc<Self> {
        let exit = record.finished_at.map(|_| record.exit_code);
        Arc::new(Self {
            id: record.id.clone(),
            change: tokio::sync::Mutex::new(()),
            files: Arc::default(),
            looks: tree::turns_of_one(),
            progress: watch::Sender::new(Progress { exit, ..Progress::default() }),
            record: Mutex::new(record),
            link: Mutex::new(None),
            followers: Followers::default(),
            log: LogFollower::default(),
        })
    }

    /// The record; never hold it across an await.
    pub(crate) fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection to its shim while it runs.
    pub(crate) fn link(&self) -> Option<Arc<Link>> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_link(&self, link: Option<Arc<Link>>) {
        *self.link.lock().unwrap_or_else(PoisonError::into_inner) = link;
    }

    /// The connection to its shim, or the reason why there is none.
    pub(crate) fn running_link(&self) -> Result<Arc<Link>> {
        self.link().filter(|_| self.record().is_running()).ok_or_else(|| self.not_running())
    }

    /// It is being removed, or gone.
    pub(crate) fn is_going(&self) -> bool {
        self.progress.borrow().removed || self.record().phase == Phase::Removing
    }

    /// The error of those who need it to run while it waits for its restart.
    pub(crate) fn between_runs(&self) -> Error {
        Error::Conflict(format!("Container {} is restarting, wait until the container is running", self.id))
    }

    pub(crate) fn not_running(&self) -> Error {
        Error::Conflict(format!("container {} is not running", self.id))
    }
}

impl Engine {
    /// Opens the data root, the image store and the network, and takes over whatever runs.
    ///
    /// # Errors
    /// When a directory cannot be made, the state is damaged, or the shim's program is missing.
    pub async fn open(config: EngineConfig) -> Result<Self> {
        let engine = blocking(move || Self::open_files(config)).await?;
        engine.retry_removals();
        engine.recover().await?;
        Ok(engine)
    }

    fn open_files(config: EngineConfig) -> Result<Self> {
        use wharf_linux::hostfs;
        // Nobody but root walks into layers and volumes; members of the group may reach what is world-readable.
        // An earlier program, or a hand, may have left them looser.
        for (directory, mode) in [
            (&config.data_root, 0o710),
            (&config.exec_root, 0o711),
            (&config.containers_dir(), 0o710),
            (&config.volumes_dir(), 0o710),
            (&config.run_dir(), 0o700),
        ] {
            hostfs::create_dir_all(directory, mode)?;
            hostfs::tighten(directory, mode)?;
        }
        if let Some(remap) = &config.remap {
            remap.check(&config.data_root)?;
        }
        let db = Database::open(&config.data_root.join("state.db"))?;
        db.migrate("engine", record::STEPS)?;
        db.migrate("why", why::STEPS)?;
        crate::volumes::migrate(&db)?;
        let options =
            wharf_image::Options { layers: config.layers, transfers: config.transfers, ..Default::default() };
        let images = Images::open_with(&config.data_root, db.clone(), options)?;
        let live = Live::new(config.clone())?;
        let subnet = match &config.subnet {
            Some(text) => Some(text.parse().map_err(|_| {
                Error::Invalid(format!(
                    "invalid --bip {text:?}: expected ADDRESS/PREFIX such as 172.20.0.1/16"
                ))
            })?),
            None => None,
        };
        let network = Network::open(NetworkConfig {
            instance: config.instance(),
            bridge: config.bridge.clone(),
            subnet,
            state: db.clone(),
        })?;
        let program = config.libexec.join("wharf-shim");
        let shim = wharf_linux::process::protected_exe(&program).map_err(|error| {
            Error::System(format!(
                "cannot use {}: {error}; install wharf-shim next to wharfd",
                program.display()
            ))
        })?;
        let id = engine_id(&db)?;
        let plugins = Plugins::new(config.plugin_dirs.clone(), config.volume_patience);
        let volumes = Volumes::new(plugins, config.volume_patience);
        Ok(Self {
            inner: Arc::new(Inner {
                config,
                id,
                opened: Timestamp::now(),
                db,
                images,
                live,
                network,
                volumes,
                events: Bus::new(),
                containers: Table::default(),
                endings: Endings::default(),
                execs: Execs::default(),
                packer: Packer::default(),
                shim,
                cleanups: watch::Sender::new(0),
                looks: tree::turns(),
                remains: Mutex::default(),
                closing: watch::Sender::new(false),
            }),
        })
    }

    /// Ends the engine's work: with live restore the containers go on, otherwise they are stopped first.
    pub async fn shutdown(&self) {
        if !self.live().config.live_restore {
            // It is not a person who stops them: nothing says so in the rows, and the next engine starts those again whose
            // policy says so.
            self.inner.closing.send_replace(true);
            let running = self.inner.containers.all();
            let stops = running.into_iter().filter(|container| container.record().is_running()).map(|container| async move {
                if let Err(error) = self.end(&container, None, None, None, Purpose::Shutdown).await {
                    tracing::warn!(container = %container.id, %error, "cannot stop the container at shutdown");
                }
            });
            futures_util::future::join_all(stops).await;
            // What is left waits for the next engine.
            let all = self.inner.containers.all();
            futures_util::future::join_all(all.iter().map(|one| self.finish_log(one, LOG_DEADLINE))).await;
        }
        self.inner.closing.send_replace(true);
        self.inner.packer.close();
        let mut cleanups = self.inner.cleanups.subscribe();
        let settled =
            tokio::time::timeout(SHUTDOWN_DEADLINE, cleanups.wait_for(|running| *running == 0)).await;
        if settled.is_err() {
            tracing::warn!("some containers are not cleaned up yet; the next start finishes that");
        }
        let idle = !self.inner.containers.all().iter().any(|container| container.progress.borrow().busy);
        let (network, parent) = (self.inner.network.clone(), self.inner.config.cgroup_parent());
        let images = self.inner.images.clone();
        let _closed = blocking(move || {
            if let Err(error) = images.detach_layers() {
                tracing::warn!(%error, "cannot take down the mounts of all layers");
            }
            // Nothing of ours stays on the machine when nothing of ours runs.
            if idle && let Ok(parent) = wharf_linux::cgroup::Cgroup::open(&parent) {
                supervise::remove_cgroup(&parent);
            }
            Ok(network.shutdown()?)
        })
        .await
        .inspect_err(|error| tracing::warn!(%error, "cannot take the network down"));
    }

    /// The container of that name, id or unambiguous beginning of an id.
    pub(crate) fn find(&self, name: &str) -> Result<Arc<Container>> {
        self.inner.containers.find(name)
    }

    /// Writes a container's record to the state database.
    pub(crate) async fn save(&self, container: &Arc<Container>) -> Result<()> {
        let record = container.record().clone();
        let db = self.inner.db.clone();
        blocking(move || record::update(&db, &record)).await
    }

    /// Tells the world about a container.
    pub(crate) fn emit(&self, container: &Container, action: &str, extra: &[(&str, String)]) {
        let mut attributes = container.record().event_attributes();
        attributes.extend(extra.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
        self.inner.events.publish(Event {
            kind: "container",
            action: action.to_owned(),
            id: container.id.to_string(),
            attributes,
            time: Timestamp::now(),
        });
    }
}

/// A random id.
pub(crate) fn random_id() -> Result<[u8; 32]> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| Error::System(format!("no random numbers: {error}")))?;
    Ok(bytes)
}

/// The engine's own id: made once, kept in the state database.
fn engine_id(db: &Database) -> Result<String> {
    let fresh: String = random_id()?[..16].iter().map(|byte| format!("{byte:02x}")).collect();
    let id = db.write(|tx| -> std::result::Result<String, wharf_state::Error> {
        tx.execute("INSERT OR IGNORE INTO engine (key, value) VALUES ('id', ?1)", [&fresh])?;
        Ok(tx.query_row("SELECT value FROM engine WHERE key = 'id'", [], |row| row.get(0))?)
    })?;
    Ok(id)
}

/// An id that follows from `seed`: stable where a random one would change at every look.
pub(crate) fn derived_id(seed: &str) -> String {
    use sha2::{Digest, Sha256};
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |half: u8| char::from(DIGITS[usize::from(half & 15)]);
    // Lists ask for one per container: no allocation per byte.
    Sha256::digest(seed.as_bytes()).iter().flat_map(|byte| [digit(byte >> 4), digit(*byte)]).collect()
}
