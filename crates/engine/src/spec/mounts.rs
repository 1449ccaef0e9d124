//! Mounts: from `-v`, `--mount`, `--tmpfs`, `--volumes-from` and the image's volumes to one list without conflicts.

use std::collections::BTreeMap;
use std::path::Path;

use wharf_model::ContainerSpec;
use wharf_model::spec::{MountKind, MountSpec};
use wharf_model::user_paths::{clean_absolute, is_name};

use crate::containers::MountRecord;
use crate::{Engine, Error, Result};

const PROPAGATIONS: &[&str] = &["private", "rprivate", "shared", "rshared", "slave", "rslave"];

/// Resolves every mount of merged wishes; makes the volumes that are missing.
pub(crate) fn resolve(engine: &Engine, spec: &ContainerSpec) -> Result<Vec<MountRecord>> {
    let mut mounts: BTreeMap<String, MountRecord> = BTreeMap::new();
    for from in &spec.host.volumes_from {
        for mount in volumes_from(engine, from)? {
            mounts.insert(mount.target.clone(), mount);
        }
    }
    let mut explicit: BTreeMap<String, MountRecord> = BTreeMap::new();
    let mut add = |mount: MountRecord| match explicit.insert(mount.target.clone(), mount) {
        Some(first) => Err(Error::Invalid(format!("Duplicate mount point: {}", first.target))),
        None => Ok(()),
    };
    for bind in &spec.host.binds {
        add(parse_bind(bind)?)?;
    }
    for mount in &spec.host.mounts {
        add(structured(mount)?)?;
    }
    for (target, options) in &spec.host.tmpfs {
        add(tmpfs(target, options)?)?;
    }
    mounts.extend(explicit);
    for target in &spec.volumes {
        let target = absolute(target)?;
        let beneath = mounts.contains_key(&target);
        if !beneath {
            mounts.insert(target.clone(), volume(String::new(), target));
        }
    }
    let labels = |target: &str| {
        spec.host.mounts.iter().find(|mount| clean_absolute(&mount.target).as_deref() == Some(target))
    };
    let mut resolved: Vec<MountRecord> = mounts.into_values().collect();
    for mount in
        resolved.iter_mut().filter(|mount| mount.kind == MountKind::Volume && mount.source.is_empty())
    {
        let wished = labels(&mount.target);
        let driver = wished.map_or(spec.host.volume_driver.as_str(), |wished| wished.driver.as_str());
        let name = Some(mount.volume.as_str()).filter(|name| !name.is_empty());
        mount.anonymous = name.is_none();
        let made = engine.ensure_volume(
            name,
            driver,
            wished.map(|wished| wished.labels.clone()).unwrap_or_default(),
            wished.map(|wished| wished.driver_options.clone()).unwrap_or_default(),
        )?;
        mount.source = made.mountpoint;
        mount.volume = made.name;
    }
    // A mount comes before the mounts beneath it.
    resolved.sort_by_key(|mount| mount.target.matches('/').count());
    Ok(resolved)
}

fn absolute(target: &str) -> Result<String> {
    let clean = clean_absolute(target).ok_or_else(|| {
        Error::Invalid(format!("invalid volume specification: '{target}': invalid mount config for type \"volume\": invalid mount path: '{target}' mount path must be absolute"))
    })?;
    if clean == "/" {
        return Err(Error::Invalid(format!("invalid specification: destination can't be '/': {target}")));
    }
    if target.bytes().any(|byte| byte == 0) {
        return Err(Error::Invalid("invalid volume specification: NUL in a path".into()));
    }
    Ok(clean)
}

fn volume(name: String, target: String) -> MountRecord {
    MountRecord {
        kind: MountKind::Volume,
        volume: name,
        anonymous: false,
        source: String::new(),
        target,
        mode: String::new(),
        read_only: false,
        propagation: String::new(),
        non_recursive: false,
        options: Vec::new(),
        no_copy: false,
        create_source: false,
    }
}

