//! Looking at containers and changing running ones.

use super::args::{Args, Usage};
use super::state::{self, Place, Record, Status};
use super::{Failure, Globals, Outcome, spec::OCI_VERSION};
use std::io::Read;
use wharf_runtime::spec::LinuxResources;

const NOTHING: Usage<'_> = Usage { values: &[], flags: &[] };

fn describe(record: &Record, status: Status) -> serde_json::Value {
    let pid = if status == Status::Stopped { 0 } else { record.pid };
    serde_json::json!({
        "ociVersion": OCI_VERSION,
        "id": record.id,
        "pid": pid,
        "status": status.name(),
        "bundle": record.bundle,
        "rootfs": record.rootfs,
        "created": record.created,
        "annotations": record.annotations,
        "owner": record.owner,
    })
}

pub(super) fn state(globals: &Globals, words: Vec<String>) -> Outcome {
    let (_, [id]) = Args::exact(words, &NOTHING, ["container id"])?;
    let place = Place::find(globals, &id)?;
    let (record, spec) = place.load()?;
    let status = place.status(&record, Some(&state::cgroup(&spec, &id)?));
    println!("{}", serde_json::to_string_pretty(&describe(&record, status))?);
    Ok(0)
}

pub(super) fn list(globals: &Globals, words: Vec<String>) -> Outcome {
    let usage = Usage { values: &["--format", "-f"], flags: &["--quiet", "-q"] };
    let (args, []) = Args::exact(words, &usage, [])?;
    let mut rows = Vec::new();
    for place in Place::all(globals)? {
        // One that is deleted at this moment is not listed.
        if let Ok((record, spec)) = place.load() {
            let status = place.status(&record, state::cgroup(&spec, &place.id).ok().as_ref());
            rows.push((record, status));
        }
    }
    if args.flag("--quiet") || args.flag("-q") {
        rows.iter().for_each(|(record, _)| println!("{}", record.id));
        return Ok(0);
    }
    match args.either("--format", "-f").unwrap_or("table") {
        "json" if rows.is_empty() => println!("null"),
        "json" => {
            let values: Vec<_> = rows.iter().map(|(record, status)| describe(record, *status)).collect();
            println!("{}", serde_json::to_string(&values)?);
        }
        "table" => print_table(&rows),
        other => return Err(format!("no format {other:?}: table or json").into()),
    }
    Ok(0)
}

fn print_table(rows: &[(Record, Status)]) {
    let header = ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned);
    let cells = |(r, status): &(Record, Status)| {
        let pid = if *status == Status::Stopped { 0 } else { r.pid };
        let bundle = r.bundle.display().to_string();
        [r.id.clone(), pid.to_string(), status.name().into(), bundle, r.created.clone(), r.owner.clone()]
    };
    let table: Vec<_> = std::iter::once(header).chain(rows.iter().map(cells)).collect();
    for row in &table {
        let mut line = String::new();
        for (index, cell) in row.iter().enumerate() {
            let width = table.iter().map(|r| r[index].len()).max().unwrap_or(0).max(11);
            line.push_str(&format!("{cell:width$} "));
        }
        println!("{}", line.trim_end());
    }
}

pub(super) fn ps(globals: &Globals, words: Vec<String>) -> Outcome {
    let usage = Usage { values: &["--format", "-f"], flags: &[] };
    let (args, [id]) = Args::exact(words, &usage, ["container id"])?;
    let (_, spec) = Place::find(globals, &id)?.load()?;
    let pids = state::cgroup(&spec, &id)?.pids()?;
    match args.either("--format", "-f").unwrap_or("table") {
        "json" => println!("{}", serde_json::to_string(&pids)?),
        // Only numbers: running a `ps` here would be running a program on someone's behalf.
        _ => {
            println!("PID");
            pids.iter().for_each(|pid| println!("{pid}"));
        }
    }
    Ok(0)
}

pub(super) fn pause(globals: &Globals, words: Vec<String>, pause: bool) -> Outcome {
    let (_, [id]) = Args::exact(words, &NOTHING, ["container id"])?;
    let place = Place::find(globals, &id)?;
    let (record, spec) = place.load()?;
    let cgroup = state::cgroup(&spec, &id)?;
    match (place.status(&record, Some(&cgroup)), pause) {
        (Status::Running | Status::Created, true) => cgroup.freeze()?,
        (Status::Paused, false) => cgroup.thaw()?,
        (_, true) => return Err("container not running".into()),
        (_, false) => return Err("container not paused".into()),
    }
    Ok(0)
}

pub(super) fn update(globals: &Globals, words: Vec<String>) -> Outcome {
    let usage = Usage {
        values: &[
            "--resources",
            "-r",
            "--memory",
            "--memory-reservation",
            "--memory-swap",
            "--cpu-share",
            "--cpu-quota",
            "--cpu-period",
            "--cpuset-cpus",
            "--cpuset-mems",
            "--pids-limit",
            "--blkio-weight",
        ],
        flags: &[],
    };
    let (args, [id]) = Args::exact(words, &usage, ["container id"])?;
    let (_, spec) = Place::find(globals, &id)?.load()?;
    let mut resources = match args.either("--resources", "-r") {
        Some(path) => wharf_runtime::limits(Some(&read_resources(path)?))?,
        None => wharf_runtime::limits(None)?,
    };
    resources.memory = number(&args, "--memory")?.or(resources.memory);
    resources.memory_reservation = number(&args, "--memory-reservation")?.or(resources.memory_reservation);
    resources.memory_swap = number(&args, "--memory-swap")?.or(resources.memory_swap);
    resources.cpu_shares = number(&args, "--cpu-share")?.or(resources.cpu_shares);
    resources.cpu_quota = number(&args, "--cpu-quota")?.or(resources.cpu_quota);
    resources.cpu_period = number(&args, "--cpu-period")?.or(resources.cpu_period);
    resources.pids = number(&args, "--pids-limit")?.or(resources.pids);
    resources.blkio_weight = number(&args, "--blkio-weight")?.or(resources.blkio_weight);
    resources.cpuset_cpus = args.value("--cpuset-cpus").map(str::to_owned).or(resources.cpuset_cpus);
    resources.cpuset_mems = args.value("--cpuset-mems").map(str::to_owned).or(resources.cpuset_mems);
    state::cgroup(&spec, &id)?.update(&resources)?;
    Ok(0)
}

fn number<T: std::str::FromStr>(args: &Args, name: &str) -> Result<Option<T>, Failure> {
    let parse =
        |text: &str| text.parse().map_err(|_| format!("option {name}: {text:?} is not a number").into());
    args.value(name).map(parse).transpose()
}

fn read_resources(path: &str) -> Result<LinuxResources, Failure> {
    const MOST: u64 = 1 << 20;
    let mut text = String::new();
    let read = match path {
        "-" => std::io::stdin().take(MOST).read_to_string(&mut text),
        path => std::fs::File::open(path).and_then(|file| file.take(MOST).read_to_string(&mut text)),
    };
    read.map_err(|e| format!("read {path}: {e}"))?;
    Ok(serde_json::from_str(&text).map_err(|e| format!("understand {path}: {e}"))?)
}
