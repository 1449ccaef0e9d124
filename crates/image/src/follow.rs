//! A file that one thread reads while another writes it.
//!
//! Between the network and the unpacker this is better than a queue of chunks: the writer never waits for the reader, so
//! what has come is on its way to the disk at once and a kill loses none of it, and the reader may be any distance
//! behind without holding memory. What it reads is in the page cache.

use std::fs::File;
use std::io::{self, BufRead, Read};
use std::os::unix::fs::FileExt as _;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::pipe::{CHUNK, source_failure};

/// How far the writer is.
#[derive(Debug)]
pub(crate) struct Written {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    bytes: u64,
    end: Option<End>,
    /// Nobody reads any more.
    unread: bool,
}

#[derive(Debug, Clone, Copy)]
enum End {
    Whole,
    Broken,
}

impl Written {
    /// Of a file that has some bytes already.
    pub(crate) fn new(bytes: u64) -> Self {
        Self { state: Mutex::new(State { bytes, end: None, unread: false }), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file has this many bytes; false once nobody reads it.
    pub(crate) fn advance(&self, bytes: u64) -> bool {
        let mut state = self.lock();
        state.bytes = state.bytes.max(bytes);
        self.changed.notify_all();
        !state.unread
    }

    /// Nothing more comes: all of it is there, or the rest is missing.
    pub(crate) fn end(&self, whole: bool) {
        self.lock().end = Some(if whole { End::Whole } else { End::Broken });
        self.changed.notify_all();
    }

    /// Waits for more than `position` bytes; answers how many there are, which at the end is `position`.
    fn beyond(&self, position: u64) -> io::Result<u64> {
        let state = self.lock();
        let waiting = |state: &mut State| state.bytes <= position && state.end.is_none();
        let state = self.changed.wait_while(state, waiting).unwrap_or_else(PoisonError::into_inner);
        match state.end {
            Some(End::Broken) => Err(source_failure()),
            _ => Ok(state.bytes),
        }
    }
}

/// The reading end.
pub(crate) struct Follow<'a> {
    file: File,
    written: &'a Written,
    /// Learns how far the reading is.
    on: &'a (dyn Fn(u64) + Sync),
    buffer: Box<[u8]>,
    at: usize,
    filled: usize,
    position: u64,
}

impl<'a> Follow<'a> {
    pub(crate) fn new(file: File, written: &'a Written, on: &'a (dyn Fn(u64) + Sync)) -> Self {
        let buffer = vec![0; CHUNK].into_boxed_slice();
        Self { file, written, on, buffer, at: 0, filled: 0, position: 0 }
    }

    /// The first bytes, enough to tell formats apart, or all if there are fewer.
    pub(crate) fn start(&mut self) -> io::Result<&[u8]> {
        const ENOUGH: u64 = 512;
        let mut seen = 0;
        while seen < ENOUGH {
            let there = self.written.beyond(seen)?;
            if there == seen {
                break;
            }
            seen = there;
        }
        self.fill_buf()
    }
}

impl Drop for Follow<'_> {
    fn drop(&mut self) {
        self.written.lock().unread = true;
    }
}

impl BufRead for Follow<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.filled {
            (self.on)(self.position);
            let there = self.written.beyond(self.position)?;
            let wanted = usize::try_from(there - self.position).unwrap_or(CHUNK).min(CHUNK);
            (self.at, self.filled) = (0, 0);
            self.file.read_exact_at(&mut self.buffer[..wanted], self.position)?;
            self.filled = wanted;
            self.position += wanted as u64;
        }
        Ok(&self.buffer[self.at..self.filled])
    }

    fn consume(&mut self, taken: usize) {
        self.at = (self.at + taken).min(self.filled);
    }
}

impl Read for Follow<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let taken = available.len().min(buffer.len());
        buffer[..taken].copy_from_slice(&available[..taken]);
        self.consume(taken);
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn the_reader_gets_every_byte_and_waits_for_none_that_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let mut file = File::create(&path).unwrap();
        file.write_all(b"early ").unwrap();
        let written = Written::new(6);
        let text = std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut follow = Follow::new(File::open(&path).unwrap(), &written, &|_| {});
                let mut text = String::new();
                follow.read_to_string(&mut text).map(|_| text)
            });
            for (piece, so_far) in [("late ", 11), ("last", 15)] {
                file.write_all(piece.as_bytes()).unwrap();
                assert!(written.advance(so_far));
            }
            written.end(true);
            reader.join().unwrap()
        });
        assert_eq!(text.unwrap(), "early late last");
        assert!(!written.advance(16), "the reader is gone");
    }

    #[test]
    fn a_broken_source_is_no_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, "some").unwrap();
        let written = Written::new(4);
        written.end(false);
        let mut text = Vec::new();
        let error =
            Follow::new(File::open(&path).unwrap(), &written, &|_| {}).read_to_end(&mut text).unwrap_err();
        assert!(crate::pipe::is_source_failure(&error));
    }
}
