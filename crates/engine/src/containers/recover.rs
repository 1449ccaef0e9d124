//! What an engine does when it opens: takes over what runs, learns what ended, finishes or undoes what was half made.

use std::collections::{HashMap, HashSet};
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use jiff::Timestamp;
use wharf_linux::cgroup::Cgroup;
use wharf_linux::{hostfs, seqpacket};
use wharf_model::ContainerId;
use wharf_model::spec::RestartName;
use wharf_net::Endpoint;
use wharf_shim::protocol::{EXIT_FILE, ExitRecord, Reply, Request, SOCKET_FILE, ShimState, VERSION};

use super::supervise::{Ended, remove_cgroup};
use super::{Container, Phase, lingering, record};
use crate::blocking::blocking;
use crate::link::{Events, Link};
use crate::why::Cause;
use crate::{Engine, Error, Result};

/// How long a shim may take to say who it is: it has nothing else to do, and the start of the engine waits for it.
const HELLO_DEADLINE: Duration = Duration::from_secs(1);

/// How long is tried to reach a shim whose socket is there, and how often.
const REACH_DEADLINE: Duration = Duration::from_secs(10);
const REACH_PAUSE: Duration = Duration::from_millis(50);

/// Who is at a container's socket.
enum Reached {
    /// Its shim, and what it says.
    Shim { link: Arc<Link>, events: Events, state: ShimState, pid: i32, started_at_ns: i64 },
    /// Somebody who does not answer.
    Silent { link: Arc<Link>, events: Events },
    /// Nobody.
    Nobody,
}

/// What a container is found to be.
enum Found {
    /// A shim answers and the command runs.
    Running { link: Arc<Link>, events: Events, pid: i32, started_at_ns: i64 },
    /// It ended while no engine was there; with the machine, perhaps.
    Ended { ended: Ended, rebooted: bool },
    /// Nothing has changed.
    AsRecorded,
}

impl Engine {
    /// See the module. Called once, before anyone else has the engine.
    pub(super) async fn recover(&self) -> Result<()> {
        let engine = self.clone();
        let records = blocking(move || record::load_all(&engine.inner.db)).await?;
        let containers: Vec<Arc<Container>> = records.into_iter().map(Container::new).collect();
        for container in &containers {
            self.inner.containers.insert(container.clone());
        }
        let found = join_all(containers.iter().map(|container| self.look(container))).await;
        let mut live = Vec::new();
        for (container, found) in containers.iter().zip(&found) {
            if matches!(found, Found::Running { .. }) {
                live.push(container.id.to_string());
            }
        }
        let engine = self.clone();
        blocking(move || {
            let swept = engine.sweep_volumes().and_then(|()| engine.reconcile_volumes(&live));
            if let Err(error) = swept {
                tracing::error!(%error, "cannot bring the volumes in order");
            }
            let run_dir = engine.inner.config.run_dir();
            let mut resting =
                engine.inner.containers.all().into_iter().map(|container| container.id.to_string());
            let live: HashSet<String> = live.into_iter().collect();
            if resting.any(|id| !live.contains(&id) && run_dir.join(id).is_dir()) {
                lingering::wait(&engine.inner.config.containers_dir(), &live);
            }
            let live: Vec<&str> = live.iter().map(String::as_str).collect();
            match engine.inner.network.reconcile(&live) {
                Ok(swept) if swept.is_empty() => {}
                Ok(swept) => tracing::info!(?swept, "removed what dead containers left on the network"),
                Err(error) => tracing::error!(%error, "cannot bring the network in order"),
            }
            engine.sweep();
            Ok(())
        })
        .await?;
        let network = self.inner.network.clone();
        let endpoints = blocking(move || Ok(network.endpoints()?)).await.unwrap_or_default();
        let mut endpoints: HashMap<String, Endpoint> =
            endpoints.into_iter().map(|endpoint| (endpoint.container.clone(), endpoint)).collect();
        let mut due = Vec::new();
        for (container, found) in containers.into_iter().zip(found) {
            self.settle(&container, found, &mut endpoints).await;
            let (restarting, at) = {
                let record = container.record();
                (record.phase == Phase::Restarting, record.restart_at)
            };
            match restarting {
                true if at.is_none_or(|at| at <= Timestamp::now()) => due.push(container),
                true => self.clone().restart_later(container),
                false => {}
            }
        }
        let engine = self.clone();
        let orphans = blocking(move || record::orphans(&engine.inner.db)).await?;
        self.remove_orphans(orphans).await;
        self.clone().bring_back(due);
        Ok(())
    }

