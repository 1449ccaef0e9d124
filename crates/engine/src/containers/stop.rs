//! `stop`, `kill`, `restart`, `pause`, `unpause`.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use wharf_linux::cgroup::Cgroup;
use wharf_linux::hostfs;
use wharf_model::signal;
use wharf_shim::protocol::{PID_FILE, Purpose, Request};

use super::{Container, Phase, Progress};
use crate::blocking::blocking;
use crate::session::expect_ok;
use crate::{Engine, Error, Result};

/// Seconds between the stop signal and `SIGKILL`, unless told otherwise.
const GRACE: i64 = 10;
/// How long a killed container may take to end.
const KILL_DEADLINE: Duration = Duration::from_secs(4);
/// How long a shim may take to pass a signal on.
const SIGNAL_DEADLINE: Duration = Duration::from_secs(5);
/// How long a shim may take for what it does at once. All that [`Engine::force`] waits for stays below 15 seconds.
const SHIM_DEADLINE: Duration = Duration::from_secs(2);

impl Engine {
    /// Asks a container to end, and kills it after `timeout_seconds` (negative: never).
    ///
    /// # Errors
    /// [`Error::NotModified`] when it does not run.
    pub async fn stop_container(
        &self,
        name: &str,
        signal: Option<&str>,
        timeout_seconds: Option<i64>,
    ) -> Result<()> {
        let container = self.find(name)?;
        check_signal(signal)
            .map_err(|error| Error::Invalid(format!("cannot stop container: {name}: {error}")))?;
        let change = container.change.lock().await;
        self.stop(&container, change, signal, timeout_seconds, Purpose::Stop).await
    }

    /// The same for callers that hold `change`, which is given back while the container takes its time.
    pub(crate) async fn stop(
        &self,
        container: &Arc<Container>,
        change: Change<'_>,
        signal: Option<&str>,
        timeout: Option<i64>,
        purpose: Purpose,
    ) -> Result<()> {
        if cancel_restart(container) {
            self.save(container).await?;
            self.emit(container, "stop", &[]);
            return Ok(());
        }
        if !container.record().is_running() {
            return Err(Error::NotModified(format!("container {} is already stopped", container.id)));
        }
        container.record().stopped_by_hand = true;
        // Durable before the signal: a restart of the engine must not undo what a person asked for.
        self.save(container).await?;
        self.end(container, Some(change), signal, timeout, purpose).await
    }

    /// Ends a run: the stop signal, patience, force. Patience can be for ever, so nobody is kept out meanwhile: who asks
    /// for a shorter one, for a kill or for other limits gets it.
    pub(crate) async fn end(
        &self,
        container: &Arc<Container>,
        change: Option<Change<'_>>,
        signal: Option<&str>,
        timeout: Option<i64>,
        purpose: Purpose,
    ) -> Result<()> {
        let run = container.progress.borrow().run;
        let (stop_signal, timeout) = {
            let record = container.record();
            let wished = signal.unwrap_or(&record.spec.stop_signal);
            let number = signal::parse(wished).unwrap_or(signal::TERM);
            (number, timeout.or(record.spec.stop_timeout).unwrap_or(GRACE))
        };
        let grace = match (self.send_signal(container, stop_signal, purpose).await, u64::try_from(timeout)) {
            // Who does not hear the signal needs no time to follow it.
            (Err(Error::Deadline { .. }), _) => Some(Duration::ZERO),
            (Err(error), _) => return Err(error),
            (Ok(()), Ok(seconds)) => Some(Duration::from_secs(seconds)),
            (Ok(()), Err(_)) => None,
        };
        let locked = change.is_some();
        drop(change);
        if !self.wait_run(container, run, grace).await {
            let _change = if locked { Some(container.change.lock().await) } else { None };
            if is_going_on(&container.progress.borrow(), run) {
                self.force(container, purpose).await?;
            }
        }
        self.settled_run(container, run).await?;
        self.emit(container, "stop", &[]);
        Ok(())
    }

