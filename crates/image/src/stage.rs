//! One pass over a layer: read once, hashed, stored and unpacked at the same time on two threads.

use std::io::{self, BufRead, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use sha2::{Digest as _, Sha256};
use wharf_content::{Ingest, Staged};
use wharf_linux::hostfs;
use wharf_model::Digest;

use crate::compress::{Compression, Decoder};
use crate::limits::Limits;
use crate::pipe::{CHUNK, Sink, Source, pipe};
use crate::tar;
use crate::unpack::{Unpacked, unpack};
use crate::{Error, Result};

/// Bytes of a blob after which the kernel is asked to start writing them to disk.
const WRITE_BACK: u64 = 16 << 20;

/// A directory `snapshots/<n>` without a row yet. Dropped, it goes away.
#[derive(Debug)]
pub(crate) struct StagedDirectory {
    pub(crate) number: i64,
    path: PathBuf,
    keep: bool,
}

impl StagedDirectory {
    /// Makes `snapshots/<number>/fs`.
    pub(crate) fn create(snapshots: &Path, number: i64) -> Result<Self> {
        let path = snapshots.join(number.to_string());
        hostfs::create_dir(&path, 0o700)?;
        let staged = Self { number, path, keep: false };
        hostfs::create_dir(&staged.files(), 0o755)?;
        Ok(staged)
    }

    /// The layer's files.
    pub(crate) fn files(&self) -> PathBuf {
        self.path.join("fs")
    }

    /// It has a row now.
    pub(crate) fn keep(&mut self) {
        self.keep = true;
    }
}

impl Drop for StagedDirectory {
    fn drop(&mut self) {
        if !self.keep
            && let Err(error) = hostfs::remove_dir_all(&self.path)
        {
            tracing::warn!("cannot remove an unfinished layer, the next start will: {error}");
        }
    }
}

/// A layer's blob and files, neither of them visible yet.
#[derive(Debug)]
pub(crate) struct StagedLayer {
    pub(crate) blob: Staged,
    pub(crate) compression: Compression,
    /// The digest of the decompressed bytes.
    pub(crate) diff_id: Digest,
    pub(crate) directory: StagedDirectory,
    pub(crate) unpacked: Unpacked,
    /// The tar stream said that it is over.
    pub(crate) has_end_mark: bool,
}

/// What the unpacking thread found out.
#[derive(Debug)]
struct Outcome {
    unpacked: Unpacked,
    /// Only where it is not the blob's own digest.
    diff_id: Option<Digest>,
    has_end_mark: bool,
}

/// Reads up to one chunk.
pub(crate) fn read_chunk(input: &mut dyn BufRead) -> Result<Vec<u8>> {
    let mut chunk = Vec::with_capacity(CHUNK);
    while chunk.len() < CHUNK {
        let available = match input.fill_buf() {
            Ok(available) => available,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Error::input(error)),
        };
        if available.is_empty() {
            break;
        }
        let taken = available.len().min(CHUNK - chunk.len());
        chunk.extend_from_slice(&available[..taken]);
        input.consume(taken);
    }
    Ok(chunk)
}

/// Takes a layer in, its blob into `ingest`: `first` is the chunk that was read to find out its `compression`.
pub(crate) fn take_layer(
    mut ingest: Ingest,
    directory: StagedDirectory,
    first: Vec<u8>,
    input: &mut dyn BufRead,
    compression: Compression,
    limits: &Limits,
    on: &mut dyn FnMut(u64),
) -> Result<StagedLayer> {
    let files = directory.files();
    let (sink, source) = pipe();
    let outcome = thread::scope(|scope| {
        let worker = scope.spawn(|| unpack_stream(Box::new(source), compression, &files, limits));
        let copied = copy(sink, &mut ingest, first, input, on);
        let worked = worker.join().unwrap_or_else(|_| Err(Error::Damaged("unpacking panicked".to_owned())));
        // The reader's failure is the cause of the unpacker's, never the other way round.
        copied.and(worked)
    })?;
    let blob = ingest.finish();
    let diff_id = outcome.diff_id.unwrap_or(*blob.digest());
    let Outcome { unpacked, has_end_mark, .. } = outcome;
    Ok(StagedLayer { blob, compression, diff_id, directory, unpacked, has_end_mark })
}

