//! `--userns-remap`: which ids of the host the users of containers are.
//!
//! The ids come from `subuid` and `subgid`, where the administrator keeps the ranges of all users apart. Nothing on disk
//! depends on them: layers and volumes keep the containers' ids and are shown as others, so the same container may run
//! with a map, with another one, or without any.

use std::path::Path;

use wharf_linux::hostfs;
use wharf_linux::idmap::{Ids, Map, Range};
use wharf_linux::{mount, process};
use wharf_model::network::NetworkMode;
use wharf_model::spec::HostSpec;

use crate::containers::Record;
use crate::{Engine, Error, Result};

/// The user that `default` means. Docker's name, so that a machine which is set up for it is set up for us.
const DEFAULT_USER: &str = "dockremap";
/// The most that is read of `subuid`, `subgid`, `passwd` and `group`.
const FILE_LIMIT: u64 = 4 << 20;

/// Whose ids containers have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remap {
    /// The user, as found.
    pub user: String,
    /// The maps.
    pub ids: Ids,
}

impl Remap {
    /// Finds `default`, `USER[:GROUP]` or `UID[:GID]` in the files `subuid` and `subgid` of a directory. `None` for no
    /// mapping at all: nothing, or root.
    ///
    /// # Errors
    /// What is wrong, where, and what to do.
    pub fn find(text: &str, directory: &Path) -> Result<Option<Self>> {
        let mut parts = text.split(':');
        let (user, group) = (parts.next().unwrap_or_default(), parts.next());
        if parts.next().is_some() || group == Some("") || (user.is_empty() && group.is_some()) {
            return Err(Error::Invalid(format!(
                "invalid user/group specification in --userns-remap: {text:?}"
            )));
        }
        let (user, group) = if user == "default" { (DEFAULT_USER, None) } else { (user, group) };
        if matches!(user, "" | "root" | "0") {
            return Ok(None);
        }
        let users = names(user, Path::new("/etc/passwd"));
        let mut groups = users.clone();
        groups.extend(group.into_iter().flat_map(|group| names(group, Path::new("/etc/group"))));
        let ids = Ids {
            uids: ranges(&directory.join("subuid"), &users)?,
            gids: ranges(&directory.join("subgid"), &groups)?,
        };
        Ok(Some(Self { user: user.to_owned(), ids }))
    }

    /// Proves that the kernel and the file system of the data root can do it. Blocks.
    pub(crate) fn check(&self, data_root: &Path) -> Result<()> {
        let namespace = self.namespace().map_err(|error| {
            Error::System(format!(
                "userns-remap: cannot make a user namespace: {error}; is it switched off by the kernel parameter \
                 user.max_user_namespaces?"
            ))
        })?;
        let mapped = mount::clone_tree(rustix::fs::CWD, data_root, false)
            .and_then(|tree| mount::set_id_map(tree, namespace, false));
        mapped.map_err(|error| {
            Error::System(format!(
                "userns-remap: the file system of {} cannot show files with other owners: {error}; have the data root \
                 on ext4, xfs, btrfs or tmpfs",
                data_root.display()
            ))
        })
    }

    fn namespace(&self) -> std::io::Result<std::os::fd::OwnedFd> {
        process::user_namespace(&self.ids.uids.to_string(), &self.ids.gids.to_string())
    }
}

/// A user or group by both its name and its number, as far as the machine knows them.
fn names(wanted: &str, file: &Path) -> Vec<String> {
    let mut names = vec![wanted.to_owned()];
    let bytes = hostfs::read_bounded(file, FILE_LIMIT).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let entry = text.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|fields| {
        fields.len() > 2 && (fields[0] == wanted || (fields[2] == wanted && wanted.parse::<u32>().is_ok()))
    });
    if let Some(fields) = entry {
        names.extend([fields[0], fields[2]].into_iter().filter(|name| *name != wanted).map(str::to_owned));
    }
    names
}

/// All ranges that a file has for somebody, in the order of their first id, as one map from 0 on.
fn ranges(file: &Path, names: &[String]) -> Result<Map> {
    let missing = || {
        let (user, kind) = (&names[0], if file.ends_with("subuid") { "subuids" } else { "subgids" });
        format!(
            "add a line like {user}:100000:65536 to {}, or have usermod --add-{kind} 100000-165535 {user} do it, with ids \
             that nobody else has",
            file.display()
        )
    };
    let bytes = hostfs::read_bounded(file, FILE_LIMIT)
        .map_err(|error| Error::System(format!("Can't create ID mappings: {error}: {}", missing())))?;
    let found = parse(&String::from_utf8_lossy(&bytes), names)
        .map_err(|why| Error::Invalid(format!("Can't create ID mappings: {}: {why}", file.display())))?;
    found.ok_or_else(|| {
        let kind = file.file_name().unwrap_or_default().to_string_lossy();
        Error::Invalid(format!(
            "Can't create ID mappings: no {kind} ranges found for user {:?}: {}",
            names[0],
            missing()
        ))
    })
}

