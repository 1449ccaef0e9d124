//! The routes: one module a resource. A handler decodes, makes one engine call and encodes.

mod archive;
mod check;
mod containers;
mod events;
mod exec;
mod images;
mod networks;
mod refused;
mod registry;
mod streams;
mod system;
mod volumes;
mod websocket;
mod why;

use axum::Router;
use wharf_engine::Engine;

use crate::error::Failure;

/// All routes, without the version in front.
pub(crate) fn router(engine: Engine) -> Router {
    Router::new()
        .merge(containers::routes())
        .merge(archive::routes())
        .merge(streams::routes())
        .merge(websocket::routes())
        .merge(exec::routes())
        .merge(images::routes())
        .merge(volumes::routes())
        .merge(networks::routes())
        .merge(events::routes())
        .merge(system::routes())
        .merge(registry::routes())
        .merge(check::routes())
        .merge(why::routes())
        .merge(refused::routes())
        .fallback(async || Failure::no_route())
        .method_not_allowed_fallback(async || Failure::no_route())
        .with_state(engine)
}
