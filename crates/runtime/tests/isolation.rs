//! What a container can see and do. The numbers are those of the project's list of attacks.
#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use serde_json::json;
use support::Bundle;

#[test]
fn rt_11_no_cgroup_can_be_written_or_mounted() {
    let bundle = Bundle::new(
        "cd /sys/fs/cgroup; for d in */; do for f in release_agent notify_on_release devices.allow cgroup.procs tasks; do
        [ -e $d$f ] && (echo 1 > $d$f) 2>/dev/null && echo WROTE $d$f; done
        mkdir $d/new 2>/dev/null && echo MADE $d; done
        mkdir /tmp/c; mount -t cgroup -o memory c /tmp/c 2>/dev/null && echo MOUNTED
        unshare -U -m -r mount -t cgroup -o memory c /tmp/c 2>/dev/null && echo UNSHARED; echo end",
    );
    assert_eq!(bundle.run(), "end\n");
}

#[test]
fn rt_12_every_process_is_in_its_own_group_everywhere() {
    let bundle = Bundle::new("sleep 100");
    let pid = bundle.start();
    let mut child = bundle.command(&["exec", &bundle.id, "sh", "-c", "echo on; sleep 100"]);
    let mut child = child.stdout(std::process::Stdio::piped()).spawn().unwrap();
    // Its first output says that it runs.
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0; 3]).unwrap();
    let pids: Vec<i32> =
        bundle.succeed(&["ps", &bundle.id]).lines().filter_map(|line| line.parse().ok()).collect();
    assert!(pids.contains(&pid) && pids.len() >= 2, "{pids:?}");
    let group = format!(":/{}", bundle.id);
    for pid in pids {
        // A process that was listed while it ended is shown in the root's groups for its last moment.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while let Ok(groups) = std::fs::read_to_string(format!("/proc/{pid}/cgroup")) {
            let astray = groups.lines().find(|line| !line.ends_with(&group));
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let ended = stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['Z', 'X']));
            let Some(astray) = astray.filter(|_| !ended) else { break };
            assert!(std::time::Instant::now() < deadline, "process {pid} stays in {astray}");
            std::thread::yield_now();
        }
    }
    assert!(bundle.fail(&["exec", "--cgroup", "../x", &bundle.id, "true"]).contains("--cgroup"));
    bundle.succeed(&["kill", "--all", &bundle.id, "KILL"]);
    child.wait().unwrap();
    // The mounts are read-only for those who look.
    let bundle = Bundle::new("grep /sys/fs/cgroup /proc/self/mountinfo | grep -v ' ro,' | wc -l");
    assert_eq!(bundle.run(), "0\n");
}

#[test]
fn rt_13_devices_that_are_not_listed_do_not_open() {
    let script = "mknod /tmp/mem c 1 1; mknod /tmp/kmsg c 1 11; mknod /tmp/loop b 7 0; mknod /tmp/disk b 254 0; mknod /tmp/fuse c 10 229
        for d in mem kmsg loop disk fuse; do head -c 1 /tmp/$d >/dev/null 2>/tmp/err && echo OPENED $d; grep -q 'not permitted' /tmp/err || cat /tmp/err; done
        head -c 3 /dev/zero | wc -c; echo x > /dev/null && echo null";
    let mut bundle = Bundle::new(script);
    assert_eq!(bundle.run(), "3\nnull\n");
    // A listed one does.
    bundle.config["linux"]["resources"]["devices"] = json!([{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "r"}]);
    bundle.config["process"]["args"] = json!([
        "sh",
        "-c",
        "mknod /tmp/fuse c 10 229; (exec 3</tmp/fuse) && echo read; (exec 3>/tmp/fuse) 2>/dev/null || echo refused"
    ]);
    assert_eq!(bundle.run(), "read\nrefused\n");
}

/// The five sets in `/proc/self/status`: inheritable, permitted, effective, bounding, ambient.
fn sets(status: &str) -> Vec<u64> {
    let value = |line: &str| u64::from_str_radix(line.rsplit('\t').next()?, 16).ok();
    status.lines().filter(|line| line.starts_with("Cap")).filter_map(value).collect()
}