/// `[source:]target[:options]`.
fn parse_bind(text: &str) -> Result<MountRecord> {
    let invalid = || Error::Invalid(format!("invalid volume specification: '{text}'"));
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, mode) = match parts[..] {
        [target] => ("", target, ""),
        [source, target] => (source, target, ""),
        [source, target, mode] => (source, target, mode),
        _ => return Err(invalid()),
    };
    if target.is_empty() || (parts.len() > 1 && source.is_empty()) {
        return Err(invalid());
    }
    let clean = clean_absolute(target).ok_or_else(|| {
        Error::Invalid(format!(
            "invalid volume specification: '{text}': invalid mount config for type \"{}\": invalid mount path: \
             '{target}' mount path must be absolute",
            if source.starts_with('/') { "bind" } else { "volume" }
        ))
    })?;
    if clean == "/" {
        return Err(Error::Invalid(format!(
            "invalid volume specification: '{text}': invalid mount config for type \"{}\": invalid specification: \
             destination can't be '/'",
            if source.starts_with('/') { "bind" } else { "volume" }
        )));
    }
    let bind = source.starts_with('/');
    let mut mount = volume(String::new(), clean);
    mount.mode = mode.to_owned();
    if bind {
        mount.kind = MountKind::Bind;
        mount.source = clean_absolute(source).ok_or_else(invalid)?;
        mount.propagation = "rprivate".to_owned();
        mount.create_source = true;
    } else if !source.is_empty() {
        if !is_name(source) {
            return Err(Error::Invalid(format!(
                "create {source}: \"{source}\" includes invalid characters for a local volume name, only \
                 \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute \
                 path"
            )));
        }
        mount.volume = source.to_owned();
    }
    for option in mode.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => mount.read_only = true,
            "nocopy" => mount.no_copy = true,
            "rw" | "z" | "Z" | "cached" | "delegated" | "consistent" => {}
            known if bind && PROPAGATIONS.contains(&known) => mount.propagation = known.to_owned(),
            _ => return Err(Error::Invalid(format!("invalid mode: {mode}"))),
        }
    }
    Ok(mount)
}

fn structured(wished: &MountSpec) -> Result<MountRecord> {
    let kind = match wished.kind {
        MountKind::Bind => "bind",
        MountKind::Volume => "volume",
        MountKind::Tmpfs => "tmpfs",
        MountKind::Image => "image",
    };
    let invalid = |why: String| Error::Invalid(format!("invalid mount config for type \"{kind}\": {why}"));
    if wished.target.is_empty() {
        return Err(invalid("field Target must not be empty".into()));
    }
    let target = clean_absolute(&wished.target).ok_or_else(|| {
        invalid(format!("invalid mount path: '{}' mount path must be absolute", wished.target))
    })?;
    if target == "/" {
        return Err(invalid("invalid specification: destination can't be '/'".into()));
    }
    let mut mount = volume(String::new(), target);
    mount.kind = wished.kind;
    mount.read_only = wished.read_only;
    match wished.kind {
        MountKind::Bind => {
            if wished.source.is_empty() {
                return Err(invalid("field Source must not be empty".into()));
            }
            mount.source = clean_absolute(&wished.source).ok_or_else(|| {
                invalid(format!("invalid mount path: '{}' mount path must be absolute", wished.source))
            })?;
            mount.propagation = match wished.propagation.as_str() {
                "" => "rprivate".to_owned(),
                known if PROPAGATIONS.contains(&known) => known.to_owned(),
                other => return Err(invalid(format!("invalid propagation mode: {other}"))),
            };
            mount.non_recursive = wished.non_recursive;
            mount.create_source = wished.create_mountpoint;
            if !mount.create_source && !Path::new(&mount.source).exists() {
                return Err(invalid(format!("bind source path does not exist: {}", mount.source)));
            }
        }
        MountKind::Volume => {
            if !wished.source.is_empty() && !is_name(&wished.source) {
                return Err(Error::Invalid(format!(
                    "create {0}: \"{0}\" includes invalid characters for a local volume name, only \
                     \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use \
                     absolute path",
                    wished.source
                )));
            }
            if !wished.subpath.is_empty() {
                return Err(Error::NotImplemented("volume-subpath is not implemented yet".into()));
            }
            mount.volume.clone_from(&wished.source);
            mount.no_copy = wished.no_copy;
            mount.mode = if wished.read_only { "ro".into() } else { "z".into() };
        }
        MountKind::Tmpfs => {
            if !wished.source.is_empty() {
                return Err(invalid("field Source must not be specified".into()));
            }
            if wished.tmpfs_size > 0 {
                mount.options.push(format!("size={}", wished.tmpfs_size));
            }
            if wished.tmpfs_mode != 0 {
                mount.options.push(format!("mode={:o}", wished.tmpfs_mode & 0o7777));
            }
            for option in &wished.tmpfs_options {
                mount.options.push(option.join("="));
            }
        }
        MountKind::Image => {
            return Err(Error::NotImplemented("image mounts are not implemented yet".into()));
        }
    }
    Ok(mount)
}

