//! The unified hierarchy.

use super::file::{self, parse_number, write, write_if_there};
use super::types::{BlkioEntry, CpuStats, DeviceValue, MemoryStats, PidsStats, Resources, Stats, Throttling};
use super::{Error, Result, device_filter};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

/// Makes a group, empty of processes and without limits of an earlier one of the same name; its parents hand down every
/// controller they can if `controllers`.
pub(super) fn create(root: &Path, dir: &Path, controllers: bool) -> Result<OwnedFd> {
    let path = dir.strip_prefix(root).unwrap_or(dir);
    let dir = file::make_fresh(root, path, &mut |made| match made.parent() {
        Some(parent) if controllers => enable_controllers(parent),
        _ => Ok(()),
    })?;
    file::open_dir(&dir)
}

/// Hands down every controller of a group to its children.
fn enable_controllers(dir: &Path) -> Result<()> {
    let available = file::read(&dir.join("cgroup.controllers"))?;
    let enabled = file::read(&dir.join("cgroup.subtree_control"))?;
    for controller in available.split_whitespace().filter(|c| !enabled.split_whitespace().any(|e| e == *c)) {
        match write(&dir.join("cgroup.subtree_control"), &format!("+{controller}")) {
            // One that cannot be handed down now (processes of its own, real-time tasks) is missed only when it is
            // asked for, and then by name.
            Err(error) if error.is(libc::EBUSY) || error.is(libc::EINVAL) || error.is(libc::ENOENT) => {}
            other => other?,
        }
    }
    Ok(())
}

/// Applies the limits.
pub(super) fn apply(dir: &Path, r: &Resources) -> Result<()> {
    memory(dir, r)?;
    cpu(dir, r)?;
    if let Some(limit) = r.pids.filter(|p| *p != 0) {
        set(dir, "pids", "pids.max", &super::most_processes(limit))?;
    }
    io(dir, r)?;
    for (size, limit) in &r.hugepages {
        set(dir, "hugetlb", &format!("hugetlb.{size}.max"), &limit.to_string())?;
    }
    for (name, value) in &r.unified {
        if name.contains('/') || !name.contains('.') {
            return Err(Error::Invalid {
                what: "unified setting",
                reason: format!("{name:?} is not a file name"),
            });
        }
        write(&dir.join(name), value)?;
    }
    if r.devices.is_empty() { Ok(()) } else { device_filter::attach(dir, &r.devices) }
}

/// Writes a limit; a missing file means that the controller is missing.
fn set(dir: &Path, controller: &'static str, name: &str, value: &str) -> Result<()> {
    match write(&dir.join(name), value) {
        Err(error) if error.is_missing() => {
            Err(Error::NoController { controller, setting: controller_setting(controller) })
        }
        other => other,
    }
}

fn controller_setting(controller: &str) -> &'static str {
    match controller {
        "memory" => "the memory limit",
        "cpu" => "CPU limits",
        "cpuset" => "the CPU set",
        "pids" => "the process limit",
        "io" => "block I/O limits",
        _ => "huge page limits",
    }
}

fn limit(value: i64) -> String {
    if value < 0 { "max".to_owned() } else { value.to_string() }
}

fn memory(dir: &Path, r: &Resources) -> Result<()> {
    let memory = r.memory.filter(|m| *m != 0);
    // The spec's swap counts memory and swap together, the kernel's v2 file swap alone.
    let swap = match (r.memory_swap.filter(|s| *s != 0), memory) {
        (Some(-1), _) | (None, Some(-1)) => Some(-1),
        (None, _) => None,
        (Some(total), Some(memory)) if memory > 0 && total >= memory => Some(total - memory),
        (Some(total), _) => {
            let reason = format!("memory and swap together ({total}) need a memory limit that is not larger");
            return Err(Error::Invalid { what: "swap limit", reason });
        }
    };
    if let Some(swap) = swap {
        match write(&dir.join("memory.swap.max"), &limit(swap)) {
            // A kernel without swap accounting keeps "unlimited" and "none" anyway.
            Err(error) if error.is_missing() && swap <= 0 => {}
            other => other?,
        }
    }
    if let Some(memory) = memory {
        set(dir, "memory", "memory.max", &limit(memory))?;
    }
    match r.memory_reservation.filter(|m| *m != 0) {
        Some(low) => set(dir, "memory", "memory.low", &limit(low)),
        None => Ok(()),
    }
}

/// From v1's shares to v2's weight, such that the defaults (1024 and 100) and both ends meet.
fn weight_of_shares(shares: u64) -> u64 {
    match shares {
        0 => 0,
        1..=2 => 1,
        262_144.. => 10_000,
        _ => {
            let log = (shares as f64).log2();
            let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
            10f64.powf(exponent).ceil() as u64
        }
    }
}

