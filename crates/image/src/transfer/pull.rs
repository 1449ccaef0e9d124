//! `pull`: from a name at a registry to an image here.

use std::hash::{Hash, Hasher};
use std::sync::{Arc, PoisonError, Weak};

use futures_util::future::try_join_all;
use wharf_content::spec::{self, Descriptor, Index, Manifest};
use wharf_model::{Digest, Reference};
use wharf_registry::{Credential, Document, Repository, Target};

use super::board::{Board, LayerState};
use super::fetch::{self, Fetched};
use super::platform::{self, Wanted};
use super::{Job, Transfer, blocking, refused};
use crate::commit::NewImage;
use crate::documents::Documents;
use crate::limits::Limits;
use crate::load::oci::{is_image, is_image_config, is_index, is_manifest};
use crate::records;
use crate::{Error, Images, Inner, Result};

/// Indexes within indexes.
const MAX_DEPTH: usize = 4;

/// What to pull.
#[derive(Debug, Clone)]
pub struct PullRequest {
    /// Its name, with a tag or a digest.
    pub reference: Reference,
    /// `os[/architecture[/variant]]`; the host's when absent.
    pub platform: Option<String>,
    /// Where from, with whose rights.
    pub repository: Repository,
    /// Whose rights: only equal requests share the work.
    pub identity: Option<Credential>,
}

impl PullRequest {
    fn key(&self) -> (&Reference, &Option<String>, &Option<Credential>) {
        (&self.reference, &self.platform, &self.identity)
    }
}

impl PartialEq for PullRequest {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for PullRequest {}

impl Hash for PullRequest {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

/// What a pull came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    /// The image.
    pub id: Digest,
    /// What the name means at the registry: a manifest or an index.
    pub digest: Digest,
    /// Nothing changed.
    pub up_to_date: bool,
    /// The image is of another platform than the one asked for: that one and its own.
    pub mismatch: Option<(String, String)>,
}

/// The documents that make an image.
struct Resolved {
    /// What the name means.
    top: Digest,
    indexes: Vec<Vec<u8>>,
    manifest: Manifest,
    bytes: Vec<u8>,
    media_type: String,
}

impl Images {
    /// Brings an image here. Equal pulls at the same time share the work.
    #[must_use]
    pub fn pull(&self, request: PullRequest) -> Transfer<Pulled> {
        let mut pulls = self.inner.transfers.pulls.lock().unwrap_or_else(PoisonError::into_inner);
        pulls.retain(|_, job| job.strong_count() > 0);
        // One that has ended may already be of yesterday.
        let running = pulls.get(&request).and_then(Weak::upgrade).filter(|job| job.result.borrow().is_none());
        let job = running.unwrap_or_else(|| {
            let inner = Arc::clone(&self.inner);
            let wanted = request.clone();
            let job = Job::start(|board| async move { inner.pull(wanted, &board).await });
            pulls.insert(request, Arc::downgrade(&job));
            job
        });
        Transfer::of(job)
    }
}

impl Inner {
    async fn pull(self: Arc<Self>, request: PullRequest, board: &Arc<Board>) -> Result<Pulled> {
        let _lease = self.lease();
        let PullRequest { reference, repository, .. } = &request;
        let wanted = Wanted::parse(request.platform.as_deref())?;
        let name = reference.familiar();
        let document =
            repository.manifest(&Target::from(reference)).await.map_err(|error| refused(&name, error))?;
        let resolved = resolve(repository, document, &wanted, &name).await?;
        board.started();
        let id = resolved.manifest.config.digest;
        let (inner, manifest) = (Arc::clone(&self), wharf_content::digest_of(&resolved.bytes));
        if let Some(documents) = blocking(move || Ok(inner.known(&id, &manifest))).await? {
            let mismatch = mismatch_of(&documents, &wanted);
            let up_to_date = self.name(&request, &resolved).await?;
            return Ok(Pulled { id, digest: resolved.top, up_to_date, mismatch });
        }
        let config = repository.document(&resolved.manifest.config, spec::MAX_DOCUMENT).await;
        let config = config.map_err(|error| refused(&name, error))?;
        let documents = Documents::parse(&config, &format!("config of {name}"))?;
        if documents.os != "linux" {
            return Err(Error::Unsupported(format!(
                "image operating system {:?} cannot be used on this platform: operating system is not supported",
                documents.os
            )));
        }
        check_layers(&resolved.manifest.layers, documents.diff_ids.len(), &self.limits, &name)?;
        let mismatch = mismatch_of(&documents, &wanted);
        let pulled = self.fetch_all(&request, resolved, config, board).await?;
        Ok(Pulled { mismatch, ..pulled })
    }

