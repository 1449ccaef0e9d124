//! What has to do with registries: pull, push, login, and what a name means there.

use std::collections::VecDeque;

use axum::Router;
use axum::extract::{Path, State};
use axum::response::Response;
use axum::routing::{get, post};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use bytes::Bytes;
use http::HeaderMap;
use serde::{Deserialize, Serialize};
use serde_json::json;
use wharf_content::spec::{Descriptor, Platform};
use wharf_engine::{Engine, Pull, PullTransfer, PushTransfer};
use wharf_image::Progress;
use wharf_model::Reference;
use wharf_registry::Credential;

use crate::convert::progress::{self, Aux, Line};
use crate::error::{Failure, Result};
use crate::request::Query;
use crate::{request, response};

pub(super) fn routes() -> Router<Engine> {
    Router::new()
        .route("/auth", post(login))
        .route("/distribution/{*rest}", get(distribution))
        .route("/images/search", get(search))
}

/// Who a client says it is; the fields of Docker's `AuthConfig`.
#[derive(Deserialize, Default)]
#[serde(default)]
struct AuthConfig {
    username: String,
    password: String,
    auth: String,
    serveraddress: String,
    identitytoken: String,
    registrytoken: String,
}

impl AuthConfig {
    fn credential(self) -> Option<Credential> {
        if !self.registrytoken.is_empty() {
            return Some(Credential::RegistryToken(self.registrytoken));
        }
        if !self.identitytoken.is_empty() {
            return Some(Credential::IdentityToken(self.identitytoken));
        }
        if self.username.is_empty() && !self.auth.is_empty() {
            let decoded = STANDARD.decode(&self.auth).ok().and_then(|bytes| String::from_utf8(bytes).ok())?;
            let (username, password) = decoded.split_once(':')?;
            let password = password.trim_end_matches('\0').to_owned();
            return Some(Credential::Password { username: username.to_owned(), password });
        }
        let Self { username, password, .. } = self;
        (!username.is_empty()).then_some(Credential::Password { username, password })
    }
}

