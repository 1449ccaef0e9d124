//! Volumes that somebody has to mount: held from the first container that uses one to the last.
//!
//! A hold has a row before anything is mounted and loses it after everything is unmounted, so the next engine knows
//! what a killed one had begun: it gives back the holds of containers that do not run, and takes off what nobody holds.
//!
//! Locking: one async lock per volume, held across its mount and so at most as long as the engine's patience. A mount
//! that hangs in the kernel is left to its thread, which undoes it should it come back; until then the volume can be
//! neither mounted nor removed, and says so.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::join_all;

use super::local;
use super::plugin::Plugins;
use super::record::{self, HoldRow, Record};
use crate::apart::{apart, within};
use crate::containers::{Container, MountRecord, random_id};
use crate::{Engine, Error, Result};

/// How long the end of a run waits for its volumes to be given back.
const GIVE_BACK: Duration = Duration::from_secs(5);
/// A mount that is going on.
const GOING: u8 = 0;
const FINISHED: u8 = 1;
/// Nobody waits for it any more.
const ABANDONED: u8 = 2;

/// What the engine knows about volumes besides their rows.
pub(crate) struct Volumes {
    pub(super) plugins: Plugins,
    pub(super) patience: Duration,
    slots: Mutex<HashMap<String, Arc<Slot>>>,
    changes: Mutex<Changes>,
    removed: Condvar,
}

/// Volumes that are about to be used or removed.
#[derive(Default)]
struct Changes {
    /// By containers that are just being made, which no record mentions yet.
    creating: HashMap<String, usize>,
    removing: HashSet<String>,
}

/// Keeps new containers away from a volume while it is removed.
pub(super) struct Removing<'a> {
    volumes: &'a Volumes,
    name: String,
}

impl Drop for Removing<'_> {
    fn drop(&mut self) {
        self.volumes.changes().removing.remove(&self.name);
        self.volumes.removed.notify_all();
    }
}

/// One volume.
#[derive(Default)]
pub(super) struct Slot {
    state: tokio::sync::Mutex<State>,
    /// Held while its first content is copied.
    pub(super) filling: Mutex<()>,
}

#[derive(Default)]
struct State {
    /// Who holds it, and the name the plugin knows each by.
    holders: BTreeMap<String, String>,
    hanging: Option<(Instant, Arc<AtomicU8>)>,
}

impl State {
    fn check_not_hanging(&mut self, volume: &str) -> Result<()> {
        match &self.hanging {
            Some((since, progress)) if progress.load(Ordering::SeqCst) != FINISHED => {
                let age = since.elapsed().as_secs();
                Err(Error::Unavailable(format!(
                    "volume {volume}: a mount that began {age} seconds ago hangs in the kernel; make its device or \
                     server answer, or remove what uses it"
                )))
            }
            _ => {
                self.hanging = None;
                Ok(())
            }
        }
    }
}

/// Keeps the volumes of a container that is being made from being removed.
pub(crate) struct Creating {
    engine: Engine,
    names: Vec<String>,
}

impl Creating {
    pub(crate) fn new(engine: &Engine) -> Self {
        Self { engine: engine.clone(), names: Vec::new() }
    }

    /// From here on the volume is in use. Waits for a removal that has begun.
    pub(crate) fn keep(&mut self, name: &str) -> Result<()> {
        let volumes = &self.engine.inner.volumes;
        let busy = |changes: &mut Changes| changes.removing.contains(name);
        let waited = volumes.removed.wait_timeout_while(volumes.changes(), volumes.patience, busy);
        let (mut changes, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() {
            return Err(Error::Conflict(format!("volume {name} is being removed; try again")));
        }
        *changes.creating.entry(name.to_owned()).or_default() += 1;
        self.names.push(name.to_owned());
        Ok(())
    }
}

impl Drop for Creating {
    fn drop(&mut self) {
        let mut changes = self.engine.inner.volumes.changes();
        for name in &self.names {
            if let Some(count) = changes.creating.get_mut(name) {
                *count -= 1;
                if *count == 0 {
                    changes.creating.remove(name);
                }
            }
        }
    }
}

impl Volumes {
    pub(crate) fn new(plugins: Plugins, patience: Duration) -> Self {
        let (slots, changes) = (Mutex::default(), Mutex::default());
        Self { plugins, patience, slots, changes, removed: Condvar::new() }
    }

