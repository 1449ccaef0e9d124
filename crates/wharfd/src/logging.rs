//! The log: one line an event, to standard error.

use std::io::{self, IsTerminal};

use tracing::Level;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::time::SystemTime;

use crate::settings::Settings;

/// Changes the level of the log that runs.
pub(crate) struct Log(Box<dyn Fn(Level) + Send + Sync>);

impl Log {
    /// From now on events of this severity and above are written.
    pub(crate) fn set_level(&self, level: Level) {
        (self.0)(level);
    }
}

/// Starts the log. The service manager adds nothing to lines, so they carry their time.
pub(crate) fn start(settings: &Settings) -> Log {
    let builder = tracing_subscriber::fmt()
        .with_timer(SystemTime)
        .with_target(false)
        .with_ansi(io::stderr().is_terminal() && !settings.raw_logs)
        .with_writer(io::stderr)
        // It would say so on standard error, too, and panic when that fails: a full disk must not end anybody's work.
        .log_internal_errors(false);
    // The two kinds of lines are different types.
    macro_rules! start {
        ($builder:expr) => {{
            let builder = $builder.with_env_filter(filter(settings.log_level)).with_filter_reloading();
            let handle = builder.reload_handle();
            builder.init();
            Log(Box::new(move |level| {
                if let Err(error) = handle.reload(filter(level)) {
                    tracing::error!("changing the level of the log: {error}");
                }
            }))
        }};
    }
    if settings.log_as_json { start!(builder.json()) } else { start!(builder) }
}

fn filter(level: Level) -> EnvFilter {
    EnvFilter::default().add_directive(level.into())
}
