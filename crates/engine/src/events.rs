//! The event bus: a bounded past for `--since`, and any number of listeners.
//!
//! Locking: a short mutex around the past; publishing never waits. A listener that falls more than [`LIVE`] events
//! behind is told so by the end of its stream rather than by silently missing events.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use tokio::sync::broadcast;
use wharf_model::{Event, Filters};

use crate::{Engine, Result};

/// How many past events are kept.
const PAST: usize = 1024;
/// How far a listener may fall behind.
const LIVE: usize = 1024;

pub(crate) struct Bus {
    past: Mutex<VecDeque<Event>>,
    live: broadcast::Sender<Event>,
}

impl Bus {
    pub(crate) fn new() -> Self {
        Self { past: Mutex::new(VecDeque::new()), live: broadcast::channel(LIVE).0 }
    }

    pub(crate) fn publish(&self, event: Event) {
        let mut past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        if past.len() == PAST {
            past.pop_front();
        }
        past.push_back(event.clone());
        // Under the lock, so that a new listener sees each event either in the past or live, never both.
        let _no_listener = self.live.send(event);
    }

    pub(crate) fn listeners(&self) -> usize {
        self.live.receiver_count()
    }

    fn listen(&self) -> (Vec<Event>, broadcast::Receiver<Event>) {
        let past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        (past.iter().cloned().collect(), self.live.subscribe())
    }
}

/// Events as they come; ends at `until`.
pub struct EventStream {
    past: std::vec::IntoIter<Event>,
    live: broadcast::Receiver<Event>,
    until: Option<Timestamp>,
    filters: Filters,
}

impl EventStream {
    /// The next event that passes the filters; `None` at the end.
    pub async fn next(&mut self) -> Option<Event> {
        for event in self.past.by_ref() {
            if event.matches(&self.filters) {
                return Some(event);
            }
        }
        loop {
            let event = match self.remaining() {
                Some(None) => return None,
                Some(Some(remaining)) => {
                    tokio::time::timeout(remaining, self.live.recv()).await.ok()?.ok()?
                }
                None => self.live.recv().await.ok()?,
            };
            if event.matches(&self.filters) {
                return Some(event);
            }
        }
    }

    /// `None` without an end, `Some(None)` after it.
    fn remaining(&self) -> Option<Option<std::time::Duration>> {
        let until = self.until?;
        Some(
            std::time::Duration::try_from(until.duration_since(Timestamp::now()))
                .ok()
                .filter(|d| !d.is_zero()),
        )
    }
}

/// Filter keys of `events`.
const KEYS: &[&str] = &[
    "type",
    "event",
    "container",
    "image",
    "volume",
    "network",
    "daemon",
    "label",
    "scope",
    "plugin",
    "node",
    "service",
    "secret",
    "config",
];

impl Engine {
    /// Events that pass the filters: first the kept past from `since` on, then what happens, up to `until`.
    ///
    /// # Errors
    /// [`crate::Error::Invalid`] for a filter that events do not have.
    #[expect(clippy::unused_async, reason = "one colour for the whole façade")]
    pub async fn events(
        &self,
        since: Option<Timestamp>,
        until: Option<Timestamp>,
        filters: Filters,
    ) -> Result<EventStream> {
        filters.check_keys(KEYS)?;
        let (mut past, live) = self.inner.events.listen();
        past.retain(|event| {
            since.is_some_and(|since| event.time >= since) && until.is_none_or(|until| event.time <= until)
        });
        Ok(EventStream { past: past.into_iter(), live, until, filters })
    }
}
