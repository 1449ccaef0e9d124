//! From flags to the body of a create request.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Value, json};
use wharf_api::models::{
    ContainerCreateBody, EndpointIpamConfig, EndpointSettings, HealthConfig, HostConfig, HostConfigLogConfig,
};

use super::flags::{ContainerFlags, LifecycleFlags, NetworkFlags, ProcessFlags};
use crate::{
    config::Config,
    syntax::{
        Parsed,
        device::{self, Device},
        environment, network,
        network::Attachment,
        port::{self, Bindings},
        security, volume,
        volume::Volume,
    },
    terminal,
};

/// A container to create.
#[derive(Debug)]
pub(crate) struct Spec {
    /// The image as the user named it.
    pub(crate) image: String,
    /// The body of the request.
    pub(crate) body: Value,
    pub(crate) attach: Attach,
    pub(crate) tty: bool,
    pub(crate) open_stdin: bool,
    pub(crate) auto_remove: bool,
}

/// Which streams the command line itself connects to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Attach {
    pub(crate) stdin: bool,
    pub(crate) stdout: bool,
    pub(crate) stderr: bool,
}

impl Attach {
    pub(crate) fn any(self) -> bool {
        self.stdin || self.stdout || self.stderr
    }
}

/// Checks that the flags fit together and makes a request of them.
pub(crate) fn build(flags: &ContainerFlags, config: &Config, host: &str) -> Parsed<Spec> {
    let process = &flags.process;
    let (image, command) = match flags.image.image_and_command.split_first() {
        Some((image, command)) => (image.clone(), command.to_vec()),
        None => (String::new(), Vec::new()),
    };
    let attach = attached_streams(process);
    let mut bindings = Bindings::new();
    for spec in &flags.network.publish {
        port::publish(spec, &mut bindings)?;
    }
    let mut exposed: Vec<String> = bindings.keys().cloned().collect();
    for spec in &flags.network.expose {
        let ports = port::expose(spec)?;
        exposed.extend(ports.into_iter().filter(|port| !bindings.contains_key(port)));
    }
    exposed.sort_unstable();
    exposed.dedup();
    let (anonymous, binds) = volumes(&flags.storage.volume)?;
    let body = ContainerCreateBody {
        hostname: flags.network.hostname.clone(),
        domainname: flags.network.domainname.clone(),
        user: process.user.clone(),
        attach_stdin: Some(attach.stdin),
        attach_stdout: Some(attach.stdout),
        attach_stderr: Some(attach.stderr),
        exposed_ports: some(exposed),
        tty: Some(process.tty),
        open_stdin: Some(process.interactive),
        stdin_once: Some(process.interactive && attach.stdin),
        env: some(environment_of(process, config, host)?),
        cmd: some(command),
        healthcheck: health(&flags.lifecycle)?,
        image: Some(image.clone()),
        volumes: some(anonymous),
        working_dir: process.workdir.clone(),
        entrypoint: process.entrypoint.clone().map(|entrypoint| vec![entrypoint]),
        labels: Some(
            environment::labels(&flags.lifecycle.label_file, &flags.lifecycle.label)?.into_iter().collect(),
        ),
        stop_signal: flags.lifecycle.stop_signal.clone(),
        stop_timeout: flags.lifecycle.stop_timeout,
        host_config: Some(host_config(flags, binds)?),
        ..ContainerCreateBody::default()
    };
    let mut body = serde_json::to_value(body).map_err(|error| error.to_string())?;
    add_open_enumerations(&mut body, flags, &bindings)?;
    Ok(Spec {
        image,
        body,
        attach,
        tty: process.tty,
        open_stdin: process.interactive,
        auto_remove: flags.lifecycle.rm,
    })
}

/// The API leaves out what is empty.
fn some<C: Default + PartialEq>(items: C) -> Option<C> {
    (items != C::default()).then_some(items)
}

fn attached_streams(process: &ProcessFlags) -> Attach {
    if process.attach.is_empty() {
        return Attach { stdin: process.interactive, stdout: true, stderr: true };
    }
    let has = |name: &str| process.attach.iter().any(|stream| stream == name);
    Attach { stdin: has("stdin"), stdout: has("stdout"), stderr: has("stderr") }
}

fn environment_of(process: &ProcessFlags, config: &Config, host: &str) -> Parsed<Vec<String>> {
    let mut all = environment::variables(&process.env_file, &process.env)?;
    for (name, value) in config.proxy_environment(host) {
        let given = |line: &String| line.split('=').next() == Some(name.as_str());
        if !all.iter().any(given) {
            all.push(format!("{name}={value}"));
        }
    }
    Ok(all)
}

