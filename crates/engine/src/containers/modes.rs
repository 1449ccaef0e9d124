//! Namespaces shared with the host or another container: which wishes exclude each other, and what must be true of the
//! other container when this one starts.

use std::path::PathBuf;
use std::sync::Arc;

use wharf_model::ContainerSpec;
use wharf_model::network::NetworkMode;

use super::{Container, Phase, Record};
use crate::userns::UserNamespace;
use crate::{Engine, Error, Result};

/// Which namespace is joined.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Network,
    Ipc,
    Pid,
}

/// Whose namespaces a container joins, as paths for the runtime.
#[derive(Default)]
pub(super) struct Joined {
    pub(super) network: Option<String>,
    pub(super) ipc: Option<String>,
    pub(super) pid: Option<String>,
    pub(super) user: Option<UserNamespace>,
    /// Where `hosts`, `hostname` and `resolv.conf` are, if they are those of another container.
    pub(super) files: Option<PathBuf>,
}

/// Wishes that contradict each other, before image and machine are looked at. What the image adds is no wish.
pub(super) fn conflicts(spec: &ContainerSpec) -> Result<()> {
    let host = &spec.host;
    let refused = |text: &str| Err(Error::Invalid(format!("conflicting options: {text}")));
    let joins = matches!(host.network_mode, NetworkMode::Container(_));
    if matches!(&host.network_mode, NetworkMode::Container(name) if name.is_empty()) {
        return Err(Error::Invalid(
            "invalid network mode: invalid container format container:<name|id>".into(),
        ));
    }
    if joins && !spec.hostname.is_empty() {
        return refused("hostname and the network mode");
    }
    if host.uts_mode == "host" && !spec.hostname.is_empty() {
        return refused("hostname and the UTS mode");
    }
    if !host.links.is_empty() {
        let kind = match host.network_mode {
            NetworkMode::Host => "host type networking",
            NetworkMode::Container(_) => "container type network",
            _ => "",
        };
        if !kind.is_empty() {
            return refused(&format!(
                "{kind} can't be used with links. This would result in undefined behavior"
            ));
        }
    }
    if !joins {
        return Ok(());
    }
    if !host.dns.is_empty() {
        return refused("dns and the network mode");
    }
    if !host.extra_hosts.is_empty() {
        return refused("custom host-to-IP mapping and the network mode");
    }
    if host.publish_all_ports || !host.port_bindings.is_empty() {
        return refused("port publishing and the container type network mode");
    }
    if !spec.exposed_ports.is_empty() {
        return refused("port exposing and the container type network mode");
    }
    Ok(())
}

/// Names that end up in files the container reads must not carry line breaks or separators into them (RT-18).
pub(super) fn check_identity(spec: &ContainerSpec) -> Result<()> {
    let host_name =
        |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'));
    if spec.hostname.len() > 64 || !host_name(&spec.hostname) {
        return Err(Error::Invalid(format!("invalid hostname: {:?}", spec.hostname)));
    }
    if spec.domainname.len() > 64 || !host_name(&spec.domainname) {
        return Err(Error::Invalid(format!("invalid domain name: {:?}", spec.domainname)));
    }
    if spec.user.bytes().any(|b| b.is_ascii_control()) {
        return Err(Error::Invalid(format!("invalid user: {:?}", spec.user)));
    }
    for host in &spec.host.extra_hosts {
        let (name, address) = host.split_once(':').unwrap_or((host, ""));
        if name.is_empty() || !host_name(name) || address.is_empty() {
            return Err(Error::Invalid(format!("bad format for add-host: {host:?}")));
        }
        if address != "host-gateway" && address.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_err()
        {
            return Err(Error::Invalid(format!("invalid IP address in add-host: {address:?}")));
        }
    }
    for server in &spec.host.dns {
        if server.parse::<std::net::IpAddr>().is_err() {
            return Err(Error::Invalid(format!("bad nameserver address {server}: unable to parse IP")));
        }
    }
    let lines = spec.host.dns_search.iter().chain(&spec.host.dns_options);
    if let Some(bad) = lines.into_iter().find(|text| text.bytes().any(|b| b.is_ascii_control())) {
        return Err(Error::Invalid(format!("invalid DNS search domain or option: {bad:?}")));
    }
    Ok(())
}

