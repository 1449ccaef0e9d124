//! One command of the runtime: begun, waited for, ended at its deadline, and what it said if it failed.
//!
//! It is a session of its own, so that a script with all it has started can be killed; it dies with the shim.

use std::ffi::{CString, OsStr};
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use serde::Deserialize;
use wharf_linux::hostfs;
use wharf_linux::process::{self, Birth, Child, Ended, StringVector};
use wharf_shim::protocol::FailureKind;

use super::Foreign;
use crate::failure::Failure;

/// The end of a log or an error file that is looked at.
const TAIL: u64 = 64 * 1024;
/// How long a runtime that was killed may take to die; what the kernel does not let go of is left to it.
const DEATH: Duration = Duration::from_secs(2);
/// Where runtimes find other programs.
const ENVIRONMENT: &[&str] = &["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"];

/// Where a runtime's standard error goes.
pub(super) enum Errors<'a> {
    /// To a file of the call's.
    File,
    /// To a pipe whose other end this is.
    Pipe(BorrowedFd<'a>),
    /// To somebody else.
    Elsewhere,
}

/// See the module. Dropped before its end, it is killed.
#[derive(Debug)]
pub(super) struct Call {
    /// `None` once it is reaped.
    child: Option<Child>,
    verb: &'static str,
    program: PathBuf,
    /// Where its files are, without their endings.
    files: PathBuf,
    /// Tells why the program could not be executed.
    refusal: OwnedFd,
    patience: Duration,
    deadline: Instant,
}

/// What all runtimes write into a log, whatever else they say.
#[derive(Deserialize)]
struct Line {
    #[serde(default)]
    level: String,
    #[serde(default)]
    msg: String,
}

impl Call {
    /// Begins `verb`; `name` tells its files from those of others.
    pub(super) fn begin(
        foreign: &Foreign,
        verb: &'static str,
        words: &[&OsStr],
        name: &str,
        streams: [OwnedFd; 3],
        patience: Duration,
    ) -> Result<Self, Failure> {
        let files = foreign.dir.join(name);
        let log = files.with_extension("log");
        let state = foreign.dir.join("state");
        let program = foreign.runtime.path.clone();
        let mut line: Vec<&OsStr> = vec![program.as_os_str()];
        line.extend(foreign.runtime.args.iter().map(OsStr::new));
        line.extend(["--root".as_ref(), state.as_os_str(), "--log".as_ref(), log.as_os_str()]);
        line.extend(["--log-format", "json", verb].map(OsStr::new));
        line.extend(words);
        let text = |word: &&OsStr| CString::new(word.as_bytes());
        let line: Vec<CString> =
            line.iter().map(text).collect::<Result<_, _>>().map_err(Failure::on("name the runtime"))?;
        let path = line[0].clone();
        let environment = ENVIRONMENT.iter().map(|pair| CString::new(*pair));
        let environment = environment.collect::<Result<_, _>>().map_err(Failure::on("name the runtime"))?;
        let (line, environment) = (StringVector::new(line), StringVector::new(environment));
        let (refusal, mut refused) = pipe_with(PipeFlags::CLOEXEC)
            .map(|(read, write)| (read, Some(write)))
            .map_err(Failure::on("make a pipe"))?;
        let child = process::spawn(Birth::default(), || {
            let error = become_runtime(&streams, &path, &line, &environment);
            if let Some(refused) = &refused {
                let _nobody = rustix::io::write(refused, &error.raw_os_error().unwrap_or(0).to_ne_bytes());
            }
            1
        })
        .map_err(Failure::on("clone a process for the runtime"))?;
        refused = None;
        drop(refused);
        let deadline = Instant::now() + patience;
        Ok(Self { child: Some(child), verb, program, files, refusal, patience, deadline })
    }

