//! The one collector: what is removed, is removed here.

use std::collections::{BTreeSet, HashSet};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use wharf_content::MAX_DOWNLOAD_AGE;
use wharf_content::spec::{self, Annotations, Descriptor, Index};
use wharf_linux::{hostfs, tree};
use wharf_model::Digest;

use crate::layer::Format;
use crate::records::{self, LayerRow};
use crate::{Inner, Result};

/// Counts the operations that rely on blobs without a row: while there are any, no blob is deleted.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    state: Mutex<LeaseState>,
}

#[derive(Debug, Default)]
struct LeaseState {
    held: usize,
    /// Blobs were left behind because of a lease.
    pending: bool,
}

impl Leases {
    fn lock(&self) -> MutexGuard<'_, LeaseState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps all blobs until it is dropped.
pub(crate) struct Lease(Arc<Inner>);

impl Drop for Lease {
    fn drop(&mut self) {
        let pending = {
            let mut state = self.0.leases.lock();
            state.held -= 1;
            state.held == 0 && std::mem::take(&mut state.pending)
        };
        if pending && let Err(error) = self.0.collect_blobs() {
            tracing::warn!("cannot remove unneeded content, the next start will: {error}");
        }
        if let Err(error) = self.0.forget_downloads(MAX_DOWNLOAD_AGE) {
            tracing::warn!("cannot remove a download that nobody went on with: {error}");
        }
    }
}

impl Inner {
    pub(crate) fn lease(self: &Arc<Self>) -> Lease {
        self.leases.lock().held += 1;
        Lease(Arc::clone(self))
    }

    /// Whether something is under way that relies on what it has found or brought.
    pub(crate) fn is_leased(&self) -> bool {
        self.leases.lock().held > 0
    }

    /// Removes downloads that nobody went on with for `age`, unless something is under way.
    pub(crate) fn forget_downloads(&self, age: Duration) -> Result<()> {
        let state = self.leases.lock();
        if state.held == 0 {
            self.store.forget_downloads(age)?;
        }
        Ok(())
    }

    /// At start: brings files in line with rows.
    pub(crate) fn sweep(&self) -> Result<()> {
        let known: HashSet<i64> = self.db.read(records::directories)?.into_iter().collect();
        let mut highest = known.iter().copied().max().unwrap_or(0);
        let mut present = HashSet::new();
        for name in hostfs::read_dir(&self.snapshots)? {
            let number = name.to_str().and_then(|name| name.parse::<i64>().ok());
            highest = highest.max(number.unwrap_or(0));
            match number {
                Some(number) if known.contains(&number) => {
                    present.insert(number);
                }
                _ if name.as_bytes() == b".trash" => {}
                _ => {
                    let place = self.snapshots.join(&name);
                    Format::Erofs.layers().detach(&place)?;
                    self.trash.take(&place)?;
                }
            }
        }
        for name in hostfs::read_dir(self.trash.path())? {
            highest = highest.max(name.to_str().and_then(|name| name.parse().ok()).unwrap_or(0));
        }
        self.next_directory.store(highest + 1, Ordering::Relaxed);

        // The removal of a snapshot is not synced: after a power cut its row may be back without its files.
        for (key, directory) in self.db.read(records::snapshots)? {
            if !present.contains(&directory) {
                tracing::warn!("the files of snapshot {key} are gone; forgetting it");
                self.db.write(|tx| records::delete_snapshot(tx, &key))?;
            }
        }
        let layers = self.db.write(records::delete_unneeded_layers)?;
        self.discard_layers(&layers)?;
        self.discard_retired()?;
        self.collect_blobs()?;
        self.write_index()?;
        self.trash.empty_in_background();
        Ok(())
    }

    pub(crate) fn collect(&self) -> Result<()> {
        {
            let _commit = self.commit_lock();
            let layers = self.db.write(records::delete_unneeded_layers)?;
            self.discard_layers(&layers)?;
            self.discard_retired()?;
        }
        self.collect_blobs()?;
        self.trash.empty()
    }

