//! Byte streams between the network, which is asynchronous, and work that blocks.
//!
//! Between the two are a few pieces at most: whoever is slower sets the pace, and memory is bounded.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::{Error, Result};

/// Bytes per piece, and how many pieces may wait.
const PIECE: usize = 256 * 1024;
const PIECES: usize = 4;
/// Archives that are read and written at the same time.
const STREAMS: usize = 256;

static PLACES: Semaphore = Semaphore::const_new(STREAMS);

/// What `write` writes, as a stream; `what` it is for the log. When writing fails, the reader sees an error, never a
/// short stream.
pub(crate) fn written(
    what: &'static str,
    write: impl FnOnce(&mut (dyn std::io::Write + Send)) -> std::io::Result<()> + Send + 'static,
) -> ChannelReader {
    let (sender, reader) = channel();
    let failing = sender.sender.clone();
    if let Err(error) = paced(move || write_all(what, sender, write)) {
        // The reader hears it as the first piece.
        let _room_for_one = failing.try_send(Err(std::io::Error::other(error.to_string())));
    }
    reader
}

/// Runs work that goes at a client's pace on a thread of its own. A client that stops reading or sending holds that thread
/// and nothing else: the pool of [`blocking`](crate::blocking) is for work that ends by itself.
pub(crate) fn paced(work: impl FnOnce() + Send + 'static) -> Result<()> {
    let place = PLACES.try_acquire().map_err(|_| {
        Error::Unavailable(format!("{STREAMS} archives are being read or written: wait until one is done"))
    })?;
    let runtime = tokio::runtime::Handle::current();
    let thread = std::thread::Builder::new().name("archive".into()).spawn(move || {
        let _context = runtime.enter();
        work();
        drop(place);
    });
    thread.map(drop).map_err(|error| Error::System(format!("starting a thread: {error}")))
}

/// Both ends of a stream that somebody who blocks writes.
pub(crate) fn channel() -> (ChannelWriter, ChannelReader) {
    let (sender, receiver) = mpsc::channel(PIECES);
    (ChannelWriter { sender }, ChannelReader { receiver, rest: Bytes::new() })
}

/// Writes a stream to its end, or breaks it.
pub(crate) fn write_all(
    what: &'static str,
    channel: ChannelWriter,
    write: impl FnOnce(&mut (dyn std::io::Write + Send)) -> std::io::Result<()>,
) {
    let sender = channel.sender.clone();
    let mut writer = std::io::BufWriter::with_capacity(PIECE, channel);
    let result = write(&mut writer).and_then(|()| std::io::Write::flush(&mut writer));
    if let Err(error) = result {
        // What is buffered must not follow the error.
        let (_channel, _rest) = writer.into_parts();
        if !sender.is_closed() {
            tracing::warn!(%error, "{what} was not written to its end");
        }
        let _reader_left = sender.blocking_send(Err(error));
    }
}

/// Feeds an asynchronous stream to work that blocks.
pub(crate) async fn with_reader<T: Send + 'static>(
    mut input: impl AsyncRead + Send + Unpin + 'static,
    work: impl FnOnce(BlockingReader) -> Result<T> + Send + 'static,
) -> Result<T> {
    let (sender, receiver) = mpsc::channel::<std::io::Result<Bytes>>(PIECES);
    let feeder = tokio::spawn(async move {
        loop {
            let mut piece = bytes::BytesMut::with_capacity(PIECE);
            let item = match input.read_buf(&mut piece).await {
                Ok(0) => return,
                Ok(_) => Ok(piece.freeze()),
                Err(error) => Err(error),
            };
            let last = item.is_err();
            if sender.send(item).await.is_err() || last {
                return;
            }
        }
    });
    let (tell, told) = oneshot::channel();
    let started = paced(move || {
        let _caller_left = tell.send(work(BlockingReader { receiver, rest: Bytes::new() }));
    });
    let result = match started {
        Ok(()) => told.await.unwrap_or_else(|_| Err(Error::System("an internal task failed".into()))),
        Err(error) => Err(error),
    };
    feeder.abort();
    result
}

/// The blocking end of [`with_reader`].
pub(crate) struct BlockingReader {
    receiver: mpsc::Receiver<std::io::Result<Bytes>>,
    rest: Bytes,
}

impl std::io::Read for BlockingReader {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.rest.is_empty() {
            match self.receiver.blocking_recv() {
                Some(piece) => self.rest = piece?,
                None => return Ok(0),
            }
        }
        let count = self.rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&self.rest.split_to(count));
        Ok(count)
    }
}

/// The writing end of [`channel`].
pub(crate) struct ChannelWriter {
    sender: mpsc::Sender<std::io::Result<Bytes>>,
}

impl std::io::Write for ChannelWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let sent = self.sender.blocking_send(Ok(Bytes::copy_from_slice(bytes)));
        sent.map(|()| bytes.len()).map_err(|_| std::io::Error::from(std::io::ErrorKind::BrokenPipe))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The reading end of [`channel`].
pub(crate) struct ChannelReader {
    receiver: mpsc::Receiver<std::io::Result<Bytes>>,
    rest: Bytes,
}

impl AsyncRead for ChannelReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if self.rest.is_empty() {
            match self.receiver.poll_recv(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Ready(Some(piece)) => self.rest = piece?,
            }
        }
        let count = self.rest.len().min(out.remaining());
        out.put_slice(&self.rest.split_to(count));
        Poll::Ready(Ok(()))
    }
}
