//! `POST /wharf/check`: ours alone. A stream of the usual messages; findings and the summary are `aux`, the summary is
//! the last line of every check that was not cut.

use std::collections::VecDeque;

use axum::Router;
use axum::extract::State;
use axum::response::Response;
use axum::routing::post;
use serde_json::{Value, json};
use wharf_engine::{CheckNews, Engine};
use wharf_image::Report;

use crate::request::Query;
use crate::response;

pub(super) fn routes() -> Router<Engine> {
    Router::new().route("/wharf/check", post(check))
}

async fn check(State(engine): State<Engine>, query: Query) -> Response {
    let state = (engine.check_store(query.flag("repair")), VecDeque::new());
    let body = response::pieces(state, |(mut check, mut lines)| async move {
        while lines.is_empty() {
            match check.next().await? {
                CheckNews::Checked(current, total) => lines.push_back(json!({
                    "status": "Checking", "id": "store", "progressDetail": {"current": current, "total": total},
                })),
                CheckNews::Repairing => {
                    lines.push_back(json!({"status": "Repairing", "id": "store", "progressDetail": {}}));
                }
                CheckNews::Ended(Ok(report)) => lines.extend(lines_of(&report)),
                CheckNews::Ended(Err(error)) => {
                    let message = error.to_string();
                    lines.push_back(json!({"errorDetail": {"message": message}, "error": message}));
                }
            }
        }
        let line = response::line(&lines.pop_front()?).unwrap_or_default();
        Some((line, (check, lines)))
    });
    response::stream("application/json", body)
}

fn lines_of(report: &Report) -> Vec<Value> {
    let mut lines = vec![json!({"status": "Checked", "id": "store", "progressDetail": {}})];
    if !report.garbage.is_empty() {
        let count = report.garbage.len();
        lines.push(
            json!({"status": format!("{count} blobs that no image needs: the collector removes them")}),
        );
    }
    lines.extend(report.findings.iter().map(|finding| {
        json!({"aux": {"Finding": {
            "Kind": finding.part.name(), "Id": finding.id.to_string(), "Reason": finding.reason,
            "Images": finding.images, "Repaired": finding.repaired,
        }}})
    }));
    lines.push(json!({"aux": {"Summary": {
        "Blobs": report.blobs, "Layers": report.layers, "Images": report.images, "Bytes": report.bytes,
    }}}));
    lines
}
