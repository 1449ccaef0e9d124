//! Sessions of API calls with their recorded answers, one file each.
//!
//! ```text
//! # A comment.
//! @ POST /containers/create?name=web {"Image":"diffbox"}     set-up: must succeed, the answer is not compared
//! ? /containers/web/json /State/Status "exited"               waits until the value is that; alone, until HEAD succeeds
//! ? /containers/web/logs?stdout=1 ~ up                        waits until the answer contains the text
//! > GET /v1.44/containers/json?filters={"name":["web"]}       a call under comparison
//! : Accept: text/plain                                        a header of the request; an empty value leaves it out
//! + data                                                      a line of its body, or of a taken-over connection's input
//! ~ 3                                                         read only so many lines of the answer
//! % /Volumes diff-                                            of that list, only what contains the word (`-`: lines, fields)
//! = ID /Id                                                    that value of the answer is $ID from now on
//! < 200 application/json                                      status and Content-Type
//! ; location: /x                                              another telling header
//! | {"a":1}                                                   a line of the body; `/` for one without its newline
//! & POST /containers/web/wait                                 a call that goes on beside the following ones
//! .                                                           the calls beside are waited for here
//! ```
//! A body after the path is one line of JSON, or `<<name` for bytes the stage has. Characters that a query may not have are
//! encoded. Recorded answers come from the real Docker ([`Session::record`]), never from a hand.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use super::show::{Body, Lens, Shown, parse_body, render_body};
use crate::exchange::{Answer, Call};
use crate::{PATIENCE, retry_until};

/// How long the calls after one beside it wait for its head. One answer begins only when it is complete: `wait` before 1.30.
const HEAD_START: Duration = Duration::from_secs(2);

/// A parsed file.
#[derive(Debug, Clone)]
pub struct Session {
    path: PathBuf,
    items: Vec<Item>,
}

#[derive(Debug, Clone)]
enum Item {
    Text(String),
    Setup(String),
    Until(String),
    Step(Step),
    Join,
}

/// A call and what it gives.
#[derive(Debug, Clone, Default)]
pub struct Step {
    beside: bool,
    /// Method, path and body as they stand in the file.
    pub line: String,
    headers: Vec<String>,
    body: Vec<String>,
    lines: Option<usize>,
    picks: Vec<String>,
    names: Vec<String>,
    recorded: Option<Head>,
    text: String,
}

#[derive(Debug, Clone, Default)]
struct Head {
    status: u16,
    kind: String,
    headers: Vec<(String, String)>,
}

/// Where a session is played.
#[derive(Debug)]
pub struct Stage {
    /// The engine's socket.
    pub socket: PathBuf,
    /// `$NAME` in requests; the values are replaced by their names in answers.
    pub variables: Vec<(String, String)>,
    /// Bodies by name.
    pub bodies: Vec<(String, Vec<u8>)>,
}

/// A call with the recorded answer and the one that came.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The call as it stands in the file.
    pub line: String,
    /// `METHOD`, and the path without version and query.
    pub route: (String, String),
    /// From the file.
    pub recorded: Shown,
    /// Played just now.
    pub played: Shown,
}

type Pending = (usize, Lens, JoinHandle<std::io::Result<Answer>>);

impl Session {
    /// Reads and parses a file.
    ///
    /// # Panics
    /// When it cannot be read or a line has no meaning.
    pub fn read(path: &Path) -> Self {
        let text =
            std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let items = parse(&text).unwrap_or_else(|why| panic!("{}: {why}", path.display()));
        Self { path: path.to_path_buf(), items }
    }

    /// The calls under comparison.
    pub fn steps(&self) -> impl Iterator<Item = &Step> {
        self.items.iter().filter_map(|item| match item {
            Item::Step(step) => Some(step),
            _ => None,
        })
    }

    /// Plays all calls in order.
    ///
    /// # Panics
    /// When a set-up call fails or an engine does not answer.
    pub fn play(&self, stage: &Stage) -> Vec<Outcome> {
        let mut known = stage.variables.clone();
        known.push(("START".to_owned(), now()));
        let mut outcomes = Vec::new();
        let mut pending: Vec<Pending> = Vec::new();
        for item in &self.items {
            match item {
                Item::Text(_) => {}
                Item::Join => join(&mut pending, &mut outcomes),
                Item::Setup(line) => setup(line, stage, &mut known),
                Item::Until(line) => until(line, stage, &known),
                Item::Step(step) => {
                    let (call, lens) = step.call(stage, &known);
                    let index = outcomes.len();
                    outcomes.push(step.outcome(&lens.path, &call.method));
                    if step.beside {
                        pending.push((index, lens, beside(call, stage)));
                        continue;
                    }
                    let answer = call
                        .send(&stage.socket, || ())
                        .unwrap_or_else(|error| panic!("{}: `{}`: {error}", self.path.display(), step.line));
                    step.learn(&answer, &mut known);
                    let lens = Lens { known: shown_names(&known), ..lens };
                    outcomes[index].played = lens.show(&answer);
                }
            }
        }
        join(&mut pending, &mut outcomes);
        outcomes
    }

