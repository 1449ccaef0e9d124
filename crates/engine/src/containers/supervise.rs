//! What happens while a container runs and when it ends.
//!
//! One task per run listens to the shim. When the run ends, waiters hear of it first; the network, the shim and the
//! removal or restart come after the reply.

use std::sync::Arc;

use wharf_linux::cgroup::Cgroup;
use wharf_linux::hostfs;
use wharf_shim::health::HealthStatus;
use wharf_shim::protocol::{EXIT_FILE, Event, ExitRecord, ExitStatus};

use super::start::timestamp;
use super::{Container, Phase};
use crate::blocking::blocking;
use crate::child::ShimProcess;
use crate::link::{Events, Link};
use crate::why::{Cause, reason};
use crate::{Engine, Error};

impl Engine {
    /// Watches a run in the background.
    pub(crate) fn supervise(
        self,
        container: Arc<Container>,
        mut link: Arc<Link>,
        mut events: Events,
        child: Option<ShimProcess>,
    ) {
        tokio::spawn(async move {
            let mut status = None;
            loop {
                let Some((event, _)) = events.recv().await else {
                    if !*self.inner.closing.borrow()
                        && let Some(regained) = self.regain(&container).await
                    {
                        (link, events) = regained;
                        continue;
                    }
                    break;
                };
                match event {
                    Event::Output { end } => container.progress.send_modify(|progress| progress.output = end),
                    Event::ExecExited { id, status } => {
                        self.inner.execs.ended(&self, &container, &id, status)
                    }
                    Event::Exited { status: exited, end } => {
                        container.progress.send_modify(|progress| {
                            progress.output = end;
                            progress.complete = true;
                        });
                        self.finish_log_file(&container).await;
                        status = Some(exited);
                        break;
                    }
                    Event::OutOfMemory { kills } => self.out_of_memory(&container, kills).await,
                    Event::Rotated { .. } => self.pack_log(&container),
                    news @ (Event::ProbeStarted { .. } | Event::Health { .. }) => {
                        self.health_event(&container, news).await;
                    }
                    Event::Created { .. } | Event::Failed { .. } => {}
                }
            }
            if *self.inner.closing.borrow() && status.is_none() {
                // The engine leaves, not the container.
                return;
            }
            let ended = match status {
                Some(status) => Ended { status, lost: None },
                None => self.ended_without_a_word(&container).await,
            };
            self.inner.cleanups.send_modify(|running| *running += 1);
            let removing = self.record_end(&container, &ended, false).await;
            // The shim removes the cgroup and leaves: only then may a new one take its place.
            while events.recv().await.is_some() {}
            link.close();
            if let Some(mut child) = child {
                child.wait().await;
            }
            self.clean_up_run(&container, removing).await;
            self.inner.cleanups.send_modify(|running| *running -= 1);
        });
    }

    /// The shim is gone without having said how the container ended.
    pub(super) async fn ended_without_a_word(&self, container: &Arc<Container>) -> Ended {
        let (engine, id) = (self.clone(), container.id.clone());
        let cgroup = self.cgroup_path(&container.record());
        let found = blocking(move || {
            // What the shim watched over must not run on unwatched.
            if let Ok(cgroup) = Cgroup::open(&cgroup) {
                remove_cgroup(&cgroup);
            }
            // It may have written its record and been killed before it could speak.
            let file = engine.inner.config.run_dir().join(id.as_str()).join(EXIT_FILE);
            let bytes = hostfs::read_bounded(&file, 64 * 1024).ok();
            Ok(bytes
                .and_then(|bytes| serde_json::from_slice::<ExitRecord>(&bytes).ok())
                .map(|record| record.status))
        });
        if let Ok(Some(status)) = found.await {
            return Ended { status, lost: None };
        }
        let now = i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(0);
        Ended {
            status: ExitStatus { code: 137, signal: Some(9), finished_at_ns: now, ..ExitStatus::default() },
            lost: Some((
                Cause::MonitorKilled,
                "the container's shim was killed, and the container with it".to_owned(),
            )),
        }
    }

