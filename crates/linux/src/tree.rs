//! Walks over directory trees that a container or an image owned: removal and measuring.
//!
//! Every directory is opened relative to the one above it, by one name, never through a link and never across a
//! mount (bind mounts of the same file system included), so whatever the tree's owner put there or swaps in while the
//! walk runs, nothing outside is removed or counted.

use std::collections::HashSet;
use std::ffi::{CStr, CString, OsStr};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, RenameFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use crate::hostfs::{Context, Error, Result};

/// Directories held open at once. A deeper tree is made flat while it is removed, so that its depth, which its owner
/// chose, costs neither descriptors nor stack.
const MAX_DEPTH: usize = 64;

/// Removes `name` in the directory `parent`, with everything in it. What cannot be removed does not stop the rest;
/// the first error is returned. Something that is not there is no error.
pub fn remove(parent: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
    remove_unless(parent, name, &AtomicBool::new(false))
}

/// Like [`remove`], and gives up with `EINTR` between two entries once `stop` is set.
pub fn remove_unless(parent: BorrowedFd<'_>, name: &OsStr, stop: &AtomicBool) -> Result<()> {
    let name =
        CString::new(name.as_bytes()).map_err(|_| Error::new("remove", Path::new(name), Errno::INVAL))?;
    let mut removal = Removal { stack: Vec::new(), moved: 0, first_error: None, stop };
    if let Entry::Directory(directory) = removal.remove_entry(parent, &name) {
        removal.stack.push(Level::new(directory, &name));
        removal.empty_the_stack(parent);
    }
    removal.first_error.map_or(Ok(()), Err)
}

struct Level {
    directory: OwnedFd,
    name: CString,
    /// Something in it went away since it was last read from the start.
    removed: bool,
    /// Entries that could not be removed and are not tried again.
    stuck: HashSet<CString>,
}

/// What became of an entry.
enum Entry {
    Gone,
    /// A directory that must be emptied first.
    Directory(OwnedFd),
    Stuck,
}

impl Level {
    fn new(directory: OwnedFd, name: &CStr) -> Self {
        Self { directory, name: name.to_owned(), removed: false, stuck: HashSet::new() }
    }
}

struct Removal<'a> {
    stack: Vec<Level>,
    /// Directories moved to the top so far; makes their new names.
    moved: u64,
    first_error: Option<Error>,
    stop: &'a AtomicBool,
}

