//! Connections to log receivers: TCP, TLS, UDP and unix sockets. Every step has a deadline.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest};
use tokio::net::{TcpStream, UdpSocket, UnixStream, lookup_host};
use tokio_rustls::TlsConnector;
use wharf_linux::seqpacket;

use super::tail::Batch;
use crate::readiness::watch;

/// How long reaching a receiver may take.
const CONNECT: Duration = Duration::from_secs(10);
/// How long a receiver may take nothing at all.
const STALL: Duration = Duration::from_secs(30);
/// How long a receiver may take to end a stream that has ended here.
const FAREWELL: Duration = Duration::from_secs(5);
/// What is written to a stream at a time.
const PIECE: usize = 64 * 1024;
/// The longest answer of a receiver.
const ANSWER: usize = 4 * 1024;

/// Where a receiver is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    Tcp {
        host: String,
        port: u16,
    },
    Tls {
        host: String,
        port: u16,
        files: TlsFiles,
    },
    Udp {
        host: String,
        port: u16,
    },
    Unix(PathBuf),
    Unixgram(PathBuf),
    /// The first of the usual sockets of a local syslog.
    LocalSyslog,
}

/// Whom a TLS connection trusts, and who we are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct TlsFiles {
    pub(super) authorities: Option<PathBuf>,
    pub(super) certificate: Option<PathBuf>,
    pub(super) key: Option<PathBuf>,
    pub(super) skip_verify: bool,
}

/// Any connected stream.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A stream to a receiver. A stream that is dropped with unread bytes of its other end (TLS tickets, greetings) is reset
/// by the kernel, and the receiver loses what it has not read: so its end is said first, and the rest is read.
pub(super) struct Stream(Option<Box<dyn Duplex>>);

impl Stream {
    fn new(stream: impl Duplex + 'static) -> Self {
        Self(Some(Box::new(stream)))
    }

    fn get(&mut self) -> Result<&mut dyn Duplex, String> {
        match &mut self.0 {
            Some(stream) => Ok(stream.as_mut()),
            None => Err("the connection is closed".into()),
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let (Some(mut stream), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current()) else {
            return;
        };
        runtime.spawn(tokio::time::timeout(FAREWELL, async move {
            let _reset_already = stream.shutdown().await;
            let mut rest = [0; 512];
            while !matches!(stream.read(&mut rest).await, Ok(0) | Err(_)) {}
        }));
    }
}

/// A connection.
pub(super) enum Connection {
    Stream(Stream),
    Udp(UdpSocket),
    Unixgram(AsyncFd<OwnedFd>),
}

/// Reaches a receiver.
///
/// # Errors
/// What Docker says.
pub(super) async fn connect(place: &Place) -> Result<Connection, String> {
    let reached = tokio::time::timeout(CONNECT, reach(place)).await;
    reached.unwrap_or_else(|_| Err(format!("dial {}: i/o timeout", address(place))))
}

fn address(place: &Place) -> String {
    match place {
        Place::Tcp { host, port } | Place::Tls { host, port, .. } => format!("tcp {host}:{port}"),
        Place::Udp { host, port } => format!("udp {host}:{port}"),
        Place::Unix(path) => format!("unix {}", path.display()),
        Place::Unixgram(path) => format!("unixgram {}", path.display()),
        Place::LocalSyslog => "syslog".to_owned(),
    }
}

async fn reach(place: &Place) -> Result<Connection, String> {
    match place {
        Place::Tcp { host, port } => Ok(Connection::Stream(Stream::new(tcp(host, *port).await?))),
        Place::Tls { host, port, files } => {
            let settings = trust(files)?;
            let name = ServerName::try_from(host.clone())
                .map_err(|_| format!("tls: {host:?} is neither a name nor an address"))?;
            let stream = tcp(host, *port).await?;
            let secured = TlsConnector::from(settings).connect(name, stream).await;
            Ok(Connection::Stream(Stream::new(secured.map_err(|error| format!("tls: {error}"))?)))
        }
        Place::Udp { host, port } => udp(host, *port).await.map(Connection::Udp),
        Place::Unix(path) => match UnixStream::connect(path).await {
            Ok(stream) => Ok(Connection::Stream(Stream::new(stream))),
            Err(error) => Err(format!("dial unix {}: connect: {}", path.display(), reason(&error))),
        },
        Place::Unixgram(path) => unixgram(path)
            .map_err(|error| format!("dial unixgram {}: connect: {}", path.display(), reason(&error))),
        Place::LocalSyslog => {
            for path in ["/dev/log", "/var/run/syslog", "/var/run/log"] {
                if let Ok(connection) = unixgram(Path::new(path)) {
                    return Ok(connection);
                }
                if let Ok(stream) = UnixStream::connect(path).await {
                    return Ok(Connection::Stream(Stream::new(stream)));
                }
            }
            Err("Unix syslog delivery error".to_owned())
        }
    }
}

/// An error as Go would say it.
fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut characters = text.chars();
    characters.next().into_iter().flat_map(char::to_lowercase).chain(characters).collect()
}

