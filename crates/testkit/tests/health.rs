//! Health checks as a client sees them.
//!
//! What Docker does as well is one function per behaviour, called for Wharf and (`WHARF_TEST_REFERENCE=1`) for the real
//! Docker; what is Wharf's own (native probes, life without an engine, acting on unhealthy) is for Wharf alone.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use wharf_testkit::{Api, Cli, Engine, PATIENCE, Reference, image, retry_until, wait_until};

/// One engine, ours or the real one, with the image `box`.
struct World {
    api: Api,
    cli: Cli,
    /// In front of every name, because the real engine is shared.
    prefix: &'static str,
}

impl World {
    fn wharf(engine: &Engine) -> Self {
        Self { api: engine.api(), cli: engine.wharf(), prefix: "health-test" }
    }

    fn reference(prefix: &'static str) -> Option<Self> {
        let reference = Reference::find()?;
        let cli = reference.docker();
        assert_eq!(cli.run_with_input(&["load"], &image::archive()).code, 0);
        Some(Self { api: reference.api(), cli, prefix })
    }

    fn name(&self, name: &str) -> String {
        format!("{}-{name}", self.prefix)
    }

    /// Makes and starts a container that sleeps and is checked so.
    fn run(&self, name: &str, check: Value) -> String {
        self.run_as(name, json!({"Image": "box", "Cmd": ["sleep", "600"], "Healthcheck": check}))
    }

    fn run_as(&self, name: &str, body: Value) -> String {
        let name = self.name(name);
        let made = self.api.request("POST", &format!("/containers/create?name={name}"), Some(&body));
        let made = made.expect("the engine answers");
        assert_eq!(made.status, 201, "{}", made.message());
        self.cli.ok(&["start", &name]);
        name
    }

    fn state(&self, name: &str) -> Value {
        self.api.get(&format!("/containers/{name}/json")).expect("it exists")["State"].clone()
    }

    fn health(&self, name: &str) -> Value {
        self.state(name)["Health"].clone()
    }

    fn wait_for(&self, name: &str, status: &str) -> Value {
        retry_until(&format!("{name} to be {status}"), PATIENCE, || {
            Some(self.health(name)).filter(|health| health["Status"] == status)
        })
    }

    /// The events of a container up to now.
    fn events(&self, name: &str) -> Vec<(String, BTreeMap<String, String>)> {
        let until = self.cli.ok(&["info", "-f", "{{.SystemTime}}"]);
        let filter = format!("container={name}");
        let text = self.cli.ok(&[
            "events",
            "--since",
            "10m",
            "--until",
            &until,
            "--filter",
            &filter,
            "--format",
            "{{json .}}",
        ]);
        text.lines()
            .map(|line| serde_json::from_str::<Value>(line).expect("an event"))
            .map(|event| {
                let attributes = serde_json::from_value(event["Actor"]["Attributes"].clone()).expect("texts");
                (event["Action"].as_str().expect("an action").to_owned(), attributes)
            })
            .collect()
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

const MS: i64 = 1_000_000;

/// The same for Wharf and for the real Docker.
macro_rules! both {
    ($($name:ident),+ $(,)?) => {
        mod ours { $(#[test] fn $name() {
            let engine = super::Engine::with_image();
            super::$name(&super::World::wharf(&engine));
        })+ }
        mod reference { $(#[test] fn $name() {
            if let Some(world) = super::World::reference(concat!("health-", stringify!($name))) {
                super::$name(&world);
            }
        })+ }
    };
}

both!(
    a_container_goes_from_starting_to_unhealthy_to_healthy,
    failures_in_the_start_period_do_not_count,
    a_probe_that_takes_too_long_has_failed,
    output_is_kept_up_to_4096_bytes,
    a_restart_begins_anew_and_keeps_the_past_and_a_stop_ends_health,
    the_events_of_a_check_are_an_exec_and_a_change,
    an_image_check_is_inherited_and_switched_off,
    no_check_is_no_health_and_the_filter_knows_four_words,
    a_command_that_does_not_exist_fails_with_its_reason,
);

