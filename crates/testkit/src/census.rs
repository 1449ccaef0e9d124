//! What an engine has on this machine while it runs, and what of it nobody asked for.
//!
//! [`unexplained`] compares what lies around (processes, control groups, mounts, links, directories, rows) with what the
//! API lists. [`Census`] counts everything, to be compared before and after many operations.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use wharf_linux::netlink::{Attributes, Batch, Family, Socket};
use wharf_state::Database;

use crate::Engine;
use crate::leftovers::{all_processes, entries};

/// Every container the API lists: its id, and whether a run of it is going on.
fn containers(engine: &Engine) -> Result<BTreeMap<String, bool>, String> {
    let list = engine.api().get("/containers/json?all=1").map_err(|error| error.to_string())?;
    let one = |container: &Value| {
        let state = container["State"].as_str().unwrap_or_default().to_owned();
        let runs = ["running", "paused"].contains(&state.as_str());
        (container["Id"].as_str().unwrap_or_default().to_owned(), runs)
    };
    Ok(list.as_array().into_iter().flatten().map(one).collect())
}

/// One line for each thing of this engine that no object explains. Fine for a moment while something goes on.
pub fn unexplained(engine: &Engine) -> Vec<String> {
    let known = match containers(engine) {
        Ok(known) => known,
        Err(error) => return vec![format!("the engine does not list its containers: {error}")],
    };
    let exists = |id: &str| known.contains_key(id);
    let runs = |id: &str| known.get(id) == Some(&true);
    let mut found = Vec::new();
    let mut complain = |what: &str, ids: Vec<String>, fine: &dyn Fn(&str) -> bool| {
        found.extend(ids.into_iter().filter(|id| !fine(id)).map(|id| format!("{what} of {id}")));
    };
    complain("directory", ids(entries(&engine.data_root().join("containers"))), &exists);
    complain("run directory", ids(entries(&engine.exec_root().join("containers"))), &exists);
    complain("snapshot", ids(rows(engine, "SELECT key FROM snapshots")), &exists);
    complain("address", ids(rows(engine, "SELECT container FROM net_endpoints")), &runs);
    let shims: Vec<String> = shims(engine).into_iter().map(|(_, id)| id).collect();
    let lost =
        known.iter().filter(|(id, runs)| **runs && !shims.contains(id)).map(|(id, _)| id.clone()).collect();
    complain("shim", shims, &runs);
    complain("no shim, and it is said to run", lost, &|_| false);
    let groups = cgroups(engine).iter().filter_map(|path| path.file_name()).map(name).collect();
    complain("control group", ids(groups), &runs);
    found.extend(mounts(engine).into_iter().filter(|mount| mount.contains("/containers/")));
    let (links, leases) = (ports(engine).len(), rows(engine, "SELECT container FROM net_endpoints").len());
    if links != leases {
        found.push(format!("{links} links on the bridge for {leases} addresses"));
    }
    found.extend(unexplained_files(engine));
    found
}

fn unexplained_files(engine: &Engine) -> Vec<String> {
    let data = engine.data_root();
    let mut found = Vec::new();
    let query =
        "SELECT CAST(directory AS TEXT) FROM layers UNION SELECT CAST(directory AS TEXT) FROM snapshots
                 UNION SELECT CAST(directory AS TEXT) FROM retired";
    let known: BTreeSet<String> = rows(engine, query).into_iter().collect();
    for entry in entries(&data.join("snapshots")) {
        if entry.parse::<u64>().is_ok() && !known.contains(&entry) {
            found.push(format!("snapshots/{entry} that no row names"));
        }
    }
    found.extend(entries(&data.join("snapshots/.trash")).into_iter().map(|name| format!("trash {name}")));
    let volumes: BTreeSet<String> = rows(engine, "SELECT name FROM volumes").into_iter().collect();
    let there = entries(&data.join("volumes")).into_iter().filter(|name| name != ".removed");
    let there: BTreeSet<String> = there.collect();
    found.extend(
        entries(&data.join("volumes/.removed")).into_iter().map(|name| format!("removed volume {name}")),
    );
    found.extend(there.symmetric_difference(&volumes).map(|name| format!("volume {name}, half of it")));
    let half_made = |name: &String| name.len() != 64;
    let cut = entries(&data.join("content/ingest")).into_iter().filter(half_made);
    found.extend(cut.map(|name| format!("content/ingest/{name}")));
    found
}

/// How much there is of everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Census(pub BTreeMap<&'static str, u64>);

