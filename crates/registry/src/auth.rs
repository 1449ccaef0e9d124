//! Challenges and tokens: to whom a credential may go.
//!
//! A credential is sent to two places: the registry it was given for, and the token service of that registry. The
//! registry names its token service itself, so that name is checked: TLS (or the very host of a registry that is
//! configured without), and a name of the same organisation. To any other token service we go without a credential.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use http::Method;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use serde::Deserialize;
use url::Url;

use crate::address::Nearness;
use crate::credential::Credential;
use crate::dial::{Peer, Spoken};
use crate::error::{Error, Result};
use crate::hosts::Endpoint;
use crate::origin::Origin;
use crate::spec::Challenge;
use crate::transport::{Answer, Call, Payload, Transport, put};

/// Tokens are headers; no server takes larger ones.
const MAX_TOKEN: u64 = 1 << 20;
/// A token that says nothing about its life lives so long, and none is believed to be shorter.
const SHORTEST_LIFE: Duration = Duration::from_secs(60);
/// None is believed to live longer.
const LONGEST_LIFE: u64 = 24 * 3600;
/// A token is not used in its last seconds.
const MARGIN: Duration = Duration::from_secs(5);
const MAX_TOKENS: usize = 1024;
const CLIENT_ID: &str = "wharf";

/// Registries whose token service has another name, beside what is configured.
const KNOWN_PAIRS: &[(&str, &str)] = &[("registry-1.docker.io", "auth.docker.io")];
/// Names under which strangers are neighbours.
const SHARED_SUFFIXES: &[&str] = &[
    "amazonaws.com",
    "azurecr.io",
    "azurewebsites.net",
    "cloudapp.azure.com",
    "run.app",
    "appspot.com",
    "github.io",
    "gitlab.io",
    "herokuapp.com",
    "cloudfront.net",
    "pkg.dev",
    "workers.dev",
    "pages.dev",
    "vercel.app",
    "netlify.app",
    "fly.dev",
    "ngrok.io",
    "ngrok.app",
    "nip.io",
    "sslip.io",
    "duckdns.org",
    "dyndns.org",
];
/// Second-level names that are registries of names themselves, below a country.
const SECOND_LEVEL: &[&str] =
    &["co", "com", "org", "net", "gov", "edu", "ac", "ne", "or", "go", "mil", "gob", "nom"];

/// What is known about tokens and challenges; shared by everything of a client.
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    challenges: Mutex<HashMap<String, Known>>,
    cache: Mutex<HashMap<Key, Arc<tokio::sync::Mutex<Option<Token>>>>>,
    pairs: Vec<(String, String)>,
}

/// What an endpoint wants, and how it was reached when it said so.
#[derive(Debug, Clone)]
struct Known {
    challenge: Challenge,
    origin: Origin,
    nearness: Nearness,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    endpoint: String,
    realm: String,
    service: Option<String>,
    scopes: Vec<String>,
    credential: Option<Credential>,
}

#[derive(Debug, Clone)]
struct Token {
    header: HeaderValue,
    until: Instant,
}

/// What a token service answers. Both names of the token are in use.
#[derive(Deserialize)]
struct Granted {
    token: Option<String>,
    access_token: Option<String>,
    refresh_token: Option<String>,
    expires_in: Option<u64>,
}

/// For whom and for what a token is wanted.
#[derive(Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub(crate) endpoint: &'a Endpoint,
    pub(crate) credential: Option<&'a Credential>,
    pub(crate) scopes: &'a [String],
}

impl Tokens {
    pub(crate) fn new(pairs: &[(String, String)]) -> Self {
        Self { pairs: pairs.to_vec(), ..Self::default() }
    }

    /// The header for a request, as far as is known what the endpoint wants.
    pub(crate) async fn authorization(
        &self,
        transport: &Transport,
        wanted: Wanted<'_>,
    ) -> Result<Option<HeaderValue>> {
        if let Some(Credential::RegistryToken(token)) = wanted.credential {
            return secret(&format!("Bearer {token}")).map(Some);
        }
        let known = lock(&self.challenges).get(&endpoint_name(wanted.endpoint)).cloned();
        match (known, wanted.credential) {
            (
                Some(Known { challenge: Challenge::Basic { .. }, .. }),
                Some(Credential::Password { username, password }),
            ) => basic(username, password).map(Some),
            (Some(known @ Known { challenge: Challenge::Bearer { .. }, .. }), _) => {
                self.token(transport, wanted, &known).await.map(Some)
            }
            _ => Ok(None),
        }
    }

