//! exec.

use super::args::{Args, Usage};
use super::lifecycle::write_pid_file;
use super::state::{self, Place, Status};
use super::{Failure, Globals, Outcome, terminal};
use std::path::Path;
use wharf_linux::process;
use wharf_runtime::spec::{Capabilities, Capability, LinuxCapabilities, Process, Spec};
use wharf_runtime::{ExecRequest, Seccomp, Stdio};

const USAGE: Usage<'_> = Usage {
    values: &[
        "--console-socket",
        "--cwd",
        "--env",
        "-e",
        "--user",
        "-u",
        "--additional-gids",
        "-g",
        "--process",
        "-p",
        "--pid-file",
        "--process-label",
        "--apparmor",
        "--cap",
        "-c",
        "--preserve-fds",
        "--cgroup",
        "--pidfd-socket",
    ],
    flags: &["--tty", "-t", "--detach", "-d", "--no-new-privs", "--ignore-paused"],
};

pub(super) fn exec(globals: &Globals, words: Vec<String>) -> Outcome {
    // A status of its own, so that no failure of ours is taken for the command's.
    run(globals, words).map_err(|failure| Failure { status: 255, ..failure })
}

fn run(globals: &Globals, words: Vec<String>) -> Outcome {
    let (args, mut rest) = Args::leading(words, &USAGE)?;
    if rest.is_empty() {
        return Err("missing argument: container id".into());
    }
    let id = rest.remove(0);
    if args.value("--cgroup").is_some() {
        return Err("option --cgroup is not supported: a process joins its container's own groups".into());
    }
    let place = Place::find(globals, &id)?;
    let (record, spec) = place.load()?;
    match place.status(&record, Some(&state::cgroup(&spec, &id)?)) {
        Status::Running | Status::Created => {}
        Status::Paused if args.flag("--ignore-paused") => {}
        Status::Paused => {
            return Err("cannot exec in a paused container (use --ignore-paused to override)".into());
        }
        Status::Stopped => return Err("cannot exec in a stopped container".into()),
    }
    let process = process_of(&args, rest, &spec)?;
    let init = process::open(record.pid).map_err(|e| format!("open process {}: {e}", record.pid))?;
    // Checked behind the open: the number cannot have passed to another process now.
    if state::start_time(record.pid) != Some(record.start_time) {
        return Err("cannot exec in a stopped container".into());
    }
    let tty = process.terminal().unwrap_or(false);
    let (rows, cols) = terminal::wanted_size(&process);
    process::block_signals().map_err(|e| format!("block signals: {e}"))?;
    let child = wharf_runtime::exec(ExecRequest {
        init_pid: record.pid,
        init_pidfd: std::os::fd::AsFd::as_fd(&init),
        spec: &spec,
        process: &process,
        stdio: if tty { Stdio::Terminal { rows, cols } } else { Stdio::Fds(terminal::own_streams()?) },
        seccomp: Seccomp::FromSpec,
        user: None,
        groups: &[],
        default_home: true,
        preserve_fds: args.number("--preserve-fds")?.unwrap_or(0),
    })?;
    write_pid_file(&args, child.pid)?;
    let console = match (child.console, args.value("--console-socket")) {
        (Some(console), Some(path)) => {
            terminal::send_console(Path::new(path), &console)?;
            None
        }
        (console, _) => console,
    };
    if args.flag("--detach") || args.flag("-d") {
        return Ok(0);
    }
    terminal::follow(&child.pidfd, console)
}

/// The process to run: from a file, or the container's own with what the options change.
fn process_of(args: &Args, command: Vec<String>, spec: &Spec) -> Result<Process, Failure> {
    if let Some(path) = args.either("--process", "-p") {
        let text = std::fs::read_to_string(path).map_err(|e| format!("read {path}: {e}"))?;
        return Ok(serde_json::from_str(&text).map_err(|e| format!("understand {path}: {e}"))?);
    }
    if command.is_empty() {
        return Err("missing argument: command".into());
    }
    let mut process = spec.process().clone().ok_or("the container's configuration has no process")?;
    process.set_args(Some(command)).set_terminal(Some(args.flag("--tty") || args.flag("-t")));
    if let Some(cwd) = args.value("--cwd") {
        process.set_cwd(cwd.into());
    }
    let mut env = process.env().clone().unwrap_or_default();
    env.extend(args.all("--env").chain(args.all("-e")).map(str::to_owned));
    process.set_env(Some(env));
    if let Some(label) = args.value("--process-label") {
        process.set_selinux_label(Some(label.to_owned()));
    }
    if let Some(profile) = args.value("--apparmor") {
        process.set_apparmor_profile(Some(profile.to_owned()));
    }
    if args.flag("--no-new-privs") {
        process.set_no_new_privileges(Some(true));
    }
    let mut user = process.user().clone();
    if let Some(text) = args.either("--user", "-u") {
        let (uid, gid) = text.split_once(':').unwrap_or((text, "0"));
        user.set_uid(id(uid)?).set_gid(id(gid)?);
    }
    let groups: Vec<_> =
        args.all("--additional-gids").chain(args.all("-g")).map(id).collect::<Result<_, _>>()?;
    if !groups.is_empty() {
        user.set_additional_gids(Some(groups));
    }
    process.set_user(user);
    let names: Vec<_> = args.all("--cap").chain(args.all("-c")).collect();
    if !names.is_empty() {
        let sets = add_capabilities(process.capabilities().clone().unwrap_or_default(), &names)?;
        process.set_capabilities(Some(sets));
    }
    Ok(process)
}

fn id(text: &str) -> Result<u32, Failure> {
    let number = Some(text).filter(|t| t.bytes().all(|b| b.is_ascii_digit())).and_then(|t| t.parse().ok());
    number
        .filter(|n| *n <= i32::MAX as u32)
        .ok_or_else(|| format!("{text:?} is not a number from 0 to 2147483647").into())
}

fn add_capabilities(mut sets: LinuxCapabilities, names: &[&str]) -> Result<LinuxCapabilities, Failure> {
    for name in names {
        let bare = name.strip_prefix("CAP_").unwrap_or(name);
        let capability: Capability = bare.parse().map_err(|_| format!("unknown capability {name:?}"))?;
        let with = |set: &Option<Capabilities>| {
            let mut set = set.clone().unwrap_or_default();
            set.insert(capability);
            Some(set)
        };
        let (bounding, effective, permitted) =
            (with(sets.bounding()), with(sets.effective()), with(sets.permitted()));
        sets.set_bounding(bounding).set_effective(effective).set_permitted(permitted);
    }
    Ok(sets)
}
