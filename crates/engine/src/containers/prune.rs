//! `container prune`.

use wharf_model::Filters;

use crate::{Engine, Error, Pruned, Result, Status};

impl Engine {
    /// Removes every container that does not run and passes the filters (`label`, `label!`, `until`).
    ///
    /// # Errors
    /// [`Error::Invalid`] for another filter. A container that cannot be removed is skipped.
    pub async fn prune_containers(&self, filters: Filters) -> Result<Pruned> {
        filters.check_keys(&["label", "label!", "until"])?;
        let until = until(&filters)?;
        let mut pruned = Pruned::default();
        for container in self.inner.containers.all() {
            let view = self.view(&container);
            let resting = matches!(view.state.status, Status::Created | Status::Exited | Status::Dead);
            let excluded =
                filters.contains("label!") && filters.matches_all_labels("label!", &view.spec.labels);
            let chosen = resting
                && filters.matches_all_labels("label", &view.spec.labels)
                && !excluded
                && until.is_none_or(|until| view.created < until);
            if !chosen {
                continue;
            }
            let size = self.sizes(&container).await.map_or(0, |(own, _)| own);
            if self.remove_container(container.id.as_str(), false, true).await.is_ok() {
                pruned.reclaimed += size;
                pruned.removed.push(container.id.to_string());
            }
        }
        self.tell_prune("container", pruned.reclaimed);
        Ok(pruned)
    }
}

/// `until=TIME`: RFC 3339, seconds since 1970, or a duration before now such as `24h`.
pub(crate) fn until(filters: &Filters) -> Result<Option<jiff::Timestamp>> {
    let Some(text) = filters.values("until").next() else { return Ok(None) };
    if filters.values("until").count() > 1 {
        return Err(Error::Invalid("more than one until filter specified".into()));
    }
    let invalid = || Error::Invalid(format!("failed to parse value as time or duration: {text:?}"));
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return Ok(Some(time));
    }
    // A day, or a time without seconds or zone: in the engine's own zone, as Docker has it.
    let local = |time: jiff::civil::DateTime| jiff::tz::TimeZone::system().to_timestamp(time).ok();
    let day = |text: &str| text.parse::<jiff::civil::Date>().ok().map(|day| day.at(0, 0, 0, 0));
    let civil = day(text).or_else(|| text.parse::<jiff::civil::DateTime>().ok());
    if let Some(time) = civil.filter(|_| text.contains('-')).and_then(local) {
        return Ok(Some(time));
    }
    if let Ok(seconds) = text.split('.').next().unwrap_or(text).parse::<i64>() {
        return jiff::Timestamp::from_second(seconds).map(Some).map_err(|_| invalid());
    }
    let span: jiff::SignedDuration = text.parse().map_err(|_| invalid())?;
    Ok(Some(jiff::Timestamp::now() - span))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn until_takes_times_and_durations() {
        let with = |text: &str| {
            let mut filters = Filters::default();
            filters.add("until", text);
            until(&filters)
        };
        assert_eq!(with("1700000000").unwrap().unwrap().as_second(), 1_700_000_000);
        assert!(with("24h").unwrap().unwrap() < jiff::Timestamp::now());
        assert!(with("1h30m").is_ok() && with("2026-01-01T00:00:00Z").is_ok());
        assert!(with("yesterday").is_err());
        assert!(with("2020-01-01").is_ok() && with("2020-01-01T10:00").is_ok());
    }
}
