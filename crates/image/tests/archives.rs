//! Archives that real tools write and read.
#![allow(clippy::unwrap_used, reason = "a failing helper is a failing test")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use support::{Scratch, Tar, docker_archive, docker_archive_of, gzip};
use wharf_image::{Error, ImportOptions, Removed};
use wharf_model::Reference;

fn layer(name: &str) -> Vec<u8> {
    Tar::new().dir("d").file(&format!("d/{name}"), name.as_bytes()).finish()
}

fn names(loaded: &[wharf_image::Loaded]) -> Vec<String> {
    loaded.iter().map(|item| item.reference.as_ref().map_or(String::new(), Reference::familiar)).collect()
}

/// The entries of a tar we wrote.
fn entries(tar: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut reader = wharf_image::tar::Reader::new(tar);
    let mut entries = BTreeMap::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        let mut data = Vec::new();
        loop {
            let chunk = reader.chunk().unwrap();
            if chunk.is_empty() {
                break;
            }
            data.extend_from_slice(chunk);
            let taken = chunk.len();
            reader.advance(taken);
        }
        assert!(entries.insert(String::from_utf8(entry.path).unwrap(), data).is_none());
    }
    entries
}

fn save(scratch: &Scratch, names: &[&str]) -> Vec<u8> {
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let mut out = Vec::new();
    scratch.images.save(&names, &mut out).unwrap();
    out
}

#[test]
fn a_docker_archive_becomes_an_image() {
    let scratch = Scratch::on_disk();
    let (base, top) = (layer("base"), layer("top"));
    let loaded = scratch.load(&docker_archive("app:1", &[&base, &top])).unwrap();
    assert_eq!(names(&loaded), ["app:1"]);
    let image = scratch.images.resolve("app:1").unwrap();
    assert_eq!(image.id, wharf_content::digest_of(support::config_of(&[&base, &top]).as_bytes()));
    assert_eq!(image.diff_ids, [wharf_content::digest_of(&base), wharf_content::digest_of(&top)]);
    assert_eq!(image.size, 4 + 3);
    assert_eq!(image.config.config().as_ref().unwrap().cmd().as_ref().unwrap(), &["/x"]);
    assert_eq!(image.created.unwrap().to_string(), "2024-05-06T07:08:09Z");
    // Found by full id, short id, and with the algorithm in front.
    for name in [
        image.id.to_string(),
        image.id.hex(),
        image.id.short(),
        format!("sha256:{}", image.id.short()),
        "docker.io/library/app:1".to_owned(),
    ] {
        assert_eq!(scratch.images.resolve(&name).unwrap().id, image.id, "{name}");
    }
    let mounts = scratch.images.create_snapshot("c", &image.id).unwrap();
    let content =
        |index: usize, name: &str| fs::read_to_string(mounts.base.join(&mounts.lower[index]).join(name));
    assert_eq!(content(0, "d/top").unwrap(), "top");
    assert_eq!(content(1, "d/base").unwrap(), "base");
    assert!(content(0, "d/base").is_err());
}

#[test]
fn whole_archives_may_be_compressed_and_layers_too() {
    let scratch = Scratch::new();
    let plain = layer("x");
    let archive = docker_archive("app:1", &[&plain]);
    let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 1).unwrap();
    let mut ids = Vec::new();
    for whole in [archive.clone(), gzip(&archive), zstd(&archive)] {
        ids.push(scratch.load(&whole).unwrap()[0].id);
    }
    for packed in [gzip(&plain), zstd(&plain)] {
        let tar = Tar::new()
            .file("l", &packed)
            .file("c", support::config_of(&[&plain]).as_bytes())
            .file("manifest.json", br#"[{"Config":"c","RepoTags":["packed:1"],"Layers":["l"]}]"#);
        ids.push(scratch.load(&tar.finish()).unwrap()[0].id);
    }
    assert!(ids.iter().all(|id| *id == ids[0]));
    for packed in [b"\xfd7zXZ\0 rest".to_vec(), b"BZh91AY rest".to_vec()] {
        let error = scratch.load(&packed).unwrap_err().to_string();
        assert!(error.contains("is not supported; decompress it first"), "{error}");
    }
}

