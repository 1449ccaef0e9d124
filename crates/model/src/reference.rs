//! Image references: `[domain/]path[:tag][@digest]`, with Docker's rules for short names.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::digest::{Digest, DigestError};

/// The registry that a name without a domain belongs to.
pub const DEFAULT_DOMAIN: &str = "docker.io";
/// The tag that a name without tag and digest means.
pub const DEFAULT_TAG: &str = "latest";

/// Docker's other spelling of its own registry.
const LEGACY_DOMAIN: &str = "index.docker.io";
/// The namespace of one-word names on the default registry.
const OFFICIAL: &str = "library/";
const NAME_MAX: usize = 255;
/// Bytes of a tag at most.
pub const TAG_MAX: usize = 128;

/// A normalised image reference: the domain is always present, and one-word names of the default registry carry
/// `library/`. Every part has been checked against the grammar, so none can hold `..`, an empty component, white
/// space or a control character.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a string is no image reference. The texts are Docker's, which scripts compare.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// The string does not follow the grammar.
    #[error("invalid reference format")]
    Format,
    /// The repository part has upper-case letters.
    #[error("invalid reference format: repository name ({0}) must be lowercase")]
    Uppercase(String),
    /// The repository is longer than 255 characters.
    #[error("repository name must not be more than {NAME_MAX} characters")]
    TooLong,
    /// 64 hexadecimal digits are an image id, never a name.
    #[error("invalid repository name ({0}), cannot specify 64-byte hexadecimal strings")]
    LooksLikeId(String),
    /// The tag does not follow the grammar.
    #[error("invalid tag format")]
    Tag,
    /// What follows `@` is no digest.
    #[error(transparent)]
    Digest(#[from] DigestError),
}

fn looks_like_id(text: &str) -> bool {
    text.len() == 64 && Digest::from_hex(text).is_ok()
}

impl Reference {
    /// Reads what a user typed: `alpine`, `me/app:1`, `localhost:5000/x@sha256:…`.
    pub fn parse_normalized(text: &str) -> Result<Self, ReferenceError> {
        if looks_like_id(text) {
            return Err(ReferenceError::LooksLikeId(text.to_owned()));
        }
        let (domain, remainder) = split_domain(text);
        let repository = remainder.split(':').next().unwrap_or_default();
        if repository.chars().any(char::is_uppercase) {
            return Err(ReferenceError::Uppercase(repository.to_owned()));
        }

        let (name, digest) = match remainder.split_once('@') {
            Some((name, digest)) => (name, Some(parse_digest(digest)?)),
            None => (remainder.as_str(), None),
        };
        let (path, tag) = match name.split_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (name, None),
        };
        if !is_domain(domain) || !path.split('/').all(is_path_component) || !tag.is_none_or(is_tag) {
            return Err(ReferenceError::Format);
        }
        if path.len() > NAME_MAX || domain.len() > NAME_MAX {
            return Err(ReferenceError::TooLong);
        }
        Ok(Self { domain: domain.to_owned(), path: path.to_owned(), tag: tag.map(str::to_owned), digest })
    }

    /// The registry: `docker.io`, `localhost:5000`.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository within the registry: `library/alpine`.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tag, where one was given.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, where one was given.
    #[must_use]
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Registry and repository without tag and digest: `docker.io/library/alpine`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// The repository as Docker shows it: `alpine`, `me/app`, `localhost:5000/x`.
    #[must_use]
    pub fn familiar_name(&self) -> String {
        if self.domain != DEFAULT_DOMAIN {
            return self.name();
        }
        match (self.path.strip_prefix(OFFICIAL), self.path.split_once('/')) {
            // What looks like an id is read as one: it keeps its directory.
            (Some(word), _) if !word.contains('/') && !looks_like_id(word) => word.to_owned(),
            // Without the registry its first part would be taken for one.
            (_, Some((first, _))) if reads_as_domain(first) => self.name(),
            _ => self.path.clone(),
        }
    }

    /// The whole reference as Docker shows it: `alpine:3`, `me/app@sha256:…`.
    #[must_use]
    pub fn familiar(&self) -> String {
        let mut text = self.familiar_name();
        self.push_suffix(&mut text);
        text
    }

    /// This reference with the tag `latest`, unless it has a tag or a digest.
    #[must_use]
    pub fn or_latest(mut self) -> Self {
        if self.tag.is_none() && self.digest.is_none() {
            self.tag = Some(DEFAULT_TAG.to_owned());
        }
        self
    }

    /// The same repository with another tag and no digest.
    pub fn with_tag(&self, tag: &str) -> Result<Self, ReferenceError> {
        if !is_tag(tag) {
            return Err(ReferenceError::Tag);
        }
        Ok(Self {
            domain: self.domain.clone(),
            path: self.path.clone(),
            tag: Some(tag.to_owned()),
            digest: None,
        })
    }

    /// The same repository with a digest and no tag.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self { domain: self.domain.clone(), path: self.path.clone(), tag: None, digest: Some(digest) }
    }

    fn push_suffix(&self, text: &mut String) {
        if let Some(tag) = &self.tag {
            text.push(':');
            text.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            text.push('@');
            text.push_str(&digest.to_string());
        }
    }
}

