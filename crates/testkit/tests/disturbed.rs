//! The engine's death disturbs no container, and a shim's death is told at once (figure F4).
//!
//! Many containers each print a counter and answer on a TCP stream through a published port. The engine is killed again and
//! again. While it is dead some containers end: by themselves, by a signal, for want of memory. Afterwards every stream is
//! the one it was, every log has each line once, and every end is told with its code, its time and its reason. Then the
//! shims are killed.
//!
//! `WHARF_TEST_DISTURBANCES=1000` is the long run, with 100 containers (`make disturb`).

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use rustix::process::{Pid, Signal, kill_process};
use wharf_testkit::census::shims;
use wharf_testkit::random::Random;
use wharf_testkit::{Engine, EngineBuilder, PATIENCE, image, retry_until, wait_until};

/// A long run's figures.
const FIRST_ANSWER: Duration = Duration::from_secs(2);
const LOSS: Duration = Duration::from_secs(1);

/// Ten lines a second, and an echo on port 80.
const COUNTER: &str = "nc -ll -p 80 -e cat & i=0; while :; do echo line $((i+=1)); usleep 100000; done";

/// Ends when it is told to, by a file.
const MORTAL: &str = "while [ ! -e /told/$NAME ]; do usleep 10000; done; $END";

/// How containers end while nobody looks: the command, and the code and reason to be told.
const ENDS: &[(&str, &str, &str)] =
    &[("exit 9", "9", "false"), (KILLED, "137", "false"), ("exec tail /dev/zero", "137", "true")];

/// Waits for a signal from outside.
const KILLED: &str = "sleep 6000";

struct Stream {
    name: String,
    reader: BufReader<TcpStream>,
    said: u64,
}

impl Stream {
    fn open(name: String, port: u16) -> Self {
        let stream = retry_until("the container to listen", PATIENCE, || {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
            stream.set_read_timeout(Some(PATIENCE)).ok()?;
            stream.write_all(b"hello\n").ok()?;
            let mut reader = BufReader::new(stream);
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            (line == "hello\n").then_some(reader)
        });
        Self { name, reader: stream, said: 0 }
    }

    fn echoes(&mut self) {
        self.said += 1;
        let said = format!("{}\n", self.said);
        self.reader
            .get_mut()
            .write_all(said.as_bytes())
            .unwrap_or_else(|error| panic!("{}: {error}", self.name));
        let mut heard = String::new();
        self.reader.read_line(&mut heard).unwrap_or_else(|error| panic!("{}: {error}", self.name));
        assert_eq!(heard, said, "the stream of {}", self.name);
    }
}

/// A container that ends while the engine is dead.
struct Mortal {
    name: String,
    end: (&'static str, &'static str, &'static str),
    pid: PathBuf,
}

impl Mortal {
    fn start(engine: &Engine, number: u64) -> Self {
        let end = ENDS[number as usize % ENDS.len()];
        let name = format!("mortal-{number}");
        let told = format!("{}:/told", engine.dir().join("told").display());
        engine.wharf().ok(&[
            "run",
            "-d",
            "--name",
            &name,
            "--memory",
            "16m",
            "--memory-swap",
            "16m",
            "-v",
            &told,
            "-e",
            &format!("NAME={name}"),
            "box",
            "sh",
            "-c",
            &MORTAL.replace("$END", end.0),
        ]);
        let pid = engine.wharf().ok(&["inspect", "-f", "{{.State.Pid}}", &name]);
        Self { name, end, pid: PathBuf::from(format!("/proc/{pid}")) }
    }

    fn end(&self, engine: &Engine) {
        std::fs::write(engine.dir().join("told").join(&self.name), "").expect("ours");
        if self.end.0 == KILLED {
            let pid = self.pid.file_name().and_then(|name| name.to_str()?.parse().ok());
            kill_process(pid.and_then(Pid::from_raw).expect("a process"), Signal::KILL).expect("root may");
        }
        wait_until("the container to end", PATIENCE, || !self.pid.exists());
    }

