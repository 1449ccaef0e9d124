//! A process that the runtime is putting into the container.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Instant;

use oci_spec::runtime::Process;
use wharf_linux::{hostfs, process};
use wharf_runtime::{ExecChild, Stdio};

use super::call::{Call, Errors};
use super::{Console, Foreign, bundle};
use crate::container::{null_stdio, resize};
use crate::failure::Failure;

/// Dropped before its end, the runtime is killed; what it has begun ends by itself.
#[derive(Debug)]
pub(crate) struct Joining {
    call: Call,
    /// Its files, without their endings.
    files: PathBuf,
    console: Option<Console>,
    size: (u16, u16),
    errors_kept: bool,
}

impl Joining {
    pub(super) fn begin(
        foreign: &Rc<Foreign>,
        number: u32,
        process: &Process,
        stdio: Stdio,
    ) -> Result<Self, Failure> {
        let name = format!("exec-{number}");
        let files = foreign.dir.join(&name);
        let (document, pid_file) = (files.with_extension("json"), files.with_extension("pid"));
        bundle::write(&document, process)?;
        let mut words: Vec<&OsStr> = vec!["--process".as_ref(), document.as_os_str(), "--detach".as_ref()];
        words.extend(["--pid-file".as_ref(), pid_file.as_os_str()]);
        let mut size = (0, 0);
        let (console, streams) = match stdio {
            Stdio::Fds(streams) => (None, streams),
            Stdio::Terminal { rows, cols } => {
                size = (rows, cols);
                let [stdin, stdout, _] = null_stdio()?;
                (Some(foreign.console(&name)?), foreign.with_errors(&name, stdin, stdout)?)
            }
        };
        if let Some(console) = &console {
            words.extend(["--console-socket".as_ref(), console.path.as_os_str()]);
        }
        words.push(foreign.id.as_ref());
        let errors_kept = console.is_some();
        let call = Call::begin(foreign, "exec", &words, &name, streams, foreign.patience())?;
        Ok(Self { call, files, console, size, errors_kept })
    }

    /// Readable when [`Joining::step`] has something to say.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.call.as_fd()
    }

    /// When it has, at the latest.
    pub(crate) fn deadline(&self) -> Instant {
        self.call.deadline()
    }

    /// The outcome, once there is one.
    pub(crate) fn step(&mut self) -> Option<Result<ExecChild, Failure>> {
        let errors = if self.errors_kept { Errors::File } else { Errors::Elsewhere };
        let outcome = self.call.step(&errors)?;
        Some(outcome.and_then(|()| self.child()))
    }

    fn child(&mut self) -> Result<ExecChild, Failure> {
        let pid = read_pid(&self.files.with_extension("pid"))?;
        let pidfd = process::open(pid).map_err(Failure::on("open the process"))?;
        let console: Option<OwnedFd> = self.console.take().map(Console::take).transpose()?;
        if let (Some(console), (1.., 1..)) = (&console, self.size) {
            resize(console.as_fd(), self.size.0, self.size.1)?;
        }
        Ok(ExecChild { pid, pidfd, console })
    }
}

impl Drop for Joining {
    fn drop(&mut self) {
        for ending in ["json", "pid", "log", "err"] {
            let _not_made = hostfs::remove_file(&self.files.with_extension(ending));
        }
    }
}

/// The number in a file that a runtime has written.
pub(super) fn read_pid(file: &Path) -> Result<i32, Failure> {
    let text =
        hostfs::read_bounded(file, 64).map_err(Failure::on("learn which process the runtime has made"))?;
    let number = std::str::from_utf8(&text).ok().and_then(|text| text.trim().parse().ok());
    number
        .filter(|pid| *pid > 1)
        .ok_or_else(|| Failure::invalid("the runtime has written down a process id that is none"))
}
