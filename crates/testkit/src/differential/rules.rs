//! Intended differences between two answers, as data.
//!
//! ```text
//! # Why: the comment before a group of rules is its reason.
//! GET /containers/*/json /0/HostConfig/Runtime "runc" => "wharf"
//! ```
//! Method and path may be `*`, as may be parts of path and pointer (`**`: any number of parts). The pointer starts with the
//! number of the document in the body; `type`, `body` and `header NAME` stand for the rest of an answer, and `answer` for all
//! of it where the status differs: a text of status and message. A value is
//! JSON (in a text one `*` is any text), `-` for absent, `*` for anything. A rule that matches nothing in a whole run is stale and fails it,
//! unless `? ` stands before it: that difference is a known mistake that is about to be mended.

use std::cell::Cell;

use serde_json::Value;

use super::session::Outcome;
use super::show::{Body, Shown, render_line};

/// One thing that is not the same.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    /// Where: a pointer, or `answer`, `type`, `body`, `header NAME`.
    pub place: String,
    /// What Docker has; `None` for absent.
    pub docker: Option<Value>,
    /// What Wharf has.
    pub wharf: Option<Value>,
}

/// An intended difference.
#[derive(Debug)]
pub struct Rule {
    /// Why it is intended.
    pub reason: String,
    /// The line of the file.
    pub line: String,
    method: String,
    path: String,
    place: String,
    docker: String,
    wharf: String,
    /// Not intended: somebody mends it. May be unused.
    pub pending: bool,
    used: Cell<bool>,
}

/// All differences of a call.
pub fn compare(outcome: &Outcome) -> Vec<Difference> {
    let (docker, wharf) = (&outcome.recorded, &outcome.played);
    let mut found = Vec::new();
    let mut note = |place: &str, docker: Option<Value>, wharf: Option<Value>| {
        if docker != wharf {
            found.push(Difference { place: place.to_owned(), docker, wharf });
        }
    };
    if docker.status != wharf.status {
        // Then everything else differs as well; what is said is enough.
        note("answer", Some(said(docker).into()), Some(said(wharf).into()));
        return found;
    }
    note("type", Some(docker.kind.as_str().into()), Some(wharf.kind.as_str().into()));
    let header = |shown: &Shown, name: &str| {
        shown.headers.iter().find(|(key, _)| key == name).map(|(_, value)| Value::from(value.as_str()))
    };
    let names = docker.headers.iter().chain(&wharf.headers).map(|(name, _)| name.as_str());
    let names: std::collections::BTreeSet<&str> = names.collect();
    for name in names {
        note(&format!("header {name}"), header(docker, name), header(wharf, name));
    }
    match (&docker.body, &wharf.body) {
        (Body::Json(docker), Body::Json(wharf)) => {
            for index in 0..docker.len().max(wharf.len()) {
                walk(&format!("/{index}"), docker.get(index), wharf.get(index), &mut found);
            }
        }
        (docker, wharf) if docker != wharf => {
            let text = |body: &Body| Some(Value::from(super::show::render_body(body)));
            found.push(Difference { place: "body".into(), docker: text(docker), wharf: text(wharf) });
        }
        _ => {}
    }
    found
}

/// The status, and the message of an error.
fn said(shown: &Shown) -> String {
    let message = match &shown.body {
        Body::Json(documents) => documents.first().and_then(|document| document.get("message")?.as_str()),
        Body::Text(text) => Some(text.trim_end()),
    };
    let message = message.filter(|_| shown.status >= 300).unwrap_or_default();
    format!("{} {message}", shown.status).trim_end().to_owned()
}

fn walk(place: &str, docker: Option<&Value>, wharf: Option<&Value>, found: &mut Vec<Difference>) {
    match (docker, wharf) {
        (Some(Value::Object(docker)), Some(Value::Object(wharf))) => {
            let names: std::collections::BTreeSet<&String> = docker.keys().chain(wharf.keys()).collect();
            for name in names {
                walk(&format!("{place}/{name}"), docker.get(name), wharf.get(name), found);
            }
        }
        (Some(Value::Array(docker)), Some(Value::Array(wharf))) => {
            for index in 0..docker.len().max(wharf.len()) {
                walk(&format!("{place}/{index}"), docker.get(index), wharf.get(index), found);
            }
        }
        (docker, wharf) if docker != wharf => {
            found.push(Difference {
                place: place.to_owned(),
                docker: docker.cloned(),
                wharf: wharf.cloned(),
            });
        }
        _ => {}
    }
}

impl Rule {
    /// All rules of a file.
    ///
    /// # Errors
    /// When a line is not a rule or has no reason before it.
    pub fn parse_all(text: &str) -> Result<Vec<Self>, String> {
        let mut rules = Vec::new();
        let mut reason = String::new();
        let mut fresh = true;
        for line in text.lines() {
            if let Some(comment) = line.strip_prefix('#') {
                if fresh {
                    reason.clear();
                    fresh = false;
                }
                reason = format!("{reason} {}", comment.trim()).trim().to_owned();
            } else if line.trim().is_empty() {
                fresh = true;
                reason.clear();
            } else {
                fresh = true;
                let rule = Self::parse(line, &reason).ok_or_else(|| format!("`{line}` is not a rule"))?;
                if rule.reason.is_empty() {
                    return Err(format!("`{line}` has no reason"));
                }
                rules.push(rule);
            }
        }
        Ok(rules)
    }

