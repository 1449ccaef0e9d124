//! The container's root file system after the pivot: every name in it is resolved here, by descriptor.
//!
//! The process's own root is the container's already, and no directory of the host is left in its mount namespace:
//! a name that somebody changes while we look it up can only lead to another place of the same container. On top of
//! that, magic links (`/proc/<pid>/fd/…`, `/proc/<pid>/root`) are never followed.

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// The root directory.
#[derive(Debug)]
pub(crate) struct Root {
    dir: OwnedFd,
}

/// How many dangling links are followed when directories are made, as many as the kernel follows.
const MAX_LINKS: usize = 40;
/// A rename on the way makes the kernel give up one resolution; how often it is tried again.
const MAX_RETRIES: usize = 256;

impl Root {
    /// The calling process's root.
    pub(crate) fn open() -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self { dir: rustix::fs::open(c"/", flags, Mode::empty())? })
    }

    /// A directory that is open as `dir`.
    pub(crate) fn from_fd(dir: OwnedFd) -> Self {
        Self { dir }
    }

    /// The directory itself.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// A place to mount on or to look at, without opening what is there.
    pub(crate) fn find(&self, path: &Path) -> io::Result<OwnedFd> {
        self.open_with(path, OFlags::PATH, ResolveFlags::empty())
    }

    /// Like [`find`](Self::find), and an error where any part of the name is a symbolic link.
    pub(crate) fn find_plain(&self, path: &Path) -> io::Result<OwnedFd> {
        self.open_with(path, OFlags::PATH, ResolveFlags::NO_SYMLINKS)
    }

    /// Opens a regular file for reading; anything else is an error, and opening it has no effect on it.
    pub(crate) fn open_regular(&self, path: &Path) -> io::Result<OwnedFd> {
        let seen = self.find(path)?;
        if FileType::from_raw_mode(rustix::fs::fstat(&seen)?.st_mode) != FileType::RegularFile {
            return Err(io::Error::other("not a regular file"));
        }
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = self.open_with(path, flags, ResolveFlags::empty())?;
        let (a, b) = (rustix::fs::fstat(&seen)?, rustix::fs::fstat(&file)?);
        // Somebody may have put a device there in between; its open has no effect with these flags.
        if (a.st_dev, a.st_ino) != (b.st_dev, b.st_ino) {
            return Err(io::Error::other("it was exchanged while it was opened"));
        }
        Ok(file)
    }

    fn open_with(&self, path: &Path, flags: OFlags, resolve: ResolveFlags) -> io::Result<OwnedFd> {
        let resolve = resolve | ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        for _ in 0..MAX_RETRIES {
            match rustix::fs::openat2(&self.dir, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => return Ok(other?),
            }
        }
        Err(Errno::AGAIN.into())
    }

    /// Finds a directory, making it and its parents where they are missing. Links are followed, also dangling ones.
    pub(crate) fn make_dir(&self, path: &Path) -> io::Result<OwnedFd> {
        self.make(path, MAX_LINKS, &mut |parent, name| {
            rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755))
        })
    }

    /// Finds a file, making an empty one and its parent directories where they are missing.
    pub(crate) fn make_file(&self, path: &Path) -> io::Result<OwnedFd> {
        self.make(path, MAX_LINKS, &mut |parent, name| {
            rustix::fs::mknodat(parent, name, FileType::RegularFile, Mode::from_raw_mode(0o644), 0)
        })
    }

    fn make(
        &self,
        path: &Path,
        links: usize,
        create: &mut dyn FnMut(BorrowedFd<'_>, &OsStr) -> rustix::io::Result<()>,
    ) -> io::Result<OwnedFd> {
        match self.find(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            other => return other,
        }
        let (parent, name) = self.make_parent(path)?;
        match create(parent.as_fd(), &name) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(e.into()),
        }
        match self.find(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound && links > 0 => {
                // There, and yet not found: a link to something that is missing. Make that.
                let target = rustix::fs::readlinkat(&parent, &name, Vec::new())?;
                let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
                let target = path.parent().unwrap_or(Path::new("/")).join(target);
                self.make(&target, links - 1, create)
            }
            other => other,
        }
    }

    /// The directory a name is in, made if it is missing, and the last part of the name.
    pub(crate) fn make_parent(&self, path: &Path) -> io::Result<(OwnedFd, OsString)> {
        let name = path.file_name().ok_or(Errno::INVAL)?.to_owned();
        let parent = path.parent().unwrap_or(Path::new("/"));
        if path.components().count() > 256 {
            return Err(Errno::NAMETOOLONG.into());
        }
        Ok((self.make_dir(parent)?, name))
    }

    /// Makes a symbolic link; one that is there already stays. Gives whether something else is in its place.
    pub(crate) fn make_link(&self, path: &Path, target: &str) -> io::Result<()> {
        let (parent, name) = self.make_parent(path)?;
        match rustix::fs::symlinkat(target, &parent, &name) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Makes a device node, or accepts the very same one that is there.
    pub(crate) fn make_device(&self, path: &Path, node: &Node) -> io::Result<()> {
        let (parent, name) = self.make_parent(path)?;
        match rustix::fs::mknodat(&parent, &name, node.kind, node.mode, node.device) {
            Ok(()) => {
                let owner = (rustix::fs::Uid::from_raw(node.uid), rustix::fs::Gid::from_raw(node.gid));
                if node.uid != 0 || node.gid != 0 {
                    let nofollow = AtFlags::SYMLINK_NOFOLLOW;
                    rustix::fs::chownat(&parent, &name, Some(owner.0), Some(owner.1), nofollow)?;
                }
                Ok(())
            }
            Err(Errno::EXIST) => {
                let there = rustix::fs::statat(&parent, &name, AtFlags::SYMLINK_NOFOLLOW)?;
                let same =
                    FileType::from_raw_mode(there.st_mode) == node.kind && there.st_rdev == node.device;
                if same { Ok(()) } else { Err(io::Error::other("something else is in the device's place")) }
            }
            Err(e) => Err(e.into()),
        }
    }
}

/// A device node to make.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) kind: FileType,
    pub(crate) device: u64,
    pub(crate) mode: Mode,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}
