//! Uploads: sessions in which a blob comes in.
//!
//! An upload is a record (`u/<id>`: repository and time) and the bytes in the storage. Which request works on it is known
//! to [`crate::guards`] only; after a restart, or on another server of the same storage, the record brings it back.
//!
//! Crash: between the blob's publication and its link to the repository the blob belongs to nobody; the collector's pass
//! at start finds it. A record without bytes is an upload of no bytes.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use wharf_model::Digest;

use crate::error::{Error, Result};
use crate::guards::{Taken, UploadGuard};
use crate::keys::{self, put};
use crate::repository::Repository;
use crate::storage::{self, Change, Pieces, UploadId};

/// How long a request waits for another one that still has the upload: the client's earlier connection, which may be
/// dead without anybody knowing yet.
const MAX_WAIT: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(50);

#[derive(Serialize, Deserialize)]
struct Record {
    repository: String,
    began: u64,
}

impl Repository {
    /// Begins an upload.
    ///
    /// # Errors
    /// [`Error::Denied`] when a quota is used up, [`Error::TooManyRequests`] when too many uploads are open.
    pub async fn begin_upload(&self) -> Result<UploadId> {
        self.registry.room(self.name()).await?.check(1)?;
        // Refuse before the bytes come.
        self.creation().await?;
        let id = UploadId::random()?;
        if !self.registry.guards().begin_upload(id, self.name()) {
            let reason = format!("{} has too many open uploads; end or delete some", self.name());
            return Err(Error::TooManyRequests(reason));
        }
        let record = Record { repository: self.name().to_owned(), began: keys::now() };
        let record = serde_json::to_vec(&record).unwrap_or_default();
        let written = self.write(vec![put(keys::upload(id), record)]).await;
        if written.is_err() {
            self.registry.guards().end_upload(id);
        }
        written?;
        Ok(id)
    }

    /// Refuses a blob of `length` bytes before it comes, if it would not fit.
    ///
    /// # Errors
    /// [`Error::TooLarge`], [`Error::Denied`].
    pub async fn expect(&self, length: Option<u64>) -> Result<()> {
        self.registry.room(self.name()).await?.check(length.unwrap_or(0))
    }

    /// How many bytes an upload has.
    ///
    /// # Errors
    /// [`Error::UploadUnknown`].
    pub async fn upload_length(&self, id: UploadId) -> Result<u64> {
        self.know(id).await?;
        Ok(self.registry.storage().blobs.length(id).await?)
    }

    /// Adds to an upload and returns how many bytes it has then. Without an offset the bytes belong at its end.
    ///
    /// # Errors
    /// [`Error::UploadUnknown`]; [`Error::UploadRange`] for bytes that belong elsewhere; [`Error::TooLarge`] and
    /// [`Error::Denied`] at a limit, which ends the upload.
    pub async fn append(&self, id: UploadId, offset: Option<u64>, body: Pieces<'_>) -> Result<u64> {
        let _guard = self.take(id).await?;
        self.add(id, offset, body).await
    }

    async fn add(&self, id: UploadId, offset: Option<u64>, body: Pieces<'_>) -> Result<u64> {
        let blobs = &self.registry.storage().blobs;
        let offset = match offset {
            Some(offset) => offset,
            None => blobs.length(id).await?,
        };
        let room = self.registry.room(self.name()).await?;
        let fits = room.bytes.saturating_sub(offset);
        match blobs.append(id, offset, capped(body, fits)).await {
            Err(storage::Error::Offset { length }) => {
                let location = format!("/v2/{}/blobs/uploads/{id}", self.name());
                Err(Error::UploadRange { length, location })
            }
            Err(storage::Error::Body(error)) if error.kind() == std::io::ErrorKind::FileTooLarge => {
                self.end(id).await?;
                Err(room.refusal())
            }
            other => Ok(other?),
        }
    }

    /// Ends an upload with its last bytes: it is the blob `digest` and belongs to the repository.
    ///
    /// # Errors
    /// As [`Repository::append`]; [`Error::DigestInvalid`] when the bytes have another digest, which ends the upload.
    pub async fn finish_upload(
        &self,
        id: UploadId,
        offset: Option<u64>,
        body: Pieces<'_>,
        digest: &Digest,
    ) -> Result<()> {
        let guard = self.take(id).await?;
        self.add(id, offset, body).await?;
        let committed = self.commit(id, digest).await;
        drop(guard);
        match committed {
            Err(Error::Storage(storage::Error::Mismatch { expected, found })) => {
                self.end(id).await?;
                Err(Error::DigestInvalid(format!("the bytes have the digest {found}, not {expected}")))
            }
            Err(error) => Err(error),
            Ok(()) => {
                self.registry.guards().end_upload(id);
                Ok(self.write(vec![Change::Delete(keys::upload(id))]).await?)
            }
        }
    }