    /// The config of an image that is here with this very manifest.
    fn known(&self, id: &Digest, manifest: &Digest) -> Option<Arc<Documents>> {
        let known = self.db.read(|conn| records::manifest(conn, id, manifest)).ok().flatten();
        // What a check set aside is brought again.
        known.filter(|_| self.has_blobs_of(id).unwrap_or(false)).and_then(|_| self.documents(id).ok())
    }

    /// Points the names at an image that is here; whether they did already.
    async fn name(self: &Arc<Self>, request: &PullRequest, resolved: &Resolved) -> Result<bool> {
        let (inner, names) = (Arc::clone(self), names(&request.reference, resolved.top));
        let (id, manifest) = (resolved.manifest.config.digest, wharf_content::digest_of(&resolved.bytes));
        let index = resolved.indexes.clone();
        blocking(move || {
            let _commit = inner.commit_lock();
            let same = inner.db.read(|conn| {
                let mut same = true;
                for name in &names {
                    same &= records::target(conn, name)? == Some(id);
                }
                Ok::<_, Error>(same)
            })?;
            let staged = index.iter().map(|bytes| inner.store.stage(bytes)).collect::<Result<Vec<_>, _>>()?;
            let blobs: Vec<Digest> = staged.iter().map(|blob| *blob.digest()).collect();
            inner.store.publish(staged)?;
            inner.db.write(|tx| {
                let image = records::image(tx, &id)?.ok_or_else(|| Error::NotFound(id.to_string()))?;
                if let Some(row) = records::manifest(tx, &id, &manifest)? {
                    records::insert_manifest(tx, &id, &row, &blobs)?;
                }
                let own = Some(&manifest).filter(|own| **own != image.manifest);
                records::touch(tx, &id)?;
                for name in &names {
                    records::set_name(tx, name, &id, own)?;
                }
                Ok::<_, Error>(())
            })?;
            // Even if nothing changed here: what was found may be the change of somebody who has not synced it yet.
            inner.db.sync()?;
            if !same {
                inner.write_index()?;
            }
            Ok(same)
        })
        .await
    }