    /// Ends a container by force and waits for it, but never for long: first by its shim, then by its control group,
    /// at last by ending a shim that says nothing although nobody is left for it to watch over.
    pub(crate) async fn force(&self, container: &Arc<Container>, purpose: Purpose) -> Result<()> {
        let asked =
            tokio::time::timeout(SHIM_DEADLINE, self.send_signal(container, signal::KILL, purpose)).await;
        let answered = matches!(asked, Ok(Ok(())));
        if !answered {
            tracing::warn!(container = %container.id, "its shim does not take a signal; killing the control group");
        }
        if answered && self.wait_death(container).await {
            return Ok(());
        }
        let path = self.cgroup_path(&container.record());
        let emptied = blocking(move || {
            let emptied = Cgroup::open(&path).and_then(|cgroup| {
                cgroup.kill_all()?;
                cgroup.wait_empty(SHIM_DEADLINE)
            });
            emptied.map_err(|error| Error::System(error.to_string()))
        });
        let emptied = tokio::time::timeout(KILL_DEADLINE, emptied).await;
        // A group that cannot be reached any more went with its container, whose end is about to be told.
        if matches!(emptied, Ok(Ok(true) | Err(_))) {
            if self.wait_end(container, Some(SHIM_DEADLINE)).await {
                return Ok(());
            }
            let run_dir = self.inner.config.run_dir().join(container.id.as_str());
            let (shim, id) = (run_dir.join(PID_FILE), container.id.clone());
            tracing::warn!(%id, "nothing is left in the container and its shim says nothing; killing the shim");
            blocking(move || kill_shim(&shim, id.as_str())).await?;
            if self.wait_end(container, Some(SHIM_DEADLINE)).await {
                return Ok(());
            }
        }
        Err(Error::System(format!(
            "could not kill container {}: it did not end after SIGKILL; a process in it is stuck in the kernel, such as on \
             a file system that does not answer",
            container.id.short(),
        )))
    }

    /// True when nothing runs any more within the time.
    async fn wait_end(&self, container: &Container, time: Option<Duration>) -> bool {
        let run = container.progress.borrow().run;
        self.wait_run(container, run, time).await
    }

    /// True when that run is over within the time, whether or not another has begun since.
    async fn wait_run(&self, container: &Container, run: u64, time: Option<Duration>) -> bool {
        let mut progress = container.progress.subscribe();
        let ended = progress.wait_for(|progress| !is_going_on(progress, run));
        match time {
            Some(time) => tokio::time::timeout(time, ended).await.is_ok(),
            None => ended.await.is_ok(),
        }
    }

    /// True when a killed container is gone within [`KILL_DEADLINE`]. Who pauses it at that moment keeps it from dying
    /// (on cgroup v1 a frozen process does not even die of SIGKILL), so it is thawed.
    async fn wait_death(&self, container: &Arc<Container>) -> bool {
        const LOOK: Duration = Duration::from_millis(200);
        let deadline = tokio::time::Instant::now() + KILL_DEADLINE;
        while tokio::time::Instant::now() < deadline {
            if self.wait_end(container, Some(LOOK)).await {
                return true;
            }
            if container.record().phase == Phase::Paused
                && let Err(error) = self.thaw(container).await
            {
                tracing::debug!(container = %container.id, %error, "cannot thaw a container that was killed");
            }
        }
        false
    }

    /// Sends a signal to the init; a frozen one is thawed so that it can take it.
    async fn send_signal(&self, container: &Arc<Container>, number: i32, purpose: Purpose) -> Result<()> {
        // One that ended by itself needs no signal any more.
        let Ok(link) = container.running_link() else { return Ok(()) };
        let paused = container.record().phase == Phase::Paused;
        let request = Request::Signal { exec: None, signal: number, purpose };
        let sent = link.ask_within(SIGNAL_DEADLINE, request, &[]).await.and_then(expect_ok);
        self.emit(container, "kill", &[("signal", number.to_string())]);
        // Who is to end must be able to; so must, as in Docker, who gets a signal and has no stop signal of its own.
        let wakes = purpose != Purpose::Kill || {
            let stop_signal = &container.record().spec.stop_signal;
            number == signal::KILL || stop_signal.is_empty() || signal::parse(stop_signal) == Some(number)
        };
        if paused && wakes {
            match self.thaw(container).await {
                // It ended meanwhile, as below.
                Ok(()) | Err(Error::Conflict(_)) => {}
                Err(error) => return Err(error),
            }
        }
        match sent {
            // It ended meanwhile: as good as the signal.
            Err(Error::Conflict(_)) => Ok(()),
            // Its shim died, and it with its shim; the supervisor is about to say so.
            Err(Error::Unavailable(_)) if self.wait_end(container, Some(SHIM_DEADLINE)).await => Ok(()),
            other => other,
        }
    }

