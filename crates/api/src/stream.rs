//! Framing of the byte streams the API carries: multiplexed container output and concatenated JSON documents.
//!
//! Everything here is sans I/O: the caller feeds bytes as they arrive and takes out what is complete, so the
//! server, the client and the tests share one implementation.
//!
//! A multiplexed stream is a sequence of frames `{stream: u8, 0, 0, 0, length: u32 big-endian} payload`. It is used
//! by attach, logs and exec whenever the container has no terminal. Frames may be of any length up to `u32::MAX`;
//! [`Demultiplexer`] therefore hands out payload as it comes and never buffers a whole frame.

use std::io;

use serde::de::DeserializeOwned;

/// Bytes in front of each frame of a multiplexed stream.
pub const FRAME_HEADER_LEN: usize = 8;

/// The media type of a stream that carries frames (see [`Demultiplexer`]).
pub const MULTIPLEXED_MEDIA_TYPE: &str = "application/vnd.docker.multiplexed-stream";

/// The media type of a stream that carries bare bytes, as those of a terminal.
pub const RAW_MEDIA_TYPE: &str = "application/vnd.docker.raw-stream";

/// Which of a process' streams a frame belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum StreamKind {
    /// Standard input; engines never send it, old ones echoed it.
    Stdin = 0,
    /// Standard output.
    Stdout = 1,
    /// Standard error.
    Stderr = 2,
    /// An error of the engine itself, to be shown instead of more output.
    SystemError = 3,
}

impl StreamKind {
    fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Stdin),
            1 => Some(Self::Stdout),
            2 => Some(Self::Stderr),
            3 => Some(Self::SystemError),
            _ => None,
        }
    }
}

/// The header of a frame of `len` payload bytes.
#[must_use]
pub fn frame_header(kind: StreamKind, len: u32) -> [u8; FRAME_HEADER_LEN] {
    let [a, b, c, d] = len.to_be_bytes();
    [kind as u8, 0, 0, 0, a, b, c, d]
}

/// Appends one or more frames carrying `payload` to `out`.
pub fn push_frame(out: &mut Vec<u8>, kind: StreamKind, payload: &[u8]) {
    for part in payload.chunks(u32::MAX as usize) {
        // The chunk size above makes the conversion exact.
        let len = u32::try_from(part.len()).unwrap_or(u32::MAX);
        out.extend_from_slice(&frame_header(kind, len));
        out.extend_from_slice(part);
    }
}

/// Takes a multiplexed stream apart as it arrives.
#[derive(Debug, Default)]
pub struct Demultiplexer {
    header: [u8; FRAME_HEADER_LEN],
    header_len: usize,
    kind: Option<StreamKind>,
    remaining: u32,
}

impl Demultiplexer {
    /// A demultiplexer at the start of a stream.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Hands every piece of payload in `input` to `sink`, in order. State carries over to the next call.
    ///
    /// # Errors
    /// `InvalidData` for a stream that is not multiplexed, or whatever `sink` returns.
    pub fn feed(
        &mut self,
        mut input: &[u8],
        sink: &mut dyn FnMut(StreamKind, &[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        while !input.is_empty() {
            let Some(kind) = self.kind else {
                input = self.take_header(input)?;
                continue;
            };
            let take = input.len().min(self.remaining as usize);
            let (payload, rest) = input.split_at(take);
            if !payload.is_empty() {
                sink(kind, payload)?;
            }
            // `take` is at most `remaining`, so the subtraction cannot wrap and the cast is exact.
            self.remaining -= take as u32;
            if self.remaining == 0 {
                self.kind = None;
            }
            input = rest;
        }
        Ok(())
    }

    /// Whether the stream may end here: between two frames.
    #[must_use]
    pub fn at_boundary(&self) -> bool {
        self.kind.is_none() && self.header_len == 0
    }

    fn take_header<'a>(&mut self, input: &'a [u8]) -> io::Result<&'a [u8]> {
        let take = input.len().min(FRAME_HEADER_LEN - self.header_len);
        let (part, rest) = input.split_at(take);
        self.header[self.header_len..self.header_len + take].copy_from_slice(part);
        self.header_len += take;
        if self.header_len == FRAME_HEADER_LEN {
            let [kind, _, _, _, a, b, c, d] = self.header;
            let kind = StreamKind::from_byte(kind).ok_or_else(|| {
                io::Error::new(io::ErrorKind::InvalidData, format!("unrecognized stream: {kind}"))
            })?;
            self.header_len = 0;
            self.remaining = u32::from_be_bytes([a, b, c, d]);
            self.kind = (self.remaining > 0).then_some(kind);
        }
        Ok(rest)
    }
}