/// The first component is a registry only if it cannot be a namespace: it has a dot or a port, is `localhost`, or has
/// upper case.
fn reads_as_domain(first: &str) -> bool {
    first.contains(['.', ':']) || first == "localhost" || first.chars().any(char::is_uppercase)
}

/// Splits off the registry.
fn split_domain(text: &str) -> (&str, String) {
    let Some((first, rest)) = text.split_once('/') else {
        return (DEFAULT_DOMAIN, format!("{OFFICIAL}{text}"));
    };
    let (domain, rest) = match reads_as_domain(first) {
        true if first == LEGACY_DOMAIN => (DEFAULT_DOMAIN, rest),
        true => (first, rest),
        false => (DEFAULT_DOMAIN, text),
    };
    if domain == DEFAULT_DOMAIN && !rest.contains('/') {
        (domain, format!("{OFFICIAL}{rest}"))
    } else {
        (domain, rest.to_owned())
    }
}

/// A digest in a reference; text that is not even shaped like one makes the whole reference malformed, as in Docker.
fn parse_digest(text: &str) -> Result<Digest, ReferenceError> {
    text.parse().map_err(|error| match error {
        DigestError::Format(_) => ReferenceError::Format,
        DigestError::Length(_) => {
            let hex = text.split_once(':').map_or("", |(_, hex)| hex);
            if hex.len() >= 32 && hex.bytes().all(|b| b.is_ascii_hexdigit()) {
                ReferenceError::Digest(error)
            } else {
                ReferenceError::Format
            }
        }
        DigestError::Algorithm(_) => ReferenceError::Digest(error),
    })
}

/// `host`, `host:port`, `[ipv6]:port`.
fn is_domain(domain: &str) -> bool {
    let (host, port) = match domain.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) => {
            let plain = address.bytes().all(|b| b.is_ascii_hexdigit() || b == b':');
            if address.is_empty() || !plain {
                return false;
            }
            (None, port.strip_prefix(':').or(if port.is_empty() { None } else { Some("") }))
        }
        None => match domain.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(domain), None),
        },
    };
    host.is_none_or(|host| host.split('.').all(is_domain_component))
        && port.is_none_or(|port| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()))
}

/// Letters, digits and inner hyphens.
fn is_domain_component(part: &str) -> bool {
    !part.is_empty()
        && !part.starts_with('-')
        && !part.ends_with('-')
        && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

/// Lower-case letters and digits, in runs joined by `.`, `_`, `__` or any number of hyphens: one part of a repository's
/// name, `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`.
#[must_use]
pub fn is_path_component(part: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = part.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    is_word(*first)
        && is_word(*last)
        && bytes.split(|b| is_word(*b)).all(|separator| match separator {
            b"" | b"." | b"_" | b"__" => true,
            other => other.iter().all(|b| *b == b'-'),
        })
}

/// One word character, then up to 127 word characters, dots and hyphens.
#[must_use]
pub fn is_tag(tag: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    tag.len() <= TAG_MAX
        && tag.bytes().next().is_some_and(is_word)
        && tag.bytes().all(|b| is_word(b) || b == b'.' || b == b'-')
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        Self::parse_normalized(text)
    }
}

