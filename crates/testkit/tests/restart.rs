//! Restart policies as a client sees them, here and (`WHARF_TEST_REFERENCE=1`) with the real Docker; and what no other
//! engine promises: counts, pauses and order that survive the death of engine and machine.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use wharf_testkit::{Api, Cli, Engine, PATIENCE, Reference, image, retry_until, wait_until};

struct World {
    api: Api,
    cli: Cli,
    prefix: &'static str,
}

impl World {
    fn wharf(engine: &Engine) -> Self {
        Self { api: engine.api(), cli: engine.wharf(), prefix: "restart-test" }
    }

    fn reference(prefix: &'static str) -> Option<Self> {
        let reference = Reference::find()?;
        let cli = reference.docker();
        assert_eq!(cli.run_with_input(&["load"], &image::archive()).code, 0);
        Some(Self { api: reference.api(), cli, prefix })
    }

    fn run(&self, name: &str, flags: &[&str], script: &str) -> String {
        let name = format!("{}-{name}", self.prefix);
        self.cli.ok(&[&["run", "-d", "--name", &name][..], flags, &["box", "sh", "-c", script]].concat());
        name
    }

    fn inspect(&self, name: &str) -> Value {
        self.api.get(&format!("/containers/{name}/json")).expect("it exists")
    }

    fn status(&self, name: &str) -> String {
        self.inspect(name)["State"]["Status"].as_str().unwrap_or_default().to_owned()
    }

    fn count(&self, name: &str) -> i64 {
        self.inspect(name)["RestartCount"].as_i64().unwrap_or_default()
    }

    fn post(&self, path: &str) -> (u16, String) {
        let answer = self.api.request("POST", path, None).expect("the engine answers");
        (answer.status, answer.message())
    }

    /// Waits until it is in a pause that is long enough to do something in it.
    fn wait_for_pause(&self, name: &str) {
        // The real engine takes its time for each start.
        wait_until("a pause of some seconds", 4 * PATIENCE, || {
            let now = self.inspect(name);
            now["State"]["Status"] == "restarting" && now["RestartCount"].as_i64() >= Some(6)
        });
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let list = self.api.get("/containers/json?all=1").unwrap_or_default();
        for container in list.as_array().into_iter().flatten() {
            let name = container["Names"][0].as_str().unwrap_or_default().trim_start_matches('/').to_owned();
            if name.starts_with(self.prefix) {
                let _ = self.api.request("DELETE", &format!("/containers/{name}?force=1&v=1"), None);
            }
        }
    }
}

macro_rules! both {
    ($($name:ident),+ $(,)?) => {
        mod ours { $(#[test] fn $name() {
            let engine = super::Engine::with_image();
            super::$name(&super::World::wharf(&engine));
        })+ }
        mod reference { $(#[test] fn $name() {
            if let Some(world) = super::World::reference(concat!("restart-", stringify!($name))) {
                super::$name(&world);
            }
        })+ }
    };
}

both!(
    pauses_begin_at_a_tenth_of_a_second_and_double,
    on_failure_counts_failures_and_ends_with_success,
    a_restarting_container_answers_as_docker_has_it,
    a_stop_ends_the_restarts_until_a_start,
    a_kill_ends_the_restarts,
    a_restart_in_the_pause_starts_at_once_and_anew,
    removal_in_the_pause_needs_force,
);

fn pauses_begin_at_a_tenth_of_a_second_and_double(world: &World) {
    let name = world.run("a", &["--restart", "always"], "date +%s >> /times; exit 3");
    wait_until("some restarts", PATIENCE, || world.count(&name) >= 6);
    let now = world.inspect(&name);
    assert_eq!(now["State"]["ExitCode"], 3);
    // The sixth restart comes after pauses of 0.1, 0.2, 0.4, 0.8, 1.6 s, and is itself 3.2 s away.
    let created: Timestamp = now["Created"].as_str().expect("a time").parse().expect("a time");
    let finished: Timestamp = now["State"]["FinishedAt"].as_str().expect("a time").parse().expect("a time");
    let took = finished.duration_since(created).as_secs_f64();
    assert!(took > 3.0, "{took} s for 3.1 s of pauses");
    let ps = world.cli.ok(&["ps", "--filter", &format!("name={name}"), "--format", "{{.State}} {{.Status}}"]);
    assert!(ps.starts_with("restarting Restarting (3) ") || ps.starts_with("running Up"), "{ps}");
}

