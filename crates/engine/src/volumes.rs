//! Volumes of the local driver: a row and a directory `volumes/<name>/_data`.
//!
//! Crash: the directory is made before the row, and the row is deleted before the directory is; what a crash leaves
//! is a directory without a row, which the next create of that name takes over and `system check` reports.

use std::collections::BTreeMap;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use wharf_linux::hostfs;
use wharf_model::user_paths::is_name;
use wharf_model::{Event, Filters};
use wharf_state::Database;

use crate::blocking::blocking;
use crate::containers::random_id;
use crate::{Engine, Error, Pruned, Result, VolumeView};

/// Label that marks a volume nobody named.
const ANONYMOUS: &str = "com.docker.volume.anonymous";

#[derive(Serialize, Deserialize)]
struct Record {
    created: Timestamp,
    labels: BTreeMap<String, String>,
    options: BTreeMap<String, String>,
}

impl Engine {
    /// Makes a volume, or finds the one of that name.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a bad name or an unknown option, [`Error::NotFound`] for an unknown driver.
    pub async fn create_volume(
        &self,
        name: Option<&str>,
        driver: &str,
        labels: BTreeMap<String, String>,
        options: BTreeMap<String, String>,
    ) -> Result<VolumeView> {
        let (engine, name, driver) = (self.clone(), name.map(str::to_owned), driver.to_owned());
        blocking(move || engine.ensure_volume(name.as_deref(), &driver, labels, options)).await
    }

    /// The same, for callers that block.
    pub(crate) fn ensure_volume(
        &self,
        name: Option<&str>,
        driver: &str,
        mut labels: BTreeMap<String, String>,
        options: BTreeMap<String, String>,
    ) -> Result<VolumeView> {
        if !matches!(driver, "" | "local") {
            return Err(Error::NotFound(format!(
                "error looking up volume plugin {driver}: plugin \"{driver}\" not found"
            )));
        }
        if let Some(key) = options.keys().next() {
            return Err(Error::Invalid(format!(
                "create {}: invalid option: {key:?}; volumes of this engine take no driver options yet",
                name.unwrap_or_default()
            )));
        }
        let name = match name.filter(|name| !name.is_empty()) {
            Some(name) if is_name(name) => name.to_owned(),
            Some(name) => {
                return Err(Error::Invalid(format!(
                    "create {name}: \"{name}\" includes invalid characters for a local volume name, only \
                     \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use \
                     absolute path"
                )));
            }
            None => {
                labels.insert(ANONYMOUS.to_owned(), String::new());
                random_id()?.iter().map(|byte| format!("{byte:02x}")).collect()
            }
        };
        if let Some(found) = self.volume(&name)? {
            return Ok(found);
        }
        let data = self.volume_data(&name);
        hostfs::create_dir_all(&data, 0o755)?;
        let record = Record { created: Timestamp::now(), labels, options };
        insert(&self.inner.db, &name, &record)?;
        self.emit_volume(&name, "create");
        Ok(self.volume_view(name, record))
    }

    /// Every volume that passes the filters (`dangling`, `driver`, `label`, `name`), by name.
    ///
    /// # Errors
    /// [`Error::Invalid`] for another filter.
    pub async fn list_volumes(&self, filters: Filters) -> Result<Vec<VolumeView>> {
        filters.check_keys(&["dangling", "driver", "label", "name"])?;
        let dangling = filters.boolean("dangling")?;
        let engine = self.clone();
        let volumes = blocking(move || engine.volumes()).await?;
        Ok(volumes
            .into_iter()
            .filter(|volume| {
                filters.matches_any("name", |value| volume.name.contains(value))
                    && filters.matches_any("driver", |value| volume.driver == value)
                    && filters.matches_all_labels("label", &volume.labels)
                    && dangling.is_none_or(|dangling| dangling == self.volume_users(&volume.name).is_empty())
            })
            .collect())
    }

    /// One volume.
    ///
    /// # Errors
    /// [`Error::NoSuchVolume`].
    pub async fn inspect_volume(&self, name: &str) -> Result<VolumeView> {
        let (engine, name) = (self.clone(), name.to_owned());
        blocking(move || engine.volume(&name)?.ok_or(Error::NoSuchVolume(name))).await
    }

    /// Removes a volume no container uses; with `force` a missing one is no error.
    ///
    /// # Errors
    /// [`Error::NoSuchVolume`], or [`Error::Conflict`] while a container uses it.
    pub async fn remove_volume(&self, name: &str, force: bool) -> Result<()> {
        let (engine, name) = (self.clone(), name.to_owned());
        blocking(move || engine.delete_volume(&name, force)).await
    }

