//! Devices of the host in a container, and the rules of the device controller.

use std::os::unix::fs::FileTypeExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    LinuxDevice, LinuxDeviceBuilder, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType,
};
use wharf_model::spec::{DeviceMapping, HostSpec};

use super::invalid_spec;
use crate::{Error, Result};

/// What the device controller allows in every container: type, major, minor (`None` for any), access.
const ALLOWED: &[(LinuxDeviceType, Option<i64>, Option<i64>, &str)] = &[
    // Making nodes is harmless, opening them is not.
    (LinuxDeviceType::C, None, None, "m"),
    (LinuxDeviceType::B, None, None, "m"),
    (LinuxDeviceType::C, Some(1), Some(3), "rwm"),
    (LinuxDeviceType::C, Some(1), Some(5), "rwm"),
    (LinuxDeviceType::C, Some(1), Some(7), "rwm"),
    (LinuxDeviceType::C, Some(1), Some(8), "rwm"),
    (LinuxDeviceType::C, Some(1), Some(9), "rwm"),
    (LinuxDeviceType::C, Some(5), Some(0), "rwm"),
    (LinuxDeviceType::C, Some(5), Some(1), "rwm"),
    (LinuxDeviceType::C, Some(5), Some(2), "rwm"),
    (LinuxDeviceType::C, Some(136), None, "rwm"),
];

/// Directories below `/dev` that have no devices of the machine.
const SPECIAL: [&str; 7] = ["pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev"];
/// The most devices that one directory stands for.
const MOST: usize = 4096;

/// Devices to make and rules of the controller.
pub(super) fn build(host: &HostSpec) -> Result<(Vec<LinuxDevice>, Vec<LinuxDeviceCgroup>)> {
    if host.privileged {
        // Everything is there already; a device may still have a second name.
        let mut devices = every_device();
        for mapping in &host.devices {
            let named = mapped(mapping)?;
            devices.retain(|have| !named.iter().any(|device| device.path() == have.path()));
            devices.extend(named);
        }
        return Ok((devices, vec![rule(true, LinuxDeviceType::A, None, None, "rwm")?]));
    }
    let mut rules = vec![rule(false, LinuxDeviceType::A, None, None, "rwm")?];
    for (kind, major, minor, access) in ALLOWED {
        rules.push(rule(true, *kind, *major, *minor, access)?);
    }
    let mut devices = Vec::new();
    for mapping in &host.devices {
        let access = if mapping.permissions.is_empty() { "rwm" } else { &mapping.permissions };
        for device in mapped(mapping)? {
            rules.push(rule(true, device.typ(), Some(device.major()), Some(device.minor()), access)?);
            devices.push(device);
        }
    }
    for text in &host.device_cgroup_rules {
        rules.push(parse_rule(text)?);
    }
    Ok((devices, rules))
}

/// `c 1:3 rwm`, with `*` for any number.
pub(super) fn parse_rule(text: &str) -> Result<LinuxDeviceCgroup> {
    let invalid = || Error::Invalid(format!("invalid device cgroup rule format: '{text}'"));
    let mut parts = text.split(' ');
    let (Some(kind), Some(numbers), Some(access), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(invalid());
    };
    let kind = match kind {
        "a" => LinuxDeviceType::A,
        "b" => LinuxDeviceType::B,
        "c" => LinuxDeviceType::C,
        _ => return Err(invalid()),
    };
    let number = |part: &str| match part {
        "*" => Ok(None),
        digits => digits.parse::<u32>().map(|number| Some(i64::from(number))).map_err(|_| invalid()),
    };
    let (major, minor) = numbers.split_once(':').ok_or_else(invalid)?;
    if access.is_empty() || access.len() > 3 || !access.bytes().all(|b| b"rwm".contains(&b)) {
        return Err(invalid());
    }
    rule(true, kind, number(major)?, number(minor)?, access)
}

fn rule(
    allow: bool,
    kind: LinuxDeviceType,
    major: Option<i64>,
    minor: Option<i64>,
    access: &str,
) -> Result<LinuxDeviceCgroup> {
    let mut builder = LinuxDeviceCgroupBuilder::default().allow(allow).typ(kind).access(access);
    if let Some(major) = major {
        builder = builder.major(major);
    }
    if let Some(minor) = minor {
        builder = builder.minor(minor);
    }
    builder.build().map_err(invalid_spec)
}

