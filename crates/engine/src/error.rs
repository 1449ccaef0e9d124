//! What an engine call can fail with, in Docker's words.

use wharf_model::ErrorKind;

/// The result of an engine call.
pub type Result<T> = std::result::Result<T, Error>;

/// What Docker says in front of the reason why a command cannot run. Scripts and test suites look for these words, so
/// they are an interface, whatever the parts are called here.
const START_PREFIX: &str = "failed to create task for container: failed to create shim task: OCI runtime create failed: \
                            runc create failed: unable to start container process: error during container init: ";

/// What a runtime that is not ours has said begins with this, and is complete.
const FOREIGN: &str = "OCI runtime ";

fn start_prefix(message: &str, exit_code: i32) -> &'static str {
    match exit_code {
        _ if message.starts_with(FOREIGN) => {
            "failed to create task for container: failed to create shim task: "
        }
        126 | 127 => START_PREFIX,
        _ => "",
    }
}

/// The same for an exec: nothing but its form was looked at when there is no code of a command.
fn exec_prefix(message: &str, exit_code: i32) -> &'static str {
    match exit_code {
        _ if message.starts_with(FOREIGN) => "",
        126 | 127 => "OCI runtime exec failed: exec failed: unable to start container process: ",
        _ => "OCI runtime exec failed: exec failed: ",
    }
}

/// A failed engine call. The variants are what callers branch on; the texts are what people read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The input is wrong.
    #[error("{0}")]
    Invalid(String),
    /// No container of that name or id.
    #[error("No such container: {0}")]
    NoSuchContainer(String),
    /// No exec session of that id.
    #[error("No such exec instance: {0}")]
    NoSuchExec(String),
    /// No volume of that name.
    #[error("get {0}: no such volume")]
    NoSuchVolume(String),
    /// No network of that name or id.
    #[error("network {0} not found")]
    NoSuchNetwork(String),
    /// Something else that does not exist.
    #[error("{0}")]
    NotFound(String),
    /// The request contradicts the present state.
    #[error("{0}")]
    Conflict(String),
    /// Already as asked.
    #[error("{0}")]
    NotModified(String),
    /// The container's command could not be started; the text carries the runtime's reason.
    #[error("{}{message}", start_prefix(message, *exit_code))]
    Start {
        /// The runtime's reason.
        message: String,
        /// 127 when the command does not exist, 126 when it cannot be run, 128 otherwise.
        exit_code: i32,
    },
    /// An exec's command could not be started; see [`Error::Start`].
    #[error("{}{message}", exec_prefix(message, *exit_code))]
    ExecStart {
        /// The runtime's reason.
        message: String,
        /// 127, 126 or 128.
        exit_code: i32,
    },
    /// Not part of this engine.
    #[error("{0}")]
    NotImplemented(String),
    /// Something needed does not answer.
    #[error("{0}")]
    Unavailable(String),
    /// A deadline passed.
    #[error("{what} did not finish in {seconds} seconds")]
    Deadline {
        /// What was waited for.
        what: String,
        /// How long.
        seconds: u64,
    },
    /// The image store failed.
    #[error(transparent)]
    Image(#[from] wharf_image::Error),
    /// A registry refused, failed or could not be reached.
    #[error(transparent)]
    Registry(#[from] wharf_registry::Error),
    /// A registry refused a push, in its own words.
    #[error("{0}")]
    Refused(String),
    /// The network failed.
    #[error("failed to set up container networking: {0}")]
    Network(#[from] wharf_net::Error),
    /// A port could not be published.
    #[error(
        "failed to set up container networking: driver failed programming external connectivity on endpoint \
         {endpoint}: {error}"
    )]
    Publish {
        /// The container's name and id.
        endpoint: String,
        /// The network's reason.
        error: Box<wharf_net::Error>,
    },
    /// The state database failed.
    #[error(transparent)]
    State(#[from] wharf_state::Error),
    /// A file of ours could not be read or written.
    #[error(transparent)]
    File(#[from] wharf_linux::hostfs::Error),
    /// The kernel refused something that has no path.
    #[error("{0}")]
    Kernel(#[from] std::io::Error),
    /// A defect of ours or of the machine.
    #[error("{0}")]
    System(String),
}

impl Error {
    /// The same failure with more of its circumstances in front.
    pub(crate) fn with_prefix(self, prefix: &str) -> Self {
        let text = format!("{prefix}{self}");
        match self.kind() {
            ErrorKind::InvalidParameter => Self::Invalid(text),
            ErrorKind::NotFound => Self::NotFound(text),
            ErrorKind::Conflict => Self::Conflict(text),
            _ => Self::System(text),
        }
    }

    /// The sort of the failure.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Invalid(_) => ErrorKind::InvalidParameter,
            Self::NoSuchContainer(_)
            | Self::NoSuchExec(_)
            | Self::NoSuchVolume(_)
            | Self::NoSuchNetwork(_)
            | Self::NotFound(_) => ErrorKind::NotFound,
            Self::Conflict(_) => ErrorKind::Conflict,
            Self::NotModified(_) => ErrorKind::NotModified,
            // Docker answers 400 for a command that cannot run and 500 for the rest.
            Self::Start { exit_code: 126 | 127, .. } | Self::ExecStart { exit_code: 126 | 127, .. } => {
                ErrorKind::InvalidParameter
            }
            Self::NotImplemented(_) => ErrorKind::NotImplemented,
            Self::Unavailable(_) => ErrorKind::Unavailable,
            Self::Deadline { .. } => ErrorKind::Deadline,
            Self::Image(error) => error.kind(),
            Self::Registry(error) => error.kind(),
            Self::Network(error) => error.kind(),
            Self::Publish { error, .. } => error.kind(),
            Self::State(error) if error.is_full() => ErrorKind::Exhausted,
            Self::File(error) if error.is_full() => ErrorKind::Exhausted,
            Self::Start { .. }
            | Self::ExecStart { .. }
            | Self::State(_)
            | Self::File(_)
            | Self::Kernel(_)
            | Self::Refused(_)
            | Self::System(_) => ErrorKind::System,
        }
    }
}

impl From<wharf_model::filters::InvalidFilter> for Error {
    fn from(error: wharf_model::filters::InvalidFilter) -> Self {
        Self::Invalid(error.to_string())
    }
}
