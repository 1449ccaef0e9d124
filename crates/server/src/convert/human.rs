//! Words for people: how long ago, and the `STATUS` column of `ps`.

use jiff::Timestamp;
use wharf_engine::{ContainerRow, HealthStatus, Status};

/// A span in Docker's coarse words: `5 minutes`, `About an hour`.
pub(crate) fn duration(seconds: i64) -> String {
    let minutes = seconds / 60;
    // Hours are rounded, everything above is cut off.
    let hours = (seconds + 1800) / 3600;
    match seconds {
        ..1 => "Less than a second".to_owned(),
        1 => "1 second".to_owned(),
        2..60 => format!("{seconds} seconds"),
        60..120 => "About a minute".to_owned(),
        120..3600 => format!("{minutes} minutes"),
        _ if hours == 1 => "About an hour".to_owned(),
        _ if hours < 48 => format!("{hours} hours"),
        _ if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        _ if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        _ if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", seconds / 3600 / 24 / 365),
    }
}

/// `Up 5 minutes`, `Exited (0) 2 hours ago`, …
pub(crate) fn status(row: &ContainerRow<'_>, now: Timestamp) -> String {
    let since = |time: Option<Timestamp>| duration(now.duration_since(time.unwrap_or(now)).as_secs());
    match row.status {
        Status::Created => "Created".to_owned(),
        Status::Running => match row.health {
            None => format!("Up {}", since(row.started_at)),
            Some(HealthStatus::Starting) => format!("Up {} (health: starting)", since(row.started_at)),
            Some(health) => format!("Up {} ({})", since(row.started_at), health.as_str()),
        },
        Status::Paused => format!("Up {} (Paused)", since(row.started_at)),
        Status::Restarting => format!("Restarting ({}) {} ago", row.exit_code, since(row.finished_at)),
        // A start that failed before the process ran has an exit code but never ran.
        Status::Exited if row.started_at.is_none() => "Created".to_owned(),
        Status::Exited => format!("Exited ({}) {} ago", row.exit_code, since(row.finished_at)),
        Status::Removing => "Removal In Progress".to_owned(),
        Status::Dead => "Dead".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use wharf_model::ContainerSpec;

    use super::*;
    use crate::convert::summary::tests::Sample;

    #[test]
    fn durations_are_coarse() {
        const HOUR: i64 = 3600;
        const DAY: i64 = 24 * HOUR;
        for (seconds, wanted) in [
            (-5, "Less than a second"),
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (119, "About a minute"),
            (120, "2 minutes"),
            (HOUR - 1, "59 minutes"),
            (HOUR, "About an hour"),
            (HOUR + 1799, "About an hour"),
            (HOUR + 1800, "2 hours"),
            (47 * HOUR, "47 hours"),
            (2 * DAY, "2 days"),
            (14 * DAY, "2 weeks"),
            (60 * DAY, "2 months"),
            (800 * DAY, "2 years"),
        ] {
            assert_eq!(duration(seconds), wanted, "{seconds}");
        }
    }

    #[test]
    fn the_status_says_since_when() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let ago = |seconds: i64| Timestamp::from_second(1_000_000 - seconds).ok();
        let sample = Sample::of(ContainerSpec::default());
        let mut state = ContainerRow { started_at: ago(300), ..sample.row() };
        assert_eq!(status(&state, now), "Up 5 minutes");
        for (health, wanted) in [
            (HealthStatus::Starting, "Up 5 minutes (health: starting)"),
            (HealthStatus::Healthy, "Up 5 minutes (healthy)"),
            (HealthStatus::Unhealthy, "Up 5 minutes (unhealthy)"),
        ] {
            state.health = Some(health);
            assert_eq!(status(&state, now), wanted);
        }
        state.status = Status::Paused;
        assert_eq!(status(&state, now), "Up 5 minutes (Paused)");
        state = ContainerRow { status: Status::Exited, exit_code: 137, finished_at: ago(2), ..state };
        assert_eq!(status(&state, now), "Exited (137) 2 seconds ago");
        state = ContainerRow { status: Status::Exited, exit_code: 127, started_at: None, ..state };
        assert_eq!(status(&state, now), "Created");
    }
}
