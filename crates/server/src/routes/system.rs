//! The engine itself.

use axum::Router;
use axum::extract::{Path, State};
use axum::response::Response;
use axum::routing::{any, get, post};
use http::{HeaderValue, StatusCode, header};
use jiff::Timestamp;
use serde_json::json;
use wharf_api::version::ApiVersion;
use wharf_engine::{ContainerRow, Engine, ListOptions};

use crate::convert::summary::{Fields, Summary};
use crate::convert::system;
use crate::error::{Failure, Result};
use crate::request::{Query, Version};
use crate::shape::Shaped;
use crate::{adapt, response, shapes};

pub(super) fn routes() -> Router<Engine> {
    Router::new()
        .route("/_ping", get(ping))
        .route("/version", get(version))
        .route("/info", get(info))
        .route("/system/df", get(disk_usage))
        .route("/build/prune", post(prune_builds))
        .route("/plugins", get(plugins))
        .route("/plugins/{*rest}", any(no_plugin))
}

/// Answers without the engine, so that it tells only whether the process is alive. HEAD is the same without a body.
async fn ping() -> Response {
    let mut response = Response::new("OK".into());
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
        (header::CACHE_CONTROL, "no-cache, no-store, must-revalidate"),
        (header::PRAGMA, "no-cache"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert("builder-version", HeaderValue::from_static("2"));
    headers.insert("swarm", HeaderValue::from_static("inactive"));
    response
}

async fn version(State(engine): State<Engine>) -> Result<Response> {
    Ok(response::shaped(&system::to_version(engine.system().await?), shapes::VERSION))
}

async fn info(State(engine): State<Engine>, Version(version): Version) -> Result<Response> {
    let mut document = response::value(&system::to_info(engine.system().await?));
    adapt::info(&mut document, version);
    Ok(response::ok(&Shaped::one(&document, shapes::INFO)))
}

async fn disk_usage(
    State(engine): State<Engine>,
    Version(version): Version,
    query: Query,
) -> Result<Response> {
    // Before 1.42 there was no choice.
    let types: Vec<&str> = query.all("type").filter(|_| version >= ApiVersion::new(42)).collect();
    let known = ["image", "container", "volume", "build-cache"];
    if let Some(unknown) = types.iter().find(|asked| !known.contains(asked)) {
        return Err(Failure::invalid(format!("unknown object type: {unknown}")));
    }
    let asked = |name: &str| types.is_empty() || types.contains(&name);
    let parts = system::Parts {
        images: asked("image"),
        containers: asked("container"),
        volumes: asked("volume"),
        build_cache: asked("build-cache"),
    };
    let usage = engine.disk_usage().await?;
    let mut containers = Vec::new();
    if parts.containers {
        let (now, fields) = (Timestamp::now(), Fields::of(None));
        let show = |row: &ContainerRow<'_>| {
            containers.push(response::value(&Summary { row, now, annotations: true, fields: &fields }));
        };
        engine.list_containers(ListOptions { all: true, size: true, ..ListOptions::default() }, show).await?;
    }
    let mut document = system::to_disk_usage(usage, containers, parts);
    let images = document["Images"].as_array_mut();
    images.into_iter().flatten().for_each(|image| adapt::image_size(image, version));
    Ok(response::ok(&Shaped::one(&document, shapes::DISK_USAGE)))
}

/// There is no builder and so no cache of one.
async fn prune_builds(State(engine): State<Engine>) -> Response {
    engine.tell_empty_prune("builder");
    response::ok(&json!({"CachesDeleted": null, "SpaceReclaimed": 0}))
}

/// There are no plugins.
async fn plugins() -> Response {
    response::ok(&json!([]))
}

/// And so none of any name: what `inspect` asks last for a name that nothing has.
async fn no_plugin(Path(rest): Path<String>) -> Failure {
    let name = rest.rsplit_once('/').map_or(rest.as_str(), |(name, _)| name);
    Failure::new(StatusCode::NOT_FOUND, format!("plugin {name:?} not found"))
}
