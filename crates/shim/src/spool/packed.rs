//! Closed segments in compressed form.
//!
//! # Layout
//! `%010d.spool.zst` holds the same bytes as the segment of that number: independent Zstandard frames of [`BLOCK`] bytes
//! each (the last has the rest), and behind them, in a skippable frame, the table of the seekable format that the
//! Zstandard project describes. `zstdcat` reads it; we reach any offset by decompressing one block.
//!
//! # Invariants
//! A position means the same in both forms. Only a segment that has a successor is ever packed.
//!
//! # Concurrency and crash
//! One packer (the engine) at a time, any readers, and the writer that deletes old segments. The packed form appears
//! whole, by renaming, before the plain one is unlinked; readers look for the plain form first, so they always find one.
//! A crash leaves both forms, which say the same, or a temporary file; the next [`pack`] of that segment removes them.
//! The writer unlinks the plain form first: a packer that finds it gone takes its own file away again.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::SpoolError;
use super::directory::{Directory, Form};

/// Bytes that are compressed together.
const BLOCK: usize = 256 * 1024;
/// The format's magic numbers.
const SKIPPABLE: u32 = 0x184d_2a5e;
const SEEKABLE: u32 = 0x8f92_eab1;
/// Of the table: its frame's header, one entry, its end.
const TABLE_HEADER: u64 = 8;
const ENTRY: u64 = 8;
const TABLE_FOOTER: u64 = 9;
/// More blocks than any segment has: what a table claims beyond it is not believed.
const MAX_BLOCKS: u64 = 1 << 20;
/// Fast, and a fifth to a tenth of usual logs remain.
const LEVEL: i32 = 3;

/// A file of either form, read at offsets of the plain one.
pub(super) trait ReadAt: std::fmt::Debug + Send {
    /// Up to `buffer.len()` bytes from `offset`; 0 at the end, [`io::ErrorKind::InvalidData`] where it is damaged.
    fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
}

/// How a reader opens packed segments. The shim's own reader has none: it only ever looks at the last segment, and the
/// decompressor would make up half of its program.
pub(super) type Unpack = fn(OwnedFd) -> io::Result<Box<dyn ReadAt>>;

/// A packed segment.
struct Packed {
    file: File,
    /// Where each block's frame begins, and the end of the last.
    frames: Vec<u64>,
    /// The length of the plain form.
    length: u64,
    /// The block that was decompressed last, and which it is.
    block: Vec<u8>,
    current: Option<usize>,
}

impl std::fmt::Debug for Packed {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Packed").field("length", &self.length).finish_non_exhaustive()
    }
}

/// A packed segment that makes no sense: all of it is missing.
#[derive(Debug)]
struct Damaged;

impl ReadAt for Damaged {
    fn read_at(&mut self, _buffer: &mut [u8], _offset: u64) -> io::Result<usize> {
        Err(damaged())
    }
}

/// The [`Unpack`] of everybody but the shim.
pub(super) fn open(fd: OwnedFd) -> io::Result<Box<dyn ReadAt>> {
    match read_table(File::from(fd)) {
        Ok(packed) => Ok(Box::new(packed)),
        Err(error) if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) => {
            Ok(Box::new(Damaged))
        }
        Err(error) => Err(error),
    }
}

fn read_table(file: File) -> io::Result<Packed> {
    let size = file.metadata()?.len();
    let mut footer = [0; TABLE_FOOTER as usize];
    let footer_at = size.checked_sub(TABLE_FOOTER).ok_or_else(damaged)?;
    file.read_exact_at(&mut footer, footer_at)?;
    let word = |bytes: &[u8]| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    let blocks = u64::from(word(&footer));
    if word(&footer[5..]) != SEEKABLE || footer[4] != 0 || blocks > MAX_BLOCKS {
        return Err(damaged());
    }
    let table_at = footer_at.checked_sub(blocks * ENTRY).ok_or_else(damaged)?;
    let mut table = vec![0; (blocks * ENTRY) as usize];
    file.read_exact_at(&mut table, table_at)?;
    let mut frames = vec![0];
    let (mut end, mut length) = (0_u64, 0_u64);
    for (index, entry) in table.chunks_exact(ENTRY as usize).enumerate() {
        let (packed, plain) = (u64::from(word(entry)), u64::from(word(&entry[4..])));
        let full = index as u64 + 1 < blocks;
        if plain > BLOCK as u64 || (full && plain != BLOCK as u64) || packed > 2 * BLOCK as u64 {
            return Err(damaged());
        }
        end += packed;
        length += plain;
        frames.push(end);
    }
    if end + TABLE_HEADER != table_at {
        return Err(damaged());
    }
    Ok(Packed { file, frames, length, block: Vec::new(), current: None })
}

