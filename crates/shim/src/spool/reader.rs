//! Following a spool while it grows.

use std::ops::Range;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::io::Errno;

use super::directory::Directory;
use super::format::{HEADER, Header, MAX_CHUNK, Parsed, parse};
use super::packed::{self, ReadAt, Unpack};
use super::{Position, SpoolError, Stream};

/// What a reader that waits for output holds; most read a line at a time.
const SMALL_BUFFER: usize = 4 * 1024;
/// What a reader that has much to read holds.
const LARGE_BUFFER: usize = 4 * (HEADER + MAX_CHUNK);

/// Where to begin reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// At the oldest record kept.
    Start,
    /// At a position got from a reader, a writer or the shim.
    Position(Position),
    /// At the end as it is now: only what comes later.
    End,
}

/// One chunk of output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// Where it was written to.
    pub stream: Stream,
    /// When it was read from the container, nanoseconds since 1970.
    pub time_ns: i64,
    /// Its first byte begins a line.
    pub line_start: bool,
    /// The disk refused some output of this stream just before.
    pub after_loss: bool,
    /// The bytes, 1 to [`MAX_CHUNK`].
    pub bytes: &'a [u8],
}

/// What a reader finds.
#[derive(Debug, PartialEq, Eq)]
pub enum Entry<'a> {
    /// Output.
    Record(Record<'a>),
    /// Output is missing: it was deleted by rotation before it was read, or it is damaged.
    Gap {
        /// Where the reader stood.
        from: Position,
        /// Where it goes on.
        to: Position,
    },
}

/// Reads records in order, across segments, following the writer.
#[derive(Debug)]
pub struct Reader {
    directory: Directory,
    position: Position,
    /// The segment at `position`, once it was found. It stays readable when it is deleted or packed.
    file: Option<Segment>,
    unpack: Option<Unpack>,
    buffer: Vec<u8>,
    /// The part of `buffer` that holds the file's bytes from `position` on.
    unread: Range<usize>,
}

/// A segment in one of its forms.
#[derive(Debug)]
enum Segment {
    Plain(OwnedFd),
    Packed(Box<dyn ReadAt>),
}

/// [`Entry`] as places in the reader.
pub(super) enum Found {
    Record(Header, Range<usize>),
    Gap { from: Position, to: Position },
}

impl Reader {
    /// A reader of the spool in `dir`. A position that is gone shows as a [`Entry::Gap`] at the first read.
    pub fn open_at(dir: &Path, from: Origin) -> Result<Self, SpoolError> {
        Self::open_with(dir, from, Some(packed::open))
    }

    /// A reader of the last segment, which is never packed.
    pub(super) fn open_last(dir: &Path, segment: u64) -> Result<Self, SpoolError> {
        Self::open_with(dir, Origin::Position(Position { segment, offset: 0 }), None)
    }

    fn open_with(dir: &Path, from: Origin, unpack: Option<Unpack>) -> Result<Self, SpoolError> {
        let directory = Directory::open(dir)?;
        let position = match from {
            Origin::Position(position) => position,
            Origin::Start => {
                let oldest = directory.segments()?.first().copied().unwrap_or_default();
                Position { segment: oldest, offset: 0 }
            }
            Origin::End => Self::end(dir)?,
        };
        Ok(Self { directory, position, file: None, unpack, buffer: Vec::new(), unread: 0..0 })
    }

