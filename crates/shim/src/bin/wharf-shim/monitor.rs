//! The shim's life: one loop over everything that can happen to a container.
//!
//! # States
//! ```text
//! Created ──Start──▶ Running ──init ends──▶ Draining ──output complete──▶ Leaving ──▶ (process ends)
//!    └── Start fails, Shutdown, or descriptor 0 closes: everything is undone ──▶ Leaving
//! ```
//! # What a crash leaves
//! A shim that is killed takes the init with it (the init asked the kernel for that) and leaves its socket, its
//! process id file and the cgroup, but no `exit.json`: the engine sees the connection end and cleans up.
//! `exit.json` appears whole, after the last byte of output is in the spool and before anybody is told.

mod foreign;
mod health;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use wharf_linux::cgroup::Cgroup;
use wharf_linux::process::signal;
use wharf_linux::{daemon, hostfs, seqpacket};
use wharf_runtime::Running;
use wharf_shim::protocol::{
    EXIT_FILE, Event, ExitRecord, ExitStatus, FailureKind, MAX_FDS, PID_FILE, Reply, Request, SOCKET_FILE,
    Sent, ShimConfig, ShimState, VERSION,
};
use wharf_shim::spool::{Limits, Stream, Writer};

use crate::connections::{Connections, Incoming};
use crate::container::{self, Made};
use crate::exec::{Execs, Wish};
use crate::failure::Failure;
use crate::foreign::Foreign;
use crate::health::Health;
use crate::oom::OomWatch;
use crate::output::{Output, now_ns};
use crate::poller::{Interest, Poller, Ready, Token};
use crate::runtime::Starting;

/// How long output that some survivor might still write is waited for.
const DRAIN: Duration = Duration::from_secs(2);
/// How long an engine may take to read the last messages.
const FAREWELL: Duration = Duration::from_secs(2);
/// How often the cgroup is looked at while output is waited for.
const LOOK: Duration = Duration::from_millis(5);
/// Silence after which the shim makes itself small, and that after the start, which takes the most memory of all.
const IDLE: Duration = Duration::from_millis(500);
const FIRST_IDLE: Duration = Duration::from_millis(100);
/// Requests of one connection answered before anything else is looked at.
const BURST: usize = 16;

/// `None` if the reply comes later.
type Answer = Result<Option<(Reply, Vec<OwnedFd>)>, Failure>;

enum Phase {
    Created {
        starting: Starting,
        ready: bool,
    },
    /// The init could not get ready; `Start` will say why.
    Failed(Failure),
    Running(Running),
    Draining {
        init: Running,
        status: ExitStatus,
        deadline: Instant,
    },
    Leaving {
        status: Option<ExitStatus>,
        deadline: Instant,
    },
}

/// A container and all that is known of it.
pub(crate) struct Monitor {
    config: ShimConfig,
    limits: Limits,
    poller: Poller,
    listener: Option<OwnedFd>,
    connections: Connections,
    /// The place of the first connection, until `Start`.
    owner: Option<u32>,
    output: Output,
    stdin: Option<OwnedFd>,
    /// The connection whose end is the end of the container's input.
    stdin_owner: Option<u32>,
    execs: Execs,
    health: Option<Box<Health>>,
    /// Health checks that have ended.
    probes: u64,
    phase: Phase,
    /// Sockets that keep the container's ports.
    held: Vec<OwnedFd>,
    pid: i32,
    score: Option<i32>,
    started_at_ns: i64,
    /// Memory has been given back since something was last done.
    tidy: bool,
    /// Silence after which it is given back.
    patience: Duration,
    /// Since when it is silent.
    silent_since: Instant,
    /// The last two signals an engine had sent to the init, the last first.
    sent: [Option<Sent>; 2],
    oom: OomWatch,
    /// Who made the container, unless the built-in runtime did.
    foreign: Option<Rc<Foreign>>,
    /// Readable when a child has ended; only with a foreign runtime.
    children: Option<OwnedFd>,
}

