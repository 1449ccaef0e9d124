//! What is kept about a container across restarts of the engine and of the machine.
//!
//! One row per container: id, name, and the rest as one JSON document, so that a field can be added with a default.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use wharf_model::spec::MountKind;
use wharf_model::{ContainerId, ContainerSpec, Digest};
use wharf_state::Database;

use crate::{Error, Result};

/// Tables of this domain; steps are only appended.
pub(super) const STEPS: &[&str] = &[
    "CREATE TABLE containers (id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, record TEXT NOT NULL) STRICT;
     CREATE TABLE volumes (name TEXT PRIMARY KEY, record TEXT NOT NULL) STRICT;
     CREATE TABLE engine (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;",
    // Anonymous volumes of containers whose rows are gone: to be removed, also by the next engine.
    "CREATE TABLE orphans (volume TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;",
];

/// How far a container has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Phase {
    /// Never started.
    Created,
    /// A shim owns it.
    Running,
    /// Frozen.
    Paused,
    /// Ended; its restart policy will start it again.
    Restarting,
    /// Ended.
    Exited,
    /// Its removal has begun and must be finished.
    Removing,
}

/// One mount, resolved: what the runtime is told and inspect shows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MountRecord {
    pub(crate) kind: MountKind,
    /// Volume name; empty otherwise.
    pub(crate) volume: String,
    /// The volume was made for this container alone.
    #[serde(default)]
    pub(crate) anonymous: bool,
    /// Host path; empty for tmpfs.
    pub(crate) source: String,
    pub(crate) target: String,
    /// Options as given.
    pub(crate) mode: String,
    pub(crate) read_only: bool,
    pub(crate) propagation: String,
    #[serde(default)]
    pub(crate) non_recursive: bool,
    /// Extra options of a tmpfs.
    #[serde(default)]
    pub(crate) options: Vec<String>,
    /// Leave a new volume empty.
    #[serde(default)]
    pub(crate) no_copy: bool,
    /// Make a missing source directory at start, as `-v` does.
    #[serde(default)]
    pub(crate) create_source: bool,
    /// The volume's driver; empty for the local one.
    #[serde(default)]
    pub(crate) driver: String,
    /// The volume has to be mounted before it is used.
    #[serde(default)]
    pub(crate) driven: bool,
    /// What of a volume or image is mounted; empty for all.
    #[serde(default)]
    pub(crate) subpath: String,
    /// The image of an image mount, as it was asked for.
    #[serde(default)]
    pub(crate) image: String,
    /// The snapshot that keeps the image's layers for this mount.
    #[serde(default)]
    pub(crate) snapshot: String,
    /// Read-only leaves out what is mounted beneath the source.
    #[serde(default)]
    pub(crate) read_only_top: bool,
    /// Whose files are whose.
    #[serde(default)]
    pub(crate) ownership: Option<wharf_model::ownership::Ownership>,
}

/// The row.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) id: ContainerId,
    pub(crate) name: String,
    pub(crate) created: Timestamp,
    pub(crate) image: Digest,
    /// The wishes, merged with the image's configuration.
    pub(crate) spec: ContainerSpec,
    pub(crate) mounts: Vec<MountRecord>,
    pub(crate) phase: Phase,
    pub(crate) pid: i32,
    pub(crate) exit_code: i32,
    pub(crate) oom_killed: bool,
    pub(crate) error: String,
    pub(crate) started_at: Option<Timestamp>,
    pub(crate) finished_at: Option<Timestamp>,
    pub(crate) restart_count: u32,
    /// A person stopped it: `unless-stopped` and `always` leave it alone until a person starts it.
    pub(crate) stopped_by_hand: bool,
    pub(crate) endpoint: Option<wharf_net::Endpoint>,
    /// Processes the kernel has killed for want of memory in the run that goes on.
    #[serde(default)]
    pub(crate) oom_kills: u64,
    /// Why the last run ended, or the last start failed.
    #[serde(default)]
    pub(crate) ending: Option<crate::why::Ending>,
    /// New limits are written down and not all of them may have reached the kernel.
    #[serde(default)]
    pub(crate) updating: bool,
    /// Containers it was linked to at create.
    #[serde(default)]
    pub(crate) links: Vec<super::LinkRecord>,
    /// When a person started it last: the order in which containers come back after a reboot.
    #[serde(default)]
    pub(crate) launched_at: Option<Timestamp>,
    /// When the pause before its restart ends.
    #[serde(default)]
    pub(crate) restart_at: Option<Timestamp>,
    /// Doublings of that pause so far.
    #[serde(default)]
    pub(crate) backoff: u32,
    /// It is being ended to be started again, because it is unhealthy.
    #[serde(default)]
    pub(crate) unhealthy_restart: bool,
    /// How its health check went.
    #[serde(default)]
    pub(crate) health: Option<Box<crate::health::HealthState>>,
    /// With [`Phase::Removing`]: its anonymous volumes go, too.
    #[serde(default)]
    pub(crate) remove_volumes: bool,
}

