//! Appending to a spool.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::io::Errno;

use super::directory::Directory;
use super::format::{HEADER, Header, MAX_CHUNK};
use super::{Limits, Position, Reader, SpoolError, Stream};

/// The one appender of a spool.
#[derive(Debug)]
pub struct Writer {
    directory: Directory,
    limits: Limits,
    /// Numbers of the segments there are, oldest first; the last is `file`'s.
    segments: VecDeque<u64>,
    file: OwnedFd,
    offset: u64,
    streams: [StreamState; 2],
}

/// What the next chunk of a stream needs to know.
#[derive(Debug, Clone, Copy)]
struct StreamState {
    line_start: bool,
    after_loss: bool,
}

impl Writer {
    /// Opens (or makes) the spool in `dir`, cuts off a torn tail and continues it. What is appended now begins a new
    /// line, even if the last writer left one unfinished.
    pub fn open(dir: &Path, limits: Limits) -> Result<Self, SpoolError> {
        let directory = Directory::open_or_create(dir)?;
        let mut segments = VecDeque::from(directory.segments()?);
        let (file, offset) = match segments.back().copied() {
            // The last one is never packed; if somebody took it away, the next number is as good.
            Some(last) => match continue_segment(dir, &directory, last)? {
                Some(continued) => continued,
                None => {
                    segments.push_back(last + 1);
                    (directory.create(last + 1)?, 0)
                }
            },
            None => {
                segments.push_back(0);
                (directory.create(0)?, 0)
            }
        };
        let fresh = StreamState { line_start: true, after_loss: false };
        let mut writer = Self { directory, limits, segments, file, offset, streams: [fresh; 2] };
        writer.delete_oldest()?;
        Ok(writer)
    }

    /// Appends `bytes` of `stream`, read at `time_ns`. After an error these bytes are lost, which the next successful
    /// append of the stream records; the spool stays valid.
    pub fn append(&mut self, stream: Stream, time_ns: i64, bytes: &[u8]) -> Result<(), SpoolError> {
        bytes.chunks(MAX_CHUNK).try_for_each(|chunk| self.append_chunk(stream, time_ns, chunk))
    }

    /// Behind the last record.
    pub fn end(&self) -> Position {
        Position { segment: self.segment(), offset: self.offset }
    }

    fn segment(&self) -> u64 {
        self.segments.back().copied().unwrap_or_default()
    }

    fn append_chunk(&mut self, stream: Stream, time_ns: i64, chunk: &[u8]) -> Result<(), SpoolError> {
        let state = self.streams[stream as usize];
        let header = Header {
            length: chunk.len() as u32,
            time_ns,
            stream,
            line_start: state.line_start,
            after_loss: state.after_loss,
        };
        let length = header.record_len() as u64;
        let written = self.make_room(length).and_then(|()| self.write(&header.encode(chunk), chunk));
        let after_loss = written.is_err();
        let line_start = !after_loss && chunk.ends_with(b"\n");
        self.streams[stream as usize] = StreamState { line_start, after_loss };
        if !after_loss {
            self.offset += length;
        }
        written
    }

    /// Begins a new segment if a record of `length` bytes does not fit any more.
    fn make_room(&mut self, length: u64) -> Result<(), SpoolError> {
        if self.offset == 0 || self.offset + length <= self.limits.segment_bytes {
            return Ok(());
        }
        let next = self.segment() + 1;
        self.file = self.directory.create(next)?;
        self.offset = 0;
        self.segments.push_back(next);
        self.delete_oldest()
    }

    fn delete_oldest(&mut self) -> Result<(), SpoolError> {
        while self.segments.len() > self.limits.segments.max(1) as usize {
            if let Some(oldest) = self.segments.front() {
                self.directory.remove(*oldest)?;
            }
            self.segments.pop_front();
        }
        Ok(())
    }

    /// One system call for header and bytes. What a failed one left is cut off again.
    fn write(&self, header: &[u8; HEADER], chunk: &[u8]) -> Result<(), SpoolError> {
        let parts = [IoSlice::new(header), IoSlice::new(chunk)];
        let result = loop {
            match rustix::io::pwritev(&self.file, &parts, self.offset) {
                Err(Errno::INTR) => {}
                other => break other,
            }
        };
        let source = match result {
            Ok(written) if written == HEADER + chunk.len() => return Ok(()),
            // A regular file takes less than asked only when the disk is full.
            Ok(_) => io::Error::from(Errno::NOSPC),
            Err(error) => error.into(),
        };
        let cut = rustix::fs::ftruncate(&self.file, self.offset);
        let error = self.directory.error("append to", Some(self.segment()), source);
        cut.map_err(|error| self.directory.error("truncate", Some(self.segment()), error))?;
        Err(error)
    }
}

/// The last segment, without what a killed writer left half done; `None` if it is not there.
fn continue_segment(
    dir: &Path,
    directory: &Directory,
    segment: u64,
) -> Result<Option<(OwnedFd, u64)>, SpoolError> {
    let Some(file) = directory.write(segment)? else { return Ok(None) };
    let mut reader = Reader::open_last(dir, segment)?;
    while reader.next()?.is_some() {}
    let end = reader.position().offset;
    rustix::fs::ftruncate(&file, end).map_err(|error| directory.error("truncate", Some(segment), error))?;
    Ok(Some((file, end)))
}
