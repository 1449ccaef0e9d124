//! From what was seen to the cause, in one place and without looking at anything: pure functions.
//!
//! The kernel shields process 1 of a pid namespace (pid_namespaces(7)): a signal that it has no handler for never
//! reaches it, but for SIGKILL from an ancestor namespace. So a container in a namespace of its own whose first process
//! was *ended by* a signal got it from the kernel itself (a fault, the out-of-memory killer) or was killed from outside,
//! and what Wharf sends it remembers.

use jiff::Timestamp;
use wharf_model::ErrorKind;
use wharf_model::signal;
use wharf_shim::protocol::{ExitStatus, Purpose, Sent};

use super::{Cause, Ending};
use crate::Error;
use crate::containers::Record;

/// Signals that a program's own mistake brings about.
const FAULTS: [i32; 5] = [4, 5, 7, 8, 11];
/// SIGSYS: what a system call filter punishes with.
const SYS: i32 = 31;
/// How long after a signal an end is still taken for its consequence, beyond the time that a stop grants.
const CONSEQUENCE_NS: i64 = 2_000_000_000;

/// What an ending says, before the facts that every ending has.
struct Said {
    kind: Cause,
    cause: String,
    evidence: Vec<String>,
    advice: Vec<String>,
}

impl Said {
    fn new(kind: Cause, cause: impl Into<String>) -> Self {
        Self { kind, cause: cause.into(), evidence: Vec::new(), advice: Vec::new() }
    }

    fn because(mut self, line: impl Into<String>) -> Self {
        self.evidence.push(line.into());
        self
    }

    fn advise(mut self, line: impl Into<String>) -> Self {
        self.advice.push(line.into());
        self
    }
}

/// Why a run ended. `lost` is set when its monitor could not say.
pub(crate) fn of_run(record: &Record, status: &ExitStatus, lost: Option<&(Cause, String)>) -> Ending {
    let said = match lost {
        Some((kind, reason)) => lost_run(*kind, reason),
        None => match status.signal {
            Some(number) => by_signal(record, status, number),
            None => by_itself(record, status),
        },
    };
    let mut ending = ending(record, said, status.code, crate::containers::timestamp(status.finished_at_ns));
    ending.signal = status.signal;
    ending.oom_kills = status.evidence.oom_kills;
    ending.started_at = record.started_at;
    let mut evidence = vec![how_it_ended(status)];
    evidence.append(&mut ending.evidence);
    evidence.extend(memory(record, status));
    if let Some(began) = ending.started_at {
        evidence.push(format!(
            "ran for {}, from {began} to {}",
            took(began, ending.finished_at),
            ending.finished_at
        ));
    }
    ending.evidence = evidence;
    ending
}

/// Why a start failed.
pub(crate) fn of_start(record: &Record, error: &Error, code: i32) -> Ending {
    let said = start_error(record, error).because(format!("the start said: {error}"));
    ending(record, said, code, None)
}

fn ending(record: &Record, said: Said, exit_code: i32, at: Option<Timestamp>) -> Ending {
    Ending {
        container: record.id.to_string(),
        name: record.name.clone(),
        image: record.spec.image.clone(),
        command: record.command(),
        kind: said.kind,
        cause: said.cause,
        evidence: said.evidence,
        advice: said.advice,
        exit_code,
        signal: None,
        oom_kills: 0,
        started_at: None,
        finished_at: at.unwrap_or_else(Timestamp::now),
        restart_count: record.restart_count,
    }
}

fn lost_run(kind: Cause, reason: &str) -> Said {
    let said = Said::new(kind, format!("{}.", capital(reason)));
    match kind {
        Cause::MachineRestarted => said
            .because("the run directory, which lasts as long as the machine is up, is gone")
            .advise("--restart unless-stopped starts it again with the machine"),
        _ => said
            .because("the shim's socket closed and it left no exit record")
            .advise("look for what killed the process wharf-shim: the kernel's log, somebody's kill"),
    }
}

