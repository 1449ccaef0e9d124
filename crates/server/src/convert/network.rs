//! Networks as the wire has them.

use wharf_api::models::{EndpointResource, Ipam, IpamConfig, NetworkInspect};
use wharf_engine::NetworkView;

use crate::convert::unordered;

/// One network with the containers on it.
pub(crate) fn to_model(view: NetworkView) -> NetworkInspect {
    let config = view.subnet.map(|(subnet, gateway)| {
        vec![IpamConfig { subnet: Some(subnet), gateway: Some(gateway.to_string()), ..IpamConfig::default() }]
    });
    let endpoint = |name, endpoint_id, mac_address, address| EndpointResource {
        name: Some(name),
        endpoint_id: Some(endpoint_id),
        mac_address: Some(mac_address),
        ipv4_address: Some(address),
        ipv6_address: None,
    };
    let containers = view.containers.into_iter();
    NetworkInspect {
        name: Some(view.name),
        id: Some(view.id),
        created: Some(view.created.to_string()),
        scope: Some("local".to_owned()),
        driver: Some(view.driver),
        enable_ipv4: Some(true),
        enable_ipv6: Some(false),
        ipam: Some(Ipam { driver: Some("default".to_owned()), config, options: None }),
        containers: Some(
            containers
                .map(|(id, name, endpoint_id, mac, address)| (id, endpoint(name, endpoint_id, mac, address)))
                .collect(),
        ),
        options: Some(unordered(view.options)),
        ..NetworkInspect::default()
    }
}

/// One network as lists show it: without its containers.
pub(crate) fn to_summary(view: NetworkView) -> NetworkInspect {
    NetworkInspect { containers: None, ..to_model(view) }
}
