//! `system check`: the image store's, with the registries that this engine can reach.

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use wharf_image::Report;
use wharf_registry::Access;

use crate::blocking::blocking;
use crate::{Engine, Result};

/// News that may wait for a client that reads slowly; figures beyond are dropped.
const NEWS: usize = 8;

/// What happens in a check.
#[derive(Debug)]
pub enum CheckNews {
    /// Bytes that were compared, and how many there are.
    Checked(u64, u64),
    /// What is damaged is being repaired.
    Repairing,
    /// It is over.
    Ended(Result<Report>),
}

/// A check under way; dropped, it stops.
#[derive(Debug)]
pub struct StoreCheck {
    news: mpsc::Receiver<CheckNews>,
}

impl StoreCheck {
    /// What happened next; `None` after [`CheckNews::Ended`].
    pub async fn next(&mut self) -> Option<CheckNews> {
        self.news.recv().await
    }
}

impl Engine {
    /// Begins to compare everything that is stored with its digests, and to repair what is damaged if that is wanted.
    #[must_use]
    pub fn check_store(&self, repair: bool) -> StoreCheck {
        let (sender, news) = mpsc::channel(NEWS);
        let engine = self.clone();
        tokio::spawn(async move {
            let ended = engine.check_and_repair(repair, &sender).await;
            let _the_client_left = sender.send(CheckNews::Ended(ended)).await;
        });
        StoreCheck { news }
    }

    async fn check_and_repair(&self, repair: bool, news: &mpsc::Sender<CheckNews>) -> Result<Report> {
        let (images, told) = (self.inner.images.clone(), news.clone());
        let mut report = blocking(move || {
            let on = |done, total| {
                !matches!(told.try_send(CheckNews::Checked(done, total)), Err(TrySendError::Closed(_)))
            };
            Ok(images.check(&on)?)
        })
        .await?;
        if repair {
            let _the_client_left = news.send(CheckNews::Repairing).await;
            let open = |name: &_| self.repository(name, Access::Pull, None).ok();
            self.inner.images.repair(&mut report, &open).await?;
        }
        Ok(report)
    }
}
