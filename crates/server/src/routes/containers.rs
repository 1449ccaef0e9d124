//! Containers: their life and what is known about them. What they say is in [`super::streams`].

use axum::Router;
use axum::extract::{Path, State};
use axum::response::Response;
use axum::routing::{MethodRouter, delete, get, post};
use http::{HeaderMap, StatusCode, header};
use jiff::Timestamp;
use serde_json::{Value, json};
use wharf_api::models::{ContainerCreateResponse, ContainerPruneResponse, ContainerTopResponse};
use wharf_api::version::ApiVersion;
use wharf_engine::{ContainerRow, Engine, ListOptions};

use crate::convert::summary::{Fields, Summary};
use crate::convert::{create, filled, inspect, size, update};
use crate::error::{Failure, Result};
use crate::request::{Json, JsonOrDefault, Query, Version};
use crate::shape::Shaped;
use crate::{adapt, response, shapes};

/// The fields that a list is to have, with commas: ours, which Docker ignores as it does everything it does not know.
const FIELDS: &str = "fields";

pub(super) fn routes() -> Router<Engine> {
    Router::new()
        .route("/containers/json", get(list).merge(removal("json")))
        .route("/containers/create", post(create).merge(removal("create")))
        .route("/containers/prune", post(prune).merge(removal("prune")))
        .route("/containers/{name}", delete(remove))
        .route("/containers/{name}/json", get(inspect))
        .route("/containers/{name}/top", get(top))
        .route("/containers/{name}/start", post(start))
        .route("/containers/{name}/stop", post(stop))
        .route("/containers/{name}/restart", post(restart))
        .route("/containers/{name}/kill", post(kill))
        .route("/containers/{name}/pause", post(pause))
        .route("/containers/{name}/unpause", post(unpause))
        .route("/containers/{name}/rename", post(rename))
        .route("/containers/{name}/resize", post(resize))
        .route("/containers/{name}/update", post(update))
}

/// `DELETE` of a container whose name is a route of its own.
fn removal(name: &'static str) -> MethodRouter<Engine> {
    delete(move |state: State<Engine>, query: Query| remove(state, Path(name.to_owned()), query))
}

async fn list(State(engine): State<Engine>, Version(version): Version, query: Query) -> Result<Response> {
    let limit =
        query.number("limit")?.and_then(|limit| usize::try_from(limit).ok()).filter(|limit| *limit > 0);
    let options =
        ListOptions { all: query.flag("all"), limit, size: query.flag("size"), filters: query.filters()? };
    let (now, annotations) = (Timestamp::now(), adapt::lists_annotations(version));
    let fields = Fields::of(query.text(FIELDS));
    let mut list = response::List::default();
    let show = |row: &ContainerRow<'_>| list.push(&Summary { row, now, annotations, fields: &fields });
    engine.list_containers(options, show).await?;
    Ok(list.finish())
}

async fn create(
    State(engine): State<Engine>,
    Version(version): Version,
    query: Query,
    Json(body): Json<Value>,
) -> Result<Response> {
    let platform = query.text("platform").filter(|_| version >= ApiVersion::new(41));
    let old_place = body["MacAddress"].as_str().is_some_and(|mac| !mac.is_empty());
    let spec = create::container_spec(body, version, platform)?;
    let (id, mut warnings) = engine.create_container(query.text("name"), spec).await?;
    if old_place && version >= ApiVersion::new(44) {
        warnings.push(
            "The container-wide MacAddress field is now deprecated. It should be specified in EndpointsConfig instead."
                .to_owned(),
        );
    }
    let created = ContainerCreateResponse { id: id.to_string(), warnings };
    Ok(response::json(StatusCode::CREATED, &created))
}

async fn inspect(
    State(engine): State<Engine>,
    Version(version): Version,
    Path(name): Path<String>,
    query: Query,
) -> Result<Response> {
    let view = engine.inspect_container(&name, query.flag("size")).await?;
    let why = view.ending.as_ref().map(response::value);
    let mut document = response::value(&inspect::to_model(view));
    if let Some(why) = why {
        document["State"]["Why"] = why;
    }
    adapt::container(&mut document, version);
    Ok(response::ok(&Shaped::one(&document, shapes::CONTAINER)))
}

