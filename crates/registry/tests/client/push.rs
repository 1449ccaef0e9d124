//! Uploads.

use std::io::{Cursor, Read};
use std::sync::{Arc, Mutex};

use wharf_content::{digest_of, spec};
use wharf_registry::{Access, BlobSource, Config, Error, Pushed, Target};

use crate::support::{Exchange, FakeRegistry, blob_of, client, config, manifest_of, noise, repository};

/// A blob in memory.
pub(crate) struct Memory(Arc<Vec<u8>>);

impl Memory {
    pub(crate) fn new(bytes: &[u8]) -> Self {
        Self(Arc::new(bytes.to_vec()))
    }
}

impl BlobSource for Memory {
    fn open(&self, from: u64) -> std::io::Result<Box<dyn Read + Send>> {
        let from = usize::try_from(from).unwrap();
        Ok(Box::new(Cursor::new(self.0[from..].to_vec())))
    }
}

/// A registry that takes uploads. `breaks` says after how many bytes the nth PATCH breaks.
struct Uploads {
    registry: FakeRegistry,
    stored: Arc<Mutex<Vec<u8>>>,
}

impl Uploads {
    fn start(breaks: &'static [u64], remembers: bool) -> Self {
        let stored: Arc<Mutex<Vec<u8>>> = Arc::default();
        let there = Arc::clone(&stored);
        let patches = Mutex::new(0);
        let registry = FakeRegistry::start(move |exchange: &mut Exchange<'_>| {
            let mut stored = there.lock().unwrap();
            let range = format!("0-{}", stored.len().saturating_sub(1));
            match exchange.head.method.as_str() {
                "HEAD" => exchange.answer(404, &[], b""),
                "POST" => {
                    stored.clear();
                    exchange.answer(202, &[("location", "/v2/a/b/blobs/uploads/1?_state=s")], b"");
                }
                "GET" if remembers => {
                    exchange.answer(
                        204,
                        &[("location", "/v2/a/b/blobs/uploads/1?_state=t"), ("range", &range)],
                        b"",
                    );
                }
                "GET" => {
                    exchange.answer(404, &[], br#"{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN","message":"x"}]}"#)
                }
                "PATCH" => {
                    if let Some(range) = exchange.head.header("content-range") {
                        assert_eq!(range.split('-').next().unwrap(), stored.len().to_string());
                    }
                    let nth = std::mem::replace(&mut *patches.lock().unwrap(), 0);
                    *patches.lock().unwrap() = nth + 1;
                    if let Some(limit) = breaks.get(nth) {
                        stored.extend(exchange.body(*limit));
                        return;
                    }
                    stored.extend(exchange.whole_body());
                    let range = format!("0-{}", stored.len() - 1);
                    exchange.answer(
                        202,
                        &[("location", "/v2/a/b/blobs/uploads/1?_state=u"), ("range", &range)],
                        b"",
                    );
                }
                "PUT" => {
                    stored.extend(exchange.whole_body());
                    let digest = digest_of(&stored).to_string();
                    let wanted = exchange.head.target.ends_with(&format!("&digest={digest}"));
                    exchange.answer(
                        if wanted { 201 } else { 400 },
                        &[("docker-content-digest", &digest)],
                        b"",
                    );
                }
                _ => exchange.answer(405, &[], b""),
            }
        });
        Self { registry, stored }
    }

    fn methods(&self) -> Vec<String> {
        self.registry.seen().into_iter().map(|head| head.method).collect()
    }
}

#[tokio::test]
async fn small_blobs_go_in_one_request_and_large_ones_in_a_stream() {
    for (size, methods) in [(0, "HEAD POST PUT"), (1000, "HEAD POST PUT"), (3_000_000, "HEAD POST PATCH PUT")]
    {
        let bytes = noise(size);
        let uploads = Uploads::start(&[], true);
        let mut last = 0;
        let repository = uploads.registry.repository(Access::Push);
        let pushed =
            repository.push_blob(&blob_of(&bytes), &Memory::new(&bytes), None, &mut |at| last = at).await;
        assert_eq!(pushed.unwrap(), Pushed::Uploaded);
        assert_eq!(uploads.methods().join(" "), methods);
        assert!(*uploads.stored.lock().unwrap() == bytes);
        assert_eq!(last, size as u64);
    }
}

