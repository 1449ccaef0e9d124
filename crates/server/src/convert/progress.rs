//! Transfers as Docker's stream of JSON messages tells them.

use serde::Serialize;
use wharf_image::{LayerState, Progress};

/// One line of the stream.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Line {
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    progress_detail: Option<Detail>,
    #[serde(skip_serializing_if = "Option::is_none")]
    progress: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_detail: Option<ErrorDetail>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aux: Option<Aux>,
}

#[derive(Debug, Default, Serialize)]
struct Detail {
    #[serde(skip_serializing_if = "Option::is_none")]
    current: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    total: Option<u64>,
}

#[derive(Debug, Serialize)]
struct ErrorDetail {
    message: String,
}

/// What a push made, for programs.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Aux {
    pub(crate) tag: String,
    pub(crate) digest: String,
    pub(crate) size: u64,
}

impl Line {
    pub(crate) fn status(text: impl Into<String>) -> Self {
        Self { status: Some(text.into()), ..Self::default() }
    }

    pub(crate) fn with_id(text: impl Into<String>, id: impl Into<String>) -> Self {
        Self { id: Some(id.into()), ..Self::status(text) }
    }

    pub(crate) fn error(message: &str) -> Self {
        Self {
            error_detail: Some(ErrorDetail { message: message.to_owned() }),
            error: Some(message.to_owned()),
            ..Self::default()
        }
    }

    pub(crate) fn aux(aux: Aux) -> Self {
        Self { progress_detail: Some(Detail::default()), aux: Some(aux), ..Self::default() }
    }

    fn layer(id: &str, status: impl Into<String>, figure: Option<(u64, u64)>) -> Self {
        Self {
            progress_detail: Some(Detail {
                current: figure.map(|figure| figure.0),
                total: figure.map(|figure| figure.1),
            }),
            progress: figure.map(|(current, total)| bar(current, total)),
            ..Self::with_id(status, id)
        }
    }
}

/// The line of one piece of news; `started` is what the stream begins with.
pub(crate) fn line(news: &Progress, started: impl FnOnce() -> Line) -> Line {
    let (id, state) = match news {
        Progress::Started => return started(),
        Progress::Layer(id, state) => (id, state),
    };
    let figure = match state {
        LayerState::Downloading(current, total)
        | LayerState::Extracting(current, total)
        | LayerState::Pushing(current, total) => Some((*current, *total)),
        _ => None,
    };
    let status = match state {
        LayerState::Planned => "Pulling fs layer",
        LayerState::Exists => "Already exists",
        LayerState::Downloading(..) => "Downloading",
        LayerState::Verifying => "Verifying Checksum",
        LayerState::Downloaded => "Download complete",
        LayerState::Extracting(..) => "Extracting",
        LayerState::Pulled => "Pull complete",
        LayerState::Preparing => "Preparing",
        LayerState::Pushing(..) => "Pushing",
        LayerState::Pushed => "Pushed",
        LayerState::ExistsThere => "Layer already exists",
        LayerState::MountedFrom(repository) => {
            return Line::layer(id, format!("Mounted from {repository}"), None);
        }
    };
    Line::layer(id, status, figure)
}

/// `[=====>      ]  36.45kB/1.081MB`, for clients that only print what they get.
fn bar(current: u64, total: u64) -> String {
    const WIDTH: u64 = 50;
    if total == 0 {
        return format!("{:>8}", size(current));
    }
    let done = usize::try_from((current.saturating_mul(WIDTH) / total).min(WIDTH)).unwrap_or(0);
    let blank = usize::try_from(WIDTH).unwrap_or(0) - done;
    format!("[{}>{}] {:>8}/{}", "=".repeat(done), " ".repeat(blank), size(current), size(total))
}

/// Decimal units with four digits, as Docker writes sizes.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    #[expect(clippy::cast_precision_loss, reason = "four digits are shown")]
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let digits = match value {
        value if value >= 999.5 => 0,
        value if value >= 99.95 => 1,
        value if value >= 9.995 => 2,
        _ => 3,
    };
    let text = format!("{value:.digits$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(line: &Line) -> String {
        serde_json::to_string(line).unwrap()
    }

    #[test]
    fn lines_are_dockers() {
        let layer = |state| text(&line(&Progress::Layer("74373d282d7e".to_owned(), state), Line::default));
        assert_eq!(
            layer(LayerState::Planned),
            r#"{"status":"Pulling fs layer","progressDetail":{},"id":"74373d282d7e"}"#
        );
        assert_eq!(
            layer(LayerState::Downloading(36445, 1_081_043)),
            r#"{"status":"Downloading","progressDetail":{"current":36445,"total":1081043},"progress":"[=>                                                 ]  36.45kB/1.081MB","id":"74373d282d7e"}"#
        );
        assert_eq!(
            layer(LayerState::MountedFrom("team/box".to_owned())),
            r#"{"status":"Mounted from team/box","progressDetail":{},"id":"74373d282d7e"}"#
        );
        assert_eq!(text(&Line::error("no")), r#"{"errorDetail":{"message":"no"},"error":"no"}"#);
        let aux = Aux { tag: "1".to_owned(), digest: "d".to_owned(), size: 5 };
        assert_eq!(text(&Line::aux(aux)), r#"{"progressDetail":{},"aux":{"Tag":"1","Digest":"d","Size":5}}"#);
    }

    #[test]
    fn sizes_have_four_digits() {
        for (bytes, wanted) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1kB"),
            (32768, "32.77kB"),
            (1_081_043, "1.081MB"),
            (123_456_789, "123.5MB"),
        ] {
            assert_eq!(size(bytes), wanted);
        }
    }
}
