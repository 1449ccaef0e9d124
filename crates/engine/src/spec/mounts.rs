//! Mounts: from `-v`, `--mount`, `--tmpfs`, `--volumes-from` and the image's volumes to one list without conflicts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};
use wharf_image::SnapshotMounts;
use wharf_linux::confined::open_beneath;
use wharf_linux::hostfs::{self, Context};
use wharf_model::ownership::Ownership;
use wharf_model::spec::{MountKind, MountSpec};
use wharf_model::user_paths::clean_absolute;
use wharf_model::{ContainerId, ContainerSpec};

use crate::apart::within;
use crate::containers::{MountRecord, Record};
use crate::volumes::{Creating, VolumeWish, anonymous_name, check_name, in_words, unescape};
use crate::{Engine, Error, Result};

/// How long `create` looks for a source.
const LOOK: Duration = Duration::from_secs(20);
/// The most of the mount table that is read.
const MOUNT_TABLE: u64 = 64 << 20;
/// What `--tmpfs` may say.
const TMPFS_OPTIONS: &[&str] = &[
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

const PROPAGATIONS: &[&str] = &["private", "rprivate", "shared", "rshared", "slave", "rslave"];

/// Resolves every mount of merged wishes; makes the volumes that are missing, and the snapshots of images. As long as
/// the guard lives, nobody removes these volumes. Blocks.
pub(crate) fn resolve(
    engine: &Engine,
    id: &ContainerId,
    spec: &ContainerSpec,
) -> Result<(Vec<MountRecord>, Creating)> {
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
        mounts.entry(target.clone()).or_insert_with(|| volume(String::new(), target));
    }
    let mut resolved: Vec<MountRecord> = mounts.into_values().collect();
    let mut creating = Creating::new(engine);
    for mount in resolved.iter_mut().filter(|mount| mount.kind == MountKind::Volume) {
        obtain(engine, spec, mount, &mut creating)?;
    }
    for mount in resolved.iter_mut().filter(|mount| mount.kind == MountKind::Bind) {
        mount.read_only_top |= spec.host.read_only_top;
        keep_apart_from_the_engine(engine, mount)?;
    }
    // A mount comes before the mounts beneath it.
    resolved.sort_by_key(|mount| mount.target.matches('/').count());
    let images = resolved.iter_mut().filter(|mount| mount.kind == MountKind::Image);
    for (number, mount) in images.enumerate() {
        let image = engine.inner.images.resolve(&mount.image)?;
        mount.snapshot = format!("{id}.{number}");
        let layers = engine.inner.images.create_snapshot(&mount.snapshot, &image.id)?;
        mount.source = layers.base.join(&layers.upper).display().to_string();
    }
    Ok((resolved, creating))
}

/// Makes or finds the volume of a mount.
fn obtain(
    engine: &Engine,
    spec: &ContainerSpec,
    mount: &mut MountRecord,
    creating: &mut Creating,
) -> Result<()> {
    let wished =
        spec.host.mounts.iter().find(|wished| clean_absolute(&wished.target).as_ref() == Some(&mount.target));
    let shared = !mount.source.is_empty();
    let driver = match wished {
        // Of another container: it is there.
        _ if shared => "",
        Some(wished) => wished.driver.as_str(),
        None => spec.host.volume_driver.as_str(),
    };
    mount.anonymous = mount.volume.is_empty();
    let name = if mount.anonymous { anonymous_name()? } else { mount.volume.clone() };
    creating.keep(&name)?;
    let made = engine.obtain_volume(VolumeWish {
        name,
        anonymous: mount.anonymous,
        driver: driver.to_owned(),
        labels: wished.map(|wished| wished.labels.clone()).unwrap_or_default(),
        options: wished.map(|wished| wished.driver_options.clone()).unwrap_or_default(),
    })?;
    if mount.mode.is_empty() && !shared && made.driver == "local" && (wished.is_some() || !mount.anonymous) {
        // What Docker shows for a label it would give the volume under SELinux.
        mount.mode = "z".to_owned();
    }
    mount.source = made.mountpoint;
    mount.volume = made.name;
    mount.driver = made.driver;
    mount.driven = made.driven;
    Ok(())
}