#[tokio::test]
async fn a_broken_upload_goes_on_where_the_registry_has_it() {
    let bytes = noise(5_000_000);
    let uploads = Uploads::start(&[1_500_000, 2_000_000], true);
    let repository = uploads.registry.repository(Access::Push);
    let pushed = repository.push_blob(&blob_of(&bytes), &Memory::new(&bytes), None, &mut |_| {}).await;
    assert_eq!(pushed.unwrap(), Pushed::Uploaded);
    assert!(*uploads.stored.lock().unwrap() == bytes);
    assert_eq!(uploads.methods().join(" "), "HEAD POST PATCH GET PATCH GET PATCH PUT");
    assert_eq!(uploads.registry.seen()[4].header("content-range"), Some("1500000-4999999"));
}

#[tokio::test]
async fn an_upload_that_the_registry_forgot_starts_again() {
    let bytes = noise(2_000_000);
    let uploads = Uploads::start(&[700_000], false);
    let repository = uploads.registry.repository(Access::Push);
    repository.push_blob(&blob_of(&bytes), &Memory::new(&bytes), None, &mut |_| {}).await.unwrap();
    assert!(*uploads.stored.lock().unwrap() == bytes);
    assert_eq!(uploads.methods().join(" "), "HEAD POST PATCH GET POST PATCH PUT");
}

#[tokio::test]
async fn an_upload_that_breaks_at_once_again_and_again_ends() {
    let bytes = noise(2_000_000);
    let uploads = Uploads::start(&[10; 100], true);
    let repository = uploads.registry.repository(Access::Push);
    let error =
        repository.push_blob(&blob_of(&bytes), &Memory::new(&bytes), None, &mut |_| {}).await.unwrap_err();
    assert!(matches!(error, Error::Network { .. }), "{error}");
}

#[tokio::test]
async fn uploads_can_go_in_chunks() {
    let bytes = noise(2_500_000);
    let uploads = Uploads::start(&[], true);
    let client = client(Config { upload_chunk: 1_000_000, ..config() });
    let repository = repository(&client, &uploads.registry.host(), Access::Push, None);
    repository.push_blob(&blob_of(&bytes), &Memory::new(&bytes), None, &mut |_| {}).await.unwrap();
    assert!(*uploads.stored.lock().unwrap() == bytes);
    assert_eq!(uploads.methods().join(" "), "HEAD POST PATCH PATCH PATCH PUT");
}

