//! Docker's volume plugin protocol, version 1.2: JSON over HTTP on a unix socket.
//!
//! Limits: every call has a deadline, every answer at most [`ANSWER`] bytes. Only what cannot have reached the plugin
//! (nobody accepts) is tried again, until the deadline. A plugin that stayed silent is not asked again for a while by
//! those who look through all plugins, so that it delays `volume ls` once and not every time.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::StatusCode;
use jiff::Timestamp;
use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer};
use serde_json::{Value, json};
use tokio::net::UnixStream;

use crate::apart::apart;
use crate::plugins::{PluginQuestion, ask_plugin, find_plugin, plugin_names};
use crate::{Error, Result};

/// The largest answer.
const ANSWER: usize = 4 << 20;
/// How long one plugin may take where all are looked through.
const LOOK: Duration = Duration::from_secs(2);
/// How long a silent plugin is passed over.
const SILENCE: Duration = Duration::from_secs(10);
/// First pause before another attempt to connect; doubled each time.
const PAUSE: Duration = Duration::from_millis(100);
const MEDIA_TYPE: &str = "application/vnd.docker.plugins.v1.2+json";

/// A volume as its plugin tells of it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Told {
    #[serde(deserialize_with = "or_default")]
    pub(super) name: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) mountpoint: String,
    #[serde(deserialize_with = "or_default")]
    created_at: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) status: BTreeMap<String, Value>,
}

impl Told {
    pub(super) fn created(&self) -> Option<Timestamp> {
        self.created_at.parse().ok()
    }
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct Answer {
    #[serde(deserialize_with = "or_default")]
    err: String,
    #[serde(deserialize_with = "or_default")]
    mountpoint: String,
    volume: Option<Told>,
    #[serde(deserialize_with = "or_default")]
    volumes: Vec<Option<Told>>,
    #[serde(deserialize_with = "or_default")]
    capabilities: Capabilities,
    #[serde(deserialize_with = "or_default")]
    implements: Vec<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct Capabilities {
    #[serde(deserialize_with = "or_default")]
    scope: String,
}

/// `null` is what Go writes for nothing.
fn or_default<'de, D: Deserializer<'de>, T: DeserializeOwned + Default>(
    deserializer: D,
) -> std::result::Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Why a call failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// No plugin of that name.
    Missing,
    /// It did not answer in time.
    Silent(String),
    /// It answered with an error; its words.
    Refused(String),
    /// Anything else.
    Broken(String),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Missing => f.write_str("plugin not found"),
            Self::Silent(text) | Self::Refused(text) | Self::Broken(text) => f.write_str(text),
        }
    }
}

type Answered<T> = std::result::Result<T, Failure>;

/// A plugin that has introduced itself.
#[derive(Clone, Debug)]
struct Known {
    socket: PathBuf,
    scope: String,
}

/// Plugins that did not answer, each with when it last did not, and whether it is being asked again.
type Silent = Arc<Mutex<HashMap<String, (Instant, bool)>>>;

/// The volume plugins of this machine.
pub(crate) struct Plugins {
    directories: Vec<PathBuf>,
    patience: Duration,
    known: Mutex<HashMap<String, Known>>,
    silent: Silent,
}

impl Plugins {
    pub(crate) fn new(directories: Vec<PathBuf>, patience: Duration) -> Self {
        Self { directories, patience, known: Mutex::default(), silent: Silent::default() }
    }

    /// Names of the plugins that have introduced themselves.
    pub(super) fn known(&self) -> Vec<String> {
        let mut names: Vec<String> = self.lock().keys().cloned().collect();
        names.sort();
        names
    }

    /// Names of all plugins that could be asked.
    pub(super) async fn names(&self) -> Vec<String> {
        let directories = self.directories.clone();
        apart(move || Ok(plugin_names(&directories))).await.unwrap_or_default()
    }

    /// Makes sure that there is such a driver, in Docker's words.
    pub(super) async fn find(&self, name: &str) -> Result<()> {
        match self.introduce(name, self.patience).await {
            Ok(_) => Ok(()),
            Err(Failure::Missing) => Err(Error::NotFound(format!(
                "error looking up volume plugin {name}: plugin \"{name}\" not found"
            ))),
            Err(failure) => Err(Error::System(format!("error looking up volume plugin {name}: {failure}"))),
        }
    }

    pub(super) async fn create(
        &self,
        name: &str,
        volume: &str,
        options: &BTreeMap<String, String>,
    ) -> Answered<()> {
        let options = if options.is_empty() { Value::Null } else { json!(options) };
        self.call(name, "Create", json!({"Name": volume, "Opts": options}), self.patience).await.map(drop)
    }

    pub(super) async fn remove(&self, name: &str, volume: &str) -> Answered<()> {
        self.call(name, "Remove", json!({"Name": volume}), self.patience).await.map(drop)
    }

