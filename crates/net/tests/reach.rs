//! Who reaches whom, with real packets.

mod common;

use common::{FAR, HOST, HOST_FAR, LAN, PATIENCE, World, assert_unreachable, meet, publish, tcp, udp};
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use wharf_net::Protocol;

const LOCALHOST: Ipv4Addr = Ipv4Addr::LOCALHOST;

#[test]
fn a_published_port_answers_everyone_and_keeps_the_address_of_outsiders() {
    let Some(world) = World::new() else { return };
    let network = world.network();
    let web = world.container(&network, "web", &[tcp(8080, 80)]);
    let other = world.container(&network, "other", &[]);
    let server = web.netns.listen("0.0.0.0:80");
    let gateway = web.attached.endpoint.gateway;

    assert_eq!(meet(&server, &world.lan, (HOST, 8080)), LAN);
    assert_eq!(meet(&server, &world.far, (HOST_FAR, 8080)), FAR);
    assert_eq!(meet(&server, &world.far, (HOST, 8080)), FAR);
    assert_eq!(meet(&server, &world.host, (LOCALHOST, 8080)), gateway);
    assert_eq!(meet(&server, &world.host, (HOST, 8080)), HOST);
    assert_eq!(meet(&server, &world.host, (gateway, 8080)), gateway);
    assert_eq!(meet(&server, &world.host, (web.address(), 80)), gateway);
    assert_eq!(meet(&server, &other.netns, (HOST, 8080)), gateway);
    assert_eq!(meet(&server, &other.netns, (gateway, 8080)), gateway);
    assert_eq!(meet(&server, &other.netns, (web.address(), 80)), other.address());
    // To itself through the host.
    assert_eq!(meet(&server, &web.netns, (HOST, 8080)), gateway);
}
