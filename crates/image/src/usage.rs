//! What the store takes on disk, and keeping it within a budget.
//!
//! The sum is what du(1) says of `content/` and of the directories of all layers: each layer once, however many images
//! stand on it, and the blobs they came as, which are kept for push and save. Docker's field for it, `LayersSize`, has
//! the blobs in it too where Docker keeps them (its containerd image store).
//!
//! A layer never changes, so it is measured once in the life of an engine.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::PoisonError;

use wharf_linux::{hostfs, tree};
use wharf_model::Digest;

use crate::{Error, Images, Inner, Pruned, Result, User, records};

/// What the store takes on disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of blobs and layers.
    pub bytes: u64,
    /// Of each image, the unpacked bytes of layers that other images have too.
    pub shared: HashMap<Digest, u64>,
}

impl Images {
    /// Adds up what the store takes on disk.
    ///
    /// # Errors
    /// [`Error::Store`] when it cannot be read.
    pub fn usage(&self) -> Result<Usage> {
        Ok(Usage { shared: self.shared_sizes()?, bytes: self.inner.bytes_on_disk()? })
    }

    /// Of each image, the unpacked bytes of layers that other images have too.
    ///
    /// # Errors
    /// [`Error::State`].
    pub fn shared_sizes(&self) -> Result<HashMap<Digest, u64>> {
        let (images, layers) =
            self.inner.db.read(|conn| Ok::<_, Error>((records::images(conn)?, records::layers(conn)?)))?;
        let layers: HashMap<Digest, _> = layers.iter().map(|layer| (layer.chain, layer)).collect();
        let chain_of = |top: Option<Digest>| {
            std::iter::successors(top.and_then(|top| layers.get(&top)), |layer| layers.get(&layer.parent?))
        };
        let mut users: HashMap<Digest, usize> = HashMap::new();
        for image in &images {
            chain_of(image.top).for_each(|layer| *users.entry(layer.chain).or_default() += 1);
        }
        let shared = images.iter().map(|image| {
            let shared =
                chain_of(image.top).filter(|layer| users.get(&layer.chain).is_some_and(|users| *users > 1));
            (image.id, shared.map(|layer| layer.size).sum())
        });
        Ok(shared.collect())
    }

    /// Removes images that no container uses until the store takes at most `budget` bytes: those that were used longest
    /// ago go first, the one that was used last never does. While anything is being pulled, pushed, loaded or saved,
    /// nothing is removed; whoever ends last asks again.
    ///
    /// # Errors
    /// [`Error::Store`] or [`Error::State`]; what was removed before stays removed.
    pub fn keep_to_budget(&self, budget: u64, users: &dyn Fn(&Digest) -> Vec<User>) -> Result<Pruned> {
        let inner = &self.inner;
        let _commit = inner.commit_lock();
        let mut pruned = Pruned::default();
        let mut candidates = inner.db.read(records::by_last_use)?;
        candidates.pop();
        for image in candidates {
            let bytes = inner.bytes_on_disk()?;
            if bytes <= budget || inner.is_leased() {
                break;
            }
            if !users(&image).is_empty() {
                continue;
            }
            let names = inner.db.read(|conn| records::names_of(conn, &image))?;
            let names: Vec<String> = names.iter().map(|row| row.name.familiar()).collect();
            inner.remove_unused(image, &mut pruned)?;
            tracing::info!(
                "image {} ({}) was removed, because the store took {bytes} bytes of a budget of {budget}",
                image.short(),
                names.join(", ")
            );
        }
        Ok(pruned)
    }
}

impl Inner {
    fn bytes_on_disk(&self) -> Result<u64> {
        let mut bytes = on_disk(self.store.root())?;
        let layers = self.db.read(records::layers)?;
        let mut measured = self.measured.lock().unwrap_or_else(PoisonError::into_inner);
        measured.retain(|directory, _| layers.iter().any(|layer| layer.directory == *directory));
        for layer in layers {
            bytes += match measured.get(&layer.directory) {
                Some(bytes) => *bytes,
                // One that is gone by now takes nothing.
                None => match on_disk(&self.place_of(layer.directory)) {
                    Ok(bytes) => *measured.entry(layer.directory).or_insert(bytes),
                    Err(error) if error.is_not_found() => 0,
                    Err(error) => return Err(error.into()),
                },
            };
        }
        Ok(bytes)
    }
}

fn on_disk(path: &Path) -> hostfs::Result<u64> {
    let directory = hostfs::open_dir(path)?;
    tree::disk_usage(directory.as_fd())
        .map_err(|error| hostfs::Error { path: path.join(&error.path), ..error })
}
