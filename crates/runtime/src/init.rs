//! What the container's first process does, from its birth to the command. See `channel` for the conversation with
//! its parent and `rootfs` for why the file system is built in this order.

use crate::channel::{Channel, Message};
use crate::devices;
use crate::error::{Context, Error, Result};
use crate::hooks;
use crate::mounts::Plan;
use crate::procfs::Procfs;
use crate::program::{FAILED, Program, close_all_except, install_streams};
use crate::root::{Node, Root};
use crate::rootfs::{self, Ahead, Captured, Masks};
use crate::spec::Spec;
use crate::{Rootfs, Stdio};
use rustix::mount::MountPropagationFlags;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use wharf_linux::cgroup::{self, Cgroup};
use wharf_linux::mount::{self, Attributes};
use wharf_linux::namespace::{self, Namespaces};
use wharf_linux::process;
use wharf_linux::pty;

/// Everything the first process needs, made by its parent.
pub(crate) struct Init<'a> {
    pub(crate) channel: Channel,
    pub(crate) id: &'a str,
    pub(crate) bundle: &'a Path,
    pub(crate) spec: &'a Spec,
    pub(crate) rootfs: Rootfs<'a>,
    pub(crate) root_path: PathBuf,
    pub(crate) stdio: Stdio,
    pub(crate) plans: &'a [Plan],
    /// What others have captured, because only they could.
    pub(crate) ahead: Ahead,
    /// Namespaces to join, in order.
    pub(crate) joined: Vec<(Namespaces, OwnedFd)>,
    /// Namespaces to make, beyond those it was born with.
    pub(crate) unshared: Namespaces,
    /// Whether it was born in another user namespace than its parent's.
    pub(crate) user_namespace: bool,
    pub(crate) sysctls: &'a [(String, String)],
    pub(crate) nodes: &'a [(PathBuf, Node)],
    pub(crate) cgroup: &'a Cgroup,
    pub(crate) program: Program<'a>,
    pub(crate) gate: Gate,
}

/// What holds the command back.
#[derive(Debug)]
pub(crate) enum Gate {
    /// The parent's word.
    Parent,
    /// A byte in a FIFO that is open for reading and writing: the parent may be gone by then.
    Fifo(OwnedFd),
}

