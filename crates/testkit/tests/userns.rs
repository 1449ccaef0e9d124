//! `--userns-remap`: root in a container is nobody on the host, and nothing on disk knows of it.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use wharf_testkit::image::{Builder, Tar};
use wharf_testkit::{Cli, Engine, EngineBuilder, PATIENCE, image, wait_until};

/// Of the mapped root on the host.
const UID: u32 = 300_000;
const GID: u32 = 400_000;

/// A directory with `subuid` and `subgid`: two ranges each, put together.
fn subids() -> tempfile::TempDir {
    let dir = tempfile::Builder::new().prefix("wharf-subid-").tempdir().expect("a directory");
    let write = |name: &str, first: u32| {
        let text =
            format!("other:1:5\ndockremap:{first}:60000\n# more\ndockremap:{}:10000\n", first + 500_000);
        fs::write(dir.path().join(name), text).expect("room for a file");
    };
    write("subuid", UID);
    write("subgid", GID);
    dir
}

fn remapped(subids: &Path) -> Engine {
    EngineBuilder::default()
        .argument("--userns-remap=default")
        .argument("--subid-dir")
        .argument(subids.to_str().expect("a plain path"))
        .start()
}

fn with_image(subids: &Path) -> Engine {
    let engine = remapped(subids);
    engine.load(&image::archive());
    engine
}

fn pid(cli: &Cli, name: &str) -> String {
    cli.ok(&["inspect", "-f", "{{.State.Pid}}", name])
}

/// The owners on disk of everything beneath a directory that are not root's and not below `most`.
fn strange_owners(dir: &Path, most: u32) -> Vec<(PathBuf, u32, u32)> {
    let mut found = Vec::new();
    let mut left = vec![dir.to_path_buf()];
    while let Some(path) = left.pop() {
        let Ok(meta) = fs::symlink_metadata(&path) else { continue };
        if meta.uid() >= most || meta.gid() >= most {
            found.push((path.clone(), meta.uid(), meta.gid()));
        }
        if meta.is_dir() {
            left.extend(fs::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.path()));
        }
    }
    found
}

fn tar_owners(bytes: &[u8]) -> Vec<(String, u64, u64)> {
    let mut archive = tar::Archive::new(bytes);
    let entries = archive.entries().expect("a tar stream");
    let mut owners = Vec::new();
    for entry in entries {
        let mut entry = entry.expect("an entry");
        let header = entry.header();
        let (uid, gid) = (header.uid().expect("a number"), header.gid().expect("a number"));
        let name = entry.path().expect("a name").to_string_lossy().into_owned();
        std::io::copy(&mut entry.by_ref(), &mut std::io::sink()).expect("its content");
        owners.push((name, uid, gid));
    }
    owners
}

