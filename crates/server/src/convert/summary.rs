//! A container as lists show it.
//!
//! A list of a thousand is asked for often, so that a row goes straight from the engine's view to text: no model and no
//! tree of values in between, and only the fields that are wanted. Fields and order are those of
//! [`crate::shapes::CONTAINER_SUMMARY`], which a test compares.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::IpAddr;

use jiff::Timestamp;
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use wharf_engine::{ContainerRow, EndpointView, MountView, PortView, Status};

use crate::convert::inspect::{kind_of_mount, mac};
use crate::convert::{human, size};

/// The fields of a document that a client wants.
pub(crate) struct Fields<'a>(Option<Vec<&'a str>>);

impl<'a> Fields<'a> {
    /// Those of a list with commas, all without one.
    pub(crate) fn of(list: Option<&'a str>) -> Self {
        Self(list.map(|list| list.split(',').collect()))
    }

    fn include(&self, name: &str) -> bool {
        self.0.as_ref().is_none_or(|wanted| wanted.contains(&name))
    }
}

/// One row of `ps`, as it is at `now`.
pub(crate) struct Summary<'a> {
    pub(crate) row: &'a ContainerRow<'a>,
    pub(crate) now: Timestamp,
    pub(crate) annotations: bool,
    pub(crate) fields: &'a Fields<'a>,
}

impl Serialize for Summary<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let row = self.row;
        let up = matches!(row.status, Status::Running | Status::Paused);
        let mut to = Document { map: serializer.serialize_map(None)?, fields: self.fields };
        to.put("Id", || row.id.as_str())?;
        to.put("Names", || [format!("/{}", row.name)])?;
        to.put("Image", || &row.spec.image)?;
        to.put("ImageID", || row.image.to_string())?;
        to.put("Command", || command(row))?;
        to.put("Created", || row.created.as_second())?;
        to.put("Ports", || if up { ports(&row.ports) } else { Vec::new() })?;
        if let Some((own, all)) = row.size {
            if own != 0 {
                to.put("SizeRw", || size(own))?;
            }
            to.put("SizeRootFs", || size(all))?;
        }
        to.put("Labels", || &row.spec.labels)?;
        to.put("State", || row.status.as_str())?;
        to.put("Status", || human::status(row, self.now))?;
        to.put("HostConfig", || Host {
            network_mode: Shown(Some(&row.spec.host.network_mode)),
            annotations: Some(&row.spec.host.annotations).filter(|all| self.annotations && !all.is_empty()),
        })?;
        to.put("NetworkSettings", || Settings { networks: Networks(row) })?;
        to.put("Mounts", || row.mounts.iter().map(Mount::of).collect::<Vec<_>>())?;
        to.map.end()
    }
}

/// A document that is being written.
struct Document<'a, M> {
    map: M,
    fields: &'a Fields<'a>,
}

impl<M: SerializeMap> Document<'_, M> {
    fn put<T: Serialize>(&mut self, name: &'static str, value: impl FnOnce() -> T) -> Result<(), M::Error> {
        if self.fields.include(name) { self.map.serialize_entry(name, &value()) } else { Ok(()) }
    }
}

/// A value as its text, `""` for none.
struct Shown<T>(Option<T>);

impl<T: Display> Serialize for Shown<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0 {
            Some(value) => serializer.collect_str(value),
            None => serializer.serialize_str(""),
        }
    }
}

