//! What every black-box test of Wharf stands on.
//!
//! - [`Engine`]: a scratch `wharfd` with its own data, sockets, bridge and subnet, so that any number of tests run at the
//!   same time on one machine. Dropping it removes its containers, stops it and *sweeps*: a mount, link, cgroup, firewall
//!   rule or process that is left fails the test.
//! - [`Reference`]: the real Docker Engine, switched on by `WHARF_TEST_REFERENCE`. A black-box test is believed once it
//!   has passed there.
//! - [`faults`]: deaths and failures at a chosen system call; [`census`]: what an engine has lying around while it runs.
//! - [`Cli`], [`Api`]: the two ways in, with deadlines.
//! - [`differential`]: API calls with their recorded answers; [`exchange`] shows an answer as it came.
//! - [`loopback`]: ports for the tests' own servers.
//! - [`transcript`]: command-line sessions with their recorded output, compared after [`normalise`].
//! - [`image`]: small images made on the spot from the machine's static busybox.
//!
//! Tests of this kind need root and the workspace's binaries (`cargo build --workspace`); both are checked, with a message.

#![expect(
    clippy::print_stdout,
    reason = "skipped tests, seeds and the logs of failed engines are shown to the developer"
)]

mod api;
mod binaries;
pub mod census;
mod cli;
pub mod differential;
mod disk;
mod docker_registry;
mod engine;
pub mod exchange;
pub mod faults;
pub mod image;
pub mod leftovers;
pub mod loopback;
pub mod normalise;
pub mod random;
mod reference;
mod registry;
pub mod silent;
pub mod transcript;
mod volume_plugin;
mod wait;

pub use api::{Api, Response};
pub use binaries::{binary, docker_cli, use_release_binaries, workspace_root};
pub use cli::{Cli, Output};
pub use disk::Disk;
pub use docker_registry::DockerRegistry;
pub use engine::{Engine, EngineBuilder};
pub use reference::Reference;
pub use registry::Registry;
pub use volume_plugin::{Manners, VolumePlugin};
pub use wait::{retry_until, wait_until};

/// How long a test waits for something that normally takes milliseconds. Generous: the machine may be busy with a build.
pub const PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);