fn volumes(specs: &[String]) -> Parsed<(Vec<String>, Vec<String>)> {
    let (mut anonymous, mut binds) = (Vec::new(), Vec::new());
    for spec in specs {
        match volume::parse(spec)? {
            Volume::Anonymous(path) => anonymous.push(path),
            Volume::Bind(bind) => binds.push(bind),
        }
    }
    Ok((anonymous, binds))
}

fn health(flags: &LifecycleFlags) -> Parsed<Option<HealthConfig>> {
    let durations = [
        ("interval", flags.health_interval),
        ("timeout", flags.health_timeout),
        ("start-period", flags.health_start_period),
        ("start-interval", flags.health_start_interval),
    ];
    let tests = [
        ("CMD-SHELL", &flags.health_cmd),
        ("HTTP", &flags.health_http),
        ("TCP", &flags.health_tcp),
        ("UNIX", &flags.health_unix),
    ];
    let mut tests =
        tests.iter().filter_map(|(kind, test)| Some(vec![(*kind).to_owned(), test.as_ref()?.clone()]));
    let test = tests.next();
    if tests.next().is_some() {
        return Err(
            "only one of --health-cmd, --health-http, --health-tcp and --health-unix can be given".into()
        );
    }
    let given = test.is_some()
        || flags.health_retries != 0
        || durations.iter().any(|(_, duration)| duration.is_some_and(|duration| duration.0 != 0));
    if flags.no_healthcheck {
        if given {
            return Err("--no-healthcheck conflicts with --health-* options".into());
        }
        return Ok(Some(HealthConfig { test: Some(vec!["NONE".into()]), ..HealthConfig::default() }));
    }
    if !given {
        return Ok(None);
    }
    if let Some((name, _)) =
        durations.iter().find(|(_, duration)| duration.is_some_and(|duration| duration.0 < 0))
    {
        return Err(format!("--health-{name} cannot be negative"));
    }
    if flags.health_retries < 0 {
        return Err("--health-retries cannot be negative".into());
    }
    let nanos = |index: usize| durations[index].1.map(|duration| duration.0);
    Ok(Some(HealthConfig {
        test,
        interval: nanos(0),
        timeout: nanos(1),
        start_period: nanos(2),
        start_interval: nanos(3),
        retries: Some(flags.health_retries),
    }))
}

/// Those given, and what is ours to say to an engine of ours; others pass it over.
fn annotations(flags: &LifecycleFlags) -> HashMap<String, String> {
    let on_failure =
        flags.health_on_failure.iter().map(|action| ("wharf.health.on-failure".to_owned(), action.clone()));
    flags.annotation.iter().cloned().chain(on_failure).collect()
}

