//! Health checks: one probe at a time, by timer, as long as the container runs.
//!
//! # States
//! ```text
//! waiting ──timer──▶ probing ──ends, or is killed at its deadline──▶ waiting
//! ```
//! A command joins the container like an exec and is one of [`Execs`]; it is `Joining` until it runs. A probe that
//! is `void` was overtaken by events (the container was frozen, or ended): its end is waited for and not counted.
//! Nothing here blocks, and nothing is allocated without a health check.

mod capture;
mod dial;
mod kill;
mod look;
mod schedule;

use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};
use wharf_runtime::{Running, Stdio};
use wharf_shim::health::{HealthConfig, HealthResult, HealthStatus, Probe};
use wharf_shim::protocol::{ExitStatus, ShimConfig};

use crate::container;
use crate::exec::{Execs, Wish};
use crate::failure::Failure;
use crate::output::now_ns;
use crate::poller::{Interest, Poller, Token};
use capture::Capture;
use dial::{Dial, Place, Verdict};
use look::Look;
use schedule::Schedule;

/// How long a command may be on its way into the container; that does not count as its own time.
const JOIN: Duration = Duration::from_secs(30);
/// A probe that was killed and is not gone, or cannot be killed because it is frozen, is looked at this often.
const AGAIN: Duration = Duration::from_secs(1);
/// How long a server that has answered may take for the rest of its page.
const POLITE: Duration = Duration::from_secs(1);

/// How long the end of the container may follow that of a probe which was killed.
const DOUBT: Duration = Duration::from_millis(200);
const SIGKILL: i32 = 9;

/// What a probe needs of the shim.
pub(crate) struct World<'a> {
    pub(crate) poller: &'a Poller,
    pub(crate) execs: &'a mut Execs,
    pub(crate) init: &'a Running,
    pub(crate) config: &'a ShimConfig,
    /// For processes whose specification names no out-of-memory score.
    pub(crate) score: Option<i32>,
}

impl World<'_> {
    fn place(&self) -> Place<'_> {
        Place { pidfd: self.init.pidfd.as_fd() }
    }

    fn frozen(&self) -> bool {
        self.init.cgroup.frozen().unwrap_or(false)
    }
}

/// Something to tell.
#[derive(Debug)]
pub(crate) enum News {
    /// A command with this id begins.
    Started(String),
    /// A probe has ended; the command's id and exit code, if it ran.
    Ended(HealthResult, Option<(String, i32)>),
}

/// The health of one container.
#[derive(Debug)]
pub(crate) struct Health {
    config: HealthConfig,
    schedule: Schedule,
    probe: Option<Probing>,
    /// One that was given up and has not come back.
    stray: Option<Look>,
    /// The container is frozen, or ends: nothing is begun.
    held: bool,
}

#[derive(Debug)]
struct Probing {
    began: Instant,
    start_ns: i64,
    deadline: Instant,
    work: Work,
    void: bool,
    /// Killed at its deadline.
    expired: bool,
}

#[derive(Debug)]
enum Work {
    Command {
        number: u32,
        id: String,
        output: Capture,
        /// `None` while it is on its way.
        pid: Option<i32>,
    },
    Dial(Dial),
    Look(Look),
    /// Over, and to be told at the deadline; with the command's id and exit code, if it ran.
    Over(Verdict, Option<(String, i32)>),
}

impl Health {
    /// Of a container whose program starts now.
    pub(crate) fn new(config: HealthConfig) -> Self {
        let schedule = Schedule::new(&config, Instant::now());
        Self { config, schedule, probe: None, stray: None, held: false }
    }

    /// When [`Health::tick`] is to be called.
    pub(crate) fn due(&self) -> Option<Instant> {
        match &self.probe {
            Some(probe) => Some(probe.deadline),
            None if self.held => None,
            None => Some(self.schedule.next()),
        }
    }

    pub(crate) fn status(&self) -> (HealthStatus, u32) {
        (self.schedule.status(), self.schedule.streak())
    }

