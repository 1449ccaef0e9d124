//! Processes that joined the container on request.

use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::Instant;

use oci_spec::runtime::{Process, Spec};
use rustix::buffer::spare_capacity;
use rustix::io::Errno;
use wharf_linux::process::{signal, wait};
use wharf_runtime::{ExecChild, ExecRequest, Running, Seccomp, Stdio};
use wharf_shim::protocol::{ExitStatus, FailureKind, MAX_PROCESS, Reply};

use crate::container;
use crate::failure::Failure;
use crate::foreign::Foreign;
use crate::poller::{Interest, Poller, Token};
use crate::runtime::Joining;

/// Each is two processes; a container that stops them all shall not fill the machine with them.
const MAX_PENDING: usize = 64;

/// What [`wharf_shim::protocol::Request::Exec`] asks for.
#[derive(Debug)]
pub(crate) struct Wish {
    pub(crate) id: String,
    pub(crate) terminal: bool,
    pub(crate) rows: u16,
    pub(crate) cols: u16,
    pub(crate) detach: bool,
    pub(crate) user: Option<String>,
    pub(crate) groups: Vec<String>,
    pub(crate) default_home: bool,
    pub(crate) seccomp_default: bool,
}

/// The one who asked: where the reply goes, and whose end lets go of the terminal (its program then gets SIGHUP).
#[derive(Debug, Clone, Copy)]
struct Asker {
    /// `None` once it has gone.
    place: Option<u32>,
    seq: u64,
}

/// On its way into the container, which can stop it there: nothing waits for it.
#[derive(Debug)]
struct Pending {
    number: u32,
    id: String,
    joining: Joining,
    asker: Asker,
    detached: bool,
}

#[derive(Debug)]
struct Exec {
    number: u32,
    id: String,
    child: ExecChild,
    asker: Asker,
    /// Nobody reads the terminal, so the shim does.
    detached: bool,
}

/// A reply that had to wait.
pub(crate) struct Outcome {
    /// To whom, unless it has gone.
    pub(crate) place: Option<u32>,
    pub(crate) seq: u64,
    pub(crate) answer: Result<(Reply, Vec<OwnedFd>), Failure>,
}

/// All that run, or will.
#[derive(Debug, Default)]
pub(crate) struct Execs {
    pending: Vec<Pending>,
    running: Vec<Exec>,
    next: u32,
    /// Who puts them into the container, unless the built-in runtime does.
    foreign: Option<Rc<Foreign>>,
}

impl Execs {
    /// None yet.
    pub(crate) fn new(foreign: Option<Rc<Foreign>>) -> Self {
        Self { foreign, ..Self::default() }
    }

    /// One of them is on its way.
    pub(crate) fn is_joining(&self) -> bool {
        !self.pending.is_empty()
    }

    /// The process is one of them.
    pub(crate) fn owns(&self, pid: i32) -> bool {
        self.running.iter().any(|exec| exec.child.pid == pid)
    }

    /// When one of those on their way is to be looked after, by [`Execs::follow`], and its number.
    pub(crate) fn due(&self) -> Option<(Instant, u32)> {
        self.pending.iter().filter_map(|pending| Some((pending.joining.deadline()?, pending.number))).min()
    }

    /// Nothing runs.
    pub(crate) fn is_empty(&self) -> bool {
        self.running.is_empty() && self.pending.is_empty()
    }

    /// Begins one; its outcome comes from [`Execs::follow`].
    pub(crate) fn begin(
        &mut self,
        poller: &Poller,
        init: &Running,
        spec: &Spec,
        wish: Wish,
        fds: Vec<OwnedFd>,
        (place, seq): (u32, u64),
    ) -> Result<(), Failure> {
        let mut fds = fds.into_iter();
        let Some(document) = fds.next() else {
            return Err(Failure::invalid("the process document is missing"));
        };
        let mut process = read_process(&document)?;
        let own = spec.process().as_ref().and_then(Process::oom_score_adj);
        process.set_oom_score_adj(process.oom_score_adj().or(own));
        let stdio = match (wish.terminal, fds.next(), fds.next(), fds.next(), fds.next()) {
            (true, None, ..) => Stdio::Terminal { rows: wish.rows, cols: wish.cols },
            (false, None, ..) => Stdio::Fds(container::null_stdio()?),
            (false, Some(stdin), Some(stdout), Some(stderr), None) => Stdio::Fds([stdin, stdout, stderr]),
            _ => return Err(Failure::invalid("an exec needs no descriptors, or three")),
        };
        let asker = Asker { place: Some(place), seq };
        self.join(poller, init, spec, wish, (&process, stdio), asker).map(drop)
    }

