//! Tar streams, read strictly and written plainly.
//!
//! A tar stream has been extended three times in ways that overlap, and readers that resolve the overlap differently
//! see different entries in the same bytes: what one tool checked is not what another unpacks. This reader therefore
//! accepts the formats that real tools write (v7, ustar, GNU with long names and sparse files, PAX with sparse files
//! and extended attributes) and refuses every header on which GNU tar, Python's `tarfile` and Go's `archive/tar`
//! would not agree. It is a crate-own reader because the `tar` crate is lenient by design.

mod header;
mod pax;
mod reader;
mod sparse;
mod writer;

use std::ffi::CString;
use std::io;

pub use reader::Reader;
pub use writer::{Header, Writer};

/// The unit of a tar stream.
pub(crate) const BLOCK: usize = 512;

/// What a stream holds next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name as written.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time: seconds and nanoseconds.
    pub mtime: (i64, u32),
    /// Extended attributes.
    pub xattrs: Vec<(CString, Vec<u8>)>,
}

/// The type of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File {
        /// Its size once unpacked.
        size: u64,
        /// Where its data lies, if it has holes: offset and length of each piece, ascending.
        pieces: Option<Vec<(u64, u64)>>,
    },
    /// A directory.
    Directory,
    /// A symbolic link to this target.
    Symlink(Vec<u8>),
    /// Another name for an earlier entry.
    HardLink(Vec<u8>),
    /// A named pipe.
    Fifo,
    /// A character device.
    Character {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    Block {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
}

/// Why a stream cannot be read on.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The bytes are no tar, or one that tools would read differently.
    #[error("{} at byte {offset}: {reason}", describe(entry))]
    Malformed {
        /// The entry, as far as its name is known.
        entry: Vec<u8>,
        /// Where its header is.
        offset: u64,
        /// What is wrong.
        reason: String,
    },
    /// The source of the bytes failed.
    #[error(transparent)]
    Read(#[from] io::Error),
}

fn describe(entry: &[u8]) -> String {
    if entry.is_empty() {
        return "tar header".to_owned();
    }
    format!("tar entry {:?}", String::from_utf8_lossy(&entry[..entry.len().min(200)]))
}

/// True if these first bytes of a file begin a tar stream: a header whose checksum is right, or an empty archive.
#[must_use]
pub fn looks_like_tar(start: &[u8]) -> bool {
    start.get(..BLOCK).and_then(|block| block.try_into().ok()).is_some_and(|block: &[u8; BLOCK]| {
        block.iter().all(|byte| *byte == 0) || header::checksum_is_right(block)
    })
}
