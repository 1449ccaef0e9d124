//! A container as inspect shows it.

use std::collections::{BTreeSet, HashMap};

use wharf_api::models::{
    ContainerConfig, ContainerInspectResponse, ContainerState, DriverData, EndpointIpamConfig,
    EndpointSettings, Health, HealthConfig, HealthcheckResult, MountPoint, NetworkSettings, PortBinding,
    PortMap,
};
use wharf_engine::{
    ContainerView, EndpointView, HealthView, MountView, PortView, ProbeView, StateView, Status,
};
use wharf_model::ContainerSpec;
use wharf_model::network::Port;
use wharf_model::spec::{Healthcheck, MountKind};

use crate::convert::{filled, host, size, time, unordered};

/// The storage driver, under the name Docker has for it.
pub(crate) const STORAGE_DRIVER: &str = "overlay2";

/// The document, but for what only old versions have (see [`crate::adapt::container`]).
pub(crate) fn to_model(view: ContainerView) -> ContainerInspectResponse {
    let networks = networks(&view);
    let ports = ports(&view.spec, &view.ports, is_up(&view.state));
    ContainerInspectResponse {
        id: Some(view.id.to_string()),
        created: Some(view.created.to_string()),
        path: Some(view.path),
        args: Some(view.args),
        image: Some(view.image.to_string()),
        resolv_conf_path: Some(view.resolv_conf_path),
        hostname_path: Some(view.hostname_path),
        hosts_path: Some(view.hosts_path),
        log_path: Some(view.log_path),
        name: Some(format!("/{}", view.name)),
        restart_count: Some(view.restart_count.into()),
        driver: Some(STORAGE_DRIVER.to_owned()),
        platform: Some("linux".to_owned()),
        exec_ids: filled(view.execs),
        graph_driver: Some(DriverData { name: STORAGE_DRIVER.to_owned(), data: HashMap::new() }),
        size_rw: view.size.map(|(own, _)| size(own)),
        size_root_fs: view.size.map(|(_, all)| size(all)),
        mounts: Some(view.mounts.into_iter().map(mount_point).collect()),
        network_settings: Some(NetworkSettings {
            sandbox_id: None,
            sandbox_key: None,
            ports: Some(ports),
            networks: Some(networks),
        }),
        host_config: Some(host::to_model(view.spec.host.clone())),
        config: Some(config(view.spec, view.id.short())),
        state: Some(state(view.state)),
        image_manifest_descriptor: None,
        mount_label: None,
        process_label: None,
        app_armor_profile: None,
        storage: None,
    }
}

/// Has processes, frozen or not.
fn is_up(state: &StateView) -> bool {
    matches!(state.status, Status::Running | Status::Paused)
}

fn state(state: StateView) -> ContainerState {
    ContainerState {
        status: state.status.as_str().parse().ok(),
        // A container between two runs counts as running, so that clients wait for it.
        running: Some(is_up(&state) || state.status == Status::Restarting),
        paused: Some(state.status == Status::Paused),
        restarting: Some(state.status == Status::Restarting),
        oom_killed: Some(state.oom_killed),
        dead: Some(state.status == Status::Dead),
        pid: Some(state.pid.into()),
        exit_code: Some(state.exit_code.into()),
        error: Some(state.error),
        started_at: Some(time(state.started_at)),
        finished_at: Some(time(state.finished_at)),
        health: state.health.map(health_state),
    }
}

fn health_state(health: HealthView) -> Health {
    let probe = |probe: ProbeView| HealthcheckResult {
        start: Some(probe.start.to_string()),
        end: Some(probe.end.to_string()),
        exit_code: Some(probe.exit_code.into()),
        output: Some(probe.output),
    };
    Health {
        status: health.status.as_str().parse().ok(),
        failing_streak: Some(health.failing_streak.into()),
        log: Some(health.log.into_iter().map(probe).collect()),
    }
}

