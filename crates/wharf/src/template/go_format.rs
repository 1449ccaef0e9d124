//! Writes values as Go's `fmt` and `encoding/json` do.

use std::fmt::Write;

use super::value::Value;

/// Appends what `{{.}}` shows.
pub(super) fn print_value(value: &Value, out: &mut String) {
    match value {
        Value::Missing => out.push_str("<no value>"),
        other => verb_v(other, out),
    }
}

/// Appends what `%v` shows.
fn verb_v(value: &Value, out: &mut String) {
    match value {
        Value::Missing | Value::Nil => out.push_str("<nil>"),
        Value::Bool(value) => push(out, value),
        Value::Int(value) => push(out, value),
        Value::Float(value) => out.push_str(&float(*value, 21)),
        Value::Str(text) => out.push_str(text),
        Value::List(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(' ');
                }
                verb_v(item, out);
            }
            out.push(']');
        }
        Value::Map(members) => {
            out.push_str("map[");
            for (index, (key, item)) in Value::sorted_members(members).iter().enumerate() {
                if index > 0 {
                    out.push(' ');
                }
                out.push_str(key);
                out.push(':');
                verb_v(item, out);
            }
            out.push(']');
        }
        Value::Object(object) => {
            // As a struct of Go: the values alone, in order.
            out.push('{');
            if let Value::Map(members) = object.members() {
                for (index, (_, item)) in members.iter().enumerate() {
                    if index > 0 {
                        out.push(' ');
                    }
                    verb_v(item, out);
                }
            }
            out.push('}');
        }
    }
}

fn push(out: &mut String, value: impl std::fmt::Display) {
    // Writing to a string cannot fail.
    let _ = write!(out, "{value}");
}

/// The shortest form of a float, with an exponent below 1e-4 and from 1e`limit` on.
fn float(value: f64, limit: i32) -> String {
    let magnitude = value.abs();
    if value == 0.0 || !value.is_finite() {
        return match value {
            v if v.is_nan() => "NaN".into(),
            v if v == f64::INFINITY => "+Inf".into(),
            v if v == f64::NEG_INFINITY => "-Inf".into(),
            _ => "0".into(),
        };
    }
    if magnitude >= 1e-4 && magnitude < 10f64.powi(limit) {
        return format!("{value}");
    }
    let text = format!("{value:e}");
    match text.split_once('e') {
        Some((mantissa, exponent)) => format!("{mantissa}e{}", exponent_text(exponent)),
        None => text,
    }
}

/// Go writes an exponent with its sign and at least two digits.
fn exponent_text(exponent: &str) -> String {
    let (sign, digits) = match exponent.strip_prefix('-') {
        Some(digits) => ('-', digits),
        None => ('+', exponent),
    };
    format!("{sign}{digits:0>2}")
}

/// What `print` shows: a space between two operands when neither is a string.
pub(super) fn sprint(args: &[Value]) -> String {
    let mut out = String::new();
    let mut after_string = true;
    for (index, arg) in args.iter().enumerate() {
        let is_string = matches!(arg, Value::Str(_));
        if index > 0 && !is_string && !after_string {
            out.push(' ');
        }
        verb_v(arg, &mut out);
        after_string = is_string;
    }
    out
}

/// The flags between `%` and the verb.
#[derive(Default)]
struct Spec {
    minus: bool,
    plus: bool,
    sharp: bool,
    space: bool,
    zero: bool,
    width: Option<usize>,
    precision: Option<usize>,
}

/// What `printf` shows.
pub(super) fn sprintf(format: &str, args: &[Value]) -> String {
    /// Wider output than this is not asked for in earnest.
    const WIDEST: usize = 4096;
    let mut out = String::new();
    let mut args = args.iter();
    let mut chars = format.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut spec = Spec::default();
        while let Some(flag) = chars.peek() {
            match flag {
                '-' => spec.minus = true,
                '+' => spec.plus = true,
                '#' => spec.sharp = true,
                ' ' => spec.space = true,
                '0' => spec.zero = true,
                _ => break,
            }
            chars.next();
        }
        let mut number = |chars: &mut std::iter::Peekable<std::str::Chars<'_>>| {
            if chars.next_if_eq(&'*').is_some() {
                return match args.next() {
                    Some(Value::Int(value)) => usize::try_from(*value).ok().map(|value| value.min(WIDEST)),
                    _ => None,
                };
            }
            let mut value = None;
            while let Some(digit) = chars.peek().and_then(|c| c.to_digit(10)) {
                value = Some((value.unwrap_or(0) * 10 + digit as usize).min(WIDEST));
                chars.next();
            }
            value
        };
        spec.width = number(&mut chars);
        if chars.next_if_eq(&'.').is_some() {
            spec.precision = Some(number(&mut chars).unwrap_or(0));
        }
        match chars.next() {
            None => out.push_str("%!(NOVERB)"),
            Some('%') => out.push('%'),
            Some(verb) => match args.next() {
                None => push(&mut out, format_args!("%!{verb}(MISSING)")),
                Some(arg) => {
                    let text = formatted(verb, arg, &spec);
                    pad(&mut out, &text, &spec, matches!(arg, Value::Int(_) | Value::Float(_)));
                }
            },
        }
    }
    let extra: Vec<String> = args.map(typed).collect();
    if !extra.is_empty() {
        push(&mut out, format_args!("%!(EXTRA {})", extra.join(", ")));
    }
    out
}

