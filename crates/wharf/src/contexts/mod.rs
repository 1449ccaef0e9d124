//! Contexts: names for engines, kept where and as the docker command line keeps them, so that both programs know the same.
//!
//! Layout beneath the directory of settings, `ID` being the SHA-256 of the name:
//! ```text
//! contexts/meta/ID/meta.json                 {"Name":…,"Metadata":{"Description":…},"Endpoints":{"docker":{"Host":…}}}
//! contexts/tls/ID/docker/{ca,cert,key}.pem   readable by their owner alone
//! ```
//! Which one is current stands in `config.json`. A file is written beside its place and renamed, so a reader sees the old
//! one or the new one. What other programs put into a context stays in it.

pub(crate) mod archive;
mod store;
mod zip;

pub(crate) use self::store::{DockerEndpoint, Files, Meta, Store};

use crate::{
    cli::Globals,
    config::Config,
    failure::{Failure, Result},
};

/// The context that stands for flags and environment, and is nowhere on disk.
pub(crate) const DEFAULT: &str = "default";

/// What docker says of it.
pub(crate) const DEFAULT_DESCRIPTION: &str = "Current DOCKER_HOST based configuration";

/// The kind of endpoint that this program speaks to.
pub(crate) const DOCKER: &str = "docker";

/// The name of the context in use: flags go before the environment, and that before the settings.
pub(crate) fn current(globals: &Globals, config: &Config) -> String {
    if !globals.host.is_empty() {
        return DEFAULT.to_owned();
    }
    if let Some(name) = globals.context.clone().filter(|name| !name.is_empty()) {
        return name;
    }
    if variable("DOCKER_HOST").is_some() {
        return DEFAULT.to_owned();
    }
    let configured = || Some(config.current_context.clone()).filter(|name| !name.is_empty());
    variable("DOCKER_CONTEXT").or_else(configured).unwrap_or_else(|| DEFAULT.to_owned())
}

/// A variable of the environment that is not empty.
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Checks that a context may have this name.
pub(crate) fn check_name(name: &str) -> Result {
    let tail = |byte: u8| byte.is_ascii_alphanumeric() || b"_.+-".contains(&byte);
    let fits = name.len() > 1
        && name.starts_with(|letter: char| letter.is_ascii_alphanumeric())
        && name.bytes().all(tail);
    match fits {
        true => Ok(()),
        false if name.is_empty() => Err(Failure::message("context name cannot be empty")),
        false => Err(Failure::message(format!(
            "context name {name:?} is invalid, names are validated against regexp \"^[a-zA-Z0-9][a-zA-Z0-9_.+-]+$\""
        ))),
    }
}

/// The same for contexts that are on disk.
pub(crate) fn check_own_name(name: &str) -> Result {
    match name {
        DEFAULT => Err(Failure::message("\"default\" is a reserved context name")),
        name => check_name(name),
    }
}
