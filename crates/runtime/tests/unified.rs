//! A host with cgroup v2 alone. The test machines have it beside v1; in a mount namespace where it takes v1's place,
//! the runtime finds nothing else. Of the controllers only those that v1 does not hold are there.
#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use serde_json::json;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use support::{Bundle, text};

/// A runtime command where `/sys/fs/cgroup` is the unified hierarchy; `None` if the host has none to show.
fn command(bundle: &Bundle, arguments: &[&str]) -> Option<Command> {
    let unified = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(Path::new);
    let unified = unified.into_iter().find(|dir| dir.join("cgroup.subtree_control").exists())?;
    let inner = bundle.command(arguments);
    let mut command = Command::new("unshare");
    let script = format!("mount --bind {} /sys/fs/cgroup && exec \"$@\"", unified.display());
    command.args(["--mount", "--propagation", "private", "sh", "-c", &script, "sh"]);
    command.arg(inner.get_program()).args(inner.get_args()).current_dir(bundle.path());
    command.stdin(Stdio::null());
    Some(command)
}

fn call(bundle: &Bundle, arguments: &[&str]) -> Option<Output> {
    Some(command(bundle, arguments)?.output().unwrap())
}

fn run(bundle: &Bundle) -> Option<String> {
    let output = call(bundle, &["run", &bundle.id])?;
    assert!(output.status.success(), "{}", text(&output));
    Some(String::from_utf8(output.stdout).unwrap())
}

#[test]
fn a_container_is_born_in_its_group() {
    let mut bundle = Bundle::new(
        "cat /proc/self/cgroup | grep ^0; grep -c ' /sys/fs/cgroup ' /proc/self/mountinfo; cat /sys/fs/cgroup/cgroup.procs
        mkdir /sys/fs/cgroup/x 2>/dev/null || echo read-only",
    );
    bundle.config["linux"]["resources"]["hugepageLimits"] = json!([{"pageSize": "2MB", "limit": 2_097_152}]);
    let Some(output) = run(&bundle) else { return };
    let lines: Vec<_> = output.lines().collect();
    assert_eq!(lines[..3], ["0::/", "1", "1"], "{output}");
    assert_eq!(lines.last(), Some(&"read-only"));
}

#[test]
fn rt_13_devices_are_denied_by_a_program() {
    let mut bundle = Bundle::new(
        "mknod /tmp/fuse c 10 229; (exec 3</tmp/fuse) 2>/dev/null || echo refused; head -c 3 /dev/zero | wc -c",
    );
    let Some(output) = run(&bundle) else { return };
    assert_eq!(output, "refused\n3\n");
    bundle.config["linux"]["resources"]["devices"] = json!([{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "r"}]);
    bundle.config["process"]["args"] = json!([
        "sh",
        "-c",
        "mknod /tmp/fuse2 c 10 229; (exec 3</tmp/fuse2) && echo read; (exec 3>/tmp/fuse2) 2>/dev/null || echo refused"
    ]);
    assert_eq!(run(&bundle).unwrap(), "read\nrefused\n");
}

#[test]
fn a_limit_without_its_controller_is_refused() {
    let mut bundle = Bundle::new("true");
    bundle.config["linux"]["resources"]["memory"] = json!({"limit": 50_000_000});
    let Some(output) = call(&bundle, &["run", &bundle.id]) else { return };
    if Path::new("/sys/fs/cgroup/memory").exists() {
        assert!(text(&output).contains("controller memory is not available"), "{}", text(&output));
    }
}

#[test]
fn exec_pause_and_kill_work() {
    let bundle = Bundle::new("sleep 100");
    // The container keeps its streams: they must not be pipes that we read to their end.
    let Some(mut start) = command(&bundle, &["run", "--detach", &bundle.id]) else { return };
    assert!(start.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success());
    let succeed = |arguments: &[&str]| {
        let output = call(&bundle, arguments).unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", text(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(succeed(&["exec", &bundle.id, "sh", "-c", "grep ^0 /proc/self/cgroup"]), "0::/\n");
    succeed(&["pause", &bundle.id]);
    assert!(succeed(&["state", &bundle.id]).contains("\"paused\""));
    succeed(&["resume", &bundle.id]);
    succeed(&["kill", "--all", &bundle.id, "KILL"]);
    succeed(&["delete", "--force", &bundle.id]);
}
