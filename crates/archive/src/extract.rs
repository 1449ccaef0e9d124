//! Entries of a tar stream become files in a tree that somebody else may own.
//!
//! The stream is hostile, and so may be whoever runs in the tree while files are put into it. Every entry is made in a
//! parent directory that the kernel resolved beneath the root, by one name that is not followed; what is in its place
//! goes first and is never written to; metadata is set on the descriptor of what was just made. Directory times are
//! set at the end, only on the very inode that was made or found.

use std::ffi::OsStr;
use std::io::{self, BufRead, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, Stat, Timespec, Timestamps};
use wharf_linux::confined::{self, Directory, Handle, Metadata, Root, Special};
use wharf_linux::hostfs;
use wharf_linux::idmap::{Ids, Map};

use crate::tar::{Entry, Kind, Reader, TarError};

/// Directories whose times are remembered at most; bounds memory.
const MAX_DIRECTORIES: usize = 1_000_000;
/// Names made of more parts than any file system takes.
const MAX_DEPTH: usize = 2048;

/// Extracting failed; what was made so far stays.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The stream is damaged, or ends early.
    #[error(transparent)]
    Stream(#[from] TarError),
    /// An entry's name has a `..`. Docker's words.
    #[error("invalid entry name {0:?}")]
    Name(String),
    /// The stream has an entry that is not extracted.
    #[error("tar entry {name:?}: {reason}")]
    Entry {
        /// Its name.
        name: String,
        /// Why not.
        reason: String,
    },
    /// A link that points out of the destination. Docker's words.
    #[error("invalid symlink {path:?} -> {target:?}")]
    Link {
        /// The link.
        path: PathBuf,
        /// What it points at.
        target: String,
    },
    /// A directory is in the way of a file, or the other way round. Docker's words.
    #[error("cannot overwrite {existing} {path:?} with {new} {root:?}")]
    TypeChange {
        /// `directory` or `non-directory`.
        existing: &'static str,
        /// The other one.
        new: &'static str,
        /// What is in the way.
        path: PathBuf,
        /// Where the stream is extracted.
        root: PathBuf,
    },
    /// A file could not be made.
    #[error(transparent)]
    File(#[from] hostfs::Error),
}

/// Results of extracting.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Whom the files belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owners {
    /// Whom the stream says.
    Stream,
    /// Always the same.
    Fixed {
        /// User.
        uid: u32,
        /// Group.
        gid: u32,
    },
    /// Whoever extracts.
    Own,
}

/// How to extract.
#[derive(Debug, Clone)]
pub struct Options {
    /// Whom the files belong to.
    pub owners: Owners,
    /// Fail when a directory would replace something else, or something else a directory.
    pub keep_types: bool,
    /// Refuse relative links that point out of the tree by their text.
    pub refuse_outward_links: bool,
    /// What becomes of the names.
    pub names: Names,
    /// Owners are as a user namespace calls them.
    pub ids: Option<Ids>,
}

/// What becomes of the names in a stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Names {
    /// They stay as they are.
    #[default]
    Keep,
    /// The first part of each must be the one, and becomes the other.
    Rename(Vec<u8>, Vec<u8>),
    /// All come beneath a directory of this name, which the root of the stream is.
    Beneath(Vec<u8>),
}

impl Default for Options {
    fn default() -> Self {
        Self {
            owners: Owners::Stream,
            keep_types: false,
            refuse_outward_links: false,
            names: Names::Keep,
            ids: None,
        }
    }
}

/// Extracts all entries into the directory `base` of `root`; returns the bytes of the files made.
///
/// # Errors
/// As [`Error`] says.
pub fn extract<R: BufRead>(tar: &mut Reader<R>, root: &Root, base: &Path, options: &Options) -> Result<u64> {
    let mut extraction = Extraction { root, base, options, parent: None, times: Vec::new(), bytes: 0 };
    while let Some(entry) = tar.next_entry()? {
        extraction.entry(&entry, tar)?;
    }
    extraction.set_directory_times()?;
    Ok(extraction.bytes)
}

