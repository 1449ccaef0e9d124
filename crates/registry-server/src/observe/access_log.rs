//! The access log: one JSON object a line.

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use serde::Serialize;
use wharf_linux::hostfs;

/// Lines that may wait for the disk.
const QUEUE: usize = 8192;

/// Where the log goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Destination {
    /// Nowhere.
    None,
    /// Standard output.
    Stdout,
    /// The end of a file.
    File(PathBuf),
}

/// One request.
#[derive(Debug, Serialize)]
pub(super) struct Line<'a> {
    pub(super) time: String,
    pub(super) remote: Option<String>,
    pub(super) user: Option<&'a str>,
    pub(super) method: &'a str,
    pub(super) path: &'a str,
    pub(super) endpoint: &'a str,
    pub(super) repository: Option<&'a str>,
    pub(super) status: u16,
    pub(super) bytes: u64,
    pub(super) duration_ms: f64,
    pub(super) agent: &'a str,
    pub(super) id: &'a str,
}

enum Message {
    Line(Vec<u8>),
    Reopen,
}

/// The log. Whoever writes never waits.
pub(crate) struct AccessLog {
    queue: Mutex<Option<SyncSender<Message>>>,
    writer: Mutex<Option<JoinHandle<()>>>,
    dropped: Arc<AtomicU64>,
}

impl AccessLog {
    /// Opens the log.
    ///
    /// # Errors
    /// When the file cannot be appended to.
    pub(crate) fn open(destination: Destination) -> Result<Self, hostfs::Error> {
        let dropped = Arc::new(AtomicU64::new(0));
        let out = match &destination {
            Destination::None => {
                return Ok(Self { queue: Mutex::default(), writer: Mutex::default(), dropped });
            }
            other => open(other)?,
        };
        let (sender, receiver) = sync_channel(QUEUE);
        let lost = dropped.clone();
        let writer = std::thread::spawn(move || write_all(&destination, out, &receiver, &lost));
        Ok(Self { queue: Mutex::new(Some(sender)), writer: Mutex::new(Some(writer)), dropped })
    }

    pub(super) fn write(&self, line: &Line<'_>) {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(queue) = queue else { return };
        // A struct of strings and numbers has a JSON form.
        let mut bytes = serde_json::to_vec(line).unwrap_or_default();
        bytes.push(b'\n');
        if queue.try_send(Message::Line(bytes)).is_err() {
            self.dropped.fetch_add(1, Relaxed);
        }
    }

    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }

    /// Goes on in a new file, after the old one was moved away.
    pub(super) fn reopen(&self) {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(queue) = queue {
            // Full: the writer is busy with lines that belong to the old file; the next signal comes.
            let _full = queue.try_send(Message::Reopen);
        }
    }

    /// Writes what is in the queue and ends.
    pub(super) fn finish(&self) {
        drop(self.queue.lock().unwrap_or_else(PoisonError::into_inner).take());
        if let Some(writer) = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _it_said_why = writer.join();
        }
    }
}

fn open(destination: &Destination) -> Result<Box<dyn Write + Send>, hostfs::Error> {
    Ok(match destination {
        Destination::None => Box::new(io::sink()),
        Destination::Stdout => Box::new(io::stdout()),
        Destination::File(path) => Box::new(hostfs::append(path, 0o640)?),
    })
}

fn write_all(
    destination: &Destination,
    mut out: Box<dyn Write + Send>,
    queue: &Receiver<Message>,
    lost: &AtomicU64,
) {
    let mut broken = false;
    while let Ok(message) = queue.recv() {
        match message {
            Message::Line(line) => {
                let written = out.write_all(&line).and_then(|()| out.flush());
                if let Err(error) = &written {
                    lost.fetch_add(1, Relaxed);
                    if !broken {
                        tracing::error!("writing the access log: {error}");
                    }
                }
                broken = written.is_err();
            }
            Message::Reopen => match open(destination) {
                Ok(new) => out = new,
                Err(error) => tracing::error!("the access log goes on in the old file: {error}"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(path: &str) -> Line<'_> {
        Line {
            time: "2026-01-01T00:00:00Z".into(),
            remote: None,
            user: Some("a\"\n"),
            method: "GET",
            path,
            endpoint: "end-1",
            repository: None,
            status: 200,
            bytes: 2,
            duration_ms: 0.5,
            agent: "",
            id: "1",
        }
    }

    #[test]
    fn lines_are_json_whatever_clients_say_and_a_moved_file_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let log = AccessLog::open(Destination::File(path.clone())).unwrap();
        log.write(&line("/v2/\u{7f}\n{}"));
        wharf_testkit::wait_until("the first line", std::time::Duration::from_secs(10), || {
            std::fs::read_to_string(&path).unwrap().ends_with('\n')
        });
        std::fs::rename(&path, dir.path().join("old")).unwrap();
        log.reopen();
        log.write(&line("/v2/"));
        log.finish();
        let old = std::fs::read_to_string(dir.path().join("old")).unwrap();
        let new = std::fs::read_to_string(&path).unwrap();
        assert_eq!((old.lines().count(), new.lines().count()), (1, 1));
        let parsed: serde_json::Value = serde_json::from_str(&old).unwrap();
        assert_eq!(parsed["path"], "/v2/\u{7f}\n{}");
        assert_eq!(parsed["user"], "a\"\n");
        assert_eq!(log.dropped(), 0);
    }
}
