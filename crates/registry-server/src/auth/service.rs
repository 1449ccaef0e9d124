//! The token service: `/token`, as Docker's clients ask for tokens (GET with Basic) and as OAuth2 does (POST).
//!
//! A token says for five minutes what its bearer may do where. A refresh token (for `docker login`, which then need not
//! keep the password) says only who its bearer is; it ends after ninety days, and with the password it was given for.

use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use serde::Serialize;

use super::jwt::{Audience, Claims};
use super::scope::Scopes;
use super::{Credential, Gate, Makers, SERVICE, now};
use crate::Handled;

/// How long a token is valid, in seconds. Long enough for an upload's many requests, short enough to lose one.
const TOKEN_LIFE: u64 = 300;
/// How long a refresh token is valid, in seconds.
const REFRESH_LIFE: u64 = 90 * 24 * 60 * 60;
/// The most bytes of a POST.
const MAX_FORM: usize = 64 << 10;

/// Whom refresh tokens are for: not the registry, so that nobody takes one for the other.
pub(super) fn refresh_audience() -> String {
    format!("{SERVICE}/token")
}

/// The endpoint, when tokens are made here.
pub(super) fn router(gate: Gate) -> Router {
    match &gate.0.tokens {
        Makers::Own { .. } => Router::new().route("/token", get(by_get).post(by_post)).with_state(gate),
        Makers::None | Makers::External { .. } => Router::new(),
    }
}

