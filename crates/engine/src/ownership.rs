//! `idmap` and `ownership=auto`: which maps of owners a container's mounts get. See ADR 0011.
//!
//! The maps are made anew at every start, from what is true then: the source's owner on disk and the container's user.

use std::collections::BTreeMap;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use wharf_linux::confined::{Root, open_beneath};
use wharf_linux::hostfs::Context;
use wharf_model::ownership::{IdRange, Ownership, exchanged};

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

impl Engine {
    /// The maps of a container's mounts, by target. Blocks.
    pub(crate) fn id_maps(&self, record: &Record) -> Result<BTreeMap<String, IdMaps>> {
        let mut maps = BTreeMap::new();
        let mut user = None;
        for mount in &record.mounts {
            let found = match &mount.ownership {
                None => None,
                // Without a user namespace of its own a container sees the owners as they are.
                Some(Ownership::Mapped { uids, .. }) if uids.is_empty() => None,
                Some(Ownership::Mapped { uids, gids }) => {
                    Some(IdMaps { uids: uids.clone(), gids: gids.clone() })
                }
                Some(Ownership::Auto) => {
                    let user = match user {
                        Some(user) => user,
                        None => *user.insert(self.user_of(record)?),
                    };
                    automatic(mount, user)?
                }
            };
            maps.extend(found.map(|found| (mount.target.clone(), found)));
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
fn automatic(mount: &MountRecord, (uid, gid): (u32, u32)) -> Result<Option<IdMaps>> {
    let source = Path::new(&mount.source);
    let handle = rustix::fs::open(source, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    let mut handle = handle.context("open", source)?;
    if !mount.subpath.is_empty() {
        handle = open_beneath(&handle, Path::new(&mount.subpath)).context("open", source)?;
    }
    let stat = rustix::fs::fstat(&handle).context("stat", source)?;
    if stat.st_uid == 0 && uid != 0 {
        return Err(Error::Invalid(format!(
            "invalid ownership=auto for {}: {} belongs to root, and what user {uid} of the container makes there \
             would be root's on this host; give the directory to the user who shall own the files",
            mount.target, mount.source
        )));
    }
    // Root's group stays what it is: a member of it made by a container would surprise.
    let gids = if stat.st_gid == 0 && gid != 0 { exchanged(0, 0) } else { exchanged(stat.st_gid, gid) };
    let same = stat.st_uid == uid && gids == exchanged(0, 0);
    Ok((!same).then(|| IdMaps { uids: exchanged(stat.st_uid, uid), gids }))
}

#[cfg(test)]
mod tests {
    use super::*;

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