    /// Sends a signal, `SIGKILL` unless told otherwise.
    ///
    /// # Errors
    /// [`Error::Conflict`] when the container does not run.
    pub async fn kill_container(&self, name: &str, signal: Option<&str>) -> Result<()> {
        let prefixed = |error: Error| error.with_prefix(&format!("cannot kill container: {name}: "));
        let container = self.find(name).map_err(prefixed)?;
        let number = check_signal(signal).map_err(prefixed)?.unwrap_or(signal::KILL);
        if cancel_restart(&container) {
            // There is nobody to send it to; that nothing comes after it is what was meant.
            return self.save(&container).await;
        }
        let stop_signal = {
            let record = container.record();
            if !record.is_running() {
                return Err(Error::Conflict(format!(
                    "cannot kill container: {name}: container {} is not running",
                    container.id
                )));
            }
            signal::parse(&record.spec.stop_signal).unwrap_or(signal::TERM)
        };
        let ends = number == signal::KILL || number == stop_signal;
        if ends {
            container.record().stopped_by_hand = true;
            self.save(&container).await?;
        }
        match self.send_signal(&container, number, Purpose::Kill).await {
            Err(Error::Deadline { .. }) if number == signal::KILL => {
                self.force(&container, Purpose::Kill).await?
            }
            other => other?,
        }
        if number == signal::KILL && !self.wait_death(&container).await {
            self.force(&container, Purpose::Kill).await?;
        }
        Ok(())
    }

    /// Stops a container if it runs, and starts it.
    ///
    /// # Errors
    /// As for stop and start.
    pub async fn restart_container(
        &self,
        name: &str,
        signal: Option<&str>,
        timeout_seconds: Option<i64>,
    ) -> Result<()> {
        let container = self.find(name)?;
        check_signal(signal)?;
        let prefixed = |error: Error| match error {
            error @ Error::NoSuchContainer(_) => error,
            other => other.with_prefix(&format!("Cannot restart container {name}: ")),
        };
        let change = self.change_to_start(&container, name).await?;
        // `--rm` means the end of its life, not of each run.
        let kept = Kept::between_runs(&container);
        match self.stop(&container, change, signal, timeout_seconds, Purpose::Restart).await {
            Ok(()) | Err(Error::NotModified(_)) => {}
            Err(error) => {
                // Should it end after all, its policy decides.
                container.record().start_anew();
                return Err(prefixed(error));
            }
        }
        let _change = self.change_to_start(&container, name).await?;
        drop(kept);
        match self.begin_anew(&container) {
            Ok(()) => self.start(&container).await.map_err(prefixed)?,
            // Somebody else has started it already: that is as good.
            Err(Error::NotModified(_)) => {}
            Err(error) => return Err(prefixed(error)),
        }
        self.emit(&container, "restart", &[]);
        Ok(())
    }

    /// Freezes every process of a container.
    ///
    /// # Errors
    /// [`Error::Conflict`] when it does not run or is frozen already.
    pub async fn pause_container(&self, name: &str) -> Result<()> {
        let container = self.find(name)?;
        let _change = container.change.lock().await;
        self.pause(&container).await
    }

    /// The same for callers that hold `change`.
    pub(crate) async fn pause(&self, container: &Arc<Container>) -> Result<()> {
        match container.record().phase {
            Phase::Running => {}
            Phase::Paused => {
                return Err(Error::Conflict(format!("Container {} is already paused", container.id)));
            }
            Phase::Restarting => return Err(container.between_runs()),
            _ => return Err(Error::Conflict(format!("container {} is not running", container.id))),
        }
        self.with_cgroup(container, |cgroup| cgroup.freeze()).await?;
        {
            let mut record = container.record();
            // It may have ended, or been killed, before the freezer got it.
            if record.phase != Phase::Running {
                drop(record);
                return Err(container.not_running());
            }
            record.phase = Phase::Paused;
        }
        self.hold_health(container, true).await;
        self.save(container).await?;
        self.emit(container, "pause", &[]);
        Ok(())
    }

