//! The client of registries.

use std::fmt;
use std::sync::Arc;

use http::Method;
use wharf_model::Reference;
use wharf_model::reference::DEFAULT_DOMAIN;

use crate::auth::Tokens;
use crate::config::Config;
use crate::credential::Credential;
use crate::error::{Error, Result};
use crate::hosts::{Endpoint, endpoints};
use crate::repository::{Access, Repository};
use crate::session::{Core, Session};
use crate::spec::RepositoryName;
use crate::transport::Transport;

/// Mirrors and other stand-ins are not insisted on.
const RETRIES_BEFORE_THE_NEXT: u32 = 1;

/// Speaks to registries. Clones share connections, tokens and what is known of each host. Its calls need a Tokio
/// runtime.
#[derive(Debug, Clone)]
pub struct Client {
    core: Arc<Core>,
}

/// What a login gave.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// To be stored instead of the password, where the token service gave one.
    pub identity_token: Option<String>,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Login(identity token: {})", self.identity_token.is_some())
    }
}

impl Client {
    /// A client with these settings.
    ///
    /// # Errors
    /// [`Error::Config`] when one of them means nothing.
    pub fn new(config: Config) -> Result<Self> {
        for mirror in &config.mirrors {
            endpoints(
                &Config { mirrors: vec![mirror.clone()], hosts_directories: Vec::new(), ..config.clone() },
                DEFAULT_DOMAIN,
            )?;
        }
        let transport = Transport::new(&config)?;
        let tokens = Tokens::new(&config.realms);
        Ok(Self { core: Arc::new(Core { transport, tokens, config }) })
    }

    /// The repository that a name means: its domain and path decide, tag and digest do not matter. Reads the files that
    /// were configured for the host, and connects to nobody.
    ///
    /// # Errors
    /// [`Error::Config`] or [`Error::Fs`] when those files are wrong, or when no registry can have such a name.
    pub fn repository(
        &self,
        name: &Reference,
        access: Access,
        credential: Option<Credential>,
    ) -> Result<Repository> {
        let path: RepositoryName =
            name.path().parse().map_err(|error: crate::spec::NameError| Error::Config(error.to_string()))?;
        let mut found = endpoints(&self.core.config, name.domain())?;
        if access != Access::Pull {
            found.retain(|endpoint| endpoint.push);
        }
        if found.is_empty() {
            return Err(Error::Config(format!("no host of {} is configured for pushing", name.domain())));
        }
        let scope = format!("repository:{path}:{}", access.actions());
        let last = found.len() - 1;
        let sessions = found.into_iter().enumerate().map(|(at, endpoint)| {
            let retries = if at == last { self.core.config.retries } else { RETRIES_BEFORE_THE_NEXT };
            self.session(endpoint, credential.as_ref(), vec![scope.clone()], retries)
        });
        Ok(Repository::new(path, sessions.collect()))
    }

    /// Tries a credential on a registry (`docker.io`, `host:port`, or an address as Docker's configuration has them).
    ///
    /// # Errors
    /// [`Error::Unauthorized`] when the registry does not take it.
    pub async fn login(&self, registry: &str, credential: &Credential) -> Result<Login> {
        let domain = registry_domain(registry);
        let own = endpoints(&self.core.config, domain)?.into_iter().rfind(|endpoint| endpoint.own);
        let own = own.ok_or_else(|| Error::Config(format!("no host is configured for {domain} itself")))?;
        let session = self.session(own, Some(credential), Vec::new(), 0);
        session.ask(&session.request(Method::GET, "/")).await?;
        let identity_token = match credential {
            Credential::Password { .. } => session.identity().await?,
            Credential::IdentityToken(_) | Credential::RegistryToken(_) => None,
        };
        Ok(Login { identity_token })
    }

    pub(crate) fn config(&self) -> &Config {
        &self.core.config
    }

    pub(crate) fn session(
        &self,
        endpoint: Endpoint,
        credential: Option<&Credential>,
        scopes: Vec<String>,
        retries: u32,
    ) -> Session {
        // A credential is the registry's own: mirrors and other hosts never see it.
        let credential = credential.filter(|_| endpoint.own).cloned();
        Session { core: Arc::clone(&self.core), endpoint: Arc::new(endpoint), credential, scopes, retries }
    }
}

/// The registry of `https://index.docker.io/v1/` and of other spellings.
fn registry_domain(registry: &str) -> &str {
    let bare = registry.split_once("://").map_or(registry, |(_, rest)| rest);
    match bare.split('/').next().unwrap_or_default() {
        "" | "index.docker.io" | "registry-1.docker.io" => DEFAULT_DOMAIN,
        other => other,
    }
}
