//! Collecting while the registry serves: what is needed stays, what is not is gone, and no client notices.
#![allow(clippy::unwrap_used, reason = "a failing helper is a failing test")]

mod support;

use std::time::Duration;

use serde_json::json;
use support::*;
use wharf_content::digest_of;
use wharf_registry_server::Options;

/// Nothing waits: every check is due at once. Only the test collects, or a blob went before its manifest came.
fn hasty() -> Options {
    Options { grace: Duration::ZERO, patience: Duration::ZERO, collect: false, ..Options::default() }
}

fn collect(server: &Server) {
    let registry = server.registry.clone().unwrap();
    server.block_on(registry.collect_once()).unwrap();
}

fn bytes(server: &Server) -> u64 {
    server.registry.as_ref().unwrap().usage().bytes
}

#[test]
fn deleting_an_image_gives_its_space_back_and_leaves_what_others_need() {
    let server = Server::with(hasty());
    let repo = server.repository();
    let shared = fresh(1000);
    let (_, first) = repo.push_image("first", &shared);
    let own = fresh(5000);
    repo.push_blob(&own);
    let config = format!("{{\"layer\":\"{}\"}}", digest_of(&shared));
    let both = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor("c", config.as_bytes()),
        "layers": [descriptor("l", &shared), descriptor("l", &own)],
    });
    repo.put_manifest("second", MANIFEST, &both).expect(201);
    let second = digest_of(both.to_string().as_bytes()).to_string();
    let all = bytes(&server);
    assert_eq!(all, 6000 + config.len() as u64);
    collect(&server);
    assert_eq!(bytes(&server), all, "everything is needed");

    repo.ask("DELETE", &format!("manifests/{second}"), &[], b"").expect(202);
    collect(&server);
    assert_eq!(bytes(&server), all - 5000);
    repo.get(&format!("blobs/{}", digest_of(&own))).expect_error(404, "BLOB_UNKNOWN");
    assert!(repo.get(&format!("blobs/{}", digest_of(&shared))).body == shared);

    repo.ask("DELETE", &format!("manifests/{first}"), &[], b"").expect(202);
    collect(&server);
    assert_eq!(bytes(&server), 0);
    assert_eq!(server.registry.as_ref().unwrap().usage().removed_blobs, 3);
    assert_eq!(server.get("/v2/_catalog").json()["repositories"], json!([]));
}

#[test]
fn a_blob_stays_until_no_repository_has_it() {
    let server = Server::with(hasty());
    let (one, two) = (server.repository(), server.repository());
    let layer = fresh(2000);
    let (manifest, digest) = one.push_image("v1", &layer);
    let blob = digest_of(&layer).to_string();
    for entry in [&manifest["config"], &manifest["layers"][0]] {
        let target = format!("blobs/uploads/?mount={}&from={}", entry["digest"].as_str().unwrap(), one.name);
        two.ask("POST", &target, &[], b"").expect(201);
    }
    two.put_manifest("v1", MANIFEST, &manifest).expect(201);
    one.ask("DELETE", &format!("manifests/{digest}"), &[], b"").expect(202);
    collect(&server);
    one.get(&format!("blobs/{blob}")).expect(404);
    assert!(two.get(&format!("blobs/{blob}")).body == layer);
    two.ask("DELETE", &format!("manifests/{digest}"), &[], b"").expect(202);
    collect(&server);
    assert_eq!(bytes(&server), 0);
}

#[test]
fn a_push_in_progress_loses_nothing() {
    let server = Server::with(Options { grace: Duration::from_secs(3600), ..Options::default() });
    let repo = server.repository();
    let (layer, config) = (fresh(100), fresh(50));
    repo.push_image("old", &layer);
    repo.push_blob(&config);
    // Another client takes the image away that this push counts on, after it asked whether the layer is there.
    let blob = digest_of(&layer).to_string();
    repo.ask("HEAD", &format!("blobs/{blob}"), &[], b"").expect(200);
    let head = repo.ask("HEAD", "manifests/old", &[], b"");
    let old = head.header("docker-content-digest").unwrap();
    repo.ask("DELETE", &format!("manifests/{old}"), &[], b"").expect(202);
    collect(&server);
    repo.put_manifest("new", MANIFEST, &image(&config, &layer)).expect(201);
    assert!(repo.get(&format!("blobs/{blob}")).body == layer);
}

