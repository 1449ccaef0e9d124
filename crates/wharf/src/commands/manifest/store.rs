//! Lists that are being put together: a directory for each list, in it a file for each manifest, beside the user's
//! settings. The layout is that of Docker's program, so that a list begun with one can be pushed with the other.
//!
//! Names of files are references with `/` and `:` replaced; the grammar of references leaves nothing else in them that a
//! path could trip over. A file is put in place when it is complete.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Deserialize;
use wharf_content::{MAX_DOCUMENT, digest_of};
use wharf_model::Reference;

use super::list::{Descriptor, Entry};
use crate::failure::{Failure, Result};

/// The lists of a user.
pub(super) struct Store(PathBuf);

/// What a file has, as far as it cannot be had from the rest.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Record {
    r#ref: String,
    descriptor: Descriptor,
    raw: String,
}

impl Store {
    /// Those beside the settings in `directory`.
    pub(super) fn of(directory: &Path) -> Self {
        Self(directory.join("manifests"))
    }

    /// The manifests of a list, sorted by their names; `None` if there is no such list.
    pub(super) fn list(&self, list: &Reference) -> Result<Option<Vec<Entry>>> {
        let directory = self.0.join(file_name(list));
        let files = match fs::read_dir(&directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            result => result.map_err(|error| failed(&directory, &error))?,
        };
        let mut paths = Vec::new();
        for file in files {
            let path = file.map_err(|error| failed(&directory, &error))?.path();
            if path.extension().is_none_or(|extension| extension != PART) {
                paths.push(path);
            }
        }
        paths.sort_unstable();
        let entries: Vec<Entry> =
            paths.iter().map(|path| read(path)).filter_map(Result::transpose).collect::<Result<_>>()?;
        Ok((!entries.is_empty()).then_some(entries))
    }

    /// One manifest of a list.
    pub(super) fn get(&self, list: &Reference, name: &Reference) -> Result<Option<Entry>> {
        read(&self.0.join(file_name(list)).join(file_name(name)))
    }

    /// Puts a manifest into a list.
    pub(super) fn save(&self, list: &Reference, name: &Reference, entry: &Entry) -> Result {
        let path = self.0.join(file_name(list)).join(file_name(name));
        let directory = path.parent().unwrap_or(&self.0);
        let part = path.with_file_name(format!("{}.{}.{PART}", file_name(name), std::process::id()));
        let written = DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(directory)
            .and_then(|()| fs::write(&part, entry.to_json()))
            .and_then(|()| fs::rename(&part, &path));
        written.map_err(|error| {
            let _ = fs::remove_file(&part);
            failed(&path, &error)
        })
    }

    /// Forgets a list.
    pub(super) fn remove(&self, list: &Reference) -> Result {
        let directory = self.0.join(file_name(list));
        fs::remove_dir_all(&directory).map_err(|error| failed(&directory, &error))
    }
}

/// What the names of files that are being written end with.
const PART: &str = "part";

/// The failure to find a list or a manifest of one.
pub(super) fn unknown(name: &Reference) -> Failure {
    Failure::message(format!("No such manifest: {name}"))
}

fn file_name(reference: &Reference) -> String {
    reference.to_string().replace(':', "-").replace('/', "_")
}

fn failed(path: &Path, error: &io::Error) -> Failure {
    Failure::message(format!("{}: {error}", path.display()))
}

fn read(path: &Path) -> Result<Option<Entry>> {
    let bytes = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        // The manifest twice, once of it in base64, and what is said about it.
        Ok(data) if data.len() > 4 * MAX_DOCUMENT => {
            return Err(failed(path, &io::ErrorKind::FileTooLarge.into()));
        }
        _ => fs::read(path).map_err(|error| failed(path, &error))?,
    };
    let wrong = |reason: String| Failure::message(format!("{}: {reason}", path.display()));
    let record: Record = serde_json::from_slice(&bytes).map_err(|error| wrong(error.to_string()))?;
    let reference = Reference::parse_normalized(&record.r#ref).map_err(|error| wrong(error.to_string()))?;
    let bytes = STANDARD.decode(&record.raw).map_err(|error| wrong(error.to_string()))?;
    if digest_of(&bytes) != record.descriptor.digest {
        return Err(wrong(format!("the manifest is not {}; remove the file", record.descriptor.digest)));
    }
    Ok(Some(Entry { reference, descriptor: record.descriptor, bytes }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::syntax::platform;

    fn reference(text: &str) -> Reference {
        Reference::parse_normalized(text).unwrap().or_latest()
    }

    /// A store in a directory that is removed with it.
    struct Scratch(PathBuf, Store);

    impl Scratch {
        fn new(name: &str) -> Self {
            let directory =
                std::env::temp_dir().join(format!("wharf-cli-lists-{}-{name}", std::process::id()));
            let store = Store::of(&directory);
            Self(directory, store)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn entry(name: &str) -> Entry {
        let bytes = br#"{"schemaVersion": 2, "layers": []}"#.to_vec();
        let descriptor = Descriptor {
            media_type: wharf_content::spec::DOCKER_MANIFEST.to_owned(),
            digest: digest_of(&bytes),
            size: bytes.len() as u64,
            platform: platform::parse("linux/arm64/v8").ok(),
        };
        Entry { reference: reference(name), descriptor, bytes }
    }

    #[test]
    fn lists_lie_where_docker_looks_for_them() {
        let scratch = Scratch::new("layout");
        let (list, name) = (reference("box"), reference("reg:5000/a/b:1"));
        scratch.1.save(&list, &name, &entry("reg:5000/a/b:1")).unwrap();
        let path = scratch.0.join("manifests/docker.io_library_box-latest/reg-5000_a_b-1");
        let digest = entry("x").descriptor.digest;
        assert_eq!(
            fs::read_to_string(path).unwrap(),
            format!(
                "{{\"Ref\":\"reg:5000/a/b:1\",\"Descriptor\":{{\"mediaType\":\"application/vnd.docker.distribution.manifest.v2+json\",\"digest\":\"{digest}\",\"size\":34,\"platform\":{{\"architecture\":\"arm64\",\"os\":\"linux\",\"variant\":\"v8\"}}}},\"Raw\":\"eyJzY2hlbWFWZXJzaW9uIjogMiwgImxheWVycyI6IFtdfQ==\",\"SchemaV2Manifest\":{{\"schemaVersion\":2,\"layers\":[]}}}}"
            )
        );
        assert_eq!(scratch.1.get(&list, &name).unwrap(), Some(entry("reg:5000/a/b:1")));
        assert_eq!(scratch.1.list(&list).unwrap(), Some(vec![entry("reg:5000/a/b:1")]));
        assert_eq!(scratch.1.list(&name).unwrap(), None);
        scratch.1.remove(&list).unwrap();
        assert_eq!(scratch.1.list(&list).unwrap(), None);
    }

    #[test]
    fn a_manifest_that_was_changed_is_refused() {
        let scratch = Scratch::new("changed");
        let (list, name) = (reference("box"), reference("a"));
        scratch.1.save(&list, &name, &Entry { bytes: b"{}".to_vec(), ..entry("a") }).unwrap();
        let refused = scratch.1.get(&list, &name).unwrap_err().to_string();
        assert!(refused.contains("the manifest is not sha256:"), "{refused}");
    }
}
