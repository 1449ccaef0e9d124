//! What can be asked of a cgroup and what it tells.

use std::collections::BTreeMap;

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
    /// Operations on block devices; v1 only, as with Docker.
    pub blkio_operations: Option<Vec<BlkioEntry>>,
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
    /// As the kernel has it on v1 (`Read`, `Write`, `Sync`, `Total`, …); `read` and `write` on v2.
    pub op: String,
    /// Bytes, or operations.
    pub value: u64,
}