#[test]
fn root_of_a_container_is_nobody_on_the_host() {
    let subids = subids();
    let engine = with_image(subids.path());
    let cli = engine.wharf();
    let info = cli.ok(&["info", "-f", "{{json .SecurityOptions}}"]);
    assert!(info.contains("name=userns"), "{info}");
    cli.ok(&[
        "run",
        "-d",
        "--name",
        "one",
        "-p",
        &format!("127.0.0.1:{}:80", engine.port(0)),
        "box",
        "httpd",
        "-f",
        "-h",
        "/www",
    ]);
    let map = cli.ok(&["exec", "one", "cat", "/proc/self/uid_map"]);
    let words: Vec<&str> = map.split_whitespace().collect();
    assert_eq!(words, ["0", "300000", "60000", "60000", "800000", "10000"]);
    assert_eq!(cli.ok(&["exec", "one", "id", "-u"]), "0");
    let status = fs::read_to_string(format!("/proc/{}/status", pid(&cli, "one"))).expect("it runs");
    assert!(
        status.contains(&format!("Uid:\t{UID}\t{UID}")) && status.contains(&format!("Gid:\t{GID}\t{GID}")),
        "{status}"
    );
    // Docker's `top` says who it is on the host, too.
    assert!(cli.ok(&["top", "one", "-o", "pid,uid,args"]).contains(&UID.to_string()));
    // It is reached through its port, has its names, and may write them.
    wait_until("the server to answer", PATIENCE, || {
        cli.shell(
            &format!(
                "exec 3<>/dev/tcp/127.0.0.1/{} && printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3 && cat <&3",
                engine.port(0)
            ),
            &[],
        )
        .stdout
        .contains("hello from the container")
    });
    assert_eq!(
        cli.ok(&["exec", "one", "sh", "-c", "echo 192.0.2.1 x >> /etc/hosts && stat -c '%u %g' /etc/hosts"]),
        "0 0"
    );
    // Users and groups, streams by name, terminals, devices.
    let own = "id -u; id -g; stat -c '%u %g %a' /dev/null /dev/shm; echo to > /dev/stderr; touch /dev/shm/f; cat /proc/sys/net/ipv4/ping_group_range";
    let all = cli.run(&["run", "--rm", "--user", "guest", "box", "sh", "-c", own]);
    assert_eq!((all.code, all.stderr.as_str()), (0, "to\n"), "{}", all.stdout);
    assert_eq!(all.stdout, "1000\n1000\n0 0 666\n0 0 1777\n0\t69999\n");
    assert_eq!(
        cli.ok(&["exec", "--user", "65000:65001", "one", "sh", "-c", "echo to > /dev/stderr; id -u; id -g"]),
        "65000\n65001"
    );
    assert_eq!(cli.ok(&["run", "--rm", "-t", "box", "sh", "-c", "stat -c '%u %g' $(tty)"]), "0 5");
    assert_eq!(
        cli.ok(&[
            "run",
            "--rm",
            "--device",
            "/dev/null:/dev/other",
            "box",
            "sh",
            "-c",
            "echo x > /dev/other; stat -c %t:%T /dev/other"
        ]),
        "1:3"
    );
    cli.ok(&["rm", "-f", "one"]);
}

#[test]
fn capabilities_count_for_what_belongs_to_the_container() {
    let subids = subids();
    let engine = with_image(subids.path());
    let cli = engine.wharf();
    let rights = "ip addr add 192.0.2.9/32 dev lo && echo address; mknod /n c 1 3 2>/dev/null && echo node; \
        echo 1 > /proc/sys/kernel/sysrq 2>/dev/null && echo sysrq; mount -t tmpfs t /tmp && echo mounted; hostname other && hostname";
    assert_eq!(
        cli.ok(&[
            "run",
            "--rm",
            "--cap-add",
            "ALL",
            "--security-opt",
            "seccomp=unconfined",
            "box",
            "sh",
            "-c",
            rights
        ]),
        "address\nmounted\nother"
    );
    assert_eq!(
        cli.ok(&[
            "run",
            "--rm",
            "--sysctl",
            "net.ipv4.ip_forward=1",
            "--sysctl",
            "kernel.msgmax=9000",
            "box",
            "cat",
            "/proc/sys/net/ipv4/ip_forward",
            "/proc/sys/kernel/msgmax"
        ]),
        "1\n9000"
    );
    cli.ok(&[
        "run",
        "--rm",
        "--ulimit",
        "nofile=2000:3000",
        "--oom-score-adj",
        "500",
        "--init",
        "box",
        "true",
    ]);
}

