//! Takes out of a command's output what differs from run to run: ids, times, sizes, addresses, padding.
//!
//! Everything else is compared byte for byte, so a rule here is a promise not to look at something: keep them few.

use std::sync::LazyLock;

use regex_lite::{Captures, Regex};

/// The instant that Go and Docker print for "never"; it means something and stays.
const NEVER: &str = "0001-01-01T00:00:00Z";

struct Rule {
    pattern: Regex,
    replacement: &'static str,
}

static RULES: LazyLock<Vec<Rule>> = LazyLock::new(|| {
    [
        (r"\b[0-9a-f]{64}\b", "<id>"),
        (r"\b[0-9a-f]{12}\b", "<short-id>"),
        (r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", "<time>"),
        (r"\b\d{4}-\d\d-\d\d \d\d:\d\d:\d\d( [+-]\d{4} \w+)?", "<time>"),
        (r"\b(Less than a second|About a minute|About an hour|\d+ (second|minute|hour|day|week|month|year)s?)\b", "<duration>"),
        (r"\b\d+(\.\d+)?(e[+-]\d+)? ?([kMGT]?B|[KMGT]iB)\b", "<size>"),
        (r"\b\d+\.\d+%", "<n>%"),
        (r"\b(172|10|192)\.\d+\.\d+\.\d+\b", "<ip>"),
        (r"<ip>/\d+", "<ip>/<n>"),
        (r"\b([0-9a-f]{2}:){5}[0-9a-f]{2}\b", "<mac>"),
        (r"\b(0\.0\.0\.0|127\.0\.0\.1|\[::\]):(3[2-9]|4\d|5\d|6\d)\d{3}\b", "$1:<ephemeral>"),
        // Docker walks a map.
        (r"(multiple network endpoints: )\S+, \S+", "$1<names>"),
        (r"\bdocker-import-\d+\b", "docker-import-<n>"),
        (r"[ \t]+(\n|$)", "$1"),
        (r"  +", "  "),
    ]
    .into_iter()
    .map(|(pattern, replacement)| Rule { pattern: Regex::new(pattern).expect("a rule compiles"), replacement })
    .collect()
});

/// Applies all rules, after replacing each `(value, name)` of `known` (paths and ports chosen for this run).
pub fn normalise(text: &str, known: &[(String, String)]) -> String {
    let mut text = text.to_owned();
    for (value, name) in known {
        text = text.replace(value.as_str(), name);
    }
    for rule in RULES.iter() {
        text = rule
            .pattern
            .replace_all(&text, |found: &Captures<'_>| {
                let mut replaced = String::new();
                if &found[0] == NEVER {
                    return NEVER.to_owned();
                }
                found.expand(rule.replacement, &mut replaced);
                replaced
            })
            .into_owned();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::normalise;

    fn plain(text: &str) -> String {
        normalise(text, &[])
    }

    #[test]
    fn ids_and_times_go() {
        assert_eq!(plain("sha256:".to_owned().as_str()), "sha256:");
        assert_eq!(plain(&"a1".repeat(32)), "<id>");
        assert_eq!(plain("0123456789ab up"), "<short-id> up");
        assert_eq!(plain("2026-11-23T16:31:08.946663542Z x"), "<time> x");
        assert_eq!(plain("Up 2 seconds (Paused)"), "Up <duration> (Paused)");
        assert_eq!(plain("Exited (3) Less than a second ago"), "Exited (3) <duration> ago");
    }

    #[test]
    fn what_means_something_stays() {
        assert_eq!(plain("0001-01-01T00:00:00Z"), "0001-01-01T00:00:00Z");
        assert_eq!(plain("exit 137"), "exit 137");
        assert_eq!(plain("0.0.0.0:8080->80/tcp"), "0.0.0.0:8080->80/tcp");
    }

    #[test]
    fn padding_and_sizes_go() {
        assert_eq!(plain("NAME      SIZE   \nbox  2.05MB"), "NAME  SIZE\nbox  <size>");
        assert_eq!(plain("0.0.0.0:32770->80/tcp"), "0.0.0.0:<ephemeral>->80/tcp");
        assert_eq!(plain("172.17.0.2/16 02:42:ac:11:00:02"), "<ip>/<n> <mac>");
    }

    #[test]
    fn known_values_get_their_names() {
        let known = [("/tmp/x".to_owned(), "$BIND".to_owned())];
        assert_eq!(normalise("path /tmp/x/missing", &known), "path $BIND/missing");
    }
}
