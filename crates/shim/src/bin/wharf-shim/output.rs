//! The container's output on its way from pipes or a terminal into the spool.
//!
//! Every source is edge-triggered and read until it would block, at most `BURST` chunks at a time, so that a
//! container that never stops writing does not keep the shim from anything else. Pausing is simply not reading.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::buffer::spare_capacity;
use rustix::io::Errno;
use wharf_shim::spool::{MAX_CHUNK, Position, Stream, Writer};

use crate::failure::Failure;
use crate::poller::{Interest, Poller, Token};

/// Chunks read from one source before anything else is looked at, unless the spool is too small for it.
const BURST: usize = 16;
/// Memory for chunks up to this is kept.
const SMALL_CHUNK: usize = 4 * 1024;
/// What a busy container's pipe is raised to, unless the spool is too small for it.
const LARGE_PIPE: u64 = 1024 * 1024;

/// Nanoseconds since 1970.
pub(crate) fn now_ns() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}

/// All that the container writes.
#[derive(Debug)]
pub(crate) struct Output {
    writer: Writer,
    sources: Vec<Source>,
    /// Made when first needed and shared by all sources.
    buffer: Vec<u8>,
    /// Upper bound for pipes, so that what they hold never exceeds what back-pressure leaves free in the spool.
    pipe_limit: u64,
    /// The disk refuses what is written; said once.
    refused: bool,
}

#[derive(Debug)]
struct Source {
    fd: OwnedFd,
    stream: Stream,
    terminal: bool,
    /// May have something to read.
    ready: bool,
    /// Its pipe has been raised to its full size.
    raised: bool,
}

/// What one look at a source gave.
enum Look {
    Chunk,
    WouldBlock,
    End,
}

impl Output {
    pub(crate) fn new(writer: Writer, capacity: u64) -> Self {
        let pipe_limit = LARGE_PIPE.min(capacity / 16);
        Self { writer, sources: Vec::with_capacity(2), buffer: Vec::new(), pipe_limit, refused: false }
    }

    /// Reads `fd`, which must not block, as `stream` from now on.
    pub(crate) fn add(
        &mut self,
        poller: &Poller,
        fd: OwnedFd,
        stream: Stream,
        terminal: bool,
    ) -> Result<(), Failure> {
        poller.add(&fd, Token::Output(stream), Interest::ReadEdge)?;
        self.sources.push(Source { fd, stream, terminal, ready: true, raised: terminal });
        Ok(())
    }

    /// The container's terminal, if it has one that is not closed.
    pub(crate) fn terminal(&self) -> Option<BorrowedFd<'_>> {
        self.sources.iter().find(|source| source.terminal).map(|source| source.fd.as_fd())
    }

    /// Behind what has been written to the spool.
    pub(crate) fn end(&self) -> Position {
        self.writer.end()
    }

    /// The poller says that a stream is readable.
    pub(crate) fn wake(&mut self, stream: Stream) {
        if let Some(source) = self.sources.iter_mut().find(|source| source.stream == stream) {
            source.ready = true;
        }
    }

    /// Look at every source once more.
    pub(crate) fn wake_all(&mut self) {
        self.sources.iter_mut().for_each(|source| source.ready = true);
    }

    /// There may be something to read right now.
    pub(crate) fn is_ready(&self) -> bool {
        self.sources.iter().any(|source| source.ready)
    }

    /// Every source has ended.
    pub(crate) fn is_finished(&self) -> bool {
        self.sources.is_empty()
    }

    /// Holds no memory until there is something to read again.
    pub(crate) fn release_buffer(&mut self) {
        self.buffer = Vec::new();
    }

    /// Reads nothing more.
    pub(crate) fn close(&mut self, poller: &Poller) {
        // An engine may hold the terminal as well, so closing alone would not unwatch it.
        self.sources.drain(..).for_each(|source| poller.remove(&source.fd));
        self.buffer = Vec::new();
    }

    /// Moves what is there from ready sources to the spool, within bounds. `ending` says that the container has ended,
    /// so that a terminal nobody has open will not be opened again. Gives whether there was so much that the buffer is
    /// worth releasing.
    pub(crate) fn pump(&mut self, poller: &Poller, ending: bool) -> bool {
        let mut much = false;
        let burst = BURST.min(self.pipe_limit as usize / MAX_CHUNK).max(1);
        let mut index = 0;
        while let Some(source) = self.sources.get_mut(index) {
            let mut ended = false;
            for _ in 0..burst {
                if !source.ready {
                    break;
                }
                match source.look(&mut self.buffer, ending) {
                    Look::Chunk => {
                        much |= self.buffer.len() > SMALL_CHUNK;
                        source.raise(self.buffer.len(), self.pipe_limit);
                        let result = self.writer.append(source.stream, now_ns(), &self.buffer);
                        self.refused = report(result, self.refused);
                    }
                    Look::WouldBlock => source.ready = false,
                    Look::End => {
                        ended = true;
                        break;
                    }
                }
            }
            if ended {
                poller.remove(&source.fd);
                self.sources.swap_remove(index);
            } else {
                index += 1;
            }
        }
        much
    }
}

impl Source {
    fn look(&self, buffer: &mut Vec<u8>, ending: bool) -> Look {
        buffer.clear();
        buffer.reserve_exact(MAX_CHUNK);
        loop {
            return match rustix::io::read(&self.fd, spare_capacity(buffer)) {
                Ok(0) => Look::End,
                Ok(_) => Look::Chunk,
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => Look::WouldBlock,
                // Nobody has the terminal open at the moment. While the container lives it may be opened again, which
                // the poller will tell.
                Err(Errno::IO) if self.terminal && !ending => Look::WouldBlock,
                Err(_) => Look::End,
            };
        }
    }

    /// The first full chunk shows a container that writes much: give it room to go on writing meanwhile.
    fn raise(&mut self, chunk: usize, limit: u64) {
        if !self.raised && chunk == MAX_CHUNK && limit > MAX_CHUNK as u64 {
            self.raised = true;
            // Refused where the user's share of pipe memory is used up: then it stays as it is.
            let _refused = rustix::pipe::fcntl_setpipe_size(&self.fd, limit as usize);
        }
    }
}

/// Says when the disk begins and ceases to refuse output; gives whether it does.
fn report(result: Result<(), wharf_shim::spool::SpoolError>, refused: bool) -> bool {
    match result {
        Ok(()) => {
            if refused {
                complain!("wharf-shim: output is kept again");
            }
            false
        }
        Err(error) => {
            if !refused {
                complain!("wharf-shim: output is being lost: {error}");
            }
            true
        }
    }
}
