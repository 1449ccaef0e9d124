//! A container's files as one tree, running or not, for those who copy in and out.
//!
//! The tree is put together in a mount namespace that only one thread of ours is in, and that is gone when the thread
//! is: nothing is left in the machine's mount table, whatever happens. In it are:
//! - of a running container, a copy of the mount of its root, taken in its own mount namespace. Not `/proc/PID/root`:
//!   that is whatever its init made its root, with everything the container mounted in it. The namespace is entered
//!   for this one call, and proven to be the container's by its control group and a pidfd;
//! - of any other, an overlay of its own, while nobody can start it;
//! - for [`Access::Mounted`], its volumes, binds and the files the engine made for it, from the host's side. Each is
//!   put on a descriptor that was resolved beneath the root (CP-04).
//!
//! Owners are those that the container's processes have. With the user namespace of one that runs these are not the
//! numbers it knows: [`Tree::ids`] are for who reads or writes them down, and what is made belongs to the root of the
//! namespace. Of a container at rest all owners are as the container knows them.
//!
//! All further work is done with calls on descriptors beneath that root ([`wharf_linux::confined`]). Nothing of the
//! container is executed or loaded, no names are looked up by libraries, and the thread's own root stays the host's:
//! what is poisoned in the container stays text (CP-02).

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::MountPropagationFlags;
use rustix::process::PidfdFlags;
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, OwnedSemaphorePermit, Semaphore};
use wharf_image::SnapshotMounts;
use wharf_linux::cgroup::Cgroup;
use wharf_linux::confined::{Root, open_beneath};
use wharf_linux::idmap::Ids;
use wharf_linux::mount::{self, Attributes};
use wharf_linux::namespace::{self, Namespaces};
use wharf_linux::{hostfs, hostfs::Context, process};
use wharf_model::spec::MountKind;

use super::{Container, MountRecord, Record};
use crate::blocking::blocking;
use crate::ownership::IdMaps;
use crate::userns::UserNamespace;
use crate::volumes::Borrowed;
use crate::{Engine, Error, Result};

/// Which of a container's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Its own, to read.
    Own,
    /// All that it sees of volumes and binds, too, to read and write.
    Mounted,
}

/// The files of a container, not put together yet. As long as it lives, nobody starts the container.
pub(crate) struct Tree {
    source: Source,
    mounts: Vec<MountRecord>,
    /// The engine's directory of the container.
    directory: PathBuf,
    /// A directory of ours to mount on.
    place: PathBuf,
    images: BTreeMap<String, SnapshotMounts>,
    /// Of the mounts whose owners are not shown as they are on disk, by target.
    maps: BTreeMap<String, IdMaps>,
    /// Of a container that runs in a user namespace.
    ids: Option<Ids>,
    _files: Files,
    _volumes: Option<Borrowed>,
    _turn: Turn,
}

/// How many may look at the files of one container, and of all, at the same time. Each keeps a thread, and the file
/// system of a volume may never answer it: those of one container must not take the threads of all others.
const LOOKS_OF_ONE: usize = 8;
const LOOKS: usize = 128;
/// How long one waits for its turn, and for the files.
const PATIENCE: Duration = Duration::from_secs(30);

/// The right to look.
type Turn = [OwnedSemaphorePermit; 2];

/// Turns at a container's files.
pub(crate) fn turns_of_one() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(LOOKS_OF_ONE))
}

/// Turns at all files.
pub(crate) fn turns() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(LOOKS))
}

enum Source {
    Running { pid: i32, cgroup: String },
    Stopped { layers: SnapshotMounts, writable: bool },
}

/// The hold on a container's files.
enum Files {
    Shared { _guard: OwnedRwLockReadGuard<()> },
    Alone { _guard: OwnedRwLockWriteGuard<()> },
}

impl Engine {
    /// Takes hold of a container's files.
    pub(crate) async fn tree(&self, container: &Arc<Container>, access: Access) -> Result<Tree> {
        within_patience(container, self.take_tree(container, access)).await
    }

