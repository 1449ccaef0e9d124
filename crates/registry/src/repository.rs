//! One repository of one registry.

use std::io::{self, Read};
use std::sync::Arc;

use http::Method;
use http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE};
use wharf_content::digest_of;
use wharf_content::spec::{Descriptor, Index, MAX_DOCUMENT};
use wharf_model::{Digest, Reference};

use crate::documents;
pub use crate::download::Download;
use crate::error::{Error, Result};
use crate::session::{Reply, Session};
use crate::spec::{CONTENT_DIGEST, RepositoryName, SUBJECT};
use crate::transport::put;
use crate::upload::Upload;

/// What tokens are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Access {
    /// Read.
    Pull,
    /// Read and write.
    Push,
    /// Read and delete.
    Delete,
}

impl Access {
    pub(crate) fn actions(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Push => "pull,push",
            Self::Delete => "delete,pull",
        }
    }
}

/// Which manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The one with a tag.
    Tag(String),
    /// Exactly this one.
    Digest(Digest),
}

impl Target {
    /// As it stands in a path; a tag that is none must not become a path of its own.
    fn checked(&self) -> Result<String> {
        match self {
            Self::Tag(tag) => {
                let tag: crate::spec::Tag =
                    tag.parse().map_err(|error: crate::spec::NameError| Error::Config(error.to_string()))?;
                Ok(tag.to_string())
            }
            Self::Digest(digest) => Ok(digest.to_string()),
        }
    }
}

impl From<&Reference> for Target {
    /// What a name means: its digest where it has one, else its tag, which is `latest` when none is written.
    fn from(name: &Reference) -> Self {
        match name.digest() {
            Some(digest) => Self::Digest(*digest),
            None => Self::Tag(name.tag().unwrap_or("latest").to_owned()),
        }
    }
}

/// A manifest or an index. The digest has been checked, the bytes are at most 4 MiB, and the media types that header
/// and body state agree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// What it is.
    pub descriptor: Descriptor,
    /// As the registry sent it.
    pub bytes: Vec<u8>,
}

/// How a blob got there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// It was there.
    Existed,
    /// The registry took it from another repository of its own.
    Mounted,
    /// We sent it.
    Uploaded,
}

/// Where the bytes of an upload come from. An upload that broke opens again, perhaps further on.
pub trait BlobSource: Send + Sync {
    /// The bytes from an offset on.
    ///
    /// # Errors
    /// When they cannot be read.
    fn open(&self, from: u64) -> io::Result<Box<dyn Read + Send>>;
}

/// One repository; clones share connections and tokens.
#[derive(Debug, Clone)]
pub struct Repository {
    pub(crate) name: RepositoryName,
    /// In the order in which they are asked. Never empty; the last is the registry itself.
    sessions: Arc<[Session]>,
}

/// Which endpoints can be asked.
#[derive(Clone, Copy)]
pub(crate) enum Capability {
    Pull,
    Resolve,
    Push,
}

impl Repository {
    pub(crate) fn new(name: RepositoryName, sessions: Vec<Session>) -> Self {
        Self { name, sessions: sessions.into() }
    }

    /// The endpoints that can do something, in order; with nobody able, the error says so.
    pub(crate) fn able(&self, capability: Capability) -> (impl Iterator<Item = &Session>, Error) {
        let able = self.sessions.iter().filter(move |session| match capability {
            Capability::Pull => session.endpoint.pull,
            Capability::Resolve => session.endpoint.resolve,
            Capability::Push => session.endpoint.push,
        });
        let host = self.sessions.last().map(Session::host).unwrap_or_default();
        (able, Error::Config(format!("no host of {host} is configured to do this")))
    }

    /// The endpoint that changes are made on.
    pub(crate) fn writer(&self) -> Result<&Session> {
        let (mut able, none) = self.able(Capability::Push);
        able.next().ok_or(none)
    }