fn config(spec: ContainerSpec, short_id: &str) -> ContainerConfig {
    let texts = |ports: &BTreeSet<Port>| filled(ports.iter().map(ToString::to_string).collect());
    ContainerConfig {
        hostname: Some(if spec.hostname.is_empty() { short_id.to_owned() } else { spec.hostname }),
        domainname: Some(spec.domainname),
        user: Some(spec.user),
        attach_stdin: Some(spec.attach_stdin),
        attach_stdout: Some(spec.attach_stdout),
        attach_stderr: Some(spec.attach_stderr),
        exposed_ports: texts(&spec.exposed_ports),
        tty: Some(spec.tty),
        open_stdin: Some(spec.open_stdin),
        stdin_once: Some(spec.stdin_once),
        env: filled(spec.env),
        cmd: spec.cmd.and_then(filled),
        healthcheck: spec.healthcheck.map(health),
        image: Some(spec.image),
        volumes: filled(spec.volumes.into_iter().collect()),
        working_dir: Some(spec.working_dir),
        entrypoint: spec.entrypoint.and_then(filled),
        labels: Some(unordered(spec.labels)),
        stop_signal: Some(spec.stop_signal).filter(|signal| !signal.is_empty()),
        stop_timeout: spec.stop_timeout,
        args_escaped: None,
        network_disabled: spec.network_disabled.then_some(true),
        on_build: filled(spec.on_build),
        shell: filled(spec.shell),
    }
}

/// A health check; fields at their default are left out.
pub(crate) fn health(check: Healthcheck) -> HealthConfig {
    let set = |number: i64| Some(number).filter(|number| *number != 0);
    HealthConfig {
        test: filled(check.test),
        interval: set(check.interval),
        timeout: set(check.timeout),
        retries: set(check.retries),
        start_period: set(check.start_period),
        start_interval: set(check.start_interval),
    }
}

/// Docker's word for it.
pub(crate) fn kind_of_mount(kind: MountKind) -> &'static str {
    match kind {
        MountKind::Bind => "bind",
        MountKind::Volume => "volume",
        MountKind::Tmpfs => "tmpfs",
        MountKind::Image => "image",
    }
}

/// One mount point.
fn mount_point(mount: MountView) -> MountPoint {
    let some = |text: String| Some(text).filter(|text| !text.is_empty());
    MountPoint {
        typ: Some(kind_of_mount(mount.kind).to_owned()),
        name: some(mount.name),
        source: Some(mount.source),
        destination: Some(mount.destination),
        driver: some(mount.driver),
        mode: Some(mount.mode),
        rw: Some(mount.writable),
        propagation: Some(mount.propagation),
    }
}

/// The networks by name.
fn networks(view: &ContainerView) -> HashMap<String, EndpointSettings> {
    let settings = |endpoint: &EndpointView| EndpointSettings {
        ipam_config: view.spec.ipv4_address.map(|address| EndpointIpamConfig {
            ipv4_address: Some(address.to_string()),
            ..EndpointIpamConfig::default()
        }),
        mac_address: endpoint.mac.map(mac),
        network_id: Some(endpoint.network_id.clone()),
        endpoint_id: Some(endpoint.endpoint_id.clone()),
        gateway: endpoint.gateway.map(|gateway| gateway.to_string()),
        ip_address: endpoint.address.map(|(address, _)| address.to_string()),
        ip_prefix_len: endpoint.address.map(|(_, prefix)| prefix.into()),
        ..EndpointSettings::default()
    };
    view.endpoints.iter().map(|endpoint| (endpoint.network.clone(), settings(endpoint))).collect()
}

/// A hardware address as text.
pub(crate) fn mac([a, b, c, d, e, f]: [u8; 6]) -> String {
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}

/// What is published where, and `null` for what is only exposed; nothing while the container does not run.
fn ports(spec: &ContainerSpec, published: &[PortView], up: bool) -> PortMap {
    let mut map = PortMap::new();
    if !up {
        return map;
    }
    for port in &spec.exposed_ports {
        map.insert(port.to_string(), None);
    }
    for view in published {
        let bindings = map.entry(view.port.to_string()).or_default();
        if let Some((ip, port)) = view.host {
            let binding = PortBinding { host_ip: Some(ip.to_string()), host_port: Some(port.to_string()) };
            bindings.get_or_insert_default().push(binding);
        }
    }
    map
}