    async fn turn(&self, container: &Container) -> Result<Turn> {
        let closed = |_| container.not_running();
        let own = container.looks.clone().acquire_owned().await.map_err(closed)?;
        Ok([own, self.inner.looks.clone().acquire_owned().await.map_err(closed)?])
    }

    async fn take_tree(&self, container: &Arc<Container>, access: Access) -> Result<Tree> {
        let turn = self.turn(container).await?;
        loop {
            let running = container.record().is_running();
            let files = if running || access == Access::Own {
                Files::Shared { _guard: container.files.clone().read_owned().await }
            } else {
                Files::Alone { _guard: container.files.clone().write_owned().await }
            };
            // Nobody starts it now, but a start may have been first: that run is not waited for.
            if !running && !container.record().is_running() {
                // Its last run may still have them mounted.
                self.settled(container).await?;
            }
            let record = container.record().clone();
            if record.is_running() == running {
                return self.tree_of(record, access, files, turn).await;
            }
        }
    }

    /// The same of a container that does not run, for who keeps it from starting in another way.
    pub(crate) async fn tree_at_rest(&self, container: &Arc<Container>) -> Result<Tree> {
        within_patience(container, async {
            let turn = self.turn(container).await?;
            let files = Files::Alone { _guard: container.files.clone().write_owned().await };
            let mut record = container.record().clone();
            if record.is_running() {
                record.phase = super::Phase::Exited;
            }
            self.tree_of(record, Access::Mounted, files, turn).await
        })
        .await
    }

    async fn tree_of(&self, record: Record, access: Access, files: Files, turn: Turn) -> Result<Tree> {
        let (engine, id) = (self.clone(), record.id.to_string());
        let config = &self.inner.config;
        let (directory, place) = (config.containers_dir().join(&id), config.run_dir());
        let source = if record.is_running() {
            Source::Running { pid: record.pid, cgroup: self.cgroup_path(&record) }
        } else {
            let layers = blocking(move || Ok(engine.inner.images.snapshot(&id)?)).await?;
            Source::Stopped { layers, writable: access == Access::Mounted }
        };
        let ids = match source {
            Source::Running { pid, .. } => UserNamespace::of(pid)?.map(|namespace| namespace.ids),
            Source::Stopped { .. } => None,
        };
        let (mut mounts, mut volumes, mut images) = (Vec::new(), None, BTreeMap::new());
        let mut maps = BTreeMap::new();
        if access == Access::Mounted {
            mounts = with_own_files(&record, &directory);
            if !record.is_running() {
                volumes = Some(self.borrow_volumes(record.id.as_str(), &mut mounts).await?);
            }
            let (engine, of_run) = (self.clone(), ids.clone());
            (images, maps) =
                blocking(move || Ok((engine.image_layers(&record)?, engine.shown_maps(&record, of_run)?)))
                    .await?;
        }
        let (_files, _volumes, _turn) = (files, volumes, turn);
        Ok(Tree { source, mounts, directory, place, images, maps, ids, _files, _volumes, _turn })
    }
}

impl Engine {
    /// How the owners of a container's mounts are shown in its tree: as to its processes, or, when it is at rest, as it
    /// would know them.
    fn shown_maps(&self, record: &Record, ids: Option<Ids>) -> Result<BTreeMap<String, IdMaps>> {
        if let Some(ids) = &ids {
            let mut maps = self.id_maps(record, Some(ids))?;
            for file in OWN_FILES {
                maps.entry(format!("/etc/{file}")).or_insert_with(|| IdMaps::of(ids));
            }
            return Ok(maps);
        }
        match self.remap(&record.spec.host).filter(|_| !record.is_running()) {
            Some(remap) => self.maps_at_rest(record, &remap.ids),
            None => self.id_maps(record, None),
        }
    }
}

/// Files that the engine makes for a container, in its `/etc`.
const OWN_FILES: [&str; 3] = ["resolv.conf", "hostname", "hosts"];

async fn within_patience(container: &Container, tree: impl Future<Output = Result<Tree>>) -> Result<Tree> {
    tokio::time::timeout(PATIENCE, tree).await.unwrap_or_else(|_| {
        let what = format!("those who use the files of container {} already", container.id.short());
        Err(Error::Deadline { what, seconds: PATIENCE.as_secs() })
    })
}

