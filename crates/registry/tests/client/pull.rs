//! Manifests, blobs, tags, referrers.

use std::sync::Arc;
use std::time::Duration;

use wharf_content::{digest_of, spec};
use wharf_registry::{Access, Config, Error, Target, Timeouts};

use crate::support::{Exchange, FakeRegistry, blob_of, client, config, manifest_of, noise, read, repository};

fn tag() -> Target {
    Target::Tag("latest".into())
}

/// Serves one blob with ranges, and cuts each connection after `cut` bytes.
fn cutting(bytes: Arc<Vec<u8>>, cut: usize, ranges: bool) -> FakeRegistry {
    FakeRegistry::start(move |exchange: &mut Exchange<'_>| {
        let from = exchange.head.header("range").and_then(|range| {
            range
                .strip_prefix("bytes=")
                .and_then(|range| range.strip_suffix('-'))
                .and_then(|from| from.parse().ok())
        });
        let total = bytes.len();
        let from: usize = if ranges { from.unwrap_or(0) } else { 0 };
        let mut head = if from == 0 {
            "HTTP/1.1 200 OK\r\n".to_owned()
        } else {
            format!("HTTP/1.1 206 Partial\r\ncontent-range: bytes {from}-{}/{total}\r\n", total - 1)
        };
        head.push_str(&format!("content-length: {}\r\n\r\n", total - from));
        exchange.raw(head.as_bytes());
        exchange.raw(&bytes[from..total.min(from + cut)]);
    })
}

#[tokio::test]
async fn im_13_a_download_goes_on_where_the_connection_broke() {
    let bytes = Arc::new(noise(1_000_000));
    let registry = cutting(Arc::clone(&bytes), 150_000, true);
    let download = registry.repository(Access::Pull).blob(&blob_of(&bytes), 0).await.unwrap();
    assert!(read(download).await.unwrap() == *bytes);
    let ranges: Vec<_> = registry.seen().iter().map(|head| head.header("range").map(str::to_owned)).collect();
    assert_eq!(ranges.len(), 7);
    assert_eq!(ranges[1].as_deref(), Some("bytes=150000-"));
    assert_eq!(ranges[6].as_deref(), Some("bytes=900000-"));
}

#[tokio::test]
async fn a_server_that_ignores_ranges_is_read_from_the_start_again() {
    let bytes = Arc::new(noise(300_000));
    let registry = cutting(Arc::clone(&bytes), usize::MAX, false);
    let download = registry.repository(Access::Pull).blob(&blob_of(&bytes), 123_456).await.unwrap();
    assert!(read(download).await.unwrap() == bytes[123_456..]);
}

#[tokio::test]
async fn im_13_a_stream_that_never_gets_further_ends_in_an_error() {
    let bytes = Arc::new(noise(300_000));
    let registry = cutting(Arc::clone(&bytes), 1000, true);
    let download = registry.repository(Access::Pull).blob(&blob_of(&bytes), 0).await.unwrap();
    assert!(matches!(read(download).await, Err(Error::Network { .. })));
    assert!(registry.seen().len() < 50, "{}", registry.seen().len());
}

#[tokio::test]
async fn im_11_lies_about_ranges_and_sizes_are_errors() {
    let bytes = noise(1000);
    let blob = blob_of(&bytes);
    for answer in [
        "HTTP/1.1 206 X\r\ncontent-range: bytes 0-899/1000\r\ncontent-length: 900\r\n\r\n",
        "HTTP/1.1 206 X\r\ncontent-range: bytes 100-999/5000\r\ncontent-length: 900\r\n\r\n",
        "HTTP/1.1 206 X\r\ncontent-range: bytes 100-1999/2000\r\ncontent-length: 1900\r\n\r\n",
        "HTTP/1.1 206 X\r\ncontent-range: bytes 100-999/1000\r\ncontent-length: 5\r\n\r\n",
        "HTTP/1.1 206 X\r\ncontent-length: 900\r\n\r\n",
        "HTTP/1.1 200 X\r\ncontent-length: 1001\r\n\r\n",
        "HTTP/1.1 200 X\r\ncontent-encoding: gzip\r\ncontent-length: 1000\r\n\r\n",
        "HTTP/1.1 204 X\r\n\r\n",
    ] {
        let registry = FakeRegistry::start(move |exchange: &mut Exchange<'_>| {
            exchange.raw(answer.as_bytes());
            exchange.raw(&[0; 900]);
        });
        let error = registry.repository(Access::Pull).blob(&blob, 100).await.unwrap_err();
        assert!(matches!(error, Error::Protocol { .. }), "{answer}: {error}");
    }
}

