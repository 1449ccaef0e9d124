//! `wait`.

use std::future::Future;

use crate::{Engine, Result, WaitCondition, WaitResult};

impl Engine {
    /// Registers a wait; the inner future ends with the run. Registering before `start` means that no end is missed.
    ///
    /// # Errors
    /// [`crate::Error::NoSuchContainer`].
    #[expect(clippy::unused_async, reason = "one colour for the whole façade")]
    pub async fn wait_container(
        &self,
        name: &str,
        condition: WaitCondition,
    ) -> Result<impl Future<Output = Result<WaitResult>> + Send + use<>> {
        let container = self.find(name)?;
        let mut progress = container.progress.subscribe();
        let exits = progress.borrow_and_update().exits;
        Ok(async move {
            let done = |progress: &super::Progress| match condition {
                WaitCondition::NotRunning => !progress.running,
                WaitCondition::NextExit => progress.exits > exits || progress.removed,
                WaitCondition::Removed => progress.removed,
            };
            let exit = progress.wait_for(done).await.ok().and_then(|progress| progress.exit);
            Ok(WaitResult { code: exit.unwrap_or(0) })
        })
    }
}
