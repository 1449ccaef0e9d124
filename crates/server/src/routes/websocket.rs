//! `attach` for clients that cannot take a connection over: a WebSocket (RFC 6455).
//!
//! Output goes out as binary messages without frames of its own, as Docker sends it; what comes in is the process's input.
//! The end of either side closes the connection with a close frame. Messages are limited, and no more is read from a
//! client than the process takes.

use axum::Router;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{RequestExt, http};
use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use wharf_engine::{AttachOptions, Engine, Input, Session, Wrote};

use crate::error::{Failure, Result};
use crate::request::Query;

/// The largest message that is taken, and the most that waits for a client that does not read.
const MESSAGE: usize = 1 << 20;

pub(super) fn routes() -> Router<Engine> {
    Router::new().route("/containers/{name}/attach/ws", get(attach))
}

async fn attach(
    State(engine): State<Engine>,
    Path(name): Path<String>,
    query: Query,
    request: Request,
) -> Result<Response> {
    let options = AttachOptions {
        stdin: query.flag("stdin"),
        stdout: query.flag("stdout"),
        stderr: query.flag("stderr"),
        stream: query.flag("stream"),
        logs: query.flag("logs"),
        detach_keys: query.text("detachKeys").map(str::to_owned),
    };
    // Docker looks at the container before it looks at the handshake.
    let session = engine.attach(&name, options).await?;
    let upgrade = request.extract::<WebSocketUpgrade, _>().await;
    let upgrade = upgrade.map_err(|refusal| {
        let status = refusal.into_response().status();
        let status = if status.is_client_error() { status } else { http::StatusCode::BAD_REQUEST };
        Failure::new(status, "not a WebSocket handshake")
    })?;
    Ok(upgrade
        .max_message_size(MESSAGE)
        .max_frame_size(MESSAGE)
        .max_write_buffer_size(2 * MESSAGE)
        .on_upgrade(move |socket| carry(socket, session)))
}

async fn carry(socket: WebSocket, session: Session) {
    let Session { tty: _, mut output, input } = session;
    let (mut sink, source) = socket.split();
    let input = feed(source, input);
    tokio::pin!(input);
    loop {
        let message = tokio::select! {
            chunk = output.next() => match chunk {
                Some(Ok(chunk)) => Message::Binary(chunk.bytes),
                Some(Err(error)) => {
                    let text = format!("error from daemon in stream: {error}\n");
                    let _client_left = sink.send(Message::Binary(text.into())).await;
                    break;
                }
                None => break,
            },
            () = &mut input => break,
        };
        // Input goes on while the client takes its time to read: it may be what makes it read.
        tokio::select! {
            sent = sink.send(message) => if sent.is_err() { return },
            () = &mut input => break,
        }
    }
    close(sink).await;
}

async fn close(mut sink: SplitSink<WebSocket, Message>) {
    let _client_left = sink.send(Message::Close(None)).await;
    let _client_left = sink.close().await;
}

/// Carries the client's messages to the process; ends when the client leaves.
async fn feed(mut source: SplitStream<WebSocket>, mut input: Option<Input>) {
    while let Some(Ok(message)) = source.next().await {
        let bytes: Bytes = match message {
            Message::Binary(bytes) => bytes,
            Message::Text(text) => text.into(),
            Message::Close(_) => break,
            Message::Ping(_) | Message::Pong(_) => continue,
        };
        let Some(process) = &mut input else { continue };
        match process.write(&bytes).await {
            Ok(Wrote::Written) => {}
            Ok(Wrote::Detached) => return,
            // Nobody reads it any more; the client may still want the output.
            Ok(Wrote::Closed) | Err(_) => input = None,
        }
    }
    if let Some(input) = input {
        input.close().await;
    }
}
