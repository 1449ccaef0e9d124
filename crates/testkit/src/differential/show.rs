//! Answers as text: normalised, one form for each kind of body, so that a recording can be read and compared by line.
//!
//! - JSON (one document or a stream of them): sorted keys, short values on one line.
//! - Multiplexed streams: `1|` and `2|` in front of each line of the standard streams.
//! - Archives: one line an entry.
//! - Everything else: the text.

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use regex_lite::Regex;
use serde_json::{Map, Value};

use crate::exchange::Answer;
use crate::normalise::normalise;

/// How long a JSON value on one line may be.
const WIDTH: usize = 110;

/// Headers that every answer has with the same value; written down only where they are missing or differ.
const USUAL: &[(&str, &str)] =
    &[("api-version", "1.51"), ("docker-experimental", "false"), ("ostype", "linux")];

/// Headers that say something about this answer.
const TELLING: &[&str] = &[
    "allow",
    "builder-version",
    "cache-control",
    "connection",
    "deprecation",
    "location",
    "pragma",
    "swarm",
    "upgrade",
    "warning",
    "x-docker-container-path-stat",
    "x-registry-auth",
];

/// Values that say nothing about the engine: where (a pattern of path and JSON pointer) and what stands for them. Numbers
/// that are zero or negative mean something and stay.
const VOLATILE: &[(&str, &str, &str)] = &[
    // Instants as numbers, processes, sizes on disk, addresses.
    (".*", ".*/(Created|created|time|timeNano)", "<time>"),
    (".*", ".*/Pid", "<pid>"),
    // With whatever else is there.
    ("/system/df", ".*/SharedSize", "<count>"),
    (
        ".*",
        ".*/(Size|SizeRw|SizeRootFs|SharedSize|VirtualSize|LayersSize|SpaceReclaimed|BuilderSize|UniqueSize)",
        "<size>",
    ),
    (".*", ".*/GraphDriver/Data/.*", "<path>"),
    (".*", ".*/IPPrefixLen", "<prefix>"),
    (".*", ".*/(SandboxID|SandboxKey|EndpointID|NetworkID|IPAddress|Gateway|MacAddress)", "<network>"),
    (".*", ".*/Attributes/execDuration", "<n>"),
    // Figures of a running container.
    ("/containers/[^/]+/stats", ".*/blkio_stats/[^/]*", "<io>"),
    ("/containers/[^/]+/stats", ".*", "<n>"),
    ("/containers/[^/]+/top", "/Processes/.*/[0-9]+", "<n>"),
    // The machine the recording was made on.
    ("/(images/json|system/df)", ".*/Containers", "<count>"),
    (
        "/info",
        "/(ID|Name|NCPU|MemTotal|KernelVersion|OperatingSystem|OSVersion|NEventsListener|NFd|NGoroutines|SystemTime|Images|Containers|ContainersRunning|ContainersPaused|ContainersStopped|ServerVersion)",
        "<here>",
    ),
    ("/version", ".*/(KernelVersion|GoVersion|GitCommit|BuildTime|Version)", "<build>"),
];

struct Volatile {
    path: Regex,
    pointer: Regex,
    placeholder: &'static str,
}

static VOLATILES: LazyLock<Vec<Volatile>> = LazyLock::new(|| {
    let whole = |pattern: &str| Regex::new(&format!("^({pattern})$")).expect("a pattern compiles");
    VOLATILE
        .iter()
        .map(|(path, pointer, placeholder)| Volatile {
            path: whole(path),
            pointer: whole(pointer),
            placeholder,
        })
        .collect()
});

/// Lists whose order means nothing (path, pointer): Docker walks a map.
static UNORDERED: LazyLock<Regex> = LazyLock::new(|| {
    let lists =
        "^([^ ]* .*/Mounts|[^ ]* /(Volumes|VolumesDeleted|ContainersDeleted)|/containers/[^/]+/changes )$";
    Regex::new(lists).expect("compiles")
});

/// A body in its comparable form.
#[derive(Debug, Clone, PartialEq)]
pub enum Body {
    /// Documents, normalised.
    Json(Vec<Value>),
    /// Anything else.
    Text(String),
}

/// An answer in its comparable form.
#[derive(Debug, Clone, PartialEq)]
pub struct Shown {
    /// The status.
    pub status: u16,
    /// `Content-Type`, or `-`.
    pub kind: String,
    /// Other telling headers, sorted; a usual one that is missing has the value `-`.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Body,
}

