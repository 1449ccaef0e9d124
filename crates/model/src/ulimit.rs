//! Resource limits as people write them: `nofile=1024[:2048]`, -1 for no limit. The names exist here alone.

use crate::spec::Ulimit;

/// Every limit a container can be given.
pub const NAMES: [&str; 15] = [
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// Reads one limit.
///
/// # Errors
/// Docker's sentence about what is wrong.
pub fn parse(text: &str) -> Result<Ulimit, String> {
    let (name, limits) = text.split_once('=').ok_or_else(|| format!("invalid ulimit argument: {text}"))?;
    if !NAMES.contains(&name) {
        return Err(format!("invalid ulimit type: {name}"));
    }
    let number = |text: &str| {
        text.parse::<i64>().map_err(|_| format!("strconv.ParseInt: parsing {text:?}: invalid syntax"))
    };
    let (soft, hard) = match limits.split(':').collect::<Vec<_>>().as_slice() {
        [both] => (number(both)?, number(both)?),
        [soft, hard] => (number(soft)?, number(hard)?),
        _ => {
            return Err(format!(
                "too many limit value arguments - {limits}, can only have up to two, `soft[:hard]`"
            ));
        }
    };
    let limit = Ulimit { name: name.to_owned(), soft, hard };
    check(&limit).map(|()| limit)
}

/// Checks a limit that came in parts.
///
/// # Errors
/// Docker's sentence about what is wrong.
pub fn check(limit: &Ulimit) -> Result<(), String> {
    let Ulimit { name, soft, hard } = limit;
    if !NAMES.contains(&name.as_str()) {
        return Err(format!("invalid ulimit type: {name}"));
    }
    if *hard == -1 || (*soft != -1 && soft <= hard) {
        return Ok(());
    }
    Err(match soft {
        -1 => format!(
            "ulimit soft limit must be less than or equal to hard limit: soft: -1 (unlimited), hard: {hard}"
        ),
        _ => format!("ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits() {
        let limit = parse("nofile=1024:2048").unwrap();
        assert_eq!((limit.name.as_str(), limit.soft, limit.hard), ("nofile", 1024, 2048));
        assert_eq!(parse("core=-1").unwrap().hard, -1);
        assert_eq!(parse("x").unwrap_err(), "invalid ulimit argument: x");
        assert_eq!(parse("x=1").unwrap_err(), "invalid ulimit type: x");
        assert_eq!(
            parse("core=2:1").unwrap_err(),
            "ulimit soft limit must be less than or equal to hard limit: 2 > 1"
        );
        assert_eq!(parse("core=a").unwrap_err(), "strconv.ParseInt: parsing \"a\": invalid syntax");
    }
}
