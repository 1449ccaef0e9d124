//! Leases, ports and what is left after failures, crashes and other people's hands.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "only tests here")]

mod common;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{HOST, LAN, Netns, PATIENCE, World, links, meet, publish, published, tables, tcp, udp};
use wharf_net::{EndpointRequest, Error, HostPort, Mac, Network, NetworkConfig, PortRequest, Protocol};
use wharf_state::Database;

/// What the host has without an engine.
fn baseline() -> Vec<String> {
    ["far0", "lan0", "lo"].map(str::to_owned).into()
}

#[test]
fn nothing_is_made_before_the_first_container_and_nothing_is_left_after_the_last() {
    let Some(world) = World::new() else { return };
    let network = world.network();
    assert_eq!(network.info().unwrap().gateway, Ipv4Addr::new(172, 17, 0, 1));
    assert_eq!(network.reconcile(&[]).unwrap(), Vec::<String>::new());
    network.detach("nobody").unwrap();
    assert_eq!((links(), tables()), (baseline(), vec![]));
    let one = world.container(&network, "one", &[tcp(8080, 80)]);
    network.shutdown().unwrap();
    assert!(links().contains(&"wharf0".to_owned()), "a container is still there");
    network.detach("one").unwrap();
    drop(one);
    network.shutdown().unwrap();
    assert_eq!((links(), tables()), (baseline(), vec![]));
    // And again.
    world.container(&network, "one", &[]);
    network.detach("one").unwrap();
    network.shutdown().unwrap();
    assert_eq!((links(), tables()), (baseline(), vec![]));
}

#[test]
fn an_endpoint_is_what_the_container_sees() {
    let Some(world) = World::new() else { return };
    let network = world.network();
    let one = world.container(&network, "one", &[]);
    let endpoint = &one.attached.endpoint;
    assert_eq!(endpoint.address, Ipv4Addr::new(172, 17, 0, 2));
    assert_eq!(endpoint.gateway, Ipv4Addr::new(172, 17, 0, 1));
    assert_eq!((endpoint.prefix_len, endpoint.interface.as_str()), (16, "eth0"));
    assert_eq!(endpoint.mac.to_string(), "02:42:ac:11:00:02");
    assert_eq!(one.netns.run(|| common::mac_of("eth0")), endpoint.mac.0);
    assert_eq!(one.netns.run(links), ["eth0", "lo"]);
    let routes = one.netns.run(|| std::fs::read_to_string("/proc/thread-self/net/route").unwrap());
    assert!(routes.contains("eth0\t00000000\t010011AC"), "{routes}");
    assert_eq!(network.endpoints().unwrap(), std::slice::from_ref(endpoint));
    // The interface without an endpoint: loopback only.
    let none = Netns::new().unwrap();
    network.loopback(none.fd()).unwrap();
    meet(&none.listen("127.0.0.1:7"), &none, (Ipv4Addr::LOCALHOST, 7));
}

#[test]
fn addresses_are_leased_once_and_the_lowest_first() {
    let Some(world) = World::new() else { return };
    let config = NetworkConfig {
        instance: "small".into(),
        bridge: None,
        subnet: Some("10.7.7.0/29".parse().unwrap()),
        state: Database::in_memory().unwrap(),
    };
    let network = Network::open(config).unwrap();
    let last = |n: u8| Ipv4Addr::new(10, 7, 7, n);
    let containers: Vec<_> =
        (2..7).map(|n| (n, world.container(&network, &format!("c{n}"), &[]).address())).collect();
    assert!(containers.iter().all(|(n, address)| *address == last(*n)), "{containers:?}");
    let full = world.try_container(&network, "more", &[]).unwrap_err();
    assert!(matches!(full, Error::AddressesExhausted { .. }), "{full}");
    network.detach("c4").unwrap();
    network.settle();
    assert_eq!(world.container(&network, "more", &[]).address(), last(4));

    let netns = Netns::new().unwrap();
    let wish = |address, mac| {
        let request = EndpointRequest { container: "wish", netns: netns.fd(), ports: &[], address, mac };
        network.attach(&request)
    };
    let holder = |error| match error {
        Error::AddressInUse { holder, .. } => holder,
        other => panic!("{other}"),
    };
    assert_eq!(holder(wish(Some(last(3)), None).unwrap_err()), "c3");
    assert_eq!(holder(wish(Some(last(1)), None).unwrap_err()), "the bridge");
    for outside in [last(0), last(7), last(8)] {
        assert!(matches!(wish(Some(outside), None), Err(Error::AddressOutside { .. })), "{outside}");
    }
    assert!(matches!(wish(None, Some(Mac([1, 0, 0, 0, 0, 1]))), Err(Error::InvalidMac(_))));
    network.detach("c6").unwrap();
    network.settle();
    let mac = Mac([2, 0, 0, 0, 0, 9]);
    let granted = wish(Some(last(6)), Some(mac)).unwrap().endpoint;
    assert_eq!((granted.address, granted.mac), (last(6), mac));
    assert_eq!(netns.run(|| common::mac_of("eth0")), mac.0);
}