/// `--tmpfs target:options`; the kernel checks the options' values.
fn tmpfs(target: &str, options: &str) -> Result<MountRecord> {
    let mut mount = volume(String::new(), absolute(target)?);
    mount.kind = MountKind::Tmpfs;
    for option in options.split(',').filter(|option| !option.is_empty()) {
        let name = option.split('=').next().unwrap_or(option);
        let flags = [
            "ro",
            "rw",
            "exec",
            "noexec",
            "suid",
            "nosuid",
            "dev",
            "nodev",
            "sync",
            "async",
            "atime",
            "noatime",
            "diratime",
            "nodiratime",
            "relatime",
            "norelatime",
            "strictatime",
            "nostrictatime",
            "size",
            "mode",
            "uid",
            "gid",
            "nr_inodes",
            "nr_blocks",
            "mpol",
            "huge",
        ];
        if !flags.contains(&name) {
            return Err(Error::Invalid(format!("invalid tmpfs option [\"{option}\"]")));
        }
        mount.read_only |= name == "ro";
        mount.options.push(option.to_owned());
    }
    Ok(mount)
}

fn volumes_from(engine: &Engine, text: &str) -> Result<Vec<MountRecord>> {
    let (name, mode) = text.split_once(':').unwrap_or((text, ""));
    let read_only = match mode {
        "ro" => true,
        "" | "rw" | "z" | "Z" => false,
        _ => return Err(Error::Invalid(format!("invalid mode: {mode}"))),
    };
    let container = engine.find(name)?;
    let mut mounts = container.record().mounts.clone();
    mounts.retain(|mount| mount.kind != MountKind::Tmpfs);
    for mount in &mut mounts {
        mount.read_only |= read_only;
        // It belongs to the other container, whose removal must not wait for this one's.
        mount.anonymous = false;
    }
    Ok(mounts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binds_are_parsed() {
        let mount = parse_bind("/src:/dst/../x:ro,rslave").unwrap();
        assert_eq!((mount.source.as_str(), mount.target.as_str()), ("/src", "/x"));
        assert!(mount.read_only && mount.create_source);
        assert_eq!(mount.propagation, "rslave");
        assert_eq!(parse_bind("data:/d").unwrap().volume, "data");
        assert_eq!(parse_bind("/only").unwrap().kind, MountKind::Volume);
        for bad in
            ["", ":", "a:", ":/a", "/a:/", "/a:b", "/a:/b:bogus", "a:/b:rslave", "../x:/b", "/a:/b:ro:z"]
        {
            assert!(parse_bind(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn tmpfs_options_are_an_allow_list() {
        tmpfs("/t", "size=64m,mode=1777,noexec").unwrap();
        assert!(tmpfs("/t", "context=evil").is_err());
        assert!(tmpfs("t", "").is_err());
    }
}
