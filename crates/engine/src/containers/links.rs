//! `--link`: another container of the default bridge under a name of this one's choosing, in its hosts file and in its
//! environment. Legacy, and therefore exactly as it was: looked up at create, read again at every start.

use std::net::Ipv4Addr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use wharf_model::network::{NetworkMode, Protocol};
use wharf_model::{ContainerId, ContainerSpec};

use super::{Container, Record};
use crate::{Engine, Error, Result, files};

/// One link; what the last start found out about the other container is kept for later execs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LinkRecord {
    /// The other container.
    pub(crate) target: ContainerId,
    /// What this one calls it.
    pub(crate) alias: String,
    /// Its names in the hosts file.
    #[serde(default)]
    pub(crate) names: Vec<String>,
    /// Its address in the hosts file.
    #[serde(default)]
    pub(crate) address: Option<Ipv4Addr>,
    /// What it adds to the environment.
    #[serde(default)]
    pub(crate) env: Vec<String>,
}

impl Record {
    /// What linked containers add to the environment.
    pub(crate) fn linked_environment(&self) -> Vec<String> {
        self.links.iter().flat_map(|link| link.env.iter().cloned()).collect()
    }
}

impl Engine {
    /// Finds the containers that `--link name[:alias]` names.
    pub(super) fn resolve_links(&self, spec: &ContainerSpec) -> Result<Vec<LinkRecord>> {
        let mut links = Vec::new();
        for text in &spec.host.links {
            let (name, alias) = parse(text)?;
            let target = self
                .find(name)
                .map_err(|error| Error::Invalid(format!("could not get container for {name}: {error}")))?;
            links.push(LinkRecord {
                target: target.id.clone(),
                alias: alias.to_owned(),
                names: Vec::new(),
                address: None,
                env: Vec::new(),
            });
        }
        Ok(links)
    }

    /// Reads linked containers as they are now; done before a start.
    pub(super) fn refresh_links(&self, container: &Container) -> Result<()> {
        let record = container.record().clone();
        if record.links.is_empty() || !matches!(record.spec.host.network_mode, NetworkMode::Bridge { .. }) {
            return Ok(());
        }
        let mut links = Vec::new();
        for link in &record.links {
            // One that is gone has taken its link with it.
            let Ok(other) = self.find(link.target.as_str()) else { continue };
            let other = other.record();
            let address = other.endpoint.as_ref().filter(|_| other.is_running()).map(|at| at.address);
            let Some(address) = address else {
                return Err(Error::Invalid(format!(
                    "Cannot link to a non running container: /{} AS /{}/{}",
                    other.name, record.name, link.alias
                )));
            };
            links.push(LinkRecord {
                names: names(&other, &link.alias),
                address: Some(address),
                env: environment(&other, &record.name, &link.alias, address),
                ..link.clone()
            });
        }
        container.record().links = links;
        Ok(())
    }

    /// A container has an address: those that are linked to it hear of it.
    pub(super) fn tell_linked(&self, of: &ContainerId, address: Ipv4Addr) {
        for container in self.inner.containers.all() {
            let record = {
                let mut record = container.record();
                let mut changed = false;
                for link in record.links.iter_mut().filter(|link| link.target == *of) {
                    changed |= link.address.is_some_and(|old| old != address);
                    link.address = link.address.map(|_| address);
                }
                if !changed || !record.is_running() {
                    continue;
                }
                record.clone()
            };
            let directory = self.inner.config.containers_dir().join(record.id.as_str());
            let own = record.endpoint.as_ref();
            let written =
                files::write_hosts(&directory, &record, own.map(|at| at.address), own.map(|at| at.gateway));
            if let Err(error) = written {
                tracing::warn!(container = %record.id, %error, "cannot tell a linked container's new address");
            }
        }
    }

    /// Links as inspect shows them: by the names of today.
    pub(crate) fn shown_links(&self, record: &Record) -> Vec<String> {
        let shown = |link: &LinkRecord| {
            let other: Arc<Container> = self.find(link.target.as_str()).ok()?;
            let name = other.record().name.clone();
            Some(format!("/{name}:/{}/{}", record.name, link.alias))
        };
        record.links.iter().filter_map(shown).collect()
    }
}

/// `name[:alias]`; these are Docker's internal errors.
fn parse(text: &str) -> Result<(&str, &str)> {
    if text.is_empty() {
        return Err(Error::System("empty string specified for links".into()));
    }
    let (name, alias) = match text.split(':').collect::<Vec<_>>()[..] {
        [name] => (name, name),
        [name, alias] => (name, alias),
        _ => return Err(Error::System(format!("bad format for links: {text}"))),
    };
    // The alias goes into the hosts file, and as inspect has it (`/web/db`) only its end counts.
    let alias = alias.rsplit('/').next().unwrap_or(alias);
    let name = name.trim_start_matches('/');
    let letter = alias.len() == 1 && alias.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if !letter && !wharf_model::user_paths::is_name(alias) {
        return Err(Error::Invalid(format!("invalid alias in --link {text}: use letters, digits and . _ -")));
    }
    Ok((name, alias))
}

fn names(other: &Record, alias: &str) -> Vec<String> {
    let mut names = vec![alias.to_owned(), crate::spec::hostname(other)];
    if other.name != alias {
        names.push(other.name.clone());
    }
    names
}

/// `DB_PORT_5432_TCP_ADDR=…` and the rest of Docker's variables.
fn environment(other: &Record, own_name: &str, alias: &str, address: Ipv4Addr) -> Vec<String> {
    let prefix = alias.to_uppercase().replace('-', "_");
    let mut ports: Vec<_> = other.spec.exposed_ports.iter().copied().collect();
    ports.sort_by_key(|port| (port.protocol != Protocol::Tcp, port.number));
    let mut all = Vec::new();
    if let Some(first) = ports.first() {
        all.push(format!("{prefix}_PORT={}://{address}:{}", first.protocol, first.number));
    }
    for port in ports {
        let (number, protocol) = (port.number, port.protocol.to_string());
        let of = format!("{prefix}_PORT_{number}_{}", protocol.to_uppercase());
        all.push(format!("{of}={protocol}://{address}:{number}"));
        all.push(format!("{of}_ADDR={address}"));
        all.push(format!("{of}_PORT={number}"));
        all.push(format!("{of}_PROTO={protocol}"));
    }
    all.push(format!("{prefix}_NAME=/{own_name}/{alias}"));
    let own = |variable: &&String| {
        variable.split_once('=').is_some_and(|(name, _)| !matches!(name, "HOME" | "PATH"))
    };
    all.extend(other.spec.env.iter().filter(own).map(|variable| format!("{prefix}_ENV_{variable}")));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_have_a_name_and_perhaps_an_alias() {
        assert_eq!(parse("db").unwrap(), ("db", "db"));
        assert_eq!(parse("db:sql").unwrap(), ("db", "sql"));
        assert_eq!(parse("/db:/web/sql").unwrap(), ("db", "sql"));
        assert_eq!(parse("").unwrap_err().to_string(), "empty string specified for links");
        assert_eq!(parse("a:b:c").unwrap_err().to_string(), "bad format for links: a:b:c");
        for bad in ["db:a b", "db:a\n1.2.3.4", "db:"] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
