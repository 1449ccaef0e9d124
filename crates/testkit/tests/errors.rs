//! What goes wrong gives Docker's exit code, a message that names the thing, and leaves nothing half-made.
//!
//! The errors that need no special input are in the recorded sessions (`parity/`); here are those that need a broken
//! archive, a full disk or an engine that can be looked into. The exit codes are proved on the real Docker where it is
//! switched on.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;
use wharf_testkit::image::{Builder, Tar, archive, rootfs, sha256};
use wharf_testkit::{Cli, Engine, EngineBuilder, Reference};

/// Archives that are not what they say, by what is wrong with them.
fn broken_archives() -> Vec<(&'static str, Vec<u8>)> {
    let whole = archive();
    let config = json!({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers",
        "diff_ids": [format!("sha256:{}", sha256(b"something else"))]}})
    .to_string();
    let with_manifest = |manifest: &serde_json::Value, layer: Option<&[u8]>| {
        let mut tar = Tar::new();
        tar.file("config.json", 0o644, config.as_bytes());
        if let Some(layer) = layer {
            tar.file("layer.tar", 0o644, layer);
        }
        tar.file("manifest.json", 0o644, manifest.to_string().as_bytes());
        tar.finish()
    };
    let manifest = json!([{"Config": "config.json", "RepoTags": ["broken:1"], "Layers": ["layer.tar"]}]);
    let mut flipped = whole.clone();
    // A tar's header is protected by a checksum.
    flipped[100] ^= 0xff;
    vec![
        ("not an archive", b"this is not a tar".repeat(1000)),
        ("cut short", whole[..whole.len() / 2].to_vec()),
        ("a damaged header", flipped),
        ("a layer that is not there", with_manifest(&manifest, None)),
        ("a layer with other content", with_manifest(&manifest, Some(&rootfs()))),
        ("a layer that is no tar", with_manifest(&manifest, Some(&b"no tar at all".repeat(100)))),
        ("a manifest that is no JSON", {
            let mut tar = Tar::new();
            tar.file("manifest.json", 0o644, b"{");
            tar.finish()
        }),
    ]
}

/// Every file beneath `dir`.
fn files(dir: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let device = |path: &Path| std::fs::symlink_metadata(path).map(|metadata| metadata.dev()).ok();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        // A layer that is shown by a mount has its files elsewhere.
        if is_dir && device(&entry.path()) == device(dir) {
            found.extend(files(&entry.path()));
        }
        found.insert(entry.path());
    }
    found
}

/// Images as `repository:tag`.
fn images(cli: &Cli) -> String {
    cli.ok(&["images", "-a", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}"])
}

/// Blobs, snapshots and half-made files of an engine.
fn store(engine: &Engine) -> BTreeSet<PathBuf> {
    ["content", "snapshots"].iter().flat_map(|dir| files(&engine.data_root().join(dir))).collect()
}

#[test]
fn a_broken_archive_is_refused_and_leaves_nothing() {
    let engine = Engine::with_image();
    let wharf = engine.wharf();
    let (images_before, store_before) = (images(&wharf), store(&engine));
    for (what, bytes) in broken_archives() {
        let output = wharf.run_with_input(&["load"], &bytes);
        assert_eq!(output.code, 1, "{what}: {output:?}");
        assert!(!output.stderr.trim().is_empty(), "{what}: no message");
        assert_eq!(images(&wharf), images_before, "{what}: an image appeared");
        let left: Vec<_> = store(&engine).difference(&store_before).cloned().collect();
        assert_eq!(left, Vec::<PathBuf>::new(), "{what}: half-made things are left");
    }
    assert_eq!(wharf.ok(&["run", "--rm", "box", "echo", "still fine"]), "still fine");
}

#[test]
fn a_broken_archive_is_refused_by_the_real_docker_too() {
    let Some(reference) = Reference::find() else { return };
    for (what, bytes) in broken_archives() {
        let output = reference.docker().run_with_input(&["load"], &bytes);
        assert_eq!(output.code, 1, "{what}: {output:?}");
    }
}

/// A tmpfs of a few megabytes, unmounted when dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new(options: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("wd-").tempdir().expect("a temporary directory");
        let status =
            Command::new("mount").args(["-t", "tmpfs", "-o", options, "none"]).arg(dir.path()).status();
        assert!(status.expect("mount runs").success(), "cannot mount a tmpfs");
        Self(dir)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let status = Command::new("umount").arg(self.0.path()).status();
        assert!(
            status.is_ok_and(|status| status.success()) || std::thread::panicking(),
            "the disk is still in use"
        );
    }
}

