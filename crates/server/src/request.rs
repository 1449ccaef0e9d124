//! Decoding: queries, filters, times and JSON bodies, with Docker's words for what does not fit.

use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{FromRequest, FromRequestParts, Request};
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, StatusCode, header};
use jiff::{SignedDuration, Timestamp};
use serde::de::DeserializeOwned;
use serde_json::Value;
use wharf_api::version::ApiVersion;
use wharf_model::Filters;

use crate::error::{Failure, Result};
use crate::unambiguous;

/// The largest JSON body that is read. Streams (images, archives) are never held.
const BODY_LIMIT: usize = 4 << 20;
/// How long a JSON body may take to arrive.
const BODY_TIME: Duration = Duration::from_secs(60);

/// The version a request was made in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Version(pub(crate) ApiVersion);

impl<S: Sync> FromRequestParts<S> for Version {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> std::result::Result<Self, Self::Rejection> {
        Ok(parts.extensions.get::<Self>().copied().unwrap_or(Self(ApiVersion::MAX)))
    }
}

/// The query of a request.
#[derive(Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl<S: Sync> FromRequestParts<S> for Query {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        let query = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(&parts.uri);
        query.map(|query| Self(query.0)).map_err(|error| Failure::invalid(error.to_string()))
    }
}

impl Query {
    /// The first value of a key; absent and empty are the same, as in Docker.
    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        self.first(key).filter(|value| !value.is_empty())
    }

    fn first(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// Every value of a key.
    pub(crate) fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// True unless absent, empty or one of Docker's words for no.
    pub(crate) fn flag(&self, key: &str) -> bool {
        self.text(key).is_some_and(|value| {
            let value = value.trim().to_ascii_lowercase();
            !matches!(value.as_str(), "" | "0" | "no" | "false" | "none")
        })
    }

    /// The same with another default for absent.
    pub(crate) fn flag_or(&self, key: &str, default: bool) -> bool {
        if self.first(key).is_some() { self.flag(key) } else { default }
    }

    /// A whole number.
    pub(crate) fn number(&self, key: &str) -> Result<Option<i64>> {
        let Some(value) = self.text(key) else { return Ok(None) };
        value
            .parse()
            .map(Some)
            .map_err(|_| Failure::invalid(format!("invalid {key} {value:?}: expected a whole number")))
    }

    /// The rows or columns of a terminal.
    pub(crate) fn dimension(&self, key: &str, what: &str) -> Result<u16> {
        let value = self.text(key).unwrap_or_default();
        match value.parse::<u32>() {
            Ok(number) => u16::try_from(number).map_err(|_| {
                Failure::invalid(format!("invalid resize {what} {value:?}: value out of range"))
            }),
            Err(_) if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) => {
                Err(Failure::invalid(format!("invalid resize {what} {value:?}: value out of range")))
            }
            Err(_) => Err(Failure::invalid(format!("invalid resize {what} {value:?}: invalid syntax"))),
        }
    }

    /// Seconds since 1970 with an optional fraction, or RFC 3339. Zero is the same as absent.
    pub(crate) fn time(&self, key: &str) -> Result<Option<Timestamp>> {
        Ok(self.instant(key)?.filter(|time| *time != Timestamp::UNIX_EPOCH))
    }

    /// The same where 0 is an instant, too: all events are since 0.
    pub(crate) fn instant(&self, key: &str) -> Result<Option<Timestamp>> {
        let Some(text) = self.text(key).filter(|text| !text.is_empty()) else { return Ok(None) };
        let time = unix_time(text).or_else(|| text.parse().ok()).ok_or_else(|| {
            Failure::invalid(format!(
                "invalid {key} {text:?}: expected seconds since 1970, with an optional fraction, or an RFC 3339 time"
            ))
        })?;
        Ok(Some(time))
    }

    /// `platform={"os":…,"architecture":…}` as `os/architecture`.
    pub(crate) fn platform(&self) -> Result<Option<String>> {
        #[derive(serde::Deserialize)]
        struct Platform {
            #[serde(default)]
            os: String,
            #[serde(default)]
            architecture: String,
            #[serde(default)]
            variant: String,
        }
        let Some(text) = self.text("platform").filter(|text| !text.is_empty()) else { return Ok(None) };
        let platform: Platform = serde_json::from_str(text)
            .map_err(|error| Failure::invalid(format!("failed to parse platform: {error}")))?;
        let parts = [platform.os, platform.architecture, platform.variant];
        Ok(Some(parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/")))
    }

    /// `filters`, in either of the two forms clients send: `{"label": ["a"]}` and `{"label": {"a": true}}`.
    pub(crate) fn filters(&self) -> Result<Filters> {
        let mut filters = Filters::default();
        let Some(text) = self.text("filters") else { return Ok(filters) };
        let invalid = || Failure::invalid("invalid filter");
        let keys = match serde_json::from_str(text) {
            Ok(Value::Object(keys)) => keys,
            Ok(Value::Null) => return Ok(filters),
            _ => return Err(invalid()),
        };
        for (key, values) in keys {
            match values {
                Value::Array(values) => {
                    for value in values {
                        filters.add(&key, value.as_str().ok_or_else(invalid)?);
                    }
                }
                Value::Object(values) => {
                    for (value, wanted) in values {
                        if wanted.as_bool().ok_or_else(invalid)? {
                            filters.add(&key, &value);
                        }
                    }
                }
                Value::Null => {}
                _ => return Err(invalid()),
            }
        }
        Ok(filters)
    }
}

fn unix_time(text: &str) -> Option<Timestamp> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.len() > 9 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    // `1.5` is half a second: the fraction is digits of nanoseconds, padded on the right.
    let nanos: i32 = format!("{fraction:0<9}").parse().ok()?;
    let seconds: i64 = seconds.parse().ok()?;
    Timestamp::from_second(seconds).ok()?.checked_add(SignedDuration::new(0, nanos)).ok()
}

