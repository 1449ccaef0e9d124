//! The v1 controllers.

use super::file::{self, SettingFile, parse_number, write, write_if_there};
use super::types::{BlkioEntry, CpuStats, DeviceValue, MemoryStats, PidsStats, Resources, Stats, Throttling};
use super::{DeviceKind, DeviceRule, Error, Hierarchy, Layout, Result};
use rustix::fs::{Mode, OFlags};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Makes a group in one hierarchy, empty of processes and without limits of an earlier one of the same name.
pub(super) fn create(hierarchy: &Hierarchy, path: &Path) -> Result<PathBuf> {
    let cpuset = hierarchy.controllers.iter().any(|c| c == "cpuset");
    file::make_fresh(&hierarchy.root, path, &mut |made| if cpuset { fill_cpuset(made) } else { Ok(()) })
}

/// A new cpuset has no CPUs and takes no process. Ours inherit: the top one gets its parent's values by copying and
/// hands them on through `clone_children`, which spares every container a rebuild of the scheduler's domains.
fn fill_cpuset(dir: &Path) -> Result<()> {
    const NAMES: [&str; 2] = ["cpuset.cpus", "cpuset.mems"];
    let mut filled = NAMES.iter().map(|name| Ok(!file::read(&dir.join(name))?.trim().is_empty()));
    if filled.try_fold(true, |all, filled: Result<bool>| filled.map(|filled| all && filled))? {
        return Ok(());
    }
    let Some(parent) = dir.parent() else { return Ok(()) };
    // Another start may have made the parent this moment and not filled it yet, or one half of it. Only the
    // hierarchy's root has values of its own, and is never empty.
    fill_cpuset(parent)?;
    for name in NAMES {
        write(&dir.join(name), file::read(&parent.join(name))?.trim())?;
    }
    write(&dir.join("cgroup.clone_children"), "1")
}

/// Refuses limits whose controller the host lacks.
pub(super) fn require_controllers(layout: &Layout, r: &Resources) -> Result<()> {
    let wanted = [
        (r.memory.is_some_and(|m| m > 0), "memory", "the memory limit"),
        (r.cpu_quota.is_some_and(|q| q > 0) || r.cpu_shares.is_some_and(|s| s > 0), "cpu", "CPU limits"),
        (r.cpuset_cpus.is_some() || r.cpuset_mems.is_some(), "cpuset", "the CPU set"),
        (r.pids.is_some_and(|p| p > 0), "pids", "the process limit"),
        (r.blkio_weight.is_some_and(|w| w > 0), "blkio", "the block I/O weight"),
    ];
    for (asked, controller, setting) in wanted {
        if asked && !layout.v1.iter().any(|h| h.controllers.iter().any(|c| c == controller)) {
            return Err(Error::NoController { controller, setting });
        }
    }
    Ok(())
}

/// Applies the limits one hierarchy is concerned with.
pub(super) fn apply(hierarchy: &Hierarchy, dir: &Path, r: &Resources, update: bool) -> Result<()> {
    for controller in &hierarchy.controllers {
        match controller.as_str() {
            "memory" => memory(dir, r)?,
            "cpu" => cpu(dir, r)?,
            "cpuset" => cpuset(dir, r)?,
            "pids" => {
                if let Some(limit) = r.pids.filter(|p| *p != 0) {
                    write(&dir.join("pids.max"), &super::most_processes(limit))?;
                }
            }
            "blkio" => blkio(dir, r)?,
            "hugetlb" => {
                for (size, limit) in &r.hugepages {
                    write(&dir.join(format!("hugetlb.{size}.limit_in_bytes")), &limit.to_string())?;
                }
            }
            // The device list of a running container is never emptied and refilled: in between it would be wrong.
            "devices" if !update => devices(dir, &r.devices)?,
            _ => {}
        }
    }
    Ok(())
}

fn number(dir: &Path, name: &str, value: Option<impl ToString>) -> Result<()> {
    value.map_or(Ok(()), |value| write(&dir.join(name), &value.to_string()))
}

