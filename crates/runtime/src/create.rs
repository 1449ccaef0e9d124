//! The caller's side of starting a container.

use crate::channel::{Channel, Message};
use crate::error::{Context, Error, Result};
use crate::hooks::{self, Moment};
use crate::init::{Gate, Init};
use crate::mounts;
use crate::program::{self, Program};
use crate::resources;
use crate::rootfs::Ahead;
use crate::spec::{LinuxNamespaceType, LinuxResources, Spec};
use crate::stage::{self, Stage, UserNamespace};
use crate::{CreateRequest, Rootfs, Running, Starting, devices, seccomp};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use wharf_linux::cgroup::Cgroup;
use wharf_linux::idmap::Ids;
use wharf_linux::namespace::{self, Namespaces};
use wharf_linux::process::{self, Birth, Child, Ended};

use libc::SIGKILL;

/// Longest id; it becomes a file name and part of a cgroup path.
const MAX_ID: usize = 255;

/// Whether a container id can be used in paths: letters, digits and `_ + - .`, and not `.` or `..`.
pub fn check_id(id: &str) -> Result<()> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"_+-.".contains(&b);
    let good = !id.is_empty() && id.len() <= MAX_ID && id.bytes().all(plain) && id != "." && id != "..";
    if good && !id.starts_with('-') {
        return Ok(());
    }
    let shown: String = id.chars().take(40).collect();
    Err(Error::invalid(format!(
        "container id {shown:?} must be letters, digits, _, +, - and . and not begin with -"
    )))
}

/// The cgroup a configuration asks for.
pub fn cgroup_of(spec: &Spec, id: &str) -> Result<Cgroup> {
    let path = spec.linux().as_ref().and_then(|l| l.cgroups_path().as_ref());
    let path = match path.map(|p| p.to_str().ok_or_else(|| Error::invalid("linux.cgroupsPath is not UTF-8")))
    {
        Some(path) => path?.to_owned(),
        None => format!("wharf-runtime/{id}"),
    };
    Ok(Cgroup::open(if path.is_empty() { id } else { &path })?)
}

/// Which namespaces are made and which joined.
struct Plan {
    /// At birth.
    born: Namespaces,
    /// By the first process itself, while its parent makes the cgroups.
    unshared: Namespaces,
    joined: Vec<(Namespaces, OwnedFd)>,
    pid: Option<OwnedFd>,
    user: Option<UserNamespace>,
}

fn plan_namespaces(spec: &Spec) -> Result<Plan> {
    let mut plan = Plan {
        born: Namespaces::NONE,
        unshared: Namespaces::NONE,
        joined: Vec::new(),
        pid: None,
        user: None,
    };
    let list = spec.linux().as_ref().and_then(|l| l.namespaces().as_deref()).unwrap_or_default();
    for (index, namespace) in list.iter().enumerate() {
        let kind = namespace.typ();
        if list[..index].iter().any(|n| n.typ() == kind) {
            return Err(Error::invalid(format!("linux.namespaces lists {kind} twice")));
        }
        let bits = bits(kind);
        let path = namespace.path().as_ref().filter(|p| !p.as_os_str().is_empty());
        match (kind, path) {
            (LinuxNamespaceType::Time, _) => {
                return Err(Error::invalid("time namespaces are not supported"));
            }
            (LinuxNamespaceType::Mount, Some(_)) => {
                return Err(Error::invalid("joining a mount namespace by path is not supported"));
            }
            (LinuxNamespaceType::User, None) => {
                plan.born |= bits;
                plan.user = Some(UserNamespace { joined: None, ids: stage::ids_of(spec)? });
            }
            (LinuxNamespaceType::Mount | LinuxNamespaceType::Pid, None) => plan.born |= bits,
            // The cgroup namespace is made by the first process when it is in its cgroup.
            (LinuxNamespaceType::Cgroup, None) => {}
            (_, None) => plan.unshared |= bits,
            (_, Some(path)) => {
                let what = || format!("open the {kind} namespace {}", path.display());
                let file = OwnedFd::from(std::fs::File::open(path).context(what)?);
                if namespace::kind_of(&file).context(what)? != bits {
                    return Err(Error::invalid(format!("{} is not a {kind} namespace", path.display())));
                }
                match kind {
                    LinuxNamespaceType::Pid => plan.pid = Some(file),
                    LinuxNamespaceType::User => {
                        plan.user = Some(UserNamespace { joined: Some(file), ids: stage::ids_of(spec)? });
                    }
                    _ => plan.joined.push((bits, file)),
                }
            }
        }
    }
    if !plan.born.contains(Namespaces::MOUNT) {
        return Err(Error::invalid("linux.namespaces must have a mount namespace"));
    }
    Ok(plan)
}

