//! `system check`: is everything there, and is it what its digest says?
//!
//! Blobs are hashed again. A layer that is a file system in a file carries the tar stream it was made from, which is
//! hashed, and the digest of its index; a layer that is a directory is unpacked once more beside it and compared bit for
//! bit. Rows are checked against each other and against the documents of their images.
//!
//! It runs beside everything else: a lease keeps all blobs, and what was removed meanwhile is no finding. Repair
//! ([`Images::repair`]) changes nothing in place: a blob is replaced by a rename, a layer by another directory with
//! all its bytes durable and one row that changes.

mod compare;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use wharf_content::spec::Manifest;
use wharf_linux::hostfs;
use wharf_model::Digest;

use crate::documents::chain_ids;
use crate::layer::{FILES, Format, Soundness, UnpackedLayer, inherit};
use crate::records::{self, ImageRow, LayerRow};
use crate::stage::{StagedDirectory, unpack_again};
use crate::{Error, Images, Inner, Result};

/// Hashing is bound by the cores up to here, and by the disk beyond.
const THREADS: usize = 4;

/// What can be damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Content as it came.
    Blob,
    /// The files of a layer.
    Layer,
    /// What is known of an image.
    Image,
}

impl Part {
    /// Its name in messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Blob => "blob",
            Self::Layer => "layer",
            Self::Image => "image",
        }
    }
}

/// Something damaged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What.
    pub part: Part,
    /// The digest of the blob, the chain id of the layer, or the id of the image.
    pub id: Digest,
    /// What is wrong, and after an attempt to repair it why it still is.
    pub reason: String,
    /// The images that need it, by their names.
    pub images: Vec<String>,
    /// It is whole again.
    pub repaired: bool,
}

/// What a check came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// What is damaged.
    pub findings: Vec<Finding>,
    /// Blobs that were hashed.
    pub blobs: u64,
    /// Layers that were compared.
    pub layers: u64,
    /// Images whose rows and documents were compared.
    pub images: u64,
    /// Bytes that were looked at.
    pub bytes: u64,
    /// Blobs that no image needs.
    pub garbage: Vec<Digest>,
    /// Layers that cannot be judged before the blob they came from is whole.
    pub(crate) unjudged: Vec<LayerRow>,
}

/// How a check gets on: bytes done and bytes in all. It ends the check by returning false.
pub type CheckProgress<'a> = &'a (dyn Fn(u64, u64) -> bool + Sync);

impl Images {
    /// Compares everything that is stored with its digests.
    ///
    /// # Errors
    /// [`Error::State`] when the rows cannot be read, [`Error::Full`] when there is no room to compare a layer. Damage
    /// is no error.
    pub fn check(&self, on: CheckProgress<'_>) -> Result<Report> {
        let inner = &self.inner;
        let _lease = inner.lease();
        let stock = Stock::take(inner)?;
        let mut report = Report {
            blobs: stock.blobs.len() as u64,
            layers: stock.layers.len() as u64,
            images: stock.images.len() as u64,
            garbage: stock.garbage.clone(),
            ..Report::default()
        };
        let counter = Counter::new(on, stock.bytes());

        let faults = in_parallel(&stock.blobs, |(blob, size)| {
            let fault = inner.fault_of_blob(blob)?;
            counter.add(*size)?;
            Ok(fault.map(|reason| (*blob, reason)))
        })?;
        let damaged: HashSet<Digest> = faults.iter().map(|(blob, _)| *blob).collect();
        for (id, reason) in faults {
            let images = stock.users_of_blob(&id);
            report.findings.push(Finding { part: Part::Blob, id, reason, images, repaired: false });
        }

        let faults = in_parallel(&stock.layers, |row| {
            let verdict = inner.verdict_on(row)?;
            counter.add(row.size)?;
            Ok((verdict != Verdict::Sound).then(|| (row.clone(), verdict)))
        })?;
        for (row, verdict) in faults {
            match verdict {
                Verdict::Damaged(reason) => {
                    let images = stock.users_of_layer(&row.chain);
                    report.findings.push(Finding {
                        part: Part::Layer,
                        id: row.chain,
                        reason,
                        images,
                        repaired: false,
                    });
                }
                Verdict::NothingToCompare => report.unjudged.push(row),
                Verdict::Sound => {}
            }
        }

        for row in &stock.images {
            if let Some(reason) = inner.fault_of_image(row, &damaged)? {
                let images = stock.label(&row.id);
                report.findings.push(Finding {
                    part: Part::Image,
                    id: row.id,
                    reason,
                    images,
                    repaired: false,
                });
            }
        }
        report.bytes = counter.done.into_inner();
        inner.drop_outdated(&mut report)?;
        Ok(report)
    }
}

