//! What an endpoint costs: `cargo test -p wharf-net --test cost -- --ignored --nocapture`.

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
    println!("{what} with {ports} ports: median {:.2} ms, p90 {:.2} ms", at(50), at(90));
}
