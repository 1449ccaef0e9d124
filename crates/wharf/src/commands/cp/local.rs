//! The local side of a copy. A tree is packed and a stream extracted by descriptor: neither who changes the tree
//! meanwhile nor who sent the stream decides what else is read or written.

use std::{
    fs, io,
    io::{BufReader, PipeReader, PipeWriter, Read, Write},
    os::fd::OwnedFd,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
};

use rustix::fs::{Mode, OFlags};
use wharf_api::client::Response;
use wharf_archive::{
    extract::{self, Names, Options, Owners, extract},
    pack::{Holes, Packed, Packer},
    tar::Reader,
};
use wharf_linux::confined::Root;

use super::paths::{self, End};
use crate::{
    failure::{Failure, Result},
    syntax::environment::plain,
};

/// Links followed at a destination at most.
const MAX_LINKS: usize = 255;

/// A local path as the user meant it: absolute, with the end it had.
pub(super) fn absolute(path: &str) -> Result<String> {
    let absolute = std::path::absolute(path)?;
    Ok(paths::with_end_of(paths::clean(&absolute.to_string_lossy()), path))
}

/// The local source of a copy: links above it are followed, itself only if asked, or if its path ends like a
/// directory's.
pub(super) fn source(path: &str, follow: bool) -> Result<End> {
    let failed =
        |op: &str, path: &str, error: &io::Error| Failure::message(format!("{op} {path}: {}", plain(error)));
    let mut end = if follow {
        let target = fs::canonicalize(path).map_err(|error| failed("lstat", path, &error))?;
        paths::followed(path, target.to_string_lossy().into_owned())
    } else {
        // As it was written, so that the name after the last slash is what is copied.
        let (parent, name) = path.rsplit_once('/').unwrap_or((".", path));
        let parent = if parent.is_empty() { "/" } else { parent };
        let resolved = fs::canonicalize(parent).map_err(|error| failed("lstat", parent, &error))?;
        let resolved = resolved.to_string_lossy();
        let joined = format!("{}/{name}", resolved.trim_end_matches('/'));
        let called = (path.ends_with('/') && paths::base(path) != paths::base(&joined))
            .then(|| paths::base(path).to_owned());
        End { path: joined, called, ..End::default() }
    };
    let meta = fs::symlink_metadata(&end.path).map_err(|error| failed("lstat", &end.path, &error))?;
    (end.exists, end.is_directory) = (true, meta.is_dir());
    Ok(end)
}

/// The local destination of a copy. Links are followed, also to where nothing is yet; the directory above must be there.
pub(super) fn destination(path: &str) -> Result<End> {
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        let meta = match fs::symlink_metadata(&path) {
            Ok(meta) => meta,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let (parent, _) = paths::split(&path);
                let parent = fs::metadata(&parent)
                    .map_err(|error| Failure::message(format!("stat {parent}: {}", plain(&error))))?;
                if !parent.is_dir() {
                    return Err(Failure::message("not a directory"));
                }
                return Ok(End { path, ..End::default() });
            }
            Err(error) => return Err(Failure::message(format!("lstat {path}: {}", plain(&error)))),
        };
        if !meta.is_symlink() {
            return Ok(End { path, exists: true, is_directory: meta.is_dir(), called: None });
        }
        let target = fs::read_link(&path)?;
        path = paths::link_target(&path, &target.to_string_lossy());
    }
    Err(Failure::message(format!("too many symlinks in {path}")))
}

/// Refuses to write where neither a file nor a directory is or can be.
pub(super) fn check_output(path: &str) -> Result {
    let (parent, _) = paths::split(path);
    if !Path::new(&parent).exists() {
        return Err(Failure::message(format!("invalid output path: directory {parent:?} does not exist")));
    }
    match fs::metadata(path) {
        Ok(meta) if !meta.is_dir() && !meta.is_file() => Err(Failure::message(format!(
            "invalid output path: {path:?} must be a directory or a regular file: got a device"
        ))),
        _ => Ok(()),
    }
}