impl ReadAt for Packed {
    fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        if offset >= self.length || buffer.is_empty() {
            return Ok(0);
        }
        let index = (offset / BLOCK as u64) as usize;
        if self.current != Some(index) {
            self.load(index)?;
        }
        let from = (offset % BLOCK as u64) as usize;
        let rest = self.block.get(from..).unwrap_or_default();
        if rest.is_empty() {
            return Err(damaged());
        }
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }
}

impl Packed {
    fn load(&mut self, index: usize) -> io::Result<()> {
        let (Some(&start), Some(&end)) = (self.frames.get(index), self.frames.get(index + 1)) else {
            return Err(damaged());
        };
        let mut frame = vec![0; (end - start) as usize];
        self.current = None;
        self.file.read_exact_at(&mut frame, start).map_err(|_| damaged())?;
        self.block.clear();
        self.block.reserve_exact(BLOCK);
        zstd::bulk::Decompressor::new()?
            .decompress_to_buffer(&frame, &mut self.block)
            .map_err(|_| damaged())?;
        self.current = Some(index);
        Ok(())
    }
}

fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the compressed segment is damaged")
}

/// Segments that are closed and still plain, oldest first; of those in both forms, too.
pub fn unpacked(dir: &Path) -> Result<Vec<u64>, SpoolError> {
    let directory = Directory::open(dir)?;
    let last = directory.segments()?.last().copied();
    let mut plain = directory.of_form(Form::Plain)?;
    plain.retain(|segment| Some(*segment) != last);
    Ok(plain)
}

/// Removes what a packer that was killed left half written.
pub fn sweep(dir: &Path) -> Result<(), SpoolError> {
    let directory = Directory::open(dir)?;
    for segment in directory.of_form(Form::Temporary)? {
        directory.remove_form(segment, Form::Temporary)?;
    }
    Ok(())
}

/// Packs one closed segment; false if it is gone. `go_on` is asked before each block: false ends it, leaving the segment
/// as it was.
pub fn pack(dir: &Path, segment: u64, mut go_on: impl FnMut() -> bool) -> Result<bool, SpoolError> {
    let directory = Directory::open(dir)?;
    let Some(plain) = directory.read(segment)? else { return Ok(false) };
    if directory.segments()?.last().is_none_or(|last| *last <= segment) {
        return Ok(false);
    }
    directory.remove_form(segment, Form::Temporary)?;
    let temporary = File::from(directory.create_form(segment, Form::Temporary)?);
    match write(&File::from(plain), &temporary, &mut go_on) {
        Ok(true) => {}
        Ok(false) => {
            directory.remove_form(segment, Form::Temporary)?;
            return Ok(false);
        }
        Err(error) => {
            let error = directory.error("compress", Some(segment), error);
            directory.remove_form(segment, Form::Temporary)?;
            return Err(error);
        }
    }
    // The plain form goes right after: what replaces it must outlive a power cut as the plain form would have.
    rustix::fs::fdatasync(&temporary).map_err(|error| directory.error("sync", Some(segment), error))?;
    directory.promote(segment)?;
    if !directory.remove_form(segment, Form::Plain)? {
        // Rotation deleted it while it was being packed.
        directory.remove_form(segment, Form::Packed)?;
        return Ok(false);
    }
    Ok(true)
}

/// The packed form of `plain`; false if it was ended early.
fn write(plain: &File, packed: &File, go_on: &mut impl FnMut() -> bool) -> io::Result<bool> {
    let mut compressor = zstd::bulk::Compressor::new(LEVEL)?;
    let mut block = vec![0; BLOCK];
    let mut table = Vec::new();
    let (mut from, mut to) = (0_u64, 0_u64);
    loop {
        if !go_on() {
            return Ok(false);
        }
        let count = read_full(plain, &mut block, from)?;
        if count == 0 {
            break;
        }
        let frame = compressor.compress(&block[..count])?;
        packed.write_all_at(&frame, to)?;
        table.extend_from_slice(&(frame.len() as u32).to_le_bytes());
        table.extend_from_slice(&(count as u32).to_le_bytes());
        from += count as u64;
        to += frame.len() as u64;
    }
    let blocks = (table.len() as u64 / ENTRY) as u32;
    let length = (table.len() as u64 + TABLE_FOOTER) as u32;
    let mut tail = [SKIPPABLE.to_le_bytes(), length.to_le_bytes()].concat();
    tail.append(&mut table);
    tail.extend_from_slice(&blocks.to_le_bytes());
    tail.push(0);
    tail.extend_from_slice(&SEEKABLE.to_le_bytes());
    packed.write_all_at(&tail, to)?;
    Ok(true)
}

fn read_full(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
