//! Control groups of one container, on cgroup v1, v2 and hybrid hosts behind one type.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// What can go wrong with a cgroup. Every variant names the file or directory concerned.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A cgroup file or directory could not be read, written, made or removed.
    #[error("{operation} {}: {source}", path.display())]
    Io {
        /// What was tried: `open`, `write`, `mkdir`, ….
        operation: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// A limit was asked for whose controller is not there.
    #[error("cgroup controller {controller} is not available: cannot set {setting}")]
    NoController {
        /// The controller's name, such as `memory`.
        controller: &'static str,
        /// What was to be set.
        setting: &'static str,
    },
    /// The path or a value does not make sense.
    #[error("invalid cgroup {what}: {reason}")]
    Invalid {
        /// Which setting.
        what: &'static str,
        /// Why.
        reason: String,
    },
    /// No cgroup file system is mounted.
    #[error("no cgroup file system is mounted under /sys/fs/cgroup")]
    NotMounted,
}

/// Result of cgroup operations.
pub type Result<T> = std::result::Result<T, Error>;

/// How the host mounts its controllers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Only v1 hierarchies.
    V1,
    /// One unified hierarchy.
    V2,
    /// v1 controllers with a v2 hierarchy beside them.
    Hybrid,
}

/// Finds out how `/sys/fs/cgroup` is mounted.
pub fn detect() -> Result<Mode> {
    todo!()
}

/// The limits of a container. `None` leaves a setting as the kernel has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resources {
    /// Memory limit in bytes, -1 for unlimited.
    pub memory: Option<i64>,
    /// Soft limit (v1) or `memory.low` (v2) in bytes.
    pub memory_reservation: Option<i64>,
    /// Memory plus swap in bytes, -1 for unlimited, as in the OCI spec.
    pub memory_swap: Option<i64>,
    /// 0 to 100, v1 only.
    pub swappiness: Option<u64>,
    /// v1 only: do not kill on out-of-memory.
    pub disable_oom_killer: bool,
    /// Relative CPU weight, 2 to 262144, 1024 by default.
    pub cpu_shares: Option<u64>,
    /// Microseconds of CPU time per period, -1 for unlimited.
    pub cpu_quota: Option<i64>,
    /// Length of the period in microseconds.
    pub cpu_period: Option<u64>,
    /// Burst in microseconds.
    pub cpu_burst: Option<u64>,
    /// `SCHED_IDLE` for the whole group.
    pub cpu_idle: Option<i64>,
    /// Real-time budget in microseconds, v1 only.
    pub cpu_rt_runtime: Option<i64>,
    /// Real-time period in microseconds, v1 only.
    pub cpu_rt_period: Option<u64>,
    /// CPUs as in `0-3,5`.
    pub cpuset_cpus: Option<String>,
    /// Memory nodes.
    pub cpuset_mems: Option<String>,
    /// Number of tasks, -1 for unlimited.
    pub pids: Option<i64>,
    /// 10 to 1000.
    pub blkio_weight: Option<u16>,
    /// Weight by device.
    pub blkio_weight_device: Vec<DeviceValue>,
    /// Bytes per second.
    pub blkio_read_bps: Vec<DeviceValue>,
    /// Bytes per second.
    pub blkio_write_bps: Vec<DeviceValue>,
    /// Operations per second.
    pub blkio_read_iops: Vec<DeviceValue>,
    /// Operations per second.
    pub blkio_write_iops: Vec<DeviceValue>,
    /// Page size (`2MB`) and limit in bytes.
    pub hugepages: Vec<(String, i64)>,
    /// Device rules in order; an empty list leaves devices alone.
    pub devices: Vec<DeviceRule>,
    /// v2 files by name, written as they are.
    pub unified: BTreeMap<String, String>,
}

/// A number for one block device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceValue {
    /// Major number.
    pub major: i64,
    /// Minor number.
    pub minor: i64,
    /// Weight or rate.
    pub value: u64,
}

/// Kind of device a rule speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceKind {
    /// Both kinds.
    All,
    /// Block devices.
    Block,
    /// Character devices.
    Char,
}

