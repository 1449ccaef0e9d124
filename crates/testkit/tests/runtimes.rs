//! Other OCI runtimes in the place of the built-in one: whatever a container can do, it can do with them.
//!
//! Always with our own `wharf-runtime`, which has runc's command line; also with the `runc` and `crun` in `PATH`, and with
//! `WHARF_TEST_REFERENCE=1` with those of the real Docker.

#![expect(clippy::print_stdout, reason = "which runtimes there are is shown to the developer")]

#[path = "runtimes/faults.rs"]
mod faults;
#[path = "runtimes/settings.rs"]
mod settings;

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use wharf_testkit::{Cli, Engine, EngineBuilder, PATIENCE, binary, image, retry_until, wait_until};

/// A program that a test has made.
fn script(path: &Path, text: &str) {
    std::fs::write(path, text).expect("a directory of ours");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("as above");
}

/// A runtime of the peers: their programs want their own C library, so they run where that is the machine's; crun wants
/// no hybrid of control groups.
fn of_the_peers(name: &str, dir: &Path) -> Option<PathBuf> {
    let peers = std::env::var("PEERS").unwrap_or_else(|_| "/opt/peers".to_owned());
    let program = Path::new(&peers).join("usr/bin").join(name);
    let library = Path::new(&peers).join("usr/lib/x86_64-linux-gnu");
    if !program.exists() || !library.exists() || !Path::new("/usr/lib/x86_64-linux-gnu").exists() {
        return None;
    }
    let path = dir.join(format!("peer-{name}"));
    let text = format!(
        "#!/bin/sh\n[ -n \"$WHARF_PEER\" ] || exec env WHARF_PEER=1 unshare -m \"$0\" \"$@\"\n\
         [ {name} = runc ] || umount /sys/fs/cgroup/unified 2>/dev/null\n\
         mount --bind {} /usr/lib/x86_64-linux-gnu && exec {} \"$@\"\n",
        library.display(),
        program.display()
    );
    script(&path, &text);
    Some(path)
}

fn in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file())
}

/// An engine with every runtime there is, and their names.
struct World {
    engine: Engine,
    names: Vec<&'static str>,
    _scripts: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let scripts = tempfile::Builder::new().prefix("wt-rt-").tempdir().expect("a temporary directory");
        let reference = std::env::var("WHARF_TEST_REFERENCE").is_ok_and(|v| !v.is_empty() && v != "0");
        let mut builder = EngineBuilder::default();
        let mut names = vec!["ours"];
        builder = builder
            .argument("--add-runtime")
            .argument(&format!("ours={}", binary("wharf-runtime").display()));
        for name in ["runc", "crun"] {
            let there = in_path(name);
            let found = there.or_else(|| reference.then(|| of_the_peers(name, scripts.path())).flatten());
            if let Some(path) = found {
                builder = builder.argument("--add-runtime").argument(&format!("{name}={}", path.display()));
                names.push(name);
            }
        }
        println!("runtimes: {names:?}");
        let engine = builder.start();
        engine.load(&image::archive());
        Self { engine, names, _scripts: scripts }
    }

    /// The same for each.
    fn each(&self, mut test: impl FnMut(&Cli, &str)) {
        let wharf = self.engine.wharf();
        for name in &self.names {
            println!("with {name}");
            test(&wharf, name);
        }
        assert_eq!(wharf.ok(&["ps", "-aq"]), "");
    }
}

fn field(wharf: &Cli, name: &str, what: &str) -> String {
    wharf.ok(&["inspect", "-f", &format!("{{{{{what}}}}}"), name])
}

fn alive(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

fn run_dir(engine: &Engine, id: &str) -> PathBuf {
    engine.exec_root().join("containers").join(id)
}

/// Everything of this name below the machine's control groups.
fn groups(id: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut left = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(dir) = left.pop() {
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            let path = entry.path();
            // A link is another name of a hierarchy; what goes away meanwhile is not it.
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if path.ends_with(id) {
                    found.push(path.clone());
                }
                left.push(path);
            }
        }
    }
    found
}