/// A JSON body. An absent body is an error.
pub(crate) struct Json<T>(pub(crate) T);

impl<S: Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, _: &S) -> Result<Self> {
        let (parts, body) = request.into_parts();
        let bytes = read(&parts.headers, body).await?;
        if bytes.is_empty() {
            return Err(Failure::invalid("invalid JSON: got EOF while reading request body"));
        }
        decode(&bytes).map(Self)
    }
}

/// A JSON body that may be absent: then everything is at its default.
pub(crate) struct JsonOrDefault<T>(pub(crate) T);

impl<S: Sync, T: DeserializeOwned + Default> FromRequest<S> for JsonOrDefault<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, _: &S) -> Result<Self> {
        let (parts, body) = request.into_parts();
        let bytes = read(&parts.headers, body).await?;
        if bytes.is_empty() { Ok(Self(T::default())) } else { decode(&bytes).map(Self) }
    }
}

async fn read(headers: &HeaderMap, body: Body) -> Result<Bytes> {
    let bytes = whole(body).await?;
    if !bytes.is_empty() {
        check_content_type(headers)?;
    }
    Ok(bytes)
}

/// A whole body, within the limits of a document.
pub(crate) async fn whole(body: Body) -> Result<Bytes> {
    let read = tokio::time::timeout(BODY_TIME, to_bytes(body, BODY_LIMIT)).await;
    let late = |_| Failure::new(StatusCode::REQUEST_TIMEOUT, "the request body did not arrive in time");
    read.map_err(late)?.map_err(|error| {
        let too_large = std::error::Error::source(&error)
            .is_some_and(<dyn std::error::Error>::is::<http_body_util::LengthLimitError>);
        match too_large {
            true => Failure::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("request body is larger than {} MiB", BODY_LIMIT >> 20),
            ),
            false => Failure::invalid(format!("reading the request body: {error}")),
        }
    })
}

/// Refuses what a browser can be made to send from a foreign page: only `application/json` is JSON.
fn check_content_type(headers: &HeaderMap) -> Result<()> {
    let given = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if given.is_empty() {
        return Err(Failure::invalid("malformed Content-Type header (): mime: no media type"));
    }
    let media_type = given.split(';').next().unwrap_or_default().trim();
    if media_type.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(Failure::invalid(format!("unsupported Content-Type header ({given}): must be 'application/json'")))
}

