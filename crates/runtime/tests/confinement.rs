//! Attacks of images and of other containers on the setting up of a container. The numbers are those of the project's
//! list of attacks.
#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use serde_json::json;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use support::Bundle;

/// The host's mounts, without the layers of engines that run beside this test.
fn host_mounts() -> String {
    let all = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    all.lines()
        .filter(|line| !line.contains(" - erofs ") && !line.contains("/wt-"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// Exchanges a directory and a link to `target` at `place` for as long as `code` runs.
fn with_swap(place: &Path, target: &Path, code: impl FnOnce()) {
    let other = place.with_extension("swap");
    std::fs::create_dir_all(place).unwrap();
    symlink(target, &other).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let exchange = rustix::fs::RenameFlags::EXCHANGE;
                rustix::fs::renameat_with(rustix::fs::CWD, place, rustix::fs::CWD, &other, exchange).unwrap();
            }
        });
        code();
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn rt_01_nobody_can_write_to_the_runtime() {
    let mut bundle = Bundle::new("");
    // The container's command is whatever executes it.
    symlink("/proc/self/exe", bundle.root().join("bin/evil")).unwrap();
    bundle.config["process"]["args"] = json!(["evil", "--version"]);
    let before = std::fs::metadata(env!("CARGO_BIN_EXE_wharf-runtime")).unwrap();
    let _ = bundle.call(&["run", &bundle.id]);
    bundle.config["process"]["args"] = json!(["sh", "-c", "sleep 100"]);
    bundle.start();
    let script = "for i in $(seq 30); do for p in /proc/[0-9]*; do if [ -e $p/exe ]; then
        case $(readlink $p/exe) in /bin/busybox) ;; *) (: >> $p/exe) 2>/dev/null && echo WRITABLE $p;; esac; fi; done; done; echo end";
    let mut attacker = bundle.command(&["exec", &bundle.id, "sh", "-c", script]);
    let attacker = attacker.stdout(std::process::Stdio::piped()).spawn().unwrap();
    for _ in 0..20 {
        bundle.exec("true");
    }
    let output = attacker.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "end\n");
    let after = std::fs::metadata(env!("CARGO_BIN_EXE_wharf-runtime")).unwrap();
    assert_eq!((before.len(), before.mtime_nsec()), (after.len(), after.mtime_nsec()));
}

#[test]
fn rt_02_no_descriptor_and_no_directory_of_the_host_leaks() {
    let mut bundle = Bundle::new("for f in /proc/self/fd/*; do basename $f; done");
    let leaks: Vec<_> = (0..20)
        .map(|_| {
            let file = std::fs::File::open("/").unwrap();
            rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::empty()).unwrap();
            file
        })
        .collect();
    let listed = bundle.run();
    // The shell itself holds the directory it lists.
    let numbers: Vec<u32> = listed.lines().filter_map(|line| line.parse().ok()).collect();
    assert!(numbers.iter().filter(|n| **n > 2).count() <= 1, "{listed}");
    for number in (3..20).chain([63, 64]) {
        bundle.config["process"]["cwd"] = json!(format!("/proc/self/fd/{number}"));
        assert!(bundle.run_fails().contains("chdir to cwd"), "{number}");
    }
    symlink("/proc/self/fd/7", bundle.root().join("way")).unwrap();
    bundle.config["process"]["cwd"] = json!("/way");
    assert!(bundle.run_fails().contains("chdir to cwd"));
    drop(leaks);
}

#[test]
fn rt_02_exec_leaks_nothing_either() {
    let bundle = Bundle::new("sleep 100");
    bundle.start();
    let _leak = {
        let file = std::fs::File::open("/").unwrap();
        rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::empty()).unwrap();
        file
    };
    let listed = bundle.exec("ls -l /proc/self/fd");
    assert!(listed.lines().filter(|line| line.contains(" -> ")).count() <= 4, "{listed}");
    for number in 3..20 {
        let cwd = format!("/proc/self/fd/{number}");
        assert!(bundle.fail(&["exec", "--cwd", &cwd, &bundle.id, "true"]).contains("chdir to cwd"));
    }
}

