//! `kill -9` of the engine at random moments disturbs nothing.
//!
//! Twenty workers each take containers through create, start, a while of numbered output, an end (stopped, killed, or by
//! itself) and remove, while a killer ends and restarts the engine. Nobody may notice: a container runs on as the same
//! process, its exit code is the right one, and its log has every line once. At the end nothing is left.
//!
//! `WHARF_TEST_KILLS=200` is the long run; `WHARF_TEST_SEED` repeats one. The same workers run against the real Docker
//! (without kills) when the reference is switched on: that proves the harness.

#![expect(clippy::print_stdout, reason = "a run says its seed and how much it did")]

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use wharf_testkit::random::Random;
use wharf_testkit::{Api, Engine, PATIENCE, Reference, image, retry_until, wait_until};

const WORKERS: u64 = 20;

/// Ten lines, a pause, and so on; SIGTERM prints how many lines there were. The increment and the line are one command,
/// because the shell runs traps between commands.
const SCRIPT: &str = "i=0; trap 'echo end $i; exit 7' TERM
while :; do
  echo line $((i+=1))
  [ $i = $LAST ] && exit 5
  [ $((i % 10)) = 0 ] && usleep 50000
done";

/// The engine's word for "not yet".
const NEVER: &str = "0001-01-01T00:00:00Z";

/// What has been seen, so that a run that did too little does not count.
#[derive(Default)]
struct Tally {
    lines: AtomicU64,
    containers: AtomicU64,
    retries: AtomicU64,
    pages: AtomicU64,
}

/// What all workers share.
struct Run {
    api: Api,
    stop: AtomicBool,
    tally: Tally,
    /// Set while the engine's death may be the reason of a failed request.
    deaths: AtomicU64,
}

/// How a container comes to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Stopped,
    Killed,
    ByItself,
}

impl End {
    fn exit_code(self) -> i64 {
        match self {
            Self::Stopped => 7,
            Self::Killed => 137,
            Self::ByItself => 5,
        }
    }
}

impl Run {
    fn new(api: Api) -> Self {
        Self { api, stop: AtomicBool::new(false), tally: Tally::default(), deaths: AtomicU64::new(0) }
    }