/// The program and its arguments, those with a space in quotes.
fn command(row: &ContainerRow<'_>) -> String {
    let entrypoint = row.spec.entrypoint.iter().flatten();
    let mut words = entrypoint.chain(row.spec.cmd.iter().flatten());
    let mut command = words.next().cloned().unwrap_or_default();
    for word in words {
        command.push(' ');
        match word.contains(' ') {
            true => command.push_str(&format!("'{word}'")),
            false => command.push_str(word),
        }
    }
    command
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Port {
    #[serde(rename = "IP", skip_serializing_if = "Option::is_none")]
    ip: Option<IpAddr>,
    private_port: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    public_port: Option<u16>,
    r#type: String,
}

fn ports(views: &[PortView]) -> Vec<Port> {
    let port = |view: &PortView| Port {
        ip: view.host.map(|(ip, _)| ip),
        private_port: view.port.number,
        public_port: view.host.map(|(_, port)| port),
        r#type: view.port.protocol.to_string(),
    };
    let mut ports: Vec<Port> = views.iter().map(port).collect();
    ports.sort_by(|a, b| {
        (a.private_port, a.public_port, &a.r#type).cmp(&(b.private_port, b.public_port, &b.r#type))
    });
    ports
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Host<'a> {
    network_mode: Shown<&'a wharf_model::network::NetworkMode>,
    #[serde(skip_serializing_if = "Option::is_none")]
    annotations: Option<&'a BTreeMap<String, String>>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Settings<'a> {
    networks: Networks<'a>,
}

struct Networks<'a>(&'a ContainerRow<'a>);

impl Serialize for Networks<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let endpoints = (self.0.endpoints)();
        let wanted = self.0.spec.ipv4_address;
        serializer.collect_map(endpoints.iter().map(|view| (&view.network, Endpoint::of(view, wanted))))
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Endpoint<'a> {
    #[serde(rename = "IPAMConfig")]
    ipam_config: Option<Ipam>,
    links: (),
    aliases: (),
    mac_address: Shown<String>,
    driver_opts: (),
    gw_priority: u8,
    #[serde(rename = "NetworkID")]
    network_id: &'a str,
    #[serde(rename = "EndpointID")]
    endpoint_id: &'a str,
    gateway: Shown<std::net::Ipv4Addr>,
    #[serde(rename = "IPAddress")]
    ip_address: Shown<std::net::Ipv4Addr>,
    #[serde(rename = "IPPrefixLen")]
    ip_prefix_len: u8,
    #[serde(rename = "IPv6Gateway")]
    ipv6_gateway: &'static str,
    #[serde(rename = "GlobalIPv6Address")]
    global_ipv6_address: &'static str,
    #[serde(rename = "GlobalIPv6PrefixLen")]
    global_ipv6_prefix_len: u8,
    #[serde(rename = "DNSNames")]
    dns_names: (),
}

#[derive(Serialize)]
struct Ipam {
    #[serde(rename = "IPv4Address")]
    address: std::net::Ipv4Addr,
}

impl<'a> Endpoint<'a> {
    fn of(view: &'a EndpointView, wanted: Option<std::net::Ipv4Addr>) -> Self {
        Self {
            ipam_config: wanted.map(|address| Ipam { address }),
            links: (),
            aliases: (),
            mac_address: Shown(view.mac.map(mac)),
            driver_opts: (),
            gw_priority: 0,
            network_id: &view.network_id,
            endpoint_id: &view.endpoint_id,
            gateway: Shown(view.gateway),
            ip_address: Shown(view.address.map(|(address, _)| address)),
            ip_prefix_len: view.address.map_or(0, |(_, prefix)| prefix),
            ipv6_gateway: "",
            global_ipv6_address: "",
            global_ipv6_prefix_len: 0,
            dns_names: (),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Mount<'a> {
    r#type: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    source: &'a str,
    destination: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    driver: &'a str,
    mode: &'a str,
    #[serde(rename = "RW")]
    writable: bool,
    propagation: &'a str,
}

impl<'a> Mount<'a> {
    fn of(view: &'a MountView) -> Self {
        Self {
            r#type: kind_of_mount(view.kind),
            name: &view.name,
            source: &view.source,
            destination: &view.destination,
            driver: &view.driver,
            mode: &view.mode,
            writable: view.writable,
            propagation: &view.propagation,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::{Value, json};
    use wharf_model::ContainerSpec;
    use wharf_model::spec::MountKind;

    use super::*;
    use crate::shape::Shaped;
    use crate::shapes;

    /// A running container made from an otherwise empty wish.
    pub(crate) struct Sample {
        view: wharf_engine::ContainerView,
        endpoints: Box<dyn Fn() -> Vec<EndpointView>>,
    }

    impl Sample {
        pub(crate) fn of(spec: ContainerSpec) -> Self {
            let view = crate::convert::inspect::tests::view(spec);
            let endpoints = view.endpoints.clone();
            Self { view, endpoints: Box::new(move || endpoints.clone()) }
        }

        pub(crate) fn row(&self) -> ContainerRow<'_> {
            let view = &self.view;
            ContainerRow {
                id: &view.id,
                name: &view.name,
                created: view.created,
                status: view.state.status,
                exit_code: 0,
                started_at: view.state.started_at,
                finished_at: None,
                health: None,
                image: &view.image,
                spec: &view.spec,
                mounts: view.mounts.clone(),
                endpoints: &*self.endpoints,
                ports: view.ports.clone(),
                size: None,
            }
        }
    }

    fn text(row: &ContainerRow<'_>, annotations: bool, fields: Option<&str>) -> String {
        let now = Timestamp::from_second(1_700_000_061).unwrap();
        let fields = Fields::of(fields);
        serde_json::to_string(&Summary { row, now, annotations, fields: &fields }).unwrap()
    }

    fn full() -> Sample {
        let mut spec = ContainerSpec { image: "busybox".into(), ..ContainerSpec::default() };
        spec.labels.insert("a".into(), "b".into());
        spec.host.annotations.insert("c".into(), "d".into());
        spec.ipv4_address = Some([10, 0, 0, 9].into());
        spec.entrypoint = Some(vec!["sleep".into()]);
        spec.cmd = Some(vec!["-c".into(), "echo hi".into()]);
        let mut sample = Sample::of(spec);
        sample.view.ports.insert(0, PortView { port: "81/udp".parse().unwrap(), host: None });
        sample.view.mounts.push(MountView {
            kind: MountKind::Volume,
            name: "v".into(),
            source: "/v/_data".into(),
            destination: "/data".into(),
            driver: "local".into(),
            mode: "z".into(),
            writable: true,
            propagation: String::new(),
        });
        sample
    }

    #[test]
    fn a_row_has_a_command_a_status_and_ports() {
        let sample = full();
        let row = ContainerRow { size: Some((1, 2)), ..sample.row() };
        let shown: Value = serde_json::from_str(&text(&row, true, None)).unwrap();
        assert_eq!(shown["Command"], "sleep -c 'echo hi'");
        assert_eq!(shown["Status"], "Up 59 seconds");
        assert_eq!(shown["State"], "running");
        assert_eq!(
            shown["Ports"],
            json!([
                {"IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"},
                {"PrivatePort": 81, "Type": "udp"}
            ])
        );
        assert_eq!(shown["HostConfig"], json!({"NetworkMode": "bridge", "Annotations": {"c": "d"}}));
        assert_eq!((&shown["SizeRw"], &shown["SizeRootFs"]), (&json!(1), &json!(2)));
        let shown: Value = serde_json::from_str(&text(&sample.row(), false, None)).unwrap();
        assert_eq!(shown.get("SizeRootFs"), None);
        assert_eq!(shown["HostConfig"], json!({"NetworkMode": "bridge"}));
    }

    #[test]
    fn a_row_has_its_shape() {
        let (full, empty) = (full(), Sample::of(ContainerSpec::default()));
        let nowhere = || {
            let network = "none".into();
            let (network_id, endpoint_id) = (String::new(), String::new());
            vec![EndpointView { network, network_id, endpoint_id, address: None, gateway: None, mac: None }]
        };
        let created =
            ContainerRow { status: Status::Created, started_at: None, endpoints: &nowhere, ..empty.row() };
        for row in [ContainerRow { size: Some((1, 2)), ..full.row() }, created] {
            let direct = text(&row, false, None);
            let value: Value = serde_json::from_str(&direct).unwrap();
            let shaped = Shaped::one(&value, shapes::CONTAINER_SUMMARY);
            assert_eq!(direct, serde_json::to_string(&shaped).unwrap());
        }
    }

    #[test]
    fn only_the_fields_that_are_wanted_are_written() {
        let wanted = text(&full().row(), true, Some("State,Names,Unheard"));
        assert_eq!(wanted, r#"{"Names":["/web"],"State":"running"}"#);
    }
}
