//! The mounts of a configuration as values: what kind, which attributes, which propagation, which data.

use crate::error::{Error, Result};
use crate::spec::{LinuxIdMapping, Mount};
use std::path::{Component, Path, PathBuf};
use wharf_linux::mount::{Attributes, Propagation};

/// Where a mount's content comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// A file or directory of the host.
    Bind {
        /// On the host.
        path: PathBuf,
        /// With everything mounted below.
        recursive: bool,
    },
    /// A new file system.
    Filesystem {
        /// Its type.
        kind: String,
        /// What `mount` would show as its source.
        name: String,
    },
    /// The container's view of its control groups.
    Cgroup,
}

/// How the owners of files on disk are shown, as lines of a user namespace's maps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct IdMap {
    pub(crate) uids: String,
    pub(crate) gids: String,
    /// On everything mounted below as well.
    pub(crate) recursive: bool,
}

/// The option that names what of a source is mounted. Ours, and only for sources the caller chose.
const BENEATH: &str = "wharf.beneath=";

/// One mount, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) target: PathBuf,
    pub(crate) source: Source,
    pub(crate) set: Attributes,
    pub(crate) clear: Attributes,
    /// Attributes set on everything below as well (`rro`, …).
    pub(crate) set_recursive: Attributes,
    pub(crate) propagation: Option<(Propagation, bool)>,
    /// `key` or `key=value` for the file system.
    pub(crate) data: Vec<(String, Option<String>)>,
    pub(crate) copy_up: bool,
    pub(crate) id_map: Option<IdMap>,
    /// What of the source: resolved beneath it, where nothing leads out, and mounted by its descriptor.
    pub(crate) beneath: Option<PathBuf>,
}

enum Effect {
    Set(Attributes),
    Clear(Attributes),
    SetRecursive(Attributes),
    Propagation(Propagation, bool),
    Bind(bool),
    CopyUp,
    IdMap(bool),
    Nothing,
    Unsupported,
}

fn effect(option: &str) -> Option<Effect> {
    use Effect::{Bind, Clear, CopyUp, IdMap, Nothing, SetRecursive, Unsupported};
    let set = Effect::Set;
    let spread = Effect::Propagation;
    Some(match option {
        "ro" => set(Attributes::READ_ONLY),
        "rw" => Clear(Attributes::READ_ONLY),
        "nosuid" => set(Attributes::NO_SUID),
        "suid" => Clear(Attributes::NO_SUID),
        "nodev" => set(Attributes::NO_DEV),
        "dev" => Clear(Attributes::NO_DEV),
        "noexec" => set(Attributes::NO_EXEC),
        "exec" => Clear(Attributes::NO_EXEC),
        "noatime" => set(Attributes::NO_ATIME),
        "strictatime" => set(Attributes::STRICT_ATIME),
        "nodiratime" => set(Attributes::NO_DIR_ATIME),
        "diratime" => Clear(Attributes::NO_DIR_ATIME),
        "nosymfollow" => set(Attributes::NO_SYMFOLLOW),
        "symfollow" => Clear(Attributes::NO_SYMFOLLOW),
        // Access times relative to changes are the kernel's default.
        "relatime" | "atime" | "norelatime" | "nostrictatime" => Nothing,
        "rro" => SetRecursive(Attributes::READ_ONLY),
        "rnosuid" => SetRecursive(Attributes::NO_SUID),
        "rnodev" => SetRecursive(Attributes::NO_DEV),
        "rnoexec" => SetRecursive(Attributes::NO_EXEC),
        "rnosymfollow" => SetRecursive(Attributes::NO_SYMFOLLOW),
        "shared" => spread(Propagation::Shared, false),
        "rshared" => spread(Propagation::Shared, true),
        "slave" => spread(Propagation::Slave, false),
        "rslave" => spread(Propagation::Slave, true),
        "private" => spread(Propagation::Private, false),
        "rprivate" => spread(Propagation::Private, true),
        "unbindable" => spread(Propagation::Unbindable, false),
        "runbindable" => spread(Propagation::Unbindable, true),
        "bind" => Bind(false),
        "rbind" => Bind(true),
        "tmpcopyup" => CopyUp,
        // Every devpts is an instance of its own since Linux 4.7; the others concern mount(8) alone.
        "defaults" | "newinstance" | "async" | "nomand" | "loud" | "remount" => Nothing,
        "idmap" => IdMap(false),
        "ridmap" => IdMap(true),
        "rrw" | "rsuid" | "rdev" | "rexec" => Unsupported,
        _ => return None,
    })
}

