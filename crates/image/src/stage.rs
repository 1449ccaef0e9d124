//! One pass over a layer: read once, and hashed, stored and unpacked at the same time.
//!
//! Up to three threads: the caller's takes the bytes as they come, hashes and stores them; one decompresses; one hashes
//! what comes out and unpacks it. Chunks go round between them and are not copied. A download is different in one point:
//! it is unpacked from its file, so that the network never waits for the unpacker ([`crate::follow`]).

use std::io::{self, BufRead, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use wharf_content::{Ingest, Staged};
use wharf_linux::hostfs;
use wharf_model::Digest;

use crate::collect::Trash;
use crate::compress::{Compression, Decoder};
use crate::follow::{Follow, Written};
use crate::layer::{FILES, Format, UnpackedLayer};
use crate::limits::Limits;
use crate::pipe::{CHUNK, Sink, pipe};
use crate::{Error, Result};

/// Bytes of a blob after which the kernel is asked to start writing them to disk.
const WRITE_BACK: u64 = 16 << 20;

/// A directory `snapshots/<n>` without a row yet. Dropped, it goes away.
#[derive(Debug)]
pub(crate) struct StagedDirectory {
    pub(crate) number: i64,
    /// What to make of a layer that can be had in it.
    format: Format,
    path: PathBuf,
    keep: bool,
    /// Takes what cannot be removed at once.
    trash: Arc<Trash>,
}

impl StagedDirectory {
    /// Makes `snapshots/<number>/fs`.
    pub(crate) fn create(snapshots: &Path, number: i64, format: Format, trash: &Arc<Trash>) -> Result<Self> {
        let path = snapshots.join(number.to_string());
        hostfs::create_dir(&path, 0o700)?;
        let staged = Self { number, format, path, keep: false, trash: Arc::clone(trash) };
        hostfs::create_dir(&staged.path.join(FILES), 0o755)?;
        Ok(staged)
    }

    /// The directory itself.
    pub(crate) fn place(&self) -> &Path {
        &self.path
    }

    /// It has a row now.
    pub(crate) fn keep(&mut self) {
        self.keep = true;
    }

    fn unpack(&self, tar: &mut dyn BufRead, limits: &Limits) -> Result<UnpackedLayer> {
        self.format.layers().unpack(tar, &self.path, limits)
    }
}

impl Drop for StagedDirectory {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        let detached = self.format.layers().detach(&self.path);
        if let Err(error) = detached.and_then(|()| Ok(hostfs::remove_dir_all(&self.path)?)) {
            tracing::warn!("cannot remove an unfinished layer, it will be tried again: {error}");
            let _tried_again = self.trash.take(&self.path);
            self.trash.empty_in_background();
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
    pub(crate) unpacked: UnpackedLayer,
}

/// What the unpacking thread found out.
#[derive(Debug)]
struct Outcome {
    unpacked: UnpackedLayer,
    /// Only where it is not the blob's own digest.
    diff_id: Option<Digest>,
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
    let (sink, source) = pipe();
    let Outcome { unpacked, diff_id } = thread::scope(|scope| {
        let worker = scope.spawn(|| unpack_stream(source, compression, &directory, limits));
        let copied = copy(sink, &mut ingest, first, input, on);
        let worked = worker.join().unwrap_or_else(|_| Err(Error::Damaged("unpacking panicked".to_owned())));
        // The reader's failure is the cause of the unpacker's, never the other way round.
        copied.and(worked)
    })?;
    let blob = ingest.finish();
    let diff_id = diff_id.unwrap_or(*blob.digest());
    Ok(StagedLayer { blob, compression, diff_id, directory, unpacked })
}

/// Takes a layer in from the network, going on with what `ingest` kept of an earlier attempt. `frames` is asked for what
/// follows that; `on` learns how many bytes are unpacked.
pub(crate) fn take_download(
    mut ingest: Ingest,
    directory: StagedDirectory,
    frames: &mut dyn FnMut() -> Result<Option<Bytes>>,
    limits: &Limits,
    on: &(dyn Fn(u64) + Sync),
) -> Result<StagedLayer> {
    let written = Written::new(ingest.kept());
    let file = ingest.kept_reader()?;
    let (compression, Outcome { unpacked, diff_id }) = thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let mut source = Follow::new(file, &written, on);
            let compression = Compression::detect(source.start().map_err(Error::input)?, "layer")?;
            Ok((compression, unpack_stream(source, compression, &directory, limits)?))
        });
        let stored = store_download(&mut ingest, frames, &written);
        written.end(stored.is_ok());
        let worked = worker.join().unwrap_or_else(|_| Err(Error::Damaged("unpacking panicked".to_owned())));
        // The network's failure is the cause of the unpacker's, never the other way round.
        stored.and(worked)
    })?;
    let blob = ingest.finish();
    let diff_id = diff_id.unwrap_or(*blob.digest());
    Ok(StagedLayer { blob, compression, diff_id, directory, unpacked })
}

