//! `HostConfig` in both directions. What is given at create is what inspect shows.

use std::collections::{BTreeMap, HashMap};

use serde_json::Value;
use wharf_api::models::{
    DeviceMapping as DeviceModel, DeviceRequest as RequestModel, HostConfig, HostConfigCgroupnsModeEnum,
    HostConfigIsolationEnum, HostConfigLogConfig, PortBinding, PortMap, ResourcesBlkioWeightDevice,
    ResourcesUlimits, RestartPolicy as RestartModel, RestartPolicyNameEnum, ThrottleDevice,
};
use wharf_model::network::{NetworkMode, Port};
use wharf_model::spec::{
    BlkioDevice, DeviceMapping, DeviceRequest, HostPort, HostSpec, LogSpec, RestartName, RestartPolicy,
    Ulimit,
};

use crate::convert::{filled, filled_map, mount, ordered};
use crate::error::{Failure, Result};

/// `/dev/shm` of a container that asked for no size.
const SHM_SIZE: i64 = 64 << 20;
/// The log driver of records from before there was more than one.
const LOG_DRIVER: &str = "json-file";

/// Words that one of the models' closed sets would refuse without saying what is allowed.
pub(crate) fn check_words(host: &Value) -> Result<()> {
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let policy = word(&host["RestartPolicy"]["Name"]);
    if !matches!(policy.as_str(), "" | "no" | "always" | "on-failure" | "unless-stopped") {
        return Err(Failure::invalid(format!(
            "invalid restart policy: unknown policy '{policy}'; use one of 'no', 'always', 'on-failure', or \
             'unless-stopped'"
        )));
    }
    let isolation = word(&host["Isolation"]);
    if !matches!(isolation.as_str(), "" | "default") {
        return Err(Failure::invalid(format!(
            "invalid isolation ({isolation}): linux only supports 'default'"
        )));
    }
    let cgroupns = word(&host["CgroupnsMode"]);
    if !matches!(cgroupns.as_str(), "" | "private" | "host") {
        return Err(Failure::invalid(format!("invalid cgroup namespace mode: {cgroupns}")));
    }
    host["Mounts"].as_array().into_iter().flatten().try_for_each(mount::check_words)
}

