//! What the engine says about itself.

use std::collections::HashMap;

use serde_json::{Value, json};
use wharf_api::models::{
    Commit, FirewallInfo, ImageSummary, IndexInfo, LocalNodeState, PluginsInfo, RegistryServiceConfig,
    Runtime, SwarmInfo, SystemInfo, SystemInfoCgroupDriverEnum, SystemInfoCgroupVersionEnum, SystemVersion,
    SystemVersionComponents, SystemVersionPlatform,
};
use wharf_api::version::ApiVersion;
use wharf_engine::{DiskUsage, RuntimeProgram, SystemView};

use crate::convert::{image, inspect, size, volume};
use crate::response::value;

/// This engine's version.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Go's name of the architecture this was built for, as all of Docker's documents have it.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The document of `GET /version`.
pub(crate) fn to_version(view: SystemView) -> SystemVersion {
    let details = [
        ("ApiVersion", ApiVersion::MAX.to_string()),
        ("Arch", architecture().to_owned()),
        ("BuildTime", String::new()),
        ("Experimental", "false".to_owned()),
        ("GitCommit", String::new()),
        ("GoVersion", String::new()),
        ("KernelVersion", view.kernel.clone()),
        ("MinAPIVersion", ApiVersion::MIN.to_string()),
        ("Os", "linux".to_owned()),
    ];
    SystemVersion {
        platform: Some(SystemVersionPlatform { name: "Wharf".to_owned() }),
        components: Some(vec![SystemVersionComponents {
            name: "Engine".to_owned(),
            version: VERSION.to_owned(),
            details: Some(details.map(|(name, value)| (name.to_owned(), value)).into()),
        }]),
        version: Some(VERSION.to_owned()),
        api_version: Some(ApiVersion::MAX.to_string()),
        min_api_version: Some(ApiVersion::MIN.to_string()),
        os: Some("linux".to_owned()),
        arch: Some(architecture().to_owned()),
        kernel_version: Some(view.kernel),
        ..SystemVersion::default()
    }
}

