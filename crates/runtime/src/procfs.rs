//! The host's procfs, held by descriptor from before the pivot.
//!
//! Everything the runtime writes to a procfs goes through it, so that no file that an image or a volume puts at
//! `/proc` is ever taken for one. It belongs to the host, which we trust, and is verified to be procfs all the same.

use crate::error::{Context, Error, Result};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;

const PROCFS_MAGIC: u64 = 0x9fa0;

/// The host's `/proc`, and the calling process's directory in it.
#[derive(Debug)]
pub(crate) struct Procfs {
    root: OwnedFd,
    own: OwnedFd,
}

impl Procfs {
    /// Opens it. Call this in the process that shall use it, before the pivot.
    pub(crate) fn open() -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(c"/proc", flags, Mode::empty()).context(|| "open /proc".into())?;
        if rustix::fs::fstatfs(&root).context(|| "stat /proc".into())?.f_type as u64 != PROCFS_MAGIC {
            return Err(Error::io("use /proc", std::io::Error::other("it is not a procfs")));
        }
        let own =
            rustix::fs::openat(&root, c"self", flags, Mode::empty()).context(|| "open /proc/self".into())?;
        Ok(Self { root, own })
    }

    /// Writes a file below `/proc/self`.
    pub(crate) fn write_own(&self, name: &str, value: &str) -> Result<()> {
        write(&self.own, name, value).context(|| format!("write {value:?} to /proc/self/{name}"))
    }

    /// Whether a file is there below `/proc/self`.
    pub(crate) fn has_own(&self, name: &str) -> bool {
        rustix::fs::statat(&self.own, name, rustix::fs::AtFlags::empty()).is_ok()
    }

    /// Sets a kernel parameter, by its path below `/proc/sys`.
    pub(crate) fn write_sysctl(&self, path: &str, value: &str) -> Result<()> {
        write(&self.root, &format!("sys/{path}"), value)
            .context(|| format!("set the kernel parameter {}", path.replace('/', ".")))
    }

    /// The name of what a descriptor is open as, seen from the process's root.
    pub(crate) fn name_of(&self, fd: impl AsFd) -> Result<PathBuf> {
        let link = format!("fd/{}", fd.as_fd().as_raw_fd());
        let name = rustix::fs::readlinkat(&self.own, &link, Vec::new())
            .context(|| format!("read the name of descriptor /proc/self/{link}"))?;
        Ok(PathBuf::from(std::ffi::OsStr::new(&*String::from_utf8_lossy(name.as_bytes()))))
    }
}

fn write(dir: &OwnedFd, path: &str, value: &str) -> std::io::Result<()> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let file = rustix::fs::openat2(dir, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty(), resolve)?;
    rustix::io::write(&file, value.as_bytes())?;
    Ok(())
}
