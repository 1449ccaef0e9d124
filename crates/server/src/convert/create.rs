//! `POST /containers/create`: the body as the engine's [`ContainerSpec`].
//!
//! Form is checked here (names from a fixed set, numbers that fit, ports and addresses that parse); what needs the
//! image, the machine or another field's meaning is the engine's to check.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use serde_json::Value;
use wharf_api::models::{ContainerCreateBody, EndpointSettings, HealthConfig, HostConfig, NetworkingConfig};
use wharf_api::version::ApiVersion;
use wharf_model::ContainerSpec;
use wharf_model::network::Port;
use wharf_model::spec::Healthcheck;

use crate::adapt;
use crate::convert::{host, mount, ordered};
use crate::error::{Failure, Result};
use crate::request::invalid_json;

/// Reads a body of a version.
pub(crate) fn container_spec(
    mut body: Value,
    version: ApiVersion,
    platform: Option<&str>,
) -> Result<ContainerSpec> {
    if body.as_object().is_none_or(serde_json::Map::is_empty) {
        return Err(match body {
            Value::Null | Value::Object(_) => {
                Failure::invalid("config cannot be empty in order to create a container")
            }
            _ => Failure::invalid("invalid JSON: expected an object"),
        });
    }
    adapt::create_request(&mut body, version)?;
    host::check_words(&body["HostConfig"])?;
    // Beside the model: the newest version has it only per network.
    let mac = body["MacAddress"].take();
    let ownership = match body.get_mut("HostConfig").and_then(|host| host.get_mut("Mounts")) {
        Some(mounts) => mount::take_ownership(mounts)?,
        None => Vec::new(),
    };
    loosen(&mut body);
    let body: ContainerCreateBody = serde_json::from_value(body).map_err(|error| invalid_json(&error))?;
    let mut spec = from_model(body)?;
    spec.host.read_only_top = version < ApiVersion::new(44);
    for (mount, ownership) in spec.host.mounts.iter_mut().zip(ownership) {
        mount.ownership = ownership;
    }
    if let Some(mac) = mac.as_str().filter(|mac| !mac.is_empty()) {
        mac.clone_into(&mut spec.mac_address);
    }
    if !spec.mac_address.is_empty() {
        check_mac(&spec.host.network_mode.to_string(), &spec.mac_address)?;
    }
    platform.map_or(Ok(()), check_platform)?;
    spec.platform = platform.map(str::to_owned);
    Ok(spec)
}

/// Turns spellings that Docker takes and the model does not into the model's.
fn loosen(body: &mut Value) {
    for key in ["Cmd", "Entrypoint"] {
        if let Some(Value::String(word)) = body.get(key) {
            body[key] = Value::Array(vec![Value::String(word.clone())]);
        }
    }
    for key in ["ExposedPorts", "Volumes"] {
        if let Some(Value::Object(members)) = body.get_mut(key) {
            members.values_mut().for_each(|member| *member = Value::Object(serde_json::Map::new()));
        }
    }
    let endpoints = body.get_mut("NetworkingConfig").and_then(|config| config.get_mut("EndpointsConfig"));
    if let Some(Value::Object(members)) = endpoints {
        members.retain(|_, settings| !settings.is_null());
    }
}

fn from_model(body: ContainerCreateBody) -> Result<ContainerSpec> {
    // Every field is named, so that one the models gain cannot be overlooked.
    let ContainerCreateBody {
        hostname,
        domainname,
        user,
        attach_stdin,
        attach_stdout,
        attach_stderr,
        exposed_ports,
        tty,
        open_stdin,
        stdin_once,
        env,
        cmd,
        healthcheck,
        args_escaped: _,
        image,
        volumes,
        working_dir,
        entrypoint,
        network_disabled,
        on_build,
        labels,
        stop_signal,
        stop_timeout,
        shell,
        host_config,
        networking_config,
    } = body;
    let mut spec = ContainerSpec {
        image: image.unwrap_or_default(),
        hostname: hostname.unwrap_or_default(),
        domainname: domainname.unwrap_or_default(),
        user: user.unwrap_or_default(),
        env: env.unwrap_or_default(),
        cmd: cmd.filter(|cmd| !cmd.is_empty()),
        entrypoint,
        working_dir: working_dir.unwrap_or_default(),
        tty: tty.unwrap_or_default(),
        open_stdin: open_stdin.unwrap_or_default(),
        stdin_once: stdin_once.unwrap_or_default(),
        attach_stdin: attach_stdin.unwrap_or_default(),
        attach_stdout: attach_stdout.unwrap_or_default(),
        attach_stderr: attach_stderr.unwrap_or_default(),
        labels: ordered(labels),
        exposed_ports: ports(exposed_ports)?,
        volumes: volumes.into_iter().flatten().collect(),
        stop_signal: stop_signal.unwrap_or_default(),
        stop_timeout,
        healthcheck: healthcheck.map(from_health).transpose()?,
        mac_address: String::new(),
        ipv4_address: None,
        platform: None,
        network_disabled: network_disabled.unwrap_or_default(),
        shell: shell.unwrap_or_default(),
        on_build: on_build.unwrap_or_default(),
        host: host::from_model(host_config.unwrap_or_else(HostConfig::default))?,
    };
    if spec.env.iter().any(|variable| variable.split('=').next().is_none_or(str::is_empty)) {
        let variable = spec.env.iter().find(|variable| variable.is_empty() || variable.starts_with('='));
        let variable = variable.map_or("", String::as_str);
        return Err(Failure::invalid(format!("invalid environment variable: {variable}")));
    }
    endpoint(&mut spec, networking_config)?;
    Ok(spec)
}

