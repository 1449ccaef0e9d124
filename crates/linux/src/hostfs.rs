//! The engine's own files, by path, with errors that name the operation and the path.
//!
//! Only for directories no container can write to; what a container, an image or a build context owns is reached
//! through [`crate::confined`].

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{CWD, Mode, OFlags};

/// A file operation failed.
#[derive(Debug, thiserror::Error)]
#[error("{op} {}: {source}", path.display())]
pub struct Error {
    /// What was tried, as a verb: `open`, `rename`.
    pub op: &'static str,
    /// The file.
    pub path: PathBuf,
    /// The kernel's reason.
    pub source: io::Error,
}

impl Error {
    /// An error of `op` on `path`.
    #[must_use]
    pub fn new(op: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self { op, path: path.to_owned(), source: source.into() }
    }

    /// The kind of the reason.
    #[must_use]
    pub fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }

    /// True when the file is not there.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.kind() == io::ErrorKind::NotFound
    }

    /// True when the disk or a quota is full.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
}

/// Results of file operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Adds operation and path to an error.
pub trait Context<T> {
    /// Names what was tried, and on which file.
    fn context(self, op: &'static str, path: &Path) -> Result<T>;
}

impl<T, E: Into<io::Error>> Context<T> for std::result::Result<T, E> {
    fn context(self, op: &'static str, path: &Path) -> Result<T> {
        self.map_err(|source| Error::new(op, path, source))
    }
}

/// The whole file.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).context("read", path)
}

/// The whole file as text.
pub fn read_to_string(path: &Path) -> Result<String> {
    fs::read_to_string(path).context("read", path)
}

/// The whole file, or an error of kind `FileTooLarge` when it has more than `max` bytes.
pub fn read_bounded(path: &Path, max: u64) -> Result<Vec<u8>> {
    bounded(open(path)?, max).context("read", path)
}

/// What `file` holds, at most `max` bytes.
pub(crate) fn bounded(file: File, max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(max.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("more than {max} bytes")));
    }
    Ok(bytes)
}

/// Writes a file in place; a crash may leave it torn. For files that are made anew at every start.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).context("write", path)
}

/// Replaces a file so that a crash leaves the old or the new one, both whole, and returns when it is durable.
pub fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    static SERIAL: AtomicU64 = AtomicU64::new(0);
    let directory = parent(path);
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    let mut name = b".".to_vec();
    name.extend_from_slice(path.file_name().unwrap_or_default().as_bytes());
    name.extend_from_slice(format!(".{}.{serial}.tmp", std::process::id()).as_bytes());
    let temporary = directory.join(OsStr::from_bytes(&name));

    let written = (|| {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&temporary)
            .context("create", &temporary)?;
        file.write_all(bytes).context("write", &temporary)?;
        // The umask may have taken bits away.
        file.set_permissions(fs::Permissions::from_mode(mode)).context("chmod", &temporary)?;
        file.sync_all().context("sync", &temporary)?;
        fs::rename(&temporary, path).context("rename", path)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
        return written;
    }
    sync_dir(directory)
}

/// The directory a path lies in.
fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

/// Makes a directory that must not be there yet.
pub fn create_dir(path: &Path, mode: u32) -> Result<()> {
    DirBuilder::new().mode(mode).create(path).context("create directory", path)
}

/// Makes a directory and those above it, as far as they are missing.
pub fn create_dir_all(path: &Path, mode: u32) -> Result<()> {
    DirBuilder::new().recursive(true).mode(mode).create(path).context("create directory", path)
}

/// Takes from a directory the rights that go beyond `mode`. One that everybody shares (sticky) stays as it is.
pub fn tighten(path: &Path, mode: u32) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let found = fs::metadata(path).context("stat", path)?.permissions().mode() & 0o7777;
    if found & 0o1000 != 0 || found & !mode & 0o777 == 0 {
        return Ok(());
    }
    fs::set_permissions(path, fs::Permissions::from_mode(found & mode)).context("change the mode of", path)
}

/// Opens a file for reading.
pub fn open(path: &Path) -> Result<File> {
    File::open(path).context("open", path)
}

/// Opens a file that is there for reading and writing in place.
pub fn open_to_change(path: &Path) -> Result<File> {
    File::options().read(true).write(true).open(path).context("open", path)
}

/// Makes a file that must not be there yet, for reading and writing.
pub fn create_new(path: &Path, mode: u32) -> Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).mode(mode).open(path).context("create", path)
}

