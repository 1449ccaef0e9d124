//! Versions of the API: what a path may ask for and what an engine offers.
//!
//! A request names its version in the path (`/v1.44/info`) or takes the newest. Everything that differs between
//! versions is decided by comparing two [`ApiVersion`] values; no other module parses them.

use std::fmt;
use std::str::FromStr;

/// A version of the API, e.g. `1.51`. Ordered as one expects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ApiVersion {
    major: u16,
    minor: u16,
}

impl ApiVersion {
    /// The oldest version that is served.
    pub const MIN: Self = Self::new(24);
    /// The newest version that is served: that of Docker 28.5.
    pub const MAX: Self = Self::new(51);

    /// Version `1.minor`.
    #[must_use]
    pub const fn new(minor: u16) -> Self {
        Self { major: 1, minor }
    }

    /// Checks that an engine that serves [`Self::MIN`] to [`Self::MAX`] can serve this version.
    ///
    /// # Errors
    /// [`UnsupportedVersion`] in the words that clients parse to find a version both sides know.
    pub fn check(self) -> Result<Self, UnsupportedVersion> {
        if self > Self::MAX {
            return Err(UnsupportedVersion::TooNew(self));
        }
        if self < Self::MIN {
            return Err(UnsupportedVersion::TooOld(self));
        }
        Ok(self)
    }
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl FromStr for ApiVersion {
    type Err = InvalidVersion;

    fn from_str(text: &str) -> Result<Self, InvalidVersion> {
        let number = |part: &str| {
            let digits = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
            if digits { part.parse::<u16>().ok() } else { None }
        };
        text.split_once('.')
            .and_then(|(major, minor)| Some(Self { major: number(major)?, minor: number(minor)? }))
            .ok_or_else(|| InvalidVersion(text.chars().take(32).collect()))
    }
}

/// A string that is not a version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid API version: {0:?}")]
pub struct InvalidVersion(String);

/// A version outside what is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnsupportedVersion {
    /// Newer than [`ApiVersion::MAX`].
    #[error("client version {0} is too new. Maximum supported API version is {max}", max = ApiVersion::MAX)]
    TooNew(ApiVersion),
    /// Older than [`ApiVersion::MIN`].
    #[error(
        "client version {0} is too old. Minimum supported API version is {min}, \
         please upgrade your client to a newer version",
        min = ApiVersion::MIN
    )]
    TooOld(ApiVersion),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_numbers_not_text() {
        let parse = |text: &str| text.parse::<ApiVersion>().unwrap();
        assert!(parse("1.9") < parse("1.24"));
        assert!(parse("2.0") > parse("1.51"));
        assert_eq!(parse("1.51").to_string(), "1.51");
        for bad in ["", "1", "1.", ".5", "1.5.1", "1.+5", "v1.5", "1.99999", "1. 5"] {
            assert!(bad.parse::<ApiVersion>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn versions_outside_the_range_are_refused_in_dockers_words() {
        assert_eq!(ApiVersion::new(44).check(), Ok(ApiVersion::new(44)));
        assert_eq!(
            ApiVersion::new(99).check().unwrap_err().to_string(),
            "client version 1.99 is too new. Maximum supported API version is 1.51"
        );
        assert_eq!(
            ApiVersion::new(20).check().unwrap_err().to_string(),
            "client version 1.20 is too old. Minimum supported API version is 1.24, \
             please upgrade your client to a newer version"
        );
    }
}