#[test]
fn a_full_disk_during_load_is_named_and_leaves_nothing() {
    // Room for the small image (twice: as a blob and unpacked) and the state, not for the large one.
    let disk = SmallDisk::new("size=24m,mode=0755");
    let engine = EngineBuilder::default().data_root(disk.0.path()).start();
    engine.load(&archive());
    let wharf = engine.wharf();
    let (images_before, store_before) = (images(&wharf), store(&engine));
    let mut tar = Tar::new();
    // Incompressible enough that no cleverness makes it fit.
    let mut random = wharf_testkit::random::Random::seeded(1);
    let noise: Vec<u8> = (0..30 * 1024 * 1024 / 8).flat_map(|_| random.next().to_le_bytes()).collect();
    tar.file("large", 0o644, &noise);
    let large = Builder::new("large:1", tar.finish()).build();
    let output = wharf.run_with_input(&["load"], &large);
    assert_eq!(output.code, 1, "{output:?}");
    assert!(output.stderr.contains("no space left on device"), "{output:?}");
    assert_eq!(images(&wharf), images_before, "an image appeared");
    let left: Vec<_> = store(&engine).difference(&store_before).cloned().collect();
    assert_eq!(left, Vec::<PathBuf>::new(), "half-made things are left");
    assert_eq!(wharf.ok(&["run", "--rm", "box", "echo", "still fine"]), "still fine");
    drop(engine);
}

/// An image for AArch64 whose program is the header of an ELF file for that machine and nothing else.
fn foreign_image() -> Vec<u8> {
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\xb7\0\x01\0\0\0".to_vec();
    elf.resize(4096, 0);
    let mut tar = Tar::new();
    tar.file("program", 0o755, &elf);
    Builder::new("foreign:1", tar.finish()).architecture("arm64").config("Cmd", json!(["/program"])).build()
}

#[test]
fn an_image_for_another_machine_is_named_and_refused_in_time() {
    let engine = Engine::scratch();
    let wharf = engine.wharf();
    engine.load(&foreign_image());
    let output = wharf.run(&["run", "--rm", "foreign:1"]);
    assert!(output.stderr.contains("linux/arm64"), "the platform is not named: {output:?}");
    assert!(output.stderr.contains("exec format error"), "{output:?}");
    assert_eq!(output.code, 255, "{output:?}");
    assert_eq!(wharf.ok(&["ps", "-aq"]), "", "a container is left");
}

#[test]
fn a_failed_create_or_start_leaves_nothing_behind() {
    let engine = Engine::with_image();
    let wharf = engine.wharf();
    let before = files(&engine.data_root().join("snapshots")).len();
    wharf.fails(125, &["run", "--rm", "-m", "1m", "box", "true"]);
    wharf.fails(125, &["run", "--rm", "--mount", "type=bind,source=/no/such/path,target=/x", "box", "true"]);
    wharf.fails(125, &["run", "--rm", "-u", "nobody-here", "box", "true"]);
    wharf.fails(127, &["run", "--rm", "box", "no-such-command"]);
    wharf.fails(126, &["run", "--rm", "box", "/etc/notes"]);
    let port = engine.port(1);
    let publish = format!("{port}:80");
    wharf.ok(&["run", "-d", "--name", "first", "-p", &publish, "box", "sleep", "600"]);
    wharf.fails(125, &["run", "--rm", "-p", &publish, "box", "true"]);
    wharf.ok(&["rm", "-f", "first"]);
    assert_eq!(wharf.ok(&["ps", "-aq"]), "");
    let containers: Vec<_> =
        std::fs::read_dir(engine.data_root().join("containers")).into_iter().flatten().collect();
    assert_eq!(containers.len(), 0, "directories are left");
    wharf_testkit::wait_until("the snapshots to be collected", wharf_testkit::PATIENCE, || {
        files(&engine.data_root().join("snapshots")).len() == before
    });
    // The port is free again.
    drop(std::net::TcpListener::bind(("0.0.0.0", port)).expect("nothing holds the port"));
}

#[test]
fn another_machine_gives_the_same_exit_code_on_the_real_docker() {
    let Some(reference) = Reference::find() else { return };
    let docker = reference.docker();
    assert_eq!(docker.run_with_input(&["load"], &foreign_image()).code, 0);
    let output = docker.run(&["run", "--rm", "foreign:1"]);
    docker.run(&["rmi", "foreign:1"]);
    assert_eq!(output.code, 255, "{output:?}");
}
