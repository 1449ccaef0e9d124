//! How much is stored, and how much may be.
//!
//! The counts are kept in memory: those of the whole registry are taken by the collector's pass at start, those of a
//! repository when its quota is first asked for. They steer quotas and metrics; nothing else depends on them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use crate::error::{Error, Result};
use crate::{Options, Storage, Usage, keys};

/// Repositories are listed in pages of this size.
const PAGE: usize = 1000;

#[derive(Debug, Default)]
pub(crate) struct Counts {
    blobs: AtomicU64,
    bytes: AtomicU64,
    removed_blobs: AtomicU64,
    removed_bytes: AtomicU64,
    /// Bytes of repositories, where a quota made somebody ask.
    repositories: Mutex<HashMap<String, u64>>,
}

impl Counts {
    pub(crate) fn usage(&self, uploads: usize) -> Usage {
        Usage {
            blobs: self.blobs.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            uploads: uploads as u64,
            removed_blobs: self.removed_blobs.load(Relaxed),
            removed_bytes: self.removed_bytes.load(Relaxed),
        }
    }

    pub(crate) fn blob_came(&self, size: u64) {
        self.blobs.fetch_add(1, Relaxed);
        self.bytes.fetch_add(size, Relaxed);
    }

    /// A blob that was there at start.
    pub(crate) fn blob_counted(&self, size: u64) {
        self.blob_came(size);
    }

    pub(crate) fn blob_went(&self, size: u64) {
        let down = |counter: &AtomicU64, by| {
            let _ = counter.fetch_update(Relaxed, Relaxed, |value| Some(value.saturating_sub(by)));
        };
        down(&self.blobs, 1);
        down(&self.bytes, size);
        self.removed_blobs.fetch_add(1, Relaxed);
        self.removed_bytes.fetch_add(size, Relaxed);
    }

    pub(crate) fn linked(&self, name: &str, size: u64) {
        let mut repositories = self.repositories.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bytes) = repositories.get_mut(name) {
            *bytes = bytes.saturating_add(size);
        }
    }

    pub(crate) fn unlinked(&self, name: &str, size: u64) {
        let mut repositories = self.repositories.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bytes) = repositories.get_mut(name) {
            *bytes = bytes.saturating_sub(size);
        }
    }

    async fn of_repository(&self, storage: &Storage, name: &str) -> Result<u64> {
        if let Some(bytes) = self.repositories.lock().unwrap_or_else(PoisonError::into_inner).get(name) {
            return Ok(*bytes);
        }
        let (prefix, mut after, mut bytes) = (keys::blobs(name), String::new(), 0_u64);
        loop {
            let page = storage.records.list(&prefix, &after, PAGE).await?;
            for hex in &page {
                let size = storage.records.get(&format!("{prefix}{hex}")).await?;
                bytes = bytes.saturating_add(size.map_or(0, |size| keys::number(&size)));
            }
            match page.into_iter().last() {
                Some(last) => after = last,
                None => break,
            }
        }
        let mut repositories = self.repositories.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(*repositories.entry(name.to_owned()).or_insert(bytes))
    }

    /// How large a blob may be that comes into the repository now, and why not larger.
    pub(crate) async fn room(&self, options: &Options, storage: &Storage, name: &str) -> Result<Room> {
        let mut room = Room { bytes: u64::MAX, full: Full::BlobSize };
        if let Some(max) = options.max_blob {
            room = Room { bytes: max, full: Full::BlobSize };
        }
        if let Some(quota) = options.total_quota {
            let left = quota.saturating_sub(self.bytes.load(Relaxed));
            room = room.min(Room { bytes: left, full: Full::Total(quota) });
        }
        if let Some(quota) = options.repository_quota {
            let left = quota.saturating_sub(self.of_repository(storage, name).await?);
            room = room.min(Room { bytes: left, full: Full::Repository(quota) });
        }
        Ok(room)
    }
}

/// How many bytes fit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    pub(crate) bytes: u64,
    full: Full,
}

#[derive(Debug, Clone, Copy)]
enum Full {
    BlobSize,
    Repository(u64),
    Total(u64),
}

impl Room {
    fn min(self, other: Self) -> Self {
        if other.bytes < self.bytes { other } else { self }
    }

    /// What to say when more than that is to come.
    pub(crate) fn refusal(&self) -> Error {
        match self.full {
            Full::BlobSize => Error::TooLarge(format!("a blob may have at most {} bytes", self.bytes)),
            Full::Repository(quota) => Error::Denied(format!(
                "the repository's quota of {quota} bytes is used up; delete images you do not need"
            )),
            Full::Total(quota) => Error::Denied(format!(
                "the registry's quota of {quota} bytes is used up; ask its operator for more, or delete images"
            )),
        }
    }

    pub(crate) fn check(&self, bytes: u64) -> Result<()> {
        if bytes > self.bytes { Err(self.refusal()) } else { Ok(()) }
    }
}

/// Refuses a new repository when there are as many as may be.
pub(crate) async fn check_repositories(options: &Options, storage: &Storage) -> Result<()> {
    let Some(max) = options.max_repositories else { return Ok(()) };
    let limit = usize::try_from(max).unwrap_or(usize::MAX);
    if storage.records.list(keys::REPOSITORIES, "", limit).await?.len() >= limit {
        return Err(Error::Denied(format!("the registry holds the {max} repositories it may have")));
    }
    Ok(())
}
