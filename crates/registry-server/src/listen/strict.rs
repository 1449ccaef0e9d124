//! A stream of requests that can be read in one way only.
//!
//! Between a client and this registry there may be a proxy with a parser of its own. Where the two disagree about the
//! end of a request, one user's bytes become another user's request. The parser behind this stream follows the
//! standard's leniency (a length beside a transfer coding is ignored, a line may end with a bare line feed); this stream
//! lets nothing lenient through. It holds a head back until it is whole, then checks:
//!
//! - lines end with CR LF; no CR, LF or NUL elsewhere; no folded lines; names are tokens followed at once by a colon;
//! - at most one `Content-Length`, of digits only; or one `Transfer-Encoding`, which is `chunked`, in HTTP/1.1;
//!   never both;
//! - one `Host` in HTTP/1.1;
//! - at most [`MAX_HEAD`] bytes and [`MAX_FIELDS`] fields;
//! - chunk sizes of at most 15 hexadecimal digits, without extensions.
//!
//! A head that fails is replaced by a byte that no head begins with, so that the parser answers 400 and closes; framing
//! that fails within a body ends the connection. Bodies pass through without being copied.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The longest head of a request. A token may have half of it.
pub(super) const MAX_HEAD: usize = 64 << 10;
/// The most fields of a head.
pub(super) const MAX_FIELDS: usize = 64;
/// The most bytes of fields after a chunked body.
const MAX_TRAILER: usize = 4 << 10;
/// What is read from the socket at once while framing is looked at.
const READ: usize = 8 << 10;
/// No request begins with it.
const POISON: &[u8] = b"\0";

/// A checked stream.
pub(super) struct Strict<S> {
    stream: S,
    reader: Reader,
}

impl<S> Strict<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, reader: Reader::default() }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Strict<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { stream, reader } = &mut *self;
        loop {
            if reader.checked.has_remaining() {
                let length = reader.checked.len().min(out.remaining());
                out.put_slice(&reader.checked.split_to(length));
                return Poll::Ready(Ok(()));
            }
            if reader.state == State::Broken {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "ambiguous framing")));
            }
            if let Some(length) = reader.passing() {
                // Straight from the socket into the parser's buffer.
                let length = usize::try_from(length).unwrap_or(usize::MAX).min(out.remaining());
                let mut part = ReadBuf::new(out.initialize_unfilled_to(length));
                ready!(Pin::new(stream).poll_read(cx, &mut part))?;
                let read = part.filled().len();
                out.advance(read);
                reader.passed(read as u64);
                return Poll::Ready(Ok(()));
            }
            let mut space = [0; READ];
            let mut part = ReadBuf::new(&mut space);
            ready!(Pin::new(&mut *stream).poll_read(cx, &mut part))?;
            if part.filled().is_empty() {
                // Half a head is given to the parser, which knows how to complain.
                let rest = reader.raw.split();
                out.put_slice(&rest[..rest.len().min(out.remaining())]);
                return Poll::Ready(Ok(()));
            }
            reader.take(part.filled());
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Strict<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Where in the stream the next byte is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    #[default]
    Head,
    Body(u64),
    ChunkSize,
    Chunk(u64),
    ChunkEnd,
    Trailer,
    Broken,
}

/// The checks, without a socket.
#[derive(Default)]
struct Reader {
    state: State,
    /// Read, not checked yet.
    raw: BytesMut,
    /// Where the current line of the head begins in `raw`; or how many bytes of trailers were let through.
    seen: usize,
    /// Up to where the current line of the head has no end.
    searched: usize,
    checked: BytesMut,
}

impl Reader {
    /// How many bytes may pass unlooked at, when some may.
    fn passing(&self) -> Option<u64> {
        match self.state {
            State::Body(left) | State::Chunk(left) => Some(left),
            _ => None,
        }
    }

    fn passed(&mut self, count: u64) {
        self.state = match self.state {
            State::Body(left) if left == count => State::Head,
            State::Body(left) => State::Body(left - count),
            State::Chunk(left) if left == count => State::ChunkEnd,
            State::Chunk(left) => State::Chunk(left - count),
            other => other,
        };
    }

    fn take(&mut self, bytes: &[u8]) {
        self.raw.extend_from_slice(bytes);
        while self.state != State::Broken && self.step() {}
    }