/// The record's mounts, with the files the engine makes for every container in front.
fn with_own_files(record: &Record, directory: &Path) -> Vec<MountRecord> {
    let mut mounts = Vec::new();
    for file in OWN_FILES {
        let target = format!("/etc/{file}");
        if !record.mounts.iter().any(|mount| mount.target == target) {
            let source = directory.join(file).to_string_lossy().into_owned();
            let kind = MountKind::Bind;
            mounts.push(MountRecord { kind, source, target, non_recursive: true, ..MountRecord::default() });
        }
    }
    mounts.extend(record.mounts.iter().filter(|mount| mount.kind != MountKind::Tmpfs).cloned());
    mounts
}

impl Tree {
    /// Between the owners of the files and what the container calls them, if these differ.
    pub(crate) fn ids(&self) -> Option<Ids> {
        self.ids.clone()
    }

    /// Puts the files together and does `work` on them, on a thread of its own. Blocks.
    pub(crate) fn enter<T: Send>(self, work: impl FnOnce(&Root) -> Result<T> + Send) -> Result<T> {
        let tree = &self;
        std::thread::scope(|scope| {
            let thread =
                std::thread::Builder::new().name("container-files".into()).spawn_scoped(scope, || {
                    let root = tree.assemble()?;
                    work(&root)
                });
            match thread?.join() {
                Ok(result) => result,
                Err(_) => Err(Error::System("work on the files of a container panicked".into())),
            }
        })
    }

    /// Makes the calling thread's mount namespace one of its own, with the files in it.
    fn assemble(&self) -> Result<Root> {
        let failed = |what: &str| {
            let what = what.to_owned();
            move |error: io::Error| {
                Error::System(format!("cannot reach the files of the container: {what}: {error}"))
            }
        };
        namespace::unshare(Namespaces::MOUNT).map_err(failed("new mount namespace"))?;
        // What is unmounted on the host goes here, too; nothing comes back.
        rustix::mount::mount_change(c"/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
            .map_err(|error| failed("make the mount namespace a slave")(error.into()))?;
        let tree = match &self.source {
            Source::Running { pid, cgroup } => root_of(*pid, cgroup)?,
            Source::Stopped { layers, writable: true } => layers.writable_tree()?,
            Source::Stopped { layers, writable: false } => layers.tree()?,
        };
        if !self.mounts.is_empty() {
            mount::attach(&tree, hostfs::open_dir(&self.place)?).map_err(failed("mount its root"))?;
        }
        let root = Root::from_fd(tree, Path::new("/"));
        if let Some((uid, gid)) = self.ids.as_ref().and_then(Ids::root) {
            // The thread is for this alone.
            process::act_as(uid, gid).map_err(failed("act as the root of its user namespace"))?;
        }
        for record in &self.mounts {
            self.attach(&root, record)
                .map_err(|error| error.with_prefix(&format!("cannot mount {}: ", record.target)))?;
        }
        Ok(root)
    }

    /// Puts one mount on its place in the tree. A source that is not there has nothing to show.
    fn attach(&self, root: &Root, record: &MountRecord) -> Result<()> {
        let source = Path::new(&record.source);
        let tree = match self.capture(record) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other.context("bind", source)?,
        };
        mount::set_propagation(&tree, mount::Propagation::Private, true).context("bind", source)?;
        if let Some(maps) = self.maps.get(&record.target) {
            let mapped = maps
                .namespace()
                .and_then(|namespace| mount::set_id_map(&tree, namespace, !record.non_recursive));
            match mapped {
                // Not asked for, and where it cannot be had, owners are those on disk.
                Err(error) if record.ownership.is_none() => {
                    tracing::debug!(target = record.target, %error, "owners are not mapped");
                }
                other => other.context("map the owners of", source)?,
            }
        }
        if record.read_only {
            mount::set_attributes(&tree, Attributes::READ_ONLY, Attributes::default(), true)
                .context("bind read-only", source)?;
        }
        let stat = rustix::fs::fstat(&tree).context("stat", source)?;
        let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let Some(place) = mount_point(root, Path::new(&record.target), is_directory)? else {
            // The engine's own file, in an image that has no place for it and before the first start made one.
            return if source.starts_with(&self.directory) {
                Ok(())
            } else {
                Err(Error::System("its place is gone".into()))
            };
        };
        Ok(mount::attach(&tree, &place).context("mount", Path::new(&record.target))?)
    }
}