async fn top(State(engine): State<Engine>, Path(name): Path<String>, query: Query) -> Result<Response> {
    let view = engine.top(&name, query.text("ps_args").unwrap_or("-ef")).await?;
    let document = ContainerTopResponse { titles: Some(view.titles), processes: Some(view.processes) };
    Ok(response::ok(&document))
}

async fn start(
    State(engine): State<Engine>,
    Path(name): Path<String>,
    query: Query,
    headers: HeaderMap,
) -> Result<Response> {
    check_no_settings(&headers)?;
    if ["checkpoint", "checkpoint-dir"].iter().any(|key| query.text(key).is_some_and(|text| !text.is_empty()))
    {
        // Nothing is ever restored here; starting anew instead would be a lie (EN-12).
        return Err(Failure::invalid("checkpoint is only supported in experimental mode"));
    }
    engine.start_container(&name).await?;
    Ok(response::no_content())
}

/// Settings at start are long gone; who sends them must not believe they count.
fn check_no_settings(headers: &HeaderMap) -> Result<()> {
    let length =
        headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if headers.contains_key(header::TRANSFER_ENCODING) || length.is_some_and(|length| length > 7) {
        return Err(Failure::invalid(
            "starting container with non-empty request body was deprecated since API v1.22 and removed in v1.24",
        ));
    }
    Ok(())
}

async fn stop(State(engine): State<Engine>, Path(name): Path<String>, query: Query) -> Result<Response> {
    engine.stop_container(&name, query.text("signal"), query.number("t")?).await?;
    Ok(response::no_content())
}

async fn restart(State(engine): State<Engine>, Path(name): Path<String>, query: Query) -> Result<Response> {
    engine.restart_container(&name, query.text("signal"), query.number("t")?).await?;
    Ok(response::no_content())
}

async fn kill(State(engine): State<Engine>, Path(name): Path<String>, query: Query) -> Result<Response> {
    engine.kill_container(&name, query.text("signal")).await?;
    Ok(response::no_content())
}

async fn pause(State(engine): State<Engine>, Path(name): Path<String>) -> Result<Response> {
    engine.pause_container(&name).await?;
    Ok(response::no_content())
}

async fn unpause(State(engine): State<Engine>, Path(name): Path<String>) -> Result<Response> {
    engine.unpause_container(&name).await?;
    Ok(response::no_content())
}

async fn rename(State(engine): State<Engine>, Path(name): Path<String>, query: Query) -> Result<Response> {
    engine.rename_container(&name, query.text("name").unwrap_or_default()).await?;
    Ok(response::no_content())
}

async fn resize(State(engine): State<Engine>, Path(name): Path<String>, query: Query) -> Result<Response> {
    let (rows, columns) = (query.dimension("h", "height")?, query.dimension("w", "width")?);
    engine.resize_container(&name, rows, columns).await?;
    Ok(response::empty(StatusCode::OK))
}

async fn update(
    State(engine): State<Engine>,
    Path(name): Path<String>,
    JsonOrDefault(body): JsonOrDefault<Value>,
) -> Result<Response> {
    let warnings = engine.update_container(&name, update::from_body(&body)?).await?;
    // By hand: the model leaves out what Docker sends as null.
    Ok(response::ok(&json!({ "Warnings": filled(warnings) })))
}

async fn remove(State(engine): State<Engine>, Path(name): Path<String>, query: Query) -> Result<Response> {
    engine.remove_container(&name, query.flag("force"), query.flag("v")).await?;
    Ok(response::no_content())
}

async fn prune(State(engine): State<Engine>, query: Query) -> Result<Response> {
    let pruned = engine.prune_containers(query.filters()?).await?;
    let document = ContainerPruneResponse {
        containers_deleted: filled(pruned.removed),
        space_reclaimed: Some(size(pruned.reclaimed)),
    };
    Ok(response::shaped(&document, shapes::CONTAINERS_PRUNED))
}