#[tokio::test]
async fn a_source_that_is_short_is_an_error_and_not_a_blob() {
    for size in [1000, 2_000_000] {
        let bytes = noise(size);
        let uploads = Uploads::start(&[], true);
        let repository = uploads.registry.repository(Access::Push);
        let short = Memory::new(&bytes[..size - 1]);
        let error = repository.push_blob(&blob_of(&bytes), &short, None, &mut |_| {}).await.unwrap_err();
        assert!(matches!(error, Error::Source { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_blob_is_mounted_where_the_registry_can() {
    let bytes = noise(1000);
    let digest = digest_of(&bytes);
    let registry = FakeRegistry::start(|exchange: &mut Exchange<'_>| match exchange.head.method.as_str() {
        "POST" => exchange.answer(201, &[("location", "/v2/a/b/blobs/x")], b""),
        _ => exchange.answer(404, &[], b""),
    });
    let repository = registry.repository(Access::Push);
    let pushed = repository.push_blob(&blob_of(&bytes), &Memory::new(&bytes), Some("c/d"), &mut |_| {}).await;
    assert_eq!(pushed.unwrap(), Pushed::Mounted);
    assert_eq!(registry.lines()[1], format!("POST /v2/a/b/blobs/uploads/?mount={digest}&from=c%2Fd"));

    let uploads = Uploads::start(&[], true);
    let repository = uploads.registry.repository(Access::Push);
    let pushed = repository.push_blob(&blob_of(&bytes), &Memory::new(&bytes), Some("c/d"), &mut |_| {}).await;
    assert_eq!(pushed.unwrap(), Pushed::Uploaded);
    assert_eq!(uploads.methods().join(" "), "HEAD POST PUT");
}

#[tokio::test]
async fn a_manifest_is_stored_under_the_digest_it_has() {
    let manifest = manifest_of(b"{}");
    let digest = digest_of(&manifest);
    let registry = FakeRegistry::start(move |exchange: &mut Exchange<'_>| {
        let reported = if exchange.head.target.ends_with("/lie") { digest_of(b"x") } else { digest };
        exchange.answer(201, &[("docker-content-digest", &reported.to_string())], b"");
    });
    let repository = registry.repository(Access::Push);
    repository.put_manifest(&Target::Tag("t".into()), spec::MANIFEST, &manifest).await.unwrap();
    assert_eq!(registry.seen()[0].header("content-type"), Some(spec::MANIFEST));
    for target in [Target::Tag("lie".into()), Target::Digest(digest_of(b"y"))] {
        let error = repository.put_manifest(&target, spec::MANIFEST, &manifest).await.unwrap_err();
        assert!(matches!(error, Error::Mismatch { .. }), "{error}");
    }
    assert_eq!(registry.seen().len(), 2);
}

#[tokio::test]
async fn a_registry_without_referrers_gets_the_tag_that_stands_for_them() {
    let mut body: serde_json::Value = serde_json::from_slice(&manifest_of(b"{}")).unwrap();
    body["subject"] = serde_json::to_value(blob_of(b"subject")).unwrap();
    let manifest = serde_json::to_vec(&body).unwrap();
    for (keeps, requests) in [(true, 1), (false, 3)] {
        let lists: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
        let there = Arc::clone(&lists);
        let registry = FakeRegistry::start(move |exchange: &mut Exchange<'_>| {
            if exchange.head.method == "PUT" && exchange.head.target.contains("sha256-") {
                there.lock().unwrap().push(exchange.whole_body());
            }
            match exchange.head.method.as_str() {
                "PUT" if keeps => exchange.answer(201, &[("oci-subject", "x")], b""),
                "PUT" => exchange.answer(201, &[], b""),
                _ => exchange.answer(404, &[], b""),
            }
        });
        let repository = registry.repository(Access::Push);
        repository.put_manifest(&Target::Tag("t".into()), spec::MANIFEST, &manifest).await.unwrap();
        assert_eq!(registry.lines().len(), requests);
        if !keeps {
            let list = lists.lock().unwrap().remove(0);
            let index = spec::Index::parse(&list, spec::INDEX).unwrap();
            assert_eq!(index.manifests[0].digest, digest_of(&manifest));
            assert_eq!(index.manifests[0].artifact_type.as_deref(), Some(spec::CONFIG));
        }
    }
}

#[tokio::test]
async fn deleting_says_what_the_registry_cannot() {
    let registry = FakeRegistry::start(|exchange: &mut Exchange<'_>| match exchange.nth {
        0 => exchange.answer(202, &[], b""),
        _ => exchange.answer(405, &[], br#"{"errors":[{"code":"UNSUPPORTED","message":"no"}]}"#),
    });
    let repository = registry.repository(Access::Delete);
    repository.delete_manifest(&Target::Tag("t".into())).await.unwrap();
    let error = repository.delete_manifest(&Target::Tag("t".into())).await.unwrap_err();
    assert!(matches!(&error, Error::NotImplemented(text) if text == "unsupported: no"), "{error}");
}
