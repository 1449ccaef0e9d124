//! The paths of the specification. A repository's name has slashes, so paths are read from their end.
//!
//! Nothing of a path is used before it has met its grammar (RS-05): each segment is percent-decoded once, an encoded slash
//! never separates, and names, tags, digests and upload ids become types that cannot hold anything else.

use wharf_model::Digest;
use wharf_registry::spec::{RepositoryName, Tag};

use crate::error::{Error, Result};
use crate::repository::Target;
use crate::storage::UploadId;

/// Longer paths are refused unread: a name has 255 bytes, each of which may be encoded as three.
const MAX_PATH: usize = 2048;

/// What a path names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    Base,
    Catalog,
    In(RepositoryName, Part),
}

/// A part of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    Blob(Digest),
    Uploads,
    Upload(UploadId),
    Manifest(Target),
    Tags,
    Referrers(Digest),
}

pub(super) fn parse(path: &str) -> Result<Place> {
    let unknown = || Error::NoEndpoint(path.chars().take(100).collect());
    let rest = path.strip_prefix("/v2").ok_or_else(unknown)?;
    if path.len() > MAX_PATH {
        return Err(Error::NameInvalid("the path is too long".to_owned()));
    }
    let rest = match rest.strip_prefix('/') {
        None if rest.is_empty() => return Ok(Place::Base),
        None => return Err(unknown()),
        Some(rest) => rest,
    };
    let segments = rest.split('/').map(decode).collect::<Option<Vec<_>>>();
    let segments = segments.ok_or_else(|| Error::NameInvalid("the path is malformed".to_owned()))?;
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    match segments.as_slice() {
        [""] => Ok(Place::Base),
        ["_catalog"] => Ok(Place::Catalog),
        [name @ .., "tags", "list"] => within(name, Part::Tags),
        [name @ .., "blobs", "uploads", ""] | [name @ .., "blobs", "uploads"] => within(name, Part::Uploads),
        [name @ .., "blobs", "uploads", id] => {
            let id = UploadId::parse(id).ok_or_else(|| Error::UploadUnknown(excerpt(id)))?;
            within(name, Part::Upload(id))
        }
        [name @ .., "blobs", hash] => within(name, Part::Blob(digest(hash)?)),
        [name @ .., "referrers", hash] => within(name, Part::Referrers(digest(hash)?)),
        [name @ .., "manifests", reference] => within(name, Part::Manifest(target(reference)?)),
        _ => Err(unknown()),
    }
}

fn within(name: &[&str], part: Part) -> Result<Place> {
    Ok(Place::In(repository(&name.join("/"))?, part))
}

pub(super) fn repository(name: &str) -> Result<RepositoryName> {
    name.parse().map_err(|_| Error::NameInvalid(format!("invalid repository name: {:?}", excerpt(name))))
}

pub(super) fn digest(text: &str) -> Result<Digest> {
    text.parse::<Digest>().map_err(|error| Error::DigestInvalid(error.to_string()))
}

fn target(reference: &str) -> Result<Target> {
    if reference.contains(':') {
        return Ok(Target::Digest(digest(reference)?));
    }
    // Nothing can be stored under such a name, so nothing is there.
    reference.parse::<Tag>().map(Target::Tag).map_err(|_| Error::ManifestUnknown(excerpt(reference)))
}

fn excerpt(text: &str) -> String {
    text.chars().take(80).collect()
}