impl Census {
    /// Counts.
    pub fn take(engine: &Engine) -> Self {
        let mut counts = BTreeMap::new();
        let processes: Vec<u32> =
            engine.pid().into_iter().chain(shims(engine).into_iter().map(|(pid, _)| pid)).collect();
        let sum = |dir: &str| -> u64 {
            processes
                .iter()
                .map(|pid| entries(&PathBuf::from(format!("/proc/{pid}/{dir}"))).len() as u64)
                .sum()
        };
        counts.insert("descriptors", sum("fd"));
        counts.insert("inotify", inotify(&processes));
        counts.insert("shims", processes.len() as u64 - 1);
        counts.insert("mounts", mounts(engine).len() as u64);
        counts.insert("control groups", cgroups(engine).len() as u64);
        counts.insert("links", ports(engine).len() as u64);
        counts.insert("addresses", rows(engine, "SELECT container FROM net_endpoints").len() as u64);
        counts.insert("firewall objects", firewall_objects(engine));
        counts.insert("loop devices", loops(engine));
        let files = |root: &Path| count_files(root);
        counts.insert("files", files(engine.data_root()) + files(&engine.exec_root()));
        let tables = ["containers", "volumes", "snapshots", "layers", "images", "names", "retired"];
        let count = |table: &str| rows(engine, &format!("SELECT '' FROM {table}")).len() as u64;
        counts.insert("rows", tables.iter().map(|table| count(table)).sum());
        Self(counts)
    }

    /// What differs from an earlier one.
    pub fn since(&self, before: &Self) -> Vec<String> {
        let differs = |(kind, count): (&&'static str, &u64)| {
            let earlier = before.0.get(kind).copied().unwrap_or(0);
            (earlier != *count).then(|| format!("{kind}: {earlier} before, {count} now"))
        };
        self.0.iter().filter_map(differs).collect()
    }
}

/// Threads of a process; they come and go with the work.
pub fn threads(pid: u32) -> u64 {
    entries(&PathBuf::from(format!("/proc/{pid}/task"))).len() as u64
}

/// Private memory of a process in bytes.
pub fn private_memory(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let field = |name: &str| -> u64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.trim().trim_end_matches(" kB").parse().unwrap_or(0)
    };
    (field("Private_Clean:") + field("Private_Dirty:")) * 1024
}

/// Process and container id of each of this engine's shims.
pub fn shims(engine: &Engine) -> Vec<(u32, String)> {
    let root = engine.dir().to_string_lossy().into_owned();
    let data = engine.data_root().to_string_lossy().into_owned();
    all_processes()
        .filter(|(_, line)| {
            line.starts_with("wharf-shim run ") && (line.contains(&root) || line.contains(&data))
        })
        .filter_map(|(pid, line)| {
            let id = line.split('/').find(|part| is_id(part))?.to_owned();
            // An init that has not become its program yet has the same command line.
            let parent = parent(pid)?;
            let of_shim =
                fs::read(format!("/proc/{parent}/cmdline")).is_ok_and(|text| text.starts_with(b"wharf-shim"));
            (!of_shim).then_some((pid as u32, id))
        })
        .collect()
}

/// The parent of a process.
pub fn parent(pid: i32) -> Option<i32> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    text.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
}

/// What tells the kernel objects of a scratch engine from those of its neighbours, as the engine derives it.
fn instance(engine: &Engine) -> String {
    let hash = engine
        .exec_root()
        .as_os_str()
        .as_encoded_bytes()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
    format!("{:06x}", hash & 0xff_ffff)
}

/// The control groups of containers, in every hierarchy.
pub fn cgroups(engine: &Engine) -> Vec<PathBuf> {
    let parent = format!("wharf-{}", instance(engine));
    let base = Path::new("/sys/fs/cgroup");
    let hierarchies = entries(base).into_iter().map(|name| base.join(name));
    let parents = hierarchies.chain([base.to_path_buf()]).map(|hierarchy| hierarchy.join(&parent));
    let groups = parents.flat_map(|parent| {
        entries(&parent).into_iter().map(move |name| parent.join(name)).collect::<Vec<_>>()
    });
    let unique: BTreeSet<PathBuf> =
        groups.filter_map(|path| fs::canonicalize(path).ok()).filter(|path| path.is_dir()).collect();
    unique.into_iter().collect()
}

/// The links of containers.
fn ports(engine: &Engine) -> Vec<String> {
    entries(Path::new(&format!("/sys/class/net/wh-{}/brif", instance(engine))))
}