impl Engine {
    /// Checks modes against the containers there are; names become ids, which a rename leaves alone.
    pub(super) fn check_modes(&self, spec: &mut ContainerSpec) -> Result<()> {
        match &spec.host.network_mode {
            // Docker asks for the container at the start.
            NetworkMode::Container(name) => {
                if let Ok(other) = self.find(name) {
                    spec.host.network_mode = NetworkMode::Container(other.id.to_string());
                }
            }
            // A network may be made between create and start; whether it is there is start's question.
            NetworkMode::Named(_) => {}
            mode if spec.ipv4_address.is_some() => {
                return Err(Error::Invalid(format!(
                    "invalid config for network {mode}: invalid endpoint settings:\n* user specified IP address is \
                     supported on user defined networks only"
                )));
            }
            NetworkMode::Bridge { .. } | NetworkMode::Host | NetworkMode::None => {}
        }
        for (kind, mode) in [("IPC", &mut spec.host.ipc_mode), ("PID", &mut spec.host.pid_mode)] {
            let invalid = || Error::Invalid(format!("invalid {kind} mode: {mode}"));
            match mode.strip_prefix("container:") {
                Some("") => return Err(invalid()),
                Some(name) => {
                    // A part of the request is wrong, not its address.
                    let other = self.find(name).map_err(|error| Error::Invalid(error.to_string()))?;
                    *mode = format!("container:{}", other.id);
                }
                None if mode.is_empty() || mode == "host" => {}
                None if kind == "IPC" && matches!(mode.as_str(), "private" | "shareable" | "none") => {}
                None => return Err(invalid()),
            }
        }
        let host = &spec.host;
        for (name, mode, known) in [
            ("UTS", &host.uts_mode, &["", "host"][..]),
            ("CgroupNS", &host.cgroupns_mode, &["", "host", "private"]),
            ("user namespace", &host.userns_mode, &["", "host"]),
        ] {
            if !known.contains(&mode.as_str()) {
                return Err(Error::Invalid(format!("invalid {name} mode: {mode}")));
            }
        }
        self.check_remap(host)?;
        if host.cgroup_parent.split('/').any(|part| part == ".." || part == ".") {
            return Err(Error::Invalid(format!(
                "invalid cgroup parent {:?}: it must not have . or .. in it",
                host.cgroup_parent
            )));
        }
        for bindings in host.port_bindings.values() {
            for binding in bindings {
                super::start::host_address(&binding.ip)?;
                binding
                    .port
                    .parse::<wharf_net::HostPort>()
                    .map_err(|_| Error::Invalid(format!("invalid port specification: {:?}", binding.port)))?;
            }
        }
        Ok(())
    }

    /// The namespaces to join, of containers that run now. Whoever joins a network has its name, too.
    pub(super) fn join(&self, container: &Container) -> Result<Joined> {
        let record = container.record().clone();
        let host = &record.spec.host;
        let mut joined = Joined::default();
        let mut donors = Vec::new();
        if let NetworkMode::Container(name) = &host.network_mode {
            let (other, pid) = self.donor(&record, name, Kind::Network)?;
            donors.push(pid);
            joined.network = Some(format!("/proc/{pid}/ns/net"));
            joined.files = Some(self.inner.config.containers_dir().join(other.id.as_str()));
            let (hostname, domainname) = {
                let other = other.record();
                (crate::spec::hostname(&other), other.spec.domainname.clone())
            };
            let mut record = container.record();
            (record.spec.hostname, record.spec.domainname) = (hostname, domainname);
        }
        for (mode, kind) in [(&host.ipc_mode, Kind::Ipc), (&host.pid_mode, Kind::Pid)] {
            let Some(name) = mode.strip_prefix("container:") else { continue };
            let (_, pid) = self.donor(&record, name, kind)?;
            donors.push(pid);
            match kind {
                Kind::Ipc => joined.ipc = Some(format!("/proc/{pid}/ns/ipc")),
                _ => joined.pid = Some(format!("/proc/{pid}/ns/pid")),
            }
        }
        joined.user = UserNamespace::for_start(self, &record, &donors)?;
        Ok(joined)
    }

