//! One SQLite file holds every name and setting of an engine; each domain brings its own tables.
//!
//! Layout: `state.db` in the data root, in write-ahead mode. A table `schema_steps` remembers how many migration
//! steps of each domain have run; steps are only ever appended.
//!
//! Invariants: bytes before names. A row is committed only after the files it names are durable, and files are
//! removed only after their row is gone.
//!
//! Locking: one connection behind a mutex; transactions are short and never wait for anything but the disk.
//!
//! A full disk: room for the log is taken from the disk in advance, so that what frees room, which has
//! to be written down first, always finds some.
//!
//! Crash: `synchronous=NORMAL` with WAL keeps the file consistent over a power cut, at the price of possibly losing
//! the newest transactions; a caller that has promised something to the outside calls [`Database::sync`].

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use rusqlite;
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior};

/// What can go wrong with the state file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file could not be opened or is not a database of ours.
    #[error(
        "cannot open the state database {path}: {source}; run `wharf system check` or restore it from a backup"
    )]
    Open {
        /// The database file.
        path: PathBuf,
        /// SQLite's reason.
        source: rusqlite::Error,
    },
    /// The file was written by a newer engine.
    #[error(
        "the state database is newer than this engine: {domain} has {found} schema steps, this engine knows {known}; start the engine that wrote it"
    )]
    Newer {
        /// The domain whose tables are newer.
        domain: String,
        /// Steps recorded in the file.
        found: usize,
        /// Steps this build has.
        known: usize,
    },
    /// A statement failed.
    #[error("state database: {0}")]
    Sql(#[from] rusqlite::Error),
}

impl Error {
    /// True when the disk (or the quota) is full.
    #[must_use]
    pub fn is_full(&self) -> bool {
        let (Self::Open { source, .. } | Self::Sql(source)) = self else { return false };
        source.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull)
    }

    /// True when a uniqueness rule was broken.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        let Self::Sql(source) = self else { return false };
        source.sqlite_error_code() == Some(rusqlite::ErrorCode::ConstraintViolation)
    }
}

/// A handle to the state file; clones share one connection.
#[derive(Clone, Debug)]
pub struct Database {
    connection: Arc<Mutex<Connection>>,
    /// Where it is, unless in memory.
    path: Option<Arc<Path>>,
}

