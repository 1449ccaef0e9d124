//! The client of registries.

use wharf_model::Reference;

use crate::config::Config;
use crate::credential::Credential;
use crate::error::{Error, Result};
use crate::repository::{Access, Repository};

/// Speaks to registries. Clones share connections, tokens and what is known of each host.
#[derive(Debug, Clone)]
pub struct Client;

/// What a login gave.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// To be stored instead of the password, where the token service gave one.
    pub identity_token: Option<String>,
}

impl Client {
    /// A client with these settings.
    pub fn new(_config: Config) -> Result<Self> {
        Ok(Self)
    }

    /// The repository that a name means.
    pub fn repository(
        &self,
        _name: &Reference,
        _access: Access,
        _credential: Option<Credential>,
    ) -> Result<Repository> {
        Ok(Repository)
    }

    /// Tries a credential.
    #[expect(clippy::unused_async, reason = "signatures first")]
    pub async fn login(&self, _registry: &str, _credential: &Credential) -> Result<Login> {
        Err(Error::NotImplemented("the registry client is being written".to_owned()))
    }
}
