//! Reading and writing the small files of cgroup file systems.

use super::{Error, Result};
use rustix::fs::{AtFlags, Mode, OFlags};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

impl Error {
    pub(super) fn io(operation: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self::Io { operation, path: path.to_owned(), source: source.into() }
    }

    /// Whether this error number is the reason.
    pub(super) fn is(&self, errno: i32) -> bool {
        match self {
            Self::Io { source, .. } | Self::Refused { source, .. } => source.raw_os_error() == Some(errno),
            _ => false,
        }
    }

    /// Whether the file or the whole group is not there, or went away while it was used.
    pub fn is_missing(&self) -> bool {
        self.is(libc::ENOENT) || self.is(libc::ENODEV)
    }
}

pub(super) fn open_for_writing(path: &Path) -> Result<OwnedFd> {
    rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| Error::io("open", path, e))
}

pub(super) fn open_dir(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(|e| Error::io("open", path, e))
}

/// A file that takes settings, one with each `write`.
pub(super) struct SettingFile {
    path: PathBuf,
    file: OwnedFd,
}

impl SettingFile {
    pub(super) fn open(dir: &Path, name: &str) -> Result<Self> {
        let path = dir.join(name);
        open_for_writing(&path).map(|file| Self { path, file })
    }

    pub(super) fn write(&self, value: &str) -> Result<()> {
        match rustix::io::retry_on_intr(|| rustix::io::write(&self.file, value.as_bytes())) {
            Ok(_) => Ok(()),
            Err(e) => {
                Err(Error::Refused { path: self.path.clone(), value: value.to_owned(), source: e.into() })
            }
        }
    }
}

/// Writes one value.
pub(super) fn write(path: &Path, value: &str) -> Result<()> {
    SettingFile { path: path.to_owned(), file: open_for_writing(path)? }.write(value)
}

/// Like [`write`]; a file that is not there, because the kernel lacks the feature, is left alone.
pub(super) fn write_if_there(path: &Path, value: &str) -> Result<()> {
    match write(path, value) {
        Err(error) if error.is_missing() => Ok(()),
        other => other,
    }
}

pub(super) fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|e| Error::io("read", path, e))
}

/// The one number in a file; `max` is `u64::MAX`.
pub(super) fn read_number(path: &Path) -> Result<u64> {
    Ok(parse_number(&read(path)?))
}

pub(super) fn parse_number(text: &str) -> u64 {
    let text = text.trim();
    if text == "max" { u64::MAX } else { text.parse().unwrap_or(0) }
}

/// The numbers of a file of `key number` lines.
pub(super) fn read_keyed(path: &Path) -> Result<BTreeMap<String, u64>> {
    let text = read(path)?;
    let pair = |line: &str| line.split_once(' ').map(|(key, value)| (key.to_owned(), parse_number(value)));
    Ok(text.lines().filter_map(pair).collect())
}

/// The files that hold one limit as one value, of every hierarchy there is.
const LIMITS: [&str; 22] = [
    "memory.limit_in_bytes",
    "memory.memsw.limit_in_bytes",
    "memory.soft_limit_in_bytes",
    "memory.swappiness",
    "cpu.shares",
    "cpu.cfs_period_us",
    "cpu.cfs_quota_us",
    "cpu.rt_period_us",
    "cpu.rt_runtime_us",
    "cpuset.cpus",
    "cpuset.mems",
    "pids.max",
    "blkio.weight",
    "blkio.bfq.weight",
    "memory.max",
    "memory.swap.max",
    "memory.low",
    "cpu.weight",
    "cpu.max",
    "cpu.idle",
    "io.bfq.weight",
    "io.weight",
];

/// The limits of a group as they are now.
pub(super) fn remember(dir: &Path) -> Vec<(PathBuf, String)> {
    let limit = |name: &&str| {
        let path = dir.join(name);
        // Most are not there: each hierarchy has its own.
        read(&path).ok().map(|value| (path, value.trim().to_owned()))
    };
    LIMITS.iter().filter_map(limit).collect()
}

/// Writes remembered limits back where they have changed. One may only fit after another (memory below swap), hence twice;
/// what the kernel still refuses stays, and nobody could do better.
pub(super) fn restore(before: &[(PathBuf, String)]) {
    for _ in 0..2 {
        for (path, value) in before {
            if read(path).is_ok_and(|now| now.trim() != value) {
                let _refused = write(path, value);
            }
        }
    }
}

/// Calls `visit` for a group and every group below it, parents first.
pub(super) fn walk(dir: &Path, visit: &mut dyn FnMut(&Path) -> Result<()>) -> Result<()> {
    visit(dir)?;
    for entry in std::fs::read_dir(dir).map_err(|e| Error::io("list", dir, e))? {
        let entry = entry.map_err(|e| Error::io("list", dir, e))?;
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            match walk(&entry.path(), visit) {
                // A group may go away while we look.
                Err(error) if error.is_missing() => {}
                other => other?,
            }
        }
    }
    Ok(())
}

/// Makes a group and those above it that are missing, calling `made` for each. One of that name that is there is what a
/// crash left behind: it is removed first, with its limits, unless it has processes.
pub(super) fn make_fresh(
    root: &Path,
    path: &Path,
    made: &mut dyn FnMut(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let dir = root.join(path);
    match make_dir(root, path, made) {
        Err(error) if error.is(libc::EEXIST) => {
            remove_tree(&dir).map_err(|error| match error {
                error if error.is(libc::EBUSY) => Error::Busy { path: dir.clone() },
                other => other,
            })?;
            make_dir(root, path, made)?;
        }
        other => other?,
    }
    Ok(dir)
}

fn make_dir(root: &Path, path: &Path, made: &mut dyn FnMut(&Path) -> Result<()>) -> Result<()> {
    let dir = root.join(path);
    match rustix::fs::mkdir(&dir, Mode::from_raw_mode(0o755)) {
        Ok(()) => made(&dir),
        Err(rustix::io::Errno::NOENT) => match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => {
                match make_dir(root, parent, made) {
                    // Another container's start made it at this moment.
                    Err(error) if error.is(libc::EEXIST) => {}
                    other => other?,
                }
                make_dir(root, path, made)
            }
            _ => Err(Error::io("mkdir", &dir, rustix::io::Errno::NOENT)),
        },
        Err(e) => Err(Error::io("mkdir", &dir, e)),
    }
}

/// Removes a group and every group below it.
pub(super) fn remove_tree(dir: &Path) -> Result<()> {
    match rustix::fs::unlinkat(rustix::fs::CWD, dir, AtFlags::REMOVEDIR) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => return Ok(()),
        Err(rustix::io::Errno::BUSY) => {}
        Err(e) => return Err(Error::io("rmdir", dir, e)),
    }
    // Busy: either groups are below it, or processes are in it; the second attempt tells.
    let entries = match std::fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(|e| Error::io("list", dir, e))?,
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove_tree(&entry.path())?;
        }
    }
    match rustix::fs::unlinkat(rustix::fs::CWD, dir, AtFlags::REMOVEDIR) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(e) => Err(Error::io("rmdir", dir, e)),
    }
}
