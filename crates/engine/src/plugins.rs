//! Docker's plugins, of volumes and of authorisation alike: where they are found, and one question to one of them.
//!
//! `NAME.sock` is a socket, `NAME.spec` a file with an address, `NAME.json` a document with one; each also in a
//! directory `NAME`. A name is a plain word: it becomes part of a path (NW-11). Whoever can put a socket there answers for
//! everybody, so a directory that others than root and we can write to is refused with what is in it.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::UnixStream;
use wharf_linux::hostfs;

/// The most of a `.spec` or `.json` that is read.
const DOCUMENT: u64 = 64 * 1024;
/// Plugins listed at the most.
const MOST: usize = 256;

/// Whether `name` can be a plugin's: what is no plain word never meets the file system.
pub fn is_plugin_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    name.len() <= 128
        && bytes.next().is_some_and(|first| first.is_ascii_alphanumeric())
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
}

/// A plugin's document.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Document {
    #[serde(default)]
    addr: String,
}

/// The socket of a plugin, from the first of the directories that has it; nothing when there is no such plugin.
///
/// # Errors
/// When it is not to be trusted or its description makes no sense; the text says why.
pub fn find_plugin(directories: &[PathBuf], name: &str) -> Result<Option<PathBuf>, String> {
    if !is_plugin_name(name) {
        return Ok(None);
    }
    let places = |suffix: &'static str| {
        directories.iter().flat_map(move |directory| {
            let file = format!("{name}.{suffix}");
            [directory.join(&file), directory.join(name).join(&file)]
        })
    };
    if let Some(found) = places("sock").find(|path| is_socket(path)) {
        check_owner(&found)?;
        return Ok(Some(found));
    }
    for path in places("spec").chain(places("json")) {
        let Ok(bytes) = hostfs::read_bounded(&path, DOCUMENT) else { continue };
        check_owner(&path)?;
        let address = if path.extension().is_some_and(|end| end == "json") {
            let document: Document = serde_json::from_slice(&bytes)
                .map_err(|error| format!("{} is no description of a plugin: {error}", path.display()))?;
            document.addr
        } else {
            String::from_utf8_lossy(&bytes).trim().to_owned()
        };
        return match address.strip_prefix("unix://") {
            Some(socket) if socket.starts_with('/') => Ok(Some(socket.into())),
            _ => Err(format!(
                "{} names the address {address:?}: only unix:///PATH is spoken to; give the plugin a socket",
                path.display()
            )),
        };
    }
    Ok(None)
}

fn is_socket(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    std::fs::metadata(path).is_ok_and(|meta| meta.file_type().is_socket())
}

fn check_owner(path: &Path) -> Result<(), String> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    let meta = std::fs::metadata(directory)
        .map_err(|error| format!("cannot look at {}: {error}", directory.display()))?;
    let own = rustix::process::geteuid().as_raw();
    if ![0, own].contains(&meta.uid()) || meta.mode() & 0o022 != 0 {
        return Err(format!("others than its owner can write to {}", directory.display()));
    }
    Ok(())
}

/// The names of all plugins there are, sorted.
pub(crate) fn plugin_names(directories: &[PathBuf]) -> Vec<String> {
    let mut names = Vec::new();
    for directory in directories {
        let entries = hostfs::read_dir(directory).unwrap_or_default();
        for entry in entries.iter().filter_map(|entry| entry.to_str()) {
            let name = match entry.rsplit_once('.') {
                Some((name, "sock" | "spec" | "json")) => name,
                _ => entry,
            };
            // Cheap to look at, and a name that is a directory counts only if a plugin is in it.
            let there = || !matches!(find_plugin(directories, name), Ok(None));
            if is_plugin_name(name) && names.len() < MOST && there() {
                names.push(name.to_owned());
            }
        }
    }
    names.sort();
    names.dedup();
    names
}