fn host_or_here(host: &str) -> &str {
    if host.is_empty() { "127.0.0.1" } else { host }
}

async fn addresses(
    network: &str,
    host: &str,
    port: u16,
) -> Result<impl Iterator<Item = std::net::SocketAddr>, String> {
    let host = host_or_here(host);
    lookup_host((host, port)).await.map_err(|_| format!("dial {network}: lookup {host}: no such host"))
}

async fn tcp(host: &str, port: u16) -> Result<TcpStream, String> {
    let mut failure = format!("dial tcp: lookup {host}: no such host");
    for address in addresses("tcp", host, port).await? {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                // Batches are whole; waiting for more would only delay the last one.
                let _best_effort = stream.set_nodelay(true);
                return Ok(stream);
            }
            Err(error) => failure = format!("dial tcp {address}: connect: {}", reason(&error)),
        }
    }
    Err(failure)
}

async fn udp(host: &str, port: u16) -> Result<UdpSocket, String> {
    let mut failure = format!("dial udp: lookup {host}: no such host");
    for address in addresses("udp", host, port).await? {
        let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let connected = async {
            let socket = UdpSocket::bind(any).await?;
            socket.connect(address).await?;
            Ok::<_, io::Error>(socket)
        };
        match connected.await {
            Ok(socket) => return Ok(socket),
            Err(error) => failure = format!("dial udp {address}: {}", reason(&error)),
        }
    }
    Err(failure)
}

fn unixgram(path: &Path) -> io::Result<Connection> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(Connection::Unixgram(watch(socket, Interest::READABLE | Interest::WRITABLE)?))
}

fn trust(files: &TlsFiles) -> Result<Arc<ClientConfig>, String> {
    const LIMIT: u64 = 1 << 20;
    let read = |path: &Option<PathBuf>| match path {
        Some(path) => {
            wharf_linux::hostfs::read_bounded(path, LIMIT).map(Some).map_err(|error| error.to_string())
        }
        None => Ok(None),
    };
    let (authorities, certificate, key) =
        (read(&files.authorities)?, read(&files.certificate)?, read(&files.key)?);
    let identity = certificate.as_deref().zip(key.as_deref());
    wharf_registry::tls_settings(authorities.as_deref(), identity, !files.skip_verify)
        .map_err(|error| error.to_string())
}

impl Connection {
    /// Sends a batch from message `done` on, which it moves: what was sent whole need not be sent again.
    pub(super) async fn send(&mut self, batch: &Batch, done: &mut usize) -> Result<(), String> {
        match self {
            Self::Stream(stream) => {
                let stream = stream.get()?;
                if is_closed(stream).await {
                    return Err("the receiver has closed the connection".into());
                }
                send_stream(stream, batch, done).await
            }
            Self::Udp(socket) => {
                while *done < batch.ends.len() {
                    let mut sent = within(socket.send(batch.message(*done))).await;
                    if sent.is_err() {
                        // What an earlier datagram met; this one was not sent.
                        sent = within(socket.send(batch.message(*done))).await;
                    }
                    // Nobody ever promised that a datagram arrives.
                    let _lost = sent;
                    *done += 1;
                }
                Ok(())
            }
            Self::Unixgram(socket) => {
                while *done < batch.ends.len() {
                    send_datagram(socket, batch.message(*done)).await?;
                    *done += 1;
                }
                Ok(())
            }
        }
    }