fn memory(dir: &Path, r: &Resources) -> Result<()> {
    let limit_file = dir.join("memory.limit_in_bytes");
    let swap_file = dir.join("memory.memsw.limit_in_bytes");
    let limit = r.memory.filter(|m| *m != 0).map(|m| m.to_string());
    // Without a swap limit of its own, "unlimited memory" means unlimited swap too.
    let swap = r.memory_swap.filter(|s| *s != 0).or(r.memory.filter(|m| *m == -1)).map(|s| s.to_string());
    let set_swap = || swap.as_ref().map_or(Ok(()), |swap| write_if_there(&swap_file, swap));
    if let Some(limit) = &limit {
        match write(&limit_file, limit) {
            // The limit may not exceed the old swap limit: then that one is raised first.
            Err(error) if error.is(libc::EINVAL) && swap.is_some() => {
                set_swap()?;
                write(&limit_file, limit)?;
            }
            Err(error) if error.is(libc::EBUSY) => {
                let usage = file::read_number(&dir.join("memory.usage_in_bytes"))?;
                let reason = format!("limit {limit} is below the {usage} bytes in use");
                return Err(Error::Invalid { what: "memory limit", reason });
            }
            other => other?,
        }
    }
    set_swap()?;
    number(dir, "memory.soft_limit_in_bytes", r.memory_reservation.filter(|m| *m != 0))?;
    number(dir, "memory.swappiness", r.swappiness)?;
    if r.disable_oom_killer {
        write(&dir.join("memory.oom_control"), "1")?;
    }
    Ok(())
}

fn cpu(dir: &Path, r: &Resources) -> Result<()> {
    number(dir, "cpu.shares", r.cpu_shares.filter(|s| *s != 0))?;
    number(dir, "cpu.rt_period_us", r.cpu_rt_period.filter(|p| *p != 0))?;
    number(dir, "cpu.rt_runtime_us", r.cpu_rt_runtime.filter(|t| *t != 0))?;
    let period = r.cpu_period.filter(|p| *p != 0);
    let quota = r.cpu_quota.filter(|q| *q != 0);
    match number(dir, "cpu.cfs_period_us", period) {
        // The new period may be too short or long for the old quota: then the quota goes first.
        Err(error) if error.is(libc::EINVAL) && quota.is_some() => {
            number(dir, "cpu.cfs_quota_us", quota)?;
            number(dir, "cpu.cfs_period_us", period)?;
        }
        other => {
            other?;
            number(dir, "cpu.cfs_quota_us", quota)?;
        }
    }
    number(dir, "cpu.cfs_burst_us", r.cpu_burst)?;
    number(dir, "cpu.idle", r.cpu_idle)
}

fn cpuset(dir: &Path, r: &Resources) -> Result<()> {
    number(dir, "cpuset.cpus", r.cpuset_cpus.as_ref().filter(|s| !s.is_empty()))?;
    number(dir, "cpuset.mems", r.cpuset_mems.as_ref().filter(|s| !s.is_empty()))
}

fn blkio(dir: &Path, r: &Resources) -> Result<()> {
    if let Some(weight) = r.blkio_weight.filter(|w| *w != 0) {
        match write(&dir.join("blkio.weight"), &weight.to_string()) {
            Err(error) if error.is_missing() => {
                write_if_there(&dir.join("blkio.bfq.weight"), &weight.to_string())?;
            }
            other => other?,
        }
    }
    let lists: [(&str, &[DeviceValue]); 5] = [
        ("blkio.weight_device", &r.blkio_weight_device),
        ("blkio.throttle.read_bps_device", &r.blkio_read_bps),
        ("blkio.throttle.write_bps_device", &r.blkio_write_bps),
        ("blkio.throttle.read_iops_device", &r.blkio_read_iops),
        ("blkio.throttle.write_iops_device", &r.blkio_write_iops),
    ];
    for (name, list) in lists {
        for d in list {
            write(&dir.join(name), &format!("{}:{} {}", d.major, d.minor, d.value))?;
        }
    }
    Ok(())
}

fn devices(dir: &Path, rules: &[DeviceRule]) -> Result<()> {
    let part = |n: Option<u32>| n.map_or("*".to_owned(), |n| n.to_string());
    if rules.is_empty() {
        return Ok(());
    }
    let (allow, deny) = (SettingFile::open(dir, "devices.allow")?, SettingFile::open(dir, "devices.deny")?);
    for rule in rules {
        let everything =
            rule.major.is_none() && rule.minor.is_none() && rule.read && rule.write && rule.mknod;
        let file = if rule.allow { &allow } else { &deny };
        let kinds: &[char] = match rule.kind {
            DeviceKind::All if everything => &['a'],
            DeviceKind::All => &['b', 'c'],
            DeviceKind::Block => &['b'],
            DeviceKind::Char => &['c'],
        };
        for kind in kinds {
            let mut line = format!("{kind} {}:{} ", part(rule.major), part(rule.minor));
            line.extend(
                [('r', rule.read), ('w', rule.write), ('m', rule.mknod)].iter().filter(|a| a.1).map(|a| a.0),
            );
            file.write(&line)?;
        }
    }
    Ok(())
}

