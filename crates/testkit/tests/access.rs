//! Who may enter what an engine keeps, and talk to its shims (rows SH-01 and SH-02 of docs/attacks.md).

use std::fs::{self, Permissions};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use wharf_testkit::image::{Builder, Tar};
use wharf_testkit::{Engine, EngineBuilder, image};

/// Somebody who is nobody here.
const NOBODY: u32 = 65_534;

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("ours");
}

/// Everything beneath a directory.
fn walk(root: &Path) -> Vec<PathBuf> {
    let list = fs::read_dir(root).into_iter().flatten().flatten();
    list.flat_map(|entry| {
        let below =
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) { walk(&entry.path()) } else { Vec::new() };
        [entry.path()].into_iter().chain(below)
    })
    .collect()
}

fn sockets(root: &Path) -> Vec<PathBuf> {
    let is_socket =
        |path: &PathBuf| fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket());
    walk(root).into_iter().filter(is_socket).collect()
}

/// What one without rights is told by a shim's socket: `refused` at the door, `closed` after it, or `answered`.
fn try_to_talk(socket: &Path, as_root_of_a_namespace: bool) -> String {
    let script = "
import socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
try:
    s.connect(sys.argv[1])
except OSError:
    print('refused'); sys.exit()
try:
    s.send(b'{\"seq\":1,\"body\":{\"Hello\":{\"version\":1}}}')
    print('answered' if s.recv(65536) else 'closed')
except OSError:
    print('closed')
";
    let mut command = if as_root_of_a_namespace {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "python3"]);
        command
    } else {
        Command::new("python3")
    };
    let output =
        command.args(["-c", script]).arg(socket).uid(NOBODY).gid(NOBODY).output().expect("python3 runs");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[test]
fn sh_01_only_root_talks_to_a_shim() {
    let engine = Engine::with_image();
    let wharf = engine.wharf();
    wharf.ok(&["run", "-d", "--name", "subject", "--stop-signal", "KILL", "box", "sleep", "600"]);
    // What a container on the host's network sees: no socket without a path is ours.
    let seen = wharf.ok(&["run", "--rm", "--network", "host", "box", "cat", "/proc/net/unix"]);
    let ours =
        |line: &&str| line.contains('@') && line.contains("wharf") && !line.contains("@wharf-test-slot-");
    assert_eq!(seen.lines().filter(ours).collect::<Vec<_>>(), Vec::<&str>::new());
    // And none of those with a path has a file there.
    let reached = wharf.ok(&[
        "run",
        "--rm",
        "--network",
        "host",
        "box",
        "sh",
        "-c",
        "for path in $(sed 's/.* //' /proc/net/unix | grep ^/); do [ -e $path ] && echo $path; done; true",
    ]);
    assert_eq!(reached, "");

    // Sockets of the containers above may still be on their way out.
    let id = wharf.ok(&["inspect", "-f", "{{.Id}}", "subject"]);
    let shims: Vec<PathBuf> = sockets(&engine.exec_root())
        .into_iter()
        .filter(|path| path.ends_with(Path::new(&id).join("shim.sock")))
        .collect();
    assert_eq!(shims.len(), 1, "{shims:?}");
    let shim = &shims[0];
    let mode = |path: &Path| fs::metadata(path).expect("it is there").mode() & 0o7777;
    assert_eq!(mode(shim), 0o600);
    let directory = shim.parent().expect("it is in a directory");
    assert_eq!(mode(directory), 0o700);
    assert_eq!(
        (try_to_talk(shim, false), try_to_talk(shim, true)),
        ("refused".to_owned(), "refused".to_owned())
    );
    // With all doors open, the shim itself looks who it is.
    let mut door = directory;
    while door.starts_with(engine.dir()) {
        chmod(door, 0o755);
        door = door.parent().expect("below the root");
    }
    chmod(shim, 0o777);
    assert_eq!(
        (try_to_talk(shim, false), try_to_talk(shim, true)),
        ("closed".to_owned(), "closed".to_owned())
    );
    assert_eq!(wharf.ok(&["exec", "subject", "echo", "yes"]), "yes");
    wharf.ok(&["rm", "-f", "subject"]);
}

/// An image with a program that would make its caller root.
fn with_setuid() -> Vec<u8> {
    let mut layer = Tar::new();
    layer.file("bin/become-root", 0o4755, &fs::read(image::busybox()).expect("readable"));
    Builder::new("setuid:1", image::rootfs()).layer(layer.finish()).build()
}

/// What one without rights finds in a directory, besides the socket that its group may use.
fn found_by_nobody(root: &Path) -> String {
    let output = Command::new(image::busybox())
        .args(["find"])
        .arg(root)
        .args(["!", "-type", "s"])
        .uid(NOBODY)
        .gid(NOBODY)
        .output()
        .expect("busybox runs");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn assert_closed(engine: &Engine) {
    for root in [engine.data_root().to_owned(), engine.exec_root()] {
        assert_eq!(found_by_nobody(&root), root.display().to_string(), "more than the root itself is seen");
        // Who knows the names gets no further.
        for path in
            walk(&root).into_iter().filter(|path| path.parent() != Some(&root) || root == engine.data_root())
        {
            let mut look = Command::new(image::busybox());
            let reached = look.args(["test", "-e"]).arg(&path).uid(NOBODY).gid(NOBODY).status();
            assert!(!reached.expect("busybox runs").success(), "{} is reached", path.display());
            if path.components().count() > root.components().count() + 4 {
                break;
            }
        }
    }
}

#[test]
fn sh_02_nobody_enters_the_roots_whatever_the_mask() {
    for mask in [0o000, 0o022, 0o077] {
        let engine = EngineBuilder::default().umask(mask).start();
        chmod(engine.dir(), 0o755);
        engine.load(&with_setuid());
        let wharf = engine.wharf();
        wharf.ok(&[
            "run",
            "-d",
            "--name",
            "subject",
            "--stop-signal",
            "KILL",
            "-v",
            "vol:/data",
            "setuid:1",
            "sleep",
            "600",
        ]);
        assert_closed(&engine);
        // Inside the container the modes are the image's, not the mask's.
        assert_eq!(wharf.ok(&["exec", "subject", "stat", "-c", "%a", "/bin/become-root"]), "4755");
        wharf.ok(&["rm", "-f", "subject"]);
    }
}

#[test]
fn sh_02_loose_modes_are_tightened() {
    let engine = Engine::with_image();
    chmod(engine.dir(), 0o755);
    let wharf = engine.wharf();
    wharf.ok(&[
        "run",
        "-d",
        "--name",
        "subject",
        "--stop-signal",
        "KILL",
        "-v",
        "vol:/data",
        "box",
        "sleep",
        "600",
    ]);
    engine.kill();
    let level =
        |root: &Path| fs::read_dir(root).expect("it is there").flatten().map(|entry| entry.path()).collect();
    let roots = [engine.data_root().to_owned(), engine.exec_root()];
    for root in &roots {
        chmod(root, 0o777);
        let below: Vec<PathBuf> = level(root);
        for path in below.iter().filter(|path| path.is_dir()) {
            chmod(path, 0o777);
        }
    }
    engine.start();
    assert_closed(&engine);
    wharf.ok(&["rm", "-f", "subject"]);
}
