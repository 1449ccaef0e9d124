//! A registry: the server end of the distribution specification, over a small storage trait.

pub mod access;
pub mod auth;
mod listen;
mod observe;
mod options;
pub mod program;
mod registry;
pub mod storage;
mod tls;
mod watched;

pub use access::Access;
pub use options::Options;
pub use registry::{Handled, Registry, Usage};
pub use storage::Storage;
pub use watched::Refused;
