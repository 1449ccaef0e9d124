//! Nothing grows with what was done (figure F5).
//!
//! Containers are run and removed, commands executed, attached clients leave in the middle. Afterwards there are as many
//! descriptors, mounts, control groups, links, addresses, firewall objects, watches, loop devices, files and rows as
//! before, and the memory of engine and shim has not grown by more than 1 KiB for each (95 % bound of a linear
//! regression; only of long runs, since a short one measures the warming up).
//!
//! `WHARF_TEST_LEAKS=20000` is the long run (`make leaks`).

#![expect(clippy::print_stdout, reason = "a run says what it measured")]

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

use serde_json::json;
use wharf_testkit::census::{Census, private_memory, shims, threads};
use wharf_testkit::{Api, Engine, PATIENCE, image, retry_until, wait_until};

/// Operations before anything is measured.
const WARM_UP: u64 = 20;
/// Runs of this length and more have a figure.
const LONG: u64 = 2_000;
/// The figure, in bytes for each operation.
const GOAL: f64 = 1024.0;
/// Samples of memory in a run.
const SAMPLES: u64 = 200;

fn operations() -> u64 {
    std::env::var("WHARF_TEST_LEAKS").ok().and_then(|text| text.parse().ok()).unwrap_or(40)
}

fn expect(
    api: &Api,
    method: &str,
    path: &str,
    body: Option<&serde_json::Value>,
    status: u16,
) -> serde_json::Value {
    let answer = api.request(method, path, body).unwrap_or_else(|error| panic!("{method} {path}: {error}"));
    assert_eq!(answer.status, status, "{method} {path}: {}", answer.message());
    answer.json()
}

/// Slope and half the width of its 95 % interval, both for each operation.
fn regression(points: &[(f64, f64)]) -> (f64, f64) {
    let n = points.len() as f64;
    let mean = |value: &dyn Fn(&(f64, f64)) -> f64| points.iter().map(value).sum::<f64>() / n;
    let (x, y) = (mean(&|point| point.0), mean(&|point| point.1));
    let spread: f64 = points.iter().map(|point| (point.0 - x).powi(2)).sum();
    let slope = points.iter().map(|point| (point.0 - x) * (point.1 - y)).sum::<f64>() / spread;
    let residual: f64 = points.iter().map(|point| (point.1 - y - slope * (point.0 - x)).powi(2)).sum();
    (slope, 1.97 * (residual / (n - 2.0) / spread).sqrt())
}

/// Does `operation` many times and looks for what has grown.
fn repeat(engine: &Engine, what: &str, count: u64, mut operation: impl FnMut(u64)) {
    (0..WARM_UP).for_each(&mut operation);
    // What the warming up has left behind goes first: connections, threads, cleanings.
    std::thread::sleep(std::time::Duration::from_millis(500));
    let pids = || {
        let shims = shims(engine).into_iter().map(|(pid, _)| pid);
        engine.pid().into_iter().chain(shims).collect::<Vec<_>>()
    };
    let before = Census::take(engine);
    let threads_before = threads(engine.pid().expect("it runs"));
    let every = (count / SAMPLES).max(1);
    let mut memory = Vec::new();
    for number in 0..count {
        operation(number);
        if number % every == 0 {
            let bytes: u64 = pids().into_iter().map(private_memory).sum();
            memory.push((number as f64, bytes as f64));
        }
    }
    let settled = retry_until_equal(engine, &before);
    let threads_after = threads(engine.pid().expect("it runs"));
    let (slope, bound) = regression(&memory);
    println!(
        "{what} | {count} | {} | {threads_before} -> {threads_after} | {slope:.0} ± {bound:.0} bytes",
        if settled.is_empty() { "0".to_owned() } else { settled.join(", ") }
    );
    assert!(settled.is_empty(), "{what}, {count} times: {settled:?}");
    // Threads for kernel and disk work end when they are idle; there are never more than so many.
    assert!(threads_after <= 64 + 8, "{threads_after} threads");
    if count >= LONG {
        assert!(slope + bound <= GOAL, "{what}: memory grows by {slope:.0} ± {bound:.0} bytes each time");
    }
}

