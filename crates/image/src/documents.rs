//! Config documents: what they must have for us, and what Docker adds to OCI's fields.

use jiff::Timestamp;
use oci_spec::image::ImageConfiguration;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use wharf_content::spec;
use wharf_model::Digest;

use crate::types::{DockerFields, Healthcheck};
use crate::{Error, Result};

/// A config document, understood.
#[derive(Debug)]
pub(crate) struct Documents {
    pub(crate) config: ImageConfiguration,
    pub(crate) docker: DockerFields,
    pub(crate) created: Option<Timestamp>,
    pub(crate) diff_ids: Vec<Digest>,
    pub(crate) os: String,
    pub(crate) architecture: String,
    pub(crate) variant: String,
}

/// The parts OCI does not have. Docker writes `null` for most things that are empty.
#[derive(Deserialize)]
struct Extra {
    config: Option<ExtraConfig>,
    comment: Option<String>,
    docker_version: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ExtraConfig {
    healthcheck: Option<Healthcheck>,
    on_build: Option<Vec<String>>,
    shell: Option<Vec<String>>,
}

impl Documents {
    /// Understands a config document; `what` names it in errors.
    pub(crate) fn parse(bytes: &[u8], what: &str) -> Result<Self> {
        let malformed = |reason: String| Error::archive(what, reason);
        let config: ImageConfiguration = spec::parse(bytes).map_err(|error| malformed(error.to_string()))?;
        let extra: Extra = spec::parse(bytes).map_err(|error| malformed(error.to_string()))?;
        if config.rootfs().typ() != "layers" {
            return Err(malformed(format!("its rootfs is of the unknown type {:?}", config.rootfs().typ())));
        }
        let diff_ids = config.rootfs().diff_ids().iter().map(|text| text.parse::<Digest>());
        let diff_ids =
            diff_ids.collect::<Result<Vec<_>, _>>().map_err(|error| malformed(error.to_string()))?;
        let created = config.created().as_deref().and_then(|text| text.parse().ok());
        let nested = extra.config;
        let docker = DockerFields {
            comment: extra.comment.unwrap_or_default(),
            docker_version: extra.docker_version.unwrap_or_default(),
            healthcheck: nested.as_ref().and_then(|config| config.healthcheck.clone()),
            on_build: nested.as_ref().and_then(|config| config.on_build.clone()).unwrap_or_default(),
            shell: nested.and_then(|config| config.shell),
        };
        let (os, architecture) = (config.os().to_string(), config.architecture().to_string());
        let variant = config.variant().clone().unwrap_or_default();
        Ok(Self { config, docker, created, diff_ids, os, architecture, variant })
    }

    /// `os/architecture[/variant]`.
    pub(crate) fn platform(&self) -> String {
        let variant = if self.variant.is_empty() { String::new() } else { format!("/{}", self.variant) };
        format!("{}/{}{variant}", self.os, self.architecture)
    }
}

/// The chain ids of a stack of layers: each names the layer together with everything below it.
pub(crate) fn chain_ids(diff_ids: &[Digest]) -> Vec<Digest> {
    let mut chain: Vec<Digest> = Vec::with_capacity(diff_ids.len());
    for diff in diff_ids {
        chain.push(match chain.last() {
            None => *diff,
            Some(below) => Digest::from_sha256(Sha256::digest(format!("{below} {diff}")).into()),
        });
    }
    chain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_id_covers_what_is_below() {
        let [a, b] = [1, 2].map(|byte| Digest::from_sha256([byte; 32]));
        let chain = chain_ids(&[a, b]);
        assert_eq!(chain[0], a);
        assert_eq!(chain[1], wharf_content::digest_of(format!("{a} {b}").as_bytes()));
        assert_ne!(chain_ids(&[b, a])[1], chain[1]);
    }

    #[test]
    fn dockers_own_fields_and_nulls_are_understood() {
        let text = r#"{"architecture":"amd64","os":"linux","comment":"c","docker_version":"28.5.2","created":"2024-01-02T03:04:05.6Z",
            "config":{"Cmd":null,"Env":null,"Volumes":null,"OnBuild":null,"Labels":null,"ExposedPorts":null,
            "Healthcheck":{"Test":["CMD-SHELL","true"],"Interval":5000000000,"Retries":3},"Shell":["/bin/bash","-c"]},
            "history":null,"rootfs":{"type":"layers","diff_ids":[]}}"#;
        let documents = Documents::parse(text.as_bytes(), "config").unwrap();
        assert_eq!(documents.docker.comment, "c");
        assert_eq!(documents.docker.healthcheck.unwrap().retries, 3);
        assert_eq!(documents.docker.shell.unwrap().len(), 2);
        assert_eq!(documents.created.unwrap().to_string(), "2024-01-02T03:04:05.6Z");
    }

    #[test]
    fn im_11_a_bad_diff_id_is_refused() {
        let text = r#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":["sha256:../../x"]}}"#;
        assert!(Documents::parse(text.as_bytes(), "config").is_err());
    }
}
