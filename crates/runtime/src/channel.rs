//! The conversation between the caller and the process it is setting up, over one socket pair.
//!
//! ```text
//! caller                          init
//!   │ ◀── Process ─────────────────│   only with a user namespace, from the stage: this is the init
//!   │ ◀── Namespaces ──────────────│   its namespaces exist
//!   │ ─── Mapped ─────────────────▶│   only with a user namespace: ids are mapped
//!   │ ─── Cgroup + descriptors ───▶│   its control groups exist, the hooks of the runtime have run
//!   │ ◀── Ready + console ─────────│   everything is prepared
//!   │ ─── Go ─────────────────────▶│   the gate is open
//!   │ ◀── end of stream ───────────│   execve closed it
//!   │ ◀── Failed ──────────────────│   at any point instead
//! ```
//!
//! Messages are packets of bounded size. The child is trusted until it runs the container's program; even so a
//! packet that makes no sense is an error and never more.

use crate::error::{Error, Result};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// More than the hierarchies any host has.
const MAX_DESCRIPTORS: usize = 64;
const MAX_BYTES: usize = 16 << 10;

/// What is said.
#[derive(Debug)]
pub(crate) enum Message {
    /// The child's namespaces exist.
    Namespaces,
    /// The child's ids are mapped.
    Mapped,
    /// `tasks` files to enter.
    Cgroup(Vec<OwnedFd>),
    /// Prepared; with the terminal's master side.
    Ready(Option<OwnedFd>),
    /// Another process took over; its pid and pidfd.
    Process(i32, OwnedFd),
    /// Run the command.
    Go,
    /// It did not work.
    Failed(Error),
}

/// One end.
#[derive(Debug)]
pub(crate) struct Channel(OwnedFd);

impl Channel {
    /// Both ends.
    pub(crate) fn pair() -> Result<(Self, Self)> {
        let (a, b) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(|e| Error::io("make a socket pair", e))?;
        Ok((Self(a), Self(b)))
    }

    /// The descriptor's number, to be spared when others are closed.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// The same end once more.
    pub(crate) fn try_clone(&self) -> Result<Self> {
        self.0.try_clone().map(Self).map_err(|e| Error::io("duplicate a socket", e))
    }

    /// Makes [`receive`](Self::receive) fail when the peer says nothing for so long.
    pub(crate) fn limit_patience(&self, patience: impl Into<Option<Duration>>) -> Result<()> {
        set_socket_timeout(&self.0, Timeout::Recv, patience.into())
            .map_err(|e| Error::io("limit the wait for the peer process", e))
    }

    /// Says something. A peer that is gone shows when listening.
    pub(crate) fn send(&self, message: &Message) -> Result<()> {
        let (tag, payload, descriptors): (u8, Vec<u8>, Vec<BorrowedFd<'_>>) = match message {
            Message::Namespaces => (b'N', vec![], vec![]),
            Message::Mapped => (b'M', vec![], vec![]),
            Message::Cgroup(tasks) => (b'C', vec![], tasks.iter().map(AsFd::as_fd).collect()),
            Message::Ready(console) => (b'R', vec![], console.iter().map(AsFd::as_fd).collect()),
            Message::Process(pid, pidfd) => (b'P', pid.to_ne_bytes().to_vec(), vec![pidfd.as_fd()]),
            Message::Go => (b'G', vec![], vec![]),
            Message::Failed(error) => (b'E', error.encode(), vec![]),
        };
        let mut packet = vec![tag];
        packet.extend(payload.iter().take(MAX_BYTES - 1));
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)) {
            return Err(Error::invalid("more control group hierarchies than can be handed over"));
        }
        match sendmsg(&self.0, &[IoSlice::new(&packet)], &mut ancillary, SendFlags::NOSIGNAL) {
            Ok(_) | Err(Errno::PIPE | Errno::CONNRESET) => Ok(()),
            Err(e) => Err(Error::io("send to the peer process", e)),
        }
    }

    /// Waits for the next message; `None` when the peer has closed its end.
    pub(crate) fn receive(&self) -> Result<Option<Message>> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut packet = vec![0; MAX_BYTES];
        let received = loop {
            let mut parts = [IoSliceMut::new(&mut packet)];
            match recvmsg(&self.0, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
                // A reset says, once, that the peer went without reading all of ours. What it said before is still there.
                Err(Errno::INTR | Errno::CONNRESET) => {}
                // Only with limited patience.
                Err(Errno::AGAIN) => return Err(Error::io("wait for the peer process", Errno::TIMEDOUT)),
                other => break other.map_err(|e| Error::io("receive from the peer process", e))?,
            }
        };
        let mut descriptors = Vec::new();
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                descriptors.extend(fds);
            }
        }
        if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
            return Err(Error::protocol());
        }
        let Some((tag, payload)) = packet.get(..received.bytes).and_then(<[u8]>::split_first) else {
            return Ok(None);
        };
        parse(*tag, payload, descriptors).map(Some)
    }
}

fn parse(tag: u8, payload: &[u8], mut descriptors: Vec<OwnedFd>) -> Result<Message> {
    Ok(match tag {
        b'N' => Message::Namespaces,
        b'M' => Message::Mapped,
        b'C' => Message::Cgroup(descriptors),
        b'R' => Message::Ready(descriptors.pop()),
        b'P' => {
            let pid = payload.try_into().map(i32::from_ne_bytes).map_err(|_| Error::protocol())?;
            Message::Process(pid, descriptors.pop().ok_or_else(Error::protocol)?)
        }
        b'G' => Message::Go,
        b'E' => Message::Failed(Error::decode(payload)),
        _ => return Err(Error::protocol()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_arrive_with_their_descriptors() {
        let (a, b) = Channel::pair().unwrap();
        let file = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        a.send(&Message::Cgroup((0..12).map(|_| file()).collect())).unwrap();
        a.send(&Message::Process(77, file())).unwrap();
        a.send(&Message::Failed(Error::invalid("no"))).unwrap();
        assert!(matches!(b.receive().unwrap(), Some(Message::Cgroup(tasks)) if tasks.len() == 12));
        assert!(matches!(b.receive().unwrap(), Some(Message::Process(77, _))));
        assert!(matches!(b.receive().unwrap(), Some(Message::Failed(Error::InvalidSpec { .. }))));
        drop(a);
        assert!(b.receive().unwrap().is_none());
    }

    #[test]
    fn last_words_arrive_from_a_peer_that_did_not_listen() {
        let (a, b) = Channel::pair().unwrap();
        a.send(&Message::Go).unwrap();
        b.send(&Message::Failed(Error::invalid("no"))).unwrap();
        drop(b);
        assert!(matches!(a.receive().unwrap(), Some(Message::Failed(_))));
        assert!(a.receive().unwrap().is_none());
    }

    #[test]
    fn patience_can_be_limited() {
        let (a, _b) = Channel::pair().unwrap();
        a.limit_patience(Duration::from_millis(1)).unwrap();
        assert!(a.receive().is_err());
    }

    #[test]
    fn nonsense_is_an_error() {
        for (tag, payload) in [(b'?', &b""[..]), (b'P', b"12"), (b'P', b"1234"), (0, b"")] {
            assert!(parse(tag, payload, Vec::new()).is_err());
        }
    }
}
