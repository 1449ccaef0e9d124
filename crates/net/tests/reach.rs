//! Who reaches whom, with real packets.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "only tests here")]

mod common;

use std::net::{Ipv4Addr, UdpSocket};

use common::{FAR, HOST, HOST_FAR, LAN, Netns, PATIENCE, World, assert_unreachable, meet, publish, tcp, udp};
use wharf_net::Protocol;

const LOCALHOST: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// With and without bridged frames passing the host's IP firewall, which depends on what else runs on the machine.
fn with_and_without_br_netfilter(test: impl Fn(&World) + Sync) {
    for value in ["0", "1"] {
        std::thread::scope(|scope| {
            let run = || {
                let Some(world) = World::new() else { return };
                let switched = std::fs::write("/proc/sys/net/bridge/bridge-nf-call-iptables", value);
                if switched.is_ok() || value == "0" {
                    test(&world);
                }
            };
            scope.spawn(run).join().unwrap();
        });
    }
}

#[test]
fn a_published_port_answers_everyone_and_keeps_the_address_of_outsiders() {
    with_and_without_br_netfilter(|world| {
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
        // To itself: through the host and directly.
        assert_eq!(meet(&server, &web.netns, (HOST, 8080)), gateway);
        assert_eq!(meet(&server, &web.netns, (web.address(), 80)), web.address());
        assert_eq!(meet(&server, &web.netns, (LOCALHOST, 80)), LOCALHOST);
    });
}

/// Sends a datagram, returns the address the server saw, and checks that the answer comes back from where it was sent.
fn ask(server: &UdpSocket, from: &Netns, to: (Ipv4Addr, u16)) -> Ipv4Addr {
    let client = from.udp("0.0.0.0:0");
    client.connect(to).unwrap();
    client.send(b"question").unwrap();
    let mut buffer = [0; 16];
    let (_, peer) = server.recv_from(&mut buffer).unwrap();
    server.send_to(b"answer", peer).unwrap();
    assert_eq!(client.recv(&mut buffer).unwrap(), 6, "no answer from {to:?}");
    let std::net::IpAddr::V4(peer) = peer.ip() else { panic!("{peer}") };
    peer
}

#[test]
fn a_published_udp_port_answers_everyone() {
    with_and_without_br_netfilter(|world| {
        let network = world.network();
        let dns = world.container(&network, "dns", &[udp(5300, 53)]);
        let other = world.container(&network, "other", &[]);
        let server = dns.netns.udp("0.0.0.0:53");
        let gateway = dns.attached.endpoint.gateway;

        assert_eq!(ask(&server, &world.lan, (HOST, 5300)), LAN);
        assert_eq!(ask(&server, &world.host, (LOCALHOST, 5300)), gateway);
        assert_eq!(ask(&server, &world.host, (HOST, 5300)), HOST);
        assert_eq!(ask(&server, &other.netns, (HOST, 5300)), gateway);
        assert_eq!(ask(&server, &other.netns, (dns.address(), 53)), other.address());
        assert_eq!(ask(&server, &dns.netns, (HOST, 5300)), gateway);
    });
}

#[test]
fn containers_reach_the_outside_under_the_address_of_the_host() {
    let Some(world) = World::new() else { return };
    let network = world.network();
    let one = world.container(&network, "one", &[]);
    assert_eq!(meet(&world.lan.listen("0.0.0.0:7"), &one.netns, (LAN, 7)), HOST);
    assert_eq!(meet(&world.far.listen("0.0.0.0:7"), &one.netns, (FAR, 7)), HOST_FAR);
    // A service of the host sees the container itself.
    assert_eq!(meet(&world.host.listen("0.0.0.0:7"), &one.netns, (HOST, 7)), one.address());
}