/// The document of `GET /info`.
pub(crate) fn to_info(view: SystemView) -> SystemInfo {
    let (all, running, paused, stopped) = view.containers;
    let count = |number: usize| Some(size(number as u64));
    let words = |words: &[&str]| Some(words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
    let mut security = vec!["name=seccomp,profile=builtin".to_owned()];
    if view.remapped {
        security.push("name=userns".to_owned());
    }
    if view.cgroup_version == "2" {
        security.push("name=cgroupns".to_owned());
    }
    SystemInfo {
        id: Some(view.id),
        containers: count(all),
        containers_running: count(running),
        containers_paused: count(paused),
        containers_stopped: count(stopped),
        images: count(view.images),
        driver: Some(inspect::STORAGE_DRIVER.to_owned()),
        driver_status: Some(vec![
            vec!["Backing Filesystem".to_owned(), view.backing_filesystem],
            vec!["Supports d_type".to_owned(), "true".to_owned()],
        ]),
        cdi_spec_dirs: Some(view.cdi_dirs),
        docker_root_dir: Some(view.data_root),
        plugins: Some(PluginsInfo {
            volume: words(&["local"]),
            network: words(&["bridge", "host", "null"]),
            authorization: None,
            log: words(&wharf_engine::LOG_DRIVERS),
        }),
        memory_limit: Some(true),
        swap_limit: Some(true),
        cpu_cfs_period: Some(true),
        cpu_cfs_quota: Some(true),
        cpu_shares: Some(true),
        cpu_set: Some(true),
        pids_limit: Some(true),
        oom_kill_disable: Some(view.cgroup_version == "1"),
        ipv4_forwarding: Some(true),
        debug: Some(view.debug),
        nfd: count(view.descriptors),
        system_time: Some(view.time.to_string()),
        logging_driver: Some(view.log_driver),
        cgroup_driver: Some(SystemInfoCgroupDriverEnum::CGROUPFS),
        cgroup_version: view.cgroup_version.parse::<SystemInfoCgroupVersionEnum>().ok(),
        n_events_listener: count(view.event_listeners),
        kernel_version: Some(view.kernel),
        operating_system: Some(view.operating_system),
        os_version: Some(view.os_version),
        os_type: Some("linux".to_owned()),
        architecture: Some(view.architecture),
        ncpu: Some(view.cpus.into()),
        mem_total: Some(size(view.memory)),
        index_server_address: Some("https://index.docker.io/v1/".to_owned()),
        registry_config: Some(registries(view.insecure_registries, view.registry_mirrors)),
        labels: Some(view.labels),
        name: Some(view.hostname),
        server_version: Some(VERSION.to_owned()),
        default_runtime: Some(view.runtimes.default_name().to_owned()),
        runtimes: Some(view.runtimes.all().into_iter().map(runtime).collect()),
        swarm: Some(SwarmInfo { local_node_state: Some(LocalNodeState::INACTIVE), ..SwarmInfo::default() }),
        live_restore_enabled: Some(view.live_restore),
        init_binary: Some("wharf-shim".to_owned()),
        containerd_commit: Some(Commit::default()),
        runc_commit: Some(Commit::default()),
        init_commit: Some(Commit::default()),
        security_options: Some(security),
        firewall_backend: Some(FirewallInfo { driver: Some("nftables".to_owned()), info: None }),
        ..SystemInfo::default()
    }
}

fn runtime((name, program): (String, RuntimeProgram)) -> (String, Runtime) {
    let args = (!program.args.is_empty()).then_some(program.args);
    (name, Runtime { path: Some(program.path), runtime_args: args, ..Runtime::default() })
}

fn registries(insecure: Vec<String>, mirrors: Vec<String>) -> RegistryServiceConfig {
    let entry = |name: &str, mirrors: Vec<String>, secure: bool| IndexInfo {
        name: Some(name.to_owned()),
        mirrors: Some(mirrors),
        secure: Some(secure),
        official: Some(name == "docker.io"),
    };
    let (ranges, hosts): (Vec<String>, Vec<String>) =
        insecure.into_iter().partition(|registry| registry.contains('/'));
    let mut indexes: HashMap<String, IndexInfo> =
        hosts.into_iter().map(|host| (host.clone(), entry(&host, Vec::new(), false))).collect();
    indexes.insert("docker.io".to_owned(), entry("docker.io", mirrors.clone(), true));
    let mut cidrs = vec!["::1/128".to_owned(), "127.0.0.0/8".to_owned()];
    cidrs.extend(ranges);
    RegistryServiceConfig {
        insecure_registry_cidrs: Some(cidrs),
        index_configs: Some(indexes),
        mirrors: (!mirrors.is_empty()).then_some(mirrors),
    }
}

/// Which parts of `GET /system/df` are asked for.
#[derive(Clone, Copy)]
pub(crate) struct Parts {
    pub(crate) images: bool,
    pub(crate) containers: bool,
    pub(crate) volumes: bool,
    pub(crate) build_cache: bool,
}

/// The document of `GET /system/df`, in the form before 1.52: the newer models have another.
pub(crate) fn to_disk_usage(usage: DiskUsage, containers: Vec<Value>, parts: Parts) -> Value {
    let shared = usage.shared;
    let images = usage.images.into_iter().map(|view| {
        let shared_size = size(shared.get(&view.image.id).copied().unwrap_or(0));
        value(&ImageSummary { shared_size, ..image::to_summary(view) })
    });
    let volumes: Vec<Value> = usage
        .volumes
        .into_iter()
        .map(|(view, bytes, users)| value(&volume::with_usage(view, bytes, users)))
        .collect();
    let part = |asked: bool, members: Vec<Value>| if asked { Value::Array(members) } else { Value::Null };
    json!({
        "LayersSize": if parts.images { size(usage.layers_size) } else { 0 },
        "Images": part(parts.images, images.collect()),
        "Containers": part(parts.containers, containers),
        "Volumes": part(parts.volumes, volumes),
        "BuildCache": part(parts.build_cache, Vec::new()),
    })
}