impl Monitor {
    /// Makes everything up to an init that waits for `Start`. What a failure leaves is undone. Processes whose
    /// specification names no out-of-memory score get `score`.
    pub(crate) fn create(config: &Path, control: &OwnedFd, score: Option<i32>) -> Result<Self, Failure> {
        let config = container::load_config(config)?;
        let limits = Limits { segment_bytes: config.log_segment_bytes, segments: config.log_segments };
        // What a full disk refuses is found out before anything else is made.
        let writer = Writer::open(&config.log_dir, limits)
            .map_err(|error| Failure::new(FailureKind::Internal, error.to_string()))?;
        // The init prepares itself while the rest is made.
        let Made { starting, ends, foreign } = container::create(&config, score)?;
        let (pid, pidfd, _) = starting.init()?;
        let pidfd = pidfd.try_clone_to_owned().map_err(Failure::on("share the init's pidfd"))?;
        let announce = Event::Created { pid };
        let poller = Poller::new()?;
        let mut connections = Connections::default();
        let control = control.try_clone().map_err(Failure::on("keep the control socket"))?;
        let owner = connections.add(&poller, control)?;
        connections.tell(owner, announce, vec![pidfd]);
        connections.flush(&poller, Default::default());

        let mut output = Output::new(writer, limits.capacity());
        for (end, stream) in [(ends.stdout, Stream::Stdout), (ends.stderr, Stream::Stderr)] {
            if let Some(fd) = end {
                output.add(&poller, fd, stream, false)?;
            }
        }
        let listener =
            seqpacket::listen(&config.run_dir.join(SOCKET_FILE)).map_err(Failure::on("make the socket"))?;
        poller.add(&listener, Token::Listener, Interest::Read)?;
        let own = format!("{}\n", std::process::id());
        hostfs::write(&config.run_dir.join(PID_FILE), own.as_bytes()).map_err(Failure::on("start"))?;
        let children = foreign.as_ref().map(|_| foreign::watch_children(&poller)).transpose()?;
        Ok(Self {
            config,
            limits,
            poller,
            listener: Some(listener),
            connections,
            owner: Some(owner),
            output,
            stdin: ends.stdin,
            stdin_owner: None,
            execs: Execs::new(foreign.clone()),
            health: None,
            probes: 0,
            phase: Phase::Created { starting, ready: false },
            held: Vec::new(),
            pid,
            score,
            started_at_ns: 0,
            tidy: false,
            patience: FIRST_IDLE,
            silent_since: Instant::now(),
            sent: [None; 2],
            oom: OomWatch::default(),
            foreign,
            children,
        })
    }

    /// Looks after the container until nothing is left of it.
    pub(crate) fn run(mut self) -> Result<(), Failure> {
        loop {
            if let Phase::Leaving { deadline, .. } = self.phase
                && (self.connections.is_flushed() || Instant::now() >= deadline)
            {
                return Ok(());
            }
            let events = self.poller.wait(self.timeout())?;
            let silent = events.is_empty();
            if !silent {
                self.silent_since = Instant::now();
            }
            events.into_iter().for_each(|ready| self.dispatch(ready));
            self.look_after_children();
            self.with_health(Health::tick);
            let ending = !matches!(self.phase, Phase::Created { .. } | Phase::Running(_));
            if (ending || !self.is_paused()) && self.output.pump(&self.poller, ending) {
                self.tidy = false;
            }
            self.look_for_oom();
            self.finish_draining();
            self.flush();
            if silent && !ending && self.until_rest().is_some_and(|left| left.is_zero()) {
                self.rest();
            }
        }
    }

    /// How long silence must still last until memory is given back; `None` when it was.
    fn until_rest(&self) -> Option<Duration> {
        (!self.tidy).then(|| self.patience.saturating_sub(self.silent_since.elapsed()))
    }

    fn is_paused(&self) -> bool {
        let end = self.output.end();
        let held = |position| self.limits.distance(position, end) > self.limits.capacity() / 2;
        self.config.log_hold.is_some_and(held) || self.connections.is_behind(&self.limits, end)
    }

    fn timeout(&self) -> Option<Duration> {
        let usual = self.usual_timeout();
        [usual, self.until_health(), self.until_joined()].into_iter().flatten().min()
    }

