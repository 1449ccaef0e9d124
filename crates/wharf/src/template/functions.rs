//! The functions templates may call: Go's own and Docker's.

use std::cmp::Ordering;

use super::{
    go_format::{print_value, sprint, sprintf, to_json},
    value::Value,
};

const GO: &[&str] = &[
    "and", "call", "eq", "ge", "gt", "html", "index", "js", "le", "len", "lt", "ne", "not", "or", "print",
    "printf", "println", "slice", "urlquery",
];
const FORMATTING: &[&str] = &["join", "json", "lower", "pad", "split", "title", "truncate", "upper"];

pub(super) fn is_known(name: &str) -> bool {
    GO.contains(&name) || is_formatting(name)
}

/// Whether the function only changes how something looks, so that a column heading passes through it.
pub(super) fn is_formatting(name: &str) -> bool {
    FORMATTING.contains(&name)
}

/// Calls a function other than `and` and `or`, which the evaluator does itself.
pub(super) fn call(name: &str, args: &[Value]) -> Result<Value, String> {
    let arity = |count: usize| match args.len() {
        len if len == count => Ok(()),
        len => Err(format!("wrong number of args for {name}: want {count} got {len}")),
    };
    match name {
        "not" => arity(1).map(|()| Value::Bool(!args[0].truth())),
        "len" => arity(1).and_then(|()| length(&args[0])).map_err(|message| calling(name, &message)),
        "index" => index(args).map_err(|message| calling(name, &message)),
        "slice" => slice(args).map_err(|message| calling(name, &message)),
        "eq" | "ne" | "lt" | "le" | "gt" | "ge" => {
            compare(name, args).map_err(|message| calling(name, &message))
        }
        "print" => Ok(sprint(args).into()),
        "println" => {
            let texts: Vec<String> = args.iter().map(text).collect();
            Ok(format!("{}\n", texts.join(" ")).into())
        }
        "printf" => match args.split_first() {
            Some((Value::Str(format), rest)) => Ok(sprintf(format, rest).into()),
            Some((other, _)) => Err(wrong_type("string", other)),
            None => Err("wrong number of args for printf: want at least 1 got 0".into()),
        },
        "html" => Ok(escape_html(&sprint(args)).into()),
        "js" => Ok(escape_js(&sprint(args)).into()),
        "urlquery" => Ok(wharf_api::client::escape(&sprint(args)).replace("%20", "+").into()),
        "json" => arity(1).map(|()| to_json(&args[0]).into()),
        "lower" => arity(1).and_then(|()| string(&args[0])).map(|text| text.to_lowercase().into()),
        "upper" => arity(1).and_then(|()| string(&args[0])).map(|text| text.to_uppercase().into()),
        "title" => arity(1).and_then(|()| string(&args[0])).map(|text| title(text).into()),
        "join" => arity(2).and_then(|()| join(&args[0], string(&args[1])?)),
        "split" => arity(2).and_then(|()| Ok(split(string(&args[0])?, string(&args[1])?))),
        "pad" => arity(3).and_then(|()| pad(string(&args[0])?, integer(&args[1])?, integer(&args[2])?)),
        "truncate" => arity(2).and_then(|()| {
            let length = usize::try_from(integer(&args[1])?).unwrap_or(0);
            Ok(string(&args[0])?.chars().take(length).collect::<String>().into())
        }),
        // Values of JSON hold no functions.
        "call" => Err(calling(name, "non-function")),
        _ => Err(format!("\"{name}\" is not a defined function")),
    }
}

fn calling(name: &str, message: &str) -> String {
    if message.starts_with("wrong ") {
        message.to_owned()
    } else {
        format!("error calling {name}: {message}")
    }
}

fn text(value: &Value) -> String {
    let mut out = String::new();
    print_value(value, &mut out);
    out
}

fn wrong_type(wanted: &str, value: &Value) -> String {
    format!("wrong type for value; expected {wanted}; got {}", value.type_name())
}

fn string(value: &Value) -> Result<&str, String> {
    match value {
        Value::Str(text) => Ok(text),
        Value::Missing | Value::Nil => Err("invalid value; expected string".into()),
        other => Err(wrong_type("string", other)),
    }
}

fn integer(value: &Value) -> Result<i64, String> {
    match value {
        Value::Int(value) => Ok(*value),
        other => Err(wrong_type("int", other)),
    }
}

fn length(value: &Value) -> Result<Value, String> {
    let length = match value {
        Value::Str(text) => text.len(),
        Value::List(items) => items.len(),
        Value::Map(members) => members.len(),
        Value::Missing | Value::Nil => return Err("len of nil pointer".into()),
        other => return Err(format!("len of type {}", other.type_name())),
    };
    Ok(Value::Int(i64::try_from(length).unwrap_or(i64::MAX)))
}

fn position(index: &Value, length: usize) -> Result<usize, String> {
    match index {
        Value::Int(value) => usize::try_from(*value)
            .ok()
            .filter(|position| *position < length)
            .ok_or_else(|| format!("index out of range: {value}")),
        other => Err(format!("cannot index slice/array with type {}", other.type_name())),
    }
}

