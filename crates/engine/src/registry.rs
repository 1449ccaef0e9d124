//! Registries: pull, push, login, and what a name means there.

use wharf_image::{Progress, PullRequest, Pulled, PushRequest, Pushed, Transfer};
use wharf_model::{Digest, ErrorKind, Filters, Reference};
use wharf_registry::{Access, Credential, Error as RegistryError, Found, Login, Repository, Target};

use crate::blocking::blocking;
use crate::{Engine, Error, Result};

/// The image that every engine can make by itself.
const BUILT_IN: &str = "hello-world";

/// A pull that was asked for.
pub enum Pull {
    /// It needed no registry: the built-in image.
    Builtin {
        /// The image.
        digest: Digest,
        /// It was here already.
        up_to_date: bool,
    },
    /// It is under way.
    Transfer(PullTransfer),
}

/// A pull under way; dropped, it stops unless somebody else waits for the same.
pub struct PullTransfer {
    engine: Engine,
    reference: Reference,
    transfer: Transfer<Pulled>,
}

impl PullTransfer {
    /// What is pulled.
    #[must_use]
    pub fn reference(&self) -> &Reference {
        &self.reference
    }

    /// What happened since the last call; `None` once the pull has ended.
    pub async fn progress(&mut self) -> Option<Vec<Progress>> {
        self.transfer.progress().await
    }

    /// What it came to.
    ///
    /// # Errors
    /// In Docker's words where it has some.
    pub async fn result(self) -> Result<Pulled> {
        let pulled = self.transfer.result().await.map_err(|error| pull_failure(&self.reference, error))?;
        let name = self.reference.familiar();
        self.engine.emit_image("pull", name.clone(), &self.reference.familiar_name());
        self.engine.keep_to_budget();
        Ok(pulled)
    }
}

/// A push under way; dropped, it stops.
pub struct PushTransfer {
    engine: Engine,
    reference: Reference,
    transfer: Transfer<Pushed>,
}

impl PushTransfer {
    /// What is pushed.
    #[must_use]
    pub fn reference(&self) -> &Reference {
        &self.reference
    }

    /// What happened since the last call; `None` once the push has ended.
    pub async fn progress(&mut self) -> Option<Vec<Progress>> {
        self.transfer.progress().await
    }

    /// What it came to.
    ///
    /// # Errors
    /// In Docker's words where it has some.
    pub async fn result(self) -> Result<Pushed> {
        let pushed = self.transfer.result().await.map_err(push_failure)?;
        let name = self.reference.familiar();
        self.engine.emit_image("push", name.clone(), &self.reference.familiar_name());
        self.engine.keep_to_budget();
        Ok(pushed)
    }
}

/// What a name means at its registry.
#[derive(Debug, Clone)]
pub struct Distribution {
    /// The manifest or index.
    pub descriptor: wharf_content::spec::Descriptor,
    /// What it can run on.
    pub platforms: Vec<wharf_content::spec::Platform>,
}

impl Engine {
    /// Begins to pull an image.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a name no registry can have.
    pub async fn pull_image(
        &self,
        reference: &Reference,
        platform: Option<&str>,
        credential: Option<Credential>,
    ) -> Result<Pull> {
        let wanted = reference.clone().or_latest();
        let is_built_in =
            Reference::parse_normalized(BUILT_IN).is_ok_and(|built_in| built_in.or_latest() == wanted);
        if is_built_in {
            return self.pull_built_in(wanted).await;
        }
        let identity = credential.clone();
        let repository = self.repository(&wanted, Access::Pull, credential)?;
        let platform = platform.filter(|text| !text.is_empty()).map(str::to_owned);
        let request = PullRequest { reference: wanted.clone(), platform, repository, identity };
        let transfer = self.inner.images.pull(request);
        Ok(Pull::Transfer(PullTransfer { engine: self.clone(), reference: wanted, transfer }))
    }

    async fn pull_built_in(&self, wanted: Reference) -> Result<Pull> {
        let engine = self.clone();
        let (digest, up_to_date) = blocking(move || {
            if let Ok(image) = engine.inner.images.resolve(&wanted.familiar()) {
                return Ok((image.id, true));
            }
            let program = engine.inner.config.libexec.join("wharf-hello");
            Ok((engine.inner.images.builtin(&wanted, &program)?, false))
        })
        .await?;
        if !up_to_date {
            self.emit_image("pull", BUILT_IN.to_owned(), BUILT_IN);
        }
        Ok(Pull::Builtin { digest, up_to_date })
    }

    /// The tags a repository has, for a pull of all of them.
    ///
    /// # Errors
    /// In Docker's words where it has some.
    pub async fn remote_tags(
        &self,
        name: &Reference,
        credential: Option<Credential>,
    ) -> Result<Vec<Reference>> {
        let repository = self.repository(name, Access::Pull, credential)?;
        let tags = repository.tags().await.map_err(|source| registry_failure(name, source))?;
        let named = tags.iter().map(|tag| name.with_tag(tag));
        named.map(|tag| tag.map_err(|error| Error::Invalid(error.to_string()))).collect()
    }

    /// The tags of a repository that are here, for a push of all of them.
    ///
    /// # Errors
    /// [`Error::Image`] when the store cannot be read.
    pub async fn local_tags(&self, name: &Reference) -> Result<Vec<Reference>> {
        let (images, name) = (self.inner.images.clone(), name.clone());
        blocking(move || Ok(images.tags_of(&name)?)).await
    }

