//! Connections that stop being HTTP: attach and exec.
//!
//! After `101 UPGRADED` the socket carries the process's output one way and the client's input the other. Without a
//! terminal the output is framed (`wharf_api::stream`), so that standard error can be told apart.
//!
//! A session ends when its output ends, when the client types its detach keys, or when the client is gone
//! ([`Watch`]). The connection is closed when the client has closed its side, or has had time to.

use std::io;
use std::time::Duration;

use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use hyper::ext::ReasonPhrase;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use wharf_api::stream::{MULTIPLEXED_MEDIA_TYPE, RAW_MEDIA_TYPE, StreamKind, push_frame};
use wharf_api::version::ApiVersion;
use wharf_engine::{Input, OutputChunk, OutputStream, Session, Stream, Wrote};

use crate::response;
use crate::stream::{Stream as Connection, Unread, Watch};

/// How much of a client's input is read at once.
const INPUT_BUFFER: usize = 32 * 1024;

/// How long the first output waits until the client has read the head of the answer. Some read the head through a
/// buffer and the rest past it (docker-py), and lose what comes together with the head.
const HEAD_PATIENCE: Duration = Duration::from_millis(100);

/// How long a client may take to close its side after the end of the output.
const FAREWELL: Duration = Duration::from_secs(10);

/// The media type of output.
pub(crate) fn media_type(tty: bool, version: ApiVersion) -> &'static str {
    if !tty && version >= ApiVersion::new(42) { MULTIPLEXED_MEDIA_TYPE } else { RAW_MEDIA_TYPE }
}

/// Answers with the session: by upgrading the connection when the client asked for it, else with the output as a body
/// (old clients without input).
pub(crate) fn answer(
    headers: &HeaderMap,
    upgrade: Option<OnUpgrade>,
    version: ApiVersion,
    session: Session,
) -> Response {
    let Some(upgrade) = wanted(headers, upgrade) else {
        return output(RAW_MEDIA_TYPE, session.tty, session.output);
    };
    let response = switching(media_type(session.tty, version));
    tokio::spawn(async move {
        // Both are the client's business: it may leave at any time.
        match upgrade.await {
            Ok(upgraded) => {
                if let Err(error) = carry(upgraded, session).await {
                    tracing::debug!("an attached client left: {error}");
                }
            }
            Err(error) => tracing::debug!("a connection was not upgraded: {error}"),
        }
    });
    response
}

/// Answers as [`answer`] does, with a text instead of a process's output.
pub(crate) fn answer_text(
    headers: &HeaderMap,
    upgrade: Option<OnUpgrade>,
    version: ApiVersion,
    tty: bool,
    text: &str,
) -> Response {
    let chunk = OutputChunk { stream: Stream::Stdout, bytes: Bytes::copy_from_slice(text.as_bytes()) };
    let bytes = frame(tty, chunk);
    let Some(upgrade) = wanted(headers, upgrade) else {
        return response::stream(RAW_MEDIA_TYPE, futures_util::stream::once(async { Ok(bytes) }));
    };
    tokio::spawn(async move {
        let upgraded =
            upgrade.await.ok().and_then(|upgraded| upgraded.downcast::<TokioIo<Connection>>().ok());
        if let Some(parts) = upgraded {
            let mut stream = parts.io.into_inner();
            if let Ok(Some(head)) = stream.unread() {
                head.read(HEAD_PATIENCE).await;
            }
            let _client_left = stream.write_all(&bytes).await;
            let _client_left = stream.shutdown().await;
            let (mut reader, _writer) = tokio::io::split(stream);
            let rest = discard(&mut reader, vec![0; INPUT_BUFFER]);
            let _client_stays = tokio::time::timeout(FAREWELL, rest).await;
        }
    });
    switching(media_type(tty, version))
}

fn wanted(headers: &HeaderMap, upgrade: Option<OnUpgrade>) -> Option<OnUpgrade> {
    upgrade.filter(|_| headers.contains_key(header::UPGRADE))
}

fn switching(media_type: &'static str) -> Response {
    let mut response = Response::default();
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.extensions_mut().insert(ReasonPhrase::from_static(b"UPGRADED"));
    let fields = response.headers_mut();
    fields.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    fields.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    fields.insert(header::UPGRADE, HeaderValue::from_static("tcp"));
    response
}

/// Output as the body of an ordinary answer.
pub(crate) fn output(media_type: &'static str, tty: bool, output: OutputStream) -> Response {
    let body = response::pieces(Some(output), move |output| async move {
        let mut output = output?;
        match output.next().await? {
            Ok(chunk) => Some((frame(tty, chunk), Some(output))),
            Err(error) => Some((failure(tty, &error), None)),
        }
    });
    response::stream(media_type, body)
}

fn frame(tty: bool, chunk: OutputChunk) -> Bytes {
    if tty {
        return chunk.bytes;
    }
    let kind = match chunk.stream {
        Stream::Stdout => StreamKind::Stdout,
        Stream::Stderr => StreamKind::Stderr,
    };
    let mut framed = Vec::with_capacity(chunk.bytes.len() + wharf_api::stream::FRAME_HEADER_LEN);
    push_frame(&mut framed, kind, &chunk.bytes);
    framed.into()
}