/// A container that has the engine's own directory in sight must see it change: a mount it kept for itself would hold
/// on to what the engine takes off.
fn keep_apart_from_the_engine(engine: &Engine, mount: &mut MountRecord) -> Result<()> {
    let root = &engine.inner.config.data_root;
    if !overlap(root, Path::new(&mount.source)) {
        if mount.propagation.is_empty() {
            mount.propagation = "rprivate".to_owned();
        }
        return Ok(());
    }
    match mount.propagation.as_str() {
        "" => mount.propagation = "rslave".to_owned(),
        "rslave" | "rshared" => {}
        other => {
            return Err(Error::Invalid(format!(
                "invalid mount config: must use either propagation mode \"rslave\" or \"rshared\" when mount source is \
                 within the daemon root, daemon root: \"{}\", bind mount source: \"{}\", propagation: \"{other}\"",
                root.display(),
                mount.source
            )));
        }
    }
    Ok(())
}

/// Whether one is beneath the other.
fn overlap(one: &Path, other: &Path) -> bool {
    one.starts_with(other) || other.starts_with(one)
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
    MountRecord { volume: name, target, ..MountRecord::default() }
}

/// What a mode such as `ro,z` says.
#[derive(Default)]
struct Words {
    read_only: bool,
    propagation: String,
    no_copy: bool,
    ownership: Option<Ownership>,
}

/// Reads a mode: of each sort of word one at most.
fn parse_mode(text: &str) -> Result<Words> {
    let invalid = || Error::Invalid(format!("invalid mode: {text}"));
    let mut mode = Words::default();
    let mut seen = [false; 6];
    for word in text.split(',').filter(|_| !text.is_empty()) {
        let sort = match word {
            "ro" | "rw" => {
                mode.read_only = word == "ro";
                0
            }
            "z" | "Z" => 1,
            "nocopy" => {
                mode.no_copy = true;
                2
            }
            "cached" | "delegated" | "consistent" | "default" => 3,
            known if PROPAGATIONS.contains(&known) => {
                known.clone_into(&mut mode.propagation);
                4
            }
            ours if ours.starts_with("ownership=") || ours == "idmap" || ours.starts_with("idmap=") => {
                let text = ours.strip_prefix("ownership=").unwrap_or(ours);
                let parsed =
                    text.parse().map_err(|error| Error::Invalid(format!("invalid mode: {error}")))?;
                mode.ownership = Some(parsed);
                5
            }
            _ => return Err(invalid()),
        };
        if std::mem::replace(&mut seen[sort], true) {
            return Err(invalid());
        }
    }
    Ok(mode)
}

/// `[source:]target[:options]`.
fn parse_bind(text: &str) -> Result<MountRecord> {
    let invalid = || Error::Invalid(format!("invalid volume specification: '{text}'"));
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, mode) = match parts[..] {
        [target] => ("", target, ""),
        // `/target:ro` is no volume.
        [_, mode] if parse_mode(mode).is_ok() => return Err(invalid()),
        [source, target] => (source, target, ""),
        [source, target, mode] => (source, target, mode),
        _ => return Err(invalid()),
    };
    if target.is_empty() || (parts.len() > 1 && source.is_empty()) {
        return Err(invalid());
    }
    let bind = source.starts_with('/');
    let because = |why: String| {
        let kind = if bind { "bind" } else { "volume" };
        Error::Invalid(format!(
            "invalid volume specification: '{text}': invalid mount config for type \"{kind}\": {why}"
        ))
    };
    let options = parse_mode(mode)?;
    let clean = clean_absolute(target)
        .ok_or_else(|| because(format!("invalid mount path: '{target}' mount path must be absolute")))?;
    if clean == "/" {
        return Err(because("invalid specification: destination can't be '/'".into()));
    }
    if (bind && options.no_copy) || (!bind && !options.propagation.is_empty()) {
        let field = if bind { "VolumeOptions" } else { "BindOptions" };
        return Err(because(format!("field {field} must not be specified")));
    }
    let mut mount = volume(String::new(), clean);
    mount.mode = mode.to_owned();
    mount.read_only = options.read_only;
    mount.no_copy = options.no_copy;
    mount.ownership = options.ownership;
    if bind {
        mount.kind = MountKind::Bind;
        mount.source = clean_absolute(source).ok_or_else(invalid)?;
        mount.propagation = options.propagation;
        mount.create_source = true;
    } else if !source.is_empty() {
        check_name(source)?;
        mount.volume = source.to_owned();
    }
    Ok(mount)
}