impl Removal<'_> {
    /// Works depth first until the stack is empty.
    fn empty_the_stack(&mut self, parent: BorrowedFd<'_>) {
        while let Some(mut level) = self.stack.pop() {
            if self.stop.load(Ordering::Relaxed) {
                self.fail("remove", &level.name, Errno::INTR);
                return;
            }
            if let Some(child) = self.pass(&mut level) {
                self.stack.push(level);
                self.stack.push(child);
                continue;
            }
            let above = self.stack.last().map_or(parent, |level| level.directory.as_fd());
            match rustix::fs::unlinkat(above, &*level.name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => {
                    if let Some(above) = self.stack.last_mut() {
                        above.removed = true;
                    }
                }
                // New or moved entries came in while it was read: read again, as long as that gets us further.
                Err(Errno::NOTEMPTY | Errno::EXIST) if level.removed => {
                    level.removed = false;
                    self.stack.push(level);
                }
                Err(error) => {
                    self.fail("remove directory", &level.name, error);
                    if let Some(above) = self.stack.last_mut() {
                        above.stuck.insert(level.name);
                    }
                }
            }
        }
    }

    /// Removes what it can of one directory; returns the first subdirectory that is to be emptied before.
    fn pass(&mut self, level: &mut Level) -> Option<Level> {
        let mut buffer = [MaybeUninit::<u8>::uninit(); 32 * 1024];
        if let Err(error) = rustix::fs::seek(&level.directory, rustix::fs::SeekFrom::Start(0)) {
            self.fail("read directory", &level.name, error);
            return None;
        }
        let directory = level.directory.as_fd();
        let mut entries = RawDir::new(directory, &mut buffer);
        while let Some(entry) = entries.next() {
            if self.stop.load(Ordering::Relaxed) {
                return None;
            }
            let entry = match entry {
                Ok(entry) => entry,
                Err(Errno::INTR) => continue,
                Err(error) => {
                    self.fail("read directory", &level.name, error);
                    return None;
                }
            };
            let name = entry.file_name();
            if name == c"." || name == c".." || level.stuck.contains(name) {
                continue;
            }
            let gone = match self.remove_entry(directory, name) {
                Entry::Directory(child) if self.stack.len() < MAX_DEPTH => {
                    return Some(Level::new(child, name));
                }
                Entry::Directory(_) => self.move_to_top(directory, name),
                Entry::Gone => true,
                Entry::Stuck => false,
            };
            if gone {
                level.removed = true;
            } else {
                level.stuck.insert(name.to_owned());
            }
        }
        None
    }

    /// Removes one entry, or opens it if it is a directory that must be emptied first.
    fn remove_entry(&mut self, directory: BorrowedFd<'_>, name: &CStr) -> Entry {
        // A second round only if the entry changed its type in between.
        let mut last = Errno::AGAIN;
        for _ in 0..16 {
            match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => return Entry::Gone,
                Err(error @ (Errno::ISDIR | Errno::PERM)) => last = error,
                Err(error) => return self.stuck("remove", name, error),
            }
            match rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => return Entry::Gone,
                Err(Errno::NOTDIR) => continue,
                Err(Errno::NOTEMPTY | Errno::EXIST | Errno::ACCESS) => {}
                Err(error) => return self.stuck("remove directory", name, error),
            }
            match open_child(directory, name) {
                Ok(child) => return Entry::Directory(child),
                Err(Errno::NOENT) => return Entry::Gone,
                Err(Errno::NOTDIR | Errno::LOOP) => {}
                Err(error) => return self.stuck("open directory", name, error),
            }
        }
        self.stuck("remove", name, last)
    }

    fn stuck(&mut self, op: &'static str, name: &CStr, error: Errno) -> Entry {
        self.fail(op, name, error);
        Entry::Stuck
    }

    /// Moves a directory that lies too deep into the topmost one; false if that failed.
    fn move_to_top(&mut self, directory: BorrowedFd<'_>, name: &CStr) -> bool {
        let Some(top) = self.stack.first_mut() else { return false };
        top.removed = true;
        let moved = loop {
            self.moved += 1;
            let new = format!(".wharf-deep-{}", self.moved);
            match rustix::fs::renameat_with(directory, name, &top.directory, new, RenameFlags::NOREPLACE) {
                Err(Errno::EXIST) => {}
                other => break other,
            }
        };
        if let Err(error) = moved {
            self.fail("flatten", name, error);
            return false;
        }
        true
    }

    fn fail(&mut self, op: &'static str, name: &CStr, error: impl Into<std::io::Error>) {
        if self.first_error.is_none() {
            let mut path: PathBuf =
                self.stack.iter().map(|level| OsStr::from_bytes(level.name.to_bytes())).collect();
            path.push(OsStr::from_bytes(name.to_bytes()));
            self.first_error = Some(Error::new(op, &path, error));
        }
    }
}

/// Opens a directory by one name: no link, no mount on it.
fn open_child(directory: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    rustix::fs::openat2(
        directory,
        name,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::BENEATH
            | ResolveFlags::NO_SYMLINKS
            | ResolveFlags::NO_MAGICLINKS
            | ResolveFlags::NO_XDEV,
    )
}

/// Calls `visit` for a directory and everything beneath it, down to 1,000 levels; what vanishes
/// meanwhile, and what lies on another mount, is left out.
pub fn for_each(directory: BorrowedFd<'_>, visit: &mut dyn FnMut(&Stat)) -> Result<()> {
    const DEEPEST: usize = 1000;
    let here = Path::new(".");
    let mut stack = vec![open_child(directory, c".").context("open directory", here)?];
    let mut pending: Vec<Vec<CString>> = vec![Vec::new()];
    let mut fresh = true;
    while let Some(directory) = stack.last() {
        if fresh {
            visit(&rustix::fs::fstat(directory).context("stat", here)?);
            let children = visit_level(directory.as_fd(), visit)?;
            if let Some(slot) = pending.last_mut() {
                *slot = children;
            }
        }
        match pending.last_mut().and_then(Vec::pop) {
            Some(name) if stack.len() < DEEPEST => match open_child(directory.as_fd(), &name) {
                Ok(child) => {
                    stack.push(child);
                    pending.push(Vec::new());
                    fresh = true;
                }
                Err(_) => fresh = false,
            },
            Some(_) => fresh = false,
            None => {
                stack.pop();
                pending.pop();
                fresh = false;
            }
        }
    }
    Ok(())
}

/// Bytes that a tree takes on disk, as du(1) counts them: each file once, however many names it has.
pub fn disk_usage(directory: BorrowedFd<'_>) -> Result<u64> {
    let mut linked = HashSet::new();
    let mut bytes = 0_u64;
    for_each(directory, &mut |stat| {
        let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if is_directory || stat.st_nlink == 1 || linked.insert((stat.st_dev, stat.st_ino)) {
            bytes = bytes.saturating_add(u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512));
        }
    })?;
    Ok(bytes)
}

