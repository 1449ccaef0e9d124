//! HTTP: one handler that reads the path, asks access and hands over to the endpoint.

mod blobs;
mod lists;
mod manifests;
mod path;
mod uploads;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, stream};
use http::header::{CONTENT_LENGTH, HeaderName, HeaderValue};
use http::request::Parts;
use http::{HeaderMap, Method, StatusCode};
use wharf_model::Digest;

use crate::access::{Caller, Wanted};
use crate::error::{Error, Result};
use crate::repository::Repository;
use crate::storage::Pieces;
use crate::{Handled, Registry};
use path::{Part, Place};

/// Every answer carries it: old clients look for it to recognise a registry.
const API_VERSION: (HeaderName, HeaderValue) =
    (HeaderName::from_static("docker-distribution-api-version"), HeaderValue::from_static("registry/2.0"));

pub(crate) fn router(registry: Registry) -> Router {
    Router::new().fallback(serve).with_state(registry)
}

async fn serve(State(registry): State<Registry>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let mut handled = Handled { endpoint: "none", repository: None, caller: None };
    let answer = answer(&registry, &head, body, &mut handled).await;
    let mut response = answer.unwrap_or_else(IntoResponse::into_response);
    response.headers_mut().insert(API_VERSION.0, API_VERSION.1);
    response.extensions_mut().insert(handled);
    response
}

/// A request that was understood and may be answered.
struct Asked<'a> {
    head: &'a Parts,
    registry: &'a Registry,
    caller: Arc<dyn Caller>,
}

async fn answer(registry: &Registry, head: &Parts, body: Body, handled: &mut Handled) -> Result<Response> {
    let place = path::parse(head.uri.path());
    if let Ok(Place::In(name, _)) = &place {
        handled.repository = Some(name.as_str().to_owned());
    }
    let caller = registry.access().identify(head).await?;
    handled.caller = caller.name().map(str::to_owned);
    let asked = Asked { head, registry, caller };
    let (name, part) = match place {
        Err(error) => {
            // Strangers do not learn what paths there are.
            asked.require(&[Wanted::Ping])?;
            return Err(error);
        }
        Ok(Place::Base) => {
            handled.endpoint = "end-1";
            asked.require(&[Wanted::Ping])?;
            return asked.base();
        }
        Ok(Place::Catalog) => {
            handled.endpoint = "catalog";
            asked.require(&[Wanted::Catalog])?;
            return lists::catalog(&asked).await;
        }
        Ok(Place::In(name, part)) => (name, part),
    };
    let repository = registry.repository(name);
    handled.endpoint = endpoint(&head.method, &part).unwrap_or("none");
    asked.authorize(repository.name())?;
    if let Some(cached) = registry.cached(repository.name()) {
        match (&head.method, &part) {
            (&Method::GET | &Method::HEAD, Part::Manifest(target)) => {
                cached.manifest(&repository, target).await?
            }
            (&Method::GET | &Method::HEAD, Part::Blob(digest)) => {
                let is_head = head.method == Method::HEAD;
                if let Some(answer) = cached.blob(&repository, digest, is_head).await? {
                    return Ok(answer);
                }
            }
            (&Method::GET | &Method::HEAD, _) => {}
            _ => return Err(cached.refuse_change()),
        }
    }
    match (&head.method, part) {
        (&Method::GET | &Method::HEAD, Part::Blob(digest)) => blobs::get(&asked, &repository, &digest).await,
        (&Method::DELETE, Part::Blob(digest)) => blobs::delete(&asked, &repository, &digest).await,
        (&Method::GET | &Method::HEAD, Part::Manifest(target)) => {
            manifests::get(&asked, &repository, &target).await
        }
        (&Method::PUT, Part::Manifest(target)) => manifests::put(&asked, &repository, &target, body).await,
        (&Method::DELETE, Part::Manifest(target)) => manifests::delete(&asked, &repository, &target).await,
        (&Method::POST, Part::Uploads) => uploads::begin(&asked, &repository, body).await,
        (&Method::GET | &Method::HEAD, Part::Upload(id)) => uploads::status(&repository, id).await,
        (&Method::PATCH, Part::Upload(id)) => uploads::append(&asked, &repository, id, body).await,
        (&Method::PUT, Part::Upload(id)) => uploads::finish(&asked, &repository, id, body).await,
        (&Method::DELETE, Part::Upload(id)) => uploads::cancel(&repository, id).await,
        (&Method::GET | &Method::HEAD, Part::Tags) => lists::tags(&asked, &repository).await,
        (&Method::GET | &Method::HEAD, Part::Referrers(digest)) => {
            lists::referrers(&asked, &repository, &digest).await
        }
        (method, _) => Err(Error::Unsupported(format!("{method} is not supported here"))),
    }
}

