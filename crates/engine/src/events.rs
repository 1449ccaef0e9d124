//! The event bus: a bounded past for `--since`, and any number of listeners.
//!
//! Locking: a short mutex around the past; publishing never waits. A listener that falls more than [`LIVE`] events
//! behind is told so by the end of its stream rather than by silently missing events.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use tokio::sync::broadcast;
use wharf_model::network::NetworkMode;
use wharf_model::spec::MountKind;
use wharf_model::{Event, Filters};

use crate::Engine;
use crate::containers::Record;

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

impl Engine {
    /// Events that pass the filters: first the kept past, if `since` or `until` asks for it, then what happens, up to
    /// `until`. As with Docker, a filter of another name passes everything.
    #[must_use]
    pub fn events(
        &self,
        since: Option<Timestamp>,
        until: Option<Timestamp>,
        filters: Filters,
    ) -> EventStream {
        let (mut past, live) = self.inner.events.listen();
        let replay = since.is_some() || until.is_some();
        past.retain(|event| {
            replay
                && since.is_none_or(|since| event.time >= since)
                && until.is_none_or(|until| event.time <= until)
        });
        EventStream { past: past.into_iter(), live, until, filters }
    }

    /// Tells the world about something that is no container.
    pub(crate) fn tell<const N: usize>(
        &self,
        kind: &'static str,
        action: &str,
        id: String,
        attributes: [(&str, String); N],
    ) {
        self.inner.events.publish(Event {
            kind,
            action: action.to_owned(),
            id,
            attributes: attributes.map(|(key, value)| (key.to_owned(), value)).into(),
            time: Timestamp::now(),
        });
    }

    /// Tells that the engine has read its configuration anew; `settings` are what it goes by now.
    pub fn tell_reload(&self, settings: BTreeMap<String, String>) {
        let mut attributes = settings;
        let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
        attributes.insert("name".to_owned(), name);
        self.inner.events.publish(Event {
            kind: "daemon",
            action: "reload".to_owned(),
            id: self.inner.id.clone(),
            attributes,
            time: Timestamp::now(),
        });
    }

    /// Tells of a prune of things of which there are none: networks of one's own, a build cache.
    pub fn tell_empty_prune(&self, kind: &'static str) {
        self.tell_prune(kind, 0);
    }

    /// Tells that a prune is done.
    pub(crate) fn tell_prune(&self, kind: &'static str, reclaimed: u64) {
        self.tell(kind, "prune", String::new(), [("reclaimed", reclaimed.to_string())]);
    }

    /// Tells that a container's volumes are in use now, or no longer.
    pub(crate) fn tell_mounts(&self, record: &Record, mounted: bool) {
        for mount in record.mounts.iter().filter(|mount| mount.kind == MountKind::Volume) {
            let (id, container) = (mount.volume.clone(), record.id.to_string());
            let driver = if mount.driver.is_empty() { "local".to_owned() } else { mount.driver.clone() };
            if mounted {
                let attributes = [
                    ("container", container),
                    ("destination", mount.target.clone()),
                    ("driver", driver),
                    ("propagation", mount.propagation.clone()),
                    ("read/write", (!mount.read_only).to_string()),
                ];
                self.tell("volume", "mount", id, attributes);
            } else {
                self.tell("volume", "unmount", id, [("container", container), ("driver", driver)]);
            }
        }
    }

    /// Tells that a container is on its network now, or no longer.
    pub(crate) fn tell_network(&self, record: &Record, connected: bool) {
        let (name, kind) = match &record.spec.host.network_mode {
            NetworkMode::Bridge { .. } => ("bridge", "bridge"),
            NetworkMode::Host => ("host", "host"),
            NetworkMode::None => ("none", "null"),
            NetworkMode::Container(_) | NetworkMode::Named(_) => return,
        };
        let attributes =
            [("container", record.id.to_string()), ("name", name.to_owned()), ("type", kind.to_owned())];
        let action = if connected { "connect" } else { "disconnect" };
        self.tell("network", action, self.network_id(name), attributes);
    }
}
