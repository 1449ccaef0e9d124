//! Streams between a client and a container or an exec: what attach, logs and exec give.
//!
//! Output of a container is always read from its spool, woken by the shim: the engine may die and nothing is lost.
//! Attached clients acknowledge what they have taken, so that a slow one slows the container down (as a terminal
//! would) instead of losing output; followers of logs do not.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use wharf_shim::protocol::{Reply, Request};
use wharf_shim::spool::Position;

use crate::blocking::blocking;
use crate::containers::Container;
use crate::link::Link;
use crate::readiness::watch;
use crate::{Error, OutputChunk, Result};

/// Chunks a client may be behind inside the engine; each has at most 64 KiB.
const CHUNKS: usize = 8;
/// A slow client's acknowledgement is worth a message when it has taken this much more.
const ACK_BYTES: u64 = 1024 * 1024;

/// What attach and exec give.
pub struct Session {
    /// One stream with terminal semantics instead of two.
    pub tty: bool,
    /// What the process says.
    pub output: OutputStream,
    /// What the client says, if it may.
    pub input: Option<Input>,
}

/// Output as it comes; ends with the process.
pub struct OutputStream {
    receiver: mpsc::Receiver<Result<OutputChunk>>,
}

impl OutputStream {
    pub(crate) fn new() -> (mpsc::Sender<Result<OutputChunk>>, Self) {
        let (sender, receiver) = mpsc::channel(CHUNKS);
        (sender, Self { receiver })
    }

    /// The next piece; `None` at the end.
    pub async fn next(&mut self) -> Option<Result<OutputChunk>> {
        self.receiver.recv().await
    }
}

/// Where a session's output comes from; called on the blocking pool.
pub(crate) trait Source: Send + 'static {
    /// What is there now, at most some hundred KiB; empty when everything so far was given.
    fn read(&mut self) -> Result<Vec<OutputChunk>>;
    /// What is left when no more will come.
    fn finish(&mut self) -> Result<Vec<OutputChunk>>;
    /// How far this source has read.
    fn position(&self) -> Position;
    /// Nothing more will be given, whatever the container still writes.
    fn is_over(&self) -> bool {
        false
    }
}

/// When a pump ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Until {
    /// When everything on disk now is given.
    Now,
    /// When the present run has ended.
    RunEnds,
    /// When the next run (that begins after this many) has ended.
    RunAfter(u64),
}

/// Carries a source's output to a client until it ends or the client leaves.
pub(crate) async fn pump(
    mut source: Box<dyn Source>,
    container: Arc<Container>,
    sender: mpsc::Sender<Result<OutputChunk>>,
    until: Until,
    acknowledge: bool,
) {
    let mut progress = container.progress.subscribe();
    let follower =
        if until == Until::Now { None } else { Some(Follower::join(&container, acknowledge).await) };
    loop {
        // Taken before reading: when this says that the run is over, everything it wrote is on disk.
        let state = progress.borrow_and_update().clone();
        loop {
            let step = blocking(move || {
                let chunks = source.read();
                Ok((source, chunks))
            });
            let Ok((back, chunks)) = step.await else { return };
            source = back;
            match chunks {
                Ok(chunks) if chunks.is_empty() => break,
                Ok(chunks) => {
                    for chunk in chunks {
                        if sender.send(Ok(chunk)).await.is_err() {
                            return;
                        }
                    }
                }
                Err(error) => {
                    let _client_left = sender.send(Err(error)).await;
                    return;
                }
            }
            if let Some(follower) = &follower {
                follower.acknowledge(source.position()).await;
            }
        }
        let over = match until {
            _ if source.is_over() => true,
            Until::Now => true,
            Until::RunEnds => !state.running,
            Until::RunAfter(run) => state.removed || (state.run > run && !state.running),
        };
        if over {
            for chunk in source.finish().unwrap_or_default() {
                if sender.send(Ok(chunk)).await.is_err() {
                    return;
                }
            }
            return;
        }
        tokio::select! {
            changed = progress.changed() => if changed.is_err() { return },
            () = sender.closed() => return,
        }
    }
}

/// Who follows a container's output. The shim is asked to report output only while somebody does.
#[derive(Default)]
pub(crate) struct Followers {
    state: Mutex<FollowersState>,
}

#[derive(Default)]
struct FollowersState {
    next: u64,
    /// `None` for followers that do not slow the container down.
    members: BTreeMap<u64, Option<Position>>,
    acknowledged: Position,
}

impl FollowersState {
    fn subscription(&self) -> Request {
        if self.members.is_empty() {
            Request::Unsubscribe
        } else {
            Request::Subscribe { acknowledge: self.members.values().any(Option::is_some) }
        }
    }
}

