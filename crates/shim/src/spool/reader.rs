//! Following a spool while it grows.

use std::path::Path;

use super::{Position, SpoolError, Stream};

/// Where to begin reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
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
    /// The disk refused some output just before this.
    pub after_loss: bool,
    /// The bytes, 1 to [`super::MAX_CHUNK`].
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
pub struct Reader {}

impl Reader {
    /// A reader of the spool in `dir`. A position that is gone shows as a [`Entry::Gap`] at the first read.
    pub fn open_at(dir: &Path, from: From) -> Result<Self, SpoolError> {
        let _ = (dir, from);
        Ok(Self {})
    }

    /// The next record or gap; `None` when everything written so far has been read (ask again later).
    #[expect(
        clippy::should_implement_trait,
        reason = "a record borrows the reader's buffer, an iterator's item cannot"
    )]
    pub fn next(&mut self) -> Result<Option<Entry<'_>>, SpoolError> {
        Ok(None)
    }

    /// Just behind the last record returned.
    pub fn position(&self) -> Position {
        Position::default()
    }

    /// The end of the spool in `dir`: behind its last whole record.
    pub fn end(dir: &Path) -> Result<Position, SpoolError> {
        let _ = dir;
        Ok(Position::default())
    }
}
