//! Many clients push, pull and delete at the same time while the collector runs all the time: no request fails that should
//! not, every byte is right, memory stays flat, and at the end the space is back.
//!
//! Some seconds; `WHARF_TEST_STRESS=300` makes it five minutes.
#![allow(clippy::unwrap_used, reason = "a failing helper is a failing test")]

mod support;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use support::*;
use wharf_content::digest_of;
use wharf_testkit::random::Random;
use wharf_testkit::{PATIENCE, wait_until};

const CLIENTS: u64 = 32;
/// Clients share repositories and layers, so that they delete what others are about to push.
const REPOSITORIES: u64 = 4;
const LAYERS: u64 = 6;
const GROWTH: u64 = 96 << 20;

#[test]
fn many_clients_push_pull_and_delete_while_the_collector_runs() {
    let seconds = std::env::var("WHARF_TEST_STRESS").ok().and_then(|text| text.parse().ok()).unwrap_or(4);
    let process = Process::start(&["--grace", "2s", "--remove-untagged"]);
    let address = process.server.address;
    let mut random = Random::from_env("WHARF_TEST_SEED");
    let rounds = AtomicU64::new(0);
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut flat = 0;
    std::thread::scope(|scope| {
        for n in 0..CLIENTS {
            let mut client =
                Client { connection: Connection::open(address).unwrap(), random: random.fork(n), n };
            let rounds = &rounds;
            scope.spawn(move || {
                while Instant::now() < end {
                    client.round();
                    rounds.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        wait_until("everybody to have begun", PATIENCE, || rounds.load(Ordering::Relaxed) > CLIENTS);
        flat = process.memory();
    });
    let grown = process.memory().saturating_sub(flat);
    println!("{} rounds, {} MiB grown from {} MiB", rounds.into_inner(), grown >> 20, flat >> 20);
    assert!(grown < GROWTH, "memory grew by {grown} bytes");

    let server = &process.server;
    for name in 0..REPOSITORIES {
        let repo = Repo { server, name: format!("stress/r{name}") };
        let tags = repo.get("tags/list").json();
        for tag in tags["tags"].as_array().into_iter().flatten() {
            let head = repo.ask("HEAD", &format!("manifests/{}", tag.as_str().unwrap()), &[], b"");
            // Two tags may have been one manifest.
            if let Some(digest) = head.header("docker-content-digest") {
                repo.ask("DELETE", &format!("manifests/{digest}"), &[], b"").expect(202);
            }
        }
    }
    let blobs = process.data().join("blobs/sha256");
    let left = || std::fs::read_dir(&blobs).unwrap().count();
    wait_until("the space to come back within a minute", Duration::from_secs(60), || left() == 0);
}

struct Client {
    connection: Connection,
    random: Random,
    n: u64,
}

impl Client {
    fn ask(&mut self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        self.connection
            .ask(method, target, headers, body)
            .unwrap_or_else(|error| panic!("client {}: {method} {target}: {error}", self.n))
    }

    fn round(&mut self) {
        let name = format!("stress/r{}", self.random.between(0, REPOSITORIES));
        let tag = format!("t{}", self.random.between(0, 2 * CLIENTS));
        match self.random.between(0, 4) {
            0 | 1 => self.push(&name, &tag),
            2 => self.pull(&name, &tag),
            _ => self.delete(&name, &tag),
        }
    }

    fn push(&mut self, name: &str, tag: &str) {
        let layer = layer(self.random.between(0, LAYERS));
        let config = format!("{{\"config\":{}}}", self.random.between(0, 20));
        self.push_blob(name, &layer);
        self.push_blob(name, config.as_bytes());
        let manifest = image(config.as_bytes(), &layer).to_string();
        let target = format!("/v2/{name}/manifests/{tag}");
        self.ask("PUT", &target, &[("content-type", MANIFEST)], manifest.as_bytes()).expect(201);
    }

    /// As clients do: asks first, mounts if it can, uploads if it must.
    fn push_blob(&mut self, name: &str, bytes: &[u8]) {
        let digest = digest_of(bytes).to_string();
        let head = self.ask("HEAD", &format!("/v2/{name}/blobs/{digest}"), &[], b"");
        if head.status == 200 {
            return;
        }
        head.expect(404);
        let from = format!("stress/r{}", self.random.between(0, REPOSITORIES));
        let target = format!("/v2/{name}/blobs/uploads/?mount={digest}&from={from}");
        let begun = self.ask("POST", &target, &[], b"");
        if begun.status == 201 {
            return;
        }
        let mut location = begun.expect(202).location();
        let (first, rest) = bytes.split_at(bytes.len() / 3);
        if self.random.one_in(2) {
            location = self.ask("PATCH", &location, &[], first).expect(202).location();
            self.ask("PUT", &with_digest(&location, &digest), &[], rest).expect(201);
        } else if self.random.one_in(10) {
            // Changes its mind, and begins again.
            self.ask("PATCH", &location, &[], first).expect(202);
            self.ask("DELETE", &location, &[], b"").expect(204);
            self.push_blob(name, bytes);
        } else {
            self.ask("PUT", &with_digest(&location, &digest), &[], bytes).expect(201);
        }
    }

    /// What a manifest names is there while the manifest is: a blob may be missing only if the image was deleted meanwhile.
    fn pull(&mut self, name: &str, tag: &str) {
        let answer = self.ask("GET", &format!("/v2/{name}/manifests/{tag}"), &[], b"");
        if answer.status != 200 {
            answer.expect(404);
            return;
        }
        let digest = answer.header("docker-content-digest").unwrap().to_owned();
        assert_eq!(digest_of(&answer.body).to_string(), digest);
        for entry in [&answer.json()["config"], &answer.json()["layers"][0]] {
            self.pull_blob(name, &digest, entry["digest"].as_str().unwrap());
        }
    }

    fn pull_blob(&mut self, name: &str, manifest: &str, blob: &str) {
        // Deleted, and pushed again before the second look: look again.
        for _ in 0..100 {
            let got = self.ask("GET", &format!("/v2/{name}/blobs/{blob}"), &[], b"");
            if got.status == 200 {
                assert_eq!(digest_of(&got.body).to_string(), blob);
                return;
            }
            got.expect(404);
            let target = format!("/v2/{name}/manifests/{manifest}");
            if self.ask("GET", &target, &[], b"").status == 404 {
                return;
            }
        }
        panic!("{name} has {manifest} without {blob}");
    }

    fn delete(&mut self, name: &str, tag: &str) {
        let head = self.ask("HEAD", &format!("/v2/{name}/manifests/{tag}"), &[], b"");
        let Some(digest) = head.header("docker-content-digest") else { return };
        let digest = digest.to_owned();
        let answer = self.ask("DELETE", &format!("/v2/{name}/manifests/{digest}"), &[], b"");
        assert!(matches!(answer.status, 202 | 404), "{}", answer.text());
    }
}

/// One of a few layers, of 1 byte to 300 kB.
fn layer(n: u64) -> Vec<u8> {
    let mut random = Random::seeded(n);
    let length = usize::try_from(1 + n * n * 12_000).unwrap();
    std::iter::repeat_with(|| random.next().to_le_bytes()).flatten().take(length).collect()
}