impl Followers {
    fn lock(&self) -> MutexGuard<'_, FollowersState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells a new shim who follows.
    pub(crate) async fn subscribe(&self, link: &Link) -> Result<()> {
        let request = {
            let mut state = self.lock();
            state.acknowledged = Position::default();
            if state.members.is_empty() {
                return Ok(());
            }
            state.subscription()
        };
        link.ask(request, &[]).await.map(drop)
    }
}

/// Membership of one session; leaves when dropped.
pub(crate) struct Follower {
    container: Arc<Container>,
    id: u64,
    acknowledge: bool,
}

impl Follower {
    pub(crate) async fn join(container: &Arc<Container>, acknowledge: bool) -> Self {
        let (id, request) = {
            let mut state = container.followers.lock();
            state.next += 1;
            let id = state.next;
            state.members.insert(id, acknowledge.then(Position::default));
            (id, state.subscription())
        };
        let follower = Self { container: container.clone(), id, acknowledge };
        if let Some(link) = container.link() {
            // A shim that has just left will be noticed by the supervisor.
            let _gone = link.ask(request, &[]).await;
        }
        follower
    }

    async fn acknowledge(&self, position: Position) {
        if !self.acknowledge {
            return;
        }
        let least = {
            let mut state = self.container.followers.lock();
            state.members.insert(self.id, Some(position));
            let Some(least) = state.members.values().flatten().min().copied() else { return };
            let sent = state.acknowledged;
            let worth =
                least.segment != sent.segment || least.offset >= sent.offset.saturating_add(ACK_BYTES);
            if !worth {
                return;
            }
            state.acknowledged = least;
            least
        };
        if let Some(link) = self.container.link() {
            let _gone = link.ask(Request::Ack { position: least }, &[]).await;
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let request = {
            let mut state = self.container.followers.lock();
            state.members.remove(&self.id);
            state.subscription()
        };
        if let (Some(link), Ok(runtime)) = (self.container.link(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(async move {
                let _gone = link.ask(request, &[]).await;
            });
        }
    }
}

/// What became of bytes from a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrote {
    /// They are on their way to the process.
    Written,
    /// The client typed the detach keys: close its connection, the process goes on.
    Detached,
    /// The process has closed its input; nothing more will be taken.
    Closed,
}

/// A client's way to a process's standard input.
pub struct Input {
    target: Target,
    detach: Option<DetachKeys>,
    /// Told when the client typed the detach keys.
    on_detach: Option<Box<dyn FnOnce() + Send + Sync>>,
}

enum Target {
    /// Opened at the first use, when the container runs.
    Container {
        container: Arc<Container>,
        once: bool,
        pipe: Option<AsyncFd<OwnedFd>>,
    },
    Exec(AsyncFd<OwnedFd>),
}

impl Input {
    pub(crate) fn to_container(container: Arc<Container>, once: bool, detach: Option<DetachKeys>) -> Self {
        Self { target: Target::Container { container, once, pipe: None }, detach, on_detach: None }
    }

    /// Has `tell` called when the client leaves by its detach keys.
    pub(crate) fn on_detach(mut self, tell: impl FnOnce() + Send + Sync + 'static) -> Self {
        self.on_detach = Some(Box::new(tell));
        self
    }

    pub(crate) fn to_exec(fd: OwnedFd, detach: Option<DetachKeys>) -> Result<Self> {
        Ok(Self { target: Target::Exec(watch(fd, Interest::WRITABLE)?), detach, on_detach: None })
    }

    /// Gives bytes to the process; waits while it does not read, and until it runs.
    ///
    /// # Errors
    /// When the container's shim cannot be reached.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<Wrote> {
        let (bytes, detached) = match &mut self.detach {
            Some(keys) => keys.filter(bytes),
            None => (bytes.to_vec(), false),
        };
        let pipe = self.pipe().await?;
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let written = pipe.async_io(Interest::WRITABLE, |fd| Ok(rustix::io::write(fd, rest)?)).await;
            match written {
                Ok(count) => rest = &rest[count..],
                Err(_) => return Ok(Wrote::Closed),
            }
        }
        if !detached {
            return Ok(Wrote::Written);
        }
        if let Some(tell) = self.on_detach.take() {
            tell();
        }
        Ok(Wrote::Detached)
    }

    /// The client will say no more. A pipe that was opened for one client only is closed; a terminal stays.
    pub async fn close(mut self) {
        if let Target::Container { container, once: true, .. } = &mut self.target {
            let container = container.clone();
            if wait_running(&container).await.is_err() {
                return;
            }
            drop(self);
            if let Some(link) = container.link() {
                let _gone = link.ask(Request::CloseStdin, &[]).await;
            }
        }
    }

    async fn pipe(&mut self) -> Result<&AsyncFd<OwnedFd>> {
        match &mut self.target {
            Target::Exec(pipe) => Ok(pipe),
            Target::Container { container, once, pipe } => {
                if pipe.is_none() {
                    wait_running(container).await?;
                    let link = container.running_link()?;
                    let (_, fds) = link.ask(Request::OpenStdin { once: *once }, &[]).await?;
                    let fd = fds.into_iter().next().ok_or_else(|| container.not_running())?;
                    *pipe = Some(watch(fd, Interest::WRITABLE)?);
                }
                pipe.as_ref().ok_or_else(|| container.not_running())
            }
        }
    }
}