/// The engine's wishes for the host from the wire. That no field is forgotten follows from [`to_model`], which names
/// them all, and from the test that every field comes back.
pub(crate) fn from_model(host: HostConfig) -> Result<HostSpec> {
    let mut blkio_devices: Vec<BlkioDevice> = weights(host.blkio_weight_device).collect();
    blkio_devices.extend(rates("BlkioDeviceReadBps", host.blkio_device_read_bps));
    blkio_devices.extend(rates("BlkioDeviceWriteBps", host.blkio_device_write_bps));
    blkio_devices.extend(rates("BlkioDeviceReadIOps", host.blkio_device_read_iops));
    blkio_devices.extend(rates("BlkioDeviceWriteIOps", host.blkio_device_write_iops));
    Ok(HostSpec {
        binds: host.binds.unwrap_or_default(),
        mounts: host.mounts.into_iter().flatten().map(mount::from_model).collect::<Result<_>>()?,
        tmpfs: ordered(host.tmpfs),
        // The edge knows of which version the request is.
        read_only_top: false,
        volumes_from: host.volumes_from.unwrap_or_default(),
        volume_driver: host.volume_driver.unwrap_or_default(),
        network_mode: NetworkMode::from(host.network_mode.unwrap_or_default()),
        port_bindings: bindings(host.port_bindings)?,
        publish_all_ports: host.publish_all_ports.unwrap_or_default(),
        restart_policy: restart(host.restart_policy)?,
        auto_remove: host.auto_remove.unwrap_or_default(),
        dns: host.dns.unwrap_or_default(),
        dns_options: host.dns_options.unwrap_or_default(),
        dns_search: host.dns_search.unwrap_or_default(),
        extra_hosts: host.extra_hosts.unwrap_or_default(),
        links: host.links.unwrap_or_default(),
        group_add: host.group_add.unwrap_or_default(),
        cap_add: host.cap_add.unwrap_or_default(),
        cap_drop: host.cap_drop.unwrap_or_default(),
        privileged: host.privileged.unwrap_or_default(),
        security_opt: host.security_opt.unwrap_or_default(),
        readonly_rootfs: host.readonly_rootfs.unwrap_or_default(),
        masked_paths: host.masked_paths,
        readonly_paths: host.readonly_paths,
        ipc_mode: host.ipc_mode.unwrap_or_default(),
        pid_mode: host.pid_mode.unwrap_or_default(),
        uts_mode: host.uts_mode.unwrap_or_default(),
        userns_mode: host.userns_mode.unwrap_or_default(),
        cgroupns_mode: host.cgroupns_mode.map(|mode| mode.to_string()).unwrap_or_default(),
        cgroup_parent: host.cgroup_parent.unwrap_or_default(),
        init: host.init,
        shm_size: host.shm_size.unwrap_or_default(),
        sysctls: ordered(host.sysctls),
        ulimits: host.ulimits.into_iter().flatten().map(ulimit).collect(),
        devices: host.devices.into_iter().flatten().map(device).collect(),
        device_cgroup_rules: host.device_cgroup_rules.unwrap_or_default(),
        device_requests: host.device_requests.into_iter().flatten().map(device_request).collect(),
        isolation: host.isolation.map(|isolation| isolation.to_string()).unwrap_or_default(),
        cgroup: host.cgroup.unwrap_or_default(),
        memory: host.memory.unwrap_or_default(),
        memory_swap: host.memory_swap.unwrap_or_default(),
        memory_reservation: host.memory_reservation.unwrap_or_default(),
        // Some clients send -1 for "as the kernel has it".
        memory_swappiness: host.memory_swappiness.filter(|value| *value != -1),
        oom_kill_disable: host.oom_kill_disable.unwrap_or_default(),
        oom_score_adj: host.oom_score_adj.unwrap_or_default(),
        nano_cpus: host.nano_cpus.unwrap_or_default(),
        cpu_shares: host.cpu_shares.unwrap_or_default(),
        cpu_period: host.cpu_period.unwrap_or_default(),
        cpu_quota: host.cpu_quota.unwrap_or_default(),
        cpu_realtime_period: host.cpu_realtime_period.unwrap_or_default(),
        cpu_realtime_runtime: host.cpu_realtime_runtime.unwrap_or_default(),
        cpuset_cpus: host.cpuset_cpus.unwrap_or_default(),
        cpuset_mems: host.cpuset_mems.unwrap_or_default(),
        // 0 and everything negative mean no limit, and are shown as none.
        pids_limit: host.pids_limit.filter(|limit| *limit > 0),
        blkio_weight: host.blkio_weight.unwrap_or_default(),
        blkio_devices,
        log: log(host.log_config),
        runtime: host.runtime.unwrap_or_default(),
        annotations: ordered(host.annotations),
        storage_opt: ordered(host.storage_opt),
        container_id_file: host.container_id_file.unwrap_or_default(),
        console_size: console(host.console_size.as_deref()),
    })
}

