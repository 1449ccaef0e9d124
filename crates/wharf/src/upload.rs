//! Sends files and standard input as the body of a request, while the response may already arrive.

use std::{io::Read, thread};

use bytes::Bytes;
use futures_util::{Stream, stream};
use tokio::sync::mpsc;

/// How much is read at once.
const PIECE: usize = 256 << 10;

/// The content of `source`, read by a thread of its own because files and pipes block.
pub(crate) fn pieces(
    mut source: impl Read + Send + 'static,
) -> impl Stream<Item = std::io::Result<Bytes>> + Send {
    let (sender, receiver) = mpsc::channel(4);
    thread::spawn(move || {
        loop {
            let mut buffer = vec![0; PIECE];
            let piece = match source.read(&mut buffer) {
                Ok(0) => return,
                Ok(count) => {
                    buffer.truncate(count);
                    Ok(Bytes::from(buffer))
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
            let failed = piece.is_err();
            // The engine may answer before it read everything, and then nobody wants the rest.
            if sender.blocking_send(piece).is_err() || failed {
                return;
            }
        }
    });
    stream::unfold(receiver, async |mut receiver| Some((receiver.recv().await?, receiver)))
}