/// The credential of a request. One that cannot be read counts as none, as with Docker: the registry will say so.
pub(super) fn credential(headers: &HeaderMap) -> Option<Credential> {
    let text = headers.get("x-registry-auth")?.as_bytes();
    let bytes = URL_SAFE.decode(text).or_else(|_| STANDARD.decode(text)).ok()?;
    serde_json::from_slice::<AuthConfig>(&bytes).ok()?.credential()
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct LoggedIn {
    identity_token: String,
    status: &'static str,
}

async fn login(State(engine): State<Engine>, body: Bytes) -> Result<Response> {
    let given: AuthConfig = request::decode(&body)?;
    let registry = match given.serveraddress.as_str() {
        "" => "docker.io".to_owned(),
        address => address.to_owned(),
    };
    let credential =
        given.credential().ok_or_else(|| Failure::invalid("no user name and password were given"))?;
    let login = engine.login(&registry, &credential).await?;
    let identity_token = login.identity_token.unwrap_or_default();
    Ok(response::ok(&LoggedIn { identity_token, status: "Login Succeeded" }))
}

/// As many as Docker shows when nobody says how many, and at the most.
const RESULTS: i64 = 25;
const MOST_RESULTS: i64 = 100;

async fn search(State(engine): State<Engine>, query: Query, headers: HeaderMap) -> Result<Response> {
    let limit = match query.number("limit")? {
        None | Some(..=0) => RESULTS,
        Some(limit) if limit <= MOST_RESULTS => limit,
        Some(limit) => {
            return Err(Failure::invalid(format!(
                "limit {limit} is outside the range of [1, {MOST_RESULTS}]"
            )));
        }
    };
    let (term, filters) = (query.text("term").unwrap_or_default(), query.filters()?);
    let limit = usize::try_from(limit).unwrap_or_default();
    let found = engine.search_images(term, limit, &filters, credential(&headers)).await?;
    let one = |image: &wharf_registry::Found| {
        json!({
            "star_count": image.star_count,
            "is_official": image.is_official,
            "name": image.name,
            "is_automated": image.is_automated,
            "description": image.description,
        })
    };
    Ok(response::ok(&found.iter().map(one).collect::<Vec<_>>()))
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct DistributionInspect {
    descriptor: Descriptor,
    platforms: Vec<Platform>,
}

async fn distribution(
    State(engine): State<Engine>,
    Path(rest): Path<String>,
    headers: HeaderMap,
) -> Result<Response> {
    let name = rest.strip_suffix("/json").ok_or_else(Failure::no_route)?;
    let reference = parse(name)?;
    let found = engine.distribution(&reference, credential(&headers)).await?;
    Ok(response::ok(&DistributionInspect { descriptor: found.descriptor, platforms: found.platforms }))
}

/// A name as a user typed it.
pub(super) fn parse(name: &str) -> Result<Reference> {
    Reference::parse_normalized(name).map_err(|error| Failure::invalid(error.to_string()))
}

/// What a pull answers with: a failure before anything happened is an HTTP error, everything later a line.
pub(super) async fn pull(
    engine: &Engine,
    reference: Reference,
    platform: Option<&str>,
    headers: &HeaderMap,
) -> Result<Response> {
    let credential = credential(headers);
    // As with Docker, a name without tag and digest is all of its tags.
    let all = reference.tag().is_none() && reference.digest().is_none();
    let is_built_in = reference.name() == "docker.io/library/hello-world";
    let wanted = if all && !is_built_in {
        engine.remote_tags(&reference, credential.clone()).await?
    } else {
        vec![reference.clone()]
    };
    let mut stream = Pulls {
        engine: engine.clone(),
        credential,
        platform: platform.map(str::to_owned),
        waiting: wanted.into(),
        current: None,
        shown: if all { reference.familiar_name() } else { reference.familiar() },
        changed: false,
        lines: VecDeque::new(),
    };
    // Nothing is sent before it is known whether there is such an image.
    let first = stream.next().await.map_err(Failure::from)?;
    let body = response::pieces((first, stream, false), |(line, mut stream, ended)| async move {
        let line = line?;
        if ended {
            return Some((bytes(&line), (None, stream, true)));
        }
        let (next, ended) = match stream.next().await {
            Ok(next) => (next, false),
            Err(error) => (Some(Line::error(&error.to_string())), true),
        };
        Some((bytes(&line), (next, stream, ended)))
    });
    Ok(response::stream("application/json", body))
}

fn bytes(line: &Line) -> Bytes {
    response::line(line).unwrap_or_default()
}

/// Pulls, one after the other, as lines.
struct Pulls {
    engine: Engine,
    credential: Option<Credential>,
    platform: Option<String>,
    waiting: VecDeque<Reference>,
    current: Option<PullTransfer>,
    /// What the last line names.
    shown: String,
    /// Something was downloaded.
    changed: bool,
    lines: VecDeque<Line>,
}

impl Pulls {
    async fn next(&mut self) -> wharf_engine::Result<Option<Line>> {
        loop {
            if let Some(line) = self.lines.pop_front() {
                return Ok(Some(line));
            }
            if let Some(transfer) = &mut self.current {
                let reference = transfer.reference().clone();
                if let Some(news) = transfer.progress().await {
                    let started = || {
                        let digest = reference.digest().map(ToString::to_string);
                        let id = digest.or(reference.tag().map(str::to_owned)).unwrap_or_default();
                        Line::with_id(format!("Pulling from {}", reference.path()), id)
                    };
                    self.lines.extend(news.iter().map(|news| progress::line(news, started)));
                } else if let Some(transfer) = self.current.take() {
                    let pulled = transfer.result().await?;
                    self.changed |= !pulled.up_to_date;
                    self.lines.push_back(Line::status(format!("Digest: {}", pulled.digest)));
                    self.end_with(pulled.mismatch.as_ref(), &reference);
                }
                continue;
            }
            let Some(reference) = self.waiting.pop_front() else { return Ok(None) };
            let (platform, credential) = (self.platform.as_deref(), self.credential.clone());
            match self.engine.pull_image(&reference, platform, credential).await? {
                Pull::Transfer(transfer) => self.current = Some(transfer),
                Pull::Builtin { digest, up_to_date } => {
                    self.changed |= !up_to_date;
                    self.lines.push_back(Line::with_id("Pulling from library/hello-world", "latest"));
                    self.lines.push_back(Line::status(format!("Digest: {digest}")));
                    self.end_with(None, &reference);
                }
            }
        }
    }

    /// What follows the digest: after the last image, whether anything changed.
    fn end_with(&mut self, mismatch: Option<&(String, String)>, reference: &Reference) {
        if self.waiting.is_empty() {
            let status = if self.changed { "Downloaded newer image for" } else { "Image is up to date for" };
            self.lines.push_back(Line::status(format!("Status: {status} {}", self.shown)));
        }
        if let Some((wanted, found)) = mismatch {
            self.lines.push_back(Line::status(format!(
                "WARNING: image with reference {} was found but its platform ({found}) does not match the specified \
                 platform ({wanted})",
                reference.familiar()
            )));
        }
    }
}

/// What a push answers with: every failure is a line.
pub(super) async fn push(
    engine: &Engine,
    name: &str,
    tag: Option<&str>,
    platform: Option<String>,
    headers: &HeaderMap,
) -> Result<Response> {
    let repository = parse(name)?;
    let wanted = match tag.filter(|tag| !tag.is_empty()) {
        Some(tag) => {
            vec![repository.with_tag(tag).map_err(|error| Failure::invalid(error.to_string()))?]
        }
        None if repository.tag().is_some() => vec![repository.clone()],
        None => engine.local_tags(&repository).await?,
    };
    let mut lines = VecDeque::new();
    lines.push_back(Line::status(format!("The push refers to repository [{}]", repository.name())));
    if wanted.is_empty() {
        lines.push_back(Line::error(&format!(
            "An image does not exist locally with the tag: {}",
            repository.familiar_name()
        )));
    }
    let (engine, credential) = (engine.clone(), credential(headers));
    // Docker looks at the platform before it answers.
    if let (Some(platform), [only]) = (&platform, &wanted[..]) {
        engine.inspect_image(&only.familiar(), Some(platform.clone())).await?;
    }
    let pushes = Pushes { engine, credential, platform, waiting: wanted.into(), current: None, lines };
    let body = response::pieces(pushes, |mut pushes| async move {
        let line = pushes.next().await?;
        Some((bytes(&line), pushes))
    });
    Ok(response::stream("application/json", body))
}

/// Pushes, one after the other, as lines; the first failure is the last line.
struct Pushes {
    engine: Engine,
    credential: Option<Credential>,
    platform: Option<String>,
    waiting: VecDeque<Reference>,
    current: Option<PushTransfer>,
    lines: VecDeque<Line>,
}

impl Pushes {
    async fn next(&mut self) -> Option<Line> {
        loop {
            if let Some(line) = self.lines.pop_front() {
                return Some(line);
            }
            if let Some(transfer) = &mut self.current {
                if let Some(news) = transfer.progress().await {
                    // The stream has begun already.
                    let news = news.iter().filter(|news| !matches!(news, Progress::Started));
                    self.lines.extend(news.map(|news| progress::line(news, Line::default)));
                } else if let Some(transfer) = self.current.take() {
                    self.end(transfer).await;
                }
                continue;
            }
            let reference = self.waiting.pop_front()?;
            let (platform, credential) = (self.platform.clone(), self.credential.clone());
            match self.engine.push_image(&reference, platform, credential).await {
                Ok(transfer) => self.current = Some(transfer),
                Err(error) => self.fail(&error),
            }
        }
    }

    async fn end(&mut self, transfer: PushTransfer) {
        let tag = transfer.reference().tag().unwrap_or_default().to_owned();
        match transfer.result().await {
            Ok(pushed) => {
                let (digest, size) = (pushed.digest.to_string(), pushed.size);
                self.lines.push_back(Line::status(format!("{tag}: digest: {digest} size: {size}")));
                self.lines.push_back(Line::aux(Aux { tag, digest, size }));
            }
            Err(error) => self.fail(&error),
        }
    }

    fn fail(&mut self, error: &wharf_engine::Error) {
        self.waiting.clear();
        self.lines.push_back(Line::error(&error.to_string()));
    }
}
