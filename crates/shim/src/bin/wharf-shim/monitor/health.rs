//! How the monitor goes with the container's health: moves news from the probe to disk and to the engines.

use std::time::{Duration, Instant};

use wharf_linux::hostfs;
use wharf_shim::health::{HEALTH_FILE, HealthRecord, HealthResult, MAX_RECORD};
use wharf_shim::protocol::Event;

use super::{Monitor, Phase};
use crate::failure::Failure;
use crate::health::{Health, News, World};

impl Monitor {
    /// The container's program starts now.
    pub(super) fn begin_health(&mut self) {
        // Boxed: most containers have none.
        self.health = self.config.health.clone().map(|config| Box::new(Health::new(config)));
    }

    /// How long until something is due.
    pub(super) fn until_health(&self) -> Option<Duration> {
        let due = self.health.as_ref()?.due()?;
        Some(due.saturating_duration_since(Instant::now()))
    }

    /// Lets the health do something, and passes on what comes of it.
    pub(super) fn with_health(&mut self, act: impl FnOnce(&mut Health, &mut World<'_>) -> Option<News>) {
        let Some(health) = &mut self.health else { return };
        let (Phase::Running(init) | Phase::Draining { init, .. }) = &self.phase else { return };
        let (poller, config, score) = (&self.poller, &self.config, self.score);
        let mut world = World { poller, execs: &mut self.execs, init, config, score };
        match act(health, &mut world) {
            None => {}
            Some(News::Started(id)) => {
                self.tidy = false;
                self.connections.tell_all(&Event::ProbeStarted { id });
            }
            Some(News::Ended(result, exec)) => {
                self.tidy = false;
                self.health_news(result, exec);
            }
        }
    }

    fn health_news(&mut self, result: HealthResult, exec: Option<(String, i32)>) {
        let Some(health) = &self.health else { return };
        let (status, failing_streak) = health.status();
        self.probes += 1;
        let count = self.probes;
        if let Err(failure) = self.keep_health(count, &result) {
            complain!("wharf-shim: {}", failure.message);
        }
        self.connections.tell_all(&Event::Health { count, status, failing_streak, result, exec });
    }

    /// On disk first, and whole at any time. The past is read from there, too: in memory it would be most of what an
    /// idle shim holds.
    fn keep_health(&self, count: u64, result: &HealthResult) -> Result<(), Failure> {
        let path = self.config.run_dir.join(HEALTH_FILE);
        let past = hostfs::read_bounded(&path, MAX_RECORD).ok();
        let mut record: HealthRecord =
            past.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        if let Some(health) = &self.health {
            (record.status, record.failing_streak) = health.status();
        }
        record.count = count;
        record.push(result.clone());
        let bytes = serde_json::to_vec(&record).map_err(Failure::on("encode the health record"))?;
        super::replace(&path, &bytes).map_err(Failure::on("record the health"))
    }
}
