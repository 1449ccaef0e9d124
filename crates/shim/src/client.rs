//! A synchronous connection to a shim, for tests and tools. The engine has its own, asynchronous one.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use wharf_linux::seqpacket::{self, Received};

use crate::protocol::{
    CodecError, Envelope, Event, MAX_MESSAGE, Message, Reply, Request, SOCKET_FILE, decode_message, encode,
};

/// Why a shim could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No shim listens there.
    #[error("cannot connect to the shim at {}: {source}", path.display())]
    Connect {
        /// The socket.
        path: std::path::PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The connection broke.
    #[error("cannot talk to the shim: {0}")]
    Io(#[from] io::Error),
    /// What it says is not of this protocol.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// It has gone, and everything it said has been read.
    #[error("the shim has gone")]
    Gone,
    /// It said nothing in time.
    #[error("the shim did not answer in time")]
    Timeout,
}

/// A connection.
#[derive(Debug)]
pub struct Client {
    socket: OwnedFd,
    seq: u64,
    events: VecDeque<(Event, Vec<OwnedFd>)>,
    buffer: Vec<u8>,
}

impl Client {
    /// Connects to the shim whose run directory this is.
    pub fn connect(run_dir: &Path) -> Result<Self, ClientError> {
        let path = run_dir.join(SOCKET_FILE);
        match seqpacket::connect(&path) {
            Ok(socket) => Ok(Self::new(socket)),
            Err(source) => Err(ClientError::Connect { path, source }),
        }
    }

    /// Talks over a socket that is connected already.
    pub fn new(socket: OwnedFd) -> Self {
        Self { socket, seq: 0, events: VecDeque::new(), buffer: Vec::new() }
    }

    /// Asks, and waits for the answer. Events that come before it are kept for [`Client::event`].
    pub fn ask(
        &mut self,
        request: Request,
        fds: &[BorrowedFd<'_>],
        patience: Duration,
    ) -> Result<(Reply, Vec<OwnedFd>), ClientError> {
        let deadline = Instant::now() + patience;
        let seq = self.send(request, fds, deadline)?;
        loop {
            match self.receive(deadline)? {
                (Message::Reply(envelope), fds) if envelope.seq == seq => return Ok((envelope.body, fds)),
                // The answer to a question whose asker ran out of patience.
                (Message::Reply(_), _) => {}
                (Message::Event(event), fds) => self.events.push_back((event, fds)),
            }
        }
    }

    /// The next event.
    pub fn event(&mut self, patience: Duration) -> Result<(Event, Vec<OwnedFd>), ClientError> {
        if let Some(event) = self.events.pop_front() {
            return Ok(event);
        }
        let deadline = Instant::now() + patience;
        loop {
            if let (Message::Event(event), fds) = self.receive(deadline)? {
                return Ok((event, fds));
            }
        }
    }

    /// Asks without waiting for the answer; the question's number.
    fn send(&mut self, body: Request, fds: &[BorrowedFd<'_>], deadline: Instant) -> Result<u64, ClientError> {
        self.seq += 1;
        let bytes = encode(&Envelope { seq: self.seq, body })?;
        loop {
            match seqpacket::send(self.socket.as_fd(), &bytes, fds) {
                Ok(()) => return Ok(self.seq),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wait(PollFlags::OUT, deadline)?
                }
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Err(ClientError::Gone),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn receive(&mut self, deadline: Instant) -> Result<(Message, Vec<OwnedFd>), ClientError> {
        loop {
            match seqpacket::recv(self.socket.as_fd(), &mut self.buffer, MAX_MESSAGE) {
                Ok(Received::Packet(fds)) => return Ok((decode_message(&self.buffer)?, fds)),
                Ok(Received::End) => return Err(ClientError::Gone),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wait(PollFlags::IN, deadline)?
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn wait(&self, what: PollFlags, deadline: Instant) -> Result<(), ClientError> {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(|_| ClientError::Timeout)?;
        match poll(&mut [PollFd::new(&self.socket, what)], Some(&timeout)) {
            Ok(0) => Err(ClientError::Timeout),
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(io::Error::from(error).into()),
        }
    }
}