/// The map that the text of `subuid` or `subgid` has for somebody. Lines of others may be what they like.
fn parse(text: &str, names: &[String]) -> std::result::Result<Option<Map>, String> {
    let mut found: Vec<(u32, u32)> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let mut fields = line.trim().split(':');
        if !names.iter().any(|name| fields.clone().next() == Some(name)) {
            continue;
        }
        fields.next();
        let mut next = || fields.next().and_then(|field| field.trim().parse::<u32>().ok());
        let (first, count) = (next(), next());
        let (Some(first), Some(count), None) = (first, count, fields.next()) else {
            return Err(format!("line {} is not user:first:count", number + 1));
        };
        if first == 0 {
            return Err(format!("line {}: a range from 0 on has the host's root in it", number + 1));
        }
        // Twice the same says nothing new.
        if count > 0 && !found.contains(&(first, count)) {
            found.push((first, count));
        }
        if found.len() > wharf_linux::idmap::MOST {
            return Err(format!("more than {} ranges for {}", wharf_linux::idmap::MOST, names[0]));
        }
    }
    if found.is_empty() {
        return Ok(None);
    }
    found.sort_unstable();
    let mut inside = 0_u32;
    let mut map = Vec::with_capacity(found.len());
    for (outside, count) in found {
        map.push(Range { inside, outside, count });
        inside = inside.checked_add(count).ok_or("more ids than there are")?;
    }
    Map::new(map)
        .map(Some)
        .ok_or_else(|| format!("the ranges of {} overlap, or end beyond the last id", names[0]))
}

/// For the fuzz target.
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub fn fuzz(text: &str) {
    if let Ok(Some(map)) = parse(text, &["dockremap".to_owned(), "1".to_owned()]) {
        assert!(map.outside(0).is_some_and(|root| root != 0) && map.inside(0).is_none());
    }
}

impl Engine {
    /// The ids of a container's users when it starts now, apart from those of one it joins; `None` when they are the
    /// host's.
    pub(crate) fn remap(&self, host: &HostSpec) -> Option<&Remap> {
        self.inner.config.remap.as_ref().filter(|_| host.userns_mode != "host")
    }

    /// Refuses what cannot be had together with a user namespace. Docker's words.
    pub(crate) fn check_remap(&self, host: &HostSpec) -> Result<()> {
        if self.remap(host).is_none() {
            return Ok(());
        }
        let refused = |text: &str| Err(Error::Invalid(text.to_owned()));
        if host.privileged {
            return refused(
                "privileged mode is incompatible with user namespaces.  You must run the container in the host namespace \
                 when running privileged mode",
            );
        }
        if host.network_mode == NetworkMode::Host {
            return refused("cannot share the host's network namespace when user namespaces are enabled");
        }
        if host.pid_mode == "host" {
            return refused("cannot share the host PID namespace when user namespaces are enabled");
        }
        if self.live().config.runtimes.find(&host.runtime)?.is_some() {
            return Err(Error::Invalid(format!(
                "the runtime {} cannot show a container its files in a user namespace: use --userns=host, or the built-in \
                 runtime (--runtime wharf)",
                host.runtime
            )));
        }
        Ok(())
    }
}

/// The user namespace of one start.
#[derive(Clone, Debug)]
pub(crate) struct UserNamespace {
    /// One to join; otherwise it is made.
    pub(crate) path: Option<String>,
    pub(crate) ids: Ids,
}

impl UserNamespace {
    /// That of a running process; `None` if it is ours.
    pub(crate) fn of(pid: i32) -> Result<Option<Self>> {
        let path = format!("/proc/{pid}/ns/user");
        let failed = |error: rustix::io::Errno| match error {
            rustix::io::Errno::NOENT => Error::Conflict("the container ended just now; try again".into()),
            _ => Error::System(format!("looking at {path}: {error}")),
        };
        let (theirs, ours) = (
            rustix::fs::stat(&path).map_err(failed)?,
            rustix::fs::stat("/proc/self/ns/user").map_err(failed)?,
        );
        if (theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino) {
            return Ok(None);
        }
        let map = |file: &str| {
            let file = format!("/proc/{pid}/{file}");
            let bytes = hostfs::read_bounded(Path::new(&file), FILE_LIMIT)?;
            Map::parse(&String::from_utf8_lossy(&bytes))
                .ok_or_else(|| Error::System(format!("{file} has no map")))
        };
        Ok(Some(Self { ids: Ids { uids: map("uid_map")?, gids: map("gid_map")? }, path: Some(path) }))
    }

