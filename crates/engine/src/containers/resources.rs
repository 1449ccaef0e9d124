//! Limits: what can be asked for on this machine.

use wharf_model::spec::HostSpec;

use super::machine::{Machine, cpu_count, machine};
use crate::{Error, Result};

/// The least memory a container can be given: less does not even start.
const MINIMUM_MEMORY: i64 = 6 * 1024 * 1024;
/// CPUs and memory nodes beyond this do not exist; a longer list is not looked at (RT-27).
const MOST_CPUS: usize = 8192;

/// Checks limits against each other and the machine, and drops what the machine lacks; answers warnings. An `update`
/// is about what is given: the rest of the container's limits is not in `host`.
pub(super) fn check(host: &mut HostSpec, update: bool) -> Result<Vec<String>> {
    limits(host, update, machine())
}

fn limits(host: &mut HostSpec, update: bool, machine: &Machine) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    memory(host, update, machine, &mut warnings)?;
    if host.pids_limit.is_some_and(|limit| limit > 0) && !machine.pids {
        host.pids_limit = None;
        warnings.push(missing("PIDs limit capabilities", "PIDs limit discarded."));
    }
    cpu(host, machine, &mut warnings)?;
    blkio(host, machine, &mut warnings)?;
    if !(-1000..=1000).contains(&host.oom_score_adj) {
        return Err(Error::Invalid(format!(
            "Invalid value {}, range for oom score adj is [-1000, 1000]",
            host.oom_score_adj
        )));
    }
    if host.shm_size < 0 {
        return Err(Error::Invalid("SHM size can not be less than 0".into()));
    }
    for (name, value) in &host.sysctls {
        sysctl(host, name, value)?;
    }
    for limit in &host.ulimits {
        wharf_model::ulimit::check(limit).map_err(Error::Invalid)?;
    }
    Ok(warnings)
}

/// Docker's sentence for a limit that this machine cannot keep.
fn missing(what: &str, consequence: &str) -> String {
    format!("Your kernel does not support {what} or the cgroup is not mounted. {consequence}")
}

fn memory(host: &mut HostSpec, update: bool, machine: &Machine, warnings: &mut Vec<String>) -> Result<()> {
    let invalid = |text: &str| Err(Error::Invalid(text.to_owned()));
    if host.memory != 0 && host.memory < MINIMUM_MEMORY {
        return invalid("Minimum memory limit allowed is 6MB");
    }
    if host.memory > 0 && !machine.memory {
        warnings.push(missing("memory limit capabilities", "Limitation discarded."));
        (host.memory, host.memory_swap) = (0, -1);
    }
    if host.memory > 0 && host.memory_swap != -1 && !machine.swap {
        warnings.push(missing("swap limit capabilities", "Memory limited without swap."));
        host.memory_swap = -1;
    }
    if host.memory > 0 && host.memory_swap > 0 && host.memory_swap < host.memory {
        return invalid("Minimum memoryswap limit should be larger than memory limit, see usage");
    }
    if host.memory == 0 && host.memory_swap > 0 && !update {
        return invalid("You should always set the Memory limit when using Memoryswap limit, see usage");
    }
    if host.memory_swap < -1 {
        // The kernel knows one way to say "no limit".
        host.memory_swap = -1;
    }
    if let Some(value) = host.memory_swappiness.filter(|value| *value != -1) {
        if !(0..=100).contains(&value) {
            return Err(Error::Invalid(format!(
                "Invalid value: {value}, valid memory swappiness range is 0-100"
            )));
        }
        if !machine.swappiness {
            warnings.push(missing("memory swappiness capabilities", "Memory swappiness discarded."));
            host.memory_swappiness = None;
        }
    }
    if host.memory_reservation > 0 && !machine.reservation {
        warnings.push(missing("memory soft limit capabilities", "Limitation discarded."));
        host.memory_reservation = 0;
    }
    if host.memory_reservation != 0 && host.memory_reservation < MINIMUM_MEMORY {
        return invalid("Minimum memory reservation allowed is 6MB");
    }
    if host.memory > 0 && host.memory_reservation > host.memory {
        return invalid("Minimum memory limit can not be less than memory reservation limit, see usage");
    }
    if host.oom_kill_disable {
        if !machine.oom_kill_disable {
            warnings
                .push("Your kernel does not support OomKillDisable. OomKillDisable discarded.".to_owned());
            host.oom_kill_disable = false;
        } else if host.memory == 0 {
            warnings.push(
                "OOM killer is disabled for the container, but no memory limit is set, this can result in the system \
                 running out of resources."
                    .to_owned(),
            );
        }
    }
    Ok(())
}

