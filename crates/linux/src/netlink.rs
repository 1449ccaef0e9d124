//! Netlink: messages built and parsed without copying, and one socket that sends a batch and gathers the answers.
//!
//! [`message`] knows the byte layout and nothing of sockets; [`Socket`] knows sockets and nothing of links or firewalls.
//! [`Events`] listens to what others change. What a message means is the business of the crate that builds it.
//!
//! Invariants: the kernel answers every message of a batch before `sendmsg` returns (and every further part of a dump
//! inside the `recvmsg` that asks for it), so only [`Events::wait`] ever waits: an answer that is not there is an error, not a
//! hang. Datagrams from anyone but the kernel are ignored. Sequence numbers tie answers to messages, so a caller learns
//! which message of its batch was refused.
//!
//! Locking: a [`Socket`] is used by one thread at a time (`&mut self`).
//!
//! Crash: a socket leaves nothing behind.

mod events;
mod message;
mod socket;

use std::io;
use std::os::fd::BorrowedFd;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

pub use events::{Events, Heard};
pub use message::{Attributes, AttributesMut, Batch, Frame, Frames, Malformed};
pub use socket::{Family, Socket};

/// What can go wrong on a netlink socket.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A socket call failed.
    #[error("netlink {call}: {source}")]
    Socket {
        /// The call.
        call: &'static str,
        /// The reason.
        source: io::Error,
    },
    /// The kernel refused a message.
    #[error("{}{}", .source, .text.as_ref().map(|text| format!(" ({text})")).unwrap_or_default())]
    Refused {
        /// Which message of the batch, from 0.
        message: usize,
        /// The error number.
        source: rustix::io::Errno,
        /// The kernel's own words, when it has some.
        text: Option<String>,
    },
    /// An answer that is no netlink message, or none at all.
    #[error("the kernel's netlink answer is {0}")]
    Answer(&'static str),
    /// A batch that does not fit the format (an attribute of 64 KiB or more).
    #[error("a netlink attribute is too long")]
    TooLong,
}

impl Error {
    /// The error number, when the kernel refused a message.
    #[must_use]
    pub fn errno(&self) -> Option<rustix::io::Errno> {
        match self {
            Self::Refused { source, .. } => Some(*source),
            _ => None,
        }
    }
}

impl From<Malformed> for Error {
    fn from(_: Malformed) -> Self {
        Self::Answer("malformed")
    }
}

/// Runs `inside` on a thread of its own that has entered the network namespace, so that the calling thread cannot be left
/// in the wrong one. A netlink socket opened inside stays with that namespace and may be returned.
///
/// # Errors
/// No thread could be started, or the namespace could not be entered.
pub fn in_netns<T: Send>(netns: BorrowedFd<'_>, inside: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("netns".into()).stack_size(128 * 1024).spawn_scoped(
            scope,
            move || -> io::Result<T> {
                move_into_link_name_space(netns, Some(LinkNameSpaceType::Network))?;
                Ok(inside())
            },
        )?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
