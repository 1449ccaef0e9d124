//! One repository: what belongs to it and what it points at. Routes and the pull-through cache stand on this.
//!
//! Membership: a blob is readable here when `b/<name>/_/<hex>` says so, whatever other repositories have (RS-04).
//! Order of writes: see [`crate::keys`]; locks: see [`crate::guards`].

use std::ops::Range;

use bytes::Bytes;
use wharf_content::digest_of;
use wharf_model::Digest;
use wharf_registry::spec::{RepositoryName, Tag};

use crate::document::{Document, Reference, Referrer, What};
use crate::error::{Error, Result};
use crate::keys::{self, put};
use crate::limits;
use crate::registry::Registry;
use crate::storage::{Change, Pieces};

/// A page of referrers has at most about so many bytes: clients read at most 4 MiB.
const MAX_REFERRERS_BYTES: usize = 2 << 20;
/// Keys are listed in pages of this size where all of them are needed.
const PAGE: usize = 1000;

/// A repository, whether or not there is anything in it.
#[derive(Clone)]
pub struct Repository {
    pub(crate) registry: Registry,
    name: RepositoryName,
}

/// What names a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A tag, which may move.
    Tag(Tag),
    /// A digest.
    Digest(Digest),
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tag(tag) => tag.fmt(f),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

/// A manifest as it is stored.
#[derive(Debug, Clone)]
pub struct Manifest {
    /// Its digest.
    pub digest: Digest,
    /// What it is.
    pub media_type: String,
    /// Itself.
    pub bytes: Bytes,
}

/// What became of a manifest that was put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Put {
    /// Its digest.
    pub digest: Digest,
    /// What it refers to.
    pub subject: Option<Digest>,
}

/// Some entries, and whether there are more after the last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// The entries.
    pub entries: Vec<T>,
    /// Begin the next page after this.
    pub next: Option<String>,
}

impl Repository {
    pub(crate) fn new(registry: Registry, name: RepositoryName) -> Self {
        Self { registry, name }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.name.as_str()
    }

    pub(crate) async fn get(&self, key: &str) -> Result<Option<Bytes>> {
        Ok(self.registry.storage().records.get(key).await?)
    }

    pub(crate) async fn write(&self, changes: Vec<Change>) -> Result<()> {
        Ok(self.registry.storage().records.write(changes).await?)
    }

    async fn list(&self, prefix: &str, after: &str, limit: usize) -> Result<Vec<String>> {
        Ok(self.registry.storage().records.list(prefix, after, limit).await?)
    }

    /// Whether anything is or was in it.
    ///
    /// # Errors
    /// When the storage fails.
    pub async fn exists(&self) -> Result<bool> {
        Ok(self.get(&keys::repository(self.name())).await?.is_some())
    }

    /// The change that makes the repository, if it is not there.
    ///
    /// # Errors
    /// [`Error::Denied`] when there are too many.
    pub(crate) async fn creation(&self) -> Result<Option<Change>> {
        if self.exists().await? {
            return Ok(None);
        }
        limits::check_repositories(self.registry.options(), self.registry.storage()).await?;
        Ok(Some(put(keys::repository(self.name()), "")))
    }

    // Blobs

    /// A blob's size, if it belongs to the repository. The collector leaves it there for a while, because who asks may be
    /// about to push a manifest that needs it.
    ///
    /// # Errors
    /// [`Error::BlobUnknown`].
    pub async fn blob(&self, digest: &Digest) -> Result<u64> {
        let _guard = self.registry.guards().use_repository(self.name()).await;
        let size = self.size(digest).await?;
        self.registry.guards().lease(self.name(), digest);
        Ok(size)
    }

    /// A blob's size, if it belongs to the repository.
    pub(crate) async fn size(&self, digest: &Digest) -> Result<u64> {
        let size = self.get(&keys::blob(self.name(), digest)).await?.ok_or(Error::BlobUnknown(*digest))?;
        Ok(keys::number(&size))
    }

