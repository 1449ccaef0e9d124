//! The limits of a configuration as the cgroup layer takes them, and the kernel parameters it may set.

use crate::devices;
use crate::error::{Error, Result};
use crate::spec::{LinuxBlockIo, LinuxNamespaceType, LinuxThrottleDevice, Spec};
use wharf_linux::cgroup::{DeviceValue, Resources};

/// The limits, with the device list of every container.
pub(crate) fn resources(spec: &Spec) -> Result<Resources> {
    let mut all = limits(spec.linux().as_ref().and_then(|l| l.resources().as_ref()))?;
    all.devices = devices::rules(spec)?;
    Ok(all)
}

/// The limits alone, as `update` changes them: no device list.
pub fn limits(listed: Option<&crate::spec::LinuxResources>) -> Result<Resources> {
    let mut all = Resources::default();
    let Some(listed) = listed else { return Ok(all) };
    if let Some(memory) = listed.memory() {
        all.memory = memory.limit();
        all.memory_reservation = memory.reservation();
        all.memory_swap = memory.swap();
        all.swappiness = memory.swappiness();
        all.disable_oom_killer = memory.disable_oom_killer().unwrap_or(false);
    }
    if let Some(cpu) = listed.cpu() {
        all.cpu_shares = cpu.shares();
        all.cpu_quota = cpu.quota();
        all.cpu_period = cpu.period();
        all.cpu_burst = cpu.burst();
        all.cpu_idle = cpu.idle();
        all.cpu_rt_runtime = cpu.realtime_runtime();
        all.cpu_rt_period = cpu.realtime_period();
        all.cpuset_cpus = cpu.cpus().clone();
        all.cpuset_mems = cpu.mems().clone();
    }
    all.pids = listed.pids().as_ref().map(crate::spec::LinuxPids::limit);
    if let Some(io) = listed.block_io() {
        block_io(&mut all, io);
    }
    for limit in listed.hugepage_limits().iter().flatten() {
        all.hugepages.push((limit.page_size().clone(), limit.limit()));
    }
    for (name, value) in listed.unified().iter().flatten() {
        all.unified.insert(name.clone(), value.clone());
    }
    for (what, list) in [("CPUs", &all.cpuset_cpus), ("memory nodes", &all.cpuset_mems)] {
        check_set(what, list.as_deref().unwrap_or_default())?;
    }
    Ok(all)
}

fn block_io(all: &mut Resources, io: &LinuxBlockIo) {
    let rates = |list: &Option<Vec<LinuxThrottleDevice>>| {
        let value =
            |d: &LinuxThrottleDevice| DeviceValue { major: d.major(), minor: d.minor(), value: d.rate() };
        list.iter().flatten().map(value).collect::<Vec<_>>()
    };
    all.blkio_weight = io.weight();
    for d in io.weight_device().iter().flatten() {
        if let Some(weight) = d.weight() {
            all.blkio_weight_device.push(DeviceValue {
                major: d.major(),
                minor: d.minor(),
                value: weight.into(),
            });
        }
    }
    all.blkio_read_bps = rates(io.throttle_read_bps_device());
    all.blkio_write_bps = rates(io.throttle_write_bps_device());
    all.blkio_read_iops = rates(io.throttle_read_iops_device());
    all.blkio_write_iops = rates(io.throttle_write_iops_device());
}

/// A list such as `0-3,5`, checked without expanding it.
fn check_set(what: &str, text: &str) -> Result<()> {
    const MOST: u32 = 1 << 16;
    let number = |text: &str| text.parse::<u32>().ok().filter(|n| *n < MOST);
    let part = |part: &str| match part.split_once('-') {
        Some((first, last)) => matches!((number(first), number(last)), (Some(a), Some(b)) if a <= b),
        None => number(part).is_some(),
    };
    if text.is_empty() || text.trim().split(',').all(part) {
        return Ok(());
    }
    Err(Error::invalid(format!("{text:?} is not a list of {what} such as 0-3,5")))
}

/// Kernel parameters as paths below `/proc/sys`, each proven to belong to a namespace that is not the host's.
pub(crate) fn sysctls(spec: &Spec) -> Result<Vec<(String, String)>> {
    let linux = spec.linux().as_ref();
    let mut list: Vec<_> = linux.and_then(|l| l.sysctl().as_ref()).into_iter().flatten().collect();
    list.sort();
    list.into_iter().map(|(key, value)| sysctl(spec, key).map(|path| (path, value.clone()))).collect()
}

fn sysctl(spec: &Spec, key: &str) -> Result<String> {
    const IPC: [&str; 8] = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    ];
    let refuse = |why: &str| Err(Error::invalid(format!("sysctl {key:?} {why}")));
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    if key.len() > 256 || !key.chars().all(plain) || key.split('.').any(str::is_empty) {
        return refuse("is not the name of a kernel parameter");
    }
    let (needed, what) = if IPC.contains(&key) || key.starts_with("fs.mqueue.") {
        (LinuxNamespaceType::Ipc, "IPC")
    } else if key.starts_with("net.") {
        (LinuxNamespaceType::Network, "network")
    } else if key == "kernel.domainname" {
        (LinuxNamespaceType::Uts, "UTS")
    } else {
        return refuse("is not in a separate kernel namespace: it would change the host");
    };
    let namespaces = spec.linux().as_ref().and_then(|l| l.namespaces().as_ref());
    if !namespaces.into_iter().flatten().any(|n| n.typ() == needed) {
        return refuse(&format!("is not allowed in the host's {what} namespace"));
    }
    Ok(key.replace('.', "/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(namespaces: &[&str]) -> Spec {
        let list: Vec<_> = namespaces.iter().map(|n| format!(r#"{{"type":"{n}"}}"#)).collect();
        let json = format!(r#"{{"ociVersion":"1.0.2","linux":{{"namespaces":[{}]}}}}"#, list.join(","));
        serde_json::from_str(&json).unwrap()
    }

    #[test]
    fn rt_21_only_namespaced_parameters_of_private_namespaces() {
        let private = spec(&["ipc", "network", "uts"]);
        assert_eq!(sysctl(&private, "net.ipv4.ip_forward").unwrap(), "net/ipv4/ip_forward");
        assert_eq!(sysctl(&private, "kernel.sem").unwrap(), "kernel/sem");
        assert_eq!(sysctl(&private, "fs.mqueue.msg_max").unwrap(), "fs/mqueue/msg_max");
        let refused = [
            "kernel.core_pattern",
            "kernel.sem+",
            "net/ipv4/../../kernel/core_pattern",
            "net..ipv4",
            "net.ipv4.x y",
            "net.x\n",
            "kernel.shm_rmid_forced.x",
            "fs.mqueue",
            "vm.overcommit_memory",
            "",
        ];
        for key in refused {
            assert!(sysctl(&private, key).is_err(), "{key:?}");
        }
        let host = spec(&["uts"]);
        for key in ["net.ipv4.ip_forward", "kernel.sem", "fs.mqueue.msg_max"] {
            assert!(sysctl(&host, key).is_err(), "{key:?}");
        }
    }

    #[test]
    fn rt_27_absurd_sets_are_refused_without_expanding_them() {
        for good in ["", "0", "0-3,5", "0-1\n"] {
            assert!(check_set("CPUs", good).is_ok(), "{good:?}");
        }
        for bad in ["0-2147483647", "3-1", "x", "1,,2", "-1", "0-"] {
            assert!(check_set("CPUs", bad).is_err(), "{bad:?}");
        }
    }
}