fn cpu(dir: &Path, r: &Resources) -> Result<()> {
    if r.cpu_idle.is_some_and(|idle| idle > 0) {
        set(dir, "cpu", "cpu.idle", "1")?;
    } else if let Some(shares) = r.cpu_shares.filter(|s| *s != 0) {
        set(dir, "cpu", "cpu.weight", &weight_of_shares(shares).to_string())?;
    }
    let (quota, period) = (r.cpu_quota.filter(|q| *q != 0), r.cpu_period.filter(|p| *p != 0));
    if quota.is_some() || period.is_some() {
        let quota = quota.map_or("max".to_owned(), limit);
        let value = period.map_or(quota.clone(), |period| format!("{quota} {period}"));
        set(dir, "cpu", "cpu.max", &value)?;
    }
    if let Some(burst) = r.cpu_burst {
        set(dir, "cpu", "cpu.max.burst", &burst.to_string())?;
    }
    for (name, value) in [("cpuset.cpus", &r.cpuset_cpus), ("cpuset.mems", &r.cpuset_mems)] {
        if let Some(value) = value.as_ref().filter(|v| !v.is_empty()) {
            set(dir, "cpuset", name, value)?;
        }
    }
    Ok(())
}

fn io(dir: &Path, r: &Resources) -> Result<()> {
    if let Some(weight) = r.blkio_weight.filter(|w| *w != 0) {
        // The bfq scheduler takes the weight as it is; io.weight has another scale.
        match write(&dir.join("io.bfq.weight"), &weight.to_string()) {
            Err(error) if error.is_missing() => {
                let weight = 1 + (u64::from(weight).saturating_sub(10)) * 9999 / 990;
                write_if_there(&dir.join("io.weight"), &format!("default {weight}"))?;
            }
            other => other?,
        }
    }
    for d in &r.blkio_weight_device {
        write_if_there(&dir.join("io.bfq.weight"), &format!("{}:{} {}", d.major, d.minor, d.value))?;
    }
    let lists: [(&str, &[DeviceValue]); 4] = [
        ("rbps", &r.blkio_read_bps),
        ("wbps", &r.blkio_write_bps),
        ("riops", &r.blkio_read_iops),
        ("wiops", &r.blkio_write_iops),
    ];
    for (key, list) in lists {
        for d in list {
            set(dir, "io", "io.max", &format!("{}:{} {key}={}", d.major, d.minor, d.value))?;
        }
    }
    Ok(())
}

/// One number of `cgroup.events`.
pub(super) fn event(dir: &Path, key: &str) -> Result<u64> {
    Ok(file::read_keyed(&dir.join("cgroup.events"))?.get(key).copied().unwrap_or(0))
}

/// The kernel wakes nobody who waits for the events of a group that is removed: that is looked for this often.
const REMOVED_CHECK: Duration = Duration::from_millis(50);

/// Waits for a number of `cgroup.events` to become `wanted`, woken by the kernel; whether it did in time.
pub(super) fn wait_event(dir: &Path, key: &str, wanted: u64, deadline: Instant) -> Result<bool> {
    let path = dir.join("cgroup.events");
    let events = rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| Error::io("open", &path, e))?;
    loop {
        // Reading also arms the next notification.
        let mut buffer = [0; 256];
        let length = rustix::io::pread(&events, &mut buffer, 0).map_err(|e| Error::io("read", &path, e))?;
        let text = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default());
        let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ').map(parse_number));
        if value == Some(wanted) {
            return Ok(true);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        let pause = left.min(REMOVED_CHECK);
        let timeout = Timespec { tv_sec: 0, tv_nsec: pause.subsec_nanos().into() };
        match poll(&mut [PollFd::new(&events, PollFlags::PRI)], Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(Error::io("poll", &path, e)),
        }
    }
}

pub(super) fn set_frozen(dir: &Path, freeze: bool) -> Result<()> {
    const PATIENCE: Duration = Duration::from_secs(2);
    write(&dir.join("cgroup.freeze"), if freeze { "1" } else { "0" })?;
    if wait_event(dir, "frozen", freeze.into(), Instant::now() + PATIENCE)? {
        return Ok(());
    }
    if freeze {
        // Never leave a container half frozen.
        write(&dir.join("cgroup.freeze"), "0")?;
    }
    Err(Error::Invalid { what: "state", reason: "its processes do not freeze".into() })
}

/// The file whose changes are the news; it must have been read once, which arms it.
pub(super) fn oom_notice(dir: &Path) -> Result<OwnedFd> {
    let path = dir.join("memory.events");
    let events = rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| Error::io("open", &path, e))?;
    rustix::io::pread(&events, &mut [0; 256], 0).map_err(|e| Error::io("read", &path, e))?;
    Ok(events)
}

