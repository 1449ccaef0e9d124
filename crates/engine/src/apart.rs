//! Work that may hang in the kernel: on a thread of its own, never on one that others wait for.
//!
//! A call on a dead network file system comes back when it wants to. The threads behind [`crate::blocking`] are few and
//! shared, so such work is done here: the caller waits as long as it likes, then leaves the thread to its fate. What a
//! thread that comes back late has to undo is the business of the work itself. The number of threads is limited.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::{Error, Result};

/// Threads at the same time, hanging ones included.
const MOST: usize = 512;

static THREADS: AtomicUsize = AtomicUsize::new(0);

/// One thread counted.
struct Counted;

impl Counted {
    fn take() -> Option<Self> {
        let free = |count: usize| (count < MOST).then_some(count + 1);
        THREADS.fetch_update(Ordering::Relaxed, Ordering::Relaxed, free).ok().map(|_| Self)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        THREADS.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Starts work on a thread of its own; its result comes through the channel.
fn begin<T, F>(work: F) -> Result<oneshot::Receiver<Result<T>>>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T> + Send + 'static,
{
    let counted = Counted::take().ok_or_else(|| {
        Error::Unavailable(format!(
            "{MOST} calls wait for mounts and volume plugins that do not answer: see to those first"
        ))
    })?;
    let (result, receiver) = oneshot::channel();
    let runtime = tokio::runtime::Handle::try_current().ok();
    std::thread::Builder::new().name("apart".into()).spawn(move || {
        let _counted = counted;
        let _runtime = runtime.as_ref().map(tokio::runtime::Handle::enter);
        let _nobody_waits_any_more = result.send(work());
    })?;
    Ok(receiver)
}

/// Runs `work` and waits for it.
pub(crate) async fn apart<T, F>(work: F) -> Result<T>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T> + Send + 'static,
{
    begin(work)?.await.unwrap_or_else(|_| Err(Error::System("an internal task failed".into())))
}

/// Runs `work` and waits for it no longer than `patience`; `what` is for the message.
pub(crate) async fn within<T, F>(patience: Duration, what: &str, work: F) -> Result<T>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T> + Send + 'static,
{
    let receiver = begin(work)?;
    match tokio::time::timeout(patience, receiver).await {
        Ok(answer) => answer.unwrap_or_else(|_| Err(Error::System("an internal task failed".into()))),
        Err(_) => Err(Error::Deadline { what: what.to_owned(), seconds: patience.as_secs() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_hanging_thread_is_left_alone() {
        let (release, hangs) = std::sync::mpsc::channel::<()>();
        let work = move || {
            let _released = hangs.recv();
            Ok(())
        };
        let error = within(Duration::from_millis(20), "mounting x", work).await.unwrap_err();
        assert_eq!(error.to_string(), "mounting x did not finish in 0 seconds");
        assert_eq!(apart(|| Ok(7)).await.unwrap(), 7);
        drop(release);
    }
}
