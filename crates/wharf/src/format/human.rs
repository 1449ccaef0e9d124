//! Sizes, durations and moments as people read them, in Docker's spelling.

use jiff::{Timestamp, tz::TimeZone};

/// A size in powers of 1000 with three significant digits: `1.98MB`.
pub(crate) fn size(bytes: f64) -> String {
    scaled(bytes, 1000.0, &["B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"], 3)
}

/// A size in powers of 1000 with four significant digits, as transfers are shown.
pub(crate) fn size_exact(bytes: f64) -> String {
    scaled(bytes, 1000.0, &["B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"], 4)
}

/// A size in powers of 1024 with four significant digits: `1.952GiB`.
pub(crate) fn binary_size(bytes: f64) -> String {
    scaled(bytes, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"], 4)
}

fn scaled(mut value: f64, base: f64, units: &[&str], digits: usize) -> String {
    let mut unit = 0;
    while value >= base && unit + 1 < units.len() {
        value /= base;
        unit += 1;
    }
    format!("{}{}", significant(value, digits), units[unit])
}

/// A number with at most so many significant digits and no zeros at its end (C's `%.3g`).
pub(crate) fn significant(value: f64, digits: usize) -> String {
    if value == 0.0 {
        return "0".into();
    }
    let scientific = format!("{value:.*e}", digits.saturating_sub(1));
    let Some((mantissa, exponent)) = scientific.split_once('e') else { return scientific };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let trim = |text: &str| -> String {
        if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').into() } else { text.into() }
    };
    if exponent < -4 || exponent >= digits as i32 {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{}e{sign}{:02}", trim(mantissa), exponent.abs());
    }
    let decimals = usize::try_from(digits as i32 - 1 - exponent).unwrap_or(0);
    trim(&format!("{value:.decimals$}"))
}

/// A length of time, roughly: `About a minute`, `3 weeks`.
pub(crate) fn duration(seconds: i64) -> String {
    let minutes = seconds / 60;
    let hours = (seconds + 1800).div_euclid(3600);
    match () {
        () if seconds < 1 => "Less than a second".into(),
        () if seconds == 1 => "1 second".into(),
        () if seconds < 60 => format!("{seconds} seconds"),
        () if minutes == 1 => "About a minute".into(),
        () if minutes < 60 => format!("{minutes} minutes"),
        () if hours == 1 => "About an hour".into(),
        () if hours < 48 => format!("{hours} hours"),
        () if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        () if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        () if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        () => format!("{} years", seconds / 3600 / 24 / 365),
    }
}

/// How long ago a moment was, without the word "ago".
pub(crate) fn since(unix_seconds: i64) -> String {
    duration(Timestamp::now().as_second() - unix_seconds)
}

/// A moment in local time as Go prints one: `2026-01-02 15:04:05 +0000 UTC`.
pub(crate) fn local_time(unix_seconds: i64) -> String {
    let Ok(timestamp) = Timestamp::from_second(unix_seconds) else { return unix_seconds.to_string() };
    timestamp.to_zoned_datetime(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S %z %Z").to_string()
}

/// A moment in local time as RFC 3339: `2026-01-02T15:04:05+01:00`.
pub(crate) fn rfc3339(unix_seconds: i64) -> String {
    let Ok(timestamp) = Timestamp::from_second(unix_seconds) else { return unix_seconds.to_string() };
    let zoned = timestamp.to_zoned_datetime(TimeZone::system());
    if zoned.offset().is_zero() {
        return zoned.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    }
    zoned.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string()
}

/// An identifier without its algorithm, cut to twelve characters.
pub(crate) fn short_id(id: &str) -> &str {
    let hex = id.split_once(':').map_or(id, |(_, hex)| hex);
    hex.get(..12).unwrap_or(hex)
}

/// Text cut to `length` columns, with an ellipsis if something was cut off.
pub(crate) fn ellipsis(text: &str, length: usize) -> String {
    if text.chars().count() <= length {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(length.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let cases =
            [(0.0, "0B"), (999.0, "999B"), (1000.0, "1kB"), (1_984_000.0, "1.98MB"), (12_345.0, "12.3kB")];
        for (bytes, expected) in cases {
            assert_eq!(size(bytes), expected);
        }
        assert_eq!(size_exact(1_984_567.0), "1.985MB");
        assert_eq!(binary_size(1536.0), "1.5KiB");
        assert_eq!(binary_size(24_683_196_416.0), "22.99GiB");
        assert_eq!(significant(999.9, 3), "1e+03");
    }

    #[test]
    fn durations() {
        let hour = 3600;
        let day = 24 * hour;
        let cases = [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (119, "About a minute"),
            (120, "2 minutes"),
            (45 * 60, "45 minutes"),
            (hour, "About an hour"),
            (2 * hour, "2 hours"),
            (48 * hour, "2 days"),
            (13 * day, "13 days"),
            (14 * day, "2 weeks"),
            (61 * day, "2 months"),
            (800 * day, "2 years"),
        ];
        for (seconds, expected) in cases {
            assert_eq!(duration(seconds), expected, "{seconds}");
        }
    }

    #[test]
    fn cuts() {
        assert_eq!(short_id("sha256:0123456789abcdef"), "0123456789ab");
        assert_eq!(ellipsis("abcdef", 4), "abc…");
        assert_eq!(ellipsis("abcd", 4), "abcd");
    }
}
