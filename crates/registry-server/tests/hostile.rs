//! Hostile clients, by the rows of the attack catalogue.
#![allow(clippy::unwrap_used, reason = "a failing helper is a failing test")]

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;
use support::*;
use wharf_content::digest_of;
use wharf_registry_server::Options;

/// The largest growth of a registry under attack.
const CAP: u64 = 64 << 20;

#[test]
fn rs_01_page_sizes_are_numbers_and_capped() {
    let process = Process::start(&[]);
    let server = &process.server;
    let repo = server.repository();
    let (manifest, _) = repo.push_image("t0", b"x");
    for n in 1..20 {
        repo.put_manifest(&format!("t{n}"), MANIFEST, &manifest).expect(201);
    }
    let before = process.memory();
    for list in ["/v2/_catalog", &repo.at("tags/list"), &repo.at(&format!("referrers/{}", digest_of(b"x")))] {
        for n in [
            "2147483648",
            "4294967296",
            "9223372036854775807",
            "18446744073709551615",
            "99999999999999999999",
        ] {
            server.get(&format!("{list}?n={n}")).expect(200);
        }
        for n in ["-1", "text", "1e9", "0x10", "", "%00", "+1", "1.5", "99999999999999999999999"] {
            server.get(&format!("{list}?n={n}")).expect_error(400, "UNSUPPORTED");
        }
        for last in [&*"a".repeat(300), "%00", "..%2f%2e%2e%5c", "%ff"] {
            server.get(&format!("{list}?last={last}")).expect_error(400, "UNSUPPORTED");
        }
    }
    assert!(process.memory() < before + CAP);
}

#[test]
fn rs_01_no_page_is_larger_than_the_registrys() {
    let server = Server::with(Options { page: 5, ..Options::default() });
    let repo = server.repository();
    let (manifest, _) = repo.push_image("t0", b"x");
    for n in 1..20 {
        repo.put_manifest(&format!("t{n}"), MANIFEST, &manifest).expect(201);
    }
    for n in ["6", "2147483648", "18446744073709551615"] {
        let answer = repo.get(&format!("tags/list?n={n}"));
        assert_eq!(answer.json()["tags"].as_array().map(Vec::len), Some(5), "{n}");
        assert!(answer.header("link").is_some(), "{n}");
    }
}

#[test]
fn rs_01_a_manifest_of_a_gigabyte_is_refused_before_it_is_read() {
    let process = Process::start(&[]);
    let repo = process.server.repository();
    let before = process.memory();
    let target = repo.at("manifests/v1");
    // Said beforehand: answered without reading.
    let mut connection = Connection::open(process.server.address).unwrap();
    let head = format!(
        "PUT {target} HTTP/1.1\r\nhost: x\r\ncontent-type: {MANIFEST}\r\ncontent-length: 1073741824\r\n\r\n"
    );
    connection.write(head.as_bytes()).unwrap();
    connection.answer(false).unwrap().expect_error(413, "SIZE_INVALID");
    // Not said: read up to the limit.
    let mut connection = Connection::open(process.server.address).unwrap();
    let head = format!(
        "PUT {target} HTTP/1.1\r\nhost: x\r\ncontent-type: {MANIFEST}\r\ntransfer-encoding: chunked\r\n\r\n"
    );
    connection.write(head.as_bytes()).unwrap();
    let sent = send_without_end(&mut connection, 1 << 30);
    assert!(sent < 64 << 20, "{sent} bytes were taken");
    if let Ok(answer) = connection.answer(false) {
        answer.expect_error(413, "SIZE_INVALID");
    }
    assert!(process.memory() < before + CAP);
}

#[test]
fn rs_01_an_endless_upload_stops_at_the_limit_and_leaves_nothing() {
    let process = Process::start(&["--max-blob-size", "20MiB"]);
    let repo = process.server.repository();
    let location = repo.begin();
    let before = process.memory();
    let mut connection = Connection::open(process.server.address).unwrap();
    let head = format!("PATCH {location} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n");
    connection.write(head.as_bytes()).unwrap();
    let sent = send_without_end(&mut connection, 1 << 30);
    assert!(sent < 128 << 20, "{sent} bytes were taken");
    if let Ok(answer) = connection.answer(false) {
        answer.expect_error(413, "SIZE_INVALID");
    }
    wharf_testkit::wait_until("the upload to end", wharf_testkit::PATIENCE, || {
        process.server.get(&location).status == 404
    });
    assert!(process.memory() < before + CAP);
    let left = std::fs::read_dir(process.data().join("ingest")).unwrap().count();
    assert_eq!(left, 0);
}

