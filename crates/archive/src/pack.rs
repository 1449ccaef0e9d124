//! Files become entries of a tar stream.
//!
//! Whoever owns the tree may change it meanwhile. Each file is pinned by a handle that opens nothing, looked at through
//! it, and only what is then known to be a regular file or a directory is opened. Files that vanish are left out; one
//! that shrinks is filled with zeros, one that grows is cut at the size its header has. Sockets are left out, as Docker
//! does; FIFOs and devices are described and never opened.
//!
//! Entries of a directory come in the order of their bytes, so that the same tree gives the same stream.

use std::collections::HashMap;
use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, ResolveFlags, Stat};
use rustix::io::Errno;
use wharf_linux::hostfs;
use wharf_linux::idmap::{Ids, Map, NOBODY};

use crate::tar::{Entry, Kind, Writer};

/// Directories in directories. Each costs a descriptor while it is packed.
const DEEPEST: usize = 1000;
/// Holes are kept if they are at least this much, and the file has at most so many pieces of data.
const WORTH_A_MAP: u64 = 64 << 10;
const MAX_PIECES: usize = 10_000;
/// Names and values of extended attributes are at most this long.
const ATTRIBUTE: usize = 64 << 10;
const CHUNK: usize = 256 << 10;

/// Packing failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read.
    #[error(transparent)]
    File(#[from] hostfs::Error),
    /// The stream could not be written.
    #[error("cannot write the archive: {0}")]
    Output(io::Error),
}

/// Results of packing.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What becomes of the holes of sparse files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holes {
    /// They stay holes, where every reader of the stream knows PAX's sparse files.
    Keep,
    /// They become zeros.
    Expand,
}

/// What became of a file.
#[derive(Debug)]
pub enum Packed {
    /// Its entry is written.
    Whole,
    /// Its entry is written, and this is the directory for what is in it.
    Directory(OwnedFd),
    /// It is a socket, or gone.
    Nothing,
}

/// Writes files to a stream.
#[derive(Debug)]
pub struct Packer<W> {
    tar: Writer<W>,
    holes: Holes,
    /// Names of files with several links, and how many links of each were not met yet.
    links: HashMap<(u64, u64), (Vec<u8>, u64)>,
    ids: Option<Ids>,
    buffer: Vec<u8>,
}

impl<W: Write> Packer<W> {
    /// Writes to `out`.
    pub fn new(out: W, holes: Holes) -> Self {
        let buffer = vec![0; CHUNK.max(ATTRIBUTE)];
        Self { tar: Writer::new(out), holes, links: HashMap::new(), ids: None, buffer }
    }

    /// Says who owns a file as a user namespace does.
    #[must_use]
    pub fn seen_from(mut self, ids: Option<Ids>) -> Self {
        self.ids = ids;
        self
    }

    fn owner(&self, stat: &Stat) -> (u32, u32) {
        let Some(ids) = &self.ids else { return (stat.st_uid, stat.st_gid) };
        let seen = |map: &Map, id: u32| map.inside(id).unwrap_or(NOBODY);
        (seen(&ids.uids, stat.st_uid), seen(&ids.gids, stat.st_gid))
    }

    /// Writes the entry `path` for `name` in `directory`, which is not followed. What is in it if it is a directory
    /// is the caller's to go on with.
    ///
    /// # Errors
    /// [`Error::File`] when it cannot be read, [`Error::Output`] when the stream is broken.
    pub fn entry(&mut self, directory: BorrowedFd<'_>, name: &OsStr, path: &[u8]) -> Result<Packed> {
        match handle(directory, name) {
            Ok(handle) => self.opened(&handle, path),
            Err(Errno::NOENT) => Ok(Packed::Nothing),
            Err(error) => Err(hostfs::Error::new("open", &named(path), error).into()),
        }
    }