    fn parse(line: &str, reason: &str) -> Option<Self> {
        let pending = line.starts_with("? ");
        let line = line.strip_prefix("? ").unwrap_or(line);
        let mut parts = line.splitn(3, ' ');
        let (method, path, rest) = (parts.next()?, parts.next()?, parts.next()?);
        let (place, values) = match rest.strip_prefix("header ") {
            Some(rest) => {
                let (name, values) = rest.split_once(' ')?;
                (format!("header {name}"), values)
            }
            None => {
                let (place, values) = rest.split_once(' ')?;
                (place.to_owned(), values)
            }
        };
        let (docker, wharf) = values.split_once(" => ")?;
        for value in [docker, wharf].into_iter().filter(|value| !matches!(*value, "-" | "*")) {
            serde_json::from_str::<Value>(value).ok()?;
        }
        Some(Self {
            reason: reason.to_owned(),
            line: line.to_owned(),
            method: method.to_owned(),
            path: path.to_owned(),
            place,
            docker: docker.to_owned(),
            wharf: wharf.to_owned(),
            pending,
            used: Cell::new(false),
        })
    }

    /// True when the difference is this intended one; remembers it.
    pub fn allows(&self, outcome: &Outcome, difference: &Difference) -> bool {
        let (method, path) = &outcome.route;
        let allowed = (self.method == "*" || self.method == *method)
            && matches(&self.path, path)
            && matches(&self.place, &difference.place)
            && is(&self.docker, difference.docker.as_ref())
            && is(&self.wharf, difference.wharf.as_ref());
        if allowed {
            self.used.set(true);
        }
        allowed
    }

    /// False for an intended difference that has not been met yet.
    pub fn is_used(&self) -> bool {
        self.used.get() || self.pending
    }
}

/// Compares by parts between slashes; `*` is one part or within one, `**` any number of parts.
fn matches(pattern: &str, text: &str) -> bool {
    fn parts(pattern: &[&str], text: &[&str]) -> bool {
        match (pattern.split_first(), text.split_first()) {
            (None, None) => true,
            (Some((&"**", rest)), _) => {
                parts(rest, text) || text.split_first().is_some_and(|(_, tail)| parts(pattern, tail))
            }
            (Some((first, pattern)), Some((part, text))) => one(first, part) && parts(pattern, text),
            _ => false,
        }
    }
    pattern == "*" || parts(&pattern.split('/').collect::<Vec<_>>(), &text.split('/').collect::<Vec<_>>())
}

fn is(wanted: &str, value: Option<&Value>) -> bool {
    match (wanted, value) {
        ("*", _) | ("-", None) => true,
        ("-", Some(_)) | (_, None) => false,
        (text, Some(value)) => match (serde_json::from_str::<Value>(text), value) {
            (Ok(Value::String(wanted)), Value::String(value)) => one(&wanted, value),
            (wanted, value) => wanted.is_ok_and(|wanted| wanted == *value),
        },
    }
}

/// Compares a part; one `*` stands for any text.
fn one(pattern: &str, part: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == part,
        Some((front, back)) => {
            part.len() >= front.len() + back.len() && part.starts_with(front) && part.ends_with(back)
        }
    }
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = |value: &Option<Value>| value.as_ref().map_or_else(|| "-".to_owned(), render_line);
        write!(f, "{} {} => {}", self.place, text(&self.docker), text(&self.wharf))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn shown(status: u16, body: Value) -> Shown {
        Shown { status, kind: "application/json".into(), headers: Vec::new(), body: Body::Json(vec![body]) }
    }

    fn outcome(docker: Shown, wharf: Shown) -> Outcome {
        let route = ("GET".to_owned(), "/containers/x/json".to_owned());
        Outcome { line: "GET /containers/x/json".into(), route, recorded: docker, played: wharf }
    }

    #[test]
    fn every_difference_has_its_place() {
        let all = compare(&outcome(
            shown(200, json!({"a": {"b": 1}, "c": [1, 2], "d": 1})),
            shown(200, json!({"a": {"b": 2}, "c": [1], "e": 1})),
        ));
        let lines: Vec<String> = all.iter().map(ToString::to_string).collect();
        assert_eq!(lines, ["/0/a/b 1 => 2", "/0/c/1 2 => -", "/0/d 1 => -", "/0/e - => 1"]);
        let all = compare(&outcome(shown(200, json!({"a": 1})), shown(400, json!({"message": "no"}))));
        let lines: Vec<String> = all.iter().map(ToString::to_string).collect();
        assert_eq!(lines, [r#"answer "200" => "400 no""#]);
    }

    #[test]
    fn a_rule_needs_a_reason_and_remembers_its_use() {
        let text = "# Because.\n* /containers/*/json /**/b 1 => *\n";
        let rules = Rule::parse_all(text).unwrap();
        let outcome = outcome(shown(200, json!({"a": {"b": 1}})), shown(200, json!({"a": {"b": 2}})));
        let differences = compare(&outcome);
        assert!(!rules[0].is_used());
        assert!(rules[0].allows(&outcome, &differences[0]));
        assert!(rules[0].is_used());
        assert_eq!(rules[0].reason, "Because.");
        assert!(Rule::parse_all("* /x /a 1 => 2\n").is_err());
        assert!(Rule::parse_all("# r\n* /x /a 1 2\n").is_err());
    }
}
