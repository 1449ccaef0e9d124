//! The writer: ustar headers, with a PAX header where ustar has no room.
//!
//! The same entries give the same bytes. Names, links and attributes are bytes; what is no UTF-8 is marked as such for
//! the readers that care.

use std::io::{self, Write};

use super::{BLOCK, Entry, Kind};

/// The highest number that seven octal digits hold.
const OCTAL_7: u32 = 0o7_777_777;
/// The first number that eleven octal digits do not hold.
const OCTAL_11: u64 = 1 << 33;

/// What to write about an entry that needs no more than this; owners are root.
#[derive(Debug, Clone)]
pub struct Header<'a> {
    /// Its name; directories get their slash here.
    pub path: &'a str,
    /// What it is. The size of a file is the number of bytes that follow.
    pub kind: Kind,
    /// Permission bits.
    pub mode: u32,
    /// Modification time in seconds.
    pub mtime: u64,
}

/// Writes entries one after the other.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
    /// Bytes the current file still needs, and the padding behind them.
    remaining: u64,
    padding: usize,
}

impl<W: Write> Writer<W> {
    /// Writes to `out`.
    pub fn new(out: W) -> Self {
        Self { out, remaining: 0, padding: 0 }
    }

    /// Begins an entry. The bytes of a file follow through [`Write`].
    ///
    /// # Errors
    /// Whatever the output says, or `InvalidInput` when the file before was not written whole.
    pub fn begin(&mut self, header: &Header<'_>) -> io::Result<()> {
        self.entry(&Entry {
            path: header.path.as_bytes().to_vec(),
            kind: header.kind.clone(),
            mode: header.mode,
            uid: 0,
            gid: 0,
            mtime: (i64::try_from(header.mtime).unwrap_or(i64::MAX), 0),
            xattrs: Vec::new(),
        })
    }

    /// Begins an entry of any kind. The bytes of a file follow through [`Write`]; of one with holes, those of its
    /// pieces one after the other.
    ///
    /// # Errors
    /// As [`Writer::begin`].
    pub fn entry(&mut self, entry: &Entry) -> io::Result<()> {
        self.end_entry()?;
        let mut records = Records::default();
        let mut path = entry.path.clone();
        if entry.kind == Kind::Directory && path.last() != Some(&b'/') {
            path.push(b'/');
        }
        let mut block = Block::new(entry);
        let mut map = Vec::new();
        let size = match &entry.kind {
            Kind::File { size, pieces: None } => *size,
            Kind::File { size, pieces: Some(pieces) } => {
                map = sparse_map(pieces);
                records.add("GNU.sparse.major", b"1");
                records.add("GNU.sparse.minor", b"0");
                records.add("GNU.sparse.name", &path);
                records.add("GNU.sparse.realsize", size.to_string().as_bytes());
                // Readers that know no holes unpack map and pieces under a name that tells what they are.
                path = b"GNUSparseFile.0/file".to_vec();
                map.len() as u64 + pieces.iter().map(|(_, length)| length).sum::<u64>()
            }
            Kind::Symlink(target) | Kind::HardLink(target) => {
                if target.len() > 100 {
                    records.add("linkpath", target);
                }
                0
            }
            Kind::Directory | Kind::Fifo | Kind::Character { .. } | Kind::Block { .. } => 0,
        };
        if path.len() > 100 {
            records.add("path", &path);
        }
        if size >= OCTAL_11 {
            records.add("size", size.to_string().as_bytes());
        }
        for (key, id) in [("uid", entry.uid), ("gid", entry.gid)] {
            if id > OCTAL_7 {
                records.add(key, id.to_string().as_bytes());
            }
        }
        let (seconds, nanoseconds) = entry.mtime;
        if nanoseconds != 0 || u64::try_from(seconds).is_ok_and(|seconds| seconds >= OCTAL_11) || seconds < 0
        {
            records.add("mtime", time(seconds, nanoseconds).as_bytes());
        }
        for (name, value) in &entry.xattrs {
            let mut key = b"SCHILY.xattr.".to_vec();
            key.extend_from_slice(name.to_bytes());
            records.add_bytes(&key, value);
        }
        let records = records.finish();
        if !records.is_empty() {
            let pax = Block::pax(records.len() as u64, entry.mtime.0);
            self.out.write_all(&pax)?;
            self.out.write_all(&records)?;
            self.pad(padding_of(records.len() as u64))?;
        }
        block.name_and_size(&path, size);
        self.out.write_all(&block.sealed())?;
        self.out.write_all(&map)?;
        self.remaining = size - map.len() as u64;
        self.padding = padding_of(size);
        Ok(())
    }

    /// A whole file.
    ///
    /// # Errors
    /// Whatever the output says.
    pub fn file(&mut self, path: &str, mode: u32, mtime: u64, bytes: &[u8]) -> io::Result<()> {
        let kind = Kind::File { size: bytes.len() as u64, pieces: None };
        self.begin(&Header { path, kind, mode, mtime })?;
        self.write_all(bytes)
    }