/// Bytes in the files of a tree, each file once, however many names it has.
pub fn files_size(directory: BorrowedFd<'_>) -> Result<u64> {
    let mut linked = HashSet::new();
    let mut bytes = 0_u64;
    for_each(directory, &mut |stat| {
        let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if !is_directory && (stat.st_nlink == 1 || linked.insert((stat.st_dev, stat.st_ino))) {
            bytes = bytes.saturating_add(u64::try_from(stat.st_size).unwrap_or(0));
        }
    })?;
    Ok(bytes)
}

/// Visits the entries of one directory and returns the names of its subdirectories.
fn visit_level(directory: BorrowedFd<'_>, visit: &mut dyn FnMut(&Stat)) -> Result<Vec<CString>> {
    let mut buffer = [MaybeUninit::<u8>::uninit(); 32 * 1024];
    let mut entries = RawDir::new(directory, &mut buffer);
    let mut children = Vec::new();
    while let Some(entry) = entries.next() {
        let entry = entry.context("read directory", Path::new("."))?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                children.push(name.to_owned());
            }
            Ok(stat) => visit(&stat),
            Err(Errno::NOENT) => {}
            Err(error) => return Err(error).context("stat", Path::new(OsStr::from_bytes(name.to_bytes()))),
        }
    }
    Ok(children)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("wharf-tree-{name}-{}", std::process::id()));
            fs::create_dir(&path).unwrap();
            Self(path)
        }
        fn fd(&self) -> OwnedFd {
            crate::hostfs::open_dir(&self.0).unwrap()
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn links_are_removed_and_not_followed() {
        let scratch = Scratch::new("links");
        fs::create_dir_all(scratch.0.join("canary/keep")).unwrap();
        fs::create_dir_all(scratch.0.join("t/a/b")).unwrap();
        fs::write(scratch.0.join("t/a/b/f"), "x").unwrap();
        symlink("../canary", scratch.0.join("t/link")).unwrap();
        symlink("../../../canary/keep", scratch.0.join("t/a/b/link")).unwrap();
        remove(scratch.fd().as_fd(), OsStr::new("t")).unwrap();
        assert!(!scratch.0.join("t").exists());
        assert!(scratch.0.join("canary/keep").exists());
        remove(scratch.fd().as_fd(), OsStr::new("t")).unwrap();
    }

    #[test]
    fn a_removal_can_be_stopped_and_finished_later() {
        let scratch = Scratch::new("stop");
        fs::create_dir_all(scratch.0.join("t/a")).unwrap();
        fs::write(scratch.0.join("t/a/f"), "x").unwrap();
        let error = remove_unless(scratch.fd().as_fd(), OsStr::new("t"), &AtomicBool::new(true)).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::Interrupted);
        assert!(scratch.0.join("t/a/f").exists());
        remove(scratch.fd().as_fd(), OsStr::new("t")).unwrap();
        assert!(!scratch.0.join("t").exists());
    }

    #[test]
    fn a_tree_of_any_depth_goes() {
        let scratch = Scratch::new("deep");
        let top = scratch.fd();
        rustix::fs::mkdirat(&top, "t", Mode::RWXU).unwrap();
        let mut directory = open_child(top.as_fd(), c"t").unwrap();
        for _ in 0..3000 {
            rustix::fs::mkdirat(&directory, "d", Mode::RWXU).unwrap();
            rustix::fs::mknodat(&directory, "f", FileType::RegularFile, Mode::RUSR, 0).unwrap();
            directory = open_child(directory.as_fd(), c"d").unwrap();
        }
        drop(directory);
        let mut seen = 0;
        for_each(top.as_fd(), &mut |_| seen += 1).unwrap();
        assert!(seen >= 900, "{seen}");
        remove(top.as_fd(), OsStr::new("t")).unwrap();
        assert!(!scratch.0.join("t").exists());
    }

    #[test]
    fn many_entries_go() {
        let scratch = Scratch::new("many");
        for directory in 0..5 {
            let path = scratch.0.join(format!("t/{directory}"));
            fs::create_dir_all(&path).unwrap();
            for file in 0..700 {
                fs::write(path.join(format!("file-with-a-name-{file}")), "").unwrap();
            }
        }
        let mut seen = 0;
        for_each(scratch.fd().as_fd(), &mut |_| seen += 1).unwrap();
        assert_eq!(seen, 3500 + 7, "the files, their directories, the one above and the root");
        remove(scratch.fd().as_fd(), OsStr::new("t")).unwrap();
        assert!(!scratch.0.join("t").exists());
    }
}
