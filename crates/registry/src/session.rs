//! One call to one endpoint: authentication, redirects, retries.
//!
//! A place is either at home, on the endpoint that was configured, or foreign, where an answer led. At home requests
//! carry the credential and the configured headers; abroad they carry neither, trust only the machine's authorities and
//! reach no address nearer than the endpoint's own. TLS is never given up on the way.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, HeaderMap, LOCATION, RETRY_AFTER};
use http::{Method, StatusCode};
use url::Url;

use crate::address::Nearness;
use crate::auth::{Tokens, Wanted, target_of};
use crate::config::Config;
use crate::credential::Credential;
use crate::dial::{Peer, Spoken};
use crate::error::{Error, Result};
use crate::hosts::Endpoint;
use crate::origin::Origin;
use crate::spec::MAX_ERROR_BODY;
use crate::transport::{Answer, Call, Payload, Transport};
use crate::trust::Trust;

const MAX_REDIRECTS: usize = 10;
const MAX_LOCATION: usize = 16 << 10;

/// What everything of a client shares.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) transport: Transport,
    pub(crate) tokens: Tokens,
    pub(crate) config: Config,
}

/// Calls to one endpoint, for one purpose, as one user.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    pub(crate) core: Arc<Core>,
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) credential: Option<Credential>,
    pub(crate) scopes: Vec<String>,
    /// How often a step is tried again.
    pub(crate) retries: u32,
}

/// Where a request goes.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    /// Path and query on the endpoint.
    Home(String),
    /// Somewhere else.
    Foreign { peer: Peer, target: String },
}

/// One request, which can be sent again.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub(crate) method: Method,
    pub(crate) place: Place,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) wait: Duration,
}

/// An answer and where it came from.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) answer: Answer,
    place: Place,
}

impl Reply {
    pub(crate) fn status(&self) -> StatusCode {
        self.answer.status
    }

    /// Where a header of this answer leads.
    pub(crate) fn lead(&self, to: &str) -> Result<Place> {
        lead(&self.place, &self.answer.origin, self.answer.nearness, to)
    }

    /// The place of `Location`.
    pub(crate) fn location(&self) -> Result<Place> {
        let missing = || Error::Protocol {
            host: self.answer.origin.authority(),
            what: format!("status {} without a Location", self.answer.status.as_u16()),
        };
        self.lead(self.answer.header(LOCATION).ok_or_else(missing)?)
    }

    /// The error of a status that is no success.
    pub(crate) async fn into_error(self, patience: Duration) -> Error {
        let Answer { status, headers, body, origin, .. } = self.answer;
        let after = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()).and_then(retry_after);
        let bytes = body.document("the error", MAX_ERROR_BODY as u64, patience).await.unwrap_or_default();
        Error::of_answer(&origin.authority(), status.as_u16(), &bytes, after)
    }
}

/// Where an answer from `place` may lead.
fn lead(place: &Place, origin: &Origin, nearness: Nearness, to: &str) -> Result<Place> {
    let host = origin.authority();
    let protocol = |what: &str| Error::Protocol { host: host.clone(), what: what.to_owned() };
    if to.len() > MAX_LOCATION {
        return Err(protocol("a Location without end"));
    }
    let (from, limit) = match place {
        Place::Home(target) => (target, nearness),
        Place::Foreign { peer, target } => (target, peer.nearest),
    };
    let base = Url::parse(&format!("{origin}{from}")).map_err(|error| protocol(&error.to_string()))?;
    let url = base.join(to).map_err(|error| protocol(&format!("Location {to:.200}: {error}")))?;
    let refused = |why: &str| Error::Refused {
        host: host.clone(),
        what: format!("follow it to {}: {why}", url.host_str().unwrap_or_default()),
    };
    let Some(next) = Origin::of(&url) else { return Err(refused("neither https nor http")) };
    if matches!(place, Place::Home(_)) && next == *origin {
        return Ok(Place::Home(target_of(&url)));
    }
    if origin.tls && !next.tls {
        return Err(refused(
            "that would give up TLS (a registry behind a proxy has to know its own address)",
        ));
    }
    let spoken = if next.tls { Spoken::Tls } else { Spoken::Plain };
    let peer =
        Peer { host: next.host, port: Some(next.port), spoken, trust: Trust::system(), nearest: limit };
    Ok(Place::Foreign { peer, target: target_of(&url) })
}

