//! docker-archive: a `manifest.json` that lists images. Newer archives are an image layout as well.

use std::collections::HashMap;

use serde::Deserialize;
use wharf_content::spec;
use wharf_model::Digest;

use super::archive::Archive;
use super::{archived_name, oci};
use crate::commit::NewImage;
use crate::{Error, Result};

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Item {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

pub(super) fn images(archive: &mut Archive) -> Result<Vec<NewImage>> {
    let items: Vec<Item> = spec::parse(archive.document("manifest.json")?)
        .map_err(|error| Error::archive("manifest.json", error.to_string()))?;
    if items.is_empty() {
        return Err(Error::archive("manifest.json", "it lists no image"));
    }
    let mut manifests = manifests_by_config(archive)?;
    let mut images = Vec::new();
    for item in items {
        let config = archive.document(&item.config)?.to_vec();
        let layers = item.layers.unwrap_or_default();
        let layers = layers.iter().map(|name| archive.layer(name)).collect::<Result<Vec<_>>>()?;
        let names = item.repo_tags.unwrap_or_default();
        let names = names.iter().map(|name| archived_name(name)).collect::<Result<Vec<_>>>()?;
        let id = wharf_content::digest_of(&config);
        // The manifest the image was saved with keeps its digest, if it is about these very layers.
        let manifest = manifests.remove(&id).filter(|manifest| {
            let blobs = layers.iter().map(|layer| archive.layer_blob(layer).0);
            manifest.layers.iter().copied().eq(blobs)
        });
        let manifest = manifest.map(|manifest| (manifest.bytes, manifest.media_type));
        images.push(NewImage {
            config,
            manifest,
            indexes: Vec::new(),
            layers,
            names,
            what: format!("image {}", id.short()),
        });
    }
    Ok(images)
}

struct OciManifest {
    bytes: Vec<u8>,
    media_type: String,
    layers: Vec<Digest>,
}

/// The manifests of an archive that is an image layout too, by config. One that cannot be used is left out: the
/// docker-archive part says everything that is needed.
fn manifests_by_config(archive: &mut Archive) -> Result<HashMap<Digest, OciManifest>> {
    let mut manifests = HashMap::new();
    if !archive.has("index.json") {
        return Ok(manifests);
    }
    for descriptor in oci::all_manifests(archive)? {
        let Ok(bytes) = archive.blob(&descriptor.digest) else { continue };
        let Ok(manifest) = spec::Manifest::parse(bytes, &descriptor.media_type) else { continue };
        let manifest = OciManifest {
            bytes: bytes.to_vec(),
            media_type: descriptor.media_type,
            layers: manifest.layers.iter().map(|layer| layer.digest).collect(),
        };
        let config = spec::Manifest::parse(&manifest.bytes, &manifest.media_type).map(|m| m.config.digest);
        if let Ok(config) = config {
            manifests.insert(config, manifest);
        }
    }
    Ok(manifests)
}
