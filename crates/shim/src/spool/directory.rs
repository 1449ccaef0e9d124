//! The segments of a spool, reached by the descriptor of their directory only.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::SpoolError;

/// What a segment's file may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// As the writer appends it.
    Plain,
    /// Compressed.
    Packed,
    /// Compressed, not yet whole.
    Temporary,
}

impl Form {
    fn suffix(self) -> &'static str {
        match self {
            Self::Plain => ".spool",
            Self::Packed => ".spool.zst",
            Self::Temporary => ".spool.tmp",
        }
    }

    fn name(self, segment: u64) -> String {
        format!("{segment:010}{}", self.suffix())
    }

    fn number(self, file: &str) -> Option<u64> {
        let segment = file.strip_suffix(self.suffix())?.parse().ok()?;
        (self.name(segment) == file).then_some(segment)
    }
}

#[derive(Debug)]
pub(super) struct Directory {
    fd: OwnedFd,
    path: PathBuf,
}

impl Directory {
    pub(super) fn open(path: &Path) -> Result<Self, SpoolError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::openat(CWD, path, flags, Mode::empty()) {
            Ok(fd) => Ok(Self { fd, path: path.to_owned() }),
            Err(error) => Err(SpoolError { operation: "open", path: path.to_owned(), source: error.into() }),
        }
    }

    pub(super) fn open_or_create(path: &Path) -> Result<Self, SpoolError> {
        match rustix::fs::mkdirat(CWD, path, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => Self::open(path),
            Err(error) => {
                Err(SpoolError { operation: "create", path: path.to_owned(), source: error.into() })
            }
        }
    }

    /// The numbers of all segments in either form, in order.
    pub(super) fn segments(&self) -> Result<Vec<u64>, SpoolError> {
        self.list(|file| Form::Plain.number(file).or_else(|| Form::Packed.number(file)))
    }

    /// The numbers of the files of one form, in order.
    pub(super) fn of_form(&self, form: Form) -> Result<Vec<u64>, SpoolError> {
        self.list(|file| form.number(file))
    }

    fn list(&self, number: impl Fn(&str) -> Option<u64>) -> Result<Vec<u64>, SpoolError> {
        let fail = |error: Errno| self.error("list", None, error);
        let mut found = Vec::new();
        for entry in Dir::read_from(&self.fd).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            found.extend(entry.file_name().to_str().ok().and_then(&number));
        }
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }

    /// Opens a segment's plain form for reading; `None` if it does not exist.
    pub(super) fn read(&self, segment: u64) -> Result<Option<OwnedFd>, SpoolError> {
        self.open_segment(segment, Form::Plain, OFlags::RDONLY)
    }

    /// Opens a segment's packed form; `None` if it does not exist.
    pub(super) fn read_packed(&self, segment: u64) -> Result<Option<OwnedFd>, SpoolError> {
        self.open_segment(segment, Form::Packed, OFlags::RDONLY)
    }

    /// Opens a segment for writing; `None` if it does not exist.
    pub(super) fn write(&self, segment: u64) -> Result<Option<OwnedFd>, SpoolError> {
        self.open_segment(segment, Form::Plain, OFlags::WRONLY)
    }

    /// Makes a segment that must not exist yet.
    pub(super) fn create(&self, segment: u64) -> Result<OwnedFd, SpoolError> {
        self.create_form(segment, Form::Plain)
    }

    /// Makes a file that must not exist yet.
    pub(super) fn create_form(&self, segment: u64, form: Form) -> Result<OwnedFd, SpoolError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&self.fd, form.name(segment), flags, Mode::RUSR | Mode::WUSR)
            .map_err(|error| self.error("create", Some(segment), error))
    }

    /// The packed form is whole.
    pub(super) fn promote(&self, segment: u64) -> Result<(), SpoolError> {
        rustix::fs::renameat(&self.fd, Form::Temporary.name(segment), &self.fd, Form::Packed.name(segment))
            .map_err(|error| self.error("rename", Some(segment), error))
    }

    /// Removes a segment, if it is there: the plain form first, so that a packer sees it.
    pub(super) fn remove(&self, segment: u64) -> Result<(), SpoolError> {
        self.remove_form(segment, Form::Plain)?;
        self.remove_form(segment, Form::Packed)?;
        Ok(())
    }

    /// Removes one form; false if it was not there.
    pub(super) fn remove_form(&self, segment: u64, form: Form) -> Result<bool, SpoolError> {
        match rustix::fs::unlinkat(&self.fd, form.name(segment), AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(self.error("remove", Some(segment), error)),
        }
    }

    /// An error about one of the segments, or about the directory.
    pub(super) fn error(
        &self,
        operation: &'static str,
        segment: Option<u64>,
        source: impl Into<io::Error>,
    ) -> SpoolError {
        let path =
            segment.map_or_else(|| self.path.clone(), |segment| self.path.join(Form::Plain.name(segment)));
        SpoolError { operation, path, source: source.into() }
    }

    /// Never follows a link and never waits for the other end of a FIFO somebody put there.
    fn open_segment(&self, segment: u64, form: Form, access: OFlags) -> Result<Option<OwnedFd>, SpoolError> {
        let flags = access | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = match rustix::fs::openat(&self.fd, form.name(segment), flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(self.error("open", Some(segment), error)),
        };
        let stat = rustix::fs::fstat(&fd).map_err(|error| self.error("inspect", Some(segment), error))?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
            Ok(Some(fd))
        } else {
            let reason = io::Error::new(io::ErrorKind::InvalidInput, "not a regular file");
            Err(self.error("open", Some(segment), reason))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_segments_are_listed_and_in_order() {
        let dir = tempfile::tempdir().unwrap();
        for file in [
            "0000000010.spool",
            "0000000009.spool",
            "0000000009.spool.zst",
            "0000000008.spool.zst",
            "0000000012.spool.tmp",
            "9.spool",
            "+000000001.spool",
            "x.spool",
            "0000000011",
        ] {
            std::fs::write(dir.path().join(file), "").unwrap();
        }
        assert_eq!(Directory::open(dir.path()).unwrap().segments().unwrap(), [8, 9, 10]);
    }

    #[test]
    fn links_and_other_things_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join(Form::Plain.name(1))).unwrap();
        std::fs::create_dir(dir.path().join(Form::Plain.name(2))).unwrap();
        let fifo = Mode::RUSR | Mode::WUSR;
        rustix::fs::mknodat(CWD, dir.path().join(Form::Plain.name(3)), FileType::Fifo, fifo, 0).unwrap();
        let directory = Directory::open(dir.path()).unwrap();
        for segment in 1..=3 {
            assert!(directory.read(segment).is_err(), "{segment}");
        }
        assert!(directory.read(4).unwrap().is_none());
    }
}
