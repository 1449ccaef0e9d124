//! From a container's record to the OCI configuration its runtime gets.
//!
//! Pure apart from looking at the host's devices: the same record gives the same configuration. Nothing that an image
//! says can reach a control field: labels and annotations are data (RT-22).

pub(crate) mod cdi;
mod devices;
mod foreign;
pub(crate) mod mounts;
mod resources;
mod seccomp;
pub(crate) mod security;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    Capabilities, Capability, LinuxBuilder, LinuxCapabilitiesBuilder, LinuxIdMapping, LinuxIdMappingBuilder,
    LinuxNamespace, LinuxNamespaceBuilder, LinuxNamespaceType, Mount, MountBuilder, PosixRlimit,
    PosixRlimitBuilder, PosixRlimitType, ProcessBuilder, RootBuilder, Spec, SpecBuilder, UserBuilder,
};
use wharf_image::SnapshotMounts;
use wharf_linux::idmap::Ids;
use wharf_model::network::NetworkMode;
use wharf_model::ownership::IdRange;
use wharf_model::spec::{HostSpec, MountKind};

use crate::containers::{MountRecord, Record, environment};
use crate::ownership::IdMaps;
use crate::userns::UserNamespace;
use crate::{Error, Result};
pub(crate) use seccomp::resolve as seccomp_profile;
pub(crate) use security::{SeccompOption, capabilities, options};

/// What the record does not say: paths and namespaces of this start.
pub(crate) struct Surroundings {
    /// Where `hosts`, `hostname` and `resolv.conf` are: there, or with the container whose network is joined.
    pub(crate) files: PathBuf,
    /// `/wharf/<id>` or below the parent asked for.
    pub(crate) cgroup: String,
    /// Network namespace to join instead of a new one.
    pub(crate) network: Option<String>,
    /// IPC namespace to join instead of a new one.
    pub(crate) ipc: Option<String>,
    /// PID namespace to join instead of a new one.
    pub(crate) pid: Option<String>,
    /// User namespace to be in, if any.
    pub(crate) user: Option<UserNamespace>,
    /// Devices found by their drivers.
    pub(crate) injection: cdi::Injection,
    /// Maps of owners, by the target of their mount.
    pub(crate) id_maps: BTreeMap<String, IdMaps>,
    /// Layers of mounted images, by target.
    pub(crate) images: BTreeMap<String, SnapshotMounts>,
    /// The runtime's name, unless it is the built-in one.
    pub(crate) foreign_runtime: Option<String>,
}

/// The configuration of one start.
pub(crate) fn build(record: &Record, around: &Surroundings) -> Result<Spec> {
    let host = &record.spec.host;
    let security = options(host)?;
    let (device_nodes, device_rules) = devices::build(host)?;
    let mut linux = LinuxBuilder::default()
        .namespaces(namespaces(record, around)?)
        .cgroups_path(around.cgroup.clone())
        .resources(resources::build(host, device_rules)?)
        .devices(device_nodes)
        .masked_paths(host.masked_paths.clone().unwrap_or_default())
        .readonly_paths(host.readonly_paths.clone().unwrap_or_default())
        .rootfs_propagation(rootfs_propagation(&record.mounts));
    linux = linux.sysctl(sysctls(host, around.user.as_ref().map(|user| &user.ids)));
    if let Some(user) = &around.user {
        let maps = IdMaps::of(&user.ids);
        linux = linux.uid_mappings(id_mappings(&maps.uids)?).gid_mappings(id_mappings(&maps.gids)?);
    }
    if let SeccompOption::Profile(profile) = &security.seccomp
        && !host.privileged
    {
        linux = linux.seccomp(seccomp_profile(profile, &capabilities(host)?)?);
    }
    let mut spec = SpecBuilder::default()
        .version("1.2.0")
        .process(process(record)?)
        .root(
            RootBuilder::default()
                .path("root")
                .readonly(host.readonly_rootfs)
                .build()
                .map_err(invalid_spec)?,
        )
        .mounts(all_mounts(record, around)?)
        .linux(linux.build().map_err(invalid_spec)?);
    if host.uts_mode != "host" {
        spec = spec.hostname(hostname(record));
        if !record.spec.domainname.is_empty() {
            spec = spec.domainname(record.spec.domainname.clone());
        }
    }
    if !host.annotations.is_empty() {
        spec = spec
            .annotations(host.annotations.clone().into_iter().collect::<std::collections::HashMap<_, _>>());
    }
    let mut spec = spec.build().map_err(invalid_spec)?;
    if host.uts_mode == "host" {
        // The builder has a name of its own, which would rename the host.
        spec.set_hostname(None).set_domainname(None);
    }
    around.injection.apply(&mut spec)?;
    if let Some(name) = &around.foreign_runtime {
        foreign::adapt(&mut spec, name)?;
    }
    Ok(spec)
}