impl Init<'_> {
    /// Runs in the new process and ends with its exit status, if it does not become the command.
    pub(crate) fn main(mut self) -> i32 {
        let error = match self.set_up() {
            Ok(never) => match never {},
            Err(error) => error,
        };
        if let Gate::Fifo(_) = self.gate {
            // The parent may have gone long ago; whoever reads the command's output is still there.
            let text = format!("wharf-runtime: {error}\n");
            let _ = rustix::io::write(rustix::stdio::stderr(), text.as_bytes());
        }
        let _ = self.channel.send(&Message::Failed(error));
        FAILED
    }

    fn set_up(&mut self) -> Result<std::convert::Infallible> {
        self.close_foreign()?;
        rustix::process::umask(rustix::fs::Mode::empty());
        self.enter_namespaces()?;
        let procfs = Procfs::open()?;
        self.configure(&procfs)?;

        // First, so that the root is also first in the container's list of mounts.
        let tree = match self.ahead.root.take() {
            Some(tree) => tree,
            None => rootfs::capture_root(self.rootfs, &self.root_path)?,
        };
        let mut captured = self.capture(false)?;
        let terminal = self.open_terminal(&captured)?;
        self.enter_cgroup()?;
        for late in self.capture(true)? {
            let at = self.plans.iter().position(|p| std::ptr::eq(p, late.plan)).unwrap_or(captured.len());
            captured.insert(at.min(captured.len()), late);
        }
        hooks::run_in_container(self.spec, self.id, self.bundle)?;

        let root = rootfs::enter(tree)?;
        self.fill(&root, &procfs, &captured, terminal.as_ref())?;
        drop(captured);
        self.ahead = Ahead::default();
        match (&terminal, &self.stdio) {
            (Some(pty), _) => {
                pty::make_controlling(&pty.slave)
                    .context(|| "make the terminal the controlling one".into())?;
                let slave = pty.slave.as_fd();
                install_streams([slave, slave, slave])?;
            }
            (None, Stdio::Fds(fds)) => {
                rustix::process::setsid().context(|| "start a session".into())?;
                install_streams([fds[0].as_fd(), fds[1].as_fd(), fds[2].as_fd()])?;
            }
            (None, Stdio::Terminal { .. }) => return Err(Error::invalid("there is no terminal")),
        }
        let prepared = self.program.prepare(&root, terminal.is_some())?;
        self.wait_at_gate(terminal.map(|pty| pty.master))?;
        hooks::run_before_start(self.spec, self.id, self.bundle)?;
        prepared.label(&procfs)?;
        Err(prepared.run(&self.channel))
    }

    /// Gives up all descriptors of the caller but those this process was made for: a container may share its pid
    /// namespace with another one, and hooks inherit what is not close-on-exec.
    fn close_foreign(&self) -> Result<()> {
        let mut keep = vec![self.channel.as_fd().as_raw_fd()];
        keep.extend(self.joined.iter().map(|(_, fd)| fd.as_raw_fd()));
        if let Stdio::Fds(fds) = &self.stdio {
            keep.extend(fds.iter().map(AsRawFd::as_raw_fd));
        }
        if let Gate::Fifo(fifo) = &self.gate {
            keep.push(fifo.as_raw_fd());
        }
        let ahead = &self.ahead;
        keep.extend(ahead.root.iter().map(|root| root.tree.as_raw_fd()));
        keep.extend(ahead.mounts.iter().map(|(_, tree)| tree).chain(&ahead.devices).map(AsRawFd::as_raw_fd));
        close_all_except(self.program.preserve_fds, keep)
    }

    fn enter_namespaces(&self) -> Result<()> {
        for (kind, fd) in &self.joined {
            namespace::join(fd, *kind).context(|| "join a namespace of the configuration".into())?;
        }
        if self.user_namespace {
            self.expect("be mapped", |m| matches!(m, Message::Mapped).then_some(()))?;
            let (uid, gid) = (rustix::fs::Uid::ROOT, rustix::fs::Gid::ROOT);
            rustix::thread::set_thread_res_gid(gid, gid, gid)
                .context(|| "become root of the user namespace".into())?;
            rustix::thread::set_thread_res_uid(uid, uid, uid)
                .context(|| "become root of the user namespace".into())?;
            // A change of user may have undone it, and others in the namespace are the same user.
            process::set_undumpable().context(|| "hide from other processes".into())?;
        }
        if !self.unshared.is_empty() {
            namespace::unshare(self.unshared).context(|| "make namespaces".into())?;
        }
        self.channel.send(&Message::Namespaces)
    }

    /// Host name, kernel parameters, out-of-memory score: what is set through the host's files or without any.
    fn configure(&self, procfs: &Procfs) -> Result<()> {
        if let Some(name) = self.spec.hostname() {
            rustix::system::sethostname(name.as_bytes()).context(|| format!("set the host name {name:?}"))?;
        }
        if let Some(name) = self.spec.domainname() {
            rustix::system::setdomainname(name.as_bytes())
                .context(|| format!("set the domain name {name:?}"))?;
        }
        for (path, value) in self.sysctls {
            procfs.write_sysctl(path, value)?;
        }
        match self.program.process.oom_score_adj() {
            // The stage has done it: in the user namespace nobody may go below what there is.
            Some(_) if self.user_namespace => Ok(()),
            Some(score) => procfs.write_own("oom_score_adj", &score.to_string()),
            None => Ok(()),
        }
    }

    /// Makes the trees of all mounts but those of cgroups, or (`late`) of these alone.
    fn capture(&self, late: bool) -> Result<Vec<Captured<'_>>> {
        let is_late = |plan: &&Plan| (plan.source == crate::mounts::Source::Cgroup) == late;
        let label =
            self.spec.linux().as_ref().and_then(|l| l.mount_label().as_deref()).filter(|l| !l.is_empty());
        let ahead = |at: usize| self.ahead.mounts.iter().find(|(of, _)| *of == at).map(|(_, tree)| tree);
        let plans = self.plans.iter().enumerate().filter(|(_, plan)| is_late(plan));
        plans.map(|(at, plan)| rootfs::capture(plan, self.cgroup, label, ahead(at))).collect()
    }

    /// Takes a terminal from the container's own devpts before anyone else can see it.
    fn open_terminal(&self, captured: &[Captured<'_>]) -> Result<Option<pty::Pty>> {
        let Stdio::Terminal { rows, cols } = self.stdio else { return Ok(None) };
        let devpts = captured.iter().find(|c| c.plan.target == Path::new("/dev/pts"));
        let devpts = devpts.ok_or_else(|| Error::invalid("a terminal needs a devpts mount at /dev/pts"))?;
        pty::open(&devpts.tree, rows, cols).context(|| "open a terminal".into()).map(Some)
    }

    fn enter_cgroup(&self) -> Result<()> {
        let tasks = self.expect("learn its control groups", |message| match message {
            Message::Cgroup(tasks) => Some(tasks),
            _ => None,
        })?;
        cgroup::enter(&tasks).context(|| "enter the control groups".into())?;
        let new = self.spec.linux().as_ref().and_then(|l| l.namespaces().as_ref()).is_some_and(|list| {
            list.iter().any(|n| n.typ() == crate::spec::LinuxNamespaceType::Cgroup && n.path().is_none())
        });
        if new {
            // Only now is the container's group the root of what it sees.
            namespace::unshare(Namespaces::CGROUP).context(|| "make a cgroup namespace".into())?;
        }
        Ok(())
    }

    /// Everything inside the new root.
    fn fill(
        &self,
        root: &Root,
        procfs: &Procfs,
        captured: &[Captured<'_>],
        terminal: Option<&pty::Pty>,
    ) -> Result<()> {
        for one in captured {
            rootfs::attach(root, procfs, one)?;
        }
        if devices::own_dev(self.plans) {
            devices::populate(root, self.nodes, &self.ahead.devices)?;
            if let Some(pty) = terminal {
                devices::attach_console(root, &pty.slave)?;
            }
        }
        rootfs::seal(captured)?;
        let linux = self.spec.linux().as_ref();
        for path in linux.and_then(|l| l.readonly_paths().as_ref()).into_iter().flatten() {
            rootfs::make_read_only(root, Path::new(path))?;
        }
        let mut masks = Masks::default();
        for path in linux.and_then(|l| l.masked_paths().as_ref()).into_iter().flatten() {
            masks.hide(root, Path::new(path))?;
        }
        if let Some(name) = linux.and_then(|l| l.rootfs_propagation().as_deref()) {
            rustix::mount::mount_change(c"/", propagation(name)?)
                .context(|| "set the root's propagation".into())?;
        }
        if self.spec.root().as_ref().and_then(crate::spec::Root::readonly).unwrap_or(false) {
            mount::set_attributes(root.as_fd(), Attributes::READ_ONLY, Attributes::default(), false)
                .map_err(|e| Error::mount(Path::new("/"), format!("make read-only: {e}")))?;
        }
        Ok(())
    }

    fn wait_at_gate(&self, console: Option<OwnedFd>) -> Result<()> {
        self.channel.send(&Message::Ready(console))?;
        match &self.gate {
            Gate::Parent => self.expect("start", |m| matches!(m, Message::Go).then_some(())),
            Gate::Fifo(fifo) => rustix::io::retry_on_intr(|| rustix::io::read(fifo, &mut [0u8; 1]))
                .map(drop)
                .context(|| "wait for the start".into()),
        }
    }

    /// Waits for one kind of message. A parent that is gone ends us.
    fn expect<T>(&self, what: &str, pick: impl FnOnce(Message) -> Option<T>) -> Result<T> {
        match self.channel.receive()? {
            Some(message) => pick(message).ok_or_else(Error::protocol),
            None => {
                Err(Error::io(format!("wait to {what}"), std::io::Error::other("the parent process is gone")))
            }
        }
    }
}

fn propagation(name: &str) -> Result<MountPropagationFlags> {
    let recursive =
        if name.starts_with('r') { MountPropagationFlags::REC } else { MountPropagationFlags::empty() };
    let kind = match name.strip_prefix('r').unwrap_or(name) {
        "shared" => MountPropagationFlags::SHARED,
        "slave" => MountPropagationFlags::DOWNSTREAM,
        "private" | "" => MountPropagationFlags::PRIVATE,
        "unbindable" => MountPropagationFlags::UNBINDABLE,
        _ => return Err(Error::invalid(format!("linux.rootfsPropagation {name:?} is not a propagation"))),
    };
    Ok(kind | recursive)
}
