//! `ps`.

use std::sync::Arc;

use regex_lite::Regex;
use wharf_model::Filters;
use wharf_model::network::Port;

use super::Container;
use crate::{ContainerView, Engine, Error, ListOptions, Result, Status};

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
    /// Containers, newest first.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a filter that does not exist, [`Error::NoSuchContainer`] for one that names no container.
    pub async fn list_containers(&self, options: ListOptions) -> Result<Vec<ContainerView>> {
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
                    "invalid filter 'health={health}': invalid value for health ({health}): must be one of none, starting, \
                     healthy, unhealthy"
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
        let bound = |key: &str| -> Result<Option<jiff::Timestamp>> {
            filters.values(key).next().map(|name| Ok(self.find(name)?.record().created)).transpose()
        };
        let (before, since) = (bound("before")?, bound("since")?);
        let ancestors = self.ancestors(filters).await;
        let everything = options.all
            || options.limit.is_some()
            || filters.contains("status")
            || filters.contains("exited");
        let mut chosen: Vec<(ContainerView, Arc<Container>)> = Vec::new();
        for container in self.inner.containers.all() {
            let view = self.view(&container);
            let running = matches!(view.state.status, Status::Running | Status::Paused | Status::Restarting);
            let shown = (running || everything)
                && before.is_none_or(|before| view.created < before)
                && since.is_none_or(|since| view.created > since)
                && ancestors.as_ref().is_none_or(|ids| ids.contains(&view.image.to_string()))
                && passes(&view, filters)?;
            if shown {
                chosen.push((view, container));
            }
        }
        chosen.sort_by(|(a, _), (b, _)| b.created.cmp(&a.created).then_with(|| b.id.cmp(&a.id)));
        chosen.truncate(options.limit.filter(|limit| *limit > 0).unwrap_or(usize::MAX));
        let mut views = Vec::with_capacity(chosen.len());
        for (mut view, container) in chosen {
            if options.size {
                view.size = Some(self.sizes(&container).await?);
            }
            views.push(view);
        }
        Ok(views)
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

fn passes(view: &ContainerView, filters: &Filters) -> Result<bool> {
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
    let published = |port: &Port| view.ports.iter().any(|view| view.port == *port && view.host.is_some());
    let exposed = |port: &Port| view.ports.iter().any(|view| view.port == *port);
    Ok(filters.matches_any("id", |id| view.id.as_str().starts_with(id))
        && filters.matches_any("name", |name| name_matches(&view.name, name))
        && filters.matches_any("status", |status| view.state.status.as_str() == status)
        && filters.matches_any("exited", |code| {
            view.state.finished_at.is_some() && code.parse() == Ok(view.state.exit_code)
        })
        && filters.matches_any("health", |wanted| {
            wanted == view.state.health.as_ref().map_or("none", |health| health.status.as_str())
        })
        && filters.boolean("is-task").map_err(|_| not_boolean(filters, "is-task"))? != Some(true)
        && filters.matches_any("network", |name| {
            view.endpoints
                .iter()
                .any(|endpoint| endpoint.network == name || endpoint.network_id.starts_with(name))
        })
        && filters.matches_any("volume", |name| {
            view.mounts
                .iter()
                .any(|mount| mount.name == name || mount.source == name || mount.destination == name)
        })
        && filters.matches_all_labels("label", &view.spec.labels)
        && port_filter("publish", &published)?
        && port_filter("expose", &exposed)?)
}

/// Docker's words for the values of a filter that are neither true nor false.
fn not_boolean(filters: &Filters, key: &str) -> Error {
    let values: Vec<&str> = filters.values(key).collect();
    Error::Invalid(format!("invalid filter '{key}=[{}]'", values.join(" ")))
}

/// Docker takes the value for a regular expression and tries it with and without the slash in front of the name.
fn name_matches(name: &str, pattern: &str) -> bool {
    match Regex::new(pattern) {
        Ok(pattern) => pattern.is_match(name) || pattern.is_match(&format!("/{name}")),
        Err(_) => name == pattern,
    }
}

#[cfg(test)]
mod tests {
    use super::name_matches;

    #[test]
    fn names_match_as_scripts_use_them() {
        assert!(name_matches("web-1", "web"));
        assert!(name_matches("web-1", "^web-1$") && name_matches("web-1", "^/web-1$"));
        assert!(name_matches("web-1", "^/?web-1$") && name_matches("web-1", "w.b"));
        assert!(!name_matches("web-10", "^web-1$") && !name_matches("my-web", "^web"));
    }
}
