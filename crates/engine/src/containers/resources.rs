//! Limits: what can be asked for on this machine.

use wharf_model::spec::HostSpec;

use crate::{Error, Result};

/// The least memory a container can be given: less does not even start.
const MINIMUM_MEMORY: i64 = 6 * 1024 * 1024;

/// Checks limits against each other and the machine; answers warnings.
pub(super) fn check(host: &HostSpec) -> Result<Vec<String>> {
    memory(host)?;
    cpu(host)?;
    if host.pids_limit.is_some_and(|limit| limit < -1) {
        return Err(Error::Invalid("PIDs limit must be -1 or positive".into()));
    }
    if host.blkio_weight != 0 && !(10..=1000).contains(&host.blkio_weight) {
        return Err(Error::Invalid("range of blkio weight is from 10 to 1000".into()));
    }
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
        if !RLIMITS.contains(&limit.name.as_str()) {
            return Err(Error::Invalid(format!("invalid ulimit type: {}", limit.name)));
        }
        if limit.hard != -1 && (limit.soft == -1 || limit.soft > limit.hard) {
            return Err(Error::Invalid(format!(
                "ulimit soft limit must be less than or equal to hard limit: {} > {}",
                limit.soft, limit.hard
            )));
        }
    }
    Ok(Vec::new())
}

/// Names of limits, as `--ulimit` spells them.
const RLIMITS: &[&str] = &[
    "as",
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

fn memory(host: &HostSpec) -> Result<()> {
    let invalid = |text: &str| Err(Error::Invalid(text.to_owned()));
    if host.memory != 0 && host.memory < MINIMUM_MEMORY {
        return invalid("Minimum memory limit allowed is 6MB");
    }
    if host.memory > 0 && host.memory_swap > 0 && host.memory_swap < host.memory {
        return invalid("Minimum memoryswap limit should be larger than memory limit, see usage");
    }
    if host.memory == 0 && host.memory_swap > 0 {
        return invalid("You should always set the Memory limit when using Memoryswap limit, see usage");
    }
    if host.memory_swappiness.is_some_and(|value| !(-1..=100).contains(&value)) {
        return invalid("Invalid value for memory swappiness, valid memory swappiness range is 0-100");
    }
    if host.memory_reservation != 0 && host.memory_reservation < MINIMUM_MEMORY {
        return invalid("Minimum memory reservation allowed is 6MB");
    }
    if host.memory > 0 && host.memory_reservation > host.memory {
        return invalid("Minimum memory limit can not be less than memory reservation limit, see usage");
    }
    Ok(())
}

fn cpu(host: &HostSpec) -> Result<()> {
    let invalid = |text: String| Err(Error::Invalid(text));
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    if host.nano_cpus > 0 && (host.cpu_period > 0 || host.cpu_quota > 0) {
        return invalid("Conflicting options: Nano CPUs and CPU Period or Quota cannot both be set.".into());
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
    if host.cpu_period != 0 && !(1_000..=1_000_000).contains(&host.cpu_period) {
        return invalid(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)".into(),
        );
    }
    if host.cpu_quota > 0 && host.cpu_quota < 1_000 {
        return invalid("CPU cfs quota can not be less than 1ms (i.e. 1000)".into());
    }
    cpuset("cpus", &host.cpuset_cpus, cpus)?;
    cpuset("mems", &host.cpuset_mems, 1024)
}

/// Lists like `0-2,7`: parsed without ever counting one by one up to an absurd end (RT-27).
fn cpuset(what: &str, text: &str, available: usize) -> Result<()> {
    if text.is_empty() {
        return Ok(());
    }
    let invalid = || Error::Invalid(format!("Invalid value {text} for cpuset {what}"));
    let number = |part: &str| part.trim().parse::<usize>().map_err(|_| invalid());
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(first)?, number(last)?);
        if first > last {
            return Err(invalid());
        }
        if last >= available {
            return Err(Error::Invalid(format!(
                "Requested {} are not available - requested {text}, available: 0-{}",
                if what == "cpus" { "CPUs" } else { "memory nodes" },
                available - 1
            )));
        }
    }
    Ok(())
}

/// Only sysctls of namespaces the container has to itself (RT-21).
fn sysctl(host: &HostSpec, name: &str, value: &str) -> Result<()> {
    use wharf_model::network::NetworkMode;
    let refused = |why: &str| Err(Error::Invalid(format!("sysctl '{name}' is not allowed: {why}")));
    let plain =
        |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    if !plain(name) || name.contains("..") || value.bytes().any(|b| b.is_ascii_control()) {
        return refused("it has characters that no sysctl has");
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
            return refused("the IPC namespace is shared");
        }
        return Ok(());
    }
    if name.starts_with("net.") {
        if matches!(host.network_mode, NetworkMode::Host | NetworkMode::Container(_)) {
            return refused("the network namespace is shared");
        }
        return Ok(());
    }
    refused("it is not separate per container")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_little_memory_is_refused_in_docker_s_words() {
        let host = HostSpec { memory: 1024, ..HostSpec::default() };
        assert_eq!(check(&host).unwrap_err().to_string(), "Minimum memory limit allowed is 6MB");
    }

    #[test]
    fn rt_27_absurd_cpusets_are_refused_at_once() {
        for text in ["0-2147483647", "0-18446744073709551615", "1-0", "a", "0,,1", "-"] {
            let host = HostSpec { cpuset_cpus: text.into(), ..HostSpec::default() };
            assert!(check(&host).is_err(), "{text}");
        }
    }

    #[test]
    fn rt_21_only_private_namespaced_sysctls() {
        let with = |name: &str, host: HostSpec| {
            check(&HostSpec { sysctls: [(name.to_owned(), "1".to_owned())].into(), ..host })
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
}