/// Opens a file for appending, making it if need be.
pub fn append(path: &Path, mode: u32) -> Result<File> {
    OpenOptions::new().append(true).create(true).mode(mode).open(path).context("open", path)
}

/// Renames within one file system.
pub fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(|source| {
        let source = io::Error::new(source.kind(), format!("to {}: {source}", to.display()));
        Error { op: "rename", path: from.to_owned(), source }
    })
}

/// Removes a file; one that is not there is no error.
pub fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).context("remove", path),
        _ => Ok(()),
    }
}

/// Removes an empty directory; one that is not there is no error.
pub fn remove_dir(path: &Path) -> Result<()> {
    match fs::remove_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).context("remove directory", path),
        _ => Ok(()),
    }
}

/// Removes a directory and everything in it without following a link or crossing a mount (see [`crate::tree`]).
/// One that is not there is no error.
pub fn remove_dir_all(path: &Path) -> Result<()> {
    let Some(name) = path.file_name() else {
        return Err(Error::new("remove directory", path, io::Error::from(io::ErrorKind::InvalidInput)));
    };
    match open_dir(parent(path)) {
        Ok(directory) => crate::tree::remove(directory.as_fd(), name)
            .map_err(|error| Error { path: parent(path).join(&error.path), ..error }),
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error),
    }
}

/// The names in a directory, in no order.
pub fn read_dir(path: &Path) -> Result<Vec<std::ffi::OsString>> {
    let entries = fs::read_dir(path).context("read directory", path)?;
    entries.map(|entry| Ok(entry.context("read directory", path)?.file_name())).collect()
}

/// Whether something is at `path`; a link counts as itself.
pub fn exists(path: &Path) -> Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).context("stat", path),
    }
}

/// A handle to a directory, for calls relative to it.
pub fn open_dir(path: &Path) -> Result<std::os::fd::OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, path, flags, Mode::empty()).context("open directory", path)
}

/// Makes the names in a directory durable.
pub fn sync_dir(path: &Path) -> Result<()> {
    rustix::fs::fsync(open_dir(path)?).context("sync", path)
}

/// Makes everything on the file system that holds `path` durable.
pub fn sync_file_system(path: &Path) -> Result<()> {
    sync_file_system_of(open_dir(path)?.as_fd()).context("sync", path)
}

fn sync_file_system_of(fd: BorrowedFd<'_>) -> io::Result<()> {
    Ok(rustix::fs::syncfs(fd)?)
}

/// Asks the kernel to begin writing a range of a file to disk; a hint that never waits for the disk and never fails.
pub fn begin_write_back(file: &File, offset: u64, length: u64) {
    let (Ok(offset), Ok(length)) = (i64::try_from(offset), i64::try_from(length)) else { return };
    // SAFETY: the descriptor is open for the duration of the call and no memory is passed.
    unsafe {
        libc::sync_file_range(
            std::os::fd::AsRawFd::as_raw_fd(file),
            offset,
            length,
            libc::SYNC_FILE_RANGE_WRITE,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch() -> PathBuf {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("wharf-hostfs-{}-{serial}", std::process::id()));
        fs::create_dir(&path).unwrap();
        path
    }

    #[test]
    fn an_error_names_the_operation_and_the_path() {
        let error = read(Path::new("/nowhere/at/all")).unwrap_err();
        assert_eq!(error.to_string(), "read /nowhere/at/all: No such file or directory (os error 2)");
        assert!(error.is_not_found());
    }

    #[test]
    fn an_atomic_write_replaces_and_leaves_no_other_file() {
        let dir = scratch();
        let file = dir.join("x.json");
        write_atomic(&file, b"one", 0o644).unwrap();
        write_atomic(&file, b"two", 0o600).unwrap();
        assert_eq!(read(&file).unwrap(), b"two");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(read_dir(&dir).unwrap(), ["x.json"]);
        // A directory in the way: the failure leaves nothing either.
        fs::create_dir(dir.join("d")).unwrap();
        write_atomic(&dir.join("d"), b"x", 0o600).unwrap_err();
        assert_eq!(read_dir(&dir).unwrap().len(), 2);
        remove_dir_all(&dir).unwrap();
        assert!(!exists(&dir).unwrap());
        remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_bounded_read_stops() {
        let dir = scratch();
        let file = dir.join("x");
        write(&file, b"12345").unwrap();
        assert_eq!(read_bounded(&file, 5).unwrap(), b"12345");
        assert_eq!(read_bounded(&file, 4).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        remove_dir_all(&dir).unwrap();
    }
}
