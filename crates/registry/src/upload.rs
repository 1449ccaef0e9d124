//! A blob on its way to a registry, across broken connections.
//!
//! Small blobs go in one request. Others are streamed: what a broken connection left behind is asked for, and the rest is
//! sent; a registry that does not know any more makes the upload start again. Nothing is held but the pieces in flight.

use std::io::Read;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_RANGE, CONTENT_TYPE, HeaderMap, RANGE};
use http::{Method, StatusCode};
use tokio::sync::mpsc;
use tokio::time::timeout;
use wharf_content::spec::Descriptor;

use crate::error::{Error, Result};
use crate::repository::{BlobSource, Pushed, reported_digest};
use crate::session::{Ask, Backoff, Place, Reply, Session};
use crate::spec::{ByteRange, CHUNK_MIN_LENGTH, RepositoryName};
use crate::transport::{Call, Payload, put};

/// Blobs up to this size go in one request, from memory.
const SMALL: u64 = 512 << 10;
/// What is read and sent at once.
const PIECE: usize = 256 << 10;
/// Pieces that are read ahead of the connection.
const AHEAD: usize = 2;
/// A connection that took so much was worth it: the count of failures starts again.
const WORTH: u64 = 1 << 20;
const OCTETS: &str = "application/octet-stream";

/// One blob to one repository.
pub(crate) struct Upload<'a> {
    session: Session,
    name: &'a RepositoryName,
    blob: &'a Descriptor,
    source: &'a dyn BlobSource,
    on: &'a mut (dyn FnMut(u64) + Send),
    /// Chunks are at least so large, because the registry said so.
    least: u64,
}

/// How a request that carried bytes ended.
enum Sent {
    /// The registry took everything; where to go on.
    Taken(Place),
    /// The connection or the upload is gone.
    Lost(Error),
}

impl<'a> Upload<'a> {
    pub(crate) fn new(
        session: &Session,
        name: &'a RepositoryName,
        blob: &'a Descriptor,
        source: &'a dyn BlobSource,
        on: &'a mut (dyn FnMut(u64) + Send),
    ) -> Self {
        Self { session: session.clone(), name, blob, source, on, least: 0 }
    }

    pub(crate) async fn run(mut self, mount_from: Option<&str>) -> Result<Pushed> {
        let mut place = None;
        if let Some(from) = mount_from.and_then(|from| from.parse().ok()) {
            match self.mount(&from).await {
                Ok(None) => return Ok(Pushed::Mounted),
                Ok(Some(begun)) => place = Some(begun),
                // Not every registry mounts, and not everybody may read the other repository.
                Err(error) => tracing::debug!(%error, %from, digest = %self.blob.digest, "not mounted"),
            }
        }
        if self.blob.size <= SMALL {
            self.send_whole(place).await?;
        } else {
            self.stream(place).await?;
        }
        Ok(Pushed::Uploaded)
    }

    /// Asks the registry to take the blob from another of its repositories. The place is where to upload it, when the
    /// registry would rather have that.
    async fn mount(&mut self, from: &RepositoryName) -> Result<Option<Place>> {
        let mut session = self.session.clone();
        session.scopes.push(format!("repository:{from}:pull"));
        let from = url::form_urlencoded::byte_serialize(from.as_str().as_bytes()).collect::<String>();
        let path = format!("/{}/blobs/uploads/?mount={}&from={from}", self.name, self.blob.digest);
        let reply = session.ask(&session.request(Method::POST, &path)).await?;
        if reply.status() == StatusCode::CREATED { Ok(None) } else { reply.location().map(Some) }
    }

    async fn begin(&mut self) -> Result<Place> {
        let ask = self.session.request(Method::POST, &format!("/{}/blobs/uploads/", self.name));
        let reply = self.session.ask(&ask).await?;
        self.least = reply.answer.header(CHUNK_MIN_LENGTH).and_then(|least| least.parse().ok()).unwrap_or(0);
        reply.location()
    }

    /// One request with the whole blob.
    async fn send_whole(&mut self, begun: Option<Place>) -> Result<()> {
        let bytes = self.read_whole().await?;
        let mut backoff = self.session.backoff();
        let mut begun = begun;
        loop {
            let place = match begun.take() {
                Some(place) => place,
                None => self.begin().await?,
            };
            let mut ask = self.closing(place);
            put(&mut ask.headers, CONTENT_TYPE, OCTETS);
            ask.body = bytes.clone();
            let error = match self.session.exchange(&ask).await {
                Ok(reply) if reply.status().is_success() => {
                    (self.on)(self.blob.size);
                    return self.confirm(&reply);
                }
                Ok(reply) => reply.into_error(self.idle()).await,
                Err(error) => error,
            };
            backoff.pause(error).await?;
        }
    }

