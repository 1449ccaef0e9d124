//! Running a Docker-like command line against an engine, with a deadline.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use crate::PATIENCE;

/// What a finished command left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Standard output; bytes that are not UTF-8 are replaced.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// The exit code, 128+n for signal n.
    pub code: i32,
}

/// A `docker` or `wharf` program pointed at one engine, with an empty home so that no local configuration leaks in.
#[derive(Debug)]
pub struct Cli {
    program: PathBuf,
    host: String,
    home: tempfile::TempDir,
    deadline: Duration,
}

impl Cli {
    /// `program` talking to the engine at `host` (a `unix://` address).
    pub fn new(program: &Path, host: &str) -> Self {
        let home = tempfile::Builder::new().prefix("wharf-home-").tempdir().expect("a temporary home");
        // Scripts say `docker`, whichever program stands behind the name.
        std::os::unix::fs::symlink(program, home.path().join("docker")).expect("a link in a fresh directory");
        write_program(&home.path().join("terminal"), include_str!("terminal.sh"));
        Self { program: program.to_path_buf(), host: host.to_owned(), home, deadline: PATIENCE }
    }

    /// The same with another deadline for each command.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// The command with environment and arguments, for tests that need the process itself.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(args);
        self.environment(&mut command);
        command
    }

    /// Runs it with nothing on standard input.
    pub fn run(&self, args: &[&str]) -> Output {
        finish(self.command(args), b"", self.deadline)
    }

    /// Runs it with `input` on standard input.
    pub fn run_with_input(&self, args: &[&str], input: &[u8]) -> Output {
        finish(self.command(args), input, self.deadline)
    }

    /// Runs it and returns its standard output, trimmed.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert_eq!(output.code, 0, "`docker {}` failed:\n{}{}", args.join(" "), output.stdout, output.stderr);
        output.stdout.trim_end().to_owned()
    }

    /// Runs it and returns its standard error.
    ///
    /// # Panics
    /// When it does not end with `code`.
    #[track_caller]
    pub fn fails(&self, code: i32, args: &[&str]) -> String {
        let output = self.run(args);
        let all = format!("{}{}", output.stdout, output.stderr);
        assert_eq!(output.code, code, "`docker {}` ended with {}:\n{all}", args.join(" "), output.code);
        output.stderr
    }

    /// Runs a bash script (with `pipefail`) in which `docker` is this program; `terminal` gives a command a terminal.
    pub fn shell(&self, script: &str, variables: &[(&str, &str)]) -> Output {
        let mut command = Command::new("bash");
        command.args(["-o", "pipefail", "-c", script]);
        self.environment(&mut command);
        command.envs(variables.iter().copied());
        finish(command, b"", self.deadline)
    }

    fn environment(&self, command: &mut Command) {
        let path = std::env::var("PATH").unwrap_or_default();
        command
            .env("PATH", format!("{}:{path}", self.home.path().display()))
            .env("HOME", self.home.path())
            .env("DOCKER_HOST", &self.host)
            .env("DOCKER_CLI_HINTS", "false")
            .env("LANG", "C.UTF-8")
            .env("TZ", "UTC")
            .env("TERM", "dumb");
        for leak in
            ["DOCKER_CONTEXT", "DOCKER_CONFIG", "DOCKER_API_VERSION", "DOCKER_DEFAULT_PLATFORM", "COLUMNS"]
        {
            command.env_remove(leak);
        }
    }
}

fn write_program(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::write(path, text).expect("a fresh directory");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("a file of ours");
}

/// Runs `command` to its end in a process group of its own; at the deadline the group is killed and the panic shows what
/// had been printed.
fn finish(mut command: Command, input: &[u8], deadline: Duration) -> Output {
    use std::os::unix::process::{CommandExt, ExitStatusExt};
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    let pid = Pid::from_child(&child);
    let (mut stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    std::thread::scope(|scope| {
        scope.spawn(move || {
            // A command that ends without reading its input is no fault of the test.
            let _ = stdin.take().map(|mut pipe| pipe.write_all(input));
        });
        let out = scope.spawn(move || read_all(stdout));
        let err = scope.spawn(move || read_all(stderr));
        let in_time = exits_within(pid, deadline);
        if !in_time {
            let _ = kill_process_group(pid, Signal::KILL);
        }
        let status = child.wait().expect("a child of ours can be waited for");
        let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
        let (stdout, stderr) = (out.join().expect("reader"), err.join().expect("reader"));
        let end = |text: &str| {
            text.chars().rev().take(2000).collect::<Vec<_>>().into_iter().rev().collect::<String>()
        };
        let arguments: Vec<_> = command.get_args().collect();
        assert!(
            in_time,
            "{arguments:?} did not end in {deadline:?}; it printed: {}{}",
            end(&stdout),
            end(&stderr)
        );
        Output { stdout, stderr, code }
    })
}

fn exits_within(pid: Pid, deadline: Duration) -> bool {
    let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { return true };
    let timeout = Timespec { tv_sec: deadline.as_secs() as i64, tv_nsec: 0 };
    matches!(poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout)), Ok(1..))
}

fn read_all(pipe: Option<impl Read>) -> String {
    let mut bytes = Vec::new();
    // A read error ends the stream like its end does: what came before is what the test compares.
    let _ = pipe.map(|mut pipe| pipe.read_to_end(&mut bytes));
    String::from_utf8_lossy(&bytes).into_owned()
}
