//! Building the container's file system.
//!
//! 1. *Capture*, while the host's files are in sight: every mount of the configuration becomes a tree that is attached
//!    nowhere, with its attributes set.
//! 2. *Enter*: the root file system is attached, made the root, and the host's tree is let go of.
//! 3. *Attach*: each tree is put on its target, resolved by descriptor inside the new root.
//!
//! Because the host is out of sight in step 3, no name in an image or a volume can lead there.
//!
//! The root of a user namespace is nobody on the host. What of step 1 is the host's (the root file system, binds,
//! devices) is done for it by the [stage](crate::stage), which has not given up the host's rights.

use crate::Rootfs;
use crate::error::{Context, Error, Result};
use crate::mounts::{IdMap, Plan, Source};
use crate::procfs::Procfs;
use crate::root::Root;
use crate::spec::{LinuxNamespaceType, Spec};
use rustix::fs::{FileType, Mode, OFlags};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use wharf_linux::cgroup::Cgroup;
use wharf_linux::mount::{self, Attributes, Filesystem, Propagation};
use wharf_linux::process;

/// A planned mount whose tree is made.
#[derive(Debug)]
pub(crate) struct Captured<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) tree: OwnedFd,
    /// Trees to put on names directly below the first: the hierarchies of a v1 cgroup mount.
    below: Vec<(String, OwnedFd)>,
}

/// What was captured ahead, by a process that may do more than the container's first.
#[derive(Debug, Default)]
pub(crate) struct Ahead {
    /// The root file system.
    pub(crate) root: Option<RootTree>,
    /// Trees of mounts, by their place among the plans.
    pub(crate) mounts: Vec<(usize, OwnedFd)>,
    /// Devices, in their order.
    pub(crate) devices: Vec<OwnedFd>,
}

/// Makes the tree of one mount, unless it was made ahead. `label` is SELinux's, for the files of new file systems.
pub(crate) fn capture<'a>(
    plan: &'a Plan,
    cgroup: &Cgroup,
    label: Option<&str>,
    ahead: Option<&OwnedFd>,
) -> Result<Captured<'a>> {
    if let Some(tree) = ahead {
        let tree = tree.try_clone().map_err(|e| Error::mount(&plan.target, e.to_string()))?;
        return Ok(Captured { plan, tree, below: Vec::new() });
    }
    let (tree, below) = match &plan.source {
        Source::Bind { .. } => (finish_bind(plan, clone_source(plan)?)?, Vec::new()),
        Source::Filesystem { kind, name } => (capture_filesystem(plan, kind, name, label)?, Vec::new()),
        Source::Cgroup => capture_cgroup(plan, cgroup)?,
    };
    Ok(Captured { plan, tree, below })
}

/// `/proc/<pid>/root/…`, which can only be taken from that process's own mounts: the process, and the path there.
fn foreign(path: &Path) -> Option<(PathBuf, PathBuf)> {
    let (pid, inside) = path.to_str()?.strip_prefix("/proc/")?.split_once("/root/")?;
    let number = !pid.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit());
    number.then(|| (Path::new("/proc").join(pid), Path::new("/").join(inside)))
}

/// The trees of the binds whose owners are mapped, by their place in `plans`. One thread only.
pub(crate) fn capture_mapped(plans: &[Plan]) -> Result<Vec<(usize, OwnedFd)>> {
    let mut namespaces: Vec<(&IdMap, OwnedFd)> = Vec::new();
    let mut trees = Vec::new();
    for (at, plan) in plans.iter().enumerate() {
        let Some(map) = &plan.id_map else { continue };
        let failed = |what: &str, e: std::io::Error| Error::mount(&plan.target, format!("{what}: {e}"));
        if !namespaces.iter().any(|(known, _)| (&known.uids, &known.gids) == (&map.uids, &map.gids)) {
            let made = process::user_namespace(&map.uids, &map.gids);
            namespaces.push((map, made.map_err(|e| failed("a user namespace that maps its owners", e))?));
        }
        let same = |(known, _): &&(&IdMap, OwnedFd)| (&known.uids, &known.gids) == (&map.uids, &map.gids);
        let Some((_, namespace)) = namespaces.iter().find(same) else { continue };
        let tree = clone_source(plan)?;
        mount::set_id_map(&tree, namespace, map.recursive).map_err(|e| {
            let why = match e.raw_os_error() {
                Some(libc::EINVAL) => {
                    "the file system of the source, or one mounted beneath it, cannot show files with other owners; \
                     use a directory of ext4, xfs, btrfs or tmpfs, bind without what is mounted beneath \
                     (bind-recursive=disabled), or leave the ownership as it is"
                }
                Some(libc::EPERM) => "the source is mounted with mapped owners already",
                _ => return failed("map the owners", e),
            };
            Error::mount(&plan.target, why)
        })?;
        trees.push((at, finish_bind(plan, tree)?));
    }
    Ok(trees)
}

