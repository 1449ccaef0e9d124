//! Power cuts lose nothing that was acknowledged.
//!
//! The engine's data root is a disk of the test's own. Workers load, tag, remove and pull images; at a random moment the
//! disk loses its power and the engine is killed. Power comes back, the engine starts by itself, and then: every name
//! means what its last acknowledged change made of it, or what one that was not answered would have; every blob and
//! layer is hashed again; nothing half-made is left.
//!
//! `WHARF_TEST_CUTS=100` is the long run (`make power`); `WHARF_TEST_SEED` repeats one.

#![expect(clippy::print_stdout, reason = "a run says its seed and how much it did")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use wharf_linux::powercut::Journal;
use wharf_testkit::image::{Builder, Tar};
use wharf_testkit::random::Random;
use wharf_testkit::{Disk, Engine, EngineBuilder, PATIENCE, Registry, wait_until};

const WORKERS: usize = 2;
/// Names of each worker.
const NAMES: usize = 4;
/// Images that names may mean. They share their lowest layer.
const VARIANTS: u64 = 6;

/// One of a few small images.
fn image(name: &str, variant: u64) -> Builder {
    let mut random = Random::seeded(variant);
    let mut noise =
        |bytes: usize| (0..bytes / 8).flat_map(|_| random.next().to_le_bytes()).collect::<Vec<u8>>();
    let mut top = Tar::new();
    for file in 0..10 {
        top.file(&format!("file-{file}"), 0o644, &noise(4096));
    }
    top.file("large", 0o600, &noise(200_000 + 50_000 * variant as usize));
    let mut base = Tar::new();
    base.dir("etc", 0o755);
    base.file("etc/base", 0o644, &vec![7; 300_000]);
    Builder::new(name, base.finish()).layer(top.finish())
}

/// What a name may mean: an image or none. One possibility, unless a change was not answered.
type Meanings = Vec<Option<String>>;

/// One that changes names, and knows what it changed. Nobody else changes them.
struct Worker {
    random: Random,
    names: BTreeMap<String, Meanings>,
    /// What this name means at the registry.
    remote: (String, String),
}

/// What all share.
struct Bench {
    engine: Engine,
    cut: AtomicBool,
    done: AtomicU64,
    unanswered: AtomicU64,
}

impl Bench {
    fn post(&self, method: &str, path: &str) -> Result<String, String> {
        match self.engine.api().request(method, path, None) {
            Ok(answer) if answer.status < 300 => {
                let text = String::from_utf8_lossy(&answer.body).into_owned();
                if text.contains("\"error\"") { Err(text) } else { Ok(text) }
            }
            Ok(answer) => Err(answer.message()),
            Err(error) => Err(error.to_string()),
        }
    }

    fn meaning(&self, name: &str) -> Option<String> {
        let answer = self.engine.api().request("GET", &format!("/images/{name}/json"), None);
        let answer = answer.expect("the engine answers");
        match answer.status {
            200 => answer.json()["Id"].as_str().map(str::to_owned),
            404 => None,
            other => panic!("{name}: {other} {}", answer.message()),
        }
    }
}

impl Worker {
    fn new(number: usize, random: Random, remote: (String, String)) -> Self {
        let names = (0..NAMES).map(|name| format!("w{number}-{name}:latest"));
        let names = names.chain([remote.0.clone()]).map(|name| (name, vec![None])).collect();
        Self { random, names, remote }
    }

    fn any_name(&mut self) -> String {
        let local: Vec<&String> = self.names.keys().filter(|name| **name != self.remote.0).collect();
        local[self.random.between(0, local.len() as u64) as usize].clone()
    }

    /// A name that means an image.
    fn any_image(&mut self) -> Option<(String, String)> {
        let named = |(name, meanings): (&String, &Meanings)| Some((name.clone(), meanings.first()?.clone()?));
        let all: Vec<_> = self.names.iter().filter_map(named).collect();
        if all.is_empty() {
            None
        } else {
            Some(all[self.random.between(0, all.len() as u64) as usize].clone())
        }
    }

