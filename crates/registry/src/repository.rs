//! One repository of one registry.

use std::io::{self, Read};

use bytes::Bytes;
use wharf_content::spec::{Descriptor, Index};
use wharf_model::Digest;

use crate::error::{Error, Result};

/// What tokens are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Access {
    /// Read.
    Pull,
    /// Read and write.
    Push,
    /// Read and delete.
    Delete,
}

/// Which manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The one with a tag.
    Tag(String),
    /// Exactly this one.
    Digest(Digest),
}

/// A manifest or an index. The digest has been checked, the bytes are at most 4 MiB, and the media types that header
/// and body state agree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// What it is.
    pub descriptor: Descriptor,
    /// As the registry sent it.
    pub bytes: Vec<u8>,
}

/// How a blob got there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// It was there.
    Existed,
    /// The registry took it from another repository of its own.
    Mounted,
    /// We sent it.
    Uploaded,
}

/// Where the bytes of an upload come from. An upload that broke opens again, perhaps further on.
pub trait BlobSource: Send + Sync {
    /// The bytes from an offset on.
    ///
    /// # Errors
    /// When they cannot be read.
    fn open(&self, from: u64) -> io::Result<Box<dyn Read + Send>>;
}

/// One repository; clones share connections and tokens.
#[derive(Debug, Clone)]
pub struct Repository;

fn not_yet<T>() -> Result<T> {
    Err(Error::NotImplemented("the registry client is being written".to_owned()))
}

#[expect(clippy::unused_async, reason = "signatures first")]
impl Repository {
    /// The descriptor of a manifest without its bytes, if the registry says enough.
    pub async fn resolve(&self, _target: &Target) -> Result<Descriptor> {
        not_yet()
    }

    /// A manifest or an index.
    pub async fn manifest(&self, _target: &Target) -> Result<Document> {
        not_yet()
    }

    /// The bytes of a blob from an offset on.
    pub async fn blob(&self, _blob: &Descriptor, _from: u64) -> Result<Download> {
        not_yet()
    }

    /// Whether the repository has a blob.
    pub async fn has_blob(&self, _digest: &Digest) -> Result<bool> {
        not_yet()
    }

    /// Sends a blob unless it is there, or can be mounted from `mount_from`. `on` learns the position in the blob up to
    /// which bytes were sent; it goes back when an upload has to start again.
    pub async fn push_blob(
        &self,
        _blob: &Descriptor,
        _source: &dyn BlobSource,
        _mount_from: Option<&str>,
        _on: &mut (dyn FnMut(u64) + Send),
    ) -> Result<Pushed> {
        not_yet()
    }

    /// Stores a manifest.
    pub async fn put_manifest(&self, _target: &Target, _media_type: &str, _bytes: &[u8]) -> Result<()> {
        not_yet()
    }

    /// Deletes a manifest or a tag.
    pub async fn delete_manifest(&self, _target: &Target) -> Result<()> {
        not_yet()
    }

    /// Every tag.
    pub async fn tags(&self) -> Result<Vec<String>> {
        not_yet()
    }

    /// What refers to a manifest.
    pub async fn referrers(&self, _digest: &Digest, _artifact_type: Option<&str>) -> Result<Index> {
        not_yet()
    }
}

/// A blob on its way. Broken connections are resumed inside; it ends exactly at the blob's size or with an error. The
/// caller hashes.
#[derive(Debug)]
pub struct Download;

impl Download {
    /// The next bytes; `None` at the end.
    #[expect(clippy::unused_async, reason = "signatures first")]
    pub async fn chunk(&mut self) -> Result<Option<Bytes>> {
        not_yet()
    }
}