#[test]
fn a_container_of_another_runtime_looks_like_any_other() {
    // What shows who the process is and what it may do.
    const LOOK: &str = "id; pwd; echo $HOME $GREETING; hostname; grep -E '^(Cap|Seccomp:|NoNewPrivs)' /proc/self/status; \
                        cat /proc/self/oom_score_adj; stat -c '%a %u %g' / /tmp /dev /dev/shm; ls /dev | grep -v core | sort; \
                        [ -s /etc/resolv.conf ] && echo names; cat /etc/hostname; wc -l < /etc/hosts; ulimit -n; \
                        mkdir /new && touch /new/file && stat -c %U /new/file";
    let world = World::new();
    let look = |wharf: &Cli, runtime: &str, flags: &[&str]| {
        let first = ["run", "--rm", "--runtime", runtime, "-h", "host", "-e", "GREETING=hi"];
        wharf.ok(&[&first, flags, &["box", "sh", "-c", LOOK]].concat())
    };
    world.each(|wharf, runtime| {
        for flags in [
            &[][..],
            &["-u", "0:7", "--group-add", "9", "-w", "/made/here", "--ulimit", "nofile=64:128"],
            &["--cap-drop", "ALL", "--cap-add", "CHOWN", "--security-opt", "no-new-privileges"],
            &["--network", "none", "--oom-score-adj", "300", "--tmpfs", "/tmp:mode=700"],
        ] {
            assert_eq!(look(wharf, runtime, flags), look(wharf, "wharf", flags), "{runtime} {flags:?}");
        }
        let output = wharf.run(&[
            "run",
            "--rm",
            "--runtime",
            runtime,
            "box",
            "sh",
            "-c",
            "echo out; echo err >&2; exit 7",
        ]);
        assert_eq!((output.stdout.trim(), output.stderr.trim(), output.code), ("out", "err", 7));
        let output = wharf.run(&["run", "--rm", "--runtime", runtime, "box", "nosuch"]);
        assert!(output.stderr.contains("OCI runtime create failed: "), "{}", output.stderr);
        // Docker's command line finds out by the words, and crun's are not runc's.
        assert!(output.code == 127 || runtime == "crun", "{}", output.stderr);
        let read = wharf.run(&["run", "--rm", "--read-only", "--runtime", runtime, "box", "touch", "/x"]);
        assert!(read.stderr.contains("Read-only"), "{}", read.stderr);
        let given =
            wharf.run_with_input(&["run", "--rm", "-i", "--runtime", runtime, "box", "cat"], b"typed");
        assert_eq!(given.stdout.trim(), "typed");
        // The first process is ours, and reaps.
        let init = "sh -c 'sleep 0.1 &'; read name < /proc/1/comm; echo $$ $name; exit 5";
        let output = wharf.run(&["run", "--rm", "--init", "--runtime", runtime, "box", "sh", "-c", init]);
        assert_eq!(output.code, 5, "{}", output.stderr);
        assert_ne!(output.stdout.split_whitespace().next(), Some("1"));
        let foreign = wharf.run(&["run", "--rm", "--init", "--runtime", runtime, "box", "nosuch"]);
        assert_eq!(foreign.code, 127, "{}", foreign.stderr);
    });
}

#[test]
fn processes_join_a_container_of_another_runtime() {
    let world = World::new();
    world.each(|wharf, runtime| {
        wharf.ok(&["run", "-d", "--name", "subject", "--runtime", runtime, "box", "sleep", "600"]);
        assert_eq!(field(wharf, "subject", ".HostConfig.Runtime"), runtime);
        let output = wharf.run(&["exec", "subject", "sh", "-c", "echo out; echo err >&2; exit 4"]);
        assert_eq!((output.stdout.trim(), output.stderr.trim(), output.code), ("out", "err", 4));
        let script = "id -u; id -g; pwd; echo $WORD $HOME; cat";
        let flags =
            ["exec", "-i", "-u", "12:34", "-w", "/tmp", "-e", "WORD=said", "subject", "sh", "-c", script];
        assert_eq!(wharf.run_with_input(&flags, b"typed").stdout.trim(), "12\n34\n/tmp\nsaid /\ntyped");
        let output = wharf.run(&["exec", "subject", "nosuch"]);
        assert!(output.stdout.contains("OCI runtime exec failed: "), "{output:?}");
        assert_eq!(output.code, 127);
        let output = wharf.run(&["exec", "-t", "subject", "sh", "-c", "tty; exit 6"]);
        assert!(output.stdout.starts_with("/dev/pts/"), "{output:?}");
        assert_eq!(output.code, 6);
        wharf.ok(&["exec", "-d", "subject", "sh", "-c", "sleep 0.1; touch /told"]);
        wait_until("the detached command", PATIENCE, || {
            wharf.run(&["exec", "subject", "test", "-e", "/told"]).code == 0
        });
        // Twenty at once, and none is mistaken for another.
        std::thread::scope(|scope| {
            for number in 0..20 {
                scope.spawn(move || {
                    let code = number.to_string();
                    assert_eq!(
                        wharf.run(&["exec", "subject", "sh", "-c", &format!("exit {code}")]).code,
                        number
                    );
                });
            }
        });
        wharf.ok(&["rm", "-f", "subject"]);
    });
}

