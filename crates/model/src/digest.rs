//! Content digests.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The digest of some bytes: `sha256:` and 64 lower-case hexadecimal digits.
///
/// Held as the 32 raw bytes, so a `Digest` can never carry a path separator, upper case or a wrong length; what
/// [`fmt::Display`] writes is always safe as a file name component after [`Digest::hex`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

/// Why a string is no digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// Not `algorithm:hex`.
    #[error("invalid checksum digest format: {0:?} (expected sha256:<64 hexadecimal digits>)")]
    Format(String),
    /// A well-formed digest of an algorithm other than sha256.
    #[error("unsupported digest algorithm: {0:?} (only sha256 is supported)")]
    Algorithm(String),
    /// Not 64 digits.
    #[error("invalid checksum digest length: {0:?} (sha256 has 64 hexadecimal digits)")]
    Length(String),
}

impl Digest {
    /// The algorithm of every digest here.
    pub const ALGORITHM: &'static str = "sha256";

    /// From the 32 bytes a SHA-256 computation gave.
    #[must_use]
    pub const fn from_sha256(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The raw 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// From exactly 64 lower-case hexadecimal digits without the algorithm, as Docker's image ids often are.
    pub fn from_hex(hex: &str) -> Result<Self, DigestError> {
        if hex.len() != 64 {
            return Err(DigestError::Length(excerpt(hex)));
        }
        let mut bytes = [0_u8; 32];
        for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
            match (nibble(pair[0]), nibble(pair[1])) {
                (Some(high), Some(low)) => *byte = high << 4 | low,
                _ => return Err(DigestError::Format(excerpt(hex))),
            }
        }
        Ok(Self(bytes))
    }

    /// The 64 hexadecimal digits.
    #[must_use]
    pub fn hex(&self) -> String {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut hex = String::with_capacity(64);
        for byte in self.0 {
            hex.push(char::from(DIGITS[usize::from(byte >> 4)]));
            hex.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
        hex
    }

    /// The first twelve digits, as lists show ids.
    #[must_use]
    pub fn short(&self) -> String {
        let mut hex = self.hex();
        hex.truncate(12);
        hex
    }
}

/// The value of one lower-case hexadecimal digit.
const fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

/// The start of a foreign string, short enough for a message.
fn excerpt(text: &str) -> String {
    text.chars().take(80).collect()
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let Some((algorithm, hex)) = text.split_once(':') else {
            return Err(DigestError::Format(excerpt(text)));
        };
        if algorithm != Self::ALGORITHM {
            let named = algorithm.bytes().all(|b| b.is_ascii_alphanumeric() || b"+._-".contains(&b));
            return Err(if named && !algorithm.is_empty() {
                DigestError::Algorithm(excerpt(algorithm))
            } else {
                DigestError::Format(excerpt(text))
            });
        }
        Self::from_hex(hex).map_err(|error| match error {
            DigestError::Length(_) => DigestError::Length(excerpt(text)),
            _ => DigestError::Format(excerpt(text)),
        })
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", Self::ALGORITHM, self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn a_digest_reads_back_as_written() {
        let digest: Digest = format!("sha256:{HEX}").parse().unwrap();
        assert_eq!(digest.hex(), HEX);
        assert_eq!(digest.short(), &HEX[..12]);
        assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
        let json = serde_json::to_string(&digest).unwrap();
        assert_eq!(serde_json::from_str::<Digest>(&json).unwrap(), digest);
    }

    #[test]
    fn anything_but_strict_sha256_is_refused() {
        for (text, wanted) in [
            (String::new(), "format"),
            (HEX.to_owned(), "format"),
            (format!("SHA256:{HEX}"), "algorithm"),
            (format!("sha512:{HEX}{HEX}"), "algorithm"),
            (format!("sha256:{}", HEX.to_uppercase()), "format"),
            (format!("sha256:{}", &HEX[1..]), "length"),
            (format!("sha256:{HEX}0"), "length"),
            (format!("sha256: {}", &HEX[1..]), "format"),
            ("sha256:../../x".to_owned(), "length"),
            (format!("sha256:../{}", &HEX[3..]), "format"),
            (format!("/sha256:{HEX}"), "format"),
        ] {
            let got = match text.parse::<Digest>().unwrap_err() {
                DigestError::Format(_) => "format",
                DigestError::Algorithm(_) => "algorithm",
                DigestError::Length(_) => "length",
            };
            assert_eq!(got, wanted, "{text}");
        }
    }
}
