//! P6, P7 and P12: pull and push of a large image, and the registry that serves it.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use wharf_testkit::{Cli, DockerRegistry, Engine, Registry};

use super::http::Connection;
use super::large::LargeImage;
use super::report::Measured;
use super::rows::{docker, peers, script, seconds, succeed};
use super::timing::{Runs, Task, interleave, timed};

/// Manifests and clients of the second half of P12.
const MANIFESTS: usize = 1000;
const CLIENTS: usize = 16;

/// A registry on loopback.
enum Server {
    Wharf(Registry),
    Docker(DockerRegistry),
}

impl Server {
    fn address(&self) -> Result<SocketAddr> {
        match self {
            Self::Wharf(registry) => registry.address().parse().context("the registry's address"),
            Self::Docker(registry) => Ok(registry.address()),
        }
    }

    fn pid(&self) -> Option<u32> {
        match self {
            Self::Wharf(registry) => registry.pid(),
            Self::Docker(registry) => registry.pid(),
        }
    }

    fn connect(&self) -> Result<Connection> {
        Connection::open(self.address()?)
    }

    fn push(&self, repository: &str, image: &LargeImage) -> Result<()> {
        std::thread::scope(|scope| {
            let uploads: Vec<_> = image
                .blobs()
                .map(|blob| scope.spawn(move || self.connect()?.push_blob(repository, blob)))
                .collect();
            uploads.into_iter().try_for_each(joined)
        })?;
        let media_type = "application/vnd.docker.distribution.manifest.v2+json";
        self.connect()?.push_manifest(repository, "1", media_type, &image.manifest)
    }

    fn pull(&self, repository: &str, image: &LargeImage) -> Result<()> {
        self.connect()?.get(&format!("/v2/{repository}/manifests/1"))?;
        std::thread::scope(|scope| {
            let downloads: Vec<_> = image
                .blobs()
                .map(|blob| {
                    scope.spawn(move || {
                        let length =
                            self.connect()?.get(&format!("/v2/{repository}/blobs/{}", blob.digest))?;
                        ensure!(length == blob.size, "a blob came short");
                        Ok(())
                    })
                })
                .collect();
            downloads.into_iter().try_for_each(joined)
        })
    }

    /// Sixteen clients push a thousand manifests of images without layers.
    fn push_manifests(&self, repository: &str) -> Result<()> {
        let client = |client: usize| -> Result<()> {
            let mut connection = self.connect()?;
            for number in (client..MANIFESTS).step_by(CLIENTS) {
                let config = format!("{{\"architecture\":\"amd64\",\"os\":\"linux\",\"number\":{number}}}");
                let digest = connection.push_bytes(repository, config.as_bytes())?;
                let manifest = format!(
                    "{{\"schemaVersion\":2,\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\",\"config\":\
                     {{\"mediaType\":\"application/vnd.oci.image.config.v1+json\",\"digest\":\"{digest}\",\"size\":{}}},\
                     \"layers\":[]}}",
                    config.len()
                );
                let media_type = "application/vnd.oci.image.manifest.v1+json";
                connection.push_manifest(
                    repository,
                    &format!("t{number}"),
                    media_type,
                    manifest.as_bytes(),
                )?;
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS).map(|number| scope.spawn(move || client(number))).collect();
            clients.into_iter().try_for_each(joined)
        })
    }

    /// The most memory it has had, in megabytes.
    fn peak(&self) -> Result<f64> {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.pid().context("the registry ended")?))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no peak")?;
        let kilobytes: f64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(kilobytes * 1024.0 / 1e6)
    }
}

fn joined(thread: std::thread::ScopedJoinHandle<'_, Result<()>>) -> Result<()> {
    thread.join().unwrap_or_else(|_| bail!("a client panicked"))
}