#[test]
fn a_terminal_of_another_runtime_works() {
    let world = World::new();
    let api = world.engine.api();
    world.each(|wharf, runtime| {
        let output = wharf.run(&["run", "--rm", "-t", "--runtime", runtime, "box", "sh", "-c", "tty; echo err >&2; exit 3"]);
        assert_eq!((output.stdout.as_str(), output.code), ("/dev/pts/0\r\nerr\r\n", 3));
        let waits = "while [ \"$(stty size)\" != '33 77' ]; do sleep 0.05; done; echo seen; read word; echo got $word";
        wharf.ok(&["run", "-dti", "--name", "subject", "--runtime", runtime, "box", "sh", "-c", waits]);
        let answer = api.request("POST", "/containers/subject/resize?h=33&w=77", None).expect("an answer");
        assert_eq!(answer.status, 200);
        wait_until("the new size", PATIENCE, || wharf.ok(&["logs", "subject"]).contains("seen"));
        // Some runtimes start the process before their terminal has its size.
        let until = "until [ \"$(stty size)\" = '12 34' ]; do usleep 20000; done; echo seen";
        let create = json!({"Cmd": ["sh", "-c", until], "Tty": true, "AttachStdout": true, "ConsoleSize": [12, 34]});
        let exec = api.request("POST", "/containers/subject/exec", Some(&create)).expect("an answer").json();
        let path = format!("/exec/{}/start", exec["Id"].as_str().unwrap_or_default());
        let start = json!({"Detach": false, "Tty": true, "ConsoleSize": [12, 34]});
        let answer = api.request("POST", &path, Some(&start)).expect("an answer");
        assert!(String::from_utf8_lossy(&answer.body).contains("seen"), "{answer:?}");
        wharf.ok(&["rm", "-f", "subject"]);
    });
}

#[test]
fn the_engine_has_a_container_of_another_runtime_in_its_hands() {
    const ENDS: &str = "trap 'echo told; exit 3' TERM; echo ready; while :; do sleep 0.05; done";
    let world = World::new();
    world.each(|wharf, runtime| {
        wharf.ok(&[
            "run",
            "-d",
            "--name",
            "subject",
            "-m",
            "64m",
            "--runtime",
            runtime,
            "box",
            "sh",
            "-c",
            ENDS,
        ]);
        wait_until("the trap", PATIENCE, || wharf.ok(&["logs", "subject"]).contains("ready"));
        wharf.ok(&["pause", "subject"]);
        assert_eq!(field(wharf, "subject", ".State.Status"), "paused");
        wharf.ok(&["unpause", "subject"]);
        assert!(wharf.ok(&["top", "subject"]).contains("trap"));
        assert!(wharf.ok(&["stats", "--no-stream", "subject"]).contains("64MiB"));
        wharf.ok(&["update", "-m", "80m", "--memory-swap", "160m", "subject"]);
        assert!(wharf.ok(&["stats", "--no-stream", "subject"]).contains("80MiB"));
        wharf.ok(&["stop", "subject"]);
        assert_eq!(field(wharf, "subject", ".State.ExitCode"), "3");
        wharf.ok(&["start", "subject"]);
        wharf.ok(&["kill", "subject"]);
        assert_eq!(wharf.ok(&["wait", "subject"]), "137");
        let id = field(wharf, "subject", ".Id");
        wharf.ok(&["restart", "subject"]);
        wharf.ok(&["rm", "-f", "subject"]);
        wait_until("everything to be gone", PATIENCE, || {
            groups(&id).is_empty() && !run_dir(&world.engine, &id).exists()
        });
    });
}

