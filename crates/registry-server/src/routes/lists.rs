//! end-8 (tags), end-12 (referrers) and the catalog: pages with a link to the next.

use axum::response::{IntoResponse, Response};
use serde_json::json;
use url::form_urlencoded::Serializer;
use wharf_content::spec::INDEX;
use wharf_model::Digest;
use wharf_registry::spec::{FILTERS_APPLIED, print_next};

use super::{Asked, location, with_headers};
use crate::access::Wanted;
use crate::error::{Error, Result};
use crate::repository::{Page, Repository};

/// The longest thing that is listed.
const MAX_LAST: usize = 255;
/// A request for the catalog looks at so many pages for repositories the caller may see.
const MAX_PAGES: usize = 20;

pub(super) async fn tags(asked: &Asked<'_>, repository: &Repository) -> Result<Response> {
    let (limit, after) = (limit(asked)?, last(asked)?);
    let page = repository.tags(&after, limit).await?;
    let body = json!({"name": repository.name(), "tags": page.entries}).to_string();
    let next = next(&location(repository, "tags/list"), limit, page.next.as_deref(), None);
    Ok(document("application/json", body, next))
}

pub(super) async fn catalog(asked: &Asked<'_>) -> Result<Response> {
    let (limit, mut after) = (limit(asked)?, last(asked)?);
    let mut page = Page { entries: Vec::new(), next: None };
    for _ in 0..MAX_PAGES {
        let wanted = limit - page.entries.len();
        let found = asked.registry.repositories(&after, wanted).await?;
        page.entries.extend(found.entries.into_iter().filter(|name| asked.caller.may(Wanted::Listed(name))));
        page.next = found.next;
        match &page.next {
            Some(last) if page.entries.len() < limit => after.clone_from(last),
            _ => break,
        }
    }
    let body = json!({"repositories": page.entries}).to_string();
    Ok(document("application/json", body, next("/v2/_catalog", limit, page.next.as_deref(), None)))
}

pub(super) async fn referrers(
    asked: &Asked<'_>,
    repository: &Repository,
    subject: &Digest,
) -> Result<Response> {
    let (limit, after) = (limit(asked)?, last(asked)?);
    let artifact_type = asked.parameter("artifactType").filter(|name| !name.is_empty());
    let page = repository.referrers(subject, artifact_type.as_deref(), &after, limit).await?;
    let mut body = format!("{{\"schemaVersion\":2,\"mediaType\":\"{INDEX}\",\"manifests\":[").into_bytes();
    for (n, entry) in page.entries.iter().enumerate() {
        if n > 0 {
            body.push(b',');
        }
        body.extend_from_slice(entry);
    }
    body.extend_from_slice(b"]}");
    let address = location(repository, &format!("referrers/{subject}"));
    let next = next(&address, limit, page.next.as_deref(), artifact_type.as_deref());
    let response = document(INDEX, body, next);
    match artifact_type {
        Some(_) => Ok(with_headers(response, &[(FILTERS_APPLIED, "artifactType".to_owned())])),
        None => Ok(response),
    }
}

fn document(media_type: &str, body: impl IntoResponse, next: Option<String>) -> Response {
    let response = with_headers(body.into_response(), &[("content-type", media_type.to_owned())]);
    match next {
        Some(next) => with_headers(response, &[("link", next)]),
        None => response,
    }
}

/// How many entries are wanted: what is asked for, up to the registry's page (RS-01).
fn limit(asked: &Asked<'_>) -> Result<usize> {
    let page = asked.registry.options().page;
    let Some(text) = asked.parameter("n") else { return Ok(page) };
    let is_number = !text.is_empty() && text.len() <= 20 && text.bytes().all(|b| b.is_ascii_digit());
    if !is_number {
        return Err(Error::Parameter("n is not a number of entries".to_owned()));
    }
    Ok(text.parse::<usize>().map_or(page, |n| n.min(page)))
}

/// Where the page begins. It need not be there (any more), but it has the form of what is listed.
fn last(asked: &Asked<'_>) -> Result<String> {
    let last = asked.parameter("last").unwrap_or_default();
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-/".contains(&b);
    if last.len() > MAX_LAST || !last.bytes().all(plain) {
        return Err(Error::Parameter("last is not an entry of the list".to_owned()));
    }
    Ok(last)
}

fn next(address: &str, limit: usize, last: Option<&str>, artifact_type: Option<&str>) -> Option<String> {
    // A page of nothing has no successor: it would be the same page for ever.
    let last = last.filter(|_| limit > 0)?;
    let mut query = Serializer::new(String::new());
    query.append_pair("n", &limit.to_string()).append_pair("last", last);
    if let Some(artifact_type) = artifact_type {
        query.append_pair("artifactType", artifact_type);
    }
    Some(print_next(&format!("{address}?{}", query.finish())))
}
