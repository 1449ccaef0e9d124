//! `push`: an image here to a repository, by the very manifest it came with.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::sync::Arc;

use flate2::Compression as Level;
use flate2::write::GzEncoder;
use futures_util::future::try_join_all;
use wharf_content::spec::{self, Descriptor, Manifest};
use wharf_linux::hostfs;
use wharf_model::{Digest, Reference};
use wharf_registry::{BlobSource, Repository, Target};

use super::board::{Board, LayerState};
use super::{Job, Transfer, blocking, refused};
use crate::pipe::CHUNK;
use crate::records::{self, LayerBlobRow, ManifestRow};
use crate::{Error, Images, Inner, Result};

/// What to push.
#[derive(Debug, Clone)]
pub struct PushRequest {
    /// Its name, with a tag.
    pub reference: Reference,
    /// Where to, with whose rights.
    pub repository: Repository,
}

/// What a push came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// The manifest.
    pub digest: Digest,
    /// How many bytes the manifest has.
    pub size: u64,
}

/// An image as it is pushed.
struct Outgoing {
    image: Digest,
    manifest: ManifestRow,
    bytes: Vec<u8>,
    config: Descriptor,
    layers: Vec<OutgoingLayer>,
}

#[derive(Clone)]
struct OutgoingLayer {
    blob: Descriptor,
    /// What the layer is called while it is pushed: the start of its diff id.
    id: String,
    /// A repository of the same registry that has it.
    holder: Option<String>,
}

impl Images {
    /// Sends an image to a repository.
    #[must_use]
    pub fn push(&self, request: PushRequest) -> Transfer<Pushed> {
        let inner = Arc::clone(&self.inner);
        Transfer::of(Job::start(|board| async move { inner.push(request, &board).await }))
    }

    /// The tags of a repository that are here.
    ///
    /// # Errors
    /// [`Error::State`].
    pub fn tags_of(&self, repository: &Reference) -> Result<Vec<Reference>> {
        let mut names = self.inner.db.read(records::names)?;
        names.retain(|row| row.name.name() == repository.name() && row.name.digest().is_none());
        Ok(names.into_iter().map(|row| row.name).collect())
    }
}

impl Inner {
    async fn push(self: Arc<Self>, request: PushRequest, board: &Arc<Board>) -> Result<Pushed> {
        let _lease = self.lease();
        let PushRequest { reference, repository } = &request;
        let (inner, name) = (Arc::clone(&self), reference.clone());
        let outgoing = blocking(move || inner.outgoing(&name)).await?;
        for layer in &outgoing.layers {
            board.layer(&layer.id, LayerState::Preparing);
        }
        let mut unique: Vec<&OutgoingLayer> = Vec::new();
        for layer in &outgoing.layers {
            if !unique.iter().any(|known| known.blob.digest == layer.blob.digest) {
                unique.push(layer);
            }
        }
        try_join_all(unique.into_iter().map(|layer| self.push_layer(repository, layer, board))).await?;
        let config = &outgoing.config;
        let source = StoredBlob { path: self.store.path(&config.digest) };
        repository
            .push_blob(config, &source, None, &mut |_| {})
            .await
            .map_err(|error| refused("the image's config", error))?;
        let target = Target::Tag(reference.tag().unwrap_or("latest").to_owned());
        let ManifestRow { digest, media_type, size } = outgoing.manifest;
        repository
            .put_manifest(&target, &media_type, &outgoing.bytes)
            .await
            .map_err(|error| refused(&reference.familiar(), error))?;

        // Known there by digest from now on.
        let (inner, by_digest, image) = (Arc::clone(&self), reference.with_digest(digest), outgoing.image);
        blocking(move || {
            let _commit = inner.commit_lock();
            inner.db.write(|tx| {
                if let Some(row) = records::image(tx, &image)? {
                    let own = Some(&digest).filter(|own| **own != row.manifest);
                    records::set_name(tx, &by_digest, &image, own)?;
                }
                Ok::<_, Error>(())
            })?;
            inner.write_index()
        })
        .await?;
        Ok(Pushed { digest, size })
    }

    async fn push_layer(&self, repository: &Repository, layer: &OutgoingLayer, board: &Board) -> Result<()> {
        let _turn = self.transfers.turns().uploads.acquire_owned().await;
        let source = StoredBlob { path: self.store.path(&layer.blob.digest) };
        let total = layer.blob.size;
        let mut on = |done: u64| board.layer(&layer.id, LayerState::Pushing(done, total));
        let pushed = repository
            .push_blob(&layer.blob, &source, layer.holder.as_deref(), &mut on)
            .await
            .map_err(|error| refused(&format!("layer {}", layer.id), error))?;
        board.layer(
            &layer.id,
            match (pushed, &layer.holder) {
                (wharf_registry::Pushed::Existed, _) => LayerState::ExistsThere,
                (wharf_registry::Pushed::Mounted, Some(holder)) => LayerState::MountedFrom(holder.clone()),
                (wharf_registry::Pushed::Mounted, None) | (wharf_registry::Pushed::Uploaded, _) => {
                    LayerState::Pushed
                }
            },
        );
        Ok(())
    }