    /// Sends until there is an answer; a dead engine is asked again. True when it took more than one attempt, so that the
    /// earlier one may have had its effect.
    fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value, bool) {
        let mut attempts = 0;
        let answer = retry_until(&format!("an answer to {method} {path}"), PATIENCE, || {
            attempts += 1;
            self.api.request(method, path, body).ok()
        });
        if attempts > 1 {
            self.tally.retries.fetch_add(1, Ordering::Relaxed);
        }
        let json = answer.json();
        (
            answer.status,
            if json.is_null() { json!({ "message": answer.message() }) } else { json },
            attempts > 1,
        )
    }

    fn inspect(&self, id: &str) -> Value {
        let (status, json, _) = self.ask("GET", &format!("/containers/{id}/json"), None);
        assert_eq!(status, 200, "inspect of {id}: {json}");
        json
    }

    fn create(&self, name: &str, last: u64) -> String {
        let body = json!({
            "Image": image::NAME, "Cmd": ["sh", "-c", SCRIPT], "Env": [format!("LAST={last}")],
            "Labels": {"wharf.test": "kill"},
        });
        let (status, json, again) = self.ask("POST", &format!("/containers/create?name={name}"), Some(&body));
        match status {
            201 => json["Id"].as_str().expect("an id").to_owned(),
            // The engine died after it had made the container and before it could say so.
            409 if again => self.inspect(name)["Id"].as_str().expect("an id").to_owned(),
            _ => panic!("create {name}: {status} {json}"),
        }
    }

    /// Starts it once: when the engine dies over the request, the next one knows whether it ran, even if it has ended.
    fn start(&self, id: &str) {
        loop {
            match self.api.request("POST", &format!("/containers/{id}/start"), None) {
                Ok(answer) => {
                    assert_eq!(answer.status, 204, "start of {id}: {}", answer.message());
                    return;
                }
                Err(_) if self.inspect(id)["State"]["StartedAt"] != NEVER => {
                    self.tally.retries.fetch_add(1, Ordering::Relaxed);
                    return;
                }
                Err(_) => {}
            }
        }
    }

    fn expect(&self, what: &str, method: &str, path: &str, first: &[u16], repeated: &[u16]) {
        let (status, json, again) = self.ask(method, path, None);
        let fine = first.contains(&status) || again && repeated.contains(&status);
        assert!(fine, "{what}: {status} {json} (repeated: {again})");
    }

    /// One container from create to remove.
    fn life(&self, name: &str, random: &mut Random) {
        let end = [End::Stopped, End::Stopped, End::Killed, End::ByItself][random.between(0, 4) as usize];
        let last = if end == End::ByItself { random.between(1, 400) } else { 1_000_000_000 };
        let id = self.create(name, last);
        self.start(&id);
        match end {
            End::ByItself => {}
            End::Stopped | End::Killed => self.watch(&id, Duration::from_millis(random.between(100, 3000))),
        }
        if end == End::Stopped {
            // A shell that has not come to its trap yet ignores the signal, as the first process of a container.
            wait_until("the first line", PATIENCE, || !self.log(&id).is_empty());
        }
        match end {
            End::ByItself => {}
            // 304: the first attempt stopped it. 409: it is not running any more.
            End::Stopped => {
                self.expect("stop", "POST", &format!("/containers/{id}/stop?t=25"), &[204], &[304])
            }
            End::Killed => self.expect("kill", "POST", &format!("/containers/{id}/kill"), &[204], &[409]),
        }
        self.verify(&id, name, end);
        self.expect("remove", "DELETE", &format!("/containers/{id}"), &[204], &[404, 409]);
        // A removal that was cut off may still be under way: it is over when the name is unknown.
        retry_until("the removed container to be gone", PATIENCE, || {
            let (status, ..) = self.ask("GET", &format!("/containers/{id}/json"), None);
            if status == 404 {
                return Some(());
            }
            self.ask("DELETE", &format!("/containers/{id}"), None);
            None
        });
        self.tally.containers.fetch_add(1, Ordering::Relaxed);
    }

    /// It runs, as the same process, all the time.
    fn watch(&self, id: &str, time: Duration) {
        let since = Instant::now();
        let identity = |json: &Value| {
            let state = &json["State"];
            assert_eq!(state["Status"], "running", "container {id} did not survive: {state}");
            (state["Pid"].clone(), state["StartedAt"].clone(), json["RestartCount"].clone())
        };
        let first = identity(&self.inspect(id));
        let pid = first.0.as_i64().filter(|pid| *pid > 0).expect("a running container has a process");
        while since.elapsed() < time && !self.stop.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(50));
            assert_eq!(identity(&self.inspect(id)), first, "container {id} is not the same any more");
            let interfaces = std::fs::read_to_string(format!("/proc/{pid}/net/dev")).expect("it runs");
            assert!(interfaces.contains("eth0:"), "container {id} has lost its network:\n{interfaces}");
        }
    }

    /// A web server whose published port answers at every moment.
    fn serve(&self, port: u16) {
        let _stop_the_others = StopOnPanic(&self.stop);
        while !self.stop.load(Ordering::Relaxed) {
            let page =
                fetch(port).unwrap_or_else(|error| panic!("the published port does not answer: {error}"));
            assert!(page.ends_with("hello from the container\n"), "{page:?}");
            self.tally.pages.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The exit code is right and every line is there once.
    fn verify(&self, id: &str, name: &str, end: End) {
        let state = retry_until(&format!("{name} to end ({end:?})"), PATIENCE, || {
            let state = self.inspect(id)["State"].clone();
            (state["Running"] == false).then_some(state)
        });
        assert_eq!(state["ExitCode"], end.exit_code(), "{name} ({end:?}): {state}");
        assert_eq!(state["OOMKilled"], false, "{name}: {state}");
        let log = self.log(id);
        let mut count = 0;
        for line in log.lines() {
            if let Some(total) = line.strip_prefix("end ") {
                assert_eq!(total, count.to_string(), "{name}: lines are missing at the end");
                continue;
            }
            assert_eq!(line, format!("line {}", count + 1), "{name}: after line {count}");
            count += 1;
        }
        let farewell = log.lines().last().is_some_and(|line| line.starts_with("end "));
        assert_eq!(farewell, end == End::Stopped, "{name} ({end:?}) said: {:?}", log.lines().last());
        self.tally.lines.fetch_add(count, Ordering::Relaxed);
    }

    fn log(&self, id: &str) -> String {
        let path = format!("/containers/{id}/logs?stdout=1&stderr=1");
        let answer = retry_until("the log", PATIENCE, || self.api.request("GET", &path, None).ok());
        assert_eq!(answer.status, 200, "{}", answer.message());
        String::from_utf8(frames(&answer.body)).expect("the log is text")
    }

    fn worker(&self, number: u64, mut random: Random, tag: &str) {
        let _stop_the_others = StopOnPanic(&self.stop);
        let mut generation = 0;
        while !self.stop.load(Ordering::Relaxed) {
            generation += 1;
            self.life(&format!("kill-{tag}-{number}-{generation}"), &mut random);
        }
    }

    /// Lets the workers run while `disturb` does its work.
    fn go(&self, random: &mut Random, tag: &str, port: u16, disturb: impl FnOnce(&mut Random)) {
        let name = format!("kill-{tag}-web");
        let body = json!({
            "Image": image::NAME, "Cmd": ["httpd", "-f", "-h", "/www"], "ExposedPorts": {"80/tcp": {}},
            "HostConfig": {"PortBindings": {"80/tcp": [{"HostPort": port.to_string()}]}},
        });
        self.ask("DELETE", &format!("/containers/{name}?force=1"), None);
        let (status, json, _) = self.ask("POST", &format!("/containers/create?name={name}"), Some(&body));
        assert_eq!(status, 201, "{json}");
        self.expect("start", "POST", &format!("/containers/{name}/start"), &[204], &[]);
        wait_until("the web server to answer", PATIENCE, || fetch(port).is_ok());
        std::thread::scope(|scope| {
            scope.spawn(|| self.serve(port));
            for number in 0..WORKERS {
                let random = random.fork(number);
                scope.spawn(move || self.worker(number, random, tag));
            }
            let _end = StopAlways(&self.stop);
            disturb(random);
        });
        self.expect("remove", "DELETE", &format!("/containers/{name}?force=1"), &[204], &[]);
        let count = |number: &AtomicU64| number.load(Ordering::Relaxed);
        println!(
            "{} engine deaths, {} containers, {} lines, {} repeated requests, {} pages from a published port",
            count(&self.deaths),
            count(&self.tally.containers),
            count(&self.tally.lines),
            count(&self.tally.retries),
            count(&self.tally.pages),
        );
        assert!(count(&self.tally.containers) >= WORKERS, "too little happened for the run to mean anything");
    }
}

struct StopOnPanic<'a>(&'a AtomicBool);