/// The trees of all binds, for a container in a user namespace: nothing that is mounted there comes back to the host.
pub(crate) fn capture_binds(plans: &[Plan]) -> Result<Vec<(usize, OwnedFd)>> {
    let mut trees = capture_mapped(plans)?;
    for (at, plan) in plans.iter().enumerate() {
        if matches!(plan.source, Source::Bind { .. }) && plan.id_map.is_none() {
            trees.push((at, finish_bind(plan, clone_source(plan)?)?));
        }
    }
    Ok(trees)
}

/// The tree of a mount that the root of a user namespace cannot make: an overlay of layers out of its reach, or message
/// queues of an IPC namespace that is the host's.
pub(crate) fn capture_foreign(
    at: usize,
    plan: &Plan,
    spec: &Spec,
    bench: &OwnedFd,
    namespace: &OwnedFd,
) -> Result<Option<OwnedFd>> {
    let Source::Filesystem { kind, name } = &plan.source else { return Ok(None) };
    let namespaces = spec.linux().as_ref().and_then(|l| l.namespaces().as_deref()).unwrap_or_default();
    let own_ipc = namespaces.iter().any(|n| n.typ() == LinuxNamespaceType::Ipc);
    match kind.as_str() {
        "mqueue" if !own_ipc => capture_filesystem(plan, kind, name, None).map(Some),
        "overlay" => {
            let mut plan = plan.clone();
            for (number, (key, value)) in plan.data.iter_mut().enumerate() {
                if let (true, Some(layer)) = (key == "lowerdir+", value) {
                    let place = format!("m{at}-{number}");
                    mapped_layer(bench, Path::new(layer), &place, namespace)?;
                    *layer = place;
                }
            }
            rustix::process::fchdir(bench).context(|| "enter the place of the layers".into())?;
            capture_filesystem(&plan, kind, name, None).map(Some)
        }
        _ => Ok(None),
    }
}

/// A copy of what a bind shows, attached nowhere.
fn clone_source(plan: &Plan) -> Result<OwnedFd> {
    let Source::Bind { path, recursive } = &plan.source else {
        return Err(Error::mount(&plan.target, "not a bind mount"));
    };
    let failed = |e| Error::mount(&plan.target, format!("bind {}: {e}", path.display()));
    let Some(beneath) = &plan.beneath else {
        let tree = match foreign(path) {
            Some((process, inside)) => {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                rustix::fs::open(process, flags, Mode::empty())
                    .map_err(std::io::Error::from)
                    .and_then(|process| mount::clone_tree_of(process, &inside))
            }
            None => mount::clone_tree(rustix::fs::CWD, path, *recursive),
        };
        return tree.map_err(failed);
    };
    let failed =
        |e| Error::mount(&plan.target, format!("bind {} of {}: {e}", beneath.display(), path.display()));
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let base = rustix::fs::open(path, flags, Mode::empty()).map_err(|e| failed(e.into()))?;
    // Whatever is swapped in meanwhile: this descriptor is beneath the base, and it is what gets mounted (EN-08).
    let part = wharf_linux::confined::open_beneath(&base, beneath).map_err(failed)?;
    mount::clone_tree(&part, c"", *recursive).map_err(failed)
}

