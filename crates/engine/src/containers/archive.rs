//! `cp`: files of a container as a tar stream, and a tar stream as files of a container. See [`super::tree`] for how
//! its files are reached.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use jiff::Timestamp;
use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use tokio::io::AsyncRead;
use tokio::sync::oneshot;
use wharf_archive::extract::{self, Options, Owners, extract};
use wharf_archive::pack::{Holes, Packed, Packer};
use wharf_archive::tar::Reader;
use wharf_linux::confined::Root;
use wharf_linux::hostfs;
use wharf_linux::idmap::Ids;

use super::Record;
use super::tree::{Access, Tree};
use crate::blocking::blocking;
use crate::{Engine, Error, Result, streams};

/// Links followed in one path at most, as in the kernel.
const MAX_LINKS: usize = 40;
/// The largest `/etc/passwd` that is read.
const USERS: u64 = 1 << 20;

/// What is at a path in a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathStat {
    /// Its last name, as asked for.
    pub name: String,
    /// Its size in bytes.
    pub size: i64,
    /// Type and permission bits in Go's encoding.
    pub mode: u32,
    /// When it was last changed.
    pub mtime: Timestamp,
    /// Of a link, where it leads in the end.
    pub link_target: String,
}

/// Where and how to extract in a container.
#[derive(Clone, Debug, Default)]
pub struct ArchiveTarget {
    /// A directory in the container.
    pub path: String,
    /// Neither replace directories by other things nor other things by directories.
    pub keep_types: bool,
    /// Give everything to the container's user.
    pub own: bool,
}

impl Engine {
    /// What is at a path in a container.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is nothing, [`Error::Invalid`] for an empty path.
    pub async fn stat_archive(&self, name: &str, path: &str) -> Result<PathStat> {
        let tree = self.archive_tree(name, path).await?;
        let record = self.find(name)?.record().clone();
        self.tell_mounts(&record, true);
        let (name, path) = (name.to_owned(), path.to_owned());
        let found = blocking(move || tree.enter(|root| Ok(find(root, &name, &path)?.stat))).await;
        self.tell_mounts(&record, false);
        found
    }

    /// What is at a path in a container, and it as a tar stream with everything beneath.
    ///
    /// # Errors
    /// As [`stat_archive`](Self::stat_archive).
    pub async fn read_archive(
        &self,
        name: &str,
        path: &str,
    ) -> Result<(PathStat, impl AsyncRead + Send + use<>)> {
        let container = self.find(name)?;
        let tree = self.archive_tree(name, path).await?;
        let (name, path) = (name.to_owned(), path.to_owned());
        let (found, answer) = oneshot::channel();
        let ids = tree.ids();
        let (writer, reader) = streams::channel();
        streams::paced(move || {
            let mut found = Some(found);
            let answered = tree.enter(|root| {
                let source = find(root, &name, &path)?;
                if let Some(found) = found.take() {
                    let _client_left = found.send(Ok(source.stat.clone()));
                }
                // From here on the answer has begun, and a failure breaks it off.
                streams::write_all("a copy from a container", writer, |out| {
                    let mut packer = Packer::new(out, Holes::Expand).seen_from(ids);
                    let packed = match packer.opened(&source.handle, source.packed_as.as_bytes()) {
                        Ok(Packed::Directory(directory)) => {
                            packer.beneath(directory, source.packed_as.as_bytes())
                        }
                        Ok(Packed::Whole | Packed::Nothing) => Ok(()),
                        Err(error) => Err(error),
                    };
                    packed.and_then(|()| packer.finish()).map(drop).map_err(io::Error::other)
                });
                Ok(())
            });
            if let (Err(error), Some(found)) = (answered, found) {
                let _client_left = found.send(Err(error));
            }
        })?;
        let stat = answer.await.map_err(|_| Error::System("copying from a container panicked".into()))??;
        let record = container.record().clone();
        self.tell_mounts(&record, true);
        self.emit(&container, "archive-path", &[]);
        self.tell_mounts(&record, false);
        Ok((stat, reader))
    }

    /// Extracts a tar stream, plain or compressed, into a directory of a container.
    ///
    /// # Errors
    /// [`Error::NotFound`] when it is not there, [`Error::Invalid`] when it is no directory, is read-only, or the
    /// stream is damaged or hostile. What was extracted before stays.
    pub async fn write_archive(
        &self,
        name: &str,
        target: ArchiveTarget,
        input: impl AsyncRead + Send + Unpin + 'static,
    ) -> Result<()> {
        let container = self.find(name)?;
        let tree = self.archive_tree(name, &target.path).await?;
        let (record, name) = (container.record().clone(), name.to_owned());
        let used = record.clone();
        self.tell_mounts(&used, true);
        let written = streams::with_reader(input, move |input| {
            let ids = tree.ids();
            tree.enter(|root| write(root, &record, &name, &target, ids, input))
        })
        .await;
        if written.is_ok() {
            self.emit(&container, "extract-to-dir", &[]);
        }
        self.tell_mounts(&used, false);
        written?;
        Ok(())
    }