/// Refuses a sub-path that names something outside by its text; links are for the moment it is mounted.
fn check_subpath(subpath: &str) -> std::result::Result<(), String> {
    let mut depth = 0_i32;
    for part in subpath.split('/') {
        depth += match part {
            "" | "." => 0,
            ".." => -1,
            _ => 1,
        };
        if depth < 0 {
            return Err("subpath must be a relative path within the volume".into());
        }
    }
    if subpath.starts_with('/') || subpath.contains('\0') {
        return Err("subpath must be a relative path within the volume".into());
    }
    Ok(())
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
    check_subpath(&wished.subpath).map_err(invalid)?;
    let mut mount = volume(String::new(), target);
    mount.kind = wished.kind;
    mount.read_only = wished.read_only;
    mount.subpath.clone_from(&wished.subpath);
    if let Some(ownership) = &wished.ownership {
        if !matches!(wished.kind, MountKind::Bind | MountKind::Volume) {
            return Err(invalid("ownership is for bind mounts and volumes".into()));
        }
        let text = ownership.to_string();
        mount.mode = if text == "auto" { "ownership=auto".into() } else { text };
        mount.ownership = Some(ownership.clone());
    }
    match wished.kind {
        MountKind::Bind => {
            if wished.source.is_empty() {
                return Err(invalid("field Source must not be empty".into()));
            }
            mount.source = clean_absolute(&wished.source).ok_or_else(|| {
                invalid(format!("invalid mount path: '{}' mount path must be absolute", wished.source))
            })?;
            if !wished.propagation.is_empty() && !PROPAGATIONS.contains(&wished.propagation.as_str()) {
                return Err(invalid(format!("invalid propagation mode: {}", wished.propagation)));
            }
            if wished.read_only_non_recursive && wished.read_only_force_recursive {
                return Err(invalid(
                    "ReadOnlyNonRecursive and ReadOnlyForceRecursive must not be set both".into(),
                ));
            }
            mount.propagation.clone_from(&wished.propagation);
            mount.read_only_top = wished.read_only_non_recursive;
            mount.non_recursive = wished.non_recursive;
            mount.create_source = wished.create_mountpoint;
            if !mount.create_source {
                let source = mount.source.clone();
                check_there(&source).map_err(invalid)?;
            }
        }
        MountKind::Volume => {
            if wished.source.is_empty() && !wished.subpath.is_empty() {
                return Err(invalid("must not set Subpath when using anonymous volumes".into()));
            }
            if !wished.source.is_empty() {
                check_name(&wished.source)?;
            }
            mount.volume.clone_from(&wished.source);
            mount.no_copy = wished.no_copy;
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
            if wished.source.is_empty() {
                return Err(invalid("field Source must not be empty".into()));
            }
            mount.image.clone_from(&wished.source);
            mount.read_only = true;
            mount.propagation = "rprivate".to_owned();
        }
    }
    Ok(mount)
}

/// Looks for a bind's source, on a thread of its own: its file system may not answer.
fn check_there(source: &str) -> std::result::Result<(), String> {
    let path = PathBuf::from(source);
    let what = format!("looking at {source}");
    let look = within(LOOK, &what, move || Ok(path.exists()));
    match tokio::runtime::Handle::current().block_on(look) {
        Ok(true) => Ok(()),
        Ok(false) => Err(format!("bind source path does not exist: {source}")),
        Err(error) => Err(error.to_string()),
    }
}