    /// Takes note of a 401. Whether it is worth another try with what [`Tokens::authorization`] gives now.
    pub(crate) async fn challenged(
        &self,
        wanted: Wanted<'_>,
        answer: &Answer,
        sent: Option<&HeaderValue>,
    ) -> bool {
        if matches!(wanted.credential, Some(Credential::RegistryToken(_))) {
            return false;
        }
        let values = answer.headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
        let offered: Vec<Challenge> = values.take(8).flat_map(Challenge::parse).collect();
        let bearer = offered.iter().find(|challenge| matches!(challenge, Challenge::Bearer { .. }));
        let basic = offered.iter().find(|challenge| matches!(challenge, Challenge::Basic { .. }));
        let worth = match (bearer, basic, wanted.credential) {
            (Some(_), _, _) => true,
            // The same password again would be the same answer.
            (None, Some(_), Some(Credential::Password { .. })) => sent.is_none(),
            _ => false,
        };
        if let (true, Some(challenge)) = (worth, bearer.or(basic)) {
            let known = Known {
                challenge: challenge.clone(),
                origin: answer.origin.clone(),
                nearness: answer.nearness,
            };
            lock(&self.challenges).insert(endpoint_name(wanted.endpoint), known);
        }
        if let Some(sent) = sent {
            self.forget(sent).await;
        }
        worth
    }

    /// Removes a token that was refused.
    async fn forget(&self, header: &HeaderValue) {
        let slots: Vec<_> = lock(&self.cache).values().cloned().collect();
        for slot in slots {
            let mut token = slot.lock().await;
            if token.as_ref().is_some_and(|token| token.header == *header) {
                *token = None;
            }
        }
    }

    /// A token from the cache or the service; those who want the same one wait for it together.
    async fn token(&self, transport: &Transport, wanted: Wanted<'_>, known: &Known) -> Result<HeaderValue> {
        let Challenge::Bearer { realm, service, .. } = &known.challenge else {
            return Err(Error::Protocol {
                host: known.origin.authority(),
                what: "no token service".to_owned(),
            });
        };
        let mut scopes = wanted.scopes.to_vec();
        scopes.sort();
        scopes.dedup();
        let key = Key {
            endpoint: endpoint_name(wanted.endpoint),
            realm: realm.clone(),
            service: service.clone(),
            scopes,
            credential: wanted.credential.cloned(),
        };
        let slot = {
            let mut cache = lock(&self.cache);
            if cache.len() >= MAX_TOKENS {
                cache.retain(|_, slot| Arc::strong_count(slot) > 1);
            }
            Arc::clone(cache.entry(key).or_default())
        };
        let mut slot = slot.lock().await;
        if let Some(token) = slot.as_ref().filter(|token| token.until > Instant::now()) {
            return Ok(token.header.clone());
        }
        let granted = self.fetch(transport, wanted, known, false).await?;
        let token = granted.token(&known.origin)?;
        let header = token.header.clone();
        *slot = Some(token);
        Ok(header)
    }

    /// Asks for a token that is good for new tokens; what a login stores.
    pub(crate) async fn identity(&self, transport: &Transport, wanted: Wanted<'_>) -> Result<Option<String>> {
        let known = lock(&self.challenges).get(&endpoint_name(wanted.endpoint)).cloned();
        match known {
            Some(known @ Known { challenge: Challenge::Bearer { .. }, .. }) => Ok(self
                .fetch(transport, wanted, &known, true)
                .await?
                .refresh_token
                .filter(|token| !token.is_empty())),
            _ => Ok(None),
        }
    }

