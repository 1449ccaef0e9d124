//! `GET /wharf/containers/{name}/why`: ours alone. Why a container's runs ended, newest first, also of one that is gone.

use axum::Router;
use axum::extract::{Path, State};
use axum::response::Response;
use axum::routing::get;
use serde_json::json;
use wharf_engine::{Engine, Status};

use crate::error::Result;
use crate::request::Query;
use crate::response;

/// Endings in an answer that asks for no number.
const USUAL: i64 = 20;

pub(super) fn routes() -> Router<Engine> {
    Router::new().route("/wharf/containers/{name}/why", get(why))
}

async fn why(State(engine): State<Engine>, Path(name): Path<String>, query: Query) -> Result<Response> {
    let limit = query.number("limit")?.unwrap_or(USUAL).clamp(0, 1000);
    let view = engine.why(&name, usize::try_from(limit).unwrap_or(0)).await?;
    Ok(response::ok(&json!({
        "Id": view.id,
        "Name": view.name,
        // A container that is gone has no state.
        "Status": view.status.map_or("", Status::as_str),
        "RunningSince": view.running_since,
        "OOMKills": view.oom_kills,
        "Endings": view.endings,
    })))
}
