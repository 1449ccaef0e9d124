//! The templates of `tag`: text with `{{.Field}}`, functions and pipes, as far as tags need Go's language.

use std::collections::BTreeMap;

/// What an expression gives.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Text(String),
    Map(BTreeMap<String, String>),
    Number(i64),
}

impl Value {
    fn text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Number(number) => number.to_string(),
            Self::Map(map) => {
                let pairs: Vec<String> = map.iter().map(|(key, value)| format!("{key}:{value}")).collect();
                format!("map[{}]", pairs.join(" "))
            }
        }
    }
}

/// The longest result: a tag is in every record.
const LIMIT: usize = 16 * 1024;

/// Fills in a template; `field` knows what a path of names stands for.
///
/// # Errors
/// Docker's text for mistakes it knows.
pub(super) fn fill(template: &str, field: impl Fn(&[&str]) -> Option<Value>) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = template;
    while let Some(open) = rest.find("{{") {
        let Some(length) = rest[open..].find("}}") else {
            return Err(format!("template: log-tag:{}: unclosed action", line(template)));
        };
        let mut inside = &rest[open + 2..open + length];
        let mut text = &rest[..open];
        if let Some(trimmed) = inside.strip_prefix("- ") {
            inside = trimmed;
            text = text.trim_end();
        }
        out.push_str(text);
        rest = &rest[open + length + 2..];
        if let Some(trimmed) = inside.strip_suffix(" -") {
            inside = trimmed;
            rest = rest.trim_start();
        }
        let at = inside.as_ptr() as usize - template.as_ptr() as usize;
        if !inside.trim_start().starts_with("/*") {
            out.push_str(&pipeline(inside, template, at, &field)?.text());
        }
        if out.len() > LIMIT {
            return Err(format!("template: log-tag: the tag would be longer than {LIMIT} bytes"));
        }
    }
    out.push_str(rest);
    Ok(out)
}

fn line(template: &str) -> usize {
    1 + template.matches('\n').count()
}

/// `word word | word …`
fn pipeline(
    text: &str,
    template: &str,
    at: usize,
    field: &impl Fn(&[&str]) -> Option<Value>,
) -> Result<Value, String> {
    let mut piped = None;
    for command in split(text, '|').map_err(|what| format!("template: log-tag:1: {what}"))? {
        let words = split(&command, ' ').map_err(|what| format!("template: log-tag:1: {what}"))?;
        let mut words = words.into_iter().filter(|word| !word.is_empty());
        let Some(first) = words.next() else {
            return Err("template: log-tag:1: missing value for command".into());
        };
        let value = |word: &str| operand(word, template, at, text, field);
        let mut arguments = words.map(|word| value(&word)).collect::<Result<Vec<_>, _>>()?;
        arguments.extend(piped.take());
        let is_value = first.starts_with(['.', '"', '`']) || first.starts_with(|c: char| c.is_ascii_digit());
        piped = Some(if is_value { value(&first)? } else { call(&first, &arguments)? });
    }
    piped.ok_or_else(|| "template: log-tag:1: missing value for command".into())
}

fn operand(
    word: &str,
    template: &str,
    at: usize,
    action: &str,
    field: &impl Fn(&[&str]) -> Option<Value>,
) -> Result<Value, String> {
    if let Some(path) = word.strip_prefix('.') {
        let names: Vec<&str> = path.split('.').collect();
        return field(&names).ok_or_else(|| {
            let column = at + action.find(word).unwrap_or(0);
            let name = names.first().copied().unwrap_or_default();
            format!(
                "template: log-tag:{}:{column}: executing \"log-tag\" at <{word}>: can't evaluate field {name} in type \
                 *logger.Info",
                line(&template[..at])
            )
        });
    }
    if word.starts_with('"') {
        return serde_json::from_str(word)
            .map(Value::Text)
            .map_err(|_| format!("template: log-tag:1: bad string {word}"));
    }
    if let Some(raw) = word.strip_prefix('`').and_then(|word| word.strip_suffix('`')) {
        return Ok(Value::Text(raw.to_owned()));
    }
    word.parse().map(Value::Number).map_err(|_| format!("template: log-tag:1: function {word:?} not defined"))
}

