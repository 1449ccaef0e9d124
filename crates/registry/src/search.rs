//! Searching a registry: the protocol of Docker's index (`/v1/search`), and for registries that do not speak it, the names
//! in their catalogue.

use http::Method;
use serde::Deserialize;
use wharf_model::reference::DEFAULT_DOMAIN;

use crate::client::Client;
use crate::credential::Credential;
use crate::error::{Error, Result};
use crate::hosts::{Endpoint, endpoints};
use crate::listing::Pages;

/// The host that searches for Docker Hub.
const DEFAULT_INDEX: &str = "index.docker.io";
/// How large a page of results may be.
const LIMIT: u64 = 4 << 20;
/// What is asked of a catalogue at once.
const PAGE: usize = 1000;

/// A repository that was found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Found {
    /// Its name, without the registry's.
    pub name: String,
    /// What its owner says about it.
    pub description: String,
    /// How many people like it.
    pub star_count: i64,
    /// Whether it is one of Docker's own.
    pub is_official: bool,
    /// Whether it was built by the index.
    pub is_automated: bool,
}

#[derive(Deserialize)]
struct Results {
    #[serde(default)]
    results: Option<Vec<Found>>,
}

#[derive(Deserialize)]
struct Catalogue {
    repositories: Option<Vec<String>>,
}

impl Client {
    /// Looks for `[registry/]words`, at most `limit` results; Docker Hub is asked when no registry is named.
    ///
    /// # Errors
    /// What the registry says, or why it cannot be asked.
    pub async fn search(
        &self,
        term: &str,
        limit: usize,
        credential: Option<&Credential>,
    ) -> Result<Vec<Found>> {
        let (domain, words) = split(term);
        let own = endpoints(self.config(), domain)?.into_iter().rfind(|endpoint| endpoint.own);
        let own = own.ok_or_else(|| Error::Config(format!("no host is configured for {domain} itself")))?;
        let mut index = Endpoint { prefix: "/v1".to_owned(), ..own.clone() };
        if domain == DEFAULT_DOMAIN {
            DEFAULT_INDEX.clone_into(&mut index.peer.host);
        }
        let words =
            if domain == DEFAULT_DOMAIN { words.strip_prefix("library/").unwrap_or(words) } else { words };
        match self.in_index(index, words, limit, credential).await {
            Err(Error::NotFound { .. } | Error::Protocol { .. }) if domain != DEFAULT_DOMAIN => {
                self.in_catalogue(own, words, limit, credential).await
            }
            found => found,
        }
    }

    async fn in_index(
        &self,
        index: Endpoint,
        words: &str,
        limit: usize,
        credential: Option<&Credential>,
    ) -> Result<Vec<Found>> {
        let session = self.session(index, credential, Vec::new(), 0);
        let words: String = url::form_urlencoded::byte_serialize(words.as_bytes()).collect();
        let ask = session.request(Method::GET, &format!("/search?q={words}&n={limit}"));
        let patience = session.core.transport.timeouts.document;
        let bytes = session.ask(&ask).await?.answer.body.document("the results", LIMIT, patience).await?;
        let results: Results = serde_json::from_slice(&bytes).map_err(|error| Error::Protocol {
            host: session.host(),
            what: format!("the results are malformed: {error}"),
        })?;
        let mut found = results.results.unwrap_or_default();
        found.truncate(limit);
        Ok(found)
    }

    async fn in_catalogue(
        &self,
        own: Endpoint,
        words: &str,
        limit: usize,
        credential: Option<&Credential>,
    ) -> Result<Vec<Found>> {
        let session = self.session(own, credential, vec!["registry:catalog:*".to_owned()], 0);
        let mut pages = Pages::new(&session, &format!("/_catalog?n={PAGE}"));
        let mut found = Vec::new();
        while let Some(bytes) = pages.next("the catalogue").await? {
            let page: Catalogue = serde_json::from_slice(&bytes).map_err(|error| Error::Protocol {
                host: session.host(),
                what: format!("the catalogue is malformed: {error}"),
            })?;
            let names = page.repositories.unwrap_or_default().into_iter().filter(|name| name.contains(words));
            found.extend(names.map(|name| Found { name, ..Found::default() }));
            if found.len() >= limit {
                found.truncate(limit);
                break;
            }
        }
        Ok(found)
    }
}

/// The registry that a term names, if it does, and the rest.
fn split(term: &str) -> (&str, &str) {
    match term.split_once('/') {
        Some((DEFAULT_INDEX | DEFAULT_DOMAIN, words)) => (DEFAULT_DOMAIN, words),
        Some((host, words)) if host.contains(['.', ':']) || host == "localhost" => (host, words),
        _ => (DEFAULT_DOMAIN, term),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_term_may_name_its_registry() {
        assert_eq!(split("busybox"), ("docker.io", "busybox"));
        assert_eq!(split("user/app"), ("docker.io", "user/app"));
        assert_eq!(split("docker.io/library/x"), ("docker.io", "library/x"));
        assert_eq!(split("localhost/x"), ("localhost", "x"));
        assert_eq!(split("reg:5000/team/x"), ("reg:5000", "team/x"));
    }
}