fn on_failure_counts_failures_and_ends_with_success(world: &World) {
    let failing = world.run("fails", &["--restart", "on-failure:2"], "exit 4");
    let fine = world.run("fine", &["--restart", "on-failure"], "exit 0");
    let healed =
        world.run("heals", &["--restart", "on-failure"], "test -e /once && exit 0; touch /once; exit 1");
    wait_until("the last try", PATIENCE, || world.status(&failing) == "exited");
    assert_eq!((world.count(&failing), &world.inspect(&failing)["State"]["ExitCode"]), (2, &json!(4)));
    wait_until("the end", PATIENCE, || world.status(&fine) == "exited" && world.status(&healed) == "exited");
    assert_eq!((world.count(&fine), world.count(&healed)), (0, 1));
    // A start by hand counts anew.
    world.cli.ok(&["start", &failing]);
    wait_until("the last try", PATIENCE, || world.status(&failing) == "exited" && world.count(&failing) == 2);
}

fn a_restarting_container_answers_as_docker_has_it(world: &World) {
    let name = world.run("a", &["--restart", "always"], "exit 3");
    world.wait_for_pause(&name);
    let state = world.inspect(&name)["State"].clone();
    assert_eq!(
        (&state["Status"], &state["Running"], &state["Restarting"], &state["Pid"], &state["ExitCode"]),
        (&json!("restarting"), &json!(true), &json!(true), &json!(0), &json!(3))
    );
    let id = world.inspect(&name)["Id"].as_str().expect("an id").to_owned();
    let between = format!("Container {id} is restarting, wait until the container is running");
    assert_eq!(world.post(&format!("/containers/{name}/pause")), (409, between.clone()));
    let exec =
        world.api.request("POST", &format!("/containers/{name}/exec"), Some(&json!({"Cmd": ["true"]})));
    let exec = exec.expect("the engine answers");
    assert_eq!((exec.status, exec.message()), (409, between.clone()));
    let top = world.api.request("GET", &format!("/containers/{name}/top"), None).expect("the engine answers");
    assert_eq!((top.status, top.message()), (409, between));
    assert_eq!(world.post(&format!("/containers/{name}/start")).0, 304, "its policy starts it");
    assert_eq!(world.status(&name), "restarting");
}

fn a_stop_ends_the_restarts_until_a_start(world: &World) {
    let name = world.run("a", &["--restart", "always"], "exit 3");
    world.wait_for_pause(&name);
    let count = world.count(&name);
    world.cli.ok(&["stop", &name]);
    assert_eq!((world.status(&name).as_str(), world.count(&name)), ("exited", count));
    assert_eq!(world.post(&format!("/containers/{name}/stop")).0, 304);
    world.cli.ok(&["start", &name]);
    wait_until("it is restarted again", PATIENCE, || {
        world.status(&name) == "restarting" && world.count(&name) >= 1
    });
    // A running one as well.
    let other = world.run("b", &["--restart", "unless-stopped"], "sleep 600");
    world.cli.ok(&["stop", "-t", "0", &other]);
    assert_eq!((world.status(&other).as_str(), world.count(&other)), ("exited", 0));
}

fn a_kill_ends_the_restarts(world: &World) {
    let name = world.run("a", &["--restart", "always"], "exit 3");
    world.wait_for_pause(&name);
    assert_eq!(world.post(&format!("/containers/{name}/kill?signal=HUP")).0, 204);
    wait_until("the end", PATIENCE, || world.status(&name) == "exited");
    let other = world.run("b", &["--restart", "always"], "sleep 600");
    world.cli.ok(&["kill", &other]);
    wait_until("the end", PATIENCE, || world.status(&other) == "exited");
    assert_eq!((world.count(&other), &world.inspect(&other)["State"]["ExitCode"]), (0, &json!(137)));
}

fn a_restart_in_the_pause_starts_at_once_and_anew(world: &World) {
    let name = world.run("a", &["--restart", "always"], "test -e /ok && sleep 600; exit 3");
    world.wait_for_pause(&name);
    // Into a container that does not run: the file is there for the next run.
    let mut tar = image::Tar::new();
    tar.file("ok", 0o644, b"");
    let archive = format!("/tmp/{}.tar", world.prefix);
    std::fs::write(&archive, tar.finish()).expect("writable");
    let copied = world
        .cli
        .run_with_input(&["cp", "-", &format!("{name}:/")], &std::fs::read(&archive).expect("as above"));
    std::fs::remove_file(&archive).expect("as above");
    assert_eq!(copied.code, 0, "{copied:?}");
    world.cli.ok(&["restart", "-t", "0", &name]);
    let now = world.inspect(&name);
    assert_eq!((&now["State"]["Status"], &now["RestartCount"]), (&json!("running"), &json!(0)));
    // The pause that was planned before starts nothing any more.
    let pid = now["State"]["Pid"].clone();
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(world.inspect(&name)["State"]["Pid"], pid);
}

