//! The engine's end of a shim's control socket.
//!
//! One task per link reads; requests are written by whoever asks, a packet at a time, which the kernel keeps whole.
//! Every question has a deadline: a shim that hangs delays only those who ask it.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};
use wharf_linux::seqpacket::{self, Received};
use wharf_shim::protocol::{
    Envelope, Event, FailureKind, MAX_MESSAGE, Message, Reply, Request, decode_message, encode,
};

use crate::readiness::watch;
use crate::{Error, Result};

/// How long a shim may take to answer. Starting includes the mounts of the container, which may be slow disks.
const DEADLINE: Duration = Duration::from_secs(60);

type Answer = (Reply, Vec<OwnedFd>);

/// A connection to one shim.
pub(crate) struct Link {
    socket: AsyncFd<OwnedFd>,
    next: AtomicU64,
    pending: Mutex<HashMap<u64, oneshot::Sender<Answer>>>,
}

/// What comes unasked; closed when the shim is gone.
pub(crate) type Events = mpsc::UnboundedReceiver<(Event, Vec<OwnedFd>)>;

impl Link {
    /// Takes over a connected, non-blocking socket. Must be called inside the async runtime.
    pub(crate) fn new(socket: OwnedFd) -> Result<(Arc<Self>, Events)> {
        let link = Arc::new(Self {
            socket: watch(socket, Interest::READABLE | Interest::WRITABLE)?,
            next: AtomicU64::new(1),
            pending: Mutex::default(),
        });
        // Unbounded, but a shim says little unasked: one exit, and one message per exec that this engine started.
        // `Output` is coalesced by the shim.
        let (sender, events) = mpsc::unbounded_channel();
        tokio::spawn(read_all(link.clone(), sender));
        Ok((link, events))
    }

    /// Asks and waits for the answer; a [`Reply::Error`] becomes `Err`.
    pub(crate) async fn ask(&self, request: Request, fds: &[BorrowedFd<'_>]) -> Result<Answer> {
        self.ask_within(DEADLINE, request, fds).await
    }

    /// The same for what a shim answers at once, with a deadline of the caller's.
    pub(crate) async fn ask_within(
        &self,
        deadline: Duration,
        request: Request,
        fds: &[BorrowedFd<'_>],
    ) -> Result<Answer> {
        let seq = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        self.lock().insert(seq, sender);
        let answer = tokio::time::timeout(deadline, async {
            self.send(&Envelope { seq, body: request }, fds).await?;
            receiver.await.map_err(|_| gone())
        });
        let answer = match answer.await {
            Ok(answer) => answer,
            Err(_) => Err(Error::Deadline { what: "the shim's answer".into(), seconds: deadline.as_secs() }),
        };
        if answer.is_err() {
            self.lock().remove(&seq);
        }
        match answer? {
            (Reply::Error { kind, message }, _) => Err(failure(kind, message)),
            answer => Ok(answer),
        }
    }

    /// Ends the conversation: the shim sees its socket close, and so does everyone who waits here.
    pub(crate) fn close(&self) {
        let _closed_already = rustix::net::shutdown(self.socket.get_ref(), rustix::net::Shutdown::Both);
    }

    async fn send(&self, message: &Envelope<Request>, fds: &[BorrowedFd<'_>]) -> Result<()> {
        let bytes = encode(message).map_err(|error| Error::Invalid(error.to_string()))?;
        self.socket
            .async_io(Interest::WRITABLE, |socket| seqpacket::send(socket.as_fd(), &bytes, fds))
            .await
            .map_err(|_| gone())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, oneshot::Sender<Answer>>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The error of talking to a shim that has left.
fn gone() -> Error {
    Error::Unavailable("the container's shim is gone".into())
}

/// What a shim's refusal means to a caller of the engine.
pub(crate) fn failure(kind: FailureKind, message: String) -> Error {
    let exit_code = match kind {
        FailureKind::NotFound => 127,
        FailureKind::NotExecutable => 126,
        FailureKind::InvalidArgument => return Error::Invalid(message),
        FailureKind::Internal => 128,
        FailureKind::NoSuchExec => return Error::NoSuchExec(message),
        FailureKind::NotRunning => return Error::Conflict(message),
    };
    Error::Start { message, exit_code }
}

/// Reads until the shim leaves. Dropping `events` tells the supervisor, clearing `pending` whoever still waits.
async fn read_all(link: Arc<Link>, events: mpsc::UnboundedSender<(Event, Vec<OwnedFd>)>) {
    let mut buffer = Vec::new();
    loop {
        let received = link
            .socket
            .async_io(Interest::READABLE, |socket| seqpacket::recv(socket.as_fd(), &mut buffer, MAX_MESSAGE))
            .await;
        let Ok(Received::Packet(fds)) = received else { break };
        match decode_message(&buffer) {
            Ok(Message::Reply(Envelope { seq, body })) => {
                if let Some(waiting) = link.lock().remove(&seq) {
                    // The asker may have given up.
                    let _given_up = waiting.send((body, fds));
                }
            }
            Ok(Message::Event(event)) => {
                if events.send((event, fds)).is_err() {
                    break;
                }
            }
            Err(error) => tracing::warn!(%error, "a shim said something that is not of its protocol"),
        }
        // A container that is quiet keeps no buffer.
        buffer = Vec::new();
    }
    link.lock().clear();
}