/// Reads exactly one JSON document, which has one reading.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    unambiguous::check(bytes).map_err(|error| invalid_json(&error))?;
    let mut documents = serde_json::Deserializer::from_slice(bytes);
    let document = T::deserialize(&mut documents).map_err(|error| invalid_json(&error))?;
    documents.end().map_err(|_| Failure::invalid("unexpected content after JSON"))?;
    Ok(document)
}

/// Docker's form of a JSON error.
pub(crate) fn invalid_json(error: &serde_json::Error) -> Failure {
    if error.is_eof() {
        return Failure::invalid("invalid JSON: unexpected EOF");
    }
    Failure::invalid(format!("invalid JSON: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> Query {
        let uri: http::Uri = format!("http://d/?{text}").parse().unwrap();
        Query(axum::extract::Query::try_from_uri(&uri).unwrap().0)
    }

    #[test]
    fn flags_are_what_docker_takes_for_true() {
        for (text, wanted) in [
            ("x", false),
            ("x=", false),
            ("x=0", false),
            ("x=False", false),
            ("x=none", false),
            ("x=1", true),
            ("x=yes", true),
        ] {
            assert_eq!(query(text).flag("x"), wanted, "{text}");
        }
    }

    #[test]
    fn filters_come_in_two_forms() {
        let new = query("filters=%7B%22label%22%3A%5B%22a%22%2C%22b%3D1%22%5D%7D").filters().unwrap();
        let old =
            query("filters=%7B%22label%22%3A%7B%22a%22%3Atrue%2C%22b%3D1%22%3Atrue%2C%22c%22%3Afalse%7D%7D");
        assert_eq!(new, old.filters().unwrap());
        assert_eq!(new.values("label").collect::<Vec<_>>(), ["a", "b=1"]);
        for bad in ["x", "[]", "%7B%22a%22%3A1%7D", "%7B%22a%22%3A%5B1%5D%7D"] {
            assert_eq!(query(&format!("filters={bad}")).filters().unwrap_err().message, "invalid filter");
        }
    }

    #[test]
    fn times_are_unix_seconds_or_rfc_3339() {
        let time = |text: &str| query(&format!("since={text}")).time("since");
        assert_eq!(time("1.5").unwrap().unwrap().as_nanosecond(), 1_500_000_000);
        assert_eq!(time("1700000000").unwrap().unwrap().as_second(), 1_700_000_000);
        assert_eq!(time("2024-01-02T03:04:05Z").unwrap().unwrap().as_second(), 1_704_164_645);
        assert_eq!(time("0").unwrap(), None);
        assert_eq!(time("").unwrap(), None);
        assert_eq!(query("since=0").instant("since").unwrap(), Some(Timestamp::UNIX_EPOCH));
        assert_eq!(query("since=").instant("since").unwrap(), None);
        for bad in ["x", "1.x", "1.0000000001", "99999999999999999999"] {
            assert!(time(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn terminal_sizes_are_required_numbers() {
        assert_eq!(query("h=24").dimension("h", "height").unwrap(), 24);
        let message = query("h=a").dimension("h", "height").unwrap_err().message;
        assert_eq!(message, "invalid resize height \"a\": invalid syntax");
        assert!(query("h=70000").dimension("h", "height").is_err());
    }

    #[test]
    fn json_is_one_document() {
        assert_eq!(decode::<Value>(b"{\"a\":1} \n").unwrap()["a"], 1);
        let message = |bytes: &[u8]| decode::<Value>(bytes).unwrap_err().message;
        assert_eq!(message(b"{\"a\":"), "invalid JSON: unexpected EOF");
        assert_eq!(message(b"{} x"), "unexpected content after JSON");
        assert!(message(b"{x}").starts_with("invalid JSON: "));
    }

    #[test]
    fn only_json_is_json() {
        let mut headers = HeaderMap::new();
        assert!(check_content_type(&headers).is_err());
        headers.insert(header::CONTENT_TYPE, "application/json; charset=utf-8".parse().unwrap());
        assert!(check_content_type(&headers).is_ok());
        headers.insert(header::CONTENT_TYPE, "text/plain".parse().unwrap());
        assert_eq!(
            check_content_type(&headers).unwrap_err().message,
            "unsupported Content-Type header (text/plain): must be 'application/json'"
        );
    }
}
