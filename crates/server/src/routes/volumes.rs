//! Volumes.

use axum::Router;
use axum::extract::{Path, State};
use axum::response::Response;
use axum::routing::{MethodRouter, get, post};
use http::StatusCode;
use serde_json::{Value, json};
use wharf_api::models::{VolumeCreateRequest, VolumePruneResponse};
use wharf_api::version::ApiVersion;
use wharf_engine::Engine;

use crate::convert::{filled, ordered, size, volume};
use crate::error::{Failure, Result};
use crate::request::{JsonOrDefault, Query, Version};
use crate::shape::Shaped;
use crate::{response, shapes};

pub(super) fn routes() -> Router<Engine> {
    Router::new()
        .route("/volumes", get(list))
        .route("/volumes/create", post(create).merge(one("create")))
        .route("/volumes/prune", post(prune).merge(one("prune")))
        .route("/volumes/{name}", get(inspect).delete(remove).put(update))
}

/// A volume whose name is a route of its own.
fn one(name: &'static str) -> MethodRouter<Engine> {
    get(move |state: State<Engine>| inspect(state, Path(name.to_owned())))
        .delete(move |state: State<Engine>, query: Query| remove(state, Path(name.to_owned()), query))
}

async fn list(State(engine): State<Engine>, query: Query) -> Result<Response> {
    let list = engine.list_volumes(query.filters()?).await?;
    let volumes: Vec<Value> = list.volumes.into_iter().map(volume::document).collect();
    let document = json!({"Volumes": volumes, "Warnings": filled(list.warnings)});
    Ok(response::json(StatusCode::OK, &Shaped::one(&document, shapes::VOLUMES)))
}

async fn create(
    State(engine): State<Engine>,
    JsonOrDefault(body): JsonOrDefault<VolumeCreateRequest>,
) -> Result<Response> {
    if body.cluster_volume_spec.is_some() {
        return Err(Failure::not_implemented("cluster volumes are not implemented"));
    }
    let name = body.name.filter(|name| !name.is_empty());
    let driver = body.driver.filter(|driver| !driver.is_empty()).unwrap_or_else(|| "local".to_owned());
    let view = engine
        .create_volume(name.as_deref(), &driver, ordered(body.labels), ordered(body.driver_opts))
        .await?;
    let document = volume::document(view);
    Ok(response::json(StatusCode::CREATED, &Shaped::one(&document, shapes::VOLUME)))
}

async fn inspect(State(engine): State<Engine>, Path(name): Path<String>) -> Result<Response> {
    let view = engine.inspect_volume(&name).await?;
    let document = volume::document(view);
    Ok(response::json(StatusCode::OK, &Shaped::one(&document, shapes::VOLUME)))
}

async fn remove(State(engine): State<Engine>, Path(name): Path<String>, query: Query) -> Result<Response> {
    engine.remove_volume(&name, query.flag("force")).await?;
    Ok(response::no_content())
}

async fn update() -> Failure {
    Failure::not_implemented("updating cluster volumes is not implemented")
}

async fn prune(State(engine): State<Engine>, Version(version): Version, query: Query) -> Result<Response> {
    let mut filters = query.filters()?;
    if version < ApiVersion::new(42) {
        // Named volumes were pruned, too.
        filters.add("all", "true");
    }
    let pruned = engine.prune_volumes(filters).await?;
    let document = VolumePruneResponse {
        volumes_deleted: Some(pruned.removed),
        space_reclaimed: Some(size(pruned.reclaimed)),
    };
    Ok(response::shaped(&document, shapes::VOLUMES_PRUNED))
}