/// What to look at in an answer.
#[derive(Debug, Clone, Default)]
pub struct Lens {
    /// The path without version and query.
    pub path: String,
    /// Values and their names.
    pub known: Vec<(String, String)>,
    /// Of the list at a pointer only what contains the word; for an empty pointer the field of that name, or of a text
    /// the lines that contain it.
    pub picks: Vec<(String, String)>,
}

impl Lens {
    /// The comparable form of an answer.
    pub fn show(&self, answer: &Answer) -> Shown {
        let kind = answer.header("content-type").unwrap_or("-").to_owned();
        let mut headers: Vec<(String, String)> = Vec::new();
        for (name, usual) in USUAL {
            let value = answer.header(name).unwrap_or("-");
            if value != *usual {
                headers.push(((*name).to_owned(), value.to_owned()));
            }
        }
        for name in TELLING {
            if let Some(value) = answer.header(name).filter(|value| *value != "close") {
                headers.push(((*name).to_owned(), self.header(name, value)));
            }
        }
        headers.sort();
        let mut body = self.body(&kind, &answer.body);
        if !answer.whole {
            body = Body::Text(format!("{}(broken off)\n", render_body(&body)));
        }
        Shown { status: answer.status, kind, headers, body }
    }

    fn header(&self, name: &str, value: &str) -> String {
        if name != "x-docker-container-path-stat" {
            return normalise(value, &self.known);
        }
        let document =
            STANDARD.decode(value).ok().and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
        document.map_or_else(
            || value.to_owned(),
            |mut document| {
                // The size of a directory or link is the file system's.
                if document["mode"].as_u64().is_some_and(|mode| mode & 0x8800_0000 != 0) {
                    document["size"] = Value::from("<size>");
                }
                self.value("", document).to_string()
            },
        )
    }

    fn body(&self, kind: &str, bytes: &[u8]) -> Body {
        if bytes.is_empty() {
            return Body::Text(String::new());
        }
        if may_be_json(kind) {
            let documents: Result<Vec<Value>, _> =
                serde_json::Deserializer::from_slice(bytes).into_iter::<Value>().collect();
            if let Ok(documents) = documents {
                let mut documents: Vec<Value> =
                    documents.into_iter().map(|document| self.picked(document)).collect();
                documents = documents.into_iter().map(|document| self.value("", document)).collect();
                return Body::Json(documents);
            }
        }
        let text = match () {
            () if kind.starts_with("application/x-tar") || is_tar(bytes) => entries(bytes),
            () => frames(bytes).unwrap_or_else(|| printable(bytes)),
        };
        let text = normalise(&text, &self.known);
        let words: Vec<&str> =
            self.picks.iter().filter(|(at, _)| at.is_empty()).map(|(_, word)| word.as_str()).collect();
        Body::Text(
            text.split_inclusive('\n')
                .filter(|line| words.is_empty() || words.iter().any(|word| line.contains(word)))
                .collect(),
        )
    }

    fn picked(&self, mut document: Value) -> Value {
        if let Some(fields) = document.as_object_mut()
            && self.picks.iter().any(|(at, _)| at.is_empty())
        {
            fields.retain(|name, _| self.picks.iter().any(|(at, word)| at.is_empty() && word == name));
        }
        forget_plugins(&mut document);
        for (at, word) in &self.picks {
            let pointer = if at == "/" { "" } else { at.as_str() };
            if !at.is_empty()
                && let Some(Value::Array(list)) = document.pointer_mut(pointer)
            {
                list.retain(|element| element.to_string().contains(word));
            }
        }
        document
    }

    fn value(&self, pointer: &str, value: Value) -> Value {
        let placeholder = VOLATILES
            .iter()
            .find(|volatile| volatile.path.is_match(&self.path) && volatile.pointer.is_match(pointer))
            .map(|volatile| volatile.placeholder);
        match (value, placeholder) {
            // Whether a disk was touched is chance.
            (_, Some("<io>")) => Value::from("<io>"),
            (Value::Object(fields), _) => {
                let mut sorted: Vec<(String, Value)> = fields.into_iter().collect();
                sorted.sort_by(|(a, _), (b, _)| a.cmp(b));
                let fields = sorted.into_iter().map(|(name, value)| {
                    let value = self.value(&format!("{pointer}/{name}"), value);
                    (normalise(&name, &self.known), value)
                });
                Value::Object(fields.collect::<Map<_, _>>())
            }
            (Value::Array(members), _) => {
                let mut members: Vec<Value> = members
                    .into_iter()
                    .enumerate()
                    .map(|(index, value)| self.value(&format!("{pointer}/{index}"), value))
                    .collect();
                if UNORDERED.is_match(&format!("{} {pointer}", self.path)) {
                    members.sort_by_key(render_line);
                }
                Value::Array(members)
            }
            (Value::Number(number), Some(word)) if always(&number, word) => Value::from(word),
            (Value::String(text), Some("<n>")) if !text.contains(|c: char| c.is_ascii_digit()) => {
                Value::from(text)
            }
            (Value::String(text), Some(word)) if !text.is_empty() || word == "<here>" => Value::from(word),
            (Value::String(text), None) => Value::from(normalise(&text, &self.known)),
            (other, _) => other,
        }
    }
}

