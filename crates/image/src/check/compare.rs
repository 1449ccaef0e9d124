//! Are two trees the same, bit for bit?
//!
//! Both are walked in step and reached by descriptor only; the first difference ends the walk.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, Stat};
use wharf_archive::pack::{handle, names};
use wharf_linux::hostfs::{self, Context};

use crate::Result;

/// Names and values of extended attributes are at most this long.
const ATTRIBUTES: usize = 64 << 10;
const CHUNK: usize = 256 << 10;

/// What is different in `found`, if anything. Directories in `undated` were described by nobody: their times mean
/// nothing, nor do those of whiteouts.
pub(super) fn difference(
    expected: &Path,
    found: &Path,
    undated: &HashSet<PathBuf>,
) -> Result<Option<String>> {
    let mut walk = Walk { undated, links: HashMap::new(), fault: None };
    let roots = (hostfs::open_dir(expected)?, hostfs::open_dir(found)?);
    walk.same_directory(&roots, PathBuf::new())?;
    Ok(walk.fault)
}

type Pair = (OwnedFd, OwnedFd);

struct Walk<'a> {
    undated: &'a HashSet<PathBuf>,
    /// Which inode of the one tree is which of the other.
    links: HashMap<u64, u64>,
    fault: Option<String>,
}

impl Walk<'_> {
    fn same_directory(&mut self, roots: &Pair, path: PathBuf) -> Result<()> {
        let root = (reopen(&roots.0, &path)?, reopen(&roots.1, &path)?);
        self.same_metadata(&root, &path)?;
        let mut pending = vec![(root, path)];
        while let Some((pair, path)) = pending.pop() {
            let listed = |directory: &OwnedFd| -> Result<Vec<CString>> {
                let mut names = names(directory.as_fd()).context("read directory", &path)?;
                names.sort_unstable();
                Ok(names)
            };
            let (expected, found) = (listed(&pair.0)?, listed(&pair.1)?);
            if expected != found {
                return self.differs(&path, "it has other entries");
            }
            for name in expected {
                let path = path.join(OsStr::from_bytes(name.to_bytes()));
                let open = |directory: &OwnedFd| {
                    handle(directory.as_fd(), OsStr::from_bytes(name.to_bytes())).context("open", &path)
                };
                let entry = (open(&pair.0)?, open(&pair.1)?);
                let kind = self.same_metadata(&entry, &path)?;
                if self.fault.is_none() && kind == FileType::RegularFile {
                    self.same_content(&entry, &path)?;
                }
                if self.fault.is_some() {
                    return Ok(());
                }
                if kind == FileType::Directory {
                    pending.push(((reopen(&entry.0, &path)?, reopen(&entry.1, &path)?), path));
                }
            }
        }
        Ok(())
    }

    fn differs(&mut self, path: &Path, what: &str) -> Result<()> {
        self.fault.get_or_insert_with(|| format!("/{}: {what}", path.display()));
        Ok(())
    }

    fn same_metadata(&mut self, pair: &Pair, path: &Path) -> Result<FileType> {
        let stat = |file: &OwnedFd| rustix::fs::fstat(file).context("stat", path);
        let (expected, found) = (stat(&pair.0)?, stat(&pair.1)?);
        let kind = FileType::from_raw_mode(expected.st_mode);
        let owner = |stat: &Stat| (stat.st_mode, stat.st_uid, stat.st_gid, stat.st_rdev);
        let time = |stat: &Stat| (stat.st_mtime, stat.st_mtime_nsec);
        let is_directory = kind == FileType::Directory;
        let is_whiteout = kind == FileType::CharacterDevice && expected.st_rdev == 0;
        let dated = !(is_whiteout || is_directory && self.undated.contains(path));
        let size = |stat: &Stat| if is_directory { (0, 0) } else { (stat.st_size, stat.st_nlink) };
        if owner(&expected) != owner(&found) {
            self.differs(path, "its type, mode or owner is another")?;
        } else if size(&expected) != size(&found) {
            self.differs(path, "its size or number of links is another")?;
        } else if dated && time(&expected) != time(&found) {
            self.differs(path, "its time is another")?;
        } else if attributes(&pair.0) != attributes(&pair.1) {
            self.differs(path, "its extended attributes are others")?;
        } else if kind == FileType::Symlink {
            let target =
                |link: &OwnedFd| rustix::fs::readlinkat(link, c"", Vec::new()).context("read link", path);
            if target(&pair.0)? != target(&pair.1)? {
                self.differs(path, "it points elsewhere")?;
            }
        }
        if !is_directory && *self.links.entry(expected.st_ino).or_insert(found.st_ino) != found.st_ino {
            self.differs(path, "it is no link to the file it was one of")?;
        }
        Ok(kind)
    }

    fn same_content(&mut self, pair: &Pair, path: &Path) -> Result<()> {
        let open = |file: &OwnedFd| -> hostfs::Result<File> {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            Ok(rustix::fs::openat(rustix::fs::CWD, link_to(file), flags, Mode::empty())
                .context("open", path)?
                .into())
        };
        let (mut expected, mut found) = (open(&pair.0)?, open(&pair.1)?);
        let (mut left, mut right) = (Vec::with_capacity(CHUNK), Vec::with_capacity(CHUNK));
        loop {
            for (file, buffer) in [(&mut expected, &mut left), (&mut found, &mut right)] {
                buffer.clear();
                file.take(CHUNK as u64).read_to_end(buffer).context("read", path)?;
            }
            if left != right {
                return self.differs(path, "its content is another");
            }
            if left.is_empty() {
                return Ok(());
            }
        }
    }
}

/// A directory to read from, out of a handle.
fn reopen(handle: &OwnedFd, path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(rustix::fs::CWD, link_to(handle), flags, Mode::empty())
        .context("open directory", path)?)
}

/// The procfs link of a descriptor: the way to what an `O_PATH` handle is pinned to.
fn link_to(handle: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", handle.as_raw_fd())
}

/// All attributes, those of overlayfs too: they are what hides the layers below.
fn attributes(file: &OwnedFd) -> BTreeMap<CString, Vec<u8>> {
    let link = link_to(file);
    let mut buffer = vec![0; ATTRIBUTES];
    let Ok(length) = rustix::fs::listxattr(&*link, &mut buffer[..]) else { return BTreeMap::new() };
    let names: Vec<CString> = buffer[..length]
        .split_inclusive(|byte| *byte == 0)
        .filter_map(|name| CStr::from_bytes_with_nul(name).ok())
        // The host's policy, which labels what is written anew.
        .filter(|name| name.to_bytes() != b"security.selinux")
        .map(CStr::to_owned)
        .collect();
    let mut value = |name: CString| {
        let length = rustix::fs::getxattr(&*link, &*name, &mut buffer[..]).ok()?;
        Some((name, buffer[..length].to_vec()))
    };
    names.into_iter().filter_map(&mut value).collect()
}