    /// Lets a frozen container go on.
    ///
    /// # Errors
    /// [`Error::Conflict`] when it is not frozen.
    pub async fn unpause_container(&self, name: &str) -> Result<()> {
        let container = self.find(name)?;
        let _change = container.change.lock().await;
        self.unpause(&container).await
    }

    /// The same for callers that hold `change`.
    pub(crate) async fn unpause(&self, container: &Arc<Container>) -> Result<()> {
        if container.record().phase != Phase::Paused {
            return Err(Error::Conflict(format!("Container {} is not paused", container.id)));
        }
        self.thaw(container).await?;
        self.hold_health(container, false).await;
        self.save(container).await?;
        self.emit(container, "unpause", &[]);
        Ok(())
    }

    async fn thaw(&self, container: &Arc<Container>) -> Result<()> {
        self.with_cgroup(container, |cgroup| cgroup.thaw()).await?;
        let mut record = container.record();
        if record.phase == Phase::Paused {
            record.phase = Phase::Running;
        }
        Ok(())
    }

    /// Does something with the container's control group, without which it does not run.
    pub(crate) async fn with_cgroup<T: Send + 'static>(
        &self,
        container: &Container,
        act: impl FnOnce(&Cgroup) -> std::result::Result<T, wharf_linux::cgroup::Error> + Send + 'static,
    ) -> Result<T> {
        let (path, ended) = (self.cgroup_path(&container.record()), container.not_running());
        blocking(move || {
            Cgroup::open(&path)
                .and_then(|cgroup| act(&cgroup))
                .map_err(|error| if error.is_missing() { ended } else { Error::System(error.to_string()) })
        })
        .await
    }
}

/// The right to change a container.
pub(crate) type Change<'a> = tokio::sync::MutexGuard<'a, ()>;

fn is_going_on(progress: &Progress, run: u64) -> bool {
    progress.running && progress.run == run
}

/// A container that is to be started again as soon as it has ended: `--rm` does not take it away.
struct Kept<'a>(&'a Container);

impl<'a> Kept<'a> {
    fn between_runs(container: &'a Container) -> Self {
        container.progress.send_modify(|progress| progress.kept += 1);
        Self(container)
    }
}

impl Drop for Kept<'_> {
    fn drop(&mut self) {
        self.0.progress.send_modify(|progress| progress.kept -= 1);
    }
}

/// Ends the shim of a container by force, if the process of that number is still the one.
fn kill_shim(pid_file: &Path, container: &str) -> Result<()> {
    use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
    let text = match hostfs::read_bounded(pid_file, 32) {
        // It removes the file when it leaves.
        Err(error) if error.is_not_found() => return Ok(()),
        read => read?,
    };
    let pid = String::from_utf8_lossy(&text).trim().parse().ok().and_then(Pid::from_raw);
    let Some(pid) = pid else { return Ok(()) };
    // From here on the number can change its owner, the descriptor cannot.
    let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { return Ok(()) };
    let line =
        hostfs::read_bounded(Path::new(&format!("/proc/{}/cmdline", pid.as_raw_nonzero())), 64 * 1024)?;
    let line = String::from_utf8_lossy(&line);
    if line.starts_with("wharf-shim") && line.contains(container) {
        pidfd_send_signal(process, Signal::KILL).map_err(std::io::Error::from)?;
    }
    Ok(())
}

/// Calls off a restart that the policy has in mind; false when there is none.
fn cancel_restart(container: &Container) -> bool {
    {
        let mut record = container.record();
        if record.phase != Phase::Restarting {
            return false;
        }
        record.phase = Phase::Exited;
        record.restart_at = None;
        record.stopped_by_hand = true;
    }
    container.progress.send_modify(|progress| progress.restarting = false);
    true
}

/// The signal's number; an error in Docker's words when it is none.
fn check_signal(signal: Option<&str>) -> Result<Option<i32>> {
    match signal.filter(|text| !text.is_empty()) {
        None => Ok(None),
        Some(text) => match signal::parse(text) {
            Some(number) => Ok(Some(number)),
            None if text.parse::<u32>().is_ok_and(|number| number > 0) => {
                Err(Error::Invalid(format!("the linux daemon does not support signal {text}")))
            }
            None => Err(Error::Invalid(format!("invalid signal: {text}"))),
        },
    }
}
