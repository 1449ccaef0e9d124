//! One more process in a running container.
//!
//! Two clones. The first, the *stage*, is born in the caller's pid namespace, where no process of the container can
//! see it; it gives up every descriptor it does not need, enters cgroup and namespaces, prepares everything, and takes
//! on the identity, the capabilities and the filter of the process. The second is the process itself: born in the
//! container's pid namespace as the caller's child, it has nothing of the host and no right that the container's
//! processes lack. In a container that has as many processes as it may, nobody can be born: there it enters the group that
//! counts them by itself, by a descriptor. Both are hidden from tracing from their first moment, because the caller hides itself before; who
//! may trace all the same (`CAP_SYS_PTRACE`) wins nothing.

use crate::channel::{Channel, Message};
use crate::create::{cgroup_of, died_detail};
use crate::error::{Context, Error, Result};
use crate::procfs::Procfs;
use crate::program::{self, FAILED, Prepared, Program, close_all_except, install_streams};
use crate::root::Root;
use crate::seccomp;
use crate::spec::{LinuxNamespaceType, Spec};
use crate::stage;
use crate::{ExecChild, ExecRequest, Stdio};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use wharf_linux::cgroup;
use wharf_linux::idmap::Ids;
use wharf_linux::namespace::{self, Namespaces};
use wharf_linux::process::{self, Birth, Child};
use wharf_linux::pty::{self, Pty};

/// Clones the stage and returns while it works.
pub(crate) fn begin(request: ExecRequest<'_>) -> Result<Joining> {
    let spec = request.spec;
    let sets = program::capability_sets(request.process);
    let filter = seccomp::filter(request.seccomp, spec, sets.bounding)?;
    let entrance = cgroup_of(spec, "")?.entrance_for_two()?;
    process::set_undumpable().context(|| "hide from other processes".into())?;
    let (ours, theirs) = Channel::pair()?;
    let mut ours = Some(ours);
    let birthplace = entrance.birthplace();
    let stage = Stage {
        channel: theirs,
        init: request.init_pidfd,
        spec,
        stdio: request.stdio,
        tasks: &entrance.tasks,
        late: entrance.late.as_ref(),
        program: Program {
            process: request.process,
            user: request.user,
            groups: request.groups,
            create_cwd: false,
            default_home: request.default_home,
            init: false,
            die_with_parent: false,
            preserve_fds: request.preserve_fds,
            filter: filter.as_ref(),
            domain: program::domain(spec),
            sets,
        },
    };
    let birth = Birth { cgroup: birthplace, ..Birth::default() };
    let stage = process::spawn(birth, || {
        drop(ours.take());
        stage.main()
    })
    .context(|| "clone a process".into())?;
    let channel = ours.ok_or_else(Error::protocol)?;
    Ok(Joining { channel, stage: Some(stage), born: None, console: None, failure: None })
}

/// A process on its way into a container. The container can stop it there (it sees it from the moment it is in its pid
/// namespace), so a caller with other duties waits for [`Joining::as_fd`] to become readable. Dropped, it is killed.
#[derive(Debug)]
pub struct Joining {
    channel: Channel,
    /// Until it is reaped.
    stage: Option<Child>,
    born: Option<Child>,
    console: Option<OwnedFd>,
    failure: Option<Error>,
}

impl Joining {
    /// Readable when [`step`](Self::step) will not wait.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }

    /// Takes one piece of news; the outcome, once there is one. Not to be called again after that.
    pub fn step(&mut self) -> Option<Result<ExecChild>> {
        match self.channel.receive() {
            Ok(Some(Message::Process(pid, pidfd))) => self.born = Some(Child { pid, pidfd }),
            Ok(Some(Message::Ready(master))) => self.console = master,
            // The process may fail before the stage has told who it is, and has to be reaped nevertheless.
            Ok(Some(Message::Failed(error))) => self.failure = Some(error),
            Ok(Some(_)) => return Some(Err(Error::protocol())),
            Err(error) => return Some(Err(error)),
            // The stage has ended, and the process either or has become the program.
            Ok(None) => {
                if let Some(error) = self.failure.take() {
                    return Some(Err(error));
                }
                let detail = self.stage.take().map(|stage| died_detail(&stage)).unwrap_or_default();
                let Some(Child { pid, pidfd }) = self.born.take() else {
                    return Some(Err(Error::Died { what: "the process", detail }));
                };
                return Some(Ok(ExecChild { pid, pidfd, console: self.console.take() }));
            }
        }
        None
    }

    /// Waits for the outcome.
    pub(crate) fn finish(mut self) -> Result<ExecChild> {
        loop {
            if let Some(outcome) = self.step() {
                return outcome;
            }
        }
    }
}

impl Drop for Joining {
    fn drop(&mut self) {
        for child in self.born.take().into_iter().chain(self.stage.take()) {
            // Both are ours to reap, so they cannot have become others; a zombie takes no signal.
            let _ = process::signal(child.pidfd.as_fd(), libc::SIGKILL);
            let _ = process::wait(child.pidfd.as_fd());
        }
    }
}

struct Stage<'a> {
    channel: Channel,
    init: BorrowedFd<'a>,
    spec: &'a Spec,
    stdio: Stdio,
    tasks: &'a [OwnedFd],
    late: Option<&'a OwnedFd>,
    program: Program<'a>,
}