fn by_signal(record: &Record, status: &ExitStatus, number: i32) -> Said {
    let name = signal::name(number);
    let evidence = &status.evidence;
    if let Some(sent) =
        [evidence.sent, evidence.sent_before].into_iter().flatten().find(|sent| sent.signal == number)
    {
        return asked_for(record, status, &sent);
    }
    if number == signal::KILL && evidence.oom_kills > 0 {
        return Said::new(
            Cause::OutOfMemory,
            "The kernel killed it because it needed more memory than it may have.",
        )
        .because("Wharf sent no SIGKILL, and the control group counted a kill for want of memory")
        .advise(more_memory(record));
    }
    if number == SYS {
        return Said::new(
            Cause::ForbiddenCall,
            "It made a system call that its seccomp filter punishes with death.",
        )
        .advise(
            "find the call with strace, and allow it in a profile of your own: --security-opt seccomp=FILE",
        );
    }
    if FAULTS.contains(&number) {
        let said = Said::new(Cause::Crashed, format!("The program crashed: {}.", fault(number)));
        let said = match status.evidence.core_dumped {
            true => said.because("the kernel wrote a core dump, where /proc/sys/kernel/core_pattern says"),
            false => said,
        };
        return said.advise("run it under a debugger, or with --ulimit core=-1 for a core dump");
    }
    let host_pids = !record.spec.host.pid_mode.is_empty();
    let cause = format!("Something outside of Wharf sent it {name}.");
    if host_pids {
        return Said::new(Cause::KilledFromOutside, cause)
            .because(format!("Wharf sent it no {name}"))
            .because(
                "it shares its process ids (--pid), so any process there with the right may have sent it",
            );
    }
    Said::new(Cause::KilledFromOutside, cause)
        .because(format!("Wharf sent it no {name}, and nobody ran out of memory in its control group"))
        .because("it was process 1 of its pid namespace, which no process within can end that way: the sender is a process of the host")
        .advise("ask who uses kill, pkill, killall or a memory watchdog (earlyoom, systemd-oomd) on this machine")
}

/// A signal that was sent for somebody.
fn asked_for(record: &Record, status: &ExitStatus, sent: &Sent) -> Said {
    let name = signal::name(sent.signal);
    let before = status.evidence.sent_before.filter(|before| before.signal != sent.signal);
    let forced = sent.signal == signal::KILL && before.is_some_and(|before| before.purpose == sent.purpose);
    let (kind, by) = match sent.purpose {
        Purpose::Stop => (Cause::Stopped, "somebody stopped it"),
        Purpose::Restart => (Cause::Restarted, "somebody restarted it"),
        Purpose::Remove => (Cause::Removed, "somebody removed it while it ran (rm -f)"),
        Purpose::Shutdown => (Cause::EngineShutdown, "the engine shut down"),
        Purpose::Unhealthy => (Cause::Unhealthy, "its health check failed"),
        Purpose::Kill | Purpose::Unknown => (Cause::Killed, "somebody asked for it (kill)"),
    };
    let cause = match (forced, before) {
        (true, Some(before)) => format!(
            "Wharf ended it with {name}, because {by} and it was still there after {}.",
            signal::name(before.signal)
        ),
        _ => format!("Wharf ended it with {name}, because {by}."),
    };
    let mut said = Said::new(kind, cause);
    for sent in [before, Some(*sent)].into_iter().flatten() {
        said = said.because(sent_line(&sent));
    }
    if forced {
        let init = record.spec.host.init.unwrap_or(false);
        said = said.advise(format!(
            "let the program handle {}, or give it another signal (--stop-signal) or more time (--stop-timeout)",
            before.map_or_else(|| "the stop signal".to_owned(), |before| signal::name(before.signal))
        ));
        if !init {
            said = said.advise(
                "a program that is process 1 and has no handler for it never gets it: --init puts one in front that passes signals on",
            );
        }
    }
    said
}

