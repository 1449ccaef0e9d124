//! What the store says it takes, and keeping it within a budget.
#![allow(clippy::unwrap_used, reason = "a failing helper is a failing test")]

mod support;

use std::path::Path;
use std::process::Command;

use support::{Scratch, Tar, docker_archive, gzip};
use wharf_model::Digest;

/// Bytes on disk by du(1), without what is mounted there.
fn du(path: &Path) -> u64 {
    let output = Command::new("du").args(["-s", "-x", "--block-size=1"]).arg(path).output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap().split_whitespace().next().unwrap().parse().unwrap()
}

/// Of the store: its content, and the directories of all layers.
fn du_of(scratch: &Scratch) -> u64 {
    // A mount hides the directory that it is on.
    scratch.images.detach_layers().unwrap();
    let layers = std::fs::read_dir(scratch.data().join("snapshots")).unwrap();
    let layers = layers.map(|entry| entry.unwrap().path()).filter(|path| !path.ends_with(".trash"));
    du(&scratch.data().join("content")) + layers.map(|path| du(&path)).sum::<u64>()
}

fn noise(seed: u8, size: usize) -> Vec<u8> {
    let mut state = u64::from(seed) + 1;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        state.to_be_bytes()[0]
    };
    std::iter::repeat_with(next).take(size).collect()
}

/// An image with a layer of its own on a shared one of 300 kB.
fn load(scratch: &Scratch, name: &str, seed: u8, size: usize) -> Digest {
    let base = Tar::new().file("base", &noise(0, 300_000)).hardlink("base2", "base").finish();
    let own = Tar::new().dir("d").file("d/own", &noise(seed, size)).symlink("l", "d").finish();
    scratch.load(&docker_archive(name, &[&base, &own])).unwrap()[0].id
}

#[test]
fn the_sum_is_what_du_says() {
    for scratch in Scratch::of_each_format() {
        scratch.images.collect().unwrap();
        assert_eq!(scratch.images.usage().unwrap().bytes, du_of(&scratch));
        let one = load(&scratch, "a:1", 1, 100_000);
        let two = load(&scratch, "b:1", 2, 50_000);
        let three = scratch.import(&gzip(&Tar::new().file("zeros", &[0; 500_000]).finish())).unwrap();
        let usage = scratch.images.usage().unwrap();
        assert_eq!(usage.bytes, du_of(&scratch));
        // Again, from what was remembered; and with layers attached.
        scratch.images.create_snapshot("c", &one).unwrap();
        scratch.images.remove_snapshot("c").unwrap();
        scratch.images.collect().unwrap();
        assert_eq!(scratch.images.usage().unwrap().bytes, du_of(&scratch));
        assert_eq!((usage.shared[&one], usage.shared[&two], usage.shared[&three]), (300_000, 300_000, 0));
        scratch.images.remove("b:1", false, &|_| Vec::new()).unwrap();
        scratch.images.collect().unwrap();
        let usage = scratch.images.usage().unwrap();
        assert_eq!(usage.bytes, du_of(&scratch));
        assert_eq!(usage.shared[&one], 0);
    }
}

#[test]
fn the_image_unused_longest_goes_first() {
    for scratch in Scratch::of_each_format() {
        let [a, b, c, d] = [("a:1", 1), ("b:1", 2), ("c:1", 3), ("d:1", 4)]
            .map(|(name, seed)| load(&scratch, name, seed, 1 << 20));
        // Used again, by a container that is gone.
        scratch.images.create_snapshot("x", &a).unwrap();
        scratch.images.remove_snapshot("x").unwrap();
        let here = || {
            let mut here: Vec<Digest> = scratch.images.list().unwrap().iter().map(|image| image.id).collect();
            here.sort();
            here
        };
        let sorted = |mut ids: Vec<Digest>| {
            ids.sort();
            ids
        };
        let used_by_container =
            |id: &Digest| if *id == b { vec![("c".to_owned(), false)] } else { Vec::new() };
        let full = scratch.images.usage().unwrap().bytes;
        assert_eq!(scratch.images.keep_to_budget(full, &used_by_container).unwrap().removed, []);
        let pruned = scratch.images.keep_to_budget(full - 1, &used_by_container).unwrap();
        assert!(pruned.reclaimed >= 1 << 20);
        assert_eq!(here(), sorted(vec![a, b, d]), "b is used, c is the next, {c}");
        // The one used last stays, whatever it takes.
        scratch.images.keep_to_budget(0, &used_by_container).unwrap();
        assert_eq!(here(), sorted(vec![a, b]));
        scratch.images.keep_to_budget(0, &|_| Vec::new()).unwrap();
        assert_eq!(here(), [a]);
        assert_eq!(scratch.images.check(&|_, _| true).unwrap().findings, []);
    }
}