#[test]
fn nothing_on_disk_is_owned_by_the_ids_of_the_host() {
    let subids = subids();
    let engine = remapped(subids.path());
    let mut layer = Tar::new();
    layer.dir("data", 0o755);
    layer.file("data/seed", 0o640, b"seed");
    engine.load(&Builder::new("box:latest", image::rootfs()).layer(layer.finish()).build());
    let cli = engine.wharf();
    let script = "[ -e /done ] && exec sleep 600; echo a > /made; mkdir /dir; chown 1000:1000 /dir; touch /dir/f; chown 7:8 /dir/f; ln /made /hard; \
        cp /bin/busybox /su; chmod 4755 /su; chown 33 /etc/passwd; rm /etc/notes; echo b > /data/new; chown 5:6 /data/new; touch /done; sleep 600";
    cli.ok(&["run", "-d", "--name", "one", "-v", "vol:/data", "box", "sh", "-c", script]);
    wait_until("the files to be made", PATIENCE, || cli.run(&["exec", "one", "stat", "/done"]).code == 0);
    assert_eq!(cli.ok(&["exec", "one", "stat", "-c", "%u %g", "/data/seed", "/data/new"]), "0 0\n5 6");
    // The same image and volume in a container that is not mapped, beside it.
    let host = [
        "run",
        "--rm",
        "--userns",
        "host",
        "-v",
        "vol:/data",
        "box",
        "sh",
        "-c",
        "cat /proc/self/uid_map; stat -c '%u %g' /data/new /bin/busybox",
    ];
    let words = cli.ok(&host);
    assert!(words.split_whitespace().eq(["0", "0", "4294967295", "5", "6", "0", "0"]), "{words}");
    // What is written down has the container's ids: running or not, in every way.
    for running in [true, false] {
        if !running {
            cli.ok(&["kill", "one"]);
            cli.ok(&["wait", "one"]);
        }
        let all = cli.shell("docker export one | base64 -w0", &[]).stdout;
        let owners = tar_owners(&decode(&all));
        for (name, uid, gid) in [
            ("made", 0, 0),
            ("dir/", 1000, 1000),
            ("dir/f", 7, 8),
            ("etc/passwd", 33, 0),
            ("su", 0, 0),
            ("bin/busybox", 0, 0),
        ] {
            assert!(owners.contains(&(name.to_owned(), uid, gid)), "{name}, running: {running}: {owners:?}");
        }
        for path in ["one:/dir", "one:/data"] {
            let copied = cli.shell(&format!("docker cp {path} - | base64 -w0"), &[]).stdout;
            let owners = tar_owners(&decode(&copied));
            assert!(owners.iter().all(|(_, uid, gid)| *uid <= 1000 && *gid <= 1000), "{owners:?}");
        }
        let file = engine.dir().join("from-the-host");
        fs::write(&file, "copied").expect("room");
        std::os::unix::fs::chown(&file, Some(12), Some(34)).expect("root may");
        for target in ["/dir/in", "/data/in"] {
            let to = format!("one:{target}{running}");
            cli.ok(&["cp", "-a", file.to_str().expect("plain"), &to]);
        }
        let diff = cli.ok(&["diff", "one"]);
        assert!(
            diff.contains("A /made") && diff.contains("D /etc/notes") && diff.contains("C /etc/passwd"),
            "{diff}"
        );
    }
    cli.ok(&["start", "one"]);
    assert_eq!(
        cli.ok(&[
            "exec",
            "one",
            "stat",
            "-c",
            "%u %g",
            "/dir/intrue",
            "/dir/infalse",
            "/data/intrue",
            "/data/infalse"
        ]),
        "12 34\n12 34\n12 34\n12 34"
    );
    cli.ok(&["commit", "one", "kept:1"]);
    for userns in ["", "host"] {
        let words = cli.ok(&[
            "run", "--rm", "--userns", userns, "kept:1", "stat", "-c", "%u %g %a", "/dir", "/dir/f", "/su",
        ]);
        assert_eq!(words, "1000 1000 755\n7 8 644\n0 0 4755");
    }
    assert_eq!(strange_owners(engine.data_root(), 65_536), [], "re-owned on disk");
    cli.ok(&["rm", "-f", "one"]);
}

/// Standard base64.
fn decode(text: &str) -> Vec<u8> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(text.trim()).expect("base64")
}