fn a_container_goes_from_starting_to_unhealthy_to_healthy(world: &World) {
    let test = json!(["CMD-SHELL", "echo out; echo err >&2; test -e /tmp/ok"]);
    let name = world.run("a", json!({"Test": test, "Interval": 300 * MS, "Retries": 2}));
    let first = world.health(&name);
    assert_eq!(first, json!({"Status": "starting", "FailingStreak": 0, "Log": []}));
    let ps = || world.cli.ok(&["ps", "--filter", &format!("name={name}"), "--format", "{{.Status}}"]);
    assert!(ps().ends_with(" (health: starting)"), "{}", ps());
    let unhealthy = world.wait_for(&name, "unhealthy");
    assert!(unhealthy["FailingStreak"].as_i64() >= Some(2));
    let log = unhealthy["Log"].as_array().expect("a list");
    assert!(log.len() >= 2 && log.iter().all(|result| result["ExitCode"] == 1), "{log:?}");
    let output = log[0]["Output"].as_str().expect("a text");
    assert!(["out\nerr\n", "err\nout\n"].contains(&output), "both streams, in no promised order: {output:?}");
    let time =
        |value: &Value| value.as_str().and_then(|text| text.parse::<jiff::Timestamp>().ok()).expect("a time");
    assert!(time(&log[0]["Start"]) <= time(&log[0]["End"]) && time(&log[0]["End"]) <= time(&log[1]["Start"]));
    assert!(ps().ends_with(" (unhealthy)"), "{}", ps());
    world.cli.ok(&["exec", &name, "touch", "/tmp/ok"]);
    let healthy = world.wait_for(&name, "healthy");
    assert_eq!(healthy["FailingStreak"], 0);
    assert!(ps().ends_with(" (healthy)"), "{}", ps());
    // A failure does not make it unhealthy as long as there are fewer than two in a row.
    world.cli.ok(&["exec", &name, "rm", "/tmp/ok"]);
    retry_until("a failure", PATIENCE, || (world.health(&name)["FailingStreak"] == 1).then_some(()));
    wait_until("five results", PATIENCE, || {
        world.health(&name)["Log"].as_array().is_some_and(|log| log.len() == 5)
    });
}

fn failures_in_the_start_period_do_not_count(world: &World) {
    let check = json!({
        "Test": ["CMD-SHELL", "test -e /tmp/ok"], "Interval": 300 * MS, "Retries": 1,
        "StartPeriod": 600_000 * MS, "StartInterval": 200 * MS,
    });
    let name = world.run("a", check);
    let starting = retry_until("three failures", PATIENCE, || {
        Some(world.health(&name)).filter(|health| health["Log"].as_array().is_some_and(|log| log.len() >= 3))
    });
    assert_eq!((&starting["Status"], &starting["FailingStreak"]), (&json!("starting"), &json!(0)));
    world.cli.ok(&["exec", &name, "touch", "/tmp/ok"]);
    world.wait_for(&name, "healthy");
    // The first success has ended the period.
    world.cli.ok(&["exec", &name, "rm", "/tmp/ok"]);
    world.wait_for(&name, "unhealthy");
}

fn a_probe_that_takes_too_long_has_failed(world: &World) {
    let test = json!(["CMD-SHELL", "echo slow; sleep 30"]);
    let name = world.run("a", json!({"Test": test, "Interval": 100 * MS, "Timeout": 700 * MS, "Retries": 1}));
    let unhealthy = world.wait_for(&name, "unhealthy");
    let last = &unhealthy["Log"][0];
    assert_eq!(last["ExitCode"], -1);
    assert_eq!(last["Output"], "Health check exceeded timeout (700ms): slow\n");
}

