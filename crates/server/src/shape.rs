//! Docker's exact JSON: which fields are always there, what stands for "nothing" in each, and their order.
//!
//! The models leave an unset field out. Docker's own encoder writes `null`, `""`, `0`, `[]` or `{}` for most of them,
//! and clients rely on it: `docker inspect` prints the document as it came, templates read fields that must exist, and
//! typed clients tell `null` from absent. So each answer is encoded by its model and then written in its shape. The
//! shapes ([`crate::shapes`]) are data, read off Docker 28.5.2; this module only walks them.

use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};
use serde_json::Value;

/// What Docker writes for a field that has nothing.
#[derive(Clone, Copy)]
enum Nothing {
    Left,
    Null,
    NullOrEmpty,
    Text,
    Zero,
    No,
    List,
    Map,
}

/// What is inside a field.
#[derive(Clone, Copy)]
enum Inside {
    /// Anything, written as it is.
    Plain,
    /// A document of a shape; where the field is missing, the empty document of that shape.
    One(Shape),
    /// A list or map whose members have a shape.
    Each(Shape),
}

/// One field.
#[derive(Clone, Copy)]
pub(crate) struct Field {
    name: &'static str,
    nothing: Nothing,
    inside: Inside,
}

/// The fields of a document in order. Fields it does not name follow in alphabetical order.
pub(crate) type Shape = &'static [Field];

impl Field {
    const fn new(name: &'static str, nothing: Nothing) -> Self {
        Self { name, nothing, inside: Inside::Plain }
    }

    /// The field holds a document of this shape.
    pub(crate) const fn one(self, shape: Shape) -> Self {
        Self { inside: Inside::One(shape), ..self }
    }

    /// The field holds a list or map of documents of this shape.
    pub(crate) const fn each(self, shape: Shape) -> Self {
        Self { inside: Inside::Each(shape), ..self }
    }
}

/// Left out when there is nothing.
pub(crate) const fn maybe(name: &'static str) -> Field {
    Field::new(name, Nothing::Left)
}

/// `null` when there is nothing.
pub(crate) const fn null(name: &'static str) -> Field {
    Field::new(name, Nothing::Null)
}

/// `null` when there is nothing, and also for an empty list or map: for models that cannot say "nothing".
pub(crate) const fn hollow(name: &'static str) -> Field {
    Field::new(name, Nothing::NullOrEmpty)
}

/// `""` when there is nothing.
pub(crate) const fn text(name: &'static str) -> Field {
    Field::new(name, Nothing::Text)
}

/// `0` when there is nothing.
pub(crate) const fn number(name: &'static str) -> Field {
    Field::new(name, Nothing::Zero)
}

/// `false` when there is nothing.
pub(crate) const fn flag(name: &'static str) -> Field {
    Field::new(name, Nothing::No)
}

/// `[]` when there is nothing.
pub(crate) const fn list(name: &'static str) -> Field {
    Field::new(name, Nothing::List)
}

/// `{}` when there is nothing.
pub(crate) const fn map(name: &'static str) -> Field {
    Field::new(name, Nothing::Map)
}

/// A document, or a list of documents, to be written in a shape.
pub(crate) struct Shaped<'a> {
    value: &'a Value,
    inside: Inside,
}

impl<'a> Shaped<'a> {
    /// One document.
    pub(crate) fn one(value: &'a Value, shape: Shape) -> Self {
        Self { value, inside: Inside::One(shape) }
    }

    /// A list or map of documents.
    pub(crate) fn each(value: &'a Value, shape: Shape) -> Self {
        Self { value, inside: Inside::Each(shape) }
    }
}

impl Serialize for Shaped<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match (self.inside, self.value) {
            (Inside::One(shape), Value::Object(fields)) => {
                let mut map = serializer.serialize_map(None)?;
                let mut known = 0;
                for field in shape {
                    known += usize::from(fields.contains_key(field.name));
                    match (fields.get(field.name), field.nothing) {
                        (Some(value), Nothing::NullOrEmpty) if is_empty(value) => {
                            map.serialize_entry(field.name, &Value::Null)?;
                        }
                        (Some(value), _) => {
                            map.serialize_entry(field.name, &Shaped { value, inside: field.inside })?;
                        }
                        (None, Nothing::Left) => {}
                        (None, nothing) => map.serialize_entry(field.name, &Empty(nothing, field.inside))?,
                    }
                }
                for (name, value) in fields.iter().filter(|_| known < fields.len()) {
                    if !shape.iter().any(|field| field.name == name) {
                        map.serialize_entry(name, value)?;
                    }
                }
                map.end()
            }
            (Inside::Each(shape), Value::Object(members)) => {
                serializer.collect_map(members.iter().map(|(name, value)| (name, Self::one(value, shape))))
            }
            (Inside::Each(shape), Value::Array(members)) => {
                let mut list = serializer.serialize_seq(Some(members.len()))?;
                for value in members {
                    list.serialize_element(&Self::one(value, shape))?;
                }
                list.end()
            }
            (_, value) => value.serialize(serializer),
        }
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Array(members) => members.is_empty(),
        Value::Object(members) => members.is_empty(),
        _ => false,
    }
}

/// Stands where a field has nothing.
struct Empty(Nothing, Inside);

impl Serialize for Empty {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match (self.0, self.1) {
            (Nothing::Left | Nothing::Null | Nothing::NullOrEmpty, _) => serializer.serialize_unit(),
            (Nothing::Text, _) => serializer.serialize_str(""),
            (Nothing::Zero, _) => serializer.serialize_u8(0),
            (Nothing::No, _) => serializer.serialize_bool(false),
            (Nothing::List, _) => serializer.serialize_seq(Some(0))?.end(),
            (Nothing::Map, Inside::One(shape)) => {
                Shaped::one(&Value::Object(serde_json::Map::new()), shape).serialize(serializer)
            }
            (Nothing::Map, _) => serializer.serialize_map(Some(0))?.end(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const INNER: Shape = &[text("B"), number("A")];
    const OUTER: Shape = &[
        text("Name"),
        null("Nothing"),
        maybe("Left"),
        list("List"),
        flag("Flag"),
        map("One").one(INNER),
        map("Each").each(INNER),
        null("Many").each(INNER),
        hollow("Labels"),
    ];

    #[test]
    fn missing_fields_are_filled_in_order() {
        let value = json!({});
        assert_eq!(
            serde_json::to_string(&Shaped::one(&value, OUTER)).unwrap(),
            r#"{"Name":"","Nothing":null,"List":[],"Flag":false,"One":{"B":"","A":0},"Each":{},"Many":null,"Labels":null}"#
        );
    }

    #[test]
    fn present_fields_keep_their_value_and_get_their_shape() {
        let value = json!({
            "Zusatz": 1, "Left": 2, "One": {"A": 3}, "Each": {"x": {}}, "Many": [{"B": "b"}], "Name": null,
            "Labels": {}
        });
        assert_eq!(
            serde_json::to_string(&Shaped::one(&value, OUTER)).unwrap(),
            r#"{"Name":null,"Nothing":null,"Left":2,"List":[],"Flag":false,"One":{"B":"","A":3},"#.to_owned()
                + r#""Each":{"x":{"B":"","A":0}},"Many":[{"B":"b","A":0}],"Labels":null,"Zusatz":1}"#
        );
    }
}