impl Tree {
    /// What a mount shows, attached nowhere.
    fn capture(&self, record: &MountRecord) -> io::Result<OwnedFd> {
        let part = Path::new(&record.subpath);
        let whole = match self.images.get(&record.target) {
            Some(layers) => layers.tree().map_err(|error| io::Error::other(error.to_string()))?,
            None if record.subpath.is_empty() => {
                return mount::clone_tree(CWD, record.source.as_str(), !record.non_recursive);
            }
            None => rustix::fs::open(record.source.as_str(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?,
        };
        if record.subpath.is_empty() {
            return Ok(whole);
        }
        mount::clone_tree(open_beneath(&whole, part)?, c"", !record.non_recursive)
    }
}

/// The place of a mount, resolved beneath the root, and made like the first start of the container would.
fn mount_point(root: &Root, target: &Path, is_directory: bool) -> Result<Option<OwnedFd>> {
    match root.open_at(target, OFlags::PATH, Mode::empty()) {
        Ok(place) => return Ok(Some(place)),
        Err(error) if error.is_not_found() => {}
        Err(error) => return Err(error.into()),
    }
    let mut so_far = PathBuf::from("/");
    let mut above = root.directory(&so_far)?;
    let parent = if is_directory { target } else { target.parent().unwrap_or(target) };
    for name in parent.strip_prefix("/").unwrap_or(parent) {
        so_far.push(name);
        above = match root.directory(&so_far) {
            Err(error) if error.is_not_found() => {
                above.make_directory(name, 0o755)?;
                root.directory(&so_far)?
            }
            other => other?,
        };
    }
    if let (false, Some(name)) = (is_directory, target.file_name()) {
        above.create(name, 0o755)?;
    }
    match root.open_at(target, OFlags::PATH, Mode::empty()) {
        Ok(place) => Ok(Some(place)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// A copy of the mount that is the root of a running container's mount namespace, without what is mounted on it.
fn root_of(pid: i32, cgroup: &str) -> Result<OwnedFd> {
    let gone = || Error::Conflict("the container ended just now; try again".into());
    let process = rustix::process::Pid::from_raw(pid).ok_or_else(gone)?;
    let pidfd = rustix::process::pidfd_open(process, PidfdFlags::empty()).map_err(|_| gone())?;
    // The number was the container's when it was written down. The process of that number is in the container's group,
    // and is still the one behind the pidfd afterwards: so it is the container's, and so is its namespace.
    let group = Cgroup::open(cgroup).and_then(|group| group.pids()).map_err(|_| gone())?;
    // A pidfd can be read once its process has ended.
    let mut ended = [PollFd::new(&pidfd, PollFlags::IN)];
    let ended = rustix::event::poll(&mut ended, Some(&Timespec::default())).is_ok_and(|ready| ready > 0);
    if ended || !group.contains(&pid) {
        return Err(gone());
    }
    let failed =
        |error: io::Error| Error::System(format!("cannot reach the files of the container: {error}"));
    let own = File::open("/proc/thread-self/ns/mnt").map_err(failed)?;
    namespace::join(&pidfd, Namespaces::MOUNT).map_err(|error| match error.raw_os_error() {
        Some(code) if code == Errno::SRCH.raw_os_error() => gone(),
        _ => failed(error),
    })?;
    let tree = mount::clone_tree(CWD, c"/", false);
    // Back in any case: a thread that stayed there would resolve the host's paths in the container.
    namespace::join(own.as_fd(), Namespaces::MOUNT).map_err(failed)?;
    tree.map_err(failed)
}
