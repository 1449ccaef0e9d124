//! The one door from async code to kernel and disk work.

use crate::{Error, Result};

/// Runs `work` on the blocking pool. A panic in it is a defect that fails this call only.
pub(crate) async fn blocking<T, F>(work: F) -> Result<T>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T> + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::System(format!("an internal task failed: {error}"))),
    }
}
