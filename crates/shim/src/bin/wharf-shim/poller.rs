//! What the shim waits for: descriptors in one epoll set, each with a name.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;
use wharf_shim::spool::Stream;

use crate::failure::Failure;

/// How many events are taken at once.
const BATCH: usize = 16;

/// Whom an event is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Token {
    /// Somebody connects.
    Listener,
    /// The container's init has ended.
    Init,
    /// The container wrote.
    Output(Stream),
    /// A connection, by its place.
    Connection(u32),
    /// An exec'ed process has ended, by its number.
    Exec(u32),
    /// An exec is on its way into the container, by its number.
    Joining(u32),
    /// The terminal of a detached exec has output nobody wants.
    Discard(u32),
    /// The kernel says that the container is out of memory.
    OutOfMemory,
    /// The health probe's output or socket has news.
    Probe,
    /// A child has ended.
    Children,
}

impl Token {
    fn to_data(self) -> EventData {
        let (class, number) = match self {
            Self::Listener => (0, 0),
            Self::Init => (1, 0),
            Self::Output(stream) => (2, stream as u32),
            Self::Connection(place) => (3, place),
            Self::Exec(number) => (4, number),
            Self::Discard(number) => (5, number),
            Self::Joining(number) => (6, number),
            Self::OutOfMemory => (7, 0),
            Self::Probe => (8, 0),
            Self::Children => (9, 0),
        };
        EventData::new_u64(class << 32 | u64::from(number))
    }

    fn from_data(data: EventData) -> Option<Self> {
        let number = data.u64() as u32;
        Some(match (data.u64() >> 32, number) {
            (0, _) => Self::Listener,
            (1, _) => Self::Init,
            (2, 0) => Self::Output(Stream::Stdout),
            (2, _) => Self::Output(Stream::Stderr),
            (3, place) => Self::Connection(place),
            (4, number) => Self::Exec(number),
            (5, number) => Self::Discard(number),
            (6, number) => Self::Joining(number),
            (7, _) => Self::OutOfMemory,
            (8, _) => Self::Probe,
            (9, _) => Self::Children,
            _ => return None,
        })
    }
}

/// When a descriptor is worth an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interest {
    /// As long as it is readable.
    Read,
    /// As long as it is writable (or the other end is gone).
    Write,
    /// As long as it is either.
    ReadWrite,
    /// Each time it becomes readable or ends; the owner reads until it would block.
    ReadEdge,
    /// Each time the kernel has news of a file of its own.
    NewsEdge,
}

impl Interest {
    fn flags(self) -> EventFlags {
        match self {
            Self::Read => EventFlags::IN,
            Self::Write => EventFlags::OUT,
            Self::ReadWrite => EventFlags::IN | EventFlags::OUT,
            Self::ReadEdge => EventFlags::IN | EventFlags::ET,
            Self::NewsEdge => EventFlags::IN | EventFlags::PRI | EventFlags::ET,
        }
    }
}

/// One happening.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ready {
    pub(crate) token: Token,
    /// Can be read, or has ended; else there is only room for writing.
    pub(crate) readable: bool,
}

/// The set.
pub(crate) struct Poller {
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
}

impl Poller {
    pub(crate) fn new() -> Result<Self, Failure> {
        let epoll = epoll::create(CreateFlags::CLOEXEC).map_err(Failure::on("make an epoll set"))?;
        Ok(Self { epoll, events: Vec::with_capacity(BATCH) })
    }

    pub(crate) fn add(&self, fd: impl AsFd, token: Token, interest: Interest) -> Result<(), Failure> {
        epoll::add(&self.epoll, fd, token.to_data(), interest.flags())
            .map_err(Failure::on("watch a descriptor"))
    }

    pub(crate) fn change(&self, fd: impl AsFd, token: Token, interest: Interest) -> Result<(), Failure> {
        epoll::modify(&self.epoll, fd, token.to_data(), interest.flags())
            .map_err(Failure::on("watch a descriptor"))
    }

    /// Stops watching. Needed wherever another process may hold the same open file, which keeps it in the set.
    pub(crate) fn remove(&self, fd: impl AsFd) {
        // It is watched, so this cannot fail; if it did, events without an owner would be passed over.
        let _unwatched = epoll::delete(&self.epoll, fd);
    }

    /// Waits for at most `timeout`; nothing if it passed or a signal came.
    pub(crate) fn wait(&mut self, timeout: Option<Duration>) -> Result<Vec<Ready>, Failure> {
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        self.events.clear();
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(Failure::on("wait for events")(error)),
        }
        let ended = EventFlags::HUP | EventFlags::ERR;
        let ready = self.events.iter().filter_map(|event| {
            let flags = event.flags;
            Some(Ready {
                token: Token::from_data(event.data)?,
                readable: flags.intersects(EventFlags::IN | ended),
            })
        });
        Ok(ready.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_the_kernel() {
        let all = [
            Token::Listener,
            Token::Init,
            Token::Output(Stream::Stdout),
            Token::Output(Stream::Stderr),
            Token::Connection(u32::MAX),
            Token::Exec(7),
            Token::Discard(0),
            Token::Joining(1),
            Token::Probe,
            Token::Children,
        ];
        assert!(all.iter().all(|token| Token::from_data(token.to_data()) == Some(*token)));
        assert_eq!(Token::from_data(EventData::new_u64(u64::MAX)), None);
    }
}
