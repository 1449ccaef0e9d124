//! Variables and labels, from flags and from files.

use std::{collections::BTreeMap, path::Path};

use super::Parsed;

/// Checks the value of `--env`.
pub(crate) fn variable(text: &str) -> Parsed<String> {
    if text.is_empty() || text.starts_with('=') {
        return Err(format!("invalid environment variable: {text}"));
    }
    Ok(text.to_owned())
}

/// Checks the value of `--label`.
pub(crate) fn label(text: &str) -> Parsed<String> {
    let name = text.split('=').next().unwrap_or("");
    if name.trim().is_empty() {
        return Err(format!("invalid label '{text}': empty name"));
    }
    if name.trim() != name {
        return Err(format!("label '{name}' contains whitespaces"));
    }
    Ok(text.to_owned())
}

/// A `key=value` that is stored by its key.
pub(crate) fn pair(text: &str) -> Parsed<(String, String)> {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    Ok((key.to_owned(), value.to_owned()))
}

/// The variables of files, then those of flags. A name alone takes this process' value, or vanishes if it has none.
pub(crate) fn variables(files: &[String], flags: &[String]) -> Parsed<Vec<String>> {
    let own = |name: &str| std::env::var(name).ok();
    let mut all = Vec::new();
    for file in files {
        all.extend(read(file, &own).map_err(|reason| within("env file", file, &reason))?);
    }
    for flag in flags {
        if flag.contains('=') {
            all.push(flag.clone());
        } else if let Some(value) = own(flag) {
            all.push(format!("{flag}={value}"));
        }
    }
    Ok(all)
}

/// The labels of files, then those of flags, the last of equal names winning.
pub(crate) fn labels(files: &[String], flags: &[String]) -> Parsed<BTreeMap<String, String>> {
    let mut all = BTreeMap::new();
    for file in files {
        for line in
            read(file, &|_| Some(String::new())).map_err(|reason| within("label file", file, &reason))?
        {
            let (key, value) = line.split_once('=').unwrap_or((&line, ""));
            all.insert(key.to_owned(), value.to_owned());
        }
    }
    for flag in flags {
        let (key, value) = flag.split_once('=').unwrap_or((flag, ""));
        all.insert(key.to_owned(), value.to_owned());
    }
    Ok(all)
}

fn within(_what: &str, file: &str, reason: &Reason) -> String {
    match reason {
        Reason::Unreadable(reason) => format!("open {file}: {reason}"),
        // Docker says "env file" for labels too, and scripts match it.
        Reason::Content(reason) => format!("invalid env file ({file}): {reason}"),
    }
}

enum Reason {
    Unreadable(String),
    Content(String),
}

fn read(file: &str, default: &dyn Fn(&str) -> Option<String>) -> Result<Vec<String>, Reason> {
    let bytes = std::fs::read(Path::new(file)).map_err(|error| Reason::Unreadable(plain(&error)))?;
    lines(&bytes, default).map_err(Reason::Content)
}

/// An I/O error in the kernel's words, without the number.
pub(crate) fn plain(error: &std::io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_lowercase().chain(chars).collect())
}

fn lines(bytes: &[u8], default: &dyn Fn(&str) -> Option<String>) -> Parsed<Vec<String>> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut all = Vec::new();
    for (number, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let line = std::str::from_utf8(line)
            .map_err(|_| format!("invalid utf8 bytes at line {}: {line:?}", number + 1))?
            .trim_end_matches('\r')
            .trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, value) = match line.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (line, None),
        };
        if name.is_empty() {
            return Err(format!("no variable name on line '{line}'"));
        }
        if name.contains(char::is_whitespace) {
            return Err(format!("variable '{name}' contains whitespaces"));
        }
        match value {
            Some(_) => all.push(line.to_owned()),
            None => all.extend(default(name).map(|value| format!("{name}={value}"))),
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_hold_variables() {
        let own = |name: &str| (name == "OWN").then(|| "mine".to_owned());
        let text = b"\xef\xbb\xbf# comment\r\nA=1\r\n\n  B = x=y \nOWN\nMISSING\n";
        assert_eq!(lines(text, &own), Err("variable 'B ' contains whitespaces".into()));
        let text = b"# comment\nA=1\r\n\n  B= x=y \nOWN\nMISSING\n";
        assert_eq!(lines(text, &own).unwrap(), ["A=1", "B= x=y ", "OWN=mine"]);
        assert_eq!(lines(b"=x", &own), Err("no variable name on line '=x'".into()));
    }

    #[test]
    fn flags_are_checked() {
        assert_eq!(variable("=x"), Err("invalid environment variable: =x".into()));
        assert!(label("=x").is_err());
        assert_eq!(labels(&[], &["a=1".into(), "b".into(), "a=2".into()]).unwrap().len(), 2);
        assert_eq!(
            variables(&["/nonexistent/env".into()], &[]),
            Err("open /nonexistent/env: no such file or directory".into())
        );
    }
}