    /// Fills the rest of the current file with zeros: what it had to say when it was shorter than announced.
    ///
    /// # Errors
    /// Whatever the output says.
    pub fn fill(&mut self) -> io::Result<()> {
        static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
        while self.remaining > 0 {
            let length = usize::try_from(self.remaining).unwrap_or(ZEROS.len()).min(ZEROS.len());
            self.write_all(&ZEROS[..length])?;
        }
        Ok(())
    }

    /// Bytes the current file still needs.
    #[must_use]
    pub fn remaining(&self) -> u64 {
        self.remaining
    }

    /// Ends the archive and gives the output back.
    ///
    /// # Errors
    /// Whatever the output says.
    pub fn finish(mut self) -> io::Result<W> {
        self.end_entry()?;
        self.out.write_all(&[0; 2 * BLOCK])?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn end_entry(&mut self) -> io::Result<()> {
        if self.remaining > 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the entry before is not whole"));
        }
        let padding = std::mem::take(&mut self.padding);
        self.pad(padding)
    }

    fn pad(&mut self, length: usize) -> io::Result<()> {
        self.out.write_all(&[0; BLOCK][..length])
    }
}

impl<W: Write> Write for Writer<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() as u64 > self.remaining {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "more bytes than the entry has"));
        }
        let written = self.out.write(bytes)?;
        self.remaining -= written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn padding_of(size: u64) -> usize {
    usize::try_from(size.next_multiple_of(BLOCK as u64) - size).unwrap_or(0)
}

/// Where the pieces lie, as decimal lines in front of the data (GNU's version 1.0), in whole blocks.
fn sparse_map(pieces: &[(u64, u64)]) -> Vec<u8> {
    let mut map = format!("{}\n", pieces.len()).into_bytes();
    for (offset, length) in pieces {
        map.extend_from_slice(format!("{offset}\n{length}\n").as_bytes());
    }
    map.resize(map.len().next_multiple_of(BLOCK), 0);
    map
}

/// Seconds with a fraction that counts away from zero, as PAX writes times.
fn time(seconds: i64, nanoseconds: u32) -> String {
    let (sign, whole, fraction) = match (seconds < 0, nanoseconds) {
        (true, 0) => ("-", seconds.unsigned_abs(), 0),
        (true, _) => ("-", (seconds + 1).unsigned_abs(), 1_000_000_000 - nanoseconds),
        (false, _) => ("", seconds.unsigned_abs(), nanoseconds),
    };
    match fraction {
        0 => format!("{sign}{whole}"),
        _ => format!("{sign}{whole}.{fraction:09}").trim_end_matches('0').to_owned(),
    }
}

/// The records of a PAX header in the making.
#[derive(Default)]
struct Records {
    bytes: Vec<u8>,
    binary: bool,
}

impl Records {
    fn add(&mut self, key: &str, value: &[u8]) {
        self.binary |= std::str::from_utf8(value).is_err();
        self.add_bytes(key.as_bytes(), value);
    }

    /// Appends `"<length> <key>=<value>\n"`, whose length counts its own digits.
    fn add_bytes(&mut self, key: &[u8], value: &[u8]) {
        let rest = 3 + key.len() + value.len();
        let mut length = rest + 1;
        while length != rest + length.to_string().len() {
            length = rest + length.to_string().len();
        }
        self.bytes.extend_from_slice(format!("{length} ").as_bytes());
        self.bytes.extend_from_slice(key);
        self.bytes.push(b'=');
        self.bytes.extend_from_slice(value);
        self.bytes.push(b'\n');
    }

    fn finish(self) -> Vec<u8> {
        if !self.binary {
            return self.bytes;
        }
        let mut all = Self::default();
        all.add("hdrcharset", b"BINARY");
        all.bytes.extend_from_slice(&self.bytes);
        all.bytes
    }
}

/// A ustar header. What does not fit is cut here and whole in the PAX header before it.
struct Block([u8; BLOCK]);

impl Block {
    fn new(entry: &Entry) -> Self {
        let mut block = Self([0; BLOCK]);
        let (typeflag, link, device) = match &entry.kind {
            Kind::File { .. } => (b'0', &[][..], (0, 0)),
            Kind::HardLink(target) => (b'1', &target[..], (0, 0)),
            Kind::Symlink(target) => (b'2', &target[..], (0, 0)),
            Kind::Character { major, minor } => (b'3', &[][..], (*major, *minor)),
            Kind::Block { major, minor } => (b'4', &[][..], (*major, *minor)),
            Kind::Directory => (b'5', &[][..], (0, 0)),
            Kind::Fifo => (b'6', &[][..], (0, 0)),
        };
        let fitting = |id: u32| if id > OCTAL_7 { 0 } else { id };
        block.put(100, format!("{:07o}", entry.mode & 0o7777).as_bytes());
        block.put(108, format!("{:07o}", fitting(entry.uid)).as_bytes());
        block.put(116, format!("{:07o}", fitting(entry.gid)).as_bytes());
        let seconds = u64::try_from(entry.mtime.0).unwrap_or(0);
        block.put(136, format!("{:011o}", seconds & (OCTAL_11 - 1)).as_bytes());
        block.put(156, &[typeflag]);
        block.put(157, &link[..link.len().min(100)]);
        block.put(257, b"ustar\x0000");
        block.put(329, format!("{:07o}", fitting(device.0)).as_bytes());
        block.put(337, format!("{:07o}", fitting(device.1)).as_bytes());
        block
    }

