//! The command line: global options, one module per family of commands, exit statuses, the log file.

mod args;
mod containers;
mod exec;
mod lifecycle;
mod spec;
mod state;
mod terminal;

use args::{Args, Usage};
use std::io::Write;
use std::path::PathBuf;

/// Options before the command's name.
#[derive(Debug, Default)]
pub(crate) struct Globals {
    /// Where the containers' state is.
    pub(crate) root: PathBuf,
    log: Option<PathBuf>,
    log_json: bool,
    systemd_cgroup: bool,
}

/// Why a command did not work, and the exit status for it.
#[derive(Debug)]
pub(crate) struct Failure {
    message: String,
    status: i32,
}

impl<E: std::fmt::Display> From<E> for Failure {
    fn from(error: E) -> Self {
        Self { message: error.to_string(), status: 1 }
    }
}

/// Exit status of a command, or why it did not work.
pub(crate) type Outcome = Result<i32, Failure>;

const HELP: &str = "\
wharf-runtime runs containers described by OCI bundles. Its commands are runc's.

Usage: wharf-runtime [global options] command [options] [arguments]

Commands:
  spec                       write a config.json to start from
  create ID                  create a container from the bundle in the working directory
  start ID                   run the command of a created container
  run ID                     create, start, wait, delete
  state ID                   print a container's state as JSON
  exec ID COMMAND [ARG...]   run one more command in a running container
  kill ID [SIGNAL]           send a signal (SIGTERM) to a container's first process
  pause ID, resume ID        stop and continue all processes of a container
  ps ID                      print the process ids in a container
  update ID                  change resource limits
  delete ID                  delete a container that has stopped
  list                       list containers
  features                   print what this runtime supports as JSON

Global options:
  --root DIR                 where state is kept (/run/wharf-runtime)
  --log FILE                 append errors to FILE as well
  --log-format text|json     how
  --debug                    accepted, has no effect
  --systemd-cgroup           take linux.cgroupsPath as slice:prefix:name
  -v, --version              print the version
  -h, --help                 print this
";

/// Runs the program; gives its exit status.
pub(crate) fn main() -> i32 {
    let mut globals = Globals { root: default_root(), ..Globals::default() };
    match run(&mut globals) {
        Ok(status) => status,
        Err(failure) => {
            globals.report(&failure.message);
            failure.status
        }
    }
}

fn default_root() -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return "/run/wharf-runtime".into();
    }
    std::env::var_os("XDG_RUNTIME_DIR").map_or_else(|| "/tmp".into(), PathBuf::from).join("wharf-runtime")
}

fn run(globals: &mut Globals) -> Outcome {
    let words = std::env::args().skip(1).collect();
    let usage = Usage {
        values: &["--root", "--log", "--log-format", "--criu", "--rootless"],
        flags: &["--debug", "--systemd-cgroup", "--version", "-v", "--help", "-h"],
    };
    let (options, mut rest) = Args::leading(words, &usage)?;
    if let Some(root) = options.value("--root") {
        globals.root = root.into();
    }
    globals.log = options.value("--log").map(PathBuf::from);
    globals.log_json = options.value("--log-format") == Some("json");
    globals.systemd_cgroup = options.flag("--systemd-cgroup");
    if options.flag("--version") || options.flag("-v") {
        println!("wharf-runtime version {}\nspec: {}", env!("CARGO_PKG_VERSION"), spec::OCI_VERSION);
        return Ok(0);
    }
    if options.flag("--help") || options.flag("-h") || rest.is_empty() {
        print!("{HELP}");
        return Ok(0);
    }
    let command = rest.remove(0);
    if matches!(command.as_str(), "create" | "run" | "exec") {
        // From here on no process of a container can write to our executable.
        wharf_linux::process::reexec_protected().map_err(|e| format!("protect the executable: {e}"))?;
    }
    match command.as_str() {
        "spec" => spec::spec(rest),
        "create" => lifecycle::create(globals, rest),
        "run" => lifecycle::run(globals, rest),
        "start" => lifecycle::start(globals, rest),
        "delete" => lifecycle::delete(globals, rest),
        "kill" => lifecycle::kill(globals, rest),
        "exec" => exec::exec(globals, rest),
        "state" => containers::state(globals, rest),
        "list" => containers::list(globals, rest),
        "ps" => containers::ps(globals, rest),
        "pause" => containers::pause(globals, rest, true),
        "resume" => containers::pause(globals, rest, false),
        "update" => containers::update(globals, rest),
        "features" => spec::features(),
        "help" => {
            print!("{HELP}");
            Ok(0)
        }
        other => Err(format!("no command {other:?}: see wharf-runtime --help").into()),
    }
}

impl Globals {
    /// Says what went wrong, on standard error and in the log file, where engines look for it.
    fn report(&self, message: &str) {
        let _nobody_reads = writeln!(std::io::stderr(), "wharf-runtime: {message}");
        let Some(path) = &self.log else { return };
        let time = jiff::Timestamp::now().to_string();
        let line = if self.log_json {
            serde_json::json!({"level": "error", "msg": message, "time": time}).to_string()
        } else {
            format!("time={time:?} level=error msg={message:?}")
        };
        let file = std::fs::OpenOptions::new().append(true).create(true).open(path);
        if let Err(error) = file.and_then(|mut file| writeln!(file, "{line}")) {
            let _nobody_reads =
                writeln!(std::io::stderr(), "wharf-runtime: write to the log {}: {error}", path.display());
        }
    }
}
