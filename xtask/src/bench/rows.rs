//! What is measured, one function for each row of the budget.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use wharf_testkit::{Cli, Engine, binary, docker_cli, image, workspace_root};

use super::memory::{at_rest, pss};
use super::registry;
use super::report::Measured;
use super::scale;
use super::timing::{Runs, Task, interleave, timed};

/// A row's function.
pub(crate) type Row = fn(Runs) -> Result<Vec<Measured>>;

/// All rows by name.
pub(crate) const ALL: &[(&str, Row)] = &[
    ("P1", oci),
    ("P2", run_rm),
    ("P3", exec),
    ("P4", many),
    ("P5", memory),
    ("P6", registry::pull),
    ("P7", registry::push),
    ("P9", scale::output),
    ("P11", scale::thousand),
    ("P12", registry::serve),
];

/// Where the peers are, when they are installed.
pub(crate) fn peers() -> Option<PathBuf> {
    let root = PathBuf::from(std::env::var("PEERS").unwrap_or_else(|_| "/opt/peers".to_owned()));
    let found = root.join("usr/sbin/dockerd").is_file() && script().is_file();
    if !found {
        println!("  the peers are not installed: only Wharf is measured");
    }
    found.then_some(root)
}

pub(crate) fn script() -> PathBuf {
    workspace_root().join("../shared/peers")
}

/// The two engines under comparison, with the image loaded.
pub(crate) struct Engines {
    pub(crate) docker: Option<Cli>,
    pub(crate) wharf: Cli,
    pub(crate) engine: Engine,
}

impl Engines {
    pub(crate) fn start() -> Result<Self> {
        let engine = Engine::with_image();
        let wharf = engine.wharf().with_deadline(Duration::from_secs(300));
        Ok(Self { docker: docker()?, wharf, engine })
    }

    /// Measures the same arguments on both, as a user's command line.
    fn compare(&self, runs: Runs, arguments: &[&str]) -> Result<(f64, Option<f64>)> {
        let mut tasks: Vec<Task<'_>> = vec![timed(|_| succeed(&self.wharf, arguments))];
        if let Some(docker) = &self.docker {
            tasks.push(timed(|_| succeed(docker, arguments)));
        }
        let medians = interleave(runs, &mut tasks)?;
        Ok((millis(medians[0]), medians.get(1).copied().map(millis)))
    }
}

/// The real Docker with the image loaded, where it is installed.
pub(crate) fn docker() -> Result<Option<Cli>> {
    let (Some(root), Some(program)) = (peers(), docker_cli()) else { return Ok(None) };
    let socket = root.join("run/docker.sock");
    if !wharf_testkit::Api::new(&socket).is_up() {
        let status = Command::new(script()).arg("dockerd-start").stdin(Stdio::null()).status();
        ensure!(status.context("starting Docker")?.success(), "Docker does not start");
    }
    let docker =
        Cli::new(&program, &format!("unix://{}", socket.display())).with_deadline(Duration::from_secs(300));
    let loaded = docker.run_with_input(&["load"], &image::archive());
    ensure!(loaded.code == 0, "Docker does not load the image: {}", loaded.stderr);
    Ok(Some(docker))
}

pub(crate) fn succeed(cli: &Cli, arguments: &[&str]) -> Result<()> {
    let output = cli.run(arguments);
    ensure!(output.code == 0, "`{}` ended with {}: {}", arguments.join(" "), output.code, output.stderr);
    Ok(())
}

pub(crate) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

pub(crate) fn seconds(time: Duration) -> f64 {
    time.as_secs_f64()
}

/// P1: the OCI runtime alone, `run` of a ready bundle. All runtimes run in the peers' root, where crun and runc live;
/// without the peers Wharf's runs alone, here.
fn oci(runs: Runs) -> Result<Vec<Measured>> {
    let dir = tempfile::Builder::new().prefix("wharf-bench-").tempdir().context("making a directory")?;
    std::fs::copy(std::env::current_exe()?, dir.path().join("xtask")).context("copying xtask")?;
    std::fs::copy(binary("wharf-runtime"), dir.path().join("wharf-runtime"))
        .context("copying wharf-runtime")?;
    make_bundle(&dir.path().join("bundle"))?;
    // The peers see the host's /tmp as /xfer.
    let inside = Path::new("/xfer").join(dir.path().strip_prefix("/tmp").unwrap_or(dir.path()));
    let mut command = match peers() {
        Some(_) => {
            let mut command = Command::new(script());
            command.arg("sh").arg(inside.join("xtask")).args(["bench", "inside"]).arg(&inside);
            command
        }
        None => {
            let mut command = Command::new(dir.path().join("xtask"));
            command.args(["bench", "inside"]).arg(dir.path());
            command
        }
    };
    let output =
        command.arg(runs.count().to_string()).stdin(Stdio::null()).output().context("running inside")?;
    ensure!(output.status.success(), "inside: {}", String::from_utf8_lossy(&output.stderr));
    let medians: Value = serde_json::from_slice(&output.stdout).context("the inner run's answer")?;
    let wharf = medians["wharf-runtime"].as_f64().context("no time for wharf-runtime")?;
    let row = |peer: &'static str, goal| Measured {
        label: format!("P1 OCI run of `true`, against {peer}"),
        peer,
        wharf,
        other: medians[peer].as_f64(),
        unit: "ms",
        goal,
    };
    Ok(vec![row("crun", "≤ 0.5"), row("runc", "–")])
}