/// The wire form of the engine's wishes for the host.
pub(crate) fn to_model(host: HostSpec) -> HostConfig {
    let devices = host.blkio_devices;
    HostConfig {
        cpu_shares: Some(host.cpu_shares),
        memory: Some(host.memory),
        cgroup_parent: Some(host.cgroup_parent),
        blkio_weight: Some(host.blkio_weight),
        blkio_weight_device: filled(weight_models(&devices)),
        blkio_device_read_bps: filled(rate_models("BlkioDeviceReadBps", &devices)),
        blkio_device_write_bps: filled(rate_models("BlkioDeviceWriteBps", &devices)),
        blkio_device_read_iops: filled(rate_models("BlkioDeviceReadIOps", &devices)),
        blkio_device_write_iops: filled(rate_models("BlkioDeviceWriteIOps", &devices)),
        cpu_period: Some(host.cpu_period),
        cpu_quota: Some(host.cpu_quota),
        cpu_realtime_period: Some(host.cpu_realtime_period),
        cpu_realtime_runtime: Some(host.cpu_realtime_runtime),
        cpuset_cpus: Some(host.cpuset_cpus),
        cpuset_mems: Some(host.cpuset_mems),
        devices: filled(host.devices.into_iter().map(device_model).collect()),
        device_cgroup_rules: filled(host.device_cgroup_rules),
        device_requests: filled(host.device_requests.into_iter().map(device_request_model).collect()),
        memory_reservation: Some(host.memory_reservation),
        memory_swap: Some(host.memory_swap),
        memory_swappiness: host.memory_swappiness,
        nano_cpus: Some(host.nano_cpus),
        oom_kill_disable: Some(host.oom_kill_disable),
        init: host.init,
        pids_limit: host.pids_limit,
        ulimits: filled(host.ulimits.into_iter().map(ulimit_model).collect()),
        binds: filled(host.binds),
        container_id_file: Some(host.container_id_file),
        log_config: Some(log_model(host.log)),
        network_mode: Some(host.network_mode.to_string()),
        port_bindings: Some(binding_models(host.port_bindings)),
        restart_policy: Some(restart_model(&host.restart_policy)),
        auto_remove: Some(host.auto_remove),
        volume_driver: Some(host.volume_driver),
        volumes_from: filled(host.volumes_from),
        mounts: filled(host.mounts.into_iter().map(mount::to_model).collect()),
        console_size: Some(vec![host.console_size.0.into(), host.console_size.1.into()]),
        annotations: filled_map(host.annotations),
        cap_add: filled(host.cap_add),
        cap_drop: filled(host.cap_drop),
        cgroupns_mode: host.cgroupns_mode.parse::<HostConfigCgroupnsModeEnum>().ok(),
        dns: filled(host.dns),
        dns_options: filled(host.dns_options),
        dns_search: filled(host.dns_search),
        extra_hosts: filled(host.extra_hosts),
        group_add: filled(host.group_add),
        ipc_mode: Some(or(host.ipc_mode, "private")),
        cgroup: Some(host.cgroup),
        links: filled(host.links),
        oom_score_adj: Some(host.oom_score_adj),
        pid_mode: Some(host.pid_mode),
        privileged: Some(host.privileged),
        publish_all_ports: Some(host.publish_all_ports),
        readonly_rootfs: Some(host.readonly_rootfs),
        security_opt: filled(host.security_opt),
        storage_opt: filled_map(host.storage_opt),
        tmpfs: filled_map(host.tmpfs),
        uts_mode: Some(host.uts_mode),
        userns_mode: Some(host.userns_mode),
        shm_size: Some(if host.shm_size == 0 { SHM_SIZE } else { host.shm_size }),
        sysctls: filled_map(host.sysctls),
        runtime: Some(or(host.runtime, wharf_engine::BUILT_IN_RUNTIME)),
        isolation: host.isolation.parse::<HostConfigIsolationEnum>().ok(),
        masked_paths: host.masked_paths,
        readonly_paths: host.readonly_paths,
        cpu_count: None,
        cpu_percent: None,
        io_maximum_iops: None,
        io_maximum_bandwidth: None,
    }
}

fn or(text: String, default: &str) -> String {
    if text.is_empty() { default.to_owned() } else { text }
}

fn console(size: Option<&[usize]>) -> (u16, u16) {
    let at = |index: usize| {
        let cells = size.and_then(|size| size.get(index)).copied().unwrap_or_default();
        u16::try_from(cells).unwrap_or_default()
    };
    (at(0), at(1))
}

