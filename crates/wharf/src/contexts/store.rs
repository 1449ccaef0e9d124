//! The files of contexts.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use super::DOCKER;
use crate::failure::{Failure, Result};

/// How large one file of a context may be.
const LIMIT: u64 = 1 << 20;

/// Names and contents of an endpoint's files.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

/// What `meta.json` says.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Meta {
    pub(crate) name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) metadata: Option<Metadata>,
    #[serde(skip_serializing_if = "is_empty")]
    pub(crate) endpoints: Option<BTreeMap<String, Value>>,
}

fn is_empty(endpoints: &Option<BTreeMap<String, Value>>) -> bool {
    endpoints.as_ref().is_none_or(BTreeMap::is_empty)
}

/// What is said about a context.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Metadata {
    #[serde(rename = "Description", skip_serializing_if = "String::is_empty")]
    pub(crate) description: String,
    /// Other programs'.
    #[serde(flatten)]
    others: Map<String, Value>,
}

/// How to reach an engine.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct DockerEndpoint {
    #[serde(rename = "Host", skip_serializing_if = "String::is_empty")]
    pub(crate) host: String,
    #[serde(rename = "SkipTLSVerify")]
    pub(crate) skip_tls_verify: bool,
}

impl Meta {
    /// A context of one endpoint.
    pub(crate) fn new(name: &str, description: &str, endpoint: &DockerEndpoint) -> Self {
        let mut meta = Self { name: name.to_owned(), ..Self::default() };
        meta.describe(description);
        meta.set_endpoint(endpoint);
        meta
    }

    pub(crate) fn description(&self) -> &str {
        self.metadata.as_ref().map_or("", |metadata| &metadata.description)
    }

    pub(crate) fn describe(&mut self, description: &str) {
        description.clone_into(&mut self.metadata.get_or_insert_default().description);
    }

    /// The endpoint this program can use.
    pub(crate) fn endpoint(&self) -> Result<DockerEndpoint> {
        let found = self.endpoints.as_ref().and_then(|endpoints| endpoints.get(DOCKER));
        let found = found.ok_or_else(|| Failure::message("cannot find docker endpoint in context"))?;
        serde_json::from_value(found.clone())
            .map_err(|error| Failure::message(format!("the docker endpoint of {:?}: {error}", self.name)))
    }

    pub(crate) fn set_endpoint(&mut self, endpoint: &DockerEndpoint) {
        // A record of a string and a flag always has a JSON form.
        let value = serde_json::to_value(endpoint).unwrap_or_default();
        self.endpoints.get_or_insert_default().insert(DOCKER.to_owned(), value);
    }
}

/// The contexts of one directory of settings.
#[derive(Debug)]
pub(crate) struct Store {
    root: PathBuf,
}

impl Store {
    pub(crate) fn of(settings: &Path) -> Self {
        Self { root: settings.join("contexts") }
    }

    /// Where a context's description is, and where its secrets are.
    pub(crate) fn places(&self, name: &str) -> (PathBuf, PathBuf) {
        let id: String = Sha256::digest(name.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
        (self.root.join("meta").join(&id), self.root.join("tls").join(&id))
    }

    pub(crate) fn exists(&self, name: &str) -> bool {
        self.places(name).0.join("meta.json").exists()
    }

    /// One context.
    pub(crate) fn get(&self, name: &str) -> Result<Meta> {
        let path = self.places(name).0.join("meta.json");
        let missing = |reason: &str| {
            Failure::message(format!(
                "context {name:?}: context not found: open {}: {reason}",
                path.display()
            ))
        };
        let bytes = read(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => missing("no such file or directory"),
            _ => missing(&error.to_string()),
        })?;
        let meta: Meta = serde_json::from_slice(&bytes)
            .map_err(|error| Failure::message(format!("parsing {}: {error}", path.display())))?;
        Ok(meta)
    }

    /// All contexts by name; a file that cannot be read is left out, as it has no name.
    pub(crate) fn list(&self) -> Vec<Meta> {
        let directories = fs::read_dir(self.root.join("meta")).into_iter().flatten().flatten();
        let metas = directories.filter_map(|directory| {
            let meta: Meta = serde_json::from_slice(&read(&directory.path().join("meta.json")).ok()?).ok()?;
            // What is in another's place cannot be found by its name.
            (self.places(&meta.name).0 == directory.path()).then_some(meta)
        });
        let mut metas: Vec<Meta> = metas.collect();
        metas.sort_by(|a, b| a.name.cmp(&b.name));
        metas
    }

