//! A layer's tar stream becomes a directory that overlayfs can use.
//!
//! The stream is hostile. Every entry is made in a parent directory that the kernel resolved beneath the layer's root,
//! by one name that is not followed, and its metadata is set on the descriptor of what was just made
//! ([`wharf_linux::confined`]). Directory times are set at the end, only on the very inode that was recorded. Deletion
//! markers become overlayfs' own (a character device 0:0, an attribute), attributes that would steer overlayfs are
//! dropped. A layer is unpacked without its parents, so that layers can be unpacked in any order; what has to be taken
//! over from them is returned as [`Unpacked::implied`].

mod name;

use std::ffi::{CString, OsStr};
use std::io::{BufRead, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Stat, Timespec, Timestamps, XattrFlags};
use wharf_linux::confined::{self, Directory, Handle, Metadata, Root, Special};
use wharf_linux::hostfs;

use crate::limits::{Limits, Spent};
use crate::tar::{Entry, Kind, Reader, TarError};
use crate::{Error, Result};

pub(crate) use name::{Name, clean};

/// The mark of a directory that hides the lower layers' one.
const OPAQUE: &str = "trusted.overlay.opaque";
/// Directories whose times are remembered at most; bounds memory.
const MAX_DIRECTORIES: usize = 1_000_000;
/// Bytes of names remembered for directories at most: one entry can imply two thousand directories with names of four
/// kilobytes.
const MAX_REMEMBERED: usize = 64 << 20;

/// What is to be known of an unpacked directory.
#[derive(Debug)]
pub(crate) struct Unpacked {
    /// Directories that entries needed and the layer does not describe (the root is the empty path): their metadata is
    /// that of the layers below.
    pub(crate) implied: Vec<PathBuf>,
    /// Bytes of its files and links, each counted once.
    pub(crate) size: u64,
    /// It hides everything below it.
    pub(crate) opaque_root: bool,
}

/// Unpacks all entries of `reader` into the empty directory `target`. What follows the archive's end is not read.
pub(crate) fn unpack<R: BufRead>(reader: &mut Reader<R>, target: &Path, limits: &Limits) -> Result<Unpacked> {
    let root = Root::open(target)?;
    let mut unpacker = Unpacker {
        root,
        spent: Spent::new(limits),
        parent: None,
        times: Vec::new(),
        implied: std::iter::once(PathBuf::new()).collect(),
        remembered: 0,
        size: 0,
        opaque_root: false,
    };
    while let Some(entry) = reader.next_entry().map_err(broken)? {
        unpacker.entry(&entry, reader).map_err(|error| error.in_entry(&entry.path))?;
    }
    unpacker.set_directory_times()?;
    Ok(Unpacked {
        implied: unpacker.implied.into_iter().collect(),
        size: unpacker.size,
        opaque_root: unpacker.opaque_root,
    })
}

/// An error of the stream itself.
pub(crate) fn broken(error: TarError) -> Error {
    match error {
        TarError::Malformed { .. } => {
            Error::Archive { what: "invalid tar".to_owned(), reason: error.to_string() }
        }
        TarError::Read(error) => Error::input(error),
    }
}

struct Unpacker<'a> {
    root: Root,
    spent: Spent<'a>,
    /// The directory that the last entry went into: entries of one directory mostly follow each other.
    parent: Option<(PathBuf, Directory)>,
    times: Vec<DirectoryTimes>,
    implied: std::collections::BTreeSet<PathBuf>,
    /// Bytes of the names in `times` and `implied`.
    remembered: usize,
    size: u64,
    opaque_root: bool,
}

struct DirectoryTimes {
    path: Box<Path>,
    inode: (u64, u64),
    mtime: (i64, u32),
}

