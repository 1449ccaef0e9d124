//! What the engine says about what happens is what Docker says: one session of some sixty commands, with the events of
//! each, attributes and all, recorded from Docker 28.5.2 in `tests/events/docker.txt`.
//!
//! Within one command the events of different things may come in another order, as they do with Docker itself from run
//! to run, so they are compared sorted. `WHARF_TEST_REFERENCE=1` proves the recording on the real Docker, with
//! `WHARF_TEST_RECORD=1` it is made anew.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use wharf_testkit::{Api, Cli, Engine, PATIENCE, Reference, image, wait_until, workspace_root};

/// The commands. `%` is the prefix of all names, `$D` a directory of the client's.
const SESSION: &[&str] = &[
    "tag %src:1 %img:1",
    "volume create %vol",
    "create --name %a --label tier=front -v %vol:/v %img:1 sleep 1000",
    "start %a",
    "exec %a true",
    "exec -d %a sleep 0",
    "exec %a sh -c 'exit 3'",
    "exec %a nosuch",
    "top %a",
    "pause %a",
    "unpause %a",
    "rename %a %b",
    "diff %b",
    "export -o $D/x.tar %b",
    "commit %b %img:2",
    "commit -p=false %b",
    "kill -s USR1 %b",
    "restart -t 0 %b",
    "stop -t 0 %b",
    "start %b",
    "kill %b",
    "rm -v %b",
    "run --name %c %img:1 sh -c 'exit 7'",
    "rm %c",
    "run --rm --name %d %img:1 true",
    "run --name %e %img:1 nosuchcommand",
    "rm %e",
    "run --rm --name %f %img:1 nosuchcommand",
    "run --rm --network none --name %g %img:1 true",
    "run --rm --network host --name %h %img:1 true",
    "run -d --name %i %img:1 sleep 1000",
    "rm -f %i",
    "create --name %j -v /anon %img:1 true",
    "rm -v %j",
    "create --name %k %img:1 true",
    "wait %none",
    "rm %k",
    "save -o $D/s.tar %img:1",
    "tag %img:1 %img:3",
    "rmi %img:3",
    "rmi %img:2",
    "load -i $D/s.tar",
    "import $D/x.tar %imp:1",
    "rmi %imp:1",
    "volume rm %vol",
    "container prune -f --filter label=%nothing",
    "volume prune -f --filter label=%nothing",
    "image prune -f --filter label=%nothing",
    "rmi %img:1",
    "image prune -f --filter label=run=%",
    "rmi %src:1",
];

struct Player<'a> {
    cli: &'a Cli,
    api: Api,
    prefix: &'a str,
    directory: PathBuf,
}

