//! `ps`.

use std::sync::Arc;

use jiff::Timestamp;
use regex_lite::Regex;
use wharf_model::Filters;
use wharf_model::network::Port;

use super::inspect::{mounts, ports};
use super::{Container, Phase, Record};
use crate::{ContainerRow, Engine, Error, ListOptions, Result};

const KEYS: &[&str] = &[
    "ancestor",
    "before",
    "expose",
    "exited",
    "health",
    "id",
    "is-task",
    "isolation",
    "label",
    "name",
    "network",
    "publish",
    "since",
    "status",
    "volume",
];

impl Engine {
    /// Shows containers, newest first. Each is looked at while it is shown: a list of a thousand copies none of them.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a filter that does not exist, [`Error::NoSuchContainer`] for one that names no container.
    pub async fn list_containers(
        &self,
        options: ListOptions,
        mut show: impl FnMut(&ContainerRow<'_>) + Send,
    ) -> Result<()> {
        let filters = &options.filters;
        filters.check_keys(KEYS)?;
        for status in filters.values("status") {
            let known = ["created", "running", "paused", "restarting", "removing", "exited", "dead"];
            if !known.contains(&status) {
                return Err(Error::Invalid(format!(
                    "invalid filter 'status={status}': invalid value for state ({status}): must be one of created, \
                     running, paused, restarting, removing, exited, dead"
                )));
            }
        }
        for health in filters.values("health") {
            if !["none", "starting", "healthy", "unhealthy"].contains(&health) {
                return Err(Error::Invalid(format!(
                    "invalid filter 'health={health}': invalid value for health ({health}): must be one of none, \
                     starting, healthy, unhealthy"
                )));
            }
        }
        let bound = |key: &str| -> Result<Option<Timestamp>> {
            filters.values(key).next().map(|name| Ok(self.find(name)?.record().created)).transpose()
        };
        let (before, since) = (bound("before")?, bound("since")?);
        let ancestors = self.ancestors(filters).await;
        let everything = options.all
            || options.limit.is_some()
            || filters.contains("status")
            || filters.contains("exited");
        let names = Names::of(filters);
        let passes = |record: &Record, row: &ContainerRow<'_>| -> Result<bool> {
            let running = matches!(record.phase, Phase::Running | Phase::Paused | Phase::Restarting);
            Ok((running || everything)
                && before.is_none_or(|before| record.created < before)
                && since.is_none_or(|since| record.created > since)
                && ancestors.as_ref().is_none_or(|ids| ids.contains(&record.image.to_string()))
                && passes(row, filters, &names)?)
        };
        let mut chosen: Vec<(Timestamp, Arc<Container>)> = Vec::new();
        for container in self.inner.containers.all() {
            let record = container.record();
            if self.with_row(&record, None, |row| passes(&record, row))? {
                chosen.push((record.created, container.clone()));
            }
        }
        chosen.sort_by(|(a_created, a), (b_created, b)| (b_created, &b.id).cmp(&(a_created, &a.id)));
        chosen.truncate(options.limit.filter(|limit| *limit > 0).unwrap_or(usize::MAX));
        for (_, container) in chosen {
            let size = match options.size {
                true => match self.sizes(&container).await {
                    // It was removed while the others were measured.
                    Err(_) if container.is_going() => continue,
                    measured => Some(measured?),
                },
                false => None,
            };
            let record = container.record();
            self.with_row(&record, size, |row| {
                // It may be another now.
                if passes(&record, row)? {
                    show(row);
                }
                Ok::<_, Error>(())
            })?;
        }
        Ok(())
    }