fn cpu(host: &mut HostSpec, machine: &Machine, warnings: &mut Vec<String>) -> Result<()> {
    let invalid = |text: String| Err(Error::Invalid(text));
    let cpus = cpu_count();
    for (given, name) in [(host.cpu_period, "Period"), (host.cpu_quota, "Quota")] {
        if host.nano_cpus > 0 && given > 0 {
            return invalid(format!("Conflicting options: Nano CPUs and CPU {name} cannot both be set"));
        }
    }
    if host.nano_cpus > 0 && !machine.cfs {
        return invalid(
            "NanoCPUs can not be set, as your kernel does not support CPU CFS scheduler or the cgroup is not mounted"
                .into(),
        );
    }
    let most = i64::try_from(cpus).unwrap_or(i64::MAX).saturating_mul(1_000_000_000);
    if host.nano_cpus < 0 || host.nano_cpus > most {
        return invalid(format!(
            "range of CPUs is from 0.01 to {cpus}.00, as there are only {cpus} CPUs available"
        ));
    }
    if host.cpu_shares < 0 {
        return invalid(format!(
            "invalid CPU shares ({}): value must be a positive integer",
            host.cpu_shares
        ));
    }
    if host.cpu_shares > 0 && !machine.shares {
        warnings.push(missing("CPU shares", "Shares discarded."));
        host.cpu_shares = 0;
    }
    if (host.cpu_period != 0 || host.cpu_quota != 0) && !machine.cfs {
        warnings.push(missing("CPU CFS scheduler", "Period and quota discarded."));
        (host.cpu_period, host.cpu_quota) = (0, 0);
    }
    if host.cpu_period != 0 && !(1_000..=1_000_000).contains(&host.cpu_period) {
        return invalid(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)".into(),
        );
    }
    if host.cpu_quota > 0 && host.cpu_quota < 1_000 {
        return invalid("CPU cfs quota can not be less than 1ms (i.e. 1000)".into());
    }
    if (host.cpu_realtime_period != 0 || host.cpu_realtime_runtime != 0) && !machine.realtime {
        return invalid("kernel does not support CPU real-time scheduler".into());
    }
    if host.cpu_realtime_period != 0 && host.cpu_realtime_runtime > host.cpu_realtime_period {
        return invalid("cpu real-time runtime cannot be higher than cpu real-time period".into());
    }
    let sets = [&host.cpuset_cpus, &host.cpuset_mems];
    if !machine.cpuset && sets.iter().any(|set| !set.is_empty()) {
        warnings.push(missing("cpuset", "Cpuset discarded."));
        host.cpuset_cpus.clear();
        host.cpuset_mems.clear();
    }
    cpuset("cpus", "CPUs", &host.cpuset_cpus, &machine.cpus)?;
    cpuset("mems", "memory nodes", &host.cpuset_mems, &machine.mems)
}

/// Lists like `0-2,7`: parsed without ever counting one by one up to an absurd end (RT-27).
fn cpuset(option: &str, what: &str, text: &str, available: &str) -> Result<()> {
    if text.is_empty() {
        return Ok(());
    }
    let refused = |why: String| Error::Invalid(format!("Invalid value {text} for cpuset {option}: {why}"));
    let wanted = ranges(text).ok_or_else(|| refused(format!("invalid format: {text}")))?;
    if wanted.iter().any(|(_, last)| *last >= MOST_CPUS) {
        return Err(refused(format!("value of out range, maximum is {MOST_CPUS}")));
    }
    let there = ranges(available).unwrap_or_default();
    // One range of the machine may hold several of the wish, but a wish may also span two neighbours.
    let has = |number: usize| there.iter().any(|(first, last)| (*first..=*last).contains(&number));
    if wanted.into_iter().all(|(first, last)| (first..=last).all(has)) {
        return Ok(());
    }
    Err(Error::Invalid(format!(
        "Requested {what} are not available - requested {text}, available: {available}"
    )))
}

/// The ranges of a list, as they are; `None` for anything else.
fn ranges(text: &str) -> Option<Vec<(usize, usize)>> {
    let number = |part: &str| {
        let digits = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        // More than fits is more than there can be.
        digits.then(|| part.parse::<usize>().unwrap_or(usize::MAX))
    };
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        number(first).zip(number(last)).filter(|(first, last)| first <= last)
    };
    text.split(',').map(range).collect()
}

fn blkio(host: &mut HostSpec, machine: &Machine, warnings: &mut Vec<String>) -> Result<()> {
    if host.blkio_weight != 0 && !machine.weight {
        warnings.push(missing("Block I/O weight", "Weight discarded."));
        host.blkio_weight = 0;
    }
    if host.blkio_weight != 0 && !(10..=1000).contains(&host.blkio_weight) {
        return Err(Error::Invalid("Range of blkio weight is from 10 to 1000".into()));
    }
    let families = [
        ("BlkioWeightDevice", machine.weight_device, "Block I/O weight_device", "Weight-device discarded."),
        (
            "BlkioDeviceReadBps",
            machine.throttle,
            "BPS Block I/O read limit",
            "Block I/O BPS read limit discarded.",
        ),
        (
            "BlkioDeviceWriteBps",
            machine.throttle,
            "BPS Block I/O write limit",
            "Block I/O BPS write limit discarded.",
        ),
        (
            "BlkioDeviceReadIOps",
            machine.throttle,
            "IOPS Block read limit",
            "Block I/O IOPS read limit discarded.",
        ),
        (
            "BlkioDeviceWriteIOps",
            machine.throttle,
            "IOPS Block write limit",
            "Block I/O IOPS write limit discarded.",
        ),
    ];
    for (kind, supported, what, consequence) in families {
        if !supported && host.blkio_devices.iter().any(|device| device.kind == kind) {
            warnings.push(missing(what, consequence));
            host.blkio_devices.retain(|device| device.kind != kind);
        }
    }
    Ok(())
}

