//! What a container's start can fail with.

use std::io;
use std::path::PathBuf;

/// Result of the runtime's operations.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a container or an exec could not be made. The texts of the command variants are the ones Docker's command line
/// derives its exit codes 126 and 127 from.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command does not exist.
    #[error("exec: \"{command}\": {reason}")]
    CommandNotFound {
        /// As it was asked for.
        command: String,
        /// `executable file not found in $PATH` or `no such file or directory`.
        reason: String,
    },
    /// The command exists and cannot be run.
    #[error("exec: \"{command}\": {reason}")]
    CommandNotExecutable {
        /// As it was asked for.
        command: String,
        /// `permission denied`, `is a directory`, `exec format error`, ….
        reason: String,
    },
    /// The working directory is missing, is not a directory, or leads out of the container.
    #[error("chdir to cwd (\"{}\") set in config.json failed: {reason}", cwd.display())]
    WorkingDirectory {
        /// The directory.
        cwd: PathBuf,
        /// Why.
        reason: String,
    },
    /// The user or a group could not be found or is not valid. The text is Docker's.
    #[error("{message}")]
    User {
        /// The whole text.
        message: String,
    },
    /// A mount could not be made.
    #[error("mount {target}: {reason}")]
    Mount {
        /// Path inside the container.
        target: String,
        /// What was tried and the kernel's answer.
        reason: String,
    },
    /// A control group could not be made or changed.
    #[error("cgroup: {0}")]
    Cgroup(#[from] wharf_linux::cgroup::Error),
    /// The spec asks for something impossible or contradictory.
    #[error("invalid config: {reason}")]
    InvalidSpec {
        /// What and why.
        reason: String,
    },
    /// No container has this id.
    #[error("container \"{id}\" does not exist")]
    NotFound {
        /// The id.
        id: String,
    },
    /// The id is taken.
    #[error("container with given ID already exists: {id}")]
    Exists {
        /// The id.
        id: String,
    },
    /// The container is not in a state that allows the operation.
    #[error("{message}")]
    State {
        /// The whole text.
        message: String,
    },
    /// Anything else the kernel refused.
    #[error("{context}: {source}")]
    Io {
        /// What was tried, with the file concerned.
        context: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The init or exec process died before it reached the command.
    #[error("{what} ended before it ran the command{detail}")]
    Died {
        /// `init` or `exec`.
        what: &'static str,
        /// Its exit status, in words, with a leading separator.
        detail: String,
    },
}
