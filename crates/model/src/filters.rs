//! `--filter key=value`, the same for every list.

use std::collections::{BTreeMap, BTreeSet};

/// Values by key. Values of one key are alternatives; all keys must hold. An absent key always holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filters(BTreeMap<String, BTreeSet<String>>);

/// A key the list does not know, or a value it cannot use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidFilter {
    /// The key is not one of the list's.
    #[error("invalid filter '{0}'")]
    Key(String),
    /// The value cannot be understood.
    #[error("invalid filter '{key}={value}'")]
    Value {
        /// The key.
        key: String,
        /// The value that does not fit.
        value: String,
    },
}

impl Filters {
    /// Adds an alternative to a key.
    pub fn add(&mut self, key: &str, value: &str) {
        self.0.entry(key.to_owned()).or_default().insert(value.to_owned());
    }

    /// True when no key is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// True when the key is set.
    #[must_use]
    pub fn contains(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    /// The alternatives of a key, in order; empty when absent.
    pub fn values(&self, key: &str) -> impl Iterator<Item = &str> {
        self.0.get(key).into_iter().flatten().map(String::as_str)
    }

    /// Refuses keys outside `known`.
    ///
    /// # Errors
    /// [`InvalidFilter::Key`] naming the first unknown key.
    pub fn check_keys(&self, known: &[&str]) -> Result<(), InvalidFilter> {
        match self.0.keys().find(|key| !known.contains(&key.as_str())) {
            Some(key) => Err(InvalidFilter::Key(key.clone())),
            None => Ok(()),
        }
    }

    /// True when the key is absent or one of its values satisfies `test`.
    pub fn matches_any(&self, key: &str, test: impl Fn(&str) -> bool) -> bool {
        self.0.get(key).is_none_or(|values| values.iter().any(|value| test(value)))
    }

    /// True when every `label` or `label=value` given under `key` is among `labels`.
    #[must_use]
    pub fn matches_all_labels(&self, key: &str, labels: &BTreeMap<String, String>) -> bool {
        self.values(key).all(|wanted| match wanted.split_once('=') {
            Some((name, value)) => labels.get(name).is_some_and(|have| have == value),
            None => labels.contains_key(wanted),
        })
    }

    /// The value of a yes-or-no key.
    ///
    /// # Errors
    /// [`InvalidFilter::Value`] when it is neither.
    pub fn boolean(&self, key: &str) -> Result<Option<bool>, InvalidFilter> {
        let Some(value) = self.values(key).next() else { return Ok(None) };
        match value {
            "1" | "true" | "True" | "TRUE" | "t" | "T" => Ok(Some(true)),
            "0" | "false" | "False" | "FALSE" | "f" | "F" => Ok(Some(false)),
            _ => Err(InvalidFilter::Value { key: key.to_owned(), value: format!("[{value}]") }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_all_required_and_values_are_alternatives() {
        let mut filters = Filters::default();
        filters.add("label", "a");
        filters.add("label", "b=2");
        filters.add("status", "running");
        filters.add("status", "paused");
        let labels: BTreeMap<_, _> = [("a".into(), String::new()), ("b".into(), "2".into())].into();
        assert!(filters.matches_all_labels("label", &labels));
        assert!(!filters.matches_all_labels("label", &BTreeMap::new()));
        assert!(filters.matches_any("status", |value| value == "paused"));
        assert!(!filters.matches_any("status", |value| value == "dead"));
        assert_eq!(filters.check_keys(&["label"]), Err(InvalidFilter::Key("status".into())));
    }

    #[test]
    fn booleans_are_strict() {
        let mut filters = Filters::default();
        assert_eq!(filters.boolean("dangling"), Ok(None));
        filters.add("dangling", "yes");
        assert!(filters.boolean("dangling").is_err());
    }
}
