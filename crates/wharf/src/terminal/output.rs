//! Standard output and error for the event loop.
//!
//! A reader that is slow, or a terminal that is stopped, must not keep signals, input and resizes waiting, so a thread
//! does the writing. It is started with the first output; at most [`QUEUE`] pieces wait for it, which is the
//! back-pressure a container feels.

use std::{
    io::{self, Write},
    thread,
};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use wharf_api::stream::StreamKind;

/// How many pieces may wait to be written.
const QUEUE: usize = 16;

/// Writes to standard output and error, in the order of the calls.
#[derive(Debug, Default)]
pub(crate) struct Output {
    thread: Option<Writer>,
}

#[derive(Debug)]
struct Writer {
    queue: mpsc::Sender<(StreamKind, Bytes)>,
    done: oneshot::Receiver<io::Result<()>>,
}

impl Output {
    /// Queues `bytes` for standard output, or error if `kind` says so.
    pub(crate) async fn write(&mut self, kind: StreamKind, bytes: Bytes) -> io::Result<()> {
        let writer = self.thread.get_or_insert_with(start);
        if writer.queue.send((kind, bytes)).await.is_err() {
            // The thread ends early only after an error.
            return self.finish().await;
        }
        Ok(())
    }

    /// Waits until everything is written.
    pub(crate) async fn finish(&mut self) -> io::Result<()> {
        let Some(Writer { queue, done }) = self.thread.take() else { return Ok(()) };
        drop(queue);
        done.await.unwrap_or_else(|_| Err(io::Error::other("the output thread ended unexpectedly")))
    }
}

fn start() -> Writer {
    let (queue, mut pieces) = mpsc::channel::<(StreamKind, Bytes)>(QUEUE);
    let (tell, done) = oneshot::channel();
    thread::spawn(move || {
        let mut result = Ok(());
        while let Some((kind, bytes)) = pieces.blocking_recv() {
            result = write(kind, &bytes);
            if result.is_err() {
                break;
            }
        }
        // Nobody may be waiting any more; then nobody cares.
        let _ = tell.send(result);
    });
    Writer { queue, done }
}

fn write(kind: StreamKind, bytes: &[u8]) -> io::Result<()> {
    match kind {
        StreamKind::Stdin | StreamKind::Stdout => {
            let mut out = io::stdout().lock();
            out.write_all(bytes)?;
            out.flush()
        }
        StreamKind::Stderr | StreamKind::SystemError => io::stderr().lock().write_all(bytes),
    }
}