#[cfg(test)]
pub(crate) mod tests {
    use jiff::Timestamp;
    use serde_json::json;
    use wharf_api::version::ApiVersion;
    use wharf_model::ContainerId;

    use super::*;

    /// A container made from an otherwise empty wish.
    pub(crate) fn view(spec: ContainerSpec) -> ContainerView {
        ContainerView {
            id: ContainerId::from_bytes([0xab; 32]),
            name: "web".to_owned(),
            created: Timestamp::from_second(1_700_000_000).unwrap(),
            path: "sleep".to_owned(),
            args: vec!["1000".to_owned()],
            state: StateView {
                status: Status::Running,
                pid: 42,
                exit_code: 0,
                oom_killed: false,
                error: String::new(),
                started_at: Timestamp::from_millisecond(1_700_000_001_500).ok(),
                finished_at: None,
                health: None,
            },
            image: wharf_model::Digest::from_sha256([0xcd; 32]),
            image_manifest: None,
            spec,
            mounts: Vec::new(),
            endpoints: vec![EndpointView {
                network: "bridge".to_owned(),
                network_id: "n".to_owned(),
                endpoint_id: "e".to_owned(),
                address: Some((std::net::Ipv4Addr::new(172, 17, 0, 2), 16)),
                gateway: Some(std::net::Ipv4Addr::new(172, 17, 0, 1)),
                mac: Some([2, 0, 0, 0, 0, 0xff]),
            }],
            ports: vec![PortView {
                port: "80".parse().unwrap(),
                host: Some((std::net::IpAddr::from([0, 0, 0, 0]), 8080)),
            }],
            restart_count: 0,
            execs: Vec::new(),
            log_path: String::new(),
            resolv_conf_path: String::new(),
            hostname_path: String::new(),
            hosts_path: String::new(),
            size: None,
            ending: None,
        }
    }

    #[test]
    fn what_was_asked_for_is_shown() {
        let body = json!({
            "Hostname": "h", "Domainname": "d", "User": "u", "AttachStdin": true, "AttachStdout": true,
            "AttachStderr": true, "ExposedPorts": {"80/tcp": {}}, "Tty": true, "OpenStdin": true, "StdinOnce": true,
            "Env": ["A=b"], "Cmd": ["c"], "Healthcheck": {"Test": ["NONE"], "Interval": 1_000_000, "Timeout": 2_000_000,
            "StartPeriod": 3_000_000, "StartInterval": 4_000_000, "Retries": 5}, "Image": "i", "Volumes": {"/v": {}},
            "WorkingDir": "/w", "Entrypoint": ["e"], "Labels": {"a": "b"}, "StopSignal": "SIGINT", "StopTimeout": 5
        });
        let spec = crate::convert::create::container_spec(body.clone(), ApiVersion::MAX, None).unwrap();
        let shown = serde_json::to_value(to_model(view(spec))).unwrap();
        assert_eq!(shown["Config"], body);
    }

    #[test]
    fn a_running_container_has_times_ports_and_an_address() {
        let mut spec = ContainerSpec::default();
        spec.exposed_ports.extend(["80".parse::<Port>().unwrap(), "81".parse().unwrap()]);
        let shown = serde_json::to_value(to_model(view(spec))).unwrap();
        assert_eq!(shown["State"]["StartedAt"], "2023-11-14T22:13:21.5Z");
        assert_eq!(shown["State"]["FinishedAt"], "0001-01-01T00:00:00Z");
        assert_eq!(shown["State"]["Running"], true);
        assert_eq!(shown["Config"]["Hostname"], "abababababab");
        assert_eq!(
            shown["NetworkSettings"]["Ports"],
            json!({"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}], "81/tcp": null})
        );
        let network = &shown["NetworkSettings"]["Networks"]["bridge"];
        assert_eq!(network["IPAddress"], "172.17.0.2");
        assert_eq!(network["MacAddress"], "02:00:00:00:00:ff");
    }

    #[test]
    fn a_container_that_does_not_run_has_no_ports() {
        let mut view = view(ContainerSpec::default());
        view.state.status = Status::Exited;
        let shown = serde_json::to_value(to_model(view)).unwrap();
        assert_eq!(shown["NetworkSettings"]["Ports"], json!({}));
    }
}
