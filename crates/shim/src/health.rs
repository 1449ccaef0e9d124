//! What an engine and a shim say about a container's health: types, no I/O.
//!
//! The shim probes, counts and keeps [`HEALTH_FILE`] in its run directory, whole at any time and newer than or as new
//! as every [`Event::Health`](crate::protocol::Event::Health) that was told; whoever connects reads it first and
//! leaves out events whose `count` it has. It stays after the shim, as the exit record does.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Name of the [`HealthRecord`] in the run directory.
pub const HEALTH_FILE: &str = "health.json";
/// The largest [`HealthRecord`] in bytes: five outputs in which every byte is escaped, and some room.
pub const MAX_RECORD: u64 = 256 * 1024;
/// Bytes kept of what a probe writes.
pub const MAX_OUTPUT: usize = 4096;
/// Results kept.
pub const MAX_LOG: usize = 5;

/// How a container is probed; defaults are filled in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthConfig {
    /// What is done.
    pub probe: Probe,
    /// Nanoseconds from the end of a probe to the next.
    pub interval_ns: u64,
    /// The same while the container starts.
    pub start_interval_ns: u64,
    /// Failures this soon after the start do not count.
    pub start_period_ns: u64,
    /// Nanoseconds a probe may take.
    pub timeout_ns: u64,
    /// Failures in a row that mean unhealthy.
    pub retries: u32,
}

/// What a probe does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Probe {
    /// Runs a program in the container, as the container's own user, with its environment, rights and filter.
    Command {
        /// The program and its arguments.
        args: Vec<String>,
    },
    /// Asks for a page, without a process: 200 to 399 is healthy.
    Http {
        /// Tried in this order, in the container's network.
        addresses: Vec<SocketAddr>,
        /// For the `Host` header.
        host: String,
        /// Path and query.
        path: String,
    },
    /// Connects, without a process.
    Tcp {
        /// Tried in this order, in the container's network.
        addresses: Vec<SocketAddr>,
    },
    /// Connects to a socket in the container's file system, without a process.
    Unix {
        /// As the container sees it.
        path: PathBuf,
    },
}

/// How a container is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthStatus {
    /// No probe has succeeded yet, and not enough have failed.
    #[default]
    Starting,
    /// The last probe succeeded, or fewer than the limit have failed since one did.
    Healthy,
    /// Too many failed in a row.
    Unhealthy,
}

impl HealthStatus {
    /// Docker's word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// What came of one probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthResult {
    /// Nanoseconds since 1970.
    pub start_ns: i64,
    /// Nanoseconds since 1970.
    pub end_ns: i64,
    /// 0 is healthy; -1 without an exit code.
    pub exit_code: i32,
    /// The beginning of what it wrote, or why there is no exit code.
    pub output: String,
}

/// The content of [`HEALTH_FILE`]; missing before the first result.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthRecord {
    /// Results so far.
    pub count: u64,
    /// What follows from them.
    pub status: HealthStatus,
    /// Failures since the last success.
    pub failing_streak: u32,
    /// The last results, oldest first.
    pub log: Vec<HealthResult>,
}

impl HealthRecord {
    /// Adds a result, forgetting the oldest beyond [`MAX_LOG`].
    pub fn push(&mut self, result: HealthResult) {
        self.log.push(result);
        let surplus = self.log.len().saturating_sub(MAX_LOG);
        self.log.drain(..surplus);
    }
}
