//! One engine under supervision, and what is done to it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use wharf_testkit::census::{Census, unexplained};
use wharf_testkit::faults::{Outcome, Plan, Role, Supervisor};
use wharf_testkit::image::{self, Builder, Tar};
use wharf_testkit::random::Random;
use wharf_testkit::{Cli, Engine, EngineBuilder, Output, Registry, binary};

use crate::operations::{CLEAN, Operation};

/// After this nothing may be left that no object explains.
const SETTLED: Duration = Duration::from_secs(10);
/// How long a death may come after the answer; then the engine is killed by hand.
const LATE: Duration = Duration::from_millis(500);
/// The exit code of a command that had to be ended.
const NO_ANSWER: i32 = 124;
/// After this every operation has an answer.
const ANSWERED: Duration = Duration::from_secs(30);
/// How often a call is interrupted in a row: one that never succeeds is nothing that happens.
const INTERRUPTIONS: u64 = 20;

/// How many of the points are taken.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Points {
    Few(u64),
    /// Each one of this many; 1 means all.
    OneIn(u64),
}

impl Points {
    pub(crate) fn from_env(few: u64) -> Self {
        match std::env::var("WHARF_TEST_POINTS").as_deref() {
            Ok("all") => Self::OneIn(1),
            Ok(text) => match text.strip_prefix("1/").map(str::parse) {
                Some(Ok(n)) => Self::OneIn(n),
                _ => Self::Few(text.parse().expect("WHARF_TEST_POINTS is a number, 1/n or all")),
            },
            Err(_) => Self::Few(few),
        }
    }

    /// Few points of few operations.
    pub(crate) fn is_short(self) -> bool {
        matches!(self, Self::Few(_)) && std::env::var_os("WHARF_TEST_POINTS").is_none()
    }

    fn of(self, k: u64, random: &mut Random) -> Vec<u64> {
        match self {
            _ if k == 0 => Vec::new(),
            Self::OneIn(n) => (1 + random.between(0, n)..=k).step_by(n as usize).collect(),
            Self::Few(few) if few >= k => (1..=k).collect(),
            Self::Few(few) => (0..few).map(|_| 1 + random.between(0, k)).collect(),
        }
    }
}

/// What came of one operation.
pub(crate) struct Tally {
    pub(crate) name: &'static str,
    pub(crate) k: u64,
    pub(crate) points: u64,
    pub(crate) failures: Vec<String>,
}

pub(crate) struct Bench {
    supervisor: Supervisor,
    engine: Engine,
    registry: Registry,
    baseline: Census,
    /// What a failed point has left, so that it fails one point and not all that follow.
    tolerated: BTreeSet<String>,
}

/// An image of two layers, beside the one that every engine has.
fn two_layers(name: &str) -> Builder {
    let mut top = Tar::new();
    top.file("large-1", 0o644, &vec![b'x'; 300_000]);
    top.file("large-2", 0o600, b"two");
    Builder::new(name, image::rootfs()).layer(top.finish())
}

impl Bench {
    pub(crate) fn new() -> Self {
        let supervisor = Supervisor::new();
        let engine = EngineBuilder::default().supervised(&supervisor).start();
        let registry = Registry::scratch();
        let write = |name: &str, bytes: &[u8]| {
            std::fs::write(engine.dir().join(name), bytes).expect("a file in our directory");
        };
        write("file", b"content of a file");
        write("root.tar", &image::rootfs());
        write("image.tar", &two_layers("loaded:1").build());
        let mut bench =
            Self { supervisor, engine, registry, baseline: Census::default(), tolerated: BTreeSet::new() };
        bench.engine.load(&image::archive());
        let name = bench.registry.name("pulled:1");
        bench.engine.load(&two_layers(&name).build());
        bench.engine.wharf().ok(&["push", &name]);
        // What is made once and stays: mounts of layers, journals of the database.
        for operation in crate::operations::OPERATIONS.iter().filter(|operation| operation.name == "run") {
            bench.prepare(operation);
            bench.act(operation);
        }
        bench.clean();
        bench.restart();
        bench.baseline = bench.census();
        bench
    }

    fn census(&self) -> Census {
        let mut census = Census::take(&self.engine);
        // A connection that ends, a log that grows, mounts of layers that are kept: none of it is of one operation.
        for kind in ["descriptors", "files", "inotify"] {
            census.0.remove(kind);
        }
        census
    }

    fn words(&self, line: &str) -> Vec<String> {
        let fill = |word: &str| {
            word.replace("{dir}", &self.engine.dir().to_string_lossy())
                .replace("{registry}", self.registry.address())
                .replace("{port}", &self.engine.port(0).to_string())
        };
        // A quoted script is one word.
        line.split(' ').map(fill).collect()
    }

    fn wharf(&self) -> Cli {
        self.engine.wharf().with_deadline(ANSWERED * 2)
    }

