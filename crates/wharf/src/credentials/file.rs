//! `config.json` as a keeper of credentials.
//!
//! Everything in it that is not about credentials is the user's and other programs', and stays as it is. A change is
//! made under a lock on the directory, written beside the file, synced and put in place, readable by its owner alone; a
//! file that cannot be understood is never replaced.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Serialize as _;
use serde_json::{Map, Value};

use super::{Auth, Error, host};

/// How large the file may be.
const LIMIT: u64 = 16 << 20;

/// What the file says.
pub(super) struct Settings {
    path: PathBuf,
    document: Map<String, Value>,
}

impl Settings {
    /// Reads the file; one that is not there says nothing.
    pub(super) fn read(path: &Path) -> Result<Self, Error> {
        let unreadable =
            |error: io::Error| Error::Settings { path: path.to_owned(), reason: error.to_string() };
        match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Ok(Self { path: path.to_owned(), document: Map::new() })
            }
            Ok(data) if data.len() > LIMIT => Err(unreadable(io::ErrorKind::FileTooLarge.into())),
            _ => Self::parse(path, &fs::read(path).map_err(unreadable)?),
        }
    }

    /// Understands the content of a file.
    pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<Self, Error> {
        if bytes.trim_ascii().is_empty() {
            return Ok(Self { path: path.to_owned(), document: Map::new() });
        }
        // The reason says where it is wrong, never what stands there.
        let reason = |error: serde_json::Error| match error.classify() {
            serde_json::error::Category::Data => "not a JSON object".to_owned(),
            _ => format!("no JSON at line {} column {}", error.line(), error.column()),
        };
        let document = serde_json::from_slice(bytes)
            .map_err(|error| Error::Settings { path: path.to_owned(), reason: reason(error) })?;
        Ok(Self { path: path.to_owned(), document })
    }

    /// The name of the helper for `server`, if the file names one.
    pub(super) fn helper(&self, server: &str) -> Option<String> {
        let own = self.object("credHelpers").and_then(|helpers| helpers.get(server));
        let name = own.or_else(|| self.document.get("credsStore"))?.as_str()?;
        (!name.is_empty()).then(|| name.to_owned())
    }

    /// Whether the file has neither credentials nor a helper.
    pub(super) fn has_none(&self) -> bool {
        let is_empty = |key| self.object(key).is_none_or(Map::is_empty);
        let store = self.document.get("credsStore").and_then(Value::as_str);
        is_empty("auths") && is_empty("credHelpers") && store.unwrap_or("").is_empty()
    }

    /// The servers the file mentions.
    pub(super) fn servers(&self) -> Vec<String> {
        let keys = |key| self.object(key).into_iter().flat_map(Map::keys);
        let mut servers: Vec<String> = keys("auths").chain(keys("credHelpers")).cloned().collect();
        servers.sort_unstable();
        servers.dedup();
        servers
    }

    /// The credentials for `server` that are in the file itself.
    pub(super) fn auth(&self, server: &str) -> Result<Option<Auth>, Error> {
        let Some(auths) = self.object("auths") else { return Ok(None) };
        // Long ago the key was an URL.
        let entry = auths.get_key_value(server).or_else(|| auths.iter().find(|(key, _)| host(key) == server));
        let Some((key, entry)) = entry else { return Ok(None) };
        let wrong = || Error::Settings {
            path: self.path.clone(),
            reason: format!("the credentials for {key} are not readable; log in again"),
        };
        let text = |name: &str| match entry.get(name) {
            None | Some(Value::Null) => Ok(String::new()),
            Some(Value::String(text)) => Ok(text.clone()),
            Some(_) => Err(wrong()),
        };
        if !entry.is_object() {
            return Err(wrong());
        }
        let (mut username, mut password, encoded) = (text("username")?, text("password")?, text("auth")?);
        if !encoded.is_empty() {
            let pair = STANDARD.decode(encoded).ok().and_then(|bytes| String::from_utf8(bytes).ok());
            let pair = pair.ok_or_else(wrong)?;
            let (name, secret) =
                pair.split_once(':').filter(|(name, _)| !name.is_empty()).ok_or_else(wrong)?;
            (username, password) = (name.to_owned(), secret.trim_matches('\0').to_owned());
        }
        Ok(Some(Auth {
            username,
            password,
            server: server.to_owned(),
            identity_token: text("identitytoken")?,
            registry_token: text("registrytoken")?,
        }))
    }

    /// Names the helper for all servers; says that this is new.
    pub(super) fn set_store(&mut self, name: &str) -> bool {
        self.document.insert("credsStore".into(), name.into()).is_none()
    }

    /// Sets what the file has for `server`; says whether that is new.
    pub(super) fn set_auth(&mut self, server: &str, auth: &Auth) -> bool {
        let mut entry = Map::new();
        if !auth.username.is_empty() || !auth.password.is_empty() {
            let pair = format!("{}:{}", auth.username, auth.password);
            entry.insert("auth".into(), STANDARD.encode(pair).into());
        }
        for (key, token) in [("identitytoken", &auth.identity_token), ("registrytoken", &auth.registry_token)]
        {
            if !token.is_empty() {
                entry.insert(key.into(), token.clone().into());
            }
        }
        let auths = self.document.entry("auths").or_insert_with(|| Map::new().into());
        if !auths.is_object() {
            *auths = Map::new().into();
        }
        let entry = Value::Object(entry);
        match auths.as_object_mut() {
            Some(auths) => auths.insert(server.to_owned(), entry.clone()) != Some(entry),
            None => false,
        }
    }

    /// Removes what the file has for the host `name`; says whether there was something.
    pub(super) fn remove_auths(&mut self, name: &str) -> bool {
        let Some(auths) = self.document.get_mut("auths").and_then(Value::as_object_mut) else { return false };
        let before = auths.len();
        auths.retain(|key, _| host(key) != name);
        auths.len() != before
    }

    /// Sets or removes the name of the context in use; says whether that is new.
    pub(super) fn set_context(&mut self, name: Option<&str>) -> bool {
        const KEY: &str = "currentContext";
        match name {
            Some(name) => {
                self.document.insert(KEY.into(), name.into()).as_ref().and_then(Value::as_str) != Some(name)
            }
            None => self.document.remove(KEY).is_some(),
        }
    }

    /// Changes the file, unless `change` says that there is nothing to change; returns what it says.
    pub(super) fn change(path: &Path, change: impl FnOnce(&mut Self) -> bool) -> Result<bool, Error> {
        // A link to where somebody keeps their settings stays a link.
        let real = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let failed = |source: io::Error| Error::Write { path: real.clone(), source };
        let directory = real.parent().unwrap_or(Path::new("."));
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
        let lock = File::open(directory).map_err(failed)?;
        lock.lock().map_err(failed)?;
        let mut settings = Self::read(&real)?;
        if !change(&mut settings) {
            return Ok(false);
        }
        replace(directory, &real, &settings.bytes().map_err(failed)?).map_err(failed)?;
        // The name is durable once the directory is.
        lock.sync_all().map_err(failed)?;
        Ok(true)
    }

    fn bytes(&self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let tabs = serde_json::ser::PrettyFormatter::with_indent(b"\t");
        self.document.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, tabs))?;
        Ok(bytes)
    }

    fn object(&self, key: &str) -> Option<&Map<String, Value>> {
        self.document.get(key)?.as_object()
    }
}

