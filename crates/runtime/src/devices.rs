//! The container's `/dev`: the nodes every container has, those its configuration adds, the links, the console.

use crate::error::{Context, Error, Result};
use crate::mounts::{Plan, Source};
use crate::root::{Node, Root};
use crate::spec::{LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType, Spec};
use rustix::fs::{FileType, Mode, makedev};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use wharf_linux::cgroup::{DeviceKind, DeviceRule};
use wharf_linux::idmap::Ids;
use wharf_linux::mount;

/// Nodes of every container: name, major, minor.
const DEFAULT_NODES: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

/// Links of every container.
const LINKS: [(&str, &str); 5] = [
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
    ("/dev/core", "/proc/kcore"),
];

/// Device numbers every container may use on top of its configuration: the nodes above, the console, terminals, and
/// making (not opening) any node.
fn default_rules() -> Vec<DeviceRule> {
    let char = |major, minor| DeviceRule {
        allow: true,
        kind: DeviceKind::Char,
        major: Some(major),
        minor,
        read: true,
        write: true,
        mknod: true,
    };
    let make = |kind| DeviceRule {
        allow: true,
        kind,
        major: None,
        minor: None,
        read: false,
        write: false,
        mknod: true,
    };
    let mut rules = vec![make(DeviceKind::Char), make(DeviceKind::Block)];
    rules.extend(DEFAULT_NODES.iter().map(|(_, major, minor)| char(*major, Some(*minor))));
    // console, ptmx, every terminal of a devpts
    rules.extend([char(5, Some(1)), char(5, Some(2)), char(136, None)]);
    rules
}

/// The device list of a container: everything denied, then the configuration's rules, then the defaults. As with runc.
pub(crate) fn rules(spec: &Spec) -> Result<Vec<DeviceRule>> {
    let deny = DeviceRule {
        allow: false,
        kind: DeviceKind::All,
        major: None,
        minor: None,
        read: true,
        write: true,
        mknod: true,
    };
    let linux = spec.linux().as_ref();
    let listed = linux.and_then(|l| l.resources().as_ref()).and_then(|r| r.devices().as_ref());
    let listed: Vec<_> = listed.into_iter().flatten().map(rule).collect::<Result<_>>()?;
    // "Everything" makes the rest of the list meaningless, as in a privileged container.
    if listed.last().is_some_and(|r| *r == DeviceRule { allow: true, ..deny }) {
        return Ok(vec![deny, DeviceRule { allow: true, ..deny }]);
    }
    let mut rules = vec![deny];
    rules.extend(listed.into_iter().filter(|r| *r != deny));
    rules.extend(default_rules());
    // A node in `linux.devices` is made, and that alone allows nothing: which access it has, the rules say.
    Ok(without_repeats(rules))
}

/// Engines list the same device several times, and each entry costs a write: only the last of equal rules has an
/// effect of its own.
fn without_repeats(rules: Vec<DeviceRule>) -> Vec<DeviceRule> {
    let last = |(index, rule): &(usize, DeviceRule)| !rules[index + 1..].contains(rule);
    rules.iter().copied().enumerate().filter(last).map(|(_, rule)| rule).collect()
}

fn rule(rule: &LinuxDeviceCgroup) -> Result<DeviceRule> {
    let number = |n: Option<i64>| match n {
        None | Some(-1) => Ok(None),
        Some(n) => {
            u32::try_from(n).map(Some).map_err(|_| Error::invalid(format!("device number {n} in resources")))
        }
    };
    let access = rule.access().as_deref().unwrap_or("rwm");
    if access.chars().any(|c| !"rwm".contains(c)) {
        return Err(Error::invalid(format!("device access {access:?} is not made of r, w and m")));
    }
    let kind = match rule.typ() {
        None | Some(LinuxDeviceType::A) => DeviceKind::All,
        Some(LinuxDeviceType::B) => DeviceKind::Block,
        Some(LinuxDeviceType::C | LinuxDeviceType::U) => DeviceKind::Char,
        Some(LinuxDeviceType::P) => return Err(Error::invalid("a device rule speaks of a pipe")),
    };
    Ok(DeviceRule {
        allow: rule.allow(),
        kind,
        major: number(rule.major())?,
        minor: number(rule.minor())?,
        read: access.contains('r'),
        write: access.contains('w'),
        mknod: access.contains('m'),
    })
}

/// Whether `/dev` is the container's own to fill, and not a directory of the host's.
pub(crate) fn own_dev(plans: &[Plan]) -> bool {
    !plans.iter().any(|p| p.target == Path::new("/dev") && matches!(p.source, Source::Bind { .. }))
}

/// All nodes to make, in order.
pub(crate) fn nodes(spec: &Spec) -> Result<Vec<(PathBuf, Node)>> {
    let mut nodes: Vec<_> = DEFAULT_NODES
        .iter()
        .map(|(path, major, minor)| {
            let mode = Mode::from_raw_mode(0o666);
            let device = makedev(*major, *minor);
            (PathBuf::from(path), Node { kind: FileType::CharacterDevice, device, mode, uid: 0, gid: 0 })
        })
        .collect();
    for device in spec.linux().as_ref().and_then(|l| l.devices().as_ref()).into_iter().flatten() {
        let path = device.path().clone();
        nodes.retain(|(known, _)| *known != path);
        nodes.push((path, node(device)?));
    }
    Ok(nodes)
}