/// An error after the headers: shown by the client instead of more output.
fn failure(tty: bool, error: &wharf_engine::Error) -> Bytes {
    let message = format!("error from daemon in stream: {error}\n");
    if tty {
        return message.into();
    }
    let mut framed = Vec::new();
    push_frame(&mut framed, StreamKind::SystemError, message.as_bytes());
    framed.into()
}

async fn carry(upgraded: Upgraded, session: Session) -> io::Result<()> {
    let parts = upgraded
        .downcast::<TokioIo<Connection>>()
        .map_err(|_| io::Error::other("the connection is not the one it came on"))?;
    let stream = parts.io.into_inner();
    let (watch, head) = (stream.watch()?, stream.unread()?);
    let (mut reader, mut writer) = tokio::io::split(stream);
    exchange(&mut reader, &mut writer, parts.read_buf, session, watch, head).await?;
    writer.shutdown().await?;
    // A socket that is closed while it holds what the client wrote breaks the connection at the other end, too: instead
    // of the end of the output the client would see an error.
    let rest = discard(&mut reader, vec![0; INPUT_BUFFER]);
    let _client_stays = tokio::time::timeout(FAREWELL, rest).await;
    Ok(())
}

/// Carries output and input until one of them ends the session.
async fn exchange(
    reader: &mut ReadHalf<Connection>,
    writer: &mut WriteHalf<Connection>,
    early: Bytes,
    session: Session,
    watch: Watch,
    mut head: Option<Unread>,
) -> io::Result<()> {
    let Session { tty, mut output, input } = session;
    let input = feed(reader, early, input);
    let gone = watch.gone();
    tokio::pin!(input, gone);
    let mut listening = true;
    loop {
        let bytes = tokio::select! {
            chunk = output.next() => match chunk {
                Some(Ok(chunk)) => frame(tty, chunk),
                Some(Err(error)) => return writer.write_all(&failure(tty, &error)).await,
                None => return Ok(()),
            },
            end = &mut input, if listening => match end {
                InputEnd::Detached => return Ok(()),
                InputEnd::Closed => {
                    listening = false;
                    continue;
                }
            },
            () = &mut gone => return Ok(()),
        };
        if let Some(head) = head.take() {
            head.read(HEAD_PATIENCE).await;
        }
        // Input goes on while the client takes its time to read: it may be what makes it read.
        let write = writer.write_all(&bytes);
        tokio::pin!(write);
        loop {
            tokio::select! {
                written = &mut write => {
                    written?;
                    break;
                }
                end = &mut input, if listening => match end {
                    InputEnd::Detached => return Ok(()),
                    InputEnd::Closed => listening = false,
                },
            }
        }
    }
}

/// Reads what nobody wants any more.
async fn discard(reader: &mut ReadHalf<Connection>, mut buffer: Vec<u8>) {
    while !matches!(reader.read(&mut buffer).await, Ok(0) | Err(_)) {}
}

enum InputEnd {
    /// The client said that no more will come, or the process takes no more.
    Closed,
    /// The client wants to leave.
    Detached,
}

/// Carries the client's bytes to the process.
async fn feed(reader: &mut ReadHalf<Connection>, early: Bytes, input: Option<Input>) -> InputEnd {
    let Some(mut input) = input else { return InputEnd::Closed };
    let mut wrote = if early.is_empty() { Ok(Wrote::Written) } else { input.write(&early).await };
    let mut buffer = vec![0; INPUT_BUFFER];
    loop {
        match wrote {
            Ok(Wrote::Written) => {}
            Ok(Wrote::Detached) => return InputEnd::Detached,
            Ok(Wrote::Closed) | Err(_) => break,
        }
        match reader.read(&mut buffer).await {
            Ok(0) | Err(_) => {
                input.close().await;
                return InputEnd::Closed;
            }
            Ok(length) => wrote = input.write(&buffer[..length]).await,
        }
    }
    // Nobody reads it any more, but a client that writes must not be stuck.
    discard(reader, buffer).await;
    InputEnd::Closed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn framing_depends_on_the_terminal_and_its_name_on_the_version() {
        assert_eq!(media_type(true, ApiVersion::MAX), RAW_MEDIA_TYPE);
        assert_eq!(media_type(false, ApiVersion::new(41)), RAW_MEDIA_TYPE);
        assert_eq!(media_type(false, ApiVersion::new(42)), MULTIPLEXED_MEDIA_TYPE);
        let chunk = |bytes: &'static [u8]| OutputChunk { stream: Stream::Stderr, bytes: bytes.into() };
        assert_eq!(frame(true, chunk(b"hi")), &b"hi"[..]);
        assert_eq!(frame(false, chunk(b"hi")), &b"\x02\0\0\0\0\0\0\x02hi"[..]);
    }
}