/// Gives the tree of a bind its attributes.
fn finish_bind(plan: &Plan, tree: OwnedFd) -> Result<OwnedFd> {
    let failed = |e| Error::mount(&plan.target, format!("bind: {e}"));
    if !plan.set.is_empty() || !plan.clear.is_empty() {
        mount::set_attributes(&tree, plan.set, clear_bits(plan), false).map_err(failed)?;
    }
    if !plan.set_recursive.is_empty() {
        mount::set_attributes(&tree, plan.set_recursive, Attributes::default(), true).map_err(failed)?;
    }
    // Unless asked otherwise, unmounts on the host reach the container and nothing comes back.
    let (propagation, recursive) = plan.propagation.unwrap_or((Propagation::Slave, true));
    mount::set_propagation(&tree, propagation, recursive).map_err(failed)?;
    Ok(tree)
}

/// Setting an access time mode means clearing the old one.
fn clear_bits(plan: &Plan) -> Attributes {
    let atime = [Attributes::NO_ATIME, Attributes::STRICT_ATIME];
    if atime.iter().any(|a| plan.set.contains(*a)) { plan.clear | Attributes::ATIME } else { plan.clear }
}

fn capture_filesystem(plan: &Plan, kind: &str, name: &str, label: Option<&str>) -> Result<OwnedFd> {
    let failed = |e| Error::mount(&plan.target, format!("new {kind}: {e}"));
    let filesystem = Filesystem::new(kind).map_err(failed)?;
    if !name.is_empty() {
        filesystem.set("source", name).map_err(failed)?;
    }
    for (key, value) in &plan.data {
        let result = match value {
            Some(value) => filesystem.set(key.as_str(), value.as_str()),
            None => filesystem.flag(key.as_str()),
        };
        result.map_err(|e| {
            let why = filesystem.complaint().unwrap_or_else(|| e.to_string());
            Error::mount(&plan.target, format!("option {key:?} of {kind}: {why}"))
        })?;
    }
    // The kernel labels its own file systems itself.
    if let Some(label) = label.filter(|_| !is_kernel_filesystem(plan)) {
        filesystem.set("context", label).map_err(failed)?;
    }
    let tree = filesystem.mount(immediate_attributes(plan, kind)).map_err(|e| {
        let why = filesystem.complaint().map_or_else(|| e.to_string(), |words| format!("{words} ({e})"));
        Error::mount(&plan.target, format!("new {kind}: {why}"))
    })?;
    let Some(beneath) = &plan.beneath else { return Ok(tree) };
    let failed = |e: std::io::Error| Error::mount(&plan.target, format!("{}: {e}", beneath.display()));
    let part = wharf_linux::confined::open_beneath(&tree, beneath).map_err(failed)?;
    mount::clone_tree(&part, c"", false).map_err(|e| match e.raw_os_error() {
        Some(libc::EINVAL) => {
            Error::mount(&plan.target, "a part of an image can be mounted since Linux 6.15")
        }
        _ => failed(e),
    })
}

/// A tmpfs becomes read-only at the very end: devices, links and mount points are made in it first.
fn immediate_attributes(plan: &Plan, kind: &str) -> Attributes {
    if kind == "tmpfs" { plan.set.without(Attributes::READ_ONLY) } else { plan.set }
}

