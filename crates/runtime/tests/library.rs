//! The library's own interface: overlay roots, users by name, `--init`, the built-in filter, exec, terminals, undoing.
//!
//! The library clones its caller, which must have one thread: the tests run one after the other in this one.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test program")]

mod support;

use serde_json::json;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use support::Bundle;
use wharf_linux::process::{self, Ended};
use wharf_runtime::spec::{Process, Spec};
use wharf_runtime::{
    CreateRequest, Error, ExecRequest, Rootfs, Running, Seccomp, Starting, Stdio, create, exec,
};

/// A bundle whose root file system is the upper layer's view of its `rootfs`.
struct Box {
    bundle: Bundle,
    spec: Spec,
    lower: [String; 2],
    mountpoint: PathBuf,
    user: Option<&'static str>,
    groups: Vec<String>,
    create_cwd: bool,
    init: bool,
    terminal: bool,
}

impl Box {
    fn new(script: &str) -> Self {
        let bundle = Bundle::new(script);
        for name in ["empty", "upper", "work", "mnt"] {
            std::fs::create_dir(bundle.path().join(name)).unwrap();
        }
        let spec = serde_json::from_value(bundle.config.clone()).unwrap();
        let mountpoint = bundle.path().join("mnt");
        let lower = ["empty".into(), "rootfs".into()];
        let (user, groups) = (None, Vec::new());
        Self {
            bundle,
            spec,
            lower,
            mountpoint,
            user,
            groups,
            create_cwd: false,
            init: false,
            terminal: false,
        }
    }

    fn process(&mut self, change: impl FnOnce(&mut Process)) {
        let mut process = self.spec.process().clone().unwrap();
        change(&mut process);
        self.spec.set_process(Some(process));
    }

    /// Creates the container with its output going to the file that is given back.
    fn create(&self) -> (Result<Starting, Error>, File) {
        let (reader, writer) = std::io::pipe().unwrap();
        let null = || OwnedFd::from(File::open("/dev/null").unwrap());
        let stdio = if self.terminal {
            Stdio::Terminal { rows: 20, cols: 70 }
        } else {
            Stdio::Fds([null(), writer.try_clone().unwrap().into(), writer.into()])
        };
        let starting = create(CreateRequest {
            id: &self.bundle.id,
            bundle: self.bundle.path(),
            spec: &self.spec,
            rootfs: Rootfs::Overlay {
                base: self.bundle.path(),
                lower: &self.lower,
                upper: "upper",
                work: "work",
                mountpoint: &self.mountpoint,
            },
            stdio,
            seccomp: Seccomp::DockerDefault,
            user: self.user,
            groups: &self.groups,
            create_cwd: self.create_cwd,
            default_home: true,
            init: self.init,
            die_with_caller: true,
            preserve_fds: 0,
        });
        (starting, OwnedFd::from(reader).into())
    }

    fn start(&self) -> Result<(Running, File), Error> {
        let (starting, output) = self.create();
        Ok((starting?.start()?, output))
    }

    /// Runs the container; its output and end.
    fn run(&self) -> Result<(String, Ended), Error> {
        let (running, mut output) = self.start()?;
        let mut text = String::new();
        output.read_to_string(&mut text).unwrap();
        let ended = process::wait(running.pidfd.as_fd()).unwrap();
        running.cgroup.kill_all().unwrap();
        running.cgroup.delete().unwrap();
        Ok((text, ended))
    }

    fn output(&self) -> String {
        self.run().unwrap().0
    }

    fn refusal(&self) -> String {
        let error = self.run().unwrap_err().to_string();
        assert!(!self.bundle.cgroup("memory").exists());
        error
    }
}

/// The host's mounts, without the layers of engines that run beside this test.
fn host_mounts() -> String {
    let all = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    all.lines()
        .filter(|line| !line.contains(" - erofs ") && !line.contains("/wt-"))
        .collect::<Vec<_>>()
        .join("\n")
}

