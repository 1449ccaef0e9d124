//! Control groups of one container, on cgroup v1, v2 and hybrid hosts behind one type.
//!
//! A container has one group of the same path in every hierarchy. On a hybrid host the limits are those of the v1
//! controllers, and the v2 hierarchy beside them gives what only v2 has: killing all at once, freezing with a
//! notification, and knowing when the last process is gone.
//!
//! A process joins the v2 group by being born in it, and the v1 groups by writing `0` into each `tasks` file itself
//! ([`Entrance`]): the kernel moves a single thread that moves itself without its global lock, and so without
//! waiting for an RCU grace period.
//!
//! Nothing here is cached but where the hierarchies are mounted. A crash leaves groups that [`Cgroup::delete`] removes.

mod device_filter;
mod file;
mod types;
mod v1;
mod v2;

pub use types::{
    BlkioEntry, CpuStats, DeviceKind, DeviceRule, DeviceValue, MemoryStats, PidsStats, Resources, Stats,
    Throttling,
};

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// What can go wrong with a cgroup. Every variant names the file or directory concerned.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A cgroup file or directory could not be read, written, made or removed.
    #[error("{operation} {}: {source}", path.display())]
    Io {
        /// What was tried: `open`, `mkdir`, ….
        operation: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// The kernel would not take a value.
    #[error("write {value:?} to {}: {source}", path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// The value.
        value: String,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// A limit was asked for whose controller is not there.
    #[error("cgroup controller {controller} is not available on this host: cannot set {setting}")]
    NoController {
        /// The controller's name, such as `memory`.
        controller: &'static str,
        /// What was to be set.
        setting: &'static str,
    },
    /// The path or a value does not make sense.
    #[error("invalid cgroup {what}: {reason}")]
    Invalid {
        /// Which setting.
        what: &'static str,
        /// Why.
        reason: String,
    },
    /// The group has processes of someone else in it, or they do not go away.
    #[error("cgroup {} still has processes in it", path.display())]
    Busy {
        /// The group's directory.
        path: PathBuf,
    },
    /// No cgroup file system is mounted.
    #[error("no cgroup file system is mounted under /sys/fs/cgroup")]
    NotMounted,
}

/// Result of cgroup operations.
pub type Result<T> = std::result::Result<T, Error>;

/// How the host mounts its controllers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Only v1 hierarchies.
    V1,
    /// One unified hierarchy.
    V2,
    /// v1 controllers with a v2 hierarchy beside them.
    Hybrid,
}

const ROOT: &str = "/sys/fs/cgroup";
const CGROUP1_MAGIC: u64 = 0x0027_e0eb;
const CGROUP2_MAGIC: u64 = 0x6367_7270;

/// Where the hierarchies are.
#[derive(Debug)]
struct Layout {
    mode: Mode,
    v1: Vec<Hierarchy>,
    v2: Option<PathBuf>,
}

/// One v1 hierarchy.
#[derive(Debug)]
struct Hierarchy {
    root: PathBuf,
    controllers: Vec<String>,
}

/// A limit of processes as the kernel reads it. It refuses what is more than there can ever be.
fn most_processes(limit: i64) -> String {
    const MOST: i64 = 4 << 20;
    if (0..=MOST).contains(&limit) { limit.to_string() } else { "max".to_owned() }
}

fn magic(path: &Path) -> u64 {
    rustix::fs::statfs(path).map_or(0, |s| s.f_type as u64)
}

fn layout() -> Result<&'static Layout> {
    static LAYOUT: OnceLock<Option<Layout>> = OnceLock::new();
    LAYOUT.get_or_init(find_layout).as_ref().ok_or(Error::NotMounted)
}

fn find_layout() -> Option<Layout> {
    let root = Path::new(ROOT);
    if magic(root) == CGROUP2_MAGIC {
        return Some(Layout { mode: Mode::V2, v1: Vec::new(), v2: Some(root.to_owned()) });
    }
    let (mut v1, mut v2) = (Vec::new(), None);
    for entry in std::fs::read_dir(root).ok()?.flatten() {
        // Links such as cpu -> cpu,cpuacct are other names of a hierarchy that is listed by itself.
        if !entry.file_type().is_ok_and(|t| t.is_dir()) {
            continue;
        }
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        match magic(&path) {
            CGROUP1_MAGIC => {
                v1.push(Hierarchy { root: path, controllers: name.split(',').map(str::to_owned).collect() });
            }
            CGROUP2_MAGIC => v2 = Some(path),
            _ => {}
        }
    }
    let mode = match (v1.is_empty(), &v2) {
        (true, _) => return None,
        (false, Some(_)) => Mode::Hybrid,
        (false, None) => Mode::V1,
    };
    v1.sort_by(|a, b| a.root.cmp(&b.root));
    Some(Layout { mode, v1, v2 })
}