    /// Moves the files of layers whose rows are gone to the trash.
    pub(crate) fn discard_layers(&self, layers: &[LayerRow]) -> Result<()> {
        if layers.is_empty() {
            return Ok(());
        }
        // The rows must not come back after a power cut without their files.
        self.db.sync()?;
        for layer in layers {
            layer.format.layers().detach(&self.place_of(layer.directory))?;
            self.discard_directory(layer.directory)?;
        }
        Ok(())
    }

    /// Files of layers that were replaced stay until the last container that may have them open is gone.
    fn discard_retired(&self) -> Result<()> {
        let retired = self.db.write(records::release_retired)?;
        if !retired.is_empty() {
            self.db.sync()?;
        }
        for directory in retired {
            Format::Erofs.layers().detach(&self.place_of(directory))?;
            self.discard_directory(directory)?;
        }
        Ok(())
    }

    pub(crate) fn discard_directory(&self, directory: i64) -> Result<()> {
        let taken = self.trash.take(&self.place_of(directory));
        self.trash.empty_in_background();
        taken?;
        Ok(())
    }

    /// Removes those of these blobs that no image needs, or leaves all to the end of the last lease.
    pub(crate) fn discard_blobs(&self, blobs: &[Digest]) -> Result<()> {
        let mut state = self.leases.lock();
        if state.held > 0 {
            state.pending = true;
            return Ok(());
        }
        for blob in blobs {
            if !self.db.read(|conn| records::is_needed(conn, blob))? {
                self.store.remove(blob)?;
            }
        }
        Ok(())
    }

    /// Looks through all blobs.
    fn collect_blobs(&self) -> Result<()> {
        let needed: HashSet<Digest> = self.db.read(records::needed_blobs)?.into_iter().collect();
        let unneeded: Vec<Digest> =
            self.store.list()?.into_iter().filter(|blob| !needed.contains(blob)).collect();
        self.discard_blobs(&unneeded)
    }

    /// Something went wrong after blobs were published: have the end of the lease look for them.
    pub(crate) fn collect_after_lease(&self) {
        self.leases.lock().pending = true;
    }

    /// Rewrites `content/index.json` from the names, for other tools.
    pub(crate) fn write_index(&self) -> Result<()> {
        let (mut images, names) =
            self.db.read(|conn| Ok::<_, crate::Error>((records::images(conn)?, records::names(conn)?)))?;
        let mut index = Index::default();
        let mut named = HashSet::new();
        for row in &names {
            let Some(image) = images.iter().find(|image| image.id == row.image) else { continue };
            named.insert(image.id);
            let own = row
                .manifest
                .map(|manifest| self.db.read(|conn| records::manifest(conn, &image.id, &manifest)));
            let mut descriptor = match own.transpose()?.flatten() {
                Some(manifest) => Descriptor::new(&manifest.media_type, manifest.digest, manifest.size),
                None => Descriptor::new(&image.manifest_type, image.manifest, image.manifest_size),
            };
            descriptor.annotations = Some(Annotations::from([
                (spec::ANNOTATION_REF_NAME.to_owned(), row.name.familiar()),
                (spec::ANNOTATION_IMAGE_NAME.to_owned(), row.name.to_string()),
            ]));
            index.manifests.push(descriptor);
        }
        images.retain(|image| !named.contains(&image.id));
        index.manifests.extend(
            images
                .iter()
                .map(|image| Descriptor::new(&image.manifest_type, image.manifest, image.manifest_size)),
        );
        Ok(self.store.write_index(&index)?)
    }
}

/// Directories on their way out. Taking one is a rename; a thread that lives only while there is something to do
/// deletes them.
#[derive(Debug)]
pub(crate) struct Trash {
    shared: Arc<SharedTrash>,
    worker: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct SharedTrash {
    path: PathBuf,
    state: Mutex<TrashState>,
    /// Told when the worker has more to do than wait.
    wake: Condvar,
    /// Held by the one who deletes: two would take the directories from under each other.
    deleting: Mutex<()>,
    /// The engine goes away: what is left is for the next start.
    stop: AtomicBool,
}

/// The first pause before a deletion that failed is tried again; doubled each time.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_LIMIT: Duration = Duration::from_secs(300);

#[derive(Debug, Default)]
struct TrashState {
    running: bool,
    /// Something came in since the worker last looked.
    again: bool,
    /// Somebody waits for the worker to end.
    hurry: bool,
    /// Directories that could not be moved in yet.
    strays: BTreeSet<PathBuf>,
}

impl Trash {
    pub(crate) fn new(path: PathBuf) -> Self {
        let shared = SharedTrash {
            path,
            state: Mutex::default(),
            wake: Condvar::new(),
            deleting: Mutex::default(),
            stop: AtomicBool::new(false),
        };
        Self { shared: Arc::new(shared), worker: Mutex::default() }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.shared.path
    }

