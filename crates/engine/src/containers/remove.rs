//! `rm`: the row says so first, then the files go, then the row.

use std::sync::Arc;

use wharf_linux::hostfs;
use wharf_model::ContainerId;
use wharf_shim::protocol::Purpose;

use super::{Container, Phase, record};
use crate::blocking::blocking;
use crate::{Engine, Error, Result};

impl Engine {
    /// Removes a container; with `force` a running one is killed, with `volumes` its anonymous volumes go, too.
    ///
    /// # Errors
    /// [`Error::Conflict`] while it runs.
    pub async fn remove_container(&self, name: &str, force: bool, volumes: bool) -> Result<()> {
        let container = self.find(name)?;
        {
            let record = container.record();
            if (record.is_running() || record.phase == Phase::Restarting) && !force {
                let (state, hint) = match record.phase {
                    Phase::Paused => {
                        ("paused", "unpause and then stop the container before removing or force remove")
                    }
                    Phase::Restarting => ("restarting", "stop the container before removing or force remove"),
                    _ => ("running", "stop the container before removing or force remove"),
                };
                return Err(Error::Conflict(format!(
                    "cannot remove container \"{name}\": container is {state}: {hint}"
                )));
            }
        }
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

    /// Removes a container that does not run; the caller holds `change` or is its supervisor.
    pub(crate) async fn remove(&self, container: &Arc<Container>, volumes: bool) -> Result<()> {
        if container.progress.borrow().removed {
            // `--rm` was quicker.
            return Ok(());
        }
        container.record().phase = Phase::Removing;
        container.progress.send_modify(|progress| progress.restarting = false);
        self.save(container).await?;
        self.settled(container).await?;
        if container.progress.borrow().removed {
            return Ok(());
        }
        self.forget(container).await;
        self.remove_remains(container, volumes).await;
        Ok(())
    }

    /// Takes a container out of every list and deletes its row. What it leaves on disk is garbage from here on.
    pub(super) async fn forget(&self, container: &Arc<Container>) {
        let (db, id) = (self.inner.db.clone(), container.id.clone());
        if let Err(error) = blocking(move || record::delete(&db, &id)).await {
            tracing::error!(container = %container.id, %error, "cannot delete the container's row; the next start will");
        }
        self.inner.execs.forget_container(&container.id);
        self.inner.containers.remove(container);
        self.emit(container, "destroy", &[]);
        container.progress.send_modify(|progress| progress.removed = true);
    }

    /// Removes the files of a container that is forgotten. Goes on after an error and reports each.
    pub(super) async fn remove_remains(&self, container: &Arc<Container>, volumes: bool) {
        self.end_log(container).await;
        let (engine, id) = (self.clone(), container.id.clone());
        let mut anonymous: Vec<String> = Vec::new();
        if volumes {
            let record = container.record();
            anonymous.extend(record.mounts.iter().filter(|m| m.anonymous).map(|m| m.volume.clone()));
        }
        let removed = blocking(move || {
            engine.remove_files(&id);
            Ok(())
        });
        if let Err(error) = removed.await {
            tracing::error!(container = %container.id, %error, "cannot remove what the container left");
        }
        for volume in anonymous {
            // Another container may use it by `--volumes-from`: then it stays.
            if let Err(error) = self.remove_volume(&volume, true).await {
                tracing::debug!(volume, %error, "an anonymous volume stays");
            }
        }
    }

    /// Removes directories and snapshot of a container id.
    pub(super) fn remove_files(&self, id: &ContainerId) {
        let config = &self.inner.config;
        for directory in [config.run_dir(), config.containers_dir()] {
            if let Err(error) = hostfs::remove_dir_all(&directory.join(id.as_str())) {
                tracing::error!(container = %id, %error, "cannot remove a container's directory");
            }
        }
        let own = |key: &String| key.split('.').next() == Some(id.as_str());
        let snapshots = self.inner.images.snapshots().unwrap_or_default();
        for key in snapshots.iter().filter(|key| own(key)) {
            if let Err(error) = self.inner.images.remove_snapshot(key) {
                tracing::error!(container = %id, %error, "cannot remove a container's snapshot");
            }
        }
    }
}
