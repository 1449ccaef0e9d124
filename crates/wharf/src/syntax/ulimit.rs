//! `--ulimit name=soft[:hard]`.

use wharf_api::models::ResourcesUlimits;

use super::Parsed;

const NAMES: [&str; 15] = [
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

/// Reads one limit; `-1` is no limit.
pub(crate) fn parse(text: &str) -> Parsed<ResourcesUlimits> {
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
    if hard != -1 && (soft == -1 || soft > hard) {
        return Err(match soft {
            -1 => format!(
                "ulimit soft limit must be less than or equal to hard limit: soft: -1 (unlimited), hard: {hard}"
            ),
            _ => format!("ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}"),
        });
    }
    Ok(ResourcesUlimits { name: Some(name.to_owned()), soft: Some(soft), hard: Some(hard) })
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn limits() {
        let limit = parse("nofile=1024:2048").unwrap();
        assert_eq!((limit.name.as_deref(), limit.soft, limit.hard), (Some("nofile"), Some(1024), Some(2048)));
        assert_eq!(parse("core=-1").unwrap().hard, Some(-1));
        assert_eq!(parse("x").unwrap_err(), "invalid ulimit argument: x");
        assert_eq!(parse("x=1").unwrap_err(), "invalid ulimit type: x");
        assert_eq!(
            parse("core=2:1").unwrap_err(),
            "ulimit soft limit must be less than or equal to hard limit: 2 > 1"
        );
        assert_eq!(parse("core=a").unwrap_err(), "strconv.ParseInt: parsing \"a\": invalid syntax");
    }
}
