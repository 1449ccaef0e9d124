//! Authorisation plugins: whether a request may be executed, and whether its answer may be given (Docker's protocol,
//! version 1).
//!
//! A plugin is worth nothing if it judges other bytes than those that are executed. So there is one copy:
//! - The body of a request is read to its end first, up to the limit of every JSON body; what is larger is refused. The
//!   plugin and the handler get the same bytes, whatever the request said about their length, kind or coding.
//! - Archives are passed on piece by piece and not shown, as with Docker; their handlers read no JSON from them.
//! - The target is shown as it came. Requests in absolute form, whose path a plugin might look for at the wrong place,
//!   are refused. A document whose keys two readers could read differently is refused
//!   ([`unambiguous`](crate::unambiguous)).
//! - A plugin that does not answer, or not with JSON, refuses: nothing is executed while it is away.
//!
//! Answers are shown with their body when they are one whole document; of streams and of connections that are taken over
//! plugins see status and headers.

mod plugin;

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use axum::Router;
use axum::body::{Body, Bytes, HttpBody, to_bytes};
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, Method, StatusCode, header};
use serde_json::{Map, Value, json};
use tower::ServiceExt;

use crate::error::{Failure, Result};
use crate::guard::Peer;
use crate::request;
use plugin::Plugin;

/// The largest answer that is shown.
const ANSWER_LIMIT: u64 = 1 << 20;
/// Headers that carry secrets, which plugins are not shown.
const SECRET: [&str; 3] = ["authorization", "x-registry-auth", "x-registry-config"];

/// The plugins that are asked, which may change while the engine runs. Clones are one and the same.
#[derive(Debug, Clone, Default)]
pub struct Authorization(Arc<RwLock<Vec<Arc<Plugin>>>>);

impl Authorization {
    /// Finds the plugins of these names and shakes hands with them. What was in force stays so if that fails. `own` is a
    /// directory that is searched before Docker's.
    ///
    /// # Errors
    /// When a plugin is not there, does not answer, or is no authorisation plugin; the message names it.
    pub async fn set(&self, names: &[String], own: &Path) -> std::io::Result<()> {
        let mut plugins = Vec::new();
        for name in names {
            // Named twice is asked once.
            if plugins.iter().any(|plugin: &Arc<Plugin>| plugin.name() == name) {
                continue;
            }
            plugins.push(Arc::new(Plugin::open(name, own).await?));
        }
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = plugins;
        Ok(())
    }

    fn plugins(&self) -> Vec<Arc<Plugin>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lets `routes` answer if all plugins agree, with the request and with the answer. `target` is the request's as it
    /// came.
    pub(crate) async fn guarded(&self, routes: Router, target: &str, request: Request) -> Response {
        let plugins = self.plugins();
        if plugins.is_empty() {
            return routes.oneshot(request).await.unwrap_or_else(|never| match never {});
        }
        judged(&plugins, routes, target, request).await.unwrap_or_else(IntoResponse::into_response)
    }
}

