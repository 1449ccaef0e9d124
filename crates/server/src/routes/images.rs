//! Images. Names have slashes, so what follows `/images/` is taken apart here rather than by the router.

use std::io;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::response::Response;
use axum::routing::{get, post};
use bytes::Bytes;
use futures_util::TryStreamExt;
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};
use tokio::io::AsyncRead;
use tokio_util::io::{ReaderStream, StreamReader};
use wharf_api::models::{
    ImageDeleteResponseItem, ImageHistoryResponseItem, ImagePruneResponse, ImageSummary,
};
use wharf_api::version::ApiVersion;
use wharf_engine::{Engine, ImageView};
use wharf_image::ImportOptions;
use wharf_model::Reference;

use super::registry;
use crate::convert::{filled, image, size};
use crate::error::{Failure, Result};
use crate::request::{Query, Version};
use crate::shape::Shaped;
use crate::{adapt, response, shapes};

/// How much of an archive is read at once.
const ARCHIVE_CHUNK: usize = 64 * 1024;

pub(super) fn routes() -> Router<Engine> {
    Router::new()
        .route("/images/json", get(list))
        .route("/images/create", post(create))
        .route("/images/load", post(load))
        .route("/images/get", get(save_many))
        .route("/images/prune", post(prune))
        .route("/images/{*rest}", get(get_of_one).post(post_to_one).delete(remove))
}

/// `GET /images/{name}/{what}`.
async fn get_of_one(
    State(engine): State<Engine>,
    Version(version): Version,
    Path(rest): Path<String>,
    query: Query,
) -> Result<Response> {
    match split(&rest) {
        Some((name, "json")) => inspect(&engine, version, name, query.platform()?).await,
        Some((name, "history")) => history(&engine, name, query.platform()?).await,
        Some((name, "get")) => save(&engine, vec![name.to_owned()], query.platform()?).await,
        _ => Err(Failure::no_route()),
    }
}

/// `POST /images/{name}/{what}`.
async fn post_to_one(
    State(engine): State<Engine>,
    Path(rest): Path<String>,
    query: Query,
    headers: HeaderMap,
) -> Result<Response> {
    match split(&rest) {
        Some((name, "tag")) => tag(&engine, name, &query).await,
        Some((name, "push")) => {
            registry::push(&engine, name, query.text("tag"), query.platform()?, &headers).await
        }
        _ => Err(Failure::no_route()),
    }
}

/// `name/with/slashes/what` as name and what.
fn split(rest: &str) -> Option<(&str, &str)> {
    rest.rsplit_once('/').filter(|(name, _)| !name.is_empty())
}

async fn list(State(engine): State<Engine>, Version(version): Version, query: Query) -> Result<Response> {
    let mut filters = query.filters()?;
    if let Some(name) = query.text("filter").filter(|_| version < ApiVersion::new(41)) {
        filters.add("reference", name);
    }
    let views = engine.list_images(query.flag("all"), filters).await?;
    let shared = if query.flag("shared-size") { Some(engine.shared_sizes().await?) } else { None };
    let summary = |view: ImageView| {
        let known = shared.as_ref().map(|sizes| sizes.get(&view.image.id).copied().unwrap_or(0));
        let summary = image::to_summary(view);
        ImageSummary { shared_size: known.map_or(summary.shared_size, size), ..summary }
    };
    let mut rows: Vec<Value> = views.into_iter().map(|view| response::value(&summary(view))).collect();
    rows.iter_mut().for_each(|row| adapt::image(row, version));
    Ok(response::ok(&Shaped::each(&Value::Array(rows), shapes::IMAGE_SUMMARY)))
}

async fn inspect(
    engine: &Engine,
    version: ApiVersion,
    name: &str,
    platform: Option<String>,
) -> Result<Response> {
    let mut document = image::to_inspect(engine.inspect_image(name, platform).await?);
    adapt::image_inspect(&mut document, version);
    Ok(response::ok(&Shaped::one(&document, shapes::IMAGE)))
}

async fn history(engine: &Engine, name: &str, platform: Option<String>) -> Result<Response> {
    let entries = engine.image_history(name, platform).await?;
    let lines: Vec<ImageHistoryResponseItem> = entries.into_iter().map(image::to_history).collect();
    Ok(response::shaped_list(&lines, shapes::HISTORY))
}

async fn tag(engine: &Engine, name: &str, query: &Query) -> Result<Response> {
    let repository = query.text("repo").unwrap_or_default();
    engine.tag_image(name, repository, query.text("tag").unwrap_or_default()).await?;
    Ok(response::empty(StatusCode::CREATED))
}