    /// No probe is under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.probe.is_none()
    }

    /// The exec of this number is a probe.
    pub(crate) fn owns(&self, exec: u32) -> bool {
        matches!(&self.probe, Some(Probing { work: Work::Command { number, .. }, .. }) if *number == exec)
    }

    /// The container is frozen, or goes on.
    pub(crate) fn hold(&mut self, hold: bool) {
        self.held = hold;
        if let Some(probe) = &mut self.probe {
            probe.void = true;
        }
        self.schedule.wait(Instant::now());
    }

    /// The container has ended. What runs is killed with it; its end is still to be waited for.
    pub(crate) fn end(&mut self, poller: &Poller) {
        self.hold(true);
        if let Some(Probing { work: Work::Dial(_) | Work::Look(_) | Work::Over(..), .. }) = &self.probe {
            self.take(poller);
        }
    }

    /// A moment has come: begins a probe, or ends one that takes too long.
    pub(crate) fn tick(&mut self, world: &mut World<'_>) -> Option<News> {
        let now = Instant::now();
        if self.due().is_none_or(|due| due > now) {
            return None;
        }
        if self.probe.is_some() {
            return self.expire(world);
        }
        if world.frozen() {
            self.schedule.wait(now);
            return None;
        }
        self.begin(world, now)
    }

    fn begin(&mut self, world: &mut World<'_>, now: Instant) -> Option<News> {
        let mut started = None;
        let mut limit = Duration::from_nanos(self.config.timeout_ns);
        let work = match &self.config.probe {
            Probe::Command { args } => {
                let id = random_id();
                started = Some(News::Started(id.clone()));
                limit = JOIN;
                match command(world, args, &id) {
                    Ok((number, output)) => Work::Command { number, id, output, pid: None },
                    Err(failure) => Work::Over(not_started(&failure), None),
                }
            }
            Probe::Unix { path } => match self.look(world, &path.clone()) {
                Ok(look) => Work::Look(look),
                Err(verdict) => Work::Over(verdict, None),
            },
            probe => match Dial::begin(world.poller, world.place(), probe) {
                Ok(dial) => Work::Dial(dial),
                Err(verdict) => Work::Over(verdict, None),
            },
        };
        let deadline = if let Work::Over(..) = work { now } else { now + limit };
        self.probe =
            Some(Probing { began: now, start_ns: now_ns(), deadline, work, void: false, expired: false });
        started
    }

    /// Sends somebody to a socket of the container, unless the last one is still on his way.
    fn look(&mut self, world: &World<'_>, path: &Path) -> Result<Look, Verdict> {
        if self.stray.as_ref().is_some_and(|stray| !stray.is_gone()) {
            return Err((
                -1,
                format!("cannot connect to {}: its file system does not answer", path.display()),
            ));
        }
        Look::begin(world.poller, world.init.pid, path).map_err(|failure| (-1, failure.message))
    }

    fn expire(&mut self, world: &mut World<'_>) -> Option<News> {
        let frozen = world.frozen();
        let timeout = self.config.timeout_ns;
        let probe = self.probe.as_mut()?;
        match &mut probe.work {
            Work::Over(verdict, exec) => {
                let (verdict, exec) = (std::mem::take(verdict), exec.take());
                self.finish(world, verdict, exec)
            }
            Work::Dial(dial) => {
                let verdict = dial.verdict().cloned().unwrap_or_else(|| (-1, exceeded(timeout, "")));
                self.finish(world, verdict, None)
            }
            Work::Look(_) => self.finish(world, (-1, exceeded(timeout, "")), None),
            // To be reaped it must be able to die.
            Work::Command { pid: None, .. } if frozen => {
                probe.deadline = Instant::now() + AGAIN;
                None
            }
            Work::Command { pid: None, number, .. } => {
                world.execs.abandon(world.poller, *number);
                let text = format!("timed out starting health check for container {}", world.config.id);
                self.finish(world, (-1, text), None)
            }
            Work::Command { pid: Some(pid), .. } => {
                probe.void |= frozen;
                probe.expired = true;
                probe.deadline = Instant::now() + AGAIN;
                kill::kill_family(&world.init.cgroup, *pid);
                None
            }
        }
    }

    /// The probe's pipe or socket has news.
    pub(crate) fn ready(&mut self, world: &mut World<'_>) -> Option<News> {
        let place = world.place();
        let probe = self.probe.as_mut()?;
        match &mut probe.work {
            Work::Command { output, .. } => {
                output.read(world.poller);
                None
            }
            Work::Dial(dial) => {
                let verdict = dial.step(world.poller, place);
                if dial.verdict().is_some() {
                    probe.deadline = probe.deadline.min(Instant::now() + POLITE);
                }
                self.finish(world, verdict?, None)
            }
            Work::Look(look) => {
                let verdict = look.step();
                self.finish(world, verdict?, None)
            }
            Work::Over(..) => None,
        }
    }

    /// The command runs, or has failed to.
    pub(crate) fn joined(&mut self, world: &mut World<'_>, outcome: Result<i32, Failure>) -> Option<News> {
        let probe = self.probe.as_mut()?;
        let Work::Command { pid, output, .. } = &mut probe.work else { return None };
        match outcome {
            Ok(number) => {
                *pid = Some(number);
                probe.deadline = Instant::now() + Duration::from_nanos(self.config.timeout_ns);
                None
            }
            Err(failure) => {
                let _nothing = output.finish(world.poller);
                self.doubt(not_started(&failure), None);
                None
            }
        }
    }

    /// The end of a pid namespace kills what is in it before the init itself is seen to have ended: the result of a
    /// probe that may have been killed waits for that.
    fn doubt(&mut self, verdict: Verdict, exec: Option<(String, i32)>) {
        if let Some(probe) = &mut self.probe {
            probe.work = Work::Over(verdict, exec);
            probe.deadline = Instant::now() + DOUBT;
        }
    }

    /// The command has ended.
    pub(crate) fn ended(&mut self, world: &mut World<'_>, status: ExitStatus) -> Option<News> {
        let timeout = self.config.timeout_ns;
        let probe = self.probe.as_mut()?;
        let Work::Command { id, output, .. } = &mut probe.work else { return None };
        let text = output.finish(world.poller);
        let exec = Some((std::mem::take(id), status.code));
        let verdict = if probe.expired { (-1, exceeded(timeout, &text)) } else { (status.code, text) };
        if status.signal == Some(SIGKILL) && !probe.expired {
            self.doubt(verdict, exec);
            return None;
        }
        self.finish(world, verdict, exec)
    }

    /// Lets go of the probe; what came of it, unless that is not to be counted.
    fn finish(
        &mut self,
        world: &World<'_>,
        (exit_code, output): Verdict,
        exec: Option<(String, i32)>,
    ) -> Option<News> {
        let Probing { began, start_ns, void, .. } = self.take(world.poller)?;
        let now = Instant::now();
        // A frozen container cannot answer, whatever it would say.
        if void || (exit_code != 0 && world.frozen()) {
            self.schedule.wait(now);
            return None;
        }
        self.schedule.verdict(exit_code == 0, began, now);
        Some(News::Ended(HealthResult { start_ns, end_ns: now_ns(), exit_code, output }, exec))
    }

    fn take(&mut self, poller: &Poller) -> Option<Probing> {
        let mut probe = self.probe.take()?;
        match std::mem::replace(&mut probe.work, Work::Over(Verdict::default(), None)) {
            Work::Command { mut output, .. } => drop(output.finish(poller)),
            Work::Dial(dial) => dial.close(poller),
            Work::Look(look) => self.stray = look.leave(poller),
            Work::Over(..) => {}
        }
        Some(probe)
    }
}