    async fn read_whole(&mut self) -> Result<Bytes> {
        let wanted = self.blob.size;
        let opened = self.source.open(0);
        let read = tokio::task::spawn_blocking(move || {
            let mut bytes = Vec::new();
            opened?.take(wanted + 1).read_to_end(&mut bytes)?;
            Ok(bytes)
        });
        let bytes =
            read.await.map_err(std::io::Error::other).flatten().map_err(|error| self.unreadable(error))?;
        if bytes.len() as u64 != wanted {
            return Err(self.unreadable(std::io::Error::other(format!("it does not have {wanted} bytes"))));
        }
        Ok(bytes.into())
    }

    /// Streams, resumes and closes.
    async fn stream(&mut self, begun: Option<Place>) -> Result<()> {
        let mut backoff = self.session.backoff();
        let mut begun = begun;
        let mut at = 0;
        loop {
            let place = match begun.take() {
                Some(place) => place,
                None => {
                    at = 0;
                    self.begin().await?
                }
            };
            if at == self.blob.size {
                return self.close(place).await;
            }
            let chunk = self.session.core.config.upload_chunk;
            let end =
                if chunk == 0 { self.blob.size } else { self.blob.size.min(at + chunk.max(self.least)) };
            match self.send_piece(&place, at, end).await? {
                Sent::Taken(next) => {
                    (at, begun) = (end, Some(next));
                    if chunk != 0 {
                        backoff = self.session.backoff();
                    }
                }
                Sent::Lost(error) => {
                    let resumed = self.recover(place, error, &mut backoff).await?;
                    if let Some((position, next)) = resumed {
                        if position >= at + WORTH {
                            backoff = self.session.backoff();
                        }
                        (at, begun) = (position, Some(next));
                    }
                }
            }
        }
    }

    /// After a break: how far the registry got and where to go on, or nothing when it forgot.
    async fn recover(
        &mut self,
        place: Place,
        error: Error,
        backoff: &mut Backoff,
    ) -> Result<Option<(u64, Place)>> {
        // A lost upload is begun again as a broken connection is; other refusals stay.
        let forgotten =
            matches!(&error, Error::NotFound { .. } | Error::Rejected { status: 400 | 409 | 416, .. });
        let error = match error {
            lost if forgotten => Error::Unavailable { status: 404, message: lost.to_string(), after: None },
            other => other,
        };
        if !error.is_passing() {
            self.cancel(place).await;
            return Err(error);
        }
        backoff.pause(error).await?;
        let reply = match self.session.exchange(&self.session.request_to(Method::GET, place.clone())).await {
            Ok(reply) if reply.status().is_success() => reply,
            _ => return Ok(None),
        };
        let position = match reply.answer.header(RANGE).map(str::parse::<ByteRange>) {
            // Empty and one byte are written alike; nobody sends single bytes.
            None | Some(Ok(ByteRange { first: 0, last: 0 })) => 0,
            Some(Ok(range)) if range.first == 0 && range.last < self.blob.size => range.len(),
            Some(_) => return Ok(None),
        };
        let next = reply.location().unwrap_or(place);
        Ok(Some((position, next)))
    }

    /// Sends the bytes from `at` to `end` in one request.
    async fn send_piece(&mut self, place: &Place, at: u64, end: u64) -> Result<Sent> {
        let authorization = self.session.authorization(place).await?;
        let mut headers = HeaderMap::new();
        put(&mut headers, CONTENT_TYPE, OCTETS);
        if at > 0 || end < self.blob.size {
            put(&mut headers, CONTENT_RANGE, &ByteRange { first: at, last: end - 1 }.to_string());
        }
        let (to, from) = mpsc::channel(AHEAD);
        let body = Payload::Pipe { from, left: end - at };
        let call = Call { method: Method::PATCH, target: String::new(), headers, body, wait: None };
        let (session, blob, idle, commit) =
            (self.session.clone(), self.blob, self.idle(), self.session.core.transport.timeouts.commit);
        let sending = session.send(place, call, authorization.as_ref());
        tokio::pin!(sending);
        let (sent, whole) = tokio::select! {
            biased;
            early = &mut sending => (early, false),
            pumped = self.pump(to, at, end) => {
                if let Err(error) = pumped {
                    return if error.is_passing() { Ok(Sent::Lost(error)) } else { Err(error) };
                }
                let late = || Error::Deadline {
                    doing: format!("{}: upload of {}", session.host(), blob.digest),
                    reason: format!("no answer within {commit:?}"),
                };
                (timeout(commit, &mut sending).await.unwrap_or_else(|_| Err(late())), true)
            }
        };
        let answer = match sent {
            Ok(answer) => answer,
            Err(error) if error.is_passing() => return Ok(Sent::Lost(error)),
            Err(error) => return Err(error),
        };
        if answer.status == StatusCode::UNAUTHORIZED && matches!(place, Place::Home(_)) {
            // The token ended during the upload; the next try has another.
            session.refused(&answer, authorization.as_ref()).await;
            let reason = "the token ended during the upload".to_owned();
            return Ok(Sent::Lost(Error::Network { doing: session.host(), reason }));
        }
        let reply = Session::reply(answer, place.clone());
        if !reply.status().is_success() {
            return Ok(Sent::Lost(reply.into_error(idle).await));
        }
        // An answer that overtook the last piece, which its connection has already taken, counts as late as any.
        let received = reply.answer.header(RANGE).and_then(|range| range.parse::<ByteRange>().ok());
        if !whole && received.is_none_or(|range| range.last + 1 != end) {
            let reason = "the registry answered before it had everything".to_owned();
            return Ok(Sent::Lost(Error::Network { doing: session.host(), reason }));
        }
        reply.location().map(Sent::Taken)
    }

