//! A registry: the server end of the distribution specification, over a small storage trait.

pub mod access;
mod options;
mod registry;
pub mod storage;

pub use access::Access;
pub use options::Options;
pub use registry::{Handled, Registry, Usage};
pub use storage::Storage;
