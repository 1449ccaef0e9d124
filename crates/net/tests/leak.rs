//! Two hundred containers leave nothing behind. Alone in its process, for it counts the process's descriptors.

#![allow(clippy::unwrap_used, reason = "only tests here")]

mod common;

use common::{World, links, published, tables, tcp, udp};

#[test]
fn two_hundred_containers_leave_nothing() {
    let Some(world) = World::new() else { return };
    let before = links();
    let network = world.network();
    let round = |number: u16| {
        let name = format!("container-{number}");
        drop(world.container(&network, &name, &[tcp(0, 80), udp(8000 + number % 10, 53)]));
        network.detach(&name).unwrap();
    };
    round(0);
    network.settle();
    let (descriptors, with_bridge) = (descriptors(), links());
    for number in 1..=200 {
        round(number);
    }
    network.settle();
    assert_eq!(self::descriptors(), descriptors);
    assert_eq!((links(), published("wharf")), (with_bridge, 0));
    assert_eq!(network.endpoints().unwrap(), []);
    network.shutdown().unwrap();
    assert_eq!((links(), tables()), (before, vec![]));
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}
