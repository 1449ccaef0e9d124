//! One sample of a container's figures.

use std::collections::{BTreeMap, HashMap};

use wharf_api::models::{
    ContainerBlkioStatEntry, ContainerBlkioStats, ContainerCpuStats, ContainerCpuUsage, ContainerMemoryStats,
    ContainerNetworkStats, ContainerPidsStats, ContainerStatsResponse, ContainerThrottlingData,
};
use wharf_engine::StatsView;
use wharf_linux::cgroup::BlkioEntry;

use crate::convert::{NEVER, filled};

/// A sample beside the one before it, from which clients compute rates.
pub(crate) fn to_model(view: &StatsView, previous: Option<&StatsView>) -> ContainerStatsResponse {
    // What does not run is not sampled.
    let read = |view: &StatsView| view.cgroup.as_ref().map(|_| view.read.to_string());
    let never = || Some(NEVER.to_owned());
    ContainerStatsResponse {
        id: Some(view.id.to_string()),
        name: Some(format!("/{}", view.name)),
        os_type: None,
        read: read(view).or_else(never),
        preread: previous.and_then(read).or_else(never),
        cpu_stats: cpu(view),
        precpu_stats: previous.and_then(cpu),
        memory_stats: memory(view),
        pids_stats: pids(view),
        blkio_stats: blkio(view),
        networks: networks(view),
        num_procs: None,
        storage_stats: None,
    }
}

fn cpu(view: &StatsView) -> Option<ContainerCpuStats> {
    let cpu = &view.cgroup.as_ref()?.cpu;
    Some(ContainerCpuStats {
        cpu_usage: Some(ContainerCpuUsage {
            total_usage: Some(cpu.usage_ns),
            percpu_usage: filled(cpu.per_cpu.clone()),
            usage_in_kernelmode: Some(cpu.system_ns),
            usage_in_usermode: Some(cpu.user_ns),
        }),
        system_cpu_usage: Some(view.system_cpu_ns),
        online_cpus: Some(view.online_cpus),
        throttling_data: Some(ContainerThrottlingData {
            periods: Some(cpu.throttling.periods),
            throttled_periods: Some(cpu.throttling.throttled_periods),
            throttled_time: Some(cpu.throttling.throttled_ns),
        }),
    })
}

fn memory(view: &StatsView) -> Option<ContainerMemoryStats> {
    let memory = &view.cgroup.as_ref()?.memory;
    let set = |number: u64| Some(number).filter(|number| *number != 0);
    // Without a limit of its own the machine is the limit.
    let limit = if memory.limit == 0 { view.memory_total } else { memory.limit.min(view.memory_total) };
    Some(ContainerMemoryStats {
        usage: set(memory.usage),
        max_usage: set(memory.max_usage),
        stats: Some(details(&memory.stat)),
        failcnt: set(memory.failcnt),
        limit: Some(limit),
        ..ContainerMemoryStats::default()
    })
}

/// What memory.stat tells. Of v1's Docker passes on these and no others, each also as a total.
fn details(stat: &BTreeMap<String, u64>) -> HashMap<String, u64> {
    const PASSED_ON: [&str; 15] = [
        "active_anon",
        "active_file",
        "cache",
        "dirty",
        "inactive_anon",
        "inactive_file",
        "mapped_file",
        "pgfault",
        "pgmajfault",
        "pgpgin",
        "pgpgout",
        "rss",
        "rss_huge",
        "unevictable",
        "writeback",
    ];
    if !stat.contains_key("hierarchical_memory_limit") {
        return stat.iter().map(|(name, value)| (name.clone(), *value)).collect();
    }
    let totals = PASSED_ON.map(|name| format!("total_{name}"));
    let limits = ["hierarchical_memory_limit", "hierarchical_memsw_limit"];
    let names = PASSED_ON.into_iter().chain(limits).chain(totals.iter().map(String::as_str));
    names.map(|name| (name.to_owned(), stat.get(name).copied().unwrap_or(0))).collect()
}

fn pids(view: &StatsView) -> Option<ContainerPidsStats> {
    let pids = &view.cgroup.as_ref()?.pids;
    let limited = (1..u64::MAX).contains(&pids.limit);
    Some(ContainerPidsStats { current: Some(pids.current), limit: limited.then_some(pids.limit) })
}