    /// Begins one that no connection asked for; gives its number, under which its outcome comes.
    pub(crate) fn begin_own(
        &mut self,
        poller: &Poller,
        init: &Running,
        spec: &Spec,
        wish: Wish,
        process: &Process,
        stdio: Stdio,
    ) -> Result<u32, Failure> {
        self.join(poller, init, spec, wish, (process, stdio), Asker { place: None, seq: 0 })
    }

    fn join(
        &mut self,
        poller: &Poller,
        init: &Running,
        spec: &Spec,
        wish: Wish,
        (process, stdio): (&Process, Stdio),
        asker: Asker,
    ) -> Result<u32, Failure> {
        let taken = |id: &String| *id == wish.id;
        if self.running.iter().map(|exec| &exec.id).chain(self.pending.iter().map(|exec| &exec.id)).any(taken)
        {
            return Err(Failure::invalid(format!("an exec with the id {} is running", wish.id)));
        }
        if self.pending.len() >= MAX_PENDING {
            return Err(Failure::new(
                FailureKind::Internal,
                "too many processes are on their way into the container",
            ));
        }
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        let joining = match &self.foreign {
            Some(foreign) => Joining::Foreign(foreign.begin_exec(number, init, process, stdio, &wish)?),
            None => Joining::BuiltIn(wharf_runtime::begin_exec(ExecRequest {
                init_pid: init.pid,
                init_pidfd: init.pidfd.as_fd(),
                spec,
                process,
                stdio,
                seccomp: if wish.seccomp_default { Seccomp::DockerDefault } else { Seccomp::FromSpec },
                user: wish.user.as_deref(),
                groups: &wish.groups,
                default_home: wish.default_home,
                preserve_fds: 0,
            })?),
        };
        poller.add(joining.as_fd(), Token::Joining(number), Interest::Read)?;
        self.pending.push(Pending { number, id: wish.id, joining, asker, detached: wish.detach });
        Ok(number)
    }

    /// Gives up one that is still on its way, and kills it.
    pub(crate) fn abandon(&mut self, poller: &Poller, number: u32) {
        if let Some(index) = self.pending.iter().position(|pending| pending.number == number) {
            unwatch(poller, &self.pending.swap_remove(index).joining);
        }
    }

    /// There is news of one on its way.
    pub(crate) fn follow(&mut self, poller: &Poller, number: u32) -> Option<Outcome> {
        let index = self.pending.iter().position(|pending| pending.number == number)?;
        let outcome = self.pending[index].joining.step()?;
        let Pending { id, joining, asker, detached, .. } = self.pending.swap_remove(index);
        unwatch(poller, &joining);
        let answer = outcome.and_then(|child| {
            let pid = child.pid;
            match watch(poller, &child, number, asker, detached) {
                Ok(given) => {
                    let mut exec = Exec { number, id, child, asker, detached };
                    exec.let_go();
                    self.running.push(exec);
                    Ok((Reply::ExecStarted { pid }, given))
                }
                Err(failure) => {
                    // Nobody would reap it.
                    let _ended = signal(child.pidfd.as_fd(), 9).and_then(|()| wait(child.pidfd.as_fd()));
                    Err(failure)
                }
            }
        });
        Some(Outcome { place: asker.place, seq: asker.seq, answer })
    }

    /// Reaps the one with this number: its id and how it ended.
    pub(crate) fn reap(
        &mut self,
        poller: &Poller,
        number: u32,
    ) -> Result<Option<(String, ExitStatus)>, Failure> {
        let Some(index) = self.running.iter().position(|exec| exec.number == number) else {
            return Ok(None);
        };
        let Some(status) = container::reap(&self.running[index].child.pidfd)? else {
            return Ok(None);
        };
        let exec = self.running.swap_remove(index);
        poller.remove(&exec.child.pidfd);
        if let (Some(console), true) = (&exec.child.console, exec.detached) {
            poller.remove(console);
        }
        Ok(Some((exec.id, status)))
    }