#[tokio::test]
async fn im_09_a_blob_without_end_is_cut_at_its_size() {
    let bytes = noise(70_000);
    let blob = blob_of(&bytes);
    let registry = FakeRegistry::start(move |exchange: &mut Exchange<'_>| {
        exchange.raw(b"HTTP/1.1 200 X\r\ntransfer-encoding: chunked\r\n\r\n");
        while exchange.raw(b"400\r\n") && exchange.raw(&[7; 0x400]) && exchange.raw(b"\r\n") {}
    });
    let download = registry.repository(Access::Pull).blob(&blob, 0).await.unwrap();
    let error = read(download).await.unwrap_err();
    assert!(matches!(&error, Error::Protocol { what, .. } if what.contains("more")), "{error}");
}

#[tokio::test]
async fn im_09_documents_are_bounded_before_they_are_kept() {
    for head in ["content-length: 1073741824\r\n\r\n", "transfer-encoding: chunked\r\n\r\n"] {
        let registry = FakeRegistry::start(move |exchange: &mut Exchange<'_>| {
            exchange.raw(b"HTTP/1.1 200 X\r\ncontent-type: application/vnd.oci.image.manifest.v1+json\r\n");
            exchange.raw(head.as_bytes());
            while exchange.raw(b"10000\r\n") && exchange.raw(&[b' '; 0x10000]) && exchange.raw(b"\r\n") {}
        });
        let error = registry.repository(Access::Pull).manifest(&tag()).await.unwrap_err();
        assert!(matches!(error, Error::Limit { limit: 4_194_304, .. }), "{error}");
    }
}

#[tokio::test]
async fn im_09_a_drip_ends_although_bytes_come() {
    let registry = FakeRegistry::start(|exchange: &mut Exchange<'_>| {
        exchange.raw(b"HTTP/1.1 200 X\r\ncontent-length: 100000\r\n\r\n");
        while exchange.raw(b" ") {
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    let quick = Timeouts {
        idle: Duration::from_millis(300),
        document: Duration::from_millis(400),
        ..config().timeouts
    };
    let client = client(Config { timeouts: quick, retries: 1, ..config() });
    let repository = repository(&client, &registry.host(), Access::Pull, None);
    assert!(matches!(repository.manifest(&tag()).await.unwrap_err(), Error::Deadline { .. }));
    let download = repository.blob(&blob_of(&noise(100_000)), 0).await.unwrap();
    assert!(matches!(read(download).await.unwrap_err(), Error::Deadline { .. }));
}

#[tokio::test]
async fn im_09_lists_that_do_not_end_are_given_up() {
    let registry = FakeRegistry::start(|exchange: &mut Exchange<'_>| {
        let next = format!("</v2/a/b/tags/list?n=1&last={}>; rel=\"next\"", exchange.nth);
        exchange.answer(200, &[("link", &next)], br#"{"name":"a/b","tags":["t"]}"#);
    });
    assert!(matches!(registry.repository(Access::Pull).tags().await.unwrap_err(), Error::Limit { .. }));

    let same = FakeRegistry::start(|exchange: &mut Exchange<'_>| {
        let next = format!("<{}>; rel=\"next\"", exchange.head.target);
        exchange.answer(200, &[("link", &next)], br#"{"name":"a/b","tags":null}"#);
    });
    assert!(matches!(same.repository(Access::Pull).tags().await.unwrap_err(), Error::Protocol { .. }));
}

#[tokio::test]
async fn tags_follow_their_pages() {
    let registry = FakeRegistry::start(|exchange: &mut Exchange<'_>| match exchange.nth {
        0 => exchange.answer(
            200,
            &[("link", "</v2/a/b/tags/list?n=1&last=x>; rel=\"next\"")],
            br#"{"tags":["x"]}"#,
        ),
        _ => exchange.answer(200, &[], br#"{"name":"a/b","tags":["y","z"]}"#),
    });
    assert_eq!(registry.repository(Access::Pull).tags().await.unwrap(), ["x", "y", "z"]);
    assert_eq!(registry.lines()[1], "GET /v2/a/b/tags/list?n=1&last=x");
}

#[tokio::test]
async fn im_11_every_document_is_checked_against_every_digest() {
    let good = manifest_of(b"{}");
    let digest = digest_of(&good);
    for at in [0, good.len() / 2, good.len() - 1] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        let registry = FakeRegistry::start(move |exchange: &mut Exchange<'_>| {
            exchange.answer(200, &[("content-type", spec::MANIFEST)], &bad);
        });
        let error = registry.repository(Access::Pull).manifest(&Target::Digest(digest)).await.unwrap_err();
        assert!(matches!(error, Error::Mismatch { expected, .. } if expected == digest), "{error}");
    }
    for (reported, by_digest, wanted) in [
        (digest.to_string(), true, "ok"),
        (digest_of(b"other").to_string(), true, "mismatch"),
        (digest_of(b"other").to_string(), false, "mismatch"),
        ("sha256:../../x".to_owned(), true, "protocol"),
        (format!("sha256:{}", digest.hex().to_uppercase()), true, "protocol"),
        (format!("sha512:{0}{0}", digest.hex()), false, "ok"),
    ] {
        let (bytes, header) = (good.clone(), reported.clone());
        let registry = FakeRegistry::start(move |exchange: &mut Exchange<'_>| {
            let headers = [("content-type", spec::MANIFEST), ("docker-content-digest", header.as_str())];
            exchange.answer(200, &headers, &bytes);
        });
        let target = if by_digest { Target::Digest(digest) } else { tag() };
        for found in [
            registry.repository(Access::Pull).manifest(&target).await.map(|document| document.descriptor),
            registry.repository(Access::Pull).resolve(&Target::Digest(digest)).await,
        ]
        .into_iter()
        .take(if by_digest { 2 } else { 1 })
        {
            let found = match found {
                Ok(descriptor) if descriptor.digest == digest => "ok",
                Err(Error::Mismatch { .. }) => "mismatch",
                Err(Error::Protocol { .. }) => "protocol",
                other => panic!("{other:?}"),
            };
            assert_eq!(found, wanted, "{reported}");
        }
    }
}

