//! What is remembered of a container between two calls of the program.
//!
//! Two files per container below the state root (mode 0711, the files 0600), whose names no other id can have:
//! - `<id>:state`: one line of JSON (the [`Record`]), then the bytes of `config.json` as they were at creation. It is
//!   made, empty and locked, before anything else of the container, so that two creates of one id cannot both go on,
//!   and written and unlocked when the container exists. Readers that find it locked treat the container as one that
//!   is being created. Empty and not locked means that a create died.
//! - `<id>:fifo`: there from `create` to `start`; the container's first process waits for a byte in it.

use super::{Failure, Globals};
use rustix::fs::{FileType, FlockOperation, Mode, OFlags, flock};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use wharf_linux::cgroup::Cgroup;
use wharf_runtime::spec::Spec;
use wharf_runtime::{cgroup_of, check_id};

/// A config.json beyond this is refused.
const MAX_CONFIG: u64 = 32 << 20;

/// What `state` begins with.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) id: String,
    pub(crate) pid: i32,
    /// When the process started, in ticks since boot: tells it from a later one with the same number.
    pub(crate) start_time: u64,
    pub(crate) bundle: PathBuf,
    pub(crate) rootfs: PathBuf,
    pub(crate) created: String,
    pub(crate) owner: String,
    pub(crate) annotations: HashMap<String, String>,
}

/// Where a container is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    Created,
    Running,
    Paused,
    Stopped,
}

impl Status {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

/// A container's files.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) id: String,
    state: PathBuf,
    fifo: PathBuf,
}

/// The place of a container that is being made.
#[derive(Debug)]
pub(crate) struct Claim {
    /// Locked until it is saved.
    file: File,
}

fn failed(what: &str, path: &Path, error: impl std::fmt::Display) -> Failure {
    format!("{what} {}: {error}", path.display()).into()
}

impl Place {
    fn of(globals: &Globals, id: &str) -> Result<Self, Failure> {
        check_id(id)?;
        let file = |kind: &str| globals.root.join(format!("{id}:{kind}"));
        Ok(Self { id: id.to_owned(), state: file("state"), fifo: file("fifo") })
    }

    /// The place of a container that exists.
    pub(crate) fn find(globals: &Globals, id: &str) -> Result<Self, Failure> {
        let place = Self::of(globals, id)?;
        if place.state.exists() {
            return Ok(place);
        }
        Err(wharf_runtime::Error::NotFound { id: id.to_owned() }.into())
    }

    /// Takes the place for a new container.
    pub(crate) fn claim(globals: &Globals, id: &str) -> Result<(Self, Claim), Failure> {
        let place = Self::of(globals, id)?;
        let make = || OpenOptions::new().write(true).create_new(true).mode(0o600).open(&place.state);
        let made = make().or_else(|error| match error.kind() {
            ErrorKind::NotFound => {
                DirBuilder::new().recursive(true).mode(0o711).create(&globals.root)?;
                make()
            }
            _ => Err(error),
        });
        match made {
            Ok(file) => {
                flock(&file, FlockOperation::NonBlockingLockExclusive)
                    .map_err(|e| failed("lock", &place.state, e))?;
                Ok((place, Claim { file }))
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                Err(wharf_runtime::Error::Exists { id: id.to_owned() }.into())
            }
            Err(error) => Err(failed("make", &place.state, error)),
        }
    }

