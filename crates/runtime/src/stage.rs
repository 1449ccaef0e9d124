//! The way into a user namespace.
//!
//! The root of a user namespace has no rights over the host's files. Before the container's first process is born in
//! one, another process, the *stage*, does what takes the host's rights: it captures binds and the layers of the root
//! file system, makes devices, hands over the standard streams, raises limits. It does so in a mount namespace of its
//! own, of which nothing is left when it ends. Then it clones the first process, as a child of its own parent, and
//! ends. A user namespace that is joined is joined by the stage, so that all other namespaces of the container belong
//! to it.

use crate::channel::{Channel, Message};
use crate::create::died_detail;
use crate::error::{Context, Error, Result};
use crate::init::Init;
use crate::procfs::Procfs;
use crate::program::{self, FAILED};
use crate::rootfs;
use crate::spec::{LinuxIdMapping, Spec};
use crate::{Rootfs, Stdio, devices};
use rustix::fs::{FileType, Gid, Mode, OFlags, Uid};
use rustix::mount::MountPropagationFlags;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;
use wharf_linux::idmap::{Ids, Map, Range};
use wharf_linux::mount::{self, Attributes, Filesystem};
use wharf_linux::namespace::{self, Namespaces};
use wharf_linux::process::{self, Birth, Child};

/// How long the stage may take: a file system may never answer it.
const PATIENCE: Duration = Duration::from_secs(45);

/// The user namespace of a container.
pub(crate) struct UserNamespace {
    /// One that is there; otherwise it is made.
    pub(crate) joined: Option<OwnedFd>,
    /// Its maps.
    pub(crate) ids: Ids,
}

/// What the stage needs.
pub(crate) struct Stage<'a> {
    pub(crate) init: Init<'a>,
    /// How the first process is to be born.
    pub(crate) birth: Birth<'a>,
    pub(crate) user: &'a UserNamespace,
    /// A pid namespace to be born in.
    pub(crate) pid: Option<&'a OwnedFd>,
}

/// The maps of a configuration.
pub(crate) fn ids_of(spec: &Spec) -> Result<Ids> {
    let linux = spec.linux().as_ref();
    let map = |name: &str, list: Option<&[LinuxIdMapping]>| {
        let range = |map: &LinuxIdMapping| Range {
            inside: map.container_id(),
            outside: map.host_id(),
            count: map.size(),
        };
        let ranges: Vec<Range> = list.unwrap_or_default().iter().map(range).collect();
        if ranges.is_empty() {
            return Err(Error::invalid("a user namespace needs linux.uidMappings and gidMappings"));
        }
        Map::new(ranges).ok_or_else(|| {
            Error::invalid(format!(
                "{name} is no map for uid_map: it needs 1 to {} ranges that do not overlap",
                wharf_linux::idmap::MOST
            ))
        })
    };
    let ids = Ids {
        uids: map("linux.uidMappings", linux.and_then(|l| l.uid_mappings().as_deref()))?,
        gids: map("linux.gidMappings", linux.and_then(|l| l.gid_mappings().as_deref()))?,
    };
    match ids.root() {
        Some(_) => Ok(ids),
        None => Err(Error::invalid("linux.uidMappings and gidMappings must have a root: container id 0")),
    }
}

/// Clones the stage and waits until it has cloned the first process, which is then waiting to be mapped.
pub(crate) fn spawn(stage: Stage<'_>, ours: &mut Option<Channel>) -> Result<Child> {
    let process = process::spawn(Birth::default(), || {
        drop(ours.take()); // the end of the stream must be the parent's end
        stage.main()
    })
    .context(|| "clone a process".into())?;
    let channel = ours.as_ref().ok_or_else(Error::protocol)?;
    channel.limit_patience(PATIENCE)?;
    let answer = channel.receive();
    if !matches!(answer, Ok(Some(Message::Process(..)) | None)) {
        // It may hang.
        let _a_zombie_takes_none = process::signal(process.pidfd.as_fd(), libc::SIGKILL);
    }
    let detail = died_detail(&process);
    channel.limit_patience(None)?;
    match answer? {
        Some(Message::Process(pid, pidfd)) => Ok(Child { pid, pidfd }),
        Some(Message::Failed(error)) => Err(error),
        Some(_) => Err(Error::protocol()),
        None => Err(Error::Died { what: "the process that prepares a user namespace", detail }),
    }
}

