//! Dockerfile instructions that change an image's config: `import --change`, `commit --change`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::types::Healthcheck;
use crate::{Error, Result};

/// The `config` object of a config document, as far as instructions can change it, in Docker's field order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RunConfig {
    /// `USER`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// `EXPOSE`: `80/tcp`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub exposed_ports: BTreeMap<String, Empty>,
    /// `ENV`: `NAME=value`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// `CMD`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    /// `HEALTHCHECK`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    /// `VOLUME`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub volumes: BTreeMap<String, Empty>,
    /// `WORKDIR`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
    /// `ENTRYPOINT`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// `ONBUILD`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub on_build: Vec<String>,
    /// `LABEL`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// `STOPSIGNAL`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub stop_signal: String,
    /// `SHELL`: what a line that is no list of words is given to.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub shell: Vec<String>,
}

/// `{}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Empty {}

impl RunConfig {
    /// Takes over what is not said here from the configuration of the container, by Docker's rules.
    pub(crate) fn inherit(&mut self, from: &Self) {
        let or = |own: &mut String, other: &String| {
            if own.is_empty() {
                own.clone_from(other);
            }
        };
        or(&mut self.user, &from.user);
        or(&mut self.working_dir, &from.working_dir);
        or(&mut self.stop_signal, &from.stop_signal);
        self.exposed_ports.extend(from.exposed_ports.clone());
        self.volumes.extend(from.volumes.clone());
        for variable in &from.env {
            let name = variable.split('=').next();
            if !self.env.iter().any(|own| own.split('=').next() == name) {
                self.env.push(variable.clone());
            }
        }
        for (name, value) in &from.labels {
            self.labels.entry(name.clone()).or_insert_with(|| value.clone());
        }
        if self.entrypoint.as_ref().is_none_or(Vec::is_empty) {
            if self.cmd.as_ref().is_none_or(Vec::is_empty) {
                self.cmd.clone_from(&from.cmd);
            }
            if self.entrypoint.is_none() {
                self.entrypoint.clone_from(&from.entrypoint);
            }
        }
        if self.healthcheck.is_none() {
            self.healthcheck.clone_from(&from.healthcheck);
        }
    }