    async fn fetch(
        &self,
        transport: &Transport,
        wanted: Wanted<'_>,
        known: &Known,
        offline: bool,
    ) -> Result<Granted> {
        let Challenge::Bearer { realm, service, .. } = &known.challenge else {
            return Err(Error::Protocol {
                host: known.origin.authority(),
                what: "no token service".to_owned(),
            });
        };
        let place = self.place(wanted.endpoint, known, realm)?;
        let errand =
            Errand { transport, place: &place, service: service.as_deref(), scopes: wanted.scopes, offline };
        match wanted.credential.filter(|_| place.trusted) {
            None | Some(Credential::RegistryToken(_)) => errand.get(None).await,
            Some(Credential::IdentityToken(token)) => {
                errand.post("refresh_token", &[("refresh_token", token)]).await
            }
            Some(Credential::Password { username, password }) => {
                match errand.get(Some((username, password))).await {
                    // A service that speaks OAuth2 only.
                    Err(Error::NotFound { .. } | Error::NotImplemented(_)) => {
                        errand.post("password", &[("username", username), ("password", password)]).await
                    }
                    other => other,
                }
            }
        }
    }

    /// Where the token service is, and whether it may see the credential.
    fn place(&self, endpoint: &Endpoint, known: &Known, realm: &str) -> Result<Place> {
        let host = known.origin.authority();
        let wrong = |what: &str| Error::Refused {
            host: host.clone(),
            what: format!("ask the token service {realm:.200}: {what}"),
        };
        let url = Url::parse(realm).map_err(|_| wrong("it is no address"))?;
        let origin = Origin::of(&url).ok_or_else(|| wrong("it is neither https nor http"))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(wrong("it holds a password"));
        }
        let same_host = origin.host == known.origin.host;
        if !origin.tls && (known.origin.tls || !same_host) {
            return Err(wrong("it is not https"));
        }
        let trusted = same_host || self.belong(&known.origin.host, &origin.host);
        let trust = if trusted { Arc::clone(&endpoint.peer.trust) } else { crate::trust::Trust::system() };
        let spoken = if origin.tls { Spoken::Tls } else { Spoken::Plain };
        let peer =
            Peer { host: origin.host, port: Some(origin.port), spoken, trust, nearest: known.nearness };
        Ok(Place { url, peer, trusted })
    }

    /// Whether a token service is of the organisation of a registry.
    fn belong(&self, registry: &str, realm: &str) -> bool {
        let pair = |(a, b): (&str, &str)| a == registry && b == realm;
        KNOWN_PAIRS.iter().any(|known| pair(*known))
            || self.pairs.iter().any(|(a, b)| pair((a, b)))
            || site(registry).is_some_and(|of_registry| site(realm) == Some(of_registry))
    }
}

/// One visit to a token service.
struct Errand<'a> {
    transport: &'a Transport,
    place: &'a Place,
    service: Option<&'a str>,
    scopes: &'a [String],
    /// Whether a token for new tokens is wanted, too.
    offline: bool,
}

impl Errand<'_> {
    /// The token protocol of Docker's registries.
    async fn get(&self, user: Option<(&str, &str)>) -> Result<Granted> {
        let mut fields = Vec::new();
        fields.extend(user.map(|(username, _)| ("account", username)));
        fields.push(("client_id", CLIENT_ID));
        fields.extend(self.offline.then_some(("offline_token", "true")));
        fields.extend(self.service.map(|service| ("service", service)));
        fields.extend(self.scopes.iter().map(|scope| ("scope", scope.as_str())));
        let mut url = self.place.url.clone();
        url.query_pairs_mut().extend_pairs(fields);
        let mut headers = HeaderMap::new();
        if let Some((username, password)) = user {
            headers.insert(AUTHORIZATION, basic(username, password)?);
        }
        self.send(Method::GET, &url, headers, String::new()).await
    }

    /// OAuth2.
    async fn post(&self, grant: &str, secrets: &[(&str, &str)]) -> Result<Granted> {
        let scopes = self.scopes.join(" ");
        let mut fields = vec![("grant_type", grant), ("client_id", CLIENT_ID)];
        fields.extend(self.service.map(|service| ("service", service)));
        fields.push(("scope", &scopes));
        fields.extend(self.offline.then_some(("access_type", "offline")));
        fields.extend(secrets);
        let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        let mut headers = HeaderMap::new();
        put(&mut headers, CONTENT_TYPE, "application/x-www-form-urlencoded");
        self.send(Method::POST, &self.place.url, headers, body).await
    }

    async fn send(&self, method: Method, url: &Url, mut headers: HeaderMap, body: String) -> Result<Granted> {
        put(&mut headers, ACCEPT, "application/json");
        let timeouts = &self.transport.timeouts;
        let body = Payload::Bytes(body.into());
        let call = Call { method, target: target_of(url), headers, body, wait: Some(timeouts.idle) };
        let answer = self.transport.send(&self.place.peer, call).await?;
        let (status, host) = (answer.status.as_u16(), answer.origin.authority());
        let bytes = answer.body.document("the token", MAX_TOKEN, timeouts.document).await?;
        match status {
            200..300 => serde_json::from_slice(&bytes).map_err(|_| Error::Protocol {
                host,
                what: "the token service's answer is no token".to_owned(),
            }),
            // A redirect could lead a credential anywhere.
            300..400 => Err(Error::Protocol { host, what: "a token service must not redirect".to_owned() }),
            400 | 401 => Err(Error::Unauthorized {
                host,
                message: "unauthorized: incorrect username or password".to_owned(),
            }),
            _ => Err(Error::of_answer(&host, status, &bytes, None)),
        }
    }
}

