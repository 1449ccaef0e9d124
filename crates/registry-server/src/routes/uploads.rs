//! end-4a, 4b, 11 (begin), end-5 (chunk), end-6 (finish), end-13 (status), and cancelling.

use axum::body::Body;
use axum::response::Response;
use futures_util::{StreamExt, stream};
use http::StatusCode;
use http::header::CONTENT_RANGE;
use wharf_model::Digest;
use wharf_registry::spec::{ByteRange, CONTENT_DIGEST, UPLOAD_ID};

use super::{Asked, empty, location, path};
use crate::access::Wanted;
use crate::error::{Error, Result};
use crate::repository::Repository;
use crate::storage::UploadId;

pub(super) async fn begin(asked: &Asked<'_>, repository: &Repository, body: Body) -> Result<Response> {
    if let Some(digest) = asked.digest_parameter("mount")? {
        if mount(asked, repository, &digest).await? {
            return Ok(created(repository, &digest));
        }
    } else if let Some(digest) = asked.digest_parameter("digest")? {
        let length = asked.content_length();
        repository.expect(length).await?;
        repository.put_blob(asked.pieces(body), &digest).await?;
        return Ok(created(repository, &digest));
    }
    let id = repository.begin_upload().await?;
    Ok(progress(StatusCode::ACCEPTED, repository, id, 0))
}

/// Takes the blob over from the repository the client names, if the client may read it there.
async fn mount(asked: &Asked<'_>, repository: &Repository, digest: &Digest) -> Result<bool> {
    let Some(from) = asked.parameter("from") else { return Ok(false) };
    let from = path::repository(&from)?;
    // Whether it is there is not for everybody to know: who may not read it is told the same as when it is not.
    if !asked.caller.may(Wanted::Pull(from.as_str())) {
        return Ok(false);
    }
    repository.mount(&from, digest).await
}

pub(super) async fn status(repository: &Repository, id: UploadId) -> Result<Response> {
    let length = repository.upload_length(id).await?;
    Ok(progress(StatusCode::NO_CONTENT, repository, id, length))
}

pub(super) async fn append(
    asked: &Asked<'_>,
    repository: &Repository,
    id: UploadId,
    body: Body,
) -> Result<Response> {
    let range = chunk_range(asked)?;
    let length = repository.append(id, range.map(|range| range.first), asked.pieces(body)).await?;
    if range.is_some_and(|range| range.last + 1 != length) {
        return Err(Error::SizeInvalid("the chunk has not the bytes its Content-Range says".to_owned()));
    }
    Ok(progress(StatusCode::ACCEPTED, repository, id, length))
}

pub(super) async fn finish(
    asked: &Asked<'_>,
    repository: &Repository,
    id: UploadId,
    body: Body,
) -> Result<Response> {
    let digest = asked.digest_parameter("digest")?;
    let digest = digest.ok_or_else(|| Error::DigestInvalid("the parameter digest is missing".to_owned()))?;
    let range = chunk_range(asked)?;
    // The last chunk may come with an earlier request; then there is no body here.
    let body = if asked.content_length() == Some(0) { stream::empty().boxed() } else { asked.pieces(body) };
    repository.finish_upload(id, range.map(|range| range.first), body, &digest).await?;
    Ok(created(repository, &digest))
}

pub(super) async fn cancel(repository: &Repository, id: UploadId) -> Result<Response> {
    repository.cancel_upload(id).await?;
    Ok(empty(StatusCode::NO_CONTENT, &[]))
}

/// Where a chunk says that it belongs.
fn chunk_range(asked: &Asked<'_>) -> Result<Option<ByteRange>> {
    let Some(header) = asked.header(CONTENT_RANGE) else { return Ok(None) };
    // Some clients write the header of downloads: `bytes 0-5/*`.
    let bare = header.strip_prefix("bytes ").unwrap_or(header);
    let bare = bare.split_once('/').map_or(bare, |(range, _)| range);
    let range: ByteRange = bare.parse().map_err(|_| {
        Error::UploadInvalid(format!(
            "malformed Content-Range {:?}",
            header.chars().take(80).collect::<String>()
        ))
    })?;
    match asked.content_length() {
        Some(length) if length != range.len() => Err(Error::SizeInvalid(format!(
            "Content-Range has {} bytes and Content-Length {length}",
            range.len()
        ))),
        _ => Ok(Some(range)),
    }
}

fn progress(status: StatusCode, repository: &Repository, id: UploadId, length: u64) -> Response {
    empty(
        status,
        &[
            ("location", location(repository, &format!("blobs/uploads/{id}"))),
            ("range", ByteRange::of_upload(length).to_string()),
            (UPLOAD_ID, id.to_string()),
            ("content-length", "0".to_owned()),
        ],
    )
}

fn created(repository: &Repository, digest: &Digest) -> Response {
    empty(
        StatusCode::CREATED,
        &[
            ("location", location(repository, &format!("blobs/{digest}"))),
            (CONTENT_DIGEST, digest.to_string()),
            ("content-length", "0".to_owned()),
        ],
    )
}
