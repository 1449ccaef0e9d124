//! Credentials of registries: where the user's settings keep them, and in what form the engine is given them.
//!
//! They are in `config.json` itself, or with a helper program that it names, for one registry (`credHelpers`) or for all
//! (`credsStore`). Contract: a server's credentials come from the one place that is configured for it and from no other.
//! A helper that fails, hangs or answers nonsense means an [`Error`], so no credentials, and never those of another
//! server. Neither `Debug` nor an error shows a secret.

mod file;
mod helper;

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE};
use serde::Serialize;
use wharf_model::Reference;

use self::{file::Settings, helper::Helper};

/// Reads settings for `fuzz/`; runs no helper.
#[cfg(feature = "fuzzing")]
pub(crate) fn fuzz(bytes: &[u8], server: &str) {
    let Ok(settings) = Settings::parse(Path::new("config.json"), bytes) else { return };
    for known in settings.servers().iter().map(String::as_str).chain([server]) {
        let _ = settings.helper(known);
        if let Ok(Some(auth)) = settings.auth(host(known)) {
            let _ = auth.header();
        }
        if let Err(error) = settings.auth(known) {
            let _ = error.to_string();
        }
    }
}

/// The name under which the credentials of Docker Hub are kept.
pub(crate) const HUB: &str = "https://index.docker.io/v1/";

/// The domain of references whose registry is [`HUB`].
pub(crate) const HUB_DOMAIN: &str = "docker.io";

/// Credentials in a variable, in the form of `config.json`; they go before those of the file.
const VARIABLE: &str = "DOCKER_AUTH_CONFIG";

/// Why credentials cannot be read, kept or forgotten.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The settings cannot be read as what they should be.
    #[error("{}: {reason}", path.display())]
    Settings { path: PathBuf, reason: String },
    /// The settings cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Write { path: PathBuf, source: std::io::Error },
    /// A helper program did not do what was asked.
    #[error("error {doing} credentials - err: {reason}, out: `{output}`")]
    Helper { doing: &'static str, reason: String, output: String },
}

/// What proves to a registry who somebody is. Empty if there is nothing.
#[derive(Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Auth {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) username: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) password: String,
    #[serde(rename = "serveraddress", skip_serializing_if = "String::is_empty")]
    pub(crate) server: String,
    /// A token that stands for the user, in place of a password.
    #[serde(rename = "identitytoken", skip_serializing_if = "String::is_empty")]
    pub(crate) identity_token: String,
    /// A token that is shown to the registry as it is.
    #[serde(rename = "registrytoken", skip_serializing_if = "String::is_empty")]
    pub(crate) registry_token: String,
}

impl Auth {
    /// Whether it proves nothing.
    pub(crate) fn is_empty(&self) -> bool {
        let Self { username, password, server: _, identity_token, registry_token } = self;
        [username, password, identity_token, registry_token].iter().all(|text| text.is_empty())
    }

    /// The form in which requests to the engine carry it.
    pub(crate) fn header(&self) -> String {
        // A record of strings always has a JSON form.
        URL_SAFE.encode(serde_json::to_vec(self).unwrap_or_default())
    }
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Auth")
            .field("username", &self.username)
            .field("server", &self.server)
            .finish_non_exhaustive()
    }
}

/// The name under which the credentials of a reference's registry are kept.
pub(crate) fn server_of(reference: &Reference) -> &str {
    match reference.domain() {
        HUB_DOMAIN => HUB,
        domain => domain,
    }
}

/// The host, with its port, of an address that may be an URL.
pub(crate) fn host(address: &str) -> &str {
    let bare = ["https://", "http://"].iter().find_map(|scheme| address.strip_prefix(scheme));
    let bare = bare.unwrap_or(address);
    bare.split('/').next().unwrap_or(bare)
}

/// The credentials a user has.
#[derive(Debug)]
pub(crate) struct Credentials {
    path: PathBuf,
}

/// How credentials were kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kept {
    /// By a helper, or they were there already.
    Safely,
    /// A password, now readable in the settings.
    InPlainText,
}

impl Credentials {
    /// Those of the settings in `directory`.
    pub(crate) fn of(directory: &Path) -> Self {
        Self { path: directory.join("config.json") }
    }

    /// The file that has them or names the helper.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The credentials for `server`, empty if there are none.
    pub(crate) async fn get(&self, server: &str) -> Result<Auth, Error> {
        let found = match in_variable(server)? {
            Some(auth) => Some(auth),
            None => {
                let settings = Settings::read(&self.path)?;
                match helper_for(&settings, server)? {
                    Some(helper) => helper.get(server).await?,
                    None => settings.auth(server)?,
                }
            }
        };
        // Whatever a file or a helper says, these are for the server that was asked about.
        let named = |auth| Auth { server: server.to_owned(), ..auth };
        Ok(found.filter(|auth| !auth.is_empty()).map(named).unwrap_or_default())
    }