fn blkio(view: &StatsView) -> Option<ContainerBlkioStats> {
    let cgroup = view.cgroup.as_ref()?;
    let entries = |list: &[BlkioEntry]| -> Vec<ContainerBlkioStatEntry> {
        let entry = |entry: &BlkioEntry| ContainerBlkioStatEntry {
            major: Some(entry.major),
            minor: Some(entry.minor),
            op: Some(entry.op.clone()),
            value: Some(entry.value),
        };
        list.iter().map(entry).collect()
    };
    // On cgroup v1 Docker has empty lists for what the kernel does not tell any more, on v2 nothing.
    let old = cgroup.blkio_operations.as_ref().map(|_| Vec::new());
    Some(ContainerBlkioStats {
        io_service_bytes_recursive: Some(entries(&cgroup.blkio)),
        io_serviced_recursive: cgroup.blkio_operations.as_deref().map(entries),
        io_queue_recursive: old.clone(),
        io_service_time_recursive: old.clone(),
        io_wait_time_recursive: old.clone(),
        io_merged_recursive: old.clone(),
        io_time_recursive: old.clone(),
        sectors_recursive: old,
    })
}

fn networks(view: &StatsView) -> Option<HashMap<String, ContainerNetworkStats>> {
    let stats = |figures: &[u64; 8]| {
        let [rx_bytes, rx_packets, rx_errors, rx_dropped, tx_bytes, tx_packets, tx_errors, tx_dropped] =
            figures.map(Some);
        ContainerNetworkStats {
            rx_bytes,
            rx_packets,
            rx_errors,
            rx_dropped,
            tx_bytes,
            tx_packets,
            tx_errors,
            tx_dropped,
            endpoint_id: None,
            instance_id: None,
        }
    };
    let networks: HashMap<_, _> =
        view.networks.iter().map(|(name, figures)| (name.clone(), stats(figures))).collect();
    if networks.is_empty() { None } else { Some(networks) }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use serde_json::json;

    use super::*;
    use crate::shape::Shaped;
    use crate::shapes;

    fn view(running: bool) -> StatsView {
        let cgroup = wharf_linux::cgroup::Stats {
            cpu: wharf_linux::cgroup::CpuStats { usage_ns: 5, ..Default::default() },
            memory: wharf_linux::cgroup::MemoryStats { usage: 7, ..Default::default() },
            ..Default::default()
        };
        StatsView {
            id: wharf_model::ContainerId::from_bytes([1; 32]),
            name: "web".to_owned(),
            read: Timestamp::UNIX_EPOCH,
            cgroup: running.then_some(cgroup),
            system_cpu_ns: 100,
            online_cpus: 2,
            memory_total: 1000,
            networks: [("eth0".to_owned(), [1, 2, 3, 4, 5, 6, 7, 8])].into(),
        }
    }

    #[test]
    fn a_sample_carries_the_one_before() {
        let shown = serde_json::to_value(to_model(&view(true), Some(&view(true)))).unwrap();
        assert_eq!(shown["precpu_stats"]["cpu_usage"]["total_usage"], 5);
        assert_eq!(shown["memory_stats"], json!({"usage": 7, "limit": 1000, "stats": {}}));
        assert_eq!(shown["networks"]["eth0"]["tx_bytes"], 5);
        assert_eq!(shown["pids_stats"], json!({"current": 0}));
    }

    #[test]
    fn a_container_that_does_not_run_has_an_empty_sample() {
        let value = serde_json::to_value(to_model(&view(false), None)).unwrap();
        let text = serde_json::to_string(&Shaped::one(&value, shapes::STATS)).unwrap();
        let empty =
            r#""cpu_stats":{"cpu_usage":{"total_usage":0,"usage_in_kernelmode":0,"usage_in_usermode":0},"#;
        assert!(text.contains(empty), "{text}");
        assert!(text.contains(r#""read":"0001-01-01T00:00:00Z""#), "{text}");
        assert!(text.contains(r#""memory_stats":{}"#), "{text}");
    }
}
