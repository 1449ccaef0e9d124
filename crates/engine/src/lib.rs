//! Containers, exec, volumes, events, stats: the domain behind the API. No HTTP types.
//!
//! [`Engine`] has one method per operation of the API. One operation, one file: `containers/start.rs` holds
//! `Engine::start_container`, and so on.
//!
//! Layout on disk: see `containers/mod.rs` (per container) and `wharf_state` (names and settings).
//!
//! Locking: the table of containers is a short mutex that is never held across an await; each container has an async
//! lock that its state changes hold, so a container that is stuck delays nobody else.
//!
//! Crash: the engine may be killed at any instant. Every running container is owned by its shim; `Engine::open` finds
//! the shims again, learns from their exit files what ended meanwhile, and sweeps what was half made.

mod apart;
mod blocking;
mod check;
mod child;
mod config;
mod containers;
mod copy_up;
mod error;
mod events;
mod exec;
mod files;
mod health;
mod images;
mod link;
mod live;
mod logs;
mod networks;
mod ownership;
mod plugins;
mod readiness;
mod registry;
mod runtimes;
mod session;
mod spec;
mod streams;
mod system;
mod userns;
mod view;
mod volumes;
mod why;

#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub use logs::fuzz as fuzz_logs;

pub use check::{CheckNews, StoreCheck};
pub use config::{EngineConfig, LayerStorage, PLUGIN_DIRS, VOLUME_PATIENCE};
pub use containers::{ArchiveTarget, CommitRequest, Engine, PathStat, Update};
pub use error::{Error, Result};
pub use events::EventStream;
pub use live::ContainerDefaults;
pub use logs::{DRIVERS as LOG_DRIVERS, validate_defaults as validate_log_defaults};
pub use plugins::{PluginQuestion, ask_plugin, find_plugin, is_plugin_name};
pub use registry::{Distribution, Pull, PullTransfer, PushTransfer};
pub use runtimes::{BUILT_IN as BUILT_IN_RUNTIME, RUNTIME_PATIENCE, RuntimeProgram, Runtimes};
pub use session::{Input, OutputStream, Session, Wrote};
pub use userns::Remap;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub use userns::fuzz as fuzz_subids;
pub use view::*;
pub use wharf_shim::health::HealthStatus;
pub use why::{Cause, Ending, WhyView};