/// The inner half of P1: times each runtime that is there and prints the medians in milliseconds as JSON.
pub(crate) fn oci_inside(dir: &Path, runs: Runs) -> Result<()> {
    let candidates =
        [dir.join("wharf-runtime"), PathBuf::from("/usr/bin/crun"), PathBuf::from("/usr/sbin/runc")];
    let programs: Vec<PathBuf> = candidates.into_iter().filter(|path| path.is_file()).collect();
    let bundle = dir.join("bundle");
    let mut tasks: Vec<Task<'_>> = Vec::new();
    for program in &programs {
        let bundle = &bundle;
        tasks.push(timed(move |run| {
            let status = Command::new(program)
                .args(["run", "--bundle"])
                .arg(bundle)
                .arg(format!("wharf-bench-{run}"))
                .stdin(Stdio::null())
                .status()
                .with_context(|| format!("running {}", program.display()))?;
            ensure!(status.success(), "{} failed: {status}", program.display());
            Ok(())
        }));
    }
    let medians = interleave(runs, &mut tasks)?;
    let name = |program: &PathBuf| program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let answer: serde_json::Map<String, Value> =
        programs.iter().zip(medians).map(|(program, time)| (name(program), json!(millis(time)))).collect();
    println!("{}", Value::Object(answer));
    Ok(())
}

/// A bundle that all runtimes take: every namespace, the usual mounts, `true`.
fn make_bundle(bundle: &Path) -> Result<()> {
    let rootfs = bundle.join("rootfs");
    for dir in ["bin", "dev", "proc", "sys", "tmp"] {
        std::fs::create_dir_all(rootfs.join(dir)).context("making the bundle")?;
    }
    std::fs::copy(image::busybox(), rootfs.join("bin/true")).context("copying busybox")?;
    let mount = |at: &str, kind: &str, options: &[&str]| json!({"destination": at, "type": kind, "source": kind, "options": options});
    let namespaces = ["pid", "network", "ipc", "uts", "mount"].map(|kind| json!({"type": kind}));
    let capabilities = json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    let config = json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false, "user": {"uid": 0, "gid": 0}, "args": ["/bin/true"], "cwd": "/",
            "env": ["PATH=/bin"], "noNewPrivileges": true,
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
        },
        "root": {"path": "rootfs", "readonly": true},
        "hostname": "bench",
        "mounts": [
            mount("/proc", "proc", &[]),
            mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]),
            mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
            mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        ],
        "linux": {
            "namespaces": namespaces,
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    });
    std::fs::write(bundle.join("config.json"), config.to_string()).context("writing config.json")
}

/// P2: `run --rm` of a 2 MB image.
fn run_rm(runs: Runs) -> Result<Vec<Measured>> {
    let engines = Engines::start()?;
    let row = |label: &str, arguments: &[&str]| -> Result<Measured> {
        let (wharf, other) = engines.compare(runs, arguments)?;
        Ok(Measured { label: label.to_owned(), peer: "Docker", wharf, other, unit: "ms", goal: "≤ 0.08" })
    };
    Ok(vec![
        row("P2 `run --rm box true`, bridge", &["run", "--rm", "box", "true"])?,
        row("P2 `run --rm --network none box true`", &["run", "--rm", "--network", "none", "box", "true"])?,
    ])
}

/// P3: `exec` in a running container.
fn exec(runs: Runs) -> Result<Vec<Measured>> {
    let engines = Engines::start()?;
    let name = format!("wharf-bench-{}", std::process::id());
    let clis: Vec<&Cli> = [Some(&engines.wharf), engines.docker.as_ref()].into_iter().flatten().collect();
    for cli in &clis {
        succeed(cli, &["run", "-d", "--name", &name, "box", "sleep", "3600"])?;
    }
    let result = engines.compare(runs, &["exec", &name, "true"]);
    for cli in &clis {
        succeed(cli, &["rm", "-f", &name])?;
    }
    let (wharf, other) = result?;
    let label = "P3 `exec` of `true`".to_owned();
    Ok(vec![Measured { label, peer: "Docker", wharf, other, unit: "ms", goal: "≤ 0.15" }])
}

const MANY: usize = 100;
const CLIENTS: usize = 4;

