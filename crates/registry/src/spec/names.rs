//! Repository names and tags of the specification.

use std::fmt;
use std::str::FromStr;

use wharf_model::Digest;
use wharf_model::reference::{TAG_MAX, is_path_component, is_tag};

/// A repository's name has at most this many bytes. The specification lets hosts and names share 255, so that
/// `host/name` fits everywhere; a registry does not know its own host and checks the name alone.
const NAME_MAX: usize = 255;

/// Why a string names no repository or tag.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Against the grammar of repositories.
    #[error("invalid repository name {0:?}: expected lower-case words joined by '.', '_', '__', '-' and '/'")]
    Repository(String),
    /// More than 255 bytes.
    #[error("repository name must not be more than {NAME_MAX} characters")]
    TooLong,
    /// Against the grammar of tags.
    #[error("invalid tag {0:?}: expected up to {TAG_MAX} letters, digits, '_', '.' and '-'")]
    Tag(String),
}

/// `library/alpine`: what the grammar allows, so neither `..` nor an empty component nor an escape can be in it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RepositoryName(String);

impl RepositoryName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Checks that the name also fits together with its registry's host, as clients must.
    ///
    /// # Errors
    /// [`NameError::TooLong`].
    pub fn within(self, host: &str) -> Result<Self, NameError> {
        if host.len() + 1 + self.0.len() > NAME_MAX { Err(NameError::TooLong) } else { Ok(self) }
    }
}

impl FromStr for RepositoryName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.len() > NAME_MAX {
            return Err(NameError::TooLong);
        }
        if text.split('/').all(is_path_component) {
            Ok(Self(text.to_owned()))
        } else {
            Err(NameError::Repository(text.to_owned()))
        }
    }
}

impl fmt::Display for RepositoryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A tag: `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(String);

impl Tag {
    /// The tag.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Tag {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if is_tag(text) {
            Ok(Self(text.to_owned()))
        } else {
            Err(NameError::Tag(text.chars().take(200).collect()))
        }
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The tag under which registries without a referrers API keep the referrers of a manifest.
#[must_use]
pub fn referrers_tag(subject: &Digest) -> String {
    format!("{}-{}", Digest::ALGORITHM, subject.hex())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_follow_the_grammar() {
        for good in ["a", "library/alpine", "a.b/c_d/e__f/g---h", "0/1"] {
            assert_eq!(good.parse::<RepositoryName>().unwrap().as_str(), good);
        }
        for bad in [
            "", "/", "a/", "/a", "a//b", "A", "a..b", "..", "a/../b", "a___b", "-a", "a-", "a%2fb", "a\0",
            "a b", "é",
        ] {
            assert!(bad.parse::<RepositoryName>().is_err(), "{bad:?}");
        }
        let long = "a".repeat(255);
        let name = long.parse::<RepositoryName>().unwrap();
        assert_eq!(name.within("localhost").unwrap_err(), NameError::TooLong);
        assert!(format!("{long}a").parse::<RepositoryName>().is_err());
    }

    #[test]
    fn tags_follow_the_grammar() {
        for good in ["latest", "_", "V1.0-rc_2", "sha256-0a"] {
            assert_eq!(good.parse::<Tag>().unwrap().as_str(), good);
        }
        for bad in ["", ".", "-a", "a/b", "a:b", "a\n", "é"] {
            assert!(bad.parse::<Tag>().is_err(), "{bad:?}");
        }
        assert!("t".repeat(128).parse::<Tag>().is_ok());
        assert!("t".repeat(129).parse::<Tag>().is_err());
    }

    proptest! {
        #[test]
        fn what_parses_is_safe_in_a_path(text in "\\PC{0,40}|[a-z./_-]{0,40}") {
            if let Ok(name) = text.parse::<RepositoryName>() {
                prop_assert!(!name.as_str().contains(".."));
                prop_assert!(name.as_str().split('/').all(|part| !part.is_empty() && !part.starts_with(['.', '_', '-'])));
                prop_assert!(name.as_str().bytes().all(|b| b.is_ascii_graphic() && !b"%\\?#\"'".contains(&b)));
            }
            if let Ok(tag) = text.parse::<Tag>() {
                prop_assert!(!tag.as_str().contains('/') && !tag.as_str().starts_with('.'));
            }
        }
    }
}
