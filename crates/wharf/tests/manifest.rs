//! Lists of manifests, made against a registry of our own.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall stop")]

mod support;

use std::{
    io::{Cursor, Read},
    process::Command,
};

use support::{Run, run};
use wharf_content::{digest_of, spec::Descriptor};
use wharf_model::Reference;
use wharf_registry::{Access, BlobSource, Client, Config, Document, Repository, Target};
use wharf_registry_server::{Options, Registry, storage::Local};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A registry, and a user with settings of their own.
struct World {
    directory: tempfile::TempDir,
    address: String,
    runtime: tokio::runtime::Runtime,
}

impl World {
    /// `mounts` says whether the registry takes blobs from its other repositories.
    fn new(mounts: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let data = directory.path().join("registry");
        std::fs::create_dir(&data).unwrap();
        let address = runtime.block_on(async {
            let router = Registry::new(Local::open(&data).await.unwrap(), Options::default()).router();
            let unmounted = move |mut request: axum::extract::Request| async move {
                if !mounts && request.uri().query().is_some_and(|query| query.contains("mount=")) {
                    *request.uri_mut() = request.uri().path().parse().unwrap();
                }
                request
            };
            let router = router.layer(axum::middleware::map_request(unmounted));
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap().to_string();
            tokio::spawn(async move { axum::serve(listener, router).await });
            address
        });
        Self { directory, address, runtime }
    }

    fn wharf(&self, words: &str) -> Run {
        let mut command: Command = support::wharf();
        command.env("DOCKER_CONFIG", self.directory.path());
        run(command.args(words.replace("REG", &self.address).split_whitespace()))
    }

    /// What a run that must succeed writes, with the registry's address made short.
    #[track_caller]
    fn succeeds(&self, words: &str) -> String {
        let run = self.wharf(words);
        assert_eq!((run.code, run.stderr.as_str()), (0, ""), "{words}");
        run.stdout.replace(&self.address, "REG")
    }

    #[track_caller]
    fn fails(&self, words: &str) -> String {
        let run = self.wharf(words);
        assert_eq!((run.code, run.stdout.as_str()), (1, ""), "{words}");
        run.stderr.replace(&self.address, "REG").trim_end().to_owned()
    }

    fn repository(&self, path: &str) -> Repository {
        let name = Reference::parse_normalized(&format!("{}/{path}", self.address)).unwrap();
        Client::new(Config::default()).unwrap().repository(&name, Access::Push, None).unwrap()
    }

    /// Puts an image of `architecture` there, and returns its manifest.
    fn image(&self, path: &str, tag: &str, architecture: &str) -> Descriptor {
        let repository = self.repository(path);
        let config =
            format!(r#"{{"os":"linux","architecture":"{architecture}","rootfs":{{"type":"layers"}}}}"#);
        let layer = format!("the files of {architecture}");
        let (config, layer) = (Bytes(config.into()), Bytes(layer.into()));
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{},"layers":[{}]}}"#,
            config.json("config.v1+json"),
            layer.json("layer.v1.tar")
        );
        let descriptor = Descriptor::new(MANIFEST, digest_of(manifest.as_bytes()), manifest.len() as u64);
        self.runtime.block_on(async {
            for blob in [&config, &layer] {
                repository.push_blob(&blob.descriptor("x"), blob, None, &mut |_| {}).await.unwrap();
            }
            let target = Target::Tag(tag.to_owned());
            repository.put_manifest(&target, MANIFEST, manifest.as_bytes()).await.unwrap();
        });
        descriptor
    }

    fn manifest(&self, path: &str, target: Target) -> Document {
        self.runtime.block_on(self.repository(path).manifest(&target)).unwrap()
    }
}

struct Bytes(Vec<u8>);

impl Bytes {
    fn descriptor(&self, kind: &str) -> Descriptor {
        Descriptor::new(&format!("application/vnd.oci.image.{kind}"), digest_of(&self.0), self.0.len() as u64)
    }

    fn json(&self, kind: &str) -> String {
        serde_json::to_string(&self.descriptor(kind)).unwrap()
    }
}

