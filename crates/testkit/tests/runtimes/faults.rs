//! Runtimes that hang, fail or are not there.

use super::*;

/// A runtime that does what a file tells it to, or what ours does. Leaves the numbers of its processes that hang.
const MOODY: &str = r#"#!/bin/sh
for word in "$@"; do case $word in create | start | exec | delete) verb=$word; break ;; esac; done
log=$(echo "$*" | sed 's/.*--log \([^ ]*\).*/\1/')
case $(cat DIR/mood) in
hang-$verb) sleep 1000 & echo $$ $! >> DIR/hanging; wait ;;
fail-$verb)
    echo '{"level":"error","msg":"not yet this one"}' >> "$log"
    echo '{"level":"error","msg":"the moon is full","time":"now"}' >> "$log"
    echo "not this" >&2
    exit 1 ;;
mute-$verb) exit 9 ;;
say-$verb) echo "said on stderr" >&2; exit 1 ;;
esac
exec OURS "$@"
"#;

struct Moody {
    engine: Engine,
    dir: tempfile::TempDir,
}

impl Moody {
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("wt-rt-").tempdir().expect("a temporary directory");
        let text = MOODY.replace("DIR", &dir.path().display().to_string());
        let ours = binary("wharf-runtime").display().to_string();
        let path = dir.path().join("moody");
        script(&path, &text.replace("OURS", &ours));
        let engine = EngineBuilder::default()
            .argument("--add-runtime")
            .argument(&format!("moody={}", path.display()))
            .argument("--runtime-timeout=5")
            .start();
        engine.load(&image::archive());
        let moody = Self { engine, dir };
        moody.set("fine");
        moody
    }

    fn set(&self, mood: &str) {
        let fresh = self.dir.path().join("mood.new");
        std::fs::write(&fresh, mood).expect("a directory of ours");
        std::fs::rename(&fresh, self.dir.path().join("mood")).expect("as above");
    }

    fn none_hangs(&self) {
        let text = std::fs::read_to_string(self.dir.path().join("hanging")).expect("it has hung");
        for pid in text.split_whitespace() {
            wait_until("a runtime that hung to be killed", PATIENCE, || !alive(pid));
        }
    }
}

#[test]
fn a_runtime_that_hangs_is_killed_and_named() {
    let moody = Moody::new();
    let wharf = moody.engine.wharf();
    for verb in ["create", "start"] {
        moody.set(&format!("hang-{verb}"));
        let id = wharf.ok(&["create", "--name", "subject", "--runtime", "moody", "box", "sleep", "600"]);
        let output = wharf.run(&["start", "subject"]);
        let wanted = format!(
            "OCI runtime {verb} failed: {}/moody did not finish in 5 seconds",
            moody.dir.path().display()
        );
        assert!(output.stderr.contains(&wanted), "{}", output.stderr);
        moody.none_hangs();
        wait_until("nothing to be left", PATIENCE, || groups(&id).is_empty());
        // Its mood has changed: nothing of the failure is in the way.
        moody.set("fine");
        wharf.ok(&["start", "subject"]);
        assert_eq!(wharf.ok(&["exec", "subject", "echo", "fine"]), "fine");
        wharf.ok(&["rm", "-f", "subject"]);
    }
}

#[test]
fn a_runtime_that_hangs_keeps_nobody_from_the_container() {
    let moody = Moody::new();
    let wharf = moody.engine.wharf();
    let id = wharf.ok(&["run", "-d", "--name", "subject", "--runtime", "moody", "box", "sleep", "600"]);
    moody.set("hang-exec");
    std::thread::scope(|scope| {
        let hanging = scope.spawn(|| wharf.run(&["exec", "subject", "true"]));
        wait_until("it to hang", PATIENCE, || moody.dir.path().join("hanging").exists());
        // Meanwhile all else goes on.
        wharf.ok(&["pause", "subject"]);
        wharf.ok(&["unpause", "subject"]);
        assert!(wharf.ok(&["top", "subject"]).contains("sleep"));
        let output = hanging.join().expect("no panic");
        assert!(output.stdout.contains("did not finish in 5 seconds"), "{output:?}");
    });
    moody.none_hangs();
    moody.set("hang-delete");
    wharf.ok(&["rm", "-f", "subject"]);
    wait_until("nothing to be left", PATIENCE, || {
        groups(&id).is_empty() && !run_dir(&moody.engine, &id).exists()
    });
    moody.none_hangs();
}