    async fn archive_tree(&self, name: &str, path: &str) -> Result<Tree> {
        let container = self.find(name)?;
        if path.is_empty() {
            return Err(Error::Invalid("bad parameter: pathcannot be empty".into()));
        }
        if path.contains('\0') {
            return Err(Error::Invalid("bad parameter: a path has no NUL".into()));
        }
        self.tree(&container, Access::Mounted).await
    }
}

/// Something to be packed.
struct Found {
    stat: PathStat,
    handle: OwnedFd,
    /// Its name in the stream.
    packed_as: String,
}

/// Finds a path as `lstat` does: a link at its end is itself, unless a slash or dot follows.
fn find(root: &Root, container: &str, path: &str) -> Result<Found> {
    let absolute = absolute(path);
    let handle = root
        .open_at(Path::new(&absolute), OFlags::PATH | OFlags::NOFOLLOW, Mode::empty())
        .map_err(|error| missing(error, "lstat", &absolute, path, container))?;
    let stat = rustix::fs::fstat(&handle).map_err(io::Error::from)?;
    let is_link = FileType::from_raw_mode(stat.st_mode) == FileType::Symlink;
    let link_target = match is_link {
        true => resolve(root, Path::new(&absolute)).to_string_lossy().into_owned(),
        false => String::new(),
    };
    let nanoseconds = i32::try_from(stat.st_mtime_nsec).unwrap_or(0);
    let stat = PathStat {
        name: base(path).to_owned(),
        size: stat.st_size,
        mode: go_mode(&stat),
        mtime: Timestamp::new(stat.st_mtime, nanoseconds).unwrap_or(Timestamp::UNIX_EPOCH),
        link_target,
    };
    Ok(Found { stat, handle, packed_as: base(&absolute).into() })
}

fn missing(error: hostfs::Error, op: &str, absolute: &str, path: &str, container: &str) -> Error {
    match error.kind() {
        io::ErrorKind::NotFound => {
            Error::NotFound(format!("Could not find the file {path} in container {container}"))
        }
        io::ErrorKind::NotADirectory => Error::System(format!("{op} {absolute}: not a directory")),
        _ => error.into(),
    }
}

fn write(
    root: &Root,
    record: &Record,
    container: &str,
    target: &ArchiveTarget,
    ids: Option<Ids>,
    input: streams::BlockingReader,
) -> Result<()> {
    let wanted = absolute(&target.path);
    let directory = root
        .open_at(Path::new(&wanted), OFlags::PATH, Mode::empty())
        .map_err(|error| missing(error, "lstat", &wanted, &target.path, container))?;
    let stat = rustix::fs::fstat(&directory).map_err(io::Error::from)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return Err(Error::Invalid("extraction point is not a directory".into()));
    }
    let resolved = resolve(root, Path::new(&wanted));
    check_writable(record, &resolved)?;
    let owners = if target.own && !record.spec.user.is_empty() {
        let (uid, gid) = user(root, &record.spec.user)?;
        Owners::Fixed { uid, gid }
    } else {
        Owners::Stream
    };
    let options = Options { owners, keep_types: target.keep_types, ids, ..Options::default() };
    let mut input = io::BufReader::with_capacity(256 * 1024, input);
    // Nothing at all is an archive of nothing.
    if io::BufRead::fill_buf(&mut input).map_err(Error::Kernel)?.is_empty() {
        return Ok(());
    }
    let stream = wharf_image::decoded(Box::new(input), "archive")?;
    let base = resolved.strip_prefix("/").unwrap_or(&resolved);
    let base = if base.as_os_str().is_empty() { Path::new(".") } else { base };
    extract(&mut Reader::new(stream), root, base, &options).map(drop).map_err(|error| match error {
        // Something is mounted there. Docker's words.
        extract::Error::File(error) if error.kind() == io::ErrorKind::ResourceBusy => {
            Error::System(format!("RemoveAll {}: device or resource busy", error.path.display()))
        }
        extract::Error::File(error) => Error::File(error),
        refused => Error::Invalid(refused.to_string()),
    })
}

/// Refuses what is mounted read-only, and a read-only root.
fn check_writable(record: &Record, resolved: &Path) -> Result<()> {
    // The innermost mount is the one that counts.
    let mounts = record.mounts.iter().filter(|mount| resolved.starts_with(&mount.target));
    match mounts.max_by_key(|mount| mount.target.len()) {
        Some(mount) if mount.read_only => Err(Error::Invalid("mounted volume is marked read-only".into())),
        None if record.spec.host.readonly_rootfs => {
            Err(Error::Invalid("container rootfs is marked read-only".into()))
        }
        _ => Ok(()),
    }
}

