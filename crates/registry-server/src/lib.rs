//! A registry: the server end of the distribution specification (1.1), over a small storage.
//!
//! ```text
//! program/, listen/, tls, observe/, watched    the program: settings, connections, logs, metrics
//! access, auth/                                who may do what
//! routes/                                      HTTP: the table of endpoints, decoding and encoding
//! repository, uploads, document                what belongs to a repository; every invariant is kept here
//! garbage, guards, limits                      collecting while it serves; locks and leases; quotas
//! storage/, keys                               two traits (blobs, records), the local directory, the conformance suite
//! ```

pub mod access;
pub mod auth;
mod document;
mod embedded;
mod error;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzz;
mod garbage;
mod guards;
mod keys;
mod limits;
mod listen;
mod observe;
mod options;
pub mod program;
pub mod proxy;
mod registry;
mod repository;
mod routes;
pub mod storage;
mod tls;
mod uploads;
mod watched;

pub use access::Access;
pub use embedded::Embedded;
pub use error::{Error, Result};
pub use options::Options;
pub use registry::{Handled, Registry, Usage};
pub use repository::{Manifest, Page, Put, Repository, Target};
pub use storage::Storage;
pub use watched::Refused;