    /// Applies one instruction.
    pub(crate) fn change(&mut self, line: &str) -> Result<()> {
        let line = line.trim();
        let (instruction, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim();
        let name = instruction.to_ascii_uppercase();
        if rest.is_empty() && !matches!(&*name, "CMD" | "ENTRYPOINT" | "") {
            return Err(Error::Invalid(format!("{name} requires at least one argument")));
        }
        match &*name {
            "" => return Err(Error::Invalid("an empty change command".to_owned())),
            "CMD" => self.cmd = Some(self.command(rest)),
            "ENTRYPOINT" => self.entrypoint = Some(self.command(rest)),
            "ENV" => {
                for (key, value) in pairs(rest, &name)? {
                    let prefix = format!("{key}=");
                    let entry = format!("{key}={value}");
                    match self.env.iter_mut().find(|old| old.starts_with(&prefix)) {
                        Some(old) => *old = entry,
                        None => self.env.push(entry),
                    }
                }
            }
            "LABEL" => self.labels.extend(pairs(rest, &name)?),
            "EXPOSE" => {
                for port in words(rest)? {
                    self.exposed_ports.insert(port_key(&port)?, Empty {});
                }
            }
            "VOLUME" => {
                for path in json_words(rest).map_or_else(|| words(rest), Ok)? {
                    self.volumes.insert(path, Empty {});
                }
            }
            "USER" => self.user = rest.to_owned(),
            "WORKDIR" => self.working_dir = join(&self.working_dir, &words(rest)?.join(" ")),
            "STOPSIGNAL" => {
                if wharf_model::signal::parse(rest).is_none() {
                    return Err(Error::Invalid(format!("invalid signal: {rest}")));
                }
                self.stop_signal = rest.to_owned();
            }
            "ONBUILD" => {
                let trigger = rest.split_whitespace().next().unwrap_or_default().to_ascii_uppercase();
                if matches!(&*trigger, "ONBUILD" | "FROM" | "MAINTAINER") {
                    return Err(Error::Invalid(format!("{trigger} isn't allowed as an ONBUILD trigger")));
                }
                self.on_build.push(rest.to_owned());
            }
            "HEALTHCHECK" => self.healthcheck = Some(healthcheck(rest)?),
            _ => {
                return Err(Error::Invalid(format!("{instruction} is not a valid change command")));
            }
        }
        Ok(())
    }

    /// `["a", "b"]`, or a line for the shell.
    fn command(&self, rest: &str) -> Vec<String> {
        json_words(rest).unwrap_or_else(|| match rest {
            "" => Vec::new(),
            line if self.shell.is_empty() => ["/bin/sh", "-c", line].map(str::to_owned).to_vec(),
            line => self.shell.iter().cloned().chain([line.to_owned()]).collect(),
        })
    }
}

fn json_words(rest: &str) -> Option<Vec<String>> {
    rest.starts_with('[').then(|| serde_json::from_str(rest).ok()).flatten()
}

/// `a=b c="d e"`, or the old `a rest of the line`.
fn pairs(rest: &str, instruction: &str) -> Result<Vec<(String, String)>> {
    let first = rest.split_whitespace().next().unwrap_or_default();
    if !first.contains('=') {
        let Some((key, value)) = rest.split_once(char::is_whitespace) else {
            return Err(Error::Invalid(format!("{instruction} must have two arguments")));
        };
        return Ok(vec![(unquote(key)?, unquote(value.trim())?)]);
    }
    let mut pairs = Vec::new();
    for word in words(rest)? {
        match word.split_once('=') {
            Some(("", _)) => return Err(Error::Invalid(format!("{instruction} names can not be blank"))),
            Some((key, value)) => pairs.push((key.to_owned(), value.to_owned())),
            None => {
                return Err(Error::Invalid(format!(
                    "Syntax error - can't find = in {word:?}. Must be of the form: name=value"
                )));
            }
        }
    }
    Ok(pairs)
}

fn unquote(text: &str) -> Result<String> {
    Ok(words_with(text, false)?.concat())
}

/// Splits at blanks outside quotes, and removes the quotes.
fn words(text: &str) -> Result<Vec<String>> {
    words_with(text, true)
}

fn words_with(text: &str, split: bool) -> Result<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match (character, quote) {
            ('\'' | '"', None) => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (close, Some(open)) if close == open => quote = None,
            ('\\', None | Some('"')) => match characters.next() {
                Some(next) => word.get_or_insert_default().push(next),
                None => return Err(Error::Invalid("a change command ends in a backslash".to_owned())),
            },
            (blank, None) if split && blank.is_whitespace() => words.extend(word.take()),
            (other, _) => word.get_or_insert_default().push(other),
        }
    }
    if quote.is_some() {
        return Err(Error::Invalid(format!("a quote is not closed in {text:?}")));
    }
    words.extend(word);
    Ok(words)
}

/// `80`, `80/udp`, `8000-8010`.
fn port_key(text: &str) -> Result<String> {
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let valid = |port: &str| port.parse::<u16>().is_ok_and(|port| port > 0);
    let protocol = protocol.to_ascii_lowercase();
    if !valid(first) || !valid(last) || !matches!(&*protocol, "tcp" | "udp" | "sctp") {
        return Err(Error::Invalid(format!("invalid containerPort: {text}")));
    }
    Ok(format!("{ports}/{protocol}"))
}

/// A relative directory continues the one before.
fn join(base: &str, directory: &str) -> String {
    if directory.starts_with('/') {
        return directory.to_owned();
    }
    format!("{}/{directory}", base.trim_end_matches('/'))
}

/// `NONE`, or options and `CMD …`.
fn healthcheck(rest: &str) -> Result<Healthcheck> {
    let mut check = Healthcheck::default();
    let mut rest = rest;
    while let Some(option) = rest.strip_prefix("--") {
        let (option, after) = option.split_once(char::is_whitespace).unwrap_or((option, ""));
        let invalid = || Error::Invalid(format!("invalid HEALTHCHECK option --{option}"));
        let (name, value) = option.split_once('=').ok_or_else(invalid)?;
        match name {
            "interval" => check.interval = duration(value).ok_or_else(invalid)?,
            "timeout" => check.timeout = duration(value).ok_or_else(invalid)?,
            "start-period" => check.start_period = duration(value).ok_or_else(invalid)?,
            "start-interval" => check.start_interval = duration(value).ok_or_else(invalid)?,
            "retries" => {
                check.retries = value.parse().ok().filter(|retries| *retries >= 0).ok_or_else(invalid)?;
            }
            _ => return Err(invalid()),
        }
        rest = after.trim_start();
    }
    let (kind, command) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    match (&*kind.to_ascii_uppercase(), command.trim()) {
        ("NONE", "") => check.test = vec!["NONE".to_owned()],
        ("CMD", line) if !line.is_empty() => {
            check.test = match json_words(line) {
                Some(words) => std::iter::once("CMD".to_owned()).chain(words).collect(),
                None => vec!["CMD-SHELL".to_owned(), line.to_owned()],
            };
        }
        _ => return Err(Error::Invalid("HEALTHCHECK needs NONE or CMD with a command".to_owned())),
    }
    Ok(check)
}

