//! Telling the service manager how far this process is.

/// The API answers.
pub(crate) fn ready() {
    send("READY=1");
}

/// The end has begun.
pub(crate) fn stopping() {
    send("STOPPING=1");
}

fn send(state: &str) {
    if let Err(error) = wharf_linux::daemon::notify(state) {
        tracing::warn!("telling the service manager {state}: {error}");
    }
}
