//! Progress of long work the engine does: fetching, pushing, loading and importing images.
//!
//! On a terminal each layer keeps its line, on which a bar grows; in a pipe only the milestones are written, one a line.
//! What is written is byte for byte what Docker's program writes. Texts come from registries and archives by way of the
//! engine, so what could move the cursor or change colours is taken out of those that are shown on a terminal.

use std::{
    borrow::Cow,
    collections::HashMap,
    io::Write as _,
    time::{SystemTime, UNIX_EPOCH},
};

use serde::Deserialize;
use wharf_api::client::Documents;

use crate::{
    failure::{Failure, Result},
    format::human,
    terminal,
};

/// One message of such work.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Message {
    /// Plain text, its line break included.
    pub(crate) stream: String,
    status: String,
    id: String,
    /// Present, if empty, in what belongs on a line of its own.
    #[serde(rename = "progressDetail")]
    detail: Option<Detail>,
    error: String,
    #[serde(rename = "errorDetail")]
    error_detail: ErrorDetail,
    /// Something for programs.
    aux: Option<serde_json::Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Detail {
    current: i64,
    total: i64,
    /// When the work began, in Unix time.
    start: i64,
    #[serde(rename = "hidecounts")]
    hide_counts: bool,
    /// What is counted, if not bytes.
    units: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ErrorDetail {
    message: String,
}

/// Where progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sink {
    Stdout,
    Stderr,
    Nowhere,
}

impl Sink {
    /// This one, or none for those who want it quiet.
    pub(crate) fn unless(self, quiet: bool) -> Self {
        if quiet { Self::Nowhere } else { self }
    }

    fn write(self, text: &str) -> std::io::Result<()> {
        match self {
            Self::Stdout => {
                let mut out = std::io::stdout().lock();
                out.write_all(text.as_bytes())?;
                out.flush()
            }
            Self::Stderr => std::io::stderr().write_all(text.as_bytes()),
            Self::Nowhere => Ok(()),
        }
    }
}

/// Shows messages until the work ends, and fails if it does.
pub(crate) async fn show(documents: Documents, sink: Sink) -> Result {
    show_with(documents, sink, |_| {}).await
}

/// The same, with the messages for programs given to `on_aux`.
pub(crate) async fn show_with(
    mut documents: Documents,
    sink: Sink,
    mut on_aux: impl FnMut(serde_json::Value),
) -> Result {
    let on_terminal = match sink {
        Sink::Stdout => terminal::output_is_terminal(),
        Sink::Stderr => terminal::error_is_terminal(),
        Sink::Nowhere => false,
    };
    let mut board = Board { on_terminal, ..Board::default() };
    while let Some(message) = documents.next::<Message>().await? {
        if let Some(aux) = message.aux {
            on_aux(aux);
            continue;
        }
        let error = if message.error.is_empty() { &message.error_detail.message } else { &message.error };
        if !error.is_empty() {
            return Err(Failure::message(printable(error, terminal::error_is_terminal())));
        }
        if sink != Sink::Nowhere {
            sink.write(&board.text(&message))?;
        }
    }
    Ok(())
}

/// The lines on the terminal.
#[derive(Debug, Default)]
struct Board {
    on_terminal: bool,
    /// Where the line of each ID is, from the top.
    lines: HashMap<String, usize>,
}

impl Board {
    fn text(&mut self, message: &Message) -> String {
        let Some(detail) = message.detail.as_ref().filter(|_| !message.id.is_empty()) else {
            // Whatever is written now stands below the lines, so they cannot be found by counting any more.
            self.lines.clear();
            return self.plain(message);
        };
        let count = self.lines.len();
        let known = self.lines.get(&message.id).copied();
        let line = *self.lines.entry(message.id.clone()).or_insert(count);
        if !self.on_terminal {
            return self.plain(message);
        }
        let new = if known.is_none() { "\n" } else { "" };
        let up = self.lines.len() - line;
        format!(
            "{new}\x1b[{up}A\x1b[2K\r{} {}\r\x1b[{up}B",
            labelled(message, true),
            bar(detail, terminal::size().map_or(WIDE, |(_, columns)| columns), now())
        )
    }

    /// The message on a line of its own, or nothing if it only tells how far the work is.
    fn plain(&self, message: &Message) -> String {
        if !message.stream.is_empty() {
            return message.stream.clone();
        }
        match &message.detail {
            Some(detail) if self.on_terminal => {
                format!("\x1b[2K\r{} {}\r", labelled(message, true), bar(detail, WIDE, now()))
            }
            Some(detail) if detail.current > 0 || detail.total > 0 => String::new(),
            _ => format!("{}\n", labelled(message, self.on_terminal)),
        }
    }
}

fn labelled(message: &Message, on_terminal: bool) -> String {
    let (id, status) = (printable(&message.id, on_terminal), printable(&message.status, on_terminal));
    if id.is_empty() { status.into_owned() } else { format!("{id}: {status}") }
}

/// The text without what a terminal would obey.
fn printable(text: &str, on_terminal: bool) -> Cow<'_, str> {
    let commands = |letter: char| letter.is_control() && !matches!(letter, '\n' | '\t');
    if on_terminal && text.contains(commands) {
        return Cow::Owned(text.replace(commands, ""));
    }
    Cow::Borrowed(text)
}

