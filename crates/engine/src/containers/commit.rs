//! `commit`: an image of a container's image and what it changed. Volumes and what is mounted in it are left out.

use wharf_image::{CommitOptions, Empty, Healthcheck, RunConfig};
use wharf_model::{ContainerSpec, Digest, Reference};

use super::Phase;
use crate::blocking::blocking;
use crate::{Engine, Error, Result};

/// What is wanted of a commit.
#[derive(Clone, Debug, Default)]
pub struct CommitRequest {
    /// The image's name, if any.
    pub reference: Option<Reference>,
    /// Who makes it.
    pub author: String,
    /// Why.
    pub comment: String,
    /// Dockerfile instructions to apply.
    pub changes: Vec<String>,
    /// Freeze a running container meanwhile, so that its files belong together.
    pub pause: bool,
    /// The configuration instead of the container's; what it leaves open is the container's.
    pub config: Option<RunConfig>,
}

impl Engine {
    /// Makes an image of a container.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a change that is no instruction, [`Error::Conflict`] while it is being removed.
    pub async fn commit_container(&self, name: &str, request: CommitRequest) -> Result<Digest> {
        if name.is_empty() {
            return Err(Error::Invalid("invalid name or ID supplied: \"\"".into()));
        }
        let container = self.find(name)?;
        // Neither started nor stopped nor removed meanwhile.
        let _change = container.change.lock().await;
        let phase = container.record().phase;
        if phase == Phase::Removing {
            return Err(Error::Conflict(format!(
                "You cannot commit container {} which is being removed",
                container.id
            )));
        }
        let mut frozen = request.pause && phase == Phase::Running;
        if frozen {
            match self.pause(&container).await {
                // It ended this moment, and changes nothing any more.
                Err(Error::Conflict(_)) => frozen = false,
                paused => paused?,
            }
        }
        let (images, record) = (self.inner.images.clone(), container.record().clone());
        let comment = request.comment.clone();
        let reference = request.reference.as_ref().map(Reference::familiar);
        let options = CommitOptions {
            reference: request.reference,
            author: request.author,
            comment: request.comment,
            changes: request.changes,
            config: request.config,
            container: configuration(&record.spec),
            container_id: record.id.to_string(),
        };
        let committed =
            blocking(move || Ok(images.commit_snapshot(record.id.as_str(), &record.image, options)?)).await;
        if let Ok(id) = &committed {
            self.emit_image("create", id.to_string(), &id.to_string());
            if let Some(name) = &reference {
                self.emit_image("tag", id.to_string(), name);
            }
            let reference = reference.unwrap_or_default();
            let attributes = [("comment", comment), ("imageID", id.to_string()), ("imageRef", reference)];
            self.emit(&container, "commit", &attributes);
        }
        if frozen && container.record().phase == Phase::Paused {
            match self.unpause(&container).await {
                // It was killed meanwhile.
                Ok(()) | Err(Error::Conflict(_)) => {}
                Err(error) => return Err(error),
            }
        }
        committed
    }
}

/// A container's configuration as an image has it.
fn configuration(spec: &ContainerSpec) -> RunConfig {
    let healthcheck = spec.healthcheck.as_ref().map(|check| Healthcheck {
        test: check.test.clone(),
        interval: check.interval,
        timeout: check.timeout,
        start_period: check.start_period,
        start_interval: check.start_interval,
        retries: check.retries,
    });
    RunConfig {
        user: spec.user.clone(),
        exposed_ports: spec.exposed_ports.iter().map(|port| (port.to_string(), Empty {})).collect(),
        env: spec.env.clone(),
        cmd: spec.cmd.clone(),
        healthcheck,
        volumes: spec.volumes.iter().map(|path| (path.clone(), Empty {})).collect(),
        working_dir: spec.working_dir.clone(),
        entrypoint: spec.entrypoint.clone(),
        on_build: Vec::new(),
        labels: spec.labels.clone(),
        stop_signal: spec.stop_signal.clone(),
        shell: spec.shell.clone(),
    }
}