    /// Begins to push an image.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a name with a digest.
    pub async fn push_image(
        &self,
        reference: &Reference,
        platform: Option<String>,
        credential: Option<Credential>,
    ) -> Result<PushTransfer> {
        if reference.digest().is_some() {
            return Err(Error::Invalid("cannot push a digest reference".to_owned()));
        }
        let reference = reference.clone().or_latest();
        if platform.is_some() {
            self.inspect_image(&reference.familiar(), platform).await?;
        }
        let repository = self.repository(&reference, Access::Push, credential)?;
        let request = PushRequest { reference: reference.clone(), repository };
        let transfer = self.inner.images.push(request);
        Ok(PushTransfer { engine: self.clone(), reference, transfer })
    }

    /// Tries a credential at a registry.
    ///
    /// # Errors
    /// [`Error::Registry`] with what the registry says.
    pub async fn login(&self, registry: &str, credential: &Credential) -> Result<Login> {
        Ok(self.live().registries.login(registry, credential).await?)
    }

    /// Looks for images in a registry, which `term` may name.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a filter that results do not have, [`Error::Registry`] with what the registry says.
    pub async fn search_images(
        &self,
        term: &str,
        limit: usize,
        filters: &Filters,
        credential: Option<Credential>,
    ) -> Result<Vec<Found>> {
        if let Some((host, _)) = term.split_once("://") {
            return Err(Error::Invalid(format!(
                "invalid repository name: repository name ({host}://...) should not have a scheme"
            )));
        }
        filters.check_keys(&["is-automated", "is-official", "stars"])?;
        let wanted = |key: &str| match filters.values(key).next() {
            None => Ok(None),
            Some("true" | "1") => Ok(Some(true)),
            Some("false" | "0") => Ok(Some(false)),
            Some(other) => Err(Error::Invalid(format!("invalid filter '{key}=[{other}]'"))),
        };
        let (automated, official) = (wanted("is-automated")?, wanted("is-official")?);
        let mut stars = 0;
        for text in filters.values("stars") {
            let number: i64 = text.parse().map_err(|_| {
                Error::Invalid(format!(
                    "invalid filter 'stars={text}': strconv.Atoi: parsing {text:?}: invalid syntax"
                ))
            })?;
            stars = number.max(stars);
        }
        let mut found = self.live().registries.search(term, limit, credential.as_ref()).await?;
        found.retain(|image| {
            automated.is_none_or(|wanted| image.is_automated == wanted)
                && official.is_none_or(|wanted| image.is_official == wanted)
                && image.star_count >= stars
        });
        Ok(found)
    }

    /// Asks a registry what a name means there.
    ///
    /// # Errors
    /// [`Error::Registry`] with what the registry says.
    pub async fn distribution(
        &self,
        reference: &Reference,
        credential: Option<Credential>,
    ) -> Result<Distribution> {
        use wharf_content::spec::{self, Index, Manifest, Platform};
        let wanted = reference.clone().or_latest();
        let repository = self.repository(&wanted, Access::Pull, credential)?;
        let document = repository.manifest(&Target::from(&wanted)).await?;
        let media_type = &document.descriptor.media_type;
        let invalid = |error: spec::DocumentError| Error::Invalid(error.to_string());
        let platforms = if let Ok(index) = Index::parse(&document.bytes, media_type) {
            index.manifests.into_iter().filter_map(|manifest| manifest.platform).collect()
        } else {
            let manifest = Manifest::parse(&document.bytes, media_type).map_err(invalid)?;
            let config = repository.document(&manifest.config, spec::MAX_DOCUMENT).await?;
            spec::parse::<Platform>(&config).into_iter().collect()
        };
        Ok(Distribution { descriptor: document.descriptor, platforms })
    }

    pub(crate) fn repository(
        &self,
        name: &Reference,
        access: Access,
        credential: Option<Credential>,
    ) -> Result<Repository> {
        Ok(self.live().registries.repository(name, access, credential)?)
    }
}

fn pull_failure(reference: &Reference, error: wharf_image::Error) -> Error {
    match error {
        wharf_image::Error::Registry { source, .. } => registry_failure(reference, *source),
        wharf_image::Error::Shared(shared) => match &*shared {
            wharf_image::Error::Registry { source, .. } => said(reference, source)
                .unwrap_or_else(|| Error::Image(wharf_image::Error::Shared(std::sync::Arc::clone(&shared)))),
            _ => Error::Image(wharf_image::Error::Shared(shared)),
        },
        error => Error::Image(error),
    }
}

fn registry_failure(reference: &Reference, error: RegistryError) -> Error {
    said(reference, &error).unwrap_or(Error::Registry(error))
}

/// Docker's words for the two refusals that people meet.
fn said(reference: &Reference, error: &RegistryError) -> Option<Error> {
    // A repository that does not exist and one that may not be seen are the same to a stranger.
    let hidden = match error {
        RegistryError::Unauthorized { .. } | RegistryError::Denied { .. } => true,
        RegistryError::NotFound { what } => what.starts_with("name unknown"),
        _ => false,
    };
    match error.kind() {
        _ if hidden => Some(Error::NotFound(format!(
            "pull access denied for {}, repository does not exist or may require 'docker login': {error}",
            reference.familiar_name()
        ))),
        ErrorKind::NotFound => {
            Some(Error::NotFound(format!("manifest for {} not found: {error}", reference.familiar())))
        }
        _ => None,
    }
}

fn push_failure(error: wharf_image::Error) -> Error {
    let message = match &error {
        wharf_image::Error::Shared(shared) => match &**shared {
            wharf_image::Error::Registry { source, .. } => Some(source.to_string()),
            _ => None,
        },
        _ => None,
    };
    // The stream says what the registry said and no more, as Docker's does.
    message.map_or(Error::Image(error), Error::Refused)
}