fn output_is_kept_up_to_4096_bytes(world: &World) {
    let test = json!(["CMD-SHELL", "yes 12345678 | head -c 5000"]);
    let name = world.run("a", json!({"Test": test, "Interval": 100 * MS}));
    let healthy = world.wait_for(&name, "healthy");
    let output = healthy["Log"][0]["Output"].as_str().expect("a text");
    assert_eq!(output.len(), 4099);
    assert!(output.starts_with("12345678\n") && output.ends_with("..."));
}

fn a_restart_begins_anew_and_keeps_the_past_and_a_stop_ends_health(world: &World) {
    let name = world
        .run("a", json!({"Test": ["CMD", "test", "-e", "/tmp/ok"], "Interval": 1000 * MS, "Retries": 1}));
    let before = world.wait_for(&name, "unhealthy");
    let check = json!({"Test": ["CMD", "true"], "Interval": 600_000 * MS});
    let slow = world.run("b", check);
    world.cli.ok(&["restart", "-t", "0", &slow]);
    assert_eq!(world.health(&slow), json!({"Status": "starting", "FailingStreak": 0, "Log": []}));
    world.cli.ok(&["restart", "-t", "0", &name]);
    let after = world.health(&name);
    let first = |health: &Value| health["Log"][0]["Start"].as_str().map(str::to_owned);
    let began = world.state(&name)["StartedAt"].as_str().map(str::to_owned);
    assert!(first(&before) <= first(&after) && first(&after) < began, "results of before are still shown");
    world.cli.ok(&["stop", "-t", "0", &name]);
    let stopped = world.health(&name);
    assert_eq!(stopped["Status"], "unhealthy");
    world.cli.ok(&["stop", "-t", "0", &slow]);
    assert_eq!(world.health(&slow)["Status"], "unhealthy", "what does not run is not healthy");
}

