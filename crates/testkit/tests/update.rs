//! `update`: record and kernel change together or not at all, and devices are none of its business.

use std::path::{Path, PathBuf};

use wharf_testkit::{Cli, Engine, PATIENCE, wait_until};

fn inspect(wharf: &Cli, name: &str, what: &str) -> String {
    let format: Vec<String> = what.split(' ').map(|field| format!("{{{{{field}}}}}")).collect();
    wharf.ok(&["inspect", "-f", &format.join(" "), name]).trim().to_owned()
}

/// A container's directory in the hierarchy that has `controller`, on either version of cgroups.
fn cgroup(wharf: &Cli, name: &str, controller: &str) -> PathBuf {
    let pid = inspect(wharf, name, ".State.Pid");
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("the container runs");
    let find = |wanted: &str| {
        text.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let (controllers, path) = (parts.next()?, parts.next()?);
            controllers.split(',').any(|one| one == wanted).then(|| path.trim_start_matches('/').to_owned())
        })
    };
    match find(controller) {
        Some(path) => Path::new("/sys/fs/cgroup").join(controller).join(path),
        None => Path::new("/sys/fs/cgroup").join(find("").expect("a unified hierarchy")),
    }
}

fn limit(wharf: &Cli, name: &str, controller: &str, v1: &str, v2: &str) -> String {
    let dir = cgroup(wharf, name, controller);
    let file = [v1, v2].map(|file| dir.join(file)).into_iter().find(|file| file.exists());
    std::fs::read_to_string(file.expect("one of the two versions")).expect("readable").trim().to_owned()
}

fn memory(wharf: &Cli, name: &str) -> String {
    limit(wharf, name, "memory", "memory.limit_in_bytes", "memory.max")
}

fn pids(wharf: &Cli, name: &str) -> String {
    limit(wharf, name, "pids", "pids.max", "pids.max")
}

#[test]
fn an_update_reaches_the_record_and_the_kernel_whatever_the_container_does() {
    let engine = Engine::with_image();
    let wharf = engine.wharf();
    wharf.ok(&["create", "--name", "one", "-m", "64m", "box", "sleep", "600"]);
    // At rest: the record, and with it the next start.
    wharf.ok(&["update", "-m", "100m", "--pids-limit", "50", "one"]);
    wharf.ok(&["start", "one"]);
    assert_eq!((memory(&wharf, "one").as_str(), pids(&wharf, "one").as_str()), ("104857600", "50"));
    // Running, and beyond the old limit of swap.
    wharf.ok(&["update", "-m", "200m", "--memory-swap", "400m", "--cpu-shares", "512", "one"]);
    assert_eq!(memory(&wharf, "one"), "209715200");
    // Paused.
    wharf.ok(&["pause", "one"]);
    wharf.ok(&["update", "-m", "80m", "--memory-swap", "160m", "--pids-limit", "-1", "one"]);
    assert_eq!(inspect(&wharf, "one", ".State.Status"), "paused");
    wharf.ok(&["unpause", "one"]);
    assert_eq!((memory(&wharf, "one").as_str(), pids(&wharf, "one").as_str()), ("83886080", "max"));
    // What another engine finds is the same.
    engine.kill();
    engine.start();
    assert_eq!(inspect(&wharf, "one", ".HostConfig.Memory .HostConfig.CpuShares"), "83886080 512");
    assert_eq!(inspect(&wharf, "one", ".State.Status"), "running");
}

#[test]
fn what_the_kernel_refuses_is_undone_everywhere() {
    let engine = Engine::with_image();
    let wharf = engine.wharf();
    wharf.ok(&["run", "-d", "--name", "one", "-m", "64m", "--pids-limit", "50", "box", "sleep", "600"]);
    // Less memory and swap than memory alone: only the kernel knows that it does not fit.
    let said =
        wharf.fails(1, &["update", "--memory-swap", "32m", "--pids-limit", "7", "--cpu-shares", "77", "one"]);
    assert!(said.contains("Cannot update container"), "{said}");
    assert_eq!((memory(&wharf, "one").as_str(), pids(&wharf, "one").as_str()), ("67108864", "50"));
    let kept = inspect(&wharf, "one", ".HostConfig.MemorySwap .HostConfig.PidsLimit .HostConfig.CpuShares");
    assert_eq!(kept, "134217728 50 0");
    assert_ne!(limit(&wharf, "one", "cpu", "cpu.shares", "cpu.weight"), "77");
}