#[test]
fn a_udp_flow_finds_the_container_that_publishes_its_port_later() {
    let Some(world) = World::new() else { return };
    let network = world.network();
    world.container(&network, "first", &[]);
    // One socket, so one tracked connection, which exists before the port does.
    let client = world.lan.udp("0.0.0.0:0");
    client.connect((HOST, 5300)).unwrap();
    client.send(b"early").unwrap();
    let mut buffer = [0; 16];
    for name in ["one", "two"] {
        let dns = world.container(&network, name, &[udp(5300, 53)]);
        let server = dns.netns.udp("0.0.0.0:53");
        // The refusal of the datagram that found nobody.
        while client.send(b"question").is_err() {}
        let (_, peer) = server.recv_from(&mut buffer).unwrap();
        server.send_to(b"answer", peer).unwrap();
        while client.recv(&mut buffer).is_err() {}
        drop(dns);
        network.detach(name).unwrap();
        network.settle();
    }
}

#[test]
fn two_addresses_of_the_host_publish_the_same_port_for_two_containers() {
    let Some(world) = World::new() else { return };
    let network = world.network();
    let on = |ip: Ipv4Addr| publish(Some(&ip.to_string()), 8080, 80, Protocol::Tcp);
    let one = world.container(&network, "one", &[on(HOST)]);
    let two = world.container(&network, "two", &[on(HOST_FAR)]);
    let (first, second) = (one.netns.listen("0.0.0.0:80"), two.netns.listen("0.0.0.0:80"));
    assert_eq!(meet(&first, &world.lan, (HOST, 8080)), LAN);
    assert_eq!(meet(&second, &world.lan, (HOST_FAR, 8080)), LAN);
    // And nowhere else.
    assert_eq!(
        world.host.connect((LOCALHOST, 8080), PATIENCE).unwrap_err().kind(),
        std::io::ErrorKind::ConnectionRefused
    );
}

#[test]
fn a_port_is_refused_and_not_swallowed_when_nobody_serves_it() {
    let Some(world) = World::new() else { return };
    let network = world.network();
    let web = world.container(&network, "web", &[tcp(8080, 80)]);
    let refused = |from: &Netns, to: (Ipv4Addr, u16)| {
        assert_eq!(from.connect(to, PATIENCE).unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
    };
    // The container does not listen yet.
    refused(&world.lan, (HOST, 8080));
    refused(&world.host, (LOCALHOST, 8080));
    // The port is taken back, and its reservation is still held.
    network.detach("web").unwrap();
    refused(&world.lan, (HOST, 8080));
    refused(&world.host, (LOCALHOST, 8080));
    drop(web);
}

#[test]
fn several_engines_live_side_by_side() {
    let Some(world) = World::new() else { return };
    let networks = ["a", "b"].map(|name| world.network_of(name, wharf_state::Database::in_memory().unwrap()));
    let one = world.container(&networks[0], "one", &[tcp(8080, 80)]);
    let two = world.container(&networks[1], "one", &[tcp(8081, 80)]);
    let infos = networks.each_ref().map(|network| network.info().unwrap());
    assert_eq!(infos.each_ref().map(|info| info.name.as_str()), ["wh-a", "wh-b"]);
    assert_eq!(infos[0].subnet.to_string(), "172.17.0.0/16");
    assert_eq!(infos[1].subnet.to_string(), "172.18.0.0/16");
    let (first, second) = (one.netns.listen("0.0.0.0:80"), two.netns.listen("0.0.0.0:80"));
    assert_eq!(meet(&first, &world.lan, (HOST, 8080)), LAN);
    assert_eq!(meet(&second, &world.lan, (HOST, 8081)), LAN);
    // From one engine's container to the other's: through the published port only.
    assert_eq!(meet(&second, &one.netns, (HOST, 8081)), infos[1].gateway);
    assert_unreachable(&one.netns, (two.address(), 80));
    // One engine leaves; the other stays as it was.
    networks[0].detach("one").unwrap();
    networks[0].shutdown().unwrap();
    assert_eq!(meet(&second, &world.lan, (HOST, 8081)), LAN);
    assert_eq!(common::tables(), ["wharf-b"]);
}