/// Podman from the peers.
fn podman(arguments: &[&str]) -> Result<()> {
    let output =
        Command::new(script()).args(["sh", "podman"]).args(arguments).stdin(Stdio::null()).output()?;
    ensure!(output.status.success(), "podman {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// P6: pull of a large image from a registry on loopback until it can be run, and its removal.
pub(crate) fn pull(runs: Runs) -> Result<Vec<Measured>> {
    let image = LargeImage::make()?;
    let server = Server::Wharf(Registry::scratch());
    server.push("large", &image)?;
    let name = format!("{}/large:1", server.address()?);
    let engine = Engine::scratch();
    let wharf = engine.wharf().with_deadline(Duration::from_secs(300));
    let docker = docker()?;
    let removals = RefCell::new(vec![Vec::new(); 2]);
    let mut tasks: Vec<Task<'_>> = Vec::new();
    for (index, cli) in [Some(&wharf), docker.as_ref()].into_iter().flatten().enumerate() {
        let (name, removals) = (&name, &removals);
        tasks.push(Box::new(move |_| {
            let time = clock(|| succeed(cli, &["pull", "-q", name]))?;
            removals.borrow_mut()[index].push(clock(|| succeed(cli, &["rmi", name]))?);
            Ok(time)
        }));
    }
    if peers().is_some() {
        let name = &name;
        tasks.push(Box::new(move |_| {
            let time = clock(|| podman(&["pull", "-q", "--tls-verify=false", name]))?;
            podman(&["rmi", name])?;
            Ok(time)
        }));
    }
    let largest = image.layers.iter().max_by_key(|layer| layer.size).context("no layers")?;
    tasks.push(timed(|_| {
        let status = Command::new("gzip").arg("-dc").arg(&largest.path).stdout(Stdio::null()).status()?;
        ensure!(status.success(), "gzip failed");
        Ok(())
    }));
    let medians = interleave(runs.few(), &mut tasks)?;
    drop(tasks);
    let row = |label: &str, peer, other: Option<Duration>, goal| Measured {
        label: label.to_owned(),
        peer,
        wharf: seconds(medians[0]),
        other: other.map(seconds),
        unit: "s",
        goal,
    };
    let has_docker = docker.is_some();
    let mut rows = vec![
        row("P6 pull of 335 MB, against Docker", "Docker", has_docker.then(|| medians[1]), "≤ 0.25"),
        row("P6 pull of 335 MB, against Podman", "Podman", has_docker.then(|| medians[2]), "≤ 0.25"),
        row("P6 pull, against `gzip -dc` of the largest layer", "gzip", medians.last().copied(), "≤ 1.2"),
    ];
    let mut removals = removals.into_inner().into_iter().map(super::rows::middle_of);
    if let Some(Some(wharf)) = removals.next() {
        let other = removals.next().flatten();
        let (wharf, other) = (seconds(wharf), other.map(seconds));
        let label = "P6 `rmi` of it".to_owned();
        rows.push(Measured { label, peer: "Docker", wharf, other, unit: "s", goal: "–" });
    }
    Ok(rows)
}

fn clock(work: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed())
}

/// P7: push of the large image to a registry on loopback that does not have it.
pub(crate) fn push(runs: Runs) -> Result<Vec<Measured>> {
    let image = LargeImage::make()?;
    let server = Server::Wharf(Registry::scratch());
    server.push("large", &image)?;
    let name = format!("{}/large:1", server.address()?);
    let engine = Engine::scratch();
    let wharf = engine.wharf().with_deadline(Duration::from_secs(300));
    let docker = docker()?;
    let clis: Vec<&Cli> = [Some(&wharf), docker.as_ref()].into_iter().flatten().collect();
    let mut tasks: Vec<Task<'_>> = Vec::new();
    for cli in &clis {
        succeed(cli, &["pull", "-q", &name])?;
        let name = &name;
        tasks.push(Box::new(move |_| {
            // A registry without anything: no blob is there, none can be mounted.
            let empty = Server::Wharf(Registry::scratch());
            let target = format!("{}/other:1", empty.address()?);
            succeed(cli, &["tag", name, &target])?;
            let time = clock(|| succeed(cli, &["push", "-q", &target]))?;
            succeed(cli, &["rmi", &target])?;
            Ok(time)
        }));
    }
    let medians = interleave(runs.few(), &mut tasks);
    drop(tasks);
    for cli in &clis {
        succeed(cli, &["rmi", &name])?;
    }
    let medians = medians?;
    Ok(vec![Measured {
        label: "P7 push of 335 MB".to_owned(),
        peer: "Docker",
        wharf: seconds(medians[0]),
        other: medians.get(1).copied().map(seconds),
        unit: "s",
        goal: "≤ 0.3",
    }])
}

/// P12: the registry itself, against Debian's docker-registry.
pub(crate) fn serve(runs: Runs) -> Result<Vec<Measured>> {
    let image = LargeImage::make()?;
    let mut servers = vec![Server::Wharf(Registry::scratch())];
    if peers().is_some() {
        servers.push(Server::Docker(DockerRegistry::start()));
    }
    let runs = runs.at_most(10);
    type Work<'a> = &'a dyn Fn(&Server, usize) -> Result<()>;
    let each = |work: Work<'_>| -> Result<Vec<Duration>> {
        let mut tasks: Vec<Task<'_>> =
            servers.iter().map(|server| timed(move |run| work(server, run))).collect();
        interleave(runs, &mut tasks)
    };
    // The blobs are the same in each run, and the registry need not know it: a fresh repository makes it look.
    let pushes = each(&|server, run| server.push(&format!("push{run}"), &image))?;
    let pulls = each(&|server, _| server.pull("push0", &image))?;
    let manifests = each(&|server, run| server.push_manifests(&format!("small{run}")))?;
    let row = |label: &str, medians: &[Duration]| Measured {
        label: label.to_owned(),
        peer: "docker-registry",
        wharf: seconds(medians[0]),
        other: medians.get(1).copied().map(seconds),
        unit: "s",
        goal: "≤ 0.5",
    };
    let peaks = servers.iter().map(Server::peak).collect::<Result<Vec<_>>>()?;
    Ok(vec![
        row("P12 registry: push of 335 MB by 5 connections", &pushes),
        row("P12 registry: pull of 335 MB by 5 connections", &pulls),
        row("P12 registry: 1,000 small manifests by 16 clients", &manifests),
        Measured {
            label: "P12 registry: most memory".to_owned(),
            peer: "docker-registry",
            wharf: peaks[0],
            other: peaks.get(1).copied(),
            unit: "MB",
            goal: "≤ 0.5",
        },
    ])
}
