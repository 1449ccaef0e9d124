//! `inspect`, and the view of a container that lists show, too.

use std::net::IpAddr;

use wharf_model::network::{NetworkMode, Port};
use wharf_model::spec::{MountKind, MountSpec};
use wharf_model::user_paths::clean_absolute;

use super::{Container, MountRecord, Phase};
use crate::blocking::blocking;
use crate::health::HealthState;
use crate::{ContainerView, Engine, MountView, PortView, Result, StateView, Status};

impl Engine {
    /// Everything about one container.
    ///
    /// # Errors
    /// [`crate::Error::NoSuchContainer`].
    pub async fn inspect_container(&self, name: &str, size: bool) -> Result<ContainerView> {
        let container = self.find(name)?;
        let mut view = self.view(&container);
        if size {
            view.size = Some(self.sizes(&container).await?);
        }
        Ok(view)
    }

    /// Bytes in the writable layer, and in all layers.
    pub(crate) async fn sizes(&self, container: &Container) -> Result<(u64, u64)> {
        let (images, id, image) =
            (self.inner.images.clone(), container.id.clone(), container.record().image.to_string());
        blocking(move || {
            let own = images.snapshot_size(id.as_str())?;
            // The image may have been removed by force.
            let image = images.resolve(&image).map_or(0, |image| image.size);
            Ok((own, own + image))
        })
        .await
    }

    /// A container as it is now, without sizes.
    pub(crate) fn view(&self, container: &Container) -> ContainerView {
        let mut record = container.record().clone();
        if !record.spec.host.links.is_empty() {
            record.spec.host.links = self.shown_links(&record);
        }
        let command = record.command();
        let status = record.phase.status();
        let mounts = mounts(&record);
        let directory = self.inner.config.containers_dir().join(record.id.as_str());
        let file = |name: &str| directory.join(name).display().to_string();
        // Whoever joins a network has its names, too.
        let named = match &record.spec.host.network_mode {
            NetworkMode::Container(other) => self.inner.config.containers_dir().join(other),
            _ => directory.clone(),
        };
        let shared = |name: &str| named.join(name).display().to_string();
        ContainerView {
            id: record.id.clone(),
            name: record.name.clone(),
            created: record.created,
            path: command.first().cloned().unwrap_or_default(),
            args: command.get(1..).unwrap_or_default().to_vec(),
            state: StateView {
                status,
                pid: record.pid,
                exit_code: record.exit_code,
                oom_killed: record.oom_killed,
                error: record.error.clone(),
                started_at: record.started_at,
                finished_at: record.finished_at,
                health: record.health.as_deref().map(HealthState::view),
            },
            image: record.image,
            image_manifest: None,
            mounts,
            endpoints: self.endpoints(&record),
            ports: ports(&record),
            restart_count: record.restart_count,
            execs: self.inner.execs.of_container(&record.id),
            // As in Docker: a file that is an interface, once there was a start.
            log_path: if record.spec.host.log.driver == "json-file" && record.started_at.is_some() {
                file(&crate::logs::json_file_name(record.id.as_str()))
            } else {
                String::new()
            },
            resolv_conf_path: shared("resolv.conf"),
            hostname_path: shared("hostname"),
            hosts_path: shared("hosts"),
            size: None,
            ending: record.ending,
            spec: record.spec,
        }
    }
}

impl Phase {
    /// What inspect and lists call it.
    pub(super) fn status(self) -> Status {
        match self {
            Phase::Created => Status::Created,
            Phase::Running => Status::Running,
            Phase::Paused => Status::Paused,
            Phase::Restarting => Status::Restarting,
            Phase::Exited => Status::Exited,
            Phase::Removing => Status::Removing,
        }
    }
}

/// Mounts, without those that `--tmpfs` asked for.
pub(super) fn mounts(record: &super::Record) -> Vec<MountView> {
    let is_at = |wished: &MountSpec, target: &String| clean_absolute(&wished.target).as_ref() == Some(target);
    let is_shown = |mount: &&MountRecord| {
        mount.kind != MountKind::Tmpfs
            || record.spec.host.mounts.iter().any(|wished| is_at(wished, &mount.target))
    };
    record
        .mounts
        .iter()
        .filter(is_shown)
        .map(|mount| MountView {
            kind: mount.kind,
            name: if mount.image.is_empty() { mount.volume.clone() } else { mount.image.clone() },
            source: mount.source.clone(),
            destination: mount.target.clone(),
            driver: match mount.driver.as_str() {
                "" if !mount.volume.is_empty() => "local".to_owned(),
                driver => driver.to_owned(),
            },
            mode: mount.mode.clone(),
            writable: !mount.read_only,
            propagation: mount.propagation.clone(),
        })
        .collect()
}

/// Published ports while it runs, then those that are only exposed.
pub(super) fn ports(record: &super::Record) -> Vec<PortView> {
    let mut ports: Vec<PortView> = Vec::new();
    for published in
        record.endpoint.iter().filter(|_| record.is_running()).flat_map(|endpoint| &endpoint.ports)
    {
        ports.push(PortView {
            port: Port { number: published.container_port, protocol: published.protocol },
            host: Some((IpAddr::V4(published.host_ip), published.host_port)),
        });
    }
    for port in &record.spec.exposed_ports {
        if !ports.iter().any(|view| view.port == *port) {
            ports.push(PortView { port: *port, host: None });
        }
    }
    ports
}