const fn bits(kind: LinuxNamespaceType) -> Namespaces {
    match kind {
        LinuxNamespaceType::Mount => Namespaces::MOUNT,
        LinuxNamespaceType::Cgroup => Namespaces::CGROUP,
        LinuxNamespaceType::Uts => Namespaces::UTS,
        LinuxNamespaceType::Ipc => Namespaces::IPC,
        LinuxNamespaceType::User => Namespaces::USER,
        LinuxNamespaceType::Pid => Namespaces::PID,
        LinuxNamespaceType::Network => Namespaces::NETWORK,
        LinuxNamespaceType::Time => Namespaces::TIME,
    }
}

/// Refuses what would silently act on the host.
fn check(spec: &Spec, plan: &Plan) -> Result<()> {
    let has = |kind: LinuxNamespaceType| {
        spec.linux()
            .as_ref()
            .and_then(|l| l.namespaces().as_ref())
            .into_iter()
            .flatten()
            .any(|n| n.typ() == kind)
    };
    for (set, field) in [(spec.hostname().is_some(), "hostname"), (spec.domainname().is_some(), "domainname")]
    {
        if set && !has(LinuxNamespaceType::Uts) {
            return Err(Error::invalid(format!("{field} needs a UTS namespace: it would rename the host")));
        }
    }
    let linux = spec.linux().as_ref();
    let resources = linux.and_then(|l| l.resources().as_ref());
    let process = spec.process().as_ref();
    // Doing less than was asked for, silently, is worse than not starting.
    let unsupported = [
        (linux.is_some_and(|l| l.intel_rdt().is_some()), "linux.intelRdt"),
        (linux.is_some_and(|l| l.memory_policy().is_some()), "linux.memoryPolicy"),
        (linux.is_some_and(|l| l.time_offsets().is_some()), "linux.timeOffsets"),
        (linux.is_some_and(|l| l.net_devices().is_some()), "linux.netDevices"),
        (resources.is_some_and(|r| r.rdma().is_some()), "linux.resources.rdma"),
        (resources.is_some_and(network_limits), "linux.resources.network"),
        (process.is_some_and(|p| p.io_priority().is_some()), "process.ioPriority"),
        (process.is_some_and(|p| p.scheduler().is_some()), "process.scheduler"),
        (process.is_some_and(|p| p.exec_cpu_affinity().is_some()), "process.execCPUAffinity"),
    ];
    if let Some((_, field)) = unsupported.iter().find(|(asked, _)| *asked) {
        return Err(Error::invalid(format!("{field} is not supported")));
    }
    let mapped =
        spec.linux().as_ref().is_some_and(|l| l.uid_mappings().is_some() || l.gid_mappings().is_some());
    if mapped && plan.user.is_none() {
        return Err(Error::invalid("linux.uidMappings and gidMappings need a user namespace"));
    }
    Ok(())
}

fn network_limits(resources: &LinuxResources) -> bool {
    let network = resources.network().as_ref();
    network.is_some_and(|n| n.class_id().is_some() || n.priorities().as_ref().is_some_and(|p| !p.is_empty()))
}

