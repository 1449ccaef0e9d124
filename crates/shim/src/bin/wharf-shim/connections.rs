//! The engines that talk to the shim, usually one.
//!
//! Nothing here waits for a peer. What a peer does not take at once stays in its outbox, and while replies are waiting
//! there its next requests are left in the kernel's queue; `Output` events do not queue at all, a peer that is slow
//! gets the newest one when it can take it. A peer whose outbox grows beyond [`MAX_OUTBOX`] is hung up on.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use wharf_linux::seqpacket::{self, Received};
use wharf_shim::protocol::{
    CodecError, Envelope, Event, FailureKind, MAX_MESSAGE, Message, Reply, Request, decode_request, encode,
};
use wharf_shim::spool::{Limits, Position};

use crate::failure::Failure;
use crate::poller::{Interest, Poller, Token};

/// The most connections at a time; one engine needs one or two.
const MAX_CONNECTIONS: usize = 32;
/// The most messages that wait for a peer.
const MAX_OUTBOX: usize = 256;

/// A message with its descriptors, as it waits.
#[derive(Debug)]
struct Packet {
    bytes: Vec<u8>,
    fds: Vec<OwnedFd>,
}

/// Follows the output.
#[derive(Debug, Clone, Copy)]
struct Subscriber {
    /// Position of its last acknowledgement, if it gives any.
    acknowledged: Option<Position>,
    /// What it was last told.
    told: Option<Position>,
}

#[derive(Debug)]
struct Connection {
    socket: OwnedFd,
    interest: Interest,
    outbox: VecDeque<Packet>,
    subscriber: Option<Subscriber>,
    /// An event about the output did not fit into its queue.
    blocked: bool,
    /// The segment it was told of last.
    segment: u64,
}

/// What one look at a connection gave.
pub(crate) enum Incoming {
    /// Something to answer.
    Request(Envelope<Request>, Vec<OwnedFd>),
    /// Something to refuse: the number it had, and why.
    Bad(u64, Failure),
    /// Nothing now.
    Nothing,
    /// It is closed or broken; hang up.
    End,
}

/// All connections, each at a place that stays the same while it lasts.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    places: Vec<Option<Connection>>,
    buffer: Vec<u8>,
}

impl Connections {
    /// Takes a connection in; refuses (and closes) it if there are too many.
    pub(crate) fn add(&mut self, poller: &Poller, socket: OwnedFd) -> Result<u32, Failure> {
        let free = self.places.iter().position(Option::is_none).unwrap_or(self.places.len());
        if free >= MAX_CONNECTIONS {
            return Err(Failure::new(FailureKind::Internal, "too many connections"));
        }
        let place = free as u32;
        poller.add(&socket, Token::Connection(place), Interest::Read)?;
        let connection = Connection {
            socket,
            interest: Interest::Read,
            outbox: VecDeque::new(),
            subscriber: None,
            blocked: false,
            segment: 0,
        };
        match self.places.get_mut(free) {
            Some(slot) => *slot = Some(connection),
            None => self.places.push(Some(connection)),
        }
        Ok(place)
    }

    /// Hangs up.
    pub(crate) fn remove(&mut self, poller: &Poller, place: u32) {
        if let Some(connection) = self.places.get_mut(place as usize).and_then(Option::take) {
            poller.remove(&connection.socket);
            // There may be other descriptors of it: of the first one, for last words.
            let _ended_already = rustix::net::shutdown(&connection.socket, rustix::net::Shutdown::Both);
        }
    }