    /// Throws away what a detached exec's terminal has.
    pub(crate) fn discard(&mut self, number: u32) {
        let exec = self.running.iter().find(|exec| exec.number == number);
        let Some(console) = exec.and_then(|exec| exec.child.console.as_ref()) else { return };
        let mut buffer = Vec::with_capacity(4096);
        loop {
            match rustix::io::read(console, spare_capacity(&mut buffer)) {
                Ok(0) => return,
                Ok(_) | Err(Errno::INTR) => buffer.clear(),
                // Empty, or closed by its program.
                Err(_) => return,
            }
        }
    }

    /// A connection has gone.
    pub(crate) fn forget_asker(&mut self, place: u32) {
        for pending in self.pending.iter_mut().filter(|pending| pending.asker.place == Some(place)) {
            pending.asker.place = None;
        }
        for exec in self.running.iter_mut().filter(|exec| exec.asker.place == Some(place)) {
            exec.asker.place = None;
            exec.let_go();
        }
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, id: &str, number: i32) -> Result<(), Failure> {
        container::sent(signal(self.find(id)?.child.pidfd.as_fd(), number))
    }

    /// Sets a terminal's size.
    pub(crate) fn resize(&self, id: &str, rows: u16, cols: u16) -> Result<(), Failure> {
        match &self.find(id)?.child.console {
            Some(console) => container::resize(console.as_fd(), rows, cols),
            None => Err(Failure::invalid(format!("the exec {id} has no terminal here"))),
        }
    }

    fn find(&self, id: &str) -> Result<&Exec, Failure> {
        let found = self.running.iter().find(|exec| exec.id == id);
        found.ok_or_else(|| Failure::new(FailureKind::NoSuchExec, format!("no exec {id} is running")))
    }
}

impl Exec {
    /// Lets go of a terminal whose asker has gone.
    fn let_go(&mut self) {
        if self.asker.place.is_none() && !self.detached {
            self.child.console = None;
        }
    }
}

fn unwatch(poller: &Poller, joining: &Joining) {
    poller.remove(joining.as_fd());
}

/// Waits for the child's end, and for its terminal's output if nobody else will; gives what goes to the asker.
fn watch(
    poller: &Poller,
    child: &ExecChild,
    number: u32,
    asker: Asker,
    detach: bool,
) -> Result<Vec<OwnedFd>, Failure> {
    poller.add(&child.pidfd, Token::Exec(number), Interest::Read)?;
    let Some(console) = &child.console else {
        return Ok(Vec::new());
    };
    container::unblock(console)?;
    if detach {
        poller.add(console, Token::Discard(number), Interest::ReadEdge)?;
        return Ok(Vec::new());
    }
    if asker.place.is_none() {
        return Ok(Vec::new());
    }
    Ok(vec![console.try_clone().map_err(Failure::on("share the terminal"))?])
}

/// The OCI process document in a memfd. Its size is looked at first; whatever is read is bounded by it.
fn read_process(document: &OwnedFd) -> Result<Process, Failure> {
    let refused = Failure::on("read the process document");
    let size = rustix::fs::fstat(document).map_err(&refused)?.st_size;
    let size = u64::try_from(size).ok().filter(|size| *size <= MAX_PROCESS);
    let Some(size) = size else {
        return Err(Failure::invalid(format!("the process document is longer than {MAX_PROCESS} bytes")));
    };
    let mut bytes = vec![0; size as usize];
    let mut read = 0;
    while read < bytes.len() {
        match rustix::io::pread(document, &mut bytes[read..], read as u64) {
            Ok(0) => break,
            Ok(count) => read += count,
            Err(Errno::INTR) => {}
            Err(error) => return Err(refused(error)),
        }
    }
    serde_json::from_slice(&bytes[..read])
        .map_err(|error| Failure::invalid(format!("the process document is malformed: {error}")))
}
