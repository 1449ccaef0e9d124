//! oci-archive: an image layout in a tar.

use wharf_content::spec::{self, Descriptor, Index, Manifest};
use wharf_model::Reference;

use super::archive::{Archive, blob_name};
use super::archived_name;
use crate::commit::NewImage;
use crate::import::host_architecture;
use crate::{Error, Result};

/// Indexes within indexes.
const MAX_DEPTH: usize = 4;
/// Manifests of one archive.
const MAX_MANIFESTS: usize = 10_000;

/// Marks a manifest that says something about another one and is no image.
const ATTESTATION: &str = "vnd.docker.reference.type";

pub(super) fn images(archive: &mut Archive) -> Result<Vec<NewImage>> {
    let layout: serde_json::Value = spec::parse(archive.document("oci-layout")?)
        .map_err(|error| Error::archive("oci-layout", error.to_string()))?;
    if !layout["imageLayoutVersion"].as_str().is_some_and(|version| version.starts_with("1.")) {
        return Err(Error::archive("oci-layout", "unknown version of the image layout"));
    }
    let index = index(archive)?;
    let mut images = Vec::new();
    for descriptor in index.manifests.iter().filter(|descriptor| is_image(descriptor)) {
        let chosen = choose(archive, descriptor, 0)?;
        let names = name_of(descriptor)?.or(name_of(&chosen)?);
        images.push(image(archive, &chosen, names.into_iter().collect())?);
    }
    if images.is_empty() {
        return Err(Error::archive("index.json", "it lists no image"));
    }
    Ok(images)
}

/// Every manifest of the layout, of all platforms.
pub(super) fn all_manifests(archive: &mut Archive) -> Result<Vec<Descriptor>> {
    let mut found = Vec::new();
    let mut pending: Vec<(Descriptor, usize)> =
        index(archive)?.manifests.into_iter().map(|descriptor| (descriptor, 0)).collect();
    while let Some((descriptor, depth)) = pending.pop() {
        if !is_index(&descriptor.media_type) {
            found.push(descriptor);
        } else if depth < MAX_DEPTH
            && let Ok(bytes) = archive.blob(&descriptor.digest)
            && let Ok(index) = Index::parse(bytes, &descriptor.media_type)
        {
            pending.extend(index.manifests.into_iter().map(|descriptor| (descriptor, depth + 1)));
        }
        if found.len() + pending.len() > MAX_MANIFESTS {
            return Err(Error::limit("the number of manifests in an archive", MAX_MANIFESTS as u64));
        }
    }
    Ok(found)
}

fn index(archive: &mut Archive) -> Result<Index> {
    let index = Index::parse(archive.document("index.json")?, spec::INDEX)
        .map_err(|error| Error::archive("index.json", error.to_string()))?;
    if index.manifests.len() > MAX_MANIFESTS {
        return Err(Error::limit("the number of manifests in an archive", MAX_MANIFESTS as u64));
    }
    Ok(index)
}

pub(crate) fn is_index(media_type: &str) -> bool {
    media_type == spec::INDEX || media_type == spec::DOCKER_INDEX
}

pub(crate) fn is_manifest(media_type: &str) -> bool {
    media_type == spec::MANIFEST || media_type == spec::DOCKER_MANIFEST
}

/// Whether a manifest with such a config is a container image.
pub(crate) fn is_image_config(media_type: &str) -> bool {
    media_type == spec::CONFIG || media_type == spec::DOCKER_CONFIG
}

pub(crate) fn is_image(descriptor: &Descriptor) -> bool {
    descriptor.annotation(ATTESTATION).is_none()
        && (is_index(&descriptor.media_type) || is_manifest(&descriptor.media_type))
}

/// The manifest a descriptor leads to: of an index, the host's, or the only one.
fn choose(archive: &mut Archive, descriptor: &Descriptor, depth: usize) -> Result<Descriptor> {
    if is_manifest(&descriptor.media_type) {
        return Ok(descriptor.clone());
    }
    let what = format!("index {}", descriptor.digest);
    if depth >= MAX_DEPTH {
        return Err(Error::archive(what, "indexes are nested too deeply"));
    }
    let bytes = archive.blob(&descriptor.digest)?;
    check_size(descriptor, bytes.len(), &what)?;
    let index = Index::parse(bytes, &descriptor.media_type)
        .map_err(|error| Error::archive(what.clone(), error.to_string()))?;
    let images: Vec<&Descriptor> = index.manifests.iter().filter(|image| is_image(image)).collect();
    let of_host = images.iter().find(|image| {
        let platform = image.platform.as_ref();
        platform
            .is_some_and(|platform| platform.os == "linux" && platform.architecture == host_architecture())
    });
    match (of_host, &images[..]) {
        (Some(image), _) | (None, [image]) => choose(archive, image, depth + 1),
        _ => Err(Error::archive(what, format!("no matching manifest for linux/{}", host_architecture()))),
    }
}

/// What an index calls an image. A bare tag says nothing about the repository, so it is no name.
fn name_of(descriptor: &Descriptor) -> Result<Option<Reference>> {
    if let Some(name) = descriptor.annotation(spec::ANNOTATION_IMAGE_NAME) {
        return archived_name(name).map(Some);
    }
    match descriptor.annotation(spec::ANNOTATION_REF_NAME) {
        Some(name) if name.contains(['/', ':']) => archived_name(name).map(Some),
        _ => Ok(None),
    }
}

fn image(archive: &mut Archive, descriptor: &Descriptor, names: Vec<Reference>) -> Result<NewImage> {
    let what = format!("manifest {}", descriptor.digest);
    let bytes = archive.blob(&descriptor.digest)?.to_vec();
    check_size(descriptor, bytes.len(), &what)?;
    let manifest = Manifest::parse(&bytes, &descriptor.media_type)
        .map_err(|error| Error::archive(what.clone(), error.to_string()))?;
    if !is_image_config(&manifest.config.media_type) {
        let reason = format!("it is no image: its config has the type {:?}", manifest.config.media_type);
        return Err(Error::archive(what, reason));
    }
    let config = archive.blob(&manifest.config.digest)?.to_vec();
    check_size(&manifest.config, config.len(), "config")?;
    let mut layers = Vec::new();
    for layer in &manifest.layers {
        let source = archive.layer(&blob_name(&layer.digest))?;
        let (_, found, size) = archive.layer_blob(&source);
        check_size(layer, usize::try_from(size).unwrap_or(usize::MAX), "layer")?;
        if compression_of(&layer.media_type) != compression_of(found) {
            let reason = format!("layer {} is announced as {:?} and is not", layer.digest, layer.media_type);
            return Err(Error::archive(what, reason));
        }
        layers.push(source);
    }
    let manifest = Some((bytes, descriptor.media_type.clone()));
    Ok(NewImage { config, manifest, indexes: Vec::new(), layers, names, what })
}

fn check_size(descriptor: &Descriptor, found: usize, what: &str) -> Result<()> {
    if descriptor.size == found as u64 {
        return Ok(());
    }
    Err(Error::archive(what, format!("{} bytes were announced, {found} are there", descriptor.size)))
}

/// The compression a layer's media type promises.
fn compression_of(media_type: &str) -> Option<&'static str> {
    let known = media_type.starts_with("application/vnd.oci.image.layer.")
        || media_type.starts_with("application/vnd.docker.image.rootfs.");
    if !known {
        return None;
    }
    Some(match media_type {
        text if text.ends_with("gzip") => "gzip",
        text if text.ends_with("zstd") => "zstd",
        _ => "none",
    })
}