fn the_events_of_a_check_are_an_exec_and_a_change(world: &World) {
    let test = json!(["CMD-SHELL", "exit 3"]);
    let name = world.run("a", json!({"Test": test, "Interval": 700 * MS, "Retries": 1}));
    world.wait_for(&name, "unhealthy");
    let events = retry_until("the event of the change", PATIENCE, || {
        Some(world.events(&name)).filter(|events| events.iter().any(|(action, _)| action == "exec_die"))
    });
    let of = |action: &str| events.iter().find(|(name, _)| name == action).map(|(_, attributes)| attributes);
    let ids: Vec<&String> = ["exec_create: /bin/sh -c exit 3", "exec_start: /bin/sh -c exit 3", "exec_die"]
        .iter()
        .map(|action| &of(action).unwrap_or_else(|| panic!("no {action} in {events:?}"))["execID"])
        .collect();
    assert!(ids[0].len() == 64 && ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    assert_eq!(of("exec_die").expect("as above")["exitCode"], "3");
    assert!(of("health_status: unhealthy").is_some(), "{events:?}");
    assert_eq!(events.iter().filter(|(action, _)| action.starts_with("health_status")).count(), 1);
}

fn an_image_check_is_inherited_and_switched_off(world: &World) {
    let tag = format!("{}:1", world.name("image"));
    let base = world.run_as("base", json!({"Image": "box", "Cmd": ["sleep", "600"]}));
    let change = "HEALTHCHECK --interval=200ms --retries=1 CMD exit 0";
    world.cli.ok(&["commit", "--change", change, &base, &tag]);
    let inherited = world.run_as("a", json!({"Image": tag, "Cmd": ["sleep", "600"]}));
    world.wait_for(&inherited, "healthy");
    let more =
        world.run_as("b", json!({"Image": tag, "Cmd": ["sleep", "600"], "Healthcheck": {"Retries": 7}}));
    let config = world.api.get(&format!("/containers/{more}/json")).expect("it exists")["Config"].clone();
    let wanted = json!({"Test": ["CMD-SHELL", "exit 0"], "Interval": 200 * MS, "Retries": 7});
    assert_eq!(config["Healthcheck"], wanted);
    let name = world.name("c");
    world.cli.ok(&["run", "-d", "--no-healthcheck", "--name", &name, &tag, "sleep", "600"]);
    assert_eq!(world.health(&name), Value::Null);
    for name in [inherited, more, name, base] {
        world.cli.ok(&["rm", "-f", &name]);
    }
    world.cli.ok(&["rmi", &tag]);
}

fn no_check_is_no_health_and_the_filter_knows_four_words(world: &World) {
    let healthy = world.run("healthy", json!({"Test": ["CMD", "true"], "Interval": 100 * MS}));
    let unhealthy =
        world.run("unhealthy", json!({"Test": ["CMD", "false"], "Interval": 100 * MS, "Retries": 1}));
    let starting = world.run("starting", json!({"Test": ["CMD", "true"]}));
    let none = world.run("none", json!({"Test": ["NONE"]}));
    let unknown = world.run("unknown", json!({"Test": ["SOMETHING", "x"]}));
    let without = world.run("without", json!({"Interval": 100 * MS}));
    for name in [&none, &unknown, &without] {
        assert!(world.state(name).get("Health").is_none(), "{name}");
    }
    world.wait_for(&healthy, "healthy");
    world.wait_for(&unhealthy, "unhealthy");
    let listed = |value: &str| {
        let (name, health) = (format!("name={}", world.prefix), format!("health={value}"));
        let text =
            world.cli.ok(&["ps", "-a", "--filter", &name, "--filter", &health, "--format", "{{.Names}}"]);
        let mut names: Vec<String> = text.lines().map(str::to_owned).collect();
        names.sort_unstable();
        names
    };
    assert_eq!(listed("healthy"), [healthy]);
    assert_eq!(listed("unhealthy"), [unhealthy]);
    assert_eq!(listed("starting"), [starting]);
    assert_eq!(listed("none"), [none, unknown, without]);
    let error = world.cli.fails(1, &["ps", "--filter", "health=bogus"]);
    assert_eq!(
        error.trim(),
        "Error response from daemon: invalid filter 'health=bogus': invalid value for health (bogus): must be one of \
         none, starting, healthy, unhealthy"
    );
}

fn a_command_that_does_not_exist_fails_with_its_reason(world: &World) {
    let name = world.run("a", json!({"Test": ["CMD", "nosuch", "a"], "Interval": 200 * MS, "Retries": 1}));
    let result = world.wait_for(&name, "unhealthy")["Log"][0].clone();
    assert_eq!(result["ExitCode"], -1);
    assert_eq!(
        result["Output"],
        "OCI runtime exec failed: exec failed: unable to start container process: exec: \"nosuch\": executable file not \
         found in $PATH"
    );
}

/// A container of nothing but a directory, which no command could be run in.
fn run_native(world: &World, name: &str, flags: &[&str], command: &[&str]) -> String {
    let name = world.name(name);
    let interval = ["--health-interval", "100ms", "--health-retries", "1"];
    let args = [&["run", "-d", "--name", &name], flags, &interval, &["box"], command].concat();
    world.cli.ok(&args);
    name
}

#[test]
fn native_probes_need_no_process_in_the_container() {
    let engine = Engine::with_image();
    let world = World::wharf(&engine);
    let serve = ["httpd", "-f", "-p", "8080", "-h", "/www"];
    let page = run_native(&world, "http", &["--health-http", "http://:8080/index.html"], &serve);
    let port = run_native(&world, "tcp", &["--health-tcp", "8080"], &serve);
    let missing = run_native(&world, "missing", &["--health-http", ":8080/nothing"], &serve);
    let closed = run_native(&world, "closed", &["--health-tcp", "8081"], &serve);
    let lost = run_native(&world, "lost", &["--health-unix", "/run/nothing"], &serve);
    assert_eq!(world.wait_for(&page, "healthy")["Log"][0]["Output"], "HTTP/1.1 200 OK");
    assert_eq!(world.wait_for(&port, "healthy")["Log"][0]["Output"], "connected to 127.0.0.1:8080");
    assert_eq!(world.wait_for(&missing, "unhealthy")["Log"][0]["Output"], "HTTP/1.1 404 Not Found");
    let reason = "cannot connect to 127.0.0.1:8081: connection refused";
    assert_eq!(world.wait_for(&closed, "unhealthy")["Log"][0]["Output"], reason);
    let reason = "cannot connect to /run/nothing: no such file or directory";
    assert_eq!(world.wait_for(&lost, "unhealthy")["Log"][0]["Output"], reason);
    // Nothing was run: the container's processes are those of its command, and no exec was told of.
    for name in [&page, &port, &missing] {
        let started = world.events(name).into_iter().filter(|(action, _)| action.starts_with("exec_"));
        assert_eq!(started.count(), 0);
    }
    let test = world.api.get(&format!("/containers/{page}/json")).expect("it exists")["Config"]["Healthcheck"]["Test"].clone();
    assert_eq!(test, json!(["HTTP", "http://:8080/index.html"]));
}

#[test]
fn a_native_probe_follows_no_redirect_and_sees_the_containers_network_only() {
    use std::io::{Read as _, Write as _};
    let engine = Engine::with_image();
    let world = World::wharf(&engine);
    // A server of the host, at the very port.
    let listener = wharf_testkit::loopback::tcp();
    let port = listener.local_addr().expect("an address").port().to_string();
    let alone = run_native(&world, "alone", &["--health-tcp", &port], &["sleep", "600"]);
    world.wait_for(&alone, "unhealthy");
    listener.set_nonblocking(true).expect("a socket");
    assert!(listener.accept().is_err(), "the probe came out of the container");
    // On the host's network it is the container's, too. It sends elsewhere, and nobody goes there.
    listener.set_nonblocking(false).expect("a socket");
    let elsewhere = wharf_testkit::loopback::tcp();
    let there = elsewhere.local_addr().expect("an address");
    let flags = ["--network", "host", "--health-http", &format!("http://127.0.0.1:{port}/a")];
    let shared = run_native(&world, "shared", &flags, &["sleep", "600"]);
    let (mut stream, _) = listener.accept().expect("the probe");
    let mut asked = [0; 512];
    let count = stream.read(&mut asked).expect("a request");
    assert!(String::from_utf8_lossy(&asked[..count]).starts_with("GET /a HTTP/1.1\r\n"));
    write!(stream, "HTTP/1.1 302 Found\r\nLocation: http://{there}/\r\nContent-Length: 0\r\n\r\n")
        .expect("heard");
    drop(stream);
    assert_eq!(world.wait_for(&shared, "healthy")["Log"][0]["Output"], "HTTP/1.1 302 Found");
    elsewhere.set_nonblocking(true).expect("a socket");
    assert!(elsewhere.accept().is_err(), "the redirect was followed");
}

#[test]
fn targets_and_actions_that_make_no_sense_are_refused_at_create() {
    let engine = Engine::with_image();
    let wharf = engine.wharf();
    for (flags, reason) in [
        (&["--health-http", "https://:1/"][..], "only http:// is probed"),
        (&["--health-http", "http://web/"], "names are not looked up"),
        (&["--health-tcp", "0"], "there is no port between 1 and 65535"),
        (&["--health-unix", "run/x"], "is not the absolute path of a socket"),
        (&["--health-tcp", "1", "--health-cmd", "x"], "only one of --health-cmd"),
        (&["--health-cmd", "x", "--health-on-failure", "reboot"], "must be one of none, restart, stop, kill"),
        (&["--rm", "--health-cmd", "x", "--health-on-failure", "restart"], "removed when it ends"),
    ] {
        let output = wharf.run(&[&["create"], flags, &["box"]].concat());
        assert_ne!(output.code, 0, "{flags:?}");
        assert!(output.stderr.contains(reason), "{flags:?}: {}", output.stderr);
    }
    assert_eq!(wharf.ok(&["ps", "-aq"]), "");
}

#[test]
fn health_goes_on_while_the_engine_is_dead() {
    let engine = Engine::with_image();
    let world = World::wharf(&engine);
    let told = engine.dir().join("told");
    std::fs::create_dir(&told).expect("a fresh directory");
    let name = world.name("a");
    let bind = format!("{}:/told", told.display());
    let script = "test -e /told/sick && { echo x >> /told/seen; exit 1; }; true";
    let check = ["--health-cmd", script, "--health-interval", "100ms", "--health-retries", "3"];
    world
        .cli
        .ok(&[&["run", "-d", "--name", &name, "-v", &bind][..], &check, &["box", "sleep", "600"]].concat());
    world.wait_for(&name, "healthy");
    engine.kill();
    std::fs::write(told.join("sick"), "").expect("writable");
    let seen = || std::fs::read_to_string(told.join("seen")).unwrap_or_default().lines().count();
    wait_until("probes without an engine", PATIENCE, || seen() > 5);
    engine.start();
    let health = world.health(&name);
    assert_eq!(health["Status"], "unhealthy", "known at once: {health}");
    assert!(health["FailingStreak"].as_i64() >= Some(5) && health["Log"].as_array().map(Vec::len) == Some(5));
    let streak = health["FailingStreak"].as_i64();
    wait_until("probes with the new engine", PATIENCE, || {
        world.health(&name)["FailingStreak"].as_i64() > streak
    });
    std::fs::remove_file(told.join("sick")).expect("it is there");
    world.wait_for(&name, "healthy");
    // What came of the last probes of a container that ends while no engine is there is not lost either.
    let pid = world.state(&name)["Pid"].to_string();
    engine.kill();
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(pid.parse().expect("a number")).expect("not zero"),
        rustix::process::Signal::KILL,
    )
    .expect("it runs");
    wait_until("its end", PATIENCE, || !std::path::Path::new(&format!("/proc/{pid}")).exists());
    engine.start();
    let health = world.health(&name);
    assert_eq!((&health["Status"], health["Log"].as_array().map(Vec::len)), (&json!("unhealthy"), Some(5)));
}