#[test]
fn binds_are_shown_as_they_are_and_mapped_when_asked() {
    let subids = subids();
    let engine = with_image(subids.path());
    let cli = engine.wharf();
    let dir = engine.dir().join("shared");
    fs::create_dir(&dir).expect("a fresh directory");
    fs::set_permissions(&dir, PermissionsExt::from_mode(0o777)).expect("ours");
    fs::write(dir.join("roots"), "x").expect("room");
    let text = dir.to_str().expect("plain");
    let plain = format!("{text}:/m");
    assert_eq!(
        cli.ok(&[
            "run",
            "--rm",
            "-v",
            &plain,
            "box",
            "sh",
            "-c",
            "stat -c '%u %g' /m/roots; touch /m/made; echo y 2>/dev/null >> /m/roots || echo denied"
        ]),
        "65534 65534\ndenied"
    );
    let made = fs::metadata(dir.join("made")).expect("made");
    assert_eq!((made.uid(), made.gid()), (UID, GID));
    // By the map of the user namespace, when somebody says so.
    let mapped = format!("{text}:/m:idmap");
    assert_eq!(
        cli.ok(&[
            "run",
            "--rm",
            "-v",
            &mapped,
            "box",
            "sh",
            "-c",
            "stat -c '%u %g' /m/roots; touch /m/mapped; chown 7 /m/mapped"
        ]),
        "0 0"
    );
    assert_eq!(fs::metadata(dir.join("mapped")).expect("made").uid(), 7);
    // The owner's, but never root's.
    let words = cli.fails(125, &["run", "--rm", "-v", &format!("{text}:/m:ownership=auto"), "box", "true"]);
    assert!(words.contains("belongs to root"), "{words}");
    std::os::unix::fs::chown(&dir, Some(1234), Some(1235)).expect("root may");
    let auto = format!("{text}:/m:ownership=auto");
    let script = "stat -c '%u %g' /m /m/roots; touch /m/mine; cp /bin/busybox /m/su; chmod 4755 /m/su; stat -c '%u %g' /m/mine";
    assert_eq!(cli.ok(&["run", "--rm", "-v", &auto, "box", "sh", "-c", script]), "0 0\n65534 65534\n0 0");
    for name in ["mine", "su"] {
        let made = fs::metadata(dir.join(name)).expect("made");
        assert_eq!((made.uid(), made.gid()), (1234, 1235), "{name}");
    }
    // `cp` sees what the container sees.
    cli.ok(&["run", "-d", "--name", "one", "-v", &auto, "-v", &format!("{text}:/p"), "box", "sleep", "600"]);
    let file = engine.dir().join("sent");
    fs::write(&file, "sent").expect("room");
    for name in ["running", "stopped"] {
        if name == "stopped" {
            cli.ok(&["kill", "one"]);
            cli.ok(&["wait", "one"]);
        }
        cli.ok(&["cp", file.to_str().expect("plain"), &format!("one:/m/{name}")]);
        let made = fs::metadata(dir.join(name)).expect("made");
        assert_eq!((made.uid(), made.gid()), (1234, 1235), "{name}");
        let copied = cli.shell(&format!("docker cp one:/m/{name} - | base64 -w0"), &[]).stdout;
        assert_eq!(tar_owners(&decode(&copied)), [(name.to_owned(), 0, 0)]);
        let copied = cli.shell("docker cp one:/p/made - | base64 -w0", &[]).stdout;
        assert_eq!(tar_owners(&decode(&copied)), [("made".to_owned(), 0, 0)], "{name}");
    }
    cli.ok(&["rm", "-f", "one"]);
    // In memory, and image mounts.
    let words = cli.ok(&[
        "run",
        "--rm",
        "--tmpfs",
        "/t:uid=7,gid=8,mode=700",
        "--mount",
        "type=image,source=box,target=/i",
        "box",
        "stat",
        "-c",
        "%u %g",
        "/t",
        "/i/bin/busybox",
    ]);
    assert_eq!(words, "7 8\n0 0");
}

