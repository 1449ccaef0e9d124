//! Wharf answers API calls as Docker does: status, telling headers, body to the last value.
//!
//! One file in `tests/differential/` is one session; its answers are recorded from the real Docker Engine 28.5.2. Where we
//! mean to differ, `differences.txt` has a rule with a reason; a rule that nothing needs fails the test.
//! - always: every session on a scratch Wharf of its own, compared with the recording;
//! - `WHARF_TEST_REFERENCE=1`: the real Docker must still give the recorded answers;
//! - `WHARF_TEST_REFERENCE=1 WHARF_TEST_RECORD=1`: the answers are recorded anew, to be read in the diff.
//!
//! `WHARF_TEST_SESSION=name,name` plays only these.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde_json::json;
use wharf_testkit::differential::{Outcome, Rule, Session, Stage, compare, render_shown};
use wharf_testkit::exchange::Call;
use wharf_testkit::image::{Builder, Tar, rootfs};
use wharf_testkit::{Api, Engine, Reference, workspace_root};

/// How many sessions are played at the same time; most of their time is waiting.
const AT_ONCE: usize = 4;
/// Fewer calls would be a test that somebody thinned out.
const CALLS: usize = 400;
/// The same for different command lines of the sessions in `tests/parity`.
const COMMAND_LINES: usize = 400;
/// The image of the sessions: its own, so that what else is on the real Docker does not matter.
const IMAGE: &str = "diffbox:1";

fn folder() -> PathBuf {
    workspace_root().join("crates/testkit/tests/differential")
}

fn names() -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder())
        .expect("the sessions are there")
        .map(|entry| entry.expect("readable").path())
        .filter_map(|path| path.file_stem().map(|stem| stem.to_string_lossy().into_owned()))
        .filter(|name| name != "differences")
        .collect();
    names.sort();
    names
}

/// What is played in this run.
fn chosen() -> (Vec<String>, bool) {
    match std::env::var("WHARF_TEST_SESSION") {
        Ok(only) => {
            let only: Vec<&str> = only.split(',').collect();
            (names().into_iter().filter(|name| only.contains(&name.as_str())).collect(), false)
        }
        Err(_) => (names(), true),
    }
}

fn session(name: &str) -> Session {
    Session::read(&folder().join(format!("{name}.txt")))
}

fn rules() -> Vec<Rule> {
    let path = folder().join("differences.txt");
    let text = std::fs::read_to_string(&path).expect("the list of differences is there");
    Rule::parse_all(&text).unwrap_or_else(|why| panic!("{}: {why}", path.display()))
}

fn boxed() -> Vec<u8> {
    Builder::new(IMAGE, rootfs()).config("Labels", json!({"diff": "box"})).build()
}

fn bodies() -> Vec<(String, Vec<u8>)> {
    let mut small = Tar::new();
    small.file("small", 0o644, b"small\n");
    let small = small.finish();
    let mut tree = Tar::new();
    tree.dir("d", 0o755);
    tree.file("d/f", 0o640, b"file\n");
    tree.link("d/l", "f");
    tree.file("a", 0o600, b"aa\n");
    vec![
        ("box".to_owned(), boxed()),
        ("image".to_owned(), Builder::new("diff-small:1", small.clone()).build()),
        ("layer".to_owned(), small),
        ("tree".to_owned(), tree.finish()),
        ("junk".to_owned(), b"this is not an archive".repeat(100)),
        ("large".to_owned(), [b"{\"a\":\"".as_slice(), &vec![b'x'; 5 << 20], b"\"}"].concat()),
    ]
}

/// A stage with a directory to bind, removed after.
struct Props {
    dir: tempfile::TempDir,
    stage: Stage,
}

impl Props {
    fn new(socket: PathBuf, root: &str, port: u16, engine_view: impl Fn(&Path) -> PathBuf) -> Self {
        let dir = tempfile::Builder::new().prefix("wd-").tempdir().expect("a temporary directory");
        std::fs::write(dir.path().join("file"), "from the host\n").expect("a fresh directory");
        let bind = engine_view(dir.path()).to_string_lossy().into_owned();
        let variables = [("ROOT", root.to_owned()), ("BIND", bind), ("PORT", port.to_string())];
        let variables = variables.map(|(name, value)| (name.to_owned(), value)).to_vec();
        Self { dir, stage: Stage { socket, variables, bodies: bodies() } }
    }
}