/// What is asked of a plugin.
#[derive(Debug, Clone)]
pub struct PluginQuestion<'a> {
    /// Such as `/Plugin.Activate`.
    pub path: &'a str,
    /// The version of the protocol.
    pub media_type: &'a str,
    /// JSON, or nothing.
    pub body: Bytes,
    /// The largest answer.
    pub limit: usize,
}

/// Asks a plugin one question on a connection of its own. The caller sets the deadline.
///
/// # Errors
/// When it does not answer, not in HTTP, or too much.
pub async fn ask_plugin(stream: UnixStream, question: PluginQuestion<'_>) -> io::Result<(StatusCode, Bytes)> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let request = Request::post(question.path)
        .header(header::HOST, "plugin.moby.localhost")
        .header(header::ACCEPT, question.media_type)
        .header(header::CONTENT_TYPE, question.media_type)
        .body(Full::new(question.body))
        .map_err(io::Error::other)?;
    let answer = async {
        let answer = sender.send_request(request).await.map_err(io::Error::other)?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), question.limit).collect().await;
        Ok((status, body.map_err(io::Error::other)?.to_bytes()))
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
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let base = std::env::temp_dir().join(format!("wharf-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&base).unwrap();
        mode(&base, 0o755);
        base
    }

    fn mode(path: &Path, mode: u32) {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn nw_11_a_plugins_name_is_no_path() {
        let base = scratch("plugins");
        let (inside, outside) = (base.join("plugins"), base.join("outside"));
        for directory in [&inside, &outside] {
            std::fs::create_dir_all(directory).unwrap();
            mode(directory, 0o755);
        }
        let _evil = std::os::unix::net::UnixListener::bind(outside.join("evil.sock")).unwrap();
        std::fs::write(outside.join("evil.spec"), "unix:///evil").unwrap();
        let directories = [inside.clone()];
        for name in ["../outside/evil", "..", ".", "", "a/b", "../../x", "evil\0", "é", "-x", ".x"] {
            assert_eq!(find_plugin(&directories, name), Ok(None), "{name:?}");
            assert!(!is_plugin_name(name), "{name:?}");
        }
        std::fs::remove_dir_all(&base).unwrap();
    }

    #[test]
    fn plugins_are_found_by_socket_file_and_document() {
        let base = scratch("found");
        std::fs::create_dir_all(base.join("deep")).unwrap();
        mode(&base.join("deep"), 0o755);
        let _one = std::os::unix::net::UnixListener::bind(base.join("one.sock")).unwrap();
        let _deep = std::os::unix::net::UnixListener::bind(base.join("deep/deep.sock")).unwrap();
        std::fs::write(base.join("two.spec"), "unix:///run/two\n").unwrap();
        std::fs::write(base.join("three.json"), r#"{"Name": "three", "Addr": "unix:///run/three"}"#).unwrap();
        std::fs::write(base.join("far.spec"), "tcp://127.0.0.1:1").unwrap();
        std::fs::write(base.join("bad.json"), "{").unwrap();
        std::fs::write(base.join("not-a.sock"), "").unwrap();
        let directories = [base.clone()];
        assert_eq!(plugin_names(&directories), ["bad", "deep", "far", "one", "three", "two"]);
        let socket = |name: &str| find_plugin(&directories, name);
        assert_eq!(socket("one"), Ok(Some(base.join("one.sock"))));
        assert_eq!(socket("deep"), Ok(Some(base.join("deep/deep.sock"))));
        assert_eq!(socket("two"), Ok(Some("/run/two".into())));
        assert_eq!(socket("three"), Ok(Some("/run/three".into())));
        assert!(socket("far").unwrap_err().contains("only unix:///PATH"));
        assert!(socket("bad").unwrap_err().contains("no description"));
        // What anybody could have put there is nobody's plugin.
        mode(&base, 0o777);
        for name in ["one", "two", "three"] {
            assert!(socket(name).unwrap_err().contains("others than its owner can write"));
        }
        std::fs::remove_dir_all(&base).unwrap();
    }
}