/// Only sysctls of namespaces the container has to itself (RT-21).
fn sysctl(host: &HostSpec, name: &str, value: &str) -> Result<()> {
    use wharf_model::network::NetworkMode;
    let refused = |why: &str| Err(Error::Invalid(format!("sysctl \"{name}\" {why}")));
    let plain =
        |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    if !plain(name) || name.contains("..") || value.bytes().any(|b| b.is_ascii_control()) {
        return refused("is not the name of a kernel parameter");
    }
    let ipc = name.starts_with("fs.mqueue.")
        || matches!(
            name,
            "kernel.msgmax"
                | "kernel.msgmnb"
                | "kernel.msgmni"
                | "kernel.sem"
                | "kernel.shmall"
                | "kernel.shmmax"
                | "kernel.shmmni"
                | "kernel.shm_rmid_forced"
        );
    if ipc {
        if host.ipc_mode == "host" || host.ipc_mode.starts_with("container:") {
            return refused("is not allowed in the hosts ipc namespace");
        }
        return Ok(());
    }
    if name.starts_with("net.") {
        if matches!(host.network_mode, NetworkMode::Host | NetworkMode::Container(_)) {
            return refused("not allowed in host network namespace");
        }
        return Ok(());
    }
    match name {
        // As with Docker, the domain name of NIS has no other option.
        "kernel.domainname" if host.uts_mode != "host" => Ok(()),
        "kernel.domainname" => refused("is not allowed in the hosts uts namespace"),
        "kernel.hostname" => refused("is not allowed as it conflicts with the OCI \"hostname\" field"),
        _ => refused("is not in a separate kernel namespace"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_little_memory_is_refused_in_docker_s_words() {
        let mut host = HostSpec { memory: 1024, ..HostSpec::default() };
        assert_eq!(check(&mut host, false).unwrap_err().to_string(), "Minimum memory limit allowed is 6MB");
    }

    #[test]
    fn rt_27_absurd_cpusets_are_refused_at_once() {
        for text in ["0-2147483647", "0-18446744073709551615", "1-0", "a", "0,,1", "-"] {
            let mut host = HostSpec { cpuset_cpus: text.into(), ..HostSpec::default() };
            assert!(check(&mut host, false).is_err(), "{text}");
        }
    }

    #[test]
    fn rt_21_only_private_namespaced_sysctls() {
        let with = |name: &str, host: HostSpec| {
            check(&mut HostSpec { sysctls: [(name.to_owned(), "1".to_owned())].into(), ..host }, false)
        };
        with("net.ipv4.ip_forward", HostSpec::default()).unwrap();
        with("kernel.shmmax", HostSpec::default()).unwrap();
        let host_network =
            HostSpec { network_mode: wharf_model::network::NetworkMode::Host, ..HostSpec::default() };
        assert!(with("net.ipv4.ip_forward", host_network).is_err());
        for name in [
            "kernel.core_pattern",
            "net/../kernel.core_pattern",
            "net..ipv4",
            "kernel.shm+max",
            "vm.swappiness",
        ] {
            assert!(with(name, HostSpec::default()).is_err(), "{name}");
        }
    }

    #[test]
    fn what_the_machine_lacks_is_dropped_with_a_warning() {
        let bare = Machine {
            memory: true,
            swap: false,
            reservation: true,
            swappiness: false,
            oom_kill_disable: false,
            shares: true,
            cfs: true,
            realtime: false,
            cpuset: true,
            pids: true,
            weight: false,
            weight_device: false,
            throttle: true,
            cpus: "0-1,4".into(),
            mems: "0".into(),
        };
        let mut host = HostSpec {
            memory: 64 << 20,
            memory_swap: 64 << 20,
            blkio_weight: 5,
            oom_kill_disable: true,
            cpuset_cpus: "1,4".into(),
            ..HostSpec::default()
        };
        let warnings = limits(&mut host, false, &bare).unwrap();
        assert_eq!(warnings.len(), 3, "{warnings:?}");
        assert_eq!((host.memory_swap, host.blkio_weight, host.oom_kill_disable), (-1, 0, false));
        let mut host = HostSpec { cpuset_cpus: "0-2".into(), ..HostSpec::default() };
        assert_eq!(
            limits(&mut host, false, &bare).unwrap_err().to_string(),
            "Requested CPUs are not available - requested 0-2, available: 0-1,4"
        );
    }

    #[test]
    fn an_update_may_be_about_swap_alone() {
        let swap = || HostSpec { memory_swap: 64 << 20, ..HostSpec::default() };
        assert!(check(&mut swap(), false).is_err());
        assert!(check(&mut swap(), true).is_ok());
    }
}