    fn run(&self, line: &str) -> Output {
        let words = self.words(line.trim_start_matches('!'));
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        // A command that does not end is one more finding.
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.wharf().run(&words)));
        ended.unwrap_or_else(|_| Output {
            stdout: String::new(),
            stderr: "no answer".to_owned(),
            code: NO_ANSWER,
        })
    }

    fn all(&self, lines: &[&str]) -> Result<(), String> {
        for line in lines {
            let output = self.run(line);
            if output.code != 0 && !line.starts_with('!') {
                return Err(format!("`{line}`: {}{}", output.stdout, output.stderr));
            }
        }
        Ok(())
    }

    fn clean(&self) {
        self.all(CLEAN).expect("all of it may fail");
    }

    fn prepare(&self, operation: &Operation) {
        self.all(operation.before).unwrap_or_else(|error| {
            panic!("cannot prepare {}: {error}\n{}", operation.name, self.engine.log_tail())
        });
    }

    fn act(&self, operation: &Operation) -> Output {
        self.run(operation.act)
    }

    fn restart(&self) {
        if self.engine.pid().is_some() && !self.engine.has_died() {
            self.engine.kill();
        }
        self.engine.start();
    }

    /// Done, or done before.
    fn succeeds(&self, operation: &Operation) -> Result<(), String> {
        let output = self.act(operation);
        if output.code == 0 {
            return Ok(());
        }
        if operation.already.iter().any(|text| output.stderr.contains(text)) {
            return self.all(operation.finish);
        }
        Err(format!("`{}` ended with {}: {}{}", operation.act, output.code, output.stdout, output.stderr))
    }

    fn holds(&self, operation: &Operation) -> Result<(), String> {
        for line in operation.holds {
            let (line, expected) = match line.split_once(" => ") {
                Some((line, expected)) => (line, Some(expected)),
                None => (*line, None),
            };
            let output = self.run(line);
            let fine = output.code == 0 && expected.is_none_or(|text| output.stdout.trim_end() == text);
            if !fine {
                return Err(format!(
                    "`{line}` ended with {}: {}{}",
                    output.code, output.stdout, output.stderr
                ));
            }
        }
        Ok(())
    }

    fn unexplained(&self) -> Vec<String> {
        let mut left = unexplained(&self.engine);
        left.retain(|line| !self.tolerated.contains(line));
        left
    }

    /// Nothing is left that no object explains.
    fn settles(&self) -> Result<(), String> {
        let since = Instant::now();
        loop {
            let left = self.unexplained();
            if left.is_empty() {
                return Ok(());
            }
            if since.elapsed() > SETTLED {
                return Err(format!("left over: {left:?}"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Everything is as before.
    fn is_as_before(&self) -> Result<(), String> {
        self.clean();
        let since = Instant::now();
        loop {
            let mut left = self.census().since(&self.baseline);
            left.extend(self.unexplained());
            if left.is_empty() {
                return Ok(());
            }
            if since.elapsed() > SETTLED {
                return Err(format!("after the cleaning: {left:?}"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What is true after a disturbance: settled, repeatable, removable.
    fn aftermath(&self, operation: &Operation) -> Result<(), String> {
        self.settles()?;
        self.succeeds(operation).map_err(|error| format!("repeated: {error}"))?;
        self.holds(operation).map_err(|error| format!("repeated: {error}"))?;
        self.is_as_before()
    }

    /// Judges one point; a failed one gets the engine a fresh start.
    fn judge(&mut self, tally: &mut Tally, n: u64, outcome: &Outcome, result: Result<(), String>) {
        tally.points += 1;
        if let Err(error) = result {
            println!("FAILED {} at {n} of {} ({}): {error}", tally.name, tally.k, outcome.first);
            tally.failures.push(format!("{} at {n} of {} ({}): {error}", tally.name, tally.k, outcome.first));
            self.restart();
            self.clean();
            if let Err(error) = self.is_as_before() {
                println!("it stays so: {error}");
                self.baseline = self.census();
                self.tolerated.extend(unexplained(&self.engine));
            }
        }
    }

    /// How many calls an undisturbed run has.
    fn count(&mut self, operation: &Operation, role: Role, plan: Plan) -> Tally {
        self.prepare(operation);
        self.supervisor.arm(role, plan);
        let output = self.act(operation);
        if operation.inside {
            // What the shim does after the answer belongs to it.
            let _left = self.settles();
        }
        let k = self.supervisor.disarm().seen;
        let done = if output.code == 0 { Ok(()) } else { Err(format!("{}{}", output.stdout, output.stderr)) };
        let result = done.and_then(|()| self.holds(operation)).and_then(|()| self.is_as_before());
        let mut tally = Tally { name: operation.name, k, points: 0, failures: Vec::new() };
        self.judge(&mut tally, 0, &Outcome::default(), result);
        tally.points = 0;
        tally
    }

    pub(crate) fn deaths(
        &mut self,
        operation: &Operation,
        role: Role,
        points: Points,
        random: &mut Random,
    ) -> Tally {
        let mut tally = self.count(operation, role, Plan::Count);
        for n in points.of(tally.k, random) {
            self.prepare(operation);
            self.supervisor.arm(role, Plan::Kill(n));
            let output = self.act(operation);
            let left = self.meets_its_end(role);
            let outcome = self.supervisor.disarm();
            let engine_died = self.engine.has_died();
            let result = if role == Role::Program {
                self.restart();
                self.aftermath(operation)
            } else if engine_died {
                self.engine.start();
                Err("the engine died".to_owned())
            } else if output.code == NO_ANSWER {
                Err("no answer".to_owned())
            } else {
                left.and_then(|()| self.aftermath(operation))
            };
            self.judge(&mut tally, n, &outcome, result);
        }
        tally
    }

    /// Waits for a death that comes after the answer: work goes on then.
    fn meets_its_end(&self, role: Role) -> Result<(), String> {
        let since = Instant::now();
        if role != Role::Program {
            let outcome = self.supervisor.outcome();
            let victim = format!("/proc/{}/cmdline", outcome.process);
            // A zombie has no command line.
            while outcome.hits > 0
                && std::fs::read(&victim).is_ok_and(|line| !line.is_empty())
                && since.elapsed() < LATE
            {
                std::thread::sleep(Duration::from_millis(2));
            }
            return self.settles();
        }
        while !self.engine.has_died() && since.elapsed() < LATE {
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    pub(crate) fn client_deaths(
        &mut self,
        operation: &Operation,
        points: Points,
        random: &mut Random,
    ) -> Tally {
        let run = |plan: Plan| {
            let supervisor = Supervisor::new();
            supervisor.arm(Role::Program, plan);
            let words = self.words(operation.act);
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let mut command = Cli::new(&binary("wharf"), &self.engine.host()).command(&words);
            let quiet = std::process::Stdio::null;
            command.stdin(quiet()).stdout(quiet()).stderr(quiet());
            let mut child = supervisor.spawn(&mut command).expect("wharf runs");
            let status = child.wait().expect("a child of ours");
            (status, supervisor.disarm())
        };
        self.prepare(operation);
        let k = run(Plan::Count).1.seen;
        let whole = self.is_as_before();
        let mut results = Vec::new();
        for n in points.of(k, random) {
            self.prepare(operation);
            let (_, outcome) = run(Plan::Kill(n));
            results.push((n, outcome, self.aftermath(operation)));
        }
        let mut tally = Tally { name: operation.name, k, points: 0, failures: Vec::new() };
        self.judge(&mut tally, 0, &Outcome::default(), whole);
        tally.points = 0;
        for (n, outcome, result) in results {
            self.judge(&mut tally, n, &outcome, result);
        }
        tally
    }

    pub(crate) fn faults(
        &mut self,
        operation: &Operation,
        role: Role,
        errno: Errno,
        points: Points,
        random: &mut Random,
    ) -> Tally {
        let mut tally = self.count(operation, role, Plan::CountFor(errno));
        let for_ever = if errno == Errno::INTR { INTERRUPTIONS } else { u64::MAX };
        // A short run takes one of both.
        let both: &[u64] =
            if points.is_short() { &[[1, for_ever][tally.k as usize % 2]] } else { &[1, for_ever] };
        for &times in both {
            for at in points.of(tally.k, random) {
                let panics = self.engine.log().matches("panicked at").count();
                self.prepare(operation);
                self.supervisor.arm(role, Plan::Fail { errno, at, times });
                let since = Instant::now();
                let output = self.act(operation);
                let took = since.elapsed();
                let outcome = self.supervisor.disarm();
                let result = self.truthful(operation, &output, took, panics);
                let result = result.and_then(|()| self.aftermath(operation));
                let outcome = Outcome { first: format!("{} x{times}", outcome.first), ..outcome };
                self.judge(&mut tally, at, &outcome, result);
            }
        }
        tally
    }

    /// What an answer under a fault may be.
    fn truthful(
        &self,
        operation: &Operation,
        output: &Output,
        took: Duration,
        panics: usize,
    ) -> Result<(), String> {
        if self.engine.has_died() {
            self.engine.start();
            return Err(format!("the engine died: {}", self.engine.log_tail()));
        }
        if self.engine.log().matches("panicked at").count() > panics {
            return Err(format!("a panic: {}", self.engine.log_tail()));
        }
        if took > ANSWERED {
            return Err(format!("the answer took {took:?}: {}{}", output.stdout, output.stderr));
        }
        if output.code == 0 {
            // What it could not remove at once (an anonymous volume) it tries again by itself.
            let since = Instant::now();
            while self.holds(operation).is_err() && since.elapsed() < SETTLED {
                std::thread::sleep(Duration::from_millis(200));
            }
            return self.holds(operation).map_err(|error| format!("it said that it was done: {error}"));
        }
        // An exec's failure is told in its session, on standard output, as Docker tells it.
        let said = |text: &str| !text.trim().is_empty();
        if !said(&output.stderr) && !said(&output.stdout) && output.code != 137 {
            return Err(format!("it failed with {} and said nothing", output.code));
        }
        Ok(())
    }
}
