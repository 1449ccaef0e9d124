//! Repair: what a check found damaged is fetched or made again.

use std::sync::Arc;

use wharf_content::spec::{Descriptor, MAX_DOCUMENT, Manifest};
use wharf_model::{Digest, Reference};
use wharf_registry::{Repository, Target};

use super::{blocking, refused};
use crate::check::{Finding, Part, Report};
use crate::records;
use crate::{Error, Images, Inner, Result};

/// Opens the repository that a name means, if the engine can reach registries.
pub type Repositories<'a> = &'a (dyn Fn(&Reference) -> Option<Repository> + Send + Sync);

/// The order of repair: what tells the size of the next comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Turn {
    Manifest,
    Config,
    Layer(u64),
}

impl Images {
    /// Repairs what it can of what [`Images::check`] found, and notes in the report what came of it: blobs are fetched
    /// again from a repository that is known to hold them, layers are unpacked again from their blobs. A damaged blob
    /// that nobody has is set aside, so that the next pull or load of its image brings it anew. What nothing needs is
    /// removed.
    ///
    /// # Errors
    /// [`Error::State`] or [`Error::Store`] when the store itself fails. What cannot be repaired is no error.
    pub async fn repair(&self, report: &mut Report, repositories: Repositories<'_>) -> Result<()> {
        let inner = &self.inner;
        let lease = inner.lease();
        let mut order = Vec::new();
        for (at, finding) in report.findings.iter().enumerate() {
            if finding.part == Part::Blob {
                order.push((inner.turn_of(&finding.id)?, at));
            }
        }
        order.sort_unstable();
        for (turn, at) in order {
            let finding = &mut report.findings[at];
            match inner.refetch(&finding.id, turn, repositories).await {
                Ok(()) => finding.repaired = true,
                Err(error) if error.is_full() => return Err(error),
                Err(error) => {
                    inner.store.set_aside(&finding.id)?;
                    inner.forget_documents(&finding.id);
                    finding.reason = format!("{}; {error}{}", finding.reason, advice(finding));
                }
            }
        }
        for row in std::mem::take(&mut report.unjudged) {
            let (worker, chain) = (Arc::clone(inner), row.chain);
            if blocking(move || worker.is_still_damaged(&chain)).await? {
                let reason = "it is not what its blob unpacks to".to_owned();
                let images = Vec::new();
                report.findings.push(Finding {
                    part: Part::Layer,
                    id: chain,
                    reason,
                    images,
                    repaired: false,
                });
            }
        }
        // From the bottom up: a layer takes metadata over from those below.
        let mut order = Vec::new();
        for (at, finding) in report.findings.iter().enumerate() {
            if finding.part == Part::Layer {
                order.push((inner.db.read(|conn| records::chain_of(conn, &finding.id))?.len(), at));
            }
        }
        order.sort_unstable();
        for (_, at) in order {
            let finding = &mut report.findings[at];
            let (worker, chain) = (Arc::clone(inner), finding.id);
            match blocking(move || worker.rebuild_layer(&chain)).await {
                Ok(()) => finding.repaired = true,
                Err(Error::Damaged(why)) => {
                    let again = ", then `wharf system check --repair`";
                    finding.reason = format!("{}; {why}{}{again}", finding.reason, advice(finding));
                }
                Err(error) => return Err(error),
            }
        }
        drop(lease);
        let worker = Arc::clone(inner);
        blocking(move || worker.collect()).await
    }
}

/// What somebody can do about it.
fn advice(finding: &Finding) -> String {
    match finding.images.iter().find(|name| !name.contains('@')).or(finding.images.first()) {
        Some(name) => format!("; run `wharf pull {name}` or load it again"),
        None => String::new(),
    }
}

impl Inner {
    fn turn_of(&self, blob: &Digest) -> Result<Turn> {
        self.db.read(|conn| {
            Ok(match records::layer_blob(conn, blob)? {
                Some(row) => Turn::Layer(row.size),
                None if records::image(conn, blob)?.is_some() => Turn::Config,
                None => Turn::Manifest,
            })
        })
    }

