//! The writer: ustar headers, with a PAX header where ustar has no room.

use std::io::{self, Write};

use super::{BLOCK, Kind};

/// What to write about an entry.
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

/// Writes entries one after the other. Owners are root; the same entries give the same bytes.
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
        self.end_entry()?;
        let (typeflag, size, link) = match &header.kind {
            Kind::File { size, .. } => (b'0', *size, &[][..]),
            Kind::Directory => (b'5', 0, &[][..]),
            Kind::Symlink(target) => (b'2', 0, &target[..]),
            Kind::HardLink(target) => (b'1', 0, &target[..]),
            Kind::Fifo | Kind::Character { .. } | Kind::Block { .. } => {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "archives of ours have no devices"));
            }
        };
        let mut records = Vec::new();
        if header.path.len() > 100 {
            record(&mut records, "path", header.path.as_bytes());
        }
        if link.len() > 100 {
            record(&mut records, "linkpath", link);
        }
        if size >= 1 << 33 {
            record(&mut records, "size", size.to_string().as_bytes());
        }
        if !records.is_empty() {
            let block = block(b"././@PaxHeader", b'x', records.len() as u64, &[], 0o644, header.mtime);
            self.out.write_all(&block)?;
            self.out.write_all(&records)?;
            self.pad(padding_of(records.len() as u64))?;
        }
        let block = block(header.path.as_bytes(), typeflag, size, link, header.mode, header.mtime);
        self.out.write_all(&block)?;
        self.remaining = size;
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

/// Appends `"<length> <key>=<value>\n"`, whose length counts its own digits.
fn record(records: &mut Vec<u8>, key: &str, value: &[u8]) {
    let rest = 3 + key.len() + value.len();
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    records.extend_from_slice(format!("{length} {key}=").as_bytes());
    records.extend_from_slice(value);
    records.push(b'\n');
}

/// A ustar header. What does not fit is cut here and whole in the PAX header before it.
fn block(path: &[u8], typeflag: u8, size: u64, link: &[u8], mode: u32, mtime: u64) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &path[..path.len().min(100)]);
    put(100, format!("{:07o}", mode & 0o7777).as_bytes());
    put(108, b"0000000");
    put(116, b"0000000");
    let size = if size < 1 << 33 { size } else { 0 };
    put(124, format!("{size:011o}").as_bytes());
    put(136, format!("{:011o}", mtime & ((1 << 33) - 1)).as_bytes());
    put(148, b"        ");
    put(156, &[typeflag]);
    put(157, &link[..link.len().min(100)]);
    put(257, b"ustar\x0000");
    put(329, b"0000000");
    put(337, b"0000000");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}