    /// Reads the source into the request. A request that ended makes this end, too; it has the reason.
    async fn pump(&mut self, to: mpsc::Sender<Bytes>, mut at: u64, end: u64) -> Result<()> {
        let mut reader = self.source.open(at).map_err(|error| self.unreadable(error))?;
        while at < end {
            let wanted = PIECE.min(usize::try_from(end - at).unwrap_or(PIECE));
            let read = tokio::task::spawn_blocking(move || {
                let mut piece = Vec::with_capacity(wanted);
                (&mut reader).take(wanted as u64).read_to_end(&mut piece)?;
                Ok((reader, piece))
            });
            let read = read.await.map_err(std::io::Error::other).flatten();
            let (back, piece) = read.map_err(|error| self.unreadable(error))?;
            if piece.len() != wanted {
                return Err(self.unreadable(std::io::Error::from(std::io::ErrorKind::UnexpectedEof)));
            }
            reader = back;
            match timeout(self.idle(), to.send(piece.into())).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Ok(()),
                Err(_) => {
                    return Err(Error::Deadline {
                        doing: format!("{}: upload of {}", self.session.host(), self.blob.digest),
                        reason: format!("no progress within {:?}", self.idle()),
                    });
                }
            }
            at += wanted as u64;
            (self.on)(at);
        }
        Ok(())
    }

    /// Ends the upload. A broken answer does not tell whether the registry has the blob, so it is asked.
    async fn close(&mut self, place: Place) -> Result<()> {
        let ask = self.closing(place.clone());
        let error = match self.session.ask(&ask).await {
            Ok(reply) => return self.confirm(&reply),
            Err(error) => error,
        };
        if error.is_passing() || matches!(error, Error::NotFound { .. }) {
            let path = format!("/{}/blobs/{}", self.name, self.blob.digest);
            if self.session.ask(&self.session.request(Method::HEAD, &path)).await.is_ok() {
                return Ok(());
            }
        }
        self.cancel(place).await;
        Err(error)
    }

    /// The request that ends an upload.
    fn closing(&self, place: Place) -> Ask {
        let with_digest = |target: String| {
            let separator = if target.contains('?') { '&' } else { '?' };
            format!("{target}{separator}digest={}", self.blob.digest)
        };
        let place = match place {
            Place::Home(target) => Place::Home(with_digest(target)),
            Place::Foreign { peer, target } => Place::Foreign { peer, target: with_digest(target) },
        };
        let mut ask = self.session.request_to(Method::PUT, place);
        ask.wait = self.session.core.transport.timeouts.commit;
        ask
    }

    fn confirm(&self, reply: &Reply) -> Result<()> {
        match reported_digest(reply)? {
            Some(found) if found != self.blob.digest => Err(Error::Mismatch {
                what: "the uploaded blob".to_owned(),
                expected: self.blob.digest,
                found,
            }),
            _ => Ok(()),
        }
    }

    /// Lets the registry forget what it has; if it cannot be told, it forgets by itself.
    async fn cancel(&mut self, place: Place) {
        let _ = self.session.exchange(&self.session.request_to(Method::DELETE, place)).await;
    }

    fn idle(&self) -> Duration {
        self.session.core.transport.timeouts.idle
    }

    fn unreadable(&self, source: std::io::Error) -> Error {
        Error::Source { what: self.blob.digest, source }
    }
}