    fn usual_timeout(&self) -> Option<Duration> {
        match self.phase {
            Phase::Draining { .. } if self.output.is_ready() => Some(Duration::ZERO),
            Phase::Draining { .. } => Some(LOOK),
            Phase::Leaving { deadline, .. } => Some(deadline.saturating_duration_since(Instant::now())),
            _ if self.output.is_ready() && !self.is_paused() => Some(Duration::ZERO),
            _ => [self.oom.timeout(), self.until_rest()].into_iter().flatten().min(),
        }
    }

    /// Tells of processes that the kernel killed for want of memory, as soon as it can.
    fn look_for_oom(&mut self) {
        let Phase::Running(init) = &self.phase else { return };
        if let Some(kills) = self.oom.look(&self.poller, &init.cgroup) {
            self.connections.tell_all(&Event::OutOfMemory { kills });
        }
    }

    /// Starting a container and joining it take most of this program and of its memory, waiting takes little: after a
    /// short silence the rest is given back.
    fn rest(&mut self) {
        self.tidy = true;
        self.patience = IDLE;
        self.output.release_buffer();
        self.connections.release_buffer();
        daemon::release_heap();
        daemon::release_stack();
        daemon::release_code();
    }

    fn dispatch(&mut self, ready: Ready) {
        match ready.token {
            Token::Listener => self.accept(),
            Token::Init => self.init_ended(),
            Token::Output(stream) => self.output.wake(stream),
            Token::Connection(place) if ready.readable => self.serve(place),
            // Room in its queue: the flush that follows every batch uses it.
            Token::Connection(_) => {}
            Token::Exec(number) => self.exec_ended(number),
            Token::Joining(number) => self.exec_moved(number),
            Token::Discard(number) => self.execs.discard(number),
            Token::OutOfMemory => self.oom.wake(),
            Token::Probe => self.with_health(Health::ready),
            Token::Children => self.hear_of_children(),
        }
    }

    /// Lets engines in: root, or whoever runs this shim.
    fn accept(&mut self) {
        let Some(listener) = &self.listener else { return };
        // Errors here are those of a peer that has given up.
        while let Ok((socket, peer)) = seqpacket::accept(listener.as_fd()) {
            if peer.uid != 0 && peer.uid != rustix::process::getuid().as_raw() {
                complain!("wharf-shim: refused a connection from uid {}", peer.uid);
            } else if let Err(failure) = self.connections.add(&self.poller, socket) {
                complain!("wharf-shim: refused a connection: {}", failure.message);
            }
        }
    }

    /// Answers what a connection asks.
    fn serve(&mut self, place: u32) {
        self.tidy = false;
        for _ in 0..BURST {
            match self.connections.receive(place) {
                Incoming::Request(envelope, fds) => {
                    let seq = envelope.seq;
                    match self.answer((place, seq), envelope.body, fds) {
                        Ok(None) => {}
                        Ok(Some((reply, fds))) => self.connections.reply(place, seq, reply, fds),
                        Err(failure) => self.connections.reply(place, seq, failure.reply(), Vec::new()),
                    }
                    // Usually it goes at once, and the next request can be read.
                    self.flush();
                }
                Incoming::Bad(seq, failure) => {
                    self.connections.reply(place, seq, failure.reply(), Vec::new());
                    self.flush();
                }
                Incoming::Nothing => return,
                Incoming::End => return self.hang_up(place),
            }
        }
    }

    fn flush(&mut self) {
        for place in self.connections.flush(&self.poller, self.output.end()) {
            self.hang_up(place);
        }
    }

    fn hang_up(&mut self, place: u32) {
        self.connections.remove(&self.poller, place);
        self.execs.forget_asker(place);
        if self.stdin_owner == Some(place) {
            self.stdin_owner = None;
            self.stdin = None;
        }
        if self.owner == Some(place) {
            // Whoever wanted this container has gone before it began.
            self.owner = None;
            self.leave(None);
        }
    }

