//! `idmap` and `ownership=auto`: which maps of owners a container's mounts get. See ADR 0011.
//!
//! The maps are made anew at every start, from what is true then: the source's owner on disk and the container's user.

use std::collections::BTreeMap;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use std::os::fd::OwnedFd;
use wharf_linux::confined::{Root, open_beneath};
use wharf_linux::hostfs::Context;
use wharf_linux::idmap::{self, Ids, Map, Range};
use wharf_linux::process;
use wharf_model::ownership::{IdRange, Ownership, exchanged};
use wharf_model::spec::MountKind;

use crate::containers::{MountRecord, Record};
use crate::{Engine, Error, Result};

/// The largest `/etc/passwd` or `/etc/group` that is read.
const USERS: u64 = 1 << 20;

/// The maps of one mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IdMaps {
    pub(crate) uids: Vec<IdRange>,
    pub(crate) gids: Vec<IdRange>,
}

impl IdMaps {
    /// Files on disk belong to the ids of the container.
    pub(crate) fn of(ids: &Ids) -> Self {
        let ranges = |map: &Map| {
            let range =
                |range: &Range| IdRange { on_disk: range.inside, shown: range.outside, count: range.count };
            map.ranges().iter().map(range).collect()
        };
        Self { uids: ranges(&ids.uids), gids: ranges(&ids.gids) }
    }

    /// A user namespace that maps a mount like this.
    pub(crate) fn namespace(&self) -> std::io::Result<OwnedFd> {
        let lines = |ranges: &[IdRange]| -> String {
            ranges
                .iter()
                .map(|range| format!("{} {} {}\n", range.on_disk, range.shown, range.count))
                .collect()
        };
        process::user_namespace(&lines(&self.uids), &lines(&self.gids))
    }

    /// What is shown is what a user namespace calls it.
    fn within(self, ids: &Ids) -> Result<Self> {
        let ranges = |ranges: &[IdRange], map: &Map| {
            let found = through(ranges, map);
            match found.is_empty() || found.len() > idmap::MOST {
                true => Err(Error::Invalid(
                    "invalid idmap: none of its ids, or too many pieces, are in the container's user namespace".into(),
                )),
                false => Ok(found),
            }
        };
        Ok(Self { uids: ranges(&self.uids, &ids.uids)?, gids: ranges(&self.gids, &ids.gids)? })
    }
}

/// Ranges that are shown as ids of a user namespace, as what these ids are outside of it; the others are left out.
fn through(ranges: &[IdRange], map: &Map) -> Vec<IdRange> {
    let mut found = Vec::new();
    for range in ranges {
        for part in map.ranges() {
            let first = range.shown.max(part.inside);
            let end = (range.shown + range.count).min(part.inside + part.count);
            if first < end {
                found.push(IdRange {
                    on_disk: range.on_disk + (first - range.shown),
                    shown: part.outside + (first - part.inside),
                    count: end - first,
                });
            }
        }
    }
    found
}

impl Engine {
    /// The maps of a container's mounts, by target, with the user namespace it is in. Blocks.
    pub(crate) fn id_maps(&self, record: &Record, ids: Option<&Ids>) -> Result<BTreeMap<String, IdMaps>> {
        let mut maps = BTreeMap::new();
        let mut user = None;
        for mount in &record.mounts {
            let found = match &mount.ownership {
                // A volume of ours is out of everybody's reach but that of containers, and keeps their ids. What others
                // mount, or a directory of the host, is shown as it is: a container's root would be the host's there.
                None if mount.kind == MountKind::Volume && !mount.driven => ids.map(IdMaps::of),
                None => None,
                // Without a user namespace of its own a container sees the owners as they are.
                Some(Ownership::Mapped { uids, .. }) if uids.is_empty() => ids.map(IdMaps::of),
                Some(Ownership::Mapped { uids, gids }) => {
                    let maps = IdMaps { uids: uids.clone(), gids: gids.clone() };
                    Some(match ids {
                        Some(ids) => maps.within(ids)?,
                        None => maps,
                    })
                }
                Some(Ownership::Auto) => {
                    let user = match user {
                        Some(user) => user,
                        None => *user.insert(self.user_of(record)?),
                    };
                    automatic(mount, user, ids)?
                }
            };
            maps.extend(found.map(|found| (mount.target.clone(), found)));
        }
        Ok(maps)
    }

    /// The maps that show a container's mounts as it would know them in a user namespace, while it does not run.
    pub(crate) fn maps_at_rest(&self, record: &Record, ids: &Ids) -> Result<BTreeMap<String, IdMaps>> {
        let back = Ids { uids: ids.uids.inverse(), gids: ids.gids.inverse() };
        let mut maps = BTreeMap::new();
        for (target, map) in self.id_maps(record, Some(ids))? {
            maps.insert(target, map.within(&back)?);
        }
        for mount in
            record.mounts.iter().filter(|mount| matches!(mount.kind, MountKind::Bind | MountKind::Volume))
        {
            // As it is on disk: what the host calls an id.
            maps.entry(mount.target.clone()).or_insert_with(|| IdMaps::of(&back));
        }
        Ok(maps)
    }