/// Takes a stream of concatenated JSON documents apart as it arrives (events, stats, progress messages).
///
/// The memory held is the size of one incomplete document, at most [`JsonDocuments::LIMIT`].
#[derive(Debug, Default)]
pub struct JsonDocuments {
    buffer: Vec<u8>,
    /// Bytes at the front of `buffer` that were already handed out.
    consumed: usize,
}

impl JsonDocuments {
    /// The largest document accepted; a larger one is an error rather than unbounded memory.
    pub const LIMIT: usize = 64 << 20;

    /// A decoder at the start of a stream.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds bytes that arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.consumed > 0 {
            self.buffer.drain(..self.consumed);
            self.consumed = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next complete document, or `None` until more bytes are pushed.
    ///
    /// # Errors
    /// When the bytes are not JSON of the shape of `T`, or the document is too large.
    pub fn next_document<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        let rest = &self.buffer[self.consumed..];
        // A document that ends in a line break is the rule. Without one the text may be a prefix (`12` of `123`),
        // but every document of this API is an object, which knows its own end.
        let mut documents = serde_json::Deserializer::from_slice(rest).into_iter::<T>();
        match documents.next() {
            None => Ok(None),
            Some(Ok(document)) => {
                self.consumed += documents.byte_offset();
                Ok(Some(document))
            }
            Some(Err(error)) if error.is_eof() => {
                if rest.len() > Self::LIMIT {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "JSON document too large"));
                }
                Ok(None)
            }
            Some(Err(error)) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collect(chunks: &[&[u8]]) -> io::Result<Vec<(StreamKind, Vec<u8>)>> {
        let mut demultiplexer = Demultiplexer::new();
        let mut out: Vec<(StreamKind, Vec<u8>)> = Vec::new();
        for chunk in chunks {
            demultiplexer.feed(chunk, &mut |kind, bytes| {
                match out.last_mut() {
                    Some((last, all)) if *last == kind => all.extend_from_slice(bytes),
                    _ => out.push((kind, bytes.to_vec())),
                }
                Ok(())
            })?;
        }
        assert!(demultiplexer.at_boundary());
        Ok(out)
    }

    fn sample() -> Vec<u8> {
        let mut bytes = Vec::new();
        push_frame(&mut bytes, StreamKind::Stdout, b"hello ");
        push_frame(&mut bytes, StreamKind::Stdout, b"world\n");
        bytes.extend_from_slice(&frame_header(StreamKind::Stderr, 0));
        push_frame(&mut bytes, StreamKind::Stderr, b"oops\n");
        bytes
    }

    #[test]
    fn frames_survive_any_chunking() {
        let bytes = sample();
        let expected =
            vec![(StreamKind::Stdout, b"hello world\n".to_vec()), (StreamKind::Stderr, b"oops\n".to_vec())];
        for size in 1..=bytes.len() {
            let chunks: Vec<&[u8]> = bytes.chunks(size).collect();
            assert_eq!(collect(&chunks).unwrap(), expected, "chunks of {size}");
        }
    }

    #[test]
    fn a_stream_that_is_not_multiplexed_is_an_error() {
        let error = collect(&[b"plain text"]).unwrap_err();
        assert_eq!(error.to_string(), "unrecognized stream: 112");
    }

    #[test]
    fn a_truncated_frame_is_noticed() {
        let mut demultiplexer = Demultiplexer::new();
        demultiplexer.feed(&sample()[..10], &mut |_, _| Ok(())).unwrap();
        assert!(!demultiplexer.at_boundary());
    }

    #[test]
    fn json_documents_survive_any_chunking() {
        let bytes = br#"{"a":1}
{"a":[2,"}"]}{"a":null}
"#;
        for size in 1..=bytes.len() {
            let mut documents = JsonDocuments::new();
            let mut seen = Vec::new();
            for chunk in bytes.chunks(size) {
                documents.push(chunk);
                while let Some(value) = documents.next_document::<serde_json::Value>().unwrap() {
                    seen.push(value.to_string());
                }
            }
            assert_eq!(seen, [r#"{"a":1}"#, r#"{"a":[2,"}"]}"#, r#"{"a":null}"#], "chunks of {size}");
        }
    }

    #[test]
    fn json_garbage_is_an_error() {
        let mut documents = JsonDocuments::new();
        documents.push(b"{]");
        assert!(documents.next_document::<serde_json::Value>().is_err());
    }
}