#[test]
fn a_blob_without_a_manifest_waits_and_then_goes() {
    let server = Server::with(Options { grace: Duration::ZERO, ..Options::default() });
    let repo = server.repository();
    repo.push_blob(&fresh(100));
    collect(&server);
    assert_eq!(bytes(&server), 100, "its manifest may be on the way");
    drop(server);

    let server = Server::with(hasty());
    server.repository().push_blob(&fresh(100));
    collect(&server);
    assert_eq!(bytes(&server), 0);
}

#[test]
fn untagged_manifests_stay_unless_an_option_says_otherwise() {
    for remove_untagged in [false, true] {
        let server = Server::with(Options { remove_untagged, ..hasty() });
        let repo = server.repository();
        let (child, child_digest) = repo.push_image("child", &fresh(10));
        let entry = descriptor(MANIFEST, child.to_string().as_bytes());
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]});
        repo.put_manifest("multi", INDEX, &index).expect(201);
        repo.ask("DELETE", "manifests/child", &[], b"").expect(202);
        let signature = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": child["config"], "layers": [], "subject": entry,
        });
        let signature_digest = digest_of(signature.to_string().as_bytes()).to_string();
        repo.put_manifest(&signature_digest, MANIFEST, &signature).expect(201);
        let (_, gone) = repo.push_image("moves", &fresh(10));
        repo.push_image("moves", &fresh(10));
        collect(&server);
        for kept in [&child_digest, &signature_digest] {
            repo.get(&format!("manifests/{kept}")).expect(200);
        }
        repo.get(&format!("manifests/{gone}")).expect(if remove_untagged { 404 } else { 200 });

        let index_digest = digest_of(index.to_string().as_bytes());
        repo.ask("DELETE", &format!("manifests/{index_digest}"), &[], b"").expect(202);
        // The index, its child, then what refers to the child.
        (0..3).for_each(|_| collect(&server));
        let status = if remove_untagged { 404 } else { 200 };
        for digest in [&child_digest, &signature_digest] {
            repo.get(&format!("manifests/{digest}")).expect(status);
        }
    }
}

/// Blob and manifest are looked at in one go, in the order of their digests: either may come first.
#[test]
fn what_an_untagged_manifest_held_goes_with_it_in_any_order() {
    let server = Server::with(Options { remove_untagged: true, ..hasty() });
    let repo = server.repository();
    for n in 0..12 {
        let layer = fresh(10);
        repo.push_image(&format!("t{n}"), &layer);
        // Brought once more: it is to be looked at, too.
        repo.push_blob(&layer);
    }
    for n in 0..12 {
        repo.ask("DELETE", &format!("manifests/t{n}"), &[], b"").expect(202);
    }
    (0..3).for_each(|_| collect(&server));
    assert_eq!(bytes(&server), 0);
    assert_eq!(server.get("/v2/_catalog").json()["repositories"], json!([]));
}

#[test]
fn an_upload_goes_on_after_a_restart_and_expires_when_nobody_does() {
    let directory = tempfile::tempdir().unwrap();
    let bytes = fresh(300_000);
    let digest = digest_of(&bytes).to_string();
    let server = Server::open(directory.path(), Options::default());
    let (location, abandoned) = {
        let repo = server.repository();
        let abandoned = repo.begin();
        let location = server.ask("PATCH", &repo.begin(), &[], &bytes[..200_000]).expect(202).location();
        (location, abandoned)
    };
    drop(server);
    let server = Server::open(directory.path(), Options::default());
    assert_eq!(server.get(&location).expect(204).header("range"), Some("0-199999"));
    server.ask("PUT", &with_digest(&location, &digest), &[], &bytes[200_000..]).expect(201);
    server.get(&abandoned).expect(204);
    drop(server);
    let server =
        Server::open(directory.path(), Options { upload_expiry: Duration::ZERO, ..Options::default() });
    wharf_testkit::wait_until("the upload to expire", wharf_testkit::PATIENCE, || {
        server.get(&abandoned).status == 404
    });
}

