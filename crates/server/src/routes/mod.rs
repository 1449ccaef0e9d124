//! The routes: one module a resource. A handler decodes, makes one engine call and encodes.

<<<<<<< HEAD
mod archive;
=======
mod check;
>>>>>>> 277140a (Check every blob, layer and row of the store, and repair what can be had again)
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

use axum::Router;
use wharf_engine::Engine;

use crate::error::Failure;

/// All routes, without the version in front.
pub(crate) fn router(engine: Engine) -> Router {
    Router::new()
        .merge(containers::routes())
        .merge(archive::routes())
        .merge(streams::routes())
        .merge(exec::routes())
        .merge(images::routes())
        .merge(volumes::routes())
        .merge(networks::routes())
        .merge(events::routes())
        .merge(system::routes())
        .merge(registry::routes())
        .merge(check::routes())
        .merge(refused::routes())
        .fallback(async || Failure::no_route())
        .method_not_allowed_fallback(async || Failure::no_route())
        .with_state(engine)
}