/// The specification's number of an endpoint.
fn endpoint(method: &Method, part: &Part) -> Option<&'static str> {
    Some(match (method.as_str(), part) {
        ("GET" | "HEAD", Part::Blob(_)) => "end-2",
        ("GET" | "HEAD", Part::Manifest(_)) => "end-3",
        ("POST", Part::Uploads) => "end-4",
        ("PATCH", Part::Upload(_)) => "end-5",
        ("PUT", Part::Upload(_)) => "end-6",
        ("PUT", Part::Manifest(_)) => "end-7",
        ("GET" | "HEAD", Part::Tags) => "end-8",
        ("DELETE", Part::Manifest(_)) => "end-9",
        ("DELETE", Part::Blob(_)) => "end-10",
        ("GET" | "HEAD", Part::Referrers(_)) => "end-12",
        ("GET" | "HEAD", Part::Upload(_)) => "end-13",
        ("DELETE", Part::Upload(_)) => "end-14",
        _ => return None,
    })
}

impl Asked<'_> {
    fn require(&self, wanted: &[Wanted<'_>]) -> Result<()> {
        if wanted.iter().all(|wanted| self.caller.may(*wanted)) {
            return Ok(());
        }
        Err(self.caller.refuse(wanted).into())
    }

    /// What the method does to a repository is allowed by access and by the registry's mode.
    fn authorize(&self, name: &str) -> Result<()> {
        match self.head.method {
            Method::GET | Method::HEAD => self.require(&[Wanted::Pull(name)]),
            Method::DELETE
                if matches!(path::parse(self.head.uri.path()), Ok(Place::In(_, Part::Upload(_)))) =>
            {
                self.require(&[Wanted::Pull(name), Wanted::Push(name)])
            }
            Method::DELETE => {
                self.require(&[Wanted::Delete(name)])?;
                if !self.registry.options().delete {
                    return Err(Error::Unsupported("this registry does not delete".to_owned()));
                }
                self.changes()
            }
            _ => {
                self.require(&[Wanted::Pull(name), Wanted::Push(name)])?;
                self.changes()
            }
        }
    }

    fn changes(&self) -> Result<()> {
        if self.registry.options().read_only {
            return Err(Error::Unsupported("this registry is read-only".to_owned()));
        }
        Ok(())
    }

    fn base(&self) -> Result<Response> {
        match self.head.method {
            Method::GET | Method::HEAD => {
                Ok(([(http::header::CONTENT_TYPE, "application/json")], "{}").into_response())
            }
            _ => Err(Error::Unsupported(format!("{} is not supported here", self.head.method))),
        }
    }

    /// A parameter of the query, decoded.
    fn parameter(&self, name: &str) -> Option<String> {
        let query = self.head.uri.query().unwrap_or_default();
        let mut pairs = url::form_urlencoded::parse(query.as_bytes());
        pairs.find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
    }

    fn digest_parameter(&self, name: &str) -> Result<Option<Digest>> {
        self.parameter(name).map(|text| path::digest(&text)).transpose()
    }

    fn header(&self, name: HeaderName) -> Option<&str> {
        self.head.headers.get(name)?.to_str().ok()
    }

    fn content_length(&self) -> Option<u64> {
        self.header(CONTENT_LENGTH)?.parse().ok()
    }

    /// The body in pieces, each of which must come in time.
    fn pieces(&self, body: Body) -> Pieces<'static> {
        timed(body, self.registry.options().body_timeout)
    }
}

fn timed(body: Body, patience: Duration) -> Pieces<'static> {
    stream::unfold(body.into_data_stream(), move |mut body| async move {
        match tokio::time::timeout(patience, body.next()).await {
            Ok(Some(Ok(piece))) => Some((Ok(piece), body)),
            Ok(Some(Err(error))) => Some((Err(io::Error::other(error)), body)),
            Ok(None) => None,
            Err(_) => Some((Err(io::ErrorKind::TimedOut.into()), body)),
        }
    })
    .boxed()
}

/// An answer without a body.
fn empty(status: StatusCode, headers: &[(&'static str, String)]) -> Response {
    with_headers((status, Body::empty()).into_response(), headers)
}

fn with_headers(mut response: Response, headers: &[(&'static str, String)]) -> Response {
    for (name, value) in headers {
        // Values are made of digests, checked names and numbers.
        if let Ok(value) = HeaderValue::try_from(value) {
            response.headers_mut().insert(HeaderName::from_static(name), value);
        }
    }
    response
}

/// Whether the client has what the digest names (`If-None-Match`).
fn is_known(headers: &HeaderMap, digest: &Digest) -> bool {
    let etag = etag(digest);
    headers.get_all(http::header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok()).any(|value| {
        value.split(',').map(|one| one.trim().trim_start_matches("W/")).any(|one| one == "*" || one == etag)
    })
}

fn etag(digest: &Digest) -> String {
    format!("\"{digest}\"")
}

fn location(repository: &Repository, rest: &str) -> String {
    format!("/v2/{}/{rest}", repository.name())
}