/// What a container sees at `/sys/fs/cgroup`: its own groups, bound from the host's hierarchies. On v2 that is one
/// directory; on v1 a tmpfs with one directory per hierarchy, and links for controllers that share one.
fn capture_cgroup(plan: &Plan, cgroup: &Cgroup) -> Result<(OwnedFd, Vec<(String, OwnedFd)>)> {
    let bind = |dir: &Path| {
        let failed = |e| Error::mount(&plan.target, format!("bind {}: {e}", dir.display()));
        let tree = mount::clone_tree(rustix::fs::CWD, dir, false).map_err(failed)?;
        mount::set_attributes(&tree, plan.set, plan.clear, false).map_err(failed)?;
        mount::set_propagation(&tree, Propagation::Slave, false).map_err(failed)?;
        Ok::<_, Error>(tree)
    };
    let directories = cgroup.directories();
    if let [(name, dir)] = &directories[..]
        && name.is_empty()
    {
        return Ok((bind(dir)?, Vec::new()));
    }
    let failed = |e| Error::mount(&plan.target, format!("new tmpfs: {e}"));
    let filesystem = Filesystem::new("tmpfs").map_err(failed)?;
    filesystem.set("source", "tmpfs").and_then(|()| filesystem.set("mode", "755")).map_err(failed)?;
    let tree = filesystem.mount(plan.set.without(Attributes::READ_ONLY)).map_err(failed)?;
    let mut below = Vec::with_capacity(directories.len());
    for (name, dir) in directories {
        rustix::fs::mkdirat(&tree, name.as_str(), Mode::from_raw_mode(0o755))
            .map_err(|e| failed(e.into()))?;
        for alias in name.split(',').filter(|alias| *alias != name) {
            rustix::fs::symlinkat(name.as_str(), &tree, alias).map_err(|e| failed(e.into()))?;
        }
        below.push((name, bind(&dir)?));
    }
    Ok((tree, below))
}

/// The root file system as a tree that is attached nowhere, and the directory it goes on.
#[derive(Debug)]
pub(crate) struct RootTree {
    pub(crate) tree: OwnedFd,
    place: PathBuf,
}

impl RootTree {
    /// On top of the root itself: a directory of ours may be out of reach for the container's first process.
    pub(crate) fn over_the_root(self) -> Self {
        Self { place: PathBuf::from("/"), ..self }
    }

    /// The tree, for another place than the root of a container.
    pub(crate) fn into_tree(self) -> OwnedFd {
        self.tree
    }
}

/// Makes the tree of the root file system.
pub(crate) fn capture_root(rootfs: Rootfs<'_>, bundle_root: &Path) -> Result<RootTree> {
    match rootfs {
        Rootfs::Bundle => {
            let failed = |e| Error::mount(Path::new("/"), format!("root {}: {e}", bundle_root.display()));
            let tree = mount::clone_tree(rustix::fs::CWD, bundle_root, true).map_err(failed)?;
            Ok(RootTree { tree, place: bundle_root.to_owned() })
        }
        Rootfs::Overlay { base, lower, upper, work, mountpoint } => {
            let tree =
                overlay(base, lower, upper, work).map_err(|reason| Error::mount(Path::new("/"), reason))?;
            Ok(RootTree { tree, place: mountpoint.to_owned() })
        }
    }
}

/// An overlay whose layers show their owners as the user namespace has them: nothing on disk is re-owned, and what is
/// written belongs, on disk, to the ids of the container. The calling process has a mount namespace of its own, which
/// is private, and an empty directory `bench` in it that nobody else sees.
pub(crate) fn mapped_overlay(
    rootfs: Rootfs<'_>,
    bench: &OwnedFd,
    namespace: &OwnedFd,
    root: (u32, u32),
) -> Result<RootTree> {
    let Rootfs::Overlay { base, lower, upper, work, mountpoint } = rootfs else {
        return Err(Error::invalid("a root that is ready needs no layers"));
    };
    let layer = |from: &Path, name: &str| mapped_layer(bench, from, name, namespace);
    let mut names = Vec::with_capacity(lower.len());
    for (number, name) in lower.iter().enumerate() {
        layer(&base.join(name), &number.to_string())?;
        names.push(number.to_string());
    }
    // Both must be on one mount.
    let (upper, work) = (Path::new(upper), Path::new(work));
    let (Some(above), Some(upper), Some(work)) = (upper.parent(), upper.file_name(), work.file_name()) else {
        return Err(Error::invalid("the writable layer has no name"));
    };
    layer(&base.join(above), "w")?;
    let inside = |name: &std::ffi::OsStr| format!("w/{}", name.to_string_lossy());
    rustix::process::fchdir(bench).context(|| "enter the place of the layers".into())?;
    // Root itself has no name in the layers: what the overlay makes for itself would have no owner.
    process::act_as(root.0, root.1).context(|| "act as the root of the user namespace".into())?;
    let tree = overlay(Path::new("."), &names, &inside(upper), &inside(work));
    process::act_as(0, 0).context(|| "act as root again".into())?;
    let tree = tree.map_err(|reason| Error::mount(Path::new("/"), reason))?;
    Ok(RootTree { tree, place: mountpoint.to_owned() })
}

