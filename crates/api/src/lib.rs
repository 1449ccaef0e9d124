//! The Docker Engine API contract: models, versions, errors, stream framing and the client.

pub mod client;
pub mod models;
pub mod stream;
pub mod version;
