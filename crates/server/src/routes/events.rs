//! What happens, as it happens.

use axum::Router;
use axum::extract::State;
use axum::response::Response;
use axum::routing::get;
use bytes::Bytes;
use wharf_api::models::{EventActor, EventMessage, EventMessageScopeEnum};
use wharf_engine::Engine;
use wharf_model::Event;

use crate::convert::unordered;
use crate::error::{Failure, Result};
use crate::request::Query;
use crate::shape::Shaped;
use crate::{adapt, response, shapes};

pub(super) fn routes() -> Router<Engine> {
    Router::new().route("/events", get(events))
}

async fn events(State(engine): State<Engine>, query: Query) -> Result<Response> {
    let (since, until) = (query.instant("since")?, query.instant("until")?);
    if since.zip(until).is_some_and(|(since, until)| until < since) {
        let raw = |key: &str| query.text(key).unwrap_or_default();
        return Err(Failure::invalid(format!(
            "`since` time ({}) cannot be after `until` time ({})",
            raw("since"),
            raw("until")
        )));
    }
    let stream = engine.events(since, until, query.filters()?);
    let body = response::pieces(stream, |mut stream| async move {
        let event = stream.next().await?;
        Some((line(event), stream))
    });
    Ok(response::stream("application/json", body))
}

fn line(event: Event) -> Bytes {
    let nanos = i64::try_from(event.time.as_nanosecond()).unwrap_or(i64::MAX);
    let mut document = response::value(&EventMessage {
        typ: event.kind.parse().ok(),
        action: Some(event.action),
        actor: Some(EventActor { id: Some(event.id), attributes: Some(unordered(event.attributes)) }),
        scope: Some(EventMessageScopeEnum::LOCAL),
        time: Some(event.time.as_second()),
        time_nano: Some(nanos),
    });
    adapt::event(&mut document);
    response::line(&Shaped::one(&document, shapes::EVENT)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    #[test]
    fn an_event_is_one_line_in_dockers_order() {
        let event = Event {
            kind: "container",
            action: "start".into(),
            id: "abc".into(),
            attributes: [("image".to_owned(), "busybox".to_owned())].into(),
            time: Timestamp::new(1, 5).unwrap(),
        };
        assert_eq!(
            String::from_utf8(line(event).to_vec()).unwrap(),
            "{\"status\":\"start\",\"id\":\"abc\",\"from\":\"busybox\",\"Type\":\"container\",\"Action\":\"start\",\
             \"Actor\":{\"ID\":\"abc\",\"Attributes\":{\"image\":\"busybox\"}},\"scope\":\"local\",\"time\":1,\
             \"timeNano\":1000000005}\n"
        );
    }
}