    /// Plays the session and writes the answers into the file.
    pub fn record(mut self, stage: &Stage) {
        let mut outcomes = self.play(stage).into_iter().map(|outcome| outcome.played);
        for item in &mut self.items {
            if let Item::Step(step) = item {
                let shown = outcomes.next().expect("one outcome a step");
                step.text = render_body(&shown.body);
                step.recorded = Some(Head { status: shown.status, kind: shown.kind, headers: shown.headers });
            }
        }
        std::fs::write(&self.path, render(&self.items)).expect("the session is writable");
    }
}

/// The answer's head, or at least a moment, is waited for: what follows in the file comes after it.
fn beside(call: Call, stage: &Stage) -> JoinHandle<std::io::Result<Answer>> {
    let (ready, started) = mpsc::channel();
    let socket = stage.socket.clone();
    let thread = std::thread::spawn(move || {
        call.send(&socket, || {
            let _ = ready.send(());
        })
    });
    let _ = started.recv_timeout(HEAD_START);
    thread
}

fn join(pending: &mut Vec<Pending>, outcomes: &mut [Outcome]) {
    for (index, lens, thread) in pending.drain(..) {
        let answer = thread.join().expect("a call does not panic");
        let answer = answer.unwrap_or_else(|error| panic!("`{}`: {error}", outcomes[index].line));
        outcomes[index].played = lens.show(&answer);
    }
}

fn setup(line: &str, stage: &Stage, known: &mut Vec<(String, String)>) {
    let mut step = Step { line: line.to_owned(), ..Step::default() };
    // `@ POST /x {} = NAME /pointer`
    if let Some((line, name)) = line.rsplit_once(" = ") {
        step = Step { line: line.to_owned(), names: vec![name.to_owned()], ..step };
    }
    let (call, _) = step.call(stage, known);
    let answer = call.send(&stage.socket, || ()).unwrap_or_else(|error| panic!("set-up `{line}`: {error}"));
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    assert!(answer.status < 400, "set-up `{line}` failed: {} {text}", answer.status);
    step.learn(&answer, known);
}

fn until(line: &str, stage: &Stage, known: &[(String, String)]) {
    let mut parts = line.splitn(3, ' ');
    let (path, pointer, wanted) =
        (parts.next().unwrap_or(""), parts.next().unwrap_or(""), parts.next().unwrap_or(""));
    if pointer.is_empty() {
        let (call, _) = Step { line: format!("HEAD {path}"), ..Step::default() }.call(stage, known);
        return retry_until(line, PATIENCE, || {
            call.send(&stage.socket, || ()).ok().filter(|answer| answer.status < 300).map(drop)
        });
    }
    let step = Step { line: format!("GET {path}"), ..Step::default() };
    if pointer == "~" {
        let (call, _) = step.call(stage, known);
        return retry_until(line, PATIENCE, || {
            let answer = call.send(&stage.socket, || ()).ok()?;
            String::from_utf8_lossy(&answer.body).contains(wanted).then_some(())
        });
    }
    let wanted: Value = serde_json::from_str(wanted).unwrap_or_else(|error| panic!("`? {line}`: {error}"));
    let (call, _) = step.call(stage, known);
    retry_until(line, PATIENCE, || {
        let answer = call.send(&stage.socket, || ()).ok()?;
        let document: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        (document.pointer(pointer) == Some(&wanted)).then_some(())
    });
}

/// Seconds since 1970 with nanoseconds, as queries take them.
fn now() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    format!("{}.{:09}", now.as_secs(), now.subsec_nanos())
}

/// Values and what they are shown as; the shortened form of an id, too.
fn shown_names(known: &[(String, String)]) -> Vec<(String, String)> {
    let mut names = Vec::new();
    for (name, value) in known.iter().filter(|(name, _)| name != "START") {
        names.push((value.clone(), format!("${name}")));
        if value.len() == 64 {
            names.push((value[..12].to_owned(), format!("${name}.12")));
        }
    }
    names
}