    /// Finds out about one container.
    async fn look(&self, container: &Arc<Container>) -> Found {
        if container.record().phase == Phase::Removing {
            return Found::AsRecorded;
        }
        match self.reach(container).await {
            Reached::Shim { link, events, state: ShimState::Running, pid, started_at_ns } => {
                Found::Running { link, events, pid, started_at_ns }
            }
            // It wrote its record before it said this.
            Reached::Shim { link, state: ShimState::Exited(_) | ShimState::Created, .. } => {
                let _leaves = link.ask(Request::Shutdown, &[]).await;
                link.close();
                self.look_at_remains(container).await
            }
            // It is there, and so is what it watches over. It may answer later, and is told apart from a dead one.
            Reached::Silent { link, events } if container.record().is_running() => {
                tracing::warn!(container = %container.id, "its shim does not answer; the container is taken to run as recorded");
                let record = container.record();
                let started =
                    record.started_at.map_or(0, |at| i64::try_from(at.as_nanosecond()).unwrap_or(0));
                Found::Running { link, events, pid: record.pid, started_at_ns: started }
            }
            Reached::Silent { .. } | Reached::Nobody => self.look_at_remains(container).await,
        }
    }

    /// Speaks to a container's shim. Only a socket that nobody listens at says that there is none: an engine that is out
    /// of descriptors, or a shim that is out of room, must not cost the container's life.
    async fn reach(&self, container: &Container) -> Reached {
        let socket = self.inner.config.run_dir().join(container.id.as_str()).join(SOCKET_FILE);
        let until = tokio::time::Instant::now() + REACH_DEADLINE;
        loop {
            let path = socket.clone();
            let error = match blocking(move || Ok(seqpacket::connect(&path))).await {
                Ok(Ok(socket)) => match Link::new(socket) {
                    Ok((link, events)) => {
                        let hello = link.ask_within(HELLO_DEADLINE, Request::Hello { version: VERSION }, &[]);
                        match hello.await {
                            Ok((Reply::Hello { pid, state, started_at_ns, .. }, _)) => {
                                return Reached::Shim { link, events, state, pid, started_at_ns };
                            }
                            Err(Error::Deadline { .. }) => return Reached::Silent { link, events },
                            // It hung up; or it has left, and then nobody listens any more.
                            Err(error @ Error::Unavailable(_)) => error,
                            // It speaks another language.
                            _ => return Reached::Nobody,
                        }
                    }
                    Err(error) => error,
                },
                Ok(Err(error))
                    if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) =>
                {
                    return Reached::Nobody;
                }
                Ok(Err(error)) => error.into(),
                Err(error) => error,
            };
            if tokio::time::Instant::now() > until {
                tracing::error!(container = %container.id, %error, "its shim cannot be reached");
                return Reached::Nobody;
            }
            tokio::time::sleep(REACH_PAUSE).await;
        }
    }

    /// The connection to a shim has ended, but not because it was asked to: if it is still there, having hung up on an
    /// engine that did not listen for too long, the conversation goes on.
    pub(super) async fn regain(&self, container: &Arc<Container>) -> Option<(Arc<Link>, Events)> {
        let Reached::Shim { link, events, state: ShimState::Running, .. } = self.reach(container).await
        else {
            return None;
        };
        tracing::warn!(container = %container.id, "its shim had hung up and was called again");
        // Whoever waits for one of them would wait for ever.
        self.inner.execs.container_ended(&container.id);
        container.set_link(Some(link.clone()));
        self.follow_log(container);
        self.catch_up_on_health(container, true).await;
        Some((link, events))
    }

    /// Finds out about one container that no shim tells about.
    async fn look_at_remains(&self, container: &Arc<Container>) -> Found {
        let run_dir = self.inner.config.run_dir().join(container.id.as_str());
        let recorded_running = container.record().is_running();
        let run_dir_exists = run_dir.is_dir();
        let exit = blocking(move || {
            let bytes = hostfs::read_bounded(&run_dir.join(EXIT_FILE), 64 * 1024).ok();
            Ok(bytes.and_then(|bytes| serde_json::from_slice::<ExitRecord>(&bytes).ok()))
        });
        match exit.await {
            Ok(Some(exit)) if recorded_running || self.is_news(container, &exit) => {
                Found::Ended { ended: Ended { status: exit.status, lost: None }, rebooted: false }
            }
            _ if !recorded_running => {
                // Engine and shim may have been killed together in the middle of a start.
                if run_dir_exists {
                    self.sweep_cgroup(container).await;
                }
                Found::AsRecorded
            }
            _ => {
                let mut ended = self.ended_without_a_word(container).await;
                if !run_dir_exists {
                    ended.status.code = 255;
                    ended.status.signal = None;
                    let reason = "the machine was restarted while the container ran".to_owned();
                    ended.lost = Some((Cause::MachineRestarted, reason));
                }
                Found::Ended { ended, rebooted: !run_dir_exists }
            }
        }
    }

    /// True when a run ended that the row does not know of: the engine was killed before it could write `running`.
    fn is_news(&self, container: &Container, exit: &ExitRecord) -> bool {
        let known = container.record().finished_at;
        super::start::timestamp(exit.status.finished_at_ns) > known
    }

    async fn settle(
        &self,
        container: &Arc<Container>,
        found: Found,
        endpoints: &mut HashMap<String, Endpoint>,
    ) {
        match found {
            Found::Running { link, events, pid, started_at_ns } => {
                let endpoint = endpoints.remove(container.id.as_str());
                let frozen = self.with_cgroup(container, |cgroup| cgroup.frozen()).await.unwrap_or(false);
                {
                    let mut record = container.record();
                    record.phase = if frozen { Phase::Paused } else { Phase::Running };
                    record.pid = pid;
                    record.started_at = super::start::timestamp(started_at_ns);
                    record.endpoint = endpoint;
                }
                self.finish_update(container).await;
                self.keep_ports(container, &link).await;
                container.set_link(Some(link.clone()));
                container.progress.send_modify(|progress| {
                    progress.run += 1;
                    progress.running = true;
                    progress.busy = true;
                });
                if let Err(error) = self.save(container).await {
                    tracing::error!(container = %container.id, %error, "cannot record that the container runs");
                }
                self.follow_log(container);
                self.catch_up_on_health(container, true).await;
                self.clone().supervise(container.clone(), link, events, None);
            }
            Found::Ended { ended, rebooted } => {
                // What it wrote last may not have reached its log driver.
                self.follow_log(container);
                self.catch_up_on_health(container, false).await;
                let removing = self.record_end(container, &ended, rebooted).await;
                self.give_back(container, removing).await;
            }
            Found::AsRecorded => {
                if container.record().started_at.is_some() {
                    self.follow_log(container);
                }
                self.settle_resting(container).await;
            }
        }
    }

    /// The ports stay taken until they are not translated any more, which is after the shim has gone.
    async fn keep_ports(&self, container: &Container, link: &Link) {
        if container.record().endpoint.as_ref().is_none_or(|endpoint| endpoint.ports.is_empty()) {
            return;
        }
        let mut held: Vec<OwnedFd> = Vec::new();
        loop {
            match link.ask_within(HELLO_DEADLINE, Request::Held { skip: held.len() }, &[]).await {
                Ok((Reply::Held { total }, more)) => {
                    let last = more.is_empty() || held.len() + more.len() >= total;
                    held.extend(more);
                    if last {
                        break;
                    }
                }
                Ok(_) => break,
                Err(error) => {
                    tracing::warn!(container = %container.id, %error, "cannot share the hold of its ports");
                    break;
                }
            }
        }
        self.inner.network.keep(container.id.as_str(), held);
    }

    /// A container that did not run: finishes its removal, or starts it if its policy says so.
    async fn settle_resting(&self, container: &Arc<Container>) {
        let (phase, remove, volumes, restart) = {
            let record = container.record();
            let policy = record.spec.host.restart_policy.name;
            // `always` comes back with the engine even if a person had stopped it.
            let wanted = policy == RestartName::Always || record.wants_restart(record.exit_code);
            let restart = match record.phase {
                // Decided when it ended.
                Phase::Restarting => true,
                Phase::Exited => wanted,
                _ => false,
            };
            let auto = record.spec.host.auto_remove;
            (record.phase, auto && record.phase == Phase::Exited, auto || record.remove_volumes, restart)
        };
        if phase == Phase::Removing || remove {
            if let Err(error) = self.remove(container, volumes).await {
                tracing::error!(container = %container.id, %error, "cannot finish the container's removal");
            }
        } else if restart {
            // In the middle of a pause, its time and its count go on; else it comes back as if started anew.
            if phase != Phase::Restarting {
                container.record().plan_fresh_start(Timestamp::now());
            }
            container.progress.send_modify(|progress| progress.restarting = true);
        }
    }

    /// Removes what belongs to no container: directories, snapshots, control groups.
    fn sweep(&self) {
        let known: HashSet<String> = self.inner.containers.all().iter().map(|c| c.id.to_string()).collect();
        let config = &self.inner.config;
        let mut strangers: HashSet<ContainerId> = HashSet::new();
        for directory in [config.containers_dir(), config.run_dir()] {
            let names = hostfs::read_dir(&directory).unwrap_or_default();
            let ids = names.iter().filter_map(|name| name.to_str()?.parse::<ContainerId>().ok());
            strangers.extend(ids.filter(|id| !known.contains(id.as_str())));
        }
        match self.inner.images.snapshots() {
            Ok(keys) => strangers.extend(
                keys.iter()
                    // `<id>`, or `<id>.<number>` of an image it mounts.
                    .filter_map(|key| key.split('.').next()?.parse::<ContainerId>().ok())
                    .filter(|id| !known.contains(id.as_str())),
            ),
            Err(error) => tracing::error!(%error, "cannot list snapshots"),
        }
        for id in strangers {
            tracing::info!(%id, "removing what a container without a record left");
            if let Ok(cgroup) = Cgroup::open(&format!("{}/{id}", config.cgroup_parent())) {
                remove_cgroup(&cgroup);
            }
            if let Err(error) = self.inner.network.detach(id.as_str()) {
                tracing::warn!(%id, %error, "cannot detach it from the network");
            }
            self.remove_files(&id);
        }
    }
}
