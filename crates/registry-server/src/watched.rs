//! A value that is made of files and follows them.
//!
//! Contract: [`Watched::current`] looks at the files at most twice a second (one `stat` each) and makes the value anew
//! when one of them was written or replaced. A new version that cannot be used is logged once and the value stays as
//! it was: a slip of the pen in a running registry must not lock its users out. What was handed out stays valid, so
//! nobody who uses an old value is disturbed.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use wharf_linux::hostfs;

/// How often the files are looked at, at the most.
const INTERVAL: Duration = Duration::from_millis(500);
/// The most bytes such a file may have.
const MAX_FILE: u64 = 4 << 20;

/// A file of the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// It cannot be read.
    #[error(transparent)]
    Unreadable(#[from] hostfs::Error),
    /// What it says cannot be meant.
    #[error("{}{}: {why}", path.display(), line.map(|line| format!(":{line}")).unwrap_or_default())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The line, from 1, where one line is to blame.
        line: Option<usize>,
        /// What is wrong, and what would be right.
        why: String,
    },
}

impl Refused {
    /// `path` as a whole cannot be used.
    pub(crate) fn file(path: &Path, why: impl Into<String>) -> Self {
        Self::Invalid { path: path.to_owned(), line: None, why: why.into() }
    }

    /// One line of `path` cannot be used.
    pub(crate) fn line(path: &Path, line: usize, why: impl Into<String>) -> Self {
        Self::Invalid { path: path.to_owned(), line: Some(line), why: why.into() }
    }
}

/// Reads a file of the configuration as text.
pub(crate) fn text(path: &Path) -> Result<String, Refused> {
    let bytes = hostfs::read_bounded(path, MAX_FILE)?;
    String::from_utf8(bytes).map_err(|_| Refused::file(path, "is not UTF-8 text"))
}

type Load<T> = dyn Fn() -> Result<T, Refused> + Send + Sync;

/// A value made of `files`, made anew when they change.
pub(crate) struct Watched<T> {
    files: Vec<PathBuf>,
    load: Box<Load<T>>,
    state: Mutex<State<T>>,
}

struct State<T> {
    value: Arc<T>,
    stamps: Vec<Option<Stamp>>,
    looked: Instant,
}

/// What differs between two versions of a file.
#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    file: (u64, u64),
    size: u64,
    written: (i64, i64),
    changed: (i64, i64),
}

impl<T> Watched<T> {
    /// Makes the value for the first time.
    pub(crate) fn open(
        files: Vec<PathBuf>,
        load: impl Fn() -> Result<T, Refused> + Send + Sync + 'static,
    ) -> Result<Self, Refused> {
        // Stamped before it is read: a change in between is seen as one.
        let stamps = stamps(&files);
        let value = Arc::new(load()?);
        let state = State { value, stamps, looked: Instant::now() };
        Ok(Self { files, load: Box::new(load), state: Mutex::new(state) })
    }

    /// The value of the files as they are now.
    pub(crate) fn current(&self) -> Arc<T> {
        let mut state = self.lock();
        if state.looked.elapsed() >= INTERVAL {
            state.looked = Instant::now();
            let now = stamps(&self.files);
            if now != state.stamps {
                state.stamps = now;
                self.renew(&mut state);
            }
        }
        state.value.clone()
    }

    fn renew(&self, state: &mut State<T>) {
        let names = self.files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(", ");
        match (self.load)() {
            Ok(value) => {
                state.value = Arc::new(value);
                tracing::info!("{names}: changed, now in force");
            }
            Err(error) => tracing::error!("{names}: changed, but the version before stays in force: {error}"),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // A panic in `load` leaves the old value, which is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn stamps(files: &[PathBuf]) -> Vec<Option<Stamp>> {
    let stamp = |path: &PathBuf| {
        let metadata = hostfs::open(path).ok()?.metadata().ok()?;
        Some(Stamp {
            file: (metadata.dev(), metadata.ino()),
            size: metadata.len(),
            written: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    };
    files.iter().map(stamp).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use wharf_testkit::wait_until;

    const PATIENCE: Duration = Duration::from_secs(10);

    fn number(path: &Path) -> Watched<u32> {
        let file = path.to_owned();
        let load = move || text(&file)?.trim().parse().map_err(|_| Refused::line(&file, 1, "is no number"));
        Watched::open(vec![path.to_owned()], load).unwrap()
    }

    #[test]
    fn a_changed_file_changes_the_value_and_a_broken_one_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("n");
        std::fs::write(&path, "1").unwrap();
        let watched = number(&path);
        let before = watched.current();
        std::fs::write(&path, "2").unwrap();
        wait_until("the new value", PATIENCE, || *watched.current() == 2);
        assert_eq!(*before, 1, "what was handed out stays");

        std::fs::write(&path, "two").unwrap();
        wait_until("the broken file to be seen", PATIENCE, || {
            watched.current();
            watched.lock().stamps == stamps(&watched.files)
        });
        assert_eq!(*watched.current(), 2);
        std::fs::remove_file(&path).unwrap();
        std::fs::write(dir.path().join("new"), "3").unwrap();
        std::fs::rename(dir.path().join("new"), &path).unwrap();
        wait_until("the replaced file", PATIENCE, || *watched.current() == 3);
    }

    #[test]
    fn an_error_names_file_line_and_reason() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("n");
        std::fs::write(&path, "x").unwrap();
        let file = path.clone();
        let refused =
            Watched::<u32>::open(vec![path.clone()], move || Err(Refused::line(&file, 1, "is no number")));
        let message = refused.err().unwrap().to_string();
        assert_eq!(message, format!("{}:1: is no number", path.display()));
    }
}
