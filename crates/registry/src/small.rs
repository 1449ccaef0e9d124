//! Blobs that are documents: configs.

use wharf_content::spec::Descriptor;

use crate::error::{Error, Result};
use crate::repository::Repository;

impl Repository {
    /// A small blob as a whole, its size and digest checked.
    ///
    /// # Errors
    /// [`Error::Limit`] when it is announced as larger than `max` bytes, [`Error::Mismatch`] when it is not what it was
    /// announced as.
    pub async fn document(&self, blob: &Descriptor, max: u64) -> Result<Vec<u8>> {
        if blob.size > max {
            return Err(Error::Limit { what: format!("document {}", blob.digest), limit: max });
        }
        let mut download = self.blob(blob, 0).await?;
        let mut bytes = Vec::new();
        while let Some(chunk) = download.chunk().await? {
            bytes.extend_from_slice(&chunk);
        }
        let found = wharf_content::digest_of(&bytes);
        if found == blob.digest {
            return Ok(bytes);
        }
        Err(Error::Mismatch { what: format!("document {}", blob.digest), expected: blob.digest, found })
    }
}