#[test]
fn what_happens_to_a_container_of_another_runtime_is_seen() {
    let world = World::new();
    let api = world.engine.api();
    world.each(|wharf, runtime| {
        // Out of memory.
        let eats = ["sh", "-c", "x=aaaaaaaaaaaaaaaa; while :; do x=$x$x; done"];
        let flags = [
            "run",
            "-d",
            "--name",
            "eater",
            "-m",
            "16m",
            "--memory-swap",
            "16m",
            "--runtime",
            runtime,
            "box",
        ];
        wharf.ok(&[&flags[..], &eats].concat());
        wharf.ok(&["wait", "eater"]);
        assert_eq!(field(wharf, "eater", ".State.OOMKilled"), "true");
        wharf.ok(&["rm", "eater"]);
        // The policy of its restart.
        let policy = ["--restart", "on-failure:2"];
        let flags =
            [&["run", "-d", "--name", "failing"][..], &policy, &["--runtime", runtime, "box", "false"]]
                .concat();
        wharf.ok(&flags);
        wait_until("two restarts and the end", PATIENCE, || {
            field(wharf, "failing", ".RestartCount") == "2"
                && field(wharf, "failing", ".State.Status") == "exited"
        });
        wharf.ok(&["rm", "failing"]);
        // Health by a command inside.
        let probe = ["--health-cmd", "test -e /well", "--health-interval", "200ms", "--health-retries", "1"];
        let flags =
            [&["run", "-d", "--name", "patient"][..], &probe, &["--runtime", runtime, "box", "sleep", "600"]];
        wharf.ok(&flags.concat());
        wait_until("illness", PATIENCE, || field(wharf, "patient", ".State.Health.Status") == "unhealthy");
        wharf.ok(&["exec", "patient", "touch", "/well"]);
        wait_until("health", PATIENCE, || field(wharf, "patient", ".State.Health.Status") == "healthy");
        // Orphans of a container that shares the machine's process ids are the shim's to reap.
        wharf.ok(&["rm", "-f", "patient"]);
        let orphans = "for n in 1 2 3 4 5; do (sleep 0.1 & echo $! >> /orphans); done; sleep 600";
        let flags = [
            "run",
            "-d",
            "--name",
            "parent",
            "--pid",
            "host",
            "--runtime",
            runtime,
            "box",
            "sh",
            "-c",
            orphans,
        ];
        wharf.ok(&flags);
        let list = retry_until("orphans", PATIENCE, || {
            let list = wharf.run(&["exec", "parent", "cat", "/orphans"]).stdout;
            (list.lines().count() == 5).then_some(list)
        });
        wait_until("no orphan to be left, not even as a zombie", PATIENCE, || {
            list.lines().all(|pid| !Path::new("/proc").join(pid.trim()).exists())
        });
        let view: Value = api.get("/containers/parent/json").expect("it is there");
        assert_eq!(view["State"]["Running"], true);
        wharf.ok(&["rm", "-f", "parent"]);
    });
}

#[test]
fn a_container_of_another_runtime_outlives_the_engine() {
    let world = World::new();
    let engine = &world.engine;
    world.each(|wharf, runtime| {
        let waits = "echo ready; while [ ! -e /told ]; do sleep 0.05; done; echo farewell; exit 9";
        for name in ["one", "two"] {
            wharf.ok(&["run", "-d", "--name", name, "--runtime", runtime, "box", "sh", "-c", waits]);
        }
        engine.kill();
        engine.start();
        assert_eq!(wharf.ok(&["exec", "one", "echo", "in"]), "in");
        wharf.ok(&["exec", "one", "touch", "/told"]);
        assert_eq!(wharf.ok(&["wait", "one"]), "9");
        assert_eq!(wharf.ok(&["logs", "one"]), "ready\nfarewell");
        // The other one ends while nobody is there.
        wharf.ok(&["exec", "-d", "two", "sh", "-c", "sleep 1; touch /told"]);
        let pid = field(wharf, "two", ".State.Pid");
        engine.kill();
        wait_until("the container to end", PATIENCE, || !alive(&pid));
        engine.start();
        assert_eq!(wharf.ok(&["wait", "two"]), "9");
        wharf.ok(&["rm", "one", "two"]);
    });
}