    /// The names of the files of each endpoint.
    pub(crate) fn material(&self, name: &str) -> BTreeMap<String, Vec<String>> {
        let names = |directory: &Path| {
            let entries = fs::read_dir(directory).into_iter().flatten().flatten();
            let mut names: Vec<String> =
                entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
            names.sort_unstable();
            names
        };
        let place = self.places(name).1;
        names(&place).into_iter().map(|endpoint| (endpoint.clone(), names(&place.join(endpoint)))).collect()
    }

    /// The files of one endpoint.
    pub(crate) fn files(&self, name: &str, endpoint: &str) -> Result<Files> {
        let place = self.places(name).1.join(endpoint);
        let names = self.material(name).remove(endpoint).unwrap_or_default();
        let one = |name: String| {
            let path = place.join(&name);
            let bytes =
                read(&path).map_err(|error| Failure::message(format!("open {}: {error}", path.display())))?;
            Ok((name, bytes))
        };
        names.into_iter().map(one).collect()
    }

    /// Keeps a context and the files of its endpoints, instead of what was kept under its name. The files first: a
    /// context never is there without what it needs.
    pub(crate) fn put(&self, meta: &Meta, files: &BTreeMap<String, Files>) -> Result {
        let (description, secrets) = self.places(&meta.name);
        let failed = |error: io::Error| Failure::message(format!("keeping context {:?}: {error}", meta.name));
        remove(&secrets).map_err(failed)?;
        for (endpoint, files) in files.iter().filter(|(_, files)| !files.is_empty()) {
            let place = secrets.join(endpoint);
            DirBuilder::new().recursive(true).mode(0o700).create(&place).map_err(failed)?;
            for (name, bytes) in files {
                write(&place, name, bytes, 0o600).map_err(failed)?;
            }
        }
        DirBuilder::new().recursive(true).mode(0o755).create(&description).map_err(failed)?;
        let bytes = serde_json::to_vec(meta).map_err(|error| failed(error.into()))?;
        write(&description, "meta.json", &bytes, 0o644).map_err(failed)
    }

    /// Forgets a context and its secrets.
    pub(crate) fn remove(&self, name: &str) -> Result {
        let (description, secrets) = self.places(name);
        let failed = |error: io::Error| Failure::message(format!("removing context {name:?}: {error}"));
        remove(&secrets).and_then(|()| remove(&description)).map_err(failed)
    }
}

fn remove(directory: &Path) -> io::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// A file within the limit.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(LIMIT + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > LIMIT {
        true => Err(io::ErrorKind::FileTooLarge.into()),
        false => Ok(bytes),
    }
}

fn write(directory: &Path, name: &str, bytes: &[u8], mode: u32) -> io::Result<()> {
    let part = directory.join(format!(".{name}.{}", std::process::id()));
    match fs::remove_file(&part) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&part)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    let written = written.and_then(|()| fs::rename(&part, directory.join(name)));
    if written.is_err() {
        let _ = fs::remove_file(&part);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_is_kept_as_docker_keeps_it() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::of(dir.path());
        let endpoint = DockerEndpoint { host: "tcp://1.2.3.4:2376".into(), skip_tls_verify: false };
        let meta = Meta::new("tl", "the t", &endpoint);
        let files = Files::from([("ca.pem".to_owned(), b"X".to_vec())]);
        store.put(&meta, &BTreeMap::from([(DOCKER.to_owned(), files)])).unwrap();
        let id = "e66016570cfafca08140913fe701f02954a11fde7f8660500a617597fd17e09d";
        let text = fs::read_to_string(dir.path().join("contexts/meta").join(id).join("meta.json")).unwrap();
        assert_eq!(
            text,
            r#"{"Name":"tl","Metadata":{"Description":"the t"},"Endpoints":{"docker":{"Host":"tcp://1.2.3.4:2376","SkipTLSVerify":false}}}"#
        );
        assert_eq!(fs::read(dir.path().join("contexts/tls").join(id).join("docker/ca.pem")).unwrap(), b"X");
        assert_eq!(store.get("tl").unwrap(), meta);
        assert_eq!(store.list().len(), 1);
        store.put(&meta, &BTreeMap::new()).unwrap();
        assert!(store.material("tl").is_empty(), "secrets that are no longer part of it are gone");
        store.remove("tl").unwrap();
        assert!(store.get("tl").unwrap_err().to_string().contains("context not found: open"));
    }

    #[test]
    fn what_others_wrote_stays() {
        let text = r#"{"Name":"x","Metadata":{"Description":"d","StackOrchestrator":"swarm"},"Endpoints":{"kube":{"a":1}}}"#;
        let mut meta: Meta = serde_json::from_str(text).unwrap();
        meta.describe("e");
        meta.set_endpoint(&DockerEndpoint::default());
        let value = serde_json::to_value(&meta).unwrap();
        assert_eq!(value["Metadata"]["StackOrchestrator"], "swarm");
        assert_eq!(value["Endpoints"]["kube"]["a"], 1);
    }
}