    /// Mounts for the holder `id`; answers the place.
    pub(super) async fn mount(&self, name: &str, volume: &str, id: &str) -> Answered<String> {
        let answer = self.call(name, "Mount", json!({"Name": volume, "ID": id}), self.patience).await?;
        if !answer.mountpoint.starts_with('/') || answer.mountpoint.contains('\0') {
            return Err(Failure::Broken(format!(
                "the plugin {name} mounted volume {volume} at {:?}, which is no absolute path",
                answer.mountpoint
            )));
        }
        Ok(answer.mountpoint)
    }

    pub(super) async fn unmount(&self, name: &str, volume: &str, id: &str) -> Answered<()> {
        self.call(name, "Unmount", json!({"Name": volume, "ID": id}), self.patience).await.map(drop)
    }

    pub(super) async fn get(&self, name: &str, volume: &str) -> Answered<Told> {
        self.get_within(name, volume, self.patience).await
    }

    async fn get_within(&self, name: &str, volume: &str, patience: Duration) -> Answered<Told> {
        let answer = self.call(name, "Get", json!({"Name": volume}), patience).await?;
        let mut told = answer.volume.ok_or_else(|| Failure::Refused("no such volume".into()))?;
        if told.mountpoint.is_empty()
            && let Ok(answer) = self.call(name, "Path", json!({"Name": volume}), patience).await
        {
            told.mountpoint = answer.mountpoint;
        }
        Ok(told)
    }

    /// What a plugin has, for a listing: asked briefly, and not at all while it is known to be silent.
    pub(super) async fn look<T>(
        &self,
        name: &str,
        ask: impl AsyncFnOnce(Duration) -> Answered<T>,
    ) -> Answered<T> {
        if let Some(since) = self.silent_since(name) {
            let age = since.elapsed().as_secs();
            return Err(Failure::Silent(format!("the plugin {name} did not answer {age} seconds ago")));
        }
        let patience = LOOK.min(self.patience);
        let asked = tokio::time::timeout(patience, ask(patience)).await;
        let result = asked.unwrap_or_else(|_| {
            Err(Failure::Silent(format!(
                "the plugin {name} did not answer in {} seconds",
                patience.as_secs()
            )))
        });
        note(&self.silent, name, matches!(result, Err(Failure::Silent(_))));
        result
    }

    /// When a plugin last did not answer. Somebody is sent to ask it again from time to time, so that those who look do
    /// not have to wait for it; after a long time without any looks they do.
    fn silent_since(&self, name: &str) -> Option<Instant> {
        let mut silent = lock(&self.silent);
        let (since, asking) = silent.get_mut(name)?;
        if since.elapsed() > SILENCE * 3 {
            return None;
        }
        if since.elapsed() > SILENCE && !*asking {
            *asking = true;
            let (directories, notes) = (self.directories.clone(), self.silent.clone());
            let (name, patience) = (name.to_owned(), LOOK.min(self.patience));
            tokio::spawn(async move {
                let wanted = name.clone();
                let found = apart(move || Ok(find_plugin(&directories, &wanted))).await;
                let Ok(Ok(Some(socket))) = found else { return note(&notes, &name, false) };
                let question = Some(json!({}));
                let answer = exchange(&name, &socket, "/VolumeDriver.Capabilities", question, patience).await;
                note(&notes, &name, matches!(answer, Err(Failure::Silent(_))));
            });
        }
        Some(*since)
    }

    pub(super) async fn list(&self, name: &str) -> Answered<Vec<Told>> {
        self.look(name, async |patience| {
            let answer = self.call(name, "List", json!({}), patience).await?;
            Ok(answer.volumes.into_iter().flatten().collect())
        })
        .await
    }

    pub(super) async fn look_for(&self, name: &str, volume: &str) -> Answered<Told> {
        self.look(name, async |patience| self.get_within(name, volume, patience).await).await
    }