fn host_config(flags: &ContainerFlags, binds: Vec<String>) -> Parsed<HostConfig> {
    let ContainerFlags { process, storage, network, resources, security, lifecycle, .. } = flags;
    check_namespaces(flags)?;
    if resources.memory_swappiness != -1 && !(0..=100).contains(&resources.memory_swappiness) {
        return Err(format!(
            "invalid value: {}. Valid memory swappiness range is 0-100",
            resources.memory_swappiness
        ));
    }
    let options = security::parse(&security.security_opt)?;
    let nonzero = |value: i64| (value != 0).then_some(value);
    let (mut devices, mut interfaces) = (Vec::new(), Vec::new());
    for spec in &storage.device {
        match device::parse(spec)? {
            Device::Node(node) => devices.push(node),
            Device::Interface(name) => interfaces.push(name),
        }
    }
    let mut requests = storage.gpus.clone();
    if !interfaces.is_empty() {
        requests.push(wharf_api::models::DeviceRequest {
            driver: Some("cdi".into()),
            device_ids: Some(interfaces),
            ..wharf_api::models::DeviceRequest::default()
        });
    }
    let tmpfs: HashMap<String, String> = storage
        .tmpfs
        .iter()
        .map(|spec| spec.split_once(':').unwrap_or((spec, "")))
        .map(|(path, options)| (path.to_owned(), options.to_owned()))
        .collect();
    Ok(HostConfig {
        cpu_shares: nonzero(resources.cpu_shares),
        memory: resources.memory.map(|bytes| bytes.0),
        cgroup_parent: resources.cgroup_parent.clone(),
        blkio_weight: (resources.blkio_weight != 0).then_some(resources.blkio_weight),
        blkio_weight_device: some(resources.blkio_weight_device.clone()),
        blkio_device_read_bps: some(resources.device_read_bps.clone()),
        blkio_device_write_bps: some(resources.device_write_bps.clone()),
        blkio_device_read_iops: some(resources.device_read_iops.clone()),
        blkio_device_write_iops: some(resources.device_write_iops.clone()),
        cpu_period: nonzero(resources.cpu_period),
        cpu_quota: nonzero(resources.cpu_quota),
        cpu_realtime_period: nonzero(resources.cpu_rt_period),
        cpu_realtime_runtime: nonzero(resources.cpu_rt_runtime),
        cpuset_cpus: resources.cpuset_cpus.clone(),
        cpuset_mems: resources.cpuset_mems.clone(),
        devices: some(devices),
        device_cgroup_rules: some(storage.device_cgroup_rule.clone()),
        device_requests: some(requests),
        memory_reservation: resources.memory_reservation.map(|bytes| bytes.0),
        memory_swap: resources.memory_swap.map(|bytes| bytes.0),
        memory_swappiness: (resources.memory_swappiness != -1).then_some(resources.memory_swappiness),
        nano_cpus: resources.cpus.map(|cpus| cpus.0),
        oom_kill_disable: resources.oom_kill_disable.then_some(true),
        init: process.init,
        pids_limit: nonzero(resources.pids_limit),
        ulimits: some(process.ulimit.clone()),
        cpu_count: nonzero(resources.cpu_count),
        cpu_percent: nonzero(resources.cpu_percent),
        io_maximum_iops: i64::try_from(resources.io_maxiops).ok().filter(|value| *value != 0),
        io_maximum_bandwidth: resources.io_maxbandwidth.map(|bytes| bytes.0),
        binds: some(binds),
        container_id_file: lifecycle.cidfile.clone(),
        log_config: Some(log_config(lifecycle)?),
        auto_remove: lifecycle.rm.then_some(true),
        volume_driver: storage.volume_driver.clone(),
        volumes_from: some(storage.volumes_from.clone()),
        console_size: process.tty.then(console_size).flatten(),
        annotations: some(annotations(lifecycle)),
        cap_add: some(security.cap_add.clone()),
        cap_drop: some(security.cap_drop.clone()),
        dns: some(network.dns.clone()),
        dns_options: some(network.dns_option.clone()),
        dns_search: some(network.dns_search.clone()),
        extra_hosts: some(network.add_host.clone()),
        group_add: some(process.group_add.clone()),
        ipc_mode: security.ipc.clone(),
        links: some(network.link.clone()),
        oom_score_adj: nonzero(resources.oom_score_adj),
        pid_mode: security.pid.clone(),
        privileged: security.privileged.then_some(true),
        publish_all_ports: network.publish_all.then_some(true),
        readonly_rootfs: storage.read_only.then_some(true),
        security_opt: some(options.options),
        storage_opt: some(storage_options(&storage.storage_opt)?),
        tmpfs: some(tmpfs),
        uts_mode: security.uts.clone(),
        userns_mode: security.userns.clone(),
        shm_size: storage.shm_size.map(|bytes| bytes.0),
        sysctls: some(security.sysctl.iter().cloned().collect()),
        runtime: security.runtime.clone(),
        masked_paths: options.unconfined_system_paths.then(Vec::new),
        readonly_paths: options.unconfined_system_paths.then(Vec::new),
        ..HostConfig::default()
    })
}

fn console_size() -> Option<Vec<usize>> {
    terminal::size().map(|(rows, columns)| vec![usize::from(rows), usize::from(columns)])
}

fn check_namespaces(flags: &ContainerFlags) -> Parsed<()> {
    let given = |mode: &Option<String>| mode.clone().unwrap_or_default();
    let container = |mode: &str| mode.strip_prefix("container:").is_some_and(|name| !name.is_empty());
    let (pid, uts) = (given(&flags.security.pid), given(&flags.security.uts));
    if !(pid.is_empty() || pid == "host" || container(&pid)) {
        return Err("--pid: invalid PID mode".into());
    }
    if !(uts.is_empty() || uts == "host") {
        return Err("--uts: invalid UTS mode".into());
    }
    if !["", "host"].contains(&given(&flags.security.userns).as_str()) {
        return Err("--userns: invalid USER mode".into());
    }
    if !["", "host", "private"].contains(&given(&flags.security.cgroupns).as_str()) {
        return Err("--cgroupns: invalid CGROUP mode".into());
    }
    Ok(())
}

fn storage_options(options: &[String]) -> Parsed<HashMap<String, String>> {
    let pair = |option: &String| {
        let (key, value) = option.split_once('=').ok_or("invalid storage option")?;
        Ok((key.to_owned(), value.to_owned()))
    };
    options.iter().map(pair).collect()
}

fn log_config(flags: &LifecycleFlags) -> Parsed<HostConfigLogConfig> {
    let driver = flags.log_driver.clone().unwrap_or_default();
    if driver == "none" && !flags.log_opt.is_empty() {
        return Err("invalid logging opts for driver none".into());
    }
    let pair = |option: &String| {
        let (key, value) = option.split_once('=').unwrap_or((option, ""));
        (key.to_owned(), value.to_owned())
    };
    Ok(HostConfigLogConfig { typ: Some(driver), config: Some(flags.log_opt.iter().map(pair).collect()) })
}