fn ports(ports: Option<Vec<String>>) -> Result<BTreeSet<Port>> {
    let mut all = BTreeSet::new();
    for text in ports.into_iter().flatten() {
        all.extend(host::port_range(&text)?);
    }
    Ok(all)
}

fn from_health(health: HealthConfig) -> Result<Healthcheck> {
    let HealthConfig { test, interval, timeout, retries, start_period, start_interval } = health;
    for (name, nanos) in [
        ("Interval", interval),
        ("Timeout", timeout),
        ("StartPeriod", start_period),
        ("StartInterval", start_interval),
    ] {
        if nanos.is_some_and(|nanos| nanos != 0 && nanos < 1_000_000) {
            return Err(Failure::invalid(format!("{name} in Healthcheck cannot be less than 1ms")));
        }
    }
    if retries.is_some_and(|retries| retries < 0) {
        return Err(Failure::invalid("Retries in Healthcheck cannot be negative"));
    }
    Ok(Healthcheck {
        test: test.unwrap_or_default(),
        interval: interval.unwrap_or_default(),
        timeout: timeout.unwrap_or_default(),
        start_period: start_period.unwrap_or_default(),
        start_interval: start_interval.unwrap_or_default(),
        retries: retries.unwrap_or_default(),
    })
}

/// What may stand alone for a platform.
const KNOWN_PLATFORM_WORDS: &[&str] = &[
    "linux", "windows", "darwin", "freebsd", "netbsd", "openbsd", "amd64", "x86_64", "x86-64", "386", "i386",
    "arm", "armhf", "armel", "arm64", "aarch64", "ppc64", "ppc64le", "s390x", "riscv64", "mips64",
    "mips64le", "loong64",
];

/// `os[/architecture[/variant]]`.
fn check_platform(text: &str) -> Result<()> {
    let word = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
    };
    if !text.contains('/')
        && word(text)
        && !KNOWN_PLATFORM_WORDS.contains(&text.to_ascii_lowercase().as_str())
    {
        return Err(Failure::invalid(format!(
            "{text:?}: unknown operating system or architecture: invalid argument"
        )));
    }
    if text.split('/').count() <= 3 && text.split('/').all(word) {
        return Ok(());
    }
    Err(Failure::invalid(format!("{text:?}: cannot parse platform specifier: invalid argument")))
}

/// Six pairs of hexadecimal digits.
fn check_mac(network: &str, text: &str) -> Result<()> {
    let pair = |part: &str| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    if text.split([':', '-']).count() == 6 && text.split([':', '-']).all(pair) {
        return Ok(());
    }
    Err(Failure::invalid(format!("invalid config for network {network}: invalid MAC address {text}")))
}

