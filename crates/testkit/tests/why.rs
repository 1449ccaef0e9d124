//! `wharf why` tells the cause, with evidence, of every way in which a run ends or does not begin.

use std::path::PathBuf;

use serde_json::Value;
use wharf_testkit::{Cli, Engine, PATIENCE, image, wait_until};

struct Case {
    engine: Engine,
    wharf: Cli,
}

impl Case {
    fn new() -> Self {
        let engine = Engine::with_image();
        let wharf = engine.wharf();
        Self { engine, wharf }
    }

    /// The last ending of a container.
    #[track_caller]
    fn why(&self, name: &str) -> Value {
        let text = self.wharf.ok(&["why", "--format", "json", name]);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// Asserts the kind and that the sentence and the evidence have these words.
    #[track_caller]
    fn is(&self, name: &str, kind: &str, words: &[&str]) {
        let ending = self.why(name);
        assert_eq!(ending["Kind"], kind, "{ending:#}");
        let text = ending.to_string();
        for word in words {
            assert!(text.contains(word), "{word:?} is not in {ending:#}");
        }
        let shown = self.wharf.ok(&["why", name]);
        assert!(shown.contains(ending["Cause"].as_str().unwrap_or("?")), "{shown}");
    }

    fn wait_for_end(&self, name: &str) {
        self.wharf.ok(&["wait", name]);
    }

    /// An image with one file in it besides the usual ones.
    fn image_with(&self, name: &str, path: &str, mode: u32, content: &[u8]) {
        let mut layer = image::Tar::new();
        layer.file(path, mode, content);
        self.engine.load(&image::Builder::new(name, image::rootfs()).layer(layer.finish()).build());
    }

    fn pid(&self, name: &str) -> i32 {
        self.wharf.ok(&["inspect", "-f", "{{.State.Pid}}", name]).parse().expect("a number")
    }
}

fn kill(pid: i32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(pid).expect("a process");
    rustix::process::kill_process(pid, signal).expect("it is there");
}

/// An ELF header for `machine` with a loader of that name.
fn elf(machine: u16, loader: &str) -> Vec<u8> {
    let mut bytes = vec![0; 120];
    bytes[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    bytes[16] = 2;
    bytes[18..20].copy_from_slice(&machine.to_le_bytes());
    bytes[20] = 1;
    bytes[32] = 64;
    bytes[52] = 64;
    bytes[54] = 56;
    bytes[56] = 1;
    bytes[64] = 3;
    bytes[72] = 120;
    let length = u8::try_from(loader.len() + 1).expect("a short name");
    (bytes[96], bytes[104]) = (length, length);
    bytes.extend(loader.bytes());
    bytes.push(0);
    bytes
}

/// A program whose first instruction is none.
fn illegal() -> Vec<u8> {
    let mut bytes = elf(if cfg!(target_arch = "aarch64") { 183 } else { 62 }, "");
    bytes.truncate(120);
    let base: u64 = 0x40_0000;
    bytes[24..32].copy_from_slice(&(base + 120).to_le_bytes());
    (bytes[64], bytes[68]) = (1, 5);
    bytes[72..80].copy_from_slice(&0_u64.to_le_bytes());
    bytes[80..88].copy_from_slice(&base.to_le_bytes());
    bytes[88..96].copy_from_slice(&base.to_le_bytes());
    (bytes[96], bytes[104]) = (124, 124);
    bytes[112..120].copy_from_slice(&0x1000_u64.to_le_bytes());
    bytes.extend(if cfg!(target_arch = "aarch64") { [0, 0, 0, 0] } else { [0x0f, 0x0b, 0x0f, 0x0b] });
    bytes
}

#[test]
fn ends_by_itself_and_by_request() {
    let case = Case::new();
    let run = |name: &str, script: &str| {
        case.wharf.run(&["run", "--name", name, "box", "sh", "-c", script]);
    };
    run("done", "exit 0");
    case.is("done", "finished", &["exit code 0: ended by itself"]);
    run("failed", "echo no database >&2; exit 3");
    case.is("failed", "failed", &["ended by itself with 3", "it last said: no database"]);
    run("missing", "nosuchprogram");
    case.is("missing", "failed", &["127", "was not found"]);
    let start = |name: &str, options: &[&str]| {
        let mut args = vec!["run", "-d", "--name", name];
        args.extend(options);
        args.extend(["box", "sleep", "1000"]);
        case.wharf.ok(&args);
    };
    start("stopped", &[]);
    case.wharf.ok(&["stop", "-t", "0", "stopped"]);
    case.is("stopped", "stopped", &["Wharf ended it with SIGKILL", "still there after SIGTERM", "--init"]);
    start("obeyed", &["--init"]);
    case.wharf.ok(&["stop", "obeyed"]);
    case.is("obeyed", "stopped", &["SIGTERM", "ended by itself with 143"]);
    start("killed", &[]);
    case.wharf.ok(&["kill", "killed"]);
    case.is("killed", "killed", &["Wharf ended it with SIGKILL, because somebody asked for it (kill)"]);
    start("again", &[]);
    case.wharf.ok(&["restart", "-t", "0", "again"]);
    case.is("again", "restarted", &["somebody restarted it"]);
    assert!(
        case.wharf.ok(&["why", "again"]).starts_with("again is running since "),
        "it tells of the present, too"
    );
    case.wharf.ok(&["rm", "-f", "again"]);
    // Found by its name although the container is gone.
    case.is("again", "removed", &["rm -f"]);
    let all = case.wharf.ok(&["why", "-n", "5", "--format", "{{.Kind}} {{.ExitCode}}", "again"]);
    assert_eq!(all, "removed 137\nrestarted 137", "newest first");
    let none = case.wharf.fails(1, &["why", "never-was"]);
    assert!(none.contains("No such container: never-was"), "{none}");
    let inspected = case.wharf.ok(&["inspect", "-f", "{{.State.Why.Kind}}", "failed"]);
    assert_eq!(inspected, "failed", "inspect has it as well");
    case.wharf.ok(&["create", "--name", "fresh", "box"]);
    assert_eq!(case.wharf.ok(&["why", "fresh"]), "fresh was never started.");
}

#[test]
fn a_signal_from_outside_is_told_from_ours() {
    let case = Case::new();
    case.wharf.ok(&["run", "-d", "--name", "outside", "box", "sleep", "1000"]);
    kill(case.pid("outside"), rustix::process::Signal::KILL);
    case.wait_for_end("outside");
    case.is(
        "outside",
        "killed-from-outside",
        &["Something outside of Wharf sent it SIGKILL", "process 1 of its pid namespace"],
    );
    case.image_with("crash", "app", 0o755, &illegal());
    assert_eq!(case.wharf.run(&["run", "--name", "crashed", "crash", "/app"]).code, 132);
    case.is("crashed", "crashed", &["illegal instruction (SIGILL)"]);
}

#[test]
fn want_of_memory_is_found_in_the_init_and_in_a_child() {
    let case = Case::new();
    let greedy = "x=aaaaaaaaaaaaaaaa; while :; do x=$x$x; done";
    let limit = ["--memory", "16m", "--memory-swap", "16m"];
    let run = |name: &str, script: &str, detach: &[&str]| {
        let mut args = vec!["run", "--name", name];
        args.extend(detach);
        args.extend(limit);
        args.extend(["box", "sh", "-c", script]);
        case.wharf.run(&args);
    };
    run("init", greedy, &[]);
    case.is("init", "out-of-memory", &["its limit is 16 MiB", "wharf update --memory 32m"]);
    run("child", &format!("sh -c '{greedy}'; exit 4"), &[]);
    case.is("child", "child-out-of-memory", &["the program ended with 4", "killed 1 process"]);
    run("lives", &format!("sh -c '{greedy}'; sleep 1000"), &["-d"]);
    let told = || case.wharf.ok(&["why", "lives"]);
    wait_until("the engine to hear of it", PATIENCE, || told().contains("killed 1 process in it"));
    assert_eq!(
        case.wharf.ok(&["inspect", "-f", "{{.State.Running}} {{.State.OOMKilled}}", "lives"]),
        "true true"
    );
    let events = case.wharf.ok(&[
        "events",
        "--since",
        "0.5",
        "--until",
        "0s",
        "--filter",
        "event=oom",
        "--format",
        "{{.Actor.Attributes.name}}",
    ]);
    assert_eq!(events, "init\nchild\nlives");
    case.wharf.ok(&["rm", "-f", "lives"]);
    case.is("lives", "removed", &["killed 1 process of it for want of memory"]);
}

#[test]
fn commands_that_cannot_run() {
    let case = Case::new();
    let machine: u16 = if cfg!(target_arch = "aarch64") { 183 } else { 62 };
    let foreign: u16 = if cfg!(target_arch = "aarch64") { 62 } else { 183 };
    let loader = "/lib/ld-musl-x86_64.so.1";
    type Row<'a> = (&'a str, u32, Vec<u8>, &'a str, &'a [&'a str]);
    let rows: [Row<'_>; 7] = [
        ("loader", 0o755, elf(machine, loader), "loader-missing", &[loader, "musl"]),
        ("foreign", 0o755, elf(foreign, ""), "wrong-architecture", &["its ELF header says"]),
        ("bash", 0o755, b"#!/bin/bash\necho\n".to_vec(), "interpreter-missing", &["/bin/bash"]),
        ("windows", 0o755, b"#!/bin/sh\r\necho\r\n".to_vec(), "interpreter-missing", &["Windows line ends"]),
        ("mode", 0o644, b"#!/bin/sh\n".to_vec(), "command-not-executable", &["0644", "chmod +x"]),
        ("bare", 0o755, b"echo hello\n".to_vec(), "not-a-program", &["begin it with a line like #!/bin/sh"]),
        ("cut", 0o755, b"\0\0\0\0".to_vec(), "not-a-program", &["no program that Linux knows"]),
    ];
    for (name, mode, content, kind, words) in rows {
        case.image_with(name, "app", mode, &content);
        let run = case.wharf.run(&["run", "--rm", "--name", name, name, "/app"]);
        assert_ne!(run.code, 0, "{name}");
        case.is(name, kind, words);
    }
    let fails = |name: &str, command: &str, kind: &str, words: &[&str]| {
        let run = case.wharf.run(&["run", "--name", name, "box", command]);
        assert!(matches!(run.code, 126 | 127), "{command}: {}", run.code);
        case.is(name, kind, words);
    };
    fails("none", "nosuch", "command-missing", &["not there: /usr/local/sbin/nosuch", "/bin/nosuch"]);
    fails("directory", "/etc", "command-not-executable", &["is a directory"]);
}

#[test]
fn starts_that_fail() {
    let case = Case::new();
    let fails = |name: &str, options: &[&str], kind: &str, words: &[&str]| {
        let mut args = vec!["run", "-d", "--name", name];
        args.extend(options);
        args.extend(["box", "sleep", "1000"]);
        assert_ne!(case.wharf.run(&args).code, 0, "{name}");
        case.is(name, kind, words);
    };
    fails("user", &["-u", "nobody-here"], "no-such-user", &["nobody-here", "-u 1000:1000"]);
    fails("cwd", &["-w", "/etc/passwd"], "working-directory", &["/etc/passwd"]);
    let port = case.engine.port(0).to_string();
    let taken = std::net::TcpListener::bind(("0.0.0.0", case.engine.port(0))).expect("a free port");
    fails("port", &["-p", &format!("{port}:80")], "port-in-use", &[&port, "another host port"]);
    drop(taken);
    // A file over a directory cannot be.
    let file: PathBuf = case.engine.dir().join("file");
    std::fs::write(&file, "").expect("writable");
    fails("mount", &["-v", &format!("{}:/tmp", file.display())], "mount", &["/tmp"]);
    // Another start that succeeds, and the endings of both are told.
    case.wharf.ok(&["create", "--name", "later", "-p", &format!("{port}:80"), "box", "true"]);
    let taken = std::net::TcpListener::bind(("0.0.0.0", case.engine.port(0))).expect("a free port");
    assert_ne!(case.wharf.run(&["start", "later"]).code, 0);
    drop(taken);
    case.wharf.ok(&["start", "-a", "later"]);
    let both = case.wharf.ok(&["why", "-n", "9", "--format", "{{.Kind}}", "later"]);
    assert_eq!(both, "finished\nport-in-use");
}

#[test]
fn what_the_engine_and_the_monitor_did_is_known_after_a_restart() {
    let case = Case::new();
    case.wharf.ok(&["run", "-d", "--name", "left", "box", "sh", "-c", "sleep 1000"]);
    case.wharf.ok(&["run", "-d", "--name", "orphan", "box", "sleep", "1000"]);
    let orphan = case.wharf.ok(&["inspect", "-f", "{{.Id}}", "orphan"]);
    let shim = case.engine.exec_root().join("containers").join(orphan).join("shim.pid");
    let pid = std::fs::read_to_string(shim).expect("a running container has a shim");
    case.engine.kill();
    kill(pid.trim().parse().expect("a number"), rustix::process::Signal::KILL);
    case.engine.start();
    case.is("orphan", "monitor-killed", &["shim"]);
    case.wharf.ok(&["kill", "left"]);
    case.wait_for_end("left");
    // The signal was remembered by the shim, not by the engine.
    case.is("left", "killed", &["Wharf sent SIGKILL"]);
    case.engine.kill();
    case.engine.start();
    case.is("left", "killed", &[]);
}