    fn fail(&mut self) -> bool {
        if self.state == State::Head {
            self.checked.extend_from_slice(POISON);
        }
        self.state = State::Broken;
        false
    }

    fn release(&mut self, length: usize) {
        let part = self.raw.split_to(length);
        self.checked.extend_from_slice(&part);
    }

    /// Moves on by one piece of the grammar; false when more bytes are needed.
    fn step(&mut self) -> bool {
        if self.raw.is_empty() {
            return false;
        }
        match self.state {
            State::Body(left) | State::Chunk(left) => {
                let length = self.raw.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                self.release(length);
                self.passed(length as u64);
                true
            }
            State::Head => self.head(),
            State::ChunkSize => self.chunk_size(),
            State::ChunkEnd => match *self.raw {
                [b'\r', b'\n', ..] => {
                    self.release(2);
                    self.state = State::ChunkSize;
                    true
                }
                [b'\r'] => false,
                _ => self.fail(),
            },
            State::Trailer => self.trailer(),
            State::Broken => false,
        }
    }

    fn head(&mut self) -> bool {
        // Line by line, so that a bare line feed is seen at once and nothing is searched twice.
        while let Some(at) = self.raw[self.searched..].iter().position(|byte| *byte == b'\n') {
            let end = self.searched + at;
            let line = &self.raw[self.seen..end];
            let Some(line) = line.strip_suffix(b"\r") else { return self.fail() };
            let last = line.is_empty();
            self.seen = end + 1;
            self.searched = end + 1;
            if last {
                let Some(next) = self.seen.le(&MAX_HEAD).then(|| framing(&self.raw[..self.seen])).flatten()
                else {
                    return self.fail();
                };
                self.release(self.seen);
                (self.seen, self.searched) = (0, 0);
                self.state = next;
                return true;
            }
        }
        self.searched = self.raw.len();
        if self.searched > MAX_HEAD {
            return self.fail();
        }
        false
    }

    fn chunk_size(&mut self) -> bool {
        let Some(end) = self.raw.iter().take(18).position(|byte| *byte == b'\n') else {
            return if self.raw.len() < 18 { false } else { self.fail() };
        };
        let size = self.raw[..end]
            .strip_suffix(b"\r")
            .filter(|digits| matches!(digits.len(), 1..=15) && digits.iter().all(u8::is_ascii_hexdigit));
        let size = size.and_then(|digits| u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        let Some(size) = size else { return self.fail() };
        self.release(end + 1);
        self.seen = 0;
        self.state = if size == 0 { State::Trailer } else { State::Chunk(size) };
        true
    }

    fn trailer(&mut self) -> bool {
        let Some(end) = self.raw.iter().position(|byte| *byte == b'\n') else {
            return if self.seen + self.raw.len() <= MAX_TRAILER { false } else { self.fail() };
        };
        let Some(line) = self.raw[..end].strip_suffix(b"\r") else { return self.fail() };
        let last = line.is_empty();
        self.seen += end + 1;
        // Fields that frame have no business here.
        let framing = |name: &[u8]| {
            name.eq_ignore_ascii_case(b"content-length") || name.eq_ignore_ascii_case(b"transfer-encoding")
        };
        if !last && field(line).is_none_or(|(name, _)| framing(name)) || self.seen > MAX_TRAILER {
            return self.fail();
        }
        self.release(end + 1);
        if last {
            self.seen = 0;
            self.state = State::Head;
        }
        true
    }
}

/// What follows a head, when it says so in one way only.
fn framing(head: &[u8]) -> Option<State> {
    let mut lines = head.strip_suffix(b"\r\n")?.split_inclusive(|byte| *byte == b'\n');
    let request = lines.next()?.strip_suffix(b"\r\n")?;
    if request.iter().any(u8::is_ascii_control) {
        return None;
    }
    let modern = match &request[request.len().saturating_sub(9)..] {
        b" HTTP/1.1" => true,
        b" HTTP/1.0" => false,
        _ => return None,
    };
    let (mut length, mut chunked, mut hosts, mut fields) = (None, false, 0, 0);
    for line in lines {
        let (name, value) = field(line.strip_suffix(b"\r\n")?)?;
        fields += 1;
        if name.eq_ignore_ascii_case(b"content-length") {
            if length.is_some() || value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
                return None;
            }
            length = Some(std::str::from_utf8(value).ok()?.parse().ok()?);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if chunked || !modern || !value.eq_ignore_ascii_case(b"chunked") {
                return None;
            }
            chunked = true;
        } else if name.eq_ignore_ascii_case(b"host") {
            hosts += 1;
        }
    }
    if fields > MAX_FIELDS || modern && hosts != 1 {
        return None;
    }
    match (length, chunked) {
        (Some(_), true) => None,
        (None, true) => Some(State::ChunkSize),
        (None | Some(0), false) => Some(State::Head),
        (Some(length), false) => Some(State::Body(length)),
    }
}