/// Understands the mounts of a configuration. Relative sources are relative to `bundle`.
pub(crate) fn plan(mounts: &[Mount], bundle: &Path) -> Result<Vec<Plan>> {
    mounts.iter().map(|mount| plan_one(mount, bundle)).collect()
}

fn plan_one(mount: &Mount, bundle: &Path) -> Result<Plan> {
    let target = clean_target(mount.destination())?;
    let mut plan = Plan {
        source: Source::Cgroup,
        set: Attributes::default(),
        clear: Attributes::default(),
        set_recursive: Attributes::default(),
        propagation: None,
        data: Vec::new(),
        copy_up: false,
        id_map: None,
        beneath: None,
        target,
    };
    let mut bind = None;
    let mut mapped_recursively = false;
    for option in mount.options().iter().flatten() {
        match effect(option) {
            Some(Effect::Set(attributes)) => {
                plan.set |= attributes;
                plan.clear = plan.clear.without(attributes);
            }
            Some(Effect::Clear(attributes)) => {
                plan.clear |= attributes;
                plan.set = plan.set.without(attributes);
            }
            Some(Effect::SetRecursive(attributes)) => plan.set_recursive |= attributes,
            Some(Effect::Propagation(propagation, recursive)) => {
                plan.propagation = Some((propagation, recursive));
            }
            Some(Effect::Bind(recursive)) => bind = Some(recursive),
            Some(Effect::CopyUp) => plan.copy_up = true,
            Some(Effect::IdMap(recursive)) => mapped_recursively = recursive,
            Some(Effect::Nothing) => {}
            Some(Effect::Unsupported) => {
                return Err(Error::mount(&plan.target, format!("option {option:?} is not supported")));
            }
            None if option.starts_with(BENEATH) => {
                plan.beneath = Some(PathBuf::from(&option[BENEATH.len()..]));
            }
            None => plan.data.push(match option.split_once('=') {
                Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                None => (option.clone(), None),
            }),
        }
    }
    plan.source = source(mount, bundle, bind, &plan.target)?;
    plan.id_map = id_map(mount, &plan, mapped_recursively)?;
    if matches!(plan.source, Source::Bind { .. }) {
        // "rw" does not make a bind of something read-only writable; it only means that we do not add read-only.
        plan.clear = plan.clear.without(Attributes::READ_ONLY);
        plan.data.clear();
    }
    Ok(plan)
}

fn id_map(mount: &Mount, plan: &Plan, recursive: bool) -> Result<Option<IdMap>> {
    let lines = |maps: &Option<Vec<LinuxIdMapping>>| -> String {
        maps.iter()
            .flatten()
            .map(|map| format!("{} {} {}\n", map.container_id(), map.host_id(), map.size()))
            .collect()
    };
    let (uids, gids) = (lines(mount.uid_mappings()), lines(mount.gid_mappings()));
    match (uids.is_empty(), gids.is_empty()) {
        // `idmap` alone means the map of the container's user namespace: whoever wants one says so.
        (true, true) => Ok(None),
        (false, false) if matches!(plan.source, Source::Bind { .. }) => {
            Ok(Some(IdMap { uids, gids, recursive }))
        }
        (false, false) => Err(Error::mount(&plan.target, "only bind mounts can map owners")),
        _ => Err(Error::mount(&plan.target, "uidMappings and gidMappings need each other")),
    }
}