/// Finds out how `/sys/fs/cgroup` is mounted.
pub fn detect() -> Result<Mode> {
    Ok(layout()?.mode)
}

/// One container's control group in every hierarchy of the host.
#[derive(Debug, Clone)]
pub struct Cgroup {
    layout: &'static Layout,
    /// Relative to each hierarchy's root, without leading slash.
    path: PathBuf,
}

/// How a process gets into a group: descriptors opened beforehand, so that it needs no path and no right of its own.
#[derive(Debug, Default)]
pub struct Entrance {
    /// `tasks` of each v1 hierarchy, to write `0` into.
    pub tasks: Vec<OwnedFd>,
    /// Directory of the v2 group, to be born in.
    pub v2: Option<OwnedFd>,
    /// Of a group that has as many processes as it may, to write `0` into by the one that is to stay. See
    /// [`Cgroup::entrance_for_two`].
    pub late: Option<OwnedFd>,
}

impl Entrance {
    /// The directory for [`Birth::cgroup`](crate::process::Birth::cgroup).
    pub fn birthplace(&self) -> Option<BorrowedFd<'_>> {
        self.v2.as_ref().map(AsFd::as_fd)
    }

    /// Moves the calling thread, which must be its process's only one, into the v1 groups.
    pub fn enter(&self) -> std::io::Result<()> {
        enter(self.tasks.iter())
    }
}

/// Moves the calling thread into the groups whose `tasks` files are open as `tasks`.
pub fn enter(tasks: impl IntoIterator<Item = impl AsFd>) -> std::io::Result<()> {
    for tasks in tasks {
        rustix::io::write(tasks, b"0")?;
    }
    Ok(())
}

