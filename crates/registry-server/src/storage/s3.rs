//! A bucket of any store that speaks S3.
//!
//! ```text
//! blobs/sha256/<hex>          whole and verified: the object appears when its upload is completed
//! uploads/<id>/<offset>       the parts of an upload, in order
//! records/<key>               small values
//! ```
//!
//! An upload's parts are objects of their own, so that any server of the registry goes on with it. `commit` reads them
//! once, hashes them while it writes the blob, and completes the blob only when the digest is right; a crash before
//! leaves the parts (which expire) and an incomplete upload of the store's (which its lifecycle rules remove). In memory
//! there is at most one part per upload. The changes of one `write` are made one after the other.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};
use object_store::aws::AmazonS3Builder;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{ObjectMeta, ObjectStore, PutPayload, WriteMultipart};
use sha2::{Digest as _, Sha256};
use wharf_model::Digest;

use super::{Blobs, Change, Error, Pieces, Records, Result, Storage, UploadId};

/// How much of an upload is one object, and of a blob one part.
const PART: usize = 8 << 20;
/// Parts of a blob that are written at the same time.
const PARALLEL_PARTS: usize = 2;
const BLOBS: &str = "blobs/sha256";
const RECORDS: &str = "records";

/// Where the bucket is. Keys come from the environment or the machine's role, as all programs that use S3 take them.
#[derive(Debug, Clone)]
pub struct Bucket {
    /// The bucket's name.
    pub name: String,
    /// The store's address, where it is not Amazon's.
    pub endpoint: Option<url::Url>,
    /// The store's region.
    pub region: Option<String>,
    /// What the names of all objects begin with.
    pub prefix: String,
}

/// Opens a bucket as a storage.
#[derive(Debug)]
pub struct S3;

impl S3 {
    /// Opens the bucket and tries it.
    ///
    /// # Errors
    /// When it cannot be listed: wrong address, name or keys.
    pub async fn open(bucket: &Bucket) -> Result<Storage> {
        let what = format!("bucket {}", bucket.name);
        let mut builder = AmazonS3Builder::from_env().with_bucket_name(&bucket.name);
        if let Some(endpoint) = &bucket.endpoint {
            let address = endpoint.as_str().trim_end_matches('/');
            builder = builder.with_endpoint(address).with_allow_http(endpoint.scheme() == "http");
        }
        if let Some(region) = &bucket.region {
            builder = builder.with_region(region);
        }
        let store = builder.build().map_err(|error| Error::other(&what, error))?;
        let storage = storage(Arc::new(PrefixStore::new(store, bucket.prefix.as_str())));
        storage.records.list("r/", "", 1).await.map_err(|error| Error::other(&what, error))?;
        Ok(storage)
    }
}

/// The storage in an object store.
fn storage(store: Arc<dyn ObjectStore>) -> Storage {
    let objects = Arc::new(Objects { store });
    Storage { blobs: objects.clone(), records: objects }
}

struct Objects {
    store: Arc<dyn ObjectStore>,
}

fn path(text: &str) -> Result<Path> {
    Path::parse(text).map_err(|error| Error::other(text, error))
}

fn blob_path(digest: &Digest) -> Result<Path> {
    path(&format!("{BLOBS}/{}", digest.hex()))
}

/// An error of the store about one object.
fn failed(at: &Path) -> impl Fn(object_store::Error) -> Error + '_ {
    move |error| Error::other(at.as_ref(), error)
}