    /// Brings a blob anew, from the layer that was made of it or from a registry.
    async fn refetch(
        self: &Arc<Self>,
        blob: &Digest,
        turn: Turn,
        repositories: Repositories<'_>,
    ) -> Result<()> {
        if let Turn::Layer(_) = turn {
            let (inner, wanted) = (Arc::clone(self), *blob);
            if blocking(move || inner.copy_from_layer(&wanted)).await? {
                return Ok(());
            }
        }
        let mut failure = Error::Damaged("no registry is known to have it".to_owned());
        for name in self.db.read(|conn| records::holders_of(conn, blob))? {
            let Some(repository) = repositories(&name) else { continue };
            match self.fetch_from(&repository, &name.familiar_name(), blob, turn).await {
                Ok(()) => return Ok(()),
                Err(error) if error.is_full() => return Err(error),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    async fn fetch_from(
        self: &Arc<Self>,
        repository: &Repository,
        name: &str,
        blob: &Digest,
        turn: Turn,
    ) -> Result<()> {
        let bytes = match turn {
            Turn::Layer(size) => {
                let lock = self.transfers.digest(blob);
                let _guard = lock.lock().await;
                return self.download(repository, name, &Descriptor::new("", *blob, size)).await;
            }
            Turn::Manifest => {
                let document = repository.manifest(&Target::Digest(*blob)).await;
                document.map_err(|error| refused(name, error))?.bytes
            }
            Turn::Config => {
                let config = self.config_of(blob)?;
                let bytes = repository.document(&config, MAX_DOCUMENT).await;
                bytes.map_err(|error| refused(name, error))?
            }
        };
        let (inner, wanted) = (Arc::clone(self), *blob);
        blocking(move || {
            let staged = inner.store.stage(&bytes)?;
            if *staged.digest() != wanted {
                return Err(mismatch(wanted, *staged.digest()));
            }
            Ok(inner.store.publish(vec![staged])?)
        })
        .await
    }

    /// The size and type of an image's config, as its manifest says.
    fn config_of(&self, image: &Digest) -> Result<Descriptor> {
        let row = self.db.read(|conn| records::image(conn, image))?;
        let row = row.ok_or_else(|| Error::NotFound(image.to_string()))?;
        let manifest = self.store.document(&row.manifest)?;
        let manifest = Manifest::parse(&manifest, &row.manifest_type)
            .map_err(|error| Error::archive(format!("manifest {}", row.manifest), error.to_string()))?;
        Ok(manifest.config)
    }

    async fn download(
        self: &Arc<Self>,
        repository: &Repository,
        name: &str,
        blob: &Descriptor,
    ) -> Result<()> {
        use std::io::Write as _;
        let mut download = repository.blob(blob, 0).await.map_err(|error| refused(name, error))?;
        let mut ingest = self.store.ingest()?;
        while let Some(frame) = download.chunk().await.map_err(|error| refused(name, error))? {
            ingest = blocking(move || {
                ingest.write_all(&frame).map_err(|error| ingest.failure(error))?;
                Ok(ingest)
            })
            .await?;
        }
        let (inner, wanted) = (Arc::clone(self), blob.digest);
        blocking(move || {
            let staged = ingest.finish();
            if *staged.digest() != wanted {
                return Err(mismatch(wanted, *staged.digest()));
            }
            Ok(inner.store.publish(vec![staged])?)
        })
        .await
    }

    /// An uncompressed layer is in the file system that was made of it; whether one was whole.
    fn copy_from_layer(&self, blob: &Digest) -> Result<bool> {
        for row in self.db.read(records::layers)?.into_iter().filter(|row| row.diff == *blob) {
            let Ok(Some(mut stream)) = row.format.layers().stream(&self.place_of(row.directory)) else {
                continue;
            };
            let mut ingest = self.store.ingest()?;
            let copied = std::io::copy(&mut stream, &mut ingest);
            if let Err(error) = copied {
                let error = Error::from(ingest.failure(error));
                if error.is_full() {
                    return Err(error);
                }
                continue;
            }
            let staged = ingest.finish();
            if staged.digest() == blob {
                self.store.publish(vec![staged])?;
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn mismatch(expected: Digest, found: Digest) -> Error {
    Error::Mismatch { what: "what the registry sent".to_owned(), expected, found }
}
