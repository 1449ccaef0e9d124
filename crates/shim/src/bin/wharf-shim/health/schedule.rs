//! When the next probe is due and what its result means: Docker's rules, no I/O.

use std::time::{Duration, Instant};

use wharf_shim::health::{HealthConfig, HealthStatus};

/// See the module.
#[derive(Debug)]
pub(crate) struct Schedule {
    interval: Duration,
    start_interval: Duration,
    start_period: Duration,
    retries: u32,
    /// When the container's program started.
    started: Instant,
    status: HealthStatus,
    streak: u32,
    next: Instant,
}

impl Schedule {
    /// Of a container whose program starts now.
    pub(crate) fn new(config: &HealthConfig, now: Instant) -> Self {
        let mut schedule = Self {
            interval: Duration::from_nanos(config.interval_ns),
            start_interval: Duration::from_nanos(config.start_interval_ns),
            start_period: Duration::from_nanos(config.start_period_ns),
            retries: config.retries.max(1),
            started: now,
            status: HealthStatus::Starting,
            streak: 0,
            next: now,
        };
        schedule.wait(now);
        schedule
    }

    /// When the next probe begins.
    pub(crate) fn next(&self) -> Instant {
        self.next
    }

    pub(crate) fn status(&self) -> HealthStatus {
        self.status
    }

    pub(crate) fn streak(&self) -> u32 {
        self.streak
    }

    /// The next probe comes a whole pause from now.
    pub(crate) fn wait(&mut self, now: Instant) {
        let starting = self.status == HealthStatus::Starting && now - self.started < self.start_period;
        self.next = now + if starting { self.start_interval } else { self.interval };
    }

    /// Takes in the result of a probe that began at `began` and has ended now.
    pub(crate) fn verdict(&mut self, healthy: bool, began: Instant, now: Instant) {
        if healthy {
            self.streak = 0;
            self.status = HealthStatus::Healthy;
        } else if self.status != HealthStatus::Starting || began - self.started >= self.start_period {
            self.streak = self.streak.saturating_add(1);
            if self.streak >= self.retries {
                self.status = HealthStatus::Unhealthy;
            }
        }
        self.wait(now);
    }
}

#[cfg(test)]
mod tests {
    use wharf_shim::health::Probe;

    use super::*;

    fn schedule(start_period: u64, retries: u32) -> (Schedule, Instant) {
        let config = HealthConfig {
            probe: Probe::Command { args: Vec::new() },
            interval_ns: 30_000_000_000,
            start_interval_ns: 5_000_000_000,
            start_period_ns: start_period * 1_000_000_000,
            timeout_ns: 1,
            retries,
        };
        let now = Instant::now();
        (Schedule::new(&config, now), now)
    }

    fn seconds(number: u64) -> Duration {
        Duration::from_secs(number)
    }

    #[test]
    fn without_a_start_period_every_failure_counts() {
        let (mut schedule, start) = schedule(0, 2);
        assert_eq!(schedule.next(), start + seconds(30));
        schedule.verdict(false, start + seconds(30), start + seconds(31));
        assert_eq!((schedule.status(), schedule.streak()), (HealthStatus::Starting, 1));
        assert_eq!(schedule.next(), start + seconds(61), "counted from the end of the last");
        schedule.verdict(false, start + seconds(61), start + seconds(62));
        assert_eq!((schedule.status(), schedule.streak()), (HealthStatus::Unhealthy, 2));
        schedule.verdict(true, start + seconds(92), start + seconds(92));
        assert_eq!((schedule.status(), schedule.streak()), (HealthStatus::Healthy, 0));
        schedule.verdict(false, start + seconds(122), start + seconds(122));
        assert_eq!((schedule.status(), schedule.streak()), (HealthStatus::Healthy, 1));
    }

    #[test]
    fn failures_during_the_start_period_are_forgiven_and_come_faster() {
        let (mut schedule, start) = schedule(12, 1);
        assert_eq!(schedule.next(), start + seconds(5));
        schedule.verdict(false, start + seconds(5), start + seconds(5));
        assert_eq!((schedule.status(), schedule.streak()), (HealthStatus::Starting, 0));
        assert_eq!(schedule.next(), start + seconds(10));
        // Begun inside the period, ended outside: forgiven, but the next comes at the usual pace.
        schedule.verdict(false, start + seconds(11), start + seconds(13));
        assert_eq!((schedule.status(), schedule.streak()), (HealthStatus::Starting, 0));
        assert_eq!(schedule.next(), start + seconds(43));
        schedule.verdict(false, start + seconds(43), start + seconds(43));
        assert_eq!((schedule.status(), schedule.streak()), (HealthStatus::Unhealthy, 1));
    }

    #[test]
    fn the_first_success_ends_the_start_period() {
        let (mut schedule, start) = schedule(3600, 1);
        schedule.verdict(true, start + seconds(5), start + seconds(5));
        assert_eq!(schedule.status(), HealthStatus::Healthy);
        assert_eq!(schedule.next(), start + seconds(35));
        schedule.verdict(false, start + seconds(35), start + seconds(35));
        assert_eq!((schedule.status(), schedule.streak()), (HealthStatus::Unhealthy, 1));
    }

    #[test]
    fn the_largest_times_are_far_away_and_not_now() {
        let (mut schedule, start) = schedule(0, u32::MAX);
        schedule.interval = Duration::from_nanos(i64::MAX as u64);
        schedule.verdict(false, start, start);
        assert!(schedule.next() > start + seconds(3600 * 24 * 365));
    }
}
