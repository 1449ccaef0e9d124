//! Restart policies: when a container that ended is started again, and in which order many are.
//!
//! # Invariants
//! A container whose phase is `Restarting` has `restart_at`, and a task of this engine that waits for it. The pause and
//! the counts are in the row before anybody hears of the exit, so an engine that comes back goes on with them; how the
//! pause grows is Docker's: 100 ms, doubled up to a minute, short again after a run of ten seconds.
//!
//! # Who may call it off
//! `stop`, `kill` and `rm -f` take the container out of the phase under its lock; the task looks at phase and time
//! under the same lock before it starts anything, so that a task that was overtaken does nothing.
//!
//! # After a start of the engine
//! All that are due go in one order: those that others need first, then as they were started before, a few at a time.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::{Semaphore, watch};
use wharf_model::network::NetworkMode;
use wharf_model::spec::{HostSpec, RestartName};
use wharf_shim::protocol::Purpose;

use super::{Change, Container, Phase, Record};
use crate::health::may_restart;
use crate::{Engine, Result};

/// First pause before a restart; doubled each time up to the limit.
const BACKOFF: Duration = Duration::from_millis(100);
const BACKOFF_LIMIT: Duration = Duration::from_secs(60);
/// A run this long makes the next pause short again.
const STABLE: Duration = Duration::from_secs(10);
/// How many containers are started at once when the engine starts.
const PARALLEL: usize = 8;
/// How long a container waits for one it needs to be started.
const DEPENDENCY: Duration = Duration::from_secs(60);

impl Record {
    /// True when it is to be started again after an exit with `code`.
    pub(crate) fn wants_restart(&self, code: i32) -> bool {
        let policy = &self.spec.host.restart_policy;
        let by_policy = match policy.name {
            RestartName::No => false,
            RestartName::Always | RestartName::UnlessStopped => true,
            RestartName::OnFailure => code != 0,
        };
        !self.stopped_by_hand && (by_policy || self.unhealthy_restart) && may_restart(self)
    }

    /// Counts a restart and sets when it is due, seen from the end of a run.
    pub(super) fn plan_restart(&mut self, end: Timestamp) {
        let ran = self.started_at.map_or(Duration::ZERO, |began| end.duration_since(began).unsigned_abs());
        if ran >= STABLE {
            self.backoff = 0;
        }
        let pause = (BACKOFF * 2_u32.pow(self.backoff.min(10))).min(BACKOFF_LIMIT);
        self.backoff = self.backoff.saturating_add(1);
        self.restart_count = self.restart_count.saturating_add(1);
        self.unhealthy_restart = false;
        self.phase = Phase::Restarting;
        self.restart_at = end.checked_add(SignedDuration::try_from(pause).unwrap_or_default()).ok();
    }

    /// A planned start has failed: the next follows after a longer pause.
    pub(super) fn plan_another(&mut self, now: Timestamp) {
        let ran = std::mem::take(&mut self.started_at);
        self.plan_restart(now);
        self.started_at = ran;
    }

    /// It is due at once, as if a person started it.
    pub(super) fn plan_fresh_start(&mut self, now: Timestamp) {
        self.start_anew();
        self.phase = Phase::Restarting;
        self.restart_at = Some(now);
    }

    /// A start that is not one of the policy's: what was counted is forgotten.
    pub(super) fn start_anew(&mut self) {
        self.restart_count = 0;
        self.backoff = 0;
        self.stopped_by_hand = false;
        self.unhealthy_restart = false;
        self.restart_at = None;
    }
}

impl Engine {
    /// Starts a container when its pause is over, unless that is called off.
    pub(super) fn restart_later(self, container: Arc<Container>) {
        let due = container.record().restart_at;
        let left = due.map_or(Duration::ZERO, |due| {
            // A clock that was set back must not make it wait for ever.
            Duration::try_from(due.duration_since(Timestamp::now())).unwrap_or_default().min(BACKOFF_LIMIT)
        });
        tokio::spawn(async move {
            let mut progress = container.progress.subscribe();
            let cancelled = progress.wait_for(|progress| progress.removed || !progress.restarting);
            if tokio::time::timeout(left, cancelled).await.is_err() {
                self.start_due(&container, due).await;
            }
        });
    }

    /// Starts a container whose restart was planned for `due`, if it still is.
    async fn start_due(&self, container: &Arc<Container>, due: Option<Timestamp>) {
        let _change = container.change.lock().await;
        let planned = {
            let record = container.record();
            record.phase == Phase::Restarting && record.restart_at == due
        };
        if !planned || *self.inner.closing.borrow() {
            return;
        }
        if let Err(error) = self.start(container).await {
            tracing::warn!(container = %container.id, %error, "cannot restart the container");
        }
    }

    /// Ends a run so that another follows, whatever the policy; the caller holds `change`.
    pub(crate) async fn end_to_restart(&self, container: &Arc<Container>, change: Change<'_>) -> Result<()> {
        container.record().unhealthy_restart = true;
        // Durable before the signal: the next engine goes on with it.
        self.save(container).await?;
        self.end(container, Some(change), None, None, Purpose::Unhealthy).await
    }

