//! Who must not reach whom: rows NW-01 to NW-07 of the attack list, with real packets.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "only tests here")]

mod common;

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use common::{
    FAR, HOST, HOST_FAR, LAN, Netns, PATIENCE, SILENCE, World, assert_unreachable, meet, publish, tcp,
};
use rustix::net::{AddressFamily, SocketType, ipproto};
use wharf_net::Protocol;

const LOCALHOST: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// NW-01: nobody believes a router that is a container.
#[test]
fn a_routers_advertisement_from_a_container_changes_nothing() {
    let Some(world) = World::new() else { return };
    let network = world.network();
    let rogue = world.container(&network, "rogue", &[tcp(8080, 80)]);
    let victim = world.container(&network, "victim", &[]);
    for (netns, interface) in [
        (&world.host, "wharf0"),
        (&world.host, &rogue.attached.endpoint.host_interface),
        (&world.host, &victim.attached.endpoint.host_interface),
        (&victim.netns, "eth0"),
    ] {
        assert_eq!(netns.sysctl(&format!("ipv6/conf/{interface}/accept_ra")), "0", "{interface}");
        assert_eq!(netns.sysctl(&format!("ipv6/conf/{interface}/disable_ipv6")), "1", "{interface}");
    }
    let before = [&world.host, &victim.netns].map(ipv6_routes);
    advertise_router(&rogue);
    // What is sent after it has arrived: so has it.
    meet(&victim.netns.listen("0.0.0.0:7"), &rogue.netns, (victim.address(), 7));
    meet(&world.host.listen("0.0.0.0:7"), &rogue.netns, (HOST, 7));
    assert_eq!([&world.host, &victim.netns].map(ipv6_routes), before);
    assert_eq!(world.host.ipv6_addresses("wharf0"), Vec::<String>::new());
    assert_eq!(victim.netns.ipv6_addresses("eth0"), Vec::<String>::new());
}

