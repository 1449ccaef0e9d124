//! Request bodies that nobody reads to their end.
//!
//! An answer may be known before a body has arrived: no such route, a damaged archive. If the connection were closed
//! then, the client would fail in the middle of sending and never see the answer. So what a handler leaves unread is
//! read and thrown away, for a while.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame, SizeHint};

/// How long a client may go on sending what is not wanted.
const PATIENCE: Duration = Duration::from_secs(20);

/// A body that is read to its end even when it is dropped before.
pub(crate) fn drained(body: Body) -> Body {
    if body.is_end_stream() { body } else { Body::new(Drained(Some(body))) }
}

/// `None` once the end was reached.
struct Drained(Option<Body>);

impl HttpBody for Drained {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let Some(body) = &mut self.0 else { return Poll::Ready(None) };
        let frame = Pin::new(body).poll_frame(cx);
        if !matches!(frame, Poll::Pending | Poll::Ready(Some(Ok(_)))) {
            self.0 = None;
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or_else(|| SizeHint::with_exact(0), HttpBody::size_hint)
    }
}

impl Drop for Drained {
    fn drop(&mut self) {
        let Some(mut body) = self.0.take().filter(|body| !body.is_end_stream()) else { return };
        // Without a runtime the process is ending, and every connection with it.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(tokio::time::timeout(PATIENCE, async move {
            while let Some(Ok(_unwanted)) = body.frame().await {}
        }));
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Arc;

    use futures_util::{StreamExt, stream};
    use tokio::sync::Notify;

    use super::*;

    /// Three pieces, and a sign when the last was taken.
    fn body(ended: &Arc<Notify>) -> Body {
        let ended = ended.clone();
        let pieces = stream::iter(["a", "b", "c"]).map(Ok::<_, Infallible>);
        let sign = stream::once(async move {
            ended.notify_one();
            Ok("")
        });
        Body::from_stream(pieces.chain(sign))
    }

    #[tokio::test]
    async fn what_is_left_is_read() {
        let ended = Arc::new(Notify::new());
        let mut body = drained(body(&ended));
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "a");
        drop(body);
        ended.notified().await;
    }

    #[tokio::test]
    async fn a_body_that_is_read_is_itself() {
        let ended = Arc::new(Notify::new());
        let bytes = axum::body::to_bytes(drained(body(&ended)), 10).await.unwrap();
        assert_eq!(bytes, "abc");
        assert!(drained(Body::empty()).is_end_stream());
    }
}