/// Plays sessions on threads; the results are in the order of `names`.
/// The names of those that broke off come second: the others are played to their end.
fn all(
    names: &[String],
    play: impl Fn(&str) -> Vec<Outcome> + Sync,
) -> (Vec<(String, Vec<Outcome>)>, Vec<String>) {
    let waiting: Mutex<VecDeque<&String>> = Mutex::new(names.iter().collect());
    let done = Mutex::new(Vec::new());
    let broken = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let Some(name) = waiting.lock().expect("no player panics with the lock").pop_front()
                    else {
                        break;
                    };
                    let played = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| play(name)));
                    let outcomes = played.unwrap_or_else(|_| {
                        broken.lock().expect("as above").push(name.clone());
                        Vec::new()
                    });
                    done.lock().expect("as above").push((name.clone(), outcomes));
                }
            });
        }
    });
    let mut done = done.into_inner().expect("as above");
    done.sort_by(|(a, _), (b, _)| a.cmp(b));
    (done, broken.into_inner().expect("as above"))
}

/// What is different and not intended, readable.
fn report(name: &str, outcomes: &[Outcome], rules: &[Rule]) -> String {
    let mut text = String::new();
    for outcome in outcomes {
        let differences: Vec<_> = compare(outcome)
            .into_iter()
            // Every rule that fits is used.
            .filter(|difference| rules.iter().filter(|rule| rule.allows(outcome, difference)).count() == 0)
            .collect();
        if differences.is_empty() {
            continue;
        }
        let _ = writeln!(text, "\n{name}: {}", outcome.line);
        for difference in &differences {
            let _ = writeln!(text, "  {} {} {difference}", outcome.route.0, outcome.route.1);
        }
        if std::env::var_os("WHARF_TEST_WHOLE").is_some() {
            let _ =
                writeln!(text, "{}---\n{}", render_shown(&outcome.recorded), render_shown(&outcome.played));
        }
    }
    text
}

#[test]
fn every_call_gives_on_wharf_what_it_gives_on_docker() {
    let (names, everything) = chosen();
    let rules = rules();
    let (played, broken) = all(&names, |name| {
        let engine = Engine::scratch();
        engine.load(&boxed());
        let root = engine.data_root().to_string_lossy().into_owned();
        let props = Props::new(engine.socket(), &root, engine.port(0), Path::to_path_buf);
        let outcomes = session(name).play(&props.stage);
        drop(props.dir);
        outcomes
    });
    let reports: String = played.iter().map(|(name, outcomes)| report(name, outcomes, &rules)).collect();
    assert!(reports.is_empty() && broken.is_empty(), "{reports}\nbroken off: {broken:?}");
    if everything {
        let stale: Vec<&str> =
            rules.iter().filter(|rule| !rule.is_used()).map(|rule| rule.line.as_str()).collect();
        assert_eq!(stale, Vec::<&str>::new(), "these intended differences no longer exist");
    }
}

#[test]
fn calls_and_command_lines_are_many() {
    let calls: usize = names().iter().map(|name| session(name).steps().count()).sum();
    let lines = command_lines();
    println!("{calls} API calls, {lines} different command lines, each compared with Docker 28.5.2");
    assert!(calls >= CALLS, "only {calls} API calls");
    assert!(lines >= COMMAND_LINES, "only {lines} command lines");
}

/// Different invocations in the recorded command-line sessions (`tests/parity.rs` plays them).
fn command_lines() -> usize {
    let mut lines = std::collections::BTreeSet::new();
    for entry in std::fs::read_dir(workspace_root().join("crates/testkit/tests/parity")).expect("sessions") {
        let path = entry.expect("readable").path();
        if path.file_stem().is_some_and(|stem| stem != "differences") {
            let text = std::fs::read_to_string(&path).expect("readable");
            lines.extend(text.lines().filter_map(|line| line.strip_prefix("$ ")).map(str::to_owned));
        }
    }
    lines.len()
}

/// Reasons with the lines they are for. A comment block is a reason when lines follow it at once.
fn reasons(text: &str, is_line: impl Fn(&str) -> bool) -> Vec<(String, Vec<String>)> {
    let mut groups: Vec<(String, Vec<String>)> = Vec::new();
    let mut reason = String::new();
    let mut fresh = true;
    for line in text.lines() {
        if let Some(comment) = line.strip_prefix('#') {
            if fresh {
                reason.clear();
            }
            fresh = false;
            reason = format!("{reason} {}", comment.trim()).trim().to_owned();
        } else if line.is_empty() {
            fresh = true;
            reason.clear();
        } else if is_line(line) {
            fresh = true;
            match groups.last_mut().filter(|(last, _)| *last == reason) {
                Some((_, lines)) => lines.push(line.to_owned()),
                None => groups.push((reason.clone(), vec![line.to_owned()])),
            }
        }
    }
    groups
}