/// Collects what the enabled controllers tell.
pub(super) fn stats(dir: &Path) -> Result<Stats> {
    let number = |name: &str| file::read_number(&dir.join(name)).ok();
    let keyed = |name: &str| match file::read_keyed(&dir.join(name)) {
        Err(error) if error.is_missing() => Ok(BTreeMap::new()),
        other => other,
    };
    let cpu = file::read_keyed(&dir.join("cpu.stat"))?;
    let micros = |key: &str| cpu.get(key).copied().unwrap_or(0) * 1000;
    let count = |key: &str| cpu.get(key).copied().unwrap_or(0);
    let usage = number("memory.current").unwrap_or(0);
    let io = file::read(&dir.join("io.stat")).unwrap_or_default();
    Ok(Stats {
        cpu: CpuStats {
            usage_ns: micros("usage_usec"),
            user_ns: micros("user_usec"),
            system_ns: micros("system_usec"),
            per_cpu: Vec::new(),
            throttling: Throttling {
                periods: count("nr_periods"),
                throttled_periods: count("nr_throttled"),
                throttled_ns: micros("throttled_usec"),
            },
        },
        memory: MemoryStats {
            usage,
            max_usage: number("memory.peak").unwrap_or(usage),
            limit: number("memory.max").unwrap_or(u64::MAX),
            stat: keyed("memory.stat")?,
            failcnt: keyed("memory.events")?.get("max").copied().unwrap_or(0),
        },
        pids: PidsStats {
            current: number("pids.current").unwrap_or(0),
            limit: number("pids.max").filter(|n| *n != u64::MAX).unwrap_or(0),
        },
        blkio: io.lines().flat_map(io_line).collect(),
        blkio_operations: None,
    })
}

/// `8:0 rbytes=1 wbytes=2 rios=3 …` gives bytes read and written.
fn io_line(line: &str) -> Vec<BlkioEntry> {
    let mut words = line.split_whitespace();
    let Some((major, minor)) = words.next().and_then(|device| device.split_once(':')) else {
        return Vec::new();
    };
    let (Ok(major), Ok(minor)) = (major.parse(), minor.parse()) else { return Vec::new() };
    let entry = |word: &str| {
        let (key, value) = word.split_once('=')?;
        let op = match key {
            "rbytes" => "read",
            "wbytes" => "write",
            _ => return None,
        };
        Some(BlkioEntry { major, minor, op: op.to_owned(), value: value.parse().ok()? })
    };
    words.filter_map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_meet_the_weights_at_default_and_ends() {
        let pairs = [(2, 1), (1024, 100), (262_144, 10_000), (1, 1), (512, 59), (2048, 174)];
        for (shares, weight) in pairs {
            assert_eq!(weight_of_shares(shares), weight, "{shares}");
        }
    }

    #[test]
    fn io_lines_give_bytes() {
        let entries = io_line("253:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0");
        let seen: Vec<_> = entries.iter().map(|e| (e.major, e.minor, e.op.as_str(), e.value)).collect();
        assert_eq!(seen, [(253, 0, "read", 4096), (253, 0, "write", 8192)]);
        assert!(io_line("garbage").is_empty());
    }

    /// The unified hierarchy's files, as plain ones.
    fn fake(files: &[(&str, &str)]) -> std::path::PathBuf {
        let dir = std::env::temp_dir().join(format!("wharf-v2-{}-{}", std::process::id(), files.len()));
        std::fs::create_dir_all(&dir).unwrap();
        for (name, value) in files {
            std::fs::write(dir.join(name), value).unwrap();
        }
        dir
    }

    #[test]
    fn an_update_counts_swap_alone_and_can_be_taken_back() {
        let dir = fake(&[
            ("memory.max", "max"),
            ("memory.swap.max", "max"),
            ("pids.max", "max"),
            ("cpu.max", "max 100000"),
        ]);
        let before = file::remember(&dir);
        let limits = Resources {
            memory: Some(100),
            memory_swap: Some(250),
            pids: Some(70),
            cpu_quota: Some(50_000),
            cpu_period: Some(100_000),
            ..Resources::default()
        };
        apply(&dir, &limits).unwrap();
        let value = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap();
        // Plain files keep the tail of a longer old value; the kernel's do not.
        assert_eq!((value("memory.max").as_str(), value("memory.swap.max").as_str()), ("100", "150"));
        assert!(value("cpu.max").starts_with("50000 100000") && value("pids.max").starts_with("70"));
        file::restore(&before);
        assert_eq!((value("memory.max").as_str(), value("pids.max").as_str()), ("max", "max"));
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
