//! Between the wire models and the engine's own types. Everything here is pure.

pub(crate) mod create;
pub(crate) mod exec;
pub(crate) mod host;
pub(crate) mod human;
pub(crate) mod image;
pub(crate) mod inspect;
pub(crate) mod mount;
pub(crate) mod network;
pub(crate) mod progress;
pub(crate) mod stats;
pub(crate) mod summary;
pub(crate) mod system;
pub(crate) mod update;
pub(crate) mod volume;

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;

/// Docker's year one: the time of what has not happened.
pub(crate) const NEVER: &str = "0001-01-01T00:00:00Z";

/// RFC 3339 with as many digits as needed, or [`NEVER`].
pub(crate) fn time(time: Option<Timestamp>) -> String {
    time.map_or_else(|| NEVER.to_owned(), |time| time.to_string())
}

/// `None` instead of an empty list.
pub(crate) fn filled<T>(list: Vec<T>) -> Option<Vec<T>> {
    if list.is_empty() { None } else { Some(list) }
}

/// `None` instead of an empty map.
pub(crate) fn filled_map(map: BTreeMap<String, String>) -> Option<HashMap<String, String>> {
    if map.is_empty() { None } else { Some(unordered(map)) }
}

/// The models' kind of map.
pub(crate) fn unordered(map: BTreeMap<String, String>) -> HashMap<String, String> {
    map.into_iter().collect()
}

/// The engine's kind of map.
pub(crate) fn ordered(map: Option<HashMap<String, String>>) -> BTreeMap<String, String> {
    map.into_iter().flatten().collect()
}

/// The models' signed sizes; saturates, as no real size can.
pub(crate) fn size(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
