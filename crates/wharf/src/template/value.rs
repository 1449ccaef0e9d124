//! The data a template works on.

use std::{borrow::Cow, fmt, rc::Rc};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

/// A value as JSON knows it, with the order of an object's members kept, or a row of a listing.
#[derive(Clone, Default)]
pub(crate) enum Value {
    /// What an absent member of a map evaluates to.
    #[default]
    Missing,
    /// JSON's `null`.
    Nil,
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(Rc<str>),
    List(Rc<[Value]>),
    Map(Rc<[(Rc<str>, Value)]>),
    Object(Rc<dyn Object>),
}

/// Something with named fields that are computed when asked for, some of which take arguments (`.Label "x"`).
pub(crate) trait Object {
    /// The field's value, `None` if there is no such field, or why it cannot be computed.
    fn field(&self, name: &str, args: &[Value]) -> Option<Result<Value, String>>;
    /// What `json` shows.
    fn members(&self) -> Value;
    /// What errors call this.
    fn type_name(&self) -> &str;
    /// Whether its JSON hides `<`, `>` and `&`.
    fn escapes_html(&self) -> bool {
        false
    }
}

impl Value {
    /// Reads a JSON document.
    pub(crate) fn parse_json(bytes: &[u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(bytes)
    }

    /// Reads a list of objects; with `keep`, only those of their members.
    pub(crate) fn parse_list(bytes: &[u8], keep: Option<&[&str]>) -> serde_json::Result<Vec<Self>> {
        let Some(keep) = keep else { return serde_json::from_slice(bytes) };
        let mut reader = serde_json::Deserializer::from_slice(bytes);
        let list = Picked(&keep.iter().map(|name| (*name).into()).collect::<Vec<_>>()).list(&mut reader)?;
        reader.end()?;
        Ok(list)
    }

    pub(crate) fn string(text: impl AsRef<str>) -> Self {
        Self::Str(text.as_ref().into())
    }

    /// A list of strings.
    pub(crate) fn strings<S: AsRef<str>>(items: impl IntoIterator<Item = S>) -> Self {
        Self::List(items.into_iter().map(Self::string).collect())
    }

    /// An object with the given members, in this order.
    pub(crate) fn map<S: AsRef<str>>(members: impl IntoIterator<Item = (S, Value)>) -> Self {
        Self::Map(members.into_iter().map(|(key, value)| (key.as_ref().into(), value)).collect())
    }

    /// The member of an object, without regard to what is an error in a template.
    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        match self {
            Self::Map(members) => members.iter().find(|(name, _)| &**name == key).map(|(_, value)| value),
            _ => None,
        }
    }

    /// The text of a member, empty if it is no string.
    pub(crate) fn text(&self, key: &str) -> &str {
        self.get(key).map_or("", Value::as_str)
    }

    /// The number of a member, zero if it is none.
    pub(crate) fn int(&self, key: &str) -> i64 {
        self.get(key).map_or(0, Value::as_int)
    }

    /// The items of a member, none if it is no list.
    pub(crate) fn list(&self, key: &str) -> &[Value] {
        match self.get(key) {
            Some(Self::List(items)) => items,
            _ => &[],
        }
    }

    /// The members of a member, none if it is no object.
    pub(crate) fn entries(&self, key: &str) -> &[(Rc<str>, Value)] {
        match self.get(key) {
            Some(Self::Map(members)) => members,
            _ => &[],
        }
    }

    /// Whether a member is true.
    pub(crate) fn is_set(&self, key: &str) -> bool {
        matches!(self.get(key), Some(Self::Bool(true)))
    }

    /// The number, or zero for anything else.
    pub(crate) fn as_int(&self) -> i64 {
        match self {
            Self::Int(value) => *value,
            Self::Float(value) => *value as i64,
            _ => 0,
        }
    }

    /// The text of a string, or nothing for anything else.
    pub(crate) fn as_str(&self) -> &str {
        match self {
            Self::Str(text) => text,
            _ => "",
        }
    }

    /// Whether `if` takes the branch.
    pub(crate) fn truth(&self) -> bool {
        match self {
            Self::Missing | Self::Nil => false,
            Self::Bool(value) => *value,
            Self::Int(value) => *value != 0,
            Self::Float(value) => *value != 0.0,
            Self::Str(text) => !text.is_empty(),
            Self::List(items) => !items.is_empty(),
            Self::Map(members) => !members.is_empty(),
            Self::Object(_) => true,
        }
    }

    /// Go's name of the type a JSON value is decoded to.
    pub(crate) fn type_name(&self) -> String {
        match self {
            Self::Missing | Self::Nil => "interface {}".into(),
            Self::Bool(_) => "bool".into(),
            Self::Int(_) => "int".into(),
            Self::Float(_) => "float64".into(),
            Self::Str(_) => "string".into(),
            Self::List(_) => "[]interface {}".into(),
            Self::Map(_) => "map[string]interface {}".into(),
            Self::Object(object) => object.type_name().to_owned(),
        }
    }

    /// The members of an object sorted by name, the order in which Go walks a map.
    pub(crate) fn sorted_members(members: &[(Rc<str>, Value)]) -> Vec<(Rc<str>, Value)> {
        let mut sorted = members.to_vec();
        sorted.sort_by(|a, b| a.0.cmp(&b.0));
        sorted
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&super::to_json(self))
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::string(text)
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::string(text)
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }
}

/// Reads objects of which only these members are kept.
#[derive(Clone, Copy)]
struct Picked<'a>(&'a [Rc<str>]);

impl Picked<'_> {
    fn list<'de, D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<Value>, D::Error> {
        struct List<'a>(Picked<'a>);
        impl<'de> Visitor<'de> for List<'_> {
            type Value = Vec<Value>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<Value>, A::Error> {
                let mut objects = Vec::new();
                while let Some(object) = seq.next_element_seed(self.0)? {
                    objects.push(object);
                }
                Ok(objects)
            }
        }
        deserializer.deserialize_seq(List(self))
    }
}

impl<'de> DeserializeSeed<'de> for Picked<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Picked<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut members = Vec::with_capacity(self.0.len());
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            match self.0.iter().find(|name| ***name == key) {
                Some(name) => members.push((name.clone(), map.next_value()?)),
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(Value::Map(members.into()))
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Nil)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Int(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        // Beyond i64 only a float can hold it; no field of the API gets there in earnest.
        Ok(i64::try_from(value).map_or(Value::Float(value as f64), Value::Int))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::string(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Value::List(items.into()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut members: Vec<(Rc<str>, Value)> = Vec::new();
        while let Some((key, value)) = map.next_entry::<String, Value>()? {
            members.push((key.into(), value));
        }
        Ok(Value::Map(members.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_kept_of_a_list_is_read() {
        let text = br#"[{"A":1,"B":{"C":[1,{}]},"D":"x"},{"D":null,"E\n":0}]"#;
        let list = Value::parse_list(text, Some(&["D", "A"])).unwrap();
        assert_eq!(format!("{list:?}"), r#"[{"A":1,"D":"x"}, {"D":null}]"#);
        let all = Value::parse_list(text, None).unwrap();
        assert_eq!(all[0].get("B").map(|b| b.list("C").len()), Some(2));
        for wrong in ["{}", "[1]", "[{}", "[{}]x", "null"] {
            assert!(Value::parse_list(wrong.as_bytes(), Some(&["A"])).is_err(), "{wrong}");
        }
    }
}