impl Session {
    /// A request to a path below the endpoint's prefix; `path` begins with a slash and may have a query.
    pub(crate) fn request(&self, method: Method, path: &str) -> Ask {
        let mut target = format!("{}{path}", self.endpoint.prefix);
        if let Some(namespace) = &self.endpoint.namespace {
            target.push(if path.contains('?') { '&' } else { '?' });
            target.push_str("ns=");
            target.extend(url::form_urlencoded::byte_serialize(namespace.as_bytes()));
        }
        self.request_to(method, Place::Home(target))
    }

    /// A request to where an answer led.
    pub(crate) fn request_to(&self, method: Method, place: Place) -> Ask {
        Ask {
            method,
            place,
            headers: HeaderMap::new(),
            body: Bytes::new(),
            wait: self.core.transport.timeouts.idle,
        }
    }

    /// The name of the registry in errors.
    pub(crate) fn host(&self) -> String {
        self.endpoint.peer.to_string()
    }

    fn wanted(&self) -> Wanted<'_> {
        Wanted { endpoint: &self.endpoint, credential: self.credential.as_ref(), scopes: &self.scopes }
    }

    /// Sends until there is an answer that is a success, or an error that stays.
    pub(crate) async fn ask(&self, ask: &Ask) -> Result<Reply> {
        let mut backoff = self.backoff();
        loop {
            let error = match self.exchange(ask).await {
                Ok(reply) if reply.status().is_success() => return Ok(reply),
                Ok(reply) => reply.into_error(self.core.transport.timeouts.idle).await,
                Err(error) => error,
            };
            if error.is_nobody() {
                // Somebody who waits at a terminal has mistyped the address more often than a registry restarts.
                backoff.left = backoff.left.min(1);
            }
            backoff.pause(error).await?;
        }
    }

    pub(crate) fn backoff(&self) -> Backoff {
        let timeouts = &self.core.transport.timeouts;
        Backoff { left: self.retries, next: timeouts.backoff, longest: timeouts.longest_pause }
    }

    /// Sends once, as far as authentication and redirects allow; the answer may have any status.
    pub(crate) async fn exchange(&self, ask: &Ask) -> Result<Reply> {
        let mut place = ask.place.clone();
        let mut challenged = false;
        let mut redirects = 0;
        loop {
            let authorization = self.authorization(&place).await?;
            let call = Call {
                method: ask.method.clone(),
                target: String::new(),
                headers: ask.headers.clone(),
                body: Payload::Bytes(ask.body.clone()),
                wait: Some(ask.wait),
            };
            let answer = self.send(&place, call, authorization.as_ref()).await?;
            if answer.status == StatusCode::UNAUTHORIZED && matches!(place, Place::Home(_)) && !challenged {
                challenged = true;
                if self.core.tokens.challenged(self.wanted(), &answer, authorization.as_ref()).await {
                    // Read, so that the connection can be used again.
                    let patience = self.core.transport.timeouts.idle;
                    let _ = answer.body.document("the challenge", MAX_ERROR_BODY as u64, patience).await;
                    continue;
                }
            }
            let safe = matches!(ask.method, Method::GET | Method::HEAD);
            let reply = Reply { answer, place };
            if !(safe && matches!(reply.status().as_u16(), 301 | 302 | 303 | 307 | 308)) {
                return Ok(reply);
            }
            redirects += 1;
            if redirects > MAX_REDIRECTS {
                return Err(Error::Protocol {
                    host: reply.answer.origin.authority(),
                    what: format!("stopped after {MAX_REDIRECTS} redirects"),
                });
            }
            place = reply.location()?;
        }
    }

    /// The header of a request to a place, if it may have one.
    pub(crate) async fn authorization(&self, place: &Place) -> Result<Option<http::HeaderValue>> {
        match place {
            Place::Home(_) => self.core.tokens.authorization(&self.core.transport, self.wanted()).await,
            Place::Foreign { .. } => Ok(None),
        }
    }

    /// Sends once and nothing more; `call.target` is the place's.
    pub(crate) async fn send(
        &self,
        place: &Place,
        mut call: Call,
        authorization: Option<&http::HeaderValue>,
    ) -> Result<Answer> {
        let peer = match place {
            Place::Home(target) => {
                call.target.clone_from(target);
                call.headers.extend(self.endpoint.headers.clone());
                if let Some(authorization) = authorization {
                    call.headers.insert(AUTHORIZATION, authorization.clone());
                }
                &self.endpoint.peer
            }
            Place::Foreign { peer, target } => {
                call.target.clone_from(target);
                peer
            }
        };
        self.core.transport.send(peer, call).await
    }

    /// What a 401 to a request that cannot be sent again teaches for the next one.
    pub(crate) async fn refused(&self, answer: &Answer, sent: Option<&http::HeaderValue>) {
        self.core.tokens.challenged(self.wanted(), answer, sent).await;
    }

    pub(crate) fn reply(answer: Answer, place: Place) -> Reply {
        Reply { answer, place }
    }

    /// A token that can be stored instead of the password.
    pub(crate) async fn identity(&self) -> Result<Option<String>> {
        self.core.tokens.identity(&self.core.transport, self.wanted()).await
    }
}

