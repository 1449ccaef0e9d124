//! `system check`: what a disk has damaged is found, and had again from the registry it came from.

use std::fs;
use std::path::PathBuf;

use wharf_testkit::{Engine, Registry, image};

/// The largest blob of an engine's store: a layer.
fn largest_blob(engine: &Engine) -> PathBuf {
    let blobs = fs::read_dir(engine.data_root().join("content/blobs/sha256")).expect("blobs");
    let blobs = blobs.map(|entry| entry.expect("an entry").path());
    blobs.max_by_key(|path| fs::metadata(path).map_or(0, |metadata| metadata.len())).expect("a blob")
}

#[test]
fn a_damaged_blob_is_found_and_fetched_again() {
    let registry = Registry::scratch();
    let (maker, engine) = (Engine::with_image(), Engine::scratch());
    let name = registry.name("box:1");
    maker.wharf().ok(&["tag", image::NAME, &name]);
    maker.wharf().ok(&["push", &name]);
    let wharf = engine.wharf();
    wharf.ok(&["pull", &name]);
    wharf.ok(&["system", "check"]);

    let blob = largest_blob(&engine);
    let sound = fs::read(&blob).expect("the blob is readable");
    let mut damaged = sound.clone();
    damaged[sound.len() / 2] ^= 1;
    fs::write(&blob, &damaged).expect("we are root");
    let digest = blob.file_name().expect("a name").to_string_lossy().into_owned();
    let found = wharf.run(&["system", "check"]);
    assert_eq!(found.code, 1, "{}{}", found.stdout, found.stderr);
    assert!(found.stdout.contains(&digest[..12]), "{}{}", found.stdout, found.stderr);

    let repaired = wharf.run(&["system", "check", "--repair"]);
    assert_eq!(repaired.code, 0, "{}{}", repaired.stdout, repaired.stderr);
    assert_eq!(fs::read(&blob).expect("the blob is back"), sound);
    wharf.ok(&["system", "check"]);

    fs::remove_file(&blob).expect("we are root");
    assert_eq!(wharf.run(&["system", "check"]).code, 1);
    drop(registry);
    let stuck = wharf.run(&["system", "check", "--repair"]);
    assert_eq!(stuck.code, 1, "nobody has it: {}{}", stuck.stdout, stuck.stderr);
    assert_eq!(wharf.ok(&["run", "--rm", &name, "echo", "still runs"]), "still runs");
}
