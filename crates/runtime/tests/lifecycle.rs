//! The runtime's commands, from outside.
#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use serde_json::{Value, json};
use support::Bundle;

#[test]
fn a_container_prints_and_is_gone() {
    let bundle = Bundle::new("echo hello; hostname; pwd");
    assert_eq!(bundle.run(), "hello\nbox\n/\n");
    assert!(bundle.fail(&["state", &bundle.id]).contains("does not exist"));
}

#[test]
fn the_exit_status_is_the_commands() {
    for (script, status) in
        [("exit 7", 7), ("kill -TERM $$; exit 3", 3), ("sh -c 'kill -9 $$'; exit $?", 137)]
    {
        let bundle = Bundle::new(script);
        assert_eq!(bundle.call(&["run", &bundle.id]).status.code(), Some(status), "{script}");
    }
}

#[test]
fn commands_that_cannot_run_say_why() {
    let cases = [
        ("nope", "exec: \"nope\": executable file not found in $PATH"),
        ("/nope", "exec: \"/nope\": stat /nope: no such file or directory"),
        ("/etc/passwd", "exec: \"/etc/passwd\": permission denied"),
        ("/etc", "exec: \"/etc\": is a directory: permission denied"),
        ("/etc/passwd/x", "exec: \"/etc/passwd/x\": not a directory"),
        ("", "exec: \"\": executable file not found in $PATH"),
    ];
    for (command, message) in cases {
        let mut bundle = Bundle::new("");
        bundle.config["process"]["args"] = json!([command]);
        assert!(bundle.run_fails().contains(message), "{command}");
    }
    let mut bundle = Bundle::new("");
    std::fs::write(bundle.root().join("bin/garbage"), [0x7f, 0, 1, 2]).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(bundle.root().join("bin/garbage"), mode).unwrap();
    bundle.config["process"]["args"] = json!(["garbage"]);
    assert!(bundle.run_fails().contains("exec format error"));
}

#[test]
fn created_started_stopped_deleted() {
    let bundle = Bundle::new("while :; do sleep 1; done");
    let create = || {
        let mut command = bundle.command(&["create", "--pid-file", "pid", &bundle.id]);
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).status().unwrap()
    };
    assert!(create().success());
    let state = bundle.state();
    assert_eq!(state["status"], "created");
    assert_eq!(state["id"], json!(bundle.id));
    assert_eq!(state["bundle"], json!(bundle.path()));
    assert_eq!(std::fs::read_to_string(bundle.path().join("pid")).unwrap(), state["pid"].to_string());
    // The command does not run yet: the process still is the runtime.
    let command_line = std::fs::read_to_string(format!("/proc/{}/cmdline", state["pid"])).unwrap();
    assert!(command_line.contains("create"));

    assert!(!create().success(), "the id is taken");
    bundle.succeed(&["start", &bundle.id]);
    assert!(bundle.fail(&["start", &bundle.id]).contains("already running"));
    assert_eq!(bundle.state()["status"], "running");
    assert!(bundle.succeed(&["list"]).contains(&bundle.id));
    assert_eq!(bundle.succeed(&["list", "-q"]).trim(), bundle.id);
    let list: Value = serde_json::from_str(&bundle.succeed(&["list", "--format", "json"])).unwrap();
    assert_eq!(list[0]["status"], "running");
    assert!(bundle.fail(&["delete", &bundle.id]).contains("not stopped"));

    bundle.succeed(&["pause", &bundle.id]);
    assert_eq!(bundle.state()["status"], "paused");
    assert!(bundle.fail(&["exec", &bundle.id, "true"]).contains("paused"));
    bundle.succeed(&["resume", &bundle.id]);
    let pid = bundle.state()["pid"].to_string();
    assert!(bundle.succeed(&["ps", &bundle.id]).lines().any(|line| line == pid));

    bundle.succeed(&["kill", &bundle.id, "KILL"]);
    bundle.succeed(&["delete", "--force", &bundle.id]);
    assert!(bundle.fail(&["kill", &bundle.id]).contains("does not exist"));
    bundle.succeed(&["delete", "--force", &bundle.id]);
}

#[test]
fn a_failed_create_leaves_nothing() {
    let mut bundle = Bundle::new("true");
    bundle.mount("/no/such/place", "/data", "bind", &["rbind"]);
    let error = bundle.run_fails();
    assert!(error.contains("/no/such/place") && error.contains("No such file"), "{error}");
    assert_eq!(std::fs::read_dir(bundle.path().join("state")).unwrap().count(), 0);
}

#[test]
fn exec_runs_beside_the_command() {
    let bundle = Bundle::new("while :; do sleep 1; done");
    bundle.start();
    assert_eq!(bundle.exec("hostname; readlink /proc/1/exe"), "box\n/bin/busybox\n");
    let output = bundle.call(&["exec", &bundle.id, "sh", "-c", "exit 9"]);
    assert_eq!(output.status.code(), Some(9));
    for (arguments, message) in
        [(vec!["nope"], "executable file not found in $PATH"), (vec!["/etc/passwd"], "permission denied")]
    {
        let mut words = vec!["exec", &bundle.id];
        words.extend(&arguments);
        let output = bundle.call(&words);
        assert_eq!(output.status.code(), Some(255));
        assert!(support::text(&output).contains(message));
    }
    assert_eq!(
        bundle.succeed(&[
            "exec",
            "-u",
            "33:34",
            "--cwd",
            "/tmp",
            "-e",
            "A=b",
            &bundle.id,
            "sh",
            "-c",
            "pwd; id -u; id -g; echo $A $HOME"
        ]),
        "/tmp\n33\n34\nb /var/www\n"
    );
}

