//! One authorisation plugin: where it listens, and what it answers.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::net::UnixStream;
use wharf_linux::hostfs;

use crate::error::Failure;

/// Where plugins put their sockets.
const SOCKETS: &str = "/run/docker/plugins";
/// Where files say where plugins listen.
const SPECIFICATIONS: [&str; 2] = ["/etc/docker/plugins", "/usr/lib/docker/plugins"];
/// How long a plugin may think. Every request of every client waits for it.
const DEADLINE: Duration = Duration::from_secs(30);
/// The largest answer of a plugin, and the largest file that says where one is.
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
            let (mut sender, connection) =
                http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
            let request = Request::post(format!("/{method}"))
                .header(header::HOST, "plugin")
                .header(header::ACCEPT, MEDIA_TYPE)
                .header(header::CONTENT_TYPE, MEDIA_TYPE)
                .body(Full::new(body))
                .map_err(io::Error::other)?;
            let answer = async {
                let answer = sender.send_request(request).await.map_err(io::Error::other)?;
                let status = answer.status();
                let body = Limited::new(answer.into_body(), ANSWER_LIMIT).collect().await;
                let body = body.map_err(io::Error::other)?.to_bytes();
                match status.is_success() {
                    true => Ok(body),
                    false => Err(io::Error::other(format!("status {status}"))),
                }
            };
            tokio::pin!(connection, answer);
            tokio::select! {
                answer = &mut answer => answer,
                ended = &mut connection => match ended {
                    // The whole answer may be there although the connection has ended.
                    Ok(()) => answer.await,
                    Err(error) => Err(io::Error::other(error)),
                },
            }
        };
        tokio::time::timeout(DEADLINE, exchange).await.unwrap_or_else(|_| {
            Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer in {DEADLINE:?}")))
        })
    }
}

fn find(name: &str, own: &Path) -> io::Result<PathBuf> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if name.is_empty() || name.starts_with('.') || !name.bytes().all(plain) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "its name can be no file's"));
    }
    let sockets = Path::new(SOCKETS);
    for socket in [
        own.join(format!("{name}.sock")),
        sockets.join(format!("{name}.sock")),
        sockets.join(name).join(format!("{name}.sock")),
    ] {
        if hostfs::exists(&socket).is_ok_and(|exists| exists) {
            check_owner(&socket)?;
            return Ok(socket);
        }
    }
    for directory in SPECIFICATIONS {
        for kind in ["spec", "json"] {
            let path = Path::new(directory).join(format!("{name}.{kind}"));
            if let Ok(text) = hostfs::read_bounded(&path, ANSWER_LIMIT as u64) {
                check_owner(&path)?;
                return socket_of(&String::from_utf8_lossy(&text), kind);
            }
        }
    }
    Err(io::Error::new(
        io::ErrorKind::NotFound,
        format!("there is no {name}.sock in {} or {SOCKETS}: start the plugin first", own.display()),
    ))
}

/// The socket that a file names. Plugins elsewhere than on this machine would see every request.
fn socket_of(text: &str, kind: &str) -> io::Result<PathBuf> {
    let address = match kind {
        "json" => {
            serde_json::from_str::<Value>(text).map_err(io::Error::other)?["Addr"].as_str().map(str::to_owned)
        }
        _ => Some(text.trim().to_owned()),
    };
    let path = address.as_deref().and_then(|address| address.strip_prefix("unix://"));
    path.map(PathBuf::from).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            "its address must be unix://PATH, a socket of this machine",
        )
    })
}

/// Whoever can put a socket there answers for everybody: nobody but root and we may.
fn check_owner(path: &Path) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    let data = std::os::fd::AsFd::as_fd(&hostfs::open_dir(directory).map_err(io::Error::other)?)
        .try_clone_to_owned()
        .map(std::fs::File::from)?
        .metadata()?;
    let own = rustix::process::geteuid().as_raw();
    if ![0, own].contains(&data.uid()) || data.mode() & 0o022 != 0 {
        let text = format!("others than its owner can write to {}", directory.display());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    Ok(())
}