/// One segment, decoded once. What would be a separator, a control character or no text is malformed.
fn decode(segment: &str) -> Option<String> {
    let mut bytes = segment.bytes();
    let mut decoded = String::with_capacity(segment.len());
    while let Some(byte) = bytes.next() {
        let byte = match byte {
            b'%' => hex(bytes.next()?)? << 4 | hex(bytes.next()?)?,
            byte => byte,
        };
        if !byte.is_ascii_graphic() || byte == b'/' || byte == b'%' || byte == b'\\' {
            return None;
        }
        decoded.push(char::from(byte));
    }
    Some(decoded)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use wharf_testkit::random::Random;

    use super::*;

    const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn paths_are_read_from_their_end() {
        let hex = &DIGEST[7..];
        for (path, name, part) in [
            ("/v2/a/tags/list".to_owned(), "a", Part::Tags),
            ("/v2/tags/list/tags/list".to_owned(), "tags/list", Part::Tags),
            ("/v2/a/blobs/uploads/".to_owned(), "a", Part::Uploads),
            ("/v2/a/blobs/uploads".to_owned(), "a", Part::Uploads),
            (
                "/v2/a/b/c/manifests/latest".to_owned(),
                "a/b/c",
                Part::Manifest(Target::Tag("latest".parse().unwrap())),
            ),
            (format!("/v2/a/blobs/uploads/{hex}"), "a", Part::Upload(UploadId::parse(hex).unwrap())),
            (
                format!("/v2/blobs/uploads/blobs/{DIGEST}"),
                "blobs/uploads",
                Part::Blob(DIGEST.parse().unwrap()),
            ),
            (format!("/v2/a/blobs/sha256%3A{hex}"), "a", Part::Blob(DIGEST.parse().unwrap())),
            (format!("/v2/a/referrers/{DIGEST}"), "a", Part::Referrers(DIGEST.parse().unwrap())),
        ] {
            assert_eq!(parse(&path).unwrap(), Place::In(name.parse().unwrap(), part), "{path}");
        }
        assert_eq!(parse("/v2/").unwrap(), Place::Base);
        assert_eq!(parse("/v2").unwrap(), Place::Base);
        assert_eq!(parse("/v2/_catalog").unwrap(), Place::Catalog);
    }

    #[test]
    fn rs_05_nothing_against_the_grammar_is_a_place() {
        let hex = &DIGEST[7..];
        for path in [
            "/v1/a/tags/list",
            "/v2a",
            "/v2/a",
            "/v2//tags/list",
            "/v2/../tags/list",
            "/v2/a/../b/tags/list",
            "/v2/%2e%2e/tags/list",
            "/v2/a/%2E%2E/b/tags/list",
            "/v2/a%2fb/tags/list",
            "/v2/a%5cb/tags/list",
            "/v2/a%00/tags/list",
            "/v2/a%/tags/list",
            "/v2/a%2/tags/list",
            "/v2/a%zz/tags/list",
            "/v2/a%252fb/tags/list",
            "/v2/A/tags/list",
            "/v2/_/tags/list",
            "/v2/a/_/b/tags/list",
            "/v2/%c3%a4/tags/list",
            "/v2/a/manifests/",
            "/v2/a/manifests/..",
            "/v2/a/manifests/.x",
            "/v2/a/manifests/a%00b",
            "/v2/a/manifests/sha256:..%2f..%2fx",
            "/v2/a/blobs/sha256:../../x",
            "/v2/a/blobs/uploads/../../x",
            "/v2/a/blobs/uploads/..",
            "/v2/a/blobs/uploads/1",
        ] {
            assert!(parse(path).is_err(), "{path}");
        }
        for path in [
            format!("/v2/a/blobs/SHA256:{hex}"),
            format!("/v2/a/blobs/sha256:{}", hex.to_uppercase()),
            format!("/v2/a/blobs/sha512:{hex}{hex}"),
            format!("/v2/a/blobs/{hex}"),
            format!("/v2/a/blobs/uploads/{DIGEST}"),
            format!("/v2/a/blobs/uploads/{}", hex.to_uppercase()),
            format!("/v2/{}/tags/list", "a".repeat(256)),
            format!("/v2/{}tags/list", "a/".repeat(4000)),
        ] {
            assert!(parse(&path).is_err(), "{path}");
        }
    }

    /// Whatever is accepted consists of harmless characters and names what it says.
    #[test]
    fn rs_05_random_paths_never_yield_a_traversal() {
        let mut random = Random::from_env("WHARF_TEST_SEED");
        let words = [
            "v2",
            "a",
            "b-c",
            "..",
            ".",
            "",
            "%2e",
            "%2e%2e",
            "%2f",
            "%00",
            "%25",
            "_catalog",
            "tags",
            "list",
            "blobs",
            "uploads",
            "manifests",
            "referrers",
            "latest",
            DIGEST,
            &DIGEST[7..],
            "sha256:",
            "\\",
            "a\0b",
            "ä",
            "%c0%af",
            "+",
            " ",
            "_",
        ];
        for _ in 0..100_000 {
            let mut path = "/v2".to_owned();
            for _ in 0..random.between(1, 7) {
                path.push(if random.one_in(12) { '%' } else { '/' });
                path.push_str(words[usize::try_from(random.between(0, words.len() as u64)).unwrap()]);
            }
            let Ok(Place::In(name, part)) = parse(&path) else { continue };
            let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-/".contains(&b);
            assert!(name.as_str().bytes().all(plain), "{path:?}");
            assert!(
                name.as_str().split('/').all(|part| !part.is_empty() && !part.starts_with('.')),
                "{path:?}"
            );
            if let Part::Manifest(Target::Tag(tag)) = part {
                assert!(
                    !tag.as_str().contains(['/', '\0', '%', '\\']) && !tag.as_str().starts_with('.'),
                    "{path:?}"
                );
            }
        }
    }
}