    /// User and group of a container's process, looked up in its own files.
    fn user_of(&self, record: &Record) -> Result<(u32, u32)> {
        let text = record.spec.user.as_str();
        let (name, group) = text.split_once(':').unwrap_or((text, ""));
        if let (Ok(uid), Ok(gid)) = (name.parse(), group.parse()) {
            return Ok((uid, gid));
        }
        if text.is_empty() {
            return Ok((0, 0));
        }
        let layers = self.inner.images.snapshot(record.id.as_str())?;
        let root = Root::from_fd(layers.tree()?, Path::new("/"));
        let read = |file: &str| {
            let bytes = root.read_file(Path::new(file), USERS).unwrap_or_default();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let (users, groups) = (read("/etc/passwd"), read("/etc/group"));
        find_user(&users, &groups, name, group).ok_or_else(|| {
            Error::Invalid(format!("unable to find user {text}: no matching entries in passwd file"))
        })
    }
}

fn find_user(users: &str, groups: &str, name: &str, group: &str) -> Option<(u32, u32)> {
    let line = |text: &str, wanted: &str| -> Option<Vec<String>> {
        let mut lines = text.lines().map(|line| line.split(':').map(str::to_owned).collect::<Vec<_>>());
        lines.find(|fields| fields.len() > 2 && (fields[0] == wanted || fields[2] == wanted))
    };
    let entry = line(users, name);
    let number = |field: Option<&String>| field.and_then(|text| text.parse::<u32>().ok());
    let uid = name.parse().ok().or_else(|| number(entry.as_ref()?.get(2)))?;
    let gid = match group {
        "" => entry.as_ref().map_or(Some(0), |fields| number(fields.get(3))),
        group => group.parse().ok().or_else(|| number(line(groups, group)?.get(2))),
    };
    Some((uid, gid?))
}

/// The container's user and the source's owner take each other's place; `None` when they are one already.
fn automatic(mount: &MountRecord, (uid, gid): (u32, u32), ids: Option<&Ids>) -> Result<Option<IdMaps>> {
    let source = Path::new(&mount.source);
    let handle = rustix::fs::open(source, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    let mut handle = handle.context("open", source)?;
    if !mount.subpath.is_empty() {
        handle = open_beneath(&handle, Path::new(&mount.subpath)).context("open", source)?;
    }
    let stat = rustix::fs::fstat(&handle).context("stat", source)?;
    if stat.st_uid == 0 && (uid != 0 || ids.is_some()) {
        return Err(Error::Invalid(format!(
            "invalid ownership=auto for {}: {} belongs to root, and what user {uid} of the container makes there \
             would be root's on this host; give the directory to the user who shall own the files",
            mount.target, mount.source
        )));
    }
    if ids.is_some() && stat.st_gid == 0 && gid == 0 {
        return Err(Error::Invalid(format!(
            "invalid ownership=auto for {}: {} belongs to root's group, which a container in a user namespace cannot make \
             files for; give the directory to the group that shall own the files",
            mount.target, mount.source
        )));
    }
    // Root's group stays what it is: a member of it made by a container would surprise.
    let gids = if stat.st_gid == 0 && gid != 0 { exchanged(0, 0) } else { exchanged(stat.st_gid, gid) };
    if let Some(ids) = ids {
        // Who is root in the container must not become root on the host by this.
        let without_root = |ranges: Vec<IdRange>| ranges.into_iter().filter_map(above_root).collect();
        let uids = without_root(exchanged(stat.st_uid, uid));
        return IdMaps { uids, gids: without_root(gids) }.within(ids).map(Some);
    }
    let same = stat.st_uid == uid && gids == exchanged(0, 0);
    Ok((!same).then(|| IdMaps { uids: exchanged(stat.st_uid, uid), gids }))
}

/// A range without id 0 on disk.
fn above_root(range: IdRange) -> Option<IdRange> {
    match range {
        IdRange { on_disk: 0, count: 1, .. } => None,
        IdRange { on_disk: 0, shown, count } => {
            Some(IdRange { on_disk: 1, shown: shown + 1, count: count - 1 })
        }
        range => Some(range),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_goes_through_the_user_namespace() {
        let range = |on_disk, shown, count| IdRange { on_disk, shown, count };
        let map = Map::parse("0 100000 1000\n1000 5000 10\n").unwrap();
        assert_eq!(through(&[range(0, 0, 2000)], &map), [range(0, 100_000, 1000), range(1000, 5000, 10)]);
        assert_eq!(through(&[range(7, 999, 2)], &map), [range(7, 100_999, 1), range(8, 5000, 1)]);
        assert_eq!(through(&[range(7, 2000, 2)], &map), []);
        assert_eq!(above_root(range(0, 5, 3)), Some(range(1, 6, 2)));
        assert_eq!((above_root(range(0, 5, 1)), above_root(range(2, 5, 1))), (None, Some(range(2, 5, 1))));
    }

    #[test]
    fn users_are_found_by_name_and_number() {
        let (users, groups) = ("root:x:0:0:r:/:/bin/sh\nweb:x:33:44::/:\n", "root:x:0:\nstaff:x:50:web\n");
        let find = |name: &str, group: &str| find_user(users, groups, name, group);
        assert_eq!(find("web", ""), Some((33, 44)));
        assert_eq!(find("33", ""), Some((33, 44)));
        assert_eq!(find("1000", ""), Some((1000, 0)));
        assert_eq!(find("web", "staff"), Some((33, 50)));
        assert_eq!(find("1000", "7"), Some((1000, 7)));
        assert_eq!(find("nobody", ""), None);
        assert_eq!(find("web", "nogroup"), None);
    }
}
