//! Values of log options as Docker reads them, and its words for those it cannot read.

use std::time::Duration;

/// Sizes of files are decimal, sizes of memory binary.
#[derive(Clone, Copy)]
pub(super) enum Unit {
    Decimal,
    Binary,
}

/// `10m`, `1.5 GB`, `512`.
pub(super) fn size(text: &str, unit: Unit) -> Result<i64, String> {
    let invalid = || format!("invalid size: '{text}'");
    let digits = text.rfind(|c: char| c.is_ascii_digit() || c == '.' || c == ' ').ok_or_else(invalid)?;
    let (number, suffix) = text.split_at(digits + 1);
    let number: f64 = number.trim_end_matches(' ').parse().map_err(|_| invalid())?;
    if number < 0.0 {
        return Err(invalid());
    }
    let suffix = suffix.to_ascii_lowercase();
    let base: f64 = match unit {
        Unit::Decimal => 1000.0,
        Unit::Binary => 1024.0,
    };
    let power = match suffix.as_str() {
        "" | "b" => 0,
        other => {
            let letter = other.trim_end_matches('b').trim_end_matches('i');
            let power = ["k", "m", "g", "t", "p"].iter().position(|known| *known == letter);
            let power = power.filter(|_| matches!(&other[letter.len()..], "" | "b" | "ib"));
            power.map(|index| index as i32 + 1).ok_or_else(|| format!("invalid suffix: '{suffix}'"))?
        }
    };
    Ok((number * base.powi(power)) as i64)
}

/// A whole number.
pub(super) fn integer(text: &str) -> Result<i64, String> {
    text.parse().map_err(|_| format!("strconv.Atoi: parsing {text:?}: invalid syntax"))
}

/// `true`, `1`, `f` and so on.
pub(super) fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("strconv.ParseBool: parsing {text:?}: invalid syntax")),
    }
}

/// `1.5s`, `100ms`, `1m30s`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let invalid = || format!("time: invalid duration {text:?}");
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let number: f64 = rest[..digits].parse().map_err(|_| invalid())?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let factor = match &rest[..letters] {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            "" => return Err(format!("time: missing unit in duration {text:?}")),
            unit => return Err(format!("time: unknown unit {unit:?} in duration {text:?}")),
        };
        seconds += number * factor;
        rest = &rest[letters..];
    }
    Duration::try_from_secs_f64(seconds).map_err(|_| invalid())
}

/// An address as `scheme://host:port` or `scheme:///path`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Url {
    pub(super) scheme: String,
    pub(super) host: String,
    pub(super) port: Option<u16>,
    pub(super) path: String,
}

impl Url {
    /// The text of an option.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
        let slash = rest.find('/').unwrap_or(rest.len());
        let (place, path) = rest.split_at(slash);
        let bad = |what: String| format!("parse {text:?}: {what}");
        if text.bytes().any(|byte| byte.is_ascii_control()) {
            return Err(bad("net/url: invalid control character in URL".into()));
        }
        let (host, port) = match place.strip_prefix('[') {
            Some(literal) => {
                let (host, port) =
                    literal.split_once(']').ok_or_else(|| bad("missing ']' in host".into()))?;
                (host, port.strip_prefix(':'))
            }
            None => place.split_once(':').map_or((place, None), |(host, port)| (host, Some(port))),
        };
        let port = match port {
            None | Some("") => None,
            Some(port) => {
                Some(port.parse().map_err(|_| bad(format!("invalid port \":{port}\" after host")))?)
            }
        };
        Ok(Self { scheme: scheme.to_ascii_lowercase(), host: host.to_owned(), port, path: path.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_docker_does() {
        assert_eq!(size("10m", Unit::Decimal), Ok(10_000_000));
        assert_eq!(size("1.5 KiB", Unit::Binary), Ok(1536));
        assert_eq!(size("7", Unit::Decimal), Ok(7));
        assert_eq!(size("ten", Unit::Decimal), Err("invalid size: 'ten'".into()));
        assert_eq!(size("-1", Unit::Decimal), Err("invalid size: '-1'".into()));
        assert_eq!(size("1x", Unit::Decimal), Err("invalid suffix: 'x'".into()));
        for odd in ["", " ", "1é", "é", "1kibs", "..", "9999999999999999999g"] {
            let _either = size(odd, Unit::Binary);
        }
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("1m1.5s"), Ok(Duration::from_millis(61_500)));
        assert_eq!(duration("x"), Err("time: invalid duration \"x\"".into()));
        assert_eq!(duration("1"), Err("time: missing unit in duration \"1\"".into()));
        assert_eq!(duration("1x"), Err("time: unknown unit \"x\" in duration \"1x\"".into()));
        assert!(duration("9999999999999999999999h").is_err() && duration("-1s").is_err());
    }

    #[test]
    fn addresses_have_schemes_hosts_and_paths() {
        let parts = |text: &str| {
            let url = Url::parse(text).unwrap();
            (url.scheme, url.host, url.port, url.path)
        };
        assert_eq!(parts("tcp://h:1"), ("tcp".into(), "h".into(), Some(1), String::new()));
        assert_eq!(parts("udp://[::1]:514"), ("udp".into(), "::1".into(), Some(514), String::new()));
        assert_eq!(parts("unix:///run/x"), ("unix".into(), String::new(), None, "/run/x".into()));
        assert_eq!(parts("h"), (String::new(), "h".into(), None, String::new()));
        assert_eq!(
            Url::parse("tcp://1.2.3.4:x").unwrap_err(),
            "parse \"tcp://1.2.3.4:x\": invalid port \":x\" after host"
        );
    }
}