#[test]
fn rt_03_joining_processes_show_nothing_of_the_host() {
    let mut bundle = Bundle::new("sleep 100");
    for set in ["bounding", "effective", "permitted"] {
        let list = bundle.config["process"]["capabilities"][set].as_array_mut().unwrap();
        list.push(json!("CAP_SYS_PTRACE"));
    }
    bundle.start();
    // Whatever appears in the container's process list: its rights and its root must be the container's, its descriptors not
    // directories or files of the host.
    let script = "root=$(stat -c %d:%i /); for i in $(seq 40); do for p in /proc/[0-9]*; do
        c=$(grep CapEff $p/status 2>/dev/null) && case $c in *00000000a80c25fb) ;; *) echo CAP $p $c;; esac
        r=$(stat -L -c %d:%i $p/root 2>/dev/null) && [ $r != $root ] && echo ROOT $p $r
        for f in $p/fd/*; do l=$(readlink $f 2>/dev/null) && case $l in /proc/*|/dev/*|/bin/*|pipe:*|socket:*|anon_inode:*) ;;
        *) [ -d $f ] && echo DIR $p $l;; esac; done; done; done; echo end";
    let mut watcher = bundle.command(&["exec", &bundle.id, "sh", "-c", script]);
    let watcher = watcher.stdout(std::process::Stdio::piped()).spawn().unwrap();
    for _ in 0..20 {
        bundle.exec("true");
    }
    let output = watcher.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "end\n");
}

#[test]
fn rt_04_a_target_that_changes_under_us_stays_inside() {
    let shared = tempfile::tempdir().unwrap();
    let mut bundle = Bundle::new("grep -c ' /data' /proc/self/mountinfo");
    std::fs::create_dir(bundle.path().join("inner")).unwrap();
    bundle.mount(shared.path(), "/data", "bind", &["rbind"]);
    bundle.mount(bundle.path().join("inner"), "/data/x/y", "bind", &["rbind"]);
    let before = host_mounts();
    let canary = bundle.canary();
    with_swap(&shared.path().join("x"), &canary, || {
        for _ in 0..25 {
            // It may fail, because what the link names is not there inside; it may never work on the host's.
            let _ = bundle.call(&["run", &bundle.id]);
        }
    });
    bundle.check_canary();
    let ours = |mounts: &str| mounts.lines().filter(|l| l.contains(bundle.path().to_str().unwrap())).count();
    assert_eq!(ours(&before), ours(&host_mounts()));
}

#[test]
fn rt_05_masks_are_made_of_the_null_device_alone() {
    for (name, target) in [("a link", "/proc/sys/kernel/domainname"), ("a file", "")] {
        let mut bundle = Bundle::new("cat /proc/keys; echo x > /proc/keys; echo over");
        // Without a tmpfs at /dev the image's own directory is used.
        bundle.config["mounts"]
            .as_array_mut()
            .unwrap()
            .retain(|m| !m["destination"].as_str().unwrap().starts_with("/dev"));
        let null = bundle.root().join("dev/null");
        match target {
            "" => std::fs::write(&null, "").unwrap(),
            target => symlink(target, &null).unwrap(),
        }
        let error = bundle.run_fails();
        assert!(error.contains("/dev/null"), "{name}: {error}");
    }
}

#[test]
fn rt_06_the_console_is_not_taken_through_the_image() {
    let mut bundle = Bundle::new("true");
    bundle.config["process"]["terminal"] = json!(true);
    let devices = |bundle: &mut Bundle| {
        bundle.config["mounts"].as_array_mut().unwrap().retain(|m| {
            let destination = m["destination"].as_str().unwrap();
            destination != "/dev" && destination != "/dev/shm" && destination != "/dev/mqueue"
        });
    };
    devices(&mut bundle);
    symlink(bundle.canary().join("made"), bundle.root().join("dev/console")).unwrap();
    // The link's target does not exist inside: it is made inside or refused, and never on the host.
    let _ = bundle.call(&["run", &bundle.id]);
    bundle.check_canary();
    let mut bundle = Bundle::new("true");
    bundle.config["process"]["terminal"] = json!(true);
    devices(&mut bundle);
    std::fs::remove_file(bundle.root().join("dev/pts")).ok();
    symlink(bundle.canary(), bundle.root().join("dev/pts")).unwrap();
    let _ = bundle.call(&["run", &bundle.id]);
    bundle.check_canary();
}

#[test]
fn rt_07_nothing_is_mounted_over_proc() {
    let own = std::fs::read_to_string("/proc/sys/kernel/ostype").unwrap();
    for target in [
        "/proc",
        "/proc/self",
        "/proc/self/attr",
        "/proc/sys",
        "/proc/sys/kernel",
        "/x/../proc/1",
        "/link/sys",
    ] {
        for (kind, options) in [("tmpfs", vec![]), ("bind", vec!["rbind"])] {
            let mut bundle = Bundle::new("true");
            symlink("/proc", bundle.root().join("link")).unwrap();
            let source = bundle.canary();
            bundle.mount(source, target, kind, &options);
            let error = bundle.run_fails();
            assert!(error.contains("cannot be mounted over"), "{target} {kind}: {error}");
            bundle.check_canary();
        }
    }
    // Before the procfs mount it is refused as well.
    let mut bundle = Bundle::new("true");
    let canary = bundle.canary();
    let early = json!({"destination": "/proc", "type": "bind", "source": canary, "options": ["rbind"]});
    bundle.config["mounts"].as_array_mut().unwrap().insert(0, early);
    assert!(bundle.run_fails().contains("cannot be mounted over"));
    bundle.check_canary();
    assert_eq!(own, std::fs::read_to_string("/proc/sys/kernel/ostype").unwrap());
    // What lxcfs covers is allowed.
    let mut bundle = Bundle::new("cat /proc/uptime");
    let file = bundle.canary().join("file");
    bundle.mount(file, "/proc/uptime", "bind", &["bind", "ro"]);
    assert_eq!(bundle.run(), "canary");
}

#[test]
fn rt_08_links_in_place_of_dev_proc_and_sys() {
    for name in ["dev", "proc", "sys"] {
        for style in ["absolute", "relative", "chained"] {
            let bundle = Bundle::new("true");
            std::fs::write(bundle.canary().join("file"), "canary").unwrap();
            std::fs::remove_dir_all(bundle.root().join(name)).unwrap();
            let place = bundle.root().join(name);
            match style {
                "absolute" => symlink(bundle.canary(), &place).unwrap(),
                "relative" => symlink("../canary", &place).unwrap(),
                _ => {
                    symlink("/chain", &place).unwrap();
                    symlink("../canary", bundle.root().join("chain")).unwrap();
                }
            }
            let _ = bundle.call(&["run", &bundle.id]);
            bundle.check_canary();
        }
    }
}

#[test]
fn rt_09_the_hosts_devices_keep_their_owner() {
    let before = std::fs::metadata("/dev/null").unwrap();
    let mut bundle = Bundle::new("true");
    bundle.config["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    let target = bundle.canary().join("file");
    bundle.mount(&target, "/tmp/null", "bind", &["bind"]);
    bundle.run();
    let after = std::fs::metadata("/dev/null").unwrap();
    assert_eq!((after.uid(), after.gid(), after.mode()), (before.uid(), before.gid(), before.mode()));
    assert_eq!(std::fs::metadata(&target).unwrap().uid(), 0);
    bundle.check_canary();
}

#[test]
fn rt_10_mount_points_are_made_inside() {
    let mut bundle = Bundle::new("ls /made/a/b");
    symlink(bundle.canary(), bundle.root().join("way")).unwrap();
    let canary = bundle.canary();
    bundle.mount(&canary, "/made/a/b", "bind", &["rbind", "ro"]);
    bundle.mount("tmpfs", "/way/new/dir", "tmpfs", &[]);
    assert_eq!(bundle.run(), "file\n");
    bundle.check_canary();
    // A dangling link is made where it leads inside.
    assert!(bundle.root().join(bundle.canary().strip_prefix("/").unwrap()).join("new/dir").is_dir());

    let shared = tempfile::tempdir().unwrap();
    let mut bundle = Bundle::new("true");
    bundle.mount(shared.path(), "/data", "bind", &["rbind"]);
    bundle.mount("tmpfs", "/data/x/deep/er", "tmpfs", &[]);
    let canary = bundle.canary();
    with_swap(&shared.path().join("x"), &canary, || {
        for _ in 0..25 {
            let _ = bundle.call(&["run", &bundle.id]);
        }
    });
    bundle.check_canary();
}

#[test]
fn rt_18_links_for_generated_files_stay_inside() {
    for name in ["etc/hosts", "etc"] {
        let mut bundle = Bundle::new("true");
        std::fs::remove_dir_all(bundle.root().join("etc")).unwrap();
        if name == "etc" {
            symlink(bundle.canary(), bundle.root().join("etc")).unwrap();
        } else {
            std::fs::create_dir(bundle.root().join("etc")).unwrap();
            symlink(bundle.canary().join("file"), bundle.root().join("etc/hosts")).unwrap();
        }
        let hosts = bundle.path().join("hosts");
        std::fs::write(&hosts, "127.0.0.1 localhost\n").unwrap();
        bundle.mount(&hosts, "/etc/hosts", "bind", &["rbind", "rprivate"]);
        bundle.run();
        bundle.check_canary();
    }
}

#[test]
fn rt_26_no_mount_reaches_the_host() {
    let before = host_mounts();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut bundle = Bundle::new("mount | wc -l");
                for number in 0..25 {
                    bundle.mount("tmpfs", &format!("/mnt/{number}"), "tmpfs", &["size=4k"]);
                    let canary = bundle.canary();
                    bundle.mount(canary, &format!("/bind/{number}"), "bind", &["rbind", "rprivate"]);
                }
                for _ in 0..5 {
                    assert!(bundle.run().trim().parse::<u32>().unwrap() > 50);
                    // Killed at some point of its start.
                    let mut child = bundle
                        .command(&["run", &bundle.id])
                        .stdout(std::process::Stdio::null())
                        .spawn()
                        .unwrap();
                    child.kill().unwrap();
                    child.wait().unwrap();
                    bundle.succeed(&["delete", "--force", &bundle.id]);
                }
            });
        }
    });
    assert_eq!(before, host_mounts());
}
