//! Settings that may change while the engine runs: [`Engine::reload`] puts a new set in force at once; what is under way
//! keeps the set it began with.

use std::sync::{Arc, PoisonError, RwLock};

use wharf_model::spec::{HostSpec, Ulimit};
use wharf_registry::Client;

use crate::{Engine, EngineConfig, Result};

/// What containers get that do not ask for something else.
#[derive(Clone, Debug, Default)]
pub struct ContainerDefaults {
    /// Limits of processes, by name.
    pub ulimits: Vec<Ulimit>,
    /// Bytes of `/dev/shm`; 0 for 64 MiB.
    pub shm_size: i64,
    /// IPC namespace mode; empty for private.
    pub ipc_mode: String,
    /// Cgroup namespace mode; empty for the machine's default.
    pub cgroupns_mode: String,
    /// Parent control group; empty for the engine's own.
    pub cgroup_parent: String,
    /// Run an init as process 1.
    pub init: bool,
    /// Processes gain no privileges by executing files.
    pub no_new_privileges: bool,
    /// Name servers.
    pub dns: Vec<String>,
    /// `resolv.conf` options.
    pub dns_options: Vec<String>,
    /// Search domains.
    pub dns_search: Vec<String>,
}

impl ContainerDefaults {
    /// Fills in what a request left open.
    pub(crate) fn apply(&self, host: &mut HostSpec) {
        for limit in &self.ulimits {
            if !host.ulimits.iter().any(|given| given.name == limit.name) {
                host.ulimits.push(limit.clone());
            }
        }
        if host.shm_size == 0 {
            host.shm_size = self.shm_size;
        }
        for (given, default) in [
            (&mut host.ipc_mode, &self.ipc_mode),
            (&mut host.cgroupns_mode, &self.cgroupns_mode),
            (&mut host.cgroup_parent, &self.cgroup_parent),
        ] {
            if given.is_empty() {
                given.clone_from(default);
            }
        }
        for (given, default) in [
            (&mut host.dns, &self.dns),
            (&mut host.dns_options, &self.dns_options),
            (&mut host.dns_search, &self.dns_search),
        ] {
            if given.is_empty() {
                given.clone_from(default);
            }
        }
        if self.init && host.init.is_none() {
            host.init = Some(true);
        }
        let says = |option: &String| option.starts_with("no-new-privileges");
        if self.no_new_privileges && !host.privileged && !host.security_opt.iter().any(says) {
            host.security_opt.push("no-new-privileges".to_owned());
        }
    }
}

/// One set of settings, with what was made of them.
pub(crate) struct Set {
    pub(crate) config: EngineConfig,
    /// The way to registries.
    pub(crate) registries: Client,
}

/// The set that is in force.
pub(crate) struct Live(RwLock<Arc<Set>>);

impl Live {
    pub(crate) fn new(config: EngineConfig) -> Result<Self> {
        Ok(Self(RwLock::new(Self::set(config)?)))
    }

    fn set(config: EngineConfig) -> Result<Arc<Set>> {
        let registries = Client::new(config.registries.clone())?;
        Ok(Arc::new(Set { config, registries }))
    }

    pub(crate) fn now(&self) -> Arc<Set> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Engine {
    /// The settings in force.
    pub(crate) fn live(&self) -> Arc<Set> {
        self.inner.live.now()
    }

    /// Whether [`Engine::reload`] would take these settings.
    ///
    /// # Errors
    /// As there.
    pub fn check_reload(&self, config: &EngineConfig) -> Result<()> {
        Live::set(config.clone()).map(drop)
    }

    /// Puts those settings of `config` in force that may change while the engine runs, and tells it with `attributes`:
    /// debug, labels, live restore, registries, transfers and what containers get by default.
    ///
    /// # Errors
    /// When the settings of registries mean nothing; everything stays as it was.
    pub fn reload(&self, config: EngineConfig, attributes: Vec<(String, String)>) -> Result<()> {
        let set = Live::set(config)?;
        self.inner.images.set_concurrency(set.config.transfers);
        *self.inner.live.0.write().unwrap_or_else(PoisonError::into_inner) = set;
        self.tell_reload(attributes.into_iter().collect());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(name: &str, soft: i64) -> Ulimit {
        Ulimit { name: name.to_owned(), soft, hard: soft }
    }

    #[test]
    fn a_default_yields_to_what_was_asked_for() {
        let defaults = ContainerDefaults {
            ulimits: vec![limit("nofile", 1), limit("nproc", 2)],
            shm_size: 5,
            ipc_mode: "private".to_owned(),
            init: true,
            no_new_privileges: true,
            dns: vec!["192.0.2.1".to_owned()],
            ..ContainerDefaults::default()
        };
        let mut open = HostSpec::default();
        defaults.apply(&mut open);
        assert_eq!(open.ulimits, [limit("nofile", 1), limit("nproc", 2)]);
        assert_eq!((open.shm_size, open.ipc_mode.as_str(), open.init), (5, "private", Some(true)));
        assert_eq!((open.dns.len(), open.security_opt.len()), (1, 1));
        let mut given = HostSpec {
            ulimits: vec![limit("nofile", 9)],
            shm_size: 7,
            init: Some(false),
            security_opt: vec!["no-new-privileges=false".to_owned()],
            ..HostSpec::default()
        };
        defaults.apply(&mut given);
        assert_eq!(given.ulimits, [limit("nofile", 9), limit("nproc", 2)]);
        assert_eq!((given.shm_size, given.init, given.security_opt.len()), (7, Some(false), 1));
    }
}