/// User and group of a container's `user[:group]`, looked up in its own file.
fn user(root: &Root, text: &str) -> Result<(u32, u32)> {
    let (name, group) = text.split_once(':').unwrap_or((text, ""));
    let users = root.read_file(Path::new("/etc/passwd"), USERS).unwrap_or_default();
    let users = String::from_utf8_lossy(&users).into_owned();
    let entry = users
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields.len() > 3 && (fields[0] == name || fields[2] == name));
    let number = |text: &str| text.parse::<u32>().ok().filter(|id| *id != u32::MAX);
    let found = match &entry {
        Some(fields) => number(fields[2]).zip(number(fields[3])),
        None => number(name).map(|uid| (uid, 0)),
    };
    let (uid, gid) = found.ok_or_else(|| {
        Error::NotFound(format!("unable to find user {name}: no matching entries in passwd file"))
    })?;
    Ok((uid, number(group).unwrap_or(gid)))
}

/// A path from the root without `.`, `..` and doubled slashes, by its text; a slash or dot at the end stays, because
/// it says that a directory is meant.
fn absolute(path: &str) -> String {
    let mut clean = PathBuf::from("/");
    for component in Path::new(path).components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => drop(clean.pop()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    let mut clean = clean.to_string_lossy().into_owned();
    let separator = if clean == "/" { "" } else { "/" };
    if base(path) == "." {
        clean = format!("{clean}{separator}.");
    } else if path.ends_with('/') {
        clean.push_str(separator);
    }
    clean
}

/// The last name of a path, as Go's `filepath.Base` has it.
fn base(path: &str) -> &str {
    let trimmed = path.trim_end_matches('/');
    match trimmed.rsplit_once('/') {
        _ if trimmed.is_empty() => "/",
        Some((_, base)) => base,
        None => trimmed,
    }
}

/// Where a path leads in the tree once all links are followed, as far as there is something. For showing and for
/// comparing with the container's configuration; what is opened is resolved by the kernel.
fn resolve(root: &Root, path: &Path) -> PathBuf {
    let parts = |path: &Path| path.components().map(|part| part.as_os_str().to_owned()).collect::<Vec<_>>();
    let mut left: VecDeque<OsString> = parts(path).into();
    let mut resolved = PathBuf::from("/");
    let mut links = 0;
    while let Some(part) = left.pop_front() {
        match Path::new(&part).components().next() {
            Some(Component::RootDir) => resolved = PathBuf::from("/"),
            Some(Component::ParentDir) => drop(resolved.pop()),
            Some(Component::Normal(name)) => {
                let next = resolved.join(name);
                match link_at(root, &next) {
                    Some(target) if links < MAX_LINKS => {
                        links += 1;
                        for part in parts(Path::new(&target)).into_iter().rev() {
                            left.push_front(part);
                        }
                    }
                    _ => resolved = next,
                }
            }
            _ => {}
        }
    }
    resolved
}

fn link_at(root: &Root, path: &Path) -> Option<OsString> {
    let handle = root.open_at(path, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty()).ok()?;
    match rustix::fs::readlinkat(&handle, c"", Vec::new()) {
        Ok(target) => Some(OsString::from_vec(target.into_bytes())),
        Err(Errno::NOENT | Errno::INVAL) => None,
        Err(_) => None,
    }
}

/// Go's `os.FileMode`.
fn go_mode(stat: &Stat) -> u32 {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => 1 << 31,
        FileType::Symlink => 1 << 27,
        FileType::BlockDevice => 1 << 26,
        FileType::CharacterDevice => 1 << 26 | 1 << 21,
        FileType::Fifo => 1 << 25,
        FileType::Socket => 1 << 24,
        _ => 0,
    };
    let bits = [(0o4000, 1 << 23), (0o2000, 1 << 22), (0o1000, 1 << 20)];
    let special = bits.iter().filter(|(bit, _)| stat.st_mode & bit != 0).map(|(_, go)| go).sum::<u32>();
    kind | special | (stat.st_mode & 0o777)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_by_their_text_and_keep_their_end() {
        for (path, wanted, name) in [
            ("/", "/", "/"),
            ("d/f", "/d/f", "f"),
            ("/d/", "/d/", "d"),
            ("/d/.", "/d/.", "."),
            ("/.", "/.", "."),
            (".", "/.", "."),
            ("/d/sub/..", "/d", ".."),
            ("/../../d//f", "/d/f", "f"),
            ("/d/sub/../", "/d/", ".."),
        ] {
            assert_eq!((absolute(path).as_str(), base(path)), (wanted, name), "{path}");
        }
    }

    #[test]
    fn links_are_resolved_within_the_root() {
        let scratch = std::env::temp_dir().join(format!("wharf-resolve-{}", std::process::id()));
        std::fs::create_dir_all(scratch.join("d")).unwrap();
        let link = |target: &str, name: &str| std::os::unix::fs::symlink(target, scratch.join(name)).unwrap();
        link("../../../../d/f", "esc");
        link("/d", "abs");
        link("nowhere", "broken");
        link("loop", "loop");
        let root = Root::open(&scratch).unwrap();
        for (path, wanted) in [
            ("/esc", "/d/f"),
            ("/abs/x/../y", "/d/y"),
            ("/broken", "/nowhere"),
            ("/loop", "/loop"),
            ("/", "/"),
        ] {
            assert_eq!(resolve(&root, Path::new(path)), Path::new(wanted), "{path}");
        }
        std::fs::remove_dir_all(&scratch).unwrap();
    }
}
