//! Signals sent to this process while it stands in for a container's.

use std::{
    io,
    task::{Context, Poll},
};

use futures_util::future::poll_fn;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Signals that are passed on, by the names the API knows.
const FORWARDED: [(&str, i32); 10] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ABRT", 6),
    ("USR1", 10),
    ("USR2", 12),
    ("ALRM", 14),
    ("TERM", 15),
    ("CONT", 18),
    ("TSTP", 20),
];

/// Signals that end this process if they are not passed on.
const DEADLY: [(&str, i32); 4] = [("HUP", 1), ("INT", 2), ("QUIT", 3), ("TERM", 15)];

/// The size of the terminal changed.
const WINDOW_CHANGED: i32 = 28;

/// Listens for some signals; while it lives they do nothing else.
#[derive(Debug)]
pub(crate) struct Signals(Vec<(&'static str, i32, Signal)>);

impl Signals {
    /// Those to pass on to a container.
    pub(crate) fn forwarded() -> io::Result<Self> {
        Self::listen(&FORWARDED)
    }

    /// Those that end this process.
    pub(crate) fn deadly() -> io::Result<Self> {
        Self::listen(&DEADLY)
    }

    /// The one that tells of a new size.
    pub(crate) fn window() -> io::Result<Self> {
        Self::listen(&[("WINCH", WINDOW_CHANGED)])
    }

    fn listen(wanted: &[(&'static str, i32)]) -> io::Result<Self> {
        let listen = |(name, number): &(&'static str, i32)| {
            Ok((*name, *number, signal(SignalKind::from_raw(*number))?))
        };
        wanted.iter().map(listen).collect::<io::Result<Vec<_>>>().map(Self)
    }

    /// The name and number of the next one.
    pub(crate) async fn next(&mut self) -> (&'static str, i32) {
        let poll = |context: &mut Context<'_>| {
            for (name, number, signal) in &mut self.0 {
                if signal.poll_recv(context).is_ready() {
                    return Poll::Ready((*name, *number));
                }
            }
            Poll::Pending
        };
        poll_fn(poll).await
    }
}

/// Ends this process as the signal would have, with the terminal put back.
pub(crate) fn die_of(number: i32) -> ! {
    super::restore();
    std::process::exit(128 + number);
}