/// `1h30m`, `1.5s`, `300ms`, in nanoseconds.
fn duration(text: &str) -> Option<i64> {
    let mut rest = text;
    let mut sum = 0.0_f64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(digits);
        let unit_end = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, next) = after.split_at(unit_end);
        let scale = match unit {
            "ns" => 1.0,
            "us" | "µs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return None,
        };
        sum += number.parse::<f64>().ok()? * scale;
        rest = next;
    }
    // Beyond some centuries is no interval.
    (!text.is_empty() && sum < 9e18).then_some(sum as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(lines: &[&str]) -> RunConfig {
        let mut config = RunConfig::default();
        for line in lines {
            config.change(line).unwrap();
        }
        config
    }

    #[test]
    fn a_line_is_given_to_the_shell_of_the_image() {
        let shell = ["/bin/bash", "-xc"].map(str::to_owned).to_vec();
        let mut config = RunConfig { shell, ..RunConfig::default() };
        config.change("CMD echo x").unwrap();
        config.change(r#"ENTRYPOINT ["e"]"#).unwrap();
        assert_eq!(config.cmd.clone().unwrap(), ["/bin/bash", "-xc", "echo x"]);
        assert_eq!(config.entrypoint.clone().unwrap(), ["e"]);
    }

    #[test]
    fn instructions_change_what_they_name() {
        let config = changed(&[
            r#"CMD ["sh", "-c", "true"]"#,
            "entrypoint exec top -b",
            r#"ENV A=1 B="two words" C=x\ y"#,
            "ENV A 3  4",
            "LABEL a.b=c 'd e'=f",
            "EXPOSE 80 53/UDP 8000-8010",
            r#"VOLUME ["/a", "/b c"]"#,
            "VOLUME /d /e",
            "USER me:us",
            "WORKDIR /srv",
            "WORKDIR app",
            "STOPSIGNAL SIGRTMIN+3",
            "ONBUILD RUN x",
            "HEALTHCHECK --interval=1m30s --retries=2 CMD curl -f http://localhost/",
        ]);
        assert_eq!(config.cmd.unwrap(), ["sh", "-c", "true"]);
        assert_eq!(config.entrypoint.unwrap(), ["/bin/sh", "-c", "exec top -b"]);
        assert_eq!(config.env, ["A=3  4", "B=two words", "C=x y"]);
        assert_eq!(
            config.labels.into_iter().collect::<Vec<_>>(),
            [("a.b".into(), "c".into()), ("d e".into(), "f".into())]
        );
        assert_eq!(
            config.exposed_ports.into_keys().collect::<Vec<_>>(),
            ["53/udp", "80/tcp", "8000-8010/tcp"]
        );
        assert_eq!(config.volumes.into_keys().collect::<Vec<_>>(), ["/a", "/b c", "/d", "/e"]);
        assert_eq!(config.user, "me:us");
        assert_eq!(config.working_dir, "/srv/app");
        assert_eq!(config.stop_signal, "SIGRTMIN+3");
        assert_eq!(config.on_build, ["RUN x"]);
        let check = config.healthcheck.unwrap();
        assert_eq!(check.interval, 90_000_000_000);
        assert_eq!(check.retries, 2);
        assert_eq!(check.test, ["CMD-SHELL", "curl -f http://localhost/"]);
    }

    #[test]
    fn other_instructions_are_refused() {
        for (line, message) in [
            ("RUN x", "RUN is not a valid change command"),
            ("Foo bar", "Foo is not a valid change command"),
            ("ENV", "ENV requires at least one argument"),
            ("ENV A", "ENV must have two arguments"),
            ("ENV A=1 B", "Syntax error - can't find = in \"B\". Must be of the form: name=value"),
            ("ENV =1", "ENV names can not be blank"),
            ("EXPOSE 0", "invalid containerPort: 0"),
            ("EXPOSE 1/foo", "invalid containerPort: 1/foo"),
            ("LABEL a=\"b", "a quote is not closed in \"a=\\\"b\""),
            ("ONBUILD FROM x", "FROM isn't allowed as an ONBUILD trigger"),
            ("STOPSIGNAL 99", "invalid signal: 99"),
            ("HEALTHCHECK --foo=1 CMD x", "invalid HEALTHCHECK option --foo=1"),
        ] {
            assert_eq!(RunConfig::default().change(line).unwrap_err().to_string(), message, "{line}");
        }
    }
}
