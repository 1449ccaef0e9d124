//! How far a log driver is, on disk: after any death the next engine goes on from there.
//!
//! # Layout
//! `log/<driver>.cursor` has two slots of [`SLOT`] bytes; each holds one state with its number and a check:
//! ```text
//! 0       8        12     16
//! │check  │length  │zero  │ number, mark, file: see `encode`
//! ```
//! All numbers are little-endian.
//!
//! # Crash
//! States are written to the slots in turn, so that one is whole whatever happens to the other. Nothing is synced: like
//! the spool, a cursor survives processes, and after a power cut it may be a little behind what was delivered.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags};
use wharf_shim::spool::Position;

use super::messages::{Cutter, PIECE, Pending};

/// Room for a state whose lines are as long as unfinished ones can be.
const SLOT: u64 = 64 * 1024;
const HEADER: usize = 16;

/// Where delivery stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Mark {
    /// Everything before has been read from the spool.
    pub(super) position: Position,
    /// What of it is waiting for the end of its line.
    pub(super) cutter: Cutter,
    /// How many messages that come from here on were delivered already.
    pub(super) skip: u64,
    /// How many messages were delivered ever.
    pub(super) delivered: u64,
    /// The file they were written to, if it is one.
    pub(super) file: FileMark,
}

/// Which file, and how much of it counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct FileMark {
    pub(super) inode: u64,
    pub(super) size: u64,
}

/// A driver's cursor.
#[derive(Debug)]
pub(super) struct Cursor {
    file: File,
    number: u64,
}

impl Cursor {
    /// Opens the cursor at `path`, making it if need be, and reads where it stands. One that makes no sense counts as
    /// new.
    pub(super) fn open(path: &Path) -> std::io::Result<(Self, Mark)> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(CWD, path, flags, Mode::RUSR | Mode::WUSR)?;
        let stat = rustix::fs::fstat(&fd)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, "not a regular file"));
        }
        let file = File::from(fd);
        let mut newest: Option<(u64, Mark)> = None;
        for slot in 0..2 {
            if let Some(found) = read_slot(&file, slot)
                && newest.as_ref().is_none_or(|(number, _)| found.0 > *number)
            {
                newest = Some(found);
            }
        }
        let (number, mark) = newest.unwrap_or_default();
        Ok((Self { file, number }, mark))
    }

    /// Writes down where delivery stands.
    pub(super) fn save(&mut self, mark: &Mark) -> std::io::Result<()> {
        let number = self.number + 1;
        let bytes = encode(number, mark);
        self.file.write_all_at(&bytes, (number % 2) * SLOT)?;
        self.number = number;
        Ok(())
    }
}

fn read_slot(file: &File, slot: u64) -> Option<(u64, Mark)> {
    let mut header = [0; HEADER];
    file.read_exact_at(&mut header, slot * SLOT).ok()?;
    let length = u32::from_le_bytes(*header[8..].first_chunk()?) as usize;
    if length as u64 > SLOT - HEADER as u64 {
        return None;
    }
    let mut body = vec![0; length];
    file.read_exact_at(&mut body, slot * SLOT + HEADER as u64).ok()?;
    (check(&body) == u64::from_le_bytes(*header.first_chunk()?)).then(|| decode(&body))?
}

fn encode(number: u64, mark: &Mark) -> Vec<u8> {
    let mut body = Vec::with_capacity(128);
    let Mark { position, cutter, skip, delivered, file } = mark;
    for word in [number, position.segment, position.offset, *skip, *delivered, file.inode, file.size] {
        body.extend_from_slice(&word.to_le_bytes());
    }
    for pending in &cutter.streams {
        body.extend_from_slice(&pending.time_ns.to_le_bytes());
        body.extend_from_slice(&pending.pieces.to_le_bytes());
        body.extend_from_slice(&(pending.bytes.len() as u32).to_le_bytes());
        body.extend_from_slice(&pending.bytes);
    }
    let mut bytes = check(&body).to_le_bytes().to_vec();
    bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.append(&mut body);
    bytes
}

fn decode(mut body: &[u8]) -> Option<(u64, Mark)> {
    let mut words = [0_u64; 7];
    for word in &mut words {
        *word = u64::from_le_bytes(*body.split_off(..8)?.first_chunk()?);
    }
    let [number, segment, offset, skip, delivered, inode, size] = words;
    let mut cutter = Cutter::default();
    for pending in &mut cutter.streams {
        let time_ns = i64::from_le_bytes(*body.split_off(..8)?.first_chunk()?);
        let pieces = u32::from_le_bytes(*body.split_off(..4)?.first_chunk()?);
        let length = u32::from_le_bytes(*body.split_off(..4)?.first_chunk()?) as usize;
        if length >= PIECE {
            return None;
        }
        *pending = Pending { bytes: body.split_off(..length)?.to_vec(), time_ns, pieces };
    }
    let mark = Mark {
        position: Position { segment, offset },
        cutter,
        skip,
        delivered,
        file: FileMark { inode, size },
    };
    Some((number, mark))
}

/// Decodes anything, and again what that encodes to.
#[cfg(feature = "fuzzing")]
pub(super) fn fuzz(bytes: &[u8]) {
    if let Some((number, mark)) = decode(bytes) {
        let encoded = encode(number, &mark);
        assert_eq!(decode(&encoded[HEADER..]), Some((number, mark)));
    }
}

/// FNV-1a: against torn slots, not against an adversary.
fn check(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(seed: u64) -> Mark {
        let mut mark = Mark {
            position: Position { segment: seed, offset: seed * 7 },
            skip: seed % 3,
            delivered: seed,
            file: FileMark { inode: 5, size: seed * 100 },
            ..Mark::default()
        };
        mark.cutter.streams[1] =
            Pending { bytes: vec![seed as u8; (seed as usize * 331) % PIECE], time_ns: -3, pieces: 2 };
        mark
    }

    #[test]
    fn the_newest_whole_state_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.cursor");
        let (mut cursor, first) = Cursor::open(&path).unwrap();
        assert_eq!(first, Mark::default());
        for seed in 1..60 {
            cursor.save(&mark(seed)).unwrap();
            assert_eq!(Cursor::open(&path).unwrap().1, mark(seed));
        }
        let newest = (cursor.number % 2) * SLOT;
        for at in [0, 8, 17, 70, 200] {
            let file = File::options().read(true).write(true).open(&path).unwrap();
            let mut byte = [0];
            file.read_exact_at(&mut byte, newest + at).unwrap();
            file.write_all_at(&[byte[0] ^ 1], newest + at).unwrap();
            assert_eq!(Cursor::open(&path).unwrap().1, mark(58), "byte {at}");
            file.write_all_at(&byte, newest + at).unwrap();
        }
        assert_eq!(Cursor::open(&path).unwrap().1, mark(59));
    }

    #[test]
    fn sh_04_a_cursor_is_never_a_link_or_a_fifo() {
        let dir = tempfile::tempdir().unwrap();
        let (link, fifo) = (dir.path().join("link"), dir.path().join("fifo"));
        std::os::unix::fs::symlink("/etc/passwd", &link).unwrap();
        rustix::fs::mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        Cursor::open(&link).unwrap_err();
        Cursor::open(&fifo).unwrap_err();
    }
}