    /// The container whose namespace is joined, with the process to take it from.
    fn donor(&self, record: &Record, name: &str, kind: Kind) -> Result<(Arc<Container>, i32)> {
        let network = kind == Kind::Network;
        let prefix = match kind {
            Kind::Network => "joining network namespace of container: ",
            Kind::Ipc => "failed to join IPC namespace: ",
            Kind::Pid => "failed to join PID namespace: ",
        };
        let other = self.find(name).map_err(|error| Error::System(format!("{prefix}{error}")))?;
        if other.id == record.id {
            return Err(Error::System(if network {
                "cannot join own network namespace".into()
            } else {
                format!("{prefix}container {} is not running", other.id)
            }));
        }
        let (phase, pid, own_name, ipc_mode) = {
            let other = other.record();
            (other.phase, other.pid, other.name.clone(), other.spec.host.ipc_mode.clone())
        };
        match phase {
            Phase::Running | Phase::Paused if pid != 0 => {}
            Phase::Restarting => {
                let prefix = if network { "cannot join network namespace of container: " } else { prefix };
                return Err(Error::Conflict(format!(
                    "{prefix}Container {} is restarting, wait until the container is running",
                    other.id
                )));
            }
            _ if network => {
                let state = match phase {
                    Phase::Created => "created",
                    Phase::Removing => "removing",
                    _ => "exited",
                };
                return Err(Error::Conflict(format!(
                    "cannot join network namespace of a non running container: container {own_name} is {state}"
                )));
            }
            _ => return Err(Error::System(format!("{prefix}container {} is not running", other.id))),
        }
        if kind == Kind::Ipc && ipc_mode != "shareable" {
            return Err(Error::System(format!(
                "{prefix}container {}: non-shareable IPC (hint: use IpcMode:shareable for the donor container)",
                other.id
            )));
        }
        Ok((other, pid))
    }
}

#[cfg(test)]
mod tests {
    use wharf_model::spec::HostSpec;

    use super::*;

    #[test]
    fn names_that_would_break_files_are_refused() {
        let hosts = |host: &str| ContainerSpec {
            host: HostSpec { extra_hosts: vec![host.to_owned()], ..Default::default() },
            ..Default::default()
        };
        check_identity(&hosts("a:10.0.0.1")).unwrap();
        check_identity(&hosts("a:host-gateway")).unwrap();
        check_identity(&hosts("a:[::1]")).unwrap();
        check_identity(&hosts("a:::1")).unwrap();
        for bad in ["a", "a:b", ":1.2.3.4", "a b:1.2.3.4", "a\n:1.2.3.4", "a:1.2.3.4\n127.0.0.1 x"] {
            assert!(check_identity(&hosts(bad)).is_err(), "{bad:?}");
        }
        let hostname = ContainerSpec { hostname: "a\nb".into(), ..Default::default() };
        assert!(check_identity(&hostname).is_err());
        let search = HostSpec { dns_search: vec!["a\nnameserver 6.6.6.6".into()], ..Default::default() };
        assert!(check_identity(&ContainerSpec { host: search, ..Default::default() }).is_err());
    }

    #[test]
    fn who_shares_a_network_cannot_change_it() {
        let joins = |change: fn(&mut ContainerSpec)| {
            let mut spec = ContainerSpec::default();
            spec.host.network_mode = NetworkMode::Container("other".into());
            change(&mut spec);
            conflicts(&spec)
        };
        joins(|_| {}).unwrap();
        let changes: [fn(&mut ContainerSpec); 6] = [
            |spec| spec.hostname = "a".into(),
            |spec| spec.host.dns.push("1.1.1.1".into()),
            |spec| spec.host.extra_hosts.push("a:1.1.1.1".into()),
            |spec| spec.host.links.push("a:b".into()),
            |spec| spec.host.publish_all_ports = true,
            |spec| spec.exposed_ports.extend(["80/tcp".parse::<wharf_model::network::Port>().unwrap()]),
        ];
        for (number, change) in changes.into_iter().enumerate() {
            assert!(joins(change).unwrap_err().to_string().starts_with("conflicting options: "), "{number}");
        }
    }
}