/// Sends a router advertisement to all nodes as a raw Ethernet frame, as a container with `NET_RAW` can.
fn advertise_router(from: &common::Container) {
    let mac = from.attached.endpoint.mac.0;
    let source: Ipv6Addr = "fe80::bad".parse().unwrap();
    let all_nodes: Ipv6Addr = "ff02::1".parse().unwrap();
    let mut message = vec![134, 0, 0, 0, 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0];
    message.extend([3, 4, 64, 0xc0, 0, 1, 0x51, 0x80, 0, 0, 0x38, 0x40, 0, 0, 0, 0]);
    message.extend("2001:db8:bad::".parse::<Ipv6Addr>().unwrap().octets());
    let length = u16::try_from(message.len()).unwrap();
    let sum = [
        source.octets().as_slice(),
        &all_nodes.octets(),
        &u32::from(length).to_be_bytes(),
        &[0, 0, 0, 58],
        &message,
    ]
    .concat()
    .chunks(2)
    .fold(0_u32, |sum, pair| sum + u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap();
    message[2..4].copy_from_slice(&folded.to_be_bytes());
    let mut frame = vec![0x33, 0x33, 0, 0, 0, 1];
    frame.extend(mac);
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
    frame.extend(length.to_be_bytes());
    frame.extend([58, 255]);
    frame.extend(source.octets());
    frame.extend(all_nodes.octets());
    frame.extend(message);
    send_frame(&from.netns, &frame).unwrap();
}

/// Sends a whole Ethernet frame out of `eth0`.
fn send_frame(netns: &Netns, frame: &[u8]) -> io::Result<()> {
    use rustix::net::{SendFlags, SocketFlags};
    netns.run(|| {
        let everything =
            rustix::net::Protocol::from_raw(std::num::NonZero::new(u32::from(3_u16.to_be())).unwrap());
        let socket = rustix::net::socket_with(
            AddressFamily::PACKET,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            Some(everything),
        )?;
        let index = rustix::net::netdevice::name_to_index(&socket, "eth0")?;
        // The kernel calls it bound when it is bound to an interface: then plain `send` needs no address.
        common::bind_packet_socket(&socket, index)?;
        rustix::net::send(&socket, frame, SendFlags::empty())?;
        Ok(())
    })
}

fn ipv6_routes(netns: &Netns) -> String {
    let routes =
        netns.run(|| std::fs::read_to_string("/proc/thread-self/net/ipv6_route").unwrap_or_default());
    // The counters at the end change with every look.
    routes
        .lines()
        .map(|line| format!("{} {}\n", &line[..100.min(line.len())], &line[line.len() - 8..]))
        .collect()
}

/// NW-02: an endpoint with IPv4 only has no IPv6 at all, not even what an interface gives itself.
#[test]
fn there_is_no_ipv6_on_an_endpoint() {
    let Some(world) = World::new() else { return };
    let network = world.network();
    for round in 0..2 {
        let one = world.container(&network, "one", &[tcp(8080, 80)]);
        let two = world.container(&network, "two", &[]);
        for (netns, interface) in [
            (&one.netns, "eth0"),
            (&two.netns, "eth0"),
            (&world.host, "wharf0"),
            (&world.host, one.attached.endpoint.host_interface.as_str()),
        ] {
            assert_eq!(netns.ipv6_addresses(interface), Vec::<String>::new(), "{interface} in round {round}");
        }
        let all_nodes: SocketAddr = "[ff02::1%2]:9".parse().unwrap();
        let sent =
            one.netns.run(|| UdpSocket::bind("[::]:0").and_then(|socket| socket.send_to(b"x", all_nodes)));
        assert!(sent.is_err(), "{sent:?}");
        for name in ["one", "two"] {
            network.detach(name).unwrap();
        }
    }
}

/// NW-05: only published pairs of address and port answer the neighbourhood, whatever it routes and sends here.
#[test]
fn the_neighbourhood_reaches_published_ports_only() {
    let Some(world) = World::new() else { return };
    let network = world.network();
    let ports = [tcp(8080, 80), publish(Some("127.0.0.1"), 8081, 81, Protocol::Tcp)];
    let web = world.container(&network, "web", &ports);
    let [open, local, closed] = [80, 81, 82].map(|port| web.netns.listen(&format!("0.0.0.0:{port}")));
    let info = network.info().unwrap();
    world.lan.run(|| {
        common::route(Some((info.subnet.network(), info.subnet.prefix_len())), HOST);
        common::route(Some((Ipv4Addr::new(127, 0, 0, 2), 32)), HOST);
    });
    // The container itself, by the route: not even the published port, for that is published elsewhere.
    for port in [80, 81, 82] {
        assert_unreachable(&world.lan, (web.address(), port));
    }
    // The port published on the loopback address, on every address the neighbour can name.
    for address in [HOST, HOST_FAR, info.gateway] {
        assert_unreachable(&world.lan, (address, 8081));
    }
    assert_eq!(meet(&open, &world.lan, (HOST, 8080)), LAN);
    assert_eq!(meet(&local, &world.host, (LOCALHOST, 8081)), info.gateway);
    drop(closed);
}

/// NW-05, the sharper half: a frame from the wire that is addressed to 127.0.0.1.
#[test]
fn frames_from_the_wire_do_not_reach_what_is_published_on_loopback() {
    let Some(world) = World::new() else { return };
    let network = world.network();
    let ports = [publish(Some("127.0.0.1"), 8081, 53, Protocol::Udp), publish(None, 8082, 54, Protocol::Udp)];
    let dns = world.container(&network, "dns", &ports);
    let other = world.container(&network, "other", &[]);
    let local = dns.netns.udp("0.0.0.0:53");
    let open = dns.netns.udp("0.0.0.0:54");
    // The neighbour and another container let their own kernel send what it would never send by itself.
    for (netns, interface, gateway) in
        [(&world.lan, "wire0", HOST), (&other.netns, "eth0", dns.attached.endpoint.gateway)]
    {
        netns.run(|| {
            std::fs::write(format!("/proc/sys/net/ipv4/conf/{interface}/route_localnet"), "1").unwrap();
            common::hijack_loopback(interface, gateway);
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            for target in [LOCALHOST, Ipv4Addr::new(127, 0, 0, 9)] {
                // A kernel that refuses to send it is as good as one that drops it.
                let _ = socket.send_to(b"forbidden", (target, 8081));
                let _ = socket.send_to(b"forbidden", (target, 8082));
            }
        });
    }
    // Sent later and on the same ways, so it arrives later.
    for netns in [&world.lan, &other.netns] {
        netns.udp("0.0.0.0:0").send_to(b"allowed", (HOST, 8082)).unwrap();
        let mut buffer = [0; 16];
        let (length, _) = open.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"allowed");
    }
    local.set_read_timeout(Some(SILENCE)).unwrap();
    assert!(local.recv(&mut [0; 16]).is_err());
}

/// NW-06 and NW-05 from the inside: nobody appears under a loopback address, nobody reaches one of the host's.
#[test]
fn a_container_cannot_pretend_to_be_the_host() {
    let Some(world) = World::new() else { return };
    let network = world.network();
    let rogue = world.container(&network, "rogue", &[]);
    let server = UdpSocket::bind("0.0.0.0:99").unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    let bridge = common::mac_of("wharf0");
    let send = |source, destination, mark| {
        let frame = udp_frame(bridge, rogue.attached.endpoint.mac.0, source, destination, (99, mark));
        send_frame(&rogue.netns, &frame).unwrap();
    };
    let gateway = rogue.attached.endpoint.gateway;
    send(LOCALHOST, gateway, 1);
    send(Ipv4Addr::new(127, 1, 2, 3), HOST, 2);
    send(rogue.address(), LOCALHOST, 3);
    send(rogue.address(), Ipv4Addr::new(127, 1, 2, 3), 4);
    // The same frame without a lie arrives, and is the first to do so.
    send(rogue.address(), gateway, 5);
    let mut payload = [0; 4];
    let (_, peer) = server.recv_from(&mut payload).unwrap();
    assert_eq!((payload, peer.ip()), ([5; 4], rogue.address().into()));
}

