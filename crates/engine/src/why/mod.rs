//! `why`: the reasons for which runs ended or did not begin.
//!
//! An [`Ending`] is made when a run ends or a start fails, from what the shim saw, what the engine asked for and what
//! the error says ([`reason`]); files of the container are looked at afterwards, when nobody waits any more
//! ([`command`]). The last one is in the container's record; the table `endings` keeps the last [`KEPT_EACH`] of every
//! container and [`KEPT`] of all, whether or not the container still exists.
//!
//! Crash: an ending is written after the reply to whoever waited, so an engine that is killed in between may lose that
//! one line; the record and the exit code are safe.

pub(crate) mod command;
pub(crate) mod reason;

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use wharf_state::Database;

use crate::blocking::blocking;
use crate::containers::Container;
use crate::{Engine, Error, Result, Status};

/// Endings kept of all containers together.
const KEPT: u32 = 1000;
/// Endings kept of one container.
const KEPT_EACH: u32 = 20;
/// Endings that wait to be written; beyond that the oldest goes.
const PENDING: usize = 256;

/// How long an answer waits for what a container that has just ended leaves.
const PATIENCE: Duration = Duration::from_secs(3);

/// Tables of this domain; steps are only appended.
pub(crate) const STEPS: &[&str] = &["CREATE TABLE endings (
        number INTEGER PRIMARY KEY, container TEXT NOT NULL, name TEXT NOT NULL, ending TEXT NOT NULL) STRICT;
     CREATE INDEX endings_container ON endings (container);
     CREATE INDEX endings_name ON endings (name);"];

/// The sort of an ending. The names are an interface: they are what `wharf why --format json` and inspect show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// The program ended by itself with 0.
    Finished,
    /// The program ended by itself with another code.
    Failed,
    /// The program made a mistake for which the kernel ended it.
    Crashed,
    /// The program made a system call that is forbidden on pain of death.
    ForbiddenCall,
    /// Somebody stopped the container.
    Stopped,
    /// Somebody sent it a signal that ended it.
    Killed,
    /// Somebody restarted it.
    Restarted,
    /// Somebody removed it while it ran.
    Removed,
    /// The engine shut down.
    EngineShutdown,
    /// Its health check failed.
    Unhealthy,
    /// The kernel killed the program for want of memory.
    OutOfMemory,
    /// The kernel killed another process of the container for want of memory, and the program ended with an error.
    ChildOutOfMemory,
    /// A signal from outside of Wharf ended it.
    KilledFromOutside,
    /// Its monitor was killed, and the container with it.
    MonitorKilled,
    /// The machine was restarted.
    MachineRestarted,
    /// The command does not exist.
    CommandMissing,
    /// The command exists and is no file that can be executed.
    CommandNotExecutable,
    /// The program's dynamic loader does not exist in the container.
    LoaderMissing,
    /// The script's interpreter does not exist in the container.
    InterpreterMissing,
    /// The program is for another processor.
    WrongArchitecture,
    /// The command is a script that names no interpreter, or no program at all.
    NotAProgram,
    /// The working directory cannot be used.
    WorkingDirectory,
    /// The user or group does not exist.
    NoSuchUser,
    /// Something could not be mounted.
    Mount,
    /// A device could not be made.
    Device,
    /// A kernel parameter could not be set.
    Sysctl,
    /// A limit could not be set.
    Limit,
    /// A published port is taken.
    PortInUse,
    /// The network could not be set up.
    Network,
    /// The disk is full.
    DiskFull,
    /// Anything else that kept the container from starting.
    StartFailed,
    /// Told by a newer engine.
    #[serde(other)]
    Unknown,
}

/// Why a run ended or did not begin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Ending {
    /// Id of the container.
    #[serde(rename = "ContainerID")]
    pub container: String,
    /// Its name at that time.
    pub name: String,
    /// Its image as it was asked for.
    pub image: String,
    /// Program and arguments.
    pub command: Vec<String>,
    /// The sort.
    pub kind: Cause,
    /// One sentence for people.
    pub cause: String,
    /// What it is concluded from.
    pub evidence: Vec<String>,
    /// What one might do.
    #[serde(rename = "Try")]
    pub advice: Vec<String>,
    /// Exit code.
    pub exit_code: i32,
    /// The signal that ended the first process.
    pub signal: Option<i32>,
    /// How many processes the kernel killed for want of memory.
    #[serde(rename = "OOMKills")]
    pub oom_kills: u64,
    /// When the run began; `None` when it did not.
    pub started_at: Option<Timestamp>,
    /// When it ended, or when the start failed.
    pub finished_at: Timestamp,
    /// How often its restart policy had started it before.
    pub restart_count: u32,
}