/// Waits until the container runs; an error when it is removed first.
async fn wait_running(container: &Arc<Container>) -> Result<()> {
    let mut progress = container.progress.subscribe();
    let state = progress.wait_for(|progress| progress.running || progress.removed).await;
    match state {
        Ok(state) if state.running => Ok(()),
        _ => Err(container.not_running()),
    }
}

/// Finds the detach key sequence in what a client types.
pub(crate) struct DetachKeys {
    keys: Vec<u8>,
    matched: usize,
}

impl DetachKeys {
    /// Parses `ctrl-p,ctrl-q` and the like; `None` and the empty string mean the default.
    pub(crate) fn parse(text: Option<&str>) -> Result<Self> {
        let text = text.filter(|text| !text.is_empty()).unwrap_or("ctrl-p,ctrl-q");
        let invalid = || Error::Invalid(format!("Invalid detach keys ({text}) provided"));
        let mut keys = Vec::new();
        for key in text.split(',') {
            let mut characters = key.chars();
            let code = match (characters.next(), characters.next()) {
                (Some(single), None) if single.is_ascii() => single as u8,
                _ => match key.strip_prefix("ctrl-").map(str::as_bytes) {
                    Some([letter @ b'a'..=b'z']) => letter - b'a' + 1,
                    Some(b"@") => 0,
                    Some(b"[") => 27,
                    Some(b"\\") => 28,
                    Some(b"]") => 29,
                    Some(b"^") => 30,
                    Some(b"_") => 31,
                    _ => return Err(invalid()),
                },
            };
            keys.push(code);
        }
        Ok(Self { keys, matched: 0 })
    }

    /// The sequence.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.keys
    }

    /// What of `bytes` goes to the process, and whether the sequence is complete. A begun sequence is held back.
    fn filter(&mut self, bytes: &[u8]) -> (Vec<u8>, bool) {
        let mut out = Vec::with_capacity(bytes.len());
        for byte in bytes {
            if *byte == self.keys[self.matched] {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    return (out, true);
                }
                continue;
            }
            out.extend_from_slice(&self.keys[..self.matched]);
            self.matched = usize::from(*byte == self.keys[0]);
            if self.matched == 0 {
                out.push(*byte);
            } else if self.keys.len() == 1 {
                return (out, true);
            }
        }
        (out, false)
    }
}

/// A chunk of output.
pub(crate) fn chunk(stream: wharf_shim::spool::Stream, bytes: impl Into<Bytes>) -> OutputChunk {
    let stream = match stream {
        wharf_shim::spool::Stream::Stdout => crate::Stream::Stdout,
        wharf_shim::spool::Stream::Stderr => crate::Stream::Stderr,
    };
    OutputChunk { stream, bytes: bytes.into() }
}

/// The answer to a question that has no other.
pub(crate) fn expect_ok(answer: (Reply, Vec<OwnedFd>)) -> Result<()> {
    match answer.0 {
        Reply::Ok => Ok(()),
        other => Err(Error::System(format!("the shim answered {other:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::DetachKeys;

    #[test]
    fn detach_keys_are_found_across_writes_and_held_back() {
        let mut keys = DetachKeys::parse(None).unwrap();
        assert_eq!(keys.filter(b"ab\x10"), (b"ab".to_vec(), false));
        assert_eq!(keys.filter(b"c"), (b"\x10c".to_vec(), false));
        assert_eq!(keys.filter(b"\x10"), (Vec::new(), false));
        assert_eq!(keys.filter(b"\x10\x11rest"), (b"\x10".to_vec(), true));
    }

    #[test]
    fn detach_keys_are_parsed_strictly() {
        for good in ["a", "ctrl-a", "ctrl-@,x", "ctrl-\\", "ctrl-p,ctrl-q"] {
            DetachKeys::parse(Some(good)).unwrap();
        }
        for bad in ["ctrl-", "ctrl-1", "ab", ",", "ctrl-aa", "é"] {
            assert!(DetachKeys::parse(Some(bad)).is_err(), "{bad}");
        }
        let mut single = DetachKeys::parse(Some("x")).unwrap();
        assert_eq!(single.filter(b"abx"), (b"ab".to_vec(), true));
    }
}
