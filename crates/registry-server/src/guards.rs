//! What keeps requests and the collector out of each other's way, in memory.
//!
//! *Locks*, striped over names and digests. Order: repository, tag, blob; nobody takes two of one kind.
//! - repository: shared by who counts on what is in it (links a blob, puts a manifest, says that a blob is there),
//!   exclusive for who removes something from it;
//! - tag: exclusive for who moves it;
//! - blob: shared by who makes it belong to a repository, exclusive for who removes its bytes.
//!
//! *Leases*: a client who has been told that a blob is there, or has brought it, is about to push the manifest that needs
//! it. For `grace` the collector leaves the blob in the repository, and for as long as uploads go on there that began
//! before the lease ended: they are the other layers of the same push.
//!
//! A restart forgets leases; the collector waits for `grace` before its first pass.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use wharf_model::Digest;

use crate::storage::UploadId;

const STRIPES: usize = 64;
/// Uploads that one repository may have open: each costs a record and an entry here.
const MAX_UPLOADS_OF_REPOSITORY: usize = 1000;

pub(crate) struct Guards {
    hasher: RandomState,
    repositories: Stripes,
    tags: Stripes,
    blobs: Stripes,
    leases: Mutex<HashMap<(String, Digest), Instant>>,
    uploads: Mutex<HashMap<UploadId, Upload>>,
}

type Stripes = [RwLock<()>; STRIPES];

/// An open upload.
#[derive(Debug, Clone)]
pub(crate) struct Upload {
    pub(crate) repository: String,
    pub(crate) began: Instant,
    pub(crate) touched: Instant,
    /// A request is adding to it or ending it.
    pub(crate) busy: bool,
}

impl Guards {
    pub(crate) fn new() -> Self {
        let stripes = || std::array::from_fn(|_| RwLock::new(()));
        Self {
            hasher: RandomState::new(),
            repositories: stripes(),
            tags: stripes(),
            blobs: stripes(),
            leases: Mutex::default(),
            uploads: Mutex::default(),
        }
    }

    fn stripe<'a>(&self, stripes: &'a Stripes, of: impl Hash) -> &'a RwLock<()> {
        &stripes[usize::try_from(self.hasher.hash_one(of) % STRIPES as u64).unwrap_or(0)]
    }

    pub(crate) async fn use_repository(&self, name: &str) -> RwLockReadGuard<'_, ()> {
        self.stripe(&self.repositories, name).read().await
    }

    pub(crate) async fn shrink_repository(&self, name: &str) -> RwLockWriteGuard<'_, ()> {
        self.stripe(&self.repositories, name).write().await
    }

    pub(crate) async fn move_tag(&self, name: &str, tag: &str) -> RwLockWriteGuard<'_, ()> {
        self.stripe(&self.tags, (name, tag)).write().await
    }

    pub(crate) async fn use_blob(&self, digest: &Digest) -> RwLockReadGuard<'_, ()> {
        self.stripe(&self.blobs, digest).read().await
    }

    pub(crate) async fn remove_blob(&self, digest: &Digest) -> RwLockWriteGuard<'_, ()> {
        self.stripe(&self.blobs, digest).write().await
    }

    fn leases(&self) -> MutexGuard<'_, HashMap<(String, Digest), Instant>> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn uploads(&self) -> MutexGuard<'_, HashMap<UploadId, Upload>> {
        self.uploads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a blob in the repository for a while. The caller holds the repository's lock.
    pub(crate) fn lease(&self, name: &str, digest: &Digest) {
        self.leases().insert((name.to_owned(), *digest), Instant::now());
    }

    /// Whether a lease holds.
    pub(crate) fn is_leased(&self, name: &str, digest: &Digest, grace: Duration) -> bool {
        let taken = self.leases().get(&(name.to_owned(), *digest)).copied();
        taken.is_some_and(|taken| self.holds(name, taken, grace))
    }

    /// Forgets the leases that hold no more.
    pub(crate) fn forget_leases(&self, grace: Duration) {
        let old: Vec<_> = {
            let leases = self.leases();
            leases
                .iter()
                .filter(|(_, taken)| taken.elapsed() >= grace)
                .map(|(key, taken)| (key.clone(), *taken))
                .collect()
        };
        for ((name, digest), taken) in old {
            if !self.holds(&name, taken, grace) {
                let mut leases = self.leases();
                let key = (name, digest);
                if leases.get(&key) == Some(&taken) {
                    leases.remove(&key);
                }
            }
        }
    }

    fn holds(&self, name: &str, taken: Instant, grace: Duration) -> bool {
        taken.elapsed() < grace
            || self.uploads().values().any(|upload| {
                upload.repository == name
                    && upload.began <= taken + grace
                    && (upload.busy || upload.touched.elapsed() < grace)
            })
    }

    /// Notes an upload; false when the repository has too many.
    pub(crate) fn begin_upload(&self, id: UploadId, repository: &str) -> bool {
        let mut uploads = self.uploads();
        let open = uploads.values().filter(|upload| upload.repository == repository).count();
        if open >= MAX_UPLOADS_OF_REPOSITORY {
            return false;
        }
        let now = Instant::now();
        let upload = Upload { repository: repository.to_owned(), began: now, touched: now, busy: false };
        uploads.insert(id, upload);
        true
    }

    /// Notes an upload that was begun before the start, unless it is known.
    pub(crate) fn recall_upload(&self, id: UploadId, repository: &str) {
        if !self.has_upload(id, repository) {
            self.begin_upload(id, repository);
        }
    }

    pub(crate) fn end_upload(&self, id: UploadId) {
        self.uploads().remove(&id);
    }

    pub(crate) fn open_uploads(&self) -> usize {
        self.uploads().len()
    }

    /// Uploads nobody has gone on with for `age`.
    pub(crate) fn idle_uploads(&self, age: Duration) -> Vec<UploadId> {
        let uploads = self.uploads();
        let idle = uploads.iter().filter(|(_, upload)| !upload.busy && upload.touched.elapsed() >= age);
        idle.map(|(id, _)| *id).collect()
    }

    /// Takes an upload for one request, if it is the repository's and no other request has it.
    pub(crate) fn take_upload(&self, id: UploadId, repository: &str) -> Taken<'_> {
        let mut uploads = self.uploads();
        match uploads.get_mut(&id) {
            Some(upload) if upload.repository != repository => Taken::Unknown,
            Some(upload) if upload.busy => Taken::Busy,
            Some(upload) => {
                upload.busy = true;
                upload.touched = Instant::now();
                Taken::Yours(UploadGuard { guards: self, id })
            }
            None => Taken::Unknown,
        }
    }

    /// Whether the repository has this upload.
    pub(crate) fn has_upload(&self, id: UploadId, repository: &str) -> bool {
        self.uploads().get(&id).is_some_and(|upload| upload.repository == repository)
    }
}

