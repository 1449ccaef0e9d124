//! A pull-through cache of other registries, each under a name of its own: what is asked for below that name and is not
//! here is fetched from there, kept, and served from here from then on, also when the other registry is down.
//!
//! - A manifest by digest never changes: once here, nobody is asked.
//! - A tag is asked for again (HEAD) when the last answer is older than [`Upstream::freshness`]. When the upstream does
//!   not answer, what is here is served, and the upstream is left alone for [`PAUSE`].
//! - Only a blob that a manifest here names is fetched, so its size is known and nobody fills the disk with others.
//! - Several clients that want one missing blob share one download ([`flight`]). A blob is kept when it has its digest.
//! - Nothing is pushed or deleted below such a name.

mod flight;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use wharf_content::spec::Descriptor;
use wharf_model::{Digest, Reference};
use wharf_registry::spec::Tag;
use wharf_registry::{Access, Client, Config, Credential, Target as Wanted};

use crate::error::{Error, Result};
use crate::repository::{Repository, Target};
use flight::Flight;

/// How long an upstream that did not answer is not asked.
const PAUSE: Duration = Duration::from_secs(10);
/// The most tags whose age is remembered. One that is forgotten is asked for again.
const MAX_REMEMBERED: usize = 65_536;

/// Another registry, as it is configured.
#[derive(Debug, Clone)]
pub struct Upstream {
    /// The first components of the names of its repositories here: `docker.io`. Empty: all that no other upstream has.
    pub prefix: String,
    /// Its address, with the first components of its repositories' names there, if they all have some.
    pub url: url::Url,
    /// Who we are there.
    pub credential: Option<Credential>,
    /// How long a tag is believed.
    pub freshness: Duration,
}

/// All upstreams.
pub struct Proxies {
    upstreams: Vec<Upstream>,
    client: Client,
    /// For blobs that are on their way.
    scratch: PathBuf,
    flights: Mutex<HashMap<Digest, Arc<Flight>>>,
    asked: Mutex<HashMap<(String, String), Instant>>,
    down: Mutex<HashMap<String, Instant>>,
}

impl Proxies {
    /// Makes a client for these; connects to nobody. `scratch` is an empty directory.
    ///
    /// # Errors
    /// When an address is none of a registry.
    pub fn new(mut upstreams: Vec<Upstream>, scratch: PathBuf) -> Result<Self, wharf_registry::Error> {
        // The longest prefix is the first that fits.
        upstreams.sort_by_key(|upstream| std::cmp::Reverse(upstream.prefix.len()));
        let plain = upstreams.iter().filter(|upstream| upstream.url.scheme() == "http");
        let insecure = plain.map(|upstream| authority(&upstream.url)).collect();
        let client = Client::new(Config { insecure, retries: 1, ..Config::default() })?;
        let (flights, asked, down) = <_>::default();
        Ok(Self { upstreams, client, scratch, flights, asked, down })
    }

    /// The upstream of a repository's name, with the name there.
    pub(crate) fn of<'a>(&'a self, name: &'a str) -> Option<Cached<'a>> {
        self.upstreams.iter().find_map(|upstream| {
            let rest = match upstream.prefix.as_str() {
                "" => name,
                prefix => name.strip_prefix(prefix)?.strip_prefix('/')?,
            };
            Some(Cached { proxies: self, upstream, name: rest })
        })
    }
}

fn authority(url: &url::Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One repository of an upstream.
pub(crate) struct Cached<'a> {
    proxies: &'a Proxies,
    upstream: &'a Upstream,
    name: &'a str,
}

