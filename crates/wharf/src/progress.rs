//! Progress of long work the engine does: fetching, loading and importing images.
//!
//! On a terminal each layer keeps its line; in a pipe only the milestones are written, one a line.

use std::{collections::HashMap, io::Write as _};

use serde::Deserialize;
use wharf_api::client::{Client, Documents, Request};
use wharf_model::Reference;

use crate::{
    commands::create::flags::ContainerFlags,
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
    #[serde(rename = "progressDetail")]
    detail: Detail,
    error: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Detail {
    current: f64,
    total: f64,
    #[serde(rename = "hidecounts")]
    hide_counts: bool,
}

/// Where progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sink {
    Stdout,
    Stderr,
}

/// Fetches an image before a container is created of it; the progress goes to standard error.
pub(crate) async fn pull(client: &Client, image: &Reference, flags: &ContainerFlags) -> Result {
    let tag = match image.digest() {
        Some(digest) => digest.to_string(),
        None => image.tag().unwrap_or("latest").to_owned(),
    };
    let request = Request::post("/images/create")
        .query("fromImage", image.familiar_name())
        .query("tag", tag)
        .query_if("platform", flags.image.platform.as_deref().unwrap_or(""));
    let documents = client.send(request).await?.documents();
    show(documents, Sink::Stderr, flags.image.quiet).await
}

/// Shows messages until the work ends, and fails if it does.
pub(crate) async fn show(mut documents: Documents, sink: Sink, quiet: bool) -> Result {
    let on_terminal = match sink {
        Sink::Stdout => terminal::output_is_terminal(),
        Sink::Stderr => terminal::error_is_terminal(),
    };
    let mut board = Board { on_terminal, lines: HashMap::new(), count: 0 };
    while let Some(message) = documents.next::<Message>().await? {
        if !message.error.is_empty() {
            return Err(Failure::message(message.error));
        }
        if quiet {
            continue;
        }
        let text = board.text(&message);
        match sink {
            Sink::Stdout => std::io::stdout().write_all(text.as_bytes())?,
            Sink::Stderr => std::io::stderr().write_all(text.as_bytes())?,
        }
    }
    Ok(())
}

/// Whether the text can be a platform: one to three words with slashes between.
pub(crate) fn is_platform(text: &str) -> bool {
    let word = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-()+".contains(&byte))
    };
    text.is_empty() || (text.split('/').count() <= 3 && text.split('/').all(word))
}

/// A platform such as `linux/arm64/v8` as the API wants it in a query.
pub(crate) fn platform_document(text: &str) -> String {
    let mut parts = text.splitn(3, '/');
    let mut next = || parts.next().unwrap_or("");
    let (os, architecture, variant) = (next(), next(), next());
    let mut document = serde_json::json!({ "os": os, "architecture": architecture });
    if !variant.is_empty() {
        document["variant"] = variant.into();
    }
    document.to_string()
}

/// The lines on the terminal.
struct Board {
    on_terminal: bool,
    /// Where the line of each ID is, from the top.
    lines: HashMap<String, usize>,
    count: usize,
}

impl Board {
    fn text(&mut self, message: &Message) -> String {
        if !message.stream.is_empty() {
            return message.stream.clone();
        }
        let moves = message.detail.current > 0.0 || message.detail.total > 0.0;
        if !self.on_terminal {
            // A file has no use for a bar that grows.
            return if moves { String::new() } else { format!("{}\n", labelled(message)) };
        }
        let content =
            if moves { format!("{} {}", labelled(message), bar(&message.detail)) } else { labelled(message) };
        if message.id.is_empty() || self.count == 0 && !moves {
            self.lines.clear();
            self.count = 0;
            if message.id.is_empty() {
                return format!("{content}\n");
            }
        }
        match self.lines.get(&message.id) {
            Some(line) => {
                let up = self.count - line;
                format!("\x1b[{up}A\r\x1b[2K{content}\r\x1b[{up}B")
            }
            None => {
                self.lines.insert(message.id.clone(), self.count);
                self.count += 1;
                format!("{content}\n")
            }
        }
    }
}

fn labelled(message: &Message) -> String {
    if message.id.is_empty() { message.status.clone() } else { format!("{}: {}", message.id, message.status) }
}

fn bar(detail: &Detail) -> String {
    const WIDTH: usize = 50;
    if detail.total <= 0.0 {
        return format!("{:>8}", human::size_exact(detail.current));
    }
    let filled = ((detail.current / detail.total * WIDTH as f64) as usize).min(WIDTH);
    let bar = format!("[{}>{}]", "=".repeat(filled), " ".repeat(WIDTH - filled));
    if detail.hide_counts {
        return bar;
    }
    format!("{bar}  {:>8}/{}", human::size_exact(detail.current), human::size_exact(detail.total))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> Message {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_pipe_sees_milestones_only() {
        let mut board = Board { on_terminal: false, lines: HashMap::new(), count: 0 };
        let text = |board: &mut Board, json| board.text(&message(json));
        assert_eq!(text(&mut board, r#"{"status":"Pulling","id":"ab"}"#), "ab: Pulling\n");
        let moving = r#"{"status":"Downloading","id":"ab","progressDetail":{"current":1,"total":2}}"#;
        assert_eq!(text(&mut board, moving), "");
        assert_eq!(text(&mut board, r#"{"stream":"Loaded image: x\n"}"#), "Loaded image: x\n");
    }

    #[test]
    fn a_terminal_keeps_a_line_for_each_layer() {
        let mut board = Board { on_terminal: true, lines: HashMap::new(), count: 0 };
        let moving = r#"{"status":"Downloading","id":"ab","progressDetail":{"current":1000,"total":2000}}"#;
        assert!(board.text(&message(moving)).ends_with("1kB/2kB\n"));
        assert!(board.text(&message(moving)).starts_with("\x1b[1A\r\x1b[2Kab: Downloading [==="));
    }
}