impl Stage<'_> {
    fn main(self) -> i32 {
        match self.set_up() {
            Ok(()) => 0,
            Err(error) => {
                let _ = self.channel.send(&Message::Failed(error));
                FAILED
            }
        }
    }

    fn set_up(&self) -> Result<()> {
        self.close_foreign()?;
        cgroup::enter(self.tasks).context(|| "enter the container's control groups".into())?;
        let procfs = Procfs::open()?;
        if let Some(score) = self.program.process.oom_score_adj() {
            procfs.write_own("oom_score_adj", &score.to_string())?;
        }
        if let Some(ids) = self.user_namespace()? {
            program::raise_hard_limits(self.program.process)?;
            stage::hand_over_streams(&self.stdio, &ids)?;
        }
        self.join()?;
        let root = Root::open().context(|| "open the container's root".into())?;
        let terminal = self.open_terminal(&root)?;
        match &self.stdio {
            Stdio::Fds(fds) => install_streams([fds[0].as_fd(), fds[1].as_fd(), fds[2].as_fd()])?,
            Stdio::Terminal { .. } => {
                if let Some(pty) = &terminal {
                    install_streams([pty.slave.as_fd(), pty.slave.as_fd(), pty.slave.as_fd()])?;
                }
            }
        }
        let prepared = self.program.prepare(&root, terminal.is_some())?;
        prepared.label(&procfs)?;
        drop((procfs, root));
        self.hand_over(prepared, terminal)
    }

    /// The maps of the container's user namespace, if it has one.
    fn user_namespace(&self) -> Result<Option<Ids>> {
        let list = self.spec.linux().as_ref().and_then(|l| l.namespaces().as_deref()).unwrap_or_default();
        let has = list.iter().any(|n| n.typ() == LinuxNamespaceType::User);
        has.then(|| stage::ids_of(self.spec)).transpose()
    }

    /// Gives up all descriptors of the caller but those this process was made for.
    fn close_foreign(&self) -> Result<()> {
        let mut keep = vec![self.channel.as_fd().as_raw_fd(), self.init.as_raw_fd()];
        keep.extend(self.tasks.iter().chain(self.late).map(AsRawFd::as_raw_fd));
        if let Stdio::Fds(fds) = &self.stdio {
            keep.extend(fds.iter().map(AsRawFd::as_raw_fd));
        }
        close_all_except(self.program.preserve_fds, keep)
    }

    fn join(&self) -> Result<()> {
        let list = self.spec.linux().as_ref().and_then(|l| l.namespaces().as_deref()).unwrap_or_default();
        let has = |kind| list.iter().any(|n| n.typ() == kind);
        let mut kinds = Namespaces::MOUNT
            | Namespaces::PID
            | Namespaces::NETWORK
            | Namespaces::IPC
            | Namespaces::UTS
            | Namespaces::CGROUP;
        // Joining the user namespace one is in is an error, the others are not.
        if has(LinuxNamespaceType::User) {
            kinds |= Namespaces::USER;
        }
        namespace::join(self.init, kinds).map_err(|error| match error.raw_os_error() {
            Some(libc::ESRCH) => Error::State { message: "the container is not running".into() },
            _ => Error::io("join the container's namespaces", error),
        })?;
        if has(LinuxNamespaceType::User) {
            let (uid, gid) = (rustix::fs::Uid::ROOT, rustix::fs::Gid::ROOT);
            rustix::thread::set_thread_res_gid(gid, gid, gid)
                .context(|| "become root of the user namespace".into())?;
            rustix::thread::set_thread_res_uid(uid, uid, uid)
                .context(|| "become root of the user namespace".into())?;
            // A change of user may have undone it, and others in the namespace are the same user.
            process::set_undumpable().context(|| "hide from other processes".into())?;
        }
        Ok(())
    }

    fn open_terminal(&self, root: &Root) -> Result<Option<Pty>> {
        let Stdio::Terminal { rows, cols } = self.stdio else { return Ok(None) };
        let what = || "open a terminal in /dev/pts of the container".into();
        let devpts = root.find_plain(Path::new("/dev/pts")).context(what)?;
        pty::open(&devpts, rows, cols).context(what).map(Some)
    }

    /// Clones the process and ends.
    fn hand_over(&self, prepared: Prepared<'_>, terminal: Option<Pty>) -> Result<()> {
        let (master, slave) = terminal.map_or((None, None), |pty| (Some(pty.master), Some(pty.slave)));
        let mut master = master;
        // A filter that keeps us from going on must come last, with the rights that loading it takes.
        let early = prepared.filter_lets_us_fork();
        if early {
            prepared.drop_rights(&self.channel)?;
        }
        let birth = Birth { sibling: true, ..Birth::default() };
        let child = process::spawn(birth, || {
            drop(master.take());
            let entered = cgroup::enter(self.late).context(|| "enter the container's control groups".into());
            let error = match entered.and_then(|()| start_session(slave.as_ref())) {
                Ok(()) if early => prepared.execute(),
                Ok(()) => prepared.run(&self.channel),
                Err(error) => error,
            };
            let _ = self.channel.send(&Message::Failed(error));
            FAILED
        })
        .context(|| "clone a process into the container".into())?;
        self.channel.send(&Message::Process(child.pid, child.pidfd))?;
        if master.is_some() {
            self.channel.send(&Message::Ready(master))?;
        }
        Ok(())
    }
}

fn start_session(terminal: Option<&OwnedFd>) -> Result<()> {
    match terminal {
        Some(slave) => {
            pty::make_controlling(slave).context(|| "make the terminal the controlling one".into())
        }
        None => rustix::process::setsid().map(drop).context(|| "start a session".into()),
    }
}