#[test]
fn a_runtime_that_fails_says_why() {
    let moody = Moody::new();
    let wharf = moody.engine.wharf();
    let task = "failed to create task for container: failed to create shim task: ";
    for (mood, wanted) in [
        ("fail-create", format!("{task}OCI runtime create failed: the moon is full")),
        ("fail-start", format!("{task}OCI runtime start failed: the moon is full")),
        ("say-create", format!("{task}OCI runtime create failed: said on stderr")),
        ("say-start", format!("{task}OCI runtime start failed: said on stderr")),
        ("mute-create", "has given no reason: it exited with status 9".to_owned()),
    ] {
        moody.set(mood);
        let output = wharf.run(&["run", "--name", "subject", "--runtime", "moody", "box", "true"]);
        assert!(output.stderr.contains(&wanted), "{mood}: {}", output.stderr);
        assert_eq!(output.code, 125);
        assert!(field(&wharf, "subject", ".State.Error").contains("OCI runtime "));
        let id = field(&wharf, "subject", ".Id");
        wharf.ok(&["rm", "subject"]);
        wait_until("nothing to be left", PATIENCE, || {
            groups(&id).is_empty() && !run_dir(&moody.engine, &id).exists()
        });
    }
    moody.set("fine");
    wharf.ok(&["run", "-d", "--name", "subject", "--runtime", "moody", "box", "sleep", "600"]);
    moody.set("fail-exec");
    let output = wharf.run(&["exec", "subject", "true"]);
    assert!(output.stdout.contains("OCI runtime exec failed: the moon is full"), "{output:?}");
    // One that does not forget its containers leaves nothing all the same.
    moody.set("fail-delete");
    let id = field(&wharf, "subject", ".Id");
    wharf.ok(&["rm", "-f", "subject"]);
    wait_until("nothing to be left", PATIENCE, || {
        groups(&id).is_empty() && !run_dir(&moody.engine, &id).exists()
    });
}

#[test]
fn a_program_that_is_no_runtime_is_named() {
    let engine = EngineBuilder::default()
        .argument("--add-runtime=missing=/nonexistent/runtime")
        .argument("--add-runtime=nameless=no-such-program-in-path")
        .argument("--add-runtime=directory=/etc")
        .start();
    engine.load(&image::archive());
    let wharf = engine.wharf();
    for (name, wanted) in [
        ("missing", "fork/exec /nonexistent/runtime: no such file or directory"),
        ("nameless", "exec: \"no-such-program-in-path\": executable file not found in $PATH"),
        ("directory", "fork/exec /etc: permission denied"),
    ] {
        let output = wharf.run(&["run", "--rm", "--runtime", name, "box", "true"]);
        assert!(output.stderr.contains(wanted), "{}", output.stderr);
        assert!(output.stderr.contains("OCI runtime create failed: unable to retrieve OCI runtime error"));
    }
}

#[test]
fn what_only_the_built_in_runtime_can_do_is_refused_by_name() {
    let world = World::new();
    let wharf = world.engine.wharf();
    wharf.ok(&["run", "--rm", "-v", "data:/data", "box", "mkdir", "/data/part"]);
    let shared = format!("{}:/there:rshared", world.engine.dir().display());
    for (flags, wanted) in [
        (
            &["--mount", "type=volume,src=data,dst=/there,volume-subpath=part"][..],
            "the sub-path of the mount /there",
        ),
        (&["-v", &shared], "\"rshared\" of the mount /there"),
    ] {
        let output = wharf.run(&[&["run", "--rm", "--runtime", "ours"], flags, &["box", "true"]].concat());
        // Where the machine's mounts are not shared, that is said first.
        let private = output.stderr.contains("is not a shared mount");
        assert!(private || output.stderr.contains(wanted), "{}", output.stderr);
        assert!(private || output.stderr.contains("--runtime wharf"), "{}", output.stderr);
    }
    wharf.ok(&["volume", "rm", "data"]);
}