/// A builder complained: a defect of ours, since everything was checked.
fn invalid_spec(error: oci_spec::OciSpecError) -> Error {
    Error::System(format!("cannot build the runtime configuration: {error}"))
}

/// The container's own host name.
pub(crate) fn hostname(record: &Record) -> String {
    let host = &record.spec.host;
    if host.uts_mode == "host" || (record.spec.hostname.is_empty() && host.network_mode == NetworkMode::Host)
    {
        return rustix::system::uname().nodename().to_string_lossy().into_owned();
    }
    if record.spec.hostname.is_empty() { record.id.short().to_owned() } else { record.spec.hostname.clone() }
}

/// The process of the container, also the base of every exec.
pub(crate) fn process(record: &Record) -> Result<oci_spec::runtime::Process> {
    let spec = &record.spec;
    let security = options(&spec.host)?;
    let cwd = if spec.working_dir.is_empty() { "/" } else { &spec.working_dir };
    let mut process = ProcessBuilder::default()
        .terminal(spec.tty)
        // Docker's user string is resolved inside the container by the runtime.
        .user(UserBuilder::default().uid(0_u32).gid(0_u32).build().map_err(invalid_spec)?)
        .args(record.command())
        .env(environment(spec, &hostname(record), &record.linked_environment()))
        .cwd(cwd)
        .capabilities(capability_sets(&capabilities(&spec.host)?)?)
        .no_new_privileges(security.no_new_privileges && !spec.host.privileged)
        .oom_score_adj(i32::try_from(spec.host.oom_score_adj).unwrap_or(0))
        .rlimits(rlimits(record)?);
    // Like Docker: a profile for a module the kernel does not run means nothing.
    if let Some(profile) = security.apparmor.filter(|profile| profile != "unconfined" && apparmor()) {
        process = process.apparmor_profile(profile);
    }
    process.build().map_err(invalid_spec)
}

/// Whether the kernel runs AppArmor.
fn apparmor() -> bool {
    wharf_linux::hostfs::read_to_string(Path::new("/sys/module/apparmor/parameters/enabled"))
        .is_ok_and(|text| text.starts_with('Y'))
}

/// Bounding, effective and permitted; inheritable and ambient stay empty (RT-14).
pub(crate) fn capability_sets(
    names: &std::collections::BTreeSet<&'static str>,
) -> Result<oci_spec::runtime::LinuxCapabilities> {
    let parse = |name: &&'static str| {
        let short = name.strip_prefix("CAP_").unwrap_or(name);
        short
            .parse::<Capability>()
            .map_err(|_| Error::System(format!("no capability {name} in the OCI configuration")))
    };
    let set: Capabilities = names.iter().map(parse).collect::<Result<_>>()?;
    LinuxCapabilitiesBuilder::default()
        .bounding(set.clone())
        .effective(set.clone())
        .permitted(set)
        .inheritable(Capabilities::new())
        .ambient(Capabilities::new())
        .build()
        .map_err(invalid_spec)
}

/// What was asked for, and two that every private network has: unprivileged processes may bind low ports and send
/// pings, as with Docker.
fn sysctls(host: &HostSpec, ids: Option<&Ids>) -> std::collections::HashMap<String, String> {
    let mut all: std::collections::HashMap<String, String> = host.sysctls.clone().into_iter().collect();
    if !matches!(host.network_mode, NetworkMode::Host | NetworkMode::Container(_)) {
        // The kernel takes no group that the user namespace has no name for.
        let highest = ids.and_then(|ids| ids.gids.highest_without_gap()).unwrap_or(i32::MAX as u32);
        let groups = format!("0 {highest}");
        for (name, value) in
            [("net.ipv4.ip_unprivileged_port_start", "0"), ("net.ipv4.ping_group_range", groups.as_str())]
        {
            all.entry(name.to_owned()).or_insert_with(|| value.to_owned());
        }
    }
    all
}