async fn remove(State(engine): State<Engine>, Path(name): Path<String>, query: Query) -> Result<Response> {
    let removed = engine.remove_image(&name, query.flag("force"), query.flag("noprune")).await?;
    let lines: Vec<ImageDeleteResponseItem> = removed.into_iter().map(image::to_removed).collect();
    Ok(response::ok(&lines))
}

async fn prune(State(engine): State<Engine>, query: Query) -> Result<Response> {
    let pruned = engine.prune_images(query.filters()?).await?;
    let document = ImagePruneResponse {
        images_deleted: filled(pruned.images.into_iter().map(image::to_removed).collect()),
        space_reclaimed: Some(size(pruned.reclaimed)),
    };
    Ok(response::shaped(&document, shapes::IMAGES_PRUNED))
}

async fn save_many(State(engine): State<Engine>, query: Query) -> Result<Response> {
    let names: Vec<String> = query.all("names").filter(|name| !name.is_empty()).map(str::to_owned).collect();
    save(&engine, names, query.platform()?).await
}

async fn save(engine: &Engine, names: Vec<String>, platform: Option<String>) -> Result<Response> {
    let archive = engine.save_images(names, platform).await?;
    // An error on the way breaks the connection, so that no client takes half an archive for a whole one.
    let mut response = Response::new(Body::from_stream(ReaderStream::with_capacity(archive, ARCHIVE_CHUNK)));
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/x-tar"));
    Ok(response)
}

/// The body as it arrives; never held.
fn archive(request: Request) -> impl AsyncRead + Send + Unpin + 'static {
    StreamReader::new(request.into_body().into_data_stream().map_err(io::Error::other))
}

async fn load(State(engine): State<Engine>, request: Request) -> Result<Response> {
    // Docker reports a bad archive within the stream, after 200.
    let lines = match engine.load_images(archive(request)).await {
        Ok(loaded) => loaded.iter().flat_map(image::load_messages).collect(),
        Err(error) => vec![error_line(&error.to_string())],
    };
    Ok(json_lines(&lines))
}

/// `POST /images/create`: import from a body, or pull.
async fn create(State(engine): State<Engine>, query: Query, request: Request) -> Result<Response> {
    match (query.text("fromImage"), query.text("fromSrc")) {
        (Some(image), _) => {
            let reference = named(image, query.text("tag"))?;
            registry::pull(&engine, reference, query.text("platform"), request.headers()).await
        }
        (None, Some("-")) => import(&engine, &query, request).await,
        (None, Some(_)) => Err(Failure::not_implemented(
            "importing from a URL is not implemented yet: fetch it and import from standard input",
        )),
        (None, None) => Err(Failure::invalid("one of fromImage and fromSrc is required")),
    }
}

async fn import(engine: &Engine, query: &Query, request: Request) -> Result<Response> {
    let reference = query.text("repo").map(|repository| named(repository, query.text("tag"))).transpose()?;
    let options = ImportOptions {
        reference: reference.map(Reference::or_latest),
        message: query.text("message").unwrap_or_default().to_owned(),
        changes: query.all("changes").map(str::to_owned).collect(),
        platform: query.text("platform").map(str::to_owned),
    };
    let id = engine.import_image(archive(request), options).await?;
    Ok(json_lines(&[json!({"status": id.to_string()})]))
}

/// `repository` and `tag` of a query, where the tag may be a digest.
fn named(repository: &str, tag: Option<&str>) -> Result<Reference> {
    let text = match tag {
        Some(digest) if digest.contains(':') => format!("{repository}@{digest}"),
        Some(tag) => format!("{repository}:{tag}"),
        None => repository.to_owned(),
    };
    Reference::parse_normalized(&text).map_err(|error| Failure::invalid(error.to_string()))
}

fn error_line(message: &str) -> Value {
    json!({"errorDetail": {"message": message}, "error": message})
}

fn json_lines(lines: &[Value]) -> Response {
    let bytes: Vec<u8> = lines.iter().flat_map(|line| response::line(line).unwrap_or_default()).collect();
    let mut response = Response::new(Body::from(Bytes::from(bytes)));
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_their_slashes() {
        assert_eq!(split("localhost:5000/a/b:1/json"), Some(("localhost:5000/a/b:1", "json")));
        assert_eq!(split("a/json"), Some(("a", "json")));
        assert_eq!(split("json"), None);
        assert_eq!(split("/json"), None);
    }

    #[test]
    fn a_tag_may_be_a_digest() {
        let digest = format!("sha256:{}", "a".repeat(64));
        assert_eq!(named("busybox", Some("1")).unwrap().familiar(), "busybox:1");
        assert_eq!(named("busybox", Some(&digest)).unwrap().familiar(), format!("busybox@{digest}"));
        assert_eq!(named("busybox", None).unwrap().or_latest().familiar(), "busybox:latest");
        assert_eq!(named("UP", None).unwrap_err().status, StatusCode::BAD_REQUEST);
    }
}
