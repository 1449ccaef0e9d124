//! The registry: storage, options and access put together, and the router over them.

use std::sync::Arc;

use axum::Router;

use crate::access::{Access, Everyone};
use crate::{Options, Storage};

/// A registry; clones share it.
#[derive(Clone)]
pub struct Registry {
    inner: Arc<Inner>,
}

struct Inner {
    storage: Storage,
    options: Options,
    access: Arc<dyn Access>,
}

/// Which endpoint answered a request: an extension of every response, for the access log and the metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handled {
    /// The specification's number: `end-2`.
    pub endpoint: &'static str,
    /// The repository, where the path has a valid one.
    pub repository: Option<String>,
    /// Who asked.
    pub caller: Option<String>,
}

/// What is stored, for the metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Blobs.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Uploads that were begun and not ended.
    pub uploads: u64,
    /// Blobs the collector has removed since the start.
    pub removed_blobs: u64,
    /// Their bytes.
    pub removed_bytes: u64,
}

impl Registry {
    /// A registry in which everyone may do everything.
    #[must_use]
    pub fn new(storage: Storage, options: Options) -> Self {
        Self::with_access(storage, options, Arc::new(Everyone))
    }

    /// A registry that asks `access`.
    #[must_use]
    pub fn with_access(storage: Storage, options: Options, access: Arc<dyn Access>) -> Self {
        Self { inner: Arc::new(Inner { storage, options, access }) }
    }

    /// Everything below `/v2`.
    pub fn router(&self) -> Router {
        let _ = (&self.inner.storage, &self.inner.options, &self.inner.access);
        Router::new()
    }

    /// What is stored.
    #[must_use]
    pub fn usage(&self) -> Usage {
        Usage::default()
    }

    /// Collects what is needed no more, for as long as the future is polled.
    pub async fn collect(&self) {
        std::future::pending().await
    }
}