    /// Changes names until the power is gone.
    fn work(&mut self, bench: &Bench) {
        while !bench.cut.load(Ordering::SeqCst) {
            let (name, becomes, result) = self.change(bench);
            let meanings = self.names.get_mut(&name).expect("it is one of ours");
            match result {
                Ok(_) => {
                    *meanings = vec![becomes];
                    bench.done.fetch_add(1, Ordering::Relaxed);
                }
                Err(_) if bench.cut.load(Ordering::SeqCst) => {
                    meanings.push(becomes);
                    bench.unanswered.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => panic!("a change of {name} failed before the cut: {error}"),
            }
        }
    }

    fn change(&mut self, bench: &Bench) -> (String, Option<String>, Result<String, String>) {
        match (self.random.between(0, 10), self.any_image()) {
            (0..=2, Some((source, id))) => {
                let name = self.any_name();
                let target = name.trim_end_matches(":latest");
                (
                    name.clone(),
                    Some(id),
                    bench.post("POST", &format!("/images/{source}/tag?repo={target}&tag=latest")),
                )
            }
            (3..=5, Some((name, _))) => {
                (name.clone(), None, bench.post("DELETE", &format!("/images/{name}")))
            }
            (6..=7, _) => {
                let (name, id) = self.remote.clone();
                let from = name.trim_end_matches(":latest");
                (
                    name.clone(),
                    Some(id),
                    bench.post("POST", &format!("/images/create?fromImage={from}&tag=latest")),
                )
            }
            _ => {
                let name = self.any_name();
                let image = image(&name, self.random.between(0, VARIANTS));
                let output = bench.engine.wharf().run_with_input(&["load"], &image.build());
                let result = if output.code == 0 { Ok(output.stdout) } else { Err(output.stderr) };
                (name, Some(image.id()), result)
            }
        }
    }

    /// Every name means what it may.
    fn verify(&mut self, bench: &Bench) {
        for (name, meanings) in &mut self.names {
            let found = bench.meaning(name);
            assert!(meanings.contains(&found), "{name} means {found:?}, it may mean {meanings:?}");
            *meanings = vec![found];
        }
    }
}

/// Everything is whole, and nothing else is there.
fn check(engine: &Engine) {
    let answer = engine.api().request("POST", "/wharf/check", None).expect("the engine answers");
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    let lines: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let findings: Vec<&Value> = lines.iter().filter(|line| !line["aux"]["Finding"].is_null()).collect();
    assert!(findings.is_empty(), "{findings:#?}");
    assert!(!text.contains("that no image needs"), "{text}");
    let summary = &lines.last().expect("a summary")["aux"]["Summary"];
    let layers = summary["Layers"].as_u64().unwrap_or_else(|| panic!("the check did not end: {text}"));
    let names = |path: &str| {
        let list = std::fs::read_dir(engine.data_root().join(path)).expect("a directory of the store");
        list.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
            .collect::<Vec<_>>()
    };
    let layer_directories = names("snapshots").into_iter().filter(|name| name.parse::<u64>().is_ok()).count();
    assert_eq!(layer_directories as u64, layers, "{:?}", names("snapshots"));
    let half_made: Vec<_> = names("content/ingest").into_iter().filter(|name| name.len() != 64).collect();
    assert_eq!(half_made, Vec::<String>::new());
    wait_until("the trash to be empty", PATIENCE, || names("snapshots/.trash").is_empty());
}

fn cuts(driver: &str, cuts: u64, random: &mut Random) {
    let Some(disk) = Disk::new(256 << 20) else { return };
    let registry = Registry::scratch();
    let engine = EngineBuilder::default()
        .argument("--storage-driver")
        .argument(driver)
        .data_root(&disk.path().join("data"))
        .start();
    let bench =
        Bench { engine, cut: AtomicBool::new(false), done: AtomicU64::new(0), unanswered: AtomicU64::new(0) };
    let mut workers: Vec<Worker> = (0..WORKERS)
        .map(|number| {
            let name = registry.name(&format!("p{number}:latest"));
            let image = image(&name, 100 + number as u64);
            bench.engine.load(&image.build());
            bench.engine.wharf().ok(&["push", &name]);
            bench.engine.wharf().ok(&["rmi", &name]);
            Worker::new(number, random.fork(number as u64), (name, image.id()))
        })
        .collect();
    let mut worst = Duration::ZERO;
    for number in 0..cuts {
        bench.cut.store(false, Ordering::SeqCst);
        let journal = if number % 2 == 0 { Journal::Lost } else { Journal::Flushed };
        std::thread::scope(|scope| {
            for worker in &mut workers {
                scope.spawn(|| worker.work(&bench));
            }
            std::thread::sleep(Duration::from_millis(random.between(50, 1200)));
            bench.cut.store(true, Ordering::SeqCst);
            disk.cut(journal);
            bench.engine.kill();
        });
        disk.restore();
        let since = Instant::now();
        bench.engine.start();
        worst = worst.max(since.elapsed());
        workers.iter_mut().for_each(|worker| worker.verify(&bench));
        check(&bench.engine);
    }
    let count = |number: &AtomicU64| number.load(Ordering::Relaxed);
    println!(
        "{driver}: {cuts} power cuts, {} changes acknowledged, {} cut off, slowest start {worst:?}",
        count(&bench.done),
        count(&bench.unanswered)
    );
    assert!(count(&bench.done) >= cuts, "too little happened for the run to mean anything");
}

#[test]
fn power_cuts_lose_nothing_that_was_acknowledged() {
    let number: u64 = std::env::var("WHARF_TEST_CUTS").ok().and_then(|text| text.parse().ok()).unwrap_or(10);
    let mut random = Random::from_env("WHARF_TEST_SEED");
    cuts("erofs", number.div_ceil(2), &mut random);
    cuts("overlay2", number / 2, &mut random);
}