    /// Finds out what a name means to a registry.
    fn outgoing(&self, name: &Reference) -> Result<Outgoing> {
        let (image, manifest) = self.db.read(|conn| {
            let row = records::name(conn, name)?;
            let row = row.ok_or_else(|| Error::NothingToPush(name.familiar_name()))?;
            let image = records::image(conn, &row.image)?;
            let image = image.ok_or_else(|| Error::NotFound(row.image.to_string()))?;
            let manifest = row.manifest.unwrap_or(image.manifest);
            let manifest = records::manifest(conn, &image.id, &manifest)?
                .ok_or_else(|| Error::Damaged(format!("manifest {manifest} is not recorded")))?;
            Ok::<_, Error>((image, manifest))
        })?;
        let bytes = self.store.document(&manifest.digest)?;
        let parsed = Manifest::parse(&bytes, &manifest.media_type)
            .map_err(|error| Error::Damaged(format!("manifest {}: {error}", manifest.digest)))?;
        let known_elsewhere = self.is_known_by_digest(&image.id, &manifest.digest)?;
        let (manifest, bytes, parsed) = if known_elsewhere || !parsed.layers.iter().any(is_plain) {
            (manifest, bytes, parsed)
        } else {
            self.compressed(name, &image.id, parsed)?
        };
        let diff_ids = &self.documents(&image.id)?.diff_ids;
        let mut layers = Vec::new();
        for (blob, diff) in parsed.layers.into_iter().zip(diff_ids) {
            let holder = self.db.read(|conn| records::holder_of(conn, &blob.digest, name.domain()))?;
            let holder = holder.map(|holder| holder.path().to_owned()).filter(|path| path != name.path());
            layers.push(OutgoingLayer { blob, id: diff.short(), holder });
        }
        Ok(Outgoing { image: image.id, manifest, bytes, config: parsed.config, layers })
    }

    /// Somebody may rely on this manifest's digest: it came from a registry or went to one.
    fn is_known_by_digest(&self, image: &Digest, manifest: &Digest) -> Result<bool> {
        let names = self.db.read(|conn| records::names_of(conn, image))?;
        Ok(names.iter().any(|row| row.name.digest() == Some(manifest) || row.manifest == Some(*manifest)))
    }

    /// Makes a manifest of compressed layers, once: it is the name's from now on.
    fn compressed(
        &self,
        name: &Reference,
        image: &Digest,
        mut manifest: Manifest,
    ) -> Result<(ManifestRow, Vec<u8>, Manifest)> {
        let mut blobs = Vec::new();
        let mut staged = Vec::new();
        for layer in manifest.layers.iter_mut().filter(|layer| is_plain(layer)) {
            let diff = layer.digest;
            let blob = self.compress(&diff)?;
            let docker = layer.media_type == spec::DOCKER_LAYER_TAR;
            layer.media_type = if docker { spec::DOCKER_LAYER_GZIP } else { spec::LAYER_GZIP }.to_owned();
            (layer.digest, layer.size) = (*blob.digest(), blob.size());
            blobs.push(LayerBlobRow {
                digest: layer.digest,
                diff,
                media_type: spec::LAYER_GZIP.to_owned(),
                size: layer.size,
            });
            staged.push(blob);
        }
        let bytes = spec::to_json(&manifest);
        let document = self.store.stage(&bytes)?;
        let media_type = manifest.media_type.clone().unwrap_or_else(|| spec::MANIFEST.to_owned());
        let row = ManifestRow { digest: *document.digest(), media_type, size: bytes.len() as u64 };
        staged.push(document);
        let mut needed: Vec<Digest> = manifest.layers.iter().map(|layer| layer.digest).collect();
        needed.push(row.digest);

        let _commit = self.commit_lock();
        self.store.publish(staged).inspect_err(|_| self.collect_after_lease())?;
        self.db.write(|tx| {
            records::insert_manifest(tx, image, &row, &needed)?;
            for blob in &blobs {
                records::insert_layer_blob(tx, blob)?;
            }
            records::set_name(tx, name, image, Some(&row.digest))?;
            Ok::<_, Error>(())
        })?;
        self.db.sync()?;
        Ok((row, bytes, manifest))
    }

    fn compress(&self, blob: &Digest) -> Result<wharf_content::Staged> {
        let mut input = BufReader::with_capacity(CHUNK, self.store.reader(blob)?);
        let ingest = self.store.ingest()?;
        let mut encoder = GzEncoder::new(ingest, Level::new(6));
        let mut chunk = vec![0; CHUNK];
        let failed = |error: io::Error| Error::Store {
            op: "compress".to_owned(),
            path: self.store.path(blob),
            source: error,
        };
        loop {
            let read = input.read(&mut chunk).map_err(failed)?;
            if read == 0 {
                return Ok(encoder.finish().map_err(failed)?.finish());
            }
            encoder.write_all(&chunk[..read]).map_err(failed)?;
        }
    }
}

/// A layer that nobody compressed, and that is worth it.
fn is_plain(layer: &Descriptor) -> bool {
    const SMALL: u64 = 4096;
    let plain = layer.media_type == spec::LAYER_TAR || layer.media_type == spec::DOCKER_LAYER_TAR;
    plain && layer.size > SMALL
}

/// A blob of the store, read again from where a broken upload stopped.
struct StoredBlob {
    path: PathBuf,
}

impl BlobSource for StoredBlob {
    fn open(&self, from: u64) -> io::Result<Box<dyn Read + Send>> {
        let mut file: File = hostfs::open(&self.path).map_err(|error| error.source)?;
        file.seek(SeekFrom::Start(from))?;
        Ok(Box::new(file))
    }
}
