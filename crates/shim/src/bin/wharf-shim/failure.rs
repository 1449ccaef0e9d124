//! Why something asked of the shim did not work, as it goes over the wire.

use std::fmt::Display;

use wharf_linux::cgroup;
use wharf_runtime::Error as RuntimeError;
use wharf_shim::protocol::{FailureKind, Reply};

/// The longest message sent; paths and names come from outside.
const MAX_TEXT: usize = 8 * 1024;

/// An error for programs and people.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    pub(crate) kind: FailureKind,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        let mut message: String = message.into();
        if message.len() > MAX_TEXT {
            let end = (0..=MAX_TEXT).rev().find(|end| message.is_char_boundary(*end));
            message.truncate(end.unwrap_or(0));
        }
        Self { kind, message }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(FailureKind::InvalidArgument, message)
    }

    pub(crate) fn not_running(message: impl Into<String>) -> Self {
        Self::new(FailureKind::NotRunning, message)
    }

    /// For `map_err`: the system refused to do `what`.
    pub(crate) fn on<E: Display>(what: &'static str) -> impl Fn(E) -> Self {
        move |error| Self::new(FailureKind::Internal, format!("cannot {what}: {error}"))
    }

    pub(crate) fn reply(self) -> Reply {
        Reply::Error { kind: self.kind, message: self.message }
    }
}

impl From<RuntimeError> for Failure {
    fn from(error: RuntimeError) -> Self {
        let kind = match &error {
            RuntimeError::CommandNotFound { .. } => FailureKind::NotFound,
            RuntimeError::CommandNotExecutable { .. } => FailureKind::NotExecutable,
            RuntimeError::WorkingDirectory { .. }
            | RuntimeError::User { .. }
            | RuntimeError::InvalidSpec { .. } => FailureKind::InvalidArgument,
            RuntimeError::State { .. } => FailureKind::NotRunning,
            _ => FailureKind::Internal,
        };
        Self::new(kind, error.to_string())
    }
}

impl From<cgroup::Error> for Failure {
    fn from(error: cgroup::Error) -> Self {
        Self::new(FailureKind::Internal, error.to_string())
    }
}
