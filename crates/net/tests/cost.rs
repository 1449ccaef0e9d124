//! What an endpoint costs: `cargo test -p wharf-net --test cost -- --ignored --nocapture`.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "only tests here")]

mod common;

use std::time::{Duration, Instant};

use common::{Netns, World, tcp};
use wharf_net::EndpointRequest;

const ROUNDS: u16 = 50;

#[test]
#[ignore = "a measurement, not a check"]
fn attach_and_detach() {
    let Some(world) = World::new() else { return };
    let dir = tempfile::tempdir().unwrap();
    let network = world.network_of("", wharf_state::Database::open(&dir.path().join("state.db")).unwrap());
    for ports in [&[][..], &[tcp(8080, 80)]] {
        let (mut attach, mut detach) = (Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            let netns = Netns::new().unwrap();
            let container = format!("container-{round}");
            let request =
                EndpointRequest { container: &container, netns: netns.fd(), ports, address: None, mac: None };
            let start = Instant::now();
            let attached = network.attach(&request).unwrap();
            attach.push(start.elapsed());
            drop(attached);
            let start = Instant::now();
            network.detach(&container).unwrap();
            detach.push(start.elapsed());
        }
        report("attach", ports.len(), attach);
        report("detach", ports.len(), detach);
    }
}

fn report(what: &str, ports: usize, mut times: Vec<Duration>) {
    times.sort();
    let at = |part: usize| times[times.len() * part / 100].as_secs_f64() * 1e3;
    println!(
        "{what} with {ports} ports: median {:.2} ms, p90 {:.2} ms, max {:.2} ms",
        at(50),
        at(90),
        at(99)
    );
}

#[test]
#[ignore = "a measurement, not a check"]
fn first_packet() {
    let Some(world) = World::new() else { return };
    let network = world.network();
    let (mut out, mut inward) = (Vec::new(), Vec::new());
    let mut server = None;
    for round in 0..ROUNDS {
        let container = world.container(&network, &format!("container-{round}"), &[]);
        let gateway = container.attached.endpoint.gateway;
        let listener = server.get_or_insert_with(|| std::net::TcpListener::bind((gateway, 7)).unwrap());
        let inside = container.netns.listen("0.0.0.0:80");
        let start = Instant::now();
        if round % 2 == 0 {
            common::meet(listener, &container.netns, (gateway, 7));
            out.push(start.elapsed());
        } else {
            common::meet(&inside, &world.host, (container.address(), 80));
            inward.push(start.elapsed());
        }
        network.detach(&format!("container-{round}")).unwrap();
    }
    report("first packet out", 0, out);
    report("first packet in", 0, inward);
}