    /// Writes the entry `path` for what `handle`, an `O_PATH` descriptor, refers to.
    ///
    /// # Errors
    /// As [`Packer::entry`].
    pub fn opened(&mut self, handle: &OwnedFd, path: &[u8]) -> Result<Packed> {
        let failed = |op: &'static str, error: Errno| hostfs::Error::new(op, &named(path), error);
        let stat = rustix::fs::fstat(handle).map_err(|error| failed("stat", error))?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind != FileType::Directory
            && stat.st_nlink > 1
            && kind != FileType::Socket
            && self.linked(&stat, path)?
        {
            return Ok(Packed::Whole);
        }
        let (major, minor) = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
        let plain = match kind {
            FileType::RegularFile => {
                let file =
                    File::from(reopen(handle, OFlags::empty()).map_err(|error| failed("open", error))?);
                self.regular(file, &stat, path)?;
                return Ok(Packed::Whole);
            }
            FileType::Directory => {
                let opened =
                    reopen(handle, OFlags::DIRECTORY).map_err(|error| failed("open directory", error))?;
                let entry = self.describe(&opened, &stat, path, Kind::Directory);
                self.tar.entry(&entry).map_err(Error::Output)?;
                return Ok(Packed::Directory(opened));
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(handle, c"", Vec::new())
                    .map_err(|error| failed("read link", error))?;
                Kind::Symlink(target.into_bytes())
            }
            FileType::Fifo => Kind::Fifo,
            FileType::CharacterDevice => Kind::Character { major, minor },
            FileType::BlockDevice => Kind::Block { major, minor },
            _ => return Ok(Packed::Nothing),
        };
        let entry = self.describe(handle, &stat, path, plain);
        self.tar.entry(&entry).map_err(Error::Output)?;
        Ok(Packed::Whole)
    }

    /// Writes everything beneath `directory`, whose own name in the stream is `path` (empty for the root).
    ///
    /// # Errors
    /// As [`Packer::entry`]; trees of more than 1,000 levels are refused.
    pub fn beneath(&mut self, directory: OwnedFd, path: &[u8]) -> Result<()> {
        let mut stack = vec![Level::open(directory, path.to_vec())?];
        while let Some(level) = stack.last_mut() {
            let Some(name) = level.names.pop() else {
                stack.pop();
                continue;
            };
            let path = joined(&level.path, name.to_bytes());
            if let Packed::Directory(directory) =
                self.entry(level.directory.as_fd(), OsStr::from_bytes(name.to_bytes()), &path)?
            {
                if stack.len() >= DEEPEST {
                    return Err(hostfs::Error::new("pack directory", &named(&path), Errno::LOOP).into());
                }
                stack.push(Level::open(directory, path)?);
            }
        }
        Ok(())
    }

    /// Writes an empty file that says something by its name.
    ///
    /// # Errors
    /// [`Error::Output`].
    pub fn mark(&mut self, path: &[u8]) -> Result<()> {
        let entry = Entry {
            path: path.to_vec(),
            kind: Kind::File { size: 0, pieces: None },
            mode: 0,
            uid: 0,
            gid: 0,
            mtime: (0, 0),
            xattrs: Vec::new(),
        };
        self.tar.entry(&entry).map_err(Error::Output)
    }

    /// Ends the stream and gives the output back.
    ///
    /// # Errors
    /// [`Error::Output`].
    pub fn finish(self) -> Result<W> {
        self.tar.finish().map_err(Error::Output)
    }

    /// Writes a hard link if the file is in the stream already.
    fn linked(&mut self, stat: &Stat, path: &[u8]) -> Result<bool> {
        let key = (stat.st_dev, stat.st_ino);
        let (uid, gid) = self.owner(stat);
        let Some((first, left)) = self.links.get_mut(&key) else {
            self.links.insert(key, (path.to_vec(), stat.st_nlink - 1));
            return Ok(false);
        };
        let entry = Entry {
            path: path.to_vec(),
            kind: Kind::HardLink(first.clone()),
            mode: stat.st_mode & 0o7777,
            uid,
            gid,
            mtime: mtime(stat),
            xattrs: Vec::new(),
        };
        *left -= 1;
        if *left == 0 {
            self.links.remove(&key);
        }
        self.tar.entry(&entry).map_err(Error::Output)?;
        Ok(true)
    }