#[test]
fn archives_of_before_2017_share_layers_by_links() {
    let scratch = Scratch::new();
    let shared = layer("shared");
    let tar = Tar::new()
        .file("a/layer.tar", &shared)
        .symlink("b/layer.tar", "../a/layer.tar")
        .hardlink("c/layer.tar", "a/layer.tar")
        .file("1.json", support::config_of(&[&shared, &shared, &shared]).as_bytes())
        .file("manifest.json", br#"[{"Config":"1.json","RepoTags":["app:1"],"Layers":["a/layer.tar","b/layer.tar","c/layer.tar"]}]"#)
        .finish();
    let id = scratch.load(&tar).unwrap()[0].id;
    let mounts = scratch.images.create_snapshot("c", &id).unwrap();
    assert_eq!(mounts.lower.len(), 3);
    for lower in &mounts.lower {
        assert_eq!(fs::read_to_string(mounts.base.join(lower).join("d/shared")).unwrap(), "shared");
    }
}

#[test]
fn archives_of_before_2016_have_no_manifest() {
    let scratch = Scratch::new();
    let (base, top) = ("b".repeat(64), "7".repeat(64));
    let tar = Tar::new()
        .file(&format!("{base}/VERSION"), b"1.0")
        .file(&format!("{base}/json"), format!(r#"{{"id":"{base}","created":"2014-01-01T00:00:00Z","container_config":{{"Cmd":["/bin/sh","-c","true"]}}}}"#).as_bytes())
        .file(&format!("{base}/layer.tar"), &layer("base"))
        .file(&format!("{top}/json"), format!(r#"{{"id":"{top}","parent":"{base}","created":"2014-02-02T00:00:00Z","os":"linux","architecture":"amd64","config":{{"Cmd":["/bin/app"],"Env":null}}}}"#).as_bytes())
        .file(&format!("{top}/layer.tar"), &layer("top"))
        .file("repositories", format!(r#"{{"old/app":{{"latest":"{top}","1":"{top}"}}}}"#).as_bytes())
        .finish();
    assert_eq!(names(&scratch.load(&tar).unwrap()), ["old/app:1", "old/app:latest"]);
    let image = scratch.images.resolve("old/app").unwrap();
    assert_eq!(image.config.config().as_ref().unwrap().cmd().as_ref().unwrap(), &["/bin/app"]);
    let history = scratch.images.history("old/app").unwrap();
    assert_eq!(history.iter().map(|entry| &*entry.created_by).collect::<Vec<_>>(), ["", "/bin/sh -c true"]);
    assert_eq!(history.iter().map(|entry| entry.size).collect::<Vec<_>>(), [3, 4]);
    assert_eq!(history[0].id, Some(image.id));

    // Ids of layers are held to what they can be, and circles end.
    let circle = Tar::new()
        .file(&format!("{base}/json"), format!(r#"{{"parent":"{base}"}}"#).as_bytes())
        .file(&format!("{base}/layer.tar"), &layer("base"))
        .file("repositories", format!(r#"{{"x":{{"1":"{base}"}}}}"#).as_bytes())
        .finish();
    assert!(scratch.load(&circle).unwrap_err().to_string().contains("repeated layer id"));
    let escape = Tar::new().file("repositories", br#"{"x":{"1":"../../etc"}}"#).finish();
    assert!(scratch.load(&escape).unwrap_err().to_string().contains("layer id"));
}

#[test]
fn what_is_saved_loads_again_with_the_same_digests() {
    let scratch = Scratch::new();
    let (base, one, two) = (layer("base"), layer("one"), layer("two"));
    scratch
        .load(&docker_archive_of(&[("app:1", &[&base, &one]), ("app:2", &[&base, &two]), ("", &[&base])]))
        .unwrap();
    scratch.images.tag("app:1", &"registry.example:5000/team/app:stable".parse().unwrap()).unwrap();
    let untagged = wharf_content::digest_of(support::config_of(&[&base]).as_bytes());

    let archive = save(&scratch, &["app", "registry.example:5000/team/app:stable", &untagged.to_string()]);
    assert_eq!(
        archive,
        save(&scratch, &["app", "registry.example:5000/team/app:stable", &untagged.to_string()])
    );
    let saved = entries(&archive);
    // Three images: three layers, each once; three configs; three manifests.
    assert_eq!(saved.keys().filter(|name| name.starts_with("blobs/sha256/") && name.len() > 13).count(), 9);

    let other = Scratch::new();
    let loaded = other.load(&archive).unwrap();
    let mut found = names(&loaded);
    found.sort();
    assert_eq!(found, ["", "app:1", "app:2", "registry.example:5000/team/app:stable"]);
    for name in ["app:1", "app:2"] {
        let (before, after) = (scratch.images.resolve(name).unwrap(), other.images.resolve(name).unwrap());
        assert_eq!((before.id, before.manifest, before.size), (after.id, after.manifest, after.size));
    }
    // Read as an image layout only, it is the same.
    let third = Scratch::new();
    let layout = saved
        .iter()
        .filter(|(name, _)| !name.ends_with('/') && *name != "manifest.json" && *name != "repositories")
        .fold(Tar::new(), |tar, (name, bytes)| tar.file(name, bytes));
    let mut found = names(&third.load(&layout.finish()).unwrap());
    found.sort();
    assert_eq!(found, ["", "app:1", "app:2", "registry.example:5000/team/app:stable"]);
    assert_eq!(
        third.images.resolve("app:2").unwrap().manifest,
        scratch.images.resolve("app:2").unwrap().manifest
    );

    // A second load reads nothing twice and changes nothing.
    assert_eq!(names(&other.load(&archive).unwrap()).len(), 4);
    assert_eq!(other.images.list().unwrap().len(), 3);

    for name in ["nothing", "app:3", "sha256:00"] {
        let mut out = Vec::new();
        let error = scratch.images.save(&[name.to_owned()], &mut out).unwrap_err();
        assert!(matches!(error, Error::NotFound(_) | Error::NoReference), "{name}: {error}");
        assert!(out.is_empty());
    }
}

#[test]
fn an_index_gives_the_image_of_the_host() {
    let scratch = Scratch::new();
    let blob = |bytes: &[u8]| format!("blobs/sha256/{}", wharf_content::digest_of(bytes).hex());
    let descriptor = |media_type: &str, bytes: &[u8], more: &str| {
        format!(
            r#"{{"mediaType":"application/vnd.oci.image.{media_type}","digest":"{}","size":{}{more}}}"#,
            wharf_content::digest_of(bytes),
            bytes.len()
        )
    };
    let image = |name: &str| {
        let layer = gzip(&layer(name));
        let config = support::config_of(&[&support_layer(name)]);
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{},"layers":[{}]}}"#,
            descriptor("config.v1+json", config.as_bytes(), ""),
            descriptor("layer.v1.tar+gzip", &layer, "")
        );
        (layer, config.into_bytes(), manifest.into_bytes())
    };
    let host = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let (ours, other) = (image("ours"), image("other"));
    let platform =
        |architecture: &str| format!(r#","platform":{{"os":"linux","architecture":"{architecture}"}}"#);
    let archive = |platforms: [&str; 2], layer_type: &str| {
        let manifest =
            String::from_utf8(ours.2.clone()).unwrap().replace("layer.v1.tar+gzip", layer_type).into_bytes();
        let index = format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{},{}]}}"#,
            descriptor("manifest.v1+json", &other.2, &platform(platforms[0])),
            descriptor("manifest.v1+json", &manifest, &platform(platforms[1])),
        );
        let top = format!(
            r#"{{"schemaVersion":2,"manifests":[{}]}}"#,
            descriptor(
                "index.v1+json",
                index.as_bytes(),
                r#","annotations":{"io.containerd.image.name":"docker.io/library/multi:1"}"#
            )
        );
        let mut tar = Tar::new()
            .file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)
            .file("index.json", top.as_bytes())
            .file(&blob(index.as_bytes()), index.as_bytes());
        for bytes in [&ours.0, &ours.1, &manifest, &other.0, &other.1, &other.2] {
            tar = tar.file(&blob(bytes), bytes);
        }
        tar.finish()
    };
    let loaded = scratch.load(&archive(["s390x", host], "layer.v1.tar+gzip")).unwrap();
    assert_eq!(names(&loaded), ["multi:1"]);
    assert_eq!(loaded[0].id, wharf_content::digest_of(&ours.1));
    // What belongs to the other platform was not kept.
    assert!(!scratch.data().join("content").join(blob(&other.0)).exists());

    let error = scratch.load(&archive(["s390x", "riscv64"], "layer.v1.tar+gzip")).unwrap_err().to_string();
    assert!(error.contains(&format!("no matching manifest for linux/{host}")), "{error}");
    let error = scratch.load(&archive(["s390x", host], "layer.v1.tar+zstd")).unwrap_err().to_string();
    assert!(error.contains("is announced as"), "{error}");
}

fn support_layer(name: &str) -> Vec<u8> {
    layer(name)
}

#[test]
fn a_load_takes_names_over() {
    let scratch = Scratch::new();
    let (one, two) = (layer("one"), layer("two"));
    let first = scratch.load(&docker_archive("app:1", &[&one])).unwrap();
    let second = scratch.load(&docker_archive("app:1", &[&two])).unwrap();
    assert_eq!(first[0].replaced, None);
    assert_eq!(second[0].replaced, Some(first[0].id));
    assert_eq!(scratch.images.resolve(&first[0].id.to_string()).unwrap().references, []);
    assert_eq!(scratch.images.list().unwrap().len(), 2);
}

#[test]
fn import_makes_an_image_with_the_changes() {
    let scratch = Scratch::new();
    let options = ImportOptions {
        reference: Some("me/root".parse().unwrap()),
        message: "Imported from -".to_owned(),
        changes: vec![
            "CMD [\"sh\"]".to_owned(),
            "ENV A=b".to_owned(),
            "WORKDIR /w".to_owned(),
            "HEALTHCHECK --retries=3 CMD true".to_owned(),
        ],
        platform: Some("linux/arm64/v8".to_owned()),
    };
    let id = scratch.images.import(&mut &layer("x")[..], options.clone()).unwrap();
    let image = scratch.images.resolve("me/root").unwrap();
    assert_eq!(image.id, id);
    let config = image.config.config().as_ref().unwrap();
    assert_eq!(config.cmd().as_ref().unwrap(), &["sh"]);
    assert_eq!(config.env().as_ref().unwrap(), &["A=b"]);
    assert_eq!(image.config.architecture().to_string(), "arm64");
    assert_eq!(image.docker.comment, "Imported from -");
    assert_eq!(image.docker.healthcheck.unwrap().retries, 3);
    assert_eq!(scratch.images.history("me/root").unwrap()[0].comment, "Imported from -");

    for (change, platform) in
        [("RUN true", None), ("CMD x", Some("windows/amd64")), ("CMD x", Some("a/b/c/d"))]
    {
        let options = ImportOptions {
            changes: vec![change.to_owned()],
            platform: platform.map(str::to_owned),
            ..ImportOptions::default()
        };
        let error = scratch.images.import(&mut &layer("x")[..], options).unwrap_err();
        assert!(matches!(error, Error::Invalid(_)), "{error}");
    }
    for bytes in [&b""[..], b"hello"] {
        assert!(matches!(scratch.import(bytes).unwrap_err(), Error::Archive { .. }));
    }
}

#[test]
fn the_built_in_image_is_the_same_each_time() {
    let scratch = Scratch::new();
    let binary = scratch.dir.path().join("wharf-hello");
    fs::write(&binary, "#!/bin/true").unwrap();
    let name: Reference = "hello-world".parse().unwrap();
    let id = scratch.images.builtin(&name, &binary).unwrap();
    assert_eq!(scratch.images.builtin(&name, &binary).unwrap(), id);
    let image = scratch.images.resolve("hello-world").unwrap();
    assert_eq!(image.config.config().as_ref().unwrap().cmd().as_ref().unwrap(), &["/hello"]);
    assert!(scratch.top(&id).join("hello").exists());
    let removed = scratch.images.remove("hello-world", false, &|_| Vec::new()).unwrap();
    assert_eq!(removed[..2], [Removed::Untagged("hello-world:latest".to_owned()), Removed::Deleted(id)]);
    scratch.check_empty("removal of the built-in image");
}

#[test]
fn the_content_directory_is_an_image_layout() {
    let scratch = Scratch::new();
    let base = layer("base");
    scratch.load(&docker_archive_of(&[("app:1", &[&base]), ("", &[&base, &layer("top")])])).unwrap();
    let content = scratch.data().join("content");
    let index: serde_json::Value =
        serde_json::from_slice(&fs::read(content.join("index.json")).unwrap()).unwrap();
    let manifests = index["manifests"].as_array().unwrap();
    assert_eq!(manifests.len(), 2);
    assert_eq!(manifests[0]["annotations"]["org.opencontainers.image.ref.name"], "app:1");
    for manifest in manifests {
        let bytes = |digest: &serde_json::Value| {
            fs::read(content.join("blobs/sha256").join(&digest.as_str().unwrap()["sha256:".len()..])).unwrap()
        };
        let document: serde_json::Value = serde_json::from_slice(&bytes(&manifest["digest"])).unwrap();
        bytes(&document["config"]["digest"]);
        for layer in document["layers"].as_array().unwrap() {
            assert_eq!(bytes(&layer["digest"]).len() as u64, layer["size"].as_u64().unwrap());
        }
    }
    assert!(Path::new(&content.join("oci-layout")).exists());
}
