//! Who may do what: the seam between the registry and authentication.
//!
//! The registry asks twice. [`Access::identify`] reads a request's credentials once and gives a [`Caller`]; every
//! decision after that is a cheap question to the caller, so that each blob, mount and catalog entry can be asked for.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use http::request::Parts;

/// What a request wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted<'a> {
    /// `GET /v2/`.
    Ping,
    /// `GET /v2/_catalog`. Its entries are asked for one by one, as [`Wanted::Listed`].
    Catalog,
    /// Seeing the repository's name in the catalog. Not [`Wanted::Pull`]: a token for the catalog alone reads nothing.
    Listed(&'a str),
    /// Reading from the repository.
    Pull(&'a str),
    /// Adding to the repository.
    Push(&'a str),
    /// Removing from the repository.
    Delete(&'a str),
}

/// Someone whose credentials were checked, or who had none.
pub trait Caller: Send + Sync {
    /// The name for the access log.
    fn name(&self) -> Option<&str>;
    /// Whether this caller may do it.
    fn may(&self, wanted: Wanted<'_>) -> bool;
    /// What to answer when this caller may not do what the request needs: all of `wanted`.
    fn refuse(&self, wanted: &[Wanted<'_>]) -> Refusal;
}

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// 401 with this `WWW-Authenticate`: other credentials may help.
    Challenge {
        /// The header's value.
        header: String,
        /// For the body of the answer.
        reason: String,
    },
    /// 403: no credentials help.
    Denied(String),
    /// 429: too many credentials are being checked at once.
    Busy(String),
}

/// Finds out who calls.
pub trait Access: Send + Sync {
    /// Checks the credentials of a request.
    ///
    /// # Errors
    /// A [`Refusal`] when they are wrong; a request without credentials has a caller who may do little.
    fn identify<'a>(&'a self, head: &'a Parts) -> BoxFuture<'a, Result<Arc<dyn Caller>, Refusal>>;
}

/// Everyone may do everything: a registry on a developer's loopback address.
#[derive(Debug, Clone, Copy)]
pub struct Everyone;

impl Caller for Everyone {
    fn name(&self) -> Option<&str> {
        None
    }

    fn may(&self, _: Wanted<'_>) -> bool {
        true
    }

    fn refuse(&self, _: &[Wanted<'_>]) -> Refusal {
        Refusal::Denied("requested access to the resource is denied".to_owned())
    }
}

impl Access for Everyone {
    fn identify<'a>(&'a self, _: &'a Parts) -> BoxFuture<'a, Result<Arc<dyn Caller>, Refusal>> {
        Box::pin(std::future::ready(Ok(Arc::new(*self) as Arc<dyn Caller>)))
    }
}