    /// Moves a directory in; one that is not there is no error. What cannot be moved now is tried again with the next
    /// deletion.
    pub(crate) fn take(&self, directory: &Path) -> Result<()> {
        let taken = self.shared.take(directory);
        if taken.is_err() {
            self.shared.lock().strays.insert(directory.to_path_buf());
        }
        taken
    }

    pub(crate) fn empty_in_background(&self) {
        let mut worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner);
        {
            let mut state = self.shared.lock();
            state.again = true;
            if state.running {
                self.shared.wake.notify_all();
                return;
            }
            state.running = true;
        }
        let shared = Arc::clone(&self.shared);
        let spawned = std::thread::Builder::new().name("trash".to_owned()).spawn(move || shared.work());
        match spawned {
            // The previous worker, if any, has finished: dropping its handle is enough.
            Ok(handle) => *worker = Some(handle),
            Err(error) => {
                self.shared.lock().running = false;
                tracing::warn!(
                    "cannot start deleting in the background, deleting in the foreground: {error}"
                );
                if let Err(error) = self.shared.delete_all() {
                    tracing::warn!("cannot delete all of {}: {error}", self.shared.path.display());
                }
            }
        }
    }

    /// Deletes everything in it before returning.
    pub(crate) fn empty(&self) -> Result<()> {
        self.wait();
        self.shared.delete_all()
    }

    fn wait(&self) {
        let worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(worker) = worker {
            self.shared.lock().hurry = true;
            self.shared.wake.notify_all();
            let _ = worker.join();
            self.shared.lock().hurry = false;
        }
    }
}

impl Drop for Trash {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.wait();
    }
}

impl SharedTrash {
    fn lock(&self) -> MutexGuard<'_, TrashState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, directory: &Path) -> Result<()> {
        let Some(name) = directory.file_name() else { return Ok(()) };
        match hostfs::rename(directory, &self.path.join(name)) {
            Err(error) if !error.is_not_found() => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Deletes what comes in. After a failure it tries again, more and more seldom.
    fn work(&self) {
        let mut pause = RETRY;
        let mut failed = false;
        loop {
            {
                let mut state = self.lock();
                if failed && !self.stop.load(Ordering::Relaxed) {
                    let waited =
                        self.wake.wait_timeout_while(state, pause, |state| !state.again && !state.hurry);
                    state = waited.unwrap_or_else(PoisonError::into_inner).0;
                    pause = (pause * 2).min(RETRY_LIMIT);
                    state.again = !state.hurry;
                }
                if !state.again || self.stop.load(Ordering::Relaxed) {
                    state.running = false;
                    return;
                }
                state.again = false;
            }
            let deleted = self.delete_all();
            failed = deleted.is_err();
            if self.stop.load(Ordering::Relaxed) {
                continue;
            }
            if let Err(error) = deleted {
                tracing::warn!(
                    "cannot delete all of {}, it will be tried again: {error}",
                    self.path.display()
                );
            }
        }
    }

    fn delete_all(&self) -> Result<()> {
        let _one = self.deleting.lock().unwrap_or_else(PoisonError::into_inner);
        let strays = std::mem::take(&mut self.lock().strays);
        let (mut first_stray, mut first_error) = (None, None);
        for stray in strays {
            if let Err(error) = self.take(&stray) {
                self.lock().strays.insert(stray);
                first_stray.get_or_insert(error);
            }
        }
        let directory = hostfs::open_dir(&self.path)?;
        for name in hostfs::read_dir(&self.path)? {
            if let Err(error) = tree::remove_unless(directory.as_fd(), &name, &self.stop) {
                let path = self.path.join(&error.path);
                first_error.get_or_insert(hostfs::Error { path, ..error });
            }
        }
        first_error.map_or(first_stray.map_or(Ok(()), Err), |error| Err(error.into()))
    }
}