    /// The header in front of `size` bytes of PAX records.
    fn pax(size: u64, mtime: i64) -> [u8; BLOCK] {
        let mut block = Self::new(&Entry {
            path: Vec::new(),
            kind: Kind::File { size, pieces: None },
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: (mtime, 0),
            xattrs: Vec::new(),
        });
        block.put(156, b"x");
        block.name_and_size(b"././@PaxHeader", size);
        block.sealed()
    }

    fn name_and_size(&mut self, path: &[u8], size: u64) {
        self.put(0, &path[..path.len().min(100)]);
        let size = if size < OCTAL_11 { size } else { 0 };
        self.put(124, format!("{size:011o}").as_bytes());
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn sealed(&self) -> [u8; BLOCK] {
        let mut block = self.0;
        block[148..156].copy_from_slice(b"        ");
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        block
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::CString;
    use std::io::Cursor;

    use super::super::Reader;
    use super::*;

    fn entry(path: &[u8], kind: Kind) -> Entry {
        Entry {
            path: path.to_vec(),
            kind,
            mode: 0o4755,
            uid: 4_000_000_000,
            gid: 7,
            mtime: (-2, 500_000_000),
            xattrs: vec![(CString::from(c"user.x=y"), b"\0\xff\n".to_vec())],
        }
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        let long = [b'a'; 300];
        let raw = [&b"raw-\xff\xfe-"[..], &long].concat();
        let kinds = [
            (&b"dir/"[..], Kind::Directory),
            (b"fifo", Kind::Fifo),
            (b"char", Kind::Character { major: 511, minor: 1_048_575 }),
            (b"block", Kind::Block { major: 8, minor: 0 }),
            (b"link", Kind::Symlink(long.to_vec())),
            (b"hard", Kind::HardLink(raw.clone())),
            (&raw, Kind::File { size: 0, pieces: None }),
            (b"\xff", Kind::File { size: 0, pieces: None }),
        ];
        let mut writer = Writer::new(Vec::new());
        let mut entries: Vec<Entry> = kinds.into_iter().map(|(path, kind)| entry(path, kind)).collect();
        // The equals sign would end the key for every reader.
        entries.iter_mut().for_each(|entry| entry.xattrs[0].0 = CString::from(c"user.x"));
        for entry in &entries {
            writer.entry(entry).unwrap();
        }
        let bytes = writer.finish().unwrap();
        let mut reader = Reader::new(Cursor::new(bytes));
        for entry in &entries {
            assert_eq!(reader.next_entry().unwrap().as_ref(), Some(entry));
        }
        assert_eq!(reader.next_entry().unwrap(), None);
        assert!(reader.has_end_mark());
    }

    #[test]
    fn holes_are_written_as_holes() {
        let pieces = vec![(0, 3), (1 << 40, 5), ((1 << 40) + 9, 0)];
        let kind = Kind::File { size: (1 << 40) + 9, pieces: Some(pieces) };
        let mut writer = Writer::new(Vec::new());
        writer.entry(&entry(b"sparse", kind.clone())).unwrap();
        writer.write_all(b"abcdefgh").unwrap();
        let bytes = writer.finish().unwrap();
        assert!(bytes.len() < 8 * BLOCK);
        let mut reader = Reader::new(Cursor::new(bytes));
        let read = reader.next_entry().unwrap().unwrap();
        assert_eq!((read.path.as_slice(), read.kind), (&b"sparse"[..], kind));
        assert_eq!(reader.chunk().unwrap(), b"abcdefgh");
    }

    #[test]
    fn an_entry_must_be_whole_before_the_next() {
        let mut writer = Writer::new(Vec::new());
        writer
            .begin(&Header { path: "a", kind: Kind::File { size: 3, pieces: None }, mode: 0, mtime: 0 })
            .unwrap();
        assert!(writer.write_all(b"abcd").is_err());
        writer.write_all(b"a").unwrap();
        assert!(writer.file("b", 0, 0, b"").is_err());
        writer.fill().unwrap();
        writer.file("b", 0, 0, b"").unwrap();
    }

    #[test]
    fn times_are_decimal_away_from_zero() {
        for (given, wanted) in [
            ((0, 0), "0"),
            ((5, 120), "5.00000012"),
            ((-1, 0), "-1"),
            ((-2, 500_000_000), "-1.5"),
            ((-1, 1), "-0.999999999"),
        ] {
            assert_eq!(time(given.0, given.1), wanted);
        }
    }
}