fn an_overlay_is_the_root_and_stays_in_its_namespace() {
    let before = host_mounts();
    let one = Box::new("echo new > /data/file; cat /data/file; grep -c overlay /proc/self/mountinfo");
    assert_eq!(one.output(), "new\n1\n");
    assert!(
        one.bundle.path().join("upper/data/file").exists() && !one.bundle.root().join("data/file").exists()
    );
    assert_eq!(std::fs::read_dir(&one.mountpoint).unwrap().count(), 0);
    assert_eq!(before, host_mounts());
}

fn rt_16_users_are_resolved_in_the_container() {
    let mut one = Box::new("id -u; id -g; id -G; echo $HOME");
    std::fs::write(
        one.bundle.root().join("etc/passwd"),
        "root:x:0:0::/root:\n1:x:0:0::/evil:\n1000:x:0:0::/evil:\n-1:x:0:0::/evil:\n+1:x:0:0::/evil:\n 1:x:0:0::/evil:\n\
         4294967296:x:0:0::/evil:\n١:x:0:0::/evil:\nwww:x:33:34::/var/www:\nwrap:x:4294967296:0::/evil:\n",
    )
    .unwrap();
    let cases = [
        ("", "0 0 0 10 /root"),
        ("0", "0 0 0 10 /root"),
        ("1", "1 0 0 /"),
        ("1:2", "1 2 2 /"),
        ("00", "0 0 0 10 /root"),
        ("1000", "1000 0 0 /"),
        ("2147483647", "2147483647 0 0 /"),
        ("www", "33 34 34 10 /var/www"),
        ("33", "33 34 34 10 /var/www"),
        ("www:extra", "33 77 77 /var/www"),
        ("www:5", "33 5 5 /var/www"),
        (":5", "0 5 5 /root"),
    ];
    for (user, expected) in cases {
        one.user = Some(user);
        assert_eq!(one.output().split_whitespace().collect::<Vec<_>>().join(" "), expected, "{user:?}");
    }
    for user in [
        "-1",
        "+1",
        " 1",
        "2147483648",
        "4294967295",
        "4294967296",
        "١",
        "1:-1",
        "1:4294967296",
        "wrap",
        "www: 5",
    ] {
        one.user = Some(user);
        assert!(matches!(one.run(), Err(Error::User { .. })), "{user:?}");
    }
    one.user = Some("nobody");
    assert_eq!(one.refusal(), "unable to find user nobody: no matching entries in passwd file");
    one.user = Some("www:nogroup");
    assert_eq!(one.refusal(), "unable to find group nogroup: no matching entries in group file");
    one.user = Some("www");
    one.groups = vec!["extra".into(), "99".into()];
    assert_eq!(one.output().split_whitespace().collect::<Vec<_>>().join(" "), "33 34 34 10 77 99 /var/www");
}

fn rt_17_special_and_huge_user_files_are_refused_at_once() {
    let passwd = |one: &Box| one.bundle.root().join("etc/passwd");
    type Make = fn(PathBuf);
    let makes: [(&str, Make); 5] = [
        ("sparse", |path| File::create(path).unwrap().set_len(4 << 30).unwrap()),
        ("fifo", |path| {
            rustix::fs::mknodat(
                rustix::fs::CWD,
                &path,
                rustix::fs::FileType::Fifo,
                rustix::fs::Mode::RWXU,
                0,
            )
            .unwrap();
        }),
        ("zero", |path| std::os::unix::fs::symlink("/dev/zero", path).unwrap()),
        ("proc", |path| std::os::unix::fs::symlink("/proc/self/fd/0", path).unwrap()),
        ("directory", |path| std::fs::create_dir(path).unwrap()),
    ];
    for (name, make) in makes {
        let mut one = Box::new("true");
        std::fs::remove_file(passwd(&one)).unwrap();
        make(passwd(&one));
        one.user = Some("www");
        let started = Instant::now();
        assert!(one.refusal().contains("passwd"), "{name}");
        // Not a measurement: a reader that follows the file would take minutes or never end.
        assert!(started.elapsed() < Duration::from_secs(20), "{name}");
    }
}