fn call(name: &str, arguments: &[Value]) -> Result<Value, String> {
    let text = |text: String| Ok(Value::Text(text));
    match (name, arguments) {
        ("lower", [value]) => text(value.text().to_lowercase()),
        ("upper", [value]) => text(value.text().to_uppercase()),
        ("title", [value]) => {
            let value = value.text();
            let mut characters = value.chars();
            text(characters.next().into_iter().flat_map(char::to_uppercase).chain(characters).collect())
        }
        ("truncate", [value, Value::Number(length)]) => {
            text(value.text().chars().take(usize::try_from(*length).unwrap_or(0)).collect())
        }
        ("json", [Value::Map(map)]) => text(serde_json::to_string(map).unwrap_or_default()),
        ("json", [value]) => text(serde_json::to_string(&value.text()).unwrap_or_default()),
        ("index", [Value::Map(map), key]) => text(map.get(&key.text()).cloned().unwrap_or_default()),
        ("lower" | "upper" | "title" | "truncate" | "json" | "index", _) => {
            Err(format!("template: log-tag:1: wrong arguments for {name}"))
        }
        _ => Err(format!("template: log-tag:1: function {name:?} not defined")),
    }
}

/// Cuts at `separator`, but not inside of quotes.
fn split(text: &str, separator: char) -> Result<Vec<String>, String> {
    let mut parts = vec![String::new()];
    let mut quote = None;
    let mut escaped = false;
    for character in text.chars() {
        let ends = quote == Some(character) && !escaped;
        escaped = quote == Some('"') && character == '\\' && !escaped;
        if quote.is_none() && character == separator {
            parts.push(String::new());
            continue;
        }
        if ends {
            quote = None;
        } else if quote.is_none() && matches!(character, '"' | '`') {
            quote = Some(character);
        }
        if let Some(part) = parts.last_mut() {
            part.push(character);
        }
    }
    if quote.is_some() { Err("unterminated quoted string".into()) } else { Ok(parts) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(template: &str) -> Result<String, String> {
        fill(template, |path| match path {
            ["Name"] => Some(Value::Text("web".into())),
            ["ContainerLabels"] => Some(Value::Map([("a b".to_owned(), "1|2".to_owned())].into())),
            _ => None,
        })
    }

    #[test]
    fn fields_functions_and_pipes_are_filled_in() {
        for (template, wanted) in [
            ("", ""),
            ("plain } {", "plain } {"),
            ("x/{{.Name}}-{{ .Name }}", "x/web-web"),
            ("{{upper .Name}} {{.Name | title | json}}", "WEB \"Web\""),
            ("{{index .ContainerLabels \"a b\" | lower}}", "1|2"),
            ("{{truncate .Name 2}}{{/* no */}}{{\"|\"}}{{`}`}}", "we|}"),
            ("a {{- .Name -}} b", "awebb"),
            ("{{.ContainerLabels}}", "map[a b:1|2]"),
        ] {
            assert_eq!(filled(template).as_deref(), Ok(wanted), "{template}");
        }
    }

    #[test]
    fn mistakes_are_told_in_dockers_words() {
        assert_eq!(
            filled("{{.Bogus}}").unwrap_err(),
            "template: log-tag:1:2: executing \"log-tag\" at <.Bogus>: can't evaluate field Bogus in type *logger.Info"
        );
        assert_eq!(filled("a{{").unwrap_err(), "template: log-tag:1: unclosed action");
        assert_eq!(filled("{{bogus}}").unwrap_err(), "template: log-tag:1: function \"bogus\" not defined");
        for bad in
            ["{{}}", "{{|}}", "{{\"}}", "{{index .Name 1}}", "{{.Name |}}", "{{lower}}", "{{-}}", "{{é}}"]
        {
            assert!(filled(bad).is_err(), "{bad}");
        }
        let long = "{{.Name}}".repeat(10_000);
        assert!(filled(&long).is_err());
    }
}
