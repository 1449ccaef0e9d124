//! Image names, pull, push, load, save, import, layers and snapshots, and the one collector.
//!
//! Layout beneath the data root:
//! ```text
//! content/                  the blobs (crate wharf-content): manifests, configs, layers as they came
//! snapshots/<n>/fs          the files of a layer, or the writable directory of a container
//! snapshots/<n>/layer.erofs the file system that is mounted there, unless the layer is a directory
//! snapshots/<n>/work        overlayfs' own directory beside a writable one
//! snapshots/.trash/<n>      what is being deleted
//! ```
//! The state database says which number is what, and holds every name.
//!
//! Invariants: a row is committed after the bytes it stands for are durable (layers are synced before they are
//! committed), and bytes are removed after the row is gone and that is durable. A layer is visible only after its
//! diff id was verified. Nothing in an archive is ever used as a path.
//!
//! Locking: one mutex orders commits and removals; it is not held while an archive is read. A load, import or save
//! holds a lease, and while there is one no blob is deleted. Lock order: commit, leases, database.
//!
//! Crash: numbers without a row, blobs without an image and the trash are garbage that [`Images::open`] sweeps.
//!
//! Deletion happens in one place ([`Images::collect`] and the trash behind it), by descriptor, in the background.

mod changes;
mod check;
mod collect;
mod commit;
mod compress;
mod container;
mod diff;
mod directory;
mod documents;
mod erofs;
mod error;
mod follow;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzz;
mod import;
mod layer;
mod limits;
mod load;
mod lookup;
mod mounts;
mod pipe;
mod records;
mod remove;
mod save;
mod snapshots;
mod stage;
mod transfer;
mod types;
mod unpack;
mod usage;

pub use wharf_archive::tar;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use wharf_content::Store;
use wharf_linux::hostfs;
use wharf_model::Digest;
use wharf_state::Database;

use collect::{Leases, Trash};
use documents::Documents;
use layer::Format;
use stage::StagedDirectory;
use transfer::Transfers;

pub use changes::{Empty, RunConfig};
pub use check::{CheckProgress, Finding, Part, Report};
pub use compress::decoded;
pub use container::CommitOptions;
pub use diff::{Change, ChangeKind};
pub use error::{Error, Result};
pub use limits::Limits;
pub use transfer::{
    Concurrency, LayerState, Progress, PullRequest, Pulled, PushRequest, Pushed, Repositories, Transfer,
};
pub use types::{
    DockerFields, Healthcheck, HistoryEntry, Image, ImportOptions, LayerStorage, LoadProgress, Loaded,
    Pruned, Removed, SnapshotMounts, User,
};
pub use usage::Usage;

/// How a store is opened.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// What foreign archives may cost.
    pub limits: Limits,
    /// How layers are kept.
    pub layers: LayerStorage,
    /// How much is transferred at once.
    pub transfers: Concurrency,
}

/// The images, layers and snapshots of one data root; clones share them.
#[derive(Clone, Debug)]
pub struct Images {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    snapshots: PathBuf,
    store: Store,
    db: Database,
    limits: Limits,
    /// What new layers become; found out when the first one comes.
    layer_format: OnceLock<Format>,
    next_directory: AtomicI64,
    /// Orders commits and removals.
    commit: Mutex<()>,
    /// Understood config documents by image; they never change.
    documents: Mutex<HashMap<Digest, Arc<Documents>>>,
    /// Bytes on disk of layers, by their directory.
    measured: Mutex<HashMap<i64, u64>>,
    leases: Leases,
    trash: Arc<Trash>,
    transfers: Transfers,
}

impl Images {
    /// Opens or creates `content/` and `snapshots/` beneath `root` and sweeps what a crash left.
    ///
    /// # Errors
    /// [`Error::Store`] or [`Error::State`] when the data root or the database cannot be used.
    pub fn open(root: &Path, db: Database) -> Result<Self> {
        Self::open_with(root, db, Options::default())
    }

