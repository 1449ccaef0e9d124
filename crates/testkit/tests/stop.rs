//! `stop`, `restart` and `kill` of containers that take their time, or are frozen.

use serde_json::{Value, json};
use wharf_testkit::{Api, Engine, PATIENCE, wait_until};

/// Says that it is ready and ignores the usual signal.
const STUBBORN: &str = "trap '' TERM; echo ready; while :; do sleep 1; done";

struct World {
    engine: Engine,
    api: Api,
}

impl World {
    fn new() -> Self {
        let engine = Engine::with_image();
        Self { api: engine.api(), engine }
    }

    /// Runs a script and waits until it says that it is ready.
    fn run(&self, flags: &[&str], script: &str) {
        let wharf = self.engine.wharf();
        wharf.ok(&[&["run", "-d", "--name", "one"][..], flags, &["box", "sh", "-c", script]].concat());
        wait_until("the script to be ready", PATIENCE, || wharf.ok(&["logs", "one"]) == "ready");
    }

    fn post(&self, path: &str) -> u16 {
        self.api.request("POST", path, None).expect("an answer").status
    }

    fn inspect(&self) -> Value {
        self.api.get("/containers/one/json").expect("it is there")
    }

    /// How often somebody had a signal sent to a container.
    fn signals(&self) -> usize {
        let filters = "%7B%22event%22%3A%5B%22kill%22%5D%7D";
        let until = jiff::Timestamp::now().as_second();
        let path = format!("/events?since=0&until={until}&filters={filters}");
        let answer = self.api.request("GET", &path, None).expect("an answer");
        String::from_utf8_lossy(&answer.body).lines().filter(|line| line.contains("\"kill\"")).count()
    }

    fn wait_for_signals(&self, count: usize) {
        wait_until("the signal to be sent", PATIENCE, || self.signals() >= count);
    }
}

#[test]
fn a_long_stop_keeps_nobody_out() {
    let world = World::new();
    world.run(&[], STUBBORN);
    std::thread::scope(|scope| {
        let api = world.engine.api();
        let long = scope.spawn(move || {
            api.request("POST", "/containers/one/stop?t=100000", None).expect("an answer").status
        });
        world.wait_for_signals(1);
        // Everything else is done at once meanwhile.
        assert_eq!(world.post("/containers/one/pause"), 204);
        assert_eq!(world.post("/containers/one/unpause"), 204);
        assert_eq!(world.post("/containers/one/start"), 304);
        let more = json!({"CpuShares": 512});
        let updated = world.api.request("POST", "/containers/one/update", Some(&more)).expect("an answer");
        assert_eq!(updated.status, 200, "{}", updated.message());
        assert_eq!(world.post("/containers/one/rename?name=two"), 204);
        assert_eq!(world.post("/containers/two/rename?name=one"), 204);
        assert!(!long.is_finished(), "it is still waiting");
        assert_eq!(world.inspect()["State"]["Running"], true);
        // Who has less patience ends the container for both.
        assert_eq!(world.post("/containers/one/stop?t=0"), 204);
        assert_eq!(long.join().expect("no panic"), 204);
    });
    let state = &world.inspect()["State"];
    assert_eq!((&state["Running"], &state["ExitCode"]), (&json!(false), &json!(137)));
}

#[test]
fn restarts_that_overlap_leave_one_run_of_a_container_that_removes_itself() {
    let world = World::new();
    world.run(&["--rm"], STUBBORN);
    let first = world.inspect();
    std::thread::scope(|scope| {
        let api = world.engine.api();
        let long = scope.spawn(move || {
            api.request("POST", "/containers/one/restart?t=100000", None).expect("an answer").status
        });
        world.wait_for_signals(1);
        assert_eq!(world.inspect()["HostConfig"]["AutoRemove"], true);
        assert_eq!(world.post("/containers/one/restart?t=0"), 204);
        assert_eq!(long.join().expect("no panic"), 204);
    });
    let now = world.inspect();
    assert_eq!((&now["Id"], &now["State"]["Running"]), (&first["Id"], &json!(true)));
    assert_ne!(now["State"]["Pid"], first["State"]["Pid"]);
    assert_eq!(now["HostConfig"]["AutoRemove"], true);
    assert_eq!(world.post("/containers/one/stop?t=0"), 204);
    wait_until("it to remove itself", PATIENCE, || world.api.get("/containers/one/json").is_err());
}

#[test]
fn who_is_started_again_while_a_stop_waits_is_left_alone() {
    let world = World::new();
    world.run(&[], STUBBORN);
    std::thread::scope(|scope| {
        let api = world.engine.api();
        let long = scope.spawn(move || {
            api.request("POST", "/containers/one/stop?t=100000", None).expect("an answer").status
        });
        world.wait_for_signals(1);
        assert_eq!(world.post("/containers/one/kill"), 204);
        // Its end is what the stop waited for, whoever starts it next.
        assert!(matches!(world.post("/containers/one/start"), 204 | 304));
        assert_eq!(long.join().expect("no panic"), 204);
    });
    wait_until("it to run again", PATIENCE, || {
        world.post("/containers/one/start");
        world.inspect()["State"]["Running"] == true
    });
}

/// Databases have stop signals of their own: frozen, they would be killed without having heard it.
#[test]
fn a_frozen_container_is_thawed_for_its_own_stop_signal() {
    let world = World::new();
    let script =
        "trap 'exit 9' USR1; trap 'exit 8' HUP; trap '' USR2; echo ready; while :; do usleep 10000; done";
    for (call, code) in [("stop?t=100000", 9), ("kill?signal=USR1", 9), ("stop?t=100000&signal=HUP", 8)] {
        world.run(&["--stop-signal", "USR1"], script);
        assert_eq!(world.post("/containers/one/pause"), 204);
        assert_eq!(world.post("/containers/one/kill?signal=USR2"), 204);
        assert_eq!(world.inspect()["State"]["Status"], "paused", "not every signal wakes it");
        assert_eq!(world.post(&format!("/containers/one/{call}")), 204);
        wait_until("its end", PATIENCE, || world.inspect()["State"]["Running"] == false);
        assert_eq!(world.inspect()["State"]["ExitCode"], code, "{call}");
        world.engine.wharf().ok(&["rm", "one"]);
    }
}
