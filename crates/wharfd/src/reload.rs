//! SIGHUP: the settings file and the certificates are read again.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use wharf_engine::Engine;
use wharf_server::{Authorization, Tls};

use crate::engine_config;
use crate::logging::Log;
use crate::settings::{Flags, Settings};

/// What a reload changes.
pub(crate) struct Reload {
    pub(crate) flags: Flags,
    pub(crate) log: Log,
    pub(crate) tls: Option<Arc<Tls>>,
    pub(crate) authorization: Authorization,
    /// Our own directory of plugins.
    pub(crate) plugins: PathBuf,
    pub(crate) engine: Engine,
    pub(crate) shutdown_timeout: Mutex<Option<Duration>>,
}

impl Reload {
    /// Puts new settings in force. If something is wrong with them everything stays as it was, and the log says why.
    pub(crate) async fn run(&self) {
        match self.apply().await {
            Ok(()) => tracing::info!("SIGHUP: the settings were read again"),
            Err(error) => tracing::error!("SIGHUP: nothing is changed: {error:#}"),
        }
    }

    /// How long containers may take to stop.
    pub(crate) fn shutdown_timeout(&self) -> Option<Duration> {
        *self.shutdown_timeout.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn apply(&self) -> Result<()> {
        let settings = Settings::load(&self.flags)?;
        let config = engine_config(&settings)?;
        // All that can be wrong is looked at before the first thing changes; the plugins last, because setting them is
        // what can fail with them away.
        let certificates = self.tls.as_ref().map(|tls| tls.read_again()).transpose();
        let certificates = certificates.context("reading the certificates")?;
        self.engine.check_reload(&config)?;
        self.authorization.set(&settings.authorization_plugins, &self.plugins).await?;
        self.engine.reload(config, attributes(&settings))?;
        if let Some((tls, certificates)) = self.tls.as_ref().zip(certificates) {
            tls.put(certificates);
        }
        self.log.set_level(settings.log_level);
        *self.shutdown_timeout.lock().unwrap_or_else(PoisonError::into_inner) = settings.shutdown_timeout;
        Ok(())
    }
}

/// The settings as the event `reload` carries them.
fn attributes(settings: &Settings) -> Vec<(String, String)> {
    let list = |values: &[String]| serde_json::to_string(values).unwrap_or_default();
    let defaults = &settings.defaults;
    let seconds = settings.shutdown_timeout.map_or("-1".to_owned(), |timeout| timeout.as_secs().to_string());
    let word =
        |given: &str, default: &str| if given.is_empty() { default.to_owned() } else { given.to_owned() };
    let shm_size = if defaults.shm_size == 0 { 64 << 20 } else { defaults.shm_size };
    [
        ("authorization-plugins", list(&settings.authorization_plugins)),
        ("debug", settings.debug.to_string()),
        ("default-ipc-mode", word(&defaults.ipc_mode, "private")),
        ("default-shm-size", shm_size.to_string()),
        ("insecure-registries", list(&settings.registries.insecure)),
        ("labels", list(&settings.labels)),
        ("live-restore", settings.live_restore.to_string()),
        ("max-concurrent-downloads", settings.transfers.downloads.to_string()),
        ("max-concurrent-uploads", settings.transfers.uploads.to_string()),
        ("max-download-attempts", (settings.registries.retries + 1).to_string()),
        ("registry-mirrors", list(&settings.registries.mirrors)),
        ("shutdown-timeout", seconds),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into()
}