#[test]
fn a_terminal_is_the_containers_own() {
    let mut bundle = Bundle::new("tty; stty size; test -c /dev/console && echo console; echo done");
    bundle.config["process"]["terminal"] = json!(true);
    bundle.config["process"]["consoleSize"] = json!({"height": 31, "width": 97});
    let output = bundle.run();
    assert_eq!(output.replace('\r', ""), "/dev/pts/0\n31 97\nconsole\ndone\n");
}

#[test]
fn hooks_run_in_order_and_know_the_container() {
    let mut bundle = Bundle::new("echo command >> /data/log");
    let log = bundle.path().join("log");
    std::fs::write(&log, "").unwrap();
    let hook = |name: &str| json!([{"path": "/bin/sh", "args": ["sh", "-c", format!("grep -q '\"id\"' && echo {name} >> {}", log.display())]}]);
    bundle.mount(&log, "/data/log", "bind", &["bind"]);
    bundle.config["hooks"] = json!({
        "prestart": hook("prestart"), "createRuntime": hook("createRuntime"),
        "createContainer": hook("createContainer"),
        "startContainer": [{"path": "/bin/sh", "args": ["sh", "-c", "grep -q '\"id\"' && echo startContainer >> /data/log"],
            "env": ["PATH=/bin"]}],
        "poststop": hook("poststop"),
    });
    bundle.run();
    let lines = std::fs::read_to_string(&log).unwrap();
    assert_eq!(lines, "prestart\ncreateRuntime\ncreateContainer\nstartContainer\ncommand\npoststop\n");

    let mut bundle = Bundle::new("true");
    bundle.config["hooks"] = json!({"createRuntime": [{"path": "/bin/false"}]});
    assert!(bundle.run_fails().contains("hook /bin/false"));
}

#[test]
fn spec_writes_a_configuration_that_runs() {
    let bundle = Bundle::new("");
    let fresh = tempfile::tempdir().unwrap();
    bundle.succeed(&["spec", "--bundle", fresh.path().to_str().unwrap()]);
    assert!(bundle.fail(&["spec", "--bundle", fresh.path().to_str().unwrap()]).contains("exists"));
    let written = std::fs::read_to_string(fresh.path().join("config.json")).unwrap();
    let mut bundle = bundle;
    let cgroup = bundle.config["linux"]["cgroupsPath"].clone();
    bundle.config = serde_json::from_str(&written).unwrap();
    bundle.config["process"]["terminal"] = json!(false);
    bundle.config["process"]["args"] = json!(["echo", "fine"]);
    bundle.config["linux"]["cgroupsPath"] = cgroup;
    assert_eq!(bundle.run(), "fine\n");
}

#[test]
fn configurations_that_make_no_sense_are_refused() {
    type Change = fn(&mut Value);
    let changes: [(Change, &str); 11] = [
        (|c| c["linux"]["intelRdt"] = json!({"closID": "x"}), "linux.intelRdt is not supported"),
        (|c| c["linux"]["resources"]["network"] = json!({"classID": 7}), "linux.resources.network"),
        (|c| c["process"]["args"] = json!([]), "process.args is empty"),
        (|c| c["process"]["cwd"] = json!("tmp"), "not an absolute path"),
        (|c| c["process"]["env"] = json!(["PATH=/bin", "A=\u{0}"]), "NUL"),
        (|c| c["linux"]["namespaces"] = json!([{"type": "pid"}]), "mount namespace"),
        (|c| c["linux"]["cgroupsPath"] = json!("/a/../../b"), "component"),
        (|c| c["linux"]["rootfsPropagation"] = json!("sideways"), "propagation"),
        (|c| c["root"]["path"] = json!("nowhere"), "nowhere"),
        (|c| c["linux"]["namespaces"] = json!([{"type": "mount"}, {"type": "mount"}]), "twice"),
        (|c| c["linux"]["resources"]["memory"] = json!({"limit": 5}), "memory"),
    ];
    for (change, message) in changes {
        let mut bundle = Bundle::new("true");
        change(&mut bundle.config);
        let error = bundle.run_fails();
        assert!(error.contains(message), "{message}: {error}");
    }
}

#[test]
fn limits_are_set_and_updated() {
    let mut bundle = Bundle::new("while :; do sleep 1; done");
    bundle.config["linux"]["resources"] = json!({
        "memory": {"limit": 67_108_864, "swap": 67_108_864}, "pids": {"limit": 50},
        "cpu": {"shares": 512, "quota": 50000, "period": 100_000, "cpus": "0"},
    });
    bundle.start();
    let read = |controller: &str, name: &str| {
        std::fs::read_to_string(bundle.cgroup(controller).join(name)).unwrap().trim().to_owned()
    };
    assert_eq!(read("memory", "memory.limit_in_bytes"), "67108864");
    assert_eq!(read("pids", "pids.max"), "50");
    assert_eq!(read("cpu", "cpu.cfs_quota_us"), "50000");
    assert_eq!(read("cpuset", "cpuset.cpus"), "0");
    bundle.succeed(&[
        "update",
        "--memory",
        "134217728",
        "--memory-swap",
        "134217728",
        "--pids-limit",
        "60",
        &bundle.id,
    ]);
    assert_eq!(read("memory", "memory.limit_in_bytes"), "134217728");
    assert_eq!(read("pids", "pids.max"), "60");
}

#[test]
fn the_version_is_told() {
    let bundle = Bundle::new("");
    assert!(bundle.succeed(&["--version"]).starts_with("wharf-runtime version "));
    assert!(bundle.succeed(&["features"]).contains("SCMP_ARCH_X86_64"));
    assert!(bundle.fail(&["frobnicate"]).contains("no command"));
}
