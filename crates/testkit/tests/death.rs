//! What is true after something died: the engine, a shim, the whole machine.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};
use wharf_testkit::{Cli, Engine, EngineBuilder, PATIENCE, image, wait_until};

/// Waits to be told, then prints a last line and ends with 9. Told by a file, so that no engine is needed for it.
const WAITS: &str = "echo ready; while [ ! -e /told/now ]; do usleep 10000; done; echo farewell; exit 9";

fn state(cli: &Cli, name: &str, field: &str) -> String {
    cli.ok(&["inspect", "-f", &format!("{{{{.State.{field}}}}}"), name])
}

fn fetch(port: u16) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.write_all(b"GET /index.html HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn alive(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

#[test]
fn an_exit_while_the_engine_is_dead_is_reported_as_it_was() {
    let engine = Engine::with_image();
    let wharf = engine.wharf();
    let told = engine.dir().join("told");
    std::fs::create_dir(&told).expect("a fresh directory");
    wharf.ok(&[
        "run",
        "-d",
        "--name",
        "subject",
        "-v",
        &format!("{}:/told", told.display()),
        "box",
        "sh",
        "-c",
        WAITS,
    ]);
    let pid = state(&wharf, "subject", "Pid");
    engine.kill();
    std::fs::write(told.join("now"), "").expect("writable");
    wait_until("the container to end", PATIENCE, || !alive(&pid));
    engine.start();
    assert_eq!(state(&wharf, "subject", "Status"), "exited");
    assert_eq!(state(&wharf, "subject", "ExitCode"), "9");
    assert_eq!(wharf.ok(&["wait", "subject"]), "9");
    assert_eq!(wharf.ok(&["logs", "subject"]), "ready\nfarewell");
    wharf.ok(&["rm", "subject"]);
}

#[test]
fn an_automatic_removal_that_was_due_while_the_engine_was_dead_is_made_up_for() {
    let engine = Engine::with_image();
    let wharf = engine.wharf();
    let told = engine.dir().join("told");
    std::fs::create_dir(&told).expect("a fresh directory");
    let bind = format!("{}:/told", told.display());
    wharf.ok(&["run", "-d", "--rm", "--name", "subject", "-v", &bind, "box", "sh", "-c", WAITS]);
    let pid = state(&wharf, "subject", "Pid");
    engine.kill();
    std::fs::write(told.join("now"), "").expect("writable");
    wait_until("the container to end", PATIENCE, || !alive(&pid));
    engine.start();
    wait_until("the container to be removed", PATIENCE, || wharf.ok(&["ps", "-aq"]).is_empty());
}

#[test]
fn a_clean_shutdown_leaves_containers_and_their_ports_alone() {
    let engine = Engine::with_image();
    let wharf = engine.wharf();
    let port = engine.port(0);
    let publish = format!("{port}:80");
    wharf.ok(&["run", "-d", "--name", "web", "-p", &publish, "box", "httpd", "-f", "-h", "/www"]);
    wait_until("the page", PATIENCE, || {
        fetch(port).is_ok_and(|page| page.contains("hello from the container"))
    });
    let pid = state(&wharf, "web", "Pid");
    assert!(engine.terminate().success(), "SIGTERM is a clean end");
    assert!(alive(&pid), "the container went with the engine");
    assert!(fetch(port).expect("the port answers without an engine").contains("hello from the container"));
    engine.start();
    assert_eq!(state(&wharf, "web", "Pid"), pid);
    assert!(fetch(port).expect("the port answers").contains("hello from the container"));
    wharf.ok(&["rm", "-f", "web"]);
    assert!(fetch(port).is_err(), "the port is closed again");
}

#[test]
fn the_port_of_an_ended_container_is_free_for_the_next() {
    let engine = Engine::with_image();
    let wharf = engine.wharf();
    let publish = format!("{}:80", engine.port(0));
    let serve = ["run", "-d", "--rm", "-p", &publish, "--name"];
    for round in 0..5 {
        let name = format!("web{round}");
        wharf.ok(&[&serve[..], &[&name, "box", "sleep", "600"]].concat());
        if round % 2 == 1 {
            engine.kill();
            engine.start();
        }
        wharf.ok(&["kill", &name]);
        let taken = wharf.run(&["wait", &name]);
        assert!(taken.code == 0 || taken.stderr.contains("No such container"), "{}", taken.stderr);
    }
    // And with whoever waits until it ends.
    for _ in 0..5 {
        wharf.ok(&["run", "--rm", "-p", &publish, "box", "true"]);
    }
}

#[test]
fn without_live_restore_a_clean_shutdown_stops_containers() {
    let engine = EngineBuilder::default().argument("--live-restore=false").start();
    engine.load(&image::archive());
    let wharf = engine.wharf();
    wharf.ok(&["run", "-d", "--name", "subject", "-t", "--stop-timeout", "1", "box", "sleep", "600"]);
    let pid = state(&wharf, "subject", "Pid");
    assert!(engine.terminate().success());
    wait_until("the container to be stopped", PATIENCE, || !alive(&pid));
    engine.start();
    assert_eq!(state(&wharf, "subject", "Status"), "exited");
    wharf.ok(&["rm", "subject"]);
}

/// The process that watches over a container: its parent.
fn parent(pid: &str) -> i32 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:")).expect("a parent");
    line.trim().parse().expect("a number")
}