/// `docs/differences.md`, made of the two lists.
fn page() -> String {
    let read = |path: &str| {
        std::fs::read_to_string(workspace_root().join("crates/testkit/tests").join(path)).expect("readable")
    };
    let mut text = String::from(
        "# Where Wharf differs from Docker 28.5.2\n\nGenerated from the lists of intended differences that the tests \
         compare with (`crates/testkit/tests/differential`, `.../parity`); do not edit. Left of `=>` is Docker's value, \
         right of it Wharf's; `-` is absent, `*` anything.\n\n## API\n",
    );
    for (reason, lines) in reasons(&read("differential/differences.txt"), |_| true) {
        let _ = writeln!(text, "\n{reason}\n");
        for line in lines {
            let _ = writeln!(text, "- `{line}`");
        }
    }
    text.push_str("\n## Command line\n");
    for (reason, lines) in reasons(&read("parity/differences.txt"), |line| line.starts_with("$ ")) {
        let _ = writeln!(text, "\n{reason}\n");
        for line in lines {
            let _ = writeln!(text, "- `{}`", line.trim_start_matches("$ "));
        }
    }
    text
}

#[test]
fn the_page_of_differences_is_current() {
    let path = workspace_root().join("docs/differences.md");
    if std::env::var_os("WHARF_TEST_RECORD").is_some() {
        std::fs::write(&path, page()).expect("the page is writable");
    }
    let there = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(there == page(), "{} is stale: run this test with WHARF_TEST_RECORD=1", path.display());
}

/// The proof of the recordings themselves.
#[test]
fn real_docker_gives_the_recorded_answers() {
    let Some(reference) = Reference::find() else { return };
    let record = std::env::var_os("WHARF_TEST_RECORD").is_some();
    let api = reference.api();
    clear(&api);
    let load = Call {
        method: "POST".to_owned(),
        target: "/images/load?quiet=1".to_owned(),
        headers: vec![("Content-Type".to_owned(), "application/x-tar".to_owned())],
        body: boxed(),
        input: Vec::new(),
        lines: None,
    };
    let loaded = load.send(&reference.socket(), || ()).expect("the real Docker answers");
    assert_eq!(loaded.status, 200, "{}", String::from_utf8_lossy(&loaded.body));
    // The real Docker keeps 256 events: the session that asks for those of a while ago is played alone.
    let (alone, beside): (Vec<String>, Vec<String>) =
        chosen().0.into_iter().partition(|name| name == "events");
    let play = |name: &str| {
        let props = Props::new(reference.socket(), "/var/lib/docker", 20_985, |path| reference.path(path));
        if record {
            session(name).record(&props.stage);
            return Vec::new();
        }
        session(name).play(&props.stage)
    };
    let (mut played, mut broken) = all(&alone, play);
    let (others, more) = all(&beside, play);
    played.extend(others);
    broken.extend(more);
    let reports: String = played.iter().map(|(name, outcomes)| report(name, outcomes, &[])).collect();
    clear(&api);
    let _ = api.request("DELETE", &format!("/images/{IMAGE}?force=1"), None);
    assert!(reports.is_empty() && broken.is_empty(), "{reports}\nbroken off: {broken:?}");
}

/// What a session that failed half way has left.
fn clear(api: &Api) {
    // Not all of them have a name of ours.
    for (filter, word) in [("name", "diff-"), ("ancestor", IMAGE)] {
        let filters = format!("%7B%22{filter}%22:%5B%22{word}%22%5D%7D");
        let containers = api.get(&format!("/containers/json?all=1&filters={filters}")).unwrap_or_default();
        for container in containers.as_array().into_iter().flatten() {
            let id = container["Id"].as_str().unwrap_or_default();
            let _ = api.request("DELETE", &format!("/containers/{id}?force=1&v=1"), None);
        }
    }
    let volumes = api.get("/volumes?filters=%7B%22name%22:%5B%22diff-%22%5D%7D").unwrap_or_default();
    for volume in volumes["Volumes"].as_array().into_iter().flatten() {
        let name = volume["Name"].as_str().unwrap_or_default();
        let _ = api.request("DELETE", &format!("/volumes/{name}?force=1"), None);
    }
}
