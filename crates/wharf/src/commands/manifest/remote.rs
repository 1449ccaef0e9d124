//! Manifests in registries.

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use wharf_content::{
    MAX_DOCUMENT, digest_of,
    spec::{DOCKER_INDEX, DOCKER_MANIFEST, INDEX, MANIFEST},
};
use wharf_model::Reference;
use wharf_registry::{Access, Client, Config, Credential, Document, Error, Repository, Target};

use super::list::{Descriptor, Entry};
use crate::{
    cli::Cli,
    credentials::Auth,
    failure::{Failure, Result},
    syntax::platform::Platform,
};

/// How many manifests a list in a registry may have.
const MEMBERS: usize = 1024;

/// How many of them are fetched at once.
const PARALLEL: usize = 8;

/// The registries.
pub(super) struct Remote {
    client: Client,
}

/// What a name stands for.
pub(super) enum Found {
    Manifest(Box<Entry>),
    Index(Vec<u8>),
}

/// A document that points to others, as far as it matters here.
#[derive(serde::Deserialize)]
struct Pointers {
    config: Option<wharf_content::spec::Descriptor>,
    #[serde(default)]
    manifests: Vec<Descriptor>,
    #[serde(default)]
    layers: Vec<wharf_content::spec::Descriptor>,
}

impl Remote {
    /// Ready to ask. The registries of `insecure` are those whose certificates need not be checked; no other is trusted
    /// without, wherever these may point.
    pub(super) fn new(insecure: &[&Reference]) -> Result<Self> {
        let config = Config {
            insecure: insecure.iter().map(|name| name.domain().to_owned()).collect(),
            user_agent: concat!("Wharf-Client/", env!("CARGO_PKG_VERSION"), " (linux)").to_owned(),
            ..Config::default()
        };
        Ok(Self { client: Client::new(config).map_err(failed)? })
    }

    /// The repository of a name, with the user's credentials for it.
    pub(super) async fn repository(&self, cli: &Cli, name: &Reference, access: Access) -> Result<Repository> {
        let credential = credential(cli.auth(name).await);
        self.client.repository(name, access, credential).map_err(failed)
    }

    /// What a name stands for.
    pub(super) async fn find(&self, cli: &Cli, name: &Reference) -> Result<Found> {
        let repository = self.repository(cli, name, Access::Pull).await?;
        let document = manifest(&repository, name).await?;
        match document.descriptor.media_type.as_str() {
            INDEX | DOCKER_INDEX => Ok(Found::Index(document.bytes)),
            _ => Ok(Found::Manifest(Box::new(entry(&repository, name, document).await?))),
        }
    }

    /// The manifests of a list that [`Remote::find`] found, each fetched and with the platform the list says.
    pub(super) async fn members(&self, cli: &Cli, name: &Reference, index: &[u8]) -> Result<Vec<Entry>> {
        let repository = self.repository(cli, name, Access::Pull).await?;
        let members = pointers(name, index)?.manifests;
        if members.len() > MEMBERS {
            return Err(Failure::message(format!("{name} lists more than {MEMBERS} manifests")));
        }
        let fetch = async |member: Descriptor| {
            let reference = at(name, &member)?;
            let document = manifest(&repository, &reference).await?;
            let mut entry = plain(&reference, document)?;
            entry.descriptor.platform = member.platform;
            Ok(entry)
        };
        stream::iter(members).map(fetch).buffered(PARALLEL).try_collect().await
    }
}

/// The configuration and the layers of a manifest.
pub(super) fn blobs(entry: &Entry) -> Result<Vec<wharf_content::spec::Descriptor>> {
    let pointers = pointers(&entry.reference, &entry.bytes)?;
    Ok(pointers.config.into_iter().chain(pointers.layers).collect())
}

/// A registry's failure in this program's words.
pub(super) fn failed(error: Error) -> Failure {
    Failure::message(error.to_string())
}

fn credential(auth: Auth) -> Option<Credential> {
    let Auth { username, password, identity_token, registry_token, server: _ } = auth;
    match () {
        () if !registry_token.is_empty() => Some(Credential::RegistryToken(registry_token)),
        () if !identity_token.is_empty() => Some(Credential::IdentityToken(identity_token)),
        () if !username.is_empty() => Some(Credential::Password { username, password }),
        () => None,
    }
}

async fn manifest(repository: &Repository, name: &Reference) -> Result<Document> {
    repository.manifest(&Target::from(name)).await.map_err(|error| match error {
        Error::NotFound { .. } => Failure::message(format!("no such manifest: {name}")),
        Error::Mismatch { expected, .. } => {
            Failure::message(format!("manifest verification failed for digest {expected}"))
        }
        error => failed(error),
    })
}

fn pointers(name: &Reference, bytes: &[u8]) -> Result<Pointers> {
    serde_json::from_slice(bytes)
        .map_err(|error| Failure::message(format!("the manifest of {name} is not understood: {error}")))
}

/// The member of a list by its digest.
fn at(name: &Reference, member: &Descriptor) -> Result<Reference> {
    let text = match (name.digest(), name.tag()) {
        (None, Some(tag)) => format!("{}:{tag}@{}", name.name(), member.digest),
        _ => format!("{}@{}", name.name(), member.digest),
    };
    Reference::parse_normalized(&text).map_err(|error| Failure::message(error.to_string()))
}

/// A manifest without its platform.
fn plain(name: &Reference, document: Document) -> Result<Entry> {
    let Document { descriptor, bytes } = document;
    match descriptor.media_type.as_str() {
        MANIFEST | DOCKER_MANIFEST => {}
        other => return Err(Failure::message(format!("unsupported manifest format: {other}"))),
    }
    let descriptor = Descriptor {
        media_type: descriptor.media_type,
        digest: descriptor.digest,
        size: descriptor.size,
        platform: None,
    };
    Ok(Entry { reference: name.clone(), descriptor, bytes })
}

/// A manifest with the platform its configuration says.
async fn entry(repository: &Repository, name: &Reference, document: Document) -> Result<Entry> {
    let mut entry = plain(name, document)?;
    let Some(config) = pointers(name, &entry.bytes)?.config else { return Ok(entry) };
    let bytes = small_blob(repository, &config).await?;
    let platform: Platform = serde_json::from_slice(&bytes).map_err(|error| {
        Failure::message(format!("the configuration of {name} is not understood: {error}"))
    })?;
    entry.descriptor.platform = Some(platform);
    Ok(entry)
}

/// A blob that is a document.
async fn small_blob(repository: &Repository, blob: &wharf_content::spec::Descriptor) -> Result<Vec<u8>> {
    if blob.size > MAX_DOCUMENT {
        return Err(Failure::message(format!("{} is larger than {MAX_DOCUMENT} bytes", blob.digest)));
    }
    let mut download = repository.blob(blob, 0).await.map_err(failed)?;
    let mut bytes = Vec::new();
    while let Some(chunk) = download.chunk().await.map_err(failed)? {
        bytes.extend_from_slice(&chunk);
    }
    if digest_of(&bytes) != blob.digest {
        return Err(Failure::message(format!("image config verification failed for digest {}", blob.digest)));
    }
    Ok(bytes)
}