/// Chunks of zeroes until the server takes no more, or `max`.
fn send_without_end(connection: &mut Connection, max: u64) -> u64 {
    let mut chunk = b"100000\r\n".to_vec();
    chunk.resize(chunk.len() + (1 << 20), 0);
    chunk.extend_from_slice(b"\r\n");
    let mut sent = 0;
    while sent < max && connection.write(&chunk).is_ok() {
        sent += 1 << 20;
    }
    sent
}

#[test]
fn rs_04_what_is_deleted_in_one_repository_stays_deleted_through_kills_and_collection() {
    // The collector runs from the first moment and after each deletion.
    let mut process = Process::start(&["--grace", "0s"]);
    let (a, b) = (process.server.repository().name, process.server.repository().name);
    let mut deleted: BTreeSet<String> = BTreeSet::new();
    let mut kept: Vec<(String, Vec<u8>)> = Vec::new();
    for round in 0..6 {
        let layer = fresh(50_000);
        let digest = digest_of(&layer).to_string();
        {
            let server = &process.server;
            let (a, b) = (Repo { server, name: a.clone() }, Repo { server, name: b.clone() });
            let (manifest, image) = a.push_image(&format!("v{round}"), &layer);
            let target = format!("blobs/uploads/?mount={digest}&from={}", a.name);
            b.ask("POST", &target, &[], b"").expect(201);
            let config = manifest["config"]["digest"].as_str().unwrap();
            b.ask("POST", &format!("blobs/uploads/?mount={config}&from={}", a.name), &[], b"").expect(201);
            b.put_manifest(&format!("v{round}"), MANIFEST, &manifest).expect(201);
            a.ask("DELETE", &format!("manifests/{image}"), &[], b"").expect(202);
            // The collector may have been there first.
            let status = a.ask("DELETE", &format!("blobs/{digest}"), &[], b"").status;
            assert!(status == 202 || status == 404, "{status}");
            a.get(&format!("blobs/{digest}")).expect_error(404, "BLOB_UNKNOWN");
        }
        deleted.insert(digest.clone());
        kept.push((digest, layer));
        process.kill_and_restart();
        let server = &process.server;
        let (a, b) = (Repo { server, name: a.clone() }, Repo { server, name: b.clone() });
        for digest in &deleted {
            a.get(&format!("blobs/{digest}")).expect(404);
            a.ask("HEAD", &format!("blobs/{digest}"), &[], b"").expect(404);
        }
        for (digest, layer) in &kept {
            assert!(b.get(&format!("blobs/{digest}")).body == *layer);
        }
        // Having it in B does not give it to who may read A only: a manifest in A cannot name it.
        let manifest = image(&kept[0].1, &kept[0].1);
        a.put_manifest("back", MANIFEST, &manifest).expect_error(400, "MANIFEST_BLOB_UNKNOWN");
    }
}

#[test]
fn rs_05_no_path_reaches_outside_of_the_storage() {
    let process = Process::start(&[]);
    let server = &process.server;
    let repo = server.repository();
    repo.push_image("v1", b"x");
    let canary = process.data().parent().unwrap().join("canary");
    std::fs::write(&canary, "secret").unwrap();
    let mut random = wharf_testkit::random::Random::from_env("WHARF_TEST_SEED");
    let words = [
        "..",
        "%2e%2e",
        "%2E%2e",
        ".",
        "%2f",
        "..%2f..%2fcanary",
        "..%5c",
        "%00",
        "canary",
        "canary%00",
        "_",
        "%c0%ae%c0%ae",
        "%252e%252e",
        "%252f",
        "v1",
        "blobs",
        "uploads",
        "manifests",
        "tags",
        "list",
        "referrers",
        "sha256:..%2f..%2fcanary",
        "sha256%3a00",
        "test",
        "%",
    ];
    let mut connection = Connection::open(server.address).unwrap();
    for _ in 0..3000 {
        let mut path = "/v2".to_owned();
        for _ in 0..random.between(1, 6) {
            path.push('/');
            path.push_str(words[usize::try_from(random.between(0, words.len() as u64)).unwrap()]);
        }
        let method =
            ["GET", "HEAD", "PUT", "POST", "PATCH", "DELETE"][usize::try_from(random.between(0, 6)).unwrap()];
        let answer = match connection.ask(method, &path, &[], b"") {
            Ok(answer) => answer,
            Err(_) => {
                connection = Connection::open(server.address).unwrap();
                continue;
            }
        };
        if answer.header("connection") == Some("close") {
            connection = Connection::open(server.address).unwrap();
        }
        assert!(answer.status < 500, "{method} {path}: {}", answer.text());
        assert!(!answer.text().contains("secret"), "{method} {path}");
    }
    assert_eq!(std::fs::read_to_string(&canary).unwrap(), "secret");
    let beside = std::fs::read_dir(process.data().parent().unwrap()).unwrap().count();
    assert_eq!(beside, 2, "the data and the canary");
}

