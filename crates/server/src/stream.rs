//! A client's connection, whatever it came over.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio_rustls::server::TlsStream;
use wharf_linux::process;

/// The bytes of a connection, and its place among the connections there may be: the place is free when the last who
/// uses the bytes has let go, which after an upgrade is no longer the HTTP server.
pub(crate) struct Stream {
    wire: Wire,
    ended: Option<Arc<Notify>>,
    _place: OwnedSemaphorePermit,
}

pub(crate) enum Wire {
    Unix(UnixStream),
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    pub(crate) fn new(wire: Wire, place: OwnedSemaphorePermit) -> Self {
        Self { wire, ended: None, _place: place }
    }

    /// Of a socket of this machine, ends when the client has gone altogether; before the end of its input, nothing is
    /// watched. Never ends for other connections, where the end of the input is the client's end.
    pub(crate) fn leaving(&mut self) -> impl Future<Output = ()> + use<> {
        let ended = Arc::new(Notify::new());
        let twin = match &self.wire {
            Wire::Unix(stream) => twin(stream).ok(),
            Wire::Tcp(_) | Wire::Tls(_) => None,
        };
        self.ended = twin.is_some().then(|| ended.clone());
        async move {
            let Some(twin) = twin else { return std::future::pending().await };
            ended.notified().await;
            if let Ok(socket) = UnixStream::from_std(twin.into()) {
                Watch::Unix(socket).gone().await;
            }
        }
    }

    /// Something that knows what the client has not read yet; only of a socket of this machine.
    pub(crate) fn unread(&self) -> io::Result<Option<Unread>> {
        match &self.wire {
            Wire::Unix(stream) => Ok(Some(Unread(twin(stream)?))),
            Wire::Tcp(_) | Wire::Tls(_) => Ok(None),
        }
    }

    /// Something that notices when the client has gone altogether.
    pub(crate) fn watch(&self) -> io::Result<Watch> {
        Watch::new(&self.wire)
    }
}

macro_rules! on_wire {
    ($self:expr, $inner:ident => $call:expr) => {
        match &mut $self.get_mut().wire {
            Wire::Unix($inner) => $call,
            Wire::Tcp($inner) => $call,
            Wire::Tls($inner) => $call,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let (before, room) = (buf.filled().len(), buf.remaining());
        let polled = match &mut this.wire {
            Wire::Unix(inner) => Pin::new(inner).poll_read(cx, buf),
            Wire::Tcp(inner) => Pin::new(inner).poll_read(cx, buf),
            Wire::Tls(inner) => Pin::new(inner).poll_read(cx, buf),
        };
        let at_end = matches!(polled, Poll::Ready(Ok(()))) && room > 0 && buf.filled().len() == before;
        if at_end && let Some(ended) = this.ended.take() {
            ended.notify_one();
        }
        polled
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        on_wire!(self, inner => Pin::new(inner).poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        on_wire!(self, inner => Pin::new(inner).poll_write_vectored(cx, bytes))
    }

    fn is_write_vectored(&self) -> bool {
        match &self.wire {
            Wire::Unix(inner) => inner.is_write_vectored(),
            Wire::Tcp(inner) => inner.is_write_vectored(),
            Wire::Tls(inner) => inner.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_wire!(self, inner => Pin::new(inner).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_wire!(self, inner => Pin::new(inner).poll_shutdown(cx))
    }
}

/// Notices that the client has gone altogether.
///
/// A client that only closed its sending side still wants output, so the end of its input is not enough to tell: the
/// socket has to report that both directions are closed. Under TLS the sending side is closed by a record, and the
/// socket's own end means that the client has gone.
///
/// It has a second descriptor of the same socket, because watching clears the readiness that the writer goes by.
pub(crate) enum Watch {
    Unix(UnixStream),
    Tcp(TcpStream),
    Tls(TcpStream),
}

impl Watch {
    fn new(wire: &Wire) -> io::Result<Self> {
        Ok(match wire {
            Wire::Unix(stream) => Self::Unix(UnixStream::from_std(twin(stream)?.into())?),
            Wire::Tcp(stream) => Self::Tcp(TcpStream::from_std(twin(stream)?.into())?),
            Wire::Tls(stream) => Self::Tls(TcpStream::from_std(twin(stream.get_ref().0)?.into())?),
        })
    }

    /// Ends when the client has gone, or when that cannot be known.
    pub(crate) async fn gone(self) {
        let again = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
        loop {
            let ready = match &self {
                Self::Unix(socket) => socket.ready(Interest::WRITABLE).await,
                Self::Tcp(socket) => socket.ready(Interest::WRITABLE).await,
                Self::Tls(socket) => socket.ready(Interest::READABLE).await,
            };
            let Ok(ready) = ready else { return };
            if ready.is_write_closed() || (ready.is_read_closed() && matches!(self, Self::Tls(_))) {
                return;
            }
            let _cleared = match &self {
                Self::Unix(socket) => socket.try_io(Interest::WRITABLE, again),
                Self::Tcp(socket) => socket.try_io(Interest::WRITABLE, again),
                Self::Tls(socket) => socket.try_io(Interest::READABLE, again),
            };
        }
    }
}

/// What was written to a client and is not read yet.
pub(crate) struct Unread(OwnedFd);

impl Unread {
    /// Ends when the client has read everything, or after `patience`.
    pub(crate) async fn read(self, patience: Duration) {
        let until = Instant::now() + patience;
        while Instant::now() < until && process::unread(&self.0).is_ok_and(|bytes| bytes > 0) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

fn twin(socket: &impl AsFd) -> io::Result<OwnedFd> {
    socket.as_fd().try_clone_to_owned()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn what_is_read_is_not_waited_for() {
        let (mut server, mut client) = UnixStream::pair().unwrap();
        let unread = || Unread(twin(&server).unwrap());
        unread().read(Duration::MAX / 4).await;
        let (before, after) = (unread(), unread());
        server.write_all(b"head").await.unwrap();
        before.read(Duration::from_millis(1)).await;
        let reader = async {
            let mut head = [0; 4];
            client.read_exact(&mut head).await.unwrap();
            head
        };
        let (head, ()) = tokio::join!(reader, after.read(Duration::from_secs(60)));
        assert_eq!(&head, b"head");
    }

    #[tokio::test]
    async fn a_half_closed_client_is_not_gone() {
        let (server, mut client) = UnixStream::pair().unwrap();
        let mut wire = Wire::Unix(server);
        let gone = Watch::new(&wire).unwrap().gone();
        tokio::pin!(gone);
        client.shutdown().await.unwrap();
        // The end of its input arrives, and is no reason to think it gone.
        if let Wire::Unix(server) = &mut wire {
            assert_eq!(server.read(&mut [0; 8]).await.unwrap(), 0);
        }
        tokio::select! {
            biased;
            () = &mut gone => panic!("the client can still read"),
            () = std::future::ready(()) => {}
        }
        drop(client);
        gone.await;
    }
}