impl Cgroup {
    /// Names the group by `linux.cgroupsPath` of its spec, such as `/wharf/<id>`. Touches nothing.
    ///
    /// systemd's form `slice:prefix:name` becomes `slice/prefix-name.scope`.
    pub fn open(cgroups_path: &str) -> Result<Cgroup> {
        let invalid =
            |reason: &str| Error::Invalid { what: "path", reason: format!("{cgroups_path:?} {reason}") };
        let path = match cgroups_path.split(':').collect::<Vec<_>>()[..] {
            [slice, prefix, name] => {
                let slice = if slice.is_empty() { "system.slice" } else { slice };
                let scope = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}-{name}") };
                format!("{slice}/{scope}.scope")
            }
            _ => cgroups_path.trim_matches('/').to_owned(),
        };
        if path.is_empty() {
            return Err(invalid("is the root"));
        }
        if path.len() > 1024 || path.contains(['\0', '\n']) {
            return Err(invalid("is too long or has control characters"));
        }
        if path.split('/').any(|part| part == ".." || part == "." || part.is_empty()) {
            return Err(invalid("has an empty, `.` or `..` component"));
        }
        Ok(Cgroup { layout: layout()?, path: path.into() })
    }

    /// Whether the group is there in any hierarchy.
    pub fn exists(&self) -> bool {
        self.v2().is_some_and(|dir| dir.is_dir()) || self.v1_dirs().any(|dir| dir.is_dir())
    }

    /// Makes the group's v2 part, which a process can be born in; cheap, and nothing on a pure v1 host.
    /// [`create`](Self::create) makes the rest.
    pub fn create_birthplace(&self) -> Result<Option<OwnedFd>> {
        match (&self.layout.v2, self.v2()) {
            (Some(root), Some(dir)) => v2::create(root, &dir, self.layout.mode == Mode::V2).map(Some),
            _ => Ok(None),
        }
    }

    /// Makes the group in every hierarchy and applies the limits.
    pub fn create(&self, resources: &Resources) -> Result<()> {
        self.create_birthplace()?;
        self.create_rest(resources).map(drop)
    }

    /// Makes the group in the v1 hierarchies and applies the limits; gives the `tasks` files.
    pub fn create_rest(&self, resources: &Resources) -> Result<Vec<OwnedFd>> {
        let mut tasks = Vec::with_capacity(self.layout.v1.len());
        for hierarchy in &self.layout.v1 {
            let dir = v1::create(hierarchy, &self.path)?;
            v1::apply(hierarchy, &dir, resources, false)?;
            tasks.push(file::open_for_writing(&dir.join("tasks"))?);
        }
        self.apply_beyond_v1(resources)?;
        Ok(tasks)
    }

    /// Changes limits of a group that is there: all of them, or none if the kernel refuses one. The list of devices
    /// stays as it is.
    pub fn update(&self, resources: &Resources) -> Result<()> {
        let resources = &Resources { devices: Vec::new(), ..resources.clone() };
        let before: Vec<_> = self.v1_dirs().chain(self.v2()).flat_map(|dir| file::remember(&dir)).collect();
        let applied = self.apply_update(resources);
        if applied.is_err() {
            file::restore(&before);
        }
        applied
    }

    fn apply_update(&self, resources: &Resources) -> Result<()> {
        for hierarchy in &self.layout.v1 {
            v1::apply(hierarchy, &hierarchy.root.join(&self.path), resources, true)?;
        }
        self.apply_beyond_v1(resources)
    }

    fn apply_beyond_v1(&self, resources: &Resources) -> Result<()> {
        match (self.layout.mode, self.v2()) {
            (Mode::V2, Some(dir)) => v2::apply(&dir, resources),
            (_, dir) => {
                v1::require_controllers(self.layout, resources)?;
                match dir {
                    // Without a v1 devices controller the v2 hierarchy's device programs work all the same.
                    Some(dir) if !resources.devices.is_empty() && self.v1_dir("devices").is_none() => {
                        device_filter::attach(&dir, &resources.devices)
                    }
                    _ => Ok(()),
                }
            }
        }
    }

    /// Opens what a process needs to get in.
    pub fn entrance(&self) -> Result<Entrance> {
        let tasks =
            self.v1_dirs().map(|dir| file::open_for_writing(&dir.join("tasks"))).collect::<Result<_>>()?;
        let v2 = self.v2().map(|dir| file::open_dir(&dir)).transpose()?;
        Ok(Entrance { tasks, v2, late: None })
    }

    /// Opens what a process needs to get in and start another that stays. In a group that has as many processes as it may
    /// nobody can be born, but who is born elsewhere can still move there: so whoever looks after a container gets into
    /// one that is full, too.
    pub fn entrance_for_two(&self) -> Result<Entrance> {
        let mut entrance = self.entrance()?;
        let limits = |hierarchy: &Hierarchy| hierarchy.controllers.iter().any(|name| name == "pids");
        let full = |dir: &Path| {
            let number = |name: &str| file::read_number(&dir.join(name));
            matches!((number("pids.max"), number("pids.current")), (Ok(most), Ok(now)) if now.saturating_add(2) > most)
        };
        match (self.layout.v1.iter().position(limits), self.v2()) {
            (Some(place), _) if full(&self.layout.v1[place].root.join(&self.path)) => {
                entrance.late = Some(entrance.tasks.remove(place));
            }
            // The slow way: the kernel stops everybody for it.
            (None, Some(dir)) if self.layout.mode == Mode::V2 && full(&dir) => {
                entrance.late = Some(file::open_for_writing(&dir.join("cgroup.procs"))?);
                entrance.v2 = None;
            }
            _ => {}
        }
        Ok(entrance)
    }

    /// The group's directories with the names of their hierarchies, as a container's `/sys/fs/cgroup` shows them.
    /// On a v2 host there is one, with an empty name.
    pub fn directories(&self) -> Vec<(String, PathBuf)> {
        let name = |root: &Path| root.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let v1 = self.layout.v1.iter().map(|h| (name(&h.root), h.root.join(&self.path)));
        let v2 = self.layout.v2.iter().map(|root| {
            let name = if self.layout.mode == Mode::V2 { String::new() } else { name(root) };
            (name, root.join(&self.path))
        });
        v1.chain(v2).collect()
    }

    /// Kills every process in the group.
    pub fn kill_all(&self) -> Result<()> {
        if let Some(dir) = self.v2() {
            match file::write(&dir.join("cgroup.kill"), "1") {
                Ok(()) => {
                    // Somebody may have frozen it by the other hierarchy, and the frozen do not die.
                    if let Some(dir) = self.v1_dir("freezer") {
                        let _not_frozen = file::write(&dir.join("freezer.state"), "THAWED");
                    }
                    return Ok(());
                }
                Err(error) if !error.is_missing() => return Err(error),
                Err(_) if self.layout.mode == Mode::V2 => return Ok(()), // no such group: nothing to kill
                Err(_) => {}
            }
        }
        // Frozen processes cannot fork away from under the list.
        let frozen = self.freeze().is_ok();
        let pids = self.pids();
        for pid in pids.iter().flatten() {
            // One that ended in between is what we want.
            let _ = crate::process::kill(*pid, libc::SIGKILL);
        }
        if frozen {
            self.thaw()?;
        }
        pids.map(drop)
    }

    /// Stops every process and returns when all have stopped.
    pub fn freeze(&self) -> Result<()> {
        match self.living_v2() {
            Some(dir) => v2::set_frozen(&dir, true),
            None => v1::set_frozen(&self.required_v1("freezer", "freeze")?, true),
        }
    }

    /// Lets the processes run again.
    pub fn thaw(&self) -> Result<()> {
        match self.living_v2() {
            Some(dir) => v2::set_frozen(&dir, false),
            None => v1::set_frozen(&self.required_v1("freezer", "thaw")?, false),
        }
    }

    /// Whether the group is frozen.
    pub fn frozen(&self) -> Result<bool> {
        match self.living_v2() {
            Some(dir) => Ok(v2::event(&dir, "frozen")? == 1),
            None => v1::frozen(&self.required_v1("freezer", "state")?),
        }
    }

    /// Processes in the group and below, as the caller's pid namespace numbers them.
    pub fn pids(&self) -> Result<Vec<i32>> {
        let dir = match self.living_v2() {
            Some(dir) => dir,
            None => self.v1_dirs().next().ok_or(Error::NotMounted)?,
        };
        let mut pids = Vec::new();
        file::walk(&dir, &mut |dir| {
            let text = file::read(&dir.join("cgroup.procs"))?;
            pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
            Ok(())
        })?;
        pids.sort_unstable();
        pids.dedup();
        Ok(pids)
    }

    /// Whether no process is left in the group and below.
    pub fn is_empty(&self) -> Result<bool> {
        match self.living_v2() {
            Some(dir) => match v2::event(&dir, "populated") {
                Err(error) if error.is_missing() => Ok(true),
                populated => Ok(populated? == 0),
            },
            None => match self.pids() {
                Err(error) if error.is_missing() => Ok(true),
                pids => Ok(pids?.is_empty()),
            },
        }
    }

    /// Waits until the group is empty, for at most `limit`; whether it is.
    pub fn wait_empty(&self, limit: Duration) -> Result<bool> {
        let deadline = Instant::now() + limit;
        match self.living_v2() {
            Some(dir) => match v2::wait_event(&dir, "populated", 0, deadline) {
                Err(error) if error.is_missing() => Ok(true),
                other => other,
            },
            // v1 tells nobody when a group becomes empty.
            None => loop {
                if self.is_empty()? {
                    return Ok(true);
                }
                if Instant::now() >= deadline {
                    return Ok(false);
                }
                std::thread::sleep(Duration::from_millis(1));
            },
        }
    }

    /// What the group has used.
    pub fn stats(&self) -> Result<Stats> {
        match (self.layout.mode, self.v2()) {
            (Mode::V2, Some(dir)) => v2::stats(&dir),
            _ => v1::stats(&|controller| self.v1_dir(controller)),
        }
    }

    /// How many processes of the group the kernel has killed for want of memory.
    pub fn oom_kills(&self) -> Result<u64> {
        match (self.layout.mode, self.v2()) {
            (Mode::V2, Some(dir)) => {
                Ok(file::read_keyed(&dir.join("memory.events"))?.get("oom_kill").copied().unwrap_or(0))
            }
            _ => match self.v1_dir("memory") {
                Some(dir) => Ok(file::read_keyed(&dir.join("memory.oom_control"))?
                    .get("oom_kill")
                    .copied()
                    .unwrap_or(0)),
                None => Ok(0),
            },
        }
    }

    /// A descriptor that has news each time the group is out of memory: readable on v1, with priority data on v2.
    /// `None` without a memory controller.
    pub fn oom_notice(&self) -> Result<Option<OwnedFd>> {
        match (self.layout.mode, self.v2()) {
            (Mode::V2, Some(dir)) => v2::oom_notice(&dir).map(Some),
            _ => self.v1_dir("memory").map(|dir| v1::oom_notice(&dir)).transpose(),
        }
    }

    /// Removes the group and every group below it, in every hierarchy. Fine if there is none.
    ///
    /// A process that was killed and is about to leave is waited for a short while.
    pub fn delete(&self) -> Result<()> {
        let mut first_error = None;
        for dir in self.v1_dirs().chain(self.v2()) {
            if let Err(error) = self.delete_dir(&dir) {
                first_error.get_or_insert(error);
            }
        }
        first_error.map_or(Ok(()), Err)
    }

    /// Removes the group above this one from every hierarchy where nothing is in it. The root stays.
    pub fn remove_parent_if_empty(&self) {
        if self.path.parent().is_none_or(|parent| parent.as_os_str().is_empty()) {
            return;
        }
        for dir in self.v1_dirs().chain(self.v2()) {
            if let Some(parent) = dir.parent() {
                // Somebody uses it, or it is gone already: both are fine.
                let _ = rustix::fs::rmdir(parent);
            }
        }
    }

    fn delete_dir(&self, dir: &Path) -> Result<()> {
        const PATIENCE: Duration = Duration::from_secs(2);
        let deadline = Instant::now() + PATIENCE;
        loop {
            match file::remove_tree(dir) {
                Err(Error::Io { source, .. }) if source.raw_os_error() == Some(libc::EBUSY) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() || !self.wait_empty(left)? {
                        return Err(Error::Busy { path: dir.to_owned() });
                    }
                    // Nobody is in it any more, but the kernel has not let go of the last one yet; it tells nobody when.
                    std::thread::sleep(Duration::from_millis(1));
                }
                other => return other,
            }
        }
    }

    fn v2(&self) -> Option<PathBuf> {
        self.layout.v2.as_ref().map(|root| root.join(&self.path))
    }

    /// The v2 part of a group that another runtime may have made, in the v1 hierarchies only.
    fn living_v2(&self) -> Option<PathBuf> {
        self.v2().filter(|dir| self.layout.mode == Mode::V2 || dir.is_dir())
    }

    fn v1_dirs(&self) -> impl Iterator<Item = PathBuf> {
        self.layout.v1.iter().map(|h| h.root.join(&self.path))
    }

    fn v1_dir(&self, controller: &str) -> Option<PathBuf> {
        let hierarchy = self.layout.v1.iter().find(|h| h.controllers.iter().any(|c| c == controller))?;
        Some(hierarchy.root.join(&self.path))
    }

    fn required_v1(&self, controller: &'static str, setting: &'static str) -> Result<PathBuf> {
        self.v1_dir(controller).ok_or(Error::NoController { controller, setting })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_below_the_hierarchy() {
        for bad in ["", "/", "..", "/a/../b", "a/./b", "a//b", "/a/..", "a\nb"] {
            assert!(matches!(Cgroup::open(bad), Err(Error::Invalid { .. })), "{bad:?}");
        }
        let systemd = Cgroup::open("wharf.slice:docker:abc").unwrap();
        assert_eq!(systemd.path, Path::new("wharf.slice/docker-abc.scope"));
        assert_eq!(Cgroup::open("/wharf/abc").unwrap().path, Path::new("wharf/abc"));
    }

    #[test]
    fn a_group_lives_and_dies() {
        let name = format!("/wharf-test-{}/one", std::process::id());
        let group = Cgroup::open(&name).unwrap();
        let limits = Resources {
            memory: Some(64 << 20),
            pids: Some(32),
            cpu_quota: Some(50_000),
            cpu_period: Some(100_000),
            ..Resources::default()
        };
        group.create(&limits).unwrap();
        assert!(group.exists() && group.is_empty().unwrap() && group.pids().unwrap().is_empty());
        let stats = group.stats().unwrap();
        assert_eq!((stats.memory.limit, stats.pids.limit), (64 << 20, 32));
        group.freeze().unwrap();
        assert!(group.frozen().unwrap());
        group.thaw().unwrap();
        assert!(!group.frozen().unwrap());
        group.update(&Resources { memory: Some(128 << 20), ..Resources::default() }).unwrap();
        assert_eq!(group.stats().unwrap().memory.limit, 128 << 20);
        // One refused limit takes the others back with it.
        let refused = Resources {
            memory: Some(200 << 20),
            pids: Some(7),
            cpuset_cpus: Some("4000".into()),
            ..Resources::default()
        };
        group.update(&refused).unwrap_err();
        let stats = group.stats().unwrap();
        assert_eq!((stats.memory.limit, stats.pids.limit), (128 << 20, 32));
        assert_eq!(group.oom_kills().unwrap(), 0);
        group.kill_all().unwrap();
        // What a crash left behind does not limit the next one.
        group.create(&Resources::default()).unwrap();
        assert_eq!(group.stats().unwrap().memory.limit, u64::MAX);
        group.delete().unwrap();
        assert!(!group.exists());
        group.delete().unwrap();
        Cgroup::open(&format!("/wharf-test-{}", std::process::id())).unwrap().delete().unwrap();
    }
}
