//! `create`: wishes meet the image and this machine and become a record, a snapshot and directories.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use wharf_image::Image;
use wharf_linux::{cgroup, hostfs};
use wharf_model::network::{NetworkMode, Port};
use wharf_model::spec::{Healthcheck, HostSpec, MountKind, RestartName, RestartPolicy};
use wharf_model::{ContainerId, ContainerSpec, signal, user_paths};

use super::{Container, Phase, Record, modes, names, random_id, record};
use crate::apart::apart;
use crate::blocking::blocking;
use crate::{Engine, Error, Result, logs, spec};

impl Engine {
    /// Makes a container; answers its id and warnings for a person.
    ///
    /// # Errors
    /// [`Error::Invalid`] for wishes that cannot be met, [`Error::NotFound`] or [`Error::Image`] for an unknown image,
    /// [`Error::Conflict`] for a name in use. Nothing is left behind.
    pub async fn create_container(
        &self,
        name: Option<&str>,
        spec: ContainerSpec,
    ) -> Result<(ContainerId, Vec<String>)> {
        let (engine, name) = (self.clone(), name.map(str::to_owned));
        // With volumes it may have to wait for file systems and plugins.
        let host = &spec.host;
        let waits = !(host.binds.is_empty() && host.mounts.is_empty() && host.volume_driver.is_empty());
        let waits = waits || !(spec.volumes.is_empty() && host.volumes_from.is_empty());
        let create = move || engine.create_blocking(name.as_deref(), spec);
        let (container, warnings) = if waits { apart(create).await? } else { blocking(create).await? };
        self.emit(&container, "create", &[]);
        Ok((container.id.clone(), warnings))
    }

    fn create_blocking(
        &self,
        name: Option<&str>,
        spec: ContainerSpec,
    ) -> Result<(Arc<Container>, Vec<String>)> {
        if spec.image.is_empty() {
            return Err(Error::Invalid("no command specified".into()));
        }
        modes::conflicts(&spec)?;
        let image = self.inner.images.resolve(&spec.image)?;
        let foreign = check_platform(&spec, &image)?;
        let mut spec = merge(spec, &image);
        self.live().config.defaults.apply(&mut spec.host);
        logs::merge(&mut spec.host.log, &self.inner.config.log);
        let mut warnings = self.check(&mut spec)?;
        warnings.extend(foreign);
        let id = ContainerId::from_bytes(random_id()?);
        let name = self.take_name(name, &id)?;
        let made = self.create_files(&id, &name, spec, &image);
        match made {
            Ok(container) => Ok((container, warnings)),
            Err(error) => {
                self.undo_create(&id);
                self.inner.containers.release(&name);
                Err(error)
            }
        }
    }

    fn take_name(&self, name: Option<&str>, id: &ContainerId) -> Result<String> {
        if let Some(name) =
            name.map(|name| name.strip_prefix('/').unwrap_or(name)).filter(|name| !name.is_empty())
        {
            if !user_paths::is_name(name) {
                return Err(Error::Invalid(format!(
                    "Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
                )));
            }
            self.inner.containers.reserve(name, id)?;
            return Ok(name.to_owned());
        }
        let mut attempt = 0;
        loop {
            let name = names::random(attempt)?;
            match self.inner.containers.reserve(&name, id) {
                Ok(()) => return Ok(name),
                Err(_) if attempt < 64 => attempt += 1,
                Err(error) => return Err(error),
            }
        }
    }

    fn create_files(
        &self,
        id: &ContainerId,
        name: &str,
        spec: ContainerSpec,
        image: &Image,
    ) -> Result<Arc<Container>> {
        let links = self.resolve_links(&spec)?;
        let (mounts, _creating) = spec::mounts::resolve(self, id, &spec)?;
        hostfs::create_dir(&self.inner.config.containers_dir().join(id.as_str()), 0o710)?;
        let layers = self.inner.images.create_snapshot(id.as_str(), &image.id)?;
        for mount in mounts.iter().filter(|mount| mount.kind == MountKind::Volume && !mount.no_copy) {
            self.fill_volume(&layers, id.as_str(), mount)?;
        }
        let record = Record {
            id: id.clone(),
            name: name.to_owned(),
            created: Timestamp::now(),
            image: image.id,
            spec,
            mounts,
            phase: Phase::Created,
            pid: 0,
            exit_code: 0,
            oom_killed: false,
            error: String::new(),
            started_at: None,
            finished_at: None,
            restart_count: 0,
            stopped_by_hand: false,
            remove_volumes: false,
            endpoint: None,
            oom_kills: 0,
            ending: None,
            updating: false,
            links,
            launched_at: None,
            restart_at: None,
            backoff: 0,
            unhealthy_restart: false,
            health: None,
        };
        record::insert(&self.inner.db, &record)?;
        let container = Container::new(record);
        // Before the volumes are let go of: from here on they are seen to be in use.
        self.inner.containers.insert(container.clone());
        Ok(container)
    }

