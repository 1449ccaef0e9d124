//! Volumes and mounts: what is mounted while somebody uses it, whose files are whose, what leads out of nowhere, and
//! plugins. What the command line shows is in the recorded session `volume`.

#![expect(clippy::print_stdout, reason = "what was skipped is said")]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::json;
use wharf_testkit::image::{Builder, Tar};
use wharf_testkit::{
    Cli, Engine, EngineBuilder, Manners, PATIENCE, Reference, VolumePlugin, image, wait_until,
};

/// A tree of the host that must neither change nor be read.
struct Canary(tempfile::TempDir);

const SECRET: &str = "the host's own";

impl Canary {
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("wharf-canary-").tempdir().expect("a directory");
        fs::write(dir.path().join("f"), SECRET).expect("room for a file");
        Self(dir)
    }

    fn path(&self) -> &str {
        self.0.path().to_str().expect("a plain path")
    }

    fn check(&self) {
        assert_eq!(fs::read_to_string(self.0.path().join("f")).expect("the canary is there"), SECRET);
        assert_eq!(fs::read_dir(self.0.path()).expect("the canary is there").count(), 1, "nothing new in it");
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

/// Whether something is mounted on a volume's data.
fn is_mounted(engine: &Engine, volume: &str) -> bool {
    let data = engine.data_root().join("volumes").join(volume).join("_data");
    let table = fs::read_to_string("/proc/self/mountinfo").expect("a mount table");
    table.lines().any(|line| line.split(' ').nth(4) == data.to_str())
}

/// A directory that belongs to somebody.
fn owned(dir: &Path, name: &str, uid: u32, gid: u32) -> PathBuf {
    let path = dir.join(name);
    fs::create_dir(&path).expect("a fresh directory");
    fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("ours to change");
    std::os::unix::fs::chown(&path, Some(uid), Some(gid)).expect("root may");
    path
}

#[test]
fn a_volume_with_options_is_mounted_while_somebody_uses_it() {
    let engine = Engine::with_image();
    let cli = engine.wharf();
    cli.ok(&["volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs", "-o", "o=size=1m,nosuid", "mem"]);
    assert!(!is_mounted(&engine, "mem"), "nobody uses it yet");
    cli.ok(&["run", "-d", "--name", "one", "-v", "mem:/d", "box", "sleep", "600"]);
    cli.ok(&["run", "-d", "--name", "two", "-v", "mem:/d", "box", "sleep", "600"]);
    assert!(is_mounted(&engine, "mem"));
    cli.ok(&["exec", "one", "sh", "-c", "echo shared > /d/f"]);
    assert_eq!(cli.ok(&["exec", "two", "cat", "/d/f"]), "shared");
    assert!(cli.ok(&["exec", "two", "grep", " /d ", "/proc/mounts"]).contains("nosuid"), "options count");
    // The engine dies; what runs goes on, and the next engine knows who holds what.
    engine.kill();
    engine.start();
    cli.ok(&["rm", "-f", "one"]);
    assert!(is_mounted(&engine, "mem"), "the other still uses it");
    assert_eq!(cli.ok(&["exec", "two", "cat", "/d/f"]), "shared");
    cli.fails(1, &["volume", "rm", "mem"]);
    cli.ok(&["rm", "-f", "two"]);
    wait_until("the mount to be taken off", PATIENCE, || !is_mounted(&engine, "mem"));
    assert_eq!(cli.ok(&["run", "--rm", "-v", "mem:/d", "box", "ls", "/d"]), "");
    // The last container ends while no engine is there.
    cli.ok(&["run", "-d", "--name", "three", "-v", "mem:/d", "box", "sleep", "600"]);
    let pid = cli.ok(&["inspect", "-f", "{{.State.Pid}}", "three"]);
    engine.kill();
    assert!(is_mounted(&engine, "mem"));
    let pid = rustix::process::Pid::from_raw(pid.parse().expect("a number")).expect("not 0");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("it runs");
    engine.start();
    wait_until("the mount to be taken off after a restart", PATIENCE, || !is_mounted(&engine, "mem"));
    cli.ok(&["rm", "three"]);
    cli.ok(&["volume", "rm", "mem"]);
}

#[test]
fn files_are_copied_in_and_out_of_a_volume_that_only_a_container_mounts() {
    let engine = Engine::with_image();
    let cli = engine.wharf();
    let real = owned(engine.dir(), "real", 0, 0);
    fs::write(real.join("f"), "from the device").expect("room");
    let device = format!("device={}", text(&real));
    cli.ok(&["volume", "create", "-o", "type=none", "-o", "o=bind", "-o", &device, "bound"]);
    cli.ok(&["create", "--name", "resting", "-v", "bound:/d", "box", "true"]);
    assert!(cli.ok(&["cp", "resting:/d/f", "-"]).contains("from the device"));
    wait_until("the mount to be taken off", PATIENCE, || !is_mounted(&engine, "bound"));
    // A removal takes the mount off and leaves the device's files alone.
    cli.ok(&["rm", "resting"]);
    cli.ok(&["volume", "rm", "bound"]);
    assert_eq!(fs::read_to_string(real.join("f")).expect("it is there"), "from the device");
}

#[test]
fn a_device_that_never_answers_delays_nobody_else() {
    let Some(hanging) = Hanging::new() else { return };
    let engine = EngineBuilder::default().argument("--volume-timeout").argument("2").start();
    engine.load(&image::archive());
    let cli = engine.wharf();
    let device = format!("device={}", text(&hanging.path().join("x")));
    cli.ok(&["volume", "create", "-o", "type=none", "-o", "o=bind", "-o", &device, "dead"]);
    let mut waiting: Vec<_> = (0..3)
        .map(|_| cli.command(&["run", "--rm", "-v", "dead:/d", "box", "true"]))
        .map(|mut command| {
            command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::piped());
            command.spawn().expect("it runs")
        })
        .collect();
    let bind = format!("{}:/d", text(&hanging.path().join("y")));
    let mut bound = cli.command(&["run", "--rm", "-v", &bind, "box", "true"]);
    bound.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::piped());
    waiting.push(bound.spawn().expect("it runs"));
    // Meanwhile everything else works, on the very same volume too.
    let since = Instant::now();
    assert_eq!(cli.ok(&["run", "--rm", "-v", "other:/d", "box", "echo", "well"]), "well");
    cli.ok(&["volume", "inspect", "dead"]);
    cli.ok(&["volume", "ls"]);
    cli.ok(&["ps", "-a"]);
    cli.ok(&["system", "df"]);
    assert!(since.elapsed() < PATIENCE);
    for child in waiting {
        let output = child.wait_with_output().expect("it ends");
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            !output.status.success() && words.contains("did not finish in 2 seconds")
                || words.contains("hangs in the kernel"),
            "{words}"
        );
    }
    assert!(cli.fails(1, &["volume", "rm", "dead"]).contains("hangs in the kernel"));
    drop(hanging);
    wait_until("the volume to be free again", PATIENCE, || cli.run(&["volume", "rm", "dead"]).code == 0);
}

