//! Where plugins are found: Docker's directories, or those the engine was told.
//!
//! `NAME.sock` is a socket, `NAME.spec` a file with an address, `NAME.json` a document with one; each also in a
//! directory `NAME`. A name is a plain word: it becomes part of a path (NW-11).

use std::path::{Path, PathBuf};

use serde::Deserialize;
use wharf_linux::hostfs;

/// The most of a `.spec` or `.json` that is read.
const DOCUMENT: u64 = 64 * 1024;
/// Plugins listed at the most.
const MOST: usize = 256;

/// Whether `name` can be a plugin's: what is no plain word never meets the file system.
pub(super) fn is_plugin_name(name: &str) -> bool {
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

/// The socket of a plugin; `Ok(None)` when there is no such plugin, `Err` with the reason when it cannot be reached.
pub(super) fn socket(directories: &[PathBuf], name: &str) -> Result<Option<PathBuf>, String> {
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
        return Ok(Some(found));
    }
    for path in places("spec").chain(places("json")) {
        let Ok(bytes) = hostfs::read_bounded(&path, DOCUMENT) else { continue };
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

/// The names of all plugins there are, sorted.
pub(super) fn names(directories: &[PathBuf]) -> Vec<String> {
    let mut names = Vec::new();
    for directory in directories {
        let entries = hostfs::read_dir(directory).unwrap_or_default();
        for entry in entries.iter().filter_map(|entry| entry.to_str()) {
            let name = match entry.rsplit_once('.') {
                Some((name, "sock" | "spec" | "json")) => name,
                _ => entry,
            };
            // Cheap to look at, and a name that is a directory counts only if a plugin is in it.
            if is_plugin_name(name) && names.len() < MOST && !matches!(socket(directories, name), Ok(None)) {
                names.push(name.to_owned());
            }
        }
    }
    names.sort();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nw_11_a_plugins_name_is_no_path() {
        let base = std::env::temp_dir().join(format!("wharf-plugins-{}", std::process::id()));
        let (inside, outside) = (base.join("plugins"), base.join("outside"));
        for directory in [&inside, &outside] {
            std::fs::create_dir_all(directory).unwrap();
        }
        let _evil = std::os::unix::net::UnixListener::bind(outside.join("evil.sock")).unwrap();
        std::fs::write(outside.join("evil.spec"), "unix:///evil").unwrap();
        let directories = [inside.clone()];
        for name in ["../outside/evil", "..", ".", "", "a/b", "../../x", "evil\0", "é", "-x", ".x"] {
            assert!(!is_plugin_name(name), "{name:?}");
            assert_eq!(socket(&directories, name), Ok(None), "{name:?}");
        }
        std::fs::remove_dir_all(&base).unwrap();
    }

    #[test]
    fn plugins_are_found_by_socket_file_and_document() {
        let base = std::env::temp_dir().join(format!("wharf-found-{}", std::process::id()));
        std::fs::create_dir_all(base.join("deep")).unwrap();
        let _one = std::os::unix::net::UnixListener::bind(base.join("one.sock")).unwrap();
        let _deep = std::os::unix::net::UnixListener::bind(base.join("deep/deep.sock")).unwrap();
        std::fs::write(base.join("two.spec"), "unix:///run/two\n").unwrap();
        std::fs::write(base.join("three.json"), r#"{"Name": "three", "Addr": "unix:///run/three"}"#).unwrap();
        std::fs::write(base.join("far.spec"), "tcp://127.0.0.1:1").unwrap();
        std::fs::write(base.join("bad.json"), "{").unwrap();
        std::fs::write(base.join("not-a.sock"), "").unwrap();
        let directories = [base.clone()];
        assert_eq!(names(&directories), ["bad", "deep", "far", "one", "three", "two"]);
        assert_eq!(socket(&directories, "one"), Ok(Some(base.join("one.sock"))));
        assert_eq!(socket(&directories, "deep"), Ok(Some(base.join("deep/deep.sock"))));
        assert_eq!(socket(&directories, "two"), Ok(Some("/run/two".into())));
        assert_eq!(socket(&directories, "three"), Ok(Some("/run/three".into())));
        assert!(socket(&directories, "far").unwrap_err().contains("only unix:///PATH"));
        assert!(socket(&directories, "bad").unwrap_err().contains("no description"));
        std::fs::remove_dir_all(&base).unwrap();
    }
}
