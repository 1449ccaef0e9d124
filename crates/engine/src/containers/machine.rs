//! What this machine's control groups can do: a limit they lack is dropped with a warning, as Docker does it, and not
//! found out by a start that fails.

use std::path::Path;
use std::sync::OnceLock;

use wharf_linux::{cgroup, hostfs};

/// One flag per family of limits.
#[expect(clippy::struct_excessive_bools, reason = "a table of independent facts about the kernel")]
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) memory: bool,
    pub(crate) swap: bool,
    pub(crate) reservation: bool,
    pub(crate) swappiness: bool,
    pub(crate) oom_kill_disable: bool,
    pub(crate) shares: bool,
    pub(crate) cfs: bool,
    pub(crate) realtime: bool,
    pub(crate) cpuset: bool,
    pub(crate) pids: bool,
    pub(crate) weight: bool,
    pub(crate) weight_device: bool,
    pub(crate) throttle: bool,
    /// CPUs and memory nodes in the kernel's form, such as `0-3`.
    pub(crate) cpus: String,
    pub(crate) mems: String,
}

/// Looked at once: hierarchies do not come and go while an engine runs.
pub(crate) fn machine() -> &'static Machine {
    static MACHINE: OnceLock<Machine> = OnceLock::new();
    MACHINE.get_or_init(look)
}

/// How many CPUs this engine may use. Asking reads a dozen files, and every create wants to know.
pub(crate) fn cpu_count() -> usize {
    static COUNT: OnceLock<usize> = OnceLock::new();
    *COUNT.get_or_init(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get))
}

fn look() -> Machine {
    let listed = |path: &str| {
        hostfs::read_to_string(Path::new(path)).map_or_else(|_| "0".to_owned(), |text| text.trim().to_owned())
    };
    let cpus = listed("/sys/devices/system/cpu/online");
    let mems = listed("/sys/devices/system/node/online");
    match cgroup::detect() {
        Ok(cgroup::Mode::V2) => {
            let controllers =
                hostfs::read_to_string(Path::new("/sys/fs/cgroup/cgroup.controllers")).unwrap_or_default();
            let has = |name: &str| controllers.split_whitespace().any(|controller| controller == name);
            Machine {
                memory: has("memory"),
                // The root has no such file; the kernel says by its own directory whether swap is counted.
                swap: has("memory"),
                reservation: has("memory"),
                swappiness: false,
                oom_kill_disable: false,
                shares: has("cpu"),
                cfs: has("cpu"),
                realtime: false,
                cpuset: has("cpuset"),
                pids: has("pids"),
                weight: has("io"),
                weight_device: has("io"),
                throttle: has("io"),
                cpus,
                mems,
            }
        }
        _ => {
            let there = |file: &str| Path::new("/sys/fs/cgroup").join(file).exists();
            Machine {
                memory: there("memory/memory.limit_in_bytes"),
                swap: there("memory/memory.memsw.limit_in_bytes"),
                reservation: there("memory/memory.soft_limit_in_bytes"),
                swappiness: there("memory/memory.swappiness"),
                oom_kill_disable: there("memory/memory.oom_control"),
                shares: there("cpu/cpu.shares"),
                cfs: there("cpu/cpu.cfs_quota_us"),
                realtime: there("cpu/cpu.rt_runtime_us"),
                cpuset: there("cpuset/cpuset.cpus"),
                pids: there("pids/cgroup.procs"),
                weight: there("blkio/blkio.weight") || there("blkio/blkio.bfq.weight"),
                weight_device: there("blkio/blkio.weight_device") || there("blkio/blkio.bfq.weight_device"),
                throttle: there("blkio/blkio.throttle.read_bps_device"),
                cpus,
                mems,
            }
        }
    }
}
