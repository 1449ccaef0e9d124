//! What an operator chooses.

use std::time::Duration;

use wharf_content::MAX_DOCUMENT;

/// Limits and habits of a registry. The default is a registry without quotas that accepts deletions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Refuse whatever would change something.
    pub read_only: bool,
    /// Accept end-9 and end-10.
    pub delete: bool,
    /// Remove manifests that lost their last tag.
    pub remove_untagged: bool,
    /// Run the collector. Where several servers share one storage, only one of them does.
    pub collect: bool,
    /// How long something that is needed no more stays, for clients who have just asked whether it is there.
    pub grace: Duration,
    /// How long a blob waits for the manifest that names it.
    pub patience: Duration,
    /// How long an upload that nobody goes on with is kept.
    pub upload_expiry: Duration,
    /// How long a client may take for the next bytes of a body.
    pub body_timeout: Duration,
    /// The largest manifest.
    pub max_manifest: u64,
    /// The largest blob.
    pub max_blob: Option<u64>,
    /// The most repositories.
    pub max_repositories: Option<u64>,
    /// The most bytes of blobs in one repository.
    pub repository_quota: Option<u64>,
    /// The most bytes of blobs in the whole registry.
    pub total_quota: Option<u64>,
    /// The most entries in one page of tags, referrers or the catalog.
    pub page: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            read_only: false,
            delete: true,
            remove_untagged: false,
            collect: true,
            grace: Duration::from_secs(30),
            patience: Duration::from_secs(60 * 60),
            upload_expiry: Duration::from_secs(24 * 60 * 60),
            body_timeout: Duration::from_secs(60),
            max_manifest: MAX_DOCUMENT,
            max_blob: None,
            max_repositories: None,
            repository_quota: None,
            total_quota: None,
            page: 1000,
        }
    }
}
