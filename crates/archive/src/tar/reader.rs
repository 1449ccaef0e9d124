//! The strict reader.

use std::io::{self, BufRead};

use super::header::RawHeader;
use super::pax::{self, Extensions};
use super::sparse::{self, Form};
use super::{BLOCK, Entry, Kind, TarError};

/// Extended headers and long names have at most this many bytes.
const MAX_EXTENSION: u64 = 1 << 20;
/// Names longer than the kernel takes in any form.
const MAX_NAME: u64 = 64 << 10;

/// Reads entries one after the other. After [`Reader::next_entry`] gave a file, [`Reader::chunk`] and
/// [`Reader::advance`] go through its stored bytes; what is not taken is skipped.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    offset: u64,
    /// Stored bytes of the current entry not taken yet, and the padding behind them.
    remaining: u64,
    padding: u64,
    padding_is_zero: bool,
    /// For messages.
    current: Vec<u8>,
    header_at: u64,
    end: End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    NotYet,
    /// With the zero blocks that end an archive.
    Marked,
    /// The bytes just ended.
    Bare,
}

/// What precedes an entry and changes it.
#[derive(Debug, Default)]
struct Before {
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    pax: Option<Extensions>,
    /// A global header, which changes nothing and still wants an entry behind it.
    global: bool,
}

impl<R: BufRead> Reader<R> {
    /// Reads from the start of a stream.
    pub fn new(input: R) -> Self {
        Self {
            input,
            offset: 0,
            remaining: 0,
            padding: 0,
            padding_is_zero: true,
            current: Vec::new(),
            header_at: 0,
            end: End::NotYet,
        }
    }

