//! `rm`: the row says so first, then the files go, then the row.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use wharf_linux::cgroup::Cgroup;
use wharf_linux::hostfs;
use wharf_model::ContainerId;
use wharf_shim::protocol::Purpose;

use super::supervise::remove_cgroup;
use super::{Container, Phase, record};
use crate::blocking::blocking;
use crate::{Engine, Error, Result};

/// The first pause before what could not be removed is tried again; doubled each time.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_LIMIT: Duration = Duration::from_secs(300);

/// A removal by force that is under way.
struct Doom<'a>(&'a Container);

impl<'a> Doom<'a> {
    fn over(container: &'a Container) -> Self {
        container.progress.send_modify(|progress| progress.doomed += 1);
        Self(container)
    }
}

impl Drop for Doom<'_> {
    fn drop(&mut self) {
        self.0.progress.send_modify(|progress| progress.doomed -= 1);
    }
}

/// The one removal of a container that somebody has asked for and that is under way.
struct Removal<'a>(&'a Container);

impl<'a> Removal<'a> {
    fn begin(container: &'a Container) -> Option<Self> {
        let first =
            container.progress.send_if_modified(|progress| !std::mem::replace(&mut progress.removing, true));
        first.then_some(Self(container))
    }
}

impl Drop for Removal<'_> {
    fn drop(&mut self) {
        self.0.progress.send_modify(|progress| progress.removing = false);
    }
}

impl Engine {
    /// Removes a container; with `force` a running one is killed, with `volumes` its anonymous volumes go, too.
    ///
    /// # Errors
    /// [`Error::Conflict`] while it runs, or while another call removes it.
    pub async fn remove_container(&self, name: &str, force: bool, volumes: bool) -> Result<()> {
        let container = self.find(name)?;
        let Some(_removal) = Removal::begin(&container) else {
            let text = format!("removal of container {name} is already in progress");
            return Err(Error::Conflict(text));
        };
        {
            let record = container.record();
            if (record.is_running() || record.phase == Phase::Restarting) && !force {
                if record.phase == Phase::Paused {
                    return Err(Error::Conflict(format!(
                        "cannot remove container \"{name}\": container is paused and must be unpaused first"
                    )));
                }
                let (state, hint) = match record.phase {
                    Phase::Restarting => ("restarting", "stop the container before removing or force remove"),
                    _ => ("running", "stop the container before removing or force remove"),
                };
                return Err(Error::Conflict(format!(
                    "cannot remove container \"{name}\": container is {state}: {hint}"
                )));
            }
        }
        let _doom = force.then(|| Doom::over(&container));
        // Before waiting for the lock: whoever holds it may be waiting for this very container to end.
        if force && container.record().is_running() {
            container.record().stopped_by_hand = true;
            self.force(&container, Purpose::Remove).await?;
        }
        let _change = container.change.lock().await;
        if container.progress.borrow().removed {
            // Somebody else was quicker: there is nothing left to remove.
            return Err(Error::NoSuchContainer(name.to_owned()));
        }
        if container.record().is_running() {
            if !force {
                return Err(Error::Conflict(format!("container {} was started meanwhile", container.id)));
            }
            container.record().stopped_by_hand = true;
            self.force(&container, Purpose::Remove).await?;
        }
        self.remove(&container, volumes).await
    }