/// The real Docker remembers every volume plugin that it ever met, and warns of those that are gone.
fn forget_plugins(document: &mut Value) {
    let Some(warnings) = document.get_mut("Warnings") else { return };
    let Some(list) = warnings.as_array_mut() else { return };
    let all = list.len();
    list.retain(|warning| !warning.as_str().is_some_and(|text| text.contains("plugin.moby.localhost")));
    if list.is_empty() && all > 0 {
        *warnings = Value::Null;
    }
}

/// Zero and less mean something, except where a figure just happens to be zero.
fn always(number: &serde_json::Number, word: &str) -> bool {
    let number = number.as_f64().unwrap_or_default();
    number > 0.0 || matches!(word, "<n>" | "<here>") || (word == "<count>" && number >= 0.0)
}

/// Multiplexed output, when it is that to the last byte.
fn frames(mut bytes: &[u8]) -> Option<String> {
    let mut text = String::new();
    let mut last = None;
    while !bytes.is_empty() {
        let head: [u8; 8] = bytes.get(..8)?.try_into().ok()?;
        let length = u32::from_be_bytes([head[4], head[5], head[6], head[7]]) as usize;
        if head[0] > 2 || head[1..4] != [0, 0, 0] {
            return None;
        }
        let piece = String::from_utf8_lossy(bytes.get(8..8 + length)?).into_owned();
        for line in piece.split_inclusive('\n') {
            let continues = last == Some(head[0]) && !text.ends_with('\n') && !text.is_empty();
            if !continues {
                if !text.is_empty() && !text.ends_with('\n') {
                    text.push_str("⏎\n");
                }
                text.push_str(&format!("{}|", head[0]));
            }
            text.push_str(&printable(line.as_bytes()));
            last = Some(head[0]);
        }
        bytes = &bytes[8 + length..];
    }
    Some(text)
}

fn printable(bytes: &[u8]) -> String {
    let mut text = String::new();
    for character in String::from_utf8_lossy(bytes).chars() {
        match character {
            '\n' => text.push('\n'),
            '\t' => text.push('␉'),
            '\r' => text.push('␍'),
            control if control.is_control() => text.push_str(&format!("\\x{:02x}", u32::from(control))),
            other => text.push(other),
        }
    }
    text
}

fn is_tar(bytes: &[u8]) -> bool {
    bytes.get(257..262) == Some(b"ustar")
}

fn entries(bytes: &[u8]) -> String {
    let mut archive = tar::Archive::new(bytes);
    let Ok(list) = archive.entries() else { return "(not an archive)\n".to_owned() };
    let mut lines = String::new();
    for entry in list {
        let Ok(entry) = entry else { return lines + "(damaged)\n" };
        let header = entry.header();
        let kind = header.entry_type();
        // How JSON is spaced is the writer's.
        let json = entry.path_bytes().ends_with(b".json");
        let size =
            if kind.is_file() && !json { header.size().unwrap_or(0).to_string() } else { "-".to_owned() };
        let (uid, gid) = (header.uid().unwrap_or(0), header.gid().unwrap_or(0));
        let link = entry.link_name().ok().flatten().map(|link| format!(" -> {}", link.display()));
        lines.push_str(&format!(
            "{} {:o} {uid}:{gid} {size} {}{}\n",
            char::from(kind.as_byte()),
            header.mode().unwrap_or(0),
            entry.path().map(|path| path.display().to_string()).unwrap_or_default(),
            link.unwrap_or_default()
        ));
    }
    lines
}

/// A value on one line, keys sorted.
pub fn render_line(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            let mut sorted: Vec<_> = fields.iter().collect();
            sorted.sort_by_key(|(name, _)| name.as_str());
            let fields: Vec<String> = sorted
                .iter()
                .map(|(name, value)| format!("{}:{}", Value::from(name.as_str()), render_line(value)))
                .collect();
            format!("{{{}}}", fields.join(","))
        }
        Value::Array(members) => {
            format!("[{}]", members.iter().map(render_line).collect::<Vec<_>>().join(","))
        }
        other => other.to_string(),
    }
}