    /// The next record or gap; `None` when everything written so far has been read (ask again later).
    #[expect(
        clippy::should_implement_trait,
        reason = "a record borrows the reader's buffer, an iterator's item cannot"
    )]
    pub fn next(&mut self) -> Result<Option<Entry<'_>>, SpoolError> {
        Ok(self.find()?.map(|found| match found {
            Found::Gap { from, to } => Entry::Gap { from, to },
            Found::Record(header, bytes) => Entry::Record(Record {
                stream: header.stream,
                time_ns: header.time_ns,
                line_start: header.line_start,
                after_loss: header.after_loss,
                bytes: &self.buffer[bytes],
            }),
        }))
    }

    /// Holds no memory until there is more to read.
    pub fn rest(&mut self) {
        if self.unread.is_empty() {
            self.unread = 0..0;
            self.buffer = Vec::new();
        }
    }

    /// Just behind the last record returned.
    pub fn position(&self) -> Position {
        self.position
    }

    /// The end of the spool in `dir`: behind its last whole record. Reads the last segment.
    pub fn end(dir: &Path) -> Result<Position, SpoolError> {
        let last = Directory::open(dir)?.segments()?.last().copied().unwrap_or_default();
        let mut reader = Self::open_last(dir, last)?;
        while reader.find()?.is_some() {}
        Ok(reader.position)
    }

    /// The bytes of the last record found, by the range that came with it.
    pub(super) fn bytes(&self, range: Range<usize>) -> &[u8] {
        &self.buffer[range]
    }

    /// [`Reader::next`] without borrowing: the range stays valid until the next call.
    pub(super) fn find(&mut self) -> Result<Option<Found>, SpoolError> {
        // True once the unread bytes cannot be left over from a tail that the writer has since cut off.
        let mut fresh = self.unread.is_empty();
        loop {
            match parse(&self.buffer[self.unread.clone()]) {
                Parsed::Record(header) => {
                    let start = self.unread.start;
                    let length = header.record_len();
                    self.unread.start += length;
                    self.position.offset += length as u64;
                    return Ok(Some(Found::Record(header, start + HEADER..start + length)));
                }
                Parsed::Short(needed) => {
                    if self.fill(needed)? {
                        continue;
                    }
                    let torn = !self.unread.is_empty();
                    if torn && !fresh {
                        fresh = true;
                        self.forget();
                        continue;
                    }
                    match self.advance(torn)? {
                        Step::Stay => {}
                        Step::Next => fresh = true,
                        Step::Gap(gap) => return Ok(Some(gap)),
                        Step::End => return Ok(None),
                    }
                }
                Parsed::Invalid if !fresh => {
                    fresh = true;
                    self.forget();
                }
                Parsed::Invalid => {
                    self.forget();
                    return self.skip_damage();
                }
            }
        }
    }

    /// Reads more of the current segment, so that `needed` bytes fit; false if there is no more now.
    fn fill(&mut self, needed: usize) -> Result<bool, SpoolError> {
        if self.file.is_none() {
            self.file = self.open_segment(self.position.segment)?;
        }
        let Some(file) = &mut self.file else {
            return Ok(false);
        };
        let was_full = self.unread.end == self.buffer.len();
        self.buffer.copy_within(self.unread.clone(), 0);
        self.unread = 0..self.unread.len();
        if self.buffer.is_empty() && needed <= SMALL_BUFFER {
            self.buffer.resize(SMALL_BUFFER, 0);
        } else if was_full || needed > self.buffer.len() {
            self.buffer.resize(LARGE_BUFFER, 0);
        }
        let offset = self.position.offset + self.unread.len() as u64;
        let free = &mut self.buffer[self.unread.end..];
        let read = match file {
            Segment::Plain(file) => loop {
                match rustix::io::pread(&*file, &mut *free, offset) {
                    Err(Errno::INTR) => {}
                    other => break other.map_err(std::io::Error::from),
                }
            },
            Segment::Packed(file) => file.read_at(free, offset),
        };
        match read {
            Ok(count) => {
                self.unread.end += count;
                Ok(count > 0)
            }
            // What follows in the segment is missing: without a file, `advance` tells of a gap.
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                self.file = None;
                Ok(false)
            }
            Err(error) => Err(self.directory.error("read", Some(self.position.segment), error)),
        }
    }

    /// The plain form first: the packed one takes its place before it goes.
    fn open_segment(&self, segment: u64) -> Result<Option<Segment>, SpoolError> {
        if let Some(file) = self.directory.read(segment)? {
            return Ok(Some(Segment::Plain(file)));
        }
        let Some(unpack) = self.unpack else { return Ok(None) };
        match self.directory.read_packed(segment)? {
            None => Ok(None),
            Some(file) => {
                let opened = unpack(file).map_err(|error| self.directory.error("read", Some(segment), error));
                opened.map(|file| Some(Segment::Packed(file)))
            }
        }
    }

    /// Drops what is buffered, to read it again.
    fn forget(&mut self) {
        self.unread = 0..0;
    }

    /// At the end of what the segment holds: goes to its successor, if that exists.
    fn advance(&mut self, torn: bool) -> Result<Step, SpoolError> {
        let from = self.position;
        let Some(next) = self.open_segment(from.segment + 1)? else {
            return self.overtaken();
        };
        // The successor exists, so the segment is complete now; it may not have been when it was last read.
        if self.file.is_some() && self.fill(self.unread.len() + 1)? {
            return Ok(Step::Stay);
        }
        let missing = torn || self.file.is_none();
        self.enter(from.segment + 1, Some(next));
        Ok(if missing { Step::Gap(Found::Gap { from, to: self.position }) } else { Step::Next })
    }

    /// The successor does not exist: either it is still to come, or it was deleted already, and then so was ours.
    fn overtaken(&mut self) -> Result<Step, SpoolError> {
        let from = self.position;
        // A packed segment was complete, so its successor is only missing when it was deleted.
        if let Some(Segment::Plain(file)) = &self.file {
            let stat = rustix::fs::fstat(file)
                .map_err(|error| self.directory.error("inspect", Some(from.segment), error))?;
            if stat.st_nlink > 0 {
                self.forget();
                return Ok(Step::End);
            }
        }
        match self.directory.segments()?.into_iter().find(|segment| *segment > from.segment) {
            // It may have come into being between the two looks.
            Some(found) if found == from.segment + 1 => Ok(Step::Stay),
            Some(found) => {
                self.enter(found, None);
                Ok(Step::Gap(Found::Gap { from, to: self.position }))
            }
            None => {
                self.forget();
                Ok(Step::End)
            }
        }
    }

    /// No record begins here. In the last segment this is a torn tail, to be cut off by the next writer.
    fn skip_damage(&mut self) -> Result<Option<Found>, SpoolError> {
        let from = self.position;
        let Some(next) = self.directory.segments()?.into_iter().find(|segment| *segment > from.segment)
        else {
            return Ok(None);
        };
        self.enter(next, None);
        Ok(Some(Found::Gap { from, to: self.position }))
    }

    fn enter(&mut self, segment: u64, file: Option<Segment>) {
        self.file = file;
        self.position = Position { segment, offset: 0 };
        self.forget();
    }
}

/// What to do at the end of a segment.
enum Step {
    /// Look again in the same segment.
    Stay,
    /// Go on in the next one.
    Next,
    /// Tell of a gap.
    Gap(Found),
    /// Nothing more for now.
    End,
}
