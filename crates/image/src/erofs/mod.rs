//! Layers as files: one EROFS image that holds the layer's tar stream as it came and an index of it.
//!
//! Layout of `snapshots/<n>/layer.erofs`:
//! ```text
//!      0   our header: how long the stream is, the digest of the index
//!   1024   the superblock
//!   4096   the tar stream, to its last byte: its digest is the layer's diff id
//!     ..   from the next block on, the index: large directories, then inodes with what is small
//! ```
//! A file of the layer is an inode that points into the stream, so nothing is written twice; blocks have the size of
//! tar's, so every file begins at one. Stretches of zeros in the stream are holes.
//!
//! Invariants: the header is written last, when the layer is made durable, and before its row is committed. The file
//! never changes after that. It is mounted at `<n>/fs` at most once, so that all containers share its pages.
//!
//! Locking: one lock orders mounting within the process; a data root has one process.
//!
//! Crash: a file without a row is removed by the sweep. Mounts outlive the engine's death and are used again, or are
//! gone after a reboot and made again.

mod format;
mod mount;
mod read;
mod recorder;
mod tree;
mod write;

use std::fs::File;
use std::io::{self, BufRead, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use wharf_linux::hostfs;
use wharf_model::Digest;

use crate::directory::Directories;
use crate::layer::{Below, FILES, Format, Implied, Inherited, LayerFormat, Soundness, UnpackedLayer, drain};
use crate::limits::{Limits, Spent};
use crate::tar;
use crate::unpack::broken;
use crate::{Error, Result};

use format::{BLOCK, MODE_AT, OWNER_AT, SUPERBLOCK, SUPERBLOCK_AT};
use read::Image;
use recorder::Recorder;
use tree::{DIRECTORY, Stop, Tree};
use write::Plan;

pub(crate) use mount::is_supported;

/// The name of the image.
const IMAGE: &str = "layer.erofs";
/// Where the tar stream begins.
const STREAM_AT: u64 = 4096;

/// The format.
#[derive(Debug)]
pub(crate) struct Erofs;

impl LayerFormat for Erofs {
    fn unpack(&self, tar: &mut dyn BufRead, place: &Path, limits: &Limits) -> Result<UnpackedLayer> {
        let path = place.join(IMAGE);
        let mut recorder = Recorder::create(tar, &path, STREAM_AT, limits.layer_bytes)?;
        let built = build(&mut recorder, place, limits);
        // What the disk refused shows up as a stream that cannot be read.
        recorder.check()?;
        match built {
            Ok(unpacked) => Ok(unpacked),
            Err(Stop::Failed(error)) => Err(error),
            Err(Stop::Unsupported(why)) => {
                tracing::debug!("{} becomes a directory because of {why}", place.display());
                let unpacked = Directories.unpack(&mut recorder.replay()?, place, limits)?;
                hostfs::remove_file(&path)?;
                Ok(unpacked)
            }
        }
    }

    fn describe(&self, place: &Path, directories: &[(&Implied, Inherited)]) -> Result<()> {
        let path = place.join(IMAGE);
        let file = hostfs::open_to_change(&path)?;
        for (implied, from) in directories {
            let mode = DIRECTORY | (from.mode & 0o7777) as u16;
            let owner = format::owner_and_times(from.uid, from.gid, from.mtime);
            file.write_all_at(&mode.to_le_bytes(), implied.at + MODE_AT)
                .and_then(|()| file.write_all_at(&owner, implied.at + OWNER_AT))
                .map_err(|error| hostfs::Error::new("write", &path, error))?;
        }
        Ok(())
    }

    fn below(&self, place: &Path) -> Result<Box<dyn Below>> {
        let path = place.join(IMAGE);
        let image = Image::open(hostfs::open(&path)?);
        Ok(Box::new(image.map_err(|error| hostfs::Error::new("read", &path, error))?))
    }

    fn sync(&self, places: &[PathBuf]) -> Result<()> {
        for place in places {
            let path = place.join(IMAGE);
            let file = hostfs::open_to_change(&path)?;
            seal(&file).map_err(|error| hostfs::Error::new("sync", &path, error))?;
            hostfs::sync_dir(place)?;
        }
        // All of them lie in the same directory.
        places.first().and_then(|place| place.parent()).map_or(Ok(()), |above| Ok(hostfs::sync_dir(above)?))
    }

    fn attach(&self, place: &Path) -> Result<()> {
        mount::attach(&place.join(IMAGE), &place.join(FILES))
    }

    fn detach(&self, place: &Path) -> Result<()> {
        mount::detach(&place.join(FILES))
    }

    fn stream(&self, place: &Path) -> Result<Option<Box<dyn Read>>> {
        let path = place.join(IMAGE);
        let mut file = hostfs::open(&path)?;
        let open = |file: &mut File| {
            let header = Header::read(file)?;
            file.seek(SeekFrom::Start(STREAM_AT))?;
            Ok::<_, io::Error>(header.stream)
        };
        let length = open(&mut file).map_err(|error| hostfs::Error::new("read", &path, error))?;
        Ok(Some(Box::new(file.take(length))))
    }

    fn verify(&self, place: &Path, diff: &Digest) -> Result<Soundness> {
        let path = place.join(IMAGE);
        let file = hostfs::open(&path)?;
        Ok(check(&file, diff).map_err(|error| hostfs::Error::new("read", &path, error))?)
    }
}

/// Records the stream and writes the image around it.
fn build(recorder: &mut Recorder<'_>, place: &Path, limits: &Limits) -> Result<UnpackedLayer, Stop> {
    let mut reader = tar::Reader::new(&mut *recorder);
    let tree = read_tree(&mut reader, limits)?;
    let has_end_mark = reader.has_end_mark();
    drain(recorder).map_err(Error::input)?;
    let stream = recorder.recorded();
    let plan = Plan::new(&tree, STREAM_AT, index_at(stream))
        .ok_or(Stop::Unsupported("more data or attributes than an image can address"))?;
    let implied = plan.implied().ok_or(Stop::Unsupported("the length of the names of directories"))?;
    recorder.finish(|file| write_image(file, &plan, stream, uuid(place)))?;
    Ok(UnpackedLayer {
        format: Format::Erofs,
        implied: implied.into_iter().map(|(path, at)| Implied { path, at }).collect(),
        size: plan.size,
        opaque_root: tree.opaque_root,
        has_end_mark,
    })
}

fn read_tree<R: BufRead>(reader: &mut tar::Reader<R>, limits: &Limits) -> Result<Tree, Stop> {
    let mut tree = Tree::new();
    let mut spent = Spent::new(limits);
    while let Some(entry) = reader.next_entry().map_err(broken)? {
        tree.add(&entry, reader.offset(), &mut spent).map_err(|stop| match stop {
            Stop::Failed(error) => Stop::Failed(error.in_entry(&entry.path)),
            other => other,
        })?;
    }
    // The last page of a mapped file shows what follows it in its block.
    if reader.padding_is_zero() { Ok(tree) } else { Err(Stop::Unsupported("padding that is not zero")) }
}

fn write_image(mut file: &File, plan: &Plan<'_>, stream: u64, uuid: [u8; 16]) -> io::Result<()> {
    file.seek(SeekFrom::Start(index_at(stream)))?;
    let mut out = BufWriter::with_capacity(256 * 1024, file);
    plan.write(&mut out)?;
    out.flush()?;
    file.write_all_at(&plan.superblock(uuid).to_bytes(), SUPERBLOCK_AT)?;
    file.write_all_at(&Header { stream, index: [0; 32] }.to_bytes(), 0)
}

/// The header gets the digest of the index as it is now, and everything goes to disk.
fn seal(file: &File) -> io::Result<()> {
    let header = Header::read(file)?;
    let header = Header { index: index_digest(file, header.stream)?, ..header };
    file.write_all_at(&header.to_bytes(), 0)?;
    file.sync_data()
}

fn check(file: &File, diff: &Digest) -> io::Result<Soundness> {
    let header = match Header::read(file) {
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            return Ok(Soundness::Damaged(error.to_string()));
        }
        other => other?,
    };
    let found = hash(file, Sha256::new(), STREAM_AT, header.stream)?;
    let found = Digest::from_sha256(found.finalize().into());
    if found != *diff {
        return Ok(Soundness::Damaged(format!("its tar stream has the digest {found} instead of {diff}")));
    }
    if index_digest(file, header.stream)? != header.index {
        return Ok(Soundness::Damaged("the index of its files is not what was written".to_owned()));
    }
    Ok(Soundness::Sound)
}

