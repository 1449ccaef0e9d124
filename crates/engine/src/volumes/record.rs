//! What is kept about volumes: a row each, and a row for each hold on one that somebody mounted.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use wharf_state::Database;
use wharf_state::rusqlite::OptionalExtension;

use crate::{Error, Result};

/// Tables of this domain beside `volumes`, which is older than it; steps are only appended.
pub(super) const STEPS: &[&str] = &["CREATE TABLE volume_holds (
       volume TEXT NOT NULL, id TEXT NOT NULL, holder TEXT NOT NULL, container TEXT NOT NULL,
       PRIMARY KEY (volume, id)
     ) STRICT;"];

fn local() -> String {
    "local".to_owned()
}

/// The row of a volume.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) created: Timestamp,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) options: BTreeMap<String, String>,
    #[serde(default = "local")]
    pub(super) driver: String,
}

/// A hold: somebody had the volume mounted under this id, for this container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HoldRow {
    pub(super) volume: String,
    pub(super) id: String,
    /// What holds it: a mount of the container, or somebody who looks at its files.
    pub(super) holder: String,
    pub(super) container: String,
}

type Stored<T> = std::result::Result<T, wharf_state::Error>;

pub(super) fn find(db: &Database, name: &str) -> Result<Option<Record>> {
    let json: Option<String> = db.read(|connection| -> Stored<_> {
        let mut statement = connection.prepare_cached("SELECT record FROM volumes WHERE name = ?1")?;
        Ok(statement.query_row([name], |row| row.get(0)).optional()?)
    })?;
    let damaged = |error| {
        Error::System(format!("the record of volume {name} is damaged: {error}; remove it with --force"))
    };
    json.map(|json| serde_json::from_str(&json).map_err(damaged)).transpose()
}

/// Every volume by name. A row that cannot be read is reported and left out.
pub(super) fn all(db: &Database) -> Result<Vec<(String, Record)>> {
    let rows: Vec<(String, String)> = db.read(|connection| -> Stored<_> {
        let mut statement = connection.prepare("SELECT name, record FROM volumes ORDER BY name")?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(rows.collect::<std::result::Result<_, _>>()?)
    })?;
    let parse = |(name, json): (String, String)| {
        let record = serde_json::from_str(&json)
            .inspect_err(|error| tracing::error!(name, %error, "the record of a volume is damaged"))
            .ok()?;
        Some((name, record))
    };
    Ok(rows.into_iter().filter_map(parse).collect())
}

pub(super) fn insert(db: &Database, name: &str, record: &Record) -> Result<()> {
    let json = serde_json::to_string(record)
        .map_err(|error| Error::System(format!("cannot encode the record of volume {name}: {error}")))?;
    db.write(|tx| -> Stored<()> {
        tx.execute("INSERT OR IGNORE INTO volumes (name, record) VALUES (?1, ?2)", (name, json))?;
        Ok(())
    })?;
    Ok(())
}

pub(super) fn delete(db: &Database, name: &str) -> Result<()> {
    db.write(|tx| -> Stored<()> {
        tx.execute("DELETE FROM volumes WHERE name = ?1", [name])?;
        tx.execute("DELETE FROM volume_holds WHERE volume = ?1", [name])?;
        Ok(())
    })?;
    Ok(())
}

pub(super) fn hold(db: &Database, row: &HoldRow) -> Result<()> {
    db.write(|tx| -> Stored<()> {
        tx.execute(
            "INSERT OR REPLACE INTO volume_holds (volume, id, holder, container) VALUES (?1, ?2, ?3, ?4)",
            (&row.volume, &row.id, &row.holder, &row.container),
        )?;
        Ok(())
    })?;
    Ok(())
}

pub(super) fn let_go(db: &Database, volume: &str, id: &str) -> Result<()> {
    db.write(|tx| -> Stored<()> {
        tx.execute("DELETE FROM volume_holds WHERE volume = ?1 AND id = ?2", (volume, id))?;
        Ok(())
    })?;
    Ok(())
}

pub(super) fn holds(db: &Database) -> Result<Vec<HoldRow>> {
    Ok(db.read(|connection| -> Stored<_> {
        let mut statement = connection.prepare("SELECT volume, id, holder, container FROM volume_holds")?;
        let rows = statement.query_map([], |row| {
            Ok(HoldRow { volume: row.get(0)?, id: row.get(1)?, holder: row.get(2)?, container: row.get(3)? })
        })?;
        Ok(rows.collect::<std::result::Result<_, _>>()?)
    })?)
}