impl Stage<'_> {
    fn main(self) -> i32 {
        let channel = match self.init.channel.try_clone() {
            Ok(channel) => channel,
            Err(_) => return FAILED,
        };
        match self.set_up() {
            Ok(child) => {
                let told = channel.send(&Message::Process(child.pid, child.pidfd));
                if told.is_ok() { 0 } else { FAILED }
            }
            Err(error) => {
                let _ = channel.send(&Message::Failed(error));
                FAILED
            }
        }
    }

    fn set_up(mut self) -> Result<Child> {
        let ids = &self.user.ids;
        let root = ids.root().ok_or_else(Error::protocol)?;
        let process = self.init.program.process;
        if let Some(score) = process.oom_score_adj() {
            Procfs::open()?.write_own("oom_score_adj", &score.to_string())?;
        }
        program::raise_hard_limits(process)?;
        hand_over_streams(&self.init.stdio, ids)?;

        rustix::process::umask(Mode::empty());
        namespace::unshare(Namespaces::MOUNT).context(|| "make a mount namespace".into())?;
        // What is unmounted on the host goes here, too; nothing comes back.
        rustix::mount::mount_change(c"/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
            .context(|| "make the mount namespace a slave".into())?;
        let made = match &self.user.joined {
            Some(joined) => joined.try_clone(),
            None => process::user_namespace(&ids.uids.to_string(), &ids.gids.to_string()),
        };
        let namespace = made.context(|| "make a user namespace".into())?;
        let (rootfs, plans) = (self.init.rootfs, self.init.plans);
        let (tree, bench) = match rootfs {
            // Binds may come from where the bench covers it.
            Rootfs::Bundle => {
                let tree = rootfs::capture_root(rootfs, &self.init.root_path)?;
                self.init.ahead.mounts = rootfs::capture_binds(plans)?;
                (tree, self.bench()?)
            }
            // First, so that the root is also first in the container's list of mounts.
            Rootfs::Overlay { .. } => {
                let bench = self.bench()?;
                let tree = rootfs::mapped_overlay(rootfs, &bench, &namespace, root)?;
                self.init.ahead.mounts = rootfs::capture_binds(plans)?;
                (tree, bench)
            }
        };
        self.init.ahead.root = Some(tree.over_the_root());
        for (at, plan) in plans.iter().enumerate() {
            if let Some(tree) = rootfs::capture_foreign(at, plan, self.init.spec, &bench, &namespace)? {
                self.init.ahead.mounts.push((at, tree));
            }
        }
        self.init.ahead.devices = devices::make_apart(&bench, self.init.nodes, ids)?;
        drop(bench);
        rustix::process::chdir(c"/").context(|| "enter the root".into())?;

        if let Some(joined) = &self.user.joined {
            namespace::join(joined, Namespaces::USER).context(|| "join the user namespace".into())?;
        }
        if let Some(pid) = self.pid {
            namespace::join(pid, Namespaces::PID).context(|| "join the pid namespace".into())?;
        }
        let Self { init, birth, .. } = self;
        process::spawn(Birth { sibling: true, ..birth }, || init.main())
            .context(|| "clone the container's first process".into())
    }

    /// A file system to work on, where nobody else sees it: over the container's root, which is captured or is to be.
    fn bench(&self) -> Result<OwnedFd> {
        let root = &self.init.root_path;
        let what = || format!("make a file system at {}", root.display());
        let filesystem = Filesystem::new("tmpfs").context(what)?;
        filesystem.set("source", "wharf").and_then(|()| filesystem.set("mode", "711")).context(what)?;
        let tree = filesystem.mount(Attributes::NO_SUID | Attributes::NO_EXEC).context(what)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let place = rustix::fs::open(root, flags, Mode::empty()).context(what)?;
        mount::attach(&tree, place).context(what)?;
        Ok(tree)
    }
}

/// Makes the root of the user namespace the owner of the pipes among the standard streams, so that it can open them by
/// name and give them on.
pub(crate) fn hand_over_streams(stdio: &Stdio, ids: &Ids) -> Result<()> {
    let (Stdio::Fds(fds), Some((uid, gid))) = (stdio, ids.root()) else { return Ok(()) };
    for fd in fds {
        let stat = rustix::fs::fstat(fd).context(|| "stat a standard stream".into())?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Fifo {
            rustix::fs::fchown(fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
                .context(|| "hand over a standard stream".into())?;
        }
    }
    Ok(())
}