impl Player<'_> {
    /// Everything that happened and concerns our names, since `since` (nanoseconds), oldest first.
    fn since(&self, since: u64) -> Vec<Value> {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
        let (seconds, rest) = (since / 1_000_000_000, since % 1_000_000_000);
        let path =
            format!("/events?since={seconds}.{rest:09}&until={}.{:09}", now.as_secs(), now.subsec_nanos());
        let answer = self.api.request("GET", &path, None).expect("events are answered");
        assert_eq!(answer.status, 200, "{}", answer.message());
        let lines = String::from_utf8(answer.body).expect("JSON is UTF-8");
        lines.lines().map(|line| serde_json::from_str(line).expect("an event is JSON")).collect()
    }

    /// Plays the session. Some events come after their command's end: as many as were recorded are waited for, and
    /// while recording, a while.
    fn play(&self, recorded: Option<&[String]>) -> String {
        let labels = json!({"run": self.prefix});
        let source = image::Builder::new(&format!("{}src:1", self.prefix), image::rootfs());
        let loaded = self.cli.run_with_input(&["load"], &source.config("Labels", labels).build());
        assert_eq!(loaded.code, 0, "{}", loaded.stderr);
        let mut told = String::new();
        let mut ours = BTreeSet::new();
        for (index, step) in SESSION.iter().enumerate() {
            let begin = now_ns();
            let line = step.replace('%', self.prefix).replace("$D", &self.directory.display().to_string());
            self.cli.shell(&format!("docker {line} </dev/null"), &[]);
            let wanted = recorded.map(|steps| steps.get(index).map_or(0, |step| step.lines().count() - 1));
            let since = Instant::now();
            let patience = if recorded.is_some() { PATIENCE / 6 } else { PATIENCE / 30 };
            let mut lines = self.ours(step, begin, &mut ours);
            while wanted.is_none_or(|wanted| lines.len() < wanted) && since.elapsed() < patience {
                std::thread::sleep(Duration::from_millis(20));
                lines = self.ours(step, begin, &mut ours);
            }
            lines.sort();
            let _ = writeln!(told, "$ {step}");
            lines.iter().for_each(|line| told.push_str(&format!("{line}\n")));
        }
        told
    }

    fn ours(&self, step: &str, begin: u64, ours: &mut BTreeSet<String>) -> Vec<String> {
        let events = self.since(begin);
        // Others prune, too.
        let mut concern = |event: &&Value| match event["Action"] == "prune" {
            true => step.contains(" prune "),
            false => self.concerns(event, ours),
        };
        events.iter().filter(|event| concern(event)).map(|event| line(event, self.prefix)).collect()
    }

    /// Others use the real Docker at the same time.
    fn concerns(&self, event: &Value, ours: &mut BTreeSet<String>) -> bool {
        let attributes = &event["Actor"]["Attributes"];
        let text = |key: &str| attributes[key].as_str().unwrap_or_default().to_owned();
        let id = event["Actor"]["ID"].as_str().unwrap_or_default();
        let named = text("name").starts_with(self.prefix) || id.starts_with(self.prefix);
        if named && !id.is_empty() {
            ours.insert(id.to_owned());
        }
        if let (Some(image), true) = (attributes["imageID"].as_str(), named) {
            ours.insert(image.to_owned());
        }
        named || ours.contains(id) || ours.contains(&text("container"))
    }
}

/// An event without what differs from run to run.
fn line(event: &Value, prefix: &str) -> String {
    let text = |key: &str| event[key].as_str().unwrap_or_default();
    let mut parts = Vec::new();
    for (key, value) in event["Actor"]["Attributes"].as_object().into_iter().flatten() {
        let value = value.as_str().unwrap_or_default();
        let value = match key.as_str() {
            "execDuration" | "reclaimed" => "<n>".to_owned(),
            "execID" | "container" | "imageID" => "<id>".to_owned(),
            "name" if value.starts_with("sha256:") => "<id>".to_owned(),
            _ => value.replace(prefix, "%"),
        };
        parts.push(format!("{key}={value}"));
    }
    parts.sort();
    let id = event["Actor"]["ID"].as_str().unwrap_or_default();
    let id = if id.starts_with(prefix) { id.replace(prefix, "%") } else { "<id>".to_owned() };
    let old: Vec<&str> = ["status", "id", "from"].into_iter().filter(|key| event[*key].is_string()).collect();
    format!(
        "{} {} {id} ({}) {} {}",
        text("Type"),
        text("Action"),
        parts.join(", "),
        text("scope"),
        old.join("+")
    )
}

fn now_ns() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    u64::try_from(now.as_nanos()).expect("before 2554")
}

fn file() -> PathBuf {
    workspace_root().join("crates/testkit/tests/events/docker.txt")
}

fn steps(text: &str) -> Vec<String> {
    text.split("$ ").skip(1).map(str::to_owned).collect()
}

fn recorded() -> Vec<String> {
    steps(&std::fs::read_to_string(file()).expect("the recording"))
}