fn rlimits(record: &Record) -> Result<Vec<PosixRlimit>> {
    // The specification spells them `RLIMIT_NOFILE`.
    let kind = |name: &str| {
        let name = serde_json::Value::String(format!("RLIMIT_{}", name.to_ascii_uppercase()));
        serde_json::from_value::<PosixRlimitType>(name).ok()
    };
    // -1 is "unlimited", as is RLIM_INFINITY in the kernel.
    let value = |limit: i64| u64::try_from(limit).unwrap_or(u64::MAX);
    let mut limits = Vec::new();
    for limit in &record.spec.host.ulimits {
        let kind = kind(&limit.name)
            .ok_or_else(|| Error::Invalid(format!("invalid ulimit type: {}", limit.name)))?;
        let built =
            PosixRlimitBuilder::default().typ(kind).soft(value(limit.soft)).hard(value(limit.hard)).build();
        limits.push(built.map_err(invalid_spec)?);
    }
    Ok(limits)
}

fn namespaces(record: &Record, around: &Surroundings) -> Result<Vec<LinuxNamespace>> {
    let host = &record.spec.host;
    let mut list = Vec::new();
    let mut add = |kind: LinuxNamespaceType, path: Option<&String>| -> Result<()> {
        let mut builder = LinuxNamespaceBuilder::default().typ(kind);
        if let Some(path) = path {
            builder = builder.path(path);
        }
        list.push(builder.build().map_err(invalid_spec)?);
        Ok(())
    };
    add(LinuxNamespaceType::Mount, None)?;
    if record.spec.network_disabled {
        add(LinuxNamespaceType::Network, None)?;
    } else if host.network_mode != NetworkMode::Host {
        add(LinuxNamespaceType::Network, around.network.as_ref())?;
    }
    if host.ipc_mode != "host" {
        add(LinuxNamespaceType::Ipc, around.ipc.as_ref())?;
    }
    if host.pid_mode != "host" {
        add(LinuxNamespaceType::Pid, around.pid.as_ref())?;
    }
    if host.uts_mode != "host" {
        add(LinuxNamespaceType::Uts, None)?;
    }
    if host.cgroupns_mode == "private" {
        add(LinuxNamespaceType::Cgroup, None)?;
    }
    if let Some(user) = &around.user {
        add(LinuxNamespaceType::User, user.path.as_ref())?;
    }
    Ok(list)
}

fn mount(target: &str, kind: &str, source: &str, options: &[&str]) -> Result<Mount> {
    let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
    MountBuilder::default()
        .destination(target)
        .typ(kind)
        .source(source)
        .options(options)
        .build()
        .map_err(invalid_spec)
}

fn all_mounts(record: &Record, around: &Surroundings) -> Result<Vec<Mount>> {
    let host = &record.spec.host;
    let access = if host.privileged { "rw" } else { "ro" };
    let shm_size = format!("size={}", host.shm_size);
    let mut mounts = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"])?,
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"])?,
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        )?,
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", access])?,
        mount("/sys/fs/cgroup", "cgroup", "cgroup", &[access, "nosuid", "noexec", "nodev"])?,
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"])?,
    ];
    let replaced = |target: &str| record.mounts.iter().any(|mount| mount.target == target);
    if host.ipc_mode == "host" {
        mounts.push(mount("/dev/shm", "bind", "/dev/shm", &["rbind", "rprivate"])?);
    } else if let Some(path) = &around.ipc {
        // The shared memory of the container whose IPC namespace is joined.
        let process = path.trim_end_matches("/ns/ipc");
        mounts.push(mount("/dev/shm", "bind", &format!("{process}/root/dev/shm"), &["bind", "rprivate"])?);
    } else if host.ipc_mode != "none" {
        mounts.push(mount(
            "/dev/shm",
            "tmpfs",
            "shm",
            &["nosuid", "noexec", "nodev", "mode=1777", &shm_size],
        )?);
    }
    for file in ["resolv.conf", "hostname", "hosts"] {
        let target = format!("/etc/{file}");
        if !replaced(&target) {
            let source = around.files.join(file);
            let access = if host.readonly_rootfs { "ro" } else { "rw" };
            let mut own = mount(&target, "bind", &source.to_string_lossy(), &["rbind", "rprivate", access])?;
            if let Some(user) = &around.user {
                map_owners(&mut own, &IdMaps::of(&user.ids))?;
            }
            mounts.push(own);
        }
    }
    // A mount of the caller's replaces ours at the same place, and one at /dev what we would put in ours.
    let hidden = |target: &str| replaced("/dev") && target.starts_with("/dev/") && target != "/dev/shm";
    mounts.retain(|ours| {
        let target = ours.destination().to_string_lossy();
        !replaced(&target) && !hidden(&target)
    });
    for record in &record.mounts {
        mounts.push(own_mount(record, around)?);
    }
    // What lies deeper comes later; the kernel's own file systems stay first.
    let depth = |mount: &Mount| mount.destination().components().count();
    let own = mounts.iter().position(|mount| mount.destination() == Path::new("/dev/shm")).unwrap_or(0);
    mounts[own..].sort_by_key(depth);
    Ok(mounts)
}

