//! The beginning of what a probe's command writes; the rest is read and thrown away, so that the command goes on.

use std::os::fd::OwnedFd;

use rustix::io::Errno;
use wharf_shim::health::MAX_OUTPUT;

use crate::poller::Poller;

/// Reads before anything else is looked at.
const BURST: usize = 16;

/// See the module.
#[derive(Debug)]
pub(crate) struct Capture {
    /// Until its end.
    pipe: Option<OwnedFd>,
    bytes: Vec<u8>,
    truncated: bool,
}

impl Capture {
    /// Of a non-blocking pipe that is watched.
    pub(crate) fn new(pipe: OwnedFd) -> Self {
        Self { pipe: Some(pipe), bytes: Vec::new(), truncated: false }
    }

    /// Takes what is there.
    pub(crate) fn read(&mut self, poller: &Poller) {
        let mut buffer = [0; MAX_OUTPUT];
        for _ in 0..BURST {
            let Some(pipe) = &self.pipe else { return };
            match rustix::io::read(pipe, &mut buffer) {
                Ok(count @ 1..) => self.keep(&buffer[..count]),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Ok(0) | Err(_) => self.close(poller),
            }
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = MAX_OUTPUT - self.bytes.len();
        self.bytes.extend_from_slice(&bytes[..bytes.len().min(room)]);
        self.truncated |= bytes.len() > room;
    }

    fn close(&mut self, poller: &Poller) {
        if let Some(pipe) = self.pipe.take() {
            poller.remove(&pipe);
        }
    }

    /// The last of it: whoever may still hold the pipe is not waited for.
    pub(crate) fn finish(&mut self, poller: &Poller) -> String {
        self.read(poller);
        self.close(poller);
        let mut text = String::from_utf8_lossy(&self.bytes).into_owned();
        if self.truncated {
            text.push_str("...");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use rustix::pipe::{PipeFlags, pipe_with};

    use super::*;

    #[test]
    fn output_is_cut_where_docker_cuts_it() {
        let poller = Poller::new().unwrap();
        let (read, write) = pipe_with(PipeFlags::NONBLOCK).unwrap();
        let mut capture = Capture::new(read);
        for _ in 0..3 {
            assert_eq!(rustix::io::write(&write, &[b'x'; 2000]).unwrap(), 2000);
            capture.read(&poller);
        }
        assert_eq!(capture.finish(&poller), format!("{}...", "x".repeat(MAX_OUTPUT)));
        assert_eq!(rustix::io::write(&write, b"late"), Err(Errno::PIPE));
    }

    #[test]
    fn a_full_limit_is_not_cut_and_bad_bytes_are_replaced() {
        let poller = Poller::new().unwrap();
        let (read, write) = pipe_with(PipeFlags::NONBLOCK).unwrap();
        let mut capture = Capture::new(read);
        assert_eq!(rustix::io::write(&write, &[0xff; MAX_OUTPUT]).unwrap(), MAX_OUTPUT);
        drop(write);
        assert_eq!(capture.finish(&poller), "\u{fffd}".repeat(MAX_OUTPUT));
    }
}