struct Extraction<'a> {
    root: &'a Root,
    base: &'a Path,
    options: &'a Options,
    /// The directory that the last entry went into.
    parent: Option<(PathBuf, Directory)>,
    times: Vec<(PathBuf, (u64, u64), Timestamps)>,
    bytes: u64,
}

impl Extraction<'_> {
    fn entry<R: BufRead>(&mut self, entry: &Entry, tar: &mut Reader<R>) -> Result<()> {
        let path = self.path_of(&entry.path, &entry.path)?;
        let Some(name) = path.file_name().map(OsStr::to_owned) else {
            // The destination itself: it is there, and whose it is was not asked.
            return Ok(());
        };
        self.make_way(&path, &name, entry)?;
        let (made, handle) = match &entry.kind {
            Kind::Directory => return self.directory(&path, &name, entry),
            Kind::File { size, pieces } => {
                let file = self.parent_of(&path)?.create(&name, 0o600)?;
                self.content(&path, &file, *size, pieces.as_deref(), tar)?;
                (file.into(), Handle::Opened)
            }
            Kind::HardLink(target) => return self.hard_link(&path, &name, target, &entry.path),
            Kind::Symlink(target) => {
                self.check_link(&path, target, &entry.path)?;
                (self.parent_of(&path)?.symlink(&name, OsStr::from_bytes(target))?, Handle::Link)
            }
            Kind::Fifo => (self.parent_of(&path)?.special(&name, Special::Fifo)?, Handle::Path),
            Kind::Character { major, minor } => {
                let special = Special::Character { major: *major, minor: *minor };
                (self.parent_of(&path)?.special(&name, special)?, Handle::Path)
            }
            Kind::Block { major, minor } => {
                let special = Special::Block { major: *major, minor: *minor };
                (self.parent_of(&path)?.special(&name, special)?, Handle::Path)
            }
        };
        self.finish(&made, handle, entry, &path)
    }

    /// Removes what is in the place of an entry, unless both are directories.
    fn make_way(&mut self, path: &Path, name: &OsStr, entry: &Entry) -> Result<()> {
        let Some(existing) = self.parent_of(path)?.stat(name)? else { return Ok(()) };
        let (is, becomes) = (is_directory(&existing), entry.kind == Kind::Directory);
        if is != becomes && self.options.keep_types {
            let word = |directory| if directory { "directory" } else { "non-directory" };
            return Err(Error::TypeChange {
                existing: word(is),
                new: word(becomes),
                path: path.to_owned(),
                root: Path::new("/").join(self.base.strip_prefix(".").unwrap_or(self.base)),
            });
        }
        if !(is && becomes) {
            self.parent_of(path)?.remove(name)?;
        }
        Ok(())
    }

    fn directory(&mut self, path: &Path, name: &OsStr, entry: &Entry) -> Result<()> {
        let parent = self.parent_of(path)?;
        let opened = match parent.make_directory(name, 0o700) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => parent.subdirectory(name)?,
            other => other?,
        };
        self.finish(&opened, Handle::Opened, entry, path)?;
        if self.times.len() >= MAX_DIRECTORIES {
            return Err(refused(&entry.path, "the archive has too many directories"));
        }
        let stat = rustix::fs::fstat(&opened).map_err(|error| hostfs::Error::new("stat", path, error))?;
        self.times.push((path.to_owned(), (stat.st_dev, stat.st_ino), timestamps(entry)));
        Ok(())
    }

    fn content<R: BufRead>(
        &mut self,
        path: &Path,
        mut file: &std::fs::File,
        size: u64,
        pieces: Option<&[(u64, u64)]>,
        tar: &mut Reader<R>,
    ) -> Result<()> {
        let failed = |error| hostfs::Error::new("write", path, error);
        if let Some(pieces) = pieces {
            file.set_len(size).map_err(failed)?;
            for (mut offset, mut length) in pieces.iter().copied() {
                while length > 0 {
                    let chunk = tar.chunk()?;
                    let taken = chunk.len().min(usize::try_from(length).unwrap_or(usize::MAX));
                    file.write_all_at(&chunk[..taken], offset).map_err(failed)?;
                    tar.advance(taken);
                    offset += taken as u64;
                    length -= taken as u64;
                }
            }
        } else {
            loop {
                let chunk = tar.chunk()?;
                if chunk.is_empty() {
                    break;
                }
                file.write_all(chunk).map_err(failed)?;
                let taken = chunk.len();
                tar.advance(taken);
            }
        }
        self.bytes = self.bytes.saturating_add(size);
        Ok(())
    }

    /// The entry's own metadata is that of the file it is another name for, and is left alone.
    fn hard_link(&mut self, path: &Path, name: &OsStr, target: &[u8], shown: &[u8]) -> Result<()> {
        let target = self.path_of(target, shown)?;
        let Some(old) = target.file_name() else { return Err(refused(shown, "a hard link to a directory")) };
        let from = self.root.directory(&self.base.join(target.parent().unwrap_or(Path::new(""))))?;
        match from.stat(old)? {
            None => return Err(refused(shown, "a hard link to what is not there")),
            Some(stat) if is_directory(&stat) => return Err(refused(shown, "a hard link to a directory")),
            Some(_) => {}
        }
        Ok(self.parent_of(path)?.link(name, &from, old)?)
    }

    fn check_link(&self, path: &Path, target: &[u8], shown: &[u8]) -> Result<()> {
        if target.is_empty() {
            return Err(refused(shown, "a link to nothing"));
        }
        if !self.options.refuse_outward_links || target.starts_with(b"/") {
            return Ok(());
        }
        let mut depth = path.components().count() as i64 - 1;
        for part in target.split(|byte| *byte == b'/') {
            match part {
                b"" | b"." => {}
                b".." => depth -= 1,
                _ => depth += 1,
            }
            if depth < 0 {
                let target = String::from_utf8_lossy(target).into_owned();
                return Err(Error::Link { path: path.to_owned(), target });
            }
        }
        Ok(())
    }

    /// A name of the stream as a path beneath the destination, renamed.
    fn path_of(&self, written: &[u8], shown: &[u8]) -> Result<PathBuf> {
        let mut parts: Vec<&[u8]> = Vec::new();
        for part in written.split(|byte| *byte == b'/') {
            match part {
                b"" | b"." => {}
                b".." => {
                    return Err(Error::Name(
                        String::from_utf8_lossy(&shown[..shown.len().min(200)]).into_owned(),
                    ));
                }
                part => parts.push(part),
            }
        }
        if parts.len() > MAX_DEPTH {
            return Err(refused(shown, "a name of too many parts"));
        }
        match &self.options.names {
            Names::Keep => {}
            Names::Beneath(directory) => parts.insert(0, directory),
            Names::Rename(from, to) => match parts.first_mut() {
                Some(first) if *first == from.as_slice() => *first = to,
                _ => {
                    let from = String::from_utf8_lossy(from).into_owned();
                    return Err(refused(shown, &format!("it is not beneath {from:?}, which was asked for")));
                }
            },
        }
        Ok(parts.iter().map(|part| OsStr::from_bytes(part)).collect())
    }

    /// The directory `path` goes into, made as far as it is missing.
    fn parent_of(&mut self, path: &Path) -> Result<&Directory> {
        let wanted = path.parent().unwrap_or(Path::new(""));
        if self.parent.as_ref().is_none_or(|(cached, _)| cached != wanted) {
            let directory = self.open_or_make(wanted)?;
            self.parent = Some((wanted.to_owned(), directory));
        }
        match &self.parent {
            Some((_, directory)) => Ok(directory),
            None => Err(refused(path.as_os_str().as_bytes(), "no parent directory")),
        }
    }

    fn open_or_make(&self, path: &Path) -> Result<Directory> {
        let open = |path: &Path| self.root.directory(&self.base.join(path));
        match open(path) {
            Err(error) if error.is_not_found() && path.parent().is_some() => {}
            other => return Ok(other?),
        }
        // From the first missing one on.
        let mut existing = path;
        let mut above = loop {
            let Some(parent) = existing.parent() else { return Ok(open(path)?) };
            existing = parent;
            match open(existing) {
                Err(error) if error.is_not_found() && existing.parent().is_some() => {}
                other => break other?,
            }
        };
        let mut so_far = existing.to_owned();
        for name in path.strip_prefix(existing).unwrap_or(Path::new("")) {
            so_far.push(name);
            match above.make_directory(name, 0o755) {
                Ok(made) => {
                    if let Owners::Fixed { uid, gid } = self.options.owners {
                        let (uid, gid) = self.outside(uid, gid, path.as_os_str().as_bytes())?;
                        let metadata = Metadata { uid, gid, mode: 0o755, times: None, xattrs: &[] };
                        confined::apply(made.as_fd(), Handle::Opened, &metadata)
                            .map_err(|error| hostfs::Error::new("set metadata of", &so_far, error))?;
                    }
                }
                // Somebody else made it just now, or a link that leads nowhere is in the way: the lookup tells.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error.into()),
            }
            above = open(&so_far)?;
        }
        Ok(above)
    }

    fn finish(&self, fd: &OwnedFd, handle: Handle, entry: &Entry, path: &Path) -> Result<()> {
        let failed = |error: io::Error| hostfs::Error::new("set metadata of", path, error);
        let (uid, gid) = match self.options.owners {
            Owners::Stream => self.outside(entry.uid, entry.gid, &entry.path)?,
            Owners::Fixed { uid, gid } => self.outside(uid, gid, &entry.path)?,
            Owners::Own => {
                let stat = rustix::fs::fstat(fd).map_err(|error| failed(error.into()))?;
                (stat.st_uid, stat.st_gid)
            }
        };
        // An attribute that carries rights is for whoever may give the file away, too.
        let xattrs = entry
            .xattrs
            .iter()
            .filter(|(name, _)| is_taken(name.to_bytes(), self.options.owners))
            .filter(|_| handle == Handle::Opened)
            .cloned()
            .collect::<Vec<_>>();
        let metadata =
            Metadata { uid, gid, mode: entry.mode, times: Some(timestamps(entry)), xattrs: &xattrs };
        Ok(confined::apply(fd.as_fd(), handle, &metadata).map_err(failed)?)
    }

    /// Who an owner is outside of the user namespace. Docker's words for one it has no place for.
    fn outside(&self, uid: u32, gid: u32, shown: &[u8]) -> Result<(u32, u32)> {
        let Some(ids) = &self.options.ids else { return Ok((uid, gid)) };
        let outside = |map: &Map, id: u32| {
            map.outside(id)
                .ok_or_else(|| refused(shown, &format!("Container ID {id} cannot be mapped to a host ID")))
        };
        Ok((outside(&ids.uids, uid)?, outside(&ids.gids, gid)?))
    }

    /// Directories get their times last, because each entry made in one changes them.
    fn set_directory_times(&self) -> Result<()> {
        for (path, inode, times) in &self.times {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
            // Gone, replaced, or now reached through another link: then these times are not for it.
            let Ok(opened) = self.root.open_at(&self.base.join(path), flags, Mode::empty()) else { continue };
            let Ok(stat) = rustix::fs::fstat(&opened) else { continue };
            if (stat.st_dev, stat.st_ino) == *inode {
                rustix::fs::futimens(&opened, times)
                    .map_err(|error| hostfs::Error::new("set the times of", path, error))?;
            }
        }
        Ok(())
    }
}

fn is_taken(name: &[u8], owners: Owners) -> bool {
    let plain = name.starts_with(b"user.") && !name.starts_with(b"user.overlay.");
    plain || (owners == Owners::Stream && name == b"security.capability")
}

fn refused(name: &[u8], reason: &str) -> Error {
    let name = String::from_utf8_lossy(&name[..name.len().min(200)]).into_owned();
    Error::Entry { name, reason: reason.to_owned() }
}

fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

fn timestamps(entry: &Entry) -> Timestamps {
    let time = Timespec { tv_sec: entry.mtime.0, tv_nsec: entry.mtime.1.into() };
    Timestamps { last_access: time, last_modification: time }
}