/// Puts a layer on a place of its name on the bench, with the owners of its files mapped.
fn mapped_layer(bench: &OwnedFd, from: &Path, name: &str, namespace: &OwnedFd) -> Result<()> {
    let failed = |what: &str, e: std::io::Error| {
        let why = match e.raw_os_error() {
            Some(libc::EINVAL) => {
                "its file system cannot show files with other owners: have the data root on \
                     ext4, xfs, btrfs or tmpfs, or run the container with --userns=host"
                    .to_owned()
            }
            _ => e.to_string(),
        };
        Error::mount(Path::new("/"), format!("overlay: {what} {}: {why}", from.display()))
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::mkdirat(bench, name, Mode::RWXU).map_err(|e| failed("place for", e.into()))?;
    let place = rustix::fs::openat(bench, name, flags, Mode::empty());
    let place = place.map_err(|e| failed("place for", e.into()))?;
    let tree = mount::clone_tree(rustix::fs::CWD, from, false).map_err(|e| failed("layer", e))?;
    mount::set_id_map(&tree, namespace, false).map_err(|e| failed("map the owners of layer", e))?;
    mount::attach(tree, place).map_err(|e| failed("layer", e))
}

fn overlay(base: &Path, lower: &[String], upper: &str, work: &str) -> std::result::Result<OwnedFd, String> {
    let failed = |what: &str, e: &dyn std::fmt::Display| format!("overlay: {what}: {e}");
    // The names in the options are relative to the working directory.
    rustix::process::chdir(base).map_err(|e| failed(&base.display().to_string(), &e))?;
    let filesystem = Filesystem::new("overlay").map_err(|e| failed("not available", &e))?;
    let set = |key: &str, value: &str| {
        filesystem.set(key, value).map_err(|e| {
            let why = filesystem.complaint().map_or_else(|| e.to_string(), |words| format!("{words} ({e})"));
            failed(&format!("{key} {}/{value}", base.display()), &why)
        })
    };
    set("source", "overlay")?;
    if filesystem.set("lowerdir+", lower.first().map_or("", String::as_str)).is_ok() {
        for layer in lower.iter().skip(1) {
            set("lowerdir+", layer)?;
        }
    } else {
        set("lowerdir", &lower.join(":"))?; // before Linux 6.5; bounded to 255 bytes by the kernel
    }
    set("upperdir", upper)?;
    set("workdir", work)?;
    // Whatever the module's defaults: what the container writes is whole in the upper directory, so that a layer can be
    // made of it. A kernel that does not know these options does neither.
    for (key, value) in [("redirect_dir", "nofollow"), ("metacopy", "off")] {
        let _unknown = filesystem.set(key, value);
    }
    filesystem.mount_writable(Attributes::default()).map_err(|e| {
        let why = filesystem.complaint().map_or_else(|| e.to_string(), |words| format!("{words} ({e})"));
        failed(&format!("mount in {}", base.display()), &why)
    })
}

/// Makes the tree the root and lets go of the host's.
pub(crate) fn enter(root: RootTree) -> Result<Root> {
    let failed = |what: &str| format!("{what} the root file system at {}", root.place.display());
    // Nothing we do from here on may reach the namespace we came from.
    rustix::mount::mount_change(
        c"/",
        rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC,
    )
    .context(|| "make the mount namespace private".into())?;
    mount::set_propagation(&root.tree, Propagation::Private, true).context(|| failed("make private"))?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let place = rustix::fs::open(&root.place, flags, Mode::empty()).context(|| failed("open"))?;
    mount::attach(&root.tree, &place).context(|| failed("attach"))?;
    rustix::process::fchdir(&root.tree).context(|| failed("enter"))?;
    mount::pivot_here().context(|| failed("pivot to"))?;
    Root::open().context(|| failed("open"))
}

/// Puts a captured tree on its target.
pub(crate) fn attach(root: &Root, procfs: &Procfs, captured: &Captured<'_>) -> Result<()> {
    let plan = captured.plan;
    let failed = |what: &str, e: std::io::Error| Error::mount(&plan.target, format!("{what}: {e}"));
    let stat = rustix::fs::fstat(&captured.tree).map_err(|e| failed("stat the source", e.into()))?;
    let directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    let made = if directory { root.make_dir(&plan.target) } else { root.make_file(&plan.target) };
    let mut target = made.map_err(|e| failed("make the mount point", e))?;
    if is_kernel_filesystem(plan) {
        // An image must not decide where /proc or /sys ends up by shipping a link of that name.
        target = root.find_plain(&plan.target).map_err(|e| match e.raw_os_error() {
            Some(libc::ELOOP) => Error::mount(&plan.target, "the mount point is or is below a symbolic link"),
            _ => failed("find the mount point", e),
        })?;
    }
    check_proc_target(plan, &procfs.name_of(&target)?, &captured.tree)?;
    if plan.copy_up && directory {
        copy_up(&target, &captured.tree).map_err(|e| Error::mount(&plan.target, format!("copy up: {e}")))?;
    }
    mount::attach(&captured.tree, &target)
        .map_err(|e| mismatch(plan, directory, &target).unwrap_or_else(|| failed("attach", e)))?;
    for (name, tree) in &captured.below {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let place = rustix::fs::openat(&captured.tree, name.as_str(), flags, Mode::empty());
        let place = place.map_err(|e| failed("open the place of a hierarchy", e.into()))?;
        mount::attach(tree, &place).map_err(|e| failed("attach a hierarchy", e))?;
    }
    if let (Some((propagation, recursive)), Source::Filesystem { .. }) = (plan.propagation, &plan.source) {
        mount::set_propagation(&captured.tree, propagation, recursive)
            .map_err(|e| failed("propagation", e))?;
    }
    Ok(())
}

/// The reason, where a directory was to cover a file or the other way round, in the words that people look for.
fn mismatch(plan: &Plan, directory: bool, target: &OwnedFd) -> Option<Error> {
    let stat = rustix::fs::fstat(target).ok()?;
    if (FileType::from_raw_mode(stat.st_mode) == FileType::Directory) == directory {
        return None;
    }
    let source = match &plan.source {
        Source::Bind { path, .. } => path.display().to_string(),
        Source::Filesystem { kind, .. } => kind.clone(),
        Source::Cgroup => "cgroup".to_owned(),
    };
    let reason = format!(
        "put {source} there: not a directory: Are you trying to mount a directory onto a file (or vice-versa)? Check if \
         the specified host path exists and is the expected type"
    );
    Some(Error::mount(&plan.target, reason))
}

/// Fills a file system that is about to cover a directory with what is in it (`tmpcopyup`).
fn copy_up(from: &OwnedFd, to: &OwnedFd) -> std::result::Result<(), Box<dyn std::error::Error>> {
    let open = |dir: &OwnedFd| {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat(dir, c".", flags, Mode::empty())
    };
    Ok(wharf_linux::copy::tree(open(from)?.as_fd(), open(to)?)?)
}

fn is_kernel_filesystem(plan: &Plan) -> bool {
    matches!(&plan.source, Source::Filesystem { kind, .. } if kind == "proc" || kind == "sysfs")
}

/// Files of procfs that lxcfs and its like may cover. Covering anything else there would let a container choose what
/// it, and we, read and write as procfs.
const COVERABLE: [&str; 11] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/slabinfo",
    "/proc/net/dev",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/sys/crypto/fips_enabled",
];