/// What became of [`Guards::take_upload`].
pub(crate) enum Taken<'a> {
    Yours(UploadGuard<'a>),
    Busy,
    Unknown,
}

/// An upload in the hands of one request.
pub(crate) struct UploadGuard<'a> {
    guards: &'a Guards,
    id: UploadId,
}

impl Drop for UploadGuard<'_> {
    fn drop(&mut self) {
        if let Some(upload) = self.guards.uploads().get_mut(&self.id) {
            upload.busy = false;
            upload.touched = Instant::now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_holds_for_its_time_and_for_uploads_that_began_before() {
        let guards = Guards::new();
        let (layer, hour, none) = (wharf_content::digest_of(b"x"), Duration::from_secs(3600), Duration::ZERO);
        let (before, after) = (UploadId::random().unwrap(), UploadId::random().unwrap());
        assert!(!guards.is_leased("a", &layer, hour));
        assert!(guards.begin_upload(before, "a"));
        guards.lease("a", &layer);
        assert!(guards.is_leased("a", &layer, hour));
        assert!(!guards.is_leased("b", &layer, hour), "each repository for itself");
        assert!(!guards.is_leased("a", &layer, none));

        let Taken::Yours(busy) = guards.take_upload(before, "a") else { panic!("the upload is free") };
        assert!(guards.is_leased("a", &layer, none), "another layer of the same push is coming");
        guards.forget_leases(none);
        assert!(matches!(guards.take_upload(before, "a"), Taken::Busy));
        assert!(matches!(guards.take_upload(before, "b"), Taken::Unknown));
        drop(busy);
        assert!(!guards.is_leased("a", &layer, none));

        assert!(guards.begin_upload(after, "a"));
        let Taken::Yours(_busy) = guards.take_upload(after, "a") else { panic!("the upload is free") };
        assert!(!guards.is_leased("a", &layer, none), "the next push has leases of its own");
        guards.forget_leases(none);
        assert!(!guards.is_leased("a", &layer, hour), "forgotten");
    }

    #[test]
    fn a_repository_has_a_bounded_number_of_uploads() {
        let guards = Guards::new();
        let begin = |name| guards.begin_upload(UploadId::random().unwrap(), name);
        assert!((0..MAX_UPLOADS_OF_REPOSITORY).all(|_| begin("a")));
        assert!(!begin("a"));
        assert!(begin("b"));
    }
}
