//! end-3 (read), end-7 (put), end-9 (delete).

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{Method, StatusCode};
use wharf_registry::spec::{CONTENT_DIGEST, SUBJECT};

use super::{Asked, empty, etag, is_known, location, with_headers};
use crate::error::{Error, Result};
use crate::repository::{Repository, Target};

pub(super) async fn get(asked: &Asked<'_>, repository: &Repository, target: &Target) -> Result<Response> {
    let manifest = repository.manifest(target).await?;
    // A digest leaves no choice; what a tag means to the client depends on what it can read.
    if matches!(target, Target::Tag(_)) && !accepts(asked, &manifest.media_type) {
        let reason =
            format!("{target}: it is of the type {}, which Accept does not list", manifest.media_type);
        return Err(Error::ManifestUnknown(reason));
    }
    let headers = [(CONTENT_DIGEST, manifest.digest.to_string()), ("etag", etag(&manifest.digest))];
    if is_known(&asked.head.headers, &manifest.digest) {
        return Ok(empty(StatusCode::NOT_MODIFIED, &headers));
    }
    let length = manifest.bytes.len();
    let body = if asked.head.method == Method::HEAD { Bytes::new() } else { manifest.bytes };
    let response = with_headers(Body::from(body).into_response(), &headers);
    Ok(with_headers(
        response,
        &[("content-type", manifest.media_type), ("content-length", length.to_string())],
    ))
}

fn accepts(asked: &Asked<'_>, media_type: &str) -> bool {
    let mut accepted =
        asked.head.headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).peekable();
    if accepted.peek().is_none() {
        return true;
    }
    accepted
        .flat_map(|value| value.split(','))
        .map(|range| range.split(';').next().unwrap_or_default().trim())
        .any(|range| range == media_type || range == "*/*" || range == "application/*")
}

pub(super) async fn put(
    asked: &Asked<'_>,
    repository: &Repository,
    target: &Target,
    body: Body,
) -> Result<Response> {
    let bytes = document(asked, body).await?;
    let announced =
        asked.header(CONTENT_TYPE).map(|value| value.split(';').next().unwrap_or_default().trim());
    let put = repository.put_manifest(target, announced.filter(|name| !name.is_empty()), bytes).await?;
    let mut headers = vec![
        ("location", location(repository, &format!("manifests/{}", put.digest))),
        (CONTENT_DIGEST, put.digest.to_string()),
        ("content-length", "0".to_owned()),
    ];
    if let Some(subject) = put.subject {
        headers.push((SUBJECT, subject.to_string()));
    }
    Ok(empty(StatusCode::CREATED, &headers))
}

/// The body, of which no more than a manifest's limit is ever in memory, within a time for the whole of it.
async fn document(asked: &Asked<'_>, body: Body) -> Result<Bytes> {
    let max = asked.registry.options().max_manifest;
    let too_large = || Error::TooLarge(format!("a manifest may have at most {max} bytes"));
    if asked.content_length().is_some_and(|length| length > max) {
        return Err(too_large());
    }
    let read = async {
        let mut pieces = asked.pieces(body);
        let mut bytes = BytesMut::new();
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(crate::storage::Error::Body)?;
            if (bytes.len() + piece.len()) as u64 > max {
                return Err(too_large());
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes.freeze())
    };
    match tokio::time::timeout(asked.registry.options().body_timeout, read).await {
        Ok(document) => document,
        Err(_) => Err(Error::Timeout),
    }
}

pub(super) async fn delete(_: &Asked<'_>, repository: &Repository, target: &Target) -> Result<Response> {
    repository.delete(target).await?;
    Ok(empty(StatusCode::ACCEPTED, &[("content-length", "0".to_owned())]))
}
