//! The three networks every engine has: `bridge`, `host` and `none`.

use std::collections::BTreeMap;

use wharf_model::Filters;
use wharf_model::network::NetworkMode;

use crate::blocking::blocking;
use crate::containers::{Record, derived_id};
use crate::{EndpointView, Engine, Error, NetworkView, Result};

/// Network names and drivers.
const BUILT_IN: [(&str, &str); 3] = [("bridge", "bridge"), ("host", "host"), ("none", "null")];

impl Engine {
    /// The networks that pass the filters (`driver`, `id`, `label`, `name`, `scope`, `type`, `dangling`).
    ///
    /// # Errors
    /// [`Error::Invalid`] for another filter.
    pub async fn list_networks(&self, filters: Filters) -> Result<Vec<NetworkView>> {
        filters.check_keys(&["dangling", "driver", "id", "label", "name", "scope", "type"])?;
        let mut networks = Vec::new();
        if let Some(other) = filters.values("type").find(|kind| !matches!(*kind, "builtin" | "custom")) {
            return Err(Error::Invalid(format!("invalid filter: 'type'='{other}'")));
        }
        let dangling = filters.boolean("dangling").map_err(|_| {
            Error::Invalid(
                "invalid value for filter 'dangling', must be \"true\" (or \"1\"), or \"false\" (or \"0\")"
                    .into(),
            )
        })?;
        for (name, driver) in BUILT_IN {
            let id = self.network_id(name);
            let chosen = filters.matches_any("name", |value| name.contains(value))
                && filters.matches_any("id", |value| id.starts_with(value))
                && filters.matches_any("driver", |value| driver == value)
                && filters.matches_any("scope", |value| value == "local")
                && filters.matches_any("type", |value| value == "builtin")
                && dangling != Some(true)
                && !filters.contains("label");
            if chosen {
                networks.push(self.network_view(name, driver).await?);
            }
        }
        Ok(networks)
    }

    /// One network, by name or beginning of its id.
    ///
    /// # Errors
    /// [`Error::NoSuchNetwork`].
    pub async fn inspect_network(&self, name: &str) -> Result<NetworkView> {
        let known = BUILT_IN.into_iter().find(|(known, _)| {
            *known == name || (name.len() >= 2 && self.network_id(known).starts_with(name))
        });
        let (known, driver) = known.ok_or_else(|| Error::NoSuchNetwork(name.to_owned()))?;
        self.network_view(known, driver).await
    }

    /// A network's id: derived from the engine's, so that it is stable and differs between engines.
    pub(crate) fn network_id(&self, name: &str) -> String {
        let seed = format!("{}/{name}", self.inner.id);
        derived_id(&seed)
    }

    /// A container's place on the network, from its record.
    pub(crate) fn endpoints(&self, record: &Record) -> Vec<EndpointView> {
        let name = match &record.spec.host.network_mode {
            NetworkMode::Bridge { .. } => "bridge",
            NetworkMode::Host => "host",
            NetworkMode::None => "none",
            NetworkMode::Container(_) | NetworkMode::Named(_) => return Vec::new(),
        };
        let endpoint = record.endpoint.as_ref().filter(|_| record.is_running());
        let seed = format!("{}/{name}/{}", record.id, record.started_at.unwrap_or_default());
        vec![EndpointView {
            network: name.to_owned(),
            // Nothing is known of a network that was never joined.
            network_id: if record.started_at.is_some() { self.network_id(name) } else { String::new() },
            endpoint_id: if record.is_running() { derived_id(&seed) } else { String::new() },
            address: endpoint.map(|endpoint| (endpoint.address, endpoint.prefix_len)),
            gateway: endpoint.map(|endpoint| endpoint.gateway),
            mac: endpoint.map(|endpoint| endpoint.mac.0),
        }]
    }

    async fn network_view(&self, name: &str, driver: &str) -> Result<NetworkView> {
        let mut options = BTreeMap::new();
        let mut subnet = None;
        if name == "bridge" {
            let network = self.inner.network.clone();
            let info = blocking(move || Ok(network.info()?)).await?;
            subnet = Some((info.subnet.to_string(), info.gateway));
            for (key, value) in [
                ("com.docker.network.bridge.default_bridge", "true".to_owned()),
                ("com.docker.network.bridge.enable_icc", "true".to_owned()),
                ("com.docker.network.bridge.enable_ip_masquerade", "true".to_owned()),
                ("com.docker.network.bridge.host_binding_ipv4", "0.0.0.0".to_owned()),
                ("com.docker.network.bridge.name", info.name),
                ("com.docker.network.driver.mtu", "1500".to_owned()),
            ] {
                options.insert(key.to_owned(), value);
            }
        }
        let mut containers = Vec::new();
        for container in self.inner.containers.all() {
            let record = container.record().clone();
            if !record.is_running() {
                continue;
            }
            for endpoint in self.endpoints(&record).into_iter().filter(|endpoint| endpoint.network == name) {
                let mac =
                    record.endpoint.as_ref().map(|endpoint| endpoint.mac.to_string()).unwrap_or_default();
                let address = endpoint.address.map(|(ip, len)| format!("{ip}/{len}")).unwrap_or_default();
                containers.push((
                    record.id.to_string(),
                    record.name.clone(),
                    endpoint.endpoint_id,
                    mac,
                    address,
                ));
            }
        }
        Ok(NetworkView {
            name: name.to_owned(),
            id: self.network_id(name),
            driver: driver.to_owned(),
            created: self.inner.opened,
            subnet,
            options,
            containers,
        })
    }
}