impl Cached<'_> {
    /// Why nothing is pushed here.
    pub(crate) fn refuse_change(&self) -> Error {
        Error::Unsupported(format!("this repository is a copy of one at {}: change that", self.upstream.url))
    }

    fn remote(&self) -> Result<wharf_registry::Repository, wharf_registry::Error> {
        let path = self.upstream.url.path().trim_matches('/');
        let slash = if path.is_empty() { "" } else { "/" };
        let name = format!("{}/{path}{slash}{}", authority(&self.upstream.url), self.name);
        let reference = Reference::parse_normalized(&name)
            .map_err(|error| wharf_registry::Error::Config(format!("{name}: {error}")))?;
        self.proxies.client.repository(&reference, Access::Pull, self.upstream.credential.clone())
    }

    /// Makes sure that a manifest is here, if it is anywhere, and as fresh as it must be.
    pub(crate) async fn manifest(&self, here: &Repository, target: &Target) -> Result<()> {
        let stored = match here.manifest(target).await {
            Ok(manifest) => Some(manifest.digest),
            Err(Error::ManifestUnknown(_) | Error::NameUnknown(_)) => None,
            Err(error) => return Err(error),
        };
        let fetched = match target {
            Target::Digest(_) if stored.is_some() => return Ok(()),
            Target::Digest(digest) => self.fetch(here, *digest, target).await,
            Target::Tag(tag) if stored.is_some() && self.is_fresh(here, tag) => return Ok(()),
            Target::Tag(_) if stored.is_some() && self.is_down() => return Ok(()),
            Target::Tag(tag) => self.follow(here, tag, stored, target).await,
        };
        match fetched {
            Ok(()) => Ok(()),
            Err(Failure::Here(error)) => Err(error),
            Err(Failure::There(error)) if is_absence(&error) => {
                Err(Error::ManifestUnknown(target.to_string()))
            }
            Err(Failure::There(error)) => {
                tracing::warn!("{} of {} at {}: {error}", target, self.name, self.upstream.url);
                lock(&self.proxies.down).insert(self.upstream.prefix.clone(), Instant::now());
                if stored.is_some() { Ok(()) } else { Err(self.unreachable()) }
            }
        }
    }

    async fn follow(
        &self,
        here: &Repository,
        tag: &Tag,
        stored: Option<Digest>,
        target: &Target,
    ) -> Result<(), Failure> {
        let found = self.remote()?.resolve(&Wanted::Tag(tag.to_string())).await?;
        if stored != Some(found.digest) {
            self.fetch(here, found.digest, target).await?;
        }
        let mut asked = lock(&self.proxies.asked);
        if asked.len() >= MAX_REMEMBERED {
            asked.clear();
        }
        asked.insert((here.name().to_owned(), tag.to_string()), Instant::now());
        Ok(())
    }

    /// Gets a manifest and keeps it; the client has checked its digest.
    async fn fetch(&self, here: &Repository, digest: Digest, target: &Target) -> Result<(), Failure> {
        let document = self.remote()?.manifest(&Wanted::Digest(digest)).await?;
        let kept =
            here.keep_manifest(target, &document.descriptor.media_type, Bytes::from(document.bytes)).await;
        kept.map_err(Failure::Here)
    }

    fn is_fresh(&self, here: &Repository, tag: &Tag) -> bool {
        let asked = lock(&self.proxies.asked);
        let last = asked.get(&(here.name().to_owned(), tag.to_string()));
        last.is_some_and(|last| last.elapsed() < self.upstream.freshness)
    }

    fn is_down(&self) -> bool {
        lock(&self.proxies.down).get(&self.upstream.prefix).is_some_and(|since| since.elapsed() < PAUSE)
    }

    fn unreachable(&self) -> Error {
        Error::Upstream(format!("{} does not answer, and this is not here yet", self.upstream.url))
    }

    /// The answer to a request for a blob that is not here; `None` when it is.
    pub(crate) async fn blob(
        &self,
        here: &Repository,
        digest: &Digest,
        is_head: bool,
    ) -> Result<Option<Response>> {
        match here.size(digest).await {
            Ok(_) => return Ok(None),
            Err(Error::BlobUnknown(_)) => {}
            Err(error) => return Err(error),
        }
        let size = here.size_by_manifest(digest).await?.ok_or(Error::BlobUnknown(*digest))?;
        let body = if is_head {
            Body::empty()
        } else {
            let flight = self.board(here, digest, size)?;
            Body::from_stream(flight.read())
        };
        let response = Response::builder()
            .header("docker-content-digest", digest.to_string())
            .header("content-type", "application/octet-stream")
            .header("content-length", size)
            .body(body);
        response.map(Some).map_err(|_| Error::BlobUnknown(*digest))
    }

    /// The download of a blob that is under way, or a new one.
    fn board(&self, here: &Repository, digest: &Digest, size: u64) -> Result<Arc<Flight>> {
        let remote = self.remote().map_err(|error| Error::Upstream(error.to_string()))?;
        let mut flights = lock(&self.proxies.flights);
        flights.retain(|_, flight| !flight.has_ended());
        if let Some(flight) = flights.get(digest) {
            return Ok(flight.clone());
        }
        let blob = Descriptor::new("application/octet-stream", *digest, size);
        let flight = Flight::start(remote, blob, here.clone(), &self.proxies.scratch)?;
        flights.insert(*digest, flight.clone());
        Ok(flight)
    }
}

/// Where something went wrong.
enum Failure {
    Here(Error),
    There(wharf_registry::Error),
}

impl From<wharf_registry::Error> for Failure {
    fn from(error: wharf_registry::Error) -> Self {
        Self::There(error)
    }
}

/// Whether the upstream said that there is no such thing, or none for us.
fn is_absence(error: &wharf_registry::Error) -> bool {
    use wharf_registry::Error::{Denied, NotFound, Unauthorized};
    matches!(error, NotFound { .. } | Denied { .. } | Unauthorized { .. })
}
