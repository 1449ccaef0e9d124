//! Rows about much of something: a thousand containers (P4, P11), two million lines of output (P9).

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use wharf_testkit::{Cli, PATIENCE, wait_until};

use super::report::Measured;
use super::rows::{Engines, middle, millis, seconds, start_many, succeed};
use super::timing::{Runs, Task, interleave, timed};

const LINES: &str = "2000000";
const THOUSAND: usize = 1000;

/// P9: two million short lines of a detached container, then `logs` of them.
pub(crate) fn output(runs: Runs) -> Result<Vec<Measured>> {
    let engines = Engines::start()?;
    let name = format!("wharf-bench-{}", std::process::id());
    let clis: Vec<&Cli> = [Some(&engines.wharf), engines.docker.as_ref()].into_iter().flatten().collect();
    let mut writers: Vec<Task<'_>> = vec![timed(|_| bare())];
    for cli in &clis {
        let name = &name;
        writers.push(Box::new(move |_| {
            let start = Instant::now();
            succeed(cli, &["run", "-d", "--network", "none", "--name", name, "box", "seq", LINES])?;
            succeed(cli, &["wait", name])?;
            let took = start.elapsed();
            succeed(cli, &["rm", name])?;
            Ok(took)
        }));
    }
    let written = interleave(runs.few(), &mut writers)?;
    drop(writers);
    for cli in &clis {
        succeed(cli, &["run", "-d", "--network", "none", "--name", &name, "box", "seq", LINES])?;
        succeed(cli, &["wait", &name])?;
    }
    let mut readers: Vec<Task<'_>> = Vec::new();
    for cli in &clis {
        let name = &name;
        readers.push(timed(move |_| read_back(cli, name)));
    }
    let read = interleave(runs.few(), &mut readers)?;
    drop(readers);
    for cli in &clis {
        succeed(cli, &["rm", &name])?;
    }
    let over = |time: Duration| seconds(time) - seconds(written[0]);
    let row = |label: &str, wharf, other, goal| Measured {
        label: label.to_owned(),
        peer: "Docker",
        wharf,
        other,
        unit: "s",
        goal,
    };
    Ok(vec![
        row(
            "P9 2 million lines written, over the bare `seq`",
            over(written[1]),
            written.get(2).copied().map(over),
            "≤ 0.5 s",
        ),
        row("P9 `logs` of them", seconds(read[0]), read.get(1).copied().map(seconds), "≤ 0.1"),
    ])
}

/// The same lines through a pipe, without any container.
fn bare() -> Result<()> {
    let script = format!("busybox seq {LINES} | cat >/dev/null");
    let status = Command::new("sh").args(["-c", &script]).stdin(Stdio::null()).status();
    ensure!(status.context("running seq")?.success(), "seq failed");
    Ok(())
}

/// Into a file nobody looks at, as a user who redirects it.
fn read_back(cli: &Cli, name: &str) -> Result<()> {
    let status = cli.command(&["logs", name]).stdin(Stdio::null()).stdout(Stdio::null()).status();
    ensure!(status.context("running logs")?.success(), "logs failed");
    Ok(())
}

/// P11, and P4's rate: a thousand running containers, the list of them, a new engine that finds them.
pub(crate) fn thousand(runs: Runs) -> Result<Vec<Measured>> {
    let engines = Engines::start()?;
    let wharf = &engines.wharf;
    let start = Instant::now();
    let ids = start_many(wharf, THOUSAND)?;
    let each = millis(start.elapsed()) / THOUSAND as f64;
    let listed = interleave(runs, &mut [timed(|_| succeed(wharf, &["ps", "-aq"]))])?;
    let full = interleave(runs, &mut [timed(|_| succeed(wharf, &["ps", "-a"]))])?;
    let mut restarts = Vec::new();
    for _ in 0..5 {
        engines.engine.kill();
        let start = Instant::now();
        engines.engine.start();
        restarts.push(start.elapsed());
        let running = wharf.run(&["ps", "-q"]).stdout.lines().count();
        ensure!(running == THOUSAND, "{running} of {THOUSAND} containers run after the engine's restart");
    }
    let start = Instant::now();
    for some in ids.chunks(100) {
        let arguments: Vec<&str> = ["rm", "-f"].into_iter().chain(some.iter().map(String::as_str)).collect();
        succeed(wharf, &arguments)?;
    }
    let removed = millis(start.elapsed()) / THOUSAND as f64;
    wait_until("the containers to be gone", PATIENCE, || wharf.run(&["ps", "-aq"]).stdout.is_empty());
    let row = |label: &str, wharf, unit, goal| Measured {
        label: label.to_owned(),
        peer: "Docker",
        wharf,
        other: None,
        unit,
        goal,
    };
    Ok(vec![
        row("P4 each of 1,000 containers started by 4 clients", each, "ms", "as of 100"),
        row("P4 `rm -f`, each of 1,000", removed, "ms", "as of 100"),
        row("P11 `ps -a` with 1,000 running", millis(full[0]), "ms", "≤ 10 ms"),
        row("P11 `ps -aq` with 1,000 running", millis(listed[0]), "ms", "≤ 10 ms"),
        row("P11 engine killed and started with 1,000 running", seconds(middle(restarts)), "s", "≤ 1 s"),
    ])
}
