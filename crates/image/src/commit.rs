//! Staged layers become images: verified, synced, then named.

use std::collections::HashMap;
use std::path::PathBuf;

use wharf_content::Staged;
use wharf_content::spec::{self, Descriptor, Manifest};
use wharf_model::{Digest, Reference};

use crate::documents::{Documents, chain_ids};
use crate::layer::{Format, Implied, UnpackedLayer, inherit};
use crate::records::{self, ImageRow, LayerBlobRow, LayerRow, ManifestRow};
use crate::stage::{StagedDirectory, StagedLayer, unpack_again};
use crate::{Error, Inner, Loaded, Result};

/// An image to be.
pub(crate) struct NewImage {
    pub(crate) config: Vec<u8>,
    /// The manifest it came with, and its media type; one is made if there is none.
    pub(crate) manifest: Option<(Vec<u8>, String)>,
    /// Documents that led to the manifest: kept with the image.
    pub(crate) indexes: Vec<Vec<u8>>,
    /// Its layers, base first.
    pub(crate) layers: Vec<LayerSource>,
    pub(crate) names: Vec<Reference>,
    /// What to call it in errors.
    pub(crate) what: String,
}

/// Where a layer's blob is.
#[derive(Debug, Clone)]
pub(crate) enum LayerSource {
    /// Among the staged ones.
    Staged(usize),
    /// In the store already, known to decompress to its diff id.
    Stored(LayerBlobRow),
}

/// A staged layer whose parts are taken one by one.
struct Slot {
    blob: Option<Staged>,
    row: LayerBlobRow,
    directory: Option<(StagedDirectory, UnpackedLayer)>,
}

/// A layer that will get a row.
struct PlannedLayer {
    row: LayerRow,
    directory: StagedDirectory,
    implied: Vec<Implied>,
}

struct PlannedImage {
    row: ImageRow,
    manifest: ManifestRow,
    blobs: Vec<Digest>,
    names: Vec<Reference>,
    known: bool,
}

/// Everything one commit makes; dropped before the end, it leaves nothing.
struct Plan<'a> {
    inner: &'a Inner,
    slots: Vec<Slot>,
    layers: Vec<PlannedLayer>,
    by_chain: HashMap<Digest, usize>,
    images: Vec<PlannedImage>,
    documents: Vec<Staged>,
    /// Slots whose blob some image needs.
    used: Vec<bool>,
    layer_blobs: Vec<LayerBlobRow>,
}

impl Inner {
    /// Commits images with their layers and names, all or none. The caller holds a lease.
    pub(crate) fn commit(&self, staged: Vec<StagedLayer>, images: Vec<NewImage>) -> Result<Vec<Loaded>> {
        let _commit = self.commit_lock();
        let used = vec![false; staged.len()];
        let slots = staged.into_iter().map(Slot::from).collect();
        let mut plan = Plan {
            inner: self,
            slots,
            layers: Vec::new(),
            by_chain: HashMap::new(),
            images: Vec::new(),
            documents: Vec::new(),
            used,
            layer_blobs: Vec::new(),
        };
        for image in images {
            plan.add_image(image)?;
        }
        plan.inherit_metadata()?;
        plan.make_durable()?;
        let loaded = plan.commit_rows().inspect_err(|_| self.collect_after_lease())?;
        self.db.sync()?;
        self.write_index()?;
        Ok(loaded)
    }
}

