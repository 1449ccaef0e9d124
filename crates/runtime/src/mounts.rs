//! The mounts of a configuration as values: what kind, which attributes, which propagation, which data.

use crate::error::{Error, Result};
use crate::spec::Mount;
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
}

enum Effect {
    Set(Attributes),
    Clear(Attributes),
    SetRecursive(Attributes),
    Propagation(Propagation, bool),
    Bind(bool),
    CopyUp,
    Nothing,
    Unsupported,
}

fn effect(option: &str) -> Option<Effect> {
    use Effect::{Bind, Clear, CopyUp, Nothing, SetRecursive, Unsupported};
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
        "idmap" | "ridmap" | "rrw" | "rsuid" | "rdev" | "rexec" => Unsupported,
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
        target,
    };
    let mut bind = None;
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
            Some(Effect::Nothing) => {}
            Some(Effect::Unsupported) => {
                return Err(Error::mount(&plan.target, format!("option {option:?} is not supported")));
            }
            None => plan.data.push(match option.split_once('=') {
                Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                None => (option.clone(), None),
            }),
        }
    }
    if mount.uid_mappings().as_ref().is_some_and(|m| !m.is_empty()) {
        return Err(Error::mount(&plan.target, "id-mapped mounts are not supported"));
    }
    plan.source = source(mount, bundle, bind, &plan.target)?;
    if matches!(plan.source, Source::Bind { .. }) {
        // "rw" does not make a bind of something read-only writable; it only means that we do not add read-only.
        plan.clear = plan.clear.without(Attributes::READ_ONLY);
        plan.data.clear();
    }
    Ok(plan)
}

fn source(mount: &Mount, bundle: &Path, bind: Option<bool>, target: &Path) -> Result<Source> {
    let name = mount.source().clone().unwrap_or_default();
    let kind = mount.typ().as_deref().unwrap_or("none");
    if bind.is_some() || kind == "bind" {
        if name.as_os_str().is_empty() {
            return Err(Error::mount(target, "a bind mount needs a source"));
        }
        return Ok(Source::Bind { path: bundle.join(name), recursive: bind.unwrap_or(false) });
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
    fn nonsense_is_refused() {
        assert!(one("none", "x", &[]).is_err());
        assert!(one("bind", "", &[]).is_err());
        assert!(one("bind", "/x", &["idmap"]).is_err());
        let mut root = Mount::default();
        root.set_destination("/..".into());
        assert!(plan_one(&root, Path::new("/")).is_err());
    }
}