#[test]
fn the_death_of_a_shim_is_told_as_it_is() {
    let engine = Engine::with_image();
    let wharf = engine.wharf();
    wharf.ok(&["run", "-d", "--name", "subject", "box", "sleep", "600"]);
    let pid = state(&wharf, "subject", "Pid");
    let shim = parent(&pid);
    kill_process(Pid::from_raw(shim).expect("a process"), Signal::KILL).expect("root may");
    wait_until("the loss to be reported", PATIENCE, || state(&wharf, "subject", "Status") == "exited");
    assert!(!alive(&pid), "it is reported as ended and still runs");
    assert_ne!(state(&wharf, "subject", "ExitCode"), "0", "nobody saw it succeed");
    assert_eq!(wharf.ok(&["start", "subject"]), "subject");
    assert_eq!(wharf.ok(&["exec", "subject", "echo", "back"]), "back");
    wharf.ok(&["rm", "-f", "subject"]);
}

#[test]
fn the_death_of_engine_and_shim_together_is_told_by_the_next_engine() {
    let engine = Engine::with_image();
    let wharf = engine.wharf();
    wharf.ok(&["run", "-d", "--name", "subject", "box", "sleep", "600"]);
    let pid = state(&wharf, "subject", "Pid");
    let shim = parent(&pid);
    engine.kill();
    kill_process(Pid::from_raw(shim).expect("a process"), Signal::KILL).expect("root may");
    engine.start();
    wait_until("the loss to be reported", PATIENCE, || state(&wharf, "subject", "Status") == "exited");
    assert!(!alive(&pid), "it is reported as ended and still runs");
    wharf.ok(&["rm", "subject"]);
}

#[test]
fn after_a_reboot_containers_are_stopped_and_can_be_started() {
    let engine = Engine::with_image();
    let wharf = engine.wharf();
    let publish = format!("{}:80", engine.port(0));
    wharf.ok(&["run", "-d", "--name", "once", "-p", &publish, "box", "sleep", "600"]);
    wharf.ok(&["run", "-d", "--name", "always", "--restart", "always", "box", "sleep", "600"]);
    let pids = ["once", "always"].map(|name| state(&wharf, name, "Pid"));
    engine.kill();
    // A reboot: every process gone at once, and /run empty.
    for pid in &pids {
        let shim = parent(pid);
        for victim in [shim, pid.parse().expect("a number")] {
            let _ = kill_process(Pid::from_raw(victim).expect("a process"), Signal::KILL);
        }
    }
    wait_until("all processes to be gone", PATIENCE, || !pids.iter().any(|pid| alive(pid)));
    remove_contents(&engine.exec_root());
    engine.start();
    assert_eq!(state(&wharf, "once", "Status"), "exited");
    wait_until("the restart policy to act", PATIENCE, || state(&wharf, "always", "Status") == "running");
    wharf.ok(&["start", "once"]);
    assert_eq!(state(&wharf, "once", "Status"), "running");
    wharf.ok(&["rm", "-f", "once", "always"]);
}

fn remove_contents(dir: &Path) {
    for entry in std::fs::read_dir(dir).expect("the exec root exists").flatten() {
        let path = entry.path();
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let removed = if is_dir { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        removed.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}

/// A shim keeps so much for an engine that does not listen, and then hangs up. That is no end of the container.
#[test]
fn an_engine_that_did_not_listen_for_long_disturbs_no_container() {
    let engine = Engine::with_image();
    let wharf = engine.wharf();
    let probed = ["--health-cmd", "true", "--health-interval", "1ms"];
    let run = [&["run", "-d", "--name", "subject"], &probed[..], &["box", "sleep", "6000"]].concat();
    wharf.ok(&run);
    wait_until("it to be probed", PATIENCE, || state(&wharf, "subject", "Health.Status") == "healthy");
    let pid = state(&wharf, "subject", "Pid");
    let id = wharf.ok(&["inspect", "-f", "{{.Id}}", "subject"]);
    let said =
        |file: &Path, words: &str| std::fs::read_to_string(file).is_ok_and(|text| text.contains(words));
    let shim = engine.data_root().join("containers").join(id).join("shim.log");
    let signal = |signal| {
        let pid = engine.pid().and_then(|pid| Pid::from_raw(pid as i32)).expect("the engine runs");
        kill_process(pid, signal).expect("root may");
    };
    signal(Signal::STOP);
    wait_until("the shim to hang up", PATIENCE, || said(&shim, "hung up"));
    signal(Signal::CONT);
    wait_until("the engine to call again", PATIENCE, || {
        said(&engine.dir().join("wharfd.log"), "called again")
    });
    assert_eq!(wharf.ok(&["exec", "subject", "echo", "here"]), "here");
    assert_eq!(
        (state(&wharf, "subject", "Status"), state(&wharf, "subject", "Pid")),
        ("running".into(), pid)
    );
    wharf.ok(&["rm", "-f", "subject"]);
}
