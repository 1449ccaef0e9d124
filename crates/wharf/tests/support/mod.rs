//! What the tests of the command line share: running it, and an engine that does what a test says.

#![allow(dead_code, reason = "each test file uses its own part of this")]
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test that cannot go on shall stop, and say why it was skipped"
)]

pub(crate) mod fake;
pub(crate) mod reference;

use std::process::{Command, Output, Stdio};

/// A run of a program: exit status and what it wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        use std::os::unix::process::ExitStatusExt;
        let signal = output.status.signal().map_or(0, |signal| 128 + signal);
        Self {
            code: output.status.code().unwrap_or(signal),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// The program under test, with an environment that depends on nothing of the user's.
pub(crate) fn wharf() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wharf"));
    command
        .stdin(Stdio::null())
        .env_remove("DOCKER_HOST")
        .env_remove("DOCKER_CONTEXT")
        .env_remove("DOCKER_API_VERSION")
        .env("DOCKER_CONFIG", "/nonexistent");
    command
}

/// Runs the program and waits for its end.
pub(crate) fn run(command: &mut Command) -> Run {
    command.output().unwrap().into()
}

/// Runs it with something on standard input.
pub(crate) fn run_with_input(command: &mut Command, input: &[u8]) -> Run {
    use std::io::Write;
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writer = std::thread::spawn(move || {
        // A program that does not want all of its input may close it.
        let _ = stdin.write_all(&input);
    });
    let run = child.wait_with_output().unwrap().into();
    writer.join().unwrap();
    run
}