    async fn fetch_all(
        self: &Arc<Self>,
        request: &PullRequest,
        resolved: Resolved,
        config: Vec<u8>,
        board: &Arc<Board>,
    ) -> Result<Pulled> {
        let layers = &resolved.manifest.layers;
        for layer in layers {
            board.layer(&layer.digest.short(), LayerState::Planned);
        }
        let mut unique: Vec<&Descriptor> = Vec::new();
        for layer in layers {
            if !unique.iter().any(|known| known.digest == layer.digest) {
                unique.push(layer);
            }
        }
        let fetches = unique.iter().map(|layer| fetch::layer(self, &request.repository, layer, board));
        let fetched: Vec<Fetched> = try_join_all(fetches).await?;

        let mut staged = Vec::new();
        let sources: Vec<_> = fetched.into_iter().map(|fetched| fetched.source(&mut staged)).collect();
        let sources = layers
            .iter()
            .filter_map(|layer| unique.iter().position(|known| known.digest == layer.digest))
            .map(|position| sources[position].clone())
            .collect();
        for layer in &unique {
            board.layer(&layer.digest.short(), LayerState::Extracting(layer.size, layer.size));
        }
        let id = wharf_content::digest_of(&config);
        let image = NewImage {
            config,
            manifest: Some((resolved.bytes, resolved.media_type)),
            indexes: resolved.indexes,
            layers: sources,
            names: names(&request.reference, resolved.top),
            what: request.reference.familiar(),
        };
        let inner = Arc::clone(self);
        blocking(move || inner.commit(staged, vec![image])).await?;
        for layer in &unique {
            board.layer(&layer.digest.short(), LayerState::Pulled);
        }
        Ok(Pulled { id, digest: resolved.top, up_to_date: false, mismatch: None })
    }
}

/// The names an image gets: the tag it was asked for by, and what the tag means now.
fn names(reference: &Reference, digest: Digest) -> Vec<Reference> {
    let by_digest = reference.with_digest(digest);
    match reference.digest() {
        Some(_) => vec![by_digest],
        None => vec![reference.clone().or_latest(), by_digest],
    }
}

fn mismatch_of(documents: &Documents, wanted: &Wanted) -> Option<(String, String)> {
    let fits = wanted.is(&documents.os, &documents.architecture, &documents.variant);
    (!fits).then(|| (wanted.to_string(), documents.platform()))
}

/// What can be known to be wrong before the first layer is fetched.
fn check_layers(layers: &[Descriptor], described: usize, limits: &Limits, name: &str) -> Result<()> {
    if layers.len() > limits.layers {
        return Err(Error::limit("the number of layers of an image", limits.layers as u64));
    }
    if layers.len() != described {
        let reason = format!("it has {} layers and its config describes {described}", layers.len());
        return Err(Error::archive(name, reason));
    }
    if layers.iter().any(|layer| layer.size > limits.layer_bytes) {
        return Err(Error::limit("the size of a layer in bytes", limits.layer_bytes));
    }
    Ok(())
}

/// Follows a document to the image for a platform.
async fn resolve(
    repository: &Repository,
    document: Document,
    wanted: &Wanted,
    name: &str,
) -> Result<Resolved> {
    let top = document.descriptor.digest;
    let mut indexes = Vec::new();
    let mut document = document;
    while is_index(&document.descriptor.media_type) {
        if indexes.len() >= MAX_DEPTH {
            return Err(Error::archive(format!("index {top}"), "indexes are nested too deeply"));
        }
        let index = Index::parse(&document.bytes, &document.descriptor.media_type).map_err(|error| {
            Error::archive(format!("index {}", document.descriptor.digest), error.to_string())
        })?;
        let images: Vec<&Descriptor> = index.manifests.iter().filter(|image| is_image(image)).collect();
        let without_platform = |image: &&Descriptor| image.platform.is_none();
        let chosen = wanted.choose(&images).or_else(|| match images[..] {
            // An index of one that says nothing about platforms means that one.
            [only] if without_platform(&only) => Some(only),
            _ => None,
        });
        let chosen = chosen.ok_or_else(|| platform::no_match(wanted))?.clone();
        indexes.push(std::mem::take(&mut document.bytes));
        document = repository
            .manifest(&Target::Digest(chosen.digest))
            .await
            .map_err(|error| refused(name, error))?;
        if document.descriptor.size != chosen.size || document.descriptor.media_type != chosen.media_type {
            let reason = "the index announced another size or type";
            return Err(Error::archive(format!("manifest {}", chosen.digest), reason));
        }
    }
    let Descriptor { media_type, digest, .. } = document.descriptor;
    let what = || format!("manifest {digest}");
    if !is_manifest(&media_type) {
        return Err(Error::archive(what(), format!("unsupported media type {media_type:?}")));
    }
    let manifest = Manifest::parse(&document.bytes, &media_type)
        .map_err(|error| Error::archive(what(), error.to_string()))?;
    if !is_image_config(&manifest.config.media_type) {
        let reason = format!("it is no image: its config has the type {:?}", manifest.config.media_type);
        return Err(Error::archive(what(), reason));
    }
    Ok(Resolved { top, indexes, manifest, bytes: document.bytes, media_type })
}
