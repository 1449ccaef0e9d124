//! The distribution specification: what both ends share ([`spec`]), and the client.
//!
//! The client in one picture, outermost first; each module knows only the ones below it:
//! ```text
//! Client, Repository        what callers see: manifests, blobs, tags, referrers
//!   download, upload        one blob, across broken connections
//!     session               one call: endpoints in order, authentication, redirects, retries
//!       auth                challenges and tokens: to whom a credential may go
//!       transport           one request on a pooled connection, with deadlines
//!         dial              name -> checked address -> (proxy) -> TLS
//! hosts                     which endpoints a registry's name stands for, and whom they trust
//! ```
//! Nothing is held on disk. Everything that a registry sends is bounded before it is kept.

mod address;
mod auth;
mod client;
mod config;
mod credential;
mod dial;
mod documents;
mod download;
mod error;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzz;
mod hosts;
mod listing;
mod origin;
mod proxy;
mod repository;
mod search;
mod session;
mod small;
pub mod spec;
mod transport;
mod trust;
mod upload;

pub use client::{Client, Login};
pub use config::{Config, Timeouts};
pub use credential::Credential;
pub use error::{Error, Result};
pub use proxy::Proxies;
pub use repository::{Access, BlobSource, Document, Download, Pushed, Repository, Target};
pub use search::Found;
pub use trust::tls_settings;