fn en_11_working_directories_are_made_inside() {
    let mut one = Box::new("pwd");
    std::os::unix::fs::symlink(one.bundle.canary(), one.bundle.root().join("w")).unwrap();
    one.process(|p| {
        p.set_cwd("/w/sub/dir".into());
    });
    assert!(matches!(one.run(), Err(Error::WorkingDirectory { .. })));
    one.create_cwd = true;
    assert!(one.output().ends_with("sub/dir\n"));
    one.bundle.check_canary();
    one.process(|p| {
        p.set_cwd("/etc/passwd".into());
    });
    assert!(matches!(one.run(), Err(Error::WorkingDirectory { .. })));
}

fn init_reaps_forwards_and_ends_as_the_command() {
    let mut one = Box::new(
        "echo $$; readlink /proc/1/exe | grep -c busybox; cat /proc/1/cmdline | tr '\\0' ' '; sh -c 'sleep 0.1 &'; exit 5",
    );
    one.init = true;
    let (text, ended) = one.run().unwrap();
    let lines: Vec<_> = text.lines().collect();
    assert_ne!(lines[0], "1");
    assert_eq!(lines[1], "0");
    assert!(lines[2].starts_with("init "), "{text}");
    assert_eq!(ended, Ended::Exited(5));

    let mut one = Box::new("trap 'echo term; exit 3' TERM; echo ready; while :; do sleep 0.05; done");
    one.init = true;
    let (running, mut output) = one.start().unwrap();
    let mut word = [0; 6];
    output.read_exact(&mut word).unwrap();
    process::signal(running.pidfd.as_fd(), 15).unwrap();
    let mut rest = String::new();
    output.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "term\n");
    assert_eq!(process::wait(running.pidfd.as_fd()).unwrap(), Ended::Exited(3));
    running.cgroup.delete().unwrap();

    let mut one = Box::new("kill -9 $$");
    one.init = true;
    assert_eq!(one.run().unwrap().1, Ended::Exited(137));
    one.process(|p| {
        p.set_args(Some(vec!["nope".into()]));
    });
    assert!(matches!(one.run(), Err(Error::CommandNotFound { .. })));
}

fn rt_19_the_built_in_filter_is_in_force() {
    let one = Box::new(
        "grep Seccomp: /proc/self/status; mount -t tmpfs x /tmp 2>&1; unshare -U true 2>&1; echo end",
    );
    let text = one.output();
    assert!(text.contains("Seccomp:\t2") && text.contains("end"), "{text}");
    assert!(text.contains("permission denied") && text.contains("Operation not permitted"), "{text}");
}

fn exec_in(
    running: &Running,
    one: &Box,
    process: &Process,
    user: Option<&str>,
    terminal: bool,
) -> Result<(wharf_runtime::ExecChild, File), Error> {
    let (reader, writer) = std::io::pipe().unwrap();
    let stdio = if terminal {
        Stdio::Terminal { rows: 33, cols: 44 }
    } else {
        let null = OwnedFd::from(File::open("/dev/null").unwrap());
        Stdio::Fds([null, writer.try_clone().unwrap().into(), writer.into()])
    };
    let child = exec(ExecRequest {
        init_pid: running.pid,
        init_pidfd: running.pidfd.as_fd(),
        spec: &one.spec,
        process,
        stdio,
        seccomp: Seccomp::DockerDefault,
        user,
        groups: &[],
        default_home: true,
        preserve_fds: 0,
    })?;
    Ok((child, OwnedFd::from(reader).into()))
}