fn source(mount: &Mount, bundle: &Path, bind: Option<bool>, target: &Path) -> Result<Source> {
    let name = mount.source().clone().unwrap_or_default();
    let kind = mount.typ().as_deref().unwrap_or("none");
    if bind.is_some() || kind == "bind" {
        if name.as_os_str().is_empty() {
            return Err(Error::mount(target, "a bind mount needs a source"));
        }
        let recursive = bind.unwrap_or(false);
        return Ok(Source::Bind { path: bundle.join(name), recursive });
    }
    match kind {
        "cgroup" | "cgroup2" => Ok(Source::Cgroup),
        "none" | "" => Err(Error::mount(target, "the mount has neither a type nor the option bind")),
        kind => Ok(Source::Filesystem { kind: kind.to_owned(), name: name.to_string_lossy().into_owned() }),
    }
}

/// The target as an absolute path without `.` and `..`. A relative one counts from the container's root.
fn clean_target(destination: &Path) -> Result<PathBuf> {
    let mut clean = PathBuf::from("/");
    for component in destination.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    if clean == Path::new("/") {
        return Err(Error::mount(destination, "a mount cannot be put over the container's root"));
    }
    Ok(clean)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::LinuxIdMappingBuilder;

    fn one(kind: &str, source: &str, options: &[&str]) -> Result<Plan> {
        let mut mount = Mount::default();
        mount.set_destination("/a/../b/./c".into());
        mount.set_typ(Some(kind.into())).set_source(Some(source.into()));
        mount.set_options(Some(options.iter().map(|o| (*o).to_owned()).collect()));
        plan_one(&mount, Path::new("/bundle"))
    }

    #[test]
    fn options_become_attributes_and_data() {
        let plan = one("tmpfs", "shm", &["nosuid", "noexec", "exec", "ro", "size=64k", "mode=1777", "huge"])
            .unwrap();
        assert_eq!(plan.target, Path::new("/b/c"));
        assert_eq!(plan.set, Attributes::NO_SUID | Attributes::READ_ONLY);
        assert_eq!(plan.clear, Attributes::NO_EXEC);
        let data: Vec<_> = plan.data.iter().map(|(k, v)| (k.as_str(), v.as_deref())).collect();
        assert_eq!(data, [("size", Some("64k")), ("mode", Some("1777")), ("huge", None)]);
        assert_eq!(plan.source, Source::Filesystem { kind: "tmpfs".into(), name: "shm".into() });
    }

    #[test]
    fn binds_take_relative_sources_from_the_bundle() {
        let plan = one("none", "data", &["rbind", "rw", "rprivate"]).unwrap();
        assert_eq!(plan.source, Source::Bind { path: "/bundle/data".into(), recursive: true });
        assert!(plan.clear.is_empty());
        assert_eq!(plan.propagation, Some((Propagation::Private, true)));
    }

    #[test]
    fn a_part_of_a_source_and_maps_of_owners_are_understood() {
        let plan = one("bind", "/v", &["rbind", "wharf.beneath=a/b,c"]).unwrap();
        assert_eq!(plan.source, Source::Bind { path: "/v".into(), recursive: true });
        assert_eq!(plan.beneath.as_deref(), Some(Path::new("a/b,c")));
        assert_eq!(one("bind", "/v", &["rbind", "idmap"]).unwrap().id_map, None);
        let mut mount = Mount::default();
        let map = |on_disk: u32, shown: u32| {
            let map = LinuxIdMappingBuilder::default().container_id(on_disk).host_id(shown).size(1_u32);
            Some(vec![map.build().unwrap()])
        };
        mount.set_destination("/m".into()).set_source(Some("/v".into())).set_uid_mappings(map(1000, 0));
        mount.set_options(Some(vec!["rbind".into(), "ridmap".into()]));
        assert!(plan_one(&mount, Path::new("/")).is_err());
        mount.set_gid_mappings(map(100, 0));
        let map = plan_one(&mount, Path::new("/")).unwrap().id_map.unwrap();
        assert_eq!((map.uids.as_str(), map.gids.as_str(), map.recursive), ("1000 0 1\n", "100 0 1\n", true));
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(one("none", "x", &[]).is_err());
        assert!(one("bind", "", &[]).is_err());
        let mut root = Mount::default();
        root.set_destination("/..".into());
        assert!(plan_one(&root, Path::new("/")).is_err());
    }
}