/// Hands every chunk to the unpacking thread and stores it. Owns the sink: returning ends the other thread's stream.
fn copy(
    sink: Sink,
    ingest: &mut Ingest,
    first: Vec<u8>,
    input: &mut dyn BufRead,
    on: &mut dyn FnMut(u64),
) -> Result<()> {
    let mut chunk = Arc::new(first);
    let mut written_back = 0;
    while !chunk.is_empty() {
        if !sink.send(Arc::clone(&chunk)) {
            // The unpacker failed; its error tells why.
            return Ok(());
        }
        store_chunk(ingest, &chunk, &mut written_back)?;
        on(ingest.size());
        chunk = Arc::new(read_chunk(input)?);
    }
    sink.end();
    Ok(())
}

/// Unpacks a layer whose blob is there already.
pub(crate) fn unpack_again(
    blob: std::fs::File,
    directory: &StagedDirectory,
    expected: &Digest,
    limits: &Limits,
) -> Result<Unpacked> {
    let mut input = io::BufReader::with_capacity(CHUNK, blob);
    let start = input.fill_buf().map_err(Error::input)?;
    let compression = Compression::detect(start, "layer")?;
    let mut stream = Hashed::new(Decoder::new(Box::new(input), compression, limits)?, true);
    let (unpacked, _) = unpack_to_end(&mut stream, &directory.files(), limits)?;
    match stream.digest() {
        Some(found) if found != *expected => {
            Err(Error::Mismatch { what: "layer".to_owned(), expected: *expected, found })
        }
        _ => Ok(unpacked),
    }
}

fn store_chunk(ingest: &mut Ingest, chunk: &[u8], written_back: &mut u64) -> Result<()> {
    ingest.write_all(chunk).map_err(|error| ingest.failure(error))?;
    if ingest.size() - *written_back >= WRITE_BACK {
        ingest.write_back(*written_back);
        *written_back = ingest.size();
    }
    Ok(())
}

fn unpack_stream(
    source: Box<Source>,
    compression: Compression,
    files: &Path,
    limits: &Limits,
) -> Result<Outcome> {
    let compressed = compression != Compression::None;
    let mut stream = Hashed::new(Decoder::new(source, compression, limits)?, compressed);
    let (unpacked, has_end_mark) = unpack_to_end(&mut stream, files, limits)?;
    Ok(Outcome { unpacked, diff_id: stream.digest(), has_end_mark })
}

/// Unpacks, then reads what follows the archive, which belongs to the digest too.
fn unpack_to_end<R: BufRead>(stream: &mut R, files: &Path, limits: &Limits) -> Result<(Unpacked, bool)> {
    let mut reader = tar::Reader::new(&mut *stream);
    let unpacked = unpack(&mut reader, files, limits)?;
    let has_end_mark = reader.has_end_mark();
    loop {
        let taken = match stream.fill_buf() {
            Ok([]) => break,
            Ok(rest) => rest.len(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => return Err(Error::input(error)),
        };
        stream.consume(taken);
    }
    Ok((unpacked, has_end_mark))
}

/// Hashes what is taken from a stream.
struct Hashed<R> {
    input: R,
    hasher: Option<Sha256>,
}

impl<R: BufRead> Hashed<R> {
    fn new(input: R, wanted: bool) -> Self {
        Self { input, hasher: wanted.then(Sha256::new) }
    }

    fn digest(self) -> Option<Digest> {
        Some(Digest::from_sha256(self.hasher?.finalize().into()))
    }
}

impl<R: BufRead> BufRead for Hashed<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.input.fill_buf()
    }

    fn consume(&mut self, taken: usize) {
        if let Some(hasher) = &mut self.hasher {
            // What was filled before is still there: asking again reads nothing.
            if let Ok(buffer) = self.input.fill_buf() {
                hasher.update(&buffer[..taken.min(buffer.len())]);
            }
        }
        self.input.consume(taken);
    }
}

impl<R: BufRead> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let taken = available.len().min(buffer.len());
        buffer[..taken].copy_from_slice(&available[..taken]);
        self.consume(taken);
        Ok(taken)
    }
}