    fn answer(&mut self, asker: (u32, u64), request: Request, fds: Vec<OwnedFd>) -> Answer {
        let place = asker.0;
        match request {
            Request::Hello { .. } => return Ok(Some((self.hello(), Vec::new()))),
            Request::Start => return self.start(fds),
            Request::Hold => self.held.extend(fds),
            Request::Held { skip } => return self.copies_of_held(skip),
            Request::Signal { exec: Some(id), signal, .. } => self.execs.signal(&id, signal)?,
            Request::Signal { exec: None, signal: number, purpose } => {
                container::sent(signal(self.init()?, number))?;
                self.sent = [Some(Sent { signal: number, purpose, at_ns: now_ns() }), self.sent[0]];
            }
            Request::KillAll => kill_all(self.cgroup()?)?,
            Request::Exec {
                id,
                terminal,
                rows,
                cols,
                detach,
                user,
                groups,
                default_home,
                seccomp_default,
            } => {
                let wish =
                    Wish { id, terminal, rows, cols, detach, user, groups, default_home, seccomp_default };
                return self.exec(asker, wish, fds);
            }
            Request::Resize { exec: Some(id), rows, cols } => self.execs.resize(&id, rows, cols)?,
            Request::Resize { exec: None, rows, cols } => {
                self.get_ready()?;
                let terminal = self.output.terminal();
                let terminal = terminal.ok_or_else(|| Failure::invalid("the container has no terminal"))?;
                container::resize(terminal, rows, cols)?;
            }
            Request::OpenStdin { once } => return self.open_stdin(place, once),
            Request::CloseStdin => self.stdin = None,
            Request::Subscribe { acknowledge } => {
                self.connections.subscribe(place, acknowledge, self.output.end());
            }
            Request::Unsubscribe => self.connections.unsubscribe(place),
            Request::Ack { position } => self.connections.acknowledge(place, position),
            Request::Release { position } => {
                if let Some(hold) = &mut self.config.log_hold {
                    *hold = position.max(*hold);
                }
            }
            Request::HoldHealth { hold } => {
                if let Some(health) = &mut self.health {
                    health.hold(hold);
                }
            }
            Request::Shutdown => match self.phase {
                Phase::Running(_) | Phase::Draining { .. } => {
                    return Err(Failure::invalid("the container is running"));
                }
                _ => self.leave(None),
            },
        }
        Ok(Some((Reply::Ok, Vec::new())))
    }

    fn hello(&self) -> Reply {
        let state = match &self.phase {
            Phase::Created { .. } | Phase::Failed(_) | Phase::Leaving { status: None, .. } => {
                ShimState::Created
            }
            Phase::Running(_) | Phase::Draining { .. } => ShimState::Running,
            Phase::Leaving { status: Some(status), .. } => ShimState::Exited(*status),
        };
        Reply::Hello {
            version: VERSION,
            id: self.config.id.clone(),
            pid: self.pid,
            state,
            started_at_ns: self.started_at_ns,
            end: self.output.end(),
        }
    }

    /// Waits for the init to have prepared itself, after which its terminal is known.
    fn get_ready(&mut self) -> Result<(), Failure> {
        let Phase::Created { starting, ready: false } = &mut self.phase else {
            return Ok(());
        };
        let taken = starting.get_ready().and_then(|console| match console {
            None => Ok(()),
            Some(console) => {
                container::unblock(&console)?;
                self.output.add(&self.poller, console, Stream::Stdout, true)
            }
        });
        match (&mut self.phase, taken) {
            (Phase::Created { ready, .. }, Ok(())) => *ready = true,
            (_, Ok(())) => {}
            (_, Err(failure)) => {
                self.phase = Phase::Failed(failure.clone());
                return Err(failure);
            }
        }
        Ok(())
    }

    fn start(&mut self, fds: Vec<OwnedFd>) -> Answer {
        self.get_ready().or_else(|failure| self.give_up(failure))?;
        let leaving = Phase::Leaving { status: None, deadline: Instant::now() + FAREWELL };
        let starting = match std::mem::replace(&mut self.phase, leaving) {
            Phase::Created { starting, .. } => starting,
            Phase::Failed(failure) => return self.give_up(failure),
            other => {
                self.phase = other;
                return Err(Failure::not_running("the container has been started before"));
            }
        };
        let watched = starting.start().and_then(|running| {
            self.poller.add(&running.pidfd, Token::Init, Interest::Read)?;
            Ok(running)
        });
        match watched {
            Ok(running) => self.phase = Phase::Running(running),
            Err(failure) => return self.give_up(failure),
        }
        self.held.extend(fds);
        self.owner = None;
        self.started_at_ns = now_ns();
        self.oom.begin(FIRST_IDLE);
        self.begin_health();
        Ok(Some((Reply::Started { at_ns: self.started_at_ns }, Vec::new())))
    }