fn check_proc_target(plan: &Plan, real: &Path, tree: &OwnedFd) -> Result<()> {
    const PROCFS_MAGIC: u64 = 0x9fa0;
    if !real.starts_with("/proc") || COVERABLE.iter().any(|name| real == Path::new(name)) {
        return Ok(());
    }
    let is_procfs = rustix::fs::fstatfs(tree).is_ok_and(|s| s.f_type as u64 == PROCFS_MAGIC);
    if real == Path::new("/proc") && is_procfs {
        return Ok(());
    }
    Err(Error::mount(&plan.target, format!("{} is inside /proc and cannot be mounted over", real.display())))
}

/// Makes each tmpfs that was asked for read-only what it should be, now that it has its content.
pub(crate) fn seal(captured: &[Captured<'_>]) -> Result<()> {
    let tmpfs = |plan: &Plan| match &plan.source {
        Source::Filesystem { kind, .. } => kind == "tmpfs",
        Source::Cgroup => true,
        Source::Bind { .. } => false,
    };
    for c in captured.iter().filter(|c| c.plan.set.contains(Attributes::READ_ONLY) && tmpfs(c.plan)) {
        mount::set_attributes(&c.tree, Attributes::READ_ONLY, Attributes::default(), false)
            .map_err(|e| Error::mount(&c.plan.target, format!("make read-only: {e}")))?;
    }
    Ok(())
}

/// Covers masked paths with nothing.
#[derive(Debug, Default)]
pub(crate) struct Masks {
    /// An empty read-only directory that is attached already; copies of it serve the other paths.
    empty: Option<OwnedFd>,
}

impl Masks {
    /// Hides one path; a path that is not there needs no hiding.
    pub(crate) fn hide(&mut self, root: &Root, path: &Path) -> Result<()> {
        let failed = |e: std::io::Error| Error::mount(path, format!("mask: {e}"));
        let Some(target) = existing(root, path).map_err(failed)? else { return Ok(()) };
        let stat = rustix::fs::fstat(&target).map_err(|e| failed(e.into()))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            let null = mount::clone_tree(null_device(root).map_err(failed)?, c"", false).map_err(failed)?;
            return mount::attach(null, &target).map_err(failed);
        }
        let cover = match &self.empty {
            Some(empty) => mount::clone_tree(empty, c"", false),
            None => empty_dir(),
        };
        let cover = cover.map_err(failed)?;
        mount::attach(&cover, &target).map_err(failed)?;
        self.empty.get_or_insert(cover);
        Ok(())
    }
}

