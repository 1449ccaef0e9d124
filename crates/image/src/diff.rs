//! What a container changed: the difference between its writable directory and its image, listed or as a layer.
//!
//! The writable directory belongs to the container, which may run: it is reached by descriptor only, and entries that
//! race away are left out. It is self-contained, because we mount overlays without redirects and without split
//! metadata; should a kernel's defaults have made either, that is an error and never a broken layer.
//!
//! Directories above a change come before it and are changes themselves, as with Docker; a directory's times alone are
//! none. What the engine put there as places for its mounts is none either, as long as it is as empty as we made it.

use std::collections::HashSet;
use std::ffi::{CStr, CString, OsStr};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use wharf_archive::pack::{self, Packer, joined};
use wharf_linux::hostfs;

use crate::pipe::{CHUNK, Sink};
use crate::{Error, Images, Result, SnapshotMounts};

/// Directories in directories; each costs two descriptors while it is looked at.
const DEEPEST: usize = 1000;

/// Where the engine makes empty files and directories to mount on.
const MOUNT_POINTS: &[&[u8]] = &[
    b".dockerenv",
    b"dev",
    b"dev/console",
    b"dev/mqueue",
    b"dev/pts",
    b"dev/shm",
    b"etc",
    b"etc/hostname",
    b"etc/hosts",
    b"etc/resolv.conf",
    b"proc",
    b"sys",
];

/// What happened to a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// It is another, or something in it is.
    Modified,
    /// The image does not have it.
    Added,
    /// Only the image has it.
    Deleted,
}

/// One difference between a container and its image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Absolute path; bytes, as the kernel has them.
    pub path: Vec<u8>,
    /// What happened.
    pub kind: ChangeKind,
}

impl Images {
    /// What differs between a snapshot and its image, parents before what is in them.
    ///
    /// # Errors
    /// [`Error::NoSnapshot`], or [`Error::Store`] when it cannot be read.
    pub fn changes(&self, key: &str) -> Result<Vec<Change>> {
        let mut listing = Listing(Vec::new());
        walk(&self.snapshot(key)?, &mut listing)?;
        Ok(listing.0)
    }
}

/// Writes a snapshot's difference to its image as the tar stream of a layer; false if there is none.
pub(crate) fn write_layer<W: Write>(mounts: &SnapshotMounts, out: W) -> Result<(W, bool)> {
    let mut layer = Layer { packer: Packer::new(out, pack::Holes::Keep), entries: 0 };
    walk(mounts, &mut layer)?;
    let changed = layer.entries > 0;
    Ok((layer.packer.finish()?, changed))
}

/// Who hears of changes.
trait Visitor {
    /// Files the image has, too, and that look the same, are of interest.
    const UNCHANGED_FILES: bool;

    /// A directory is added, or is another. It comes before what is in it.
    fn directory(&mut self, kind: ChangeKind, directory: &OwnedFd, path: &[u8]) -> Result<()>;
    /// Anything else than a directory.
    fn file(&mut self, kind: ChangeKind, directory: BorrowedFd<'_>, name: &CStr, path: &[u8]) -> Result<()>;
    /// The image's file is gone.
    fn deleted(&mut self, path: &[u8]) -> Result<()>;
    /// The image's directory `path` is gone, and another is in its place. True if its entries need not be compared.
    fn replaced(&mut self, path: &[u8], missing: &[CString]) -> Result<bool>;
}

struct Listing(Vec<Change>);

impl Listing {
    fn push(&mut self, kind: ChangeKind, path: &[u8]) {
        if !path.is_empty() {
            self.0.push(Change { path: [b"/", path].concat(), kind });
        }
    }
}

impl Visitor for Listing {
    const UNCHANGED_FILES: bool = false;

    fn directory(&mut self, kind: ChangeKind, _: &OwnedFd, path: &[u8]) -> Result<()> {
        self.push(kind, path);
        Ok(())
    }

    fn file(&mut self, kind: ChangeKind, _: BorrowedFd<'_>, _: &CStr, path: &[u8]) -> Result<()> {
        self.push(kind, path);
        Ok(())
    }

    fn deleted(&mut self, path: &[u8]) -> Result<()> {
        self.push(ChangeKind::Deleted, path);
        Ok(())
    }

    fn replaced(&mut self, path: &[u8], missing: &[CString]) -> Result<bool> {
        missing.iter().for_each(|name| self.push(ChangeKind::Deleted, &joined(path, name.to_bytes())));
        Ok(false)
    }
}

struct Layer<W> {
    packer: Packer<W>,
    entries: u64,
}

impl<W: Write> Visitor for Layer<W> {
    // A file may be rewritten and get its old size and times back.
    const UNCHANGED_FILES: bool = true;

    fn directory(&mut self, _: ChangeKind, directory: &OwnedFd, path: &[u8]) -> Result<()> {
        self.entries += 1;
        let path = if path.is_empty() { b"./" } else { path };
        self.packer.opened(directory, path)?;
        Ok(())
    }

