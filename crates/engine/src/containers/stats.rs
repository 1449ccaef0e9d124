//! `stats`: one sample of what a container uses.

use std::collections::BTreeMap;
use std::path::Path;

use jiff::Timestamp;
use wharf_linux::cgroup::Cgroup;
use wharf_linux::hostfs;

use crate::blocking::blocking;
use crate::{Engine, Result, StatsView};

impl Engine {
    /// One sample. Of a container that does not run, only its name.
    ///
    /// # Errors
    /// [`crate::Error::NoSuchContainer`].
    pub async fn stats(&self, name: &str) -> Result<StatsView> {
        let container = self.find(name)?;
        let record = container.record().clone();
        let path = record.is_running().then(|| self.cgroup_path(&record));
        blocking(move || {
            // It may end while it is looked at: then it does not run.
            let cgroup = path.and_then(|path| Cgroup::open(&path).and_then(|cgroup| cgroup.stats()).ok());
            let networks = if cgroup.is_some() { interfaces(record.pid) } else { BTreeMap::new() };
            Ok(StatsView {
                id: record.id,
                name: record.name,
                read: Timestamp::now(),
                cgroup,
                system_cpu_ns: system_cpu_ns().unwrap_or(0),
                online_cpus: u32::try_from(
                    std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
                )
                .unwrap_or(1),
                memory_total: crate::system::memory_total(),
                networks,
            })
        })
        .await
    }
}

/// CPU time of the whole machine since boot (proc_stat(5): user to steal, in hundredths of a second).
fn system_cpu_ns() -> Option<u64> {
    let text = hostfs::read_to_string(Path::new("/proc/stat")).ok()?;
    let first = text.lines().next()?.strip_prefix("cpu ")?;
    let ticks: u64 =
        first.split_ascii_whitespace().take(8).filter_map(|field| field.parse::<u64>().ok()).sum();
    Some(ticks * 10_000_000)
}

/// Counters of a namespace's interfaces, without loopback, from `/proc/<pid>/net/dev`.
fn interfaces(pid: i32) -> BTreeMap<String, [u64; 8]> {
    hostfs::read_to_string(Path::new(&format!("/proc/{pid}/net/dev")))
        .map(|text| parse(&text))
        .unwrap_or_default()
}

fn parse(text: &str) -> BTreeMap<String, [u64; 8]> {
    let mut interfaces = BTreeMap::new();
    for line in text.lines().skip(2) {
        let Some((name, counters)) = line.split_once(':') else { continue };
        let numbers: Vec<u64> = counters.split_ascii_whitespace().filter_map(|n| n.parse().ok()).collect();
        if name.trim() == "lo" || numbers.len() < 12 {
            continue;
        }
        let [rx, tx] = [&numbers[0..4], &numbers[8..12]];
        interfaces.insert(name.trim().to_owned(), [rx[0], rx[1], rx[2], rx[3], tx[0], tx[1], tx[2], tx[3]]);
    }
    interfaces
}

#[cfg(test)]
mod tests {
    #[test]
    fn counters_are_read() {
        let text = "h1\nh2\n    lo: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n  eth0: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n";
        let parsed = super::parse(text);
        assert_eq!(
            parsed.into_iter().collect::<Vec<_>>(),
            [("eth0".to_owned(), [1, 2, 3, 4, 9, 10, 11, 12])]
        );
    }
}
