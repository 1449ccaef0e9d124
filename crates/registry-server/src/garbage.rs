//! The collector: removes what nobody needs any more, while the registry serves.
//!
//! It never walks the registry. Whoever takes the last reason away from something, or brings something whose reason is
//! yet to come, writes down *what* to look at and *when* (a check, see [`crate::keys`]), and the collector reads that list:
//! - `c/<name>/_/<hex>`: does the repository need this blob (or, with `remove_untagged`, this manifest)? If a manifest or
//!   tag holds it, the check is done. If a client may be about to need it (a lease), it stays for later. Else it leaves the
//!   repository, under the repository's exclusive lock, so that no manifest that names it is being put.
//! - `d/<hex>`: does any repository have this blob? If not, its bytes go, under the blob's exclusive lock, so that nobody
//!   is making it belong to a repository. Who is reading it reads on.
//!
//! Final (RS-04): membership goes first and durably, bytes later; a crash in between leaves the check, which is done again.
//! Only a crash between a blob's publication and its link, or of a storage that cut a list of changes short, leaves
//! bytes without a check: the pass at start looks at every blob once, and counts them.
//!
//! Several servers on one storage: one of them collects. Leases of the others are unknown to it; there `grace` is what
//! clients of the other servers have between asking for a blob and putting the manifest.

use std::time::Duration;

use wharf_model::Digest;
use wharf_registry::spec::RepositoryName;

use crate::error::Result;
use crate::keys::{self, put};
use crate::repository::Repository;
use crate::storage::Change;
use crate::{Registry, document::Document};

/// What is due is looked for this often, and at once after a deletion.
const INTERVAL: Duration = Duration::from_secs(5);
const PAGE: usize = 1000;
/// A repository is locked for so many checks at a time.
const LOCKED_CHECKS: usize = 64;

impl Registry {
    /// Collects for as long as the future is polled. Run it once per storage.
    pub async fn collect(&self) {
        let options = self.options();
        report("recall uploads", self.recall_uploads().await);
        report("look at every blob", self.count_blobs(options.collect).await);
        // Leases are forgotten at a restart: give their holders their time.
        tokio::time::sleep(options.grace).await;
        loop {
            if options.collect && !options.read_only {
                report("collect", self.collect_once().await);
            }
            report("expire uploads", self.expire_uploads().await);
            self.guards().forget_leases(options.grace);
            let _ = tokio::time::timeout(INTERVAL, self.woken()).await;
        }
    }

    /// Does every check that is due.
    ///
    /// # Errors
    /// When the storage fails; what was not done is done the next time.
    pub async fn collect_once(&self) -> Result<()> {
        // What the first sets free the second removes.
        self.check_names().await?;
        self.check_blobs().await
    }

    /// Looks at every blob and does every check that is due, in a registry that is not being served.
    ///
    /// # Errors
    /// When the storage fails; what was not done is done the next time.
    pub async fn collect_all(&self) -> Result<()> {
        self.recall_uploads().await?;
        self.count_blobs(true).await?;
        self.expire_uploads().await?;
        self.collect_once().await
    }

    async fn check_names(&self) -> Result<()> {
        let mut after = String::new();
        loop {
            let page = self.storage().records.list(keys::NAME_CHECKS, &after, PAGE).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after.clone_from(last);
            let mut rest = &page[..];
            while let Some((name, _)) = rest.first().and_then(|key| keys::parse_name_check(key)) {
                let of_name =
                    |key: &&String| keys::parse_name_check(key).is_some_and(|(other, _)| other == name);
                let count = rest.iter().take_while(of_name).count().min(LOCKED_CHECKS);
                let (chunk, remaining) = rest.split_at(count);
                rest = remaining;
                let digests = chunk.iter().filter_map(|key| Some(keys::parse_name_check(key)?.1));
                if let Ok(name) = name.parse::<RepositoryName>() {
                    self.repository(name).check_names(digests.collect()).await?;
                }
            }
        }
    }

    async fn check_blobs(&self) -> Result<()> {
        let mut after = String::new();
        loop {
            let page = self.storage().records.list(keys::BLOB_CHECKS, &after, PAGE).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after.clone_from(last);
            let mut done = Vec::new();
            for digest in page.iter().filter_map(|hex| Digest::from_hex(hex).ok()) {
                self.check_blob(&digest).await?;
                done.push(Change::Delete(keys::blob_check(&digest)));
            }
            self.storage().records.write(done).await?;
        }
    }

    /// Removes a blob that no repository has.
    async fn check_blob(&self, digest: &Digest) -> Result<()> {
        let _guard = self.guards().remove_blob(digest).await;
        if self.has_owner(digest).await? {
            return Ok(());
        }
        if let Some(size) = self.storage().blobs.size(*digest).await? {
            self.storage().blobs.remove(*digest).await?;
            self.counts().blob_went(size);
            tracing::debug!(%digest, size, "removed a blob");
        }
        Ok(())
    }

