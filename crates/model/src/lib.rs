//! The vocabulary of Wharf: ids, digests, references, container specifications, filters, events, kinds of error.
//!
//! Every crate may name these; nothing here does I/O, waits or knows HTTP. The persisted record, the live handle and
//! the wire model of a thing are three types in three crates; what they have in common is said here once.

pub mod digest;
pub mod event;
pub mod filters;
pub mod id;
pub mod kind;
pub mod network;
pub mod ownership;
pub mod reference;
pub mod signal;
pub mod spec;
pub mod ulimit;
pub mod user_paths;

pub use digest::Digest;
pub use event::Event;
pub use filters::Filters;
pub use id::{ContainerId, ExecId};
pub use kind::ErrorKind;
pub use reference::Reference;
pub use spec::ContainerSpec;
