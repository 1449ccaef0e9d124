//! A session with a process in a container: its input and output over a hijacked connection.
//!
//! Output is copied until the engine closes its side; input until its end (which closes our half, so `cat` in the
//! container sees it), or until the detach keys are typed, which leaves everything running.

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use wharf_api::{
    client::{Client, Hijacked, Request, Socket, escape},
    stream::{Demultiplexer, StreamKind},
};

use crate::{
    failure::Result,
    terminal::{
        self, RawMode,
        detach::Scanner,
        input::Input,
        output::Output,
        signals::{self, Signals},
    },
};

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The process' output is complete.
    Closed,
    /// The user left.
    Detached,
}

/// What a session connects, and how.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    pub(crate) stdin: bool,
    pub(crate) stdout: bool,
    pub(crate) stderr: bool,
    /// Whether the process has a terminal, so that output is one stream of bare bytes.
    pub(crate) tty: bool,
    /// The keys that leave; only with a terminal and input.
    pub(crate) detach_keys: Vec<u8>,
}

impl Streams {
    fn has_output(&self) -> bool {
        self.stdout || self.stderr
    }
}

/// Copies both ways until the session ends.
pub(crate) async fn copy(hijacked: Hijacked, streams: &Streams) -> Result<End> {
    let raw = if streams.tty && streams.stdin { RawMode::enter()? } else { None };
    let mut output = Output::default();
    let end = {
        let (reader, writer) = tokio::io::split(hijacked.socket);
        let multiplexed = hijacked.multiplexed.unwrap_or(!streams.tty) && !streams.tty;
        let incoming = receive(reader, hijacked.early, multiplexed, streams, &mut output);
        let outgoing = send(writer, streams);
        tokio::pin!(incoming, outgoing);
        tokio::select! {
            result = &mut incoming => result.map(|()| End::Closed),
            result = &mut outgoing => match result {
                Ok(Sent::Detached) => Ok(End::Detached),
                Ok(Sent::Everything) if !streams.has_output() => Ok(End::Closed),
                // A process that does not read its input to the end is none of our business; its output counts.
                Ok(Sent::Everything) | Err(_) => incoming.await.map(|()| End::Closed),
            }
        }
    };
    let flushed = output.finish().await;
    drop(raw);
    let end = end?;
    flushed?;
    Ok(end)
}

async fn receive(
    mut reader: ReadHalf<Socket>,
    early: Bytes,
    multiplexed: bool,
    streams: &Streams,
    output: &mut Output,
) -> Result {
    let mut demultiplexer = Demultiplexer::new();
    let mut buffer = vec![0; 64 << 10];
    let mut piece = early;
    loop {
        if multiplexed {
            let mut pieces: Vec<(StreamKind, Bytes)> = Vec::new();
            demultiplexer.feed(&piece, &mut |kind, bytes| {
                pieces.push((kind, piece.slice_ref(bytes)));
                Ok(())
            })?;
            for (kind, bytes) in pieces {
                let wanted = if kind == StreamKind::Stderr { streams.stderr } else { streams.stdout };
                if wanted || kind == StreamKind::SystemError {
                    output.write(kind, bytes).await?;
                }
            }
        } else if !piece.is_empty() {
            output.write(StreamKind::Stdout, piece).await?;
        }
        let count = reader.read(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        piece = Bytes::copy_from_slice(&buffer[..count]);
    }
}

enum Sent {
    Everything,
    Detached,
}

async fn send(mut writer: WriteHalf<Socket>, streams: &Streams) -> Result<Sent> {
    if streams.stdin {
        let mut input = Input::open()?;
        let mut scanner = streams.tty.then(|| Scanner::new(streams.detach_keys.clone()));
        let mut buffer = vec![0; 32 << 10];
        let mut typed = Vec::new();
        loop {
            let count = input.read(&mut buffer).await?;
            let Some(scanner) = &mut scanner else {
                if count == 0 {
                    break;
                }
                writer.write_all(&buffer[..count]).await?;
                continue;
            };
            typed.clear();
            if count == 0 {
                writer.write_all(scanner.held()).await?;
                break;
            }
            let detached = scanner.scan(&buffer[..count], &mut typed);
            writer.write_all(&typed).await?;
            if detached {
                return Ok(Sent::Detached);
            }
        }
    }
    writer.shutdown().await?;
    Ok(Sent::Everything)
}

/// Which process the side show of a session is about.
#[derive(Debug, Clone)]
pub(crate) enum Target {
    Container(String),
    Exec(String),
}

impl Target {
    pub(crate) fn resize(&self, (rows, columns): (u16, u16)) -> Request {
        let path = match self {
            Self::Container(id) => format!("/containers/{}/resize", escape(id)),
            Self::Exec(id) => format!("/exec/{}/resize", escape(id)),
        };
        Request::post(path).query("h", rows.to_string()).query("w", columns.to_string())
    }
}

/// Runs `main` and meanwhile does what goes on around a session, none of which may fail it: tells the engine the
/// terminal's size whenever it changes, passes signals on (`forward`), or ends this process by them.
pub(crate) async fn attended<T>(
    client: &Client,
    target: &Target,
    tty: bool,
    forward: bool,
    main: impl Future<Output = T>,
) -> Result<T> {
    let resize = async {
        if !tty || !terminal::output_is_terminal() {
            return std::future::pending::<()>().await;
        }
        let Ok(mut changes) = Signals::window() else { return std::future::pending().await };
        loop {
            changes.next().await;
            send_size(client, target).await;
        }
    };
    let mut heard = if forward { Signals::forwarded()? } else { Signals::deadly()? };
    let listen = async {
        loop {
            let (name, number) = heard.next().await;
            match target {
                Target::Container(id) if forward => {
                    let path = format!("/containers/{}/kill", escape(id));
                    // The container may not run yet, or no longer.
                    let _ = client.call(Request::post(path).query("signal", name)).await;
                }
                _ => signals::die_of(number),
            }
        }
    };
    tokio::select! {
        result = main => Ok(result),
        () = resize => unreachable_end(),
        () = listen => unreachable_end(),
    }
}

fn unreachable_end<T>() -> Result<T> {
    Err(crate::failure::Failure::message("the session's attendants ended unexpectedly"))
}

/// Tells the engine the terminal's size; it does not matter if that fails.
pub(crate) async fn send_size(client: &Client, target: &Target) {
    if let Some(size) = terminal::size() {
        let _ = client.call(target.resize(size)).await;
    }
}
