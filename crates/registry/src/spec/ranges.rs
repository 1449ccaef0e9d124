//! The three shapes of byte ranges: `Range: bytes=1-2` of a download, `Content-Range` of its answer, and the bare `1-2`
//! of uploads (`Range` of an upload's status, `Content-Range` of a chunk). Ends are inclusive on the wire and here.

use std::fmt;
use std::str::FromStr;

/// Why a header is no range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed byte range")]
pub struct RangeError;

/// `first-last`, both included; `last` is never before `first`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteRange {
    /// The first byte.
    pub first: u64,
    /// The last byte, included.
    pub last: u64,
}

impl ByteRange {
    /// How many bytes.
    #[must_use]
    pub fn len(self) -> u64 {
        (self.last - self.first).saturating_add(1)
    }

    /// Never: a range holds at least one byte.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        false
    }

    /// The bare form of uploads: `0-1023`. What is empty cannot be said; registries say `0-0` then.
    #[must_use]
    pub fn of_upload(received: u64) -> Self {
        Self { first: 0, last: received.saturating_sub(1) }
    }
}

/// `0-1023`; also with the unit that some registries prefix.
impl FromStr for ByteRange {
    type Err = RangeError;

    fn from_str(text: &str) -> Result<Self, RangeError> {
        let text = text.trim();
        let text = text.strip_prefix("bytes=").unwrap_or(text);
        let (first, last) = text.split_once('-').ok_or(RangeError)?;
        let range = Self { first: number(first)?, last: number(last)? };
        if range.last < range.first { Err(RangeError) } else { Ok(range) }
    }
}

impl fmt::Display for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

/// One range of a `Range` header, before the size is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Requested {
    /// `bytes=5-9`.
    Exact(ByteRange),
    /// `bytes=5-`.
    From(u64),
    /// `bytes=-5`: the last five.
    Suffix(u64),
}

impl Requested {
    /// What that is of content of `size` bytes; `None` means that it cannot be satisfied (416).
    #[must_use]
    pub fn resolve(self, size: u64) -> Option<ByteRange> {
        let end = size.checked_sub(1)?;
        let range = match self {
            Self::Exact(range) => ByteRange { first: range.first, last: range.last.min(end) },
            Self::From(first) => ByteRange { first, last: end },
            Self::Suffix(0) => return None,
            Self::Suffix(count) => ByteRange { first: size.saturating_sub(count), last: end },
        };
        (range.first <= end).then_some(range)
    }
}

/// One range of bytes. Several ranges and other units are [`RangeError`]s, on which a server ignores the header.
impl FromStr for Requested {
    type Err = RangeError;

    fn from_str(text: &str) -> Result<Self, RangeError> {
        let text = text.trim().strip_prefix("bytes=").ok_or(RangeError)?;
        match text.split_once('-').ok_or(RangeError)? {
            ("", count) => Ok(Self::Suffix(number(count)?)),
            (first, "") => Ok(Self::From(number(first)?)),
            _ => Ok(Self::Exact(text.parse()?)),
        }
    }
}

impl fmt::Display for Requested {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(range) => write!(f, "bytes={range}"),
            Self::From(first) => write!(f, "bytes={first}-"),
            Self::Suffix(count) => write!(f, "bytes=-{count}"),
        }
    }
}

/// The `Content-Range` of an answer: `bytes 0-99/200`, `bytes 0-99/*`, or `bytes */200` with a 416.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContentRange {
    /// What is sent; `None` when nothing could be.
    pub range: Option<ByteRange>,
    /// The size of the whole, where it is said.
    pub total: Option<u64>,
}

impl FromStr for ContentRange {
    type Err = RangeError;

    fn from_str(text: &str) -> Result<Self, RangeError> {
        let text = text.trim().strip_prefix("bytes ").ok_or(RangeError)?;
        let (range, total) = text.trim().split_once('/').ok_or(RangeError)?;
        let range = if range == "*" { None } else { Some(range.parse::<ByteRange>()?) };
        let total = if total == "*" { None } else { Some(number(total)?) };
        let fits = match (range, total) {
            (Some(range), Some(total)) => range.last < total,
            (range, total) => range.is_some() || total.is_some(),
        };
        if fits { Ok(Self { range, total }) } else { Err(RangeError) }
    }
}

impl fmt::Display for ContentRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("bytes ")?;
        match self.range {
            Some(range) => write!(f, "{range}/")?,
            None => f.write_str("*/")?,
        }
        match self.total {
            Some(total) => write!(f, "{total}"),
            None => f.write_str("*"),
        }
    }
}

/// Decimal digits and nothing else: no sign, no space, no overflow.
fn number(text: &str) -> Result<u64, RangeError> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(RangeError);
    }
    text.parse().map_err(|_| RangeError)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn requested_ranges_resolve_against_the_size() {
        for (text, size, wanted) in [
            ("bytes=0-99", 200, Some((0, 99))),
            ("bytes=0-999", 200, Some((0, 199))),
            ("bytes=199-", 200, Some((199, 199))),
            ("bytes=200-", 200, None),
            ("bytes=-5", 200, Some((195, 199))),
            ("bytes=-500", 200, Some((0, 199))),
            ("bytes=-0", 200, None),
            ("bytes=0-", 0, None),
        ] {
            let range = text.parse::<Requested>().unwrap().resolve(size);
            assert_eq!(range.map(|range| (range.first, range.last)), wanted, "{text}");
        }
    }

    #[test]
    fn malformed_ranges_are_refused() {
        for text in [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=2-1",
            "bytes=0-1,3-4",
            "lines=0-1",
            "bytes=+1-2",
            "bytes=0x1-2",
            "bytes=99999999999999999999-",
            "0-1",
        ] {
            assert!(text.parse::<Requested>().is_err(), "{text}");
        }
        for text in [
            "",
            "bytes 0-99",
            "bytes 0-99/99",
            "bytes 5-4/9",
            "bytes */*",
            "bytes=0-1/2",
            "0-1/2",
            "bytes 0-1/-2",
        ] {
            assert!(text.parse::<ContentRange>().is_err(), "{text}");
        }
        assert!("5".parse::<ByteRange>().is_err());
        assert_eq!("bytes=0-7".parse::<ByteRange>().unwrap().len(), 8);
    }

    proptest! {
        #[test]
        fn ranges_read_back_as_written(first in 0_u64..1 << 40, more in 0_u64..1 << 40, rest in 1_u64..1 << 40) {
            let range = ByteRange { first, last: first + more };
            prop_assert_eq!(range.to_string().parse(), Ok(range));
            let whole = ContentRange { range: Some(range), total: Some(first + more + rest) };
            prop_assert_eq!(whole.to_string().parse(), Ok(whole));
            for requested in [Requested::Exact(range), Requested::From(first), Requested::Suffix(more)] {
                prop_assert_eq!(requested.to_string().parse(), Ok(requested));
            }
        }

        #[test]
        fn any_header_is_read_without_panic(text in "\\PC{0,60}|(bytes[= ])?[0-9*/,-]{0,60}") {
            let _ = text.parse::<ByteRange>();
            let _ = text.parse::<ContentRange>();
            if let Ok(requested) = text.parse::<Requested>() {
                let _ = requested.resolve(100);
            }
        }
    }
}
