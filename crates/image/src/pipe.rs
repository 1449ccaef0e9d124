//! Bytes handed from the thread that reads the client to the thread that unpacks.

use std::io::{self, BufRead, Read};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Size of the pieces handed over; small enough to stay in the second-level cache between the two threads' uses.
pub(crate) const CHUNK: usize = 512 * 1024;
/// Pieces under way at most.
const DEPTH: usize = 6;

/// One direction of bytes between two threads.
pub(crate) fn pipe() -> (Sink, Source) {
    let (sender, receiver) = sync_channel(DEPTH);
    (Sink(sender), Source { receiver, chunk: Arc::default(), at: 0, broken: false, ended: false })
}

/// The writing end. Dropped without [`Sink::end`], it tells the reader that the source failed.
pub(crate) struct Sink(SyncSender<Option<Arc<Vec<u8>>>>);

impl Sink {
    /// Hands a piece over; false if the reader is gone, which is its own affair.
    pub(crate) fn send(&self, chunk: Arc<Vec<u8>>) -> bool {
        self.0.send(Some(chunk)).is_ok()
    }

    /// All bytes were sent.
    pub(crate) fn end(self) {
        let _ = self.0.send(None);
    }
}

/// The reading end.
pub(crate) struct Source {
    receiver: Receiver<Option<Arc<Vec<u8>>>>,
    chunk: Arc<Vec<u8>>,
    at: usize,
    broken: bool,
    ended: bool,
}

/// Marks an error that is not about the bytes: the other thread has the real one.
#[derive(Debug, thiserror::Error)]
#[error("the source of the data failed")]
struct SourceFailure;

/// Whether an error means that the other thread gave up.
pub(crate) fn is_source_failure(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<SourceFailure>())
}

impl BufRead for Source {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.at == self.chunk.len() && !self.ended {
            match self.receiver.recv() {
                Ok(Some(chunk)) => {
                    self.chunk = chunk;
                    self.at = 0;
                }
                Ok(None) => self.ended = true,
                Err(_) => {
                    self.broken = true;
                    self.ended = true;
                }
            }
        }
        if self.broken {
            return Err(io::Error::other(SourceFailure));
        }
        Ok(&self.chunk[self.at..])
    }

    fn consume(&mut self, taken: usize) {
        self.at = (self.at + taken).min(self.chunk.len());
    }
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let chunk = self.fill_buf()?;
        let taken = chunk.len().min(buffer.len());
        buffer[..taken].copy_from_slice(&chunk[..taken]);
        self.consume(taken);
        Ok(taken)
    }
}
