//! The socket: one batch out, every answer in.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::message::{Attributes, Batch, Frame, Frames, read_u32};
use super::{Error, Malformed};

/// `NLMSG_NOOP`.
const NOOP: u16 = 1;
/// `NLMSG_ERROR`: an error number, 0 for success.
const ERROR: u16 = 2;
/// `NLMSG_DONE`: the end of a dump.
const DONE: u16 = 3;
/// `NLM_F_DUMP_INTR`: objects changed while they were dumped.
const INTERRUPTED: u16 = 0x10;
/// `NLM_F_CAPPED`: the refused message is not quoted in full.
const CAPPED: u16 = 0x100;
/// `NLM_F_ACK_TLVS`: the answer has attributes.
const EXPLAINED: u16 = 0x200;
/// `NLMSGERR_ATTR_MSG`.
const EXPLANATION: u16 = 1;
/// The kernel's `MAX_ERRNO`.
const MAX_ERRNO: i32 = 4095;
/// The kernel fills dump datagrams up to 32 KiB.
const RECEIVE: usize = 32 * 1024;
/// What the kernel keeps of the send buffer for itself, rounded up.
const SEND_OVERHEAD: usize = 4096;

/// What a socket talks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Links, addresses, routes, neighbours.
    Route,
    /// `nf_tables` and connection tracking.
    Netfilter,
}

/// A netlink socket of the network namespace the opening thread was in.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    next: u32,
    send_buffer: usize,
    receive: Vec<u8>,
}

