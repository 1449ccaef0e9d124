//! Files that a container, an image or a build context owns, reached only by descriptor beneath a root.
//!
//! Every lookup goes through `openat2(2)` with `RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS`: the kernel resolves links as
//! a process chrooted to the root would, whatever the tree's owner swaps in meanwhile. New entries are made in an
//! opened parent directory by one name that is not followed, and their metadata is set on the descriptor of the entry
//! itself. A special file is never opened: see [`Root::read_file`].
//!
//! `openat2` is in every kernel since 5.6. Where it is missing or forbidden, calls fail with `ENOSYS`; a component by
//! component walk with `O_NOFOLLOW` would be the way to add such hosts.

use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    AtFlags, Dev, FileType, Gid, Mode, OFlags, RawMode, ResolveFlags, Stat, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

use crate::hostfs::{self, Context, Error, Result};

/// Lookups that meet a concurrent rename are tried this often.
const ATTEMPTS: usize = 128;

/// A directory out of which nothing leads.
#[derive(Debug)]
pub struct Root {
    fd: OwnedFd,
    /// Where it was opened, for messages only.
    path: PathBuf,
    /// What lookups refuse besides.
    refused: ResolveFlags,
}

impl Root {
    /// Takes a directory of the engine's own as root.
    pub fn open(path: &Path) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(rustix::fs::CWD, path, flags, Mode::empty())
            .context("open directory", path)?;
        Ok(Self::from_fd(fd, path))
    }

    /// Takes an opened directory as root; `path` is for messages.
    #[must_use]
    pub fn from_fd(fd: OwnedFd, path: &Path) -> Self {
        Self { fd, path: path.to_owned(), refused: ResolveFlags::empty() }
    }

    /// The same root, in which no lookup goes through a symbolic link.
    #[must_use]
    pub fn without_links(mut self) -> Self {
        self.refused = ResolveFlags::NO_SYMLINKS;
        self
    }

    /// Opens a path as a process whose root this is would.
    pub fn open_at(&self, path: &Path, flags: OFlags, mode: Mode) -> Result<OwnedFd> {
        self.resolve(path, flags, mode, ResolveFlags::empty())
            .map_err(|error| self.error("open", path, error))
    }

    /// A handle to a directory, for calls relative to it.
    pub fn directory(&self, path: &Path) -> Result<Directory> {
        let fd = self.open_at(path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?;
        Ok(Directory { fd })
    }

    /// Like [`Root::directory`], never across a mount.
    pub fn directory_same_mount(&self, path: &Path) -> Result<Directory> {
        self.resolve(path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty(), ResolveFlags::NO_XDEV)
            .map(|fd| Directory { fd })
            .map_err(|error| self.error("open directory", path, error))
    }

    /// A handle to a directory, which is made with those above it as far as they are missing, with `mode`. `made` is
    /// called with each path that was made, outermost first.
    pub fn create_directory_all(
        &self,
        path: &Path,
        mode: u32,
        made: &mut dyn FnMut(&Path),
    ) -> Result<Directory> {
        let path = path.strip_prefix("/").unwrap_or(path);
        match self.directory_same_mount(path) {
            Err(error) if error.is_not_found() && !path.as_os_str().is_empty() => {}
            other => return other,
        }
        // Upwards to what there is, then down by single names: a path has two thousand of them.
        let mut there = path;
        let mut directory = loop {
            there = there.parent().unwrap_or(Path::new(""));
            match self.directory_same_mount(there) {
                Err(error) if error.is_not_found() && !there.as_os_str().is_empty() => {}
                other => break other?,
            }
        };
        let mut so_far = there.to_owned();
        for component in path.strip_prefix(there).unwrap_or(path).components() {
            let Component::Normal(name) = component else {
                match component {
                    Component::RootDir | Component::CurDir => continue,
                    _ => return Err(self.error("create directory", path, Errno::INVAL)),
                }
            };
            so_far.push(name);
            directory = match rustix::fs::mkdirat(&directory.fd, name, Mode::from_raw_mode(mode)) {
                Ok(()) => {
                    made(&so_far);
                    Directory { fd: directory.subdirectory(name)? }
                }
                // Someone else made it, or a link that leads nowhere is in the way: the lookup tells.
                Err(Errno::EXIST) => self.directory_same_mount(&so_far)?,
                Err(error) => return Err(self.error("create directory", &so_far, error)),
            };
        }
        Ok(directory)
    }

    /// What a regular file holds. Anything else (a FIFO, a device, a socket) is refused without being opened, a file
    /// of more than `max` bytes with the error kind `FileTooLarge`.
    pub fn read_file(&self, path: &Path, max: u64) -> Result<Vec<u8>> {
        let file = self.open_regular(path)?;
        hostfs::bounded(file, max).map_err(|error| self.error("read", path, error))
    }

    /// Opens a regular file for reading; anything else is refused without being opened.
    pub fn open_regular(&self, path: &Path) -> Result<File> {
        let handle = self.open_at(path, OFlags::PATH, Mode::empty())?;
        let stat = rustix::fs::fstat(&handle).map_err(|error| self.error("stat", path, error))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            let reason = io::Error::new(io::ErrorKind::InvalidInput, "not a regular file");
            return Err(self.error("open", path, reason));
        }
        // The handle is pinned to the inode just looked at; its procfs link opens that and nothing else.
        let link = format!("/proc/self/fd/{}", handle.as_raw_fd());
        rustix::fs::openat(rustix::fs::CWD, link, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map(File::from)
            .map_err(|error| self.error("open", path, error))
    }

    /// The root itself, for calls on the opened directory.
    #[must_use]
    pub fn as_directory(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    fn resolve(
        &self,
        path: &Path,
        flags: OFlags,
        mode: Mode,
        extra: ResolveFlags,
    ) -> std::result::Result<OwnedFd, Errno> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | self.refused | extra;
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        for _ in 0..ATTEMPTS {
            match rustix::fs::openat2(&self.fd, path, flags | OFlags::CLOEXEC, mode, resolve) {
                // A rename somewhere kept the kernel from being sure; it is safe to ask again.
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => return other,
            }
        }
        Err(Errno::AGAIN)
    }

    fn error(&self, op: &'static str, path: &Path, source: impl Into<io::Error>) -> Error {
        let inside = path.strip_prefix("/").unwrap_or(path);
        Error::new(op, &self.path.join(inside), source)
    }
}