/// A file system whose server never says a word.
struct Hanging {
    dir: tempfile::TempDir,
    server: Option<fs::File>,
}

impl Hanging {
    fn new() -> Option<Self> {
        use std::os::fd::AsRawFd;
        let Ok(server) = fs::File::options().read(true).write(true).open("/dev/fuse") else {
            println!("skipped: this machine has no FUSE");
            return None;
        };
        let dir = tempfile::Builder::new().prefix("wharf-hang-").tempdir().expect("a directory");
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", server.as_raw_fd());
        let options = std::ffi::CString::new(options).expect("plain");
        let flags = rustix::mount::MountFlags::empty();
        if let Err(error) =
            rustix::mount::mount("hanging", dir.path(), "fuse", flags, Some(options.as_c_str()))
        {
            println!("skipped: FUSE cannot be mounted: {error}");
            return None;
        }
        Some(Self { dir, server: Some(server) })
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for Hanging {
    fn drop(&mut self) {
        // Whoever waits gets an error.
        drop(self.server.take());
        let _gone = rustix::mount::unmount(self.dir.path(), rustix::mount::UnmountFlags::DETACH);
    }
}

#[test]
fn files_of_a_container_belong_to_whom_the_directory_belongs_to() {
    let engine = Engine::with_image();
    let cli = engine.wharf();
    let mine = owned(engine.dir(), "mine", 1234, 1234);
    fs::write(mine.join("before"), "x").expect("room");
    std::os::unix::fs::chown(mine.join("before"), Some(1234), Some(1234)).expect("root may");
    let owner = |name: &str| {
        let meta = fs::metadata(mine.join(name)).expect("it is there");
        (meta.uid(), meta.gid())
    };
    let make = |name: &str| format!("stat -c '%u %g' /m/before; echo x > /m/{name}");
    let short = format!("{}:/m:ownership=auto", text(&mine));
    let long = format!("type=bind,src={},dst=/m,ownership=auto", text(&mine));
    let shown = cli.ok(&["run", "--rm", "-v", &short, "box", "sh", "-c", &make("root")]);
    assert_eq!(shown, "0 0", "the owner's files are root's in there");
    let shown =
        cli.ok(&["run", "--rm", "--user", "1000:1000", "-v", &short, "box", "sh", "-c", &make("user")]);
    assert_eq!(shown, "1000 1000");
    cli.ok(&["run", "--rm", "--user", "1000:1000", "--mount", &long, "box", "sh", "-c", &make("long")]);
    for name in ["before", "root", "user", "long"] {
        assert_eq!(owner(name), (1234, 1234), "{name}");
    }
    // An unmodified client.
    if let Some(docker) = engine.docker() {
        docker.ok(&["run", "--rm", "--user", "1000:1000", "-v", &short, "box", "sh", "-c", &make("docker")]);
        assert_eq!(owner("docker"), (1234, 1234));
    }
    // By number, and on a volume.
    let map = format!("{}:/m:idmap=uids=1234-7-1;gids=1234-8-1", text(&mine));
    assert_eq!(cli.ok(&["run", "--rm", "-v", &map, "box", "stat", "-c", "%u %g", "/m/before"]), "7 8");
    // It is the same after a restart of the container, and inspect says so.
    cli.ok(&["run", "-d", "--name", "stays", "-v", &short, "box", "sleep", "600"]);
    cli.ok(&["restart", "-t", "0", "stays"]);
    cli.ok(&["exec", "stays", "touch", "/m/again"]);
    assert_eq!(owner("again"), (1234, 1234));
    assert_eq!(cli.ok(&["inspect", "-f", "{{(index .Mounts 0).Mode}}", "stays"]), "ownership=auto");
    // Root's directories are not opened to others, and what cannot be mapped says so.
    let roots = owned(engine.dir(), "roots", 0, 0);
    let refused = format!("{}:/m:ownership=auto", text(&roots));
    let words = cli.fails(125, &["run", "--rm", "--user", "1000", "-v", &refused, "box", "true"]);
    assert!(words.contains("belongs to root"), "{words}");
    let words =
        cli.fails(125, &["run", "--rm", "-v", "/proc/sys:/m:idmap=uids=0-1-1;gids=0-1-1", "box", "true"]);
    assert!(words.contains("cannot show files with other owners"), "{words}");
    assert!(
        cli.fails(125, &["run", "--rm", "-v", "/tmp:/m:ownership=me", "box", "true"])
            .contains("invalid mode")
    );
}

#[test]
fn en_07_what_is_copied_into_a_volume_comes_from_the_image_alone() {
    let engine = Engine::scratch();
    let (cli, canary) = (engine.wharf(), Canary::new());
    let links = [
        ("absolute", canary.path().to_owned()),
        ("relative", format!("../../../../../../..{}", canary.path())),
        ("chained", "/absolute".to_owned()),
        ("through", format!("etc/../..{}", canary.path())),
    ];
    let mut layer = Tar::new();
    for (name, target) in &links {
        layer.link(name, target);
    }
    layer.dir("kept", 0o1757);
    layer.file("kept/f", 0o640, b"the image's");
    layer.link("inside", "kept");
    let paths: Vec<String> = links.iter().map(|(name, _)| format!("/{name}")).collect();
    let volumes: serde_json::Map<String, serde_json::Value> = paths
        .iter()
        .chain(["/kept".to_owned(), "/inside".to_owned()].iter())
        .map(|p| (p.clone(), json!({})))
        .collect();
    let archive =
        Builder::new("evil:1", image::rootfs()).layer(layer.finish()).config("Volumes", json!(volumes));
    engine.load(&archive.build());
    cli.ok(&["create", "--name", "evil", "evil:1", "true"]);
    let mounts: serde_json::Value =
        serde_json::from_str(&cli.ok(&["inspect", "-f", "{{json .Mounts}}", "evil"])).expect("JSON");
    for mount in mounts.as_array().expect("a list") {
        let source = Path::new(mount["Source"].as_str().expect("a path"));
        let place = mount["Destination"].as_str().expect("a path");
        let names: Vec<_> = fs::read_dir(source)
            .expect("a volume")
            .map(|entry| entry.expect("readable").file_name())
            .collect();
        if place == "/kept" || place == "/inside" {
            assert_eq!(names, ["f"], "{place}");
            let mode = fs::metadata(source).expect("it is there").mode();
            assert_eq!(mode & 0o7777, 0o1757, "the directory's own mode goes along");
        } else {
            assert!(names.is_empty(), "{place}: {names:?}");
        }
    }
    canary.check();
    // A volume that has something is left as it is.
    cli.ok(&["run", "--rm", "-v", "mine:/empty", "evil:1", "sh", "-c", "echo mine > /empty/f"]);
    cli.ok(&["run", "--rm", "-v", "mine:/kept", "evil:1", "true"]);
    assert_eq!(cli.ok(&["run", "--rm", "-v", "mine:/x", "evil:1", "cat", "/x/f"]), "mine");
    // And one is left empty on request.
    assert_eq!(cli.ok(&["run", "--rm", "-v", "bare:/kept:nocopy", "evil:1", "ls", "/kept"]), "");
    cli.ok(&["rm", "-v", "evil"]);
}

#[test]
fn en_08_a_sub_path_leads_nowhere_else_whatever_is_swapped_in() {
    let engine = Engine::with_image();
    let (cli, canary) = (engine.wharf(), Canary::new());
    cli.ok(&[
        "run",
        "--rm",
        "-v",
        "vol:/v",
        "box",
        "sh",
        "-c",
        "mkdir -p /v/real/deep; echo inside > /v/real/deep/f",
    ]);
    for (link, target) in [
        ("absolute", canary.path().to_owned()),
        ("up", format!("../../../../../../..{}", canary.path())),
        ("root", "/".into()),
    ] {
        let make = format!("ln -s {target} /v/{link}");
        cli.ok(&["run", "--rm", "-v", "vol:/v", "box", "sh", "-c", &make]);
        for part in [link.to_owned(), format!("{link}/f")] {
            let mount = format!("type=volume,src=vol,dst=/m,volume-subpath={part}");
            let output = cli.run(&["run", "--rm", "--mount", &mount, "box", "cat", "/m/f"]);
            assert!(output.code != 0 && !output.stdout.contains(SECRET), "{part}: {}", output.stdout);
        }
    }
    // A container swaps a directory with a link as fast as it can, while others mount what is below.
    let swap = format!(
        "cd /v; while :; do mv real aside; ln -s {} real; rm real; ln -s ../../../../../../..{} real; rm real; mv aside real; usleep 3000; done",
        canary.path(),
        canary.path()
    );
    cli.ok(&["run", "-d", "--name", "swap", "-v", "vol:/v", "box", "sh", "-c", &swap]);
    let until = Instant::now() + Duration::from_secs(4);
    let mut reached = 0;
    let latest = Instant::now() + PATIENCE;
    while Instant::now() < until || (reached == 0 && Instant::now() < latest) {
        for part in ["real", "real/deep"] {
            let mount = format!("type=volume,src=vol,dst=/m,volume-subpath={part}");
            let output = cli.run(&[
                "run",
                "--rm",
                "--mount",
                &mount,
                "box",
                "sh",
                "-c",
                "cat /m/f /m/deep/f; touch /m/new",
            ]);
            assert!(!output.stdout.contains(SECRET), "{part}");
            reached += usize::from(output.stdout.contains("inside"));
        }
        canary.check();
    }
    assert!(reached > 0, "the right directory was never mounted");
    cli.ok(&["rm", "-f", "swap"]);
}

#[test]
fn rt_04_and_rt_10_targets_in_a_volume_that_is_swapped_stay_inside() {
    let engine = Engine::with_image();
    let (cli, canary) = (engine.wharf(), Canary::new());
    let extra = owned(engine.dir(), "extra", 0, 0);
    fs::write(extra.join("f"), "mounted").expect("room");
    let swap = format!(
        "mkdir -p /v/x; cd /v; while :; do mv x aside; ln -s ../../../../../../..{} x; rm x; mv aside x; done",
        canary.path()
    );
    cli.ok(&["run", "-d", "--name", "swap", "-v", "vol:/v", "box", "sh", "-c", &swap]);
    let until = Instant::now() + Duration::from_secs(4);
    let bind = format!("{}:/vol/x/y:ro", text(&extra));
    while Instant::now() < until {
        let _either = cli.run(&[
            "run",
            "--rm",
            "-v",
            "vol:/vol",
            "-v",
            &bind,
            "--mount",
            "type=image,src=box,dst=/vol/x/image",
            "-v",
            "part:/vol/x/part",
            "box",
            "true",
        ]);
        canary.check();
        let table = fs::read_to_string("/proc/self/mountinfo").expect("a mount table");
        assert!(!table.contains(canary.path()), "nothing is mounted on the host's tree");
    }
    cli.ok(&["rm", "-f", "swap"]);
}

#[test]
fn en_10_the_engines_files_never_follow_links_in_a_volume() {
    let engine = Engine::with_image();
    let (cli, canary) = (engine.wharf(), Canary::new());
    let links: String = ["hosts", "hostname", "resolv.conf"]
        .map(|name| format!("ln -sf ../../../../../../..{}/f /v/{name};", canary.path()))
        .concat();
    cli.ok(&["run", "--rm", "-v", "etc:/v", "box", "sh", "-c", &links]);
    for _ in 0..2 {
        let output =
            cli.run(&["run", "--rm", "--hostname", "inside", "-v", "etc:/etc", "box", "cat", "/etc/hosts"]);
        assert!(!output.stdout.contains(SECRET), "{}", output.stdout);
        canary.check();
    }
}

#[test]
fn an_image_is_mounted_read_only_and_kept_while_it_is() {
    let engine = Engine::with_image();
    let cli = engine.wharf();
    let mut layer = Tar::new();
    layer.dir("data", 0o755);
    layer.dir("data/deep", 0o755);
    layer.file("data/deep/f", 0o644, b"of the image");
    layer.link("data/out", "/etc");
    engine.load(&Builder::new("data:1", image::rootfs()).layer(layer.finish()).build());
    let mount = "type=image,src=data:1,dst=/m";
    assert_eq!(cli.ok(&["run", "--rm", "--mount", mount, "box", "cat", "/m/data/deep/f"]), "of the image");
    let words = cli.run(&["run", "--rm", "--mount", mount, "box", "touch", "/m/x"]).stderr;
    assert!(words.contains("Read-only file system"), "{words}");
    let part = format!("{mount},image-subpath=data/deep");
    assert_eq!(cli.ok(&["run", "--rm", "--mount", &part, "box", "ls", "/m"]), "f");
    let out = format!("{mount},image-subpath=data/out");
    assert_ne!(cli.run(&["run", "--rm", "--mount", &out, "box", "ls", "/m"]).code, 0);
    // The image goes, its files stay as long as the container has them.
    cli.ok(&["run", "-d", "--name", "user", "--mount", mount, "box", "sleep", "600"]);
    cli.ok(&["rmi", "-f", "data:1"]);
    assert_eq!(cli.ok(&["exec", "user", "cat", "/m/data/deep/f"]), "of the image");
    cli.ok(&["restart", "-t", "0", "user"]);
    assert_eq!(cli.ok(&["exec", "user", "cat", "/m/data/deep/f"]), "of the image");
    assert!(cli.ok(&["cp", "user:/m/data/deep/f", "-"]).contains("of the image"));
    cli.ok(&["rm", "-f", "user"]);
    cli.fails(
        125,
        &["run", "--rm", "--pull", "never", "--mount", "type=image,src=nosuch:1,dst=/m", "box", "true"],
    );
}

#[test]
fn read_only_reaches_what_is_mounted_beneath_unless_told_otherwise() {
    let engine = Engine::with_image();
    let cli = engine.wharf();
    let top = owned(engine.dir(), "top", 0, 0);
    let below = owned(&top, "below", 0, 0);
    rustix::mount::mount("below", &below, "tmpfs", rustix::mount::MountFlags::empty(), None)
        .expect("root may");
    let touch = |options: &str| {
        let mount = format!("type=bind,src={},dst=/m,{options}", text(&top));
        let output = cli.run(&[
            "run",
            "--rm",
            "--mount",
            &mount,
            "box",
            "sh",
            "-c",
            "touch /m/x; touch /m/below/x; ls /m/below",
        ]);
        (output.stderr.matches("Read-only").count(), output.stdout.trim().to_owned())
    };
    let results = [
        touch("readonly"),
        touch("readonly,bind-recursive=readonly,bind-propagation=rprivate"),
        touch("readonly,bind-recursive=writable"),
        touch("readonly,bind-recursive=disabled"),
    ];
    rustix::mount::unmount(&below, rustix::mount::UnmountFlags::DETACH).expect("it was mounted");
    assert_eq!(results, [(2, String::new()), (2, String::new()), (1, "x".into()), (2, String::new())]);
}

#[test]
fn a_volume_is_removed_whole_or_not_at_all() {
    let engine = Engine::with_image();
    let cli = engine.wharf();
    cli.ok(&["run", "--rm", "-v", "kept:/v", "-v", "lost:/w", "box", "sh", "-c", "touch /v/f /w/f"]);
    engine.kill();
    // Killed between the rename and the row: back it comes. Between the row and the tree: gone it is.
    let volumes = engine.data_root().join("volumes");
    let removed = volumes.join(".removed");
    fs::create_dir_all(removed.join("stranger/_data")).expect("room");
    fs::rename(volumes.join("kept"), removed.join("kept")).expect("both are ours");
    fs::create_dir_all(volumes.join("half/_data")).expect("room");
    engine.start();
    assert!(volumes.join("kept/_data/f").exists());
    assert!(!removed.join("stranger").exists() && !volumes.join("half").exists());
    cli.ok(&["volume", "rm", "kept", "lost"]);
    assert!(!volumes.join("kept").exists() && fs::read_dir(&removed).expect("there").next().is_none());
}

/// A plugin and an engine that finds it.
fn with_plugin() -> (Engine, VolumePlugin, tempfile::TempDir) {
    let plugins = tempfile::Builder::new().prefix("wp-").tempdir().expect("a directory");
    let engine = EngineBuilder::default()
        .argument("--plugin-dir")
        .argument(text(plugins.path()))
        .argument("--volume-timeout")
        .argument("3")
        .start();
    engine.load(&image::archive());
    let data = engine.dir().join("plugin-data");
    let plugin = VolumePlugin::start(&engine.dir().join("plug.sock"), &data, &data);
    // Found by a document here; the other ways are in the unit tests.
    fs::write(plugins.path().join("keeper.spec"), format!("unix://{}/plug.sock", text(engine.dir())))
        .expect("room");
    (engine, plugin, plugins)
}

/// What both engines must do with a plugin.
fn use_plugin(cli: &Cli, plugin: &VolumePlugin, driver: &str) {
    let name = |part: &str| format!("volumes-{part}");
    let (one, two) = (name("one"), name("two"));
    cli.ok(&["volume", "create", "-d", driver, "-o", "a=b", "--label", "l=1", &one]);
    assert_eq!(plugin.options(&one), Some(json!({"a": "b"})));
    let shown = cli.ok(&[
        "volume",
        "inspect",
        "-f",
        "{{.Driver}} {{.Scope}} {{.CreatedAt}} {{json .Options}} {{json .Labels}} {{json .Status}}",
        &one,
    ]);
    assert_eq!(
        shown,
        format!(r#"{driver} global 2024-05-06T07:08:09Z {{"a":"b"}} {{"l":"1"}} {{"mounts":0}}"#)
    );
    let words = cli.fails(1, &["volume", "create", "-d", driver, "-o", "fail=1", &name("bad")]);
    assert!(words.contains(&format!("create {}: told to fail", name("bad"))), "{words}");
    let words = cli.fails(1, &["volume", "create", &one]);
    assert!(
        words.contains(&format!("driver '{driver}' already has volume '{one}': volume name must be unique")),
        "{words}"
    );
    plugin.calls();
    // Copy-up, then the run itself: each mounts under an id of its own and gives it back.
    cli.ok(&[
        "run",
        "--name",
        &name("c"),
        "-v",
        &format!("{one}:/www"),
        "box",
        "sh",
        "-c",
        "cat /www/index.html; echo kept > /www/f",
    ]);
    assert_eq!(fs::read_to_string(plugin.path(&one).join("f")).expect("really there"), "kept\n");
    wait_until("the plugin to have its volume back", PATIENCE, || plugin.mounts(&one) == Some(Vec::new()));
    let calls: Vec<String> =
        plugin.calls().into_iter().map(|(path, _)| path).filter(|path| path.ends_with("ount")).collect();
    assert_eq!(
        calls,
        ["/VolumeDriver.Mount", "/VolumeDriver.Unmount", "/VolumeDriver.Mount", "/VolumeDriver.Unmount"]
    );
    let words = cli.fails(1, &["volume", "rm", &one]);
    assert!(words.contains("volume is in use - ["), "{words}");
    cli.ok(&["rm", &name("c")]);
    // Made on the way, and by the container's driver.
    let mount = format!("type=volume,src={two},dst=/x,volume-driver={driver},volume-opt=q=r");
    cli.ok(&["run", "--rm", "--mount", &mount, "box", "true"]);
    assert_eq!(plugin.options(&two), Some(json!({"q": "r"})));
    cli.ok(&["run", "--rm", "--volume-driver", driver, "-v", "/anon", "box", "true"]);
    wait_until("the volume nobody named to go", PATIENCE, || {
        cli.ok(&["volume", "ls", "-q", "--filter", &format!("driver={driver}")]) == format!("{one}\n{two}")
    });
    cli.ok(&["volume", "create", "-d", driver, "-o", "failmount=1", &name("stuck")]);
    let words = cli.fails(125, &["run", "--rm", "-v", &format!("{}:/x", name("stuck")), "box", "true"]);
    assert!(words.contains("error while mounting volume '': mount told to fail"), "{words}");
    cli.ok(&["volume", "rm", &one, &two, &name("stuck")]);
    assert_eq!(plugin.mounts(&one), None);
    let words = cli.fails(1, &["volume", "create", "-d", "../../x", &one]);
    assert!(words.contains("plugin \"../../x\" not found"), "{words}");
}

#[test]
fn a_plugin_keeps_volumes() {
    let (engine, plugin, _plugins) = with_plugin();
    use_plugin(&engine.wharf(), &plugin, "keeper");
    if let Some(docker) = engine.docker() {
        use_plugin(&docker, &plugin, "keeper");
    }
}

#[test]
fn the_same_plugin_keeps_volumes_for_the_real_docker() {
    let Some(reference) = Reference::find() else { return };
    if std::env::var_os("WHARF_TEST_REFERENCE_PLUGIN").is_none() {
        println!(
            "skipped: until its restart, Docker asks a plugin that has gone again and again, half a minute each time \
                  (set WHARF_TEST_REFERENCE_PLUGIN=1)"
        );
        return;
    }
    let root = std::env::var("PEERS").unwrap_or_else(|_| "/opt/peers".to_owned());
    let dir = tempfile::Builder::new().prefix("volumes-plugin-").tempdir().expect("a directory");
    let socket = Path::new(&root).join("run/docker/plugins/volumes-keeper.sock");
    let plugin = VolumePlugin::start(&socket, dir.path(), &reference.path(dir.path()));
    let docker = reference.docker();
    docker.run_with_input(&["load"], &image::archive());
    use_plugin(&docker, &plugin, "volumes-keeper");
}

#[test]
fn a_plugin_that_is_silent_delays_nobody_else() {
    let (engine, plugin, _plugins) = with_plugin();
    let cli = engine.wharf();
    cli.ok(&["volume", "create", "-d", "keeper", "theirs"]);
    cli.ok(&["volume", "create", "ours"]);
    plugin.behave(Manners::Silent);
    let starts: Vec<_> = (0..3)
        .map(|_| {
            let mut command = cli.command(&["run", "--rm", "-v", "theirs:/d", "box", "true"]);
            command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::piped());
            command.spawn().expect("it runs")
        })
        .collect();
    let listed = cli.run(&["volume", "ls", "-q"]);
    assert_eq!((listed.code, listed.stdout.trim()), (0, "ours\ntheirs"));
    assert!(listed.stderr.contains("keeper"), "{}", listed.stderr);
    assert_eq!(cli.ok(&["run", "--rm", "-v", "ours:/d", "box", "echo", "well"]), "well");
    cli.ok(&["volume", "inspect", "ours"]);
    for child in starts {
        let output = child.wait_with_output().expect("it ends");
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(words.contains("did not answer") || words.contains("did not finish"), "{words}");
    }
    for manners in [Manners::Endless, Manners::Babbling] {
        plugin.behave(manners);
        let words = cli.fails(1, &["volume", "inspect", "theirs"]);
        assert!(words.contains("the plugin keeper"), "{words}");
    }
    plugin.behave(Manners::Good);
    cli.ok(&["run", "--rm", "-v", "theirs:/d", "box", "true"]);
    cli.ok(&["volume", "rm", "theirs", "ours"]);
}

#[test]
fn a_killed_engine_gives_back_what_it_held() {
    let (engine, plugin, _plugins) = with_plugin();
    let cli = engine.wharf();
    cli.ok(&[
        "run",
        "-d",
        "--name",
        "runs",
        "-v",
        "theirs:/d",
        "--volume-driver",
        "keeper",
        "box",
        "sleep",
        "600",
    ]);
    let held = plugin.mounts("theirs").expect("it is there");
    assert_eq!(held.len(), 1);
    engine.kill();
    engine.start();
    assert_eq!(plugin.mounts("theirs"), Some(held), "what runs keeps its hold");
    let pid = cli.ok(&["inspect", "-f", "{{.State.Pid}}", "runs"]);
    engine.kill();
    let pid = rustix::process::Pid::from_raw(pid.parse().expect("a number")).expect("not 0");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("it runs");
    engine.start();
    wait_until("the hold to be given back", PATIENCE, || plugin.mounts("theirs") == Some(Vec::new()));
    cli.ok(&["rm", "runs"]);
    cli.ok(&["volume", "rm", "theirs"]);
}

#[test]
fn volumes_of_other_containers_come_along() {
    let engine = Engine::with_image();
    let cli = engine.wharf();
    let host = owned(engine.dir(), "host", 0, 0);
    let bind = format!("{}:/b:ro", text(&host));
    cli.ok(&[
        "create",
        "--name",
        "first",
        "-v",
        "fa:/a",
        "-v",
        &bind,
        "-v",
        "/anon",
        "--tmpfs",
        "/t",
        "--mount",
        "type=tmpfs,dst=/t2",
        "box",
        "true",
    ]);
    cli.ok(&["create", "--name", "second", "-v", "fc:/c", "box", "true"]);
    let id = cli.ok(&["inspect", "-f", "{{.Id}}", "second"]);
    cli.ok(&[
        "create",
        "--name",
        "third",
        "--volumes-from",
        "first:ro",
        "--volumes-from",
        &id[..12],
        "-v",
        "mine:/a",
        "box",
        "true",
    ]);
    let shown = cli.ok(&["inspect", "-f",
        "{{range .Mounts}}{{.Type}} {{.Destination}} {{.RW}} {{if eq .Destination \"/a\"}}{{.Name}}{{end}};{{end}}", "third"]);
    let mut shown: Vec<&str> = shown.split(';').filter(|part| !part.is_empty()).collect();
    shown.sort_unstable();
    assert_eq!(shown, ["bind /b false ", "volume /a true mine", "volume /anon false ", "volume /c true "]);
    // What another container uses stays when the first one goes with its volumes.
    let anonymous = cli.ok(&[
        "inspect",
        "-f",
        "{{range .Mounts}}{{if eq .Destination \"/anon\"}}{{.Name}}{{end}}{{end}}",
        "first",
    ]);
    cli.ok(&["rm", "-v", "first"]);
    cli.ok(&["volume", "inspect", &anonymous]);
    for (from, words) in [
        ("second:bogus", "invalid mode: bogus"),
        ("second:rslave", "invalid mode: rslave"),
        ("second:nocopy", "invalid mode: nocopy"),
        ("", "volumes-from specification cannot be an empty string"),
        ("nosuch", "No such container: nosuch"),
    ] {
        assert!(cli.fails(1, &["create", "--volumes-from", from, "box", "true"]).contains(words), "{from}");
    }
}