/// `--tmpfs target:options`; the kernel checks the options' values.
fn tmpfs(target: &str, options: &str) -> Result<MountRecord> {
    let mut mount = volume(String::new(), absolute(target)?);
    mount.kind = MountKind::Tmpfs;
    for option in options.split(',').filter(|option| !option.is_empty()) {
        let name = option.split('=').next().unwrap_or(option);
        if !TMPFS_OPTIONS.contains(&name) {
            return Err(Error::Invalid(format!("invalid tmpfs option \"{option}\"")));
        }
        mount.read_only |= name == "ro";
        mount.options.push(option.to_owned());
    }
    Ok(mount)
}

fn volumes_from(engine: &Engine, text: &str) -> Result<Vec<MountRecord>> {
    if text.is_empty() {
        return Err(Error::Invalid("volumes-from specification cannot be an empty string".into()));
    }
    let (name, words) = text.split_once(':').unwrap_or((text, ""));
    let mode = parse_mode(words)?;
    if mode.no_copy || mode.ownership.is_some() || !mode.propagation.is_empty() {
        return Err(Error::Invalid(format!("invalid mode: {words}")));
    }
    // Not the sort of error that makes a client look for an image.
    let container = engine.find(name).map_err(|error| Error::Invalid(error.to_string()))?;
    let mut mounts = container.record().mounts.clone();
    mounts.retain(|mount| mount.kind != MountKind::Tmpfs);
    for mount in &mut mounts {
        mount.read_only |= mode.read_only;
        mount.mode.clear();
        // It belongs to the other container, whose removal must not wait for this one's.
        mount.anonymous = false;
        // What is in it is the other container's.
        mount.no_copy = true;
    }
    Ok(mounts)
}

/// Looks at what a container's mounts come from, before its shim does, for reasons in Docker's words; makes what `-v`
/// makes. Done apart: a file system that hangs delays this start alone, and not for ever.
pub(crate) async fn check_sources(engine: &Engine, record: &Record) -> Result<()> {
    let looked_at = |mount: &&MountRecord| {
        matches!(mount.kind, MountKind::Bind | MountKind::Volume) && !mount.source.is_empty()
    };
    let mounts: Vec<MountRecord> = record.mounts.iter().filter(looked_at).cloned().collect();
    if mounts.is_empty() {
        return Ok(());
    }
    let what = format!("looking at the mounts of container {}", record.id.short());
    let root = engine.inner.config.data_root.clone();
    let look = move || mounts.iter().try_for_each(|mount| check_source(mount, &root));
    within(engine.inner.config.volume_patience, &what, look).await
}

impl Engine {
    /// The layers of the images a container mounts, by target. Blocks.
    pub(crate) fn image_layers(&self, record: &Record) -> Result<BTreeMap<String, SnapshotMounts>> {
        let images = record.mounts.iter().filter(|mount| mount.kind == MountKind::Image);
        let layers =
            images.map(|mount| Ok((mount.target.clone(), self.inner.images.snapshot(&mount.snapshot)?)));
        layers.collect()
    }
}

fn check_source(mount: &MountRecord, root: &Path) -> Result<()> {
    let source = Path::new(&mount.source);
    if !mount.subpath.is_empty() {
        return check_part(mount);
    }
    if !source.exists() {
        if mount.kind == MountKind::Bind && !mount.create_source {
            return Err(Error::Invalid(format!(
                "invalid mount config for type \"bind\": bind source path does not exist: {}",
                mount.source
            )));
        }
        hostfs::create_dir_all(source, 0o755).map_err(|error| {
            let (path, reason) = (source.display(), in_words(&error.source));
            Error::System(format!("error while creating mount source path '{path}': mkdir {path}: {reason}"))
        })?;
    }
    match mount.propagation.as_str() {
        "shared" | "rshared" => check_propagation(source, &["shared:"], "a shared mount"),
        // Chosen by us.
        "slave" | "rslave" if overlap(root, source) => Ok(()),
        "slave" | "rslave" => check_propagation(source, &["shared:", "master:"], "a shared or slave mount"),
        _ => Ok(()),
    }
}