    fn undo_create(&self, id: &ContainerId) {
        self.remove_files(id);
    }

    /// Checks the meaning of merged wishes.
    fn check(&self, spec: &mut ContainerSpec) -> Result<Vec<String>> {
        if spec.entrypoint.iter().flatten().chain(spec.cmd.iter().flatten()).next().is_none() {
            return Err(Error::Invalid("no command specified".into()));
        }
        if !spec.working_dir.is_empty() && !spec.working_dir.starts_with('/') {
            return Err(Error::Invalid(format!(
                "the working directory '{}' is invalid, it needs to be an absolute path",
                spec.working_dir
            )));
        }
        if let Some(variable) =
            spec.env.iter().find(|variable| variable.is_empty() || variable.starts_with('='))
        {
            return Err(Error::Invalid(format!("invalid environment variable: {variable}")));
        }
        if !spec.stop_signal.is_empty() && signal::parse(&spec.stop_signal).is_none() {
            return Err(Error::Invalid(format!("invalid signal: {}", spec.stop_signal)));
        }
        let policy = &spec.host.restart_policy;
        if spec.host.auto_remove && policy.name != RestartName::No {
            return Err(Error::Invalid("can't create 'AutoRemove' container with restart policy".into()));
        }
        check_policy(policy)?;
        crate::health::check(spec)?;
        logs::validate(&spec.host.log)?;
        if spec.host.annotations.contains_key("") {
            return Err(Error::Invalid(
                "invalid Annotations: the empty string is not permitted as an annotation key".into(),
            ));
        }
        storage_options(&spec.host)?;
        let live = self.live();
        let runtimes = &live.config.runtimes;
        if spec.host.runtime.is_empty() {
            runtimes.default_name().clone_into(&mut spec.host.runtime);
        }
        runtimes.find(&spec.host.runtime)?;
        modes::check_identity(spec)?;
        self.check_modes(spec)?;
        spec::security::check(&spec.host)?;
        let mut warnings = super::resources::check(&mut spec.host, false)?;
        if spec.host.network_mode == NetworkMode::Host && !spec.host.port_bindings.is_empty() {
            warnings.push("Published ports are discarded when using host network mode".to_owned());
        }
        Ok(warnings)
    }
}

/// Checks a restart policy.
pub(super) fn check_policy(policy: &RestartPolicy) -> Result<()> {
    if policy.maximum_retry_count != 0 && policy.name != RestartName::OnFailure {
        return Err(Error::Invalid(
            "invalid restart policy: maximum retry count can only be used with 'on-failure'".into(),
        ));
    }
    if policy.maximum_retry_count < 0 {
        return Err(Error::Invalid("invalid restart policy: maximum retry count cannot be negative".into()));
    }
    Ok(())
}

/// Compares the image's platform with the one asked for and with this machine; answers a warning.
fn check_platform(spec: &ContainerSpec, image: &Image) -> Result<Option<String>> {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let has = format!("{}/{}", image.config.os(), image.config.architecture());
    if let Some(wanted) = spec.platform.as_deref().filter(|wanted| !wanted.is_empty()) {
        // The variant (`arm/v7`) narrows what the image says; only what both name is compared.
        let wanted_base: Vec<&str> = wanted.splitn(3, '/').take(2).collect();
        let matches = match wanted_base[..] {
            [one] => has.split('/').any(|part| part == one),
            _ => wanted_base.join("/") == has,
        };
        if !matches {
            return Err(Error::NotFound(format!(
                "image with reference {} was found but its platform ({has}) does not match the specified platform \
                 ({wanted})",
                spec.image
            )));
        }
        return Ok(None);
    }
    let host = format!("linux/{architecture}");
    Ok((has != host).then(|| {
        format!(
            "The requested image's platform ({has}) does not match the detected host platform ({host}) and no specific \
             platform was requested"
        )
    }))
}

/// A quota of the writable layer, in Docker's words for a file system that has none: ours needs no such file system.
fn storage_options(host: &HostSpec) -> Result<()> {
    match host.storage_opt.keys().next() {
        None => Ok(()),
        Some(key) if key.eq_ignore_ascii_case("size") => Err(Error::System(
            "--storage-opt is supported only for overlay over xfs with 'pquota' mount option".into(),
        )),
        Some(key) => Err(Error::System(format!("Unknown option {key}"))),
    }
}