    /// Readable when it has ended.
    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.child.as_ref().map_or(self.refusal.as_fd(), |child| child.pidfd.as_fd())
    }

    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Waits until it has ended, or kills it.
    pub(super) fn wait(mut self, errors: Errors<'_>) -> Result<(), Failure> {
        loop {
            if let Some(outcome) = self.step(&errors) {
                return outcome;
            }
            if let Some(child) = &self.child {
                wait_for(child, self.deadline);
            }
        }
    }

    /// What came of it, once it has ended or its time is over.
    pub(super) fn step(&mut self, errors: &Errors<'_>) -> Option<Result<(), Failure>> {
        let child = self.child.as_ref()?;
        match process::try_wait(child.pidfd.as_fd()) {
            Ok(None) if Instant::now() < self.deadline => None,
            Ok(None) => {
                self.kill();
                let Self { verb, program, patience, .. } = self;
                Some(Err(Failure::new(
                    FailureKind::Internal,
                    format!(
                        "OCI runtime {verb} failed: {} did not finish in {} seconds and was killed: find out why it hangs, \
                         give it more time with --runtime-timeout, or use the built-in runtime",
                        program.display(),
                        patience.as_secs_f32()
                    ),
                )))
            }
            Ok(Some(ended)) => {
                self.child = None;
                Some(if ended == Ended::Exited(0) { Ok(()) } else { Err(self.failure(ended, errors)) })
            }
            Err(error) => {
                self.child = None;
                Some(Err(Failure::on("wait for the runtime")(error)))
            }
        }
    }

    /// With everything it has started that did not leave its session.
    fn kill(&mut self) {
        let Some(child) = self.child.take() else { return };
        // It is ours to reap, so the number is its own, and its group's.
        let _gone = process::kill(-child.pid, 9);
        let _gone = process::signal(child.pidfd.as_fd(), 9);
        wait_for(&child, Instant::now() + DEATH);
        let _later = process::try_wait(child.pidfd.as_fd());
    }

    /// Docker's words for a runtime that fails: its own last ones.
    fn failure(&self, ended: Ended, errors: &Errors<'_>) -> Failure {
        let Self { verb, program, .. } = self;
        let mut errno = [0; 4];
        if let Ok(4) = rustix::io::read(&self.refusal, &mut errno) {
            let error = Errno::from_raw_os_error(i32::from_ne_bytes(errno));
            let text = format!(
                "OCI runtime {verb} failed: unable to retrieve OCI runtime error: fork/exec {}: {}",
                program.display(),
                in_words(error)
            );
            // Not the container's command: it is the runtime that is missing.
            return Failure::new(FailureKind::Internal, text);
        }
        let said = last_error(&self.files.with_extension("log")).or_else(|| match errors {
            Errors::File => last_line(&tail(&self.files.with_extension("err"))?),
            Errors::Pipe(pipe) => last_line(&drained(*pipe)),
            Errors::Elsewhere => None,
        });
        let said = said.unwrap_or_else(|| {
            let how = match ended {
                Ended::Exited(code) => format!("it exited with status {code}"),
                Ended::Signaled(signal) => format!("signal {signal} killed it"),
            };
            format!("{} has given no reason: {how}", program.display())
        });
        let text = format!("OCI runtime {verb} failed: {said}");
        Failure::new(kind(&said), text)
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Runs in the child; returns only if it failed.
fn become_runtime(
    streams: &[OwnedFd; 3],
    path: &CString,
    line: &StringVector,
    environment: &StringVector,
) -> std::io::Error {
    let ready = || -> std::io::Result<()> {
        process::reset_signals()?;
        rustix::process::setsid()?;
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
        rustix::stdio::dup2_stdin(&streams[0])?;
        rustix::stdio::dup2_stdout(&streams[1])?;
        rustix::stdio::dup2_stderr(&streams[2])?;
        Ok(())
    };
    ready().err().unwrap_or_else(|| process::execve(path, line, environment))
}

fn wait_for(child: &Child, deadline: Instant) {
    let left = deadline.saturating_duration_since(Instant::now());
    let left = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 0, tv_nsec: 0 });
    // Whatever comes of it, the caller looks.
    let _interrupted = poll(&mut [PollFd::new(&child.pidfd, PollFlags::IN)], Some(&left));
}

/// What a failure means, found out as Docker finds it out.
fn kind(said: &str) -> FailureKind {
    let said = said.to_lowercase();
    let has = |words: &str| said.contains(words);
    if has("permission denied") {
        FailureKind::NotExecutable
    } else if has("executable file not found") || has("no such file or directory") {
        FailureKind::NotFound
    } else {
        FailureKind::Internal
    }
}

/// As Go says it.
fn in_words(error: Errno) -> String {
    match error {
        Errno::NOENT => "no such file or directory".into(),
        Errno::ACCESS => "permission denied".into(),
        Errno::NOEXEC => "exec format error".into(),
        other => std::io::Error::from(other).to_string(),
    }
}

fn tail(path: &Path) -> Option<String> {
    let mut file = hostfs::open(path).ok()?;
    let size = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(TAIL))).ok()?;
    let mut bytes = Vec::new();
    file.take(TAIL).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// The last error in a runtime's log: documents with lines of anything else between them. Some runtimes write a
/// document on one line, some on several.
fn last_error(log: &Path) -> Option<String> {
    let text = tail(log)?;
    let mut found = None;
    let mut rest = text.as_str();
    while let Some(start) = rest.find('{') {
        rest = &rest[start..];
        let mut documents = serde_json::Deserializer::from_str(rest).into_iter::<Line>();
        let next = match documents.next() {
            Some(Ok(line)) => {
                if line.level == "error" && !line.msg.trim().is_empty() {
                    found = Some(line.msg.trim().to_owned());
                }
                documents.byte_offset()
            }
            _ => rest.find('\n').unwrap_or(rest.len()),
        };
        rest = rest.get(next..).unwrap_or_default();
    }
    found
}

fn last_line(text: &str) -> Option<String> {
    text.lines().rev().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned)
}

/// What is in a pipe, which does not block.
fn drained(pipe: BorrowedFd<'_>) -> String {
    let mut bytes = vec![0; 64 * 1024];
    let count = rustix::io::read(pipe, &mut bytes).unwrap_or(0);
    String::from_utf8_lossy(&bytes[..count]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_error_of_a_log_is_what_counts() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("x.log");
        let text = concat!(
            "{\"level\":\"error\",\"msg\":\"first\",\"time\":\"t\"}\n",
            "not json\n",
            "{\"level\":\"error\",\"msg\":\" exec: \\\"x\\\": executable file not found in $PATH \"}\n",
            "{\"level\":\"warning\",\"msg\":\"late\"}\n{ no document\n"
        );
        hostfs::write(&log, text.as_bytes()).unwrap();
        let said = last_error(&log).unwrap();
        assert_eq!(said, "exec: \"x\": executable file not found in $PATH");
        assert_eq!(kind(&said), FailureKind::NotFound);
        assert_eq!(kind("x: Permission denied"), FailureKind::NotExecutable);
        assert_eq!(kind("anything"), FailureKind::Internal);
        hostfs::write(&log, b"{\n  \"msg\": \"spread\",\n  \"level\": \"error\"\n}\n").unwrap();
        assert_eq!(last_error(&log).as_deref(), Some("spread"));
        assert_eq!(last_error(&dir.path().join("none")), None);
        assert_eq!(last_line("a\nb\n\n").as_deref(), Some("b"));
    }
}