/// A handle to what is at `path` in `base`. A name or link that leads out is an error (`EXDEV`), whatever the tree's
/// owner swaps in meanwhile; unlike with [`Root`], a link's absolute target is outside.
pub fn open_beneath(base: impl AsFd, path: &Path) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    for _ in 0..ATTEMPTS {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        match rustix::fs::openat2(base.as_fd(), path, flags, Mode::empty(), resolve) {
            // A rename somewhere kept the kernel from being sure; it is safe to ask again.
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
    Err(Errno::AGAIN.into())
}

/// An opened directory in which entries are made and removed by one name, which is never followed.
#[derive(Debug)]
pub struct Directory {
    fd: OwnedFd,
}

/// Something that can be made by `mknod`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Special {
    /// A named pipe.
    Fifo,
    /// A character device.
    Character {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    Block {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
}

impl Directory {
    /// Makes a regular file that must not be there yet and opens it for writing.
    pub fn create(&self, name: &OsStr, mode: u32) -> Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.fd, component(name)?, flags, Mode::from_raw_mode(mode))
            .context("create", Path::new(name))?;
        Ok(File::from(fd))
    }

    /// Makes a directory that must not be there yet and opens it.
    pub fn make_directory(&self, name: &OsStr, mode: u32) -> Result<OwnedFd> {
        rustix::fs::mkdirat(&self.fd, component(name)?, Mode::from_raw_mode(mode))
            .context("create directory", Path::new(name))?;
        self.subdirectory(name)
    }

    /// Opens a directory in this one.
    pub fn subdirectory(&self, name: &OsStr) -> Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&self.fd, component(name)?, flags, Mode::empty())
            .context("open directory", Path::new(name))
    }

    /// Makes a symbolic link and returns a handle to the link itself.
    pub fn symlink(&self, name: &OsStr, target: &OsStr) -> Result<OwnedFd> {
        rustix::fs::symlinkat(target, &self.fd, component(name)?).context("create link", Path::new(name))?;
        self.handle(name, FileType::Symlink)
    }

    /// Makes a FIFO or device node and returns a handle to it that does not open the device.
    pub fn special(&self, name: &OsStr, special: Special) -> Result<OwnedFd> {
        let (kind, device): (_, Dev) = match special {
            Special::Fifo => (FileType::Fifo, 0),
            Special::Character { major, minor } => {
                (FileType::CharacterDevice, rustix::fs::makedev(major, minor))
            }
            Special::Block { major, minor } => (FileType::BlockDevice, rustix::fs::makedev(major, minor)),
        };
        rustix::fs::mknodat(&self.fd, component(name)?, kind, Mode::from_raw_mode(0o600), device)
            .context("create node", Path::new(name))?;
        self.handle(name, kind)
    }

    /// Makes another name for an entry of `from`, which is not followed if it is a link.
    pub fn link(&self, name: &OsStr, from: &Self, old: &OsStr) -> Result<()> {
        rustix::fs::linkat(&from.fd, component(old)?, &self.fd, component(name)?, AtFlags::empty())
            .context("create hard link", Path::new(name))
    }

    /// What an entry is, or `None` if there is none; a link counts as itself.
    pub fn stat(&self, name: &OsStr) -> Result<Option<Stat>> {
        match rustix::fs::statat(&self.fd, component(name)?, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error).context("stat", Path::new(name)),
        }
    }

    /// Removes an entry, with everything in it if it is a directory (see [`crate::tree`]).
    pub fn remove(&self, name: &OsStr) -> Result<()> {
        crate::tree::remove(self.fd.as_fd(), component(name)?)
    }

    /// A handle to an entry that was just made, of the type it was made with.
    fn handle(&self, name: &OsStr, kind: FileType) -> Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.fd, name, flags, Mode::empty()).context("open", Path::new(name))?;
        let stat = rustix::fs::fstat(&fd).context("stat", Path::new(name))?;
        if FileType::from_raw_mode(stat.st_mode) != kind {
            let reason = io::Error::new(io::ErrorKind::InvalidData, "replaced while it was made");
            return Err(Error::new("open", Path::new(name), reason));
        }
        Ok(fd)
    }
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// One name: not empty, no slash, neither `.` nor `..`.
fn component(name: &OsStr) -> Result<&OsStr> {
    let bytes = name.as_bytes();
    if bytes.is_empty() || bytes == b"." || bytes == b".." || bytes.contains(&b'/') || bytes.contains(&0) {
        let reason = io::Error::new(io::ErrorKind::InvalidInput, "not a file name");
        return Err(Error::new("open", Path::new(name), reason));
    }
    Ok(name)
}

