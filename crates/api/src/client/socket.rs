//! Connections, before and after they speak HTTP.

use std::{
    io,
    pin::Pin,
    process::Stdio,
    sync::Arc,
    task::{Context, Poll, ready},
};

use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
    process::{Child, ChildStdin, ChildStdout, Command},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{Endpoint, Error};

/// A bare connection to the engine.
#[derive(Debug)]
pub enum Socket {
    /// Over a unix socket.
    Unix(UnixStream),
    /// Over TCP.
    Tcp(TcpStream),
    /// Over TLS.
    Tls(Box<TlsStream<TcpStream>>),
    /// Over a program's standard streams.
    Program(Box<Program>),
}

/// A program that is killed when its connection is dropped.
#[derive(Debug)]
pub struct Program {
    _child: Child,
    /// Gone once our side is closed.
    input: Option<ChildStdin>,
    output: ChildStdout,
}

/// Opens a connection.
pub(super) async fn dial(
    endpoint: &Endpoint,
    tls: Option<&Arc<rustls::ClientConfig>>,
) -> Result<Socket, Error> {
    let failed = |source| Error::Connect { endpoint: endpoint.clone(), source };
    match endpoint {
        Endpoint::Unix(path) => Ok(Socket::Unix(UnixStream::connect(path).await.map_err(failed)?)),
        Endpoint::Tcp(authority) => {
            let stream = TcpStream::connect(authority).await.map_err(failed)?;
            stream.set_nodelay(true)?;
            let Some(tls) = tls else { return Ok(Socket::Tcp(stream)) };
            let host = authority.rsplit_once(':').map_or(authority.as_str(), |(host, _)| host);
            let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
            let unusable = |source| Error::Reach { endpoint: endpoint.clone(), source };
            let name = ServerName::try_from(host).map_err(|error| unusable(io::Error::other(error)))?;
            let stream = TlsConnector::from(tls.clone()).connect(name, stream).await.map_err(unusable)?;
            Ok(Socket::Tls(Box::new(stream)))
        }
        Endpoint::Command { words, .. } => {
            start(words).map(|program| Socket::Program(Box::new(program))).map_err(failed)
        }
    }
}

fn start(words: &[std::ffi::OsString]) -> io::Result<Program> {
    let (program, args) = words.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", program.display())))?;
    let input = child.stdin.take();
    let output = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
    Ok(Program { _child: child, input, output })
}

impl Program {
    fn input(&mut self) -> io::Result<Pin<&mut ChildStdin>> {
        self.input.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::BrokenPipe.into())
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(inner) => Pin::new(inner).poll_read(cx, buf),
            Self::Tcp(inner) => Pin::new(inner).poll_read(cx, buf),
            Self::Tls(inner) => Pin::new(inner).poll_read(cx, buf),
            Self::Program(program) => Pin::new(&mut program.output).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Unix(inner) => Pin::new(inner).poll_write(cx, buf),
            Self::Tcp(inner) => Pin::new(inner).poll_write(cx, buf),
            Self::Tls(inner) => Pin::new(inner).poll_write(cx, buf),
            Self::Program(program) => program.input()?.poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(inner) => Pin::new(inner).poll_flush(cx),
            Self::Tcp(inner) => Pin::new(inner).poll_flush(cx),
            Self::Tls(inner) => Pin::new(inner).poll_flush(cx),
            Self::Program(program) if program.input.is_none() => Poll::Ready(Ok(())),
            Self::Program(program) => program.input()?.poll_flush(cx),
        }
    }

    /// Closes our side; what the engine still sends can be read.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(inner) => Pin::new(inner).poll_shutdown(cx),
            Self::Tcp(inner) => Pin::new(inner).poll_shutdown(cx),
            // The record that says so ends our side; the connection itself stays, or the engine would think us gone.
            Self::Tls(inner) => {
                inner.get_mut().1.send_close_notify();
                Pin::new(inner).poll_flush(cx)
            }
            Self::Program(program) => {
                if let Some(input) = &mut program.input {
                    ready!(Pin::new(input).poll_flush(cx))?;
                }
                program.input = None;
                Poll::Ready(Ok(()))
            }
        }
    }
}