    /// Like [`Images::open`], with a say in limits, in how layers are kept and in how much is transferred at once.
    ///
    /// # Errors
    /// As [`Images::open`].
    pub fn open_with(root: &Path, db: Database, options: Options) -> Result<Self> {
        records::migrate(&db)?;
        let snapshots = root.join("snapshots");
        let trash = snapshots.join(".trash");
        hostfs::create_dir_all(&trash, 0o700)?;
        let store = Store::open(&root.join("content"))?;
        let inner = Inner {
            snapshots,
            store,
            db,
            limits: options.limits,
            layer_format: match options.layers {
                LayerStorage::Automatic => OnceLock::new(),
                LayerStorage::Directories => OnceLock::from(Format::Directory),
            },
            next_directory: AtomicI64::new(1),
            commit: Mutex::default(),
            documents: Mutex::default(),
            measured: Mutex::default(),
            leases: Leases::default(),
            trash: Arc::new(Trash::new(trash)),
            transfers: Transfers::new(options.transfers),
        };
        inner.sweep()?;
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Changes how much is transferred at once, for transfers of layers that begin from now on.
    pub fn set_concurrency(&self, concurrency: Concurrency) {
        self.inner.transfers.set_concurrency(concurrency);
    }

    /// Takes down what shows the files of layers. For the end of the engine; who uses a layer after it brings it back.
    ///
    /// # Errors
    /// [`Error::Store`] with the first failure, after all were tried.
    pub fn detach_layers(&self) -> Result<()> {
        self.inner.detach_layers()
    }

    /// Removes everything that no name, image or snapshot needs, and waits until it is gone.
    ///
    /// # Errors
    /// [`Error::Store`] when something cannot be removed.
    pub fn collect(&self) -> Result<()> {
        self.inner.collect()
    }
}

impl Inner {
    fn commit_lock(&self) -> MutexGuard<'_, ()> {
        // What the lock orders is in the database, whose transaction a panic has undone.
        self.commit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new numbered directory that goes away unless it gets a row.
    fn stage_directory(&self) -> Result<StagedDirectory> {
        StagedDirectory::create(&self.snapshots, self.next_number(), self.layer_format(), &self.trash)
    }

    fn layer_format(&self) -> Format {
        *self.layer_format.get_or_init(|| {
            if erofs::is_supported(&self.snapshots) { Format::Erofs } else { Format::Directory }
        })
    }

    fn next_number(&self) -> i64 {
        self.next_directory.fetch_add(1, Ordering::Relaxed)
    }

    /// Where everything of a layer or a container's snapshot is.
    fn place_of(&self, directory: i64) -> PathBuf {
        self.snapshots.join(directory.to_string())
    }

    /// The files of a layer or a container's snapshot.
    fn files_of(&self, directory: i64) -> PathBuf {
        self.place_of(directory).join(layer::FILES)
    }

    /// Detaches every layer. Containers that run keep theirs; who comes next attaches what is needed.
    fn detach_layers(&self) -> Result<()> {
        let mut failed = Ok(());
        for row in self.db.read(records::layers)? {
            let detached = row.format.layers().detach(&self.place_of(row.directory));
            failed = failed.and(detached);
        }
        failed
    }

    /// The config document of an image.
    fn documents(&self, id: &Digest) -> Result<Arc<Documents>> {
        let cached = || self.documents.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(documents) = cached().get(id) {
            return Ok(Arc::clone(documents));
        }
        let bytes = self.store.document(id)?;
        let documents = Arc::new(Documents::parse(&bytes, "image config")?);
        cached().insert(*id, Arc::clone(&documents));
        Ok(documents)
    }

    fn forget_documents(&self, id: &Digest) {
        self.documents.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Err(error) = self.detach_layers() {
            tracing::warn!("cannot take down the mount of a layer: {error}");
        }
    }
}