/// Freezes or thaws. v1 gives no notification, and a fork in between can undo a freeze, so it is asked for again.
pub(super) fn set_frozen(dir: &Path, freeze: bool) -> Result<()> {
    const PATIENCE: Duration = Duration::from_secs(2);
    let path = dir.join("freezer.state");
    let wanted = if freeze { "FROZEN" } else { "THAWED" };
    let deadline = Instant::now() + PATIENCE;
    loop {
        write(&path, wanted)?;
        if file::read(&path)?.trim() == wanted {
            return Ok(());
        }
        if Instant::now() > deadline {
            // Never leave a container half frozen.
            write(&path, "THAWED")?;
            return Err(Error::Invalid { what: "state", reason: "its processes do not freeze".into() });
        }
        std::thread::sleep(Duration::from_micros(500));
    }
}

pub(super) fn frozen(dir: &Path) -> Result<bool> {
    Ok(file::read(&dir.join("freezer.state"))?.trim() != "THAWED")
}

/// An eventfd that the kernel adds to whenever the group is out of memory, before it chooses whom to kill.
pub(super) fn oom_notice(dir: &Path) -> Result<OwnedFd> {
    use rustix::event::{EventfdFlags, eventfd};
    let path = dir.join("memory.oom_control");
    let control = rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| Error::io("open", &path, e))?;
    let notice = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
        .map_err(|e| Error::io("make an eventfd for", &path, e))?;
    let registration = format!("{} {}", notice.as_raw_fd(), control.as_raw_fd());
    write(&dir.join("cgroup.event_control"), &registration)?;
    Ok(notice)
}

/// Collects what the controllers that are there tell.
pub(super) fn stats(dir: &dyn Fn(&str) -> Option<PathBuf>) -> Result<Stats> {
    let mut stats = Stats::default();
    if let Some(dir) = dir("cpuacct") {
        stats.cpu = cpu_stats(&dir)?;
    }
    if let Some(dir) = dir("cpu") {
        let keyed = file::read_keyed(&dir.join("cpu.stat"))?;
        let get = |key: &str| keyed.get(key).copied().unwrap_or(0);
        stats.cpu.throttling = Throttling {
            periods: get("nr_periods"),
            throttled_periods: get("nr_throttled"),
            throttled_ns: get("throttled_time"),
        };
    }
    if let Some(dir) = dir("memory") {
        let read = |name: &str| file::read_number(&dir.join(name));
        let limit = read("memory.limit_in_bytes")?;
        stats.memory = MemoryStats {
            usage: read("memory.usage_in_bytes")?,
            max_usage: read("memory.max_usage_in_bytes")?,
            // "No limit" is the largest multiple of the page size.
            limit: if limit > i64::MAX as u64 - (1 << 16) { u64::MAX } else { limit },
            stat: file::read_keyed(&dir.join("memory.stat"))?,
            failcnt: read("memory.failcnt")?,
        };
    }
    if let Some(dir) = dir("pids") {
        let limit = file::read_number(&dir.join("pids.max"))?;
        let current = file::read_number(&dir.join("pids.current"))?;
        stats.pids = PidsStats { current, limit: if limit == u64::MAX { 0 } else { limit } };
    }
    if let Some(dir) = dir("blkio") {
        let read = |name: &str| -> Vec<BlkioEntry> {
            let text = file::read(&dir.join(format!("blkio.throttle.{name}_recursive")))
                .or_else(|_| file::read(&dir.join(format!("blkio.throttle.{name}"))))
                .unwrap_or_default();
            text.lines().filter_map(blkio_line).collect()
        };
        stats.blkio = read("io_service_bytes");
        stats.blkio_operations = Some(read("io_serviced"));
    }
    Ok(stats)
}

fn cpu_stats(dir: &Path) -> Result<CpuStats> {
    const TICK_NS: u64 = 10_000_000; // USER_HZ is 100 on every architecture we run on
    let keyed = file::read_keyed(&dir.join("cpuacct.stat"))?;
    let get = |key: &str| keyed.get(key).copied().unwrap_or(0) * TICK_NS;
    let per_cpu = file::read(&dir.join("cpuacct.usage_percpu"))?;
    Ok(CpuStats {
        usage_ns: file::read_number(&dir.join("cpuacct.usage"))?,
        user_ns: get("user"),
        system_ns: get("system"),
        per_cpu: per_cpu.split_whitespace().map(parse_number).collect(),
        throttling: Throttling::default(),
    })
}

/// `8:0 Read 4096`; the line `Total 8192` has no device and is skipped.
fn blkio_line(line: &str) -> Option<BlkioEntry> {
    let mut words = line.split_whitespace();
    let (major, minor) = words.next()?.split_once(':')?;
    let op = words.next()?.to_owned();
    let value = words.next()?.parse().ok()?;
    Some(BlkioEntry { major: major.parse().ok()?, minor: minor.parse().ok()?, op, value })
}
