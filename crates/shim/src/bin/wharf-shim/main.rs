//! `wharf-shim`: looks after one container.
//!
//! `wharf-shim run shim.json` is started by the engine with a control socket as descriptor 0 and stderr to a log file;
//! `wharf-shim status RUN_DIR` asks a running one how its container is.
#![expect(clippy::print_stdout, reason = "--version and status answer on stdout")]

/// Writes a line to the shim's log, which may be on a full disk: `eprintln!` would panic then, and the container with it.
macro_rules! complain {
    ($($words:tt)*) => {{
        use std::io::Write as _;
        let _lost = writeln!(std::io::stderr(), $($words)*);
    }};
}

mod connections;
mod container;
mod exec;
mod failure;
mod foreign;
mod health;
mod monitor;
mod oom;
mod output;
mod poller;
mod runtime;

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::fcntl_dupfd_cloexec;
use wharf_linux::{daemon, process};
use wharf_shim::client::Client;
use wharf_shim::protocol::{Event, Message, Request, VERSION, encode};

use failure::Failure;

const USAGE: &str = "usage: wharf-shim run CONFIG | status RUN_DIR | --version";
/// Signals that are sent to whole sessions and at shutdown: the container decides when the shim ends.
const DISARMED: [i32; 8] = [1, 2, 3, 10, 12, 14, 15, 20];

/// Out-of-memory score of a shim: without it a container would go on unwatched, so it would be killed too.
const PROTECTED: i32 = -500;

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    match args.iter().map(|arg| arg.as_os_str()).collect::<Vec<&OsStr>>()[..] {
        [verb, config] if verb == "run" => run(Path::new(config)),
        [verb, run_dir] if verb == "status" => status(Path::new(run_dir)),
        // In a container, as its first process.
        [verb, dashes, ref command @ ..] if verb == "init" && dashes == "--" => {
            let command: Vec<String> =
                command.iter().map(|word| word.to_string_lossy().into_owned()).collect();
            let status = wharf_runtime::apart::run_as_init(&command);
            ExitCode::from(u8::try_from(status).unwrap_or(255))
        }
        [flag] if flag == "--version" => {
            println!("wharf-shim {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        _ => {
            complain!("{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn run(config: &Path) -> ExitCode {
    let control = match settle() {
        Ok(control) => control,
        Err(error) => {
            complain!("wharf-shim: {}", error.message);
            return ExitCode::FAILURE;
        }
    };
    match monitor::Monitor::create(config, &control, protect()).and_then(|monitor| monitor.run()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            complain!("wharf-shim: {}", failure.message);
            let event = Event::Failed { kind: failure.kind, message: failure.message };
            if let Ok(bytes) = encode(&Message::Event(event)) {
                // An engine that has gone will find a container that was never made.
                let _gone = wharf_linux::seqpacket::send(control.as_fd(), &bytes, &[]);
            }
            ExitCode::FAILURE
        }
    }
}

/// Asks the kernel's OOM killer to take others first, where that is allowed; gives the score children should go back to.
fn protect() -> Option<i32> {
    let file = Path::new("/proc/self/oom_score_adj");
    let score = wharf_linux::hostfs::read_to_string(file).ok()?.trim().parse().ok()?;
    if score <= PROTECTED {
        return None;
    }
    wharf_linux::hostfs::write(file, PROTECTED.to_string().as_bytes()).ok().map(|()| score)
}

/// Makes this process one that a container can neither see into nor take down by accident; gives the control socket.
fn settle() -> Result<OwnedFd, Failure> {
    process::set_undumpable().map_err(Failure::on("become undumpable"))?;
    process::close_on_exec_from(3).map_err(Failure::on("seal inherited descriptors"))?;
    daemon::disarm(&DISARMED).map_err(Failure::on("disarm signals"))?;
    // Fails for the leader of a process group, which a shim started by hand may be.
    // Keep no directory of the engine's busy.
    let _at_root = std::env::set_current_dir("/");
    let _leader = rustix::process::setsid();
    let control =
        fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3).map_err(Failure::on("keep the control socket"))?;
    rustix::fs::openat(CWD, "/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .and_then(rustix::stdio::dup2_stdin)
        .map_err(Failure::on("open /dev/null"))?;
    Ok(control)
}

fn status(run_dir: &Path) -> ExitCode {
    let answer = Client::connect(run_dir)
        .and_then(|mut client| client.ask(Request::Hello { version: VERSION }, &[], Duration::from_secs(5)));
    match answer.map(|(reply, _)| serde_json::to_string(&reply)) {
        Ok(Ok(text)) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Ok(Err(error)) => {
            complain!("wharf-shim: {error}");
            ExitCode::FAILURE
        }
        Err(error) => {
            complain!("wharf-shim: {error}");
            ExitCode::FAILURE
        }
    }
}