fn removal_in_the_pause_needs_force(world: &World) {
    let name = world.run("a", &["--restart", "always"], "exit 3");
    world.wait_for_pause(&name);
    let error = world.cli.fails(1, &["rm", &name]);
    assert_eq!(
        error.trim(),
        format!(
            "Error response from daemon: cannot remove container \"{name}\": container is restarting: stop the container \
             before removing or force remove"
        )
    );
    world.cli.ok(&["rm", "-f", &name]);
    assert_eq!(world.cli.ok(&["ps", "-aq", "--filter", &format!("name={name}")]), "");
}

#[test]
fn a_pause_goes_on_over_the_death_of_the_engine() {
    let engine = Engine::with_image();
    let world = World::wharf(&engine);
    let name = world.run("a", &["--restart", "on-failure:8"], "echo run; exit 3");
    world.wait_for_pause(&name);
    let before = world.inspect(&name);
    engine.kill();
    engine.start();
    let after = world.inspect(&name);
    assert_eq!(after["State"]["Status"], "restarting", "{}", after["State"]);
    assert_eq!(after["RestartCount"], before["RestartCount"]);
    assert_eq!(after["State"]["FinishedAt"], before["State"]["FinishedAt"]);
    // It started when it would have, not anew and not at once: 3.2 s and more after the end of the run before.
    let time = |value: &Value, field: &str| -> Timestamp {
        value["State"][field].as_str().expect("a time").parse().expect("a time")
    };
    let next = retry_until("the next run", PATIENCE, || {
        Some(world.inspect(&name)).filter(|now| time(now, "StartedAt") > time(&before, "FinishedAt"))
    });
    let pause = time(&next, "StartedAt").duration_since(time(&before, "FinishedAt")).as_secs_f64();
    assert!(pause > 3.1, "{pause}");
    engine.kill();
    engine.start();
    world.cli.ok(&["stop", &name]);
    let stopped = world.count(&name);
    engine.kill();
    engine.start();
    assert_eq!(
        (world.status(&name).as_str(), world.count(&name)),
        ("exited", stopped),
        "the stop is remembered"
    );
}

#[test]
fn restarts_are_neither_lost_nor_doubled_by_an_engine_that_keeps_dying() {
    let engine = Engine::with_image();
    let world = World::wharf(&engine);
    let told = engine.dir().join("told");
    std::fs::create_dir(&told).expect("a fresh directory");
    let bind = format!("{}:/told", told.display());
    let name = world.run("a", &["--restart", "on-failure:5", "-v", &bind], "echo x >> /told/runs; exit 3");
    let runs = || std::fs::read_to_string(told.join("runs")).unwrap_or_default().lines().count();
    for moment in [10, 60, 150, 230, 300, 420, 700] {
        std::thread::sleep(Duration::from_millis(moment));
        engine.kill();
        engine.start();
    }
    wait_until("the last try", PATIENCE, || world.status(&name) == "exited");
    assert_eq!((world.count(&name), runs()), (5, 6));
}

#[test]
fn a_manual_stop_outlives_engines() {
    let engine = Engine::with_image();
    let world = World::wharf(&engine);
    let unless = world.run("unless", &["--restart", "unless-stopped"], "sleep 600");
    let failing = world.run("failing", &["--restart", "on-failure"], "sleep 600");
    for name in [&unless, &failing] {
        world.cli.ok(&["stop", "-t", "0", name]);
    }
    engine.kill();
    engine.start();
    assert_eq!((world.status(&unless).as_str(), world.status(&failing).as_str()), ("exited", "exited"));
}

/// All that a power cut takes: processes, and what is in memory.
fn reboot(engine: &Engine, world: &World, names: &[&str]) {
    let shims: Vec<String> = names
        .iter()
        .filter_map(|name| {
            let id = world.inspect(name)["Id"].as_str()?.to_owned();
            let file = engine.exec_root().join("containers").join(id).join("shim.pid");
            Some(std::fs::read_to_string(file).ok()?.trim().to_owned())
        })
        .collect();
    engine.kill();
    for pid in &shims {
        let pid = rustix::process::Pid::from_raw(pid.parse().expect("a number")).expect("not zero");
        let _gone = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
    wait_until("the shims to be gone", PATIENCE, || {
        shims.iter().all(|pid| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.is_empty() || stat.contains(") Z ")
        })
    });
    std::fs::remove_dir_all(engine.exec_root()).expect("ours");
    engine.start();
}