    pub(crate) fn delete_volume(&self, name: &str, force: bool) -> Result<()> {
        if self.volume(name)?.is_none() {
            return if force { Ok(()) } else { Err(Error::NoSuchVolume(name.to_owned())) };
        }
        let users = self.volume_users(name);
        if !users.is_empty() {
            return Err(Error::Conflict(format!("remove {name}: volume is in use - [{}]", users.join(", "))));
        }
        self.inner.db.write(|tx| -> std::result::Result<(), wharf_state::Error> {
            tx.execute("DELETE FROM volumes WHERE name = ?1", [name])?;
            Ok(())
        })?;
        hostfs::remove_dir_all(&self.inner.config.volumes_dir().join(name))?;
        self.emit_volume(name, "destroy");
        Ok(())
    }

    /// Removes unused anonymous volumes, or with the filter `all` every unused one.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an unknown filter.
    pub async fn prune_volumes(&self, filters: Filters) -> Result<Pruned> {
        filters.check_keys(&["all", "label", "label!"])?;
        let all = filters.boolean("all")?.unwrap_or(false);
        let engine = self.clone();
        blocking(move || {
            let mut pruned = Pruned::default();
            for volume in engine.volumes()? {
                let anonymous = volume.labels.contains_key(ANONYMOUS);
                let excluded =
                    filters.contains("label!") && filters.matches_all_labels("label!", &volume.labels);
                let chosen =
                    (all || anonymous) && filters.matches_all_labels("label", &volume.labels) && !excluded;
                if !chosen || !engine.volume_users(&volume.name).is_empty() {
                    continue;
                }
                let size = crate::system::disk_usage(&engine.inner.config.volumes_dir().join(&volume.name));
                // Somebody may have begun to use it just now: then it stays.
                if engine.delete_volume(&volume.name, true).is_ok() {
                    pruned.reclaimed += size;
                    pruned.removed.push(volume.name);
                }
            }
            engine.tell_prune("volume", pruned.reclaimed);
            Ok(pruned)
        })
        .await
    }

    /// Ids of the containers that mount the volume, running or not.
    pub(crate) fn volume_users(&self, name: &str) -> Vec<String> {
        let uses = |container: &std::sync::Arc<crate::containers::Container>| {
            container.record().mounts.iter().any(|mount| mount.volume == name)
        };
        self.inner.containers.all().iter().filter(|c| uses(c)).map(|c| c.id.to_string()).collect()
    }

    pub(crate) fn volumes(&self) -> Result<Vec<VolumeView>> {
        let rows: Vec<(String, String)> =
            self.inner.db.read(|connection| -> std::result::Result<_, wharf_state::Error> {
                let mut statement = connection.prepare("SELECT name, record FROM volumes ORDER BY name")?;
                let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
                Ok(rows.collect::<std::result::Result<_, _>>()?)
            })?;
        let parse = |(name, json): (String, String)| {
            let record = serde_json::from_str(&json)
                .inspect_err(|error| tracing::error!(name, %error, "the record of a volume is damaged"))
                .ok()?;
            Some(self.volume_view(name, record))
        };
        Ok(rows.into_iter().filter_map(parse).collect())
    }

    fn volume(&self, name: &str) -> Result<Option<VolumeView>> {
        use wharf_state::rusqlite::OptionalExtension;
        let json: Option<String> =
            self.inner.db.read(|connection| -> std::result::Result<_, wharf_state::Error> {
                let mut statement =
                    connection.prepare_cached("SELECT record FROM volumes WHERE name = ?1")?;
                Ok(statement.query_row([name], |row| row.get(0)).optional()?)
            })?;
        let parse = |json: String| {
            serde_json::from_str(&json).map_err(|error| {
                Error::System(format!(
                    "the record of volume {name} is damaged: {error}; remove it with --force"
                ))
            })
        };
        Ok(json.map(parse).transpose()?.map(|record| self.volume_view(name.to_owned(), record)))
    }

    fn volume_data(&self, name: &str) -> PathBuf {
        self.inner.config.volumes_dir().join(name).join("_data")
    }

    fn volume_view(&self, name: String, record: Record) -> VolumeView {
        VolumeView {
            driver: "local".to_owned(),
            mountpoint: self.volume_data(&name).display().to_string(),
            name,
            created: record.created,
            labels: record.labels,
            options: record.options,
        }
    }

    fn emit_volume(&self, name: &str, action: &str) {
        self.inner.events.publish(Event {
            kind: "volume",
            action: action.to_owned(),
            id: name.to_owned(),
            attributes: [("driver".to_owned(), "local".to_owned())].into(),
            time: Timestamp::now(),
        });
    }
}

fn insert(db: &Database, name: &str, record: &Record) -> Result<()> {
    let json = serde_json::to_string(record)
        .map_err(|error| Error::System(format!("cannot encode the record of volume {name}: {error}")))?;
    db.write(|tx| -> std::result::Result<(), wharf_state::Error> {
        tx.execute("INSERT OR IGNORE INTO volumes (name, record) VALUES (?1, ?2)", (name, json))?;
        Ok(())
    })?;
    Ok(())
}