/// What there is to check, at one moment.
struct Stock {
    images: Vec<ImageRow>,
    layers: Vec<LayerRow>,
    blobs: Vec<(Digest, u64)>,
    garbage: Vec<Digest>,
    by_blob: HashMap<Digest, Vec<Digest>>,
    labels: HashMap<Digest, Vec<String>>,
}

impl Stock {
    fn take(inner: &Inner) -> Result<Self> {
        // Blobs are published before their rows are committed, both under this lock.
        let _commit = inner.commit_lock();
        let (images, layers, lists, names, faults) = inner.db.read(|conn| {
            Ok::<_, Error>((
                records::images(conn)?,
                records::layers(conn)?,
                records::image_blobs(conn)?,
                records::names(conn)?,
                records::faults(conn)?,
            ))
        })?;
        if let Some(fault) = faults.first() {
            return Err(Error::Damaged(format!("the state database is damaged: {fault}")));
        }
        let mut by_blob: HashMap<Digest, Vec<Digest>> = HashMap::new();
        for (image, blob) in lists {
            by_blob.entry(blob).or_default().push(image);
        }
        let mut labels: HashMap<Digest, Vec<String>> = HashMap::new();
        for row in names {
            labels.entry(row.image).or_default().push(row.name.familiar());
        }
        let mut blobs = Vec::new();
        for blob in by_blob.keys() {
            blobs.push((*blob, inner.store.size(blob).ok().flatten().unwrap_or(0)));
        }
        // The largest first, so that no thread is left with it at the end.
        blobs.sort_unstable_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        let garbage = inner.store.list()?.into_iter().filter(|blob| !by_blob.contains_key(blob)).collect();
        Ok(Self { images, layers, blobs, garbage, by_blob, labels })
    }

    fn bytes(&self) -> u64 {
        let blobs: u64 = self.blobs.iter().map(|(_, size)| size).sum();
        blobs + self.layers.iter().map(|layer| layer.size).sum::<u64>()
    }

    /// Names of an image; its id if it has none.
    fn label(&self, image: &Digest) -> Vec<String> {
        self.labels.get(image).cloned().unwrap_or_else(|| vec![image.short()])
    }

    fn labels_of<'a>(&self, images: impl Iterator<Item = &'a Digest>) -> Vec<String> {
        let mut labels: Vec<String> = images.flat_map(|image| self.label(image)).collect();
        labels.sort_unstable();
        labels.dedup();
        labels
    }

    fn users_of_blob(&self, blob: &Digest) -> Vec<String> {
        self.labels_of(self.by_blob.get(blob).into_iter().flatten())
    }

    fn users_of_layer(&self, chain: &Digest) -> Vec<String> {
        let parents: HashMap<Digest, Option<Digest>> =
            self.layers.iter().map(|layer| (layer.chain, layer.parent)).collect();
        let stands_on = |image: &&ImageRow| {
            std::iter::successors(image.top, |below| parents.get(below).copied().flatten())
                .any(|below| below == *chain)
        };
        self.labels_of(self.images.iter().filter(stands_on).map(|image| &image.id))
    }
}

/// Bytes that were looked at, told to whoever listens.
struct Counter<'a> {
    on: CheckProgress<'a>,
    done: AtomicU64,
    total: u64,
}

impl<'a> Counter<'a> {
    fn new(on: CheckProgress<'a>, total: u64) -> Self {
        Self { on, done: AtomicU64::new(0), total }
    }

    fn add(&self, bytes: u64) -> Result<()> {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if (self.on)(done, self.total) {
            Ok(())
        } else {
            Err(Error::Invalid("the check was stopped".to_owned()))
        }
    }
}