impl Inner {
    /// Whether every blob an image lists is there. Says nothing about their bytes.
    pub(crate) fn has_blobs_of(&self, image: &Digest) -> Result<bool> {
        for blob in self.db.read(|conn| records::blobs_of(conn, image))? {
            if self.store.size(&blob)?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl From<StagedLayer> for Slot {
    fn from(layer: StagedLayer) -> Self {
        let row = LayerBlobRow {
            digest: *layer.blob.digest(),
            diff: layer.diff_id,
            media_type: layer.compression.layer_media_type().to_owned(),
            size: layer.blob.size(),
        };
        Self { blob: Some(layer.blob), row, directory: Some((layer.directory, layer.unpacked)) }
    }
}

impl Plan<'_> {
    fn add_image(&mut self, image: NewImage) -> Result<()> {
        let id = wharf_content::digest_of(&image.config);
        let documents = Documents::parse(&image.config, &image.what)?;
        if documents.diff_ids.len() != image.layers.len() {
            let (have, want) = (image.layers.len(), documents.diff_ids.len());
            let reason = format!("it has {have} layers and its config describes {want}");
            return Err(Error::archive(image.what, reason));
        }
        if image.layers.len() > self.inner.limits.layers {
            return Err(Error::limit("the number of layers of an image", self.inner.limits.layers as u64));
        }
        let known = self.inner.db.read(|conn| records::image(conn, &id))?;
        let planned = self.images.iter().find(|planned| planned.row.id == id);
        let known = known.or_else(|| planned.map(|planned| planned.row.clone()));
        if let Some(row) = &known
            && let Some(manifest) = self.known_manifest(row, image.manifest.as_ref())?
        {
            let blobs = self.stage_documents(&image.indexes)?;
            self.images.push(PlannedImage {
                row: row.clone(),
                manifest,
                blobs,
                names: image.names,
                known: true,
            });
            return Ok(());
        }

        let chains = chain_ids(&documents.diff_ids);
        let mut descriptors = Vec::new();
        let mut size = 0;
        for (position, source) in image.layers.iter().enumerate() {
            let blob = self.blob_of(source)?;
            let diff = documents.diff_ids[position];
            if blob.diff != diff {
                let what = format!("layer {} of {}", position + 1, image.what);
                return Err(Error::Mismatch { what, expected: diff, found: blob.diff });
            }
            let below = position.checked_sub(1).map(|below| chains[below]);
            size += self.add_layer(source, diff, chains[position], below)?;
            descriptors.push(Descriptor::new(&blob.media_type, blob.digest, blob.size));
            self.layer_blobs.push(blob);
        }

        let mut blobs: Vec<Digest> = descriptors.iter().map(|layer| layer.digest).collect();
        let (manifest, media_type) = image.manifest.unwrap_or_else(|| {
            let config = Descriptor::new(spec::CONFIG, id, image.config.len() as u64);
            (spec::to_json(&Manifest::new(config, descriptors)), spec::MANIFEST.to_owned())
        });
        blobs.extend(self.stage_documents(&[image.config, manifest.clone()])?);
        blobs.extend(self.stage_documents(&image.indexes)?);
        let manifest = ManifestRow {
            digest: wharf_content::digest_of(&manifest),
            media_type,
            size: manifest.len() as u64,
        };
        let is_known = known.is_some();
        let row = known.unwrap_or_else(|| ImageRow {
            id,
            manifest: manifest.digest,
            manifest_type: manifest.media_type.clone(),
            manifest_size: manifest.size,
            top: chains.last().copied(),
            size,
        });
        self.images.push(PlannedImage { row, manifest, blobs, names: image.names, known: is_known });
        Ok(())
    }

    /// The manifest that an image which is here already came with, if it is here too.
    fn known_manifest(
        &self,
        row: &ImageRow,
        wanted: Option<&(Vec<u8>, String)>,
    ) -> Result<Option<ManifestRow>> {
        let first = || ManifestRow {
            digest: row.manifest,
            media_type: row.manifest_type.clone(),
            size: row.manifest_size,
        };
        if !self.inner.has_blobs_of(&row.id)? {
            // A blob was lost or set aside: what comes now takes its place.
            return Ok(None);
        }
        let Some((bytes, _)) = wanted else { return Ok(Some(first())) };
        let digest = wharf_content::digest_of(bytes);
        let planned =
            self.images.iter().find(|image| image.row.id == row.id && image.manifest.digest == digest);
        match planned {
            Some(planned) => Ok(Some(planned.manifest.clone())),
            None => self.inner.db.read(|conn| records::manifest(conn, &row.id, &digest)),
        }
    }

    /// Stages small documents and returns their digests.
    fn stage_documents(&mut self, documents: &[Vec<u8>]) -> Result<Vec<Digest>> {
        let mut digests = Vec::new();
        for document in documents {
            let staged = self.inner.store.stage(document)?;
            digests.push(*staged.digest());
            self.documents.push(staged);
        }
        Ok(digests)
    }

    fn blob_of(&mut self, source: &LayerSource) -> Result<LayerBlobRow> {
        match source {
            LayerSource::Staged(index) => {
                self.used[*index] = true;
                Ok(self.slots[*index].row.clone())
            }
            LayerSource::Stored(row) => {
                if self.inner.store.size(&row.digest)? != Some(row.size) {
                    return Err(Error::Damaged(format!("content {} is missing or cut", row.digest)));
                }
                Ok(row.clone())
            }
        }
    }

    /// Plans a layer unless it is there; returns its unpacked size.
    fn add_layer(
        &mut self,
        source: &LayerSource,
        diff: Digest,
        chain: Digest,
        parent: Option<Digest>,
    ) -> Result<u64> {
        if let Some(index) = self.by_chain.get(&chain) {
            return Ok(self.layers[*index].row.size);
        }
        if let Some(row) = self.inner.db.read(|conn| records::layer(conn, &chain))? {
            return Ok(row.size);
        }
        let staged = match source {
            LayerSource::Staged(index) => self.slots[*index].directory.take(),
            LayerSource::Stored(_) => None,
        };
        let (directory, unpacked) = match staged {
            Some(staged) => staged,
            None => {
                // The same layer on another base, or one whose blob is here and whose files are not.
                let blob = match source {
                    LayerSource::Staged(index) => match &self.slots[*index].blob {
                        Some(blob) => blob.reader()?,
                        None => return Err(Error::Damaged("a staged blob is gone".to_owned())),
                    },
                    LayerSource::Stored(row) => self.inner.store.reader(&row.digest)?,
                };
                let directory = self.inner.stage_directory()?;
                let unpacked = unpack_again(blob, &directory, &diff, &self.inner.limits)?;
                (directory, unpacked)
            }
        };
        let row = LayerRow {
            chain,
            diff,
            parent,
            directory: directory.number,
            size: unpacked.size,
            opaque: unpacked.opaque_root,
            format: unpacked.format,
        };
        let size = row.size;
        self.by_chain.insert(chain, self.layers.len());
        self.layers.push(PlannedLayer { row, directory, implied: unpacked.implied });
        Ok(size)
    }

    /// Gives directories that a layer needs and does not describe the metadata they have below.
    fn inherit_metadata(&self) -> Result<()> {
        // A layer comes after the one it stands on, which is finished then.
        for layer in self.layers.iter().filter(|layer| !layer.implied.is_empty()) {
            let mut below = Vec::new();
            let mut parent = layer.row.parent;
            while let Some(chain) = parent {
                let rows = match self.by_chain.get(&chain) {
                    Some(index) => vec![self.layers[*index].row.clone()],
                    None => self.inner.db.read(|conn| records::chain_of(conn, &chain))?,
                };
                below.extend(rows.iter().map(|row| (row.format, self.inner.place_of(row.directory))));
                parent = rows.last().and_then(|row| row.parent);
            }
            inherit(layer.row.format, layer.directory.place(), &layer.implied, &below)?;
        }
        Ok(())
    }

    /// Every byte of layers and blobs is on disk when this returns, the blobs under their names.
    fn make_durable(&mut self) -> Result<()> {
        for format in [Format::Directory, Format::Erofs] {
            let layers = self.layers.iter().filter(|layer| layer.row.format == format);
            let places: Vec<PathBuf> = layers.map(|layer| layer.directory.place().to_owned()).collect();
            format.layers().sync(&places)?;
        }
        let mut blobs = std::mem::take(&mut self.documents);
        let used = self.slots.iter_mut().zip(&self.used).filter(|(_, used)| **used);
        blobs.extend(used.filter_map(|(slot, _)| slot.blob.take()));
        Ok(self.inner.store.publish(blobs).inspect_err(|_| self.inner.collect_after_lease())?)
    }

    fn commit_rows(mut self) -> Result<Vec<Loaded>> {
        let loaded = self.inner.db.write(|tx| -> Result<Vec<Loaded>> {
            for layer in &self.layers {
                records::insert_layer(tx, &layer.row)?;
            }
            for blob in &self.layer_blobs {
                records::insert_layer_blob(tx, blob)?;
            }
            let mut loaded = Vec::new();
            for image in &self.images {
                if !image.known {
                    records::insert_image(tx, &image.row, &image.blobs)?;
                }
                records::insert_manifest(tx, &image.row.id, &image.manifest, &image.blobs)?;
                records::touch(tx, &image.row.id)?;
                let manifest = Some(&image.manifest.digest).filter(|own| **own != image.row.manifest);
                for name in &image.names {
                    let replaced = records::set_name(tx, name, &image.row.id, manifest)?;
                    loaded.push(Loaded { reference: Some(name.clone()), id: image.row.id, replaced });
                }
                if image.names.is_empty() {
                    loaded.push(Loaded { reference: None, id: image.row.id, replaced: None });
                }
            }
            Ok(loaded)
        })?;
        for layer in &mut self.layers {
            layer.directory.keep();
        }
        Ok(loaded)
    }
}