impl Socket {
    /// Opens a socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// [`Error::Socket`] when the kernel has no such family or no descriptor is left.
    pub fn open(family: Family) -> Result<Self, Error> {
        let protocol = match family {
            Family::Route => None,
            Family::Netfilter => Some(netlink::NETFILTER),
        };
        let fd = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            protocol,
        )
        .map_err(|errno| socket_error("socket", errno))?;
        // Explanations are a comfort: a kernel without them still answers with numbers.
        let _ = set_option(&fd, libc::NETLINK_EXT_ACK, 1);
        let _ = set_option(&fd, libc::NETLINK_CAP_ACK, 1);
        let send_buffer = rustix::net::sockopt::socket_send_buffer_size(&fd)
            .map_err(|errno| socket_error("getsockopt", errno))?;
        Ok(Self { fd, next: 1, send_buffer, receive: Vec::new() })
    }

    /// Sends the batch and returns when every message that asked for an acknowledgement has one. Messages after a refused
    /// one may have taken effect, unless the family makes a batch one transaction.
    ///
    /// # Errors
    /// [`Error::Refused`] for the first message refused, or a failure of the socket.
    pub fn transact(&mut self, batch: &mut Batch) -> Result<(), Error> {
        self.exchange(batch, &mut |_| Ok(()))
    }

    /// Like [`Socket::transact`], and hands every answer that is neither acknowledgement nor error to `on`. A dump that
    /// was overtaken by changes is [`Error::Answer`]; the caller asks again.
    ///
    /// # Errors
    /// As [`Socket::transact`], or what `on` returns.
    pub fn exchange(
        &mut self,
        batch: &mut Batch,
        on: &mut dyn FnMut(Frame<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        if batch.is_empty() {
            return Ok(());
        }
        let first = self.next;
        let mut pending = Pending::new(batch);
        let messages = u32::try_from(batch.len()).map_err(|_| Error::TooLong)?;
        let bytes = batch.numbered(first)?;
        self.next = first.wrapping_add(messages);
        self.make_room(bytes.len())?;
        let sent = rustix::net::send(&self.fd, bytes, SendFlags::empty())
            .map_err(|errno| socket_error("send", errno))?;
        if sent != bytes.len() {
            return Err(Error::Answer("incomplete: the batch was cut short"));
        }
        self.gather(first, &mut pending, on)?;
        pending.outcome()
    }

    /// A batch must fit the send buffer, for the kernel takes it whole or not at all.
    fn make_room(&mut self, length: usize) -> Result<(), Error> {
        let needed = length + SEND_OVERHEAD;
        if needed <= self.send_buffer {
            return Ok(());
        }
        rustix::net::sockopt::set_socket_send_buffer_size_force(&self.fd, needed)
            .map_err(|errno| socket_error("setsockopt", errno))?;
        self.send_buffer = needed;
        Ok(())
    }

    /// Takes answers until none is queued: the kernel has put them there before `send` or the previous receive returned.
    fn gather(
        &mut self,
        first: u32,
        pending: &mut Pending,
        on: &mut dyn FnMut(Frame<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut failed = None;
        loop {
            match self.receive()? {
                Received::Nothing => return failed.map_or(Ok(()), Err),
                Received::Foreign => {}
                Received::TooLong => {
                    failed.get_or_insert(Error::Answer("longer than 32 KiB"));
                }
                Received::Datagram(datagram) => {
                    for frame in Frames::new(datagram) {
                        // The queue is emptied even after a failure, so that the next exchange starts clean.
                        if let Err(error) =
                            frame.map_err(Error::from).and_then(|f| pending.take(first, f, on))
                        {
                            failed.get_or_insert(error);
                        }
                    }
                }
            }
        }
    }

    /// Takes one datagram off the queue.
    pub(super) fn receive(&mut self) -> Result<Received<'_>, Error> {
        self.receive.resize(RECEIVE, 0);
        let (length, from) = loop {
            match rustix::net::recvfrom(&self.fd, self.receive.as_mut_slice(), RecvFlags::TRUNC) {
                Ok((_, length, from)) => break (length, from),
                Err(Errno::AGAIN) => return Ok(Received::Nothing),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(socket_error("recv", errno)),
            }
        };
        let from = from.and_then(|from| SocketAddrNetlink::try_from(from).ok());
        if from.is_none_or(|from| from.pid() != 0) {
            return Ok(Received::Foreign);
        }
        Ok(self.receive.get(..length).map_or(Received::TooLong, Received::Datagram))
    }

    /// Adds the notifications of a group to what is received.
    pub(super) fn join(&self, group: u32) -> Result<(), Error> {
        // The kernel leaves sockets without an address out of its notifications.
        rustix::net::bind(&self.fd, &SocketAddrNetlink::new(0, 0))
            .map_err(|errno| socket_error("bind", errno))?;
        set_option(&self.fd, libc::NETLINK_ADD_MEMBERSHIP, group.cast_signed())
            .map_err(|source| Error::Socket { call: "setsockopt", source })
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// What was on the queue.
pub(super) enum Received<'a> {
    /// A datagram of the kernel's.
    Datagram(&'a [u8]),
    /// One that does not fit.
    TooLong,
    /// One of another process.
    Foreign,
    Nothing,
}

/// Which messages still wait for an answer, and the first refusal.
struct Pending {
    waiting: Vec<bool>,
    refused: Option<Error>,
}

impl Pending {
    fn new(batch: &Batch) -> Self {
        let answered = Batch::ACK | Batch::DUMP;
        let waiting = (0..batch.len()).map(|index| batch.flags(index) & answered != 0).collect();
        Self { waiting, refused: None }
    }

    fn take(
        &mut self,
        first: u32,
        frame: Frame<'_>,
        on: &mut dyn FnMut(Frame<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let index = frame.sequence.wrapping_sub(first) as usize;
        let Some(waiting) = self.waiting.get_mut(index) else {
            // An answer to a message of an exchange that was given up.
            return Ok(());
        };
        if frame.flags & INTERRUPTED != 0 && frame.kind != ERROR {
            self.refused.get_or_insert(Error::Answer("inconsistent: objects changed during a dump"));
        }
        match frame.kind {
            NOOP => Ok(()),
            ERROR | DONE => {
                *waiting = false;
                if let Some((errno, text)) = refusal(&frame)? {
                    self.refused.get_or_insert(Error::Refused { message: index, source: errno, text });
                }
                Ok(())
            }
            _ => on(frame),
        }
    }

    fn outcome(self) -> Result<(), Error> {
        match self.refused {
            Some(refused) => Err(refused),
            None if self.waiting.contains(&true) => Err(Error::Answer("missing")),
            None => Ok(()),
        }
    }
}

/// The error number and explanation of an `NLMSG_ERROR` or `NLMSG_DONE`; `None` for success.
fn refusal(frame: &Frame<'_>) -> Result<Option<(Errno, Option<String>)>, Malformed> {
    let payload = frame.payload;
    if frame.kind == DONE && payload.len() < 4 {
        return Ok(None);
    }
    let number = read_u32(payload, 0)?.cast_signed();
    if number >= 0 {
        // 0, or the length of the last part of a dump.
        return Ok(None);
    }
    let number = number.checked_neg().filter(|number| *number <= MAX_ERRNO).ok_or(Malformed)?;
    let errno = Errno::from_raw_os_error(number);
    if frame.kind == DONE || frame.flags & EXPLAINED == 0 {
        return Ok(Some((errno, None)));
    }
    // The number is followed by the refused message: its header only when capped.
    let quoted = if frame.flags & CAPPED != 0 { 16 } else { read_u32(payload, 4)? as usize };
    let text = Attributes::after(payload, quoted.saturating_add(4).min(payload.len())).find(EXPLANATION)?;
    let text = text.map(|text| String::from_utf8_lossy(text).trim_end_matches('\0').to_owned());
    Ok(Some((errno, text)))
}

pub(super) fn socket_error(call: &'static str, errno: Errno) -> Error {
    Error::Socket { call, source: io::Error::from(errno) }
}

/// Sets a netlink option.
fn set_option(fd: &OwnedFd, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the descriptor is open, and the pointer and length describe `value`, which outlives the call.
    let done = unsafe {
        libc::setsockopt(fd.as_raw_fd(), libc::SOL_NETLINK, option, (&raw const value).cast(), length)
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `RTM_GETLINK`.
    const GET_LINK: u16 = 18;
    /// `RTM_DELLINK`.
    const DELETE_LINK: u16 = 17;

    #[test]
    fn the_loopback_interface_is_in_the_dump() {
        let mut socket = Socket::open(Family::Route).unwrap();
        let mut names = Vec::new();
        let mut batch = Batch::new();
        batch.push(GET_LINK, Batch::DUMP, &[0; 16], |_| {});
        socket
            .exchange(&mut batch, &mut |frame| {
                let name = Attributes::after(frame.payload, 16).find(3)?.unwrap_or_default();
                names.push(String::from_utf8_lossy(name).trim_end_matches('\0').to_owned());
                Ok(())
            })
            .unwrap();
        assert!(names.iter().any(|name| name == "lo"), "{names:?}");
    }

    #[test]
    fn a_refusal_names_the_message_of_the_batch() {
        let mut socket = Socket::open(Family::Route).unwrap();
        for _ in 0..2 {
            let mut batch = Batch::new();
            let mut loopback = [0; 16];
            loopback[4] = 1;
            batch.push(GET_LINK, Batch::ACK, &loopback, |_| {});
            batch.push(DELETE_LINK, Batch::ACK, &[0; 16], |attributes| {
                attributes.string(3, "no-such-link");
            });
            let mut answers = 0;
            let error = socket
                .exchange(&mut batch, &mut |_| {
                    answers += 1;
                    Ok(())
                })
                .unwrap_err();
            let Error::Refused { message: 1, source, .. } = error else { panic!("{error}") };
            assert!(source == Errno::NODEV || source == Errno::PERM, "{source}");
            assert_eq!(answers, 1);
        }
    }

    #[test]
    fn a_message_without_an_answer_is_an_error_and_not_a_hang() {
        let mut socket = Socket::open(Family::Route).unwrap();
        let mut batch = Batch::new();
        // Not a request the kernel knows in this family: it refuses or ignores, both at once.
        batch.push(0x7fff, Batch::ACK, &[0; 16], |_| {});
        assert!(socket.transact(&mut batch).is_err());
    }

    proptest! {
        #[test]
        fn any_answer_is_survived(
            kind in prop_oneof![Just(ERROR), Just(DONE), any::<u16>()],
            flags in any::<u16>(),
            payload in prop::collection::vec(any::<u8>(), 0..80),
        ) {
            let frame = Frame { kind, flags, sequence: 5, payload: &payload };
            let mut pending = Pending { waiting: vec![true; 3], refused: None };
            let _ = pending.take(4, frame, &mut |_| Ok(()));
            let _ = pending.outcome();
        }
    }
}