/// Hashes what was kept, then stores what comes, for as long as somebody reads it.
fn store_download(
    ingest: &mut Ingest,
    frames: &mut dyn FnMut() -> Result<Option<Bytes>>,
    written: &Written,
) -> Result<()> {
    let mut earlier = io::BufReader::with_capacity(CHUNK, ingest.kept_reader()?.take(ingest.kept()));
    loop {
        let chunk = earlier.fill_buf().map_err(Error::input)?;
        if chunk.is_empty() {
            break;
        }
        ingest.write_all(chunk).map_err(|error| ingest.failure(error))?;
        let taken = chunk.len();
        earlier.consume(taken);
    }
    let mut written_back = ingest.size();
    while let Some(frame) = frames()? {
        store_chunk(ingest, &frame, &mut written_back)?;
        if !written.advance(ingest.size()) {
            break;
        }
    }
    Ok(())
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
) -> Result<UnpackedLayer> {
    let mut input = io::BufReader::with_capacity(CHUNK, blob);
    let start = input.fill_buf().map_err(Error::input)?;
    let compression = Compression::detect(start, "layer")?;
    let mut stream = Hashed::new(decompressed(input, compression, limits)?);
    let unpacked = directory.unpack(&mut stream, limits)?;
    match stream.digest() {
        found if found != *expected => {
            Err(Error::Mismatch { what: "layer".to_owned(), expected: *expected, found })
        }
        _ => Ok(unpacked),
    }
}

fn decompressed<'a>(
    input: impl BufRead + 'a,
    compression: Compression,
    limits: &Limits,
) -> Result<Decoder<'a>> {
    Decoder::new(Box::new(input), compression, limits)
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
    source: impl BufRead + Send,
    compression: Compression,
    directory: &StagedDirectory,
    limits: &Limits,
) -> Result<Outcome> {
    if compression == Compression::None {
        let mut source = source;
        return Ok(Outcome { unpacked: directory.unpack(&mut source, limits)?, diff_id: None });
    }
    let (sink, plain) = pipe();
    thread::scope(|scope| {
        scope.spawn(|| match decompress(source, compression, limits, &sink) {
            Ok(()) => sink.end(),
            Err(error) => sink.fail(error),
        });
        let mut stream = Hashed::new(plain);
        let unpacked = directory.unpack(&mut stream, limits)?;
        Ok(Outcome { unpacked, diff_id: Some(stream.digest()) })
    })
}

/// Decompresses until the end or until nobody wants more.
fn decompress(
    source: impl BufRead,
    compression: Compression,
    limits: &Limits,
    sink: &Sink,
) -> io::Result<()> {
    let mut decoder = decompressed(source, compression, limits).map_err(io::Error::other)?;
    loop {
        let mut chunk = sink.buffer();
        let read = (&mut decoder).take(CHUNK as u64).read_to_end(&mut chunk)?;
        if read == 0 || !sink.send(Arc::new(chunk)) {
            return Ok(());
        }
    }
}

/// Hashes a stream, each buffer as a whole when it comes.
struct Hashed<R> {
    input: R,
    hasher: Sha256,
    /// Bytes of the input's buffer that are hashed and not consumed.
    ahead: usize,
}

impl<R: BufRead> Hashed<R> {
    fn new(input: R) -> Self {
        Self { input, hasher: Sha256::new(), ahead: 0 }
    }

    /// Of all that was read; at the end of the stream that is the stream.
    fn digest(self) -> Digest {
        Digest::from_sha256(self.hasher.finalize().into())
    }
}

impl<R: BufRead> BufRead for Hashed<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let buffer = self.input.fill_buf()?;
        if let Some(new) = buffer.get(self.ahead..) {
            self.hasher.update(new);
            self.ahead = buffer.len();
        }
        Ok(buffer)
    }

    fn consume(&mut self, taken: usize) {
        self.ahead = self.ahead.saturating_sub(taken);
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