/// Fills what the wishes leave open from the image's configuration, by Docker's rules.
fn merge(mut spec: ContainerSpec, image: &Image) -> ContainerSpec {
    let Some(config) = image.config.config() else { return normalise(spec) };
    if spec.user.is_empty() {
        spec.user = config.user().clone().unwrap_or_default();
    }
    if spec.working_dir.is_empty() {
        spec.working_dir = config.working_dir().clone().unwrap_or_default();
    }
    if spec.stop_signal.is_empty() {
        spec.stop_signal = config.stop_signal().clone().unwrap_or_default();
    }
    let key = |variable: &str| variable.split('=').next().unwrap_or(variable).to_owned();
    for variable in config.env().iter().flatten() {
        if !spec.env.iter().any(|have| key(have) == key(variable)) {
            spec.env.push(variable.clone());
        }
    }
    if spec.entrypoint.as_ref().is_none_or(Vec::is_empty) {
        if spec.cmd.as_ref().is_none_or(Vec::is_empty) {
            spec.cmd.clone_from(config.cmd());
        }
        if spec.entrypoint.is_none() {
            spec.entrypoint.clone_from(config.entrypoint());
        }
    }
    for (name, value) in config.labels().iter().flatten() {
        spec.labels.entry(name.clone()).or_insert_with(|| value.clone());
    }
    spec.exposed_ports
        .extend(config.exposed_ports().iter().flatten().filter_map(|port| port.parse::<Port>().ok()));
    spec.volumes.extend(config.volumes().iter().flatten().cloned());
    if spec.healthcheck.as_ref().is_none_or(|check| check.test.is_empty())
        && let Some(inherited) = &image.docker.healthcheck
    {
        let own = spec.healthcheck.take().unwrap_or_default();
        let or = |own: i64, inherited: i64| if own == 0 { inherited } else { own };
        spec.healthcheck = Some(Healthcheck {
            test: inherited.test.clone(),
            interval: or(own.interval, inherited.interval),
            timeout: or(own.timeout, inherited.timeout),
            start_period: or(own.start_period, inherited.start_period),
            start_interval: or(own.start_interval, inherited.start_interval),
            retries: or(own.retries, inherited.retries),
        });
    }
    normalise(spec)
}

fn normalise(mut spec: ContainerSpec) -> ContainerSpec {
    // `--entrypoint ""` clears the image's.
    if spec.entrypoint.as_deref().is_some_and(|entrypoint| entrypoint == [""]) {
        spec.entrypoint = None;
    }
    spec.host.sysctls.retain(|name, _| !name.is_empty());
    for name in spec.host.cap_add.iter_mut().chain(&mut spec.host.cap_drop) {
        *name = spec::security::full_name(name);
    }
    if spec.host.cgroupns_mode.is_empty() {
        let private = !spec.host.privileged && matches!(cgroup::detect(), Ok(cgroup::Mode::V2));
        spec.host.cgroupns_mode = if private { "private" } else { "host" }.to_owned();
    }
    let open = spec.host.privileged;
    let readonly = || spec::security::READONLY_PATHS.iter().map(|path| (*path).to_owned()).collect();
    let masked = if open { Vec::new() } else { spec::security::masked_paths() };
    spec.host.masked_paths.get_or_insert(masked);
    spec.host.readonly_paths.get_or_insert_with(|| if open { Vec::new() } else { readonly() });
    if spec.host.shm_size == 0 {
        spec.host.shm_size = 64 * 1024 * 1024;
    }
    // Swap is as much again as memory, unless said otherwise.
    if spec.host.memory > 0 && spec.host.memory_swap == 0 {
        spec.host.memory_swap = spec.host.memory.saturating_mul(2);
    }
    spec
}

/// The environment of a container's processes: Docker's own variables, those of linked containers, what was asked for. A
/// function of the request, the image and the links alone (EN-13); the last value of a name wins.
pub(crate) fn environment(spec: &ContainerSpec, hostname: &str, linked: &[String]) -> Vec<String> {
    let mut order: Vec<String> = Vec::new();
    let mut values: BTreeMap<String, String> = BTreeMap::new();
    let mut set = |name: &str, value: String| {
        if values.insert(name.to_owned(), value).is_none() {
            order.push(name.to_owned());
        }
    };
    set("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into());
    set("HOSTNAME", hostname.to_owned());
    if spec.tty {
        set("TERM", "xterm".into());
    }
    let mut removed = Vec::new();
    for variable in linked.iter().chain(&spec.env) {
        match variable.split_once('=') {
            Some((name, value)) => set(name, value.to_owned()),
            None => removed.push(variable.clone()),
        }
    }
    order.retain(|name| !removed.contains(name));
    order.iter().map(|name| format!("{name}={}", values[name])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_has_docker_s_order_and_overrides() {
        let spec = ContainerSpec {
            env: vec!["A=1".into(), "PATH=/bin".into(), "HOSTNAME".into()],
            ..Default::default()
        };
        let linked = ["DB_PORT=tcp://10.0.0.2:1".to_owned(), "A=0".to_owned()];
        assert_eq!(environment(&spec, "box", &linked), ["PATH=/bin", "DB_PORT=tcp://10.0.0.2:1", "A=1"]);
    }
}