impl Objects {
    /// Objects below `prefix` in the order of their names, beginning after `after`.
    fn below(
        &self,
        prefix: &Path,
        after: &str,
    ) -> Result<BoxStream<'static, object_store::Result<ObjectMeta>>> {
        if after.is_empty() {
            return Ok(self.store.list(Some(prefix)));
        }
        Ok(self.store.list_with_offset(Some(prefix), &path(&format!("{prefix}/{after}"))?))
    }

    async fn put(&self, at: &Path, bytes: Bytes) -> Result<()> {
        self.store.put(at, PutPayload::from_bytes(bytes)).await.map(|_| ()).map_err(failed(at))
    }

    async fn delete(&self, at: &Path) -> Result<()> {
        match self.store.delete(at).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(failed(at)(error)),
        }
    }

    /// The parts of an upload in order, as far as none is missing, and their length.
    async fn parts(&self, upload: UploadId) -> Result<(Vec<Path>, u64)> {
        let prefix = path(&format!("uploads/{upload}"))?;
        let mut found: Vec<_> =
            self.store.list(Some(&prefix)).try_collect().await.map_err(failed(&prefix))?;
        found.sort_by(|one, other| one.location.cmp(&other.location));
        let (mut parts, mut length) = (Vec::new(), 0);
        for part in found {
            if part.location.filename() != Some(&*offset_name(length)) {
                break;
            }
            length += part.size;
            parts.push(part.location);
        }
        Ok((parts, length))
    }

    async fn add(&self, upload: UploadId, offset: u64, mut pieces: Pieces<'_>) -> Result<u64> {
        let (_, mut length) = self.parts(upload).await?;
        if length != offset {
            return Err(Error::Offset { length });
        }
        let mut part = BytesMut::new();
        loop {
            let piece = pieces.next().await;
            let ended = !matches!(piece, Some(Ok(_)));
            if let Some(Ok(piece)) = &piece {
                part.extend_from_slice(piece);
            }
            // What came before an error is kept, too.
            if part.len() >= PART || ended && !part.is_empty() {
                let bytes = part.split().freeze();
                let count = bytes.len() as u64;
                self.put(&path(&format!("uploads/{upload}/{}", offset_name(length)))?, bytes).await?;
                length += count;
            }
            match piece {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(Error::Body(error)),
                None => return Ok(length),
            }
        }
    }

    async fn finish(&self, upload: UploadId, digest: Digest) -> Result<u64> {
        let (parts, length) = self.parts(upload).await?;
        let target = blob_path(&digest)?;
        let mut hasher = Sha256::new();
        let mut small = BytesMut::new();
        let mut large = None;
        if length > PART as u64 {
            let multipart = self.store.put_multipart(&target).await.map_err(failed(&target))?;
            large = Some(WriteMultipart::new_with_chunk_size(multipart, PART));
        }
        for part in &parts {
            let mut bytes = self.store.get(part).await.map_err(failed(part))?.into_stream();
            while let Some(bytes) = bytes.try_next().await.map_err(failed(part))? {
                hasher.update(&bytes);
                match &mut large {
                    None => small.extend_from_slice(&bytes),
                    Some(large) => {
                        large.wait_for_capacity(PARALLEL_PARTS).await.map_err(failed(&target))?;
                        large.put(bytes);
                    }
                }
            }
        }
        let found = Digest::from_sha256(hasher.finalize().into());
        match large {
            Some(large) if found == digest => large.finish().await.map(drop).map_err(failed(&target))?,
            Some(large) => large.abort().await.map_err(failed(&target))?,
            None if found == digest => self.put(&target, small.freeze()).await?,
            None => {}
        }
        self.forget(upload).await?;
        if found == digest { Ok(length) } else { Err(Error::Mismatch { expected: digest, found }) }
    }

    async fn forget(&self, upload: UploadId) -> Result<()> {
        let prefix = path(&format!("uploads/{upload}"))?;
        let mut parts = self.store.list(Some(&prefix));
        while let Some(part) = parts.try_next().await.map_err(failed(&prefix))? {
            self.delete(&part.location).await?;
        }
        Ok(())
    }

    async fn size_of(&self, digest: &Digest) -> Result<Option<u64>> {
        let at = blob_path(digest)?;
        match self.store.head(&at).await {
            Ok(found) => Ok(Some(found.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(failed(&at)(error)),
        }
    }

    async fn open(&self, digest: Digest, range: Range<u64>) -> Result<Pieces<'static>> {
        if range.is_empty() {
            self.size_of(&digest).await?.ok_or(Error::NotFound(digest))?;
            return Ok(stream::empty().boxed());
        }
        let at = blob_path(&digest)?;
        let options = object_store::GetOptions { range: Some(range.into()), ..Default::default() };
        match self.store.get_opts(&at, options).await {
            Ok(found) => Ok(found.into_stream().map_err(io::Error::other).boxed()),
            Err(object_store::Error::NotFound { .. }) => Err(Error::NotFound(digest)),
            Err(error) => Err(failed(&at)(error)),
        }
    }
}

/// Names of parts, in the order of their offsets.
fn offset_name(offset: u64) -> String {
    format!("{offset:020}")
}