fn typed(value: &Value) -> String {
    let mut text = String::new();
    verb_v(value, &mut text);
    match value {
        Value::Missing | Value::Nil => "<nil>".into(),
        other => format!("{}={text}", other.type_name()),
    }
}

fn pad(out: &mut String, text: &str, spec: &Spec, number: bool) {
    let missing = spec.width.unwrap_or(0).saturating_sub(text.chars().count());
    if spec.minus {
        out.push_str(text);
        out.extend(std::iter::repeat_n(' ', missing));
    } else if spec.zero && number {
        let digits = text.trim_start_matches(['+', '-']);
        out.push_str(&text[..text.len() - digits.len()]);
        out.extend(std::iter::repeat_n('0', missing));
        out.push_str(digits);
    } else {
        out.extend(std::iter::repeat_n(' ', missing));
        out.push_str(text);
    }
}

fn formatted(verb: char, value: &Value, spec: &Spec) -> String {
    let signed = |text: String| match (spec.plus, spec.space, text.starts_with('-')) {
        (true, _, false) => format!("+{text}"),
        (false, true, false) => format!(" {text}"),
        _ => text,
    };
    match (verb, value) {
        ('v' | 's', Value::List(_) | Value::Map(_) | Value::Object(_)) | ('v', _) => {
            let mut text = String::new();
            verb_v(value, &mut text);
            if matches!(value, Value::Int(_) | Value::Float(_)) { signed(text) } else { text }
        }
        ('s', Value::Str(text)) => match spec.precision {
            Some(precision) => text.chars().take(precision).collect(),
            None => text.to_string(),
        },
        ('q', Value::Str(text)) => quote(text),
        ('q', Value::Int(code)) => {
            let c = u32::try_from(*code).ok().and_then(char::from_u32).unwrap_or('\u{fffd}');
            format!("'{}'", c.escape_debug())
        }
        ('q', Value::List(items)) => {
            let texts: Vec<String> = items.iter().map(|item| formatted('q', item, spec)).collect();
            format!("[{}]", texts.join(" "))
        }
        ('d', Value::Int(value)) => signed(value.to_string()),
        ('x', Value::Int(value)) => {
            radix(*value, if spec.sharp { "0x" } else { "" }, format!("{:x}", value.unsigned_abs()))
        }
        ('X', Value::Int(value)) => {
            radix(*value, if spec.sharp { "0X" } else { "" }, format!("{:X}", value.unsigned_abs()))
        }
        ('o', Value::Int(value)) => {
            radix(*value, if spec.sharp { "0" } else { "" }, format!("{:o}", value.unsigned_abs()))
        }
        ('b', Value::Int(value)) => radix(*value, "", format!("{:b}", value.unsigned_abs())),
        ('c', Value::Int(value)) => {
            u32::try_from(*value).ok().and_then(char::from_u32).unwrap_or('\u{fffd}').to_string()
        }
        ('U', Value::Int(value)) => format!("U+{value:04X}"),
        ('x', Value::Str(text)) => text.bytes().map(|byte| format!("{byte:02x}")).collect(),
        ('X', Value::Str(text)) => text.bytes().map(|byte| format!("{byte:02X}")).collect(),
        ('f' | 'F', Value::Float(value)) => signed(format!("{value:.*}", spec.precision.unwrap_or(6))),
        ('e', Value::Float(value)) => {
            let text = format!("{value:.*e}", spec.precision.unwrap_or(6));
            let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
            signed(format!("{mantissa}e{}", exponent_text(exponent)))
        }
        ('g', Value::Float(value)) => signed(float(*value, 21)),
        ('t', Value::Bool(value)) => value.to_string(),
        ('T', value) => value.type_name(),
        (verb, Value::Missing | Value::Nil) => format!("%!{verb}(<nil>)"),
        (verb, value) => format!("%!{verb}({})", typed(value)),
    }
}

fn radix(value: i64, prefix: &str, digits: String) -> String {
    format!("{}{prefix}{digits}", if value < 0 { "-" } else { "" })
}