#[tokio::test]
async fn im_10_a_media_type_that_flips_between_pulls_is_noticed() {
    let manifest = manifest_of(b"{}");
    let digest = digest_of(&manifest);
    let registry = FakeRegistry::start(move |exchange: &mut Exchange<'_>| {
        let media_type = if exchange.nth == 0 { spec::MANIFEST } else { spec::INDEX };
        exchange.answer(200, &[("content-type", media_type)], &manifest);
    });
    let repository = registry.repository(Access::Pull);
    let document = repository.manifest(&Target::Digest(digest)).await.unwrap();
    assert_eq!(document.descriptor.media_type, spec::MANIFEST);
    assert!(matches!(
        repository.manifest(&Target::Digest(digest)).await.unwrap_err(),
        Error::Protocol { .. }
    ));
}

#[tokio::test]
async fn resolving_asks_for_the_head_and_reads_the_body_only_when_it_must() {
    let manifest = manifest_of(b"{}");
    let digest = digest_of(&manifest);
    let registry = FakeRegistry::start(move |exchange: &mut Exchange<'_>| {
        let headers = [("content-type", spec::MANIFEST), ("docker-content-digest", &*digest.to_string())];
        let terse = exchange.nth > 0 && exchange.head.method == "HEAD";
        exchange.answer(200, if terse { &[] } else { &headers }, &manifest);
    });
    let repository = registry.repository(Access::Pull);
    let first = repository.resolve(&tag()).await.unwrap();
    assert_eq!(registry.lines(), ["HEAD /v2/a/b/manifests/latest"]);
    assert_eq!(repository.resolve(&tag()).await.unwrap(), first);
    assert_eq!(registry.lines().len(), 3);
}

#[tokio::test]
async fn what_is_not_there_is_said_in_the_registrys_words() {
    let registry = FakeRegistry::start(|exchange: &mut Exchange<'_>| {
        let body = br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#;
        exchange.answer(404, &[], body);
    });
    let repository = registry.repository(Access::Pull);
    let error = repository.resolve(&tag()).await.unwrap_err();
    assert_eq!(error.to_string(), "manifest unknown: manifest unknown");
    assert!(matches!(error, Error::NotFound { .. }));
    assert!(!repository.has_blob(&digest_of(b"x")).await.unwrap());
    assert!(repository.manifest(&Target::Tag("../../x".into())).await.is_err());
}

