//! A blob on its way to us, across broken connections.

use std::time::Duration;

use bytes::{Buf, Bytes};
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_RANGE, RANGE};
use http::{Method, StatusCode};
use wharf_content::spec::Descriptor;
use wharf_model::Digest;

use crate::error::{Error, Result};
use crate::repository::{Capability, Repository};
use crate::session::{Backoff, Reply, Session};
use crate::spec::{ContentRange, Requested};
use crate::transport::{Body, put};

/// A connection that brought so much was worth it: the count of failures starts again.
const WORTH: u64 = 64 << 10;
/// The end of a body without a length is waited for no longer: everything is there.
const LINGER: Duration = Duration::from_secs(1);

/// A blob on its way. Broken connections are resumed inside; it ends exactly at the blob's size or with an error. The
/// caller hashes.
#[derive(Debug)]
pub struct Download {
    repository: Repository,
    digest: Digest,
    size: u64,
    /// The position of the next byte for the caller.
    at: u64,
    source: Option<Source>,
    failures: Backoff,
    /// Bytes since the last failure.
    brought: u64,
}

/// One connection that brings the blob.
#[derive(Debug)]
struct Source {
    body: Body,
    /// Bytes before the wanted ones, from a server that does not know ranges.
    skip: u64,
    host: String,
}

impl Download {
    pub(crate) async fn open(repository: Repository, blob: &Descriptor, from: u64) -> Result<Self> {
        if from > blob.size {
            return Err(Error::Config(format!(
                "{} has {} bytes and cannot start at {from}",
                blob.digest, blob.size
            )));
        }
        let (mut able, none) = repository.able(Capability::Pull);
        let failures = able.next().ok_or(none)?.backoff();
        drop(able);
        let mut download = Self {
            repository,
            digest: blob.digest,
            size: blob.size,
            at: from,
            source: None,
            failures,
            brought: 0,
        };
        if download.at < download.size || download.size == 0 {
            download.source = Some(download.connect().await?);
        }
        Ok(download)
    }

    /// Up to where the caller has the bytes.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.at
    }

    /// The next bytes; `None` at the end.
    ///
    /// # Errors
    /// When the registry sends other than it promised, or the connection breaks again and again.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>> {
        loop {
            if self.at == self.size {
                return self.end().await.map(|()| None);
            }
            let mut source = match self.source.take() {
                Some(source) => source,
                None => self.connect().await?,
            };
            match source.body.frame().await {
                Ok(Some(mut data)) => {
                    let skip = source.skip.min(data.len() as u64);
                    source.skip -= skip;
                    data.advance(usize::try_from(skip).unwrap_or(data.len()));
                    if data.len() as u64 > self.size - self.at {
                        return Err(self.too_much(&source.host));
                    }
                    self.at += data.len() as u64;
                    self.brought += data.len() as u64;
                    self.source = Some(source);
                    if !data.is_empty() {
                        return Ok(Some(data));
                    }
                }
                Ok(None) => {
                    let reason = format!("unexpected EOF after {} of {} bytes", self.at, self.size);
                    self.lost(Error::Network { doing: format!("{}: {}", source.host, self.digest), reason })
                        .await?;
                }
                Err(error) => self.lost(error).await?,
            }
        }
    }

    /// Pauses before the next connection, unless there were too many.
    async fn lost(&mut self, error: Error) -> Result<()> {
        if self.brought >= WORTH
            && let Some(session) = self.repository.able(Capability::Pull).0.next()
        {
            self.failures = session.backoff();
        }
        self.brought = 0;
        self.failures.pause(error).await
    }

    /// The caller has everything; whoever sends more is wrong about the blob.
    async fn end(&mut self) -> Result<()> {
        if let Some(mut source) = self.source.take()
            && let Ok(Ok(Some(_))) = tokio::time::timeout(LINGER, source.body.frame()).await
        {
            return Err(self.too_much(&source.host));
        }
        Ok(())
    }

    fn too_much(&self, host: &str) -> Error {
        Error::Protocol {
            host: host.to_owned(),
            what: format!("it sends more of {} than the {} bytes there are", self.digest, self.size),
        }
    }

    async fn connect(&self) -> Result<Source> {
        let (able, mut last) = self.repository.able(Capability::Pull);
        for session in able {
            match self.connect_to(session).await {
                Ok(source) => return Ok(source),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn connect_to(&self, session: &Session) -> Result<Source> {
        let mut ask = session.request(Method::GET, &self.repository.blob_path(&self.digest));
        // The digest is of the bytes as they are.
        put(&mut ask.headers, ACCEPT_ENCODING, "identity");
        if self.at > 0 {
            put(&mut ask.headers, RANGE, &Requested::From(self.at).to_string());
        }
        let reply = session.ask(&ask).await?;
        let host = reply.answer.origin.authority();
        let skip = self.check(&reply).map_err(|what| Error::Protocol { host: host.clone(), what })?;
        Ok(Source { body: reply.answer.body, skip, host })
    }

    /// How many bytes come before the wanted ones, or what is wrong with the answer.
    fn check(&self, reply: &Reply) -> Result<u64, String> {
        let answer = &reply.answer;
        if let Some(encoding) =
            answer.header(CONTENT_ENCODING).filter(|encoding| !encoding.eq_ignore_ascii_case("identity"))
        {
            return Err(format!("it sends {} in the encoding {encoding:.40?}", self.digest));
        }
        let length = answer.body.length();
        match answer.status {
            StatusCode::PARTIAL_CONTENT => {
                let range = answer.header(CONTENT_RANGE).and_then(|range| range.parse::<ContentRange>().ok());
                let Some(ContentRange { range: Some(range), total }) = range else {
                    return Err("a part of a blob without a valid Content-Range".to_owned());
                };
                let fits = range.first == self.at
                    && range.last < self.size
                    && total.is_none_or(|total| total == self.size)
                    && length.is_none_or(|length| length == range.len());
                let wanted = format!("{}- of {} bytes", self.at, self.size);
                if fits {
                    Ok(0)
                } else {
                    Err(format!("it was asked for {wanted} and sends {range} of {total:?}"))
                }
            }
            StatusCode::OK => match length {
                Some(length) if length != self.size => {
                    Err(format!("it has {length} bytes for {}, which has {}", self.digest, self.size))
                }
                _ => Ok(self.at),
            },
            other => Err(format!("status {other} for a blob")),
        }
    }
}
