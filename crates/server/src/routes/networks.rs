//! Networks: the built-in ones can be seen and not changed.

use axum::Router;
use axum::extract::{Path, State};
use axum::response::Response;
use axum::routing::{get, post};
use http::StatusCode;
use serde_json::{Value, json};
use wharf_api::models::NetworkInspect;
use wharf_engine::Engine;

use crate::convert::network;
use crate::error::{Failure, Result};
use crate::request::{Json, Query};
use crate::{response, shapes};

pub(super) fn routes() -> Router<Engine> {
    Router::new()
        .route("/networks", get(list))
        .route("/networks/create", post(create))
        .route("/networks/prune", post(prune))
        .route("/networks/{name}", get(inspect).delete(remove))
        .route("/networks/{name}/connect", post(attach))
        .route("/networks/{name}/disconnect", post(attach))
}

async fn list(State(engine): State<Engine>, query: Query) -> Result<Response> {
    let views = engine.list_networks(query.filters()?).await?;
    let networks: Vec<NetworkInspect> = views.into_iter().map(network::to_summary).collect();
    Ok(response::shaped_list(&networks, shapes::NETWORK))
}

async fn inspect(State(engine): State<Engine>, Path(name): Path<String>, query: Query) -> Result<Response> {
    let view = engine.inspect_network(&name).await?;
    if query.text("scope").is_some_and(|scope| scope != "local") {
        return Err(Failure::new(StatusCode::NOT_FOUND, format!("network {name} not found")));
    }
    Ok(response::shaped(&network::to_model(view), shapes::NETWORK))
}

async fn remove(State(engine): State<Engine>, Path(name): Path<String>) -> Result<Response> {
    let view = engine.inspect_network(&name).await?;
    let message = format!("{} is a pre-defined network and cannot be removed", view.name);
    Err(Failure::new(StatusCode::FORBIDDEN, message))
}

/// There is nothing but the built-in networks, which are never pruned.
async fn prune(State(engine): State<Engine>, query: Query) -> Result<Response> {
    query
        .filters()?
        .check_keys(&["label", "label!", "until"])
        .map_err(|error| Failure::invalid(error.to_string()))?;
    engine.tell_empty_prune("network");
    Ok(response::ok(&json!({"NetworksDeleted": null})))
}

async fn create(Json(body): Json<Value>) -> Failure {
    match body["Name"].as_str() {
        None | Some("") => Failure::invalid("invalid name: name is empty"),
        Some(name @ ("bridge" | "host" | "none")) => Failure::new(
            StatusCode::FORBIDDEN,
            format!("operation is not permitted on predefined {name} network"),
        ),
        Some(_) => refuse(),
    }
}

/// Whether the container is there comes first.
async fn attach(State(engine): State<Engine>, Json(body): Json<Value>) -> Result<Failure> {
    engine.inspect_container(body["Container"].as_str().unwrap_or_default(), false).await?;
    Ok(refuse())
}

fn refuse() -> Failure {
    Failure::not_implemented("networks of one's own are not implemented yet: use bridge, host or none")
}