#[test]
fn after_a_reboot_containers_come_back_behind_those_they_need_and_in_their_order() {
    let engine = Engine::with_image();
    let world = World::wharf(&engine);
    let always = ["--restart", "always"];
    let mut names = Vec::new();
    // Made in one order, started in another: what counts is when a person started them.
    for number in 0..4 {
        let name = format!("restart-test-{number}");
        world.cli.ok(&[&["create", "--name", &name][..], &always, &["box", "sleep", "600"]].concat());
        names.push(name);
    }
    for number in [2, 0, 3, 1] {
        world.cli.ok(&["start", &names[number]]);
    }
    let joined = format!("container:{}", names[1]);
    let guest = world.run("guest", &["--restart", "unless-stopped", "--network", &joined], "sleep 600");
    let shown = world.run("shown", &["--restart", "on-failure"], "sleep 600");
    let left = world.run("left", &[], "sleep 600");
    let stopped = world.run("stopped", &["--restart", "unless-stopped"], "sleep 600");
    world.cli.ok(&["stop", "-t", "0", &stopped]);
    // The one that others need is started anew, so that it is the youngest of all.
    world.cli.ok(&["restart", "-t", "0", &names[1]]);
    let all: Vec<&str> = names.iter().map(String::as_str).chain([guest.as_str(), &shown, &left]).collect();
    reboot(&engine, &world, &all);
    let back: Vec<&str> = all.iter().copied().filter(|name| *name != left).collect();
    wait_until("all to be back", PATIENCE, || back.iter().all(|name| world.status(name) == "running"));
    let gone = world.inspect(&left)["State"].clone();
    assert_eq!((&gone["Status"], &gone["ExitCode"]), (&json!("exited"), &json!(255)));
    assert_eq!(world.status(&stopped), "exited");
    let started = |name: &str| -> Timestamp {
        world.inspect(name)["State"]["StartedAt"].as_str().expect("a time").parse().expect("a time")
    };
    assert!(started(&names[1]) < started(&guest), "the guest waits for its host's network");
    assert!(back.iter().all(|name| world.count(name) == 0), "a reboot is no restart of the policy's");
    // The guest has really joined: their namespaces are one.
    let namespace = |name: &str| {
        let pid = world.inspect(name)["State"]["Pid"].clone();
        std::fs::read_link(format!("/proc/{pid}/ns/net")).expect("it runs")
    };
    assert_eq!(namespace(&guest), namespace(&names[1]));
}

#[test]
fn what_cannot_start_by_its_policy_is_tried_again() {
    let engine = Engine::with_image();
    let world = World::wharf(&engine);
    let source = engine.dir().join("source");
    std::fs::create_dir(&source).expect("a fresh directory");
    let mount = format!("type=bind,src={},dst=/data", source.display());
    let name =
        world.run("a", &["--restart", "always", "--mount", &mount], "test -d /data/x && sleep 600; exit 3");
    wait_until("a restart", PATIENCE, || world.count(&name) >= 1);
    std::fs::remove_dir(&source).expect("it is empty");
    let error = || world.inspect(&name)["State"]["Error"].as_str().unwrap_or_default().to_owned();
    wait_until("a start that fails", PATIENCE, || error().contains("bind source path does not exist"));
    std::fs::create_dir_all(source.join("x")).expect("ours");
    wait_until("the start that works", PATIENCE, || world.status(&name) == "running");
    assert_eq!(error(), "");
}

#[test]
fn without_live_restore_a_shutdown_is_no_stop_by_hand() {
    let engine = wharf_testkit::EngineBuilder::default().argument("--live-restore=false").start();
    engine.load(&image::archive());
    let world = World::wharf(&engine);
    let names: Vec<String> = ["always", "unless-stopped", "on-failure", "no"]
        .iter()
        .map(|policy| world.run(policy, &["--restart", policy, "--stop-timeout", "0"], "sleep 600"))
        .collect();
    assert!(engine.terminate().success());
    engine.start();
    for name in &names[..3] {
        wait_until("it to be back", PATIENCE, || world.status(name) == "running");
        assert_eq!(world.count(name), 0);
    }
    assert_eq!(world.status(&names[3]), "exited");
}