impl Unpacker<'_> {
    fn entry<R: BufRead>(&mut self, entry: &Entry, reader: &mut Reader<R>) -> Result<()> {
        self.spent.entry()?;
        match Name::parse(&entry.path).map_err(Error::entry)? {
            Name::Aufs => Ok(()),
            Name::Root => self.describe_root(entry),
            Name::Opaque(directory) => self.opaque(&directory),
            Name::Whiteout(path) => self.whiteout(&path),
            Name::Plain(path) => self.plain(&path, entry, reader),
        }
    }

    fn plain<R: BufRead>(&mut self, path: &Path, entry: &Entry, reader: &mut Reader<R>) -> Result<()> {
        let name = path.file_name().unwrap_or_default();
        match &entry.kind {
            Kind::Directory => self.directory(path, name, entry),
            Kind::File { size, pieces } => self.file(path, name, entry, *size, pieces.as_deref(), reader),
            Kind::HardLink(target) => self.hard_link(path, name, target),
            Kind::Symlink(target) => {
                if target.is_empty() {
                    return Err(Error::entry("a link to nothing"));
                }
                let link = self.place(path, |parent| parent.symlink(name, OsStr::from_bytes(target)))?;
                self.size += target.len() as u64;
                self.finish(&link, Handle::Link, entry)
            }
            Kind::Fifo => self.special(path, name, entry, Special::Fifo),
            Kind::Character { major, minor } => {
                self.special(path, name, entry, Special::Character { major: *major, minor: *minor })
            }
            Kind::Block { major, minor } => {
                self.special(path, name, entry, Special::Block { major: *major, minor: *minor })
            }
        }
    }

    fn special(&mut self, path: &Path, name: &OsStr, entry: &Entry, special: Special) -> Result<()> {
        let node = self.place(path, |parent| parent.special(name, special))?;
        self.finish(&node, Handle::Path, entry)
    }

    fn file<R: BufRead>(
        &mut self,
        path: &Path,
        name: &OsStr,
        entry: &Entry,
        size: u64,
        pieces: Option<&[(u64, u64)]>,
        reader: &mut Reader<R>,
    ) -> Result<()> {
        self.spent.file(size)?;
        let mut file = self.place(path, |parent| parent.create(name, 0o600))?;
        let failed = |error| Error::from(hostfs::Error::new("write", path, error));
        match pieces {
            None => loop {
                let chunk = reader.chunk().map_err(broken)?;
                if chunk.is_empty() {
                    break;
                }
                file.write_all(chunk).map_err(failed)?;
                let taken = chunk.len();
                reader.advance(taken);
            },
            Some(pieces) => {
                file.set_len(size).map_err(failed)?;
                for (offset, length) in pieces {
                    write_piece(&file, *offset, *length, reader, &failed)?;
                }
            }
        }
        self.size += size;
        self.finish(&file, Handle::Opened, entry)
    }

    fn directory(&mut self, path: &Path, name: &OsStr, entry: &Entry) -> Result<()> {
        let parent = self.parent_of(path)?;
        let opened = match parent.make_directory(name, 0o700) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                let existing = parent.stat(name)?;
                match existing.map(|stat| (is_directory(&stat), is_whiteout(&stat))) {
                    Some((true, _)) => parent.subdirectory(name)?,
                    // The whiteout is about the layers below: a directory that replaces theirs.
                    Some((false, true)) => {
                        let made = self.place(path, |parent| parent.make_directory(name, 0o700))?;
                        mark_opaque(&made)?;
                        made
                    }
                    _ => self.place(path, |parent| parent.make_directory(name, 0o700))?,
                }
            }
            other => other?,
        };
        self.finish(&opened, Handle::Opened, entry)?;
        self.remember_times(path, &opened, entry)?;
        self.implied.remove(path);
        Ok(())
    }

    /// The entry for the root: the directory is there and stays, whatever the entry says it is.
    fn describe_root(&mut self, entry: &Entry) -> Result<()> {
        if entry.kind != Kind::Directory {
            return Err(Error::entry("the root of a layer can only be a directory"));
        }
        let root = self.root.open_at(
            Path::new("."),
            rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY,
            rustix::fs::Mode::empty(),
        )?;
        self.finish(&root, Handle::Opened, entry)?;
        self.remember_times(Path::new("."), &root, entry)?;
        self.implied.remove(Path::new(""));
        Ok(())
    }

    fn hard_link(&mut self, path: &Path, name: &OsStr, target: &[u8]) -> Result<()> {
        let target = clean(target).map_err(Error::entry)?;
        let Some(old) = target.file_name() else {
            return Err(Error::entry("a hard link to the root"));
        };
        if target == path {
            return Err(Error::entry("a hard link to itself"));
        }
        let from = self.root.directory_same_mount(target.parent().unwrap_or(Path::new("")))?;
        match from.stat(old)? {
            None => return Err(Error::entry("a hard link to what is not in the archive before it")),
            Some(stat) if is_directory(&stat) => return Err(Error::entry("a hard link to a directory")),
            Some(stat) if is_whiteout(&stat) => return Err(Error::entry("a hard link to a whiteout")),
            Some(_) => {}
        }
        self.place(path, |parent| parent.link(name, &from, old))
    }

    /// Hides `path` of the layers below. Something of that name in this very layer stays and hides it anyway.
    fn whiteout(&mut self, path: &Path) -> Result<()> {
        let name = path.file_name().unwrap_or_default();
        let parent = self.parent_of(path)?;
        match parent.stat(name)? {
            None => {
                parent.special(name, Special::Character { major: 0, minor: 0 })?;
                Ok(())
            }
            Some(stat) if is_directory(&stat) => mark_opaque(&parent.subdirectory(name)?),
            Some(_) => Ok(()),
        }
    }

    fn opaque(&mut self, directory: &Path) -> Result<()> {
        if directory.as_os_str().is_empty() {
            // Overlayfs does not look for the mark on a layer's root: the snapshot leaves the lower layers out.
            self.opaque_root = true;
            return Ok(());
        }
        let parent = self.parent_of(directory)?;
        let name = directory.file_name().unwrap_or_default();
        match parent.make_directory(name, 0o755) {
            Ok(made) => {
                self.implied.insert(directory.to_owned());
                mark_opaque(&made)
            }
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                mark_opaque(&parent.subdirectory(name)?)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Makes an entry; what is in its place goes first, as a later entry of an archive replaces an earlier one.
    fn place<T>(&mut self, path: &Path, make: impl Fn(&Directory) -> hostfs::Result<T>) -> Result<T> {
        let parent = self.parent_of(path)?;
        match make(parent) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            other => return Ok(other?),
        }
        let name = path.file_name().unwrap_or_default();
        if let Some(stat) = parent.stat(name)? {
            if !is_directory(&stat) {
                if stat.st_nlink == 1 {
                    self.size = self.size.saturating_sub(u64::try_from(stat.st_size).unwrap_or(0));
                }
            } else if self.implied_beneath(path) {
                self.implied.retain(|implied| !implied.starts_with(path));
            }
        }
        let parent = self.parent_of(path)?;
        // The remembered parent stays right: what goes is beneath it.
        parent.remove(name)?;
        Ok(make(parent)?)
    }

    fn implied_beneath(&self, path: &Path) -> bool {
        self.implied.range(path.to_owned()..).next().is_some_and(|first| first.starts_with(path))
    }

    /// The directory `path` goes into, made as far as it is missing.
    fn parent_of(&mut self, path: &Path) -> Result<&Directory> {
        let wanted = path.parent().unwrap_or(Path::new(""));
        if self.parent.as_ref().is_none_or(|(cached, _)| cached != wanted) {
            let (implied, remembered) = (&mut self.implied, &mut self.remembered);
            let before = implied.len();
            let directory = self.root.create_directory_all(wanted, 0o755, &mut |made| {
                *remembered += made.as_os_str().len();
                implied.insert(made.to_owned());
            })?;
            for _ in before..implied.len() {
                self.spent.entry()?;
            }
            check_remembered(self.remembered)?;
            self.parent = Some((wanted.to_owned(), directory));
        }
        match &self.parent {
            Some((_, directory)) => Ok(directory),
            None => Err(Error::entry("no parent directory")),
        }
    }

    fn remember_times(&mut self, path: &Path, directory: &OwnedFd, entry: &Entry) -> Result<()> {
        if self.times.len() >= MAX_DIRECTORIES {
            return Err(Error::limit("the number of directories in a layer", MAX_DIRECTORIES as u64));
        }
        self.remembered += path.as_os_str().len();
        check_remembered(self.remembered)?;
        let stat = rustix::fs::fstat(directory).map_err(|error| hostfs::Error::new("stat", path, error))?;
        self.times.push(DirectoryTimes {
            path: path.into(),
            inode: (stat.st_dev, stat.st_ino),
            mtime: entry.mtime,
        });
        Ok(())
    }

    /// Directories get their times last, because each entry made in one changes them.
    fn set_directory_times(&self) -> Result<()> {
        use rustix::fs::{Mode, OFlags};
        for directory in &self.times {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
            // Gone, replaced, or now reached through another link: then these times are not for it.
            let Ok(opened) = self.root.open_at(&directory.path, flags, Mode::empty()) else { continue };
            let Ok(stat) = rustix::fs::fstat(&opened) else { continue };
            if (stat.st_dev, stat.st_ino) == directory.inode {
                rustix::fs::futimens(&opened, &timestamps(directory.mtime))
                    .map_err(|error| hostfs::Error::new("set the times of", &directory.path, error))?;
            }
        }
        Ok(())
    }

    fn finish(&self, fd: &impl AsFd, handle: Handle, entry: &Entry) -> Result<()> {
        let kept: Vec<(CString, Vec<u8>)>;
        let xattrs = if entry.xattrs.is_empty() {
            &[][..]
        } else {
            kept = entry
                .xattrs
                .iter()
                .filter(|(name, _)| is_kept(name, handle == Handle::Opened))
                .cloned()
                .collect();
            &kept
        };
        let metadata = Metadata {
            uid: entry.uid,
            gid: entry.gid,
            mode: entry.mode,
            times: Some(timestamps(entry.mtime)),
            xattrs,
        };
        confined::apply(fd.as_fd(), handle, &metadata).map_err(|error| {
            hostfs::Error::new("set metadata of", Path::new(OsStr::from_bytes(&entry.path)), error).into()
        })
    }
}