    fn copies_of_held(&self, skip: usize) -> Answer {
        let some = self.held.iter().skip(skip).take(MAX_FDS);
        let copies = some.map(OwnedFd::try_clone).collect::<Result<_, _>>();
        let copies = copies.map_err(Failure::on("copy what is held"))?;
        Ok(Some((Reply::Held { total: self.held.len() }, copies)))
    }

    /// The container will never start.
    fn give_up<T>(&mut self, failure: Failure) -> Result<T, Failure> {
        self.leave(None);
        Err(failure)
    }

    fn exec(&mut self, asker: (u32, u64), wish: Wish, fds: Vec<OwnedFd>) -> Answer {
        let Phase::Running(init) = &self.phase else {
            return Err(Failure::not_running("the container is not running"));
        };
        let spec = container::load_spec(&self.config, self.score)?;
        self.execs.begin(&self.poller, init, &spec, wish, fds, asker)?;
        Ok(None)
    }

    fn open_stdin(&mut self, place: u32, once: bool) -> Answer {
        self.get_ready()?;
        let input = self.stdin.as_ref().map(AsFd::as_fd).or_else(|| self.output.terminal());
        let input = input.ok_or_else(|| Failure::invalid("the container's standard input is not open"))?;
        let copy = input.try_clone_to_owned().map_err(Failure::on("share the standard input"))?;
        if once {
            self.stdin_owner = Some(place);
        }
        Ok(Some((Reply::Ok, vec![copy])))
    }