/// Sends the command on its way into the container.
fn command(world: &mut World<'_>, args: &[String], id: &str) -> Result<(u32, Capture), Failure> {
    let ShimConfig { user, groups, default_home, seccomp_default, .. } = world.config;
    let spec = container::load_spec(world.config, world.score)?;
    let mut process = spec.process().clone().ok_or_else(|| Failure::invalid("there is no process"))?;
    process.set_args(Some(args.to_vec())).set_terminal(Some(false)).set_console_size(None);
    let (read, write) = pipe_with(PipeFlags::CLOEXEC).map_err(Failure::on("make a pipe"))?;
    container::unblock(&read)?;
    let both = write.try_clone().map_err(Failure::on("make a pipe"))?;
    let [null, ..] = container::null_stdio()?;
    let wish = Wish {
        id: id.to_owned(),
        terminal: false,
        rows: 0,
        cols: 0,
        detach: false,
        user: user.clone(),
        groups: groups.clone(),
        default_home: *default_home,
        seccomp_default: *seccomp_default,
    };
    world.poller.add(&read, Token::Probe, Interest::Read)?;
    let started = world.execs.begin_own(
        world.poller,
        world.init,
        &spec,
        wish,
        &process,
        Stdio::Fds([null, write, both]),
    );
    match started {
        Ok(number) => Ok((number, Capture::new(read))),
        Err(failure) => {
            world.poller.remove(&read);
            Err(failure)
        }
    }
}

