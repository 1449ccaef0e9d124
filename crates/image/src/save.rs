//! `save`: one archive that is both a docker-archive and an OCI image layout, the same bytes each time.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};

use serde::Serialize;
use wharf_content::spec::{self, Annotations, Descriptor, Index, Manifest};
use wharf_model::{Digest, Reference};

use crate::import::file_of;
use crate::lookup::{find, is_id};
use crate::records::{self, ImageRow};
use crate::tar::{Header, Kind, Writer};
use crate::{Error, Images, Result};

/// An image to save and the names to save it under.
struct Saved {
    row: ImageRow,
    names: BTreeSet<Reference>,
    manifest: Manifest,
    diff_ids: Vec<Digest>,
}

/// One image in `manifest.json`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ManifestItem {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
    layer_sources: BTreeMap<Digest, Descriptor>,
}

impl Images {
    /// Writes one archive that is both a docker-archive and an OCI image layout.
    ///
    /// # Errors
    /// [`Error::NotFound`] before anything was written; [`Error::Output`] when the client goes away.
    pub fn save(&self, names: &[String], out: &mut dyn Write) -> Result<()> {
        let _lease = self.inner.lease();
        let images = self.choose(names)?;
        let mut blobs = BTreeSet::new();
        for image in &images {
            blobs.insert(image.row.manifest);
            blobs.insert(image.manifest.config.digest);
            blobs.extend(image.manifest.layers.iter().map(|layer| layer.digest));
        }
        let mut tar = Writer::new(io::BufWriter::with_capacity(256 * 1024, out));
        for directory in ["blobs/", "blobs/sha256/"] {
            let header = Header { path: directory, kind: Kind::Directory, mode: 0o755, mtime: 0 };
            tar.begin(&header).map_err(Error::Output)?;
        }
        for blob in &blobs {
            self.write_blob(&mut tar, blob)?;
        }
        let documents = [
            ("index.json", spec::to_json(&index(&images))),
            ("manifest.json", spec::to_json(&manifest_items(&images))),
            ("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
            ("repositories", spec::to_json(&repositories(&images))),
        ];
        for (name, bytes) in documents {
            tar.file(name, 0o644, 0, &bytes).map_err(Error::Output)?;
        }
        tar.finish().map_err(Error::Output)?;
        Ok(())
    }

    /// Finds the images; a repository without a tag means all its tags, as in Docker.
    fn choose(&self, names: &[String]) -> Result<Vec<Saved>> {
        let mut images: Vec<Saved> = Vec::new();
        let mut add = |row: ImageRow, names: &[Reference]| -> Result<()> {
            if let Some(known) = images.iter_mut().find(|image| image.row.id == row.id) {
                known.names.extend(names.iter().cloned());
                return Ok(());
            }
            let manifest = Manifest::parse(&self.inner.store.document(&row.manifest)?, &row.manifest_type)
                .map_err(|error| Error::Damaged(format!("manifest {}: {error}", row.manifest)))?;
            let diff_ids = self.inner.documents(&row.id)?.diff_ids.clone();
            images.push(Saved { row, names: names.iter().cloned().collect(), manifest, diff_ids });
            Ok(())
        };
        for name in names {
            let reference = Reference::parse_normalized(name).ok();
            let whole =
                reference.filter(|reference| reference.tag().is_none() && reference.digest().is_none());
            let of_repository = match whole {
                Some(whole) => {
                    let mut all = self.inner.db.read(records::names)?;
                    all.retain(|row| row.name.name() == whole.name() && row.name.digest().is_none());
                    all
                }
                None => Vec::new(),
            };
            if of_repository.is_empty() {
                let row =
                    self.inner.db.read(|conn| find(conn, name)).map_err(|error| not_there(name, error))?;
                let named = Reference::parse_normalized(name).ok().filter(|_| !is_id(&row.id, name));
                let named = named.filter(|named| named.digest().is_none()).map(Reference::or_latest);
                add(row, named.as_slice())?;
            }
            for named in of_repository {
                let row = self.inner.db.read(|conn| records::image(conn, &named.image))?;
                let row = row.ok_or_else(|| Error::Damaged(format!("image {} is gone", named.image)))?;
                add(row, &[named.name])?;
            }
        }
        Ok(images)
    }

    fn write_blob<W: Write>(&self, tar: &mut Writer<W>, digest: &Digest) -> Result<()> {
        let mut blob = self.inner.store.reader(digest)?;
        let size = self.inner.store.size(digest)?.unwrap_or(0);
        let path = blob_path(digest);
        let header = Header { path: &path, kind: file_of(size), mode: 0o644, mtime: 0 };
        tar.begin(&header).map_err(Error::Output)?;
        let mut buffer = vec![0; 256 * 1024];
        loop {
            let read = blob.read(&mut buffer).map_err(|error| Error::Store {
                op: "read".to_owned(),
                path: self.inner.store.path(digest),
                source: error,
            })?;
            if read == 0 {
                return Ok(());
            }
            tar.write_all(&buffer[..read]).map_err(Error::Output)?;
        }
    }
}

/// Docker's two ways to say that there is nothing to save.
fn not_there(name: &str, error: Error) -> Error {
    match (error, Reference::parse_normalized(name)) {
        (Error::NotFound(_), Ok(reference)) if reference.tag().is_some() => Error::NoReference,
        (Error::NotFound(_), _) => Error::NotFound(name.to_owned()),
        (error, _) => error,
    }
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn index(images: &[Saved]) -> Index {
    let mut index = Index::default();
    for image in images {
        let plain = Descriptor::new(&image.row.manifest_type, image.row.manifest, image.row.manifest_size);
        if image.names.is_empty() {
            index.manifests.push(plain);
            continue;
        }
        for name in &image.names {
            let mut annotations = Annotations::new();
            annotations.insert(spec::ANNOTATION_IMAGE_NAME.to_owned(), name.to_string());
            if let Some(tag) = name.tag() {
                annotations.insert(spec::ANNOTATION_REF_NAME.to_owned(), tag.to_owned());
            }
            index.manifests.push(Descriptor { annotations: Some(annotations), ..plain.clone() });
        }
    }
    index
}

fn manifest_items(images: &[Saved]) -> Vec<ManifestItem> {
    let item = |image: &Saved| ManifestItem {
        config: blob_path(&image.manifest.config.digest),
        repo_tags: (!image.names.is_empty()).then(|| image.names.iter().map(Reference::familiar).collect()),
        layers: image.manifest.layers.iter().map(|layer| blob_path(&layer.digest)).collect(),
        layer_sources: image.diff_ids.iter().copied().zip(image.manifest.layers.iter().cloned()).collect(),
    };
    images.iter().map(item).collect()
}

/// What tools from before 2016 read: the topmost layer of each name.
fn repositories(images: &[Saved]) -> BTreeMap<String, BTreeMap<String, String>> {
    let mut repositories: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for image in images {
        let Some(top) = image.manifest.layers.last() else { continue };
        for name in &image.names {
            let tag = name.tag().unwrap_or_default().to_owned();
            repositories.entry(name.familiar_name()).or_default().insert(tag, top.digest.hex());
        }
    }
    repositories
}
