//! `--since` and `--until`: a moment as a date, a time, a number of seconds, or how long ago.

use jiff::{Timestamp, civil, tz::TimeZone};

use super::{Parsed, units::Duration};

/// The moment as the API wants it: seconds since 1970, with nanoseconds if given.
pub(crate) fn parse(text: &str, now: Timestamp) -> Parsed<String> {
    if let Ok(Duration(nanos)) = text.parse() {
        let moment =
            i128::from(nanos).checked_neg().map_or(now.as_nanosecond(), |ago| now.as_nanosecond() + ago);
        return Ok(format!("{}.{:09}", moment.div_euclid(1_000_000_000), moment.rem_euclid(1_000_000_000)));
    }
    if let Ok(timestamp) = text.parse::<Timestamp>() {
        return Ok(format!("{}.{:09}", timestamp.as_second(), timestamp.subsec_nanosecond()));
    }
    let (plain, zone) = match text.strip_suffix('Z') {
        Some(plain) => (plain, TimeZone::UTC),
        None => (text, TimeZone::system()),
    };
    let local = local_moment(plain).map(|moment| moment.to_zoned_datetime(zone));
    match local {
        Some(Ok(zoned)) => {
            let timestamp = zoned.timestamp();
            Ok(format!("{}.{:09}", timestamp.as_second(), timestamp.subsec_nanosecond()))
        }
        Some(Err(error)) => Err(error.to_string()),
        None if is_seconds(text) => Ok(text.to_owned()),
        None => Err(format!("failed to parse value as time or duration: {text:?}")),
    }
}

/// A date, perhaps with a time of day.
fn local_moment(text: &str) -> Option<civil::DateTime> {
    if text.len() == "2006-01-02".len() {
        return text.parse::<civil::Date>().ok().map(|date| date.at(0, 0, 0, 0));
    }
    let (date, time) = text.split_once('T')?;
    let padded = match time.len() {
        2 => format!("{time}:00:00"),
        5 => format!("{time}:00"),
        _ => time.to_owned(),
    };
    format!("{date}T{padded}").parse().ok()
}

fn is_seconds(text: &str) -> bool {
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    match text.split_once('.') {
        Some((seconds, nanos)) => digits(seconds) && digits(nanos),
        None => digits(text.strip_prefix('-').unwrap_or(text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        assert_eq!(parse("10m", now).unwrap(), "999400.000000000");
        assert_eq!(parse("1136073600", now).unwrap(), "1136073600");
        assert_eq!(parse("1136073600.5", now).unwrap(), "1136073600.5");
        assert_eq!(parse("2006-01-02T15:04:05Z", now).unwrap(), "1136214245.000000000");
        assert_eq!(parse("2006-01-02T15:04:05.25+01:00", now).unwrap(), "1136210645.250000000");
        assert!(parse("2006-01-02", now).is_ok());
        assert!(parse("2006-01-02T15:04", now).is_ok());
        assert_eq!(parse("x", now).unwrap_err(), "failed to parse value as time or duration: \"x\"");
    }
}