fn index(args: &[Value]) -> Result<Value, String> {
    let Some((first, keys)) = args.split_first() else {
        return Err("wrong number of args for index: want at least 1 got 0".into());
    };
    let mut value = first.clone();
    for key in keys {
        value = match &value {
            Value::List(items) => items[position(key, items.len())?].clone(),
            Value::Str(text) => Value::Int(i64::from(text.as_bytes()[position(key, text.len())?])),
            Value::Map(_) => match key {
                Value::Str(name) => value.get(name).cloned().unwrap_or_default(),
                other => return Err(format!("value has type {}; should be string", other.type_name())),
            },
            Value::Object(object) => match object.field(string(key)?, &[]) {
                Some(result) => result?,
                None => return Err(format!("can't index item of type {}", object.type_name())),
            },
            Value::Missing | Value::Nil => return Err("index of untyped nil".into()),
            other => return Err(format!("can't index item of type {}", other.type_name())),
        };
    }
    Ok(value)
}

fn slice(args: &[Value]) -> Result<Value, String> {
    let Some((value, bounds)) = args.split_first() else {
        return Err("wrong number of args for slice: want at least 1 got 0".into());
    };
    let length = match value {
        Value::Str(text) => text.len(),
        Value::List(items) => items.len(),
        other => return Err(format!("can't slice item of type {}", other.type_name())),
    };
    if bounds.len() > 2 {
        return Err(format!("too many slice indexes: {}", bounds.len()));
    }
    let bound = |at: usize, default: usize| match bounds.get(at) {
        None => Ok(default),
        Some(value) => {
            let given = integer(value)?;
            usize::try_from(given)
                .ok()
                .filter(|bound| *bound <= length)
                .ok_or_else(|| format!("index out of range: {given}"))
        }
    };
    let (start, end) = (bound(0, 0)?, bound(1, length)?);
    if start > end {
        return Err(format!("invalid slice index: {start} > {end}"));
    }
    match value {
        Value::Str(text) => {
            text.get(start..end).map(Value::string).ok_or_else(|| "slice cuts a character".to_owned())
        }
        Value::List(items) => Ok(Value::List(items[start..end].into())),
        _ => Ok(Value::Nil),
    }
}

fn compare(name: &str, args: &[Value]) -> Result<Value, String> {
    let Some((first, rest)) = args.split_first() else {
        return Err(format!("wrong number of args for {name}: want at least 1 got 0"));
    };
    if rest.is_empty() {
        return Err("missing argument for comparison".into());
    }
    if name == "eq" {
        for other in rest {
            if order(first, other, true)? == Some(Ordering::Equal) {
                return Ok(Value::Bool(true));
            }
        }
        return Ok(Value::Bool(false));
    }
    if rest.len() > 1 {
        return Err(format!("wrong number of args for {name}: want 2 got {}", args.len()));
    }
    let ordering = order(first, &rest[0], name == "ne")?;
    Ok(Value::Bool(match name {
        "ne" => ordering != Some(Ordering::Equal),
        "lt" => ordering == Some(Ordering::Less),
        "le" => matches!(ordering, Some(Ordering::Less | Ordering::Equal)),
        "gt" => ordering == Some(Ordering::Greater),
        _ => matches!(ordering, Some(Ordering::Greater | Ordering::Equal)),
    }))
}

/// How two basic values compare; `None` for values that are merely different.
fn order(a: &Value, b: &Value, equality: bool) -> Result<Option<Ordering>, String> {
    match (a, b) {
        (Value::Str(a), Value::Str(b)) => Ok(Some(a.cmp(b))),
        (Value::Int(a), Value::Int(b)) => Ok(Some(a.cmp(b))),
        (Value::Float(a), Value::Float(b)) => Ok(a.partial_cmp(b)),
        (Value::Bool(a), Value::Bool(b)) if equality => Ok((a == b).then_some(Ordering::Equal)),
        (Value::Missing | Value::Nil, Value::Missing | Value::Nil) if equality => Ok(Some(Ordering::Equal)),
        (Value::Missing | Value::Nil, _) | (_, Value::Missing | Value::Nil) if equality => Ok(None),
        (
            Value::Int(_) | Value::Float(_) | Value::Str(_),
            Value::Int(_) | Value::Float(_) | Value::Str(_),
        ) => Err("incompatible types for comparison".into()),
        (Value::Bool(_), _) | (_, Value::Bool(_)) if equality => {
            Err("incompatible types for comparison".into())
        }
        (other, _) if equality => Err(format!("non-comparable type {}: {other:?}", other.type_name())),
        _ => Err("invalid type for comparison".into()),
    }
}

fn join(list: &Value, separator: &str) -> Result<Value, String> {
    let items: &[Value] = match list {
        Value::List(items) => items,
        Value::Missing | Value::Nil => &[],
        other => return Err(wrong_type("[]string", other)),
    };
    let texts: Vec<String> = items.iter().map(text).collect();
    Ok(texts.join(separator).into())
}

fn split(text: &str, separator: &str) -> Value {
    if separator.is_empty() {
        return Value::strings(text.chars().map(String::from));
    }
    Value::strings(text.split(separator))
}

fn pad(text: &str, before: i64, after: i64) -> Result<Value, String> {
    if text.is_empty() {
        return Ok(text.into());
    }
    let spaces = |count: i64| match usize::try_from(count) {
        Ok(count) if count <= 4096 => Ok(" ".repeat(count)),
        _ => Err(format!("pad: cannot pad by {count}")),
    };
    Ok(format!("{}{text}{}", spaces(before)?, spaces(after)?).into())
}

fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut inside = false;
    for c in text.chars() {
        if inside {
            out.push(c);
        } else {
            out.extend(c.to_uppercase());
        }
        inside = c.is_alphanumeric() || c == '_' || c == '\'';
    }
    out
}

fn escape_html(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            '\0' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

fn escape_js(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' | '\'' | '"' => out.extend(['\\', c]),
            '<' | '>' | '&' | '=' => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c if u32::from(c) < 0x20 => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out
}