impl Step {
    fn call(&self, stage: &Stage, known: &[(String, String)]) -> (Call, Lens) {
        let filled = |text: &str| {
            let mut text = text.replace("$NOW", &now());
            for (name, value) in known {
                let short = value.get(..12).unwrap_or(value);
                text = text.replace(&format!("${name}.12"), short);
                text = text.replace(&format!("${name}"), value);
            }
            text
        };
        let line = filled(&self.line);
        let mut parts = line.splitn(3, ' ');
        let (method, target) = (parts.next().unwrap_or("").to_owned(), parts.next().unwrap_or("").to_owned());
        let given = parts.next().unwrap_or("");
        let mut body = match given.strip_prefix("<<") {
            Some(name) => {
                let body = stage.bodies.iter().find(|(key, _)| key == name);
                body.unwrap_or_else(|| panic!("no body is called {name}")).1.clone()
            }
            None => given.as_bytes().to_vec(),
        };
        let lines: String = self.body.iter().map(|line| filled(line) + "\n").collect();
        let mut headers: Vec<(String, String)> = self
            .headers
            .iter()
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.trim().to_owned(), filled(value.trim())))
            .collect();
        if given.starts_with(['{', '[', '"']) && !has(&headers, "content-type") {
            headers.push(("Content-Type".to_owned(), "application/json".to_owned()));
        }
        let mut input = Vec::new();
        if has(&headers, "upgrade") {
            input = lines.into_bytes();
            headers.push(("Connection".to_owned(), "Upgrade".to_owned()));
        } else {
            body.extend_from_slice(lines.as_bytes());
        }
        let picks = self.picks.iter().map(|line| {
            let (at, word) = line.split_once(' ').unwrap_or((line, ""));
            (if at == "-" { String::new() } else { at.to_owned() }, filled(word))
        });
        let lens = Lens { path: route(&target), known: shown_names(known), picks: picks.collect() };
        (Call { method, target: encoded(&target), headers, body, input, lines: self.lines }, lens)
    }

    fn outcome(&self, path: &str, method: &str) -> Outcome {
        let head = self.recorded.clone().unwrap_or_default();
        let recorded = Shown {
            body: parse_body(&head.kind, &self.text),
            status: head.status,
            kind: head.kind,
            headers: head.headers,
        };
        Outcome {
            line: self.line.clone(),
            route: (method.to_owned(), path.to_owned()),
            played: recorded.clone(),
            recorded,
        }
    }

    fn learn(&self, answer: &Answer, known: &mut Vec<(String, String)>) {
        for line in &self.names {
            let (name, pointer) = line.split_once(' ').unwrap_or((line, ""));
            let document: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
            let value = document.pointer(pointer).and_then(Value::as_str).unwrap_or("nothing").to_owned();
            known.retain(|(key, _)| key != name);
            // Longer names first, so that $ID2 is not taken for $ID.
            let place = known.iter().position(|(key, _)| key.len() < name.len()).unwrap_or(known.len());
            known.insert(place, (name.to_owned(), value));
        }
    }
}

fn has(headers: &[(String, String)], name: &str) -> bool {
    headers.iter().any(|(key, _)| key.eq_ignore_ascii_case(name))
}

/// The path without query and version.
fn route(target: &str) -> String {
    let path = target.split('?').next().unwrap_or("");
    match path.strip_prefix("/v").and_then(|rest| rest.split_once('/')) {
        Some((version, rest)) if version.starts_with(|c: char| c.is_ascii_digit()) => format!("/{rest}"),
        _ => path.to_owned(),
    }
}

/// Percent-encodes what a request line may not have and a file is better read with.
fn encoded(target: &str) -> String {
    let mut text = String::new();
    for byte in target.bytes() {
        match byte {
            b'{' | b'}' | b'"' | b'<' | b'>' | b'[' | b']' | b'^' | b'`' | b'|' | b'\\' | 0x80.. => {
                let _ = write!(text, "%{byte:02X}");
            }
            other => text.push(char::from(other)),
        }
    }
    text
}

fn parse(text: &str) -> Result<Vec<Item>, String> {
    let mut items: Vec<Item> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let (mark, rest) = line.split_at(line.len().min(1));
        let rest = rest.strip_prefix(' ').unwrap_or(rest);
        let stray = || format!("line {}: `{line}` belongs to no call", number + 1);
        match mark {
            "" | "#" => items.push(Item::Text(line.to_owned())),
            "@" => items.push(Item::Setup(rest.to_owned())),
            "?" => items.push(Item::Until(rest.to_owned())),
            "." => items.push(Item::Join),
            ">" | "&" => {
                items.push(Item::Step(Step {
                    beside: mark == "&",
                    line: rest.to_owned(),
                    ..Step::default()
                }));
            }
            _ => {
                let Some(Item::Step(step)) = items.last_mut() else { return Err(stray()) };
                step.read(mark, rest).ok_or_else(stray)?;
            }
        }
    }
    Ok(items)
}

