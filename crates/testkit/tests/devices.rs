//! Devices: those of the host by path, by rule and by directory, and those that vendors describe (CDI).

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;
use wharf_testkit::image::{Builder, rootfs};
use wharf_testkit::{Cli, Engine, EngineBuilder, image};

/// A directory of device nodes, links and files beside the engine's own.
fn nodes(engine: &Engine) -> PathBuf {
    let dir = engine.dir().join("nodes");
    std::fs::create_dir_all(dir.join("deep")).expect("a fresh directory");
    // FUSE's device: every host has it, no container has it by itself, and to open it does nothing.
    for name in ["one", "two", "deep/three"] {
        let made = Command::new("mknod").arg(dir.join(name)).args(["c", "10", "229"]).status();
        assert!(made.expect("mknod runs").success());
    }
    std::fs::write(dir.join("plain"), "no device").expect("room");
    std::os::unix::fs::symlink(dir.join("one"), dir.join("link")).expect("a fresh link");
    dir
}

/// What opening a device for reading and for writing gives inside: `ok` or the kernel's words.
fn opens(wharf: &Cli, arguments: &[&str], device: &str) -> [bool; 2] {
    let script = format!("(: < {device}) 2>/dev/null && echo r; (: > {device}) 2>/dev/null && echo w; true");
    let said = wharf.ok(&[&["run", "--rm"], arguments, &["box", "sh", "-c", &script]].concat());
    [said.contains('r'), said.contains('w')]
}

#[test]
fn devices_of_the_host_come_with_the_access_that_was_given() {
    let engine = Engine::with_image();
    let wharf = engine.wharf();
    let dir = nodes(&engine);
    let at = |name: &str, rest: &str| format!("{}{rest}", dir.join(name).display());
    assert_eq!(opens(&wharf, &["--device", &at("one", ":/dev/x")], "/dev/x"), [true, true]);
    assert_eq!(opens(&wharf, &["--device", &at("one", ":/dev/x:r")], "/dev/x"), [true, false]);
    assert_eq!(opens(&wharf, &["--device", &at("link", ":/dev/x:rw")], "/dev/x"), [true, true]);
    // A directory stands for the devices in it, also further down; other files do not count.
    let seen = wharf.ok(&[
        "run",
        "--rm",
        "--device",
        &at("", ":/dev/many:r"),
        "box",
        "find",
        "/dev/many",
        "-type",
        "c",
    ]);
    let mut seen: Vec<&str> = seen.lines().collect();
    seen.sort_unstable();
    assert_eq!(seen, ["/dev/many/deep/three", "/dev/many/one", "/dev/many/two"]);
    // Docker's program takes every file that is missing for a missing command: 127.
    for (name, code) in [("missing", 127), ("plain", 125)] {
        let said = wharf.fails(code, &["run", "--rm", "--device", &at(name, ""), "box", "true"]);
        assert!(said.contains("error gathering device information while adding custom device"), "{said}");
    }
    // With all privileges every device is there, and may have one more name.
    let twice = at("one", ":/dev/second:r");
    assert_eq!(opens(&wharf, &["--privileged", "--device", &twice], "/dev/second"), [true, true]);
    // A rule lets a node be used that the container makes itself.
    let made = "mknod /tmp/f c 10 229; (: < /tmp/f) 2>/dev/null && echo opened; true";
    let run = |rule: &[&str]| wharf.ok(&[&["run", "--rm"], rule, &["box", "sh", "-c", made]].concat());
    assert_eq!(run(&[]), "");
    assert_eq!(run(&["--device-cgroup-rule", "c 10:* rmw"]).trim(), "opened");
    assert_eq!(run(&["--device-cgroup-rule", "c 10:228 rmw"]), "");
}

fn engine_with(files: &[(&str, String)]) -> (Engine, tempfile::TempDir) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for (name, text) in files {
        write(dir.path(), name, text);
    }
    let path = dir.path().to_str().expect("a plain path").to_owned();
    let engine = EngineBuilder::default().argument("--cdi-spec-dir").argument(&path).start();
    engine.load(&image::archive());
    (engine, dir)
}

fn write(dir: &Path, name: &str, text: &str) {
    std::fs::write(dir.join(name), text).expect("room");
    std::fs::set_permissions(dir.join(name), std::fs::Permissions::from_mode(0o644)).expect("ours");
}

