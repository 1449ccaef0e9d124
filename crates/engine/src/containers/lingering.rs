//! Shims of an earlier engine that are on their way out: a start that the engine was killed in is being undone, an end is
//! being cleaned up. Their control groups and files belong to them until they are gone, so nothing is started before.

use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use wharf_linux::{hostfs, process};

/// How long they get; a shim needs two seconds when something holds its container's output.
const PATIENCE: Duration = Duration::from_secs(10);
const SIGKILL: i32 = 9;
/// The longest command line looked at.
const COMMAND_LINE: u64 = 16 * 1024;

/// Waits until every shim below `containers` is gone, but for those of `live`; ends the ones that hang.
pub(super) fn wait(containers: &Path, live: &HashSet<String>) {
    let deadline = Instant::now() + PATIENCE;
    for (pid, id, shim) in shims(containers) {
        if live.contains(&id) || ended(&shim, deadline) {
            continue;
        }
        tracing::warn!(container = %id, pid, "a shim of an earlier engine hangs and is killed");
        // It may leave at this very moment.
        let _gone = process::signal(shim.as_fd(), SIGKILL);
        ended(&shim, Instant::now() + PATIENCE);
    }
}

/// Processes that were started as `wharf-shim run <containers>/<id>/shim.json`.
fn shims(containers: &Path) -> Vec<(i32, String, OwnedFd)> {
    let names = hostfs::read_dir(Path::new("/proc")).unwrap_or_default();
    let pids = names.iter().filter_map(|name| name.to_str()?.parse::<i32>().ok());
    pids.filter_map(|pid| {
        container_of(pid, containers)?;
        let handle = process::open(pid).ok()?;
        // Asked again with the handle in hand: the number cannot have become another's in between.
        Some((pid, container_of(pid, containers)?, handle))
    })
    .collect()
}

fn container_of(pid: i32, containers: &Path) -> Option<String> {
    let line = hostfs::read_bounded(Path::new(&format!("/proc/{pid}/cmdline")), COMMAND_LINE).ok()?;
    let text = String::from_utf8(line).ok()?;
    let mut words = text.split('\0');
    let (program, verb, config) = (words.next()?, words.next()?, words.next()?);
    let inside = Path::new(config).strip_prefix(containers).ok()?;
    let id = inside.parent()?.to_str()?;
    (program == "wharf-shim" && verb == "run").then(|| id.to_owned())
}

/// True once it has ended, at the deadline at the latest.
fn ended(shim: &OwnedFd, deadline: Instant) -> bool {
    let left = deadline.saturating_duration_since(Instant::now());
    let left = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 0, tv_nsec: 0 });
    matches!(poll(&mut [PollFd::new(shim, PollFlags::IN)], Some(&left)), Ok(1..))
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn only_shims_of_these_containers_are_waited_for() {
        use std::os::unix::process::CommandExt;
        let dir = tempfile::tempdir().unwrap();
        // A script called `run`, so that a shell looks like a shim; it lasts until its standard input is closed.
        hostfs::write(&dir.path().join("run"), b"read line").unwrap();
        let mut shell = Command::new("/bin/sh");
        shell.arg0("wharf-shim").current_dir(dir.path()).args(["run", "/nowhere/containers/a/shim.json"]);
        let mut shell = shell.stdin(Stdio::piped()).spawn().unwrap();
        assert!(shims(Path::new("/elsewhere")).is_empty());
        let found = shims(Path::new("/nowhere/containers"));
        let [(pid, id, handle)] = &found[..] else { panic!("{found:?}") };
        assert_eq!((*pid, id.as_str()), (i32::try_from(shell.id()).unwrap(), "a"));
        assert!(!ended(handle, Instant::now()));
        // One that watches over a running container is not waited for.
        wait(Path::new("/nowhere/containers"), &HashSet::from(["a".to_owned()]));
        drop(shell.stdin.take());
        wait(Path::new("/nowhere/containers"), &HashSet::new());
        assert!(ended(handle, Instant::now()));
        shell.wait().unwrap();
    }
}
