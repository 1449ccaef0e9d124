//! A container as lists show it.

use jiff::Timestamp;
use wharf_api::models::{
    ContainerSummary, ContainerSummaryHostConfig, ContainerSummaryNetworkSettings, PortSummary,
};
use wharf_engine::{ContainerView, PortView};

use crate::convert::inspect::{is_up, mount_point, networks};
use crate::convert::{filled_map, human, size, unordered};

/// One row of `ps`.
pub(crate) fn to_model(view: ContainerView, now: Timestamp) -> ContainerSummary {
    let networks = networks(&view);
    ContainerSummary {
        id: Some(view.id.to_string()),
        names: Some(vec![format!("/{}", view.name)]),
        image_id: Some(view.image.to_string()),
        command: Some(command(&view.path, &view.args)),
        created: Some(view.created.as_second()),
        ports: Some(if is_up(&view.state) { ports(&view) } else { Vec::new() }),
        size_rw: view.size.map(|(own, _)| size(own)).filter(|own| *own != 0),
        size_root_fs: view.size.map(|(_, all)| size(all)),
        state: view.state.status.as_str().parse().ok(),
        status: Some(human::status(&view.state, now)),
        host_config: Some(ContainerSummaryHostConfig {
            network_mode: Some(view.spec.host.network_mode.to_string()),
            annotations: filled_map(view.spec.host.annotations),
        }),
        network_settings: Some(ContainerSummaryNetworkSettings { networks: Some(networks) }),
        mounts: Some(view.mounts.into_iter().map(mount_point).collect()),
        image: Some(view.spec.image),
        labels: Some(unordered(view.spec.labels)),
        image_manifest_descriptor: None,
        health: None,
    }
}

/// The program and its arguments, those with a space in quotes.
fn command(path: &str, args: &[String]) -> String {
    let mut command = path.to_owned();
    for arg in args {
        command.push(' ');
        match arg.contains(' ') {
            true => command.push_str(&format!("'{arg}'")),
            false => command.push_str(arg),
        }
    }
    command
}

fn ports(view: &ContainerView) -> Vec<PortSummary> {
    let published = |port: &PortView| PortSummary {
        ip: port.host.map(|(ip, _)| ip.to_string()),
        private_port: port.port.number,
        public_port: port.host.map(|(_, port)| port),
        typ: port.port.protocol.to_string().parse().ok(),
    };
    let exposed =
        view.spec.exposed_ports.iter().filter(|port| !view.ports.iter().any(|view| view.port == **port));
    let exposed = exposed.map(|port| PortSummary {
        ip: None,
        private_port: port.number,
        public_port: None,
        typ: port.protocol.to_string().parse().ok(),
    });
    let mut ports: Vec<PortSummary> = view.ports.iter().map(published).chain(exposed).collect();
    ports.sort_by_key(|port| (port.private_port, port.public_port, port.typ.map(|typ| typ.to_string())));
    ports
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use wharf_model::ContainerSpec;

    use super::*;

    #[test]
    fn a_row_has_a_command_a_status_and_ports() {
        let mut spec = ContainerSpec { image: "busybox".into(), ..ContainerSpec::default() };
        spec.exposed_ports
            .extend(["80".parse::<wharf_model::network::Port>().unwrap(), "81/udp".parse().unwrap()]);
        let mut view = crate::convert::inspect::tests::view(spec);
        view.args = vec!["-c".into(), "echo hi".into()];
        let now = Timestamp::from_second(1_700_000_061).unwrap();
        let shown = serde_json::to_value(to_model(view, now)).unwrap();
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
        assert_eq!(shown.get("SizeRootFs"), None);
    }
}