fn own_mount(record: &MountRecord, around: &Surroundings) -> Result<Mount> {
    let bind = if record.non_recursive { "bind" } else { "rbind" };
    // Read-only is so for what is mounted beneath, too, unless somebody said otherwise.
    let access = match (record.read_only, record.read_only_top || record.non_recursive) {
        (false, _) => "rw",
        (true, true) => "ro",
        (true, false) => "rro",
    };
    let beneath = format!("wharf.beneath={}", record.subpath);
    let with_part = |options: Vec<&str>, kind: &str, source: &str| -> Result<Mount> {
        let part = Some(beneath.as_str()).filter(|_| !record.subpath.is_empty());
        let options: Vec<&str> = options.into_iter().chain(part).collect();
        mount(&record.target, kind, source, &options)
    };
    match record.kind {
        MountKind::Bind | MountKind::Volume => {
            let propagation = if record.propagation.is_empty() { "rprivate" } else { &record.propagation };
            let mut options = vec![bind, propagation, access];
            let maps = around.id_maps.get(&record.target);
            if maps.is_some() {
                options.push(if record.non_recursive { "idmap" } else { "ridmap" });
            }
            let mut mount = with_part(options, "bind", &record.source)?;
            if let Some(maps) = maps {
                map_owners(&mut mount, maps)?;
            }
            Ok(mount)
        }
        MountKind::Image => {
            let layers = around.images.get(&record.target).ok_or_else(|| {
                Error::System(format!("the image mounted at {} has no snapshot", record.target))
            })?;
            let names = std::iter::once(&layers.upper).chain(&layers.lower);
            let layers: Vec<String> =
                names.map(|name| format!("lowerdir+={}", layers.base.join(name).display())).collect();
            let options = std::iter::once("ro").chain(layers.iter().map(String::as_str)).collect();
            with_part(options, "overlay", "overlay")
        }
        MountKind::Tmpfs => {
            let mut options = vec!["nosuid", "nodev"];
            let given = |name: &str| record.options.iter().any(|option| option == name);
            if !given("exec") {
                options.push("noexec");
            }
            options.retain(|option| !given(&option[2..]));
            let chosen = record.options.iter().map(String::as_str);
            options.extend(chosen.filter(|option| !matches!(*option, "exec" | "suid" | "dev" | "rw" | "ro")));
            if record.read_only {
                options.push("ro");
            }
            mount(&record.target, "tmpfs", "tmpfs", &options)
        }
    }
}

fn map_owners(mount: &mut Mount, maps: &IdMaps) -> Result<()> {
    mount.set_uid_mappings(Some(id_mappings(&maps.uids)?));
    mount.set_gid_mappings(Some(id_mappings(&maps.gids)?));
    Ok(())
}

fn id_mappings(ranges: &[IdRange]) -> Result<Vec<LinuxIdMapping>> {
    let mapping = |range: &IdRange| {
        let builder = LinuxIdMappingBuilder::default().container_id(range.on_disk).host_id(range.shown);
        builder.size(range.count).build().map_err(invalid_spec)
    };
    ranges.iter().map(mapping).collect()
}

/// Shared or slave binds need a root that lets propagation through.
fn rootfs_propagation(mounts: &[MountRecord]) -> &'static str {
    let any = |names: [&str; 2]| mounts.iter().any(|mount| names.contains(&mount.propagation.as_str()));
    if any(["shared", "rshared"]) {
        "shared"
    } else if any(["slave", "rslave"]) {
        "rslave"
    } else {
        "private"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rt_14_inheritable_and_ambient_are_empty_and_every_name_is_known() {
        let all = HostSpec { privileged: true, ..Default::default() };
        for host in [all, HostSpec::default()] {
            let names = capabilities(&host).unwrap();
            let sets = capability_sets(&names).unwrap();
            assert_eq!(sets.bounding().as_ref().unwrap().len(), names.len());
            assert!(sets.inheritable().as_ref().unwrap().is_empty());
            assert!(sets.ambient().as_ref().unwrap().is_empty());
        }
    }
}