fn compare(told: &str, whom: &str) {
    let (have, want) = (steps(told), recorded());
    let wrong: Vec<String> = have
        .iter()
        .zip(&want)
        .filter(|(have, want)| have != want)
        .map(|(have, want)| format!("--- Docker\n{want}--- {whom}\n{have}"))
        .collect();
    assert_eq!(have.len(), want.len(), "the recording has other commands: record it anew");
    assert!(
        wrong.is_empty(),
        "{} of {} commands have other events:\n{}",
        wrong.len(),
        have.len(),
        wrong.join("\n")
    );
}

#[test]
fn events_are_those_of_docker() {
    let engine = Engine::with_image();
    let cli = engine.wharf();
    let player =
        Player { cli: &cli, api: engine.api(), prefix: "observe-", directory: engine.dir().to_path_buf() };
    compare(&player.play(Some(&recorded())), "Wharf");
}

#[test]
fn the_recording_is_what_docker_says() {
    let Some(reference) = Reference::find() else { return };
    let directory = tempfile::tempdir().expect("a temporary directory");
    let cli = reference.docker();
    let prefix = format!("observe{}-", std::process::id());
    let player =
        Player { cli: &cli, api: reference.api(), prefix: &prefix, directory: directory.path().into() };
    let recorded = recorded();
    let recording = std::env::var_os("WHARF_TEST_RECORD").is_some();
    let told = player.play(if recording { None } else { Some(&recorded) });
    if recording {
        std::fs::write(file(), &told).expect("the recording can be written");
        return;
    }
    compare(&told, "the real Docker, now");
}

/// `docker events` of both programs: replay, filters, formats, and the end at `until`.
#[test]
fn events_are_replayed_filtered_and_shown() {
    let engine = Engine::with_image();
    let wharf = engine.wharf();
    let start = now_ns() / 1_000_000_000;
    wharf.ok(&["create", "--name", "web", "--label", "tier=front", "box", "true"]);
    wharf.ok(&["create", "--name", "web2", "box", "true"]);
    wharf.ok(&["volume", "create", "web-data"]);
    wharf.ok(&["rm", "web"]);
    let since = start.to_string();
    let until = (now_ns() / 1_000_000_000 + 1).to_string();
    let shown = |filters: &[&str]| -> Vec<String> {
        let mut args =
            vec!["events", "--since", &since, "--until", &until, "--format", "{{.Type}} {{.Action}}"];
        filters.iter().for_each(|filter| args.extend(["--filter", filter]));
        wharf.ok(&args).lines().map(str::to_owned).collect()
    };
    let all = ["container create", "container create", "volume create", "container destroy"];
    assert_eq!(shown(&["container=web"]), all, "the beginning of a name, of anything, as with Docker");
    assert_eq!(shown(&["type=volume"]), ["volume create"]);
    assert_eq!(shown(&["label=tier=front", "event=create"]), ["container create"]);
    assert_eq!(shown(&["event=create", "event=destroy", "image=box"]).len(), 3);
    assert!(shown(&["scope=swarm"]).is_empty() && shown(&["event=cre"]).is_empty());
    assert_eq!(
        shown(&["unheard=of", "container=web"]).len(),
        4,
        "Docker passes over filters it does not know"
    );
    let everything =
        engine.api().request("GET", &format!("/events?since=0&until={until}"), None).expect("answered");
    assert!(everything.body.len() > 500, "0 is the beginning of time");
    // Everything up to a moment, without a beginning.
    let past = wharf.ok(&["events", "--until", &since, "--filter", "type=container"]);
    assert_eq!(past, "");
    let error = engine.api().request("GET", "/events?since=20&until=10", None).expect("answered");
    assert_eq!(
        (error.status, error.message().as_str()),
        (400, "`since` time (20) cannot be after `until` time (10)")
    );
    wait_until("the moment", PATIENCE, || now_ns() / 1_000_000_000 > start);
    let json = wharf.ok(&["events", "--until", &until, "--filter", "container=web2", "--format", "json"]);
    assert!(
        json.starts_with(r#"{"status":"create","id":""#) && json.contains(r#""scope":"local","time":"#),
        "{json}"
    );
}