    /// Waits for the right to start a container: its `change`, when nobody is removing it by force.
    ///
    /// # Errors
    /// [`Error::NoSuchContainer`] when it has gone meanwhile.
    pub(super) async fn change_to_start<'a>(
        &self,
        container: &'a Container,
        name: &str,
    ) -> Result<tokio::sync::MutexGuard<'a, ()>> {
        loop {
            let change = container.change.lock().await;
            let (doomed, removed) = {
                let progress = container.progress.borrow();
                (progress.doomed > 0, progress.removed)
            };
            if removed {
                return Err(Error::NoSuchContainer(name.to_owned()));
            }
            if !doomed {
                return Ok(change);
            }
            drop(change);
            let mut progress = container.progress.subscribe();
            let _gone = progress.wait_for(|progress| progress.removed || progress.doomed == 0).await;
        }
    }

    /// Removes a container that does not run; the caller holds `change` or is its supervisor.
    pub(crate) async fn remove(&self, container: &Arc<Container>, volumes: bool) -> Result<()> {
        if container.progress.borrow().removed {
            // `--rm` was quicker.
            return Ok(());
        }
        let before = {
            let mut record = container.record();
            record.remove_volumes = volumes;
            std::mem::replace(&mut record.phase, Phase::Removing)
        };
        container.progress.send_modify(|progress| progress.restarting = false);
        if let Err(error) = self.save(container).await {
            // Nothing has happened to it, and the answer says why.
            container.record().phase = before;
            return Err(error);
        }
        self.settled(container).await?;
        if container.progress.borrow().removed {
            return Ok(());
        }
        self.forget(container, volumes).await?;
        self.remove_remains(container, volumes).await;
        Ok(())
    }

    /// Takes a container out of every list and deletes its row. What it leaves on disk is garbage from here on; with
    /// `volumes` so are its anonymous volumes, which the same transaction writes down.
    pub(super) async fn forget(&self, container: &Arc<Container>, volumes: bool) -> Result<()> {
        let (db, id) = (self.inner.db.clone(), container.id.clone());
        let orphans = if volumes { container.record().anonymous_volumes() } else { Vec::new() };
        blocking(move || record::delete(&db, &id, &orphans)).await?;
        self.inner.execs.forget_container(&container.id);
        self.inner.containers.remove(container);
        self.emit(container, "destroy", &[]);
        container.progress.send_modify(|progress| progress.removed = true);
        Ok(())
    }

    /// Removes the files of a container that is forgotten. Goes on after an error and reports each.
    pub(super) async fn remove_remains(&self, container: &Arc<Container>, volumes: bool) {
        self.end_log(container).await;
        let (engine, id) = (self.clone(), container.id.clone());
        let orphans = if volumes { container.record().anonymous_volumes() } else { Vec::new() };
        let removed = blocking(move || {
            engine.remove_files(&id);
            Ok(())
        });
        if let Err(error) = removed.await {
            tracing::error!(container = %container.id, %error, "cannot remove what the container left");
        }
        self.remove_orphans(orphans).await;
    }

    /// Removes the anonymous volumes of containers that are gone; what does not go now is tried again later.
    pub(super) async fn remove_orphans(&self, volumes: Vec<String>) {
        for volume in volumes {
            match self.remove_volume(&volume, true).await {
                // Another container may use it by `--volumes-from`: then it stays.
                Ok(()) | Err(Error::Conflict(_)) => {
                    let (db, volume) = (self.inner.db.clone(), volume);
                    if let Err(error) = blocking(move || record::orphan_done(&db, &volume)).await {
                        tracing::warn!(%error, "cannot forget that a volume was to be removed");
                    }
                }
                Err(error) => {
                    tracing::error!(volume, %error, "cannot remove an anonymous volume; it will be tried again");
                    self.remove_orphan_later(volume);
                }
            }
        }
    }

    /// Tries again to remove an anonymous volume, more and more seldom. The next engine knows of it, too.
    fn remove_orphan_later(&self, volume: String) {
        let engine = self.clone();
        tokio::spawn(async move {
            let mut pause = RETRY;
            loop {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RETRY_LIMIT);
                if *engine.inner.closing.borrow() {
                    return;
                }
                if !matches!(engine.remove_volume(&volume, true).await, Ok(()) | Err(Error::Conflict(_))) {
                    continue;
                }
                let (inner, volume) = (engine.clone(), volume.clone());
                let done = blocking(move || {
                    // Its row may have gone before its files could.
                    inner.remove_set_aside(&volume)?;
                    record::orphan_done(&inner.inner.db, &volume)
                });
                if done.await.is_ok() {
                    return;
                }
            }
        });
    }

    /// Removes directories and snapshot of a container id; what cannot be removed now is tried again later.
    pub(super) fn remove_files(&self, id: &ContainerId) {
        if !self.try_remove_files(id) {
            self.remove_later(id);
        }
    }

    /// The same once; true when all is gone.
    fn try_remove_files(&self, id: &ContainerId) -> bool {
        let config = &self.inner.config;
        let mut gone = true;
        for directory in [config.run_dir(), config.containers_dir()] {
            if let Err(error) = hostfs::remove_dir_all(&directory.join(id.as_str())) {
                tracing::error!(container = %id, %error, "cannot remove a container's directory");
                gone = false;
            }
        }
        let own = |key: &String| key.split('.').next() == Some(id.as_str());
        let snapshots = self.inner.images.snapshots().unwrap_or_default();
        for key in snapshots.iter().filter(|key| own(key)) {
            if let Err(error) = self.inner.images.remove_snapshot(key) {
                tracing::error!(container = %id, %error, "cannot remove a container's snapshot");
                gone = false;
            }
        }
        gone
    }

    /// Tries again to remove what is left of a container, more and more seldom, until nothing is. Must be called inside
    /// the async runtime or on its blocking pool.
    pub(super) fn remove_later(&self, id: &ContainerId) {
        let fresh = self.inner.remains.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone());
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if !fresh {
            return;
        }
        let (engine, id) = (self.clone(), id.clone());
        runtime.spawn(async move {
            let mut pause = RETRY;
            loop {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RETRY_LIMIT);
                if *engine.inner.closing.borrow() {
                    return;
                }
                if engine.remove_again(&id).await {
                    engine.inner.remains.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
                    return;
                }
            }
        });
    }

    /// Has what the network could not take down tried again, too.
    pub(super) fn retry_removals(&self) {
        let (inner, runtime) = (Arc::downgrade(&self.inner), tokio::runtime::Handle::current());
        self.inner.network.on_failed_removal(move |container| {
            if let (Some(inner), Ok(id)) = (inner.upgrade(), container.parse()) {
                let _inside = runtime.enter();
                Engine { inner }.remove_later(&id);
            }
        });
    }

    /// True when nothing is left to do.
    async fn remove_again(&self, id: &ContainerId) -> bool {
        let container = self.inner.containers.find(id.as_str()).ok();
        if let Some(container) = &container {
            let removing = container.record().phase == Phase::Removing;
            let volumes = container.record().remove_volumes || container.record().spec.host.auto_remove;
            if removing && self.remove(container, volumes).await.is_err() {
                return false;
            }
            // A new run's address and control group are its own. One that begins meanwhile holds the lock.
            let Ok(_change) = container.change.try_lock() else { return false };
            if !removing && container.progress.borrow().busy {
                return true;
            }
            self.sweep_cgroup(container).await;
            return self.detached(id).await;
        }
        let (engine, gone) = (self.clone(), id.clone());
        let removed = blocking(move || {
            if let Ok(cgroup) = Cgroup::open(&format!("{}/{gone}", engine.inner.config.cgroup_parent())) {
                remove_cgroup(&cgroup);
            }
            Ok(engine.try_remove_files(&gone))
        });
        removed.await.unwrap_or(false) && self.detached(id).await
    }

    /// Takes a container off the network; true when nothing of it is left there.
    async fn detached(&self, id: &ContainerId) -> bool {
        let (network, id) = (self.inner.network.clone(), id.clone());
        let done = blocking(move || {
            network.detach(id.as_str())?;
            network.settle();
            Ok(!network.endpoints()?.iter().any(|endpoint| endpoint.container == id.as_str()))
        });
        done.await.unwrap_or(false)
    }
}
