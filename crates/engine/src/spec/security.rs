//! Capabilities and `--security-opt`.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use wharf_model::spec::HostSpec;

use crate::containers::cpu_count;
use crate::{Error, Result};

/// All capabilities of Linux (capabilities(7), up to 6.x), in the kernel's order.
const ALL: &[&str] = &[
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// What a container has unless told otherwise (Docker's default set).
const DEFAULT: &[&str] = &[
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// Paths whose content tells of the host or reaches into it.
const MASKED_PATHS: &[&str] = &[
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

/// The default list of masked paths: the fixed ones and the thermal counters of each CPU that has them, looked for once.
pub(crate) fn masked_paths() -> Vec<String> {
    static COUNTERS: OnceLock<Vec<String>> = OnceLock::new();
    let present = COUNTERS.get_or_init(|| {
        let counters = |cpu: usize| format!("/sys/devices/system/cpu/cpu{cpu}/thermal_throttle");
        (0..cpu_count()).map(counters).filter(|path| std::path::Path::new(path).exists()).collect()
    });
    MASKED_PATHS.iter().map(|path| (*path).to_owned()).chain(present.iter().cloned()).collect()
}

/// Paths that are readable but change the host when written.
pub(crate) const READONLY_PATHS: &[&str] =
    &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// What `--security-opt` comes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) no_new_privileges: bool,
    pub(crate) seccomp: SeccompOption,
    pub(crate) apparmor: Option<String>,
}

/// Which system call filter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum SeccompOption {
    /// The built-in profile.
    #[default]
    Default,
    /// None.
    Unconfined,
    /// A profile in Docker's JSON.
    Profile(String),
}

/// Reads `--security-opt`.
pub(crate) fn options(host: &HostSpec) -> Result<Options> {
    let mut options = Options::default();
    for option in &host.security_opt {
        // Docker's numbers: 1 for no form of an option at all, 2 for an unknown one. Both are its internal errors.
        let invalid = |number: u8| Error::System(format!("invalid --security-opt {number}: {option:?}"));
        if option == "no-new-privileges" {
            options.no_new_privileges = true;
            continue;
        }
        let (key, value) =
            option.split_once('=').or_else(|| option.split_once(':')).ok_or_else(|| invalid(1))?;
        match (key, value) {
            ("no-new-privileges", "true") => options.no_new_privileges = true,
            ("no-new-privileges", "false") => options.no_new_privileges = false,
            ("seccomp", "unconfined") => options.seccomp = SeccompOption::Unconfined,
            ("seccomp", "builtin") => options.seccomp = SeccompOption::Default,
            ("seccomp", profile) if !profile.is_empty() => {
                options.seccomp = SeccompOption::Profile(profile.to_owned())
            }
            ("apparmor", profile) => options.apparmor = Some(profile.to_owned()),
            ("label", _) | ("writable-cgroups", "true" | "false") => {}
            _ => return Err(invalid(2)),
        }
    }
    Ok(options)
}

/// Checks what can be checked without a container.
pub(crate) fn check(host: &HostSpec) -> Result<()> {
    capabilities(host)?;
    if let SeccompOption::Profile(profile) = options(host)?.seccomp {
        super::seccomp_profile(&profile, &capabilities(host)?)?;
    }
    for rule in &host.device_cgroup_rules {
        super::devices::parse_rule(rule)?;
    }
    Ok(())
}

/// `net_admin` as `CAP_NET_ADMIN`; `ALL` stays as it is.
pub(crate) fn full_name(name: &str) -> String {
    let upper = name.to_ascii_uppercase();
    if upper == "ALL" || upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") }
}

/// The capabilities of the container's processes.
pub(crate) fn capabilities(host: &HostSpec) -> Result<BTreeSet<&'static str>> {
    let known = |list: &str, name: &str| -> Result<Option<&'static str>> {
        let full = full_name(name);
        if full == "ALL" {
            return Ok(None);
        }
        let found = ALL.iter().find(|known| **known == full);
        found
            .map(|name| Some(*name))
            .ok_or_else(|| Error::Invalid(format!("invalid {list}: unknown capability: \"{full}\"")))
    };
    let mut add = BTreeSet::new();
    let mut add_all = false;
    for name in &host.cap_add {
        match known("CapAdd", name)? {
            Some(name) => drop(add.insert(name)),
            None => add_all = true,
        }
    }
    let mut drop_all = false;
    let mut dropped = BTreeSet::new();
    for name in &host.cap_drop {
        match known("CapDrop", name)? {
            Some(name) => drop(dropped.insert(name)),
            None => drop_all = true,
        }
    }
    if host.privileged {
        return Ok(ALL.iter().copied().collect());
    }
    let base: &[&str] = if add_all {
        ALL
    } else if drop_all {
        &[]
    } else {
        DEFAULT
    };
    let mut set: BTreeSet<&'static str> =
        base.iter().copied().filter(|name| !dropped.contains(name)).collect();
    set.extend(add);
    Ok(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(add: &[&str], drop: &[&str]) -> HostSpec {
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        HostSpec { cap_add: list(add), cap_drop: list(drop), ..HostSpec::default() }
    }

    #[test]
    fn capabilities_are_added_and_dropped() {
        assert_eq!(capabilities(&host(&[], &[])).unwrap().len(), 14);
        let set = capabilities(&host(&["NET_ADMIN"], &["all"])).unwrap();
        assert_eq!(set.into_iter().collect::<Vec<_>>(), ["CAP_NET_ADMIN"]);
        let set = capabilities(&host(&["ALL"], &["CAP_SYS_ADMIN"])).unwrap();
        assert!(set.contains("CAP_BPF") && !set.contains("CAP_SYS_ADMIN"));
        assert!(capabilities(&host(&["FOO"], &[])).is_err());
        assert!(capabilities(&host(&[], &["FOO"])).is_err());
    }

    #[test]
    fn unknown_options_are_refused() {
        let with = |text: &str| options(&HostSpec { security_opt: vec![text.into()], ..HostSpec::default() });
        assert!(with("no-new-privileges").unwrap().no_new_privileges);
        assert_eq!(with("seccomp=unconfined").unwrap().seccomp, SeccompOption::Unconfined);
        assert!(
            with("bogus").is_err() && with("bogus=1").is_err() && with("no-new-privileges=maybe").is_err()
        );
    }
}