#[test]
fn a_paused_container_is_not_probed_and_stays_what_it_was() {
    let engine = Engine::with_image();
    let world = World::wharf(&engine);
    let name = world
        .run("a", json!({"Test": ["CMD", "true"], "Interval": 100 * MS, "Timeout": 300 * MS, "Retries": 1}));
    world.wait_for(&name, "healthy");
    world.cli.ok(&["pause", &name]);
    let last = |health: Value| health["Log"].as_array().and_then(|log| log.last().cloned()).expect("results");
    let frozen = last(world.health(&name));
    // Not for a condition: nothing shall happen in a time in which much could.
    std::thread::sleep(Duration::from_millis(1200));
    let health = world.health(&name);
    assert_eq!((&health["Status"], last(health.clone())), (&json!("healthy"), frozen.clone()));
    world.cli.ok(&["unpause", &name]);
    wait_until("another probe", PATIENCE, || last(world.health(&name)) != frozen);
    let health = world.health(&name);
    assert_eq!((&health["Status"], &health["FailingStreak"]), (&json!("healthy"), &json!(0)));
}

fn sick(world: &World, name: &str, flags: &[&str]) -> String {
    let name = world.name(name);
    let check =
        ["--health-cmd", "test ! -e /tmp/sick", "--health-interval", "100ms", "--health-retries", "2"];
    let command = ["box", "sh", "-c", "trap 'exit 5' TERM; while :; do usleep 10000; done"];
    world.cli.ok(&[&["run", "-d", "--name", &name][..], flags, &check, &command].concat());
    world.wait_for(&name, "healthy");
    world.cli.ok(&["exec", &name, "touch", "/tmp/sick"]);
    name
}