/// A device node of the host as one of the container.
fn device(path: &Path, inside: &Path) -> Option<LinuxDevice> {
    let metadata = std::fs::symlink_metadata(path).ok()?;
    let kind = match metadata.file_type() {
        kind if kind.is_char_device() => LinuxDeviceType::C,
        kind if kind.is_block_device() => LinuxDeviceType::B,
        _ => return None,
    };
    let number = metadata.rdev();
    LinuxDeviceBuilder::default()
        .path(inside)
        .typ(kind)
        .major(i64::from(rustix::fs::major(number)))
        .minor(i64::from(rustix::fs::minor(number)))
        .file_mode(metadata.mode() & 0o7777)
        .uid(metadata.uid())
        .gid(metadata.gid())
        .build()
        .ok()
}

/// The devices of a mapping, as the container will have them.
fn mapped(mapping: &DeviceMapping) -> Result<Vec<LinuxDevice>> {
    let node = |(path, inside): (PathBuf, PathBuf)| {
        device(&path, &inside).ok_or_else(|| {
            Error::System(format!(
                "error gathering device information while adding custom device \"{}\": not a device node",
                mapping.path_on_host
            ))
        })
    };
    expand(mapping)?.into_iter().map(node).collect()
}

/// The device a mapping names, or every device in the directory it names.
fn expand(mapping: &DeviceMapping) -> Result<Vec<(PathBuf, PathBuf)>> {
    let host = PathBuf::from(&mapping.path_on_host);
    let inside = match mapping.path_in_container.as_str() {
        "" => host.clone(),
        inside => PathBuf::from(inside),
    };
    let found = std::fs::metadata(&host).map_err(|error| {
        Error::System(format!(
            "error gathering device information while adding custom device \"{}\": {}",
            mapping.path_on_host,
            if error.kind() == std::io::ErrorKind::NotFound {
                "no such file or directory".into()
            } else {
                error.to_string()
            }
        ))
    })?;
    // A link to a device means the device.
    let host = std::fs::canonicalize(&host)?;
    if !found.is_dir() {
        return Ok(vec![(host, inside)]);
    }
    let mut all = Vec::new();
    let mut directories = vec![(host, inside)];
    while let Some((directory, inside)) = directories.pop() {
        for entry in std::fs::read_dir(&directory)? {
            let entry = entry?;
            let (kind, place) = (entry.file_type()?, inside.join(entry.file_name()));
            if kind.is_dir() && !SPECIAL.iter().any(|skip| entry.file_name() == **skip) {
                directories.push((entry.path(), place));
            } else if kind.is_char_device() || kind.is_block_device() {
                all.push((entry.path(), place));
            }
            if all.len() > MOST {
                return Err(Error::Invalid(format!("{} has more than {MOST} devices", mapping.path_on_host)));
            }
        }
    }
    Ok(all)
}

/// Every device of the host, for privileged containers; terminals and shared memory are the container's own.
fn every_device() -> Vec<LinuxDevice> {
    let mut devices = Vec::new();
    let mut directories = vec![PathBuf::from("/dev")];
    while let Some(directory) = directories.pop() {
        let Ok(entries) = std::fs::read_dir(&directory) else { continue };
        for entry in entries.flatten() {
            let (path, name) = (entry.path(), entry.file_name());
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() {
                if !SPECIAL.iter().any(|skip| name == **skip) {
                    directories.push(path);
                }
            } else if name != "console" && name != "ptmx" {
                devices.extend(device(&path, &path));
            }
        }
    }
    devices
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_strict() {
        parse_rule("c 1:3 rwm").unwrap();
        parse_rule("b *:* r").unwrap();
        for bad in ["", "c 1:3", "x 1:3 r", "c 1 r", "c 1:3 rx", "c -1:3 r", "c 1:3 r w", "c 1:3 rwmr"] {
            assert!(parse_rule(bad).is_err(), "{bad:?}");
        }
    }
}