    fn file(&mut self, _: ChangeKind, directory: BorrowedFd<'_>, name: &CStr, path: &[u8]) -> Result<()> {
        self.entries += 1;
        self.packer.entry(directory, OsStr::from_bytes(name.to_bytes()), path)?;
        Ok(())
    }

    fn deleted(&mut self, path: &[u8]) -> Result<()> {
        self.entries += 1;
        let (parent, name) = split(path);
        Ok(self.packer.mark(&joined(parent, &[b".wh.", name].concat()))?)
    }

    fn replaced(&mut self, path: &[u8], _: &[CString]) -> Result<bool> {
        self.entries += 1;
        self.packer.mark(&joined(path, b".wh..wh..opq"))?;
        Ok(true)
    }
}

/// A directory of the snapshot that is being compared.
struct Level {
    upper: OwnedFd,
    /// The image's directory of that name.
    lower: Option<OwnedFd>,
    path: Vec<u8>,
    /// What is left of it, last first.
    names: Vec<CString>,
    kind: ChangeKind,
    /// The visitor knows of it.
    announced: bool,
}

struct Walk<'a, V> {
    visitor: &'a mut V,
    stack: Vec<Level>,
}

fn walk<V: Visitor>(mounts: &SnapshotMounts, visitor: &mut V) -> Result<()> {
    let upper = hostfs::open_dir(&mounts.base.join(&mounts.upper))?;
    let image = mounts.image_tree()?;
    let lower = open_directory(image.as_fd(), c".").map_err(|error| failed("open", b"", error))?;
    let differs = match (rustix::fs::fstat(&upper), rustix::fs::fstat(&lower)) {
        (Ok(upper), Ok(lower)) => metadata(&upper) != metadata(&lower),
        (upper, lower) => return Err(failed("stat", b"", upper.and(lower).err().unwrap_or(Errno::IO))),
    };
    let mut walk = Walk { visitor, stack: Vec::new() };
    walk.push(upper, Some(lower), Vec::new(), ChangeKind::Modified)?;
    if differs {
        walk.announce()?;
    } else if let Some(root) = walk.stack.last_mut() {
        // Docker never lists the root, and a layer needs it only to say that it is another.
        root.announced = true;
    }
    while let Some(level) = walk.stack.last_mut() {
        match level.names.pop() {
            Some(name) => walk.visit(&name)?,
            None => drop(walk.stack.pop()),
        }
    }
    Ok(())
}

