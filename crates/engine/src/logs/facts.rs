//! What log records say about their container: id, name, image, tag, and chosen labels and variables.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use regex_lite::Regex;

use super::template;
use crate::containers::Record;

/// Docker's word for who writes the records.
const DAEMON: &str = "docker";
/// How drivers tag records unless told otherwise.
pub(super) const TAG: &str = "{{.ID}}";

/// Facts about a container, as they are when its driver begins.
#[derive(Debug, Clone, Default)]
pub(crate) struct Facts {
    pub(super) id: String,
    /// Without a slash.
    pub(super) name: String,
    pub(super) image: String,
    /// With its algorithm.
    pub(super) image_id: String,
    pub(super) command: Vec<String>,
    pub(super) created: jiff::Timestamp,
    env: Vec<String>,
    labels: BTreeMap<String, String>,
    options: BTreeMap<String, String>,
    /// Of the machine.
    pub(super) host: String,
    pub(super) log_path: String,
}

impl Facts {
    pub(crate) fn of(record: &Record, log_path: String) -> Self {
        Self {
            id: record.id.to_string(),
            name: record.name.clone(),
            image: record.spec.image.clone(),
            image_id: record.image.to_string(),
            command: record.command(),
            created: record.created,
            env: record.spec.env.clone(),
            labels: record.spec.labels.clone(),
            options: record.spec.host.log.options.clone(),
            host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            log_path,
        }
    }

    /// The first twelve digits of the id.
    pub(super) fn short_id(&self) -> &str {
        self.id.get(..12).unwrap_or(&self.id)
    }

    /// The tag: the option's template, or `default`, filled in.
    ///
    /// # Errors
    /// Docker's text.
    pub(super) fn tag(&self, default: &str) -> Result<String, String> {
        let template = self.options.get("tag").map_or(default, String::as_str);
        template::fill(template, |field| self.field(field))
    }

    fn field(&self, path: &[&str]) -> Option<template::Value> {
        use template::Value;
        let cut = |text: &str| text.get(..12).unwrap_or(text).to_owned();
        Some(Value::Text(match path {
            ["ContainerLabels"] => return Some(Value::Map(self.labels.clone())),
            ["ContainerLabels", key] => self.labels.get(*key).cloned().unwrap_or_default(),
            ["ID"] => self.short_id().to_owned(),
            ["FullID" | "ContainerID"] => self.id.clone(),
            ["Name"] => self.name.clone(),
            ["ContainerName"] => format!("/{}", self.name),
            ["ImageID"] => cut(&self.image_id),
            ["ImageFullID" | "ContainerImageID"] => self.image_id.clone(),
            ["ImageName" | "ContainerImageName"] => self.image.clone(),
            ["DaemonName"] => DAEMON.to_owned(),
            ["Command"] => self.command.join(" "),
            ["ContainerEntrypoint"] => self.command.first().cloned().unwrap_or_default(),
            ["ContainerCreated"] => self.created.to_string(),
            ["Hostname"] => self.host.clone(),
            ["LogPath"] => self.log_path.clone(),
            _ => return None,
        }))
    }

    /// The labels and variables that the options choose, under keys that `rename` makes of their names.
    ///
    /// # Errors
    /// Docker's text, for a bad regular expression.
    pub(super) fn chosen(&self, rename: impl Fn(&str) -> String) -> Result<BTreeMap<String, String>, String> {
        let mut chosen = BTreeMap::new();
        let labels = self.labels.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let env = self.env.iter().filter_map(|variable| variable.split_once('='));
        self.choose("labels", labels, &rename, &mut chosen)?;
        self.choose("env", env, &rename, &mut chosen)?;
        Ok(chosen)
    }

    fn choose<'a>(
        &self,
        option: &str,
        all: impl Iterator<Item = (&'a str, &'a str)>,
        rename: &impl Fn(&str) -> String,
        chosen: &mut BTreeMap<String, String>,
    ) -> Result<(), String> {
        let text = |name: &str| self.options.get(name).map(String::as_str).filter(|text| !text.is_empty());
        let names: Vec<&str> = text(option).into_iter().flat_map(|list| list.split(',')).collect();
        let pattern = match text(&format!("{option}-regex")) {
            None => None,
            Some(pattern) => {
                Some(Regex::new(pattern).map_err(|error| format!("error parsing regexp: {error}"))?)
            }
        };
        for (name, value) in all {
            if names.contains(&name) || pattern.as_ref().is_some_and(|pattern| pattern.is_match(name)) {
                chosen.insert(rename(name), value.to_owned());
            }
        }
        Ok(())
    }

    /// What `json-file` writes with every record and `logs --details` shows: the chosen ones, and a tag if asked for.
    ///
    /// # Errors
    /// As [`Facts::chosen`] and [`Facts::tag`].
    pub(super) fn attributes(&self) -> Result<BTreeMap<String, String>, String> {
        let mut attributes = self.chosen(str::to_owned)?;
        let tag = self.tag("")?;
        if !tag.is_empty() {
            attributes.insert("tag".to_owned(), tag);
        }
        Ok(attributes)
    }

    /// In front of each line of `logs --details`.
    pub(crate) fn details(&self) -> String {
        // What cannot be read has kept the container from starting.
        let attributes = self.attributes().unwrap_or_default();
        let mut text = String::new();
        for (name, value) in &attributes {
            if !text.is_empty() {
                text.push(',');
            }
            escape(name, &mut text);
            text.push('=');
            escape(value, &mut text);
        }
        text.push(' ');
        text
    }
}

/// As in the query of a URL.
fn escape(text: &str, out: &mut String) {
    for byte in text.bytes() {
        match byte {
            b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            b' ' => out.push('+'),
            // A String never refuses.
            byte => drop(write!(out, "%{byte:02X}")),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A container with some of everything.
    pub(crate) fn some(options: &[(&str, &str)]) -> Facts {
        let pairs = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        Facts {
            id: "0123456789abcdef".repeat(4),
            name: "web".into(),
            image: "shop/web:1".into(),
            image_id: "sha256:feedbeef".into(),
            command: vec!["sh".into(), "-c".into(), "true".into()],
            env: vec!["MODE=fast".into(), "MOOD=a b&c".into(), "EMPTY".into()],
            labels: pairs(&[("tier", "1"), ("com.team", "x,y")]),
            options: pairs(options),
            host: "machine".into(),
            ..Facts::default()
        }
    }

    #[test]
    fn labels_and_variables_are_chosen_by_name_and_pattern() {
        let chosen = |options: &[(&str, &str)]| {
            let chosen = some(options).chosen(str::to_owned).unwrap();
            chosen.into_iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(chosen(&[]), "");
        assert_eq!(chosen(&[("labels", "tier,none"), ("env", "MODE,EMPTY")]), "MODE=fast tier=1");
        assert_eq!(
            chosen(&[("labels-regex", "^com"), ("env-regex", "^MO")]),
            "MODE=fast MOOD=a b&c com.team=x,y"
        );
        assert!(some(&[("env-regex", "(")]).chosen(str::to_owned).is_err());
    }

    #[test]
    fn details_are_sorted_and_escaped() {
        let facts = some(&[("env", "MOOD"), ("labels", "com.team"), ("tag", "{{.Name}}/{{.ImageID}}")]);
        assert_eq!(facts.details(), "MOOD=a+b%26c,com.team=x%2Cy,tag=web%2Fsha256%3Afeedb ");
        assert_eq!(some(&[]).details(), " ");
    }
}
