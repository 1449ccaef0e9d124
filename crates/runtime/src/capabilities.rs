//! The capability sets of a process as bits.

use crate::spec::{Capability, LinuxCapabilities};
use wharf_linux::capability::{Set, Sets};

/// The sets of a configuration. Without any, the process has none.
pub(crate) fn sets(capabilities: Option<&LinuxCapabilities>) -> Sets {
    let Some(listed) = capabilities else { return Sets::default() };
    let bits = |set: &Option<crate::spec::Capabilities>| {
        Set(set.iter().flatten().fold(0, |bits, capability| bits | 1 << number(*capability)))
    };
    // What the kernel does not know, or we may not hand on, cannot be given. As in runc, that is not an error:
    // configurations list the newest kernel's capabilities.
    let possible = wharf_linux::capability::permitted().map_or(u64::MAX, |set| set.0);
    let given = |set| Set(bits(set).0 & possible);
    let permitted = given(listed.permitted());
    let inheritable = given(listed.inheritable());
    Sets {
        bounding: given(listed.bounding()),
        effective: Set(given(listed.effective()).0 & permitted.0),
        permitted,
        inheritable,
        // The kernel keeps ambient within both.
        ambient: Set(given(listed.ambient()).0 & permitted.0 & inheritable.0),
    }
}

/// The kernel's number.
const fn number(capability: Capability) -> u8 {
    match capability {
        Capability::Chown => 0,
        Capability::DacOverride => 1,
        Capability::DacReadSearch => 2,
        Capability::Fowner => 3,
        Capability::Fsetid => 4,
        Capability::Kill => 5,
        Capability::Setgid => 6,
        Capability::Setuid => 7,
        Capability::Setpcap => 8,
        Capability::LinuxImmutable => 9,
        Capability::NetBindService => 10,
        Capability::NetBroadcast => 11,
        Capability::NetAdmin => 12,
        Capability::NetRaw => 13,
        Capability::IpcLock => 14,
        Capability::IpcOwner => 15,
        Capability::SysModule => 16,
        Capability::SysRawio => 17,
        Capability::SysChroot => 18,
        Capability::SysPtrace => 19,
        Capability::SysPacct => 20,
        Capability::SysAdmin => 21,
        Capability::SysBoot => 22,
        Capability::SysNice => 23,
        Capability::SysResource => 24,
        Capability::SysTime => 25,
        Capability::SysTtyConfig => 26,
        Capability::Mknod => 27,
        Capability::Lease => 28,
        Capability::AuditWrite => 29,
        Capability::AuditControl => 30,
        Capability::Setfcap => 31,
        Capability::MacOverride => 32,
        Capability::MacAdmin => 33,
        Capability::Syslog => 34,
        Capability::WakeAlarm => 35,
        Capability::BlockSuspend => 36,
        Capability::AuditRead => 37,
        Capability::Perfmon => 38,
        Capability::Bpf => 39,
        Capability::CheckpointRestore => 40,
    }
}