/// Puts a file with these bytes in place. The directory is locked, so nobody else uses the name beside it.
fn replace(directory: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let part = directory.join(".config.json.part");
    // One that was left behind by a crash may have another's mode or be a link.
    match fs::remove_file(&part) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part)?;
    if let Ok(before) = fs::metadata(path) {
        // Root who logs in for somebody does not take their settings away; one who may not give files away keeps it.
        let _ = std::os::unix::fs::fchown(&file, Some(before.uid()), Some(before.gid()));
    }
    let written = file.write_all(bytes).and_then(|()| file.sync_all()).and_then(|()| fs::rename(&part, path));
    if written.is_err() {
        let _ = fs::remove_file(&part);
    }
    written
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn settings(text: &str) -> Settings {
        Settings::parse(Path::new("config.json"), text.as_bytes()).unwrap()
    }

    fn alice() -> Auth {
        Auth { username: "alice".into(), password: "s3cret".into(), ..Auth::default() }
    }

    fn password(settings: &Settings, server: &str) -> String {
        settings.auth(server).unwrap().map(|auth| auth.password).unwrap_or_default()
    }

    #[test]
    fn what_was_set_is_found_and_removed_under_every_spelling() {
        let mut file = settings(r#"{"auths":{"http://reg:1/v1/":{"auth":"YWxpY2U6b2xk"},"other":{}}}"#);
        assert_eq!(password(&file, "reg:1"), "old");
        assert!(file.set_auth("reg:1", &alice()));
        assert!(!file.set_auth("reg:1", &alice()));
        assert_eq!(password(&file, "reg:1"), "s3cret");
        assert_eq!(password(&file, "reg:2"), "");
        assert!(file.remove_auths("reg:1"));
        assert!(!file.remove_auths("reg:1"));
        assert_eq!(file.auth("reg:1").unwrap(), None);
        assert_eq!(file.servers(), ["other"]);
    }

    #[test]
    fn a_server_never_gets_the_credentials_of_one_with_a_longer_or_shorter_name() {
        let file = settings(
            r#"{"auths":{"https://reg.example/v1/":{"auth":"YWxpY2U6b2xk"},"https://a@evil/reg":{"auth":"YTpi"}}}"#,
        );
        for server in ["reg.example.org", "eg.example", "reg", "a", "", "evil"] {
            assert_eq!(file.auth(server).unwrap(), None, "{server}");
        }
    }

    #[test]
    fn helpers_of_one_server_go_before_the_one_for_all() {
        let file = settings(r#"{"credsStore":"all","credHelpers":{"reg:1":"one","reg:2":""}}"#);
        assert_eq!(file.helper("reg:1").as_deref(), Some("one"));
        assert_eq!(file.helper("reg:2"), None);
        assert_eq!(file.helper("reg:3").as_deref(), Some("all"));
        assert!(!file.has_none());
        assert!(settings(r#"{"psFormat":"x","auths":{}}"#).has_none());
    }

    #[test]
    fn nonsense_is_refused_without_showing_it() {
        for text in [
            r#"{"auths":{"reg":{"auth":"s3cret!"}}}"#,
            r#"{"auths":{"reg":{"auth":"czNjcmV0"}}}"#,
            r#"{"auths":{"reg":["s3cret"]}}"#,
        ] {
            let error = settings(text).auth("reg").unwrap_err().to_string();
            assert!(
                error.contains("credentials for reg are not readable") && !error.contains("s3cret"),
                "{error}"
            );
        }
        let broken = Settings::parse(Path::new("c"), br#"{"auths":{"reg":{"auth":s3cret}}}"#)
            .err()
            .unwrap()
            .to_string();
        assert_eq!(broken, "c: no JSON at line 1 column 25");
        assert_eq!(Settings::parse(Path::new("c"), b"[]").err().unwrap().to_string(), "c: not a JSON object");
    }

    #[test]
    fn a_change_keeps_what_it_does_not_know_and_is_private() {
        let directory = std::env::temp_dir().join(format!("wharf-cli-settings-{}", std::process::id()));
        let path = directory.join("deep/config.json");
        assert!(Settings::change(&path, |file| file.set_auth("reg", &alice())).unwrap());
        assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
        fs::write(&path, r#"{"zzz":[1,2],"auths":{"reg":{}},"HttpHeaders":{"A":"b"}}"#).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let link = directory.join("config.json");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(Settings::change(&link, |file| file.set_auth("reg", &alice())).unwrap());
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(
            text,
            "{\n\t\"HttpHeaders\": {\n\t\t\"A\": \"b\"\n\t},\n\t\"auths\": {\n\t\t\"reg\": {\n\t\t\t\"auth\": \"YWxpY2U6czNjcmV0\"\n\t\t}\n\t},\n\t\"zzz\": [\n\t\t1,\n\t\t2\n\t]\n}"
        );
        fs::write(&path, "{broken").unwrap();
        assert!(Settings::change(&path, |file| file.set_auth("reg", &alice())).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "{broken");
        fs::remove_dir_all(directory).unwrap();
    }
}
