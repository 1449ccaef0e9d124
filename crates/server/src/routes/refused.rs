//! Routes of the API that this engine knows and does not serve: each says so, instead of looking like a typing error.

use axum::Router;
use axum::routing::{MethodRouter, any};
use http::StatusCode;
use wharf_engine::Engine;

use crate::error::Failure;

/// What is not there yet, with what it is called.
const NOT_IMPLEMENTED: &[(&str, &str)] = &[
    ("/build", "building images"),
    ("/build/cancel", "building images"),
    ("/session", "building images with BuildKit"),
    ("/grpc", "building images with BuildKit"),
    ("/containers/{name}/checkpoints", "checkpoints"),
    ("/containers/{name}/checkpoints/{checkpoint}", "checkpoints"),
    ("/plugins/create", "plugins"),
    ("/plugins/privileges", "plugins"),
    ("/plugins/pull", "plugins"),
    ("/swarm/init", "swarm mode"),
    ("/swarm/join", "swarm mode"),
    ("/swarm/unlock", "swarm mode"),
];

/// What only a manager of a swarm answers. That this engine is none is the truth, in Docker's words.
const SWARM: &[&str] = &[
    "/swarm",
    "/swarm/update",
    "/swarm/unlockkey",
    "/nodes",
    "/nodes/{*rest}",
    "/services",
    "/services/{*rest}",
    "/tasks",
    "/tasks/{*rest}",
    "/secrets",
    "/secrets/{*rest}",
    "/configs",
    "/configs/{*rest}",
];

pub(super) fn routes() -> Router<Engine> {
    let mut router = Router::new();
    for (path, what) in NOT_IMPLEMENTED {
        router = router.route(path, not_implemented(what));
    }
    for path in SWARM {
        router = router.route(path, any(no_manager));
    }
    router = router.route("/swarm/leave", any(no_member));
    router
}

fn not_implemented(what: &'static str) -> MethodRouter<Engine> {
    any(move || async move { Failure::not_implemented(format!("{what} is not implemented yet")) })
}

async fn no_member() -> Failure {
    Failure::new(StatusCode::SERVICE_UNAVAILABLE, "This node is not part of a swarm")
}

async fn no_manager() -> Failure {
    Failure::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node \
         to swarm and try again.",
    )
}