fn now() -> i64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(elapsed.as_secs()).unwrap_or(i64::MAX)
}

/// As many columns as a bar needs, and more.
const WIDE: u16 = 200;

/// How far the work is, as far as there is room to show it.
fn bar(detail: &Detail, columns: u16, now: i64) -> String {
    const WIDTH: usize = 50;
    let size = |count: i64| human::size_exact(count as f64);
    let Detail { current, total, start, hide_counts, ref units } = *detail;
    if current <= 0 && total <= 0 {
        return String::new();
    }
    let alone =
        || if units.is_empty() { format!("{:>8}", size(current)) } else { format!("{current} {units}") };
    if total <= 0 {
        return alone();
    }
    // A negative or an excessive count fills none or all of it.
    let filled = ((current as f64 / total as f64 * 100.0) as usize / 2).min(WIDTH);
    let mut text = String::new();
    if columns > 110 {
        text = format!("[{}>{}] ", "=".repeat(filled), " ".repeat(WIDTH - filled));
    }
    if !hide_counts {
        text.push_str(&match units.as_str() {
            // A count beyond the total shows that the total is wrong.
            _ if current > total => alone(),
            "" => format!("{:>8}/{}", size(current), size(total)),
            units => format!("{current}/{total} {units}"),
        });
    }
    if current > 0 && start > 0 && filled < WIDTH && columns > 50 {
        let left = (now - start).max(0) as f64 / current as f64 * (total - current).max(0) as f64;
        text.push_str(&format!(" {}", clock(left as u64)));
    }
    text
}

/// A length of time: `1h2m3s`.
fn clock(seconds: u64) -> String {
    let (hours, minutes, rest) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{rest}s"),
        (0, _) => format!("{minutes}m{rest}s"),
        _ => format!("{hours}h{minutes}m{rest}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> Message {
        serde_json::from_str(text).unwrap()
    }

    fn detail(text: &str) -> Detail {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_pipe_sees_milestones_only() {
        let mut board = Board::default();
        let mut text = |json| board.text(&message(json));
        assert_eq!(
            text(r#"{"status":"Pulling fs layer","progressDetail":{},"id":"ab"}"#),
            "ab: Pulling fs layer\n"
        );
        assert_eq!(
            text(r#"{"status":"Downloading","id":"ab","progressDetail":{"current":1,"total":2}}"#),
            ""
        );
        assert_eq!(text(r#"{"stream":"Loaded image: x\n"}"#), "Loaded image: x\n");
        assert_eq!(text(r#"{"status":"Digest: x"}"#), "Digest: x\n");
    }

    #[test]
    fn a_terminal_keeps_a_line_for_each_layer() {
        let mut board = Board { on_terminal: true, ..Board::default() };
        let mut text = |json: &str| board.text(&message(json));
        let waiting = r#"{"status":"Waiting","progressDetail":{},"id":"ab"}"#;
        assert_eq!(text(r#"{"status":"Pulling from x","id":"1"}"#), "1: Pulling from x\n");
        assert_eq!(text(waiting), "\n\x1b[1A\x1b[2K\rab: Waiting \r\x1b[1B");
        assert_eq!(text(&waiting.replace("ab", "cd")), "\n\x1b[1A\x1b[2K\rcd: Waiting \r\x1b[1B");
        assert_eq!(text(waiting), "\x1b[2A\x1b[2K\rab: Waiting \r\x1b[2B");
        // A line of another kind ends the block; a layer of the next one is not looked for in the first.
        assert_eq!(text(r#"{"status":"Digest: x"}"#), "Digest: x\n");
        assert_eq!(text(waiting), "\n\x1b[1A\x1b[2K\rab: Waiting \r\x1b[1B");
    }

    #[test]
    fn bars_are_as_wide_as_the_terminal_allows() {
        let half = detail(r#"{"current":1000,"total":2000}"#);
        assert_eq!(bar(&half, 120, 0), format!("[{}>{}]      1kB/2kB", "=".repeat(25), " ".repeat(25)));
        assert_eq!(bar(&half, 80, 0), "     1kB/2kB");
        let cases = [
            (r#"{}"#, ""),
            (r#"{"current":1500}"#, "   1.5kB"),
            (r#"{"current":3,"units":"files"}"#, "3 files"),
            (r#"{"current":3,"total":4,"units":"files"}"#, "3/4 files"),
            (r#"{"current":5,"total":4}"#, "      5B"),
            (r#"{"current":-5,"total":4}"#, "     -5B/4B"),
            (r#"{"current":1,"total":4,"hidecounts":true}"#, ""),
            (r#"{"current":1,"total":4,"start":10}"#, "      1B/4B 3m30s"),
            (r#"{"current":9223372036854775807,"total":1}"#, " 9.223EB"),
        ];
        for (text, expected) in cases {
            assert_eq!(bar(&detail(text), 80, 80), expected, "{text}");
        }
    }

    #[test]
    fn a_registry_cannot_command_the_terminal() {
        let mut board = Board { on_terminal: true, ..Board::default() };
        let text = board.text(&message(r#"{"status":"\u001b[31mred\u0007","id":"a\rb"}"#));
        assert_eq!(text, "ab: [31mred\n");
    }
}
