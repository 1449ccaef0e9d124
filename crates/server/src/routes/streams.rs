//! What comes out of containers as it happens: logs, attach, wait, stats.

use std::time::Duration;

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::response::Response;
use axum::routing::{get, post};
use bytes::Bytes;
use futures_util::stream;
use hyper::upgrade::OnUpgrade;
use wharf_api::models::{ContainerWaitExitError, ContainerWaitResponse};
use wharf_engine::{AttachOptions, Engine, LogOptions, StatsView, WaitCondition, WaitResult};

use crate::convert::stats;
use crate::error::{Failure, Result};
use crate::request::{Query, Version};
use crate::shape::Shaped;
use crate::{hijack, response, shapes};

pub(super) fn routes() -> Router<Engine> {
    Router::new()
        .route("/containers/{name}/logs", get(logs))
        .route("/containers/{name}/attach", post(attach))
        .route("/containers/{name}/wait", post(wait))
        .route("/containers/{name}/stats", get(stats))
}

async fn logs(
    State(engine): State<Engine>,
    Version(version): Version,
    Path(name): Path<String>,
    query: Query,
) -> Result<Response> {
    let options = LogOptions {
        stdout: query.flag("stdout"),
        stderr: query.flag("stderr"),
        follow: query.flag("follow"),
        timestamps: query.flag("timestamps"),
        details: query.flag("details"),
        since: query.time("since")?,
        until: query.time("until")?,
        // `all` and, as in Docker, everything else that is no number.
        tail: query.text("tail").and_then(|tail| tail.parse().ok()),
    };
    if !options.stdout && !options.stderr {
        return Err(Failure::invalid("Bad parameters: you must choose at least one stream"));
    }
    let (tty, output) = engine.logs(&name, options).await?;
    Ok(hijack::output(hijack::media_type(tty, version), tty, output))
}

async fn attach(
    State(engine): State<Engine>,
    Version(version): Version,
    Path(name): Path<String>,
    query: Query,
    mut request: Request,
) -> Result<Response> {
    let options = AttachOptions {
        stdin: query.flag("stdin"),
        stdout: query.flag("stdout"),
        stderr: query.flag("stderr"),
        stream: query.flag("stream"),
        logs: query.flag("logs"),
        detach_keys: query.text("detachKeys").map(str::to_owned),
    };
    let session = engine.attach(&name, options).await?;
    let upgrade = request.extensions_mut().remove::<OnUpgrade>();
    Ok(hijack::answer(request.headers(), upgrade, version, session))
}

async fn wait(State(engine): State<Engine>, Path(name): Path<String>, query: Query) -> Result<Response> {
    let condition = match query.text("condition") {
        None | Some("not-running") => WaitCondition::NotRunning,
        Some("next-exit") => WaitCondition::NextExit,
        Some("removed") => WaitCondition::Removed,
        Some(other) => return Err(Failure::invalid(format!("invalid condition: {other:?}"))),
    };
    // The headers say that the wait is registered: a client starts the container only then.
    let end = engine.wait_container(&name, condition).await?;
    let body = stream::once(async move { Ok(wait_result(end.await)) });
    Ok(response::stream("application/json", body))
}

fn wait_result(result: wharf_engine::Result<WaitResult>) -> Bytes {
    let document = match result {
        Ok(result) => ContainerWaitResponse { status_code: result.code.into(), error: None },
        Err(error) => ContainerWaitResponse {
            status_code: -1,
            error: Some(ContainerWaitExitError { message: Some(error.to_string()) }),
        },
    };
    response::line(&document).unwrap_or_default()
}

/// Time between two samples.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);

async fn stats(State(engine): State<Engine>, Path(name): Path<String>, query: Query) -> Result<Response> {
    let stream = query.flag_or("stream", true);
    if stream && query.flag("one-shot") {
        return Err(Failure::invalid("cannot have stream=true and one-shot=true"));
    }
    let first = engine.stats(&name).await?;
    if stream {
        return Ok(stats_stream(engine, name, first));
    }
    if query.flag("one-shot") || first.cgroup.is_none() {
        return Ok(response::shaped(&stats::to_model(&first, None), shapes::STATS));
    }
    tokio::time::sleep(SAMPLE_INTERVAL).await;
    let second = engine.stats(&name).await?;
    Ok(response::shaped(&stats::to_model(&second, Some(&first)), shapes::STATS))
}

/// A sample a second until the container is removed or the client leaves.
fn stats_stream(engine: Engine, name: String, first: StatsView) -> Response {
    let encode = |view: &StatsView, previous: Option<&StatsView>| {
        let sample = response::value(&stats::to_model(view, previous));
        response::line(&Shaped::one(&sample, shapes::STATS)).ok()
    };
    let body = response::pieces((engine, name, first, false), move |(engine, name, last, sent)| async move {
        if !sent {
            return Some((encode(&last, None)?, (engine, name, last, true)));
        }
        tokio::time::sleep(SAMPLE_INTERVAL).await;
        let view = engine.stats(&name).await.ok()?;
        Some((encode(&view, Some(&last))?, (engine, name, view, true)))
    });
    response::stream("application/json", body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_wait_is_one_document() {
        let text = |result| String::from_utf8(wait_result(result).to_vec()).unwrap();
        assert_eq!(text(Ok(WaitResult { code: 3 })), "{\"StatusCode\":3}\n");
        assert_eq!(
            text(Err(wharf_engine::Error::System("lost".into()))),
            "{\"StatusCode\":-1,\"Error\":{\"Message\":\"lost\"}}\n"
        );
    }
}