fn exec_is_a_child_of_the_caller_and_confined() {
    let one = Box::new("sleep 100");
    let (running, _output) = one.start().unwrap();
    let mut process = one.spec.process().clone().unwrap();
    let script = "id -u; echo $HOME; grep -c . /proc/1/cmdline; grep Seccomp: /proc/self/status; exit 4";
    process.set_args(Some(vec!["sh".into(), "-c".into(), script.into()]));
    let (child, mut output) = exec_in(&running, &one, &process, Some("www"), false).unwrap();
    let mut text = String::new();
    output.read_to_string(&mut text).unwrap();
    assert_eq!(text, "33\n/var/www\n1\nSeccomp:\t2\n");
    assert_eq!(process::wait(child.pidfd.as_fd()).unwrap(), Ended::Exited(4));

    let (child, _) = exec_in(&running, &one, &process, None, true).unwrap();
    let mut terminal = File::from(child.console.unwrap());
    let mut seen = Vec::new();
    let mut buffer = [0; 512];
    // The end of a terminal is an error, EIO.
    while let Ok(length @ 1..) = terminal.read(&mut buffer) {
        seen.extend_from_slice(&buffer[..length]);
    }
    assert!(String::from_utf8_lossy(&seen).contains("/root"));
    assert_eq!(process::wait(child.pidfd.as_fd()).unwrap(), Ended::Exited(4));

    process.set_args(Some(vec!["nope".into()]));
    assert!(matches!(exec_in(&running, &one, &process, None, false), Err(Error::CommandNotFound { .. })));
    process.set_args(Some(vec!["true".into()]));
    assert!(matches!(exec_in(&running, &one, &process, Some("nobody"), false), Err(Error::User { .. })));

    running.cgroup.kill_all().unwrap();
    process::wait(running.pidfd.as_fd()).unwrap();
    assert!(exec_in(&running, &one, &process, None, false).is_err(), "it is gone");
    running.cgroup.delete().unwrap();
    assert!(
        matches!(process::reap_any(), Err(e) if e.raw_os_error() == Some(libc::ECHILD)),
        "no child is left"
    );
}

fn a_console_comes_before_the_start() {
    let mut one = Box::new("stty size; tty");
    one.terminal = true;
    one.process(|p| {
        p.set_terminal(Some(true));
    });
    let (starting, _) = one.create();
    let mut starting = starting.unwrap();
    starting.wait_ready().unwrap();
    let mut console = File::from(starting.take_console().unwrap());
    let running = starting.start().unwrap();
    let mut text = String::new();
    let mut buffer = [0; 512];
    while let Ok(length @ 1..) = console.read(&mut buffer) {
        text.push_str(&String::from_utf8_lossy(&buffer[..length]));
    }
    assert_eq!(text.replace('\r', ""), "20 70\n/dev/pts/0\n");
    process::wait(running.pidfd.as_fd()).unwrap();
    running.cgroup.delete().unwrap();
}

fn dropping_before_the_start_leaves_nothing() {
    let one = Box::new("sleep 100");
    let (starting, _output) = one.create();
    let starting = starting.unwrap();
    let pid = starting.pid();
    assert!(one.bundle.cgroup("memory").exists());
    assert!(starting.cgroup().pids().is_ok());
    // Its namespaces exist: that is what the engine wires its network with.
    assert_ne!(
        std::fs::read_link(format!("/proc/{pid}/ns/net")).unwrap(),
        std::fs::read_link("/proc/self/ns/net").unwrap()
    );
    drop(starting);
    assert!(!one.bundle.cgroup("memory").exists());
    assert!(matches!(process::reap_any(), Err(e) if e.raw_os_error() == Some(libc::ECHILD)));
    // Another container of the same id can follow.
    let (again, _output) = one.create();
    let mut again = again.unwrap();
    again.wait_ready().unwrap();
    drop(again);
    assert!(!one.bundle.cgroup("memory").exists());
}

