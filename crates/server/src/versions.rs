//! The version in front of a path, and the headers behind every answer.

use axum::Router;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, StatusCode, Uri, header};
use wharf_api::version::ApiVersion;
use wharf_engine::Engine;

use crate::authorize::Authorization;
use crate::convert::system::VERSION;
use crate::drain::drained;
use crate::error::{Failure, NoRoute};
use crate::request::Version;
use crate::routes;

/// The API as a service: every route with and without `/v1.NN` in front, for whom `authorization` lets.
pub fn router(engine: Engine, authorization: Authorization) -> Router {
    let routes = routes::router(engine);
    Router::new().fallback(move |request: Request| dispatch(routes.clone(), authorization.clone(), request))
}

async fn dispatch(routes: Router, authorization: Authorization, request: Request) -> Response {
    let mut request = request.map(drained);
    let mut response = match take_version(request.uri()) {
        _ if request.uri().authority().is_some() => {
            Failure::invalid("the target of a request must be a path, as for an origin server")
                .into_response()
        }
        Ok(_) if request.method() == Method::OPTIONS => StatusCode::OK.into_response(),
        // Only these two have answers without a body; the router would give one to every GET.
        Ok((_, uri)) if request.method() == Method::HEAD && !has_head(uri.path()) => {
            Failure::no_route().into_response()
        }
        Ok((version, uri)) => {
            let target = request.uri().to_string();
            *request.uri_mut() = uri;
            request.extensions_mut().insert(Version(version));
            let reads = matches!(*request.method(), Method::GET | Method::HEAD);
            let answer = async move { authorization.guarded(routes, &target, request).await };
            if reads { answer.await } else { completed(answer).await }
        }
        Err(refused) => refused.into_response(),
    };
    if response.extensions().get::<NoRoute>().is_some() {
        // Whoever asks for what nobody knows is not told what is here; the methods of a path are not listed either.
        response.headers_mut().remove(header::ALLOW);
        return response;
    }
    let experimental = response.extensions().get::<NoVersion>().is_none().then(|| "false".to_owned());
    let headers = response.headers_mut();
    for (name, value) in [
        (header::HeaderName::from_static("api-version"), Some(ApiVersion::MAX.to_string())),
        (header::HeaderName::from_static("docker-experimental"), experimental),
        (header::HeaderName::from_static("ostype"), Some("linux".to_owned())),
        (header::SERVER, Some(format!("Wharf/{VERSION} (linux)"))),
    ] {
        if let Some(Ok(value)) = value.map(HeaderValue::try_from) {
            headers.insert(name, value);
        }
    }
    response
}

/// Goes on with what changes something also when its client leaves in the middle: half of a start or of a removal is
/// nothing anybody wants. What is streamed afterwards is the answer's body, and ends with the client.
async fn completed(answer: impl Future<Output = Response> + Send + 'static) -> Response {
    let answer = tokio::spawn(answer).await;
    answer.unwrap_or_else(|error| {
        Failure::from(wharf_engine::Error::System(format!("an internal task failed: {error}")))
            .into_response()
    })
}

fn has_head(path: &str) -> bool {
    path == "/_ping" || (path.starts_with("/containers/") && path.ends_with("/archive"))
}

/// An answer to a version that is not served.
#[derive(Clone, Copy)]
struct NoVersion;

/// Why a version is not served.
#[derive(Debug)]
enum Refused {
    /// Clients that old read errors as plain text.
    TooOld(String),
    Other(String),
}

impl Refused {
    #[cfg(test)]
    fn message(&self) -> &str {
        match self {
            Self::TooOld(message) | Self::Other(message) => message,
        }
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let mut response = match self {
            Self::TooOld(message) => (StatusCode::BAD_REQUEST, format!("{message}\n")).into_response(),
            Self::Other(message) => Failure::invalid(message).into_response(),
        };
        response.extensions_mut().insert(NoVersion);
        response
    }
}

/// Splits `/v1.44/info?x` into the version and `/info?x`.
fn take_version(uri: &Uri) -> Result<(ApiVersion, Uri), Refused> {
    let unversioned = || (ApiVersion::MAX, uri.clone());
    let Some(rest) = uri.path().strip_prefix("/v") else { return Ok(unversioned()) };
    let Some((version, path)) = rest.split_once('/') else { return Ok(unversioned()) };
    if version.is_empty() || !version.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return Ok(unversioned());
    }
    let version = served(version)?;
    let target = match uri.query() {
        Some(query) => format!("/{path}?{query}"),
        None => format!("/{path}"),
    };
    let target = PathAndQuery::try_from(target).map_err(|error| Refused::Other(error.to_string()))?;
    Ok((version, Uri::from(target)))
}

fn served(text: &str) -> Result<ApiVersion, Refused> {
    // `v1` is a version, too: older than every `v1.NN`.
    let whole = if text.contains('.') { text.to_owned() } else { format!("{text}.0") };
    let version: ApiVersion = whole.parse().map_err(|error| Refused::Other(format!("{error}")))?;
    version.check().map_err(|error| {
        let message = error.to_string().replace(&whole, text);
        if version < ApiVersion::MIN { Refused::TooOld(message) } else { Refused::Other(message) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(uri: &str) -> (String, String) {
        let (version, rest) = take_version(&uri.parse().unwrap()).unwrap();
        (version.to_string(), rest.to_string())
    }

    #[test]
    fn the_version_leaves_the_path() {
        for (uri, version, rest) in [
            ("/v1.44/containers/json?all=1", "1.44", "/containers/json?all=1"),
            ("/v1.24/_ping", "1.24", "/_ping"),
            ("/info", "1.51", "/info"),
            ("/volumes/v1", "1.51", "/volumes/v1"),
            ("/volumes", "1.51", "/volumes"),
            ("/v1.51", "1.51", "/v1.51"),
            ("/v1.44/images/a%2Fb/json", "1.44", "/images/a%2Fb/json"),
        ] {
            assert_eq!(taken(uri), (version.to_owned(), rest.to_owned()), "{uri}");
        }
    }

    #[test]
    fn versions_outside_the_range_are_refused() {
        let message = |uri: &str| take_version(&uri.parse().unwrap()).unwrap_err().message().to_owned();
        assert_eq!(
            message("/v1.99/info"),
            "client version 1.99 is too new. Maximum supported API version is 1.51"
        );
        assert!(message("/v1.12/info").starts_with("client version 1.12 is too old."));
        assert!(message("/v1/info").starts_with("client version 1 is too old."));
        assert!(message("/v1..2/info").starts_with("invalid API version"));
    }
}
