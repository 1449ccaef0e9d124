//! The sweep: what an engine may have forgotten on this machine.
//!
//! Reads only `/proc` and `/sys`, so it needs no program that a small machine lacks. [`Traces`] looks for what belongs to
//! one scratch engine and is safe while others run; [`of_any_engine`] looks for everything, for the end of a whole run.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, kill_process};
use wharf_linux::netlink::{Attributes, Batch, Family, Socket};

/// What identifies one scratch engine: its directory and its subnet.
#[derive(Debug, Clone)]
pub struct Traces {
    /// Data and exec root lie beneath.
    pub root: PathBuf,
    /// The start of every address in its subnet, such as `10.213.7.`.
    pub address: String,
}

impl Traces {
    /// One line for each thing that is still there.
    pub fn find(&self) -> Vec<String> {
        let root = self.root.to_string_lossy().into_owned();
        let mut found: Vec<String> = processes_mentioning(&root)
            .into_iter()
            .map(|(pid, line)| format!("process {pid}: {line}"))
            .collect();
        found.extend(mounts(|line| line.contains(&root)));
        if address_in_use(&self.address) {
            let links = entries(Path::new("/sys/class/net")).join(" ");
            found.push(format!("an address or route in {}0/24; the links are: {links}", self.address));
        }
        found
    }

    /// Ends what is still running after a failed test.
    pub fn kill_processes(&self) {
        for (pid, _) in processes_mentioning(&self.root.to_string_lossy()) {
            if let Some(pid) = Pid::from_raw(pid) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }
}

/// True when an address or route of this network namespace starts with `prefix`.
pub(crate) fn address_in_use(prefix: &str) -> bool {
    // Leaves only: an inner node may carry an address that nobody has.
    let leaf = format!("|-- {prefix}");
    fs::read_to_string("/proc/net/fib_trie").unwrap_or_default().contains(&leaf)
}

/// Everything on this machine that looks like an engine's: processes, mounts, links, cgroups, tables.
pub fn of_any_engine() -> Vec<String> {
    let ours = |line: &str| line.contains("wharf");
    let mut found: Vec<String> = all_processes()
        .filter(|(pid, _)| comm(*pid).starts_with("wharf"))
        .map(|(pid, line)| format!("process {pid}: {line}"))
        .collect();
    found.extend(mounts(ours));
    let links = entries(Path::new("/sys/class/net"));
    let made_by_us = |name: &String| ["wharf", "wh-", "whv"].iter().any(|start| name.starts_with(start));
    found.extend(links.into_iter().filter(made_by_us).map(|name| format!("link {name}")));
    found.extend(cgroups().into_iter().map(|path| format!("cgroup {}", path.display())));
    let tables = firewall_tables().into_iter().filter(|name| name == "wharf" || name.starts_with("wharf-"));
    found.extend(tables.map(|name| format!("firewall table {name}")));
    found
}

/// Container cgroups of any engine, in every hierarchy.
fn cgroups() -> BTreeSet<PathBuf> {
    let hierarchies = entries(Path::new("/sys/fs/cgroup"));
    let parents = hierarchies.iter().map(|name| Path::new("/sys/fs/cgroup").join(name).join("wharf"));
    let parents = parents.chain([PathBuf::from("/sys/fs/cgroup/wharf")]);
    let is_dir = |path: &PathBuf| path.is_dir();
    parents
        .flat_map(|parent| entries(&parent).into_iter().map(move |name| parent.join(name)))
        .filter(is_dir)
        .collect()
}

/// Names in a directory; none when it cannot be read (it may just have gone).
pub(crate) fn entries(dir: &Path) -> Vec<String> {
    let list = fs::read_dir(dir).into_iter().flatten().flatten();
    list.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn mounts(matches: impl Fn(&str) -> bool) -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    table.lines().filter(|line| matches(line)).map(|line| format!("mount {line}")).collect()
}

/// The names of all nf_tables tables in this network namespace.
fn firewall_tables() -> Vec<String> {
    /// `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETTABLE`.
    const GET_TABLE: u16 = 10 << 8 | 1;
    /// `NFTA_TABLE_NAME`.
    const NAME: u16 = 1;
    let mut names = Vec::new();
    let mut batch = Batch::new();
    // The header of netfilter messages: any family, version 0, no resource.
    let header = [0; 4];
    batch.push(GET_TABLE, Batch::DUMP, &header, |_| ());
    let listed = Socket::open(Family::Netfilter).and_then(|mut socket| {
        socket.exchange(&mut batch, &mut |frame| {
            let name =
                Attributes::after(frame.payload, header.len()).find(NAME).ok().flatten().unwrap_or_default();
            names.push(String::from_utf8_lossy(name).trim_end_matches('\0').to_owned());
            Ok(())
        })
    });
    // A kernel without nf_tables has no tables of ours.
    listed.map(|()| names).unwrap_or_default()
}

fn processes_mentioning(needle: &str) -> Vec<(i32, String)> {
    let own = std::process::id() as i32;
    all_processes().filter(|(pid, line)| *pid != own && line.contains(needle)).collect()
}

pub(crate) fn all_processes() -> impl Iterator<Item = (i32, String)> {
    entries(Path::new("/proc")).into_iter().filter_map(|name| {
        let pid = name.parse().ok()?;
        let bytes = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        Some((pid, String::from_utf8_lossy(&bytes).replace('\0', " ")))
    })
}

fn comm(pid: i32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    use super::*;

    #[test]
    fn a_process_that_names_the_root_is_found() {
        let root = PathBuf::from("/tmp/no-such-engine-root");
        let traces = Traces { root: root.clone(), address: "10.213.255.".to_owned() };
        assert_eq!(traces.find(), Vec::<String>::new());
        let mut child = Command::new("sleep").arg0(&root).arg("1000").spawn().unwrap();
        // For a moment after its exec a process has no command line yet.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        let mut found = traces.find();
        while found.is_empty() && std::time::Instant::now() < deadline {
            std::thread::yield_now();
            found = traces.find();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(found.iter().any(|line| line.contains("no-such-engine-root")), "{found:?}");
    }
}