fn render_value(value: &Value, indent: usize, text: &mut String) {
    let line = render_line(value);
    let pad = " ".repeat(indent + 1);
    if line.len() + indent <= WIDTH || !(value.is_array() || value.is_object()) {
        text.push_str(&line);
        return;
    }
    let (open, close) = if value.is_array() { ('[', ']') } else { ('{', '}') };
    text.push(open);
    let members: Vec<(String, &Value)> = match value {
        Value::Array(members) => members.iter().map(|value| (String::new(), value)).collect(),
        Value::Object(fields) => {
            let mut sorted: Vec<_> = fields.iter().collect();
            sorted.sort_by_key(|(name, _)| name.as_str());
            sorted
                .into_iter()
                .map(|(name, value)| (format!("{}:", Value::from(name.as_str())), value))
                .collect()
        }
        _ => Vec::new(),
    };
    let mut column = usize::MAX;
    for (index, (name, member)) in members.iter().enumerate() {
        let mut piece = name.clone();
        render_value(member, indent + 1, &mut piece);
        let last = index + 1 == members.len();
        let width = piece.chars().count() + 1;
        // As many short members on a line as fit.
        if column == usize::MAX || column + width > WIDTH || piece.contains('\n') {
            text.push('\n');
            text.push_str(&pad);
            column = indent + 1;
        }
        text.push_str(&piece);
        column = if piece.contains('\n') { WIDTH } else { column + width };
        if !last {
            text.push(',');
        }
    }
    text.push(close);
}

/// Some streams of JSON have no type.
fn may_be_json(kind: &str) -> bool {
    kind == "-" || kind.starts_with("application/json") || kind.starts_with("application/x-ndjson")
}

/// A body as the text of a recording.
pub fn render_body(body: &Body) -> String {
    match body {
        Body::Text(text) => text.clone(),
        Body::Json(documents) => {
            let mut text = String::new();
            for document in documents {
                render_value(document, 0, &mut text);
                text.push('\n');
            }
            text
        }
    }
}

/// The body that a recording's text stands for.
pub fn parse_body(kind: &str, text: &str) -> Body {
    if may_be_json(kind) {
        let documents: Result<Vec<Value>, _> =
            serde_json::Deserializer::from_str(text).into_iter::<Value>().collect();
        if let Ok(documents) = documents
            && !text.is_empty()
        {
            return Body::Json(documents);
        }
    }
    Body::Text(text.to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn lens(path: &str) -> Lens {
        Lens { path: path.to_owned(), ..Lens::default() }
    }

    #[test]
    fn volatile_numbers_go_and_meaningful_ones_stay() {
        let shown =
            lens("/containers/x/json").value("", json!({"State": {"Pid": 77, "ExitCode": 3}, "SizeRw": 0}));
        assert_eq!(shown, json!({"State": {"Pid": "<pid>", "ExitCode": 3}, "SizeRw": 0}));
        let stopped = lens("/containers/x/json").value("", json!({"State": {"Pid": 0}}));
        assert_eq!(stopped, json!({"State": {"Pid": 0}}));
    }

    #[test]
    fn frames_become_lines_with_their_stream() {
        let bytes =
            b"\x01\0\0\0\0\0\0\x03a\nb\x01\0\0\0\0\0\0\x02c\n\x02\0\0\0\0\0\0\x01e\x01\0\0\0\0\0\0\x02f\n";
        assert_eq!(frames(bytes).unwrap(), "1|a\n1|bc\n2|e⏎\n1|f\n");
        assert_eq!(frames(b"plain text here"), None);
    }

    #[test]
    fn a_long_document_survives_being_written() {
        let document = json!({"a": (0..80).collect::<Vec<_>>(), "b": {"c": "x".repeat(90), "d": "y".repeat(90)}, "e": null});
        let body = Body::Json(vec![document, json!([])]);
        let text = render_body(&body);
        assert!(text.lines().count() > 3, "{text}");
        assert_eq!(parse_body("application/json", &text), body);
    }

    #[test]
    fn only_picked_members_are_looked_at() {
        let lens = Lens { picks: vec![("/Volumes".into(), "mine".into())], ..lens("/volumes") };
        let shown = lens.picked(json!({"Volumes": [{"Name": "mine-1"}, {"Name": "other"}]}));
        assert_eq!(shown, json!({"Volumes": [{"Name": "mine-1"}]}));
    }
}