/// Name and value of a field.
fn field(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    let token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    let text = |byte: &u8| *byte == b'\t' || !byte.is_ascii_control();
    (!name.is_empty() && name.iter().all(token) && value.iter().all(text)).then(|| (name, value.trim_ascii()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the parser gets when the stream arrives in pieces of `size` bytes; `None` when it is cut.
    fn through(stream: &[u8], size: usize) -> (Vec<u8>, State) {
        let mut reader = Reader::default();
        for piece in stream.chunks(size) {
            reader.take(piece);
        }
        (reader.checked.to_vec(), reader.state)
    }

    #[test]
    fn what_is_clear_passes_unchanged_in_pieces_of_any_size() {
        let streams: [&[u8]; 7] = [
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET / HTTP/1.0\r\n\r\n",
            b"PUT /x HTTP/1.1\r\nhost:a\r\nContent-Length: 5\r\n\r\nhe\nloGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            b"PUT /x HTTP/1.1\r\nHost: a\r\ncontent-length: 0\r\n\r\n",
            b"PATCH /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n5\r\nhello\r\nA\r\n0123456789\r\n0\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            b"PATCH /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nDigest: x\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nUser-Agent: caf\u{e9}\t(x)\r\n\r\n".as_bytes(),
        ];
        for stream in streams {
            for size in 1..=stream.len() {
                assert_eq!(
                    through(stream, size),
                    (stream.to_vec(), State::Head),
                    "{}",
                    stream.escape_ascii()
                );
            }
        }
    }

    #[test]
    fn rs_07_what_two_parsers_could_read_differently_is_refused() {
        let host = "Host: a\r\n";
        for bad in [
            // Two lengths, or a length and a coding.
            format!("POST / HTTP/1.1\r\n{host}Content-Length: 5\r\nContent-Length: 6\r\n\r\n"),
            format!("POST / HTTP/1.1\r\n{host}Content-Length: 5\r\nContent-Length: 5\r\n\r\n"),
            format!("POST / HTTP/1.1\r\n{host}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"),
            format!("POST / HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n"),
            format!("POST / HTTP/1.1\r\n{host}Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n"),
            // Codings that somebody may overlook.
            format!("POST / HTTP/1.1\r\n{host}Transfer-Encoding: xchunked\r\n\r\n"),
            format!("POST / HTTP/1.1\r\n{host}Transfer-Encoding: gzip, chunked\r\n\r\n"),
            format!("POST / HTTP/1.1\r\n{host}Transfer-Encoding: chunked, identity\r\n\r\n"),
            format!("POST / HTTP/1.1\r\n{host}Transfer-Encoding: identity\r\n\r\n"),
            format!(
                "POST / HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n"
            ),
            format!("POST / HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n"),
            format!("POST / HTTP/1.1\r\n{host}Transfer-Encoding : chunked\r\n\r\n"),
            format!("POST / HTTP/1.1\r\n{host}Transfer-Encoding:\x0bchunked\r\n\r\n"),
            format!("POST / HTTP/1.1\r\n{host}Transfer-Encoding: \"chunked\"\r\n\r\n"),
            format!("POST / HTTP/1.1\r\n{host}Transfer-Encoding: chun\u{212a}ed\r\n\r\n"),
            format!("POST / HTTP/1.1\r\n{host} Transfer-Encoding: chunked\r\n\r\n"),
            format!("POST / HTTP/1.1\r\n{host}X: y\r\n Transfer-Encoding: chunked\r\n\r\n"),
            "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(),
            // Lengths that are no numbers.
            format!("POST / HTTP/1.1\r\n{host}Content-Length: +5\r\n\r\n"),
            format!("POST / HTTP/1.1\r\n{host}Content-Length: -1\r\n\r\n"),
            format!("POST / HTTP/1.1\r\n{host}Content-Length: 0x5\r\n\r\n"),
            format!("POST / HTTP/1.1\r\n{host}Content-Length: 5, 5\r\n\r\n"),
            format!("POST / HTTP/1.1\r\n{host}Content-Length: 5 5\r\n\r\n"),
            format!("POST / HTTP/1.1\r\n{host}Content-Length:\r\n\r\n"),
            format!("POST / HTTP/1.1\r\n{host}Content-Length: 99999999999999999999999\r\n\r\n"),
            // Line ends.
            "GET / HTTP/1.1\nHost: a\n\n".to_owned(),
            "GET / HTTP/1.1\r\nHost: a\n\r\n".to_owned(),
            "GET / HTTP/1.1\r\nHost: a\rX: y\r\n\r\n".to_owned(),
            "GET / HTTP/1.1\r\nHost: a\r\n\n".to_owned(),
            "GET / HTTP/1.1\r\nHost: a\r\r\n\r\n".to_owned(),
            "GET /\rx HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
            "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
            // Folding, empty and odd names, NUL.
            format!("GET / HTTP/1.1\r\n{host}X: a\r\n b\r\n\r\n"),
            format!("GET / HTTP/1.1\r\n{host}X: a\r\n\tb\r\n\r\n"),
            format!("GET / HTTP/1.1\r\n{host}: a\r\n\r\n"),
            format!("GET / HTTP/1.1\r\n{host}novalue\r\n\r\n"),
            format!("GET / HTTP/1.1\r\n{host}X: a\0b\r\n\r\n"),
            format!("GET / HTTP/1.1\r\n{host}X\0: a\r\n\r\n"),
            // Hosts and versions.
            "GET / HTTP/1.1\r\n\r\n".to_owned(),
            "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".to_owned(),
            "GET / HTTP/2.0\r\nHost: a\r\n\r\n".to_owned(),
            "GET /\r\n\r\n".to_owned(),
            // Sizes.
            format!("GET / HTTP/1.1\r\n{host}X: {}\r\n\r\n", "y".repeat(MAX_HEAD)),
            format!("GET / HTTP/1.1\r\n{host}{}\r\n", "X: y\r\n".repeat(MAX_FIELDS)),
            format!("GET /{}", "y".repeat(MAX_HEAD)),
        ] {
            for size in [1, 7, bad.len()] {
                let (given, state) = through(bad.as_bytes(), size);
                assert_eq!((&given[..], state), (POISON, State::Broken), "{}", bad.escape_debug());
            }
        }
    }

    #[test]
    fn rs_07_odd_chunks_end_the_connection() {
        let head = "PATCH / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        for bad in [
            "5\nhello\r\n0\r\n\r\n",
            "5;x=y\r\nhello\r\n0\r\n\r\n",
            "0x5\r\nhello\r\n0\r\n\r\n",
            " 5\r\nhello\r\n0\r\n\r\n",
            "5 \r\nhello\r\n0\r\n\r\n",
            "+5\r\nhello\r\n0\r\n\r\n",
            "\r\nhello\r\n0\r\n\r\n",
            "5\r\nhello0\r\n\r\n",
            "5\r\nhello\n0\r\n\r\n",
            "5\r\nhellox\r\n0\r\n\r\n",
            "ffffffffffffffff1\r\nhello",
            "10000000000000000\r\n",
            "0000000000000000005\r\nhello\r\n",
            "0\r\nContent-Length: 5\r\n\r\n",
            "0\r\nTransfer-Encoding: chunked\r\n\r\n",
            "0\r\nX: y\n\r\n",
            "0\r\n\n",
            "0\r\nX : y\r\n\r\n",
        ] {
            for size in [1, 3, 1000] {
                let (_, state) = through(format!("{head}{bad}").as_bytes(), size);
                assert_eq!(state, State::Broken, "{}", bad.escape_debug());
            }
        }
        let long = format!("{head}0\r\n{}\r\n", "X: y\r\n".repeat(1000));
        assert_eq!(through(long.as_bytes(), 100).1, State::Broken);
    }
}