/// What a look at a layer found.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Sound,
    Damaged(String),
    /// It is a directory, and the blob it was made from is damaged itself.
    NothingToCompare,
}

impl Inner {
    /// What is wrong with a blob, if anything.
    pub(crate) fn fault_of_blob(&self, blob: &Digest) -> Result<Option<String>> {
        Ok(match self.store.verify(blob) {
            Ok(()) => None,
            Err(wharf_content::Error::NotFound(_)) => Some("it is missing".to_owned()),
            Err(wharf_content::Error::Mismatch { found, .. }) => {
                Some(format!("its bytes have the digest {found}"))
            }
            Err(wharf_content::Error::Fs(error)) => Some(error.to_string()),
        })
    }

    fn verdict_on(&self, row: &LayerRow) -> Result<Verdict> {
        let place = self.place_of(row.directory);
        if !hostfs::exists(&place.join(FILES))? {
            return Ok(Verdict::Damaged("its files are missing".to_owned()));
        }
        match row.format.layers().verify(&place, &row.diff) {
            Ok(Soundness::Sound) => Ok(Verdict::Sound),
            Ok(Soundness::Damaged(what)) => Ok(Verdict::Damaged(what)),
            Ok(Soundness::Unknown) => self.compare(row),
            Err(Error::Store { op, path, source }) => {
                Ok(Verdict::Damaged(format!("{op} {}: {source}", path.display())))
            }
            Err(error) => Err(error),
        }
    }

    /// Compares a directory with what its blob unpacks to.
    fn compare(&self, row: &LayerRow) -> Result<Verdict> {
        let Some((fresh, unpacked)) = self.unpack_beside(row, Format::Directory)? else {
            return Ok(Verdict::NothingToCompare);
        };
        // What is described nowhere below either has the time it was made.
        let undated = unpacked.implied.into_iter().map(|implied| implied.path).collect();
        let found = self.files_of(row.directory);
        match compare::difference(&fresh.place().join(FILES), &found, &undated) {
            Ok(None) => Ok(Verdict::Sound),
            Ok(Some(what)) => Ok(Verdict::Damaged(what)),
            Err(Error::Store { op, path, source }) => {
                Ok(Verdict::Damaged(format!("{op} {}: {source}", path.display())))
            }
            Err(error) => Err(error),
        }
    }

    /// Unpacks a layer once more; nothing if no blob of it is whole.
    fn unpack_beside(
        &self,
        row: &LayerRow,
        format: Format,
    ) -> Result<Option<(StagedDirectory, UnpackedLayer)>> {
        for blob in self.db.read(|conn| records::blobs_of_diff(conn, &row.diff))? {
            let Ok(file) = self.store.reader(&blob) else { continue };
            let directory =
                StagedDirectory::create(&self.snapshots, self.next_number(), format, &self.trash)?;
            let unpacked = match unpack_again(file, &directory, &row.diff, &self.limits) {
                Ok(unpacked) => unpacked,
                Err(error) if error.is_full() => return Err(error),
                Err(error) => {
                    tracing::debug!("layer {} cannot be made from {blob}: {error}", row.chain);
                    continue;
                }
            };
            let mut below = Vec::new();
            if let Some(parent) = &row.parent {
                let rows = self.db.read(|conn| records::chain_of(conn, parent))?;
                below.extend(rows.iter().map(|row| (row.format, self.place_of(row.directory))));
            }
            inherit(unpacked.format, directory.place(), &unpacked.implied, &below)?;
            return Ok(Some((directory, unpacked)));
        }
        Ok(None)
    }