/// The program ended with a code, which may still be somebody's wish.
fn by_itself(record: &Record, status: &ExitStatus) -> Said {
    let code = status.code;
    if let Some(sent) = status.evidence.sent.filter(|sent| led_to(record, status, sent)) {
        let mut said = asked_for(record, status, &sent);
        said.advice.clear();
        said.cause = format!(
            "{} and it ended by itself with {code}.",
            said.cause.trim_end_matches('.').replacen("ended it with", "sent it", 1)
        );
        return said;
    }
    if status.evidence.oom_kills > 0 && code != 0 {
        let said = Said::new(
            Cause::ChildOutOfMemory,
            format!(
                "The kernel killed a process in it for want of memory, and the program ended with {code}."
            ),
        );
        return said.advise(more_memory(record));
    }
    match code {
        0 => Said::new(Cause::Finished, "The program ended by itself with 0: it was done.")
            .advise("a service must stay in the foreground: start it without its option to become a daemon"),
        126 | 127 => {
            let what = if code == 127 { "was not found" } else { "could not be executed" };
            Said::new(
                Cause::Failed,
                format!("The program ended with {code}: something it wanted to run {what}."),
            )
            .because(format!(
                "{code} is what shells, env and loaders end with when what they shall run {what}"
            ))
        }
        129..=192 => {
            let name = signal::name(code - 128);
            Said::new(
                Cause::Failed,
                format!("The program ended with {code}: a process it ran was ended by {name}."),
            )
            .because(format!(
                "shells, and --init, end with 128 + {} for a child that {name} ended",
                code - 128
            ))
        }
        _ => Said::new(Cause::Failed, format!("The program ended by itself with {code}."))
            .advise(format!("its own words: wharf logs {}", record.name)),
    }
}

/// True when the end followed the signal as its consequence.
fn led_to(record: &Record, status: &ExitStatus, sent: &Sent) -> bool {
    let meant_as_end = sent.purpose != Purpose::Kill && sent.purpose != Purpose::Unknown;
    let stop_signal = signal::parse(&record.spec.stop_signal).unwrap_or(signal::TERM);
    let ends = [1, 2, 3, signal::TERM, stop_signal].contains(&sent.signal);
    meant_as_end || (ends && status.finished_at_ns - sent.at_ns < CONSEQUENCE_NS)
}

fn start_error(record: &Record, error: &Error) -> Said {
    let text = error.to_string();
    let program = record.command().first().cloned().unwrap_or_default();
    let failed = |kind: Cause, cause: String| Said::new(kind, cause);
    let has = |word: &str| text.contains(word);
    match error {
        Error::Start { exit_code: 127, .. } => failed(
            Cause::CommandMissing,
            format!("The command \"{program}\" does not exist in the container."),
        ),
        Error::Start { exit_code: 126, .. } => failed(
            Cause::CommandNotExecutable,
            format!("The command \"{program}\" exists in the container and cannot be executed."),
        ),
        Error::Publish { .. } => failed(Cause::PortInUse, "A port it publishes cannot be had.".to_owned())
            .advise("another host port (-p HOST:CONTAINER), or -P for any that is free")
            .advise("who listens on the machine: ss -ltnup"),
        Error::Network(_) => failed(Cause::Network, "Its network could not be set up.".to_owned()),
        _ if error.kind() == ErrorKind::Exhausted || has("No space left on device") => {
            failed(Cause::DiskFull, "There is no room on the disk of the engine.".to_owned())
                .advise("what takes the room: wharf system df -v; what can go: wharf system prune")
        }
        _ if has("chdir to cwd") => failed(
            Cause::WorkingDirectory,
            format!("Its working directory \"{}\" cannot be used.", record.spec.working_dir),
        )
        .advise("another one with -w, or a mount that brings it"),
        _ if has("unable to find user") || has("unable to find group") || has("no matching entries in") => {
            failed(Cause::NoSuchUser, format!("It shall run as \"{}\", whom the container's /etc/passwd and /etc/group do not know.", record.spec.user))
                .advise("a number needs no entry: -u 1000:1000")
        }
        _ if has("sysctl") || has("/proc/sys/") => failed(
            Cause::Sysctl,
            "A kernel parameter it asks for (--sysctl) could not be set.".to_owned(),
        )
        .advise("only parameters of its own namespaces can be set: net.* with a network of its own, kernel.shm* and fs.mqueue.* with an ipc namespace of its own"),
        _ if has("device") => {
            failed(Cause::Device, "A device it asks for could not be given to it.".to_owned())
                .advise("is the device there on the machine, and is it a device?")
        }
        _ if has("mount") => failed(Cause::Mount, "Something could not be mounted into it.".to_owned())
            .advise("does the source exist, and is the target of the same sort (file or directory)?"),
        _ if has("cgroup") || has("RLIMIT") => {
            failed(Cause::Limit, "A limit it asks for could not be set.".to_owned())
        }
        _ => failed(Cause::StartFailed, "It could not be started.".to_owned()),
    }
}