/// Clones the container's init and returns while it prepares itself. All namespaces and the control group exist.
pub(crate) fn create(request: CreateRequest<'_>, gate: Gate) -> Result<Starting> {
    check_id(request.id)?;
    let spec = request.spec;
    let plan = plan_namespaces(spec)?;
    check(spec, &plan)?;
    let process = spec.process().as_ref().ok_or_else(|| Error::invalid("process is missing"))?;
    let plans = mounts::plan(spec.mounts().as_deref().unwrap_or_default(), request.bundle)?;
    let sysctls = resources::sysctls(spec)?;
    let nodes = devices::nodes(spec)?;
    let sets = program::capability_sets(process);
    let filter = seccomp::filter(request.seccomp, spec, sets.bounding)?;
    let limits = resources::resources(spec)?;
    let root_path = root_path(&request)?;
    let cgroup = cgroup_of(spec, request.id)?;

    let mut guard = CgroupGuard(Some(cgroup.clone()));
    let birthplace = cgroup.create_birthplace()?;
    process::set_undumpable().context(|| "hide from other processes".into())?;
    let (ours, theirs) = Channel::pair()?;
    let mut ours = Some(ours);
    let mut ahead = Ahead::default();
    if plan.user.is_none() {
        ahead.mounts = crate::rootfs::capture_mapped(&plans)?;
    }
    let birth = Birth { namespaces: plan.born, cgroup: birthplace.as_ref().map(AsFd::as_fd), sibling: false };
    let init = Init {
        channel: theirs,
        id: request.id,
        bundle: request.bundle,
        spec,
        rootfs: request.rootfs,
        root_path,
        stdio: request.stdio,
        plans: &plans,
        ahead,
        joined: plan.joined,
        unshared: plan.unshared,
        user_namespace: plan.user.is_some(),
        sysctls: &sysctls,
        nodes: &nodes,
        cgroup: &cgroup,
        program: Program {
            process,
            user: request.user,
            groups: request.groups,
            create_cwd: request.create_cwd,
            default_home: request.default_home,
            init: request.init,
            die_with_parent: request.die_with_caller,
            preserve_fds: request.preserve_fds,
            filter: filter.as_ref(),
            domain: program::domain(spec),
            sets,
        },
        gate,
    };
    let child = match &plan.user {
        Some(user) => stage::spawn(Stage { init, birth, user, pid: plan.pid.as_ref() }, &mut ours)?,
        None => in_pid_namespace(plan.pid.as_ref(), || {
            process::spawn(birth, || {
                drop(ours.take()); // the end of the stream must be the parent's end
                init.main()
            })
            .context(|| "clone the container's first process".into())
        })?,
    };
    let channel = ours.ok_or_else(Error::protocol)?;
    let pid = child.pid;
    guard.0 = None;
    let mut starting = Starting {
        child,
        cgroup: cgroup.clone(),
        channel,
        console: None,
        ready: false,
        started: false,
        reaped: false,
    };
    if let Some(user) = &plan.user {
        if user.joined.is_none() {
            map_ids(&user.ids, pid)?;
        }
        starting.channel.send(&Message::Mapped)?;
    }
    // The child makes namespaces and mounts meanwhile.
    let tasks = cgroup.create_rest(&limits)?;
    if spec.hooks().is_some() {
        starting.await_namespaces()?;
        hooks::run(spec, Moment::CreateRuntime, request.id, pid, request.bundle)?;
        starting.channel.send(&Message::Cgroup(tasks))?;
    } else {
        starting.channel.send(&Message::Cgroup(tasks))?;
        starting.await_namespaces()?;
    }
    Ok(starting)
}

fn root_path(request: &CreateRequest<'_>) -> Result<PathBuf> {
    match (request.rootfs, request.spec.root()) {
        (Rootfs::Overlay { mountpoint, .. }, _) => Ok(mountpoint.to_owned()),
        (Rootfs::Bundle, Some(root)) => Ok(request.bundle.join(root.path())),
        (Rootfs::Bundle, None) => Err(Error::invalid("root is missing")),
    }
}

