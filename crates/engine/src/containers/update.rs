//! `update`: other limits and another restart policy for a container that is there.
//!
//! The record changes first, then the control group; what the kernel refuses is undone in both. Limits that are written
//! half when the engine is killed are found by the record's `updating` and written again by the next engine. The list of
//! devices is no limit: nothing here touches it (RT-13).

use std::sync::Arc;

use wharf_linux::cgroup::{Cgroup, Resources};
use wharf_model::spec::{HostSpec, RestartName, RestartPolicy};

use super::{Container, Phase, resources};
use crate::blocking::blocking;
use crate::{Engine, Error, Result};

/// What shall change; zero and empty leave a limit as it is.
#[derive(Clone, Debug, Default)]
pub struct Update {
    /// The limits: those fields of a container's host side that `update` can change.
    pub limits: HostSpec,
    /// Processes allowed: 0 and less for no limit, `None` to leave it.
    pub pids_limit: Option<i64>,
    /// The new restart policy.
    pub restart_policy: Option<RestartPolicy>,
}

impl Engine {
    /// Changes limits and restart policy of a container; answers warnings for a person.
    ///
    /// # Errors
    /// [`Error::Invalid`] for limits that make no sense, [`Error::Conflict`] for those that contradict what the container
    /// has, [`Error::System`] for what the kernel refuses. Nothing is changed then.
    pub async fn update_container(&self, name: &str, mut update: Update) -> Result<Vec<String>> {
        update.limits.pids_limit = update.pids_limit.filter(|limit| *limit > 0);
        let warnings = resources::check(&mut update.limits, true)?;
        if let Some(policy) = &update.restart_policy {
            super::create::check_policy(policy)?;
        }
        let container = self.find(name)?;
        let _change = container.change.lock().await;
        let changed = self.apply(&container, &update).await;
        changed.map_err(|error| error.with_prefix(&format!("Cannot update container {}: ", container.id)))?;
        self.emit(&container, "update", &[]);
        Ok(warnings)
    }

    async fn apply(&self, container: &Arc<Container>, update: &Update) -> Result<()> {
        let (before, after, live) = {
            let mut record = container.record();
            if record.phase == Phase::Removing {
                return Err(Error::Conflict(
                    "container is marked for removal and cannot be \"update\"".into(),
                ));
            }
            let before = record.spec.host.clone();
            let after = merge(&before, update)?;
            record.spec.host = after.clone();
            record.updating = record.is_running();
            (before, after, record.is_running())
        };
        let undo = async |error: Error| {
            {
                let mut record = container.record();
                record.spec.host = before.clone();
                record.updating = false;
            }
            if let Err(also) = self.save(container).await {
                tracing::error!(container = %container.id, error = %also, "cannot undo an update in the record");
            }
            error
        };
        if let Err(error) = self.save(container).await {
            return Err(undo(error).await);
        }
        if !live {
            return Ok(());
        }
        let limits = changed(&update.limits, update.pids_limit, &after);
        if let Err(error) = self.write_limits(container, limits).await {
            // One that ended meanwhile has no limits; the next start takes them from the record.
            if container.record().is_running() {
                return Err(undo(error).await);
            }
        }
        container.record().updating = false;
        self.save(container).await
    }

    async fn write_limits(&self, container: &Arc<Container>, limits: Resources) -> Result<()> {
        let path = self.cgroup_path(&container.record());
        blocking(move || {
            let system = |error: wharf_linux::cgroup::Error| Error::System(error.to_string());
            Cgroup::open(&path).map_err(system)?.update(&limits).map_err(system)
        })
        .await
    }

    /// Finishes an update that an earlier engine had only written down.
    pub(super) async fn finish_update(&self, container: &Arc<Container>) {
        let host = {
            let mut record = container.record();
            if !std::mem::take(&mut record.updating) {
                return;
            }
            record.spec.host.clone()
        };
        let limits = changed(&host, Some(host.pids_limit.unwrap_or(-1)), &host);
        if let Err(error) = self.write_limits(container, limits).await {
            tracing::error!(container = %container.id, %error, "cannot finish an update that was cut short");
        }
    }
}

/// The container's limits after the update, by Docker's rules of what may follow what.
fn merge(before: &HostSpec, update: &Update) -> Result<HostSpec> {
    let (wish, mut after) = (&update.limits, before.clone());
    let conflict = |text: &str| Err(Error::Conflict(text.to_owned()));
    // CPUs are period and quota in one: who has one of them cannot get the other.
    if wish.nano_cpus > 0 && before.cpu_period > 0 {
        return conflict(
            "Conflicting options: Nano CPUs cannot be updated as CPU Period has already been set",
        );
    }
    if wish.nano_cpus > 0 && before.cpu_quota > 0 {
        return conflict(
            "Conflicting options: Nano CPUs cannot be updated as CPU Quota has already been set",
        );
    }
    if wish.cpu_period > 0 && before.nano_cpus > 0 {
        return conflict(
            "Conflicting options: CPU Period cannot be updated as NanoCPUs has already been set",
        );
    }
    if wish.cpu_quota > 0 && before.nano_cpus > 0 {
        return conflict("Conflicting options: CPU Quota cannot be updated as NanoCPUs has already been set");
    }
    // Unlimited swap is -1 and so "smaller" than any limit; that is Docker's rule, and its users expect the message.
    if wish.memory != 0 && wish.memory > before.memory_swap && wish.memory_swap == 0 {
        return conflict(
            "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time",
        );
    }
    fn set<T: Default + PartialEq + Clone>(field: &mut T, wish: &T) {
        if *wish != T::default() {
            field.clone_from(wish);
        }
    }
    set(&mut after.blkio_weight, &wish.blkio_weight);
    set(&mut after.cpu_shares, &wish.cpu_shares);
    set(&mut after.nano_cpus, &wish.nano_cpus);
    set(&mut after.cpu_period, &wish.cpu_period);
    set(&mut after.cpu_quota, &wish.cpu_quota);
    set(&mut after.cpu_realtime_period, &wish.cpu_realtime_period);
    set(&mut after.cpu_realtime_runtime, &wish.cpu_realtime_runtime);
    set(&mut after.cpuset_cpus, &wish.cpuset_cpus);
    set(&mut after.cpuset_mems, &wish.cpuset_mems);
    set(&mut after.memory, &wish.memory);
    set(&mut after.memory_swap, &wish.memory_swap);
    set(&mut after.memory_reservation, &wish.memory_reservation);
    if let Some(limit) = update.pids_limit {
        // Shown as 0, as Docker does: "no limit" was asked for.
        after.pids_limit = Some(limit.max(0));
    }
    if let Some(policy) = &update.restart_policy {
        if before.auto_remove && policy.name != RestartName::No {
            return Err(Error::Conflict(
                "Restart policy cannot be updated because AutoRemove is enabled for the container".into(),
            ));
        }
        after.restart_policy = policy.clone();
    }
    Ok(after)
}