    /// The descriptor of a manifest without its bytes, if the registry says enough; the bytes' own otherwise.
    ///
    /// # Errors
    /// [`Error::NotFound`], and whatever keeps a registry from being asked.
    pub async fn resolve(&self, target: &Target) -> Result<Descriptor> {
        let capability = match target {
            Target::Tag(_) => Capability::Resolve,
            Target::Digest(_) => Capability::Pull,
        };
        let (able, mut last) = self.able(capability);
        for session in able {
            match self.resolve_at(session, target).await {
                Ok(descriptor) => return Ok(descriptor),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn resolve_at(&self, session: &Session, target: &Target) -> Result<Descriptor> {
        let mut ask = session.request(Method::HEAD, &self.manifest_path(target)?);
        put(&mut ask.headers, ACCEPT, documents::ACCEPTED);
        match session.ask(&ask).await {
            Ok(reply) => {
                if let Some(descriptor) = described(&reply, target)? {
                    return Ok(descriptor);
                }
            }
            Err(error) if error.is_passing() => return Err(error),
            // A HEAD has no words; the GET has, or it works where the HEAD does not.
            Err(_) => {}
        }
        Ok(self.manifest_at(session, target).await?.descriptor)
    }

    /// A manifest or an index.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Mismatch`] when the bytes are not those of the digest; [`Error::Protocol`] when
    /// they could be read as two things; [`Error::Limit`] when there are too many of them.
    pub async fn manifest(&self, target: &Target) -> Result<Document> {
        let capability = match target {
            Target::Tag(_) => Capability::Resolve,
            Target::Digest(_) => Capability::Pull,
        };
        let (able, mut last) = self.able(capability);
        for session in able {
            match self.manifest_at(session, target).await {
                Ok(document) => return Ok(document),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    pub(crate) async fn manifest_at(&self, session: &Session, target: &Target) -> Result<Document> {
        let mut ask = session.request(Method::GET, &self.manifest_path(target)?);
        put(&mut ask.headers, ACCEPT, documents::ACCEPTED);
        let mut backoff = session.backoff();
        // The body, too, may break and be asked for again.
        loop {
            let error = match self.read_manifest(session, &ask, target).await {
                Ok(document) => return Ok(document),
                Err(error) => error,
            };
            backoff.pause(error).await?;
        }
    }

    async fn read_manifest(
        &self,
        session: &Session,
        ask: &crate::session::Ask,
        target: &Target,
    ) -> Result<Document> {
        let patience = session.core.transport.timeouts.document;
        let reply = session.exchange(ask).await?;
        if !reply.status().is_success() {
            return Err(reply.into_error(patience).await);
        }
        let what = format!("the manifest of {}", self.name);
        let host = reply.answer.origin.authority();
        let announced = reply.answer.header(CONTENT_TYPE).map(str::to_owned);
        let reported = reported_digest(&reply)?;
        let bytes = reply.answer.body.document(&what, MAX_DOCUMENT, patience).await?;

        let found = digest_of(&bytes);
        let wanted = match target {
            Target::Digest(digest) => Some(*digest),
            Target::Tag(_) => None,
        };
        for expected in wanted.into_iter().chain(reported) {
            if expected != found {
                return Err(Error::Mismatch { what, expected, found });
            }
        }
        let media_type = documents::media_type(&bytes, announced.as_deref(), &host, &what)?;
        Ok(Document { descriptor: Descriptor::new(&media_type, found, bytes.len() as u64), bytes })
    }

    /// The bytes of a blob from an offset on. The connection is made before this returns.
    ///
    /// # Errors
    /// [`Error::NotFound`], and whatever keeps a registry from being asked.
    pub async fn blob(&self, blob: &Descriptor, from: u64) -> Result<Download> {
        Download::open(self.clone(), blob, from).await
    }

    /// Whether the repository has a blob.
    ///
    /// # Errors
    /// Whatever keeps a registry from being asked.
    pub async fn has_blob(&self, digest: &Digest) -> Result<bool> {
        let (able, mut last) = self.able(Capability::Pull);
        for session in able {
            match session.ask(&session.request(Method::HEAD, &self.blob_path(digest))).await {
                Ok(_) => return Ok(true),
                Err(error) => last = error,
            }
        }
        if matches!(last, Error::NotFound { .. }) { Ok(false) } else { Err(last) }
    }

    /// Sends a blob unless it is there, or can be mounted from the repository `mount_from` of the same registry. `on`
    /// learns up to which position bytes were sent; that goes back when an upload has to start again.
    ///
    /// # Errors
    /// [`Error::Source`] when the bytes cannot be read, and whatever the registry refuses.
    pub async fn push_blob(
        &self,
        blob: &Descriptor,
        source: &dyn BlobSource,
        mount_from: Option<&str>,
        on: &mut (dyn FnMut(u64) + Send),
    ) -> Result<Pushed> {
        let session = self.writer()?;
        match session.ask(&session.request(Method::HEAD, &self.blob_path(&blob.digest))).await {
            Ok(_) => return Ok(Pushed::Existed),
            Err(Error::NotFound { .. } | Error::NotImplemented(_)) => {}
            Err(error) => return Err(error),
        }
        Upload::new(session, &self.name, blob, source, on).run(mount_from).await
    }

    /// Stores a manifest. On a registry that keeps no referrers, one with a subject is also entered into the list that
    /// stands for them.
    ///
    /// # Errors
    /// [`Error::Mismatch`] when the target or the registry has another digest for these bytes.
    pub async fn put_manifest(&self, target: &Target, media_type: &str, bytes: &[u8]) -> Result<()> {
        let session = self.writer()?;
        let found = digest_of(bytes);
        let mismatch =
            |expected| Error::Mismatch { what: format!("the manifest of {}", self.name), expected, found };
        if let Target::Digest(expected) = target
            && *expected != found
        {
            return Err(mismatch(*expected));
        }
        let reply = self.put_at(session, target, media_type, bytes).await?;
        if let Some(reported) = reported_digest(&reply)?
            && reported != found
        {
            return Err(mismatch(reported));
        }
        if reply.answer.headers.contains_key(SUBJECT) {
            return Ok(());
        }
        match documents::subject(bytes, media_type) {
            Some((subject, referrer)) => self.list_referrer(session, &subject, referrer).await,
            None => Ok(()),
        }
    }

    async fn put_at(
        &self,
        session: &Session,
        target: &Target,
        media_type: &str,
        bytes: &[u8],
    ) -> Result<Reply> {
        let mut ask = session.request(Method::PUT, &self.manifest_path(target)?);
        put(&mut ask.headers, CONTENT_TYPE, media_type);
        ask.body = bytes::Bytes::copy_from_slice(bytes);
        ask.wait = session.core.transport.timeouts.commit;
        session.ask(&ask).await
    }

    /// Enters a manifest into the list of its subject's referrers, which is kept as an index under a tag.
    async fn list_referrer(&self, session: &Session, subject: &Digest, referrer: Descriptor) -> Result<()> {
        let target = Target::Tag(crate::spec::referrers_tag(subject));
        let mut index = match self.manifest_at(session, &target).await {
            Ok(document) => documents::index(&document, &session.host())?,
            Err(Error::NotFound { .. }) => Index::default(),
            Err(error) => return Err(error),
        };
        if index.manifests.iter().any(|known| known.digest == referrer.digest) {
            return Ok(());
        }
        index.manifests.push(referrer);
        let bytes = wharf_content::spec::to_json(&index);
        self.put_at(session, &target, wharf_content::spec::INDEX, &bytes).await?;
        Ok(())
    }

    /// Deletes a manifest, or a tag on registries that can.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::NotImplemented`] when the registry does not delete.
    pub async fn delete_manifest(&self, target: &Target) -> Result<()> {
        let session = self.writer()?;
        session.ask(&session.request(Method::DELETE, &self.manifest_path(target)?)).await?;
        Ok(())
    }

    fn manifest_path(&self, target: &Target) -> Result<String> {
        Ok(format!("/{}/manifests/{}", self.name, target.checked()?))
    }

    pub(crate) fn blob_path(&self, digest: &Digest) -> String {
        format!("/{}/blobs/{digest}", self.name)
    }
}

/// The descriptor that the headers of a HEAD give, if they give all of it.
fn described(reply: &Reply, target: &Target) -> Result<Option<Descriptor>> {
    let Some(found) = reported_digest(reply)? else { return Ok(None) };
    if let Target::Digest(expected) = target
        && *expected != found
    {
        return Err(Error::Mismatch { what: "the manifest".to_owned(), expected: *expected, found });
    }
    let media_type = reply.answer.header(CONTENT_TYPE).and_then(documents::known);
    let size = reply.answer.header(CONTENT_LENGTH).and_then(|size| size.parse::<u64>().ok());
    match (media_type, size) {
        (Some(_), Some(size)) if size > MAX_DOCUMENT => {
            Err(Error::Limit { what: "the manifest".to_owned(), limit: MAX_DOCUMENT })
        }
        (Some(media_type), Some(size)) if size > 0 => Ok(Some(Descriptor::new(media_type, found, size))),
        _ => Ok(None),
    }
}

/// The digest that the registry says its answer has. One of another algorithm says nothing to us.
pub(crate) fn reported_digest(reply: &Reply) -> Result<Option<Digest>> {
    let Some(text) = reply.answer.header(CONTENT_DIGEST) else { return Ok(None) };
    match text.parse() {
        Ok(digest) => Ok(Some(digest)),
        Err(wharf_model::digest::DigestError::Algorithm(_)) => Ok(None),
        Err(error) => Err(Error::Protocol { host: reply.answer.origin.authority(), what: error.to_string() }),
    }
}