    fn verify(&self, engine: &Engine, between: (SystemTime, SystemTime)) {
        let wharf = engine.wharf();
        let format = "{{.State.Status}} {{.State.ExitCode}} {{.State.OOMKilled}} {{.State.FinishedAt}}";
        let told = wharf.ok(&["inspect", "-f", format, &self.name]);
        let expected = format!("exited {} {} ", self.end.1, self.end.2);
        let finished =
            told.strip_prefix(&expected).unwrap_or_else(|| panic!("{}: {told}, not {expected}", self.name));
        let stamp = |time: SystemTime| {
            let seconds = time.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs();
            // To the second, by the same tool the test image has.
            let text = std::process::Command::new(image::busybox())
                .args(["date", "-u", "-d", &format!("@{seconds}"), "+%Y-%m-%dT%H:%M:%S"])
                .output()
                .expect("busybox has date");
            String::from_utf8_lossy(&text.stdout).trim().to_owned()
        };
        let second = &finished[..19];
        assert!(
            *stamp(between.0) <= *second && *second <= *stamp(between.1),
            "{} ended at {finished}",
            self.name
        );
        wharf.ok(&["rm", &self.name]);
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn no_container_notices_that_the_engine_dies() {
    let kills = number("WHARF_TEST_DISTURBANCES", 3);
    let long = kills >= 100;
    let containers = if long { 100 } else { 8 };
    let mut random = Random::from_env("WHARF_TEST_SEED");
    let engine = EngineBuilder::default().start();
    engine.load(&image::archive());
    let wharf = engine.wharf();
    std::fs::create_dir(engine.dir().join("told")).expect("a fresh directory");
    let mut streams: Vec<Stream> = (0..containers)
        .map(|n| {
            let name = format!("counter-{n}");
            // No limit to the log: the whole of it is compared.
            wharf.ok(&[
                "run",
                "-d",
                "--name",
                &name,
                "--stop-signal",
                "KILL",
                "-p",
                "80",
                "box",
                "sh",
                "-c",
                COUNTER,
            ]);
            let port = wharf.ok(&["port", &name, "80/tcp"]);
            let port = port.lines().next().and_then(|line| line.rsplit(':').next()).expect("a port");
            Stream::open(name, port.parse().expect("a number"))
        })
        .collect();
    let running = |engine: &Engine| {
        let mut all = engine.wharf().ok(&["ps", "-q", "--no-trunc", "--filter", "name=counter-"]);
        all.push('\n');
        all
    };
    let before = running(&engine);
    let mut starts = Vec::new();
    for n in 0..kills {
        let mortal = Mortal::start(&engine, n);
        std::thread::sleep(Duration::from_millis(random.between(0, 100)));
        engine.kill();
        let from = SystemTime::now();
        mortal.end(&engine);
        streams.iter_mut().for_each(Stream::echoes);
        let to = SystemTime::now();
        let since = Instant::now();
        engine.start();
        starts.push(since.elapsed());
        mortal.verify(&engine, (from, to));
        streams.iter_mut().for_each(Stream::echoes);
    }
    assert_eq!(running(&engine), before, "the same containers run");
    starts.sort();
    let p99 = starts[(starts.len() * 99 / 100).min(starts.len() - 1)];
    let mut lines = 0;
    for stream in &streams {
        let log = wharf.ok(&["logs", &stream.name]);
        for (n, line) in log.lines().enumerate() {
            assert_eq!(line, format!("line {}", n + 1), "the log of {}", stream.name);
            lines += 1;
        }
    }
    println!(
        "{kills} deaths of the engine, {containers} containers, {lines} lines, {} echoes; start to first answer: median {:?}, p99 {p99:?}",
        streams.iter().map(|stream| stream.said).sum::<u64>(),
        starts[starts.len() / 2]
    );
    drop(streams);
    let losses = kill_shims(&engine);
    println!(
        "{} shims killed, loss told after: median {:?}, worst {:?}",
        losses.len(),
        losses[losses.len() / 2],
        losses[losses.len() - 1]
    );
    if long {
        assert!(p99 <= FIRST_ANSWER, "{p99:?}");
        assert!(losses[losses.len() - 1] <= LOSS, "{:?}", losses[losses.len() - 1]);
    }
}

/// Kills every shim; answers how long it took until each loss was told, sorted.
fn kill_shims(engine: &Engine) -> Vec<Duration> {
    let api = engine.api();
    let mut losses: Vec<Duration> = shims(engine)
        .into_iter()
        .map(|(pid, id)| {
            let since = Instant::now();
            kill_process(Pid::from_raw(pid as i32).expect("a process"), Signal::KILL).expect("root may");
            let state = retry_until("the loss to be told", PATIENCE, || {
                let state = api.get(&format!("/containers/{id}/json")).expect("an answer")["State"].clone();
                (state["Running"] == false).then_some(state)
            });
            assert_ne!(state["ExitCode"], 0, "nobody saw it succeed: {state}");
            assert_ne!(state["Error"], "", "{state}");
            since.elapsed()
        })
        .collect();
    losses.sort();
    losses
}