/// Runs `code` such that its children are born in a pid namespace.
fn in_pid_namespace<T>(namespace: Option<&OwnedFd>, code: impl FnOnce() -> Result<T>) -> Result<T> {
    let Some(namespace) = namespace else { return code() };
    let own = std::fs::File::open("/proc/self/ns/pid").context(|| "open /proc/self/ns/pid".into())?;
    namespace::join(namespace, Namespaces::PID).context(|| "join the pid namespace".into())?;
    let result = code();
    namespace::join(&own, Namespaces::PID).context(|| "return to the own pid namespace".into())?;
    result
}

fn map_ids(ids: &Ids, pid: i32) -> Result<()> {
    for (file, map) in [("uid_map", &ids.uids), ("gid_map", &ids.gids)] {
        let path = format!("/proc/{pid}/{file}");
        // One write with everything, or the kernel takes the first part for the whole.
        std::fs::write(&path, map.to_string()).context(|| format!("write {path}"))?;
    }
    Ok(())
}

/// A control group without a process yet; dropped, it is removed.
struct CgroupGuard(Option<Cgroup>);

impl Drop for CgroupGuard {
    fn drop(&mut self) {
        if let Some(cgroup) = &self.0 {
            // What stays is found and removed by the next start of the same id, or the engine's sweep.
            let _ = cgroup.delete();
        }
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        if self.started {
            return;
        }
        if !self.reaped {
            // It cannot be gone: nobody but us reaps it. A zombie takes no signal.
            let _ = process::signal(self.child.pidfd.as_fd(), SIGKILL);
            let _ = process::wait(self.child.pidfd.as_fd());
        }
        let _ = self.cgroup.kill_all();
        let _ = self.cgroup.delete();
    }
}

impl Starting {
    fn await_namespaces(&mut self) -> Result<()> {
        match self.channel.receive()? {
            Some(Message::Namespaces) => Ok(()),
            Some(Message::Failed(error)) => Err(error),
            Some(_) => Err(Error::protocol()),
            None => Err(self.died()),
        }
    }

    pub(crate) fn await_ready(&mut self) -> Result<()> {
        if self.ready {
            return Ok(());
        }
        match self.channel.receive()? {
            Some(Message::Ready(console)) => {
                self.console = console;
                self.ready = true;
                Ok(())
            }
            Some(Message::Failed(error)) => Err(error),
            Some(_) => Err(Error::protocol()),
            None => Err(self.died()),
        }
    }

    pub(crate) fn open_gate(mut self) -> Result<Running> {
        self.channel.send(&Message::Go)?;
        self.await_ready()?;
        match self.channel.receive()? {
            // execve closed it.
            None => self.into_running(),
            Some(Message::Failed(error)) => Err(error),
            Some(_) => Err(Error::protocol()),
        }
    }

    pub(crate) fn into_running(mut self) -> Result<Running> {
        let pidfd = self.child.pidfd.try_clone().context(|| "duplicate a pidfd".into())?;
        self.started = true;
        Ok(Running { pid: self.child.pid, pidfd, cgroup: self.cgroup.clone() })
    }

    /// Why the first process ended without a word.
    fn died(&mut self) -> Error {
        self.reaped = true;
        Error::Died { what: "the container's first process", detail: died_detail(&self.child) }
    }
}

/// Reaps a process that ended and says how.
pub(crate) fn died_detail(child: &Child) -> String {
    match process::wait(child.pidfd.as_fd()) {
        Ok(Ended::Exited(code)) => format!(": it exited with status {code}"),
        Ok(Ended::Signaled(SIGKILL)) => ": it was killed, perhaps because the memory limit is too low".into(),
        Ok(Ended::Signaled(signal)) => format!(": signal {signal} killed it"),
        Err(error) => format!(": {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rt_25_ids_are_plain() {
        for good in ["a", "abc-1.2_3+4", "0", &"x".repeat(255), ".a"] {
            assert!(check_id(good).is_ok(), "{good:?}");
        }
        for bad in ["", ".", "..", "../x", "a/b", "-a", "a\0b", "a b", "ä", &"x".repeat(5000)] {
            assert!(check_id(bad).is_err(), "{bad:?}");
        }
    }
}