    /// All containers.
    pub(crate) fn all(globals: &Globals) -> Result<Vec<Self>, Failure> {
        let entries = match std::fs::read_dir(&globals.root) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(|e| failed("list", &globals.root, e))?,
        };
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let mut ids: Vec<_> =
            names.filter_map(|name| name.strip_suffix(":state").map(str::to_owned)).collect();
        ids.sort();
        Ok(ids.into_iter().filter_map(|id| Self::find(globals, &id).ok()).collect())
    }

    /// Makes the gate of a container that is to be started later.
    pub(crate) fn make_fifo(&self) -> Result<OwnedFd, Failure> {
        let path = &self.fifo;
        rustix::fs::mknodat(rustix::fs::CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0)
            .map_err(|e| failed("make", path, e))?;
        // For both, so that opening does not wait and reading never meets an end.
        rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| failed("open", path, e))
    }

    /// Lets the container's first process go on.
    pub(crate) fn open_gate(&self) -> Result<(), Failure> {
        let path = &self.fifo;
        let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let fifo = rustix::fs::open(path, flags, Mode::empty()).map_err(|e| failed("open", path, e))?;
        rustix::io::write(&fifo, b"0").map_err(|e| failed("write", path, e))?;
        std::fs::remove_file(path).map_err(|e| failed("remove", path, e))
    }

    pub(crate) fn load(&self) -> Result<(Record, Spec), Failure> {
        let text = self.read()?;
        let (record, config) = text.split_once('\n').unwrap_or((&text, ""));
        let record = serde_json::from_str(record).map_err(|e| failed("understand", &self.state, e))?;
        Ok((record, parse(config, &self.state)?))
    }

    /// Whether its create died before there was a container.
    pub(crate) fn is_unfinished(&self) -> Result<bool, Failure> {
        Ok(self.read()?.is_empty())
    }

    fn read(&self) -> Result<String, Failure> {
        let mut file = File::open(&self.state).map_err(|e| failed("read", &self.state, e))?;
        if flock(&file, FlockOperation::NonBlockingLockShared).is_err() {
            return Err(format!("container {:?} is being created", self.id).into());
        }
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(|e| failed("read", &self.state, e))?;
        Ok(text)
    }

    pub(crate) fn status(&self, record: &Record, cgroup: Option<&Cgroup>) -> Status {
        if start_time(record.pid) != Some(record.start_time) {
            return Status::Stopped;
        }
        if self.fifo.exists() {
            return Status::Created;
        }
        match cgroup.map(Cgroup::frozen) {
            Some(Ok(true)) => Status::Paused,
            _ => Status::Running,
        }
    }

    /// Forgets the container.
    pub(crate) fn remove(&self) -> Result<(), Failure> {
        for path in [&self.fifo, &self.state] {
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(failed("remove", path, error));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

impl Claim {
    /// Writes down the container that has come to be.
    pub(crate) fn save(&self, record: &Record, config: &str) -> Result<(), Failure> {
        let mut text = serde_json::to_string(record)?;
        text.push('\n');
        text.push_str(config);
        (&self.file)
            .write_all(text.as_bytes())
            .map_err(|e| format!("write the state of {}: {e}", record.id))?;
        // Closing is not enough: the container's first process has a copy of the descriptor until it executes.
        Ok(flock(&self.file, FlockOperation::Unlock)?)
    }
}

/// The configuration of a bundle and its bytes.
pub(crate) fn read_config(bundle: &Path) -> Result<(Spec, String), Failure> {
    let path = bundle.join("config.json");
    let size = std::fs::metadata(&path).map_err(|e| failed("read", &path, e))?.len();
    if size > MAX_CONFIG {
        return Err(failed("read", &path, format!("it is larger than {MAX_CONFIG} bytes")));
    }
    let text = std::fs::read_to_string(&path).map_err(|e| failed("read", &path, e))?;
    Ok((parse(&text, &path)?, text))
}

fn parse(text: &str, path: &Path) -> Result<Spec, Failure> {
    serde_json::from_str(text).map_err(|e| failed("understand", path, e))
}

/// The cgroup of a container, with the path read systemd's way if asked.
pub(crate) fn cgroup(spec: &Spec, id: &str) -> Result<Cgroup, Failure> {
    Ok(cgroup_of(spec, id)?)
}

/// When a process started, if it is there and has not ended.
pub(crate) fn start_time(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is a name in parentheses that may contain anything.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    if matches!(*fields.first()?, "Z" | "X") {
        return None;
    }
    fields.get(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_a_start_time() {
        assert!(start_time(std::process::id() as i32).is_some_and(|t| t > 0));
        assert_eq!(start_time(i32::MAX), None);
    }
}