impl Drop for StopOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}

struct StopAlways<'a>(&'a AtomicBool);

impl Drop for StopAlways<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The page of the web server, over the host's loopback.
fn fetch(port: u16) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET /index.html HTTP/1.0\r\n\r\n")?;
    let mut page = String::new();
    stream.read_to_string(&mut page)?;
    Ok(page)
}

/// The payloads of a multiplexed stream: eight bytes of header with the length in the last four, then the payload.
fn frames(mut bytes: &[u8]) -> Vec<u8> {
    let mut payload = Vec::new();
    while let Some((header, rest)) = bytes.split_first_chunk::<8>() {
        let length = u32::from_be_bytes([header[4], header[5], header[6], header[7]]) as usize;
        payload.extend_from_slice(&rest[..length]);
        bytes = &rest[length..];
    }
    assert!(bytes.is_empty(), "the stream ends in the middle of a frame");
    payload
}

#[test]
fn killing_the_engine_disturbs_no_container() {
    let kills: u64 = std::env::var("WHARF_TEST_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(20);
    let mut random = Random::from_env("WHARF_TEST_SEED");
    let engine = Engine::with_image();
    let run = Run::new(engine.api());
    let downtimes = Mutex::new(Vec::new());
    run.go(&mut random, "w", engine.port(0), |random| {
        for _ in 0..kills {
            std::thread::sleep(Duration::from_millis(random.between(20, 800)));
            if run.stop.load(Ordering::Relaxed) {
                return;
            }
            engine.kill();
            run.deaths.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(random.between(0, 100)));
            let since = Instant::now();
            engine.start();
            downtimes.lock().expect("one thread").push(since.elapsed());
        }
    });
    let mut downtimes = downtimes.into_inner().expect("one thread");
    downtimes.sort();
    println!(
        "from start to the first answer: median {:?}, worst {:?}",
        downtimes[downtimes.len() / 2],
        downtimes.last()
    );
    let left = engine.api().get("/containers/json?all=1").expect("the engine answers");
    assert_eq!(left, json!([]), "every container was removed");
    assert_eq!(entries(&engine, "containers"), Vec::<String>::new(), "no container's directory is left");
    // Dropping the engine sweeps the machine.
}

fn entries(engine: &Engine, dir: &str) -> Vec<String> {
    let list = std::fs::read_dir(engine.data_root().join(dir)).into_iter().flatten().flatten();
    list.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn the_harness_is_true_to_the_real_docker() {
    let Some(reference) = Reference::find() else { return };
    let docker = reference.docker();
    assert_eq!(docker.run_with_input(&["load"], &image::archive()).code, 0);
    let mut random = Random::from_env("WHARF_TEST_SEED");
    Run::new(reference.api()).go(&mut random, "d", 20_990, |_| std::thread::sleep(Duration::from_secs(8)));
}
