//! Zip files, as far as docker's contexts come in them: stored or deflated, without the extensions for 4 GiB and more.
//!
//! The table at the end says what there is; what it says is checked against the data. A file comes from somebody else:
//! no more is unpacked than the caller allows.

use std::io::Read as _;

use flate2::{Crc, read::DeflateDecoder};

/// How a file of this form begins.
pub(super) const MAGIC: &[u8] = b"PK\x03\x04";

const ENTRY: &[u8] = b"PK\x01\x02";
const END: &[u8] = b"PK\x05\x06";
/// The end's size without its comment, and how long that may be.
const END_SIZE: usize = 22;
const COMMENT: usize = 65_535;

/// Names and contents of the files in `bytes`, without directories; `limit` is for all contents together.
pub(super) fn files(bytes: &[u8], limit: u64) -> Result<Vec<(String, Vec<u8>)>, String> {
    let damaged = || "zip: not a valid zip file".to_owned();
    let from = bytes.len().saturating_sub(END_SIZE + COMMENT);
    let tail = &bytes[from..];
    let end = tail.windows(END.len()).rposition(|window| window == END).ok_or_else(damaged)?;
    let _comment = tail.get(end..end + END_SIZE).ok_or_else(damaged)?;
    let count = number(tail, end + 10, 2).ok_or_else(damaged)?;
    let mut at = number(tail, end + 16, 4).ok_or_else(damaged)?;
    let (mut found, mut left) = (Vec::new(), limit);
    for _ in 0..count {
        let field = |offset, size| number(bytes, at + offset, size).ok_or_else(damaged);
        if bytes.get(at..at + 4) != Some(ENTRY) {
            return Err(damaged());
        }
        let (flags, method) = (field(8, 2)?, field(10, 2)?);
        let (sum, packed, size) = (field(16, 4)?, field(20, 4)?, field(24, 4)?);
        let (name_size, extra, comment, place) = (field(28, 2)?, field(30, 2)?, field(32, 2)?, field(42, 4)?);
        let name = bytes.get(at + 46..at + 46 + name_size).ok_or_else(damaged)?;
        let name = String::from_utf8_lossy(name).into_owned();
        at += 46 + name_size + extra + comment;
        if name.ends_with('/') {
            continue;
        }
        if flags & 1 != 0 {
            return Err(format!("{name}: encrypted zip files are not read"));
        }
        // The names in front of the data may have other extensions than the table.
        let skip = |offset| number(bytes, place + offset, 2).ok_or_else(damaged);
        let start = place + 30 + skip(26)? + skip(28)?;
        if bytes.get(place..place + 4) != Some(MAGIC) {
            return Err(damaged());
        }
        let data = bytes.get(start..start + packed).ok_or_else(damaged)?;
        left = left.checked_sub(size as u64).ok_or("the context is larger than 10 MiB")?;
        let mut contents = Vec::new();
        let read = match method {
            0 => data.take(size as u64 + 1).read_to_end(&mut contents),
            8 => DeflateDecoder::new(data).take(size as u64 + 1).read_to_end(&mut contents),
            _ => return Err(format!("{name}: zip: unsupported compression algorithm")),
        };
        let mut crc = Crc::new();
        crc.update(&contents);
        if read.ok() != Some(size) || crc.sum() as usize != sum {
            return Err(format!("{name}: zip: checksum error"));
        }
        found.push((name, contents));
    }
    Ok(found)
}

/// A number of `size` bytes, the lowest first.
fn number(bytes: &[u8], at: usize, size: usize) -> Option<usize> {
    Some(
        bytes.get(at..at.checked_add(size)?)?.iter().rev().fold(0, |sum, byte| sum << 8 | usize::from(*byte)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made with Python's `zipfile`: `meta.json` stored, `tls/` a directory, `tls/docker/ca.pem` deflated.
    fn example() -> Vec<u8> {
        let hex = include_str!("zip_example.hex");
        let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        digits.chunks(2).map(byte).collect()
    }

    #[test]
    fn files_are_found_with_their_contents() {
        let files = files(&example(), 1 << 20).unwrap();
        assert_eq!(files[0], ("meta.json".to_owned(), br#"{"Name":"x"}"#.to_vec()));
        assert_eq!((files[1].0.as_str(), files[1].1.len(), files.len()), ("tls/docker/ca.pem", 4000, 2));
    }

    #[test]
    fn damage_and_excess_are_refused() {
        let whole = example();
        assert!(files(&whole, 4011).unwrap_err().contains("larger"));
        assert!(files(b"PK\x03\x04", 100).is_err());
        for length in 0..whole.len() {
            assert!(files(&whole[..length], 1 << 20).is_err(), "{length}");
        }
        // Whatever is changed, it ends.
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 0xff;
            drop(files(&changed, 1 << 20));
        }
        let mut changed = whole;
        let at = changed.windows(6).position(|window| window == b"\"Name\"").unwrap();
        changed[at] = b'x';
        assert_eq!(files(&changed, 1 << 20).unwrap_err(), "meta.json: zip: checksum error");
    }
}