    /// The next entry, or `None` at the end of the archive.
    ///
    /// # Errors
    /// [`TarError`] when the stream is damaged, ends early or is ambiguous.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        if self.end != End::NotYet {
            return Ok(None);
        }
        self.skip_rest()?;
        self.current.clear();
        let mut before = Before::default();
        loop {
            self.header_at = self.offset;
            let mut block = [0; BLOCK];
            if !self.read_block(&mut block)? {
                self.end = End::Bare;
                return if before.is_empty() { Ok(None) } else { Err(self.dangling_extension()) };
            }
            let header = RawHeader(&block);
            if header.is_zero() {
                self.read_end_mark()?;
                return if before.is_empty() { Ok(None) } else { Err(self.dangling_extension()) };
            }
            header.validate().map_err(|reason| self.malformed(reason))?;
            if !self.take_extension(&header, &mut before)? {
                return self.take_entry(&block, before).map(Some);
            }
        }
    }

    /// Whether the archive ended with its end mark; without one it may have been cut off between two entries.
    #[must_use]
    pub fn has_end_mark(&self) -> bool {
        self.end == End::Marked
    }

    /// Some of the stored bytes of the current entry; empty when there are no more.
    ///
    /// # Errors
    /// [`TarError`] when the stream ends early.
    pub fn chunk(&mut self) -> Result<&[u8], TarError> {
        if self.remaining == 0 {
            return Ok(&[]);
        }
        let limit = usize::try_from(self.remaining).unwrap_or(usize::MAX);
        // Looked at twice because the borrow checker cannot see that the early return ends the loan.
        if fill(&mut self.input)?.is_empty() {
            return Err(self.malformed("the archive ends in the middle of this entry".to_owned()));
        }
        let chunk = self.input.fill_buf()?;
        Ok(&chunk[..chunk.len().min(limit)])
    }

    /// Marks that many bytes of [`Reader::chunk`] as taken.
    pub fn advance(&mut self, taken: usize) {
        self.input.consume(taken);
        self.offset += taken as u64;
        self.remaining -= taken as u64;
    }

    /// Stored bytes of the current entry not taken yet.
    #[must_use]
    pub fn remaining(&self) -> u64 {
        self.remaining
    }

    /// Where in the stream the bytes are that [`Reader::chunk`] gives next.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Whether what fills up the blocks of all entries so far is zero, as every known writer leaves it.
    #[must_use]
    pub fn padding_is_zero(&self) -> bool {
        self.padding_is_zero
    }

    /// The source; for reading what follows the archive.
    pub fn into_inner(self) -> R {
        self.input
    }

    /// Takes a header that describes the next one; false if it is an entry itself.
    fn take_extension(&mut self, header: &RawHeader<'_>, before: &mut Before) -> Result<bool, TarError> {
        let typeflag = header.typeflag();
        if !matches!(typeflag, b'x' | b'g' | b'L' | b'K') {
            return Ok(false);
        }
        let size = header.size().map_err(|reason| self.malformed(reason))?;
        let limit = if matches!(typeflag, b'x' | b'g') { MAX_EXTENSION } else { MAX_NAME };
        if size > limit {
            return Err(self.malformed(format!("an extended header of {size} bytes; {limit} is the limit")));
        }
        self.set_data(size);
        let data = self.take_all()?;
        let mixed = "extended headers of different formats for one entry";
        let repeated = "two extended headers for one entry";
        match typeflag {
            b'g' if !before.is_empty() => return Err(self.malformed(mixed.to_owned())),
            b'g' => {
                pax::check_global(&data).map_err(|reason| self.malformed(reason))?;
                before.global = true;
            }
            b'x' => {
                if before.long_name.is_some() || before.long_link.is_some() {
                    return Err(self.malformed(mixed.to_owned()));
                }
                let extensions = Extensions::parse(&data).map_err(|reason| self.malformed(reason))?;
                if before.pax.replace(extensions).is_some() {
                    return Err(self.malformed(repeated.to_owned()));
                }
            }
            _ => {
                if before.pax.is_some() {
                    return Err(self.malformed(mixed.to_owned()));
                }
                let name = long_name(&data).map_err(|reason| self.malformed(reason))?;
                let slot = if typeflag == b'L' { &mut before.long_name } else { &mut before.long_link };
                if slot.replace(name).is_some() {
                    return Err(self.malformed(repeated.to_owned()));
                }
            }
        }
        Ok(true)
    }

    fn take_entry(&mut self, block: &[u8; BLOCK], before: Before) -> Result<Entry, TarError> {
        let header = RawHeader(block);
        let pax = before.pax.unwrap_or_default();
        let named = header.name().map_err(|reason| self.malformed(reason))?;
        let short_slash = named.last() == Some(&b'/');
        self.current.clone_from(&named);
        let sparse = pax.sparse.form().map_err(|reason| self.malformed(reason))?;
        let path = pax.sparse.name.clone().or(pax.path).or(before.long_name).unwrap_or(named);
        self.current.clone_from(&path);
        let link = pax.link.or(before.long_link).unwrap_or_else(|| header.link());

        let fields = (|| {
            let size = pax.size.map_or_else(|| header.size(), Ok)?;
            let mtime = pax.mtime.map_or_else(|| header.mtime().map(|seconds| (seconds, 0)), Ok)?;
            let uid = pax.uid.map_or_else(|| header.uid(), Ok)?;
            let gid = pax.gid.map_or_else(|| header.gid(), Ok)?;
            Ok((size, mtime, uid, gid, header.mode()?))
        })();
        let (size, mtime, uid, gid, mode) = fields.map_err(|reason: String| self.malformed(reason))?;

        let slash = path.last() == Some(&b'/');
        let kind = match header.typeflag() {
            b'0' | b'7' if slash => {
                return Err(self.malformed("a regular file whose name ends in a slash".to_owned()));
            }
            // For the oldest type a slash makes a directory; Python looks at the short name for it, others at the long.
            0 if slash != short_slash => {
                return Err(self.malformed("a slash at the end of one of its two names".to_owned()));
            }
            0 if slash => self.without_data(size, Kind::Directory)?,
            b'0' | b'7' | 0 => self.file(size, sparse)?,
            b'S' if sparse.is_none() => self.old_gnu_sparse(block, size)?,
            _ if sparse.is_some() => {
                return Err(self.malformed("sparse file records for what is no regular file".to_owned()));
            }
            // A size in the header is that of the file linked to, whose data is stored only once; GNU tar takes one in
            // a PAX record literally.
            b'1' if pax.size.is_none_or(|size| size == 0) => Kind::HardLink(link),
            b'1' => return Err(self.malformed("a hard link with data".to_owned())),
            b'2' => self.without_data(size, Kind::Symlink(link))?,
            b'5' => self.without_data(size, Kind::Directory)?,
            b'6' => self.without_data(size, Kind::Fifo)?,
            b'3' | b'4' => {
                let (major, minor) = header.device().map_err(|reason| self.malformed(reason))?;
                let kind = if header.typeflag() == b'3' {
                    Kind::Character { major, minor }
                } else {
                    Kind::Block { major, minor }
                };
                self.without_data(size, kind)?
            }
            other => {
                return Err(self.malformed(format!("unknown entry type {:?}", char::from(other))));
            }
        };
        Ok(Entry { path, kind, mode, uid, gid, mtime, xattrs: pax.xattrs })
    }

    /// A regular file, with holes if PAX records say so.
    fn file(&mut self, size: u64, sparse: Option<(u64, Form)>) -> Result<Kind, TarError> {
        self.set_data(size);
        let Some((real_size, form)) = sparse else { return Ok(Kind::File { size, pieces: None }) };
        let pieces = match form {
            Form::Known(pieces) => pieces,
            Form::InData => {
                let mut map = sparse::MapReader::default();
                loop {
                    if self.remaining < BLOCK as u64 {
                        return Err(self.malformed("the sparse file map is cut off".to_owned()));
                    }
                    let mut block = [0; BLOCK];
                    if !self.read_block(&mut block)? {
                        return Err(self.malformed("the archive ends in a sparse file map".to_owned()));
                    }
                    self.remaining -= BLOCK as u64;
                    if let Some(pieces) = map.take(&block).map_err(|reason| self.malformed(reason))? {
                        break pieces;
                    }
                }
            }
        };
        sparse::check(&pieces, real_size, self.remaining).map_err(|reason| self.malformed(reason))?;
        Ok(Kind::File { size: real_size, pieces: Some(pieces) })
    }

    fn old_gnu_sparse(&mut self, block: &[u8; BLOCK], stored: u64) -> Result<Kind, TarError> {
        let mut pieces = Vec::new();
        let size = sparse::old_gnu_size(block).map_err(|reason| self.malformed(reason))?;
        let mut more = sparse::old_gnu(block, true, &mut pieces).map_err(|reason| self.malformed(reason))?;
        while more {
            let mut block = [0; BLOCK];
            if !self.read_block(&mut block)? {
                return Err(self.malformed("the archive ends in a sparse file header".to_owned()));
            }
            more = sparse::old_gnu(&block, false, &mut pieces).map_err(|reason| self.malformed(reason))?;
        }
        self.set_data(stored);
        sparse::check(&pieces, size, stored).map_err(|reason| self.malformed(reason))?;
        Ok(Kind::File { size, pieces: Some(pieces) })
    }

    /// An entry that has no data: tools disagree on whether to skip it if the header claims some.
    fn without_data(&self, size: u64, kind: Kind) -> Result<Kind, TarError> {
        if size == 0 {
            Ok(kind)
        } else {
            Err(self.malformed(format!("{size} bytes of data for what is no file")))
        }
    }

    fn set_data(&mut self, size: u64) {
        self.remaining = size;
        // Not `next_multiple_of`: a size can be the largest number there is.
        self.padding = size.wrapping_neg() % BLOCK as u64;
    }

    fn skip_rest(&mut self) -> Result<(), TarError> {
        while !self.chunk()?.is_empty() {
            let taken = self.chunk()?.len();
            self.advance(taken);
        }
        self.remaining = std::mem::take(&mut self.padding);
        while !self.chunk()?.is_empty() {
            let padding = self.chunk()?;
            let (taken, is_zero) = (padding.len(), padding.iter().all(|byte| *byte == 0));
            self.padding_is_zero &= is_zero;
            self.advance(taken);
        }
        Ok(())
    }

    /// All the data of an extended header, whose size was checked.
    fn take_all(&mut self) -> Result<Vec<u8>, TarError> {
        let mut data = Vec::new();
        loop {
            let chunk = self.chunk()?;
            if chunk.is_empty() {
                break;
            }
            data.extend_from_slice(chunk);
            let taken = chunk.len();
            self.advance(taken);
        }
        self.skip_rest()?;
        Ok(data)
    }

    /// Reads one block; false if the stream ended before it.
    fn read_block(&mut self, block: &mut [u8; BLOCK]) -> Result<bool, TarError> {
        let mut filled = 0;
        while filled < BLOCK {
            let chunk = fill(&mut self.input)?;
            if chunk.is_empty() {
                if filled == 0 {
                    return Ok(false);
                }
                return Err(self.malformed("the archive ends in the middle of a header".to_owned()));
            }
            let taken = chunk.len().min(BLOCK - filled);
            block[filled..filled + taken].copy_from_slice(&chunk[..taken]);
            self.input.consume(taken);
            filled += taken;
            self.offset += taken as u64;
        }
        Ok(true)
    }

    /// After the first zero block: every reader stops there, so what follows must not be an entry for any of them.
    fn read_end_mark(&mut self) -> Result<(), TarError> {
        let mut block = [0; BLOCK];
        if self.read_block(&mut block)? && !RawHeader(&block).is_zero() {
            return Err(self.malformed("data follows a lone zero block".to_owned()));
        }
        self.end = End::Marked;
        Ok(())
    }

    fn dangling_extension(&self) -> TarError {
        self.malformed("the archive ends after an extended header".to_owned())
    }

    fn malformed(&self, reason: String) -> TarError {
        TarError::Malformed { entry: self.current.clone(), offset: self.header_at, reason }
    }
}

impl Before {
    fn is_empty(&self) -> bool {
        self.long_name.is_none() && self.long_link.is_none() && self.pax.is_none() && !self.global
    }
}

/// `fill_buf` that goes on after a signal.
fn fill<R: BufRead>(input: &mut R) -> io::Result<&[u8]> {
    loop {
        match input.fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
            Ok(_) => break,
        }
    }
    input.fill_buf()
}

/// A GNU long name: text, then nothing but NULs.
fn long_name(data: &[u8]) -> Result<Vec<u8>, String> {
    let end = data.iter().position(|byte| *byte == 0).unwrap_or(data.len());
    let (name, rest) = data.split_at(end);
    if name.is_empty() || rest.iter().any(|byte| *byte != 0) {
        return Err("a long name is empty or has bytes behind its end".to_owned());
    }
    Ok(name.to_vec())
}