impl<V: Visitor> Walk<'_, V> {
    fn visit(&mut self, name: &CStr) -> Result<()> {
        let Some(level) = self.stack.last() else { return Ok(()) };
        let path = joined(&level.path, name.to_bytes());
        let find = |directory: &OwnedFd| {
            pack::stat(directory.as_fd(), name).map_err(|error| failed("stat", &path, error))
        };
        let Some(upper) = find(&level.upper)? else { return Ok(()) };
        let lower = level.lower.as_ref().map(find).transpose()?.flatten();
        if is_whiteout(&upper) {
            if lower.is_some() {
                self.announce()?;
                self.visitor.deleted(&path)?;
            }
            return Ok(());
        }
        if name.to_bytes().starts_with(b".wh.") {
            tracing::warn!(path = %String::from_utf8_lossy(&path), "a file whose name means a deletion in layers is left out");
            return Ok(());
        }
        if is_directory(&upper) {
            return self.directory(name, path, &upper, lower.as_ref());
        }
        let kind = if lower.is_some() { ChangeKind::Modified } else { ChangeKind::Added };
        let is_mount_point = lower.is_none()
            && upper.st_size == 0
            && FileType::from_raw_mode(upper.st_mode) == FileType::RegularFile
            && MOUNT_POINTS.contains(&path.as_slice());
        let same = lower.is_some_and(|lower| is_same_file(&upper, &lower));
        if is_mount_point || (same && !V::UNCHANGED_FILES) {
            return Ok(());
        }
        if FileType::from_raw_mode(upper.st_mode) == FileType::RegularFile {
            self.refuse_borrowed(name, &path, c"trusted.overlay.metacopy")?;
        }
        self.announce()?;
        let Some(level) = self.stack.last() else { return Ok(()) };
        self.visitor.file(kind, level.upper.as_fd(), name, &path)
    }

    fn directory(&mut self, name: &CStr, path: Vec<u8>, upper: &Stat, lower: Option<&Stat>) -> Result<()> {
        if self.stack.len() >= DEEPEST {
            return Err(failed("compare directory", &path, Errno::LOOP));
        }
        self.refuse_borrowed(name, &path, c"trusted.overlay.redirect")?;
        let Some(level) = self.stack.last() else { return Ok(()) };
        let opened = match open_directory(level.upper.as_fd(), name) {
            Ok(opened) => opened,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
            Err(error) => return Err(failed("open directory", &path, error)),
        };
        let below = match (&level.lower, lower) {
            (Some(directory), Some(stat)) if is_directory(stat) => Some(
                open_directory(directory.as_fd(), name)
                    .map_err(|error| failed("open directory", &path, error))?,
            ),
            _ => None,
        };
        let kind = if lower.is_some() { ChangeKind::Modified } else { ChangeKind::Added };
        let opaque = is_opaque(&opened);
        let same = match (lower, &below) {
            (Some(lower), Some(_)) => metadata(upper) == metadata(lower) && !opaque,
            // Nothing of its own: it is there to be mounted on, or for what is.
            (None, None) => MOUNT_POINTS.contains(&path.as_slice()),
            _ => false,
        };
        self.push(opened, below, path, kind)?;
        if !same {
            self.announce()?;
        }
        if opaque {
            self.replaced()?;
        }
        Ok(())
    }

    /// The directory just pushed hides the image's.
    fn replaced(&mut self) -> Result<()> {
        let Some(level) = self.stack.last_mut() else { return Ok(()) };
        let Some(lower) = &level.lower else { return Ok(()) };
        let there: HashSet<&CStr> = level.names.iter().map(CString::as_c_str).collect();
        let mut missing =
            pack::names(lower.as_fd()).map_err(|error| failed("read directory", &level.path, error))?;
        missing.retain(|name| !there.contains(name.as_c_str()));
        missing.sort_unstable();
        if self.visitor.replaced(&level.path, &missing)? {
            level.lower = None;
        }
        Ok(())
    }

    fn push(
        &mut self,
        upper: OwnedFd,
        lower: Option<OwnedFd>,
        path: Vec<u8>,
        kind: ChangeKind,
    ) -> Result<()> {
        let mut names = pack::names(upper.as_fd()).map_err(|error| failed("read directory", &path, error))?;
        names.sort_unstable_by(|a, b| b.cmp(a));
        self.stack.push(Level { upper, lower, path, names, kind, announced: false });
        Ok(())
    }

    /// Tells the visitor of the directories above what comes now.
    fn announce(&mut self) -> Result<()> {
        for level in self.stack.iter_mut().filter(|level| !level.announced) {
            level.announced = true;
            self.visitor.directory(level.kind, &level.upper, &level.path)?;
        }
        Ok(())
    }

    /// Refuses what has a part of it in another place of the image.
    fn refuse_borrowed(&self, name: &CStr, path: &[u8], attribute: &CStr) -> Result<()> {
        let Some(level) = self.stack.last() else { return Ok(()) };
        let Ok(handle) = pack::handle(level.upper.as_fd(), OsStr::from_bytes(name.to_bytes())) else {
            return Ok(());
        };
        let link = format!("/proc/self/fd/{}", handle.as_raw_fd());
        match rustix::fs::getxattr(&*link, attribute, &mut [0_u8; 0][..]) {
            Err(_) => Ok(()),
            Ok(_) => Err(Error::Invalid(format!(
                "cannot take the changes of /{}: the kernel keeps it as a reference into the image ({}); \
                 switch the overlay module's redirect_dir and metacopy off",
                String::from_utf8_lossy(path),
                attribute.to_string_lossy(),
            ))),
        }
    }
}

/// The writing end of a [`crate::pipe::pipe`] as a [`Write`].
pub(crate) struct PipeWriter {
    sink: Sink,
    chunk: Vec<u8>,
}

impl PipeWriter {
    pub(crate) fn new(sink: Sink) -> Self {
        Self { sink, chunk: Vec::with_capacity(CHUNK) }
    }

    /// All bytes were written.
    pub(crate) fn end(mut self) -> io::Result<()> {
        self.flush()?;
        self.sink.end();
        Ok(())
    }
}

impl Write for PipeWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(CHUNK - self.chunk.len());
        self.chunk.extend_from_slice(&bytes[..taken]);
        if self.chunk.len() == CHUNK {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::replace(&mut self.chunk, Vec::with_capacity(CHUNK));
        match self.sink.send(Arc::new(chunk)) {
            true => Ok(()),
            // The reader's own error tells why it left.
            false => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }
}

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&[], path),
    }
}

fn open_directory(directory: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(directory, name, flags, Mode::empty())
}

fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

fn is_opaque(directory: &OwnedFd) -> bool {
    let mut value = [0_u8; 2];
    let length = rustix::fs::fgetxattr(directory, c"trusted.overlay.opaque", &mut value[..]);
    length.is_ok_and(|length| &value[..length] == b"y")
}

/// What makes a directory another.
fn metadata(stat: &Stat) -> (u32, u32, u32) {
    (stat.st_mode, stat.st_uid, stat.st_gid)
}

fn is_same_file(a: &Stat, b: &Stat) -> bool {
    metadata(a) == metadata(b)
        && (a.st_rdev, a.st_size, a.st_mtime, a.st_mtime_nsec)
            == (b.st_rdev, b.st_size, b.st_mtime, b.st_mtime_nsec)
}

fn failed(op: &'static str, path: &[u8], error: Errno) -> Error {
    hostfs::Error::new(op, &Path::new("/").join(OsStr::from_bytes(path)), error).into()
}
