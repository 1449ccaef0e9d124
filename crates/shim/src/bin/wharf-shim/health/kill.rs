//! The end of a probe that takes too long: its command and all that came of it.
//!
//! What belongs to it are its descendants, and its session (it began one), so that a grandchild whose parent has ended
//! is found as well. Everything found is stopped first, so that nothing new appears while the rest is looked for.
//! A process that has left both the family and the session is the container's own from then on.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use wharf_linux::cgroup::Cgroup;
use wharf_linux::{hostfs, process};

const SIGKILL: i32 = 9;
const SIGSTOP: i32 = 19;
/// How often is looked for processes that appeared meanwhile.
const PASSES: usize = 16;

/// What identifies a process and its place in the family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stat {
    parent: i32,
    session: i32,
    /// Of its start; tells it from a later process of the same number.
    time: u64,
}

/// Kills the process `leader` in `cgroup` with everything that came of it.
pub(crate) fn kill_family(cgroup: &Cgroup, leader: i32) {
    let mut found: BTreeMap<i32, Option<OwnedFd>> = BTreeMap::new();
    for _ in 0..PASSES {
        let stats: BTreeMap<i32, Stat> =
            cgroup.pids().unwrap_or_default().into_iter().filter_map(|pid| Some((pid, stat(pid)?))).collect();
        let known: Vec<i32> = found.keys().copied().collect();
        let new: Vec<i32> =
            family(&stats, leader, &known).into_iter().filter(|pid| !found.contains_key(pid)).collect();
        if new.is_empty() {
            break;
        }
        for pid in new {
            let handle = process::open(pid)
                .ok()
                .filter(|_| stat(pid).map(|s| s.time) == stats.get(&pid).map(|s| s.time));
            send(handle.as_ref(), SIGSTOP);
            found.insert(pid, handle);
        }
    }
    found.values().for_each(|handle| send(handle.as_ref(), SIGKILL));
}

fn send(handle: Option<&OwnedFd>, number: i32) {
    // It may have ended, which is as good.
    let _ended = handle.map(|handle| process::signal(handle.as_fd(), number));
}

/// Who belongs to `leader` or to those known already.
fn family(stats: &BTreeMap<i32, Stat>, leader: i32, known: &[i32]) -> Vec<i32> {
    let mut members: Vec<i32> = stats
        .iter()
        .filter(|(pid, stat)| **pid == leader || stat.session == leader || known.contains(pid))
        .map(|(pid, _)| *pid)
        .collect();
    loop {
        let children = stats
            .iter()
            .filter(|(pid, stat)| !members.contains(pid) && members.contains(&stat.parent))
            .map(|(pid, _)| *pid);
        let children: Vec<i32> = children.collect();
        if children.is_empty() {
            return members;
        }
        members.extend(children);
    }
}

fn stat(pid: i32) -> Option<Stat> {
    parse(&hostfs::read_to_string(Path::new(&format!("/proc/{pid}/stat"))).ok()?)
}

/// Fields 4, 6 and 22 of `/proc/<pid>/stat`; the name in field 2 may hold anything.
fn parse(text: &str) -> Option<Stat> {
    let fields: Vec<&str> = text.rsplit_once(") ")?.1.split(' ').collect();
    let number = |index: usize| fields.get(index)?.parse::<i32>().ok();
    Some(Stat { parent: number(1)?, session: number(3)?, time: fields.get(19)?.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_is_descendants_and_session() {
        let stat = |parent, session| Stat { parent, session, time: 0 };
        let stats = BTreeMap::from([
            (1, stat(0, 1)),
            (2, stat(1, 1)),
            (10, stat(0, 10)),
            (11, stat(10, 10)),
            // Has a session of its own, and a living parent.
            (12, stat(11, 12)),
            // Its parent has ended.
            (13, stat(1, 10)),
            (14, stat(13, 14)),
        ]);
        let mut found = family(&stats, 10, &[]);
        found.sort_unstable();
        assert_eq!(found, [10, 11, 12, 13, 14]);
        assert_eq!(family(&stats, 99, &[2]), [2]);
    }

    #[test]
    fn a_process_is_described_whatever_its_name() {
        let own = stat(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert_eq!(own.parent, rustix::process::getppid().unwrap().as_raw_nonzero().get());
        let text = "7 (a) R 1 2) S 3 4 5 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 777 0 0";
        assert_eq!(parse(text), Some(Stat { parent: 3, session: 5, time: 777 }));
        assert_eq!(parse("7 (a) S 3"), None);
    }
}