#[tokio::test]
async fn a_busy_registry_is_asked_again_when_it_says() {
    let registry = FakeRegistry::start(|exchange: &mut Exchange<'_>| match exchange.nth {
        0 => exchange.answer(429, &[("retry-after", "0")], b""),
        1 => exchange.answer(503, &[("retry-after", "Sun, 06 Nov 1994 08:49:37 GMT")], b""),
        2 => {}
        _ => exchange.answer(200, &[], br#"{"tags":["x"]}"#),
    });
    assert_eq!(registry.repository(Access::Pull).tags().await.unwrap(), ["x"]);
    assert_eq!(registry.seen().len(), 4);

    let patient = FakeRegistry::start(|exchange: &mut Exchange<'_>| {
        exchange.answer(429, &[("retry-after", "3600")], b"")
    });
    let error = patient.repository(Access::Pull).tags().await.unwrap_err();
    assert!(
        matches!(error, Error::TooManyRequests { after: Some(after), .. } if after.as_secs() == 3600),
        "{error}"
    );
    assert_eq!(patient.seen().len(), 1);
}

#[tokio::test]
async fn referrers_come_from_the_list_or_from_the_tag_that_stands_for_it() {
    let subject = digest_of(b"subject");
    let mut listed = blob_of(b"one");
    listed.artifact_type = Some("sig".into());
    let other = blob_of(b"two");
    let index = spec::Index { manifests: vec![listed.clone(), other], ..spec::Index::default() };
    let body = spec::to_json(&index);
    for by_tag in [false, true] {
        let body = body.clone();
        let registry = FakeRegistry::start(move |exchange: &mut Exchange<'_>| {
            if exchange.head.target.contains("/referrers/") == by_tag {
                exchange.answer(404, &[], b"");
            } else {
                exchange.answer(200, &[("content-type", spec::INDEX)], &body);
            }
        });
        let repository = registry.repository(Access::Pull);
        assert_eq!(repository.referrers(&subject, None).await.unwrap().manifests.len(), 2);
        assert_eq!(repository.referrers(&subject, Some("sig")).await.unwrap().manifests, [listed.clone()]);
        if by_tag {
            assert_eq!(registry.lines()[1], format!("GET /v2/a/b/manifests/sha256-{}", subject.hex()));
        }
    }
    let none = FakeRegistry::start(|exchange: &mut Exchange<'_>| exchange.answer(404, &[], b""));
    assert!(none.repository(Access::Pull).referrers(&subject, None).await.unwrap().manifests.is_empty());
}

#[tokio::test]
async fn connections_are_used_again() {
    let connections = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = Arc::clone(&connections);
    let registry = FakeRegistry::start_with(
        move |stream| {
            // One that asks for TLS comes first and is let down.
            let mut first = [0];
            (stream.peek(&mut first).ok()? == 1 && first[0] != 0x16).then_some(())?;
            counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            Some(Box::new(stream))
        },
        |exchange: &mut Exchange<'_>| exchange.answer(200, &[], br#"{"tags":[]}"#),
    );
    let repository = registry.repository(Access::Pull);
    for _ in 0..5 {
        repository.tags().await.unwrap();
    }
    assert_eq!(connections.load(std::sync::atomic::Ordering::Relaxed), 1);
}

#[test]
fn calls_can_be_spawned() {
    fn sendable<T: Send>(_: T) {}
    let registry = FakeRegistry::start(|_| {});
    let repository = registry.repository(Access::Push);
    let (target, blob) = (tag(), blob_of(b"x"));
    sendable(repository.resolve(&target));
    sendable(repository.manifest(&target));
    sendable(repository.blob(&blob, 0));
    sendable(repository.tags());
    sendable(repository.referrers(&blob.digest, None));
    sendable(repository.put_manifest(&target, "x", b""));
    sendable(repository.push_blob(&blob, &crate::push::Memory::new(b"x"), None, &mut |_| {}));
    sendable(async { client(config()).login("x", &crate::support::password()).await });
}