#[test]
fn the_subnet_avoids_the_hosts_networks_and_is_remembered() {
    let Some(world) = World::new() else { return };
    let state = Database::in_memory().unwrap();
    common::address("far0", Ipv4Addr::new(172, 17, 9, 9));
    let network = world.network_of("", state.clone());
    assert_eq!(network.info().unwrap().subnet.to_string(), "172.18.0.0/16");
    world.container(&network, "one", &[]);
    // The overlap is gone, but there is a container on the other subnet.
    common::remove_link("far0");
    drop(network);
    let network = world.network_of("", state);
    network.reconcile(&["one"]).unwrap();
    assert_eq!(network.info().unwrap().subnet.to_string(), "172.18.0.0/16");
    assert_eq!(world.container(&network, "two", &[]).address(), Ipv4Addr::new(172, 18, 0, 3));
}

#[test]
fn a_bridge_of_somebody_else_is_used_as_it_is_and_left() {
    let Some(world) = World::new() else { return };
    common::make_bridge("br-own");
    common::address("br-own", Ipv4Addr::new(10, 5, 0, 1));
    let config = NetworkConfig {
        instance: String::new(),
        bridge: Some("br-own".into()),
        subnet: None,
        state: Database::in_memory().unwrap(),
    };
    let network = Network::open(config.clone()).unwrap();
    let one = world.container(&network, "one", &[tcp(8080, 80)]);
    assert_eq!(one.address(), Ipv4Addr::new(10, 5, 0, 2));
    meet(&one.netns.listen("0.0.0.0:80"), &world.lan, (HOST, 8080));
    network.detach("one").unwrap();
    network.shutdown().unwrap();
    assert!(links().contains(&"br-own".to_owned()));
    // An interface that is no bridge.
    let config = NetworkConfig { bridge: Some("lan0".into()), ..config };
    let network = Network::open(config.clone()).unwrap();
    let refused = world.try_container(&network, "one", &[]).unwrap_err();
    assert!(matches!(refused, Error::NotABridge { .. }), "{refused}");
    for name in ["../x", "a b", "all", "abcdefghijklmnop"] {
        let config = NetworkConfig { bridge: Some(name.into()), ..config.clone() };
        assert!(matches!(Network::open(config), Err(Error::InvalidName { .. })), "{name}");
    }
}

#[test]
fn conflicts_over_ports_name_who_is_in_the_way_and_leave_nothing() {
    let Some(world) = World::new() else { return };
    let network = world.network();
    let program = TcpListener::bind("0.0.0.0:8080").unwrap();
    let attempt = |name: &str, ports: &[PortRequest]| world.try_container(&network, name, ports);
    let message = |name: &str, ports: &[PortRequest]| attempt(name, ports).unwrap_err().to_string();

    assert_eq!(
        message("one", &[tcp(8081, 81), tcp(8080, 80)]),
        "failed to bind host port for 0.0.0.0:8080:172.17.0.2:80/tcp: address already in use"
    );
    // The other port of the failed container is free again, and so are its address and its link.
    assert_eq!(network.endpoints().unwrap(), []);
    drop(TcpListener::bind("0.0.0.0:8081").unwrap());
    let one = world.container(&network, "one", &[tcp(8081, 81), udp(8080, 80)]);
    assert_eq!(one.address(), Ipv4Addr::new(172, 17, 0, 2));

    assert_eq!(message("two", &[tcp(8081, 1)]), "Bind for 0.0.0.0:8081 failed: port is already allocated");
    let on_host = publish(Some(&HOST.to_string()), 8081, 1, Protocol::Tcp);
    let Error::PortAllocated { holder, .. } = attempt("two", &[on_host]).unwrap_err() else { panic!() };
    assert_eq!(holder, "one");
    assert_eq!(
        message("two", &[tcp(9000, 1), tcp(9000, 2)]),
        "Bind for 0.0.0.0:9000 failed: port is already allocated"
    );
    assert_eq!(
        message("two", &[publish(Some("9.9.9.9"), 9000, 1, Protocol::Udp)]),
        "failed to bind host port for 9.9.9.9:9000:172.17.0.3:1/udp: cannot assign requested address"
    );
    let six = publish(Some("::1"), 9000, 1, Protocol::Tcp);
    assert!(matches!(attempt("two", &[six]), Err(Error::Ipv6Unsupported { .. })));

    // Nobody takes a published port from a container, not even where sharing is asked for.
    let taken = TcpListener::bind("0.0.0.0:8081").unwrap_err();
    assert_eq!(taken.kind(), std::io::ErrorKind::AddrInUse);
    assert!(UdpSocket::bind((HOST, 8080)).is_err());
    network.detach("one").unwrap();
    drop(one);
    drop(program);
    drop(TcpListener::bind("0.0.0.0:8081").unwrap());
}

