//! Documents that every reader reads alike.
//!
//! JSON does not say what a key means that is there twice, and readers written in Go take `hostconfig` for `HostConfig`.
//! Where an authorisation plugin, a proxy or a log reads a request otherwise than the engine does, something else is
//! executed than was judged. So a document of a request has each key once, also when case does not count. Maps whose keys
//! are the user's own (labels, options) may have keys that differ in case.

use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// Fields whose value is a map with the user's keys.
const USERS_OWN: &[&str] = &[
    "Annotations",
    "AuxiliaryAddresses",
    "Config",
    "DriverOpts",
    "EndpointsConfig",
    "ExposedPorts",
    "Labels",
    "Options",
    "Opts",
    "PortBindings",
    "StorageOpt",
    "Sysctls",
    "Tmpfs",
    "Volumes",
];

/// Checks a document, syntax included.
///
/// # Errors
/// What serde_json says; ambiguity is such an error, too.
pub(crate) fn check(bytes: &[u8]) -> serde_json::Result<()> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    Reader { users_own: false }.deserialize(&mut reader)
}

/// The key as a reader that ignores case has it. Go folds two letters beyond ASCII into it.
fn folded(key: &str) -> String {
    let fold = |letter: char| match letter {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        other => other.to_ascii_lowercase(),
    };
    key.chars().map(fold).collect()
}

#[derive(Clone, Copy)]
struct Reader {
    users_own: bool,
}

impl<'de> DeserializeSeed<'de> for Reader {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

macro_rules! accept {
    ($($name:ident: $type:ty),*) => {
        $(fn $name<E: Error>(self, _: $type) -> Result<(), E> {
            Ok(())
        })*
    };
}

impl<'de> Visitor<'de> for Reader {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON")
    }

    accept!(visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_f64: f64, visit_str: &str);

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(Self { users_own: false })?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen = HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            let users_own = USERS_OWN.contains(&key.as_str());
            if !seen.insert(if self.users_own { key.clone() } else { folded(&key) }) {
                return Err(A::Error::custom(format!("the key {key:.64?} is given twice")));
            }
            map.next_value_seed(Self { users_own })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn en_01_a_key_is_there_once() {
        for good in [
            r#"{"HostConfig":{"Privileged":true},"Labels":{"a":"1","A":"2"}}"#,
            r#"[{"a":1},{"a":1}]"#,
            r#"{"Config":{"a":{},"A":{}}}"#,
            "null",
        ] {
            check(good.as_bytes()).unwrap();
        }
        for bad in [
            r#"{"HostConfig":{"Privileged":true},"HostConfig":{}}"#,
            r#"{"HostConfig":{"Privileged":true},"hostconfig":{"privileged":false}}"#,
            r#"{"HostConfig":{"Privileged":true,"privileged":false}}"#,
            r#"{"Labels":{"a":"1","a":"2"}}"#,
            "{\"Mounts\":1,\"mount\u{17f}\":2}",
            r#"{"Labels":{"x":{"a":1,"A":2}}}"#,
        ] {
            assert!(check(bad.as_bytes()).unwrap_err().to_string().contains("given twice"), "{bad}");
        }
    }
}