/// Where the index of a stream of that many bytes begins.
fn index_at(stream: u64) -> u64 {
    (STREAM_AT + stream).next_multiple_of(BLOCK as u64)
}

/// Covers the superblock and the index.
fn index_digest(file: &File, stream: u64) -> io::Result<[u8; 32]> {
    let hasher = hash(file, Sha256::new(), SUPERBLOCK_AT, SUPERBLOCK as u64)?;
    let at = index_at(stream);
    let end = file.metadata()?.len();
    Ok(hash(file, hasher, at, end.saturating_sub(at))?.finalize().into())
}

fn hash(file: &File, mut hasher: Sha256, mut at: u64, mut length: u64) -> io::Result<Sha256> {
    let mut buffer = vec![0; 256 * 1024];
    while length > 0 {
        let part = buffer.len().min(usize::try_from(length).unwrap_or(usize::MAX));
        let read = file.read_at(&mut buffer[..part], at)?;
        if read == 0 {
            break;
        }
        hasher.update(&buffer[..read]);
        at += read as u64;
        length -= read as u64;
    }
    Ok(hasher)
}

/// Layers of one engine have different numbers; that is all overlayfs asks of their ids.
fn uuid(place: &Path) -> [u8; 16] {
    let name = place.file_name().unwrap_or_default();
    let mut uuid = [0; 16];
    uuid.copy_from_slice(&Sha256::digest(name.as_encoded_bytes())[..16]);
    uuid
}

/// What we keep in the first bytes, which the file system leaves alone.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Header {
    /// Bytes of the tar stream.
    stream: u64,
    /// Digest of superblock and index.
    index: [u8; 32],
}

impl Header {
    const MARK: [u8; 16] = *b"wharf layer v1\n\0";
    const SIZE: usize = 56;

    fn to_bytes(&self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        bytes[..16].copy_from_slice(&Self::MARK);
        bytes[16..24].copy_from_slice(&self.stream.to_le_bytes());
        bytes[24..].copy_from_slice(&self.index);
        bytes
    }

    fn read(file: &File) -> io::Result<Self> {
        let bad = || io::Error::new(io::ErrorKind::InvalidData, "the header of its file is damaged");
        let mut bytes = [0; Self::SIZE];
        file.read_exact_at(&mut bytes, 0).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => bad(),
            _ => error,
        })?;
        let (mark, rest) = bytes.split_first_chunk::<16>().ok_or_else(bad)?;
        let (stream, index) = rest.split_first_chunk::<8>().ok_or_else(bad)?;
        let stream = u64::from_le_bytes(*stream);
        if *mark != Self::MARK || stream > file.metadata()?.len() {
            return Err(bad());
        }
        Ok(Self { stream, index: index.try_into().map_err(|_| bad())? })
    }
}
