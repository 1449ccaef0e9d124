//! Records in SQLite.
//!
//! Group commit: one thread takes every list of changes that waits, applies them in one transaction and answers all of
//! them after its one sync. While it syncs, the next group gathers. Reads have a connection of their own and see what is
//! committed; a record is visible only when it is durable, because SQLite shows a transaction after it has synced it.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::oneshot;
use wharf_state::Database;
use wharf_state::rusqlite::{OptionalExtension, Transaction, params};

use super::blocking;
use crate::storage::{Change, Error, Records, Result};

const STEPS: &[&str] = &["
    CREATE TABLE records (
        key TEXT NOT NULL UNIQUE,
        value BLOB NOT NULL
    ) STRICT;
"];
/// One transaction holds at most so many lists and about so many bytes: what waits behind it must not wait for long.
const MAX_LISTS: usize = 256;
const MAX_BYTES: usize = 16 << 20;

pub(super) struct LocalRecords {
    reader: Database,
    /// Both are there until the drop.
    queue: Option<Sender<Waiting>>,
    writer: Option<JoinHandle<()>>,
    _lock: Arc<File>,
}

/// Waits for the writer: the directory is unlocked when the storage is gone.
impl Drop for LocalRecords {
    fn drop(&mut self) {
        drop(self.queue.take());
        if let Some(writer) = self.writer.take() {
            // A panic there has answered its callers by dropping their channels.
            let _ = writer.join();
        }
    }
}

struct Waiting {
    changes: Vec<Change>,
    done: oneshot::Sender<Result<()>>,
}

impl LocalRecords {
    pub(super) fn open(path: &Path, lock: Arc<File>) -> Result<Self> {
        let writer = Database::open(path)?;
        // Unlike the engine's, every transaction here is a promise to a client.
        writer.read(|connection| connection.pragma_update(None, "synchronous", "FULL"))?;
        writer.migrate("registry", STEPS)?;
        let reader = Database::open(path)?;
        let (queue, waiting) = mpsc::channel();
        let writer = std::thread::Builder::new()
            .name("records".to_owned())
            .spawn(move || serve(&writer, &waiting))
            .map_err(|error| Error::other("start the thread that writes records", error))?;
        Ok(Self { reader, queue: Some(queue), writer: Some(writer), _lock: lock })
    }
}

fn serve(db: &Database, queue: &Receiver<Waiting>) {
    while let Ok(first) = queue.recv() {
        let mut size = first.size();
        let mut group = vec![first];
        while group.len() < MAX_LISTS && size < MAX_BYTES {
            let Ok(next) = queue.try_recv() else { break };
            size += next.size();
            group.push(next);
        }
        let written = db.write(|transaction| {
            group
                .iter()
                .flat_map(|waiting| &waiting.changes)
                .try_for_each(|change| apply(transaction, change))
        });
        for waiting in group {
            let answer = match &written {
                Ok(()) => Ok(()),
                Err(Error::Full(reason)) => Err(Error::Full(reason.clone())),
                Err(error) => Err(Error::other("write records", error.to_string())),
            };
            // Who asked may be gone; the change stands all the same.
            let _ = waiting.done.send(answer);
        }
    }
}

fn apply(transaction: &Transaction<'_>, change: &Change) -> Result<()> {
    match change {
        Change::Put(key, value) => transaction
            .prepare_cached(
                "INSERT INTO records (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            )?
            .execute(params![key, value.as_ref()])?,
        Change::Delete(key) => {
            transaction.prepare_cached("DELETE FROM records WHERE key = ?1")?.execute([key])?
        }
    };
    Ok(())
}

impl Waiting {
    fn size(&self) -> usize {
        let size = |change: &Change| match change {
            Change::Put(key, value) => key.len() + value.len(),
            Change::Delete(key) => key.len(),
        };
        self.changes.iter().map(size).sum()
    }
}

impl Records for LocalRecords {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Bytes>>> {
        let (reader, key) = (self.reader.clone(), key.to_owned());
        Box::pin(blocking(move || {
            reader.read(|connection| {
                let mut statement = connection.prepare_cached("SELECT value FROM records WHERE key = ?1")?;
                let value: Option<Vec<u8>> = statement.query_row([key], |row| row.get(0)).optional()?;
                Ok(value.map(Bytes::from))
            })
        }))
    }

    fn list<'a>(
        &'a self,
        prefix: &'a str,
        after: &'a str,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<String>>> {
        let reader = self.reader.clone();
        let (from, skip) = (format!("{prefix}{after}"), prefix.len());
        // The prefix ends with '/', so everything under it is before the same with the next character.
        let to = format!("{}0", prefix.strip_suffix('/').unwrap_or(prefix));
        Box::pin(blocking(move || {
            reader.read(|connection| {
                let mut statement = connection.prepare_cached(
                    "SELECT key FROM records WHERE key > ?1 AND key < ?2 ORDER BY key LIMIT ?3",
                )?;
                let limit = i64::try_from(limit).unwrap_or(i64::MAX);
                let keys = statement.query_map(params![from, to, limit], |row| row.get::<_, String>(0))?;
                keys.map(|key| Ok(key?.split_off(skip))).collect::<Result<_>>()
            })
        }))
    }

    fn write(&self, changes: Vec<Change>) -> BoxFuture<'_, Result<()>> {
        let (done, answer) = oneshot::channel();
        if let Some(queue) = &self.queue {
            // A writer that has stopped drops the channel for the answer, too.
            let _ = queue.send(Waiting { changes, done });
        }
        Box::pin(async {
            answer.await.unwrap_or_else(|_| Err(Error::other("write records", "the writer has stopped")))
        })
    }
}