#[test]
fn a_port_is_taken_for_as_long_as_it_is_translated() {
    let Some(world) = World::new() else { return };
    let state = Database::in_memory().unwrap();
    let network = world.network_of("", state.clone());
    let taken = || TcpListener::bind("0.0.0.0:8080").is_err();
    // The container ends, and with it whoever held the port for it.
    drop(world.container(&network, "one", &[tcp(8080, 80)]));
    assert!(taken());
    network.detach("one").unwrap();
    assert!(!taken());
    // The same after another engine has taken over.
    let one = world.container(&network, "one", &[tcp(8080, 80)]);
    let copies = one.attached.reservations.iter().map(|held| held.try_clone().unwrap()).collect();
    drop(network);
    let network = world.network_of("", state);
    network.reconcile(&["one"]).unwrap();
    network.keep("one", copies);
    drop(one);
    assert!(taken());
    network.reconcile(&[]).unwrap();
    assert!(!taken());
}

#[test]
fn ranges_and_ephemeral_ports_take_what_is_free() {
    let Some(world) = World::new() else { return };
    let network = world.network();
    let in_range = PortRequest { host_port: HostPort::Between(8000, 8002), ..tcp(0, 80) };
    let program = TcpListener::bind("0.0.0.0:8001").unwrap();
    let host_port = |name: &str, request: PortRequest| {
        let container = world.try_container(&network, name, &[request])?;
        let port = container.attached.endpoint.ports[0].host_port;
        Ok((container, port))
    };
    let first = host_port("one", in_range).map_err(|error: Error| error.to_string()).unwrap();
    let second = host_port("two", in_range).unwrap();
    assert_eq!((first.1, second.1), (8000, 8002));
    let full = host_port("three", in_range).unwrap_err();
    assert!(matches!(full, Error::PortsExhausted { first: 8000, last: 8002, .. }), "{full}");
    drop(program);
    assert_eq!(host_port("three", in_range).unwrap().1, 8001);

    let busy = TcpListener::bind("0.0.0.0:32769").unwrap();
    let ports: Vec<_> = ["four", "five", "six"].map(|name| host_port(name, tcp(0, 80)).unwrap()).into();
    assert_eq!(ports.iter().map(|(_, port)| *port).collect::<Vec<_>>(), [32768, 32770, 32771]);
    assert_eq!(host_port("seven", udp(0, 80)).unwrap().1, 32768);
    drop(busy);
}

#[test]
fn sctp_is_published_even_if_the_kernel_cannot_reserve_it() {
    let Some(world) = World::new() else { return };
    let network = world.network();
    let sctp = publish(None, 9000, 9, Protocol::Sctp);
    let _one = world.container(&network, "one", &[sctp]);
    let taken = world.try_container(&network, "two", &[sctp]).unwrap_err();
    assert!(matches!(taken, Error::PortAllocated { .. }), "{taken}");
    assert_eq!(published("wharf"), 1);
}

#[test]
fn a_failed_attach_takes_everything_back() {
    let Some(world) = World::new() else { return };
    let network = world.network();
    let one = world.container(&network, "one", &[tcp(8080, 80)]);
    let before = (links(), published("wharf"), network.endpoints().unwrap());
    // The namespace has an eth0 already.
    let request = EndpointRequest {
        container: "two",
        netns: one.netns.fd(),
        ports: &[tcp(8081, 81)],
        address: None,
        mac: None,
    };
    let error = network.attach(&request).unwrap_err();
    assert!(error.to_string().starts_with("cannot create the network interface of two: "), "{error}");
    assert_eq!((links(), published("wharf"), network.endpoints().unwrap()), before);
    drop(TcpListener::bind("0.0.0.0:8081").unwrap());
    // Something that is no network namespace.
    let file = std::fs::File::open("/proc/self/ns/uts").unwrap();
    let request = EndpointRequest { netns: std::os::fd::AsFd::as_fd(&file), ..request };
    let error = network.attach(&request).unwrap_err();
    assert!(matches!(error, Error::Enter { .. }), "{error}");
    assert_eq!((links(), published("wharf"), network.endpoints().unwrap()), before);
    meet(&one.netns.listen("0.0.0.0:80"), &world.lan, (HOST, 8080));
}