/// A tree as a tar stream, packed by a thread of its own.
#[derive(Debug)]
pub(super) struct Packing {
    pipe: PipeReader,
    thread: Option<JoinHandle<io::Result<()>>>,
    /// Bytes given so far.
    pub(super) given: Arc<AtomicU64>,
}

/// Packs what is at `path` under `name`, or its own.
pub(super) fn pack(path: &str, name: Option<&str>) -> Result<Packing> {
    let (pipe, writer) = io::pipe()?;
    let (parent, base) = paths::split(path);
    let name = name.unwrap_or(&base).to_owned();
    let parent = open_directory(&parent)?;
    let thread = thread::spawn(move || pack_into(&writer, &parent, &base, &name).map_err(io::Error::other));
    Ok(Packing { pipe, thread: Some(thread), given: Arc::default() })
}

fn pack_into(
    writer: &PipeWriter,
    parent: &OwnedFd,
    base: &str,
    name: &str,
) -> wharf_archive::pack::Result<()> {
    use std::os::fd::AsFd;
    // In whole pages: the headers alone would be a call each.
    let mut packer = Packer::new(io::BufWriter::with_capacity(64 << 10, writer), Holes::Expand);
    let base = if base == "/" { "." } else { base };
    if let Packed::Directory(directory) = packer.entry(parent.as_fd(), base.as_ref(), name.as_bytes())? {
        packer.beneath(directory, name.as_bytes())?;
    }
    packer.finish()?.flush().map_err(wharf_archive::pack::Error::Output)
}

impl Read for Packing {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.pipe.read(buffer)?;
        self.given.fetch_add(read as u64, Ordering::Relaxed);
        // At the end: a stream that is not whole must not look as if it were.
        if read == 0
            && !buffer.is_empty()
            && let Some(thread) = self.thread.take()
        {
            thread.join().map_err(|_| io::Error::other("packing panicked"))??;
        }
        Ok(read)
    }
}

/// Extracts what the engine sends into a local directory; returns how much it sent.
pub(super) async fn receive(mut response: Response, directory: &str, names: Names) -> Result<u64> {
    let root = Root::from_fd(open_directory(directory)?, Path::new(directory)).without_links();
    let (reader, mut pipe) = io::pipe()?;
    let thread = thread::spawn(move || {
        let options =
            Options { owners: Owners::Own, keep_types: true, refuse_outward_links: true, names, ids: None };
        let mut input = BufReader::with_capacity(64 << 10, reader);
        extract(&mut Reader::new(&mut input), &root, Path::new("."), &options)?;
        // What follows the archive's end is of no interest, and must not stop the sender.
        io::copy(&mut input, &mut io::sink()).map_err(wharf_archive::tar::TarError::from)?;
        Ok::<_, extract::Error>(())
    });
    let mut received = 0;
    let sent = loop {
        match response.chunk().await {
            Ok(Some(bytes)) => {
                received += bytes.len() as u64;
                if pipe.write_all(&bytes).is_err() {
                    // The other side gave up; its reason is the one to tell.
                    break Ok(());
                }
            }
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    drop(pipe);
    let extracted = thread.join().map_err(|_| Failure::message("extracting panicked"))?;
    sent?;
    extracted.map_err(|error| Failure::message(in_directory(error, directory).to_string()))?;
    Ok(received)
}

/// Names what is in the way by its whole path.
fn in_directory(error: extract::Error, directory: &str) -> extract::Error {
    let directory = Path::new(directory);
    match error {
        extract::Error::Link { path, target } => extract::Error::Link { path: directory.join(path), target },
        extract::Error::TypeChange { existing, new, path, .. } => {
            extract::Error::TypeChange { existing, new, path, root: directory.to_owned() }
        }
        other => other,
    }
}

fn open_directory(path: &str) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(rustix::fs::CWD, path, flags, Mode::empty())
        .map_err(|error| Failure::message(format!("open {path}: {}", plain(&error.into()))))
}