/// The normalised form: `docker.io/library/alpine:latest`.
impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = self.name();
        self.push_suffix(&mut text);
        f.write_str(&text)
    }
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Reference {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn short_names_expand_and_shorten_as_docker_does() {
        for (typed, full, familiar) in [
            ("alpine", "docker.io/library/alpine", "alpine"),
            ("alpine:3", "docker.io/library/alpine:3", "alpine:3"),
            ("library/alpine", "docker.io/library/alpine", "alpine"),
            ("docker.io/alpine", "docker.io/library/alpine", "alpine"),
            ("index.docker.io/me/app", "docker.io/me/app", "me/app"),
            ("me/app:V1.0-rc_2", "docker.io/me/app:V1.0-rc_2", "me/app:V1.0-rc_2"),
            ("localhost/x", "localhost/x", "localhost/x"),
            ("localhost:5000/x:y", "localhost:5000/x:y", "localhost:5000/x:y"),
            ("LOCAL/x", "LOCAL/x", "LOCAL/x"),
            ("[::1]:5000/a/b/c", "[::1]:5000/a/b/c", "[::1]:5000/a/b/c"),
            ("quay.io/a__b/c---d", "quay.io/a__b/c---d", "quay.io/a__b/c---d"),
            ("docker.io/library/a/b", "docker.io/library/a/b", "library/a/b"),
            ("docker.io/a.b/c", "docker.io/a.b/c", "docker.io/a.b/c"),
            ("docker.io/localhost/c", "docker.io/localhost/c", "docker.io/localhost/c"),
        ] {
            let reference = Reference::parse_normalized(typed).unwrap();
            assert_eq!(reference.to_string(), full, "{typed}");
            assert_eq!(reference.familiar(), familiar, "{typed}");
        }
    }

    #[test]
    fn tags_and_digests_are_told_apart() {
        let reference = Reference::parse_normalized(&format!("localhost:5000/x:t@{DIGEST}")).unwrap();
        assert_eq!(reference.tag(), Some("t"));
        assert_eq!(reference.digest().unwrap().to_string(), DIGEST);
        assert_eq!(reference.clone().or_latest(), reference);
        assert_eq!(Reference::parse_normalized("x").unwrap().or_latest().tag(), Some("latest"));
        assert_eq!(reference.with_tag("u").unwrap().familiar(), "localhost:5000/x:u");
        assert_eq!(reference.with_tag(".u").unwrap_err(), ReferenceError::Tag);
    }

    #[test]
    fn malformed_names_have_dockers_words() {
        for (typed, message) in [
            ("", "invalid reference format"),
            (" ", "invalid reference format"),
            ("a b", "invalid reference format"),
            ("-a", "invalid reference format"),
            ("a//b", "invalid reference format"),
            ("../../x", "invalid reference format"),
            ("a/../b", "invalid reference format"),
            ("a___b", "invalid reference format"),
            ("a:", "invalid reference format"),
            ("a:b:c", "invalid reference format"),
            ("a@b", "invalid reference format"),
            ("a@sha256:abc", "invalid reference format"),
            ("a:.b", "invalid reference format"),
            ("localhost:x/y", "invalid reference format"),
            ("[zz]/y", "invalid reference format"),
            ("[::1]x/y", "invalid reference format"),
            ("Alpine", "invalid reference format: repository name (library/Alpine) must be lowercase"),
            ("me/App:x", "invalid reference format: repository name (me/App) must be lowercase"),
        ] {
            assert_eq!(Reference::parse_normalized(typed).unwrap_err().to_string(), message, "{typed:?}");
        }
        let id = &DIGEST[7..];
        assert_eq!(Reference::parse_normalized(id).unwrap_err(), ReferenceError::LooksLikeId(id.to_owned()));
        // And no name is shown as an id.
        let named = Reference::parse_normalized(&format!("docker.io/{id}")).unwrap();
        assert_eq!(named.familiar_name(), format!("library/{id}"));
        assert_eq!(Reference::parse_normalized(&named.familiar_name()).unwrap(), named);
        assert_eq!(
            Reference::parse_normalized(&format!("x/{}", "a".repeat(255))).unwrap_err(),
            ReferenceError::TooLong
        );
        assert!(Reference::parse_normalized(&format!("a:{}", "t".repeat(128))).is_ok());
        assert!(Reference::parse_normalized(&format!("a:{}", "t".repeat(129))).is_err());
    }
}