#[test]
fn an_unhealthy_container_is_restarted_stopped_or_killed_if_asked() {
    let engine = Engine::with_image();
    let world = World::wharf(&engine);
    let restarted = sick(&world, "restart", &["--health-on-failure", "restart", "--tmpfs", "/tmp"]);
    let inspect = |name: &str| world.api.get(&format!("/containers/{name}/json")).expect("it exists");
    wait_until("a restart", PATIENCE, || inspect(&restarted)["RestartCount"].as_i64() >= Some(1));
    // Its memory is gone with its first run, so it is well again.
    world.wait_for(&restarted, "healthy");
    let now = inspect(&restarted);
    assert_eq!(
        (&now["RestartCount"], &now["HostConfig"]["RestartPolicy"]["Name"]),
        (&json!(1), &json!("no"))
    );
    let died: Vec<_> = world.events(&restarted).into_iter().filter(|(action, _)| action == "die").collect();
    assert_eq!(died[0].1["exitCode"], "5", "it was asked to end before it was made to");
    let stopped = sick(&world, "stop", &["--restart", "always", "--health-on-failure", "stop"]);
    wait_until("its stop", PATIENCE, || world.state(&stopped)["Status"] == "exited");
    let killed = sick(
        &world,
        "kill",
        &["--restart", "on-failure:1", "--health-on-failure", "kill", "--tmpfs", "/tmp"],
    );
    wait_until("its restart by the policy", PATIENCE, || inspect(&killed)["RestartCount"] == 1);
    let told = sick(&world, "none", &["--health-on-failure", "none"]);
    world.wait_for(&told, "unhealthy");
    assert_eq!(world.state(&told)["Status"], "running");
    assert_eq!(world.state(&stopped)["Status"], "exited", "the policy does not apply after a stop");
}