#[test]
fn bytes_that_a_crash_left_without_an_owner_are_found_at_start() {
    let directory = tempfile::tempdir().unwrap();
    let store = wharf_content::Store::open(directory.path()).unwrap();
    let staged = store.stage(&fresh(777)).unwrap();
    let path = store.path(staged.digest());
    store.publish(vec![staged]).unwrap();
    let server = Server::open(directory.path(), Options { collect: true, ..hasty() });
    wharf_testkit::wait_until("the blob to go", wharf_testkit::PATIENCE, || !path.exists());
    drop(server);
}

#[test]
fn quotas_and_limits_are_said_clearly() {
    let options = Options {
        max_blob: Some(1000),
        repository_quota: Some(1500),
        total_quota: Some(2500),
        max_repositories: Some(3),
        max_manifest: 2000,
        ..hasty()
    };
    let server = Server::with(options);
    let repo = server.repository();
    let large = fresh(1001);
    let digest = digest_of(&large).to_string();
    let refused = repo.ask("POST", &format!("blobs/uploads/?digest={digest}"), &[], &large);
    refused.expect_error(413, "SIZE_INVALID");
    server.ask("PATCH", &repo.begin(), &[], &large).expect_error(413, "SIZE_INVALID");
    let first = repo.push_blob(&fresh(1000));
    server.ask("PATCH", &repo.begin(), &[], &fresh(501)).expect_error(403, "DENIED");
    let long = vec![b' '; 2001];
    repo.ask("PUT", "manifests/x", &[("content-type", MANIFEST)], &long).expect_error(413, "SIZE_INVALID");

    // What is stored once counts once for the whole, and for each repository that has it.
    let other = server.repository();
    other.ask("POST", &format!("blobs/uploads/?mount={first}&from={}", repo.name), &[], b"").expect(201);
    server.ask("PATCH", &other.begin(), &[], &fresh(501)).expect_error(403, "DENIED");
    let third = server.repository();
    third.push_blob(&fresh(1000));
    assert_eq!(bytes(&server), 2000);
    server.ask("PATCH", &repo.begin(), &[], &fresh(501)).expect_error(403, "DENIED");
    let fourth = server.repository();
    fourth.ask("POST", "blobs/uploads/", &[], b"").expect_error(403, "DENIED");

    // Deleting makes room.
    repo.ask("DELETE", &format!("blobs/{first}"), &[], b"").expect(202);
    repo.push_blob(&fresh(400));
}

#[test]
fn a_read_only_registry_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::open(directory.path(), Options::default());
    let repo = server.repository();
    let (manifest, digest) = repo.push_image("v1", b"layer");
    let location = repo.begin();
    let name = repo.name.clone();
    drop(server);
    let server = Server::open(directory.path(), Options { read_only: true, ..Options::default() });
    let repo = Repo { server: &server, name };
    repo.get("manifests/v1").expect(200);
    repo.get(&format!("blobs/{}", digest_of(b"layer"))).expect(200);
    repo.ask("POST", "blobs/uploads/", &[], b"").expect_error(405, "UNSUPPORTED");
    server.ask("PATCH", &location, &[], b"x").expect_error(405, "UNSUPPORTED");
    repo.put_manifest("v2", MANIFEST, &manifest).expect_error(405, "UNSUPPORTED");
    repo.ask("DELETE", &format!("manifests/{digest}"), &[], b"").expect_error(405, "UNSUPPORTED");
    repo.ask("DELETE", &format!("blobs/{}", digest_of(b"layer")), &[], b"").expect_error(405, "UNSUPPORTED");
    assert_eq!(repo.get("tags/list").json()["tags"], json!(["v1"]));
}