/// The part of a volume that is mounted must be there and inside; the runtime opens it anew, by descriptor (EN-08).
fn check_part(mount: &MountRecord) -> Result<()> {
    let source = Path::new(&mount.source);
    let base = hostfs::open_dir(source)?;
    let Err(error) = open_beneath(&base, Path::new(&mount.subpath)) else { return Ok(()) };
    let (base, part) = (&mount.source, &mount.subpath);
    Err(match error.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
        Some(rustix::io::Errno::XDEV) => Error::System(format!(
            "path concatenation escapes the base directory, base: {base}, subpath: {part}"
        )),
        _ => {
            let reason = in_words(&error);
            Error::System(format!("cannot access path {base}/{part}: lstat {base}/{part}: {reason}"))
        }
    })
}

/// Whether the mount that a path is on has one of the marks in the mount table.
fn check_propagation(source: &Path, marks: &[&str], wanted: &str) -> Result<()> {
    let handle =
        rustix::fs::open(source, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).context("open", source)?;
    let found =
        rustix::fs::statx(&handle, c"", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).context("stat", source)?;
    let table = hostfs::read_bounded(Path::new("/proc/self/mountinfo"), MOUNT_TABLE)?;
    let table = String::from_utf8_lossy(&table);
    let id = found.stx_mnt_id.to_string();
    let Some(line) = table.lines().find(|line| line.split(' ').next() == Some(&id)) else { return Ok(()) };
    let mut optional = line.split(' ').skip(6).take_while(|field| *field != "-");
    if optional.any(|field| marks.iter().any(|mark| field.starts_with(mark))) {
        return Ok(());
    }
    let place = unescape(line.split(' ').nth(4).unwrap_or_default());
    Err(Error::System(format!(
        "path {} is mounted on {} but it is not {wanted}",
        source.display(),
        place.display()
    )))
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
        for bad in [
            "",
            ":",
            "a:",
            ":/a",
            "/a:/",
            "/a:b",
            "/a:/b:bogus",
            "a:/b:rslave",
            "../x:/b",
            "/a:/b:ro:z",
            "/a:ro",
        ] {
            assert!(parse_bind(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn modes_have_one_word_of_each_sort() {
        for (text, reason) in [
            ("/a:/b:ro,rw", "invalid mode: ro,rw"),
            ("/a:/b:z,Z", "invalid mode: z,Z"),
            ("/a:/b:ro,,z", "invalid mode: ro,,z"),
            ("v1:/b:nocopy,nocopy", "invalid mode: nocopy,nocopy"),
            (
                "/a:/b:nocopy",
                "invalid volume specification: '/a:/b:nocopy': invalid mount config for type \"bind\": field \
                 VolumeOptions must not be specified",
            ),
        ] {
            assert_eq!(parse_bind(text).unwrap_err().to_string(), reason);
        }
        assert_eq!(parse_bind("/a:/b:ro,ownership=auto,z").unwrap().ownership, Some(Ownership::Auto));
        assert!(parse_bind("v1:/b:idmap=uids=1000-0-1;gids=1000-0-1").unwrap().ownership.is_some());
        assert!(parse_bind("/a:/b:ownership=me").is_err());
        assert!(parse_bind("/a:/b:idmap,ownership=auto").is_err());
    }

    #[test]
    fn sub_paths_stay_inside_by_their_text() {
        for good in ["", "a", "a/b", "a/../b", "./a", "a//b"] {
            check_subpath(good).unwrap();
        }
        for bad in ["..", "../a", "a/../../b", "/a", "a\0"] {
            check_subpath(bad).unwrap_err();
        }
    }

    #[test]
    fn tmpfs_options_are_an_allow_list() {
        tmpfs("/t", "size=64m,mode=1777,noexec").unwrap();
        assert!(tmpfs("/t", "context=evil").is_err());
        assert!(tmpfs("t", "").is_err());
    }
}
