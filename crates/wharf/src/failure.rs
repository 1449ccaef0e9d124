//! How a command ends when it does not end well.

use std::io;

use wharf_api::client;

/// The result of nearly everything here.
pub(crate) type Result<T = ()> = std::result::Result<T, Failure>;

/// The exit status of a program that a closed pipe ended, which is what scripts see of Docker's.
const BROKEN_PIPE: u8 = 128 + 13;

/// Why a command stops, with what it leaves for the user: a text for standard error and an exit status.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The engine refused or could not be reached; exit status 1.
    #[error("{}", engine_text(.0))]
    Engine(#[from] client::Error),
    /// Anything that only needs a text; exit status 1.
    #[error("{0}")]
    Message(String),
    /// A text and an exit status of its own, such as 125 of `run`.
    #[error("{text}")]
    Status { code: u8, text: String },
    /// Something worth telling that is no failure: one of several things was already as wanted.
    #[error("{0}")]
    Notice(String),
    /// The exit status of a container, which speaks for itself.
    #[error("exit status {0}")]
    Silent(u8),
}

impl Failure {
    pub(crate) fn message(text: impl Into<String>) -> Self {
        Self::Message(text.into())
    }

    pub(crate) fn status(code: u8, text: impl Into<String>) -> Self {
        Self::Status { code, text: text.into() }
    }

    /// The status this process exits with.
    pub(crate) fn code(&self) -> u8 {
        match self {
            Self::Engine(_) | Self::Message(_) => 1,
            Self::Notice(_) => 0,
            Self::Status { code, .. } | Self::Silent(code) => *code,
        }
    }

    /// What goes to standard error, if anything.
    pub(crate) fn text(&self) -> Option<String> {
        match self {
            Self::Silent(_) => None,
            other => Some(other.to_string()),
        }
    }

    /// Whether the engine said that the thing does not exist.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Engine(error) if error.is_not_found())
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            // Nobody reads the output any more; that is not worth a message.
            return Self::Silent(BROKEN_PIPE);
        }
        Self::Message(error.to_string())
    }
}

fn engine_text(error: &client::Error) -> String {
    match error {
        client::Error::Api { message, .. } => format!("Error response from daemon: {message}"),
        client::Error::Connect { endpoint, source } if source.kind() == io::ErrorKind::PermissionDenied => {
            format!(
                "permission denied while trying to connect to the Docker daemon socket at {endpoint}: {source}"
            )
        }
        client::Error::Connect { endpoint, .. } => {
            format!("Cannot connect to the Docker daemon at {endpoint}. Is the docker daemon running?")
        }
        client::Error::Transport(source) => format!("error during connect: {source}"),
        client::Error::Reach { endpoint, source } => format!("error during connect: {endpoint}: {source}"),
        other => other.to_string(),
    }
}

/// Joins the failures of a command that works on several things and goes on after each.
pub(crate) fn all(failures: Vec<Failure>) -> Result {
    if failures.is_empty() {
        return Ok(());
    }
    let texts: Vec<String> = failures.iter().filter_map(Failure::text).collect();
    Err(Failure::message(texts.join("\n")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engines_words_are_introduced() {
        let error = client::Error::Api { status: 404, message: "No such container: x".into() };
        let failure = Failure::from(error);
        assert!(failure.is_not_found());
        assert_eq!(failure.to_string(), "Error response from daemon: No such container: x");
        assert_eq!(failure.code(), 1);
    }

    #[test]
    fn a_closed_pipe_is_silent() {
        let failure = Failure::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!((failure.text(), failure.code()), (None, 141));
    }

    #[test]
    fn several_failures_become_one() {
        assert!(all(vec![]).is_ok());
        let failure = all(vec![Failure::message("a"), Failure::message("b")]).unwrap_err();
        assert_eq!(failure.to_string(), "a\nb");
    }
}