fn mounts(engine: &Engine) -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let (root, data) = (engine.dir().to_string_lossy(), engine.data_root().to_string_lossy());
    // A data root on a file system of the test's own is itself a mount.
    let point = |line: &str| line.split(' ').nth(4).unwrap_or_default().to_owned();
    let beneath = |line: &&str| {
        let point = point(line);
        point != *data && (point.starts_with(&*root) || point.starts_with(&format!("{data}/")))
    };
    table.lines().filter(beneath).map(|line| format!("mount {}", point(line))).collect()
}

/// The first column of a query.
fn rows(engine: &Engine, query: &str) -> Vec<String> {
    let read = || -> Result<Vec<String>, wharf_state::Error> {
        let database = Database::open(&engine.data_root().join("state.db"))?;
        database.read(|connection| {
            let mut statement = connection.prepare(query)?;
            let rows = statement.query_map([], |row| row.get(0))?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
    };
    read().unwrap_or_else(|error| vec![format!("{query}: {error}")])
}

fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn ids(names: Vec<String>) -> Vec<String> {
    names.into_iter().filter(|name| is_id(name)).collect()
}

fn name(name: &std::ffi::OsStr) -> String {
    name.to_string_lossy().into_owned()
}

fn count_files(root: &Path) -> u64 {
    let list = fs::read_dir(root).into_iter().flatten().flatten();
    list.map(|entry| {
        let directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
        1 + if directory { count_files(&entry.path()) } else { 0 }
    })
    .sum()
}

/// Watches that processes hold.
fn inotify(processes: &[u32]) -> u64 {
    let lines = |path: PathBuf| {
        let text = fs::read_to_string(path).unwrap_or_default();
        text.lines().filter(|line| line.starts_with("inotify")).count() as u64
    };
    let of = |pid: &u32| {
        let dir = PathBuf::from(format!("/proc/{pid}/fdinfo"));
        entries(&dir).into_iter().map(|fd| lines(dir.join(fd))).sum::<u64>()
    };
    processes.iter().map(of).sum()
}

/// Loop devices on files of this engine.
fn loops(engine: &Engine) -> u64 {
    let root = engine.data_root().to_string_lossy().into_owned();
    let file = |name: String| {
        fs::read_to_string(format!("/sys/block/{name}/loop/backing_file")).unwrap_or_default().contains(&root)
    };
    entries(Path::new("/sys/block")).into_iter().filter(|name| file(name.clone())).count() as u64
}

/// Rules and elements of sets in this engine's table.
fn firewall_objects(engine: &Engine) -> u64 {
    /// `NFT_MSG_GETRULE`, `NFT_MSG_GETSET`, `NFT_MSG_GETSETELEM` of the subsystem nf_tables.
    const RULES: u16 = 10 << 8 | 7;
    const SETS: u16 = 10 << 8 | 10;
    const ELEMENTS: u16 = 10 << 8 | 13;
    let table = format!("wharf-{}", instance(engine));
    let rules = dump(RULES, &table, None).len() as u64;
    let sets: BTreeSet<String> = dump(SETS, &table, None).into_iter().collect();
    rules + sets.iter().map(|set| dump(ELEMENTS, &table, Some(set)).len() as u64).sum::<u64>()
}

/// Answers of one kind about one table; for sets their names, else one text for each object.
fn dump(kind: u16, table: &str, set: Option<&str>) -> Vec<String> {
    /// Attributes: the table is 1 and the name 2 in all three; elements are nested in 3.
    const TABLE: u16 = 1;
    const NAME: u16 = 2;
    const ELEMENTS: u16 = 3;
    const IPV4: u8 = 2;
    let header = [IPV4, 0, 0, 0];
    let mut found = Vec::new();
    let mut batch = Batch::new();
    batch.push(kind, Batch::DUMP, &header, |attributes| {
        attributes.string(TABLE, table);
        if let Some(set) = set {
            attributes.string(NAME, set);
        }
    });
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned();
    let listed = Socket::open(Family::Netfilter).and_then(|mut socket| {
        socket.exchange(&mut batch, &mut |frame| {
            let find = |kind| {
                Attributes::after(frame.payload, header.len()).find(kind).ok().flatten().unwrap_or_default()
            };
            if text(find(TABLE)) != table {
                return Ok(());
            }
            if set.is_some() {
                found.extend(Attributes::after(find(ELEMENTS), 0).map(|_| "element".to_owned()));
            } else {
                found.push(text(find(NAME)));
            }
            Ok(())
        })
    });
    if listed.is_err() { Vec::new() } else { found }
}