/// What the kernel is told: limits of a family of which something was asked for, with the values they all have now.
fn changed(wish: &HostSpec, pids: Option<i64>, now: &HostSpec) -> Resources {
    let positive = |value: i64| u64::try_from(value).ok().filter(|value| *value > 0);
    let nonzero = |value: i64| (value != 0).then_some(value);
    let mut limits = Resources::default();
    if wish.memory != 0 || wish.memory_swap != 0 {
        limits.memory = nonzero(now.memory);
        limits.memory_swap = nonzero(now.memory_swap);
    }
    limits.memory_reservation = nonzero(wish.memory_reservation);
    limits.cpu_shares = positive(wish.cpu_shares);
    if wish.nano_cpus > 0 {
        // Billionths of a CPU, over a period of 100 ms.
        limits.cpu_period = Some(100_000);
        limits.cpu_quota = Some(wish.nano_cpus / 10_000);
    } else if wish.cpu_period != 0 || wish.cpu_quota != 0 {
        limits.cpu_period = positive(now.cpu_period);
        limits.cpu_quota = nonzero(now.cpu_quota);
    }
    limits.cpu_rt_period = positive(wish.cpu_realtime_period);
    limits.cpu_rt_runtime = nonzero(wish.cpu_realtime_runtime);
    let set = |list: &String| (!list.is_empty()).then(|| list.clone());
    limits.cpuset_cpus = set(&wish.cpuset_cpus);
    limits.cpuset_mems = set(&wish.cpuset_mems);
    limits.pids = pids.map(|limit| if limit > 0 { limit } else { -1 });
    limits.blkio_weight = (wish.blkio_weight != 0).then_some(wish.blkio_weight);
    limits
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(limits: HostSpec) -> Update {
        Update { limits, ..Update::default() }
    }

    #[test]
    fn memory_never_grows_past_swap_by_itself() {
        let before = HostSpec { memory: 64 << 20, memory_swap: 128 << 20, ..HostSpec::default() };
        let to = |memory: i64, memory_swap: i64| {
            merge(&before, &limits(HostSpec { memory, memory_swap, ..HostSpec::default() }))
        };
        assert_eq!(to(128 << 20, 0).unwrap().memory, 128 << 20);
        assert!(to(129 << 20, 0).unwrap_err().to_string().starts_with("Memory limit should be smaller"));
        assert_eq!(to(300 << 20, 400 << 20).unwrap().memory_swap, 400 << 20);
        assert!(
            merge(&HostSpec::default(), &limits(HostSpec { memory: 9 << 20, ..HostSpec::default() }))
                .is_err()
        );
    }

    #[test]
    fn cpus_and_quota_exclude_each_other() {
        let before = HostSpec { nano_cpus: 500_000_000, ..HostSpec::default() };
        let quota = limits(HostSpec { cpu_quota: 50_000, ..HostSpec::default() });
        assert!(merge(&before, &quota).unwrap_err().to_string().contains("CPU Quota cannot be updated"));
        let more = HostSpec { nano_cpus: 1_500_000_000, ..HostSpec::default() };
        let after = merge(&before, &limits(more.clone())).unwrap();
        let told = changed(&more, None, &after);
        assert_eq!((told.cpu_period, told.cpu_quota), (Some(100_000), Some(150_000)));
        assert!(told.devices.is_empty() && told.memory.is_none());
    }

    #[test]
    fn no_process_limit_is_told_and_shown() {
        let update = Update { pids_limit: Some(-1), ..Update::default() };
        let after = merge(&HostSpec { pids_limit: Some(5), ..HostSpec::default() }, &update).unwrap();
        assert_eq!(after.pids_limit, Some(0));
        assert_eq!(changed(&update.limits, update.pids_limit, &after).pids, Some(-1));
    }

    #[test]
    fn a_container_that_removes_itself_is_not_restarted() {
        let before = HostSpec { auto_remove: true, ..HostSpec::default() };
        let policy = |name| Update {
            restart_policy: Some(RestartPolicy { name, maximum_retry_count: 0 }),
            ..Update::default()
        };
        assert!(merge(&before, &policy(RestartName::Always)).is_err());
        assert!(merge(&before, &policy(RestartName::No)).is_ok());
    }
}