#[test]
fn rt_14_capabilities_are_exactly_those_asked_for() {
    const DOCKER: u64 = 0xa804_25fb;
    let mut bundle = Bundle::new("grep Cap /proc/self/status");
    assert_eq!(sets(&bundle.run()), [0, DOCKER, DOCKER, DOCKER, 0]);
    bundle.config["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    assert_eq!(sets(&bundle.run()), [0, 0, 0, DOCKER, 0], "another user has none in force");
    bundle.config["process"]["capabilities"] = json!({"bounding": ["CAP_KILL"], "effective": ["CAP_KILL"],
        "permitted": ["CAP_KILL"], "inheritable": ["CAP_KILL"], "ambient": ["CAP_KILL"]});
    assert_eq!(sets(&bundle.run()), [1 << 5; 5]);
    bundle.config["process"].as_object_mut().unwrap().remove("capabilities");
    bundle.config["process"]["user"] = json!({"uid": 0, "gid": 0});
    assert_eq!(sets(&bundle.run()), [0; 5]);

    let bundle = Bundle::new("sleep 100");
    bundle.start();
    assert_eq!(sets(&bundle.exec("grep Cap /proc/self/status")), [0, DOCKER, DOCKER, DOCKER, 0]);
    let other = bundle.succeed(&["exec", "-u", "1000:1000", &bundle.id, "grep", "Cap", "/proc/self/status"]);
    assert_eq!(sets(&other), [0, 0, 0, DOCKER, 0]);
}

#[test]
fn rt_15_groups_are_exactly_those_asked_for() {
    let mut bundle = Bundle::new("grep Groups /proc/self/status; id -u; id -g");
    bundle.config["process"]["user"] = json!({"uid": 33, "gid": 34, "additionalGids": [34, 77]});
    assert_eq!(bundle.run(), "Groups:\t34 77 \n33\n34\n");
    bundle.config["process"]["user"] = json!({"uid": 33, "gid": 34});
    assert_eq!(bundle.run(), "Groups:\t \n33\n34\n");
}

#[test]
fn rt_20_masked_and_read_only_paths_are_in_force() {
    let script = "for f in /proc/kcore /proc/keys /proc/timer_list /proc/interrupts; do
        [ -e $f ] && [ \"$(head -c 10 $f | wc -c)\" != 0 ] && echo READ $f; (echo 1 > $f) 2>/dev/null; done
        for d in /proc/acpi /proc/scsi /sys/firmware /sys/devices/virtual/powercap; do
        [ -d $d ] && [ -n \"$(ls -A $d)\" ] && echo LISTED $d; touch $d/x 2>/dev/null && echo MADE $d; done
        for f in /proc/sys/kernel/ostype /proc/sys/vm/swappiness /proc/sysrq-trigger /proc/irq/default_smp_affinity /proc/bus/x; do
        (echo 1 > $f) 2>/dev/null && echo WROTE $f; done; echo end";
    let bundle = Bundle::new(script);
    assert_eq!(bundle.run(), "end\n");
    let bundle = Bundle::new("sleep 100");
    bundle.start();
    assert_eq!(bundle.exec(script), "end\n");
}

#[test]
fn rt_21_parameters_of_the_host_cannot_be_set() {
    let mut bundle = Bundle::new("cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/msgmax");
    bundle.config["linux"]["sysctl"] =
        json!({"net.ipv4.ip_unprivileged_port_start": "7", "kernel.msgmax": "9000"});
    assert_eq!(bundle.run(), "7\n9000\n");
    for key in ["kernel.core_pattern", "vm.swappiness", "net/../kernel/core_pattern", "kernel.msgmax "] {
        bundle.config["linux"]["sysctl"] = json!({key: "1"});
        assert!(bundle.run_fails().contains("sysctl"), "{key}");
    }
    bundle.config["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1"});
    bundle.config["linux"]["namespaces"].as_array_mut().unwrap().retain(|n| n["type"] != "network");
    assert!(bundle.run_fails().contains("host's network namespace"));
}

#[test]
fn rt_23_large_configurations_end_well() {
    let mut bundle = Bundle::new("env | wc -c");
    // One string may have 128 KiB, all together much more.
    let environment: Vec<String> = (0..10).map(|n| format!("V{n}={}", "x".repeat(100_000))).collect();
    bundle.config["process"]["env"].as_array_mut().unwrap().extend(environment.iter().map(|e| json!(e)));
    assert!(bundle.run().trim().parse::<usize>().unwrap() > 1_000_000);
    bundle.config["process"]["env"] = json!([format!("V={}", "x".repeat(1 << 20))]);
    let error = bundle.run_fails();
    assert!(
        error.contains("executable file not found") || error.contains("argument list too long"),
        "{error}"
    );

    let mut bundle = Bundle::new("true");
    bundle.config["mounts"].as_array_mut().unwrap().push(json!({
        "destination": format!("/{}", "d/".repeat(3000)), "type": "tmpfs", "source": "tmpfs"}));
    assert!(bundle.run_fails().to_lowercase().contains("name too long"));

    let mut bundle = Bundle::new("true");
    bundle.config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
    let maps: Vec<_> = (0..100_000).map(|n| json!({"containerID": n, "hostID": n, "size": 1})).collect();
    bundle.config["linux"]["uidMappings"] = json!(maps);
    bundle.config["linux"]["gidMappings"] = json!(maps);
    assert!(bundle.run_fails().contains("uid_map"));
}

#[test]
fn rt_25_ids_never_become_other_paths() {
    let bundle = Bundle::new("true");
    let canary = bundle.path().join("canary");
    let long = "x".repeat(5000);
    for id in ["..", "../canary", "a/b", "", "./x", &long] {
        for command in ["create", "run", "state", "start", "kill", "delete", "pause", "ps"] {
            let error = bundle.fail(&[command, id]);
            assert!(error.contains("container id"), "{command} {id:?}: {error}");
        }
        bundle.fail(&["exec", id, "true"]);
        bundle.fail(&["delete", "--force", id]);
    }
    assert!(canary.join("file").exists());
}

#[test]
fn mounts_have_the_attributes_asked_for() {
    let mut bundle = Bundle::new(
        "touch /ro/x 2>/dev/null || echo read-only; touch /rw/x && echo written
        grep -E ' /(ro|rw|t) ' /proc/self/mountinfo | sed -E 's/.* (\\/(ro|rw|t)) ([^ ]*).*/\\1 \\3/'; stat -c %a /t",
    );
    std::fs::create_dir(bundle.path().join("volume")).unwrap();
    let volume = bundle.path().join("volume");
    bundle.mount(&volume, "/ro", "bind", &["rbind", "ro", "noexec", "rprivate"]);
    bundle.mount(&volume, "/rw", "bind", &["rbind", "rw", "nosuid", "noatime"]);
    bundle.mount("tmpfs", "/t", "tmpfs", &["mode=1770", "size=16k", "ro", "nodev"]);
    let output = bundle.run();
    let lines: Vec<_> = output.lines().collect();
    assert_eq!(lines[..2], ["read-only", "written"]);
    assert!(output.contains("/ro ro,noexec,relatime"), "{output}");
    assert!(output.contains("/rw rw,nosuid,noatime"), "{output}");
    assert!(output.contains("/t ro,nodev,relatime"), "{output}");
    assert!(output.ends_with("1770\n"));
    assert!(volume.join("x").exists());
}

#[test]
fn a_tmpfs_can_begin_with_what_it_covers() {
    let mut bundle = Bundle::new("cat /data/sub/file; readlink /data/link; echo new > /data/sub/file");
    std::fs::create_dir(bundle.root().join("data/sub")).unwrap();
    std::fs::write(bundle.root().join("data/sub/file"), "old\n").unwrap();
    std::os::unix::fs::symlink("/etc/passwd", bundle.root().join("data/link")).unwrap();
    bundle.mount("tmpfs", "/data", "tmpfs", &["tmpcopyup"]);
    assert_eq!(bundle.run(), "old\n/etc/passwd\n");
    assert_eq!(std::fs::read_to_string(bundle.root().join("data/sub/file")).unwrap(), "old\n");
}

#[test]
fn a_read_only_root_cannot_be_written() {
    let mut bundle = Bundle::new(
        "touch /x 2>/dev/null || echo read-only; touch /tmp/x 2>/dev/null; echo y > /dev/shm/x && echo shm",
    );
    bundle.config["root"]["readonly"] = json!(true);
    assert_eq!(bundle.run(), "read-only\nshm\n");
}

#[test]
fn namespaces_are_new_or_joined() {
    let first = Bundle::new("sleep 100");
    let pid = first.start();
    let own = |name: &str| std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
    let of = |name: &str| std::fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap();
    for name in ["mnt", "net", "uts", "pid", "ipc", "cgroup"] {
        assert_ne!(own(name), of(name), "{name}");
    }
    assert_eq!(own("user"), of("user"));
    let mut second = Bundle::new(
        "readlink /proc/self/ns/net; readlink /proc/self/ns/ipc; ps | grep -c 'sleep 100'; echo $$",
    );
    for namespace in second.config["linux"]["namespaces"].as_array_mut().unwrap() {
        let file = match namespace["type"].as_str().unwrap() {
            "network" => "net",
            "ipc" => "ipc",
            "pid" => "pid",
            _ => continue,
        };
        namespace["path"] = json!(format!("/proc/{pid}/ns/{file}"));
    }
    let output = second.run();
    let lines: Vec<_> = output.lines().collect();
    assert_eq!(lines[0], of("net").to_str().unwrap());
    assert_eq!(lines[1], of("ipc").to_str().unwrap());
    assert_ne!(lines[3], "1");
    // A path that is not a namespace, or not this one.
    for path in ["/etc/passwd".to_owned(), format!("/proc/{pid}/ns/uts")] {
        second.config["linux"]["namespaces"][1]["path"] = json!(path);
        second.run_fails();
    }
}

#[test]
fn a_user_namespace_maps_its_root() {
    let mut bundle = Bundle::new(
        "id -u; cat /proc/self/uid_map; touch /tmp/made; test -c /dev/null && echo device; echo x > /dev/null",
    );
    let root = bundle.root();
    std::os::unix::fs::chown(root.join("tmp"), Some(100_000), Some(100_000)).unwrap();
    for name in ["", "proc", "sys", "dev"] {
        std::os::unix::fs::chown(root.join(name), Some(100_000), Some(100_000)).unwrap();
    }
    bundle.config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    bundle.config["linux"]["uidMappings"] = map.clone();
    bundle.config["linux"]["gidMappings"] = map;
    let output = bundle.run();
    assert_eq!(output.split_whitespace().collect::<Vec<_>>(), ["0", "0", "100000", "65536", "device"]);
    let made = std::fs::metadata(bundle.root().join("tmp/made")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&made), 100_000);
}

#[test]
fn limits_of_the_process_can_be_lowered() {
    let mut bundle = Bundle::new(
        "grep -E 'Max (open files|processes)' /proc/self/limits; grep NoNewPrivs /proc/self/status; stat -c %a /proc/self/fd/0 >/dev/null; cat /proc/self/oom_score_adj; sh -c 'umask'",
    );
    bundle.config["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}]);
    bundle.config["process"]["noNewPrivileges"] = json!(true);
    bundle.config["process"]["oomScoreAdj"] = json!(333);
    let output = bundle.run();
    let words: Vec<_> = output.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).collect();
    assert_eq!(words[1][3..5], ["100", "200"], "{output}");
    assert_eq!(words[2], ["NoNewPrivs:", "1"]);
    assert_eq!(words[3], ["333"]);
    assert_eq!(words[4], ["0022"]);
}

#[test]
fn a_filter_of_the_configuration_is_in_force() {
    for quiet in [false, true] {
        let mut bundle = Bundle::new("mkdir /tmp/x 2>&1; grep Seccomp: /proc/self/status");
        bundle.config["process"]["noNewPrivileges"] = json!(quiet);
        bundle.config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}]});
        assert_eq!(
            bundle.run(),
            "mkdir: can't create directory '/tmp/x': No space left on device\nSeccomp:\t2\n"
        );
    }
}

#[test]
fn exec_works_under_filters_that_forbid_what_we_need() {
    for quiet in [false, true] {
        let mut bundle = Bundle::new("sleep 100");
        bundle.config["process"]["noNewPrivileges"] = json!(quiet);
        bundle.config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            {"names": ["setsid", "clone3"], "action": "SCMP_ACT_ERRNO"}]});
        bundle.start();
        let grep = ["exec", &bundle.id, "grep", "Seccomp:", "/proc/self/status"];
        assert_eq!(bundle.succeed(&grep), "Seccomp:\t2\n");
        assert!(bundle.fail(&["exec", &bundle.id, "nope"]).contains("executable file not found"));
    }
}

#[test]
fn an_execution_domain_is_set() {
    let mut bundle = Bundle::new("cat /proc/self/personality");
    bundle.config["linux"]["personality"] = json!({"domain": "LINUX32"});
    assert_eq!(bundle.run(), "00000008\n");
}
