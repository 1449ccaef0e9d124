//! end-2 (read) and end-10 (delete).

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::{IF_RANGE, RANGE};
use http::{Method, StatusCode};
use wharf_model::Digest;
use wharf_registry::spec::{ByteRange, CONTENT_DIGEST, ContentRange, Requested};

use super::{Asked, empty, etag, is_known, with_headers};
use crate::error::{Error, Result};
use crate::repository::Repository;

pub(super) async fn get(asked: &Asked<'_>, repository: &Repository, digest: &Digest) -> Result<Response> {
    let is_head = asked.head.method == Method::HEAD;
    let size = if is_head { repository.blob(digest).await? } else { repository.size(digest).await? };
    let mut headers = vec![
        (CONTENT_DIGEST, digest.to_string()),
        ("etag", etag(digest)),
        ("accept-ranges", "bytes".to_owned()),
        ("cache-control", "max-age=31536000".to_owned()),
    ];
    if is_known(&asked.head.headers, digest) {
        return Ok(empty(StatusCode::NOT_MODIFIED, &headers));
    }
    let range = if is_head { None } else { wanted_range(asked, digest, size)? };
    let part = range.map_or(0..size, |range| range.first..range.last + 1);
    headers.push(("content-type", "application/octet-stream".to_owned()));
    headers.push(("content-length", (part.end - part.start).to_string()));
    if let Some(range) = range {
        let range = ContentRange { range: Some(range), total: Some(size) };
        headers.push(("content-range", range.to_string()));
    }
    let status = if range.is_some() { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
    let body = if is_head { Body::empty() } else { Body::from_stream(repository.read(digest, part).await?) };
    Ok(with_headers((status, body).into_response(), &headers))
}

/// The one range that is asked for; several ranges and unknown units mean the whole, as HTTP allows.
fn wanted_range(asked: &Asked<'_>, digest: &Digest, size: u64) -> Result<Option<ByteRange>> {
    let Some(range) = asked.header(RANGE).and_then(|header| header.parse::<Requested>().ok()) else {
        return Ok(None);
    };
    if asked.header(IF_RANGE).is_some_and(|condition| condition != etag(digest)) {
        return Ok(None);
    }
    range.resolve(size).map(Some).ok_or(Error::RangeUnsatisfiable { size })
}

pub(super) async fn delete(_: &Asked<'_>, repository: &Repository, digest: &Digest) -> Result<Response> {
    repository.delete_blob(digest).await?;
    Ok(empty(
        StatusCode::ACCEPTED,
        &[(CONTENT_DIGEST, digest.to_string()), ("content-length", "0".to_owned())],
    ))
}