impl Database {
    /// Opens or creates the file.
    ///
    /// # Errors
    /// [`Error::Open`] when the file cannot be read, locked or is damaged.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let open = || {
            let connection = Connection::open(path)?;
            connection.busy_timeout(Duration::from_secs(5))?;
            connection.pragma_update(None, "journal_mode", "WAL")?;
            connection.pragma_update(None, "synchronous", "NORMAL")?;
            // A bounded cache: the whole file of a thousand containers is some 4 MB.
            connection.pragma_update(None, "cache_size", -1024)?;
            Self::prepare(&connection)?;
            Ok(connection)
        };
        match open() {
            Ok(connection) => {
                reserve(path);
                let path = Some(Arc::from(path));
                Ok(Self { connection: Arc::new(Mutex::new(connection)), path })
            }
            Err(source) => Err(Error::Open { path: path.to_owned(), source }),
        }
    }

    /// A database that lives in memory only, for tests.
    ///
    /// # Errors
    /// [`Error::Sql`] when SQLite cannot allocate.
    pub fn in_memory() -> Result<Self, Error> {
        let connection = Connection::open_in_memory()?;
        Self::prepare(&connection)?;
        Ok(Self { connection: Arc::new(Mutex::new(connection)), path: None })
    }

    fn prepare(connection: &Connection) -> rusqlite::Result<()> {
        connection.pragma_update(None, "foreign_keys", true)?;
        connection.execute_batch(
            "CREATE TABLE IF NOT EXISTS schema_steps (domain TEXT PRIMARY KEY, done INTEGER NOT NULL) STRICT",
        )
    }

    /// Runs the steps of a domain that have not run yet, each in its own transaction.
    ///
    /// # Errors
    /// [`Error::Newer`] when the file knows more steps than `steps` has; [`Error::Sql`] when a step fails.
    pub fn migrate(&self, domain: &str, steps: &[&str]) -> Result<(), Error> {
        let done: usize = self
            .lock()
            .query_row("SELECT done FROM schema_steps WHERE domain = ?1", [domain], |row| {
                row.get::<_, i64>(0)
            })
            .optional()?
            .map_or(0, |n| usize::try_from(n).unwrap_or(0));
        if done > steps.len() {
            return Err(Error::Newer { domain: domain.to_owned(), found: done, known: steps.len() });
        }
        for (index, step) in steps.iter().enumerate().skip(done) {
            self.write(|tx| -> Result<(), Error> {
                tx.execute_batch(step)?;
                tx.execute(
                    "INSERT INTO schema_steps (domain, done) VALUES (?1, ?2)
                     ON CONFLICT (domain) DO UPDATE SET done = excluded.done",
                    (domain, i64::try_from(index + 1).unwrap_or(i64::MAX)),
                )?;
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Reads with the shared connection.
    ///
    /// # Errors
    /// Whatever `read` returns.
    pub fn read<T, E>(&self, read: impl FnOnce(&Connection) -> Result<T, E>) -> Result<T, E> {
        read(&self.lock())
    }

    /// Runs `write` in a transaction that is committed when it returns `Ok` and undone otherwise.
    ///
    /// # Errors
    /// Whatever `write` returns, or the failure to begin or commit.
    pub fn write<T, E: From<Error>>(
        &self,
        write: impl FnOnce(&Transaction<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut connection = self.lock();
        let transaction =
            connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(Error::Sql)?;
        let value = write(&transaction)?;
        transaction.commit().map_err(Error::Sql)?;
        Ok(value)
    }

    /// Makes every committed transaction durable (a WAL checkpoint with its syncs).
    ///
    /// # Errors
    /// [`Error::Sql`] when the disk refuses.
    pub fn sync(&self) -> Result<(), Error> {
        let connection = self.lock();
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
        if let Some(path) = &self.path {
            reserve(path);
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        // A panic while the lock was held has rolled its transaction back: the connection is still good.
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the log grows to before its content is moved into the file: a thousand pages with their headers.
const LOG: u64 = 1000 * (4096 + 24) + 4096;

/// Takes room from the disk for the log, beyond its end. A disk that is full already, or cannot do so, is found out when
/// something is written. The database file itself is left alone: opening and closing it would end SQLite's locks.
fn reserve(path: &Path) {
    use rustix::fs::{CWD, FallocateFlags, Mode, OFlags, fallocate, openat};
    let log = path.with_extension("db-wal");
    let file = openat(CWD, &log, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
    let _best_effort = file.and_then(|file| fallocate(&file, FallocateFlags::KEEP_SIZE, 0, LOG));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_run_once_and_in_order() {
        let db = Database::in_memory().unwrap();
        db.migrate("t", &["CREATE TABLE a (x INTEGER)"]).unwrap();
        db.migrate("t", &["CREATE TABLE a (x INTEGER)", "ALTER TABLE a ADD COLUMN y INTEGER"]).unwrap();
        db.write(|tx| Ok::<_, Error>(tx.execute("INSERT INTO a (x, y) VALUES (1, 2)", [])?)).unwrap();
        let older = db.migrate("t", &["CREATE TABLE a (x INTEGER)"]).unwrap_err();
        assert!(matches!(older, Error::Newer { found: 2, known: 1, .. }), "{older}");
    }

    #[test]
    fn an_error_undoes_the_transaction() {
        let db = Database::in_memory().unwrap();
        db.migrate("t", &["CREATE TABLE a (x INTEGER UNIQUE)"]).unwrap();
        let insert = |fail: bool| {
            db.write(|tx| {
                tx.execute("INSERT INTO a (x) VALUES (7)", [])?;
                if fail { Err(Error::Sql(rusqlite::Error::QueryReturnedNoRows)) } else { Ok(()) }
            })
        };
        insert(true).unwrap_err();
        insert(false).unwrap();
        assert!(insert(false).unwrap_err().is_conflict());
    }

    #[test]
    fn a_file_that_is_no_database_is_named() {
        let dir = std::env::temp_dir().join(format!("wharf-state-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let file = dir.join("state.db");
        std::fs::write(&file, vec![b'x'; 8192]).unwrap();
        let error = Database::open(&file).unwrap_err().to_string();
        std::fs::remove_dir_all(&dir).unwrap();
        assert!(error.contains("state.db"), "{error}");
    }
}