/// One line of the device list; later lines win.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceRule {
    /// Allow or deny.
    pub allow: bool,
    /// Which kind.
    pub kind: DeviceKind,
    /// `None` for any.
    pub major: Option<u32>,
    /// `None` for any.
    pub minor: Option<u32>,
    /// Read.
    pub read: bool,
    /// Write.
    pub write: bool,
    /// Make the node.
    pub mknod: bool,
}

/// What a container has used so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Processor time.
    pub cpu: CpuStats,
    /// Memory.
    pub memory: MemoryStats,
    /// Number of tasks.
    pub pids: PidsStats,
    /// Bytes moved per device and operation.
    pub blkio: Vec<BlkioEntry>,
}

/// Processor time in nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CpuStats {
    /// Total.
    pub usage_ns: u64,
    /// In user mode.
    pub user_ns: u64,
    /// In the kernel.
    pub system_ns: u64,
    /// Per CPU; empty where the kernel does not tell (v2).
    pub per_cpu: Vec<u64>,
    /// Quota enforcement.
    pub throttling: Throttling,
}

/// Quota enforcement so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Throttling {
    /// Periods that elapsed.
    pub periods: u64,
    /// Periods in which the group was throttled.
    pub throttled_periods: u64,
    /// Time spent throttled.
    pub throttled_ns: u64,
}

/// Memory in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryStats {
    /// In use now.
    pub usage: u64,
    /// The most there ever was.
    pub max_usage: u64,
    /// The limit; `u64::MAX` where there is none.
    pub limit: u64,
    /// `memory.stat` as it is.
    pub stat: BTreeMap<String, u64>,
    /// How often the limit was hit.
    pub failcnt: u64,
}

/// Number of tasks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PidsStats {
    /// Now.
    pub current: u64,
    /// The limit; 0 where there is none.
    pub limit: u64,
}

/// Bytes moved by one kind of operation on one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlkioEntry {
    /// Major number.
    pub major: u64,
    /// Minor number.
    pub minor: u64,
    /// `read`, `write`, …, in lower case.
    pub op: String,
    /// Bytes.
    pub value: u64,
}

/// One container's control group in every hierarchy of the host.
#[derive(Debug, Clone)]
pub struct Cgroup {
    _mode: Mode,
}

impl Cgroup {
    /// Names the group by `linux.cgroupsPath` of its spec, such as `/wharf/<id>`. Touches nothing.
    pub fn open(_cgroups_path: &str) -> Result<Cgroup> {
        todo!()
    }
    /// Whether the group is there.
    pub fn exists(&self) -> bool {
        todo!()
    }
    /// Makes the group in every hierarchy and applies the limits.
    pub fn create(&self, _resources: &Resources) -> Result<()> {
        todo!()
    }
    /// Changes limits of a group that is there.
    pub fn update(&self, _resources: &Resources) -> Result<()> {
        todo!()
    }
    /// Kills every process in the group.
    pub fn kill_all(&self) -> Result<()> {
        todo!()
    }
    /// Stops every process and returns when all have stopped.
    pub fn freeze(&self) -> Result<()> {
        todo!()
    }
    /// Lets the processes run again.
    pub fn thaw(&self) -> Result<()> {
        todo!()
    }
    /// Whether the group is frozen.
    pub fn frozen(&self) -> Result<bool> {
        todo!()
    }
    /// Processes in the group and below, as the caller's pid namespace numbers them.
    pub fn pids(&self) -> Result<Vec<i32>> {
        todo!()
    }
    /// Whether no process is left in the group and below.
    pub fn is_empty(&self) -> Result<bool> {
        todo!()
    }
    /// What the group has used.
    pub fn stats(&self) -> Result<Stats> {
        todo!()
    }
    /// How many processes of the group the kernel has killed for want of memory.
    pub fn oom_kills(&self) -> Result<u64> {
        todo!()
    }
    /// A descriptor that polls readable (`POLLPRI`) when a process was killed for want of memory, where the host has one.
    pub fn oom_event(&self) -> Result<Option<OwnedFd>> {
        todo!()
    }
    /// Removes the group and every group below it. Fine if there is none.
    pub fn delete(&self) -> Result<()> {
        todo!()
    }
}
