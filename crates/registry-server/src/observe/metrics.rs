//! What the registry counts, in the text form that Prometheus reads.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::Usage;

/// Upper bounds of the durations' histogram, in seconds.
const BOUNDS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 120.0];

/// Bytes and connections.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    received: AtomicU64,
    sent: AtomicU64,
    connections: AtomicI64,
    accepted: AtomicU64,
}

impl Traffic {
    pub(crate) fn received(&self, bytes: u64) {
        self.received.fetch_add(bytes, Relaxed);
    }

    pub(crate) fn sent(&self, bytes: u64) {
        self.sent.fetch_add(bytes, Relaxed);
    }

    /// Counts a connection until the result is dropped.
    pub(crate) fn connection(self: &Arc<Self>) -> impl Drop + Send + use<> {
        struct Open(Arc<Traffic>);
        impl Drop for Open {
            fn drop(&mut self) {
                self.0.connections.fetch_sub(1, Relaxed);
            }
        }
        self.accepted.fetch_add(1, Relaxed);
        self.connections.fetch_add(1, Relaxed);
        Open(self.clone())
    }
}

/// Requests by endpoint, method and status; and how long they took.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    by_outcome: Mutex<BTreeMap<(&'static str, &'static str, u16), u64>>,
    by_endpoint: Mutex<BTreeMap<&'static str, Durations>>,
}

#[derive(Debug, Default)]
struct Durations {
    buckets: [u64; BOUNDS.len()],
    count: u64,
    sum: f64,
}

impl Requests {
    /// A request has been answered to its last byte.
    pub(crate) fn answered(
        &self,
        endpoint: &'static str,
        method: &http::Method,
        status: u16,
        took: Duration,
    ) {
        // What clients may invent must not make the table grow.
        let method = ["GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS"]
            .into_iter()
            .find(|known| *known == method.as_str())
            .unwrap_or("other");
        *lock(&self.by_outcome).entry((endpoint, method, status)).or_default() += 1;
        let seconds = took.as_secs_f64();
        let mut durations = lock(&self.by_endpoint);
        let durations = durations.entry(endpoint).or_default();
        durations.count += 1;
        durations.sum += seconds;
        if let Some(bucket) = BOUNDS.iter().position(|bound| seconds <= *bound) {
            durations.buckets[bucket] += 1;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The page at `/metrics`.
pub(crate) fn page(requests: &Requests, traffic: &Traffic, usage: Usage, unlogged: u64) -> String {
    let mut out = Page(String::with_capacity(4096));
    out.family("requests_total", "counter", "Requests answered.");
    for ((endpoint, method, status), count) in &*lock(&requests.by_outcome) {
        let labels = format!("{{endpoint=\"{endpoint}\",method=\"{method}\",code=\"{status}\"}}");
        out.sample("requests_total", &labels, count);
    }
    out.family(
        "request_duration_seconds",
        "histogram",
        "From the head of a request to the last byte of its answer.",
    );
    for (endpoint, durations) in &*lock(&requests.by_endpoint) {
        let mut below = 0;
        for (bound, count) in BOUNDS.iter().zip(durations.buckets) {
            below += count;
            let labels = format!("{{endpoint=\"{endpoint}\",le=\"{bound}\"}}");
            out.sample("request_duration_seconds_bucket", &labels, below);
        }
        let infinite = format!("{{endpoint=\"{endpoint}\",le=\"+Inf\"}}");
        out.sample("request_duration_seconds_bucket", &infinite, durations.count);
        let labels = format!("{{endpoint=\"{endpoint}\"}}");
        out.sample("request_duration_seconds_sum", &labels, durations.sum);
        out.sample("request_duration_seconds_count", &labels, durations.count);
    }
    let counter = |value: &AtomicU64| value.load(Relaxed);
    out.single("received_bytes_total", "counter", "Bytes read from clients.", counter(&traffic.received));
    out.single("sent_bytes_total", "counter", "Bytes written to clients.", counter(&traffic.sent));
    out.single("connections", "gauge", "Open connections.", traffic.connections.load(Relaxed));
    out.single("connections_total", "counter", "Connections accepted.", counter(&traffic.accepted));
    out.single("blobs", "gauge", "Blobs stored.", usage.blobs);
    out.single("blob_bytes", "gauge", "Bytes of the blobs stored.", usage.bytes);
    out.single("uploads", "gauge", "Uploads begun and not ended.", usage.uploads);
    out.single("collected_blobs_total", "counter", "Blobs the collector removed.", usage.removed_blobs);
    out.single("collected_bytes_total", "counter", "Bytes the collector freed.", usage.removed_bytes);
    out.single("access_log_dropped_total", "counter", "Lines the access log could not take.", unlogged);
    out.0
}

struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _infallible =
            write!(self.0, "# HELP wharf_registry_{name} {help}\n# TYPE wharf_registry_{name} {kind}\n");
    }

    fn sample(&mut self, name: &str, labels: &str, value: impl std::fmt::Display) {
        let _infallible = writeln!(self.0, "wharf_registry_{name}{labels} {value}");
    }

    fn single(&mut self, name: &str, kind: &str, help: &str, value: impl std::fmt::Display) {
        self.family(name, kind, help);
        self.sample(name, "", value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_adds_up() {
        let requests = Requests::default();
        for (status, milliseconds) in [(200, 1), (200, 2), (404, 700), (200, 600_000)] {
            requests.answered("end-2", &http::Method::GET, status, Duration::from_millis(milliseconds));
        }
        requests.answered("other", &http::Method::from_bytes(b"X-INVENTED").unwrap(), 404, Duration::ZERO);
        let traffic = Arc::new(Traffic::default());
        let open = traffic.connection();
        drop(traffic.connection());
        traffic.received(7);
        let usage = Usage { blobs: 3, ..Usage::default() };
        let page = page(&requests, &traffic, usage, 0);
        for line in [
            r#"wharf_registry_requests_total{endpoint="end-2",method="GET",code="200"} 3"#,
            r#"wharf_registry_requests_total{endpoint="other",method="other",code="404"} 1"#,
            r#"wharf_registry_request_duration_seconds_bucket{endpoint="end-2",le="0.001"} 1"#,
            r#"wharf_registry_request_duration_seconds_bucket{endpoint="end-2",le="1"} 3"#,
            r#"wharf_registry_request_duration_seconds_bucket{endpoint="end-2",le="120"} 3"#,
            r#"wharf_registry_request_duration_seconds_bucket{endpoint="end-2",le="+Inf"} 4"#,
            r#"wharf_registry_request_duration_seconds_count{endpoint="end-2"} 4"#,
            "wharf_registry_connections 1",
            "wharf_registry_connections_total 2",
            "wharf_registry_received_bytes_total 7",
            "wharf_registry_blobs 3",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} in\n{page}");
        }
        drop(open);
    }
}
