//! A stream that is written to a file as it is read.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use wharf_linux::hostfs;

use crate::pipe::CHUNK;
use crate::{Error, Result};

/// Bytes after which the kernel is asked to start writing them to disk.
const WRITE_BACK: u64 = 16 << 20;

/// Passes a stream on and records it, each buffer as a whole when it comes.
pub(super) struct Recorder<'a> {
    input: &'a mut dyn BufRead,
    /// Bytes of the input's buffer that are recorded and not consumed.
    ahead: usize,
    file: File,
    path: PathBuf,
    /// Where the first byte goes.
    start: u64,
    recorded: u64,
    written_back: u64,
    limit: u64,
    failure: Option<Error>,
}

impl<'a> Recorder<'a> {
    /// Creates the file; at most `limit` bytes are recorded, from its byte `start` on.
    pub(super) fn create(input: &'a mut dyn BufRead, path: &Path, start: u64, limit: u64) -> Result<Self> {
        Ok(Self {
            input,
            ahead: 0,
            file: hostfs::create_new(path, 0o600)?,
            path: path.to_owned(),
            start,
            recorded: 0,
            written_back: 0,
            limit,
            failure: None,
        })
    }

    pub(super) fn recorded(&self) -> u64 {
        self.recorded
    }

    /// Fails if recording did.
    pub(super) fn check(&mut self) -> Result<()> {
        self.failure.take().map_or(Ok(()), Err)
    }

    /// Lets the rest of the file be written.
    pub(super) fn finish(&self, write: impl FnOnce(&File) -> io::Result<()>) -> Result<()> {
        Ok(write(&self.file).map_err(|error| hostfs::Error::new("write", &self.path, error))?)
    }

    /// The stream once more from its beginning, without being recorded.
    pub(super) fn replay(self) -> Result<impl BufRead + 'a> {
        let failed = |error| hostfs::Error::new("read", &self.path, error);
        // What was recorded as a hole may be missing at the end.
        self.file.set_len(self.start + self.recorded).map_err(failed)?;
        let mut recorded = hostfs::open(&self.path)?;
        recorded.seek(SeekFrom::Start(self.start)).map_err(failed)?;
        self.input.consume(self.ahead);
        Ok(BufReader::with_capacity(CHUNK, recorded).chain(self.input))
    }
}

impl BufRead for Recorder<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let buffer = self.input.fill_buf()?;
        if let Some(new) = buffer.get(self.ahead..).filter(|new| !new.is_empty()) {
            let at = self.start + self.recorded;
            if new.len() as u64 > self.limit - self.recorded {
                self.failure = Some(Error::limit("the uncompressed size of a layer in bytes", self.limit));
                return Err(io::Error::other("too much"));
            }
            // A run of zeros becomes a hole.
            if new.iter().any(|byte| *byte != 0)
                && let Err(error) = self.file.write_all_at(new, at)
            {
                self.failure = Some(hostfs::Error::new("write", &self.path, error).into());
                return Err(io::Error::other("not recorded"));
            }
            self.ahead = buffer.len();
            self.recorded += new.len() as u64;
            if self.recorded - self.written_back >= WRITE_BACK {
                let (from, length) = (self.start + self.written_back, self.recorded - self.written_back);
                hostfs::begin_write_back(&self.file, from, length);
                self.written_back = self.recorded;
            }
        }
        Ok(buffer)
    }

    fn consume(&mut self, taken: usize) {
        self.ahead = self.ahead.saturating_sub(taken);
        self.input.consume(taken);
    }
}

impl Read for Recorder<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let taken = available.len().min(buffer.len());
        buffer[..taken].copy_from_slice(&available[..taken]);
        self.consume(taken);
        Ok(taken)
    }
}