pub(crate) fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => push(&mut out, format_args!("\\x{:02x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Compact JSON, as Go's encoder writes it with HTML escaping off.
pub(crate) fn to_json(value: &Value) -> String {
    let mut out = String::new();
    json(value, &mut out);
    out
}

/// The same with `<`, `>` and `&` escaped, as Go does unless told otherwise. Docker's listings do, `inspect` does not.
fn to_html_safe_json(value: &Value) -> String {
    let mut out = String::new();
    for c in to_json(value).chars() {
        match c {
            // Outside of strings there are none of these.
            '<' | '>' | '&' => push(&mut out, format_args!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out
}

fn json(value: &Value, out: &mut String) {
    match value {
        Value::Missing | Value::Nil => out.push_str("null"),
        Value::Bool(value) => push(out, value),
        Value::Int(value) => push(out, value),
        Value::Float(value) => out.push_str(&json_float(*value)),
        Value::Str(text) => json_string(text, out),
        Value::List(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                json(item, out);
            }
            out.push(']');
        }
        Value::Map(members) => {
            out.push('{');
            for (index, (key, item)) in members.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                json_string(key, out);
                out.push(':');
                json(item, out);
            }
            out.push('}');
        }
        Value::Object(object) if object.escapes_html() => out.push_str(&to_html_safe_json(&object.members())),
        Value::Object(object) => json(&object.members(), out),
    }
}

fn json_float(value: f64) -> String {
    let magnitude = value.abs();
    if !value.is_finite() {
        "null".into()
    } else if magnitude != 0.0 && !(1e-6..1e21).contains(&magnitude) {
        let text = format!("{value:e}");
        let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        // One digit of a negative exponent is enough here, unlike in `fmt`.
        if exponent.starts_with('-') { text } else { format!("{mantissa}e+{exponent}") }
    } else {
        format!("{value}")
    }
}

fn json_string(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            '\u{2028}' | '\u{2029}' => push(out, format_args!("\\u{:04x}", u32::from(c))),
            c if u32::from(c) < 0x20 => push(out, format_args!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
}

/// Lays JSON out over lines without changing anything else: the order of members, the spelling of numbers and strings.
/// `prefix` starts every line but the first.
pub(crate) fn json_indent(source: &str, prefix: &str, indent: &str) -> String {
    let mut out = String::with_capacity(source.len() * 2);
    let mut depth = 0;
    let (mut in_string, mut escaped, mut fresh) = (false, false, false);
    let newline = |out: &mut String, depth: usize| {
        out.push('\n');
        out.push_str(prefix);
        for _ in 0..depth {
            out.push_str(indent);
        }
    };
    for c in source.chars() {
        if in_string {
            out.push(c);
            in_string = escaped || c != '"';
            escaped = !escaped && c == '\\';
            continue;
        }
        if c.is_ascii_whitespace() {
            continue;
        }
        let closing = c == '}' || c == ']';
        if fresh && !closing {
            // The first member of what was just opened; an empty list or object stays on its line.
            depth += 1;
            newline(&mut out, depth);
        }
        match c {
            ',' => {
                out.push(c);
                newline(&mut out, depth);
            }
            ':' => out.push_str(": "),
            _ if closing => {
                if !fresh {
                    depth = depth.saturating_sub(1);
                    newline(&mut out, depth);
                }
                out.push(c);
            }
            _ => {
                out.push(c);
                in_string = c == '"';
            }
        }
        fresh = c == '{' || c == '[';
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_written_as_go_does() {
        let cases =
            [(0.5, "0.5"), (1e6, "1000000"), (1e21, "1e+21"), (1.5e-7, "1.5e-07"), (0.0, "0"), (-2.0, "-2")];
        for (value, expected) in cases {
            assert_eq!(float(value, 21), expected);
        }
        assert_eq!(json_float(1e-7), "1e-7");
        assert_eq!(json_float(1e21), "1e+21");
    }

    #[test]
    fn json_keeps_order_and_escapes_as_go_does() {
        let text = r#"{"b":[1,2.5,null,true],"a":{"x":"<&>\u0001\u2028"},"c":{}}"#;
        assert_eq!(to_json(&Value::parse_json(text.as_bytes()).unwrap()), text);
    }

    #[test]
    fn indenting_keeps_everything_else() {
        let text = r#"[{"a":{},"b":[],"c":[1, "x,{\"}"],"d":1.50}]"#;
        let expected = "[\n  {\n    \"a\": {},\n    \"b\": [],\n    \"c\": [\n      1,\n      \"x,{\\\"}\"\n    ],\n    \"d\": 1.50\n  }\n]";
        assert_eq!(json_indent(text, "", "  "), expected);
    }

    #[test]
    fn printf_reports_what_does_not_fit() {
        let int = Value::Int(7);
        assert_eq!(sprintf("%s", std::slice::from_ref(&int)), "%!s(int=7)");
        assert_eq!(sprintf("%d", &[]), "%!d(MISSING)");
        assert_eq!(sprintf("x", &[int]), "x%!(EXTRA int=7)");
        assert_eq!(
            sprintf("%+d|%x|%6.2f|%-4d|", &[Value::Int(3), "hi".into(), Value::Float(1.5), Value::Int(2)]),
            "+3|6869|  1.50|2   |"
        );
    }
}
