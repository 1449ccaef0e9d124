//! Networks: the built-in ones can be seen and not changed.

use axum::Router;
use axum::extract::{Path, State};
use axum::response::Response;
use axum::routing::{get, post};
use http::StatusCode;
use serde_json::json;
use wharf_api::models::NetworkInspect;
use wharf_engine::Engine;

use crate::convert::network;
use crate::error::{Failure, Result};
use crate::request::Query;
use crate::{response, shapes};

pub(super) fn routes() -> Router<Engine> {
    Router::new()
        .route("/networks", get(list))
        .route("/networks/create", post(refuse))
        .route("/networks/prune", post(prune))
        .route("/networks/{name}", get(inspect).delete(remove))
        .route("/networks/{name}/connect", post(refuse))
        .route("/networks/{name}/disconnect", post(refuse))
}

async fn list(State(engine): State<Engine>, query: Query) -> Result<Response> {
    let views = engine.list_networks(query.filters()?).await?;
    let networks: Vec<NetworkInspect> = views.into_iter().map(network::to_summary).collect();
    Ok(response::shaped_list(&networks, shapes::NETWORK))
}

async fn inspect(State(engine): State<Engine>, Path(name): Path<String>) -> Result<Response> {
    let view = engine.inspect_network(&name).await?;
    Ok(response::shaped(&network::to_model(view), shapes::NETWORK))
}

async fn remove(State(engine): State<Engine>, Path(name): Path<String>) -> Result<Response> {
    let view = engine.inspect_network(&name).await?;
    let message = format!("{} is a pre-defined network and cannot be removed", view.name);
    Err(Failure::new(StatusCode::FORBIDDEN, message))
}

/// There is nothing but the built-in networks, which are never pruned.
async fn prune(State(engine): State<Engine>, query: Query) -> Result<Response> {
    let _checked = query.filters()?;
    engine.tell_empty_prune("network");
    Ok(response::ok(&json!({"NetworksDeleted": null})))
}

async fn refuse() -> Failure {
    Failure::not_implemented("networks of one's own are not implemented yet: use bridge, host or none")
}