/// Takes what `NetworkingConfig` says about the one network the container joins.
fn endpoint(spec: &mut ContainerSpec, config: Option<NetworkingConfig>) -> Result<()> {
    let endpoints = config.and_then(|config| config.endpoints_config).unwrap_or_default();
    let mode = spec.host.network_mode.to_string();
    for (network, settings) in endpoints {
        if network != mode && !(network == "default" && mode == "bridge") {
            return Err(Failure::not_implemented(format!(
                "joining network {network} beside {mode} is not implemented yet: give one network"
            )));
        }
        let EndpointSettings { ipam_config, mac_address, .. } = settings;
        if let Some(mac) = mac_address.filter(|mac| !mac.is_empty()) {
            spec.mac_address = mac;
        }
        let address = ipam_config.and_then(|ipam| ipam.ipv4_address).filter(|address| !address.is_empty());
        if let Some(text) = address {
            let address: Ipv4Addr = text.parse().map_err(|_| {
                Failure::invalid(format!(
                    "invalid config for network {network}: invalid IPv4 address: {text}"
                ))
            })?;
            spec.ipv4_address = Some(address);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec(body: Value) -> Result<ContainerSpec> {
        container_spec(body, ApiVersion::MAX, None)
    }

    fn message(body: Value) -> String {
        spec(body).unwrap_err().message
    }

    #[test]
    fn bodies_of_the_wrong_shape_are_refused() {
        for body in [
            json!({"HostConfig": 1}),
            json!({"HostConfig": {"Mounts": [1, "x", null]}}),
            json!({"HostConfig": {"Mounts": {}}}),
            json!({"HostConfig": {"Mounts": [{"Type": 1}]}}),
            json!({"Healthcheck": "x"}),
            json!({"ExposedPorts": []}),
            json!({"NetworkingConfig": []}),
            json!({"Image": 1}),
            json!("x"),
            json!(1),
        ] {
            for version in [ApiVersion::MIN, ApiVersion::new(43), ApiVersion::MAX] {
                let failure = container_spec(body.clone(), version, None).unwrap_err();
                assert_eq!(failure.status, http::StatusCode::BAD_REQUEST, "{body}");
            }
        }
    }

    #[test]
    fn an_empty_body_is_refused() {
        for body in [json!(null), json!({})] {
            assert_eq!(message(body), "config cannot be empty in order to create a container");
        }
        assert!(message(json!([])).starts_with("invalid JSON"));
    }

    #[test]
    fn a_command_may_be_one_word() {
        let read = spec(json!({"Image": "a", "Cmd": "sh", "Entrypoint": "/init"})).unwrap();
        assert_eq!(read.cmd, Some(vec!["sh".to_owned()]));
        assert_eq!(read.entrypoint, Some(vec!["/init".to_owned()]));
    }

    #[test]
    fn null_is_the_same_as_absent() {
        let read = spec(
            json!({
                "Image": "a", "Cmd": null, "Env": null, "Labels": null, "HostConfig": {"Binds": null, "Memory": null},
                "ExposedPorts": {"80": null}, "Volumes": null, "NetworkingConfig": {"EndpointsConfig": {"bridge": null}}
            }),
        )
        .unwrap();
        assert_eq!(read.cmd, None);
        assert_eq!(read.exposed_ports.iter().map(ToString::to_string).collect::<Vec<_>>(), ["80/tcp"]);
    }

    #[test]
    fn environment_variables_have_names() {
        assert_eq!(message(json!({"Image": "a", "Env": ["A=1", "=x"]})), "invalid environment variable: =x");
        assert_eq!(message(json!({"Image": "a", "Env": [""]})), "invalid environment variable: ");
        assert!(spec(json!({"Image": "a", "Env": ["A", "B=", "C=="]})).is_ok());
    }

    #[test]
    fn addresses_are_checked() {
        let with = |address: &str| {
            json!({"Image": "a", "NetworkingConfig": {"EndpointsConfig": {"bridge": {
                "IPAMConfig": {"IPv4Address": address}, "MacAddress": "02:00:00:00:00:01"}}}})
        };
        let read = spec(with("172.17.0.9")).unwrap();
        assert_eq!(read.ipv4_address, Some(Ipv4Addr::new(172, 17, 0, 9)));
        assert_eq!(read.mac_address, "02:00:00:00:00:01");
        assert!(message(with("x")).contains("invalid IPv4 address: x"));
    }

    #[test]
    fn small_words_are_checked() {
        let mac = json!({"Image": "a", "MacAddress": "foo"});
        assert_eq!(message(mac), "invalid config for network bridge: invalid MAC address foo");
        let check = json!({"Image": "a", "Healthcheck": {"Interval": 5}});
        assert_eq!(message(check), "Interval in Healthcheck cannot be less than 1ms");
        let on = |platform| container_spec(json!({"Image": "a"}), ApiVersion::MAX, Some(platform));
        assert_eq!(on("linux/arm/v7").unwrap().platform.as_deref(), Some("linux/arm/v7"));
        assert_eq!(
            on("a/b/c/d").unwrap_err().message,
            "\"a/b/c/d\": cannot parse platform specifier: invalid argument"
        );
    }

    #[test]
    fn the_old_place_of_the_mac_address_counts() {
        let read = spec(json!({"Image": "a", "MacAddress": "02:00:00:00:00:01"})).unwrap();
        assert_eq!(read.mac_address, "02:00:00:00:00:01");
    }
}
