//! `--log-driver` and `--log-opt`: how much output the spool keeps.

use wharf_model::spec::LogSpec;

use crate::{Error, Result};

/// Limits of a container's spool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SpoolLimits {
    /// Bytes per segment.
    pub(super) segment_bytes: u64,
    /// Segments kept.
    pub(super) segments: u32,
}

/// 100 MB a container.
const DEFAULT: SpoolLimits = SpoolLimits { segment_bytes: 20_000_000, segments: 5 };
/// Less than a read of the shim makes no sense as a segment.
const LEAST: u64 = 64 * 1024;

/// Options of the drivers this engine has; those that choose metadata are used when logs are read.
const OPTIONS: &[&str] = &[
    "compress",
    "env",
    "env-regex",
    "labels",
    "labels-regex",
    "max-file",
    "max-size",
    "mode",
    "max-buffer-size",
    "tag",
];

/// Reads driver and options.
pub(super) fn limits(log: &LogSpec) -> Result<SpoolLimits> {
    let driver = if log.driver.is_empty() { "json-file" } else { &log.driver };
    if !matches!(driver, "local" | "json-file" | "none") {
        return Err(Error::Invalid(format!("logger: no log driver named '{driver}' is registered")));
    }
    let mut limits = DEFAULT;
    for (name, value) in &log.options {
        if !OPTIONS.contains(&name.as_str()) {
            return Err(Error::Invalid(format!("unknown log opt '{name}' for {driver} log driver")));
        }
        let invalid = || Error::Invalid(format!("invalid value for log opt {name}: {value:?}"));
        match name.as_str() {
            "max-size" => limits.segment_bytes = size(value).ok_or_else(invalid)?.max(LEAST),
            "max-file" => {
                limits.segments = value.parse().ok().filter(|count| *count > 0).ok_or_else(invalid)?
            }
            "mode" if !matches!(value.as_str(), "blocking" | "non-blocking") => return Err(invalid()),
            _ => {}
        }
    }
    // One file has nowhere to rotate to: half of it is kept while the other half fills.
    if limits.segments == 1 {
        limits = SpoolLimits { segment_bytes: (limits.segment_bytes / 2).max(LEAST), segments: 2 };
    }
    Ok(limits)
}

/// `10m`, `512k`, `1g` or bytes; decimal units, as Docker reads this option.
fn size(text: &str) -> Option<u64> {
    let text = text.trim().to_ascii_lowercase();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match &text[digits.len()..] {
        "" | "b" => 1,
        "k" | "kb" => 1000,
        "m" | "mb" => 1_000_000,
        "g" | "gb" => 1_000_000_000,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(factor).filter(|size| *size > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_bound_the_spool() {
        let with = |name: &str, value: &str| {
            limits(&LogSpec {
                driver: "json-file".into(),
                options: [(name.to_owned(), value.to_owned())].into(),
            })
        };
        assert_eq!(with("max-size", "10m").unwrap().segment_bytes, 10_000_000);
        assert_eq!(with("max-file", "3").unwrap().segments, 3);
        assert_eq!(with("max-file", "1").unwrap().segments, 2);
        assert_eq!(with("max-size", "1").unwrap().segment_bytes, LEAST);
        for (name, value) in [
            ("max-size", "ten"),
            ("max-size", "99999999999g"),
            ("max-file", "0"),
            ("bogus", "1"),
            ("mode", "x"),
        ] {
            assert!(with(name, value).is_err(), "{name}={value}");
        }
        assert!(limits(&LogSpec { driver: "syslogx".into(), options: Default::default() }).is_err());
    }
}