#[test]
fn what_shares_the_host_is_refused_in_docker_s_words() {
    let subids = subids();
    let engine = with_image(subids.path());
    let cli = engine.wharf();
    for (flags, words) in [
        (
            &["--privileged"][..],
            "privileged mode is incompatible with user namespaces.  You must run the container in the host namespace when running privileged mode",
        ),
        (
            &["--network", "host"],
            "cannot share the host's network namespace when user namespaces are enabled",
        ),
        (&["--pid", "host"], "cannot share the host PID namespace when user namespaces are enabled"),
    ] {
        let refused = cli.fails(125, &[&["run"], flags, &["box", "true"]].concat());
        assert!(refused.contains(words), "{refused}");
        cli.ok(&[&["run", "--rm", "--userns", "host"][..], flags, &["box", "true"]].concat());
    }
    assert!(cli.fails(125, &["run", "--userns", "private", "box", "true"]).contains("invalid USER mode"));
    // Other namespaces of the host are shared as with Docker.
    cli.ok(&["run", "--rm", "--ipc", "host", "--uts", "host", "--cgroupns", "host", "box", "true"]);
    assert_eq!(
        cli.ok(&["run", "--rm", "--network", "none", "--read-only", "box", "sh", "-c", "ls /sys/class/net"]),
        "lo"
    );
    // Who joins a container joins its user namespace.
    cli.ok(&["run", "-d", "--name", "donor", "--ipc", "shareable", "box", "sleep", "600"]);
    for mode in [
        &["--network", "container:donor"][..],
        &["--pid", "container:donor"],
        &["--ipc", "container:donor"],
        &["--network", "container:donor", "--ipc", "container:donor"],
    ] {
        let words = cli.ok(&[&["run", "--rm"], mode, &["box", "readlink", "/proc/self/ns/user"]].concat());
        let theirs = cli.ok(&["exec", "donor", "readlink", "/proc/self/ns/user"]);
        assert_eq!(words, theirs, "{mode:?}");
    }
    cli.ok(&["run", "-d", "--name", "other", "--userns", "host", "box", "sleep", "600"]);
    assert_eq!(cli.ok(&["inspect", "-f", "{{.HostConfig.UsernsMode}}", "other"]), "host");
    let refused = cli.fails(125, &["run", "--rm", "--network", "container:other", "box", "true"]);
    assert!(refused.contains("--userns=host"), "{refused}");
    cli.ok(&["run", "--rm", "--userns", "host", "--network", "container:donor", "box", "true"]);
    cli.ok(&["rm", "-f", "donor", "other"]);
}

#[test]
fn containers_keep_their_map_while_they_run_and_get_the_new_one_then() {
    let subids = subids();
    let engine = with_image(subids.path());
    let cli = engine.wharf();
    cli.ok(&[
        "run",
        "-d",
        "--name",
        "one",
        "-v",
        "vol:/data",
        "box",
        "sh",
        "-c",
        "touch /mine /data/mine; sleep 600",
    ]);
    let first = |cli: &Cli| {
        cli.ok(&["exec", "one", "cat", "/proc/self/uid_map"]).split_whitespace().nth(1).map(str::to_owned)
    };
    wait_until("the files to be made", PATIENCE, || {
        cli.run(&["exec", "one", "stat", "/data/mine"]).code == 0
    });
    engine.kill();
    fs::write(subids.path().join("subuid"), "dockremap:900000:65536\n").expect("room");
    engine.start();
    assert_eq!(first(&cli).as_deref(), Some("300000"));
    let copied = cli.shell("docker cp one:/mine - | base64 -w0", &[]).stdout;
    assert_eq!(tar_owners(&decode(&copied)), [("mine".to_owned(), 0, 0)]);
    cli.ok(&["restart", "-t", "0", "one"]);
    assert_eq!(first(&cli).as_deref(), Some("900000"));
    assert_eq!(cli.ok(&["exec", "one", "stat", "-c", "%u", "/mine", "/data/mine"]), "0\n0");
    cli.ok(&["stop", "-t", "0", "one"]);
    cli.ok(&["start", "one"]);
    cli.ok(&["rm", "-f", "one"]);
}

