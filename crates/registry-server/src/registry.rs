//! The registry: storage, options and access put together.

use std::sync::{Arc, OnceLock};

use axum::Router;
use tokio::sync::Notify;
use wharf_registry::spec::RepositoryName;

use crate::access::{Access, Everyone};
use crate::error::Result;
use crate::guards::Guards;
use crate::limits::{Counts, Room};
use crate::proxy::{Cached, Proxies};
use crate::repository::{Page, Repository};
use crate::{Options, Storage, keys, routes};

/// A registry; clones share it.
#[derive(Clone)]
pub struct Registry {
    inner: Arc<Inner>,
}

struct Inner {
    storage: Storage,
    options: Options,
    access: Arc<dyn Access>,
    guards: Guards,
    counts: Counts,
    deleted: Notify,
    proxies: OnceLock<Proxies>,
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
        let (guards, counts) = (Guards::new(), Counts::default());
        let inner = Inner {
            storage,
            options,
            access,
            guards,
            counts,
            deleted: Notify::new(),
            proxies: OnceLock::new(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Lets repositories be copies of those of other registries. The first call counts.
    #[must_use]
    pub fn caching(self, proxies: Proxies) -> Self {
        let _second_call = self.inner.proxies.set(proxies);
        self
    }

    pub(crate) fn cached<'a>(&'a self, name: &'a str) -> Option<Cached<'a>> {
        self.inner.proxies.get()?.of(name)
    }

    /// Everything below `/v2`.
    pub fn router(&self) -> Router {
        routes::router(self.clone())
    }

    /// One repository, whether or not there is anything in it.
    #[must_use]
    pub fn repository(&self, name: RepositoryName) -> Repository {
        Repository::new(self.clone(), name)
    }

    /// Repositories in order, at most `limit`, beginning after `after`.
    ///
    /// # Errors
    /// When the storage fails.
    pub async fn repositories(&self, after: &str, limit: usize) -> Result<Page<String>> {
        let names = self.storage().records.list(keys::REPOSITORIES, after, limit.saturating_add(1)).await?;
        Ok(Page::cut(names, limit))
    }

    /// What is stored.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.inner.counts.usage(self.inner.guards.open_uploads())
    }

    pub(crate) fn storage(&self) -> &Storage {
        &self.inner.storage
    }

    pub(crate) fn options(&self) -> &Options {
        &self.inner.options
    }

    pub(crate) fn access(&self) -> &dyn Access {
        &*self.inner.access
    }

    pub(crate) fn guards(&self) -> &Guards {
        &self.inner.guards
    }

    pub(crate) fn counts(&self) -> &Counts {
        &self.inner.counts
    }

    pub(crate) async fn room(&self, name: &str) -> Result<Room> {
        self.inner.counts.room(self.options(), self.storage(), name).await
    }

    /// There may be something to collect.
    pub(crate) fn wake_collector(&self) {
        self.inner.deleted.notify_one();
    }

    pub(crate) async fn woken(&self) {
        self.inner.deleted.notified().await;
    }
}