/// Adds what the engine checks itself: values that may be others than those the published schema lists.
fn add_open_enumerations(body: &mut Value, flags: &ContainerFlags, bindings: &Bindings) -> Parsed<()> {
    let (policy, retries) = restart_policy(&flags.lifecycle.restart)?;
    if flags.lifecycle.rm && !policy.is_empty() && policy != "no" {
        return Err("conflicting options: cannot specify both --restart and --rm".into());
    }
    let networks = attachments(&flags.network)?;
    let host = &mut body["HostConfig"];
    host["RestartPolicy"] = json!({ "Name": policy, "MaximumRetryCount": retries });
    host["PortBindings"] = json!(bindings);
    host["NetworkMode"] = json!(networks.first().map_or("default", |first| first.target.as_str()));
    if let Some(mode) = &flags.security.cgroupns {
        host["CgroupnsMode"] = json!(mode);
    }
    if let Some(isolation) = &flags.security.isolation {
        host["Isolation"] = json!(isolation);
    }
    let mut mounts: Vec<Value> = flags
        .storage
        .mount
        .iter()
        .map(serde_json::to_value)
        .collect::<Result<_, _>>()
        .map_err(|e| e.to_string())?;
    if flags.storage.use_api_socket {
        mounts.push(
            json!({ "Type": "bind", "Source": "/var/run/docker.sock", "Target": "/var/run/docker.sock" }),
        );
    }
    if !mounts.is_empty() {
        host["Mounts"] = Value::Array(mounts);
    }
    let endpoints: BTreeMap<&str, EndpointSettings> =
        networks.iter().map(|attachment| (attachment.target.as_str(), endpoint(attachment))).collect();
    if !endpoints.is_empty() {
        body["NetworkingConfig"] = json!({ "EndpointsConfig": endpoints });
    }
    Ok(())
}

/// Reads `name[:retries]`.
pub(crate) fn restart_policy(text: &str) -> Parsed<(String, i64)> {
    let (name, retries) = match text.split_once(':') {
        None => (text, 0),
        Some(("", _)) => return Err("invalid restart policy format: no policy provided before colon".into()),
        Some((name, count)) => {
            let count = count.parse().map_err(|_| {
                "invalid restart policy format: maximum retry count must be an integer".to_owned()
            })?;
            (name, count)
        }
    };
    Ok((name.to_owned(), retries))
}

/// The networks, with the flags that are about the first of them.
fn attachments(flags: &NetworkFlags) -> Parsed<Vec<Attachment>> {
    let mut all = flags.network.clone();
    let extra = !flags.network_alias.is_empty()
        || flags.ip.is_some()
        || flags.ip6.is_some()
        || flags.mac_address.is_some()
        || !flags.link_local_ip.is_empty();
    if extra && all.is_empty() {
        all.push(Attachment { target: "default".into(), ..Attachment::default() });
    }
    if let Some(mac) = flags.mac_address.as_deref().filter(|mac| !network::is_mac(mac)) {
        return Err(format!("{mac} is not a valid mac address"));
    }
    if let Some(first) = all.first_mut() {
        first.aliases.extend(flags.network_alias.iter().cloned());
        let conflict = |name: &str| {
            format!("conflicting options: cannot specify both --{name} and per-network {name} address")
        };
        for (name, given, own) in [
            ("ip", &flags.ip, &mut first.ipv4),
            ("ip6", &flags.ip6, &mut first.ipv6),
            ("mac-address", &flags.mac_address, &mut first.mac),
        ] {
            if let Some(given) = given {
                if !own.is_empty() {
                    return Err(conflict(name));
                }
                own.clone_from(given);
            }
        }
        first.link_local.extend(flags.link_local_ip.iter().cloned());
    }
    Ok(all)
}

fn endpoint(attachment: &Attachment) -> EndpointSettings {
    let text = |text: &String| (!text.is_empty()).then(|| text.clone());
    let addressed =
        !attachment.ipv4.is_empty() || !attachment.ipv6.is_empty() || !attachment.link_local.is_empty();
    EndpointSettings {
        ipam_config: addressed.then(|| EndpointIpamConfig {
            ipv4_address: text(&attachment.ipv4),
            ipv6_address: text(&attachment.ipv6),
            link_local_ips: some(attachment.link_local.clone()),
        }),
        aliases: some(attachment.aliases.clone()),
        mac_address: text(&attachment.mac),
        driver_opts: some(attachment.driver_options.clone().into_iter().collect()),
        gw_priority: (attachment.gateway_priority != 0).then_some(attachment.gateway_priority),
        ..EndpointSettings::default()
    }
}
