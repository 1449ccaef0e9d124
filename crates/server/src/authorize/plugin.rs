//! One authorisation plugin: where it listens, and what it answers.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::net::UnixStream;
use wharf_engine::{PLUGIN_DIRS, PluginQuestion, ask_plugin, find_plugin, is_plugin_name};

use crate::error::Failure;

/// How long a plugin may think. Every request of every client waits for it.
const DEADLINE: Duration = Duration::from_secs(30);
/// The largest answer of a plugin.
const ANSWER_LIMIT: usize = 1 << 20;
/// Docker's media type of the protocol.
const MEDIA_TYPE: &str = "application/vnd.docker.plugins.v1.1+json";

/// A plugin that said it is one.
#[derive(Debug)]
pub(super) struct Plugin {
    name: String,
    socket: PathBuf,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct Verdict {
    allow: bool,
    msg: String,
    err: String,
}

impl Plugin {
    /// Finds a plugin and has it say what it does.
    pub(super) async fn open(name: &str, own: &Path) -> io::Result<Self> {
        let named =
            |error: io::Error| io::Error::new(error.kind(), format!("authorization plugin {name}: {error}"));
        let plugin = Self { name: name.to_owned(), socket: find(name, own).map_err(named)? };
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Manifest {
            implements: Vec<String>,
        }
        let answer = plugin.call("Plugin.Activate", Bytes::new()).await.map_err(named)?;
        let manifest: Manifest =
            serde_json::from_slice(&answer).map_err(|error| named(io::Error::other(error)))?;
        if !manifest.implements.iter().any(|kind| kind == "authz") {
            let what = manifest.implements.join(", ");
            return Err(named(io::Error::other(format!("it implements {what:?}, not \"authz\""))));
        }
        Ok(plugin)
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Nothing if the plugin agrees.
    pub(super) async fn ask(&self, method: &str, question: &Map<String, Value>) -> Result<(), Failure> {
        let name = &self.name;
        let failed = |why: &dyn std::fmt::Display| {
            let text = format!("plugin {name} failed with error: {method}: {why}");
            Failure::new(StatusCode::INTERNAL_SERVER_ERROR, text)
        };
        let body = serde_json::to_vec(question).map_err(|error| failed(&error))?;
        let answer = self.call(method, body.into()).await.map_err(|error| failed(&error))?;
        let verdict: Verdict = serde_json::from_slice(&answer).map_err(|error| failed(&error))?;
        if !verdict.err.is_empty() {
            return Err(failed(&verdict.err));
        }
        if !verdict.allow {
            let text = format!("authorization denied by plugin {name}: {}", verdict.msg);
            return Err(Failure::new(StatusCode::FORBIDDEN, text));
        }
        Ok(())
    }

    async fn call(&self, method: &str, body: Bytes) -> io::Result<Bytes> {
        let exchange = async {
            let stream = UnixStream::connect(&self.socket).await?;
            let path = format!("/{method}");
            let question = PluginQuestion { path: &path, media_type: MEDIA_TYPE, body, limit: ANSWER_LIMIT };
            match ask_plugin(stream, question).await? {
                (status, body) if status.is_success() => Ok(body),
                (status, _) => Err(io::Error::other(format!("status {status}"))),
            }
        };
        tokio::time::timeout(DEADLINE, exchange).await.unwrap_or_else(|_| {
            Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer in {DEADLINE:?}")))
        })
    }
}

/// In a directory of our own first, then in Docker's. Plugins elsewhere than on this machine would see every request.
fn find(name: &str, own: &Path) -> io::Result<PathBuf> {
    if !is_plugin_name(name) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "its name can be no file's"));
    }
    let directories: Vec<PathBuf> =
        [own].into_iter().chain(PLUGIN_DIRS.iter().map(Path::new)).map(Path::to_owned).collect();
    find_plugin(&directories, name).map_err(io::Error::other)?.ok_or_else(|| {
        let text = format!(
            "there is no {name}.sock in {} or {}: start the plugin first",
            own.display(),
            PLUGIN_DIRS[0]
        );
        io::Error::new(io::ErrorKind::NotFound, text)
    })
}
