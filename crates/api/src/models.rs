//! The objects of the API as they travel: Docker's published schema, one type per definition.
//!
//! The crate behind this module is an implementation detail; nothing else names it.

pub use bollard_stubs::models::*;
