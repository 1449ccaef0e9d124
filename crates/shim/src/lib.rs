//! The per-container monitor: its process, its protocol and the output spool.
//!
//! Other processes link this crate for [`protocol`] (types and codec, no I/O), [`spool`] (the container's output on
//! disk) and, if they are synchronous, [`client`].

pub mod client;
pub mod health;
pub mod protocol;
pub mod spool;