    /// The next request of a connection, unless its replies are stuck.
    pub(crate) fn receive(&mut self, place: u32) -> Incoming {
        let Some(Some(connection)) = self.places.get(place as usize) else {
            return Incoming::Nothing;
        };
        if !connection.outbox.is_empty() {
            return Incoming::Nothing;
        }
        match seqpacket::recv(connection.socket.as_fd(), &mut self.buffer, MAX_MESSAGE) {
            Ok(Received::Packet(fds)) => match decode_request(&self.buffer) {
                Ok(request) => Incoming::Request(request, fds),
                Err(error) => {
                    let seq = if let CodecError::Malformed { seq, .. } = error { seq } else { None };
                    Incoming::Bad(seq.unwrap_or(0), Failure::invalid(error.to_string()))
                }
            },
            Ok(Received::End) => Incoming::End,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Incoming::Nothing,
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                Incoming::Bad(0, Failure::invalid(error.to_string()))
            }
            Err(_) => Incoming::End,
        }
    }

    /// Puts a reply into the connection's outbox.
    pub(crate) fn reply(&mut self, place: u32, seq: u64, body: Reply, fds: Vec<OwnedFd>) {
        if let Some(Some(connection)) = self.places.get_mut(place as usize) {
            connection.push(&Message::Reply(Envelope { seq, body }), fds);
        }
    }

    /// Puts an event into one outbox.
    pub(crate) fn tell(&mut self, place: u32, event: Event, fds: Vec<OwnedFd>) {
        if let Some(Some(connection)) = self.places.get_mut(place as usize) {
            connection.push(&Message::Event(event), fds);
        }
    }

    /// Puts an event into every outbox.
    pub(crate) fn tell_all(&mut self, event: &Event) {
        let message = Message::Event(event.clone());
        self.places.iter_mut().flatten().for_each(|connection| connection.push(&message, Vec::new()));
    }

    /// From now on the connection follows the output, whose end is `end`.
    pub(crate) fn subscribe(&mut self, place: u32, acknowledge: bool, end: Position) {
        if let Some(Some(connection)) = self.places.get_mut(place as usize) {
            connection.subscriber = Some(Subscriber { acknowledged: acknowledge.then_some(end), told: None });
        }
    }

    /// It follows no more.
    pub(crate) fn unsubscribe(&mut self, place: u32) {
        if let Some(Some(connection)) = self.places.get_mut(place as usize) {
            connection.subscriber = None;
        }
    }

    /// Holds no memory until somebody asks again.
    pub(crate) fn release_buffer(&mut self) {
        self.buffer = Vec::new();
    }

    /// Nobody follows any more.
    pub(crate) fn end_subscriptions(&mut self) {
        self.places.iter_mut().flatten().for_each(|connection| connection.subscriber = None);
    }

    /// It has dealt with what is before `position`.
    pub(crate) fn acknowledge(&mut self, place: u32, position: Position) {
        if let Some(Some(Connection { subscriber: Some(subscriber), .. })) =
            self.places.get_mut(place as usize)
        {
            subscriber.acknowledged = Some(position);
        }
    }

    /// Some subscriber that acknowledges is more than half of the spool behind `end`.
    pub(crate) fn is_behind(&self, limits: &Limits, end: Position) -> bool {
        let half = limits.capacity() / 2;
        self.places
            .iter()
            .flatten()
            .filter_map(|connection| connection.subscriber?.acknowledged)
            .any(|acknowledged| limits.distance(acknowledged, end) > half)
    }

    /// Every outbox is empty.
    pub(crate) fn is_flushed(&self) -> bool {
        self.places.iter().flatten().all(|connection| connection.outbox.is_empty())
    }

    /// Sends what can be sent, and news of the output's `end`. Gives the places of connections that must go.
    pub(crate) fn flush(&mut self, poller: &Poller, end: Position) -> Vec<u32> {
        let mut broken = Vec::new();
        for (place, connection) in self.places.iter_mut().enumerate() {
            let Some(connection) = connection else { continue };
            let place = place as u32;
            if connection.flush(end).and_then(|()| connection.watch(poller, place)).is_err() {
                broken.push(place);
            }
        }
        broken
    }
}

impl Connection {
    fn push(&mut self, message: &Message, fds: Vec<OwnedFd>) {
        match encode(message) {
            Ok(bytes) => self.outbox.push_back(Packet { bytes, fds }),
            // Every text in a message is bounded, so that it always fits.
            Err(error) => complain!("wharf-shim: cannot say {message:?}: {error}"),
        }
    }

    fn flush(&mut self, end: Position) -> Result<(), Failure> {
        let broken = Failure::on("send to an engine");
        while let Some(packet) = self.outbox.front() {
            let fds: Vec<_> = packet.fds.iter().map(AsFd::as_fd).collect();
            match seqpacket::send(self.socket.as_fd(), &packet.bytes, &fds) {
                Ok(()) => drop(self.outbox.pop_front()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(broken(error)),
            }
        }
        if self.outbox.len() > MAX_OUTBOX {
            let failure = Failure::new(FailureKind::Internal, "an engine does not read what it is told");
            complain!("wharf-shim: hung up: {}", failure.message);
            return Err(failure);
        }
        self.blocked = false;
        if self.outbox.is_empty() && self.segment < end.segment {
            self.say(&Event::Rotated { segment: end.segment })?;
            if !self.blocked {
                self.segment = end.segment;
            }
        }
        if self.outbox.is_empty()
            && !self.blocked
            && let Some(subscriber) = &self.subscriber
            && subscriber.told != Some(end)
        {
            self.say(&Event::Output { end })?;
            if !self.blocked
                && let Some(subscriber) = &mut self.subscriber
            {
                subscriber.told = Some(end);
            }
        }
        Ok(())
    }

    /// Sends an event that need not queue: a later one says as much.
    fn say(&mut self, event: &Event) -> Result<(), Failure> {
        let bytes = encode(&Message::Event(event.clone())).map_err(Failure::on("encode an event"))?;
        match seqpacket::send(self.socket.as_fd(), &bytes, &[]) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.blocked = true;
                Ok(())
            }
            Err(error) => Err(Failure::on("send to an engine")(error)),
        }
    }

    /// Requests are read unless replies are stuck, so that those stay few.
    fn watch(&mut self, poller: &Poller, place: u32) -> Result<(), Failure> {
        let wanted = match (self.outbox.is_empty(), self.blocked) {
            (false, _) => Interest::Write,
            (true, true) => Interest::ReadWrite,
            (true, false) => Interest::Read,
        };
        if wanted != self.interest {
            poller.change(&self.socket, Token::Connection(place), wanted)?;
            self.interest = wanted;
        }
        Ok(())
    }
}
