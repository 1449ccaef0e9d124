//! The log: one line an event, to standard error.

use std::io::{self, IsTerminal};

use tracing::Level;
use tracing_subscriber::fmt::time::SystemTime;

/// Starts the log. The service manager adds nothing to lines, so they carry their time.
pub(crate) fn start(level: Level) {
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_timer(SystemTime)
        .with_target(false)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr)
        .init();
}