#[test]
fn missing_ranges_are_named() {
    let empty = tempfile::Builder::new().prefix("wharf-subid-").tempdir().expect("a directory");
    let start = |remap: &str| {
        let root = empty.path().join("root");
        let output = Command::new(wharf_testkit::binary("wharfd"))
            .arg(format!("--userns-remap={remap}"))
            .arg("--subid-dir")
            .arg(empty.path())
            .args(["--data-root".as_ref(), root.as_os_str(), "--exec-root".as_ref(), root.as_os_str()])
            .arg("--validate")
            .output()
            .expect("wharfd runs");
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let subuid = empty.path().join("subuid");
    let words = start("default");
    assert!(
        words.contains(subuid.to_str().expect("plain")) && words.contains("usermod --add-subuids"),
        "{words}"
    );
    fs::write(&subuid, "someone:1:2\n").expect("room");
    assert!(start("default").contains("no subuid ranges found for user \"dockremap\""));
    fs::write(&subuid, "dockremap:0:65536\n").expect("room");
    assert!(start("default").contains("the host's root"));
    assert!(start("a:b:c").contains("invalid user/group specification in --userns-remap: \"a:b:c\""));
}

/// What somebody on the host can do beneath a directory: a line for each thing that works.
fn trespasses(dir: &Path, uid: u32, gid: u32) -> String {
    let script = r#"
        cd / ; root=$1
        walk() { for f in "$1"/* "$1"/.[!.]*; do [ -e "$f" ] || [ -h "$f" ] || continue; echo "listed $f"; [ -d "$f" ] && [ ! -h "$f" ] && walk "$f"; done; }
        walk "$root"
        shift
        for f in "$@"; do
            cat "$f" >/dev/null 2>&1 && echo "read $f"
            (echo x >> "$f") 2>/dev/null && echo "wrote $f"
            mv "$f" "$f.moved" 2>/dev/null && echo "renamed $f"
            ln "$f" /tmp/wharf-stolen-$$ 2>/dev/null && echo "linked $f" && rm -f /tmp/wharf-stolen-$$
            chmod 777 "$f" 2>/dev/null && echo "changed $f"
            mkdir "$f/x" "${f%/*}/x" 2>/dev/null && echo "made in $f"
            cd "$f" 2>/dev/null && echo "entered $f"
        done; true"#;
    let mut files = Vec::new();
    let mut left = vec![dir.to_path_buf()];
    while let Some(path) = left.pop() {
        if path.symlink_metadata().is_ok_and(|meta| meta.is_dir()) {
            left.extend(fs::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.path()));
        }
        files.push(path);
    }
    files.sort();
    // All beneath a tree that somebody can walk would be thousands.
    files.retain(|path| path != dir && !path.to_string_lossy().contains("/bin/"));
    assert!(files.len() > 20 && files.len() < 2000, "{}", files.len());
    let output = Command::new("/bin/sh")
        .args(["-c", script, "sh"])
        .arg(dir)
        .args(&files)
        .uid(uid)
        .gid(gid)
        .output()
        .expect("sh runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn rt_24_the_mapped_root_is_nobody_in_the_data_root() {
    let subids = subids();
    let engine = with_image(subids.path());
    // The scratch directory itself is closed to others; what counts is what is closed inside.
    fs::set_permissions(engine.dir(), PermissionsExt::from_mode(0o755)).expect("ours");
    let cli = engine.wharf();
    let script = "echo mine > /made; cp /bin/busybox /su; chmod 4755 /su; chmod 777 /made; touch /data/f; chmod 777 /data /data/f; sleep 600";
    cli.ok(&["run", "-d", "--name", "one", "-v", "vol:/data", "box", "sh", "-c", script]);
    cli.ok(&["create", "--name", "two", "-v", "other:/data", "box", "true"]);
    wait_until("the files to be made", PATIENCE, || cli.run(&["exec", "one", "stat", "/data/f"]).code == 0);
    wait_until("all of them", PATIENCE, || {
        cli.run(&["exec", "one", "stat", "-c", "%a", "/data/f"]).stdout.trim() == "777"
    });
    let before = strange_owners(engine.data_root(), 1);
    for (uid, gid) in [(UID, GID), (UID + 1000, GID + 1000), (UID, 65_534)] {
        assert_eq!(trespasses(engine.data_root(), uid, gid), "", "as {uid}:{gid}");
    }
    assert_eq!(strange_owners(engine.data_root(), 1), before);
    // Nor does it get there through descriptors that the container holds, or through /proc of its own processes.
    let pid = pid(&cli, "one");
    let through = Command::new("/bin/sh")
        .args(["-c", &format!("cat /proc/{pid}/root/made; ls /proc/{pid}/root/..; ls -l /proc/{pid}/fd")])
        .uid(UID)
        .gid(GID)
        .output()
        .expect("sh runs");
    let words = String::from_utf8_lossy(&through.stdout);
    let root = engine.data_root().to_string_lossy();
    assert!(!words.contains(&*root), "{words}");
    cli.ok(&["rm", "-f", "one", "two"]);
}