#[test]
fn im_09_a_manifest_that_drips_is_given_up() {
    let server = Server::with(Options { body_timeout: Duration::from_millis(200), ..Options::default() });
    let repo = server.repository();
    let mut connection = Connection::open(server.address).unwrap();
    let head = format!(
        "PUT {} HTTP/1.1\r\nhost: x\r\ncontent-type: {MANIFEST}\r\ncontent-length: 1000\r\n\r\n{{",
        repo.at("manifests/v1")
    );
    connection.write(head.as_bytes()).unwrap();
    connection.answer(false).unwrap().expect(408);
    // A silent upload, too; what came stays.
    let location = repo.begin();
    let mut connection = Connection::open(server.address).unwrap();
    let head = format!("PATCH {location} HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\nabc");
    connection.write(head.as_bytes()).unwrap();
    connection.answer(false).unwrap().expect(408);
    assert_eq!(server.get(&location).expect(204).header("range"), Some("0-2"));
}

#[test]
fn im_10_a_pushed_document_has_one_reading() {
    let server = Server::new();
    let repo = server.repository();
    let (manifest, _) = repo.push_image("v1", b"x");
    let mut both = manifest.clone();
    both["manifests"] = json!([]);
    repo.put_manifest("v1", MANIFEST, &both).expect_error(400, "MANIFEST_INVALID");
    repo.put_manifest("v1", INDEX, &manifest).expect_error(400, "MANIFEST_INVALID");
    let duplicate = manifest.to_string().replacen('{', "{\"layers\":[],", 1);
    repo.ask("PUT", "manifests/v1", &[("content-type", MANIFEST)], duplicate.as_bytes())
        .expect_error(400, "MANIFEST_INVALID");
    // What the body leaves open the header says, and says the same to everybody who pulls.
    let mut silent = manifest;
    silent.as_object_mut().unwrap().remove("mediaType");
    repo.put_manifest("silent", MANIFEST, &silent).expect(201);
    assert_eq!(repo.get("manifests/silent").header("content-type"), Some(MANIFEST));
}

#[test]
fn im_11_wrong_bytes_are_never_visible() {
    let server = Server::new();
    let repo = server.repository();
    let right = fresh(10_000);
    let digest = digest_of(&right).to_string();
    for at in [0, 5000, 9999] {
        let mut wrong = right.clone();
        wrong[at] ^= 1;
        server
            .ask("PUT", &with_digest(&repo.begin(), &digest), &[], &wrong)
            .expect_error(400, "DIGEST_INVALID");
        repo.get(&format!("blobs/{digest}")).expect(404);
    }
    let short = &right[..9999];
    server.ask("PUT", &with_digest(&repo.begin(), &digest), &[], short).expect_error(400, "DIGEST_INVALID");
    // Cut in the middle of a request: the upload is there to go on with, the blob is not.
    let location = repo.begin();
    let mut connection = Connection::open(server.address).unwrap();
    let head = format!(
        "PUT {} HTTP/1.1\r\nhost: x\r\ncontent-length: 10000\r\n\r\n",
        with_digest(&location, &digest)
    );
    connection.write(head.as_bytes()).unwrap();
    connection.write(&right[..4000]).unwrap();
    drop(connection);
    wharf_testkit::wait_until("the cut bytes to arrive", wharf_testkit::PATIENCE, || {
        server.get(&location).header("range") == Some("0-3999")
    });
    repo.get(&format!("blobs/{digest}")).expect(404);
    server
        .ask("PUT", &with_digest(&location, &digest), &[("content-range", "4000-9999")], &right[4000..])
        .expect(201);
    assert!(repo.get(&format!("blobs/{digest}")).body == right);
}
