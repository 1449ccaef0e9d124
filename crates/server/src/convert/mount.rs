//! Structured mounts in both directions.

use serde_json::Value;
use wharf_api::models::{
    Mount, MountBindOptions, MountBindOptionsPropagationEnum, MountImageOptions, MountTmpfsOptions,
    MountType, MountVolumeOptions, MountVolumeOptionsDriverConfig,
};
use wharf_model::ownership::Ownership;
use wharf_model::spec::{MountKind, MountSpec};

use crate::convert::{filled, filled_map, ordered};
use crate::error::{Failure, Result};

/// Refuses unknown kinds and propagation modes, and options of another kind than the mount's.
pub(crate) fn check_words(mount: &Value) -> Result<()> {
    let kind = mount["Type"].as_str().unwrap_or_default();
    let own = match kind {
        "bind" => "BindOptions",
        "volume" => "VolumeOptions",
        "tmpfs" => "TmpfsOptions",
        "image" => "ImageOptions",
        _ => {
            return Err(Failure::invalid(format!(
                "invalid mount config for type {kind:?}: mount type unknown"
            )));
        }
    };
    for options in ["BindOptions", "VolumeOptions", "ImageOptions", "TmpfsOptions"] {
        if options != own && !mount[options].is_null() {
            return Err(Failure::invalid(format!("{options} must not be specified on mount type {kind:?}")));
        }
    }
    let propagation = mount["BindOptions"]["Propagation"].as_str().unwrap_or_default();
    if propagation.parse::<MountBindOptionsPropagationEnum>().is_err() {
        return Err(Failure::invalid(format!(
            "invalid mount config for type {kind:?}: invalid propagation mode: {propagation}"
        )));
    }
    Ok(())
}

/// Takes out what no model has: whose files are whose, a word of ours (see docs/volumes.md). One for each mount.
pub(crate) fn take_ownership(mounts: &mut Value) -> Result<Vec<Option<Ownership>>> {
    let take = |mount: &mut Value| {
        let Some(word) = mount.as_object_mut().and_then(|mount| mount.remove("Ownership")) else {
            return Ok(None);
        };
        let parsed = word.as_str().unwrap_or_default().parse();
        parsed.map(Some).map_err(|error| Failure::invalid(format!("invalid mount config: {error}")))
    };
    mounts.as_array_mut().into_iter().flatten().map(take).collect()
}

/// A mount from the wire.
pub(crate) fn from_model(mount: Mount) -> Result<MountSpec> {
    let kind = match mount.typ {
        Some(MountType::BIND) => MountKind::Bind,
        Some(MountType::VOLUME) => MountKind::Volume,
        Some(MountType::TMPFS) => MountKind::Tmpfs,
        Some(MountType::IMAGE) => MountKind::Image,
        other => {
            let kind = other.map(|kind| kind.to_string()).unwrap_or_default();
            return Err(Failure::invalid(format!(
                "invalid mount config for type {kind:?}: mount type unknown"
            )));
        }
    };
    let bind = mount.bind_options.unwrap_or_default();
    let volume = mount.volume_options.unwrap_or_default();
    let driver = volume.driver_config.unwrap_or_default();
    let tmpfs = mount.tmpfs_options.unwrap_or_default();
    let image = mount.image_options.unwrap_or_default();
    Ok(MountSpec {
        kind,
        source: mount.source.unwrap_or_default(),
        target: mount.target.unwrap_or_default(),
        read_only: mount.read_only.unwrap_or_default(),
        propagation: bind.propagation.map(|mode| mode.to_string()).unwrap_or_default(),
        non_recursive: bind.non_recursive.unwrap_or_default(),
        create_mountpoint: bind.create_mountpoint.unwrap_or_default(),
        read_only_force_recursive: bind.read_only_force_recursive.unwrap_or_default(),
        read_only_non_recursive: bind.read_only_non_recursive.unwrap_or_default(),
        no_copy: volume.no_copy.unwrap_or_default(),
        subpath: volume.subpath.or(image.subpath).unwrap_or_default(),
        labels: ordered(volume.labels),
        driver: driver.name.unwrap_or_default(),
        driver_options: ordered(driver.options),
        tmpfs_size: tmpfs.size_bytes.unwrap_or_default(),
        tmpfs_mode: mode(tmpfs.mode.unwrap_or_default())?,
        tmpfs_options: tmpfs.options.unwrap_or_default(),
        ownership: None,
    })
}

fn mode(mode: i64) -> Result<u32> {
    u32::try_from(mode).ok().filter(|mode| *mode <= 0o7777).ok_or_else(|| {
        Failure::invalid(format!("invalid mount config for type \"tmpfs\": invalid mode: {mode}"))
    })
}

/// The wire form of a mount.
pub(crate) fn to_model(mount: MountSpec) -> Mount {
    let (typ, mut model) = match mount.kind {
        MountKind::Bind => (MountType::BIND, Mount { bind_options: bind(&mount), ..Mount::default() }),
        MountKind::Volume => {
            (MountType::VOLUME, Mount { volume_options: volume(&mount), ..Mount::default() })
        }
        MountKind::Tmpfs => (MountType::TMPFS, Mount { tmpfs_options: tmpfs(&mount), ..Mount::default() }),
        MountKind::Image => (MountType::IMAGE, Mount { image_options: image(&mount), ..Mount::default() }),
    };
    model.typ = Some(typ);
    model.source = some(mount.source);
    model.target = some(mount.target);
    model.read_only = yes(mount.read_only);
    model
}

fn some(text: String) -> Option<String> {
    if text.is_empty() { None } else { Some(text) }
}

fn yes(flag: bool) -> Option<bool> {
    flag.then_some(true)
}

/// Nothing at all when every option is at its default, as when they were not given.
fn set<T: Default + PartialEq>(options: T) -> Option<T> {
    if options == T::default() { None } else { Some(options) }
}

fn bind(mount: &MountSpec) -> Option<MountBindOptions> {
    set(MountBindOptions {
        propagation: mount.propagation.parse().ok().filter(|_| !mount.propagation.is_empty()),
        non_recursive: yes(mount.non_recursive),
        create_mountpoint: yes(mount.create_mountpoint),
        read_only_non_recursive: yes(mount.read_only_non_recursive),
        read_only_force_recursive: yes(mount.read_only_force_recursive),
    })
}

fn volume(mount: &MountSpec) -> Option<MountVolumeOptions> {
    set(MountVolumeOptions {
        no_copy: yes(mount.no_copy),
        labels: filled_map(mount.labels.clone()),
        driver_config: set(MountVolumeOptionsDriverConfig {
            name: some(mount.driver.clone()),
            options: filled_map(mount.driver_options.clone()),
        }),
        subpath: some(mount.subpath.clone()),
    })
}

fn tmpfs(mount: &MountSpec) -> Option<MountTmpfsOptions> {
    set(MountTmpfsOptions {
        size_bytes: Some(mount.tmpfs_size).filter(|size| *size != 0),
        mode: Some(i64::from(mount.tmpfs_mode)).filter(|mode| *mode != 0),
        options: filled(mount.tmpfs_options.clone()),
    })
}

fn image(mount: &MountSpec) -> Option<MountImageOptions> {
    set(MountImageOptions { subpath: some(mount.subpath.clone()) })
}