    /// Writes down how a run ended and tells everyone who waits. Answers whether the container is on its way out. After
    /// a reboot a restart is not one of the policy's, and nothing of it is counted.
    pub(super) async fn record_end(&self, container: &Arc<Container>, ended: &Ended, rebooted: bool) -> bool {
        let status = &ended.status;
        let published =
            container.record().endpoint.as_ref().is_some_and(|endpoint| !endpoint.ports.is_empty());
        if published {
            // Whoever hears of the end may want the same port at once.
            self.detach(container).await;
        }
        let (restart, remove, told) = {
            let mut record = container.record();
            let told = std::mem::take(&mut record.oom_kills);
            record.exit_code = status.code;
            record.oom_killed = status.oom_killed;
            record.error = ended.lost.as_ref().map(|(_, reason)| reason.clone()).unwrap_or_default();
            record.finished_at = timestamp(status.finished_at_ns);
            record.pid = 0;
            record.endpoint = None;
            record.ending = Some(reason::of_run(&record, status, ended.lost.as_ref()));
            let restart = record.wants_restart(status.code) && !*self.inner.closing.borrow();
            let remove = record.spec.host.auto_remove && container.progress.borrow().kept == 0;
            if let Some(health) = &mut record.health {
                // As with Docker: what does not run is not healthy.
                health.status = HealthStatus::Unhealthy;
            }
            match (remove, restart) {
                (true, _) => record.phase = Phase::Removing,
                (false, true) if rebooted => record.plan_fresh_start(jiff::Timestamp::now()),
                (false, true) => {
                    let end = record.finished_at.unwrap_or_else(jiff::Timestamp::now);
                    record.plan_restart(end);
                }
                (false, false) => {
                    record.phase = Phase::Exited;
                    record.unhealthy_restart = false;
                }
            }
            (restart, remove, told)
        };
        container.set_link(None);
        self.inner.execs.container_ended(&container.id);
        // With `--rm` the row goes at once; after a crash in between, the exit record tells the same story.
        if !remove && let Err(error) = self.save(container).await {
            tracing::error!(container = %container.id, %error, "cannot record that the container ended");
        }
        if status.evidence.oom_kills > told {
            self.emit(container, "oom", &[]);
        }
        container.progress.send_modify(|progress| {
            progress.running = false;
            progress.restarting = restart && !remove;
            progress.exits += 1;
            progress.exit = Some(status.code);
        });
        let record = container.record().clone();
        self.tell_network(&record, false);
        self.tell_mounts(&record, false);
        let ran = record.finished_at.zip(record.started_at).map(|(end, begin)| end.duration_since(begin));
        let seconds = ran.map_or(0, |ran| ran.as_secs().max(0));
        let extra = [("execDuration", seconds.to_string()), ("exitCode", status.code.to_string())];
        self.emit(container, "die", &extra);
        if remove {
            // The one who waits for `--rm` hears it now; files and addresses follow. `busy` keeps them in order.
            if let Err(error) = self.forget(container, true).await {
                tracing::error!(container = %container.id, %error, "cannot delete the container's row; it will be tried again");
                self.remove_later(&container.id);
            }
        }
        remove
    }

    /// After the last sign of a run: gives back its address and ports, then removes or restarts the container.
    async fn clean_up_run(&self, container: &Arc<Container>, removing: bool) {
        self.give_back(container, removing).await;
        if container.record().phase == Phase::Restarting {
            self.clone().restart_later(container.clone());
        }
    }

    /// Gives back what a run had, and removes the container if that is due.
    pub(super) async fn give_back(&self, container: &Arc<Container>, removing: bool) {
        self.release_volumes(container).await;
        self.detach(container).await;
        self.explain_end(container).await;
        // A shim that was killed after its last word has left it.
        self.sweep_cgroup(container).await;
        if removing {
            self.remove_remains(container, true).await;
        } else {
            self.pack_log(container);
        }
        container.progress.send_modify(|progress| progress.busy = false);
    }

    /// The kernel killed a process of a container that lives on.
    async fn out_of_memory(&self, container: &Arc<Container>, kills: u64) {
        {
            let mut record = container.record();
            record.oom_kills = kills;
            record.oom_killed = true;
        }
        self.emit(container, "oom", &[]);
        if let Err(error) = self.save(container).await {
            tracing::error!(container = %container.id, %error, "cannot record that the container is out of memory");
        }
    }

    /// Gives back a container's address and ports.
    pub(super) async fn detach(&self, container: &Container) {
        let (network, id) = (self.inner.network.clone(), container.id.clone());
        if let Err(error) = blocking(move || Ok(network.detach(id.as_str())?)).await {
            tracing::warn!(container = %container.id, %error, "cannot give back the container's network endpoint; it will be tried again");
            self.remove_later(&container.id);
        }
    }

    /// Removes the control group of a run that is over, if its shim has not.
    pub(super) async fn sweep_cgroup(&self, container: &Container) {
        let path = self.cgroup_path(&container.record());
        let swept = blocking(move || {
            let cgroup = Cgroup::open(&path).map_err(|error| Error::System(error.to_string()))?;
            Ok(remove_cgroup(&cgroup))
        });
        if !swept.await.unwrap_or(false) {
            self.remove_later(&container.id);
        }
    }
}

/// How a run ended.
pub(super) struct Ended {
    pub(super) status: ExitStatus,
    /// Set when the shim could not say, with what is known instead.
    pub(super) lost: Option<(Cause, String)>,
}

/// Kills what is left in a cgroup and removes it; true when it is gone.
pub(super) fn remove_cgroup(cgroup: &Cgroup) -> bool {
    if !cgroup.exists() {
        return true;
    }
    let removed = cgroup.kill_all().and_then(|()| cgroup.delete());
    if let Err(error) = &removed {
        tracing::warn!(%error, "cannot remove a control group");
    }
    removed.is_ok()
}