/// P4: a hundred containers by four clients at once, then the removal of all.
fn many(runs: Runs) -> Result<Vec<Measured>> {
    let engines = Engines::start()?;
    let clis: Vec<&Cli> = [Some(&engines.wharf), engines.docker.as_ref()].into_iter().flatten().collect();
    let removals = std::cell::RefCell::new(vec![Vec::new(); clis.len()]);
    let mut tasks: Vec<Task<'_>> = Vec::new();
    for (index, cli) in clis.iter().enumerate() {
        let removals = &removals;
        tasks.push(Box::new(move |_| {
            let start = Instant::now();
            let ids = start_many(cli, MANY)?;
            let started = start.elapsed();
            let start = Instant::now();
            let arguments: Vec<&str> =
                ["rm", "-f"].into_iter().chain(ids.iter().map(String::as_str)).collect();
            succeed(cli, &arguments)?;
            removals.borrow_mut()[index].push(start.elapsed());
            Ok(started)
        }));
    }
    let starts = interleave(runs.at_most(10), &mut tasks)?;
    drop(tasks);
    let removed: Vec<f64> = removals.into_inner().into_iter().map(|times| millis(middle(times))).collect();
    let row = |label: &str, wharf: f64, other: Option<f64>| {
        let (wharf, other) = (wharf / 1000.0, other.map(|time| time / 1000.0));
        Measured { label: label.to_owned(), peer: "Docker", wharf, other, unit: "s", goal: "≤ 0.12" }
    };
    Ok(vec![
        row("P4 100 containers started by 4 clients", millis(starts[0]), starts.get(1).copied().map(millis)),
        row("P4 `rm -f` of the 100", removed[0], removed.get(1).copied()),
    ])
}

pub(crate) fn middle(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// The median of what was measured on the side, the warm-up included; none of nothing.
pub(crate) fn middle_of(times: Vec<Duration>) -> Option<Duration> {
    (!times.is_empty()).then(|| middle(times))
}

pub(crate) fn start_many(cli: &Cli, count: usize) -> Result<Vec<String>> {
    let client = || -> Result<Vec<String>> {
        (0..count / CLIENTS)
            .map(|_| {
                let output = cli.run(&["run", "-d", "--network", "none", "box", "sleep", "3600"]);
                ensure!(output.code == 0, "run -d failed: {}", output.stderr);
                Ok(output.stdout.trim().to_owned())
            })
            .collect()
    };
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
        let mut ids = Vec::new();
        for client in clients {
            ids.extend(client.join().map_err(|_| anyhow::anyhow!("a client panicked"))??);
        }
        Ok(ids)
    })
}

/// P5: memory of an idle engine, and what each running container with a published port adds.
fn memory(_runs: Runs) -> Result<Vec<Measured>> {
    let engines = Engines::start()?;
    let root = engines.engine.dir().to_string_lossy().into_owned();
    let wharf_uses = || pss(|line| line.contains(&root));
    let docker_uses = || {
        let names = ["dockerd", "containerd", "docker-proxy"];
        pss(|line| {
            let program = line.split(' ').next().unwrap_or_default().rsplit('/').next().unwrap_or_default();
            names.iter().any(|name| program.starts_with(name))
        })
    };
    let wharf = grow(&engines.wharf, &wharf_uses, engines.engine.port(0))?;
    let docker = engines.docker.as_ref().map(|docker| grow(docker, &docker_uses, 0)).transpose()?;
    let row = |label: &str, figure: fn(&Growth) -> f64, goal| Measured {
        label: label.to_owned(),
        peer: "Docker",
        wharf: figure(&wharf),
        other: docker.as_ref().map(figure),
        unit: "MB",
        goal,
    };
    Ok(vec![
        row("P5 engine, idle", |growth| growth.idle, "≤ 15 MB"),
        row("P5 engine, right after it loaded an image", |growth| growth.busy, "–"),
        row("P5 each container with a published port", |growth| growth.each, "≤ 0.4 MB"),
        row("P5 engine and twenty containers, right after their start", |growth| growth.all_at_once, "–"),
    ])
}

/// Megabytes, each at rest and right after work.
struct Growth {
    idle: f64,
    busy: f64,
    each: f64,
    all_at_once: f64,
}

const GROWTH: u16 = 20;

/// What is in use before, and added by each of twenty containers with a published port.
fn grow(cli: &Cli, uses: &dyn Fn() -> u64, first_port: u16) -> Result<Growth> {
    let busy = uses();
    let idle = at_rest(uses);
    let start = || -> Result<Vec<String>> {
        let mut ids = Vec::new();
        for number in 0..GROWTH {
            let publish =
                if first_port == 0 { "80".to_owned() } else { format!("{}:80", first_port + number) };
            let output = cli.run(&["run", "-d", "-p", &publish, "box", "sleep", "3600"]);
            ensure!(output.code == 0, "run -d failed: {}", output.stderr);
            ids.push(output.stdout.trim().to_owned());
        }
        Ok(ids)
    };
    let ids = start()?;
    let (at_once, full) = (uses(), at_rest(uses));
    let arguments: Vec<&str> = ["rm", "-f"].into_iter().chain(ids.iter().map(String::as_str)).collect();
    succeed(cli, &arguments)?;
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    Ok(Growth {
        idle: megabytes(idle),
        busy: megabytes(busy),
        each: megabytes(full.saturating_sub(idle)) / f64::from(GROWTH),
        all_at_once: megabytes(at_once),
    })
}