fn node(device: &LinuxDevice) -> Result<Node> {
    let number = |n: i64| {
        u32::try_from(n)
            .map_err(|_| Error::invalid(format!("device number {n} of {}", device.path().display())))
    };
    let kind = match device.typ() {
        LinuxDeviceType::B => FileType::BlockDevice,
        LinuxDeviceType::C | LinuxDeviceType::U => FileType::CharacterDevice,
        LinuxDeviceType::P => FileType::Fifo,
        LinuxDeviceType::A => {
            return Err(Error::invalid(format!("device {} has no definite type", device.path().display())));
        }
    };
    Ok(Node {
        kind,
        device: if kind == FileType::Fifo {
            0
        } else {
            makedev(number(device.major())?, number(device.minor())?)
        },
        mode: Mode::from_raw_mode(device.file_mode().unwrap_or(0o666) & 0o7777),
        uid: device.uid().unwrap_or(0),
        gid: device.gid().unwrap_or(0),
    })
}

/// Makes nodes and links. `bound` are nodes to bind instead of making them, for a user namespace that may not.
pub(crate) fn populate(root: &Root, nodes: &[(PathBuf, Node)], bound: &[OwnedFd]) -> Result<()> {
    for (index, (path, node)) in nodes.iter().enumerate() {
        let failed = |e: std::io::Error| Error::mount(path, format!("make the device: {e}"));
        match bound.get(index) {
            Some(tree) => {
                let target = root.make_file(path).map_err(failed)?;
                mount::attach(tree, target).map_err(failed)?;
            }
            None => root.make_device(path, node).map_err(failed)?,
        }
    }
    for (path, target) in LINKS {
        // A kernel without this file gets no link to nowhere.
        if target == "/proc/kcore" && !Path::new(target).exists() {
            continue;
        }
        root.make_link(Path::new(path), target).context(|| format!("make the link {path}"))?;
    }
    // devpts brings its own multiplexer.
    root.make_link(Path::new("/dev/ptmx"), "pts/ptmx").context(|| "make the link /dev/ptmx".into())
}

/// The nodes for [`populate`], made beneath `bench` by one who may make them, and for the owners that `ids` gives them.
pub(crate) fn make_apart(bench: &OwnedFd, nodes: &[(PathBuf, Node)], ids: &Ids) -> Result<Vec<OwnedFd>> {
    let make = |(number, (path, node)): (usize, &(PathBuf, Node))| {
        let failed = |e: std::io::Error| Error::mount(path, format!("make the device: {e}"));
        let name = format!("d{number}");
        rustix::fs::mknodat(bench, &name, node.kind, node.mode, node.device).map_err(|e| failed(e.into()))?;
        // An owner that the namespace has no name for stays root of the host: nobody.
        let owner = (ids.uids.outside(node.uid).unwrap_or(0), ids.gids.outside(node.gid).unwrap_or(0));
        let (uid, gid) = (rustix::fs::Uid::from_raw(owner.0), rustix::fs::Gid::from_raw(owner.1));
        rustix::fs::chownat(bench, &name, Some(uid), Some(gid), rustix::fs::AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| failed(e.into()))?;
        mount::clone_tree(bench, &name, false).map_err(failed)
    };
    nodes.iter().enumerate().map(make).collect()
}

/// Puts the terminal at `/dev/console`.
pub(crate) fn attach_console(root: &Root, slave: &OwnedFd) -> Result<()> {
    let path = Path::new("/dev/console");
    let failed = |e: std::io::Error| Error::mount(path, format!("bind the terminal: {e}"));
    root.make_file(path).map_err(failed)?;
    let target = root.find_plain(path).map_err(|e| match e.raw_os_error() {
        Some(libc::ELOOP) => Error::mount(path, "is a symbolic link"),
        _ => failed(e),
    })?;
    let tree = mount::clone_tree(slave, c"", false).map_err(failed)?;
    mount::attach(tree, target).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(json: &str) -> Spec {
        serde_json::from_str(&format!(r#"{{"ociVersion":"1.0.2","linux":{json}}}"#)).unwrap()
    }

    #[test]
    fn rt_13_devices_are_denied_first() {
        let rules = rules(&spec(
            r#"{"resources":{"devices":[{"allow":true,"type":"c","major":10,"minor":229,"access":"rw"}]}}"#,
        ))
        .unwrap();
        assert!(!rules[0].allow && rules[0].kind == DeviceKind::All);
        assert!(rules[1].allow && rules[1].major == Some(10) && !rules[1].mknod);
        // No later rule opens a block device or one without a major number.
        assert!(rules[1..].iter().all(|r| r.allow && (r.major.is_some() || !(r.read || r.write))));
    }

    #[test]
    fn rt_13_a_node_has_the_access_of_its_rule_and_no_more() {
        let rules = rules(&spec(
            r#"{"devices":[{"path":"/dev/x","type":"c","major":10,"minor":229}],
                "resources":{"devices":[{"allow":true,"type":"c","major":10,"minor":229,"access":"r"}]}}"#,
        ))
        .unwrap();
        let about: Vec<_> = rules.iter().filter(|rule| rule.major == Some(10)).collect();
        assert!(matches!(about[..], [rule] if rule.read && !rule.write && !rule.mknod), "{about:?}");
    }

    #[test]
    fn privileged_allows_everything_in_two_lines() {
        let rules = rules(&spec(r#"{"resources":{"devices":[{"allow":true,"access":"rwm"}]}}"#)).unwrap();
        assert_eq!(rules.len(), 2);
        assert!(rules[1].allow);
    }

    #[test]
    fn nonsense_is_refused() {
        for devices in [r#"[{"allow":true,"access":"x"}]"#, r#"[{"allow":true,"type":"c","major":-7}]"#] {
            assert!(rules(&spec(&format!(r#"{{"resources":{{"devices":{devices}}}}}"#))).is_err());
        }
    }
}
