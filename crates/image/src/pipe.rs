//! Bytes handed from one thread to another.

use std::io::{self, BufRead, Read};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};

/// Size of the pieces handed over; small enough to stay in the second-level cache between the two threads' uses.
pub(crate) const CHUNK: usize = 512 * 1024;
/// Pieces under way at most.
const DEPTH: usize = 6;

/// One direction of bytes between two threads.
pub(crate) fn pipe() -> (Sink, Source) {
    let (sender, receiver) = sync_channel(DEPTH);
    let (used, unused) = sync_channel(DEPTH);
    let sink = Sink { sender, unused };
    (sink, Source { receiver, used, chunk: Arc::default(), at: 0, end: None })
}

enum Message {
    Chunk(Arc<Vec<u8>>),
    End,
    Failed(io::Error),
}

/// The writing end. Dropped without [`Sink::end`] or [`Sink::fail`], it tells the reader that the source failed.
pub(crate) struct Sink {
    sender: SyncSender<Message>,
    unused: Receiver<Vec<u8>>,
}

impl Sink {
    /// An empty buffer, one that came back if there is one.
    pub(crate) fn buffer(&self) -> Vec<u8> {
        match self.unused.try_recv() {
            Ok(buffer) => buffer,
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => Vec::with_capacity(CHUNK),
        }
    }

    /// Hands a piece over; false if the reader is gone, which is its own affair.
    pub(crate) fn send(&self, chunk: Arc<Vec<u8>>) -> bool {
        self.sender.send(Message::Chunk(chunk)).is_ok()
    }

    /// All bytes were sent.
    pub(crate) fn end(self) {
        let _ = self.sender.send(Message::End);
    }

    /// There are no more bytes because of this.
    pub(crate) fn fail(self, error: io::Error) {
        let _ = self.sender.send(Message::Failed(error));
    }
}

/// The reading end.
pub(crate) struct Source {
    receiver: Receiver<Message>,
    used: SyncSender<Vec<u8>>,
    chunk: Arc<Vec<u8>>,
    at: usize,
    end: Option<End>,
}

enum End {
    Clean,
    /// The error is reported once, and then as the other thread's affair.
    Failed(Option<io::Error>),
}

/// Marks an error that is not about the bytes: the other thread has the real one.
#[derive(Debug, thiserror::Error)]
#[error("the source of the data failed")]
struct SourceFailure;

/// An error that leaves it to the other thread to say what happened.
pub(crate) fn source_failure() -> io::Error {
    io::Error::other(SourceFailure)
}

/// Whether an error means that the other thread gave up.
pub(crate) fn is_source_failure(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<SourceFailure>())
}

impl Source {
    fn give_back(&mut self) {
        if let Some(mut buffer) = Arc::into_inner(std::mem::take(&mut self.chunk)) {
            buffer.clear();
            let _ = self.used.try_send(buffer);
        }
    }
}

impl BufRead for Source {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.at == self.chunk.len() && self.end.is_none() {
            self.give_back();
            self.at = 0;
            match self.receiver.recv() {
                Ok(Message::Chunk(chunk)) => self.chunk = chunk,
                Ok(Message::End) => self.end = Some(End::Clean),
                Ok(Message::Failed(error)) => self.end = Some(End::Failed(Some(error))),
                Err(_) => self.end = Some(End::Failed(None)),
            }
        }
        match &mut self.end {
            Some(End::Failed(error)) => Err(error.take().unwrap_or_else(source_failure)),
            _ => Ok(&self.chunk[self.at..]),
        }
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
