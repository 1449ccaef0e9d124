//! What the engine tells the world about changes.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::Filters;

/// One change of one object, as `events` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// `container`, `image`, `volume`, `network` or `daemon`.
    pub kind: &'static str,
    /// `start`, `die`, `exec_create: sh`, …
    pub action: String,
    /// The object's id (for volumes its name).
    pub id: String,
    /// Attributes: name, image, labels, exit code, …
    pub attributes: BTreeMap<String, String>,
    /// When it happened.
    pub time: Timestamp,
}

impl Event {
    /// True when the event passes `--filter`. Keys: `type`, `event`, `container`, `image`, `volume`, `network`,
    /// `label`, `scope`, `daemon`; values of one key are alternatives, keys are all required.
    #[must_use]
    pub fn matches(&self, filters: &Filters) -> bool {
        let attribute = |key: &str| self.attributes.get(key).map_or("", String::as_str);
        let name = attribute("name");
        // Docker's rule: the beginning of an id or name is enough, and the key does not ask for the type of the event.
        let named = |key: &str| {
            filters.matches_any(key, |value| self.id.starts_with(value) || name.starts_with(value))
        };
        // `exec_create: sh` is matched by `exec_create`; with such a value all are beginnings.
        let with_detail = ["health_status", "exec_create", "exec_start"];
        let beginnings = filters.values("event").any(|value| with_detail.contains(&value));
        let event = |value: &str| value == self.action || (beginnings && self.action.starts_with(value));
        let image = attribute(if self.kind == "image" { "name" } else { "image" });
        filters.matches_any("type", |value| value == self.kind)
            && filters.matches_any("event", event)
            && filters.matches_any("scope", |value| value == "local")
            && ["container", "plugin", "volume", "network", "daemon", "node", "service", "secret", "config"]
                .into_iter()
                .all(named)
            && filters.matches_any("image", |value| {
                [&self.id, image, untagged(&self.id), untagged(image)].contains(&value)
            })
            && filters.matches_all_labels("label", &self.attributes)
    }
}

/// A reference without its tag or digest; the port of a registry is no tag.
fn untagged(reference: &str) -> &str {
    let name = reference.split('@').next().unwrap_or(reference);
    match name.rsplit_once(':') {
        Some((before, tag)) if !tag.contains('/') => before,
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_select_events() {
        let event = Event {
            kind: "container",
            action: "exec_create: sh".into(),
            id: "abc123".into(),
            attributes: [("name", "web"), ("image", "busybox:latest"), ("tier", "front")]
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .into(),
            time: Timestamp::UNIX_EPOCH,
        };
        let filters = |pairs: &[(&str, &str)]| {
            let mut filters = Filters::default();
            for (key, value) in pairs {
                filters.add(key, value);
            }
            filters
        };
        assert!(event.matches(&filters(&[])));
        assert!(event.matches(&filters(&[("event", "exec_create"), ("container", "web")])));
        assert!(event.matches(&filters(&[("event", "die"), ("event", "exec_create: sh")])));
        assert!(event.matches(&filters(&[("image", "busybox"), ("label", "tier=front")])));
        assert!(!event.matches(&filters(&[("type", "volume")])));
        assert!(event.matches(&filters(&[("volume", "we")])), "as with Docker");
        assert!(!event.matches(&filters(&[("volume", "other")])));
        assert!(event.matches(&filters(&[("image", "busybox:latest")])));
        assert!(!event.matches(&filters(&[("event", "exec")])));
        assert!(event.matches(&filters(&[("colour", "red")])), "as with Docker");
        assert!(!event.matches(&filters(&[("label", "tier=back")])));
    }
}
