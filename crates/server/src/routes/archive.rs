//! Files of containers: copied in and out, listed by what changed, exported, and made images of.

use std::io;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::response::Response;
use axum::routing::{get, post};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::TryStreamExt;
use http::{HeaderValue, StatusCode, header};
use serde_json::{Value, json};
use tokio::io::AsyncRead;
use tokio_util::io::{ReaderStream, StreamReader};
use wharf_engine::{ArchiveTarget, CommitRequest, Engine, PathStat};
use wharf_image::{ChangeKind, RunConfig};
use wharf_model::Reference;

use crate::error::{Failure, Result};
use crate::request::{JsonOrDefault, Query, invalid_json};
use crate::response;

/// The header that describes what is at a path.
const PATH_STAT: &str = "x-docker-container-path-stat";
/// How much of an archive is read at once.
const CHUNK: usize = 64 * 1024;

pub(super) fn routes() -> Router<Engine> {
    Router::new()
        .route("/containers/{name}/archive", get(read).head(stat).put(write))
        .route("/containers/{name}/changes", get(changes))
        .route("/containers/{name}/export", get(export))
        .route("/commit", post(commit))
}

async fn stat(State(engine): State<Engine>, Path(name): Path<String>, query: Query) -> Result<Response> {
    let stat = engine.stat_archive(&name, query.text("path").unwrap_or_default()).await?;
    let mut response = response::empty(StatusCode::OK);
    response.headers_mut().insert(PATH_STAT, describe(&stat)?);
    Ok(response)
}

async fn read(State(engine): State<Engine>, Path(name): Path<String>, query: Query) -> Result<Response> {
    let (stat, archive) = engine.read_archive(&name, query.text("path").unwrap_or_default()).await?;
    let mut response = tar(archive);
    response.headers_mut().insert(PATH_STAT, describe(&stat)?);
    Ok(response)
}

async fn write(
    State(engine): State<Engine>,
    Path(name): Path<String>,
    query: Query,
    request: Request,
) -> Result<Response> {
    let target = ArchiveTarget {
        path: query.text("path").unwrap_or_default().to_owned(),
        keep_types: query.flag("noOverwriteDirNonDir"),
        own: query.flag("copyUIDGID"),
    };
    let body = StreamReader::new(request.into_body().into_data_stream().map_err(io::Error::other));
    engine.write_archive(&name, target, body).await?;
    Ok(response::empty(StatusCode::OK))
}

async fn export(State(engine): State<Engine>, Path(name): Path<String>) -> Result<Response> {
    let mut response = tar(engine.export_container(&name).await?);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    Ok(response)
}

async fn changes(State(engine): State<Engine>, Path(name): Path<String>) -> Result<Response> {
    let changes = engine.container_changes(&name).await?;
    if changes.is_empty() {
        return Ok(response::ok(&Value::Null));
    }
    let line = |change: &wharf_image::Change| {
        let kind = match change.kind {
            ChangeKind::Modified => 0,
            ChangeKind::Added => 1,
            ChangeKind::Deleted => 2,
        };
        json!({"Path": String::from_utf8_lossy(&change.path), "Kind": kind})
    };
    Ok(response::ok(&changes.iter().map(line).collect::<Vec<_>>()))
}

async fn commit(
    State(engine): State<Engine>,
    query: Query,
    JsonOrDefault(body): JsonOrDefault<Value>,
) -> Result<Response> {
    let request = CommitRequest {
        reference: query.text("repo").map(|repository| named(repository, query.text("tag"))).transpose()?,
        author: query.text("author").unwrap_or_default().to_owned(),
        comment: query.text("comment").unwrap_or_default().to_owned(),
        // One parameter may hold several lines, as a Dockerfile would.
        changes: query
            .all("changes")
            .flat_map(str::lines)
            .filter(|line| !line.trim().is_empty())
            .map(str::to_owned)
            .collect(),
        pause: query.flag_or("pause", true),
        config: configuration(body)?,
    };
    let id = engine.commit_container(query.text("container").unwrap_or_default(), request).await?;
    Ok(response::json(StatusCode::CREATED, &json!({ "Id": id.to_string() })))
}

fn named(repository: &str, tag: Option<&str>) -> Result<Reference> {
    let invalid = |error: &dyn std::fmt::Display| Failure::invalid(error.to_string());
    let reference = Reference::parse_normalized(repository).map_err(|error| invalid(&error))?;
    if reference.digest().is_some() {
        return Err(Failure::invalid("cannot import digest reference"));
    }
    match tag {
        Some(tag) => reference.with_tag(tag).map_err(|error| invalid(&error)),
        None => Ok(reference.or_latest()),
    }
}

/// A body's configuration; `null` and nothing are none. Fields an image does not keep are ignored.
fn configuration(mut body: Value) -> Result<Option<RunConfig>> {
    let Some(fields) = body.as_object_mut() else { return Ok(None) };
    fields.retain(|_, value| !value.is_null());
    for name in ["Cmd", "Entrypoint"] {
        // A single string is what old clients send for a list of one.
        if let Some(value) = fields.get_mut(name).filter(|value| value.is_string()) {
            *value = Value::Array(vec![value.take()]);
        }
    }
    serde_json::from_value(body).map(Some).map_err(|error| invalid_json(&error))
}

fn describe(stat: &PathStat) -> Result<HeaderValue> {
    let document = json!({
        "name": stat.name,
        "size": stat.size,
        "mode": stat.mode,
        "mtime": stat.mtime.to_string(),
        "linkTarget": stat.link_target,
    });
    HeaderValue::try_from(STANDARD.encode(document.to_string()))
        .map_err(|error| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
}

/// A failure on the way breaks the connection, so that no client takes half an archive for a whole one.
fn tar(archive: impl AsyncRead + Send + 'static) -> Response {
    let mut response = Response::new(Body::from_stream(ReaderStream::with_capacity(archive, CHUNK)));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-tar"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_may_be_absent_null_or_partial() {
        assert_eq!(configuration(Value::Null).unwrap(), None);
        assert_eq!(configuration(json!({})).unwrap(), Some(RunConfig::default()));
        let config =
            configuration(json!({"Cmd": "x", "Env": null, "Hostname": "h", "ExposedPorts": {"80/tcp": {}}}));
        let config = config.unwrap().unwrap();
        assert_eq!(config.cmd.unwrap(), ["x"]);
        assert!(config.exposed_ports.contains_key("80/tcp"));
        assert!(configuration(json!({"Env": 1})).is_err());
    }

    #[test]
    fn what_is_at_a_path_is_described_as_docker_does() {
        let stat = PathStat {
            name: "f".into(),
            size: 3,
            mode: 420,
            mtime: "2026-11-23T19:46:43.165177557Z".parse().unwrap(),
            link_target: String::new(),
        };
        let header = describe(&stat).unwrap();
        let text = String::from_utf8(STANDARD.decode(header.as_bytes()).unwrap()).unwrap();
        let document: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(document["mtime"], "2026-11-23T19:46:43.165177557Z");
        assert_eq!(document["linkTarget"], "");
    }
}