/// What is known of a container's endings.
#[derive(Clone, Debug)]
pub struct WhyView {
    /// Id.
    pub id: String,
    /// Name.
    pub name: String,
    /// Its state; `None` when it is gone.
    pub status: Option<Status>,
    /// Start of the run that goes on.
    pub running_since: Option<Timestamp>,
    /// Processes the kernel has killed for want of memory in the run that goes on.
    pub oom_kills: u64,
    /// Newest first.
    pub endings: Vec<Ending>,
}

/// Endings on their way to the table.
#[derive(Default)]
pub(crate) struct Endings {
    pending: Mutex<Vec<Ending>>,
}

impl Endings {
    /// Takes one down; [`Engine::keep_endings`] writes it.
    pub(crate) fn add(&self, ending: Ending) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        if pending.len() == PENDING {
            pending.remove(0);
        }
        pending.push(ending);
    }

    fn take(&self) -> Vec<Ending> {
        std::mem::take(&mut *self.pending.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Engine {
    /// Why the container's last `limit` runs ended, also of one that is gone.
    ///
    /// # Errors
    /// [`Error::NoSuchContainer`] when neither a container nor an ending has that name or id.
    pub async fn why(&self, name: &str, limit: usize) -> Result<WhyView> {
        let live = self.find(name);
        if let Ok(container) = &live {
            // What its files tell comes with the cleaning up.
            self.settled_or_running(container).await;
        } else {
            self.clean(PATIENCE).await;
        }
        self.keep_endings().await;
        let id = live.as_ref().ok().map(|container| container.id.to_string());
        let (db, wanted) = (self.inner.db.clone(), name.trim_start_matches('/').to_owned());
        let mut endings = blocking(move || select(&db, id.as_deref(), &wanted, limit)).await?;
        let Ok(container) = live else {
            let Some(last) = endings.first() else { return Err(Error::NoSuchContainer(name.to_owned())) };
            let (id, name) = (last.container.clone(), last.name.clone());
            endings.retain(|ending| ending.container == id);
            return Ok(WhyView { id, name, status: None, running_since: None, oom_kills: 0, endings });
        };
        let view = self.view(&container);
        let up = matches!(view.state.status, Status::Running | Status::Paused);
        Ok(WhyView {
            id: view.id.to_string(),
            name: view.name,
            status: Some(view.state.status),
            running_since: view.state.started_at.filter(|_| up),
            oom_kills: if up { container.record().oom_kills } else { 0 },
            endings,
        })
    }

    /// Waits until nothing that ended is being cleaned up: what is gone may be about to leave its ending.
    async fn clean(&self, patience: Duration) {
        let mut cleanups = self.inner.cleanups.subscribe();
        let none = cleanups.wait_for(|running| *running == 0);
        drop(tokio::time::timeout(patience, none).await);
    }

    /// Waits, for a short while, until what the last run left is cleaned up.
    async fn settled_or_running(&self, container: &Container) {
        let mut progress = container.progress.subscribe();
        let done = progress.wait_for(|progress| progress.running || !progress.busy);
        drop(tokio::time::timeout(PATIENCE, done).await);
    }

    /// Writes the endings that wait, and forgets those that are too many.
    pub(crate) async fn keep_endings(&self) {
        let endings = self.inner.endings.take();
        if endings.is_empty() {
            return;
        }
        let db = self.inner.db.clone();
        if let Err(error) = blocking(move || insert(&db, &endings)).await {
            tracing::error!(%error, "cannot keep why containers ended");
        }
    }
}

fn insert(db: &Database, endings: &[Ending]) -> Result<()> {
    let encode = |ending: &Ending| {
        serde_json::to_string(ending)
            .map_err(|error| Error::System(format!("cannot encode an ending: {error}")))
    };
    let rows = endings.iter().map(|ending| Ok((ending, encode(ending)?))).collect::<Result<Vec<_>>>()?;
    db.write(|tx| -> std::result::Result<(), wharf_state::Error> {
        for (ending, json) in &rows {
            tx.prepare_cached("INSERT INTO endings (container, name, ending) VALUES (?1, ?2, ?3)")?
                .execute((&ending.container, &ending.name, json))?;
            // A container that is restarted for ever must not push out all others.
            tx.prepare_cached(
                "DELETE FROM endings WHERE container = ?1 AND number NOT IN
                 (SELECT number FROM endings WHERE container = ?1 ORDER BY number DESC LIMIT ?2)",
            )?
            .execute((&ending.container, KEPT_EACH))?;
        }
        tx.prepare_cached("DELETE FROM endings WHERE number <= (SELECT max(number) FROM endings) - ?1")?
            .execute([KEPT])?;
        Ok(())
    })?;
    Ok(())
}

/// Newest first: those of the container `id`; without one, those of the container that had this name or id last.
fn select(db: &Database, id: Option<&str>, name: &str, limit: usize) -> Result<Vec<Ending>> {
    let rows: Vec<String> = db.read(|connection| -> std::result::Result<_, wharf_state::Error> {
        let mut statement = connection.prepare_cached(match id {
            Some(_) => "SELECT ending FROM endings WHERE container = ?1 ORDER BY number DESC LIMIT ?2",
            None => {
                "SELECT ending FROM endings WHERE container =
                 (SELECT container FROM endings WHERE name = ?1 OR container = ?1
                    OR (length(?1) >= 6 AND substr(container, 1, length(?1)) = ?1) ORDER BY number DESC LIMIT 1)
                 ORDER BY number DESC LIMIT ?2"
            }
        })?;
        let rows = statement
            .query_map((id.unwrap_or(name), i64::try_from(limit).unwrap_or(i64::MAX)), |row| row.get(0))?;
        Ok(rows.collect::<std::result::Result<_, _>>()?)
    })?;
    // A row of another version that cannot be read is passed over.
    Ok(rows.iter().filter_map(|row| serde_json::from_str(row).ok()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ending(container: &str, name: &str, code: i32) -> Ending {
        Ending {
            container: container.to_owned(),
            name: name.to_owned(),
            image: "box".into(),
            command: vec!["sh".into()],
            kind: Cause::Failed,
            cause: "It ended.".into(),
            evidence: Vec::new(),
            advice: Vec::new(),
            exit_code: code,
            signal: None,
            oom_kills: 0,
            started_at: None,
            finished_at: Timestamp::UNIX_EPOCH,
            restart_count: 0,
        }
    }

    fn database() -> Database {
        let db = Database::in_memory().unwrap();
        db.migrate("why", STEPS).unwrap();
        db
    }

    #[test]
    fn endings_are_found_by_name_and_id_newest_first() {
        let db = database();
        insert(
            &db,
            &[ending("aaaaaaaa1", "web", 1), ending("bbbbbbbb2", "web", 2), ending("bbbbbbbb2", "web", 3)],
        )
        .unwrap();
        let codes = |id, name| -> Vec<i32> {
            select(&db, id, name, 10).unwrap().iter().map(|ending| ending.exit_code).collect()
        };
        assert_eq!(codes(None, "web"), [3, 2], "the container that had the name last");
        assert_eq!(codes(None, "aaaaaaaa1"), [1]);
        assert_eq!(codes(None, "aaaaaa"), [1]);
        assert_eq!(codes(Some("aaaaaaaa1"), "web"), [1]);
        assert!(codes(None, "aaa").is_empty() && codes(None, "%").is_empty());
    }

    #[test]
    fn endings_are_bounded_in_sum_and_each() {
        let db = database();
        let each: Vec<Ending> = (0..50).map(|code| ending("c", "busy", code)).collect();
        insert(&db, &each).unwrap();
        assert_eq!(select(&db, Some("c"), "", 1000).unwrap().len(), KEPT_EACH as usize);
        for number in 0..1100 {
            insert(&db, &[ending(&format!("c{number}"), "n", 0)]).unwrap();
        }
        let rows: u32 = db
            .read(|c| -> std::result::Result<_, wharf_state::Error> {
                Ok(c.query_row("SELECT count(*) FROM endings", [], |row| row.get(0))?)
            })
            .unwrap();
        assert_eq!(rows, KEPT);
    }

    #[test]
    fn kinds_have_stable_names() {
        let name = |cause| serde_json::to_string(&cause).unwrap();
        assert_eq!(name(Cause::ChildOutOfMemory), r#""child-out-of-memory""#);
        assert_eq!(serde_json::from_str::<Cause>(r#""later""#).unwrap(), Cause::Unknown);
    }
}
