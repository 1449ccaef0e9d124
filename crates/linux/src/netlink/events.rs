//! Notifications: what anybody changes.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use super::message::{Frame, Frames};
use super::socket::{Received, Socket, socket_error};
use super::{Error, Family};

/// What [`Events::wait`] has met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Notifications, all handed over.
    Events,
    /// More than the queue could hold: anything may have happened.
    Lost,
    /// The other end of the stop descriptor was closed.
    Stopped,
}

/// A subscription to one group of notifications, in the network namespace the subscribing thread was in.
#[derive(Debug)]
pub struct Events {
    socket: Socket,
}

impl Events {
    /// Subscribes. Everything that happens from now on is kept until it is asked for.
    ///
    /// # Errors
    /// [`Error::Socket`] when the kernel has no such family or group.
    pub fn subscribe(family: Family, group: u32) -> Result<Self, Error> {
        let socket = Socket::open(family)?;
        socket.join(group)?;
        Ok(Self { socket })
    }

    /// Sleeps until there are notifications, and hands the queued ones to `on`; or until the other end of `stop`, a pipe,
    /// is closed.
    ///
    /// # Errors
    /// A failure of the socket, or a notification that is no netlink message.
    pub fn wait(&mut self, stop: BorrowedFd<'_>, on: &mut dyn FnMut(Frame<'_>)) -> Result<Heard, Error> {
        loop {
            let mut ready = [
                PollFd::from_borrowed_fd(self.socket.as_fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(stop, PollFlags::IN),
            ];
            match poll(&mut ready, None) {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(socket_error("poll", errno)),
            }
            if !ready[1].revents().is_empty() {
                return Ok(Heard::Stopped);
            }
            match self.socket.receive() {
                Ok(Received::Datagram(datagram)) => {
                    for frame in Frames::new(datagram) {
                        on(frame?);
                    }
                    return Ok(Heard::Events);
                }
                Ok(Received::TooLong) => return Ok(Heard::Lost),
                Ok(Received::Foreign | Received::Nothing) => {}
                Err(Error::Socket { source, .. }) if is_overrun(&source) => return Ok(Heard::Lost),
                Err(error) => return Err(error),
            }
        }
    }
}

fn is_overrun(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::NOBUFS.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::{Attributes, Batch};

    /// `RTNLGRP_LINK`.
    const LINKS: u32 = 1;

    #[test]
    fn a_closed_pipe_ends_the_wait_and_notifications_arrive() {
        let mut events = Events::subscribe(Family::Route, LINKS).unwrap();
        let (stop, other_end) = rustix::pipe::pipe().unwrap();
        drop(other_end);
        assert_eq!(events.wait(stop.as_fd(), &mut |_| {}).unwrap(), Heard::Stopped);

        // A notification about a link, for those who may make a namespace for it.
        let heard = std::thread::spawn(|| {
            // SAFETY: only the network namespace is unshared; file descriptors stay shared.
            unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }.ok()?;
            let mut events = Events::subscribe(Family::Route, LINKS).unwrap();
            let (stop, _other_end) = rustix::pipe::pipe().unwrap();
            let mut batch = Batch::new();
            let up = [[0; 4], [1, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]].concat();
            batch.push(16, Batch::ACK, &up, |_| {});
            Socket::open(Family::Route).unwrap().transact(&mut batch).unwrap();
            let mut names = Vec::new();
            let heard = events.wait(stop.as_fd(), &mut |frame| {
                names.extend(Attributes::after(frame.payload, 16).find(3).unwrap().map(<[u8]>::to_vec));
            });
            Some((heard.unwrap(), names))
        });
        let heard = heard.join().unwrap();
        assert!(heard.is_none_or(|heard| heard == (Heard::Events, vec![b"lo\0".to_vec()])));
    }
}
