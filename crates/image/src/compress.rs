//! Telling compressed streams apart, and decompressing them within limits.

use std::cell::Cell;
use std::io::{self, BufRead, BufReader, Read};
use std::rc::Rc;

use flate2::bufread::MultiGzDecoder;
use wharf_content::spec;

use crate::limits::Limits;
use crate::{Error, Result};

/// How a stream is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Compression {
    /// Looks at the first bytes of a stream. Formats we know and do not read are named in the error.
    pub(crate) fn detect(start: &[u8], what: &str) -> Result<Self> {
        let unsupported = |format: &str| {
            Err(Error::Archive {
                what: what.to_owned(),
                reason: format!(
                    "{format} compression is not supported; decompress it first, or use gzip or zstd"
                ),
            })
        };
        match start {
            [0x1f, 0x8b, ..] => Ok(Self::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Ok(Self::Zstd),
            // A zstd stream may begin with a skippable frame.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Ok(Self::Zstd),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => unsupported("xz"),
            [b'B', b'Z', b'h', ..] => unsupported("bzip2"),
            [0x04, 0x22, 0x4d, 0x18, ..] => unsupported("lz4"),
            [0x5d, 0, 0, ..] => unsupported("lzma"),
            _ => Ok(Self::None),
        }
    }

    /// The media type of a layer compressed so.
    pub(crate) fn layer_media_type(self) -> &'static str {
        match self {
            Self::None => spec::LAYER_TAR,
            Self::Gzip => spec::LAYER_GZIP,
            Self::Zstd => spec::LAYER_ZSTD,
        }
    }
}

/// A stream as it was before it was compressed, if it was: `what` names it in errors.
///
/// # Errors
/// [`Error::Archive`] for a compression that is known and not read, [`Error::Input`] when the stream cannot be read.
pub fn decoded<'a>(mut input: Box<dyn BufRead + 'a>, what: &str) -> Result<impl BufRead + 'a> {
    let start = input.fill_buf().map_err(Error::input)?;
    let compression = Compression::detect(start, what)?;
    Decoder::new(input, compression, &Limits::default())
}

/// A decompressed stream.
pub(crate) enum Decoder<'a> {
    Plain(Box<dyn BufRead + 'a>),
    Compressed(BufReader<Bounded<Box<dyn Read + 'a>>>),
}

impl<'a> Decoder<'a> {
    /// Decompresses `input`, whose first bytes `compression` was detected from.
    pub(crate) fn new(
        input: Box<dyn BufRead + 'a>,
        compression: Compression,
        limits: &Limits,
    ) -> Result<Self> {
        const BUFFER: usize = 256 * 1024;
        let taken = Rc::new(Cell::new(0));
        let counted = Counted { input, taken: Rc::clone(&taken) };
        let output: Box<dyn Read + 'a> = match compression {
            Compression::None => return Ok(Self::Plain(counted.input)),
            Compression::Gzip => Box::new(MultiGzDecoder::new(counted)),
            Compression::Zstd => {
                let decoder = zstd::Decoder::with_buffer(counted).and_then(|mut decoder| {
                    decoder.window_log_max(limits.zstd_window_log)?;
                    Ok(decoder)
                });
                Box::new(decoder.map_err(Error::Input)?)
            }
        };
        let bounded = Bounded { output, taken, given: 0, ratio: limits.ratio, ratio_from: limits.ratio_from };
        Ok(Self::Compressed(BufReader::with_capacity(BUFFER, bounded)))
    }
}

impl Read for Decoder<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(input) => input.read(buffer),
            Self::Compressed(output) => output.read(buffer),
        }
    }
}

impl BufRead for Decoder<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        match self {
            Self::Plain(input) => input.fill_buf(),
            Self::Compressed(output) => output.fill_buf(),
        }
    }

    fn consume(&mut self, taken: usize) {
        match self {
            Self::Plain(input) => input.consume(taken),
            Self::Compressed(output) => output.consume(taken),
        }
    }
}

/// Counts the compressed bytes a decoder takes.
struct Counted<R> {
    input: R,
    taken: Rc<Cell<u64>>,
}

impl<R: BufRead> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(buffer)?;
        self.taken.set(self.taken.get() + read as u64);
        Ok(read)
    }
}

impl<R: BufRead> BufRead for Counted<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.input.fill_buf()
    }

    fn consume(&mut self, taken: usize) {
        self.taken.set(self.taken.get() + taken as u64);
        self.input.consume(taken);
    }
}

/// Stops a stream that grows out of proportion, and turns the decoders' errors into ones that say so.
pub(crate) struct Bounded<R> {
    output: R,
    taken: Rc<Cell<u64>>,
    given: u64,
    ratio: u64,
    ratio_from: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.output.read(buffer).map_err(damaged)?;
        self.given += read as u64;
        if self.given > self.ratio_from && self.given / self.taken.get().max(1) > self.ratio {
            let text = format!("the data expands more than {} times; it is taken for a bomb", self.ratio);
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        Ok(read)
    }
}

/// What the decoders report: their own complaints become `InvalidData`, failures of the source stay what they are.
fn damaged(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => {
            io::Error::new(io::ErrorKind::InvalidData, format!("the compressed data is damaged: {error}"))
        }
        io::ErrorKind::UnexpectedEof => {
            io::Error::new(io::ErrorKind::InvalidData, "the compressed data ends too early")
        }
        // zstd's errors carry no kind, only its words.
        io::ErrorKind::Other if error.to_string().contains("too much memory") => io::Error::new(
            io::ErrorKind::InvalidData,
            "the zstd stream needs a larger window than is allowed (64 MiB); compress it without --long or --ultra",
        ),
        io::ErrorKind::Other if error.raw_os_error().is_none() && !crate::pipe::is_source_failure(&error) => {
            io::Error::new(io::ErrorKind::InvalidData, format!("the compressed data is damaged: {error}"))
        }
        _ => error,
    }
}