/// The container's null device, proven to be it: an image may have put something else there.
fn null_device(root: &Root) -> std::io::Result<OwnedFd> {
    let null = root.find_plain(Path::new("/dev/null"))?;
    let stat = rustix::fs::fstat(&null)?;
    let is_null = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && stat.st_rdev == rustix::fs::makedev(1, 3);
    if is_null {
        Ok(null)
    } else {
        Err(std::io::Error::other("the container's /dev/null is not the null device"))
    }
}

fn empty_dir() -> std::io::Result<OwnedFd> {
    let filesystem = Filesystem::new("tmpfs")?;
    filesystem.set("source", "tmpfs")?;
    filesystem.set("nr_blocks", "1")?;
    filesystem.set("nr_inodes", "1")?;
    filesystem.mount(Attributes::READ_ONLY | Attributes::NO_SUID | Attributes::NO_DEV | Attributes::NO_EXEC)
}

/// Makes one path read-only, with everything mounted below.
pub(crate) fn make_read_only(root: &Root, path: &Path) -> Result<()> {
    let failed = |e: std::io::Error| Error::mount(path, format!("make read-only: {e}"));
    let Some(target) = existing(root, path).map_err(failed)? else { return Ok(()) };
    let tree = mount::clone_tree(&target, c"", true).map_err(failed)?;
    mount::set_attributes(&tree, Attributes::READ_ONLY, Attributes::default(), false).map_err(failed)?;
    mount::attach(&tree, &target).map_err(failed)
}

fn existing(root: &Root, path: &Path) -> std::io::Result<Option<OwnedFd>> {
    match root.find(path) {
        Ok(target) => Ok(Some(target)),
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => Ok(None),
        Err(e) => Err(e),
    }
}