    /// A part of a blob, which the caller knows to belong to the repository.
    ///
    /// # Errors
    /// [`Error::BlobUnknown`] when it was removed meanwhile.
    pub async fn read(&self, digest: &Digest, range: Range<u64>) -> Result<Pieces<'static>> {
        Ok(self.registry.storage().blobs.read(*digest, range).await?)
    }

    /// Makes a blob that is stored belong to the repository. The caller holds the blob's lock and this repository's.
    pub(crate) async fn link(&self, digest: &Digest, size: u64) -> Result<()> {
        let name = self.name();
        let known = self.get(&keys::blob(name, digest)).await?.is_some();
        let patience = keys::time(self.registry.options().patience);
        let mut changes: Vec<_> = self.creation().await?.into_iter().collect();
        changes.extend([
            put(keys::owner(digest, name), ""),
            put(keys::name_check(name, digest), patience),
            put(keys::blob(name, digest), size.to_string()),
        ]);
        self.write(changes).await?;
        self.registry.guards().lease(name, digest);
        if !known {
            self.registry.counts().linked(name, size);
        }
        Ok(())
    }

    /// Takes a blob over from another repository, if it is there.
    ///
    /// # Errors
    /// [`Error::Denied`] when a quota is used up.
    pub async fn mount(&self, from: &RepositoryName, digest: &Digest) -> Result<bool> {
        let guards = self.registry.guards();
        let _repository = guards.use_repository(self.name()).await;
        let _blob = guards.use_blob(digest).await;
        let Some(size) = self.get(&keys::blob(from.as_str(), digest)).await? else { return Ok(false) };
        let size = keys::number(&size);
        if self.get(&keys::blob(self.name(), digest)).await?.is_none() {
            self.registry.room(self.name()).await?.check(size)?;
        }
        self.link(digest, size).await?;
        Ok(true)
    }

    /// Takes a blob out of the repository; its bytes go when no repository has it.
    ///
    /// # Errors
    /// [`Error::BlobUnknown`].
    pub async fn delete_blob(&self, digest: &Digest) -> Result<()> {
        let _guard = self.registry.guards().shrink_repository(self.name()).await;
        let size = self.size(digest).await?;
        self.write(self.unlinking(digest)).await?;
        self.registry.counts().unlinked(self.name(), size);
        self.registry.wake_collector();
        Ok(())
    }

    /// The changes that take a blob out of the repository.
    pub(crate) fn unlinking(&self, digest: &Digest) -> Vec<Change> {
        vec![
            put(keys::blob_check(digest), keys::time(std::time::Duration::ZERO)),
            Change::Delete(keys::blob(self.name(), digest)),
            Change::Delete(keys::owner(digest, self.name())),
            Change::Delete(keys::name_check(self.name(), digest)),
        ]
    }

    // Manifests

    /// A manifest.
    ///
    /// # Errors
    /// [`Error::ManifestUnknown`], or [`Error::NameUnknown`] when there is no such repository.
    pub async fn manifest(&self, target: &Target) -> Result<Manifest> {
        let digest = match target {
            Target::Digest(digest) => Some(*digest),
            Target::Tag(tag) => self.tag(tag).await?,
        };
        let manifest = match digest {
            Some(digest) => self.stored(&digest).await?,
            None => None,
        };
        match manifest {
            Some(manifest) => Ok(manifest),
            None if !self.exists().await? => Err(Error::NameUnknown(self.name().to_owned())),
            None => Err(Error::ManifestUnknown(target.to_string())),
        }
    }

    pub(crate) async fn stored(&self, digest: &Digest) -> Result<Option<Manifest>> {
        let Some(value) = self.get(&keys::manifest(self.name(), digest)).await? else { return Ok(None) };
        let end = value.iter().position(|byte| *byte == b'\n').unwrap_or(0);
        let media_type = String::from_utf8_lossy(&value[..end]).into_owned();
        Ok(Some(Manifest { digest: *digest, media_type, bytes: value.slice(end + 1..) }))
    }

    async fn tag(&self, tag: &Tag) -> Result<Option<Digest>> {
        let value = self.get(&keys::tag(self.name(), tag.as_str())).await?;
        Ok(value.and_then(|hex| Digest::from_hex(std::str::from_utf8(&hex).ok()?).ok()))
    }

    /// Stores a manifest, and lets the tag point at it if it is put by tag.
    ///
    /// # Errors
    /// [`Error::ManifestInvalid`], [`Error::ManifestBlobUnknown`], or [`Error::DigestInvalid`] when it is put under
    /// another digest than it has.
    pub async fn put_manifest(&self, target: &Target, announced: Option<&str>, bytes: Bytes) -> Result<Put> {
        let digest = digest_of(&bytes);
        if let Target::Digest(wanted) = target
            && *wanted != digest
        {
            return Err(Error::DigestInvalid(format!("the manifest has the digest {digest}, not {wanted}")));
        }
        let (document, media_type) = Document::parse(&bytes, announced)?;
        let guards = self.registry.guards();
        let _repository = guards.use_repository(self.name()).await;
        for reference in &document.references {
            self.check(reference).await?;
        }
        let _moving = match target {
            Target::Tag(tag) => Some(guards.move_tag(self.name(), tag.as_str()).await),
            Target::Digest(_) => None,
        };
        let changes = self.putting(target, &digest, &document, &media_type, &bytes).await?;
        self.write(changes).await?;
        Ok(Put { digest, subject: document.subject })
    }

    /// Keeps a manifest of another registry, of which this repository is a copy: what it names may come later.
    pub(crate) async fn keep_manifest(&self, target: &Target, media_type: &str, bytes: Bytes) -> Result<()> {
        let digest = digest_of(&bytes);
        let (document, media_type) = Document::parse(&bytes, Some(media_type))?;
        let guards = self.registry.guards();
        let _repository = guards.use_repository(self.name()).await;
        let _moving = match target {
            Target::Tag(tag) => Some(guards.move_tag(self.name(), tag.as_str()).await),
            Target::Digest(_) => None,
        };
        let changes = self.putting(target, &digest, &document, &media_type, &bytes).await?;
        self.write(changes).await
    }

    /// The size that a manifest in the repository says a blob has.
    pub(crate) async fn size_by_manifest(&self, digest: &Digest) -> Result<Option<u64>> {
        let holders = self.list(&format!("{}m/", keys::holders(self.name(), digest)), "", 1).await?;
        let Some(holder) = holders.first().and_then(|hex| Digest::from_hex(hex).ok()) else {
            return Ok(None);
        };
        let Some(manifest) = self.stored(&holder).await? else { return Ok(None) };
        let (document, _) = Document::parse(&manifest.bytes, Some(&manifest.media_type))?;
        let named = document.references.iter().find(|reference| reference.digest == *digest);
        Ok(named.filter(|reference| matches!(reference.what, What::Blob)).map(|reference| reference.size))
    }

    async fn putting(
        &self,
        target: &Target,
        digest: &Digest,
        document: &Document,
        media_type: &str,
        bytes: &Bytes,
    ) -> Result<Vec<Change>> {
        let name = self.name();
        let mut changes: Vec<_> = self.creation().await?.into_iter().collect();
        for reference in &document.references {
            changes.push(put(keys::held_by_manifest(name, &reference.digest, digest), ""));
        }
        if let Some(subject) = &document.subject {
            let referrer = document.referrer(*digest, bytes.len() as u64, media_type);
            let referrer = serde_json::to_vec(&referrer).unwrap_or_default();
            changes.push(put(keys::referrer(name, subject, digest), referrer));
        }
        if self.registry.options().remove_untagged {
            changes.push(put(keys::name_check(name, digest), keys::time(self.registry.options().patience)));
        }
        let value = [media_type.as_bytes(), b"\n", bytes].concat();
        changes.push(put(keys::manifest(name, digest), value));
        if let Target::Tag(tag) = target {
            let before = self.tag(tag).await?;
            changes.push(put(keys::held_by_tag(name, digest, tag.as_str()), ""));
            changes.push(put(keys::tag(name, tag.as_str()), digest.hex()));
            if let Some(before) = before.filter(|before| before != digest) {
                changes.extend(self.untagged(&before, tag.as_str()));
            }
        }
        // They wait for their manifest no more.
        let arrived = document.references.iter().map(|reference| keys::name_check(name, &reference.digest));
        changes.extend(arrived.map(Change::Delete));
        Ok(changes)
    }

    /// What follows when a tag points at `before` no more.
    fn untagged(&self, before: &Digest, tag: &str) -> Vec<Change> {
        let mut changes = Vec::new();
        if self.registry.options().remove_untagged {
            let soon = keys::time(self.registry.options().grace);
            changes.push(put(keys::name_check(self.name(), before), soon));
        }
        changes.push(Change::Delete(keys::held_by_tag(self.name(), before, tag)));
        changes
    }

    /// Whether the repository has what a manifest needs, in the size it says.
    async fn check(&self, reference: &Reference) -> Result<()> {
        let size = match reference.what {
            What::ForeignBlob => return Ok(()),
            What::Blob => {
                let size = self.get(&keys::blob(self.name(), &reference.digest)).await?;
                size.map(|size| keys::number(&size))
            }
            What::Manifest => {
                let manifest = self.stored(&reference.digest).await?;
                manifest.map(|manifest| manifest.bytes.len() as u64)
            }
        };
        match size {
            None => Err(Error::ManifestBlobUnknown(reference.digest)),
            Some(size) if size != reference.size => Err(Error::ManifestInvalid(format!(
                "it says that {} has {} bytes; it has {size}",
                reference.digest, reference.size
            ))),
            Some(_) => Ok(()),
        }
    }

    /// Removes a tag, or a manifest with every tag that points at it.
    ///
    /// # Errors
    /// [`Error::ManifestUnknown`], or [`Error::NameUnknown`] when there is no such repository.
    pub async fn delete(&self, target: &Target) -> Result<()> {
        let _guard = self.registry.guards().shrink_repository(self.name()).await;
        let manifest = self.manifest(target).await?;
        let changes = match target {
            Target::Tag(tag) => {
                let mut changes = vec![Change::Delete(keys::tag(self.name(), tag.as_str()))];
                changes.extend(self.untagged(&manifest.digest, tag.as_str()));
                changes
            }
            Target::Digest(_) => self.removing(&manifest).await?,
        };
        self.write(changes).await?;
        self.registry.wake_collector();
        Ok(())
    }

    /// The changes that remove a manifest. The caller holds the repository's lock exclusively.
    pub(crate) async fn removing(&self, manifest: &Manifest) -> Result<Vec<Change>> {
        let (name, digest) = (self.name(), &manifest.digest);
        let mut changes = Vec::new();
        let document =
            Document::parse(&manifest.bytes, Some(&manifest.media_type)).map(|(document, _)| document);
        let references = document.as_ref().map_or(&[][..], |document| &document.references);
        for reference in references {
            let key = keys::name_check(name, &reference.digest);
            // A check that is there already waits for another push of the same blob: it may take its time.
            if self.get(&key).await?.is_none() {
                changes.push(put(key, keys::time(std::time::Duration::ZERO)));
            }
        }
        let holders = keys::tag_holders(name, digest);
        let mut after = String::new();
        loop {
            let tags = self.list(&holders, &after, PAGE).await?;
            for tag in &tags {
                if self.get(&keys::tag(name, tag)).await?.is_some_and(|hex| *hex == *digest.hex().as_bytes())
                {
                    changes.push(Change::Delete(keys::tag(name, tag)));
                }
                changes.push(Change::Delete(keys::held_by_tag(name, digest, tag)));
            }
            match tags.into_iter().last() {
                Some(last) => after = last,
                None => break,
            }
        }
        if self.registry.options().remove_untagged {
            // Who referred to it has lost the reason to stay.
            for referrer in self.list(&keys::referrers(name, digest), "", PAGE).await? {
                if let Ok(referrer) = Digest::from_hex(&referrer) {
                    changes
                        .push(put(keys::name_check(name, &referrer), keys::time(std::time::Duration::ZERO)));
                }
            }
        }
        changes.push(Change::Delete(keys::manifest(name, digest)));
        if let Some(subject) = document.as_ref().ok().and_then(|document| document.subject) {
            changes.push(Change::Delete(keys::referrer(name, &subject, digest)));
        }
        for reference in references {
            changes.push(Change::Delete(keys::held_by_manifest(name, &reference.digest, digest)));
        }
        changes.push(Change::Delete(keys::name_check(name, digest)));
        Ok(changes)
    }

    // Lists

    /// Tags in order, at most `limit`, beginning after `after`.
    ///
    /// # Errors
    /// [`Error::NameUnknown`] when there is no such repository.
    pub async fn tags(&self, after: &str, limit: usize) -> Result<Page<String>> {
        if !self.exists().await? {
            return Err(Error::NameUnknown(self.name().to_owned()));
        }
        Ok(Page::cut(self.list(&keys::tags(self.name()), after, limit.saturating_add(1)).await?, limit))
    }

    /// Manifests whose subject is `subject`, as JSON of their descriptors.
    ///
    /// # Errors
    /// When the storage fails.
    pub async fn referrers(
        &self,
        subject: &Digest,
        artifact_type: Option<&str>,
        after: &str,
        limit: usize,
    ) -> Result<Page<Bytes>> {
        let prefix = keys::referrers(self.name(), subject);
        let listed = self.list(&prefix, after, limit.saturating_add(1)).await?;
        let mut page = Page { entries: Vec::new(), next: None };
        let (mut last, mut bytes) = (String::new(), 0);
        for (n, hex) in listed.into_iter().enumerate() {
            if n == limit || bytes > MAX_REFERRERS_BYTES {
                page.next = Some(last);
                break;
            }
            let entry = self.get(&format!("{prefix}{hex}")).await?;
            last = hex;
            // One that was removed meanwhile is not there.
            let Some(entry) = entry else { continue };
            let Ok(referrer) = serde_json::from_slice::<Referrer>(&entry) else { continue };
            let is_wanted =
                artifact_type.is_none_or(|wanted| referrer.artifact_type.as_deref() == Some(wanted));
            // A crash may have left the entry of a manifest that never came.
            if is_wanted && self.stored(&referrer.digest).await?.is_some() {
                bytes += entry.len();
                page.entries.push(entry);
            }
        }
        Ok(page)
    }
}

impl Page<String> {
    /// A page of the first `limit` of `entries`, of which one more was asked for.
    pub(crate) fn cut(mut entries: Vec<String>, limit: usize) -> Self {
        let more = entries.len() > limit;
        entries.truncate(limit);
        let next = if more { entries.last().cloned() } else { None };
        Self { entries, next }
    }
}