fn udp_frame(
    to: [u8; 6],
    from: [u8; 6],
    source: Ipv4Addr,
    destination: Ipv4Addr,
    (port, mark): (u16, u8),
) -> Vec<u8> {
    let mut header = vec![0x45, 0, 0, 32, 0, 1, 0, 0, 64, ipproto::UDP.as_raw().get() as u8, 0, 0];
    header.extend(source.octets());
    header.extend(destination.octets());
    let sum =
        header.chunks(2).fold(0_u32, |sum, pair| sum + u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let folded = (sum & 0xffff) + (sum >> 16);
    header[10..12].copy_from_slice(&(!u16::try_from(folded).unwrap()).to_be_bytes());
    let mut frame = [to, from].concat();
    frame.extend([8, 0]);
    frame.extend(header);
    frame.extend([0x30, 0x39]);
    frame.extend(port.to_be_bytes());
    // Length, no checksum, four bytes.
    frame.extend([0, 12, 0, 0, mark, mark, mark, mark]);
    frame
}

/// NW-07: a published port does not capture what the host forwards for others.
#[test]
fn traffic_between_neighbours_is_not_captured() {
    let Some(world) = World::new() else { return };
    let network = world.network();
    let web = world.container(&network, "web", &[tcp(8080, 80)]);
    let captured = web.netns.listen("0.0.0.0:80");
    captured.set_nonblocking(true).unwrap();
    let neighbour = world.far.listen("0.0.0.0:8080");
    assert_eq!(meet(&neighbour, &world.lan, (FAR, 8080)), LAN);
    // Nor what containers send there.
    let other = world.container(&network, "other", &[]);
    assert_eq!(meet(&neighbour, &other.netns, (FAR, 8080)), HOST_FAR);
    // Nor what the host sends there.
    assert_eq!(meet(&neighbour, &world.host, (FAR, 8080)), HOST_FAR);
    assert_eq!(captured.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
}

/// NW-04: the fence stands at every instant while engines start over.
#[test]
fn isolation_and_publication_hold_while_the_table_is_replaced() {
    let Some(world) = World::new() else { return };
    let database = wharf_state::Database::in_memory().unwrap();
    let network = world.network_of("", database.clone());
    let ports = [publish(None, 5300, 53, Protocol::Udp)];
    let dns = world.container(&network, "dns", &ports);
    let info = network.info().unwrap();
    world.lan.run(|| common::route(Some((info.subnet.network(), info.subnet.prefix_len())), HOST));
    let server = dns.netns.udp("0.0.0.0:53");
    server.set_read_timeout(Some(SILENCE)).unwrap();
    let (stop, mut buffer) = (AtomicBool::new(false), [0; 16]);
    std::thread::scope(|scope| {
        let probes = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                // A new socket each time: a tracked connection would hide a gap.
                let socket = world.lan.udp("0.0.0.0:0");
                socket.send_to(b"forbidden", (dns.address(), 53)).unwrap();
                socket.send_to(b"allowed", (HOST, 5300)).unwrap();
                socket.recv(&mut [0; 16]).expect("the published port did not answer");
            }
        });
        let engines = scope.spawn(|| {
            world.host.run(|| {
                // Engines that die and start over.
                for _ in 0..200 {
                    let next = world.network_of("", database.clone());
                    assert_eq!(next.reconcile(&["dns"]).unwrap(), Vec::<String>::new());
                }
                stop.store(true, Ordering::Relaxed);
            });
        });
        while !(probes.is_finished() && engines.is_finished()) {
            if let Ok((length, peer)) = server.recv_from(&mut buffer) {
                assert_eq!(&buffer[..length], b"allowed");
                server.send_to(b"answer", peer).unwrap();
            }
        }
    });
}

/// NW-04: an outsider's flush is repaired without anybody asking for it.
#[test]
fn a_flushed_firewall_comes_back_by_itself() {
    let Some(world) = World::new() else { return };
    let network = world.network();
    let web = world.container(&network, "web", &[tcp(8080, 80)]);
    let info = network.info().unwrap();
    world.lan.run(|| common::route(Some((info.subnet.network(), info.subnet.prefix_len())), HOST));
    let server = web.netns.listen("0.0.0.0:80");
    for _ in 0..20 {
        common::flush_firewall();
        let flushed = Instant::now();
        while world.lan.connect((HOST, 8080), SILENCE).is_err() {
            assert!(flushed.elapsed() < PATIENCE, "the table did not come back");
        }
        server.accept().unwrap();
        assert_unreachable(&world.lan, (web.address(), 80));
    }
    assert_eq!(common::tables(), ["wharf"]);
    // An engine that leaves does not repair what it removes itself.
    network.detach("web").unwrap();
    network.shutdown().unwrap();
    assert_eq!(common::tables(), Vec::<String>::new());
}
