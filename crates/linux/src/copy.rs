//! Copies a tree by descriptor, with owners, modes, times and the attributes that carry rights.
//!
//! Nothing is followed and nothing special is opened: links, FIFOs and devices are made anew. Hard links become files
//! of their own. Attributes of the file system underneath (`trusted.*`) stay behind.

use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, Stat, Timespec, Timestamps};
use rustix::io::Errno;

use crate::confined::{Directory, Handle, Metadata, Root, Special, apply};
use crate::hostfs::{Context, Error, Result};

/// Deeper trees are refused.
const DEEPEST: usize = 500;

/// Copies everything in `from` into `to`, an empty directory, and gives `to` the metadata of `from`.
///
/// # Errors
/// The first failure; what was copied so far stays.
pub fn tree(from: BorrowedFd<'_>, to: OwnedFd) -> Result<()> {
    level(from, to, 0)
}

fn level(from: BorrowedFd<'_>, to: OwnedFd, depth: usize) -> Result<()> {
    let here = Path::new(".");
    if depth > DEEPEST {
        return Err(Error::new("copy directory", here, Errno::LOOP));
    }
    let directory = Root::from_fd(to, here).directory(here)?;
    for name in names(from)? {
        entry(from, &directory, &name, depth)?;
    }
    let stat = rustix::fs::fstat(from).context("stat", here)?;
    let opened =
        Root::from_fd(clone(directory.as_fd())?, here).open_at(here, OFlags::RDONLY, Mode::empty())?;
    finish(opened.as_fd(), Handle::Opened, &stat, &attributes(from)).context("set metadata of", here)
}

fn entry(from: BorrowedFd<'_>, to: &Directory, name: &CStr, depth: usize) -> Result<()> {
    let os_name = OsStr::from_bytes(name.to_bytes());
    let path = Path::new(os_name);
    let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW).context("stat", path)?;
    let open = |flags: OFlags| {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(from, name, flags, Mode::empty()).context("open", path)
    };
    let (fd, handle) = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            let source = open(OFlags::RDONLY | OFlags::DIRECTORY)?;
            return level(source.as_fd(), to.make_directory(os_name, 0o700)?, depth + 1);
        }
        FileType::RegularFile => {
            // NONBLOCK: should a FIFO take the file's place just now, the open does not hang, and reading fails.
            let mut source = File::from(open(OFlags::RDONLY | OFlags::NONBLOCK)?);
            let mut copy = to.create(os_name, 0o600)?;
            io::copy(&mut source, &mut copy).context("copy", path)?;
            return finish(copy.as_fd(), Handle::Opened, &stat, &attributes(source.as_fd()))
                .context("set metadata of", path);
        }
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(from, name, Vec::new()).context("read link", path)?;
            (to.symlink(os_name, OsStr::from_bytes(target.as_bytes()))?, Handle::Link)
        }
        FileType::Fifo => (to.special(os_name, Special::Fifo)?, Handle::Path),
        FileType::CharacterDevice | FileType::BlockDevice => {
            let (major, minor) = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
            let special = match FileType::from_raw_mode(stat.st_mode) {
                // Overlayfs's mark of a removed file.
                FileType::CharacterDevice if (major, minor) == (0, 0) => return Ok(()),
                FileType::CharacterDevice => Special::Character { major, minor },
                _ => Special::Block { major, minor },
            };
            (to.special(os_name, special)?, Handle::Path)
        }
        // A socket is of use to its process only.
        _ => return Ok(()),
    };
    finish(fd.as_fd(), handle, &stat, &[]).context("set metadata of", path)
}

fn finish(fd: BorrowedFd<'_>, handle: Handle, stat: &Stat, xattrs: &[(CString, Vec<u8>)]) -> io::Result<()> {
    let time = |seconds, nanoseconds: u64| Timespec {
        tv_sec: seconds,
        tv_nsec: i64::try_from(nanoseconds).unwrap_or_default(),
    };
    let times = Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    };
    let metadata = Metadata {
        uid: stat.st_uid,
        gid: stat.st_gid,
        mode: stat.st_mode & 0o7777,
        times: Some(times),
        xattrs,
    };
    apply(fd, handle, &metadata)
}

/// The attributes that belong to the file rather than to the file system it is on.
fn attributes(fd: BorrowedFd<'_>) -> Vec<(CString, Vec<u8>)> {
    let mut list = vec![0_u8; 64 * 1024];
    let Ok(length) = rustix::fs::flistxattr(fd, &mut list[..]) else { return Vec::new() };
    let names = list[..length]
        .split_inclusive(|byte| *byte == 0)
        .filter_map(|name| CStr::from_bytes_with_nul(name).ok());
    let wanted = names.filter(|name| {
        let name = name.to_bytes();
        name.starts_with(b"user.") && !name.starts_with(b"user.overlay.") || name == b"security.capability"
    });
    let mut value = vec![0_u8; 64 * 1024];
    wanted
        .filter_map(|name| {
            let length = rustix::fs::fgetxattr(fd, name, &mut value[..]).ok()?;
            Some((name.to_owned(), value[..length].to_vec()))
        })
        .collect()
}

fn names(directory: BorrowedFd<'_>) -> Result<Vec<CString>> {
    let here = Path::new(".");
    let mut buffer = [MaybeUninit::<u8>::uninit(); 32 * 1024];
    let mut entries = RawDir::new(directory, &mut buffer);
    let mut names = Vec::new();
    while let Some(entry) = entries.next() {
        match entry {
            Ok(entry) if entry.file_name() == c"." || entry.file_name() == c".." => {}
            Ok(entry) => names.push(entry.file_name().to_owned()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error).context("read directory", here),
        }
    }
    Ok(names)
}

fn clone(fd: BorrowedFd<'_>) -> Result<OwnedFd> {
    rustix::io::fcntl_dupfd_cloexec(fd, 3)
        .context("duplicate", Path::new(&format!("descriptor {}", fd.as_raw_fd())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    #[test]
    fn a_tree_is_copied_with_its_metadata_and_nothing_is_followed() {
        let base = std::env::temp_dir().join(format!("wharf-copy-{}", std::process::id()));
        let (from, to) = (base.join("from"), base.join("to"));
        std::fs::create_dir_all(from.join("sub")).unwrap();
        std::fs::create_dir_all(&to).unwrap();
        std::fs::write(from.join("sub/file"), "text").unwrap();
        std::fs::set_permissions(from.join("sub/file"), PermissionsExt::from_mode(0o4751)).unwrap();
        std::fs::set_permissions(&from, PermissionsExt::from_mode(0o1777)).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", from.join("link")).unwrap();
        let source = crate::hostfs::open_dir(&from).unwrap();
        tree(source.as_fd(), crate::hostfs::open_dir(&to).unwrap()).unwrap();
        assert_eq!(std::fs::read_to_string(to.join("sub/file")).unwrap(), "text");
        assert_eq!(std::fs::metadata(to.join("sub/file")).unwrap().mode() & 0o7777, 0o4751);
        assert_eq!(std::fs::metadata(&to).unwrap().mode() & 0o7777, 0o1777);
        assert_eq!(std::fs::read_link(to.join("link")).unwrap(), Path::new("/etc/passwd"));
        let time = |path: &Path| std::fs::metadata(path).unwrap().mtime_nsec();
        assert_eq!(time(&from.join("sub/file")), time(&to.join("sub/file")));
        std::fs::remove_dir_all(&base).unwrap();
    }
}