    /// What a container is to be started with: the namespace of those it joins, or a new one.
    pub(crate) fn for_start(engine: &Engine, record: &Record, donors: &[i32]) -> Result<Option<Self>> {
        let Some(remap) = engine.remap(&record.spec.host) else { return Ok(None) };
        engine.check_remap(&record.spec.host)?;
        let Some((first, others)) = donors.split_first() else {
            return Ok(Some(Self { path: None, ids: remap.ids.clone() }));
        };
        let namespace = Self::of(*first)?.ok_or_else(|| {
            Error::Conflict(
                "cannot share a namespace with a container that runs without a user namespace: start this one with \
                 --userns=host, too"
                    .into(),
            )
        })?;
        let inode = |pid: &i32| rustix::fs::stat(format!("/proc/{pid}/ns/user")).ok().map(|stat| stat.st_ino);
        if others.iter().any(|other| inode(other) != inode(first)) {
            return Err(Error::Conflict(
                "cannot share namespaces with containers that are in different user namespaces".into(),
            ));
        }
        Ok(Some(namespace))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> std::result::Result<Option<String>, String> {
        parse(text, &["web".to_owned(), "1000".to_owned()]).map(|map| map.map(|map| map.to_string()))
    }

    #[test]
    fn ranges_of_one_user_are_one_map() {
        assert_eq!(parsed("web:100000:65536\n"), Ok(Some("0 100000 65536\n".into())));
        assert_eq!(
            parsed("# ranges\nother:5:5\nweb:300000:10\n1000:200000:1000\nweb:300000:10\nbroken\n"),
            Ok(Some("0 200000 1000\n1000 300000 10\n".into()))
        );
        assert_eq!(parsed(""), Ok(None));
        assert_eq!(parsed("webs:1:1\nwe:1:1\n:1:1\nweb:7:0"), Ok(None));
    }

    #[test]
    fn hostile_files_are_refused_with_the_line() {
        for (text, why) in [
            ("web", "line 1 is not"),
            ("\nweb:1", "line 2 is not"),
            ("web:1:2:3", "line 1 is not"),
            ("web:-1:5", "line 1 is not"),
            ("web:99999999999:5", "line 1 is not"),
            ("web:0:65536", "line 1: a range from 0"),
            ("web:100:50\nweb:120:50", "overlap"),
            ("web:4294967000:1000", "overlap, or end beyond"),
        ] {
            let error = parsed(text).unwrap_err();
            assert!(error.contains(why), "{text:?}: {error}");
        }
        let many: String = (1..400).map(|n| format!("web:{}:1\n", n * 10)).collect();
        assert!(parsed(&many).unwrap_err().contains("more than 340"));
    }

    #[test]
    fn users_are_named_in_docker_s_ways() {
        let directory = std::env::temp_dir().join(format!("wharf-subid-{}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        let find = |text: &str| Remap::find(text, &directory);
        assert!(find("default").unwrap_err().to_string().contains("subuid"));
        std::fs::write(directory.join("subuid"), "dockremap:100000:65536\n4242:7000:10\n").unwrap();
        std::fs::write(directory.join("subgid"), "dockremap:200000:65536\n777:8000:10\n").unwrap();
        let remap = find("default").unwrap().unwrap();
        assert_eq!((remap.user.as_str(), remap.ids.root()), ("dockremap", Some((100_000, 200_000))));
        assert_eq!(find("dockremap").unwrap().unwrap(), remap);
        assert_eq!(find("4242:777").unwrap().unwrap().ids.root(), Some((7000, 8000)));
        assert_eq!(find("root").unwrap(), None);
        assert_eq!(find("").unwrap(), None);
        assert!(find("a:b:c").unwrap_err().to_string().contains("invalid user/group specification"));
        let error = find("nobody-here").unwrap_err().to_string();
        assert!(error.contains("no subuid ranges found for user \"nobody-here\""), "{error}");
        let error = find("4242").unwrap_err().to_string();
        assert!(
            error.contains("no subgid ranges found") && error.contains("usermod --add-subgids"),
            "{error}"
        );
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