/// What still differs when patience is at its end.
fn retry_until_equal(engine: &Engine, before: &Census) -> Vec<String> {
    let since = std::time::Instant::now();
    loop {
        let differs = Census::take(engine).since(before);
        if differs.is_empty() || since.elapsed() > PATIENCE {
            return differs;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}

#[test]
fn containers_that_were_run_and_removed_leave_nothing() {
    let engine = Engine::with_image();
    let api = engine.api();
    let port = engine.port(0).to_string();
    let body = json!({
        "Image": image::NAME, "Cmd": ["echo", "said"], "ExposedPorts": {"80/tcp": {}}, "Volumes": {"/data": {}},
        "HostConfig": {"PortBindings": {"80/tcp": [{"HostPort": port}]}},
    });
    repeat(&engine, "run + rm", operations(), |_| {
        let id = expect(&api, "POST", "/containers/create", Some(&body), 201)["Id"].clone();
        let id = id.as_str().expect("an id");
        expect(&api, "POST", &format!("/containers/{id}/start"), None, 204);
        expect(&api, "POST", &format!("/containers/{id}/wait"), None, 200);
        expect(&api, "DELETE", &format!("/containers/{id}?v=1"), None, 204);
    });
}

fn sleeper(engine: &Engine) {
    engine.wharf().ok(&["run", "-d", "-i", "--name", "subject", "--stop-signal", "KILL", "box", "cat"]);
}

#[test]
fn commands_that_were_executed_leave_nothing() {
    let engine = Engine::with_image();
    sleeper(&engine);
    let api = engine.api();
    let body = json!({ "Cmd": ["echo", "said"], "AttachStdout": true });
    repeat(&engine, "exec", operations(), |_| {
        let id = expect(&api, "POST", "/containers/subject/exec", Some(&body), 201)["Id"].clone();
        let id = id.as_str().expect("an id");
        expect(&api, "POST", &format!("/exec/{id}/start"), Some(&json!({ "Detach": true })), 200);
        retry_until("the command to end", PATIENCE, || {
            let state = expect(&api, "GET", &format!("/exec/{id}/json"), None, 200);
            (state["Running"] == false).then_some(())
        });
    });
    engine.wharf().ok(&["rm", "-f", "subject"]);
}

#[test]
fn attached_clients_that_leave_in_the_middle_leave_nothing() {
    let engine = Engine::with_image();
    sleeper(&engine);
    let attach = |number: u64| {
        let mut stream = UnixStream::connect(engine.socket()).expect("the engine listens");
        let streams = if number.is_multiple_of(2) { "stdin=1&stdout=1&stderr=1" } else { "stdout=1&logs=1" };
        write!(
            stream,
            "POST /containers/subject/attach?stream=1&{streams} HTTP/1.1\r\nHost: wharf\r\nConnection: Upgrade\r\n\
             Upgrade: tcp\r\nContent-Length: 0\r\n\r\n"
        )
        .expect("it reads requests");
        if !number.is_multiple_of(3) {
            let mut head = [0; 12];
            stream.read_exact(&mut head).expect("an answer");
            assert_eq!(&head, b"HTTP/1.1 101");
        }
    };
    repeat(&engine, "aborted attach", operations() / 4, attach);
    wait_until("the container to be well", PATIENCE, || {
        engine.wharf().ok(&["exec", "subject", "echo", "yes"]) == "yes"
    });
    engine.wharf().ok(&["rm", "-f", "subject"]);
}

#[test]
fn a_slope_is_found_with_its_bound() {
    let points: Vec<(f64, f64)> = (0..100).map(|n| (f64::from(n), f64::from(n * 3 + n % 2))).collect();
    let (slope, bound) = regression(&points);
    assert!((slope - 3.0).abs() < bound && bound < 0.01, "{slope} ± {bound}");
}