/// Docker's words for a command that does not run.
fn not_started(failure: &Failure) -> Verdict {
    let text = &failure.message;
    if text.starts_with("OCI runtime ") {
        return (-1, text.clone());
    }
    (-1, format!("OCI runtime exec failed: exec failed: unable to start container process: {text}"))
}

fn exceeded(timeout_ns: u64, output: &str) -> String {
    let timeout = go_duration(timeout_ns);
    match output {
        "" => format!("Health check exceeded timeout ({timeout})"),
        output => format!("Health check exceeded timeout ({timeout}): {output}"),
    }
}

/// A time as Go writes it: `1h0m5s`, `1.5s`, `500ms`.
fn go_duration(nanos: u64) -> String {
    let fraction = |unit: u64, name: &str| {
        let (whole, rest) = (nanos / unit, nanos % unit);
        let digits = format!("{rest:0width$}", width = unit.ilog10() as usize);
        let digits = digits.trim_end_matches('0');
        if digits.is_empty() || rest == 0 {
            format!("{whole}{name}")
        } else {
            format!("{whole}.{digits}{name}")
        }
    };
    match nanos {
        0 => "0s".to_owned(),
        1..1_000 => format!("{nanos}ns"),
        1_000..1_000_000 => fraction(1_000, "µs"),
        1_000_000..1_000_000_000 => fraction(1_000_000, "ms"),
        1_000_000_000..60_000_000_000 => fraction(1_000_000_000, "s"),
        _ => {
            let minutes = nanos / 60_000_000_000;
            let seconds = nanos % 60_000_000_000;
            let tail = if seconds < 1_000_000_000 && seconds > 0 {
                format!("0.{}s", format!("{seconds:09}").trim_end_matches('0'))
            } else {
                go_duration(seconds)
            };
            match minutes / 60 {
                0 => format!("{minutes}m{tail}"),
                hours => format!("{hours}h{}m{tail}", minutes % 60),
            }
        }
    }
}

/// An id as execs have.
fn random_id() -> String {
    let mut bytes = [0_u8; 32];
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(CWD, "/dev/urandom", flags, Mode::empty());
    // Without it the id is not random; it only has to differ from those of others at the same time.
    let read = file.and_then(|file| rustix::io::read(&file, &mut bytes));
    if read.is_err() {
        bytes[..8].copy_from_slice(&now_ns().to_be_bytes());
    }
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_go_writes_them() {
        for (nanos, wanted) in [
            (1_000_000, "1ms"),
            (1_500_000, "1.5ms"),
            (500_000_000, "500ms"),
            (1_000_000_000, "1s"),
            (1_050_000_000, "1.05s"),
            (30_000_000_000, "30s"),
            (60_000_000_000, "1m0s"),
            (90_500_000_000, "1m30.5s"),
            (60_500_000_000, "1m0.5s"),
            (3_605_000_000_000, "1h0m5s"),
        ] {
            assert_eq!(go_duration(nanos), wanted);
        }
        assert_eq!(exceeded(500_000_000, ""), "Health check exceeded timeout (500ms)");
        assert_eq!(exceeded(500_000_000, "x\n"), "Health check exceeded timeout (500ms): x\n");
    }

    #[test]
    fn ids_look_like_ids_and_differ() {
        let (one, other) = (random_id(), random_id());
        assert!(one.len() == 64 && one.bytes().all(|byte| byte.is_ascii_hexdigit()));
        assert_ne!(one, other);
    }
}
