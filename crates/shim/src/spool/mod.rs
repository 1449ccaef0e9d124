//! A container's output on disk: one appender (the shim), any number of followers in other processes.
//!
//! # Layout
//! A directory (0700) of segments named `%010d.spool` (0600), numbered without holes from the oldest kept one. A
//! segment is a sequence of records, each a [`HEADER`]-byte header and one chunk as it was read from the container:
//!
//! ```text
//! 0      4      8               16     17     18       20
//! │check │length│ time_ns       │stream│flags │ reserved│ length bytes …
//! ```
//! All numbers are little-endian. `check` covers the rest of the header and the bytes. A chunk has 1 to
//! [`MAX_CHUNK`] bytes and knows nothing of lines; flag bit 0 says that it begins a line of its stream, bit 1 that
//! output before it was lost because the disk refused it. [`Lines`] puts lines together.
//!
//! # Invariants
//! A closed segment may be compressed later; [`packed`] has that form's layout, and positions mean the same in it.
//! Only the last segment grows. A segment is complete once its successor exists. A record never spans segments, and no
//! segment exceeds the limit unless it holds a single record. [`Position`]s only ever point between records.
//!
//! # Concurrency
//! There is one [`Writer`] at a time (the engine starts at most one shim per container); readers take no lock. A
//! reader sees a record only when all of it is there, as the file's size grows after its bytes.
//!
//! # Crash
//! Nothing is synced: output survives the death of every process, not of the machine's power. An append cut short, by
//! a kill or a power cut, leaves a torn tail: readers stop before it, and the next writer cuts it off. Deletion of old
//! segments goes oldest first, so a crash leaves no hole.

mod directory;
mod format;
mod lines;
mod packed;
#[cfg(test)]
mod packed_tests;
mod reader;
#[cfg(test)]
mod tests;
mod writer;

use serde::{Deserialize, Serialize};

pub use format::{HEADER, MAX_CHUNK};
pub use lines::{LINE_LIMIT, Line, Lines, Piece, tail};
pub use packed::{pack, sweep, unpacked};
pub use reader::{Entry, Origin, Reader, Record};
pub use writer::Writer;

/// A place between two records. Ordered as the output is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    /// The segment's number.
    pub segment: u64,
    /// Bytes from its start.
    pub offset: u64,
}

/// Which of the container's streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// Standard output, or the terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// How much a spool keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// A segment is closed before it grows beyond this.
    pub segment_bytes: u64,
    /// How many segments are kept, at least one.
    pub segments: u32,
}

impl Limits {
    /// Roughly how much is kept in all.
    pub fn capacity(&self) -> u64 {
        self.segment_bytes.saturating_mul(u64::from(self.segments.max(1)))
    }

    /// Roughly how many bytes lie between two positions; 0 if `to` is not after `from`.
    pub fn distance(&self, from: Position, to: Position) -> u64 {
        match to.segment.checked_sub(from.segment) {
            None => 0,
            Some(0) => to.offset.saturating_sub(from.offset),
            Some(segments) => segments
                .saturating_mul(self.segment_bytes)
                .saturating_add(to.offset)
                .saturating_sub(from.offset),
        }
    }
}

/// What can go wrong with a spool.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {}: {source}", path.display())]
pub struct SpoolError {
    /// What was tried.
    pub operation: &'static str,
    /// On which file or directory.
    pub path: std::path::PathBuf,
    /// What the system says.
    #[source]
    pub source: std::io::Error,
}

impl SpoolError {
    /// True if the spool's directory does not exist (nothing was ever written, or it was removed).
    pub fn is_missing(&self) -> bool {
        self.source.kind() == std::io::ErrorKind::NotFound
    }
}