/// `80`, `80/udp` or `8000-8010/tcp` as single ports.
pub(crate) fn port_range(text: &str) -> Result<Vec<Port>> {
    let invalid = || Failure::invalid(format!("invalid port specification: {text:?}"));
    let (numbers, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let (first, last) = numbers.split_once('-').unwrap_or((numbers, numbers));
    let port = |number: &str| format!("{number}/{protocol}").parse::<Port>().map_err(|_| invalid());
    let (first, last) = (port(first)?, port(last)?);
    if first.number > last.number {
        return Err(invalid());
    }
    Ok((first.number..=last.number).map(|number| Port { number, ..first }).collect())
}

fn bindings(ports: Option<PortMap>) -> Result<BTreeMap<Port, Vec<HostPort>>> {
    let mut all = BTreeMap::new();
    for (text, wishes) in ports.into_iter().flatten() {
        let hosts = wishes.into_iter().flatten().map(host_port).collect::<Result<Vec<_>>>()?;
        let ports = port_range(&text)?;
        if ports.len() > 1 && hosts.iter().any(|host| !host.port.is_empty()) {
            // Which of them would get the host's port?
            return Err(Failure::invalid(format!("invalid port specification: {text:?}")));
        }
        all.extend(ports.into_iter().map(|port| (port, hosts.clone())));
    }
    Ok(all)
}

fn host_port(binding: PortBinding) -> Result<HostPort> {
    let ip = binding.host_ip.unwrap_or_default();
    if !ip.is_empty() && ip.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_err() {
        return Err(Failure::invalid(format!("invalid IP address: {ip}")));
    }
    let port = binding.host_port.unwrap_or_default();
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<u16>().ok().filter(|_| digits)
    };
    let (first, last) = port.split_once('-').unwrap_or((&port, &port));
    let ordered = number(first).zip(number(last)).is_some_and(|(first, last)| first <= last);
    if !port.is_empty() && !ordered {
        return Err(Failure::invalid(format!("invalid port specification: {port:?}")));
    }
    Ok(HostPort { ip, port })
}

fn binding_models(bindings: BTreeMap<Port, Vec<HostPort>>) -> PortMap {
    let model = |host: HostPort| PortBinding { host_ip: Some(host.ip), host_port: Some(host.port) };
    bindings
        .into_iter()
        .map(|(port, hosts)| (port.to_string(), Some(hosts.into_iter().map(model).collect())))
        .collect()
}

fn restart(policy: Option<RestartModel>) -> Result<RestartPolicy> {
    let policy = policy.unwrap_or_default();
    let count = policy.maximum_retry_count.unwrap_or_default();
    let name = match policy.name.unwrap_or(RestartPolicyNameEnum::EMPTY) {
        RestartPolicyNameEnum::EMPTY | RestartPolicyNameEnum::NO => RestartName::No,
        RestartPolicyNameEnum::ALWAYS => RestartName::Always,
        RestartPolicyNameEnum::UNLESS_STOPPED => RestartName::UnlessStopped,
        RestartPolicyNameEnum::ON_FAILURE => RestartName::OnFailure,
    };
    if name != RestartName::OnFailure && count != 0 {
        let also = if count < 0 { " and cannot be negative" } else { "" };
        return Err(Failure::invalid(format!(
            "invalid restart policy: maximum retry count can only be used with 'on-failure'{also}"
        )));
    }
    if count < 0 {
        return Err(Failure::invalid("invalid restart policy: maximum retry count cannot be negative"));
    }
    Ok(RestartPolicy { name, maximum_retry_count: count })
}

fn restart_model(policy: &RestartPolicy) -> RestartModel {
    RestartModel {
        name: Some(match policy.name {
            RestartName::No => RestartPolicyNameEnum::NO,
            RestartName::Always => RestartPolicyNameEnum::ALWAYS,
            RestartName::UnlessStopped => RestartPolicyNameEnum::UNLESS_STOPPED,
            RestartName::OnFailure => RestartPolicyNameEnum::ON_FAILURE,
        }),
        maximum_retry_count: Some(policy.maximum_retry_count),
    }
}