    fn init(&self) -> Result<BorrowedFd<'_>, Failure> {
        match &self.phase {
            Phase::Created { starting, .. } => Ok(starting.init()?.1),
            Phase::Running(init) => Ok(init.pidfd.as_fd()),
            _ => Err(Failure::not_running("the container is not running")),
        }
    }

    fn cgroup(&self) -> Result<&Cgroup, Failure> {
        match &self.phase {
            Phase::Created { starting, .. } => Ok(starting.init()?.2),
            Phase::Running(init) | Phase::Draining { init, .. } => Ok(&init.cgroup),
            _ => Err(Failure::not_running("the container is not running")),
        }
    }

    fn init_ended(&mut self) {
        let Phase::Running(init) = &self.phase else { return };
        let mut status = match container::reap(&init.pidfd) {
            Ok(Some(status)) => status,
            Ok(None) => return,
            Err(failure) => {
                // It has ended, but nobody can say how any more.
                complain!("wharf-shim: {}", failure.message);
                ExitStatus { code: 255, finished_at_ns: now_ns(), ..ExitStatus::default() }
            }
        };
        self.poller.remove(&init.pidfd);
        status.evidence.oom_kills = init.cgroup.oom_kills().unwrap_or(0);
        [status.evidence.sent, status.evidence.sent_before] = self.sent;
        status.oom_killed = status.evidence.oom_kills > 0;
        self.oom.end(&self.poller);
        // In a pid namespace of its own all of the container is dead now; in the host's, this is what ends the rest.
        if let Err(failure) = kill_all(&init.cgroup) {
            complain!("wharf-shim: cannot kill what is left of the container: {}", failure.message);
        }
        self.output.wake_all();
        if let Some(health) = &mut self.health {
            health.end(&self.poller);
        }
        let leaving = Phase::Leaving { status: None, deadline: Instant::now() };
        if let Phase::Running(init) = std::mem::replace(&mut self.phase, leaving) {
            self.phase = Phase::Draining { init, status, deadline: Instant::now() + DRAIN };
        }
    }

    fn exec_moved(&mut self, number: u32) {
        let Some(outcome) = self.execs.follow(&self.poller, number) else { return };
        if self.health.as_ref().is_some_and(|health| health.owns(number)) {
            let outcome = outcome.answer.map(|(reply, _)| match reply {
                Reply::ExecStarted { pid } => pid,
                _ => 0,
            });
            return self.with_health(|health, world| health.joined(world, outcome));
        }
        let (reply, fds) = outcome.answer.unwrap_or_else(|failure| (self.told(failure).reply(), Vec::new()));
        if let Some(place) = outcome.place {
            self.connections.reply(place, outcome.seq, reply, fds);
        }
    }

    /// Why a process could not join: a container that ends has its own ways of refusing it, and none of them says so.
    fn told(&self, failure: Failure) -> Failure {
        let alive = match &self.phase {
            Phase::Running(init) => {
                // A pidfd is readable once its process has ended.
                let mut ended = [PollFd::new(&init.pidfd, PollFlags::IN)];
                !poll(&mut ended, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
            }
            _ => false,
        };
        match failure.kind {
            FailureKind::Internal if !alive => Failure::not_running("the container is not running"),
            _ => failure,
        }
    }

    fn exec_ended(&mut self, number: u32) {
        match self.execs.reap(&self.poller, number) {
            Ok(Some((_, status))) if self.health.as_ref().is_some_and(|health| health.owns(number)) => {
                self.with_health(|health, world| health.ended(world, status));
            }
            Ok(Some((id, status))) => self.connections.tell_all(&Event::ExecExited { id, status }),
            Ok(None) => {}
            Err(failure) => complain!("wharf-shim: {}", failure.message),
        }
    }

    /// Once the output is complete (or was waited for long enough), records and tells the end.
    fn finish_draining(&mut self) {
        let Phase::Draining { init, status, deadline } = &self.phase else { return };
        let complete = self.execs.is_empty()
            && self.health.as_ref().is_none_or(|health| health.is_idle())
            && (self.output.is_finished()
                || (!self.output.is_ready() && init.cgroup.is_empty().unwrap_or(true)));
        if !complete && Instant::now() < *deadline {
            return;
        }
        let status = *status;
        self.output.close(&self.poller);
        let end = self.output.end();
        let record = ExitRecord {
            version: VERSION,
            id: self.config.id.clone(),
            pid: self.pid,
            started_at_ns: self.started_at_ns,
            status,
            end,
        };
        // From here on an engine that comes finds the record, and the ports are free for the next start.
        self.listener = None;
        self.held.clear();
        self.stdin = None;
        if let Err(failure) = write_record(&self.config.run_dir, &record) {
            complain!("wharf-shim: {}", failure.message);
        }
        // Subscribers hear of the last output first; the end itself tells it to those who are slow.
        self.flush();
        self.connections.end_subscriptions();
        self.connections.tell_all(&Event::Exited { status, end });
        self.flush();
        self.leave(Some(status));
    }

    /// Removes all that was made, and stays only until everybody has read the last messages.
    fn leave(&mut self, status: Option<ExitStatus>) {
        let leaving = Phase::Leaving { status, deadline: Instant::now() + FAREWELL };
        match std::mem::replace(&mut self.phase, leaving) {
            // Kills the init and removes its cgroup.
            Phase::Created { starting, .. } => drop(starting),
            Phase::Running(init) | Phase::Draining { init, .. } => {
                if let Some(foreign) = &self.foreign {
                    foreign.delete();
                }
                if let Err(error) = init.cgroup.delete() {
                    complain!("wharf-shim: {error}");
                }
            }
            Phase::Failed(_) | Phase::Leaving { .. } => {}
        }
        self.listener = None;
        self.held.clear();
        self.health = None;
        self.output.close(&self.poller);
        for name in [SOCKET_FILE, PID_FILE] {
            if let Err(error) = hostfs::remove_file(&self.config.run_dir.join(name)) {
                complain!("wharf-shim: {error}");
            }
        }
    }
}

/// A paused process cannot die.
fn kill_all(cgroup: &Cgroup) -> Result<(), Failure> {
    cgroup.kill_all()?;
    Ok(cgroup.thaw()?)
}

/// The run directory is on a tmpfs as a rule and means nothing after a reboot, so whole is enough and durable is not
/// needed.
fn write_record(run_dir: &Path, record: &ExitRecord) -> Result<(), Failure> {
    let bytes = serde_json::to_vec(record).map_err(Failure::on("encode the exit record"))?;
    replace(&run_dir.join(EXIT_FILE), &bytes).map_err(Failure::on("record the exit"))
}

fn replace(path: &Path, bytes: &[u8]) -> hostfs::Result<()> {
    let temporary = path.with_extension("tmp");
    hostfs::write(&temporary, bytes).and_then(|()| hostfs::rename(&temporary, path))
}