fn check_remembered(bytes: usize) -> Result<()> {
    if bytes > MAX_REMEMBERED {
        return Err(Error::limit("the length of the names of directories in a layer", MAX_REMEMBERED as u64));
    }
    Ok(())
}

fn write_piece<R: BufRead>(
    file: &std::fs::File,
    mut offset: u64,
    mut length: u64,
    reader: &mut Reader<R>,
    failed: &impl Fn(std::io::Error) -> Error,
) -> Result<()> {
    while length > 0 {
        let chunk = reader.chunk().map_err(broken)?;
        let taken = chunk.len().min(usize::try_from(length).unwrap_or(usize::MAX));
        file.write_all_at(&chunk[..taken], offset).map_err(failed)?;
        reader.advance(taken);
        offset += taken as u64;
        length -= taken as u64;
    }
    Ok(())
}

/// Whether an attribute of an image may be set. What steers overlayfs or belongs to the host's security policy is not
/// an image's to decide. `opened`: it is for a file or a directory.
pub(crate) fn is_kept(name: &CString, opened: bool) -> bool {
    let name = name.to_bytes();
    let kept = name == b"security.capability"
        || (name.starts_with(b"user.") && !name.starts_with(b"user.overlay."))
        || (name.starts_with(b"trusted.") && !name.starts_with(b"trusted.overlay."))
        || name == b"system.posix_acl_access"
        || name == b"system.posix_acl_default";
    // The kernel allows these on files and directories only.
    kept && (opened || name.starts_with(b"trusted."))
}

fn mark_opaque(directory: &OwnedFd) -> Result<()> {
    rustix::fs::fsetxattr(directory, OPAQUE, b"y", XattrFlags::empty()).map_err(|error| {
        let reason = format!("{error}; the data root needs a file system with extended attributes");
        hostfs::Error::new("mark a directory opaque in", Path::new("layer"), std::io::Error::other(reason))
            .into()
    })
}

fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

fn timestamps((seconds, nanoseconds): (i64, u32)) -> Timestamps {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() };
    Timestamps { last_access: time, last_modification: time }
}