impl Step {
    fn read(&mut self, mark: &str, rest: &str) -> Option<()> {
        match mark {
            ":" => self.headers.push(rest.to_owned()),
            "+" => self.body.push(rest.to_owned()),
            "~" => self.lines = Some(rest.parse().ok()?),
            "%" => self.picks.push(rest.to_owned()),
            "=" => self.names.push(rest.to_owned()),
            "<" => {
                let (status, kind) = rest.split_once(' ')?;
                let status = status.parse().ok()?;
                self.recorded = Some(Head { status, kind: kind.to_owned(), headers: Vec::new() });
            }
            ";" => {
                let (name, value) = rest.split_once(": ")?;
                self.recorded.as_mut()?.headers.push((name.to_owned(), value.to_owned()));
            }
            "|" => self.text.push_str(&format!("{rest}\n")),
            "/" => self.text.push_str(rest),
            _ => return None,
        }
        Some(())
    }

    fn write(&self, text: &mut String) {
        let mark = if self.beside { '&' } else { '>' };
        let _ = writeln!(text, "{mark} {}", self.line);
        let mut all = |mark: char, lines: &[String]| {
            for line in lines {
                let _ = writeln!(text, "{mark} {line}");
            }
        };
        all(':', &self.headers);
        all('+', &self.body);
        all('~', &self.lines.map(|lines| lines.to_string()).into_iter().collect::<Vec<_>>());
        all('%', &self.picks);
        all('=', &self.names);
        if let Some(head) = &self.recorded {
            text.push_str(&rendered(head.status, &head.kind, &head.headers, &self.text));
        }
    }
}

fn rendered(status: u16, kind: &str, headers: &[(String, String)], body: &str) -> String {
    let mut text = format!("< {status} {kind}\n");
    for (name, value) in headers {
        let _ = writeln!(text, "; {name}: {value}");
    }
    for line in body.split_inclusive('\n') {
        match line.strip_suffix('\n') {
            Some(line) => text.push_str(&(format!("| {line}").trim_end().to_owned() + "\n")),
            None => text.push_str(&format!("/ {line}\n")),
        }
    }
    text
}

/// An answer as it stands in a file.
pub fn render_shown(shown: &Shown) -> String {
    rendered(shown.status, &shown.kind, &shown.headers, &render_body(&shown.body))
}

fn render(items: &[Item]) -> String {
    let mut text = String::new();
    for item in items {
        let _ = match item {
            Item::Text(line) => writeln!(text, "{line}"),
            Item::Setup(line) => writeln!(text, "@ {line}"),
            Item::Until(line) => writeln!(text, "? {line}"),
            Item::Join => writeln!(text, "."),
            Item::Step(step) => {
                step.write(&mut text);
                Ok(())
            }
        };
    }
    text
}

impl Shown {
    /// True for a body of JSON.
    pub fn is_json(&self) -> bool {
        matches!(self.body, Body::Json(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# title\n@ POST /x {} = ID /Id\n\n? /x /a 1\n> GET /v1.44/x?filters={\"a\":[\"b\"]}\n\
        : Accept: text/plain\n+ data\n~ 3\n% /V w\n= A /b\n< 200 application/json\n; location: /y\n| {\"a\":1}\n\
        & POST /y\n< 200 text/plain\n/ OK\n.\n";

    #[test]
    fn a_file_survives_being_rewritten() {
        assert_eq!(render(&parse(FILE).unwrap()), FILE);
    }

    #[test]
    fn a_stray_line_is_refused() {
        assert!(parse("| x\n").unwrap_err().contains("line 1"));
        assert!(parse("> GET /\n| x\n; no head\n").is_err());
    }

    #[test]
    fn a_call_is_built_from_its_lines() {
        let items = parse(FILE).unwrap();
        let Some(Item::Step(step)) = items.get(4) else { panic!("{items:?}") };
        let stage = Stage { socket: "/x".into(), variables: Vec::new(), bodies: Vec::new() };
        let (call, lens) = step.call(&stage, &[]);
        assert_eq!(call.target, "/v1.44/x?filters=%7B%22a%22:%5B%22b%22%5D%7D");
        assert_eq!(lens.path, "/x");
        assert_eq!((call.body.as_slice(), call.lines), (&b"data\n"[..], Some(3)));
    }

    #[test]
    fn the_route_has_no_version_and_no_query() {
        for (target, wanted) in [
            ("/v1.44/info?x", "/info"),
            ("/info", "/info"),
            ("/volumes/v1", "/volumes/v1"),
            ("/vx/y", "/vx/y"),
        ] {
            assert_eq!(route(target), wanted);
        }
    }
}