#[test]
fn an_image_does_not_decide_what_is_done_about_an_unhealthy_container() {
    let engine = Engine::with_image();
    let world = World::wharf(&engine);
    let base = world.run_as("base", json!({"Image": "box", "Cmd": ["true"]}));
    let changes = [
        "--change",
        "LABEL wharf.health.on-failure=kill",
        "--change",
        "HEALTHCHECK --interval=100ms --retries=1 CMD false",
    ];
    world.cli.ok(&[&["commit"][..], &changes, &[&base, "hostile"]].concat());
    let name = world.run_as("a", json!({"Image": "hostile", "Cmd": ["sleep", "600"]}));
    world.wait_for(&name, "unhealthy");
    let streak = || world.health(&name)["FailingStreak"].as_i64();
    wait_until("more failures", PATIENCE, || streak() > Some(3));
    assert_eq!(world.state(&name)["Status"], "running");
}

#[test]
fn an_engine_that_dies_before_it_acts_on_an_unhealthy_container_does_so_later() {
    let engine = Engine::with_image();
    let world = World::wharf(&engine);
    let told = engine.dir().join("told");
    std::fs::create_dir(&told).expect("a fresh directory");
    let name = world.name("a");
    let bind = format!("{}:/told", told.display());
    let script = "test -e /told/sick && echo x >> /told/seen; test ! -e /told/sick";
    let check = [
        "--health-cmd",
        script,
        "--health-interval",
        "100ms",
        "--health-retries",
        "1",
        "--health-on-failure",
        "restart",
    ];
    world.cli.ok(&[
        &["run", "-d", "--stop-timeout", "0", "--name", &name, "-v", &bind][..],
        &check,
        &["box", "sleep", "600"],
    ]
    .concat());
    world.wait_for(&name, "healthy");
    let pid = world.state(&name)["Pid"].clone();
    engine.kill();
    std::fs::write(told.join("sick"), "").expect("writable");
    wait_until("a failure", PATIENCE, || told.join("seen").exists());
    std::thread::sleep(Duration::from_millis(300));
    engine.start();
    wait_until("the restart", PATIENCE, || world.state(&name)["Pid"] != pid);
    std::fs::remove_file(told.join("sick")).expect("it is there");
    world.wait_for(&name, "healthy");
}