fn a_killed_init_is_reported() {
    let mut one = Box::new("true");
    one.process(|p| {
        p.set_args(Some(vec!["sleep".into(), "1".into()]));
    });
    let (starting, _output) = one.create();
    let mut starting = starting.unwrap();
    process::signal(starting.pidfd(), libc::SIGKILL).unwrap();
    // It may have become ready just before.
    if starting.wait_ready().is_ok() {
        assert!(starting.start().is_ok());
        return;
    }
    drop(starting);
    assert!(!one.bundle.cgroup("memory").exists());
}

fn out_of_memory_is_counted() {
    let mut bundle = Box::new("head -c 100000000 /dev/zero | tail -c 90000000 > /dev/null; echo $?");
    bundle.bundle.config["linux"]["resources"]["memory"] = json!({"limit": 20_000_000, "swap": 20_000_000});
    bundle.bundle.config["process"]["args"] = json!(["sh", "-c", "exec busybox tail -c 90000000 /dev/zero"]);
    bundle.spec = serde_json::from_value(bundle.bundle.config.clone()).unwrap();
    let (running, _output) = bundle.start().unwrap();
    assert_eq!(process::wait(running.pidfd.as_fd()).unwrap(), Ended::Signaled(libc::SIGKILL));
    assert!(running.cgroup.oom_kills().unwrap() >= 1);
    let stats = running.cgroup.stats().unwrap();
    assert!(stats.cpu.usage_ns > 0 && stats.memory.max_usage > 10_000_000);
    running.cgroup.delete().unwrap();
}

fn main() {
    let tests: [(&str, fn()); 11] = [
        (
            "an_overlay_is_the_root_and_stays_in_its_namespace",
            an_overlay_is_the_root_and_stays_in_its_namespace,
        ),
        ("rt_16_users_are_resolved_in_the_container", rt_16_users_are_resolved_in_the_container),
        (
            "rt_17_special_and_huge_user_files_are_refused_at_once",
            rt_17_special_and_huge_user_files_are_refused_at_once,
        ),
        ("en_11_working_directories_are_made_inside", en_11_working_directories_are_made_inside),
        ("init_reaps_forwards_and_ends_as_the_command", init_reaps_forwards_and_ends_as_the_command),
        ("rt_19_the_built_in_filter_is_in_force", rt_19_the_built_in_filter_is_in_force),
        ("exec_is_a_child_of_the_caller_and_confined", exec_is_a_child_of_the_caller_and_confined),
        ("a_console_comes_before_the_start", a_console_comes_before_the_start),
        ("dropping_before_the_start_leaves_nothing", dropping_before_the_start_leaves_nothing),
        ("a_killed_init_is_reported", a_killed_init_is_reported),
        ("out_of_memory_is_counted", out_of_memory_is_counted),
    ];
    let (flags, wanted): (Vec<String>, Vec<String>) =
        std::env::args().skip(1).partition(|arg| arg.starts_with('-'));
    let flag = |name: &str| flags.iter().any(|flag| flag == name);
    if flag("--list") {
        // As cargo-nextest asks; none is ignored.
        tests.iter().filter(|_| !flag("--ignored")).for_each(|(name, _)| println!("{name}: test"));
        return;
    }
    let matches =
        |name: &str, w: &String| if flag("--exact") { name == w } else { name.contains(w.as_str()) };
    let chosen =
        tests.iter().filter(|(name, _)| wanted.is_empty() || wanted.iter().any(|w| matches(name, w)));
    let mut failed = 0;
    let mut passed = 0;
    for (name, test) in chosen {
        let ok = std::panic::catch_unwind(test).is_ok();
        println!("test {name} ... {}", if ok { "ok" } else { "FAILED" });
        if ok { passed += 1 } else { failed += 1 }
    }
    println!(
        "\ntest result: {}. {passed} passed; {failed} failed; 0 ignored; 0 measured; 0 filtered out",
        if failed == 0 { "ok" } else { "FAILED" }
    );
    std::process::exit(i32::from(failed > 0));
}