#[test]
fn a_container_that_comes_back_gets_a_new_endpoint() {
    let Some(world) = World::new() else { return };
    let network = world.network();
    for round in 0..6 {
        let one = world.container(&network, "one", &[tcp(8080, 80)]);
        meet(&one.netns.listen("0.0.0.0:80"), &world.lan, (HOST, 8080));
        // An engine that never heard of the end detaches only when the container starts again.
        if round % 2 == 0 {
            network.detach("one").unwrap();
            network.detach("one").unwrap();
        }
    }
    assert_eq!(network.endpoints().unwrap().len(), 1);
    assert_eq!(published("wharf"), 1);
}

#[test]
fn reconcile_sweeps_the_dead_and_keeps_the_living() {
    let Some(world) = World::new() else { return };
    let state = Database::in_memory().unwrap();
    let network = world.network_of("", state.clone());
    let live = world.container(&network, "live", &[tcp(8080, 80)]);
    let dead = world.container(&network, "dead", &[tcp(8081, 80)]);
    drop(network);

    let network = world.network_of("", state);
    assert_eq!(network.reconcile(&["live", "unknown"]).unwrap(), ["dead"]);
    assert_eq!(network.endpoints().unwrap(), std::slice::from_ref(&live.attached.endpoint));
    assert!(!links().contains(&dead.attached.endpoint.host_interface));
    assert_eq!(published("wharf"), 1);
    meet(&live.netns.listen("0.0.0.0:80"), &world.lan, (HOST, 8080));
    // The address of the dead is free.
    assert_eq!(world.container(&network, "next", &[]).address(), dead.address());
    assert_eq!(network.reconcile(&[]).unwrap(), ["live", "next"]);
    network.shutdown().unwrap();
    assert_eq!((links(), tables()), (baseline(), vec![]));
}

#[test]
fn a_damaged_record_harms_only_its_container() {
    let Some(world) = World::new() else { return };
    let state = Database::in_memory().unwrap();
    let network = world.network_of("", state.clone());
    let web = world.container(&network, "web", &[tcp(8080, 80)]);
    let damage = |container: &str| {
        state
            .write(|tx| -> Result<(), wharf_state::Error> {
                let damaged = "UPDATE net_endpoints SET record = '{' WHERE container = ?1";
                assert_eq!(tx.execute(damaged, [container])?, 1);
                Ok(())
            })
            .unwrap();
    };
    for name in ["detached", "attached", "dead"] {
        let victim = world.container(&network, name, &[tcp(8081, 81)]);
        damage(name);
        match name {
            "detached" => network.detach(name).unwrap(),
            "attached" => {
                drop(victim);
                let again = world.container(&network, name, &[tcp(8081, 81)]);
                meet(&again.netns.listen("0.0.0.0:81"), &world.lan, (HOST, 8081));
                network.detach(name).unwrap();
                network.settle();
            }
            _ => assert_eq!(network.reconcile(&["web"]).unwrap(), ["dead"]),
        }
        assert_eq!(network.endpoints().unwrap(), std::slice::from_ref(&web.attached.endpoint), "{name}");
        assert_eq!(published("wharf"), 1, "{name}");
        assert_eq!(links().iter().filter(|link| link.starts_with("veth")).count(), 1, "{name}");
    }
    meet(&web.netns.listen("0.0.0.0:80"), &world.lan, (HOST, 8080));
}