fn how_it_ended(status: &ExitStatus) -> String {
    match status.signal {
        Some(number) => {
            format!("exit code {}: ended by signal {number} ({})", status.code, signal::name(number))
        }
        None => format!("exit code {}: ended by itself", status.code),
    }
}

fn sent_line(sent: &Sent) -> String {
    let name = signal::name(sent.signal);
    match crate::containers::timestamp(sent.at_ns) {
        Some(at) => format!("{at}: Wharf sent {name} to its first process"),
        None => format!("Wharf sent {name} to its first process"),
    }
}

fn memory(record: &Record, status: &ExitStatus) -> Option<String> {
    let kills = status.evidence.oom_kills;
    let times = if kills == 1 { "1 process".to_owned() } else { format!("{kills} processes") };
    (kills > 0).then(|| match record.spec.host.memory {
        0 => format!("the kernel killed {times} of it for want of memory; it has no limit of its own"),
        limit => format!("the kernel killed {times} of it for want of memory; its limit is {}", bytes(limit)),
    })
}

fn more_memory(record: &Record) -> String {
    match record.spec.host.memory {
        0 => "it has no limit of its own: the machine, or a control group above it, ran out of memory"
            .to_owned(),
        limit => {
            let more = bytes_flag(limit.saturating_mul(2));
            format!("more memory: wharf update --memory {more} --memory-swap {more} {}", record.name)
        }
    }
}

fn fault(number: i32) -> &'static str {
    match number {
        4 => "illegal instruction (SIGILL); the processor may lack what the program was built for",
        5 => "a breakpoint that no debugger took (SIGTRAP)",
        7 => {
            "an access to memory that is not there (SIGBUS), perhaps a mapped file that became shorter, or a full /dev/shm"
        }
        8 => "an impossible calculation such as a division by zero (SIGFPE)",
        _ => "an access to memory that is not its own (SIGSEGV)",
    }
}

fn took(from: Timestamp, to: Timestamp) -> String {
    let milliseconds = to.duration_since(from).as_millis().max(0);
    match milliseconds {
        0..10_000 => format!("{}.{:03} s", milliseconds / 1000, milliseconds % 1000),
        10_000..600_000 => format!("{} s", milliseconds / 1000),
        600_000..36_000_000 => format!("{} min", milliseconds / 60_000),
        _ => format!("{} h", milliseconds / 3_600_000),
    }
}

fn bytes(number: i64) -> String {
    const MEGA: i64 = 1 << 20;
    if number >= MEGA { format!("{} MiB", number / MEGA) } else { format!("{number} bytes") }
}

fn bytes_flag(number: i64) -> String {
    format!("{}m", (number >> 20).max(6))
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}
