//! Further processes in running containers.

use axum::Router;
use axum::extract::{FromRequest, Path, Request, State};
use axum::response::Response;
use axum::routing::{get, post};
use http::StatusCode;
use hyper::upgrade::OnUpgrade;
use serde_json::json;
use wharf_api::models::{ExecConfig, ExecStartConfig};
use wharf_engine::Engine;
use wharf_model::ErrorKind;

use crate::convert::exec;
use crate::error::Result;
use crate::request::{JsonOrDefault, Query, Version};
use crate::{hijack, response, shapes};

pub(super) fn routes() -> Router<Engine> {
    Router::new()
        .route("/containers/{name}/exec", post(create))
        .route("/exec/{id}/start", post(start))
        .route("/exec/{id}/resize", post(resize))
        .route("/exec/{id}/json", get(inspect))
}

async fn create(
    State(engine): State<Engine>,
    Path(name): Path<String>,
    JsonOrDefault(body): JsonOrDefault<ExecConfig>,
) -> Result<Response> {
    let id = engine.create_exec(&name, exec::from_model(body)?).await?;
    // By hand: the model writes `id`, which only forgiving clients find.
    Ok(response::json(StatusCode::CREATED, &json!({"Id": id.to_string()})))
}

async fn start(
    State(engine): State<Engine>,
    Version(version): Version,
    Path(id): Path<String>,
    mut request: Request,
) -> Result<Response> {
    let upgrade = request.extensions_mut().remove::<OnUpgrade>();
    let headers = request.headers().clone();
    let JsonOrDefault(body) = JsonOrDefault::<ExecStartConfig>::from_request(request, &()).await?;
    let size = body.console_size.as_deref().map(exec::dimensions);
    let detach = body.detach.unwrap_or_default();
    match engine.start_exec(&id, detach, body.tty, size).await {
        Ok(Some(session)) => Ok(hijack::answer(&headers, upgrade, version, session)),
        Ok(None) => Ok(response::empty(StatusCode::OK)),
        // Clients expect the connection to be theirs, read why there, and ask for the exit code afterwards.
        Err(error) if !detach && error.kind() != ErrorKind::NotFound => Ok(hijack::answer_text(
            &headers,
            upgrade,
            version,
            body.tty.unwrap_or_default(),
            &format!("{error}\r\n"),
        )),
        Err(error) => Err(error.into()),
    }
}

async fn resize(State(engine): State<Engine>, Path(id): Path<String>, query: Query) -> Result<Response> {
    let (rows, columns) = (query.dimension("h", "height")?, query.dimension("w", "width")?);
    engine.resize_exec(&id, rows, columns).await?;
    Ok(response::empty(StatusCode::OK))
}

async fn inspect(State(engine): State<Engine>, Path(id): Path<String>) -> Result<Response> {
    let view = engine.inspect_exec(&id).await?;
    Ok(response::shaped(&exec::to_model(view), shapes::EXEC))
}
