//! Progress of one transfer, for any number of followers, in bounded memory.
//!
//! What happened is a milestone and every follower sees it, late ones too. How far something has come is only ever the
//! latest figure: a slow follower misses some and delays nobody.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// Figures are shown this often at most.
const INTERVAL: Duration = Duration::from_millis(100);

/// Something that happened to a transfer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// The transfer begins: what the name is now known to mean.
    Started,
    /// News of one layer, by its short digest.
    Layer(String, LayerState),
}

/// Where a layer is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LayerState {
    /// A pull found it in the image.
    Planned,
    /// It need not be fetched.
    Exists,
    /// So many bytes of so many have come.
    Downloading(u64, u64),
    /// All bytes are here; their digest is looked at.
    Verifying,
    /// The digest is right.
    Downloaded,
    /// So many compressed bytes of so many are unpacked.
    Extracting(u64, u64),
    /// It is part of the image.
    Pulled,
    /// A push looks at it.
    Preparing,
    /// So many bytes of so many are at the registry.
    Pushing(u64, u64),
    /// The registry has it now.
    Pushed,
    /// The registry had it.
    ExistsThere,
    /// The registry took it from another of its repositories.
    MountedFrom(String),
}

impl LayerState {
    /// Figures may be left out, events may not.
    fn is_figure(&self) -> bool {
        matches!(self, Self::Downloading(..) | Self::Extracting(..) | Self::Pushing(..))
    }
}

/// Where a transfer writes what happens.
#[derive(Debug)]
pub(super) struct Board {
    state: Mutex<State>,
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    version: u64,
    milestones: Vec<Progress>,
    figures: BTreeMap<String, (u64, LayerState)>,
    ended: bool,
}

impl Board {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), changed: watch::Sender::new(0) })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        state.version += 1;
        change(&mut state);
        self.changed.send_replace(state.version);
    }

    pub(super) fn started(&self) {
        self.change(|state| state.milestones.push(Progress::Started));
    }

    pub(super) fn layer(&self, id: &str, news: LayerState) {
        self.change(|state| {
            if news.is_figure() {
                let version = state.version;
                state.figures.insert(id.to_owned(), (version, news));
            } else {
                // What was measured before is overtaken.
                state.figures.remove(id);
                state.milestones.push(Progress::Layer(id.to_owned(), news));
            }
        });
    }

    /// Nothing more will come.
    pub(super) fn end(&self) {
        self.change(|state| state.ended = true);
    }

    pub(super) fn follow(self: &Arc<Self>) -> Follower {
        Follower {
            changed: self.changed.subscribe(),
            board: Arc::clone(self),
            milestones: 0,
            version: 0,
            shown: None,
        }
    }
}

/// Reads a board from its beginning.
#[derive(Debug)]
pub(super) struct Follower {
    board: Arc<Board>,
    changed: watch::Receiver<u64>,
    /// How many milestones were given.
    milestones: usize,
    /// Up to which version figures were given.
    version: u64,
    /// When figures were last given.
    shown: Option<Instant>,
}

impl Follower {
    /// What is new since the last call, at least one item; `None` once the transfer has ended and all was given.
    pub(super) async fn next(&mut self) -> Option<Vec<Progress>> {
        loop {
            self.changed.borrow_and_update();
            let wait = self.shown.map_or(Duration::ZERO, |shown| INTERVAL.saturating_sub(shown.elapsed()));
            let (news, ended) = self.take(wait.is_zero());
            if !news.is_empty() {
                return Some(news);
            }
            if ended {
                return None;
            }
            if self.has_figures() {
                // Figures are there and it is too early: a milestone may still come first.
                let _milestone_or_time = tokio::time::timeout(wait, self.changed.changed()).await;
            } else if self.changed.changed().await.is_err() {
                return None;
            }
        }
    }

    fn has_figures(&self) -> bool {
        self.board.lock().figures.values().any(|(version, _)| *version > self.version)
    }

    fn take(&mut self, figures_too: bool) -> (Vec<Progress>, bool) {
        let state = self.board.lock();
        let mut news = state.milestones[self.milestones..].to_vec();
        self.milestones = state.milestones.len();
        if figures_too || state.ended {
            let before = news.len();
            let fresh = state.figures.iter().filter(|(_, (version, _))| *version > self.version);
            news.extend(fresh.map(|(id, (_, figure))| Progress::Layer(id.clone(), figure.clone())));
            self.version = state.version;
            if news.len() > before {
                self.shown = Some(Instant::now());
            }
        }
        (news, state.ended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(state: LayerState) -> Progress {
        Progress::Layer("a".to_owned(), state)
    }

    #[tokio::test]
    async fn every_follower_sees_every_milestone_and_the_latest_figure() {
        let board = Board::new();
        let mut early = board.follow();
        board.started();
        board.layer("a", LayerState::Planned);
        assert_eq!(early.next().await, Some(vec![Progress::Started, layer(LayerState::Planned)]));
        for done in 1..100 {
            board.layer("a", LayerState::Downloading(done, 100));
        }
        assert_eq!(early.next().await, Some(vec![layer(LayerState::Downloading(99, 100))]));
        board.layer("a", LayerState::Pulled);
        board.end();
        assert_eq!(early.next().await, Some(vec![layer(LayerState::Pulled)]));
        assert_eq!(early.next().await, None);
        let mut late = board.follow();
        let all = vec![Progress::Started, layer(LayerState::Planned), layer(LayerState::Pulled)];
        assert_eq!(late.next().await, Some(all));
        assert_eq!(late.next().await, None);
    }

    #[tokio::test]
    async fn milestones_are_not_delayed_by_figures() {
        let board = Board::new();
        let mut follower = board.follow();
        board.layer("a", LayerState::Downloading(1, 9));
        assert_eq!(follower.next().await, Some(vec![layer(LayerState::Downloading(1, 9))]));
        board.layer("a", LayerState::Downloading(2, 9));
        board.layer("b", LayerState::Planned);
        let planned = Progress::Layer("b".to_owned(), LayerState::Planned);
        let mut news = follower.next().await.unwrap();
        assert_eq!(news[0], planned, "the figure may come with it, never before it");
        while news.last() != Some(&layer(LayerState::Downloading(2, 9))) {
            news.extend(follower.next().await.unwrap());
        }
        assert_eq!(news.len(), 2);
    }
}