impl Record {
    /// A shim owns it.
    pub(crate) fn is_running(&self) -> bool {
        matches!(self.phase, Phase::Running | Phase::Paused)
    }

    /// The program and its arguments: entrypoint, then command.
    pub(crate) fn command(&self) -> Vec<String> {
        let entrypoint = self.spec.entrypoint.iter().flatten();
        entrypoint.chain(self.spec.cmd.iter().flatten()).cloned().collect()
    }

    /// The volumes that were made for it alone.
    pub(crate) fn anonymous_volumes(&self) -> Vec<String> {
        self.mounts.iter().filter(|mount| mount.anonymous).map(|mount| mount.volume.clone()).collect()
    }

    /// Attributes every event of the container carries.
    pub(crate) fn event_attributes(&self) -> BTreeMap<String, String> {
        let mut attributes = self.spec.labels.clone();
        attributes.insert("name".into(), self.name.clone());
        attributes.insert("image".into(), self.spec.image.clone());
        attributes
    }
}

/// Reads every row. A row that cannot be read is reported and skipped: one damaged record must not keep the engine
/// from starting.
pub(super) fn load_all(db: &Database) -> Result<Vec<Record>> {
    let rows: Vec<(String, String)> =
        db.read(|connection| -> std::result::Result<_, wharf_state::Error> {
            let mut statement = connection.prepare("SELECT id, record FROM containers")?;
            let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
            Ok(rows.collect::<std::result::Result<_, _>>()?)
        })?;
    let parse = |(id, json): (String, String)| {
        serde_json::from_str::<Record>(&json)
            .inspect_err(
                |error| tracing::error!(id, %error, "the record of a container is damaged; it is left alone"),
            )
            .ok()
    };
    Ok(rows.into_iter().filter_map(parse).collect())
}

pub(super) fn insert(db: &Database, record: &Record) -> Result<()> {
    write(db, record, "INSERT INTO containers (id, name, record) VALUES (?1, ?2, ?3)")
}

pub(super) fn update(db: &Database, record: &Record) -> Result<()> {
    write(db, record, "UPDATE containers SET name = ?2, record = ?3 WHERE id = ?1")
}

/// Runs a statement that takes id, name and document.
fn write(db: &Database, record: &Record, statement: &str) -> Result<()> {
    let json = to_json(record)?;
    db.write(|tx| -> std::result::Result<(), wharf_state::Error> {
        tx.prepare_cached(statement)?.execute((record.id.as_str(), &record.name, json))?;
        Ok(())
    })?;
    Ok(())
}

/// Deletes a container's row, and writes down which volumes go with it.
pub(super) fn delete(db: &Database, id: &ContainerId, orphans: &[String]) -> Result<()> {
    db.write(|tx| -> std::result::Result<(), wharf_state::Error> {
        tx.prepare_cached("DELETE FROM containers WHERE id = ?1")?.execute([id.as_str()])?;
        for volume in orphans {
            tx.prepare_cached("INSERT OR IGNORE INTO orphans (volume) VALUES (?1)")?.execute([volume])?;
        }
        Ok(())
    })?;
    Ok(())
}

/// The volumes that an earlier engine did not get to remove.
pub(super) fn orphans(db: &Database) -> Result<Vec<String>> {
    let names = db.read(|connection| -> std::result::Result<_, wharf_state::Error> {
        let mut statement = connection.prepare("SELECT volume FROM orphans")?;
        let names = statement.query_map([], |row| row.get(0))?;
        Ok(names.collect::<std::result::Result<_, _>>()?)
    })?;
    Ok(names)
}

/// An orphan is gone, or somebody uses it.
pub(super) fn orphan_done(db: &Database, volume: &str) -> Result<()> {
    db.write(|tx| -> std::result::Result<(), wharf_state::Error> {
        tx.prepare_cached("DELETE FROM orphans WHERE volume = ?1")?.execute([volume])?;
        Ok(())
    })?;
    Ok(())
}

fn to_json(record: &Record) -> Result<String> {
    serde_json::to_string(record)
        .map_err(|error| Error::System(format!("cannot encode a container record: {error}")))
}