/// Metadata of an entry, set through its descriptor.
#[derive(Debug, Clone)]
pub struct Metadata<'a> {
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permission bits with set-id and sticky bits.
    pub mode: u32,
    /// Access and modification time.
    pub times: Option<Timestamps>,
    /// Extended attributes.
    pub xattrs: &'a [(CString, Vec<u8>)],
}

/// How the descriptor given to [`apply`] was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handle {
    /// For reading or writing.
    Opened,
    /// With `O_PATH`.
    Path,
    /// With `O_PATH`, and it is a link, which has no permission bits.
    Link,
}

/// Sets owner, mode, attributes and times of the file a descriptor refers to, in the order that keeps set-id bits and
/// file capabilities.
pub fn apply(fd: BorrowedFd<'_>, handle: Handle, metadata: &Metadata<'_>) -> io::Result<()> {
    let owner = (Some(Uid::from_raw(metadata.uid)), Some(Gid::from_raw(metadata.gid)));
    let mode = Mode::from_raw_mode(metadata.mode as RawMode & 0o7777);
    match handle {
        Handle::Opened => {
            rustix::fs::fchown(fd, owner.0, owner.1)?;
            rustix::fs::fchmod(fd, mode)?;
            for (name, value) in metadata.xattrs {
                let set = rustix::fs::fsetxattr(fd, &**name, value, XattrFlags::empty());
                tolerate_unsupported(name, set)?;
            }
            if let Some(times) = &metadata.times {
                rustix::fs::futimens(fd, times)?;
            }
        }
        Handle::Path | Handle::Link => {
            rustix::fs::chownat(fd, c"", owner.0, owner.1, AtFlags::EMPTY_PATH)?;
            // The procfs link of the descriptor: the one way to these calls with O_PATH before Linux 6.6 and 6.13.
            let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
            if handle == Handle::Path {
                rustix::fs::chmodat(rustix::fs::CWD, &*link, mode, AtFlags::empty())?;
            }
            for (name, value) in metadata.xattrs {
                let set = rustix::fs::setxattr(&*link, &**name, value, XattrFlags::empty());
                tolerate_unsupported(name, set)?;
            }
            if let Some(times) = &metadata.times {
                rustix::fs::utimensat(fd, c"", times, AtFlags::EMPTY_PATH)?;
            }
        }
    }
    Ok(())
}

/// A file system without user attributes keeps the file without them, as Docker does; those that carry rights or
/// steer a file system must not get lost.
fn tolerate_unsupported(name: &CStr, set: std::result::Result<(), Errno>) -> io::Result<()> {
    match set {
        Err(Errno::NOTSUP) if name.to_bytes().starts_with(b"user.") => Ok(()),
        other => Ok(other?),
    }
}