struct Place {
    url: Url,
    peer: Peer,
    trusted: bool,
}

impl Granted {
    fn token(self, origin: &Origin) -> Result<Token> {
        let token = self.token.or(self.access_token).filter(|token| !token.is_empty());
        let token = token.ok_or_else(|| Error::Protocol {
            host: origin.authority(),
            what: "authorization server did not include a token in the response".to_owned(),
        })?;
        let life = Duration::from_secs(self.expires_in.unwrap_or(0).min(LONGEST_LIFE)).max(SHORTEST_LIFE);
        Ok(Token { header: secret(&format!("Bearer {token}"))?, until: Instant::now() + life - MARGIN })
    }
}

/// The name that an organisation registered, as far as it can be told without the list of all registries: never
/// shorter than that name, so that neighbours are not taken for one.
fn site(host: &str) -> Option<&str> {
    if host.parse::<std::net::IpAddr>().is_ok() || SHARED_SUFFIXES.iter().any(|suffix| host.ends_with(suffix))
    {
        return None;
    }
    let labels: Vec<&str> = host.rsplit('.').collect();
    let (top, second) = (labels.first()?, labels.get(1)?);
    let wanted = if top.len() == 2 && SECOND_LEVEL.contains(second) { 3 } else { 2 };
    let length = labels.get(..wanted)?.iter().map(|label| label.len() + 1).sum::<usize>() - 1;
    Some(&host[host.len() - length..])
}

fn endpoint_name(endpoint: &Endpoint) -> String {
    format!("{}{}", endpoint.peer, endpoint.prefix)
}

fn basic(username: &str, password: &str) -> Result<HeaderValue> {
    let pair = base64::engine::general_purpose::STANDARD.encode(format!("{username}:{password}"));
    secret(&format!("Basic {pair}"))
}

fn secret(value: &str) -> Result<HeaderValue> {
    let mut value = HeaderValue::from_str(value)
        .map_err(|_| Error::Config("the credential has characters that no header can hold".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Path and query.
pub(crate) fn target_of(url: &Url) -> String {
    match url.query() {
        Some(query) => format!("{}?{query}", url.path()),
        None => url.path().to_owned(),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rc_01_only_names_of_one_organisation_belong_together() {
        let tokens = Tokens::new(&[("reg.a.test".into(), "auth.b.test".into())]);
        for (registry, realm, wanted) in [
            ("registry-1.docker.io", "auth.docker.io", true),
            ("registry.gitlab.com", "gitlab.com", true),
            ("reg.corp.example", "auth.corp.example", true),
            ("reg.a.test", "auth.b.test", true),
            ("auth.b.test", "reg.a.test", false),
            ("reg.corp.example", "auth.evil.example", false),
            ("reg.example", "example", false),
            ("reg.corp.co.uk", "auth.corp.co.uk", true),
            ("corp.co.uk", "evil.co.uk", false),
            ("me.github.io", "evil.github.io", false),
            ("me.azurecr.io", "evil.azurecr.io", false),
            ("evilcorp.example", "corp.example", false),
            ("10.0.0.1", "10.0.0.1.evil.example", false),
            ("10.0.0.1", "20.0.0.1", false),
            ("localhost", "localhost.localdomain", false),
        ] {
            assert_eq!(tokens.belong(registry, realm), wanted, "{registry} {realm}");
        }
    }
}
