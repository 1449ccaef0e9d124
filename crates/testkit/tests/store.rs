//! What is on the disk: an image store that other tools can read, and engines that do not touch each other.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use wharf_testkit::image::{archive, sha256};
use wharf_testkit::{Engine, Reference, workspace_root};

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&read(path)).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The blob a descriptor names, checked against its digest and size.
fn blob(layout: &Path, descriptor: &Value) -> Vec<u8> {
    let digest = descriptor["digest"].as_str().expect("a descriptor has a digest");
    let hex = digest.strip_prefix("sha256:").expect("all our digests are sha256");
    let bytes = read(&layout.join("blobs/sha256").join(hex));
    assert_eq!(sha256(&bytes), hex, "the blob is not what its name says");
    assert_eq!(descriptor["size"], bytes.len(), "{digest}");
    bytes
}

/// The manifest that the layout's index calls `name`.
fn manifest(layout: &Path, name: &str) -> Value {
    let index = json(&layout.join("index.json"));
    let named = |entry: &&Value| entry["annotations"]["org.opencontainers.image.ref.name"] == name;
    let all = index["manifests"].as_array().expect("an index lists manifests");
    let descriptor = all.iter().find(named).unwrap_or_else(|| panic!("no {name} in {index}"));
    serde_json::from_slice(&blob(layout, descriptor)).expect("a manifest is JSON")
}

/// What the index calls the test image; tools choose by this name.
fn name_of_box(layout: &Path) -> String {
    let index = json(&layout.join("index.json"));
    let mut names = index["manifests"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|entry| entry["annotations"]["org.opencontainers.image.ref.name"].as_str());
    names.find(|name| name.contains("box")).unwrap_or_else(|| panic!("no box in {index}")).to_owned()
}

#[test]
fn the_content_store_is_an_oci_image_layout() {
    let engine = Engine::with_image();
    engine.wharf().ok(&["tag", "box", "other:1"]);
    let layout = engine.data_root().join("content");
    assert_eq!(json(&layout.join("oci-layout"))["imageLayoutVersion"], "1.0.0");
    let manifest = manifest(&layout, &name_of_box(&layout));
    assert_eq!(manifest["schemaVersion"], 2);
    let config: Value =
        serde_json::from_slice(&blob(&layout, &manifest["config"])).expect("a configuration is JSON");
    let layers = manifest["layers"].as_array().expect("a manifest lists layers");
    assert_eq!(layers.len(), config["rootfs"]["diff_ids"].as_array().expect("diff ids").len());
    layers.iter().for_each(|layer| drop(blob(&layout, layer)));
}

#[test]
fn skopeo_reads_the_store_with_the_real_docker_around() {
    if Reference::find().is_none() {
        return;
    }
    let engine = Engine::with_image();
    let layout = engine.data_root().join("content");
    // The peers see the host's /tmp as /xfer.
    let inside = Path::new("/xfer").join(layout.strip_prefix("/tmp").expect("scratch engines live in /tmp"));
    let source = format!("oci:{}:{}", inside.display(), name_of_box(&layout));
    let output = Command::new(workspace_root().join("../shared/peers"))
        .args(["sh", "skopeo", "inspect", &source])
        .output()
        .expect("the peers are there");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let seen: Value = serde_json::from_slice(&output.stdout).expect("skopeo prints JSON");
    assert_eq!(seen["Architecture"], "amd64");
    assert_eq!(seen["Layers"].as_array().map(Vec::len), Some(1));
}

#[test]
fn engines_side_by_side_do_not_see_each_other() {
    let (one, two) = (Engine::with_image(), Engine::with_image());
    for engine in [&one, &two] {
        let publish = format!("{}:80", engine.port(0));
        engine.wharf().ok(&["run", "-d", "--name", "twin", "-p", &publish, "box", "sleep", "600"]);
    }
    one.wharf().ok(&["rm", "-f", "twin"]);
    assert_eq!(one.wharf().ok(&["ps", "-aq"]), "");
    assert_eq!(two.wharf().ok(&["inspect", "-f", "{{.State.Status}}", "twin"]), "running");
    assert!(one.terminate().success());
    assert_eq!(two.wharf().ok(&["exec", "twin", "echo", "here"]), "here");
    assert_eq!(two.wharf().ok(&["run", "--rm", "box", "echo", "new"]), "new");
}

#[test]
fn a_second_engine_on_the_same_directories_is_refused() {
    let engine = Engine::scratch();
    let output = Command::new(wharf_testkit::binary("wharfd"))
        .arg("--data-root")
        .arg(engine.data_root())
        .arg("--exec-root")
        .arg(engine.exec_root())
        .args(["-H", &format!("unix://{}", engine.dir().join("second.sock").display())])
        .output()
        .expect("wharfd runs");
    assert!(!output.status.success(), "two engines on one state");
    assert!(engine.api().is_up(), "the first engine goes on");
}

#[test]
fn what_save_writes_load_reads_to_the_same_id() {
    let engine = Engine::with_image();
    let wharf = engine.wharf();
    let id = |name: &str| wharf.ok(&["image", "inspect", "-f", "{{.Id}}", name]);
    let before = id("box");
    let saved: PathBuf = engine.dir().join("saved.tar");
    wharf.ok(&["save", "-o", &saved.to_string_lossy(), "box"]);
    wharf.ok(&["rmi", "box"]);
    wharf.fails(1, &["image", "inspect", "box"]);
    wharf.ok(&["load", "-i", &saved.to_string_lossy()]);
    assert_eq!(id("box"), before);
    assert_eq!(wharf.ok(&["run", "--rm", "box", "cat", "/www/index.html"]), "hello from the container");
    // The same archive again, by another writer: nothing doubles.
    engine.load(&archive());
    assert_eq!(wharf.ok(&["images", "-q"]).lines().count(), 1);
}