    fn regular(&mut self, mut file: File, stat: &Stat, path: &[u8]) -> Result<()> {
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let pieces = match self.holes {
            Holes::Keep => pieces(&file, stat, size),
            Holes::Expand => None,
        };
        let spans = pieces.clone().unwrap_or_else(|| vec![(0, size)]);
        let kind = Kind::File { size, pieces };
        let entry = self.describe(&file, stat, path, kind);
        self.tar.entry(&entry).map_err(Error::Output)?;
        let failed = |error| Error::File(hostfs::Error::new("read", &named(path), error));
        for (offset, length) in spans {
            if offset > 0 {
                file.seek(SeekFrom::Start(offset)).map_err(failed)?;
            }
            let before = self.tar.remaining();
            let mut left = length;
            while left > 0 {
                let wanted = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
                let read = match file.read(&mut self.buffer[..wanted]) {
                    // It is shorter by now; what it would have had reads as zeros.
                    Ok(0) => {
                        self.buffer[..wanted].fill(0);
                        wanted
                    }
                    Ok(read) => read,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => return Err(failed(error)),
                };
                self.tar.write_all(&self.buffer[..read]).map_err(Error::Output)?;
                left -= read as u64;
            }
            debug_assert_eq!(before - self.tar.remaining(), length);
        }
        Ok(())
    }

    fn describe(&mut self, fd: &impl AsRawFd, stat: &Stat, path: &[u8], kind: Kind) -> Entry {
        let (uid, gid) = self.owner(stat);
        let mut xattrs = attributes(fd, &mut self.buffer[..ATTRIBUTE]);
        if let Some((root, _)) = self.ids.as_ref().and_then(Ids::root) {
            for (_, value) in xattrs.iter_mut().filter(|(name, _)| name.to_bytes() == CAPABILITIES) {
                without_root(value, root);
            }
        }
        Entry { path: path.to_vec(), kind, mode: stat.st_mode & 0o7777, uid, gid, mtime: mtime(stat), xattrs }
    }
}

const CAPABILITIES: &[u8] = b"security.capability";

/// Capabilities of a file that count beneath a root outside (`vfs_ns_cap_data`, revision 3) become those that count
/// wherever the file is (revision 2), if that root is the user namespace's.
fn without_root(value: &mut Vec<u8>, root: u32) {
    const REVISION_2: u32 = 0x0200_0000;
    const REVISION_3: u32 = 0x0300_0000;
    let word =
        |at: usize| value.get(at..at + 4).and_then(|four| four.try_into().ok()).map(u32::from_le_bytes);
    if let (24, Some(magic), Some(of)) = (value.len(), word(0), word(20))
        && magic & 0xff00_0000 == REVISION_3
        && of == root
    {
        value.truncate(20);
        value[..4].copy_from_slice(&(magic & 0x00ff_ffff | REVISION_2).to_le_bytes());
    }
}

/// A directory that is being packed.
struct Level {
    directory: OwnedFd,
    path: Vec<u8>,
    /// What is left of it, last first.
    names: Vec<CString>,
}

impl Level {
    fn open(directory: OwnedFd, path: Vec<u8>) -> Result<Self> {
        let mut names = names(directory.as_fd())
            .map_err(|error| hostfs::Error::new("read directory", &named(&path), error))?;
        names.sort_unstable_by(|a, b| b.cmp(a));
        Ok(Self { directory, path, names })
    }
}

