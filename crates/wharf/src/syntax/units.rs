//! Sizes, numbers of CPUs and lengths of time.

use std::str::FromStr;

use super::Parsed;

/// A size in bytes, given as `512m` or `1.5GiB`; units are powers of 1024.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bytes(pub(crate) i64);

impl FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Parsed<Self> {
        let invalid = || format!("invalid size: '{text}'");
        let last = text.rfind(|c: char| c.is_ascii_digit() || c == '.' || c == ' ').ok_or_else(invalid)?;
        // The characters searched for are single bytes.
        let (number, unit) = text.split_at(last + 1);
        let number = number.strip_suffix(' ').unwrap_or(number);
        let value: f64 = number
            .parse()
            .map_err(|_| format!("strconv.ParseFloat: parsing \"{number}\": invalid syntax"))?;
        if value < 0.0 || !value.is_finite() {
            return Err(invalid());
        }
        let bad_unit = || format!("invalid suffix: '{unit}'");
        let lower = unit.to_ascii_lowercase();
        let mut letters = lower.chars();
        let scale = match letters.next() {
            None => return Ok(Self(value as i64)),
            Some('b') if lower.len() == 1 => return Ok(Self(value as i64)),
            Some(letter) => "kmgtpezy".find(letter).ok_or_else(bad_unit)?,
        };
        match letters.as_str() {
            // The exponent is at most eight.
            "" | "b" | "ib" => Ok(Self((value * 1024f64.powi(scale as i32 + 1)) as i64)),
            _ => Err(bad_unit()),
        }
    }
}

/// A size in bytes, or `-1` for no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BytesOrUnlimited(pub(crate) i64);

impl FromStr for BytesOrUnlimited {
    type Err = String;

    fn from_str(text: &str) -> Parsed<Self> {
        if text == "-1" { Ok(Self(-1)) } else { Ok(Self(text.parse::<Bytes>()?.0)) }
    }
}

/// A number of CPUs in billionths, given as `1.5`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NanoCpus(pub(crate) i64);

impl FromStr for NanoCpus {
    type Err = String;

    fn from_str(text: &str) -> Parsed<Self> {
        let failed = || format!("failed to parse {text} as a rational number");
        let (negative, digits) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let is_number = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if (whole.is_empty() && fraction.is_empty()) || !is_number(whole) || !is_number(fraction) {
            return Err(failed());
        }
        let fraction = fraction.trim_end_matches('0');
        if fraction.len() > 9 {
            return Err("value is too precise".into());
        }
        let number = |part: &str| if part.is_empty() { Some(0) } else { part.parse::<i64>().ok() };
        let nano = number(&format!("{fraction:0<9}"));
        let total = number(whole).and_then(|whole| whole.checked_mul(1_000_000_000)?.checked_add(nano?));
        total.map(|total| Self(if negative { -total } else { total })).ok_or_else(failed)
    }
}

/// A length of time in nanoseconds, given as `1m30s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Duration(pub(crate) i64);

impl FromStr for Duration {
    type Err = String;

    fn from_str(text: &str) -> Parsed<Self> {
        let invalid = || format!("time: invalid duration {text:?}");
        let (negative, mut rest) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        if rest == "0" {
            return Ok(Self(0));
        }
        if rest.is_empty() {
            return Err(invalid());
        }
        let mut total = 0f64;
        while !rest.is_empty() {
            let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
            let value: f64 = rest[..end].parse().map_err(|_| invalid())?;
            rest = &rest[end..];
            let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
            let unit = match &rest[..end] {
                "" => return Err(format!("time: missing unit in duration {text:?}")),
                "ns" => 1.0,
                "us" | "µs" | "μs" => 1e3,
                "ms" => 1e6,
                "s" => 1e9,
                "m" => 60e9,
                "h" => 3600e9,
                unit => return Err(format!("time: unknown unit {unit:?} in duration {text:?}")),
            };
            rest = &rest[end..];
            total += value * unit;
        }
        if total >= i64::MAX as f64 {
            return Err(invalid());
        }
        Ok(Self(if negative { -(total as i64) } else { total as i64 }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let good = [
            ("0", 0),
            ("10", 10),
            ("10b", 10),
            ("1k", 1024),
            ("1.5m", 1_572_864),
            ("2GiB", 2 << 30),
            ("2gb", 2 << 30),
            ("3 kB", 3072),
        ];
        for (text, bytes) in good {
            assert_eq!(text.parse::<Bytes>(), Ok(Bytes(bytes)), "{text}");
        }
        let bad = [
            ("abc", "invalid size: 'abc'"),
            ("-1", "invalid size: '-1'"),
            ("1x", "invalid suffix: 'x'"),
            ("1kk", "invalid suffix: 'kk'"),
            ("1bb", "invalid suffix: 'bb'"),
        ];
        for (text, reason) in bad {
            assert_eq!(text.parse::<Bytes>(), Err(reason.to_owned()), "{text}");
        }
        assert_eq!("-1".parse::<BytesOrUnlimited>(), Ok(BytesOrUnlimited(-1)));
    }

    #[test]
    fn cpus() {
        let good = [
            ("1", 1_000_000_000),
            (".5", 500_000_000),
            ("0.25", 250_000_000),
            ("1.000000001", 1_000_000_001),
        ];
        for (text, nano) in good {
            assert_eq!(text.parse::<NanoCpus>(), Ok(NanoCpus(nano)), "{text}");
        }
        assert_eq!("x".parse::<NanoCpus>().unwrap_err(), "failed to parse x as a rational number");
        assert_eq!("0.0000000001".parse::<NanoCpus>().unwrap_err(), "value is too precise");
    }

    #[test]
    fn durations() {
        let second = 1_000_000_000;
        let good =
            [("0", 0), ("1s", second), ("1m30s", 90 * second), ("1.5h", 5400 * second), ("-2ms", -2_000_000)];
        for (text, nanos) in good {
            assert_eq!(text.parse::<Duration>(), Ok(Duration(nanos)), "{text}");
        }
        let bad = [
            ("1", "time: missing unit in duration \"1\""),
            ("1x", "time: unknown unit \"x\" in duration \"1x\""),
            ("", "time: invalid duration \"\""),
            ("s", "time: invalid duration \"s\""),
        ];
        for (text, reason) in bad {
            assert_eq!(text.parse::<Duration>(), Err(reason.to_owned()), "{text}");
        }
    }
}