/// Pauses between tries: twice as long each time, at random around that, and at least what the registry asked for.
#[derive(Debug)]
pub(crate) struct Backoff {
    left: u32,
    next: Duration,
    longest: Duration,
}

impl Backoff {
    /// Waits before another try, or gives the error back when another try would not help.
    pub(crate) async fn pause(&mut self, error: Error) -> Result<()> {
        let after = match &error {
            Error::TooManyRequests { after, .. } | Error::Unavailable { after, .. } => *after,
            _ => None,
        };
        // Whoever asks for more than we would wait has said no.
        if self.left == 0 || !error.is_passing() || after.is_some_and(|after| after > self.longest) {
            return Err(error);
        }
        self.left -= 1;
        let pause = jittered(self.next).max(after.unwrap_or_default());
        self.next = (self.next * 2).min(self.longest / 4);
        tracing::debug!(%error, ?pause, "trying again");
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

/// Between half and one and a half of a pause, so that clients that failed together do not come back together.
fn jittered(pause: Duration) -> Duration {
    let mut random = [0_u8; 2];
    let _ = ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut random);
    pause.mul_f64(0.5 + f64::from(u16::from_le_bytes(random)) / f64::from(u16::MAX))
}

/// `Retry-After`: seconds, or a date.
fn retry_after(value: &str) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::parse(value).ok()?.timestamp();
    let left = date.duration_since(jiff::Timestamp::now());
    Some(Duration::try_from(left).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn origin(tls: bool, host: &str) -> Origin {
        Origin { tls, host: host.into(), port: 5000 }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        assert_eq!(retry_after(" 7 "), Some(Duration::from_secs(7)));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
        assert!(retry_after("Fri, 06 Nov 2099 08:49:37 GMT").unwrap() > Duration::from_secs(1 << 30));
        assert_eq!(retry_after("soon"), None);
        assert_eq!(retry_after("-1"), None);
    }

    #[test]
    fn rc_04_a_place_abroad_is_bound_by_the_way_that_led_there() {
        let home = Place::Home("/v2/a/blobs/x".into());
        let from = origin(true, "reg.test");
        match lead(&home, &from, Nearness::Public, "https://cdn.test/x?y=1").unwrap() {
            Place::Foreign { peer, target } => {
                assert_eq!(
                    (peer.nearest, peer.spoken, target.as_str()),
                    (Nearness::Public, Spoken::Tls, "/x?y=1")
                );
            }
            Place::Home(_) => panic!("abroad"),
        }
        assert!(
            matches!(lead(&home, &from, Nearness::Public, "/x").unwrap(), Place::Home(target) if target == "/x")
        );
        assert!(matches!(
            lead(&home, &from, Nearness::Public, "http://reg.test:5000/x"),
            Err(Error::Refused { .. })
        ));
        assert!(matches!(
            lead(&home, &from, Nearness::Public, "file:///etc/passwd"),
            Err(Error::Refused { .. })
        ));
        // Another port is another origin, and coming back from abroad is not coming home.
        assert!(matches!(
            lead(&home, &from, Nearness::Public, "https://reg.test/x").unwrap(),
            Place::Foreign { .. }
        ));
        let abroad = lead(&home, &from, Nearness::Public, "https://cdn.test/x").unwrap();
        let back =
            lead(&abroad, &origin(true, "cdn.test"), Nearness::Public, "https://reg.test:5000/x").unwrap();
        assert!(matches!(back, Place::Foreign { .. }));
    }

    proptest! {
        #[test]
        fn any_location_is_read_without_panic(to in "\\PC{0,80}|(https?:)?//[a-z0-9.:@%\\[\\]]{0,20}/[a-z?#./]{0,20}") {
            let _ = lead(&Place::Home("/v2/".into()), &origin(true, "reg.test"), Nearness::Public, &to);
            let _ = retry_after(&to);
        }
    }
}