    /// Whether the rows of an image say what its documents say.
    fn fault_of_image(&self, row: &ImageRow, damaged: &HashSet<Digest>) -> Result<Option<String>> {
        let needed: HashSet<Digest> =
            self.db.read(|conn| records::blobs_of(conn, &row.id))?.into_iter().collect();
        if !needed.contains(&row.id) || !needed.contains(&row.manifest) {
            return Ok(Some("its config or its manifest is not kept".to_owned()));
        }
        // Damaged documents are findings of their own.
        if damaged.contains(&row.id) || damaged.contains(&row.manifest) {
            return Ok(None);
        }
        let chains = match self.documents(&row.id) {
            Ok(documents) => chain_ids(&documents.diff_ids),
            Err(error) => return Ok(Some(format!("its config cannot be read: {error}"))),
        };
        if chains.last().copied() != row.top {
            return Ok(Some("its layers are not those that its config lists".to_owned()));
        }
        let manifest = self.store.document(&row.manifest)?;
        let Ok(manifest) = Manifest::parse(&manifest, &row.manifest_type) else {
            return Ok(Some("its manifest cannot be read".to_owned()));
        };
        let kept = manifest.layers.iter().all(|layer| needed.contains(&layer.digest));
        let whole = manifest.config.digest == row.id && manifest.layers.len() == chains.len();
        Ok((!kept || !whole).then(|| "its manifest is of another image".to_owned()))
    }

    /// What was removed or replaced while the check ran is not damaged.
    fn drop_outdated(&self, report: &mut Report) -> Result<()> {
        let mut kept = Vec::new();
        for finding in report.findings.drain(..) {
            let still = self.db.read(|conn| match finding.part {
                Part::Blob => records::is_needed(conn, &finding.id),
                Part::Layer => Ok(records::layer(conn, &finding.id)?.is_some()),
                Part::Image => Ok(records::image(conn, &finding.id)?.is_some()),
            })?;
            // A layer may have gone and come back with other files.
            if still && (finding.part != Part::Layer || self.is_still_damaged(&finding.id)?) {
                kept.push(finding);
            }
        }
        report.findings = kept;
        Ok(())
    }

    /// Looks again.
    pub(crate) fn is_still_damaged(&self, chain: &Digest) -> Result<bool> {
        let Some(row) = self.db.read(|conn| records::layer(conn, chain))? else { return Ok(false) };
        Ok(matches!(self.verdict_on(&row)?, Verdict::Damaged(_)))
    }

    /// Unpacks a layer again and gives it the new files. Containers that have the old ones open keep them.
    ///
    /// # Errors
    /// [`Error::Damaged`] when there is no whole blob to make it from.
    pub(crate) fn rebuild_layer(&self, chain: &Digest) -> Result<()> {
        let _commit = self.commit_lock();
        let Some(old) = self.db.read(|conn| records::layer(conn, chain))? else { return Ok(()) };
        let (mut directory, unpacked) = self
            .unpack_beside(&old, self.layer_format())?
            .ok_or_else(|| Error::Damaged("the blob it was made from is missing or damaged".to_owned()))?;
        unpacked.format.layers().sync(&[directory.place().to_owned()])?;
        let new = LayerRow {
            directory: directory.number,
            size: unpacked.size,
            opaque: unpacked.opaque_root,
            format: unpacked.format,
            ..old.clone()
        };
        let in_use = self.db.write(|tx| records::replace_layer(tx, &old, &new))?;
        directory.keep();
        self.db.sync()?;
        if !in_use {
            old.format.layers().detach(&self.place_of(old.directory))?;
            self.discard_directory(old.directory)?;
        }
        Ok(())
    }
}

/// Runs `work` on every item with a few threads, and gathers what it gives.
fn in_parallel<T: Sync, R: Send>(
    items: &[T],
    work: impl Fn(&T) -> Result<Option<R>> + Sync,
) -> Result<Vec<R>> {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(THREADS);
    let next = AtomicUsize::new(0);
    let gathered = Mutex::new(Ok(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..threads.min(items.len()) {
            scope.spawn(|| {
                while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let result = work(item);
                    let mut gathered = gathered.lock().unwrap_or_else(PoisonError::into_inner);
                    match (result, &mut *gathered) {
                        (Ok(found), Ok(all)) => all.extend(found),
                        (Err(error), Ok(_)) => {
                            next.store(items.len(), Ordering::Relaxed);
                            *gathered = Err(error);
                        }
                        (_, Err(_)) => return,
                    }
                }
            });
        }
    });
    gathered.into_inner().unwrap_or_else(PoisonError::into_inner)
}