#[test]
fn what_somebody_else_destroys_comes_back() {
    let Some(world) = World::new() else { return };
    let network = world.network();
    let web = world.container(&network, "web", &[tcp(8080, 80)]);
    let server = web.netns.listen("0.0.0.0:80");
    meet(&server, &world.lan, (HOST, 8080));

    common::flush_firewall();
    // The next container that publishes something notices.
    let other = world.container(&network, "other", &[tcp(8081, 81)]);
    meet(&server, &world.lan, (HOST, 8080));
    assert_eq!(published("wharf"), 2);

    common::flush_firewall();
    network.reconcile(&["web", "other"]).unwrap();
    meet(&server, &world.lan, (HOST, 8080));
    // A detach finds nothing to withdraw, and that is fine.
    common::flush_firewall();
    network.detach("other").unwrap();
    network.settle();
    drop(other);

    common::remove_link("wharf0");
    network.reconcile(&["web"]).unwrap();
    meet(&server, &world.lan, (HOST, 8080));
    assert_eq!(meet(&world.lan.listen("0.0.0.0:7"), &web.netns, (LAN, 7)), HOST);

    // The next container notices, too, and the bridge comes back for everybody.
    common::remove_link("wharf0");
    let third = world.container(&network, "third", &[]);
    meet(&third.netns.listen("0.0.0.0:80"), &world.host, (third.address(), 80));
    network.reconcile(&["web", "third"]).unwrap();
    meet(&server, &world.lan, (HOST, 8080));
}

#[test]
fn many_at_once() {
    let Some(world) = World::new() else { return };
    let network = world.network();
    let addresses: Vec<Ipv4Addr> = std::thread::scope(|scope| {
        let work = |worker: usize| {
            let (world, network) = (&world, &network);
            move || {
                world.host.run(|| {
                    for round in 0..5 {
                        let name = format!("{worker}-{round}");
                        drop(world.container(network, &name, &[tcp(0, 80), udp(0, 53)]));
                        network.detach(&name).unwrap();
                    }
                    let last = world.container(network, &format!("{worker}"), &[tcp(0, 80)]);
                    meet(&last.netns.listen("0.0.0.0:80"), &world.host, (last.address(), 80));
                    last.address()
                })
            }
        };
        let workers: Vec<_> = (0..8).map(|worker| scope.spawn(work(worker))).collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).collect()
    });
    assert_eq!(addresses.iter().collect::<BTreeSet<_>>().len(), 8, "{addresses:?}");
    network.settle();
    assert_eq!(network.endpoints().unwrap().len(), 8);
    assert_eq!(published("wharf"), 8);
    assert_eq!(network.reconcile(&[]).unwrap().len(), 8);
    network.shutdown().unwrap();
    assert_eq!((links(), tables()), (baseline(), vec![]));
}

/// The state database of the engine that [`engine_that_is_killed`] plays.
const STATE: &str = "WHARF_NET_TEST_STATE";

#[test]
#[ignore = "the child of the next test"]
fn engine_that_is_killed() {
    let Some(path) = std::env::var_os(STATE) else { return };
    let state = Database::open(path.as_ref()).unwrap();
    let config = NetworkConfig { instance: String::new(), bridge: None, subnet: None, state };
    let network = Network::open(config).unwrap();
    println!("\nready");
    for round in 0.. {
        let netns = Netns::new().unwrap();
        let container = format!("c{}", round % 7);
        let ports = [tcp(8000 + round % 7, 80), udp(0, 53)];
        let request = EndpointRequest {
            container: &container,
            netns: netns.fd(),
            ports: &ports,
            address: None,
            mac: None,
        };
        network.attach(&request).unwrap();
        network.detach(&format!("c{}", (round + 3) % 7)).unwrap();
    }
}

#[test]
fn whatever_a_killed_engine_leaves_is_swept() {
    let Some(world) = World::new() else { return };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let mut swept = 0;
    let mut random = 0x2545_f491_u32;
    for _ in 0..25 {
        let mut engine = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "engine_that_is_killed", "--ignored", "--nocapture"])
            .env(STATE, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(engine.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap() == "ready"));
        random ^= random << 13;
        random ^= random >> 17;
        random ^= random << 5;
        // Any instant will do: this waits for nothing.
        std::thread::sleep(Duration::from_micros(u64::from(random % 60_000)));
        engine.kill().unwrap();
        engine.wait().unwrap();

        let network = world.network_of("", Database::open(&path).unwrap());
        swept += network.reconcile(&[]).unwrap().len();
        assert_eq!(network.endpoints().unwrap(), []);
        assert_eq!(links().iter().filter(|name| name.starts_with("veth")).count(), 0);
        if tables() == ["wharf"] {
            assert_eq!(published("wharf"), 0);
        }
        // All is well afterwards.
        let web = world.container(&network, "web", &[tcp(8000, 80)]);
        meet(&web.netns.listen("0.0.0.0:80"), &world.lan, (HOST, 8000));
        network.detach("web").unwrap();
        network.shutdown().unwrap();
        assert_eq!((links(), tables()), (baseline(), vec![]));
    }
    assert!(swept > 0, "no engine was killed with an endpoint");
    assert!(world.lan.connect((HOST, 8000), PATIENCE).is_err());
}