impl Blobs for Objects {
    fn append<'a>(&'a self, upload: UploadId, offset: u64, pieces: Pieces<'a>) -> BoxFuture<'a, Result<u64>> {
        self.add(upload, offset, pieces).boxed()
    }

    fn length(&self, upload: UploadId) -> BoxFuture<'_, Result<u64>> {
        async move { Ok(self.parts(upload).await?.1) }.boxed()
    }

    fn commit(&self, upload: UploadId, digest: Digest) -> BoxFuture<'_, Result<u64>> {
        self.finish(upload, digest).boxed()
    }

    fn discard(&self, upload: UploadId) -> BoxFuture<'_, Result<()>> {
        self.forget(upload).boxed()
    }

    fn size(&self, digest: Digest) -> BoxFuture<'_, Result<Option<u64>>> {
        async move { self.size_of(&digest).await }.boxed()
    }

    fn read(&self, digest: Digest, range: Range<u64>) -> BoxFuture<'_, Result<Pieces<'static>>> {
        self.open(digest, range).boxed()
    }

    fn remove(&self, digest: Digest) -> BoxFuture<'_, Result<()>> {
        async move { self.delete(&blob_path(&digest)?).await }.boxed()
    }

    fn list(&self, after: Option<Digest>, limit: usize) -> BoxFuture<'_, Result<Vec<(Digest, u64)>>> {
        async move {
            let prefix = path(BLOBS)?;
            let after = after.map(|digest| digest.hex().to_string()).unwrap_or_default();
            let blobs = self.below(&prefix, &after)?.try_filter_map(|found| async move {
                let digest = found.location.filename().and_then(|hex| Digest::from_hex(hex).ok());
                Ok(digest.map(|digest| (digest, found.size)))
            });
            blobs.take(limit).try_collect().await.map_err(failed(&prefix))
        }
        .boxed()
    }
}

impl Records for Objects {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Bytes>>> {
        async move {
            let at = path(&format!("{RECORDS}/{key}"))?;
            match self.store.get(&at).await {
                Ok(found) => Ok(Some(found.bytes().await.map_err(failed(&at))?)),
                Err(object_store::Error::NotFound { .. }) => Ok(None),
                Err(error) => Err(failed(&at)(error)),
            }
        }
        .boxed()
    }

    fn list<'a>(
        &'a self,
        prefix: &'a str,
        after: &'a str,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<String>>> {
        async move {
            let prefix = path(&format!("{RECORDS}/{}", prefix.trim_end_matches('/')))?;
            let skip = prefix.as_ref().len() + 1;
            let names =
                self.below(&prefix, after)?.map_ok(|found| found.location.as_ref()[skip..].to_owned());
            names.take(limit).try_collect().await.map_err(failed(&prefix))
        }
        .boxed()
    }

    fn write(&self, changes: Vec<Change>) -> BoxFuture<'_, Result<()>> {
        async move {
            for change in changes {
                match change {
                    Change::Put(key, value) => self.put(&path(&format!("{RECORDS}/{key}"))?, value).await?,
                    Change::Delete(key) => self.delete(&path(&format!("{RECORDS}/{key}"))?).await?,
                }
            }
            Ok(())
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::conformance;

    #[tokio::test]
    async fn an_object_store_is_a_storage() {
        let store: Arc<dyn ObjectStore> = Arc::new(object_store::memory::InMemory::new());
        conformance::all(|| std::future::ready(storage(store.clone()))).await;
    }

    /// `WHARF_TEST_S3=http://127.0.0.1:5000/bucket` with the keys in the environment.
    #[tokio::test]
    async fn a_bucket_is_a_storage() {
        let Ok(address) = std::env::var("WHARF_TEST_S3") else {
            println!(
                "skipped: no S3 server (pip install 'moto[server]', moto_server, make a bucket, set WHARF_TEST_S3)"
            );
            return;
        };
        let (endpoint, name) = address.rsplit_once('/').unwrap();
        let bucket = Bucket {
            name: name.to_owned(),
            endpoint: Some(endpoint.parse().unwrap()),
            region: Some("us-east-1".to_owned()),
            prefix: format!("test-{}", UploadId::random().unwrap()),
        };
        conformance::all(|| async { S3::open(&bucket).await.unwrap() }).await;
    }
}
