//! The records of a registry, by key.
//!
//! ```text
//! r/<name>                    the repository exists
//! b/<name>/_/<hex>            the blob belongs to the repository; its size
//! m/<name>/_/<hex>            a manifest: its media type, a line feed, its bytes
//! t/<name>/_/<tag>            a tag; the digest it points at
//! h/<name>/_/<hex>/m/<hex>    the first is held by a manifest of the repository (as layer, config or child)
//! h/<name>/_/<hex>/t/<tag>    the first is held by a tag
//! s/<name>/_/<hex>/<hex>      the second manifest has the first as its subject; its descriptor
//! l/<hex>/<name>              the blob belongs to the repository, the other way round
//! u/<id>                      an upload: its repository and when it began
//! c/<name>/_/<hex>            look from this time on whether the repository still needs this blob or manifest
//! d/<hex>                     look whether any repository still has this blob
//! ```
//!
//! `_` alone is no part of a repository's name, so that no key of one repository begins with another's prefix.
//!
//! Order of writes, because a crash may cut a list of changes short (see `storage`): what *holds* is written before what
//! is held becomes visible, and removed after. A holder without its manifest or tag is no holder: [`crate::garbage`] asks
//! both. `b` is the truth about membership; `l` without it is stale and `b` without `l` never happens. A check (`c`, `d`)
//! is written before what makes it necessary and removed when it has been done.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use wharf_model::Digest;

use crate::storage::{Change, UploadId};

pub(crate) const REPOSITORIES: &str = "r/";
pub(crate) const UPLOADS: &str = "u/";
pub(crate) const NAME_CHECKS: &str = "c/";
pub(crate) const BLOB_CHECKS: &str = "d/";

pub(crate) fn repository(name: &str) -> String {
    format!("r/{name}")
}

pub(crate) fn blobs(name: &str) -> String {
    format!("b/{name}/_/")
}

pub(crate) fn blob(name: &str, digest: &Digest) -> String {
    format!("b/{name}/_/{}", digest.hex())
}

pub(crate) fn manifests(name: &str) -> String {
    format!("m/{name}/_/")
}

pub(crate) fn manifest(name: &str, digest: &Digest) -> String {
    format!("m/{name}/_/{}", digest.hex())
}

pub(crate) fn tags(name: &str) -> String {
    format!("t/{name}/_/")
}

pub(crate) fn tag(name: &str, tag: &str) -> String {
    format!("t/{name}/_/{tag}")
}

pub(crate) fn holders(name: &str, held: &Digest) -> String {
    format!("h/{name}/_/{}/", held.hex())
}

pub(crate) fn tag_holders(name: &str, held: &Digest) -> String {
    format!("h/{name}/_/{}/t/", held.hex())
}

pub(crate) fn held_by_manifest(name: &str, held: &Digest, manifest: &Digest) -> String {
    format!("h/{name}/_/{}/m/{}", held.hex(), manifest.hex())
}

pub(crate) fn held_by_tag(name: &str, held: &Digest, tag: &str) -> String {
    format!("h/{name}/_/{}/t/{tag}", held.hex())
}

pub(crate) fn referrers(name: &str, subject: &Digest) -> String {
    format!("s/{name}/_/{}/", subject.hex())
}

pub(crate) fn referrer(name: &str, subject: &Digest, manifest: &Digest) -> String {
    format!("s/{name}/_/{}/{}", subject.hex(), manifest.hex())
}

pub(crate) fn owners(digest: &Digest) -> String {
    format!("l/{}/", digest.hex())
}

pub(crate) fn owner(digest: &Digest, name: &str) -> String {
    format!("l/{}/{name}", digest.hex())
}

pub(crate) fn upload(id: UploadId) -> String {
    format!("u/{id}")
}

pub(crate) fn name_check(name: &str, digest: &Digest) -> String {
    format!("c/{name}/_/{}", digest.hex())
}

pub(crate) fn blob_check(digest: &Digest) -> String {
    format!("d/{}", digest.hex())
}

/// What follows [`NAME_CHECKS`] in a key.
pub(crate) fn parse_name_check(key: &str) -> Option<(&str, Digest)> {
    let (name, hex) = key.rsplit_once("/_/")?;
    Some((name, Digest::from_hex(hex).ok()?))
}

pub(crate) fn put(key: String, value: impl Into<Bytes>) -> Change {
    Change::Put(key, value.into())
}

/// A time as a value: seconds since 1970, in decimal.
pub(crate) fn time(after: Duration) -> String {
    (now() + after.as_secs()).to_string()
}

pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// A number as a value; what is none counts as 0.
pub(crate) fn number(value: &[u8]) -> u64 {
    std::str::from_utf8(value).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}