/// The names in a directory, without `.` and `..`, in no order.
///
/// # Errors
/// The kernel's reason.
pub fn names(directory: BorrowedFd<'_>) -> Result<Vec<CString>, Errno> {
    let mut buffer = vec![MaybeUninit::<u8>::uninit(); 32 << 10];
    let mut entries = RawDir::new(directory, &mut buffer);
    let mut names = Vec::new();
    while let Some(entry) = entries.next() {
        match entry {
            Ok(entry) if entry.file_name() == c"." || entry.file_name() == c".." => {}
            Ok(entry) => names.push(entry.file_name().to_owned()),
            Err(Errno::INTR) => {}
            // The directory itself was removed.
            Err(Errno::NOENT) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(names)
}

/// A handle to an entry that opens nothing.
///
/// # Errors
/// The kernel's reason.
pub fn handle(directory: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd, Errno> {
    rustix::fs::openat2(
        directory,
        name,
        OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
        // A link as the last name is what O_NOFOLLOW gives; there is no other name.
        ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS,
    )
}

/// Opens what a handle is pinned to: a regular file or a directory, as the caller knows.
fn reopen(handle: &OwnedFd, flags: OFlags) -> Result<OwnedFd, Errno> {
    let link = format!("/proc/self/fd/{}", handle.as_raw_fd());
    let flags = flags | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    rustix::fs::openat(rustix::fs::CWD, link, flags, Mode::empty())
}

/// `path/name`, or `name` beneath the root.
#[must_use]
pub fn joined(path: &[u8], name: &[u8]) -> Vec<u8> {
    let mut joined = path.to_vec();
    if !joined.is_empty() && joined.last() != Some(&b'/') {
        joined.push(b'/');
    }
    joined.extend_from_slice(name);
    joined
}

fn named(path: &[u8]) -> std::path::PathBuf {
    if path.is_empty() { Path::new("/").to_owned() } else { Path::new(OsStr::from_bytes(path)).to_owned() }
}

fn mtime(stat: &Stat) -> (i64, u32) {
    (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0))
}

/// Where a file has data, if it has holes that are worth a map.
fn pieces(file: &File, stat: &Stat, size: u64) -> Option<Vec<(u64, u64)>> {
    use rustix::fs::SeekFrom;
    let stored = u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512);
    if stored.saturating_add(WORTH_A_MAP) > size {
        return None;
    }
    let mut pieces = Vec::new();
    let mut at = 0;
    while at < size {
        let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            // No more data.
            Err(Errno::NXIO) => break,
            Err(_) => return None,
        };
        let end = rustix::fs::seek(file, SeekFrom::Hole(start)).ok()?.min(size);
        if end <= start || pieces.len() >= MAX_PIECES {
            return None;
        }
        pieces.push((start, end - start));
        at = end;
    }
    rustix::fs::seek(file, SeekFrom::Start(0)).ok()?;
    let data: u64 = pieces.iter().map(|(_, length)| length).sum();
    if at != size || pieces.last().is_none_or(|(start, length)| start + length < size) {
        // A piece without bytes tells where the hole at the end ends.
        pieces.push((size, 0));
    }
    (data + WORTH_A_MAP <= size).then_some(pieces)
}

/// The extended attributes that are the file's own, sorted: not what steers overlayfs or is the host's policy.
fn attributes(fd: &impl AsRawFd, buffer: &mut [u8]) -> Vec<(CString, Vec<u8>)> {
    // The procfs link of the descriptor: for a handle the only way.
    let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let Ok(length) = rustix::fs::listxattr(&*link, &mut *buffer) else { return Vec::new() };
    let mut names: Vec<CString> = buffer[..length]
        .split_inclusive(|byte| *byte == 0)
        .filter_map(|name| CStr::from_bytes_with_nul(name).ok())
        .filter(|name| is_own(name.to_bytes()))
        .map(CStr::to_owned)
        .collect();
    names.sort_unstable();
    let value = |name: CString| {
        let length = rustix::fs::getxattr(&*link, &*name, &mut *buffer).ok()?;
        Some((name, buffer[..length].to_vec()))
    };
    names.into_iter().filter_map(value).collect()
}

fn is_own(name: &[u8]) -> bool {
    let known = name == b"security.capability"
        || name == b"system.posix_acl_access"
        || name == b"system.posix_acl_default"
        || (name.starts_with(b"user.") && !name.starts_with(b"user.overlay."))
        || (name.starts_with(b"trusted.") && !name.starts_with(b"trusted.overlay."));
    // An equals sign would end the name in a PAX record.
    known && !name.contains(&b'=')
}

/// What an entry of a directory is, or nothing if it is gone.
///
/// # Errors
/// The kernel's reason.
pub fn stat(directory: BorrowedFd<'_>, name: &CStr) -> Result<Option<Stat>, Errno> {
    match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}