    /// Starts what was found to be due when the engine opened, in order, while the engine answers already.
    pub(super) fn bring_back(self, due: Vec<Arc<Container>>) {
        if due.is_empty() {
            return;
        }
        let needs: Vec<Vec<usize>> = due.iter().map(|container| self.needs(container, &due)).collect();
        let began: Vec<(Timestamp, Timestamp)> = due.iter().map(|container| began(container)).collect();
        let order = order(&began, &needs);
        tokio::spawn(async move {
            let permits = Arc::new(Semaphore::new(PARALLEL));
            let done: Vec<watch::Sender<bool>> = due.iter().map(|_| watch::Sender::new(false)).collect();
            let mut rank = vec![0; due.len()];
            order.iter().enumerate().for_each(|(turn, index)| rank[*index] = turn);
            for index in order {
                // In order, so that one that is waited for always has its own permit already.
                let Ok(permit) = permits.clone().acquire_owned().await else { return };
                let earlier = needs[index].iter().filter(|need| rank[**need] < rank[index]);
                let awaited: Vec<_> = earlier.map(|need| done[*need].subscribe()).collect();
                let (engine, container, done) = (self.clone(), due[index].clone(), done[index].clone());
                tokio::spawn(async move {
                    for mut other in awaited {
                        // Started or not: its own error says more than any here would.
                        let _waited = tokio::time::timeout(DEPENDENCY, other.wait_for(|done| *done)).await;
                    }
                    let planned = container.record().restart_at;
                    engine.start_due(&container, planned).await;
                    done.send_replace(true);
                    drop(permit);
                });
            }
        });
    }

    /// Places in `all` of the containers that `container` needs.
    fn needs(&self, container: &Container, all: &[Arc<Container>]) -> Vec<usize> {
        let names = {
            let record = container.record();
            // A linked container may have another name by now.
            let linked = record.links.iter().map(|link| link.target.to_string());
            needed(&record.spec.host).into_iter().chain(linked).collect::<Vec<_>>()
        };
        let found = names.iter().filter_map(|name| self.find(name).ok());
        let places: HashMap<&str, usize> =
            all.iter().enumerate().map(|(place, other)| (other.id.as_str(), place)).collect();
        found
            .filter(|other| other.id != container.id)
            .filter_map(|other| places.get(other.id.as_str()).copied())
            .collect()
    }
}

/// When a person (or an earlier start of the engine) started it, and when it was made.
fn began(container: &Container) -> (Timestamp, Timestamp) {
    let record = container.record();
    (record.launched_at.or(record.started_at).unwrap_or(record.created), record.created)
}

/// Containers that must run, or at least come first.
fn needed(host: &HostSpec) -> Vec<String> {
    let mut names = Vec::new();
    if let NetworkMode::Container(name) = &host.network_mode {
        names.push(name.clone());
    }
    let modes = [&host.ipc_mode, &host.pid_mode];
    names.extend(modes.into_iter().filter_map(|mode| mode.strip_prefix("container:").map(str::to_owned)));
    let first = |text: &String| text.split(':').next().unwrap_or_default().to_owned();
    names.extend(host.links.iter().chain(&host.volumes_from).map(first));
    names
}

/// Places in the order of their times, each behind all that it needs; a circle is cut at its earliest member.
fn order<T: Ord>(times: &[T], needs: &[Vec<usize>]) -> Vec<usize> {
    let mut by_time: Vec<usize> = (0..times.len()).collect();
    by_time.sort_by_key(|place| &times[*place]);
    let mut order = Vec::with_capacity(times.len());
    let mut seen = vec![false; times.len()];
    for root in by_time {
        // Depth first, without recursion: chains are as long as somebody makes them.
        let mut path = vec![(root, 0)];
        if std::mem::replace(&mut seen[root], true) {
            continue;
        }
        while let Some((place, next)) = path.last_mut() {
            match needs[*place].get(*next) {
                Some(need) => {
                    *next += 1;
                    if !std::mem::replace(&mut seen[*need], true) {
                        path.push((*need, 0));
                    }
                }
                None => {
                    order.push(*place);
                    path.pop();
                }
            }
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_needed_comes_first_and_then_the_order_of_before() {
        assert_eq!(order(&[3, 1, 2], &[vec![], vec![], vec![]]), [1, 2, 0]);
        // 1 needs 0, which needs 3; 2 needs nothing.
        assert_eq!(order(&[9, 1, 2, 8], &[vec![3], vec![0], vec![], vec![]]), [3, 0, 1, 2]);
        assert_eq!(order::<u32>(&[], &[]), Vec::<usize>::new());
    }

    #[test]
    fn a_circle_and_a_long_chain_end() {
        let mut circle = order(&[1, 2, 3], &[vec![1], vec![2], vec![0]]);
        circle.sort_unstable();
        assert_eq!(circle, [0, 1, 2]);
        let long = 100_000;
        let needs: Vec<Vec<usize>> =
            (0..long).map(|n| if n + 1 < long { vec![n + 1] } else { vec![] }).collect();
        let times: Vec<usize> = (0..long).collect();
        assert_eq!(order(&times, &needs)[0], long - 1);
    }

    #[test]
    fn every_way_of_needing_another_is_known() {
        let host = HostSpec {
            network_mode: NetworkMode::Container("a".into()),
            ipc_mode: "container:b".into(),
            pid_mode: "container:c".into(),
            links: vec!["d:alias".into()],
            volumes_from: vec!["e:ro".into()],
            ..HostSpec::default()
        };
        assert_eq!(needed(&host), ["a", "b", "c", "d", "e"]);
        assert!(needed(&HostSpec { ipc_mode: "private".into(), ..HostSpec::default() }).is_empty());
    }
}