#[test]
fn a_vendor_s_file_says_what_its_device_needs() {
    let marker = tempfile::tempdir().expect("a temporary directory");
    let file = marker.path().join("library");
    std::fs::write(&file, "code").expect("room");
    let state = marker.path().join("state");
    let text = format!(
        "cdiVersion: 0.6.0\nkind: example.com/thing\ncontainerEdits:\n  env: [ALL=things]\ndevices:\n- name: first\n  \
         containerEdits:\n    env: [THING=first]\n    deviceNodes:\n    - path: /dev/thing0\n      hostPath: /dev/fuse\n      \
         permissions: r\n    mounts:\n    - hostPath: {}\n      containerPath: /usr/lib/thing\n      options: [ro, nosuid, bind]\n    \
         additionalGids: [4242]\n    hooks:\n    - hookName: createRuntime\n      path: /bin/sh\n      args: [sh, -c, 'cat > {}']\n",
        file.display(),
        state.display()
    );
    let (engine, _dir) = engine_with(&[("thing.yaml", text)]);
    let wharf = engine.wharf();
    let show = "echo $ALL $THING; id -G; cat /usr/lib/thing; echo; (: < /dev/thing0) && echo r; \
                (: > /dev/thing0) 2>/dev/null || echo no w; (echo x > /usr/lib/thing) 2>/dev/null || echo ro";
    let seen = wharf.ok(&["run", "--rm", "--device", "example.com/thing=first", "box", "sh", "-c", show]);
    assert_eq!(seen, "things first\n0 4242\ncode\nr\nno w\nro");
    let said = std::fs::read_to_string(&state).expect("the hook ran");
    assert!(said.contains("\"status\":\"creating\""), "{said}");
    // Without asking there is nothing of it.
    assert_eq!(wharf.ok(&["run", "--rm", "box", "sh", "-c", "echo $ALL; ls /dev | grep thing; true"]), "");
    let said = wharf.fails(125, &["run", "--rm", "--device", "example.com/thing=other", "box", "true"]);
    assert!(
        said.contains("CDI device injection failed: unresolvable CDI devices example.com/thing=other"),
        "{said}"
    );
    let dirs = wharf.ok(&["info", "-f", "{{len .CDISpecDirs}}"]);
    assert_eq!(dirs.trim(), "1");
}

#[test]
fn rt_22_files_of_others_and_words_of_images_inject_nothing() {
    let json = |kind: &str| {
        json!({"cdiVersion": "0.6.0", "kind": kind, "devices": [
            {"name": "a", "containerEdits": {"env": ["INJECTED=1"]}}]})
        .to_string()
    };
    let (engine, dir) = engine_with(&[
        ("good.json", json("example.com/good")),
        ("open.json", json("example.com/open")),
        ("foreign.json", json("example.com/foreign")),
        ("twice-1.json", json("example.com/twice")),
        ("twice-2.json", json("example.com/twice")),
        ("broken.yaml", "devices: [\n".to_owned()),
        ("other.txt", json("example.com/other")),
        ("bomb.yaml", {
            let lines =
                (1..12).map(|n| format!("a{n}: &a{n} [{}]\n", vec![format!("*a{}", n - 1); 10].join(", ")));
            format!("a0: &a0 [x]\n{}", lines.collect::<String>())
        }),
    ]);
    let mode = |name: &str, mode| {
        std::fs::set_permissions(dir.path().join(name), std::fs::Permissions::from_mode(mode)).expect("ours");
    };
    mode("open.json", 0o666);
    std::os::unix::fs::chown(dir.path().join("foreign.json"), Some(1000), None).expect("root may");
    let wharf = engine.wharf();
    let run = |name: &str| wharf.run(&["run", "--rm", "--device", name, "box", "sh", "-c", "echo $INJECTED"]);
    assert_eq!(run("example.com/good=a").stdout, "1\n");
    for kind in ["open", "foreign", "twice", "other"] {
        let name = format!("example.com/{kind}=a");
        let ran = run(&name);
        assert!(ran.stderr.contains(&format!("unresolvable CDI devices {name}")), "{}", ran.stderr);
    }
    let image = Builder::new("greedy:latest", rootfs())
        .config(
            "Labels",
            json!({"cdi.k8s.io/x": "example.com/good=a", "wharf.devices": "example.com/good=a"}),
        )
        .config("Env", json!(["NVIDIA_VISIBLE_DEVICES=all", "CDI_DEVICES=example.com/good=a"]));
    engine.load(&image.build());
    let asked = [
        "run",
        "--rm",
        "--annotation",
        "cdi.k8s.io/x=example.com/good=a",
        "greedy",
        "sh",
        "-c",
        "echo $INJECTED",
    ];
    assert_eq!(wharf.ok(&asked), "");
}

#[test]
fn graphics_processors_are_asked_for_by_number_and_name() {
    let devices: Vec<_> = ["0", "1", "all"]
        .iter()
        .map(|name| json!({"name": name, "containerEdits": {"env": [format!("GPU_{name}=1")]}}))
        .collect();
    let file = json!({"cdiVersion": "0.5.0", "kind": "nvidia.com/gpu", "devices": devices}).to_string();
    let (engine, dir) = engine_with(&[("nvidia.json", file)]);
    let wharf = engine.wharf();
    let run = |wanted: &str| {
        wharf.ok(&["run", "--rm", "--gpus", wanted, "box", "sh", "-c", "env | grep GPU_ | sort"])
    };
    assert_eq!(run("all"), "GPU_all=1");
    assert_eq!(run("1"), "GPU_0=1");
    assert_eq!(run("2"), "GPU_0=1\nGPU_1=1");
    assert_eq!(run("device=1"), "GPU_1=1");
    assert_eq!(run("count=1,capabilities=utility"), "GPU_0=1");
    // The files are read at every start.
    std::fs::remove_file(dir.path().join("nvidia.json")).expect("ours");
    let said = wharf.fails(125, &["run", "--rm", "--gpus", "all", "box", "true"]);
    assert!(said.contains("could not select device driver \"\" with capabilities: [[gpu]]"), "{said}");
}
