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
        let name = self.attributes.get("name").map_or("", String::as_str);
        let named = |key: &str, kind: &str| {
            filters.matches_any(key, |value| {
                self.kind == kind && (self.id == value || name == value || self.id.starts_with(value))
            })
        };
        // `exec_create: sh` is matched by `exec_create`, as clients expect.
        let action = self.action.split(':').next().unwrap_or(&self.action);
        filters.matches_any("type", |value| value == self.kind)
            && filters.matches_any("event", |value| value == self.action || value == action)
            && filters.matches_any("scope", |value| value == "local")
            && named("container", "container")
            && named("volume", "volume")
            && named("network", "network")
            && named("daemon", "daemon")
            && filters.matches_any("image", |value| {
                let from = self.attributes.get("image").map_or("", String::as_str);
                let untagged = |text: &str| text.split(':').next().unwrap_or(text).to_owned();
                (self.kind == "image" && (self.id == value || name == value || untagged(name) == value))
                    || from == value
                    || (!from.is_empty() && untagged(from) == value)
            })
            && filters.matches_all_labels("label", &self.attributes)
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
        assert!(!event.matches(&filters(&[("volume", "web")])));
        assert!(!event.matches(&filters(&[("label", "tier=back")])));
    }
}