    async fn has_owner(&self, digest: &Digest) -> Result<bool> {
        let prefix = keys::owners(digest);
        loop {
            let owners = self.storage().records.list(&prefix, "", PAGE).await?;
            let mut stale = Vec::new();
            for name in owners {
                if self.storage().records.get(&keys::blob(&name, digest)).await?.is_some() {
                    return Ok(true);
                }
                stale.push(Change::Delete(keys::owner(digest, &name)));
            }
            if stale.is_empty() {
                return Ok(false);
            }
            self.storage().records.write(stale).await?;
        }
    }

    /// Counts the blobs and has those looked at that nobody owns.
    async fn count_blobs(&self, check: bool) -> Result<()> {
        let mut after = None;
        loop {
            let page = self.storage().blobs.list(after, 10 * PAGE).await?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after = Some(*last);
            for (digest, size) in page {
                // Not the blob's lock: a blob that is being linked just now is looked at again under it.
                if check && self.storage().records.list(&keys::owners(&digest), "", 1).await?.is_empty() {
                    let soon = keys::time(Duration::ZERO);
                    self.storage().records.write(vec![put(keys::blob_check(&digest), soon)]).await?;
                }
                self.counts().blob_counted(size);
            }
        }
    }
}

impl Repository {
    /// Does the checks that are due of those given.
    async fn check_names(&self, digests: Vec<Digest>) -> Result<()> {
        if self.due(&digests).await?.is_empty() {
            return Ok(());
        }
        let grace = self.registry.options().grace;
        let _guard = self.registry.guards().shrink_repository(self.name()).await;
        let (mut changes, mut freed) = (Vec::new(), 0);
        // Again: whoever came before the lock may have put them off.
        for digest in &self.due(&digests).await? {
            if let Some(manifest) = self.stored(digest).await? {
                if self.registry.options().remove_untagged && !self.is_needed(digest).await? {
                    // On its own, after what was found while it was there: its removal makes new checks of what it held.
                    self.write(std::mem::take(&mut changes)).await?;
                    self.write(self.removing(&manifest).await?).await?;
                } else {
                    changes.push(Change::Delete(keys::name_check(self.name(), digest)));
                }
                continue;
            }
            let size = self.get(&keys::blob(self.name(), digest)).await?;
            match size {
                Some(_) if self.registry.guards().is_leased(self.name(), digest, grace) => {}
                Some(size) if !self.is_held(digest).await? => {
                    changes.extend(self.unlinking(digest));
                    freed += keys::number(&size);
                }
                _ => changes.push(Change::Delete(keys::name_check(self.name(), digest))),
            }
        }
        self.write(changes).await?;
        self.registry.counts().unlinked(self.name(), freed);
        self.forget_if_empty().await
    }

    async fn due(&self, digests: &[Digest]) -> Result<Vec<Digest>> {
        let mut due = Vec::new();
        for digest in digests {
            let time = self.get(&keys::name_check(self.name(), digest)).await?;
            if time.is_some_and(|time| keys::number(&time) <= keys::now()) {
                due.push(*digest);
            }
        }
        Ok(due)
    }

    /// Whether a manifest that is there, or a tag that points at it, holds something.
    async fn is_held(&self, digest: &Digest) -> Result<bool> {
        let prefix = keys::holders(self.name(), digest);
        let mut after = String::new();
        loop {
            let holders = self.registry.storage().records.list(&prefix, &after, PAGE).await?;
            let Some(last) = holders.last() else { return Ok(false) };
            after.clone_from(last);
            for holder in &holders {
                let holds = match holder.split_once('/') {
                    Some(("m", hex)) => match Digest::from_hex(hex) {
                        Ok(manifest) => self.get(&keys::manifest(self.name(), &manifest)).await?.is_some(),
                        Err(_) => false,
                    },
                    Some((_, tag)) => self
                        .get(&keys::tag(self.name(), tag))
                        .await?
                        .is_some_and(|hex| *hex == *digest.hex().as_bytes()),
                    None => false,
                };
                if holds {
                    return Ok(true);
                }
            }
        }
    }

    /// Whether an untagged manifest has another reason to stay: an index lists it, or its subject is here.
    async fn is_needed(&self, digest: &Digest) -> Result<bool> {
        if self.is_held(digest).await? {
            return Ok(true);
        }
        let Some(manifest) = self.stored(digest).await? else { return Ok(false) };
        let document = Document::parse(&manifest.bytes, Some(&manifest.media_type));
        match document.ok().and_then(|(document, _)| document.subject) {
            Some(subject) => Ok(self.stored(&subject).await?.is_some()),
            None => Ok(false),
        }
    }

    /// Takes a repository in which nothing is left out of the catalog. The caller holds its lock exclusively.
    async fn forget_if_empty(&self) -> Result<()> {
        let name = self.name();
        for prefix in [keys::blobs(name), keys::manifests(name), keys::tags(name)] {
            if !self.registry.storage().records.list(&prefix, "", 1).await?.is_empty() {
                return Ok(());
            }
        }
        self.write(vec![Change::Delete(keys::repository(name))]).await
    }
}

fn report(what: &str, result: Result<()>) {
    if let Err(error) = result {
        tracing::warn!(%error, "cannot {what}; it is tried again");
    }
}