async fn judged(plugins: &[Arc<Plugin>], routes: Router, target: &str, request: Request) -> Result<Response> {
    let (parts, body) = request.into_parts();
    let (shown, body) = if is_archive(&parts.method, parts.uri.path(), parts.uri.query()) {
        (Bytes::new(), body)
    } else {
        let bytes = request::whole(body).await?;
        (bytes.clone(), Body::from(bytes))
    };
    let mut question = question(&parts.method, target, &parts.headers, &shown);
    if let Some(peer) = parts.extensions.get::<Arc<Peer>>() {
        describe(peer, &mut question);
    }
    for plugin in plugins {
        plugin.ask("AuthZPlugin.AuthZReq", &question).await?;
    }
    let request = Request::from_parts(parts, body);
    let answer = routes.oneshot(request).await.unwrap_or_else(|never| match never {});
    let (parts, body) = answer.into_parts();
    let (shown, body) = match body.size_hint().exact() {
        Some(length) if length <= ANSWER_LIMIT && parts.status != StatusCode::SWITCHING_PROTOCOLS => {
            let bytes = to_bytes(body, usize::try_from(length).unwrap_or(usize::MAX)).await;
            let bytes =
                bytes.map_err(|error| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
            (bytes.clone(), Body::from(bytes))
        }
        _ => (Bytes::new(), body),
    };
    question.insert("ResponseStatusCode".into(), parts.status.as_u16().into());
    question.insert("ResponseHeaders".into(), headers(&parts.headers));
    if !shown.is_empty() {
        question.insert("ResponseBody".into(), STANDARD.encode(&shown).into());
    }
    for plugin in plugins {
        plugin.ask("AuthZPlugin.AuthZRes", &question).await?;
    }
    Ok(Response::from_parts(parts, body))
}

/// Whether the body is an archive, which is neither kept nor shown. Its handler reads no document from it.
fn is_archive(method: &Method, path: &str, query: Option<&str>) -> bool {
    let from_source = || query.unwrap_or_default().split('&').any(|pair| pair.starts_with("fromSrc="));
    match path {
        "/images/load" | "/build" => method == Method::POST,
        "/images/create" => method == Method::POST && from_source(),
        _ => method == Method::PUT && path.starts_with("/containers/") && path.ends_with("/archive"),
    }
}

fn question(method: &Method, target: &str, fields: &HeaderMap, body: &Bytes) -> Map<String, Value> {
    let mut question = Map::new();
    question.insert("RequestMethod".into(), method.as_str().into());
    question.insert("RequestUri".into(), target.into());
    question.insert("RequestHeaders".into(), headers(fields));
    if !body.is_empty() {
        question.insert("RequestBody".into(), STANDARD.encode(body).into());
    }
    question
}

/// Who asks, as its certificate says.
fn describe(peer: &Peer, question: &mut Map<String, Value>) {
    let Some(name) = peer.name() else { return };
    question.insert("User".into(), name.into());
    question.insert("UserAuthNMethod".into(), "TLS".into());
    let pem = |der: &[u8]| {
        let text = STANDARD.encode(der);
        let lines: Vec<&str> =
            text.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
        STANDARD
            .encode(format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n")))
    };
    let chain: Vec<String> = peer.chain.iter().map(|certificate| pem(certificate)).collect();
    question.insert("RequestPeerCertificates".into(), json!(chain));
}

/// Headers as Go writes their names, without secrets.
fn headers(fields: &HeaderMap) -> Value {
    let mut shown = Map::new();
    for (name, value) in fields {
        if SECRET.contains(&name.as_str()) {
            continue;
        }
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        shown.insert(canonical(name), value.into());
    }
    shown.into()
}

fn canonical(name: &header::HeaderName) -> String {
    let mut upper = true;
    let letter = |letter: char| {
        let written = if upper { letter.to_ascii_uppercase() } else { letter };
        upper = letter == '-';
        written
    };
    name.as_str().chars().map(letter).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn en_01_only_archives_are_not_shown() {
        let archive = |method: &Method, path: &str, query| is_archive(method, path, query);
        assert!(archive(&Method::PUT, "/containers/x/archive", None));
        assert!(archive(&Method::POST, "/images/load", Some("quiet=1")));
        assert!(archive(&Method::POST, "/images/create", Some("a=b&fromSrc=-")));
        assert!(!archive(&Method::POST, "/images/create", Some("fromImage=x")));
        assert!(!archive(&Method::POST, "/containers/create", Some("name=/archive")));
        assert!(!archive(&Method::POST, "/containers/x/exec", None));
    }

    #[test]
    fn en_01_plugins_see_no_secrets() {
        let mut fields = HeaderMap::new();
        fields.insert("x-registry-auth", "s3cret".parse().unwrap());
        fields.insert("content-type", "application/json".parse().unwrap());
        assert_eq!(headers(&fields), json!({"Content-Type": "application/json"}));
    }
}