fn log(config: Option<HostConfigLogConfig>) -> LogSpec {
    let config = config.unwrap_or_default();
    LogSpec { driver: config.typ.unwrap_or_default(), options: ordered(config.config) }
}

fn log_model(log: LogSpec) -> HostConfigLogConfig {
    let config: HashMap<String, String> = log.options.into_iter().collect();
    HostConfigLogConfig { typ: Some(or(log.driver, LOG_DRIVER)), config: Some(config) }
}

fn weights(devices: Option<Vec<ResourcesBlkioWeightDevice>>) -> impl Iterator<Item = BlkioDevice> {
    devices.into_iter().flatten().map(|device| BlkioDevice {
        kind: "BlkioWeightDevice".to_owned(),
        path: device.path.unwrap_or_default(),
        rate: device.weight.unwrap_or_default() as u64,
    })
}

fn rates(kind: &str, devices: Option<Vec<ThrottleDevice>>) -> impl Iterator<Item = BlkioDevice> {
    devices.into_iter().flatten().map(move |device| BlkioDevice {
        kind: kind.to_owned(),
        path: device.path.unwrap_or_default(),
        rate: device.rate.unwrap_or_default().try_into().unwrap_or_default(),
    })
}

fn weight_models(devices: &[BlkioDevice]) -> Vec<ResourcesBlkioWeightDevice> {
    let weights = devices.iter().filter(|device| device.kind == "BlkioWeightDevice");
    weights
        .map(|device| ResourcesBlkioWeightDevice {
            path: Some(device.path.clone()),
            weight: usize::try_from(device.rate).ok(),
        })
        .collect()
}

fn rate_models(kind: &str, devices: &[BlkioDevice]) -> Vec<ThrottleDevice> {
    let rates = devices.iter().filter(|device| device.kind == kind);
    rates
        .map(|device| ThrottleDevice {
            path: Some(device.path.clone()),
            rate: Some(crate::convert::size(device.rate)),
        })
        .collect()
}

fn ulimit(limit: ResourcesUlimits) -> Ulimit {
    Ulimit {
        name: limit.name.unwrap_or_default(),
        soft: limit.soft.unwrap_or_default(),
        hard: limit.hard.unwrap_or_default(),
    }
}

fn ulimit_model(limit: Ulimit) -> ResourcesUlimits {
    ResourcesUlimits { name: Some(limit.name), soft: Some(limit.soft), hard: Some(limit.hard) }
}

fn device_request(request: RequestModel) -> DeviceRequest {
    DeviceRequest {
        driver: request.driver.unwrap_or_default(),
        count: request.count.unwrap_or_default(),
        device_ids: request.device_ids.unwrap_or_default(),
        capabilities: request.capabilities.unwrap_or_default(),
        options: ordered(request.options),
    }
}

fn device_request_model(request: DeviceRequest) -> RequestModel {
    RequestModel {
        driver: Some(request.driver),
        count: Some(request.count),
        device_ids: filled(request.device_ids),
        capabilities: filled(request.capabilities),
        options: filled_map(request.options),
    }
}

fn device(device: DeviceModel) -> DeviceMapping {
    DeviceMapping {
        path_on_host: device.path_on_host.unwrap_or_default(),
        path_in_container: device.path_in_container.unwrap_or_default(),
        permissions: device.cgroup_permissions.unwrap_or_default(),
    }
}

fn device_model(device: DeviceMapping) -> DeviceModel {
    DeviceModel {
        path_on_host: Some(device.path_on_host),
        path_in_container: Some(device.path_in_container),
        cgroup_permissions: Some(device.permissions),
    }
}

#[cfg(test)]
#[path = "host_tests.rs"]
mod tests;