    pub(super) fn slot(&self, name: &str) -> Arc<Slot> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.entry(name.to_owned()).or_default().clone()
    }

    pub(super) fn forget(&self, name: &str) {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    fn changes(&self) -> MutexGuard<'_, Changes> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps new containers away from a volume; `None` when one is being made with it, or it is being removed.
    pub(super) fn begin_removal(&self, name: &str) -> Option<Removing<'_>> {
        let mut changes = self.changes();
        let free = !changes.creating.contains_key(name) && changes.removing.insert(name.to_owned());
        free.then(|| Removing { volumes: self, name: name.to_owned() })
    }
}

/// What holds a volume for one mount of a container.
fn holder(container: &str, target: &str) -> String {
    format!("{container} {target}")
}

impl Engine {
    /// Mounts what the container's volumes need. On an error nothing is held.
    pub(crate) async fn hold_volumes(&self, container: &Container) -> Result<()> {
        let mounts = container.record().mounts.clone();
        for mount in mounts.iter().filter(|mount| mount.driven) {
            match self.hold(&mount.volume, container.id.as_str(), &mount.target).await {
                Ok(source) => {
                    let mut record = container.record();
                    let same = |known: &&mut MountRecord| known.target == mount.target;
                    if let Some(known) = record.mounts.iter_mut().find(same) {
                        known.source = source;
                    }
                }
                Err(error) => {
                    self.release_volumes(container).await;
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Gives back what [`Engine::hold_volumes`] took. Goes on after an error and reports each. A plugin or a server that
    /// does not answer keeps nobody waiting for long: the rest is done when it does, and until then its volume is held.
    pub(crate) async fn release_volumes(&self, container: &Container) {
        let mounts = container.record().mounts.clone();
        let released = mounts.into_iter().filter(|mount| mount.driven).map(|mount| {
            let (engine, id) = (self.clone(), container.id.clone());
            tokio::spawn(async move {
                let holder = holder(id.as_str(), &mount.target);
                if let Err(error) = engine.release(&mount.volume, &holder).await {
                    tracing::warn!(container = %id, volume = mount.volume, %error, "cannot give back a volume");
                }
            })
        });
        let released: Vec<_> = released.collect();
        if tokio::time::timeout(GIVE_BACK, join_all(released)).await.is_err() {
            tracing::warn!(container = %container.id, "a volume is still being given back: its driver does not answer");
        }
    }

    /// Mounts a volume for one mount of a container; answers where its data is.
    pub(crate) async fn hold(&self, volume: &str, container: &str, target: &str) -> Result<String> {
        let (db, name) = (self.inner.db.clone(), volume.to_owned());
        let found = apart(move || record::find(&db, &name)).await?;
        let record = found.ok_or_else(|| Error::NoSuchVolume(volume.to_owned()))?;
        let slot = self.inner.volumes.slot(volume);
        let mut state = self.lock_volume(volume, &slot).await?;
        state.check_not_hanging(volume)?;
        let holder = holder(container, target);
        // Another name at each start: what an engine that was killed held is given back beside it.
        let id = match state.holders.get(&holder) {
            Some(id) => id.clone(),
            None => random_id()?.iter().map(|byte| format!("{byte:02x}")).collect(),
        };
        let row = HoldRow { volume: volume.to_owned(), id, holder, container: container.to_owned() };
        let (db, kept) = (self.inner.db.clone(), row.clone());
        apart(move || record::hold(&db, &kept)).await?;
        let mounted = if record.driver == "local" {
            self.mount_local(volume, &record, &mut state).await
        } else {
            let mounted = self.inner.volumes.plugins.mount(&record.driver, volume, &row.id).await;
            mounted.map_err(|failure| Error::System(format!("error while mounting volume '': {failure}")))
        };
        match mounted {
            Ok(place) => {
                state.holders.insert(row.holder, row.id);
                Ok(place)
            }
            Err(error) => {
                let db = self.inner.db.clone();
                let _stays_until_the_next_start =
                    apart(move || record::let_go(&db, &row.volume, &row.id)).await;
                Err(error)
            }
        }
    }

    async fn lock_volume<'a>(
        &self,
        volume: &str,
        slot: &'a Slot,
    ) -> Result<tokio::sync::MutexGuard<'a, State>> {
        let patience = self.inner.volumes.patience;
        tokio::time::timeout(patience, slot.state.lock()).await.map_err(|_| Error::Deadline {
            what: format!("what another call does with volume {volume}"),
            seconds: patience.as_secs(),
        })
    }

    async fn mount_local(&self, volume: &str, record: &Record, state: &mut State) -> Result<String> {
        let data = self.volume_data(volume);
        let place = data.display().to_string();
        if self.mounted_volumes().await?.iter().any(|name| name == volume) {
            return Ok(place);
        }
        let progress = Arc::new(AtomicU8::new(GOING));
        let (options, told) = (record.options.clone(), progress.clone());
        let work = move || {
            let result = local::mount(&data, &options);
            if told.swap(FINISHED, Ordering::SeqCst) == ABANDONED && result.is_ok() {
                let _nobody_to_tell = local::unmount(&data);
            }
            result
        };
        let what = format!("mounting volume {volume}");
        match within(self.inner.volumes.patience, &what, work).await {
            Ok(()) => Ok(place),
            Err(error @ Error::Deadline { .. }) => {
                let gave_up = progress.compare_exchange(GOING, ABANDONED, Ordering::SeqCst, Ordering::SeqCst);
                if gave_up.is_err() && self.mounted_volumes().await?.iter().any(|name| name == volume) {
                    return Ok(place);
                }
                state.hanging = Some((Instant::now(), progress));
                Err(Error::System(format!("error while mounting volume '{place}': {error}")))
            }
            Err(error) => Err(error),
        }
    }

    async fn mounted_volumes(&self) -> Result<Vec<String>> {
        let directory = self.inner.config.volumes_dir();
        apart(move || local::mounted(&directory)).await
    }

    /// Gives back one hold; the last one takes the mount off.
    pub(crate) async fn release(&self, volume: &str, holder: &str) -> Result<()> {
        let (db, name) = (self.inner.db.clone(), volume.to_owned());
        let record = apart(move || record::find(&db, &name)).await?;
        let slot = self.inner.volumes.slot(volume);
        let mut state = self.lock_volume(volume, &slot).await?;
        let Some(id) = state.holders.remove(holder) else { return Ok(()) };
        let released = match record {
            Some(record) if record.driver != "local" => {
                let unmounted = self.inner.volumes.plugins.unmount(&record.driver, volume, &id).await;
                unmounted.map_err(|failure| Error::System(format!("unmount {volume}: {failure}")))
            }
            _ if state.holders.is_empty() => self.unmount_local(volume, &mut state).await,
            _ => Ok(()),
        };
        let (db, name) = (self.inner.db.clone(), volume.to_owned());
        apart(move || record::let_go(&db, &name, &id)).await?;
        released
    }

    async fn unmount_local(&self, volume: &str, state: &mut State) -> Result<()> {
        let data = self.volume_data(volume);
        let progress = Arc::new(AtomicU8::new(GOING));
        let told = progress.clone();
        let work = move || {
            let result = local::unmount(&data);
            told.store(FINISHED, Ordering::SeqCst);
            result
        };
        let result = within(self.inner.volumes.patience, &format!("unmounting volume {volume}"), work).await;
        if let Err(Error::Deadline { .. }) = result {
            state.hanging = Some((Instant::now(), progress));
        }
        result
    }

    /// For the removal of a volume that no container uses: takes off what is mounted, and keeps others away meanwhile.
    pub(super) async fn settle_volume(&self, volume: &str) -> Result<()> {
        let slot = self.inner.volumes.slot(volume);
        let mut state = self.lock_volume(volume, &slot).await?;
        state.check_not_hanging(volume)?;
        if !state.holders.is_empty() {
            return Err(Error::Conflict(format!("remove {volume}: volume is in use")));
        }
        if self.mounted_volumes().await?.iter().any(|name| name == volume) {
            self.unmount_local(volume, &mut state).await?;
        }
        Ok(())
    }

    /// After a start of the engine: the holds of containers that run (`live`) are taken over, all others given back,
    /// and what nobody holds is taken off.
    pub(crate) fn reconcile_volumes(&self, live: &[String]) -> Result<()> {
        let mut touched: BTreeSet<String> =
            local::mounted(&self.inner.config.volumes_dir())?.into_iter().collect();
        let mut stale = Vec::new();
        for row in record::holds(&self.inner.db)? {
            if !live.contains(&row.container) {
                stale.push(row);
                continue;
            }
            let slot = self.inner.volumes.slot(&row.volume);
            // Nobody else has the engine yet.
            if let Ok(mut state) = slot.state.try_lock() {
                state.holders.insert(row.holder, row.id);
            }
        }
        touched.extend(stale.iter().map(|row| row.volume.clone()));
        // In the background: a server or a plugin that is away must not delay the engine's start.
        for row in stale {
            let engine = self.clone();
            tokio::spawn(async move { engine.give_hold_back(row).await });
        }
        for volume in touched {
            let engine = self.clone();
            tokio::spawn(async move { engine.take_off_if_idle(&volume).await });
        }
        Ok(())
    }

    /// Gives back what an earlier engine held.
    async fn give_hold_back(&self, row: HoldRow) {
        let (db, name) = (self.inner.db.clone(), row.volume.clone());
        if let Ok(Some(record)) = apart(move || record::find(&db, &name)).await
            && record.driver != "local"
            && let Err(failure) =
                self.inner.volumes.plugins.unmount(&record.driver, &row.volume, &row.id).await
        {
            tracing::warn!(volume = row.volume, %failure, "cannot give back what an earlier engine had mounted");
        }
        let db = self.inner.db.clone();
        if let Err(error) = apart(move || record::let_go(&db, &row.volume, &row.id)).await {
            tracing::warn!(%error, "cannot forget a hold on a volume");
        }
    }

    async fn take_off_if_idle(&self, volume: &str) {
        let slot = self.inner.volumes.slot(volume);
        let Ok(mut state) = self.lock_volume(volume, &slot).await else { return };
        let idle = state.holders.is_empty() && state.check_not_hanging(volume).is_ok();
        if idle && let Err(error) = self.unmount_local(volume, &mut state).await {
            tracing::warn!(volume, %error, "cannot take off what nobody uses");
        }
    }
}

/// Holds of someone who looks at a container's files while it does not run; given back when dropped.
pub(crate) struct Borrowed {
    engine: Engine,
    held: Vec<(String, String)>,
}

impl Engine {
    /// Mounts what `mounts` need, for someone who looks at the files of a container, and puts in their places.
    pub(crate) async fn borrow_volumes(
        &self,
        container: &str,
        mounts: &mut [MountRecord],
    ) -> Result<Borrowed> {
        let mut borrowed = Borrowed { engine: self.clone(), held: Vec::new() };
        let serial: String = random_id()?[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        for mount in mounts.iter_mut().filter(|mount| mount.driven) {
            let target = format!("{} {serial}", mount.target);
            mount.source = self.hold(&mount.volume, container, &target).await?;
            borrowed.held.push((mount.volume.clone(), holder(container, &target)));
        }
        Ok(borrowed)
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        let (engine, held) = (self.engine.clone(), std::mem::take(&mut self.held));
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if held.is_empty() {
            return;
        }
        runtime.spawn(async move {
            for (volume, holder) in held {
                if let Err(error) = engine.release(&volume, &holder).await {
                    tracing::warn!(volume, %error, "cannot give back a volume");
                }
            }
        });
    }
}

impl Engine {
    /// The directory of a volume's data.
    pub(super) fn volume_data(&self, name: &str) -> std::path::PathBuf {
        self.inner.config.volumes_dir().join(name).join(local::DATA)
    }

    /// Copies what an image has at the place of a volume into it, one at a time. Blocks.
    pub(crate) fn fill_volume(
        &self,
        layers: &wharf_image::SnapshotMounts,
        container: &str,
        mount: &MountRecord,
    ) -> Result<()> {
        let slot = self.inner.volumes.slot(&mount.volume);
        let _filling = slot.filling.lock().unwrap_or_else(PoisonError::into_inner);
        if !mount.driven {
            return crate::copy_up::fill(layers, Path::new(&mount.source), &mount.target);
        }
        let runtime = tokio::runtime::Handle::current();
        let target = format!("{} create", mount.target);
        let source = runtime.block_on(self.hold(&mount.volume, container, &target))?;
        let filled = crate::copy_up::fill(layers, Path::new(&source), &mount.target);
        runtime.block_on(self.release(&mount.volume, &holder(container, &target)))?;
        filled
    }
}
