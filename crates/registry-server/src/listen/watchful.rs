//! A stream that counts its bytes and ends when none has moved for too long.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

use crate::observe::Traffic;

pub(super) struct Watchful<S> {
    stream: S,
    patience: Duration,
    moved: Instant,
    alarm: Pin<Box<Sleep>>,
    traffic: Arc<Traffic>,
}

impl<S> Watchful<S> {
    pub(super) fn new(stream: S, patience: Duration, traffic: Arc<Traffic>) -> Self {
        Self { stream, patience, moved: Instant::now(), alarm: Box::pin(sleep(patience)), traffic }
    }

    /// What to say instead of waiting on.
    fn patient<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        // The alarm is set again only when it rings: bytes cost a look at the clock.
        while self.alarm.as_mut().poll(cx).is_ready() {
            let deadline = self.moved + self.patience;
            if deadline <= Instant::now() {
                return Poll::Ready(Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "no byte moved for too long",
                )));
            }
            self.alarm.as_mut().reset(deadline);
        }
        Poll::Pending
    }

    fn wrote(&mut self, written: Poll<io::Result<usize>>, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        match written {
            Poll::Pending => self.patient(cx),
            Poll::Ready(Ok(count)) => {
                self.moved = Instant::now();
                self.traffic.sent(count as u64);
                Poll::Ready(Ok(count))
            }
            failed @ Poll::Ready(Err(_)) => failed,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watchful<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = out.filled().len();
        match Pin::new(&mut self.stream).poll_read(cx, out) {
            Poll::Pending => self.patient(cx),
            Poll::Ready(Ok(())) => {
                self.moved = Instant::now();
                self.traffic.received((out.filled().len() - before) as u64);
                Poll::Ready(Ok(()))
            }
            failed @ Poll::Ready(Err(_)) => failed,
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watchful<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.wrote(written, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.wrote(written, cx)
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

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    #[tokio::test]
    async fn a_stream_without_movement_ends() {
        let traffic = Arc::new(Traffic::default());
        let (mut far, near) = tokio::io::duplex(64);
        let mut near = Watchful::new(near, Duration::from_millis(20), traffic.clone());
        far.write_all(b"abcd").await.unwrap();
        let mut buffer = [0; 4];
        near.read_exact(&mut buffer).await.unwrap();
        assert_eq!(near.read(&mut buffer).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        // A client that does not read is no better.
        assert_eq!(near.write_all(&[0; 100]).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
