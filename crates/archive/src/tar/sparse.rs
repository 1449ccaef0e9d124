//! Files with holes: GNU's old header and the three PAX forms of it.

use super::BLOCK;
use super::header::{Reason, number, unsigned};
use super::pax::decimal;

/// Pieces a file may have. Each costs the archive some bytes and us sixteen.
const MAX_PIECES: usize = 1 << 20;

/// Offset and length of the stored pieces, ascending.
pub(super) type Pieces = Vec<(u64, u64)>;

/// The `GNU.sparse.*` records of a PAX header.
#[derive(Debug, Default)]
pub(super) struct PaxSparse {
    major: Option<u64>,
    minor: Option<u64>,
    pub(super) name: Option<Vec<u8>>,
    real_size: Option<u64>,
    count: Option<u64>,
    /// Version 0.1: the map as one record. Version 0.0: repeated pairs.
    map: Option<Pieces>,
    pairs: Vec<u64>,
}

/// How the map of a sparse file is given.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// In the header.
    Known(Pieces),
    /// In front of the data.
    InData,
}

impl PaxSparse {
    pub(super) fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), Reason> {
        match key {
            b"major" => self.major = Some(decimal(value)?),
            b"minor" => self.minor = Some(decimal(value)?),
            b"name" if !value.is_empty() && !value.contains(&0) => self.name = Some(value.to_vec()),
            b"size" | b"realsize" => self.real_size = Some(decimal(value)?),
            b"numblocks" => self.count = Some(decimal(value)?),
            b"offset" if self.pairs.len().is_multiple_of(2) => self.pairs.push(decimal(value)?),
            b"numbytes" if !self.pairs.len().is_multiple_of(2) => self.pairs.push(decimal(value)?),
            b"map" => {
                let numbers =
                    value.split(|byte| *byte == b',').map(decimal).collect::<Result<Vec<_>, _>>()?;
                self.map = Some(pair_up(&numbers)?);
            }
            _ => {
                return Err(format!("unknown sparse file record {:?}", String::from_utf8_lossy(key)));
            }
        }
        Ok(())
    }

    /// The real size and the form of the map, if these records describe a sparse file at all.
    pub(super) fn form(&self) -> Result<Option<(u64, Form)>, Reason> {
        let incomplete = || "the sparse file records are incomplete".to_owned();
        let form = match (self.major, self.minor) {
            (None, None) => match (&self.map, self.pairs.is_empty()) {
                (Some(map), true) => Form::Known(map.clone()),
                (None, false) => Form::Known(pair_up(&self.pairs)?),
                (None, true) if self.real_size.is_none() && self.count.is_none() => return Ok(None),
                _ => return Err(incomplete()),
            },
            (Some(1), Some(0)) if self.map.is_none() && self.pairs.is_empty() => Form::InData,
            _ => return Err("unknown version of the sparse file format".to_owned()),
        };
        if let (Form::Known(pieces), Some(count)) = (&form, self.count)
            && pieces.len() as u64 != count
        {
            return Err(incomplete());
        }
        Ok(Some((self.real_size.ok_or_else(incomplete)?, form)))
    }
}

fn pair_up(numbers: &[u64]) -> Result<Pieces, Reason> {
    let pairs = numbers.chunks_exact(2);
    if !pairs.remainder().is_empty() || numbers.len() / 2 > MAX_PIECES {
        return Err("the sparse file map is malformed".to_owned());
    }
    Ok(pairs.map(|pair| (pair[0], pair[1])).collect())
}

/// Checks that pieces ascend, end within the file and have as many bytes as are stored.
pub(super) fn check(pieces: &Pieces, real_size: u64, stored: u64) -> Result<(), Reason> {
    let mut end = 0_u64;
    let mut sum = 0_u64;
    for (offset, length) in pieces {
        let next = offset.checked_add(*length).filter(|next| *offset >= end && *next <= real_size);
        end = next.ok_or_else(|| "the sparse file map does not ascend within the file".to_owned())?;
        sum += length;
    }
    if sum != stored {
        return Err("the sparse file map does not match the data".to_owned());
    }
    Ok(())
}

/// Takes the pieces out of an old GNU header or one of its extension blocks; true if another block follows.
pub(super) fn old_gnu(block: &[u8; BLOCK], first: bool, pieces: &mut Pieces) -> Result<bool, Reason> {
    let (start, slots, more) = if first { (386, 4, 482) } else { (0, 21, 504) };
    for slot in 0..slots {
        let at = start + slot * 24;
        let length = &block[at + 12..at + 24];
        if block[at..at + 24].iter().all(|byte| *byte == 0) {
            break;
        }
        pieces.push((unsigned(&block[at..at + 12], "sparse offset")?, unsigned(length, "sparse length")?));
    }
    if pieces.len() > MAX_PIECES {
        return Err("the sparse file has too many pieces".to_owned());
    }
    match block[more] {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err("the sparse file header is malformed".to_owned()),
    }
}

/// The size of the file an old GNU sparse header describes.
pub(super) fn old_gnu_size(block: &[u8; BLOCK]) -> Result<u64, Reason> {
    let size = number(&block[483..495], "real size")?;
    u64::try_from(size).map_err(|_| "the real size is negative".to_owned())
}

/// Collects the decimal lines of the map in front of the data of a version 1.0 file.
#[derive(Debug, Default)]
pub(super) struct MapReader {
    numbers: Vec<u64>,
    line: Vec<u8>,
}

impl MapReader {
    /// Takes one block; returns the pieces once the map is complete.
    pub(super) fn take(&mut self, block: &[u8]) -> Result<Option<Pieces>, Reason> {
        let bad = || "the sparse file map is malformed".to_owned();
        for (index, byte) in block.iter().enumerate() {
            if *byte != b'\n' {
                self.line.push(*byte);
                if self.line.len() > 20 {
                    return Err(bad());
                }
                continue;
            }
            self.numbers.push(decimal(&self.line)?);
            self.line.clear();
            let count = usize::try_from(self.numbers[0]).map_err(|_| bad())?;
            if count > MAX_PIECES {
                return Err(bad());
            }
            if self.numbers.len() == 1 + 2 * count {
                // The rest of the block is padding.
                if block[index + 1..].iter().any(|byte| *byte != 0) {
                    return Err(bad());
                }
                return pair_up(&self.numbers[1..]).map(Some);
            }
        }
        Ok(None)
    }
}