/// A wish for a token that cannot be granted.
#[derive(Debug, PartialEq, Eq)]
enum Problem {
    Invalid(&'static str),
    Credentials(&'static str),
    Busy,
}

impl From<super::Busy> for Problem {
    fn from(_: super::Busy) -> Self {
        Self::Busy
    }
}

#[derive(Serialize)]
struct Answer {
    /// Under both of the names clients look for.
    token: String,
    access_token: String,
    expires_in: u64,
    issued_at: String,
    scope: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh_token: Option<String>,
}

/// What a client asks for.
struct Wish {
    scopes: Scopes,
    /// A refresh token, too.
    offline: bool,
}

/// The fields of a query or form.
struct Fields(Vec<(String, String)>);

impl Fields {
    fn parse(encoded: &[u8]) -> Self {
        Self(url::form_urlencoded::parse(encoded).into_owned().collect())
    }

    fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// The only value of a field.
    fn one(&self, name: &'static str) -> Option<&str> {
        let mut values = self.all(name);
        values.next().filter(|_| values.next().is_none())
    }

    fn wish(&self, offline: bool) -> Result<Wish, Problem> {
        if self.all("service").any(|service| service != SERVICE) {
            return Err(Problem::Invalid("this token service is for `wharf-registry` only"));
        }
        let scopes = Scopes::parse(self.all("scope")).ok_or(Problem::Invalid("too many scopes"))?;
        Ok(Wish { scopes, offline })
    }
}

async fn by_get(State(gate): State<Gate>, request: Request) -> Response {
    let (head, _) = request.into_parts();
    let mut user = None;
    let answer = async {
        let fields = Fields::parse(head.uri.query().unwrap_or_default().as_bytes());
        let wish = fields.wish(fields.one("offline_token") == Some("true"))?;
        match Credential::of(&head) {
            Ok(Credential::None) => {}
            Ok(Credential::Password(name, password)) if gate.verify(&name, &password).await? => {
                user = Some(name)
            }
            _ => return Err(Problem::Credentials("wrong user name or password")),
        }
        gate.grant(user.as_deref(), wish)
    };
    let answer = answer.await;
    respond(answer, user)
}

async fn by_post(State(gate): State<Gate>, request: Request) -> Response {
    let mut user = None;
    let answer = async {
        let form = Limited::new(request.into_body(), MAX_FORM).collect().await;
        let form = form.map_err(|_| Problem::Invalid("the form is too long or was cut"))?.to_bytes();
        let fields = Fields::parse(&form);
        let wish = fields.wish(fields.one("access_type") == Some("offline"))?;
        let needed = |name| fields.one(name).ok_or(Problem::Invalid("a field is missing or there twice"));
        match needed("grant_type")? {
            "password" => {
                let (name, password) = (needed("username")?, needed("password")?);
                if !gate.verify(name, password).await? {
                    return Err(Problem::Credentials("wrong user name or password"));
                }
                user = Some(name.to_owned());
            }
            "refresh_token" => user = Some(gate.refreshed(needed("refresh_token")?)?),
            _ => return Err(Problem::Invalid("grant_type is neither password nor refresh_token")),
        }
        gate.grant(user.as_deref(), wish)
    };
    let answer = answer.await;
    respond(answer, user)
}

impl Gate {
    /// Makes a token that lets `user` do what of the wish the rules grant.
    fn grant(&self, user: Option<&str>, wish: Wish) -> Result<Answer, Problem> {
        let Makers::Own { signer, .. } = &self.0.tokens else {
            return Err(Problem::Invalid("no tokens are made here"));
        };
        let now = now();
        let granted = wish.scopes.granted(&self.0.rules, user);
        let claims = |audience: String, life: u64| Claims {
            iss: SERVICE.to_owned(),
            sub: user.unwrap_or_default().to_owned(),
            aud: Audience::One(audience),
            exp: now.saturating_add(life),
            nbf: now,
            iat: now,
            jti: String::new(),
            access: Vec::new(),
            password: None,
        };
        let token =
            signer.sign(&Claims { access: granted.claims(), ..claims(SERVICE.to_owned(), TOKEN_LIFE) });
        let password = self.fingerprint(user);
        let refresh_token = (wish.offline && password.is_some())
            .then(|| signer.sign(&Claims { password, ..claims(refresh_audience(), REFRESH_LIFE) }));
        Ok(Answer {
            access_token: token.clone(),
            token,
            expires_in: TOKEN_LIFE,
            issued_at: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            scope: granted.to_string(),
            refresh_token,
        })
    }

    /// Whose refresh token this is.
    fn refreshed(&self, token: &str) -> Result<String, Problem> {
        let wrong = Problem::Credentials("the refresh token is not valid any more: log in again");
        let Makers::Own { refresh, .. } = &self.0.tokens else { return Err(wrong) };
        match refresh.verify(token, now()) {
            Ok(claims)
                if claims.password.is_some() && claims.password == self.fingerprint(Some(&claims.sub)) =>
            {
                Ok(claims.sub)
            }
            _ => Err(wrong),
        }
    }

    fn fingerprint(&self, user: Option<&str>) -> Option<String> {
        self.0.passwords.as_ref()?.fingerprint(user?)
    }
}

fn respond(answer: Result<Answer, Problem>, user: Option<String>) -> Response {
    let (status, body) = match answer {
        Ok(answer) => (StatusCode::OK, serde_json::to_vec(&answer).unwrap_or_default()),
        Err(problem) => {
            let (status, code, error, message) = match problem {
                Problem::Invalid(why) => (StatusCode::BAD_REQUEST, "UNSUPPORTED", "invalid_request", why),
                Problem::Credentials(why) => (StatusCode::UNAUTHORIZED, "UNAUTHORIZED", "invalid_grant", why),
                Problem::Busy => (
                    StatusCode::TOO_MANY_REQUESTS,
                    "TOOMANYREQUESTS",
                    "temporarily_unavailable",
                    "too many passwords are being checked at once: try again",
                ),
            };
            // In the registry's words and in those of OAuth2.
            let body = serde_json::json!({
                "errors": [{"code": code, "message": message}],
                "error": error,
                "error_description": message,
            });
            (status, body.to_string().into_bytes())
        }
    };
    let mut response = (status, body).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if status == StatusCode::UNAUTHORIZED {
        headers.insert(
            WWW_AUTHENTICATE,
            HeaderValue::from_static("Basic realm=\"Wharf registry\", charset=\"UTF-8\""),
        );
    }
    if status == StatusCode::TOO_MANY_REQUESTS {
        headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response.extensions_mut().insert(Handled { endpoint: "token", repository: None, caller: user });
    response
}
