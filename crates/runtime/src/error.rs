//! What a container's start can fail with.

use std::io;
use std::path::{Path, PathBuf};

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

impl Error {
    pub(crate) fn io(context: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::Io { context: context.into(), source: source.into() }
    }

    pub(crate) fn invalid(reason: impl Into<String>) -> Self {
        Self::InvalidSpec { reason: reason.into() }
    }

    pub(crate) fn mount(target: &Path, reason: impl Into<String>) -> Self {
        Self::Mount { target: target.display().to_string(), reason: reason.into() }
    }

    pub(crate) fn protocol() -> Self {
        Self::io(
            "talk to the process being started",
            io::Error::other("it sent a message that makes no sense"),
        )
    }

    /// For the way from the child to its parent: a tag, an error number, two texts.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let (tag, errno, first, second) = match self {
            Self::CommandNotFound { command, reason } => (b'n', 0, command.clone(), reason.clone()),
            Self::CommandNotExecutable { command, reason } => (b'x', 0, command.clone(), reason.clone()),
            Self::WorkingDirectory { cwd, reason } => (b'w', 0, cwd.display().to_string(), reason.clone()),
            Self::User { message } => (b'u', 0, message.clone(), String::new()),
            Self::Mount { target, reason } => (b'm', 0, target.clone(), reason.clone()),
            Self::InvalidSpec { reason } => (b'i', 0, reason.clone(), String::new()),
            Self::State { message } => (b's', 0, message.clone(), String::new()),
            Self::Io { context, source } => match source.raw_os_error() {
                Some(errno) => (b'e', errno, context.clone(), String::new()),
                None => (b'e', 0, context.clone(), source.to_string()),
            },
            other => (b'e', 0, "start the process".to_owned(), other.to_string()),
        };
        let mut bytes = vec![tag];
        bytes.extend(errno.to_ne_bytes());
        bytes.extend(first.replace('\0', "?").bytes().chain([0]).chain(second.bytes()));
        bytes
    }

    /// The other way; anything that is not an encoded error is one itself.
    pub(crate) fn decode(bytes: &[u8]) -> Self {
        let Some((&[tag, a, b, c, d], texts)) = bytes.split_first_chunk::<5>() else {
            return Self::protocol();
        };
        let errno = i32::from_ne_bytes([a, b, c, d]);
        let texts = String::from_utf8_lossy(texts);
        let Some((first, second)) = texts.split_once('\0').map(|(f, s)| (f.to_owned(), s.to_owned())) else {
            return Self::protocol();
        };
        match tag {
            b'n' => Self::CommandNotFound { command: first, reason: second },
            b'x' => Self::CommandNotExecutable { command: first, reason: second },
            b'w' => Self::WorkingDirectory { cwd: first.into(), reason: second },
            b'u' => Self::User { message: first },
            b'm' => Self::Mount { target: first, reason: second },
            b'i' => Self::InvalidSpec { reason: first },
            b's' => Self::State { message: first },
            b'e' if errno != 0 => Self::io(first, io::Error::from_raw_os_error(errno)),
            b'e' => Self::io(first, io::Error::other(second)),
            _ => Self::protocol(),
        }
    }
}

/// Adds what was tried to an error of the kernel.
pub(crate) trait Context<T> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<io::Error>> Context<T> for std::result::Result<T, E> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|e| Error::io(what(), e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_survive_the_way_to_the_parent() {
        let errors = [
            Error::CommandNotFound {
                command: "foo".into(),
                reason: "executable file not found in $PATH".into(),
            },
            Error::CommandNotExecutable { command: "/x".into(), reason: "is a directory".into() },
            Error::WorkingDirectory { cwd: "/w".into(), reason: "no such file or directory".into() },
            Error::User { message: "unable to find user foo: no matching entries in passwd file".into() },
            Error::Mount { target: "/m".into(), reason: "no".into() },
            Error::invalid("bad"),
            Error::State { message: "the container is not running".into() },
            Error::io("open x", io::Error::from_raw_os_error(2)),
            Error::io("open x", io::Error::other("words")),
        ];
        for error in errors {
            assert_eq!(Error::decode(&error.encode()).to_string(), error.to_string());
        }
        for nonsense in [&b""[..], b"e", b"e1234", b"?1234a\0b"] {
            assert!(matches!(Error::decode(nonsense), Error::Io { .. }));
        }
    }
}