    /// The same for every server the settings have credentials for, as far as they can be had; why not, otherwise.
    #[expect(dead_code, reason = "for builds, which pull from whatever registry a Dockerfile names")]
    pub(crate) async fn all(&self) -> (BTreeMap<String, Auth>, Vec<Error>) {
        let (mut all, mut errors) = (BTreeMap::new(), Vec::new());
        let settings = match Settings::read(&self.path) {
            Ok(settings) => settings,
            Err(error) => return (all, vec![error]),
        };
        for server in settings.servers() {
            match self.get(&server).await {
                Ok(auth) => drop(all.insert(server, auth)),
                Err(error) => errors.push(error),
            }
        }
        (all, errors)
    }

    /// Keeps credentials for `auth.server`.
    pub(crate) async fn store(&self, auth: &Auth) -> Result<Kept, Error> {
        let settings = Settings::read(&self.path)?;
        if let Some(helper) = helper_for(&settings, &auth.server)? {
            helper.store(auth).await?;
            // The server's name alone stays in the settings, which is how other programs know of it.
            Settings::change(&self.path, |settings| {
                let chosen = settings.has_none() && settings.set_store(helper.name());
                settings.set_auth(&auth.server, &Auth::default()) || chosen
            })?;
            return Ok(Kept::Safely);
        }
        let changed = Settings::change(&self.path, |settings| settings.set_auth(&auth.server, auth))?;
        Ok(if changed && !auth.password.is_empty() { Kept::InPlainText } else { Kept::Safely })
    }

    /// Forgets the credentials of `server`, under each spelling of its address.
    pub(crate) async fn erase(&self, server: &str) -> Result<(), Error> {
        let settings = Settings::read(&self.path)?;
        let name = host(server);
        let mut spellings = vec![server.to_owned()];
        if server != HUB {
            spellings.extend([name.to_owned(), format!("http://{name}"), format!("https://{name}")]);
            spellings.dedup();
        }
        let mut results = Vec::new();
        for spelling in &spellings {
            if let Some(helper) = helper_for(&settings, spelling)? {
                results.push(helper.erase(spelling).await);
            }
        }
        Settings::change(&self.path, |settings| settings.remove_auths(name))?;
        // The first spelling is the one they are kept under; the others are from long ago.
        results.into_iter().next().unwrap_or(Ok(()))
    }
}

/// Sets the context in use in the settings in `directory`, or removes it. They are kept by the same file as credentials.
pub(crate) fn set_current_context(directory: &Path, name: Option<&str>) -> Result<(), Error> {
    Settings::change(&directory.join("config.json"), |settings| settings.set_context(name)).map(drop)
}

/// The credentials for `server` that the environment has.
fn in_variable(server: &str) -> Result<Option<Auth>, Error> {
    let Some(text) = std::env::var(VARIABLE).ok().filter(|text| !text.is_empty()) else { return Ok(None) };
    Settings::parse(Path::new(VARIABLE), text.as_bytes())?.auth(server)
}

/// The helper that has the credentials of `server`, if one does.
fn helper_for(settings: &Settings, server: &str) -> Result<Option<Helper>, Error> {
    match settings.helper(server).or_else(|| settings.has_none().then(helper::usual).flatten()) {
        Some(name) => Helper::named(&name).map(Some),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn auth(password: &str) -> Auth {
        Auth {
            username: "alice".into(),
            password: password.into(),
            server: "reg:1".into(),
            ..Auth::default()
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let shown = format!("{:?}", Auth { identity_token: "t0ken".into(), ..auth("s3cret") });
        assert!(shown.contains("alice") && !shown.contains("s3cret") && !shown.contains("t0ken"), "{shown}");
    }

    #[test]
    fn the_header_is_dockers() {
        assert_eq!(Auth::default().header(), "e30=");
        let decoded = URL_SAFE.decode(auth("s3cret?>").header()).unwrap();
        assert_eq!(
            String::from_utf8(decoded).unwrap(),
            r#"{"username":"alice","password":"s3cret?>","serveraddress":"reg:1"}"#
        );
    }

    #[test]
    fn addresses_name_a_host() {
        for address in ["reg:5000", "http://reg:5000", "https://reg:5000/v2/", "reg:5000/x"] {
            assert_eq!(host(address), "reg:5000", "{address}");
        }
        let server = |name| server_of(&Reference::parse_normalized(name).unwrap()).to_owned();
        assert_eq!(server("alpine"), HUB);
        assert_eq!(server("index.docker.io/library/alpine"), HUB);
        assert_eq!(server("localhost:5000/x"), "localhost:5000");
    }
}