#[test]
fn a_container_of_another_runtime_dies_with_its_shim() {
    let world = World::new();
    let engine = &world.engine;
    let kill_shim = |id: &str| {
        let text = std::fs::read_to_string(run_dir(engine, id).join("shim.pid")).expect("a shim");
        let pid: i32 = text.trim().parse().expect("a number");
        kill_process(Pid::from_raw(pid).expect("a process"), Signal::KILL).expect("a shim of ours");
    };
    world.each(|wharf, runtime| {
        for engine_too in [false, true] {
            // One that would go on for ever, and is not easily killed.
            let stubborn = "trap '' TERM INT HUP; sleep 1000 & while :; do sleep 1; done";
            let id = wharf.ok(&[
                "run",
                "-d",
                "--name",
                "subject",
                "--runtime",
                runtime,
                "box",
                "sh",
                "-c",
                stubborn,
            ]);
            let pid = field(wharf, "subject", ".State.Pid");
            if engine_too {
                engine.kill();
            }
            kill_shim(&id);
            wait_until("the container to die with its shim", PATIENCE, || !alive(&pid));
            if engine_too {
                engine.start();
            }
            wait_until("the end to be known", PATIENCE, || {
                field(wharf, "subject", ".State.Status") == "exited"
            });
            assert_eq!(field(wharf, "subject", ".State.ExitCode"), "137");
            // It can be started again.
            wharf.ok(&["start", "subject"]);
            assert_eq!(wharf.ok(&["exec", "subject", "echo", "again"]), "again");
            wharf.ok(&["rm", "-f", "subject"]);
            wait_until("everything to be gone", PATIENCE, || {
                groups(&id).is_empty() && !run_dir(engine, &id).exists()
            });
        }
    });
}

/// Copying waits for a start that is under way, and not for the end of the run that begins with it.
#[test]
fn copying_out_of_a_container_that_is_just_starting_does_not_wait_for_its_end() {
    let dir = tempfile::Builder::new().prefix("wt-rt-").tempdir().expect("a temporary directory");
    let (begun, go) = (dir.path().join("begun"), dir.path().join("go"));
    let slow = dir.path().join("slow");
    let text = format!(
        "#!/bin/sh\nfor word; do\n  if [ $word = create ]; then\n    touch {}\n    until [ -e {} ]; do sleep 0.01; \
         done\n  fi\ndone\nexec {} \"$@\"\n",
        begun.display(),
        go.display(),
        binary("wharf-runtime").display()
    );
    script(&slow, &text);
    let engine = EngineBuilder::default()
        .argument("--add-runtime")
        .argument(&format!("slow={}", slow.display()))
        .start();
    engine.load(&image::archive());
    engine.wharf().ok(&["create", "--name", "one", "--runtime", "slow", "box", "sleep", "600"]);
    std::thread::scope(|scope| {
        let ask = |method: &'static str, path: &'static str| {
            let api = engine.api();
            scope.spawn(move || api.request(method, path, None).expect("an answer").status)
        };
        let start = ask("POST", "/containers/one/start");
        wait_until("the runtime to be asked", PATIENCE, || begun.exists());
        let copies: Vec<_> = (0..4).map(|_| ask("GET", "/containers/one/archive?path=/etc/passwd")).collect();
        // Requests that come later are answered: these ones wait by now.
        (0..50).for_each(|_| assert!(engine.api().is_up()));
        std::fs::write(&go, "").expect("a directory of ours");
        assert_eq!(start.join().expect("no panic"), 204);
        for copy in copies {
            assert_eq!(copy.join().expect("no panic"), 200);
        }
    });
    engine.wharf().ok(&["rm", "-f", "one"]);
}