    fn with_row<T>(
        &self,
        record: &Record,
        size: Option<(u64, u64)>,
        look: impl FnOnce(&ContainerRow<'_>) -> T,
    ) -> T {
        look(&ContainerRow {
            id: &record.id,
            name: &record.name,
            created: record.created,
            status: record.phase.status(),
            exit_code: record.exit_code,
            started_at: record.started_at,
            finished_at: record.finished_at,
            health: record.health.as_ref().map(|health| health.status),
            image: &record.image,
            spec: &record.spec,
            mounts: mounts(record),
            endpoints: &|| self.endpoints(record),
            ports: ports(record),
            size,
        })
    }

    /// Image ids that `ancestor` names; unknown names match nothing.
    async fn ancestors(&self, filters: &Filters) -> Option<Vec<String>> {
        if !filters.contains("ancestor") {
            return None;
        }
        let mut ids = Vec::new();
        for name in filters.values("ancestor") {
            if let Ok(image) = self.inspect_image(name, None).await {
                ids.push(image.image.id.to_string());
            }
        }
        Some(ids)
    }
}

fn passes(row: &ContainerRow<'_>, filters: &Filters, names: &Names<'_>) -> Result<bool> {
    let port_filter = |key: &str, test: &dyn Fn(&Port) -> bool| -> Result<bool> {
        if !filters.contains(key) {
            return Ok(true);
        }
        for wanted in filters.values(key) {
            let (range, protocol) = wanted.split_once('/').unwrap_or((wanted, "tcp"));
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            // Docker calls it a failure of its own.
            let refused =
                |why: String| Error::System(format!("error while looking up for {key} {wanted}: {why}"));
            let parse = |number: &str| {
                number
                    .parse::<u16>()
                    .map_err(|_| refused(format!("strconv.ParseUint: parsing \"{number}\": invalid syntax")))
            };
            let (first, last) = (parse(first)?, parse(last)?);
            if last < first {
                return Err(refused(format!("Invalid range specified for the Port: {range}")));
            }
            // A protocol that there is not matches nothing.
            let Ok(Port { protocol, .. }) = format!("1/{protocol}").parse::<Port>() else { continue };
            if (first..=last).any(|number| test(&Port { number, protocol })) {
                return Ok(true);
            }
        }
        Ok(false)
    };
    for code in filters.values("exited") {
        if code.parse::<i32>().is_err() {
            return Err(Error::Invalid(format!(
                "invalid filter 'exited={code}': strconv.Atoi: parsing \"{code}\": invalid syntax"
            )));
        }
    }
    let published = |port: &Port| row.ports.iter().any(|shown| shown.port == *port && shown.host.is_some());
    let exposed = |port: &Port| row.ports.iter().any(|shown| shown.port == *port);
    Ok(filters.matches_any("id", |id| row.id.as_str().starts_with(id))
        && names.allow(row.name)
        && filters.matches_any("status", |status| row.status.as_str() == status)
        && filters
            .matches_any("exited", |code| row.finished_at.is_some() && code.parse() == Ok(row.exit_code))
        && filters
            .matches_any("health", |wanted| wanted == row.health.map_or("none", |health| health.as_str()))
        && filters.boolean("is-task").map_err(|_| not_boolean(filters, "is-task"))? != Some(true)
        && filters.matches_any("network", |name| {
            (row.endpoints)()
                .iter()
                .any(|endpoint| endpoint.network == name || endpoint.network_id.starts_with(name))
        })
        && filters.matches_any("volume", |name| {
            row.mounts
                .iter()
                .any(|mount| mount.name == name || mount.source == name || mount.destination == name)
        })
        && filters.matches_all_labels("label", &row.spec.labels)
        && port_filter("publish", &published)?
        && port_filter("expose", &exposed)?)
}

/// Docker's words for the values of a filter that are neither true nor false.
fn not_boolean(filters: &Filters, key: &str) -> Error {
    let values: Vec<&str> = filters.values(key).collect();
    Error::Invalid(format!("invalid filter '{key}=[{}]'", values.join(" ")))
}

/// The values of `name`. Docker takes each for a regular expression and tries it with and without the slash in front of
/// the name.
struct Names<'a>(Vec<(&'a str, Option<Regex>)>);

impl<'a> Names<'a> {
    fn of(filters: &'a Filters) -> Self {
        Self(filters.values("name").map(|text| (text, Regex::new(text).ok())).collect())
    }

    fn allow(&self, name: &str) -> bool {
        let fits = |(text, pattern): &(&str, Option<Regex>)| match pattern {
            Some(pattern) => pattern.is_match(name) || pattern.is_match(&format!("/{name}")),
            None => name == *text,
        };
        self.0.is_empty() || self.0.iter().any(fits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name_matches(name: &str, pattern: &str) -> bool {
        let mut filters = Filters::default();
        filters.add("name", pattern);
        Names::of(&filters).allow(name)
    }

    #[test]
    fn names_match_as_scripts_use_them() {
        assert!(Names::of(&Filters::default()).allow("web-1"));
        assert!(name_matches("web-1", "web"));
        assert!(name_matches("web-1", "^web-1$") && name_matches("web-1", "^/web-1$"));
        assert!(name_matches("web-1", "^/?web-1$") && name_matches("web-1", "w.b"));
        assert!(!name_matches("web-10", "^web-1$") && !name_matches("my-web", "^web"));
        assert!(name_matches("a(", "a(") && !name_matches("a", "a("));
    }
}