impl BlobSource for Bytes {
    fn open(&self, from: u64) -> std::io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(Cursor::new(self.0[usize::try_from(from).unwrap()..].to_vec())))
    }
}

#[test]
fn a_list_is_made_annotated_and_pushed() {
    for mounts in [true, false] {
        let world = World::new(mounts);
        let (amd, arm) = (world.image("a/amd", "1", "amd64"), world.image("a/arm", "1", "arm64"));
        assert_eq!(
            world.succeeds("manifest create REG/a/all:1 REG/a/arm:1 REG/a/amd:1"),
            "Created manifest list REG/a/all:1\n"
        );
        assert_eq!(world.succeeds("manifest annotate REG/a/all:1 REG/a/arm:1 --variant v8"), "");
        let list = world.succeeds("manifest inspect REG/a/all:1");
        let pushed = world.succeeds("manifest push -p REG/a/all:1");
        let digest = digest_of(list.trim_end().as_bytes());
        assert_eq!(
            pushed,
            format!(
                "Pushed ref REG/a/all@{0} with digest: {0}\nPushed ref REG/a/all@{1} with digest: {1}\n{digest}\n",
                amd.digest, arm.digest
            )
        );
        let document = world.manifest("a/all", Target::Tag("1".into()));
        assert_eq!((document.descriptor.media_type.as_str(), document.descriptor.digest), (INDEX, digest));
        let index: serde_json::Value = serde_json::from_slice(&document.bytes).unwrap();
        assert_eq!(index["manifests"][0]["platform"]["architecture"], "amd64");
        assert_eq!(index["manifests"][1]["platform"]["variant"], "v8");
        for image in [&amd, &arm] {
            let manifest = world.manifest("a/all", Target::Digest(image.digest));
            let manifest: serde_json::Value = serde_json::from_slice(&manifest.bytes).unwrap();
            for blob in [&manifest["config"], &manifest["layers"][0]] {
                let digest = blob["digest"].as_str().unwrap().parse().unwrap();
                assert!(world.runtime.block_on(world.repository("a/all").has_blob(&digest)).unwrap());
            }
        }
        // The list on this machine is gone; the one in the registry looks the same.
        assert_eq!(world.succeeds("manifest inspect REG/a/all:1"), list);
        assert_eq!(world.fails("manifest rm REG/a/all:1"), "No such manifest: REG/a/all:1");
    }
}

#[test]
fn what_cannot_become_a_list_is_refused() {
    let world = World::new(true);
    world.image("a", "1", "amd64");
    assert_eq!(world.fails("manifest inspect REG/a:2"), "no such manifest: REG/a:2");
    assert_eq!(world.fails("manifest create REG/l REG/a:2"), "no such manifest: REG/a:2");
    world.succeeds("manifest create REG/a:all REG/a:1");
    assert_eq!(
        world.fails("manifest create REG/a:all REG/a:1"),
        "refusing to amend an existing manifest list with no --amend flag"
    );
    assert_eq!(
        world.fails("manifest annotate REG/a:all REG/a:1 --os plan10"),
        "manifest entry for image has unsupported os/arch combination: plan10/"
    );
    let digest = world.succeeds("manifest push REG/a:all");
    assert_eq!(digest.lines().count(), 1, "what is in the repository already need not be pushed: {digest}");
    world.succeeds("manifest rm REG/a:all");
    assert_eq!(world.fails("manifest create REG/l REG/a:all"), "REG/a:all is a manifest list");
}

#[test]
fn a_manifest_is_shown_as_it_is_and_in_full() {
    let world = World::new(true);
    let image = world.image("a", "1", "arm64");
    let plain = world.succeeds("manifest inspect REG/a:1");
    assert!(plain.starts_with("{\n\t\"schemaVersion\": 2,\n\t\"mediaType\": \""), "{plain}");
    let full: serde_json::Value =
        serde_json::from_str(&world.succeeds("manifest inspect -v REG/a:1")).unwrap();
    assert_eq!(full["Ref"], "REG/a:1");
    assert_eq!(full["Descriptor"]["digest"], image.digest.to_string());
    assert_eq!(full["Descriptor"]["platform"]["architecture"], "arm64");
    assert_eq!(full["OCIManifest"]["layers"][0]["size"], 18);
}