    /// Writes bytes that are no messages of their own to a stream.
    pub(super) async fn write(&mut self, bytes: &[u8]) -> Result<(), String> {
        match self {
            Self::Stream(stream) => {
                let stream = stream.get()?;
                for piece in bytes.chunks(PIECE) {
                    within(stream.write_all(piece)).await?;
                }
                Ok(())
            }
            _ => Err("not a stream".into()),
        }
    }

    /// Reads an answer until `parse` understands it.
    pub(super) async fn answer<T>(
        &mut self,
        mut parse: impl FnMut(&[u8]) -> Result<Option<T>, String>,
    ) -> Result<T, String> {
        let Self::Stream(stream) = self else { return Err("not a stream".into()) };
        let stream = stream.get()?;
        let mut bytes = Vec::new();
        loop {
            let mut piece = [0; 512];
            let count = within(stream.read(&mut piece)).await?;
            if count == 0 {
                return Err("the receiver closed the connection instead of answering".into());
            }
            bytes.extend_from_slice(&piece[..count]);
            if let Some(answer) = parse(&bytes)? {
                return Ok(answer);
            }
            if bytes.len() > ANSWER {
                return Err("the receiver's answer has no end".into());
            }
        }
    }
}

async fn within<T>(work: impl Future<Output = io::Result<T>>) -> Result<T, String> {
    match tokio::time::timeout(STALL, work).await {
        Ok(result) => result.map_err(|error| reason(&error)),
        Err(_) => Err(format!("the receiver took nothing for {} seconds", STALL.as_secs())),
    }
}

/// The peer has said that it will read no more: what is written now would be lost without an error.
async fn is_closed(stream: &mut dyn Duplex) -> bool {
    let mut piece = [0; 512];
    // Whatever it says unasked is thrown away.
    loop {
        let look = std::future::poll_fn(|context| {
            let mut buffer = tokio::io::ReadBuf::new(&mut piece);
            match std::pin::Pin::new(&mut *stream).poll_read(context, &mut buffer) {
                std::task::Poll::Pending => std::task::Poll::Ready(None),
                std::task::Poll::Ready(Ok(())) => std::task::Poll::Ready(Some(buffer.filled().len())),
                std::task::Poll::Ready(Err(_)) => std::task::Poll::Ready(Some(0)),
            }
        });
        match look.await {
            None => return false,
            Some(0) => return true,
            Some(_) => {}
        }
    }
}

async fn send_stream(stream: &mut dyn Duplex, batch: &Batch, done: &mut usize) -> Result<(), String> {
    let mut at = batch.start(*done);
    while at < batch.bytes.len() {
        let piece = &batch.bytes[at..batch.bytes.len().min(at + PIECE)];
        at += within(stream.write(piece)).await?;
        *done = batch.ends.partition_point(|end| *end <= at);
    }
    within(stream.flush()).await?;
    *done = batch.ends.len();
    Ok(())
}

/// One datagram; one that is too long for the socket goes as a sealed file in memory, as the journal takes them.
async fn send_datagram(socket: &AsyncFd<OwnedFd>, bytes: &[u8]) -> Result<(), String> {
    let too_long = |error: &io::Error| matches!(error.raw_os_error(), Some(code) if code == rustix::io::Errno::MSGSIZE.raw_os_error());
    let sent = tokio::time::timeout(
        STALL,
        socket.async_io(Interest::WRITABLE, |socket| seqpacket::send(socket.as_fd(), bytes, &[])),
    );
    match sent.await {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(error)) if too_long(&error) => {}
        Ok(Err(error)) => return Err(reason(&error)),
        Err(_) => return Err(format!("the receiver took nothing for {} seconds", STALL.as_secs())),
    }
    let file = sealed(bytes).map_err(|error| reason(&error))?;
    within(
        socket.async_io(Interest::WRITABLE, |socket| seqpacket::send(socket.as_fd(), &[], &[file.as_fd()])),
    )
    .await
}

/// A file in memory that nobody can change any more.
fn sealed(bytes: &[u8]) -> io::Result<OwnedFd> {
    use rustix::fs::{MemfdFlags, SealFlags};
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut file = std::fs::File::from(rustix::fs::memfd_create("wharf-log", flags)?);
    io::Write::write_all(&mut file, bytes)?;
    rustix::fs::fcntl_add_seals(
        &file,
        SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE,
    )?;
    Ok(file.into())
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
