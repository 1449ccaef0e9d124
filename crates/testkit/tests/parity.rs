//! The real `docker` command line gives on Wharf what it gives on Docker, and so does our own.
//!
//! One file in `tests/parity/` is one session; its recorded output comes from the real Docker Engine. Three ways to play:
//! - always: `docker` (where installed) and `wharf` against a scratch Wharf, compared with the recorded output;
//! - `WHARF_TEST_REFERENCE=1`: the real Docker must still give the recorded output;
//! - `WHARF_TEST_REFERENCE=1 WHARF_TEST_RECORD=1`: the output is recorded anew, to be read in the diff.

#![expect(clippy::print_stdout, reason = "what was skipped is said")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use wharf_testkit::transcript::{Script, Stage};
use wharf_testkit::{Cli, Engine, Output, Reference, image, workspace_root};

fn folder() -> PathBuf {
    workspace_root().join("crates/testkit/tests/parity")
}

fn script(name: &str) -> Script {
    Script::read(&folder().join(format!("{name}.txt")))
}

/// Sessions that need a cgroup v1 machine to mean anything.
fn applies(name: &str) -> bool {
    let here = name != "cgroup1" || Path::new("/sys/fs/cgroup/memory").is_dir();
    if !here {
        println!("skipped: {name} is for cgroup version 1");
    }
    here
}

/// Files and ports chosen for one play. Created before, removed after.
struct Props {
    dir: tempfile::TempDir,
    /// The same directory as the engine names it.
    bind: PathBuf,
    ports: [u16; 2],
}

impl Props {
    fn new(ports: [u16; 2], engine_view: impl Fn(&Path) -> PathBuf) -> Self {
        let dir = tempfile::Builder::new().prefix("wp-").tempdir().expect("a temporary directory");
        std::fs::write(dir.path().join("box.tar"), image::archive()).expect("room for an image");
        std::fs::write(dir.path().join("rootfs.tar"), image::rootfs()).expect("room for an image");
        for sub in ["client", "bind"] {
            std::fs::create_dir(dir.path().join(sub)).expect("a fresh directory");
        }
        let bind = engine_view(&dir.path().join("bind"));
        Self { dir, bind, ports }
    }

    fn variables(&self) -> Vec<(String, String)> {
        let path = |name: &str| self.dir.path().join(name).to_string_lossy().into_owned();
        [
            ("BIND", self.bind.to_string_lossy().into_owned()),
            ("HOSTBIND", path("bind")),
            ("DIR", path("client")),
            ("ARCHIVE", path("box.tar")),
            ("ROOTFS", path("rootfs.tar")),
            ("PORT", self.ports[0].to_string()),
            ("PORT2", self.ports[1].to_string()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec()
    }
}

/// What Wharf gives instead, by invocation.
fn differences() -> BTreeMap<String, Output> {
    script("differences").steps().map(|step| (step.command.clone(), step.expected.clone())).collect()
}

fn on_wharf(name: &str, cli: impl Fn(&Engine) -> Option<Cli>, alias: Option<&'static str>) {
    if !applies(name) {
        return;
    }
    let engine = Engine::with_image();
    let Some(cli) = cli(&engine) else { return };
    let props = Props::new([engine.port(0), engine.port(1)], Path::to_path_buf);
    let stage = Stage { cli: &cli, variables: props.variables(), alias };
    let differences = differences();
    let expect = |step: &wharf_testkit::transcript::Step| {
        differences.get(&step.command).cloned().unwrap_or_else(|| step.expected.clone())
    };
    if let Err(report) = script(name).check(&stage, expect) {
        panic!("{report}");
    }
}

macro_rules! sessions {
    ($($name:ident),+ $(,)?) => {
        const SESSIONS: &[&str] = &[$(stringify!($name)),+];
        mod docker_on_wharf { $(
            #[test]
            fn $name() {
                super::on_wharf(stringify!($name), wharf_testkit::Engine::docker, None);
            }
        )+ }
        mod wharf_on_wharf { $(
            #[test]
            fn $name() {
                super::on_wharf(stringify!($name), |engine| Some(engine.wharf()), Some("wharf"));
            }
        )+ }
    };
}

sessions![
    archive, cgroup1, create, exec, image, lifecycle, limits, list, logdrivers, logs, mount, network, run,
    system, terminal, update, volume
];

#[test]
fn every_session_is_played_and_together_they_are_many() {
    let mut files: Vec<String> = std::fs::read_dir(folder())
        .expect("the sessions are there")
        .map(|entry| {
            entry.expect("readable").path().file_stem().expect("a name").to_string_lossy().into_owned()
        })
        .filter(|name| name != "differences")
        .collect();
    files.sort();
    assert_eq!(files, SESSIONS);
    let commands: Vec<String> = SESSIONS
        .iter()
        .flat_map(|name| script(name).steps().map(|step| step.command.clone()).collect::<Vec<_>>())
        .collect();
    assert!(commands.len() >= 400, "only {} invocations", commands.len());
    let recorded: BTreeMap<String, Output> = SESSIONS
        .iter()
        .flat_map(|name| script(name).steps().cloned().collect::<Vec<_>>())
        .map(|step| (step.command, step.expected))
        .collect();
    for (command, output) in differences() {
        let docker = recorded.get(&command);
        assert!(docker.is_some(), "no session has the differing invocation `{command}`");
        assert!(docker != Some(&output), "`{command}` is no longer different");
    }
}

/// The proof of the transcripts themselves.
#[test]
fn real_docker_gives_the_recorded_output() {
    let Some(reference) = Reference::find() else { return };
    let record = std::env::var_os("WHARF_TEST_RECORD").is_some();
    let only = std::env::var("WHARF_TEST_SESSION").ok();
    let docker = reference.docker();
    let loaded = docker.run_with_input(&["load"], &image::archive());
    assert_eq!(loaded.code, 0, "{}", loaded.stderr);
    // What an earlier run left when it failed half way.
    docker.shell("docker ps -aq --filter name=parity- | xargs -r docker rm -fv", &[]);
    docker.shell("docker volume ls -q --filter name=parity- | xargs -r docker volume rm", &[]);
    let mut reports = String::new();
    for name in SESSIONS.iter().filter(|name| only.as_deref().is_none_or(|only| only == **name)) {
        let props = Props::new([20_980, 20_981], |path| reference.path(path));
        let stage = Stage { cli: &docker, variables: props.variables(), alias: None };
        let script = script(name);
        if record {
            script.record(&stage);
        } else if let Err(report) = script.check(&stage, |step| step.expected.clone()) {
            reports.push_str(&report);
        }
    }
    let _ = docker.run(&["rmi", image::NAME]);
    assert!(reports.is_empty(), "{reports}");
}