    async fn commit(&self, id: UploadId, digest: &Digest) -> Result<()> {
        let (guards, storage) = (self.registry.guards(), self.registry.storage());
        let _repository = guards.use_repository(self.name()).await;
        let _blob = guards.use_blob(digest).await;
        let known = storage.blobs.size(*digest).await?.is_some();
        let size = storage.blobs.commit(id, *digest).await?;
        if !known {
            self.registry.counts().blob_came(size);
        }
        self.link(digest, size).await
    }

    /// Stores a blob in one go.
    ///
    /// # Errors
    /// As [`Repository::finish_upload`].
    pub async fn put_blob(&self, body: Pieces<'_>, digest: &Digest) -> Result<()> {
        let id = self.begin_upload().await?;
        let stored = self.finish_upload(id, Some(0), body, digest).await;
        if stored.is_err() {
            // The client has no name to go on with it.
            self.end(id).await?;
        }
        stored
    }

    /// Ends an upload without a blob.
    ///
    /// # Errors
    /// [`Error::UploadUnknown`].
    pub async fn cancel_upload(&self, id: UploadId) -> Result<()> {
        let _guard = self.take(id).await?;
        self.end(id).await
    }

    async fn end(&self, id: UploadId) -> Result<()> {
        self.registry.end_upload(id).await
    }

    /// Takes an upload for this request.
    async fn take(&self, id: UploadId) -> Result<UploadGuard<'_>> {
        self.know(id).await?;
        let attempts = MAX_WAIT.as_millis() / PAUSE.as_millis();
        for _ in 0..attempts {
            match self.registry.guards().take_upload(id, self.name()) {
                Taken::Yours(guard) => return Ok(guard),
                Taken::Unknown => return Err(Error::UploadUnknown(id.to_string())),
                Taken::Busy => tokio::time::sleep(PAUSE).await,
            }
        }
        Err(Error::TooManyRequests("another request is still adding to this upload".to_owned()))
    }

    /// Sees to it that the guards know an upload of which there is a record.
    async fn know(&self, id: UploadId) -> Result<()> {
        let guards = self.registry.guards();
        if guards.has_upload(id, self.name()) {
            return Ok(());
        }
        let record = self.get(&keys::upload(id)).await?;
        let record = record.and_then(|record| serde_json::from_slice::<Record>(&record).ok());
        match record {
            Some(record) if record.repository == self.name() => {
                guards.begin_upload(id, self.name());
                Ok(())
            }
            _ => Err(Error::UploadUnknown(id.to_string())),
        }
    }
}

impl crate::Registry {
    /// Ends an upload: bytes first, so that a crash leaves a record by which they are found.
    pub(crate) async fn end_upload(&self, id: UploadId) -> Result<()> {
        self.storage().blobs.discard(id).await?;
        self.storage().records.write(vec![Change::Delete(keys::upload(id))]).await?;
        self.guards().end_upload(id);
        Ok(())
    }

    /// Ends the uploads nobody has gone on with for too long.
    pub(crate) async fn expire_uploads(&self) -> Result<()> {
        for id in self.guards().idle_uploads(self.options().upload_expiry) {
            self.end_upload(id).await?;
        }
        Ok(())
    }

    /// At start: the uploads that were open.
    pub(crate) async fn recall_uploads(&self) -> Result<()> {
        let mut after = String::new();
        loop {
            let page = self.storage().records.list(keys::UPLOADS, &after, 1000).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after.clone_from(last);
            for name in &page {
                let Some(id) = UploadId::parse(name) else { continue };
                let record = self.storage().records.get(&keys::upload(id)).await?;
                let Some(record) = record.and_then(|record| serde_json::from_slice::<Record>(&record).ok())
                else {
                    continue;
                };
                let age = keys::now().saturating_sub(record.began);
                if age >= self.options().upload_expiry.as_secs() {
                    self.end_upload(id).await?;
                } else {
                    self.guards().recall_upload(id, &record.repository);
                }
            }
        }
    }
}

/// The body up to `max` bytes; more is an error of the kind `FileTooLarge`.
fn capped(body: Pieces<'_>, max: u64) -> Pieces<'_> {
    let mut left = max;
    body.map(move |piece| {
        let piece: Bytes = piece?;
        left = left.checked_sub(piece.len() as u64).ok_or(std::io::ErrorKind::FileTooLarge)?;
        Ok(piece)
    })
    .boxed()
}