    /// `global` or `local`, as the plugin has said.
    pub(super) fn scope(&self, name: &str) -> String {
        self.lock().get(name).map_or_else(|| "local".to_owned(), |known| known.scope.clone())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The plugin's socket; the first time, it is asked who it is.
    async fn introduce(&self, name: &str, patience: Duration) -> Answered<PathBuf> {
        let (directories, wanted) = (self.directories.clone(), name.to_owned());
        let found = apart(move || Ok(find_plugin(&directories, &wanted))).await;
        let socket = match found {
            Ok(Ok(Some(socket))) => socket,
            Ok(Ok(None)) => return Err(Failure::Missing),
            Ok(Err(reason)) => return Err(Failure::Broken(reason)),
            Err(error) => return Err(Failure::Broken(error.to_string())),
        };
        if self.lock().get(name).is_some_and(|known| known.socket == socket) {
            return Ok(socket);
        }
        let answer = exchange(name, &socket, "/Plugin.Activate", None, patience).await?;
        if !answer.implements.iter().any(|what| what == "VolumeDriver") {
            return Err(Failure::Missing);
        }
        // Older plugins do not know the question.
        let asked = exchange(name, &socket, "/VolumeDriver.Capabilities", Some(json!({})), patience).await;
        let scope = asked.map(|answer| answer.capabilities.scope.to_lowercase()).unwrap_or_default();
        let scope = if scope == "global" { scope } else { "local".to_owned() };
        self.lock().insert(name.to_owned(), Known { socket: socket.clone(), scope });
        Ok(socket)
    }

    async fn call(&self, name: &str, method: &str, body: Value, patience: Duration) -> Answered<Answer> {
        let work = async {
            let socket = self.introduce(name, patience).await?;
            exchange(name, &socket, &format!("/VolumeDriver.{method}"), Some(body), patience).await
        };
        tokio::time::timeout(patience, work).await.unwrap_or_else(|_| {
            let seconds = patience.as_secs();
            Err(Failure::Silent(format!("the plugin {name} did not answer in {seconds} seconds")))
        })
    }
}

fn lock(silent: &Silent) -> MutexGuard<'_, HashMap<String, (Instant, bool)>> {
    silent.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes down whether a plugin has answered.
fn note(silent: &Silent, name: &str, stays: bool) {
    let mut silent = lock(silent);
    match stays {
        true => drop(silent.insert(name.to_owned(), (Instant::now(), false))),
        false => drop(silent.remove(name)),
    }
}

/// One question and its answer.
async fn exchange(
    name: &str,
    socket: &Path,
    path: &str,
    body: Option<Value>,
    patience: Duration,
) -> Answered<Answer> {
    let work = async {
        let stream = connect(socket).await;
        let body = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
        let question = PluginQuestion { path, media_type: MEDIA_TYPE, body, limit: ANSWER };
        let answered = ask_plugin(stream, question).await;
        let (status, bytes) =
            answered.map_err(|error| Failure::Broken(format!("the plugin {name}: {error}")))?;
        read(name, path, status, &bytes)
    };
    tokio::time::timeout(patience, work).await.unwrap_or_else(|_| {
        let seconds = patience.as_secs();
        Err(Failure::Silent(format!("the plugin {name} did not answer {path} in {seconds} seconds")))
    })
}

/// Connects, trying again while nobody accepts: a plugin may just be starting. The caller sets the deadline.
async fn connect(socket: &Path) -> UnixStream {
    let mut pause = PAUSE;
    loop {
        match UnixStream::connect(socket).await {
            Ok(stream) => return stream,
            Err(error) => {
                tracing::debug!(%error, socket = %socket.display(), "a volume plugin does not accept");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(5));
            }
        }
    }
}

fn read(name: &str, path: &str, status: StatusCode, bytes: &[u8]) -> Answered<Answer> {
    let parsed = if bytes.trim_ascii().is_empty() {
        Ok(Answer::default())
    } else {
        serde_json::from_slice::<Answer>(bytes)
    };
    match parsed {
        Ok(answer) if !answer.err.is_empty() => Err(Failure::Refused(shortened(&answer.err))),
        Ok(answer) if status.is_success() => Ok(answer),
        _ if !status.is_success() => {
            let words = shortened(String::from_utf8_lossy(bytes).trim());
            let words = if words.is_empty() { status.to_string() } else { words };
            Err(Failure::Refused(format!("{}: {words}", path.trim_start_matches('/'))))
        }
        Ok(answer) => Ok(answer),
        Err(error) => {
            Err(Failure::Broken(format!("the plugin {name} answered {path} with no JSON: {error}")))
        }
    }
}

/// A plugin's words, in a length fit for a message.
fn shortened(text: &str) -> String {
    text.chars().filter(|letter| !letter.is_control() || *letter == '\n').take(2000).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_all_sorts_are_understood() {
        let get = br#"{"Volume": {"Name": "v", "Mountpoint": "/m", "CreatedAt": "2024-05-06T07:08:09Z", "Status": null}}"#;
        let told = read("p", "/VolumeDriver.Get", StatusCode::OK, get).unwrap().volume.unwrap();
        assert_eq!((told.name.as_str(), told.mountpoint.as_str()), ("v", "/m"));
        assert_eq!(told.created().unwrap().to_string(), "2024-05-06T07:08:09Z");
        let list = read("p", "/VolumeDriver.List", StatusCode::OK, br#"{"Volumes": null, "Err": null}"#);
        assert!(list.unwrap().volumes.is_empty());
        assert!(read("p", "/VolumeDriver.Unmount", StatusCode::OK, b"").is_ok());
        let words = |status, body: &[u8]| read("p", "/X.Y", status, body).map(drop).unwrap_err().to_string();
        assert_eq!(words(StatusCode::OK, br#"{"Err": "told to"}"#), "told to");
        assert_eq!(words(StatusCode::INTERNAL_SERVER_ERROR, br#"{"Err": "told to"}"#), "told to");
        assert_eq!(words(StatusCode::NOT_FOUND, b"nothing here\n"), "X.Y: nothing here");
        assert!(words(StatusCode::OK, b"<html>").contains("no JSON"));
    }
}