#[test]
fn a_new_restart_policy_counts_for_the_run_that_is_going_on() {
    let engine = Engine::with_image();
    let wharf = engine.wharf();
    let wait = "while ! test -e /go; do usleep 20000; done; exit 3";
    wharf.ok(&["run", "-d", "--name", "one", "box", "sh", "-c", wait]);
    wharf.ok(&["update", "--restart", "on-failure:1", "one"]);
    wharf.ok(&["exec", "one", "touch", "/go"]);
    wait_until("one restart and then the end", PATIENCE, || {
        inspect(&wharf, "one", ".RestartCount .State.Status") == "1 exited"
    });
    // And a policy that is taken away brings nobody back.
    wharf.ok(&["run", "-d", "--name", "two", "--restart", "always", "box", "sh", "-c", wait]);
    wharf.ok(&["update", "--restart", "no", "two"]);
    wharf.ok(&["exec", "two", "touch", "/go"]);
    assert_eq!(wharf.ok(&["wait", "two"]).trim(), "3");
    assert_eq!(inspect(&wharf, "two", ".RestartCount .State.Status"), "0 exited");
}

/// Nodes of devices that no container may open, made by root in the container, who may make any.
const DEVICES: &str = "mkdir -p /d; for n in 'b 8 0' 'b 7 0' 'b 254 0' 'c 1 1' 'c 1 11' 'c 10 237'; do \
    f=/d/$(echo $n | tr ' ' -); test -e $f || mknod $f $n; done";
const OPEN: &str = "for f in /d/*; do if cat $f >/dev/null 2>/tmp/e </dev/null; then echo $f opened; \
    else grep -q 'Operation not permitted' /tmp/e || { echo $f:; cat /tmp/e; }; fi; done 2>&1 & \
    wait $!";

#[test]
fn rt_13_devices_stay_denied_after_every_change_of_limits() {
    let engine = Engine::with_image();
    let wharf = engine.wharf();
    wharf.ok(&["run", "-d", "--name", "one", "-m", "64m", "box", "sleep", "600"]);
    wharf.ok(&["exec", "one", "sh", "-c", DEVICES]);
    let denied = |when: &str| {
        for arguments in [&["exec", "one"][..], &["exec", "--privileged", "one"]] {
            let opened = wharf.ok(&[arguments, &["sh", "-c", OPEN]].concat());
            assert_eq!(opened, "", "{when}, {arguments:?}");
        }
        let null =
            wharf.ok(&["exec", "one", "sh", "-c", "echo x > /dev/null && head -c 3 /dev/zero | wc -c"]);
        assert_eq!(null.trim(), "3", "{when}");
    };
    denied("at first");
    wharf.ok(&["update", "-m", "100m", "--cpu-shares", "512", "--pids-limit", "100", "one"]);
    denied("after an update");
    let rules = serde_json::json!({
        "Devices": [{"PathOnHost": "/dev/mem", "PathInContainer": "/dev/mem", "CgroupPermissions": "rwm"}],
        "DeviceCgroupRules": ["a *:* rwm"], "CpuShares": 600
    });
    let answer = engine.api().request("POST", "/containers/one/update", Some(&rules)).expect("an answer");
    assert_eq!(answer.status, 200);
    denied("after an update that asked for devices");
    wharf.fails(1, &["update", "--memory-swap", "32m", "one"]);
    denied("after an update that failed");
    wharf.ok(&["pause", "one"]);
    wharf.ok(&["unpause", "one"]);
    denied("after a pause");
    engine.kill();
    engine.start();
    denied("with another engine");
    wharf.ok(&["update", "-m", "90m", "one"]);
    denied("after an update by another engine");
}
