//! Waiting for a condition with a deadline, the only way in which tests wait.

use std::time::{Duration, Instant};

/// Waits until `condition` holds.
///
/// # Panics
/// When the deadline passes first: the message names `what`.
pub fn wait_until(what: &str, deadline: Duration, mut condition: impl FnMut() -> bool) {
    retry_until(what, deadline, || condition().then_some(()));
}

/// Asks again until `attempt` gives an answer.
///
/// # Panics
/// When the deadline passes first: the message names `what`.
pub fn retry_until<T>(what: &str, deadline: Duration, mut attempt: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(answer) = attempt() {
            return answer;
        }
        assert!(start.elapsed() < deadline, "gave up after {deadline:?} waiting for: {what}");
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}
