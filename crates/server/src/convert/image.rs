//! Images as the wire has them.

use std::collections::HashMap;

use serde_json::{Value, json};
use wharf_api::models::{
    DriverData, ImageConfig, ImageDeleteResponseItem, ImageHistoryResponseItem, ImageInspect,
    ImageInspectMetadata, ImageInspectRootFs, ImageSummary,
};
use wharf_engine::ImageView;
use wharf_image::{HistoryEntry, Image, Loaded, Removed};
use wharf_model::Reference;
use wharf_model::spec::Healthcheck;

use crate::convert::inspect::{STORAGE_DRIVER, health};
use crate::convert::{filled, size, time};
use crate::response::value;

fn names(references: &[Reference]) -> Vec<String> {
    references.iter().map(Reference::familiar).collect()
}

/// One row of `images`.
pub(crate) fn to_summary(view: ImageView) -> ImageSummary {
    let image = view.image;
    ImageSummary {
        id: image.id.to_string(),
        parent_id: String::new(),
        repo_tags: names(&image.references),
        repo_digests: names(&image.repo_digests),
        created: image.created.map_or(0, |created| created.as_second()),
        size: size(image.size),
        shared_size: -1,
        labels: image.config.config().as_ref().and_then(|config| config.labels().clone()).unwrap_or_default(),
        containers: size(view.containers as u64),
        manifests: None,
        descriptor: None,
    }
}

/// The document of inspect.
pub(crate) fn to_inspect(view: ImageView) -> Value {
    let image = view.image;
    let model = ImageInspect {
        id: Some(image.id.to_string()),
        repo_tags: Some(names(&image.references)),
        repo_digests: Some(names(&image.repo_digests)),
        comment: Some(image.docker.comment.clone()),
        created: image.created.map(|created| created.to_string()),
        author: image.config.author().clone(),
        architecture: Some(image.config.architecture().to_string()),
        variant: image.config.variant().clone(),
        os: Some(image.config.os().to_string()),
        os_version: None,
        size: Some(size(image.size)),
        graph_driver: Some(DriverData { name: STORAGE_DRIVER.to_owned(), data: HashMap::new() }),
        root_fs: Some(ImageInspectRootFs {
            typ: "layers".to_owned(),
            layers: filled(image.diff_ids.iter().map(ToString::to_string).collect()),
        }),
        metadata: Some(ImageInspectMetadata { last_tag_time: Some(time(image.tagged)) }),
        config: Some(image_config(&image)),
        descriptor: None,
        manifests: None,
        identity: None,
    };
    let mut document = value(&model);
    // The models have dropped it; clients of this version read it.
    document["DockerVersion"] = json!(image.docker.docker_version);
    document
}

fn image_config(image: &Image) -> ImageConfig {
    let Some(oci) = image.config.config().as_ref() else { return ImageConfig::default() };
    let docker = image.docker.clone();
    let check = docker.healthcheck.map(|check| Healthcheck {
        test: check.test,
        interval: check.interval,
        timeout: check.timeout,
        start_period: check.start_period,
        start_interval: check.start_interval,
        retries: check.retries,
    });
    ImageConfig {
        user: oci.user().clone(),
        exposed_ports: oci.exposed_ports().clone().and_then(filled),
        env: oci.env().clone(),
        cmd: oci.cmd().clone(),
        healthcheck: check.map(health),
        volumes: oci.volumes().clone().and_then(filled),
        working_dir: oci.working_dir().clone(),
        entrypoint: oci.entrypoint().clone(),
        on_build: filled(docker.on_build),
        labels: oci.labels().clone().filter(|labels| !labels.is_empty()),
        stop_signal: oci.stop_signal().clone(),
        shell: docker.shell,
        args_escaped: None,
    }
}

/// One line of history.
pub(crate) fn to_history(entry: HistoryEntry) -> ImageHistoryResponseItem {
    ImageHistoryResponseItem {
        id: entry.id.map_or_else(|| "<missing>".to_owned(), |id| id.to_string()),
        created: entry.created.map_or(0, |created| created.as_second()),
        created_by: entry.created_by,
        tags: names(&entry.tags),
        size: size(entry.size),
        comment: entry.comment,
    }
}

/// One line of a removal.
pub(crate) fn to_removed(removed: Removed) -> ImageDeleteResponseItem {
    match removed {
        Removed::Untagged(name) => ImageDeleteResponseItem { untagged: Some(name), deleted: None },
        Removed::Deleted(digest) => {
            ImageDeleteResponseItem { untagged: None, deleted: Some(digest.to_string()) }
        }
    }
}

/// The lines that a loaded image is reported with.
pub(crate) fn load_messages(loaded: &Loaded) -> Vec<Value> {
    let mut lines = Vec::new();
    let Some(reference) = &loaded.reference else {
        return vec![json!({"stream": format!("Loaded image ID: {}\n", loaded.id)})];
    };
    let name = reference.familiar();
    if let Some(old) = &loaded.replaced {
        lines.push(json!({"stream": format!(
            "The image {name} already exists, renaming the old one with ID {old} to empty string\n"
        )}));
    }
    lines.push(json!({"stream": format!("Loaded image: {name}\n")}));
    lines
}

#[cfg(test)]
mod tests {
    use wharf_model::Digest;

    use super::*;

    #[test]
    fn loading_reports_names_ids_and_replaced_images() {
        let id = Digest::from_sha256([1; 32]);
        let named = Reference::parse_normalized("busybox:1").ok();
        let lines = load_messages(&Loaded { reference: named.clone(), id, replaced: None });
        assert_eq!(lines, [json!({"stream": "Loaded image: busybox:1\n"})]);
        let lines = load_messages(&Loaded { reference: None, id, replaced: None });
        assert_eq!(lines, [json!({"stream": format!("Loaded image ID: {id}\n")})]);
        let lines = load_messages(&Loaded { reference: named, id, replaced: Some(id) });
        assert!(lines[0]["stream"].as_str().unwrap().starts_with("The image busybox:1 already exists"));
    }
}
