//! One black-box test for each endpoint of the distribution specification, by its number, and one for each error code.
//!
//! `WHARF_TEST_REGISTRY=127.0.0.1:5000` runs the same tests against another registry; what docker-registry 2.8.3 does not
//! have or does otherwise is marked `is_reference`.

mod support;

use serde_json::json;
use support::*;
use wharf_content::digest_of;

#[test]
fn end_1_the_base_says_that_this_is_a_registry() {
    let server = Server::under_test();
    let answer = server.get("/v2/");
    answer.expect(200);
    assert_eq!(answer.header("docker-distribution-api-version"), Some("registry/2.0"));
    server.ask("HEAD", "/v2/", &[], b"").expect(200);
}

#[test]
fn end_2_a_blob_is_read_whole_in_parts_and_on_condition() {
    let server = Server::under_test();
    let repo = server.repository();
    let bytes = fresh(700_000);
    let digest = repo.push_blob(&bytes);
    let path = format!("blobs/{digest}");

    let whole = repo.get(&path);
    whole.expect(200);
    assert!(whole.body == bytes);
    assert_eq!(whole.header("docker-content-digest"), Some(&*digest));
    assert_eq!(whole.header("content-length"), Some("700000"));
    assert_eq!(whole.header("content-type"), Some("application/octet-stream"));
    let head = repo.ask("HEAD", &path, &[], b"");
    head.expect(200);
    assert_eq!(head.header("content-length"), Some("700000"));
    assert_eq!(head.header("docker-content-digest"), Some(&*digest));

    for (range, from, to) in [
        ("bytes=0-0", 0, 1),
        ("bytes=100-299999", 100, 300_000),
        ("bytes=699999-", 699_999, 700_000),
        ("bytes=-5", 699_995, 700_000),
        ("bytes=5-10000000", 5, 700_000),
    ] {
        let part = repo.ask("GET", &path, &[("range", range)], b"");
        part.expect(206);
        assert!(part.body == bytes[from..to], "{range}");
        let said = format!("bytes {from}-{}/700000", to - 1);
        assert_eq!(part.header("content-range"), Some(&*said), "{range}");
    }
    let outside = repo.ask("GET", &path, &[("range", "bytes=700000-")], b"");
    outside.expect(416);
    assert_eq!(outside.header("content-range"), Some("bytes */700000"));

    let etag = whole.header("etag").unwrap().to_owned();
    let same = repo.ask("GET", &path, &[("if-none-match", &etag)], b"");
    assert!(same.expect(304).body.is_empty());
    repo.ask("GET", &path, &[("if-none-match", "\"other\"")], b"").expect(200);
}

#[test]
fn end_3_a_manifest_is_read_by_tag_and_by_digest() {
    let server = Server::under_test();
    let repo = server.repository();
    let (manifest, digest) = repo.push_image("v1", &fresh(100));
    for reference in ["v1", &digest] {
        for method in ["GET", "HEAD"] {
            let answer = repo.ask(method, &format!("manifests/{reference}"), &[("accept", MANIFEST)], b"");
            answer.expect(200);
            assert_eq!(answer.header("docker-content-digest"), Some(&*digest));
            assert_eq!(answer.header("content-type"), Some(MANIFEST));
            assert_eq!(answer.header("content-length"), Some(&*manifest.to_string().len().to_string()));
            if method == "GET" {
                assert_eq!(answer.text(), manifest.to_string());
            }
        }
    }
    let etag = format!("\"{digest}\"");
    repo.ask("GET", "manifests/v1", &[("accept", MANIFEST), ("if-none-match", &etag)], b"").expect(304);
    let other =
        repo.ask("GET", "manifests/v1", &[("accept", "application/vnd.oci.image.index.v1+json")], b"");
    if !server.is_reference {
        other.expect_error(404, "MANIFEST_UNKNOWN");
    }
}

#[test]
fn end_4a_an_upload_begins() {
    let server = Server::under_test();
    let repo = server.repository();
    let answer = repo.ask("POST", "blobs/uploads/", &[], b"");
    answer.expect(202);
    assert!(answer.location().starts_with(&repo.at("blobs/uploads/")));
    assert!(answer.header("docker-upload-uuid").is_some());
    assert_eq!(answer.header("range"), Some("0-0"));
}

#[test]
fn end_4b_a_blob_comes_in_one_request() {
    let server = Server::under_test();
    let repo = server.repository();
    let bytes = fresh(3000);
    let digest = digest_of(&bytes).to_string();
    let answer = repo.ask("POST", &format!("blobs/uploads/?digest={digest}"), &[], &bytes);
    if server.is_reference {
        // docker-registry answers as if it were end-4a.
        answer.expect(202);
        return;
    }
    answer.expect(201);
    assert_eq!(answer.location(), repo.at(&format!("blobs/{digest}")));
    assert!(repo.get(&format!("blobs/{digest}")).body == bytes);
    let other = digest_of(b"other").to_string();
    repo.ask("POST", &format!("blobs/uploads/?digest={other}"), &[], &bytes)
        .expect_error(400, "DIGEST_INVALID");
}

#[test]
fn end_5_chunks_come_in_order() {
    let server = Server::under_test();
    let repo = server.repository();
    let bytes = fresh(300_000);
    let mut location = repo.begin();
    for (from, to) in [(0, 100_000), (100_000, 250_000)] {
        let range = format!("{from}-{}", to - 1);
        let answer = server.ask("PATCH", &location, &[("content-range", &range)], &bytes[from..to]);
        answer.expect(202);
        assert_eq!(answer.header("range"), Some(&*format!("0-{}", to - 1)));
        location = answer.location();
    }
    for wrong in ["0-49999", "200000-249999", "300000-349999"] {
        if server.is_reference {
            // docker-registry takes chunks beyond the end.
            break;
        }
        let answer = server.ask("PATCH", &location, &[("content-range", wrong)], &bytes[..50_000]);
        assert_eq!(answer.expect(416).header("range"), Some("0-249999"));
    }
    // Without a range the bytes belong at the end; the last of them with the request that finishes.
    let answer = server.ask("PATCH", &location, &[], &bytes[250_000..250_001]);
    location = answer.expect(202).location();
    let digest = digest_of(&bytes).to_string();
    server.ask("PUT", &with_digest(&location, &digest), &[], &bytes[250_001..]).expect(201);
    assert!(repo.get(&format!("blobs/{digest}")).body == bytes);
}

#[test]
fn end_6_an_upload_finishes_with_or_without_a_last_chunk() {
    let server = Server::under_test();
    let repo = server.repository();
    let bytes = fresh(5000);
    let digest = digest_of(&bytes).to_string();
    let location = server.ask("PATCH", &repo.begin(), &[], &bytes).location();
    let answer = server.ask("PUT", &with_digest(&location, &digest), &[], b"");
    answer.expect(201);
    assert_eq!(answer.header("docker-content-digest"), Some(&*digest));
    assert_eq!(answer.location(), repo.at(&format!("blobs/{digest}")));
    server.ask("PUT", &with_digest(&location, &digest), &[], b"").expect_error(404, "BLOB_UPLOAD_UNKNOWN");
    // The blob of no bytes.
    repo.push_blob(b"");
    // Digits of a colon as some clients send them.
    let bytes = fresh(10);
    let digest = digest_of(&bytes).to_string().replace(':', "%3A");
    server.ask("PUT", &with_digest(&repo.begin(), &digest), &[], &bytes).expect(201);
}

#[test]
fn end_7_a_manifest_is_put_by_tag_and_by_digest() {
    let server = Server::under_test();
    let repo = server.repository();
    let (manifest, digest) = repo.push_image("v1", &fresh(100));
    let answer = repo.put_manifest("v2", MANIFEST, &manifest);
    answer.expect(201);
    assert_eq!(answer.header("docker-content-digest"), Some(&*digest));
    assert_eq!(answer.location(), repo.at(&format!("manifests/{digest}")));
    repo.put_manifest(&digest, MANIFEST, &manifest).expect(201);

    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [descriptor(MANIFEST, manifest.to_string().as_bytes())]});
    repo.put_manifest("multi", INDEX, &index).expect(201);
    let answer = repo.ask("GET", "manifests/multi", &[("accept", INDEX)], b"");
    assert_eq!(answer.expect(200).json(), index);

    // A tag moves.
    let (_, other) = repo.push_image("v1", &fresh(100));
    let moved = repo.ask("HEAD", "manifests/v1", &[("accept", MANIFEST)], b"");
    assert_eq!(moved.header("docker-content-digest"), Some(&*other));
}

#[test]
fn end_8_tags_are_listed_in_pages() {
    let server = Server::under_test();
    let repo = server.repository();
    let (manifest, _) = repo.push_image("b", &fresh(10));
    for tag in ["a", "C", "_1", "b.1", "b-1"] {
        repo.put_manifest(tag, MANIFEST, &manifest).expect(201);
    }
    let all = ["C", "_1", "a", "b", "b-1", "b.1"];
    let answer = repo.get("tags/list");
    if server.is_reference {
        // It sorts nothing and knows neither n nor last here.
        assert_eq!(answer.expect(200).json()["tags"].as_array().map(Vec::len), Some(all.len()));
        return;
    }
    assert_eq!(answer.expect(200).json(), json!({"name": repo.name, "tags": all}));
    let mut next = Some(repo.at("tags/list?n=4"));
    let mut pages = Vec::new();
    while let Some(target) = next {
        let page = server.get(&target);
        pages.push(page.expect(200).json()["tags"].clone());
        next = page.next();
    }
    assert_eq!(pages, [json!(["C", "_1", "a", "b"]), json!(["b-1", "b.1"])]);
    assert_eq!(repo.get("tags/list?last=a").json()["tags"], json!(["b", "b-1", "b.1"]));
    assert_eq!(repo.get("tags/list?n=1&last=az").json()["tags"], json!(["b"]));
    let none = repo.get("tags/list?n=0");
    assert_eq!(none.json()["tags"], json!([]));
    assert_eq!(none.next(), None);
}

#[test]
fn end_9_manifests_and_tags_are_deleted() {
    let server = Server::under_test();
    let repo = server.repository();
    let (manifest, digest) = repo.push_image("one", &fresh(10));
    repo.put_manifest("two", MANIFEST, &manifest).expect(201);
    if !server.is_reference {
        repo.ask("DELETE", "manifests/one", &[], b"").expect(202);
        repo.get("manifests/one").expect_error(404, "MANIFEST_UNKNOWN");
        repo.ask("GET", &format!("manifests/{digest}"), &[("accept", MANIFEST)], b"").expect(200);
    }
    repo.ask("DELETE", &format!("manifests/{digest}"), &[], b"").expect(202);
    repo.get(&format!("manifests/{digest}")).expect_error(404, "MANIFEST_UNKNOWN");
    repo.get("manifests/two").expect_error(404, "MANIFEST_UNKNOWN");
    assert_eq!(repo.get("tags/list").json()["tags"].as_array().map_or(0, Vec::len), 0);
    repo.ask("DELETE", &format!("manifests/{digest}"), &[], b"").expect_error(404, "MANIFEST_UNKNOWN");
}

#[test]
fn end_10_a_blob_is_deleted() {
    let server = Server::under_test();
    let repo = server.repository();
    let digest = repo.push_blob(&fresh(10));
    let path = format!("blobs/{digest}");
    repo.ask("DELETE", &path, &[], b"").expect(202);
    repo.get(&path).expect_error(404, "BLOB_UNKNOWN");
    repo.ask("HEAD", &path, &[], b"").expect(404);
    repo.ask("DELETE", &path, &[], b"").expect_error(404, "BLOB_UNKNOWN");
}

#[test]
fn end_11_a_blob_is_mounted_from_another_repository() {
    let server = Server::under_test();
    let (from, to) = (server.repository(), server.repository());
    let bytes = fresh(500);
    let digest = from.push_blob(&bytes);
    let answer = to.ask("POST", &format!("blobs/uploads/?mount={digest}&from={}", from.name), &[], b"");
    answer.expect(201);
    assert_eq!(answer.location(), to.at(&format!("blobs/{digest}")));
    assert!(to.get(&format!("blobs/{digest}")).body == bytes);
    // What cannot be mounted is uploaded.
    let absent = digest_of(b"nobody has this").to_string();
    let target = format!("blobs/uploads/?mount={absent}&from={}", from.name);
    let answer = to.ask("POST", &target, &[], b"");
    answer.expect(202);
    assert!(answer.location().starts_with(&to.at("blobs/uploads/")));
    to.ask("POST", &format!("blobs/uploads/?mount={absent}"), &[], b"").expect(202);
}

#[test]
fn end_12_referrers_are_listed_and_filtered() {
    let server = Server::under_test();
    if server.is_reference {
        return;
    }
    let repo = server.repository();
    let (_, subject) = repo.push_image("v1", &fresh(10));
    let empty = repo.get(&format!("referrers/{subject}"));
    assert_eq!(empty.expect(200).json(), json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": []}));
    assert_eq!(empty.header("content-type"), Some(INDEX));

    let subject_of = |manifest: &serde_json::Value| manifest.to_string();
    let main = repo.ask("GET", &format!("manifests/{subject}"), &[], b"");
    let config = b"{}";
    repo.push_blob(config);
    let mut digests = Vec::new();
    for (kind, note) in [("a/signature", "one"), ("a/sbom", "two"), ("a/signature", "three")] {
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": kind,
            "config": descriptor("application/vnd.oci.empty.v1+json", config), "layers": [],
            "subject": descriptor(MANIFEST, &main.body), "annotations": {"note": note},
        });
        let digest = digest_of(subject_of(&manifest).as_bytes()).to_string();
        let answer = repo.put_manifest(&digest, MANIFEST, &manifest);
        assert_eq!(answer.expect(201).header("oci-subject"), Some(&*subject));
        digests.push((digest, kind, note));
    }
    digests.sort();
    let all = repo.get(&format!("referrers/{subject}"));
    let listed = all.json()["manifests"].as_array().unwrap().clone();
    assert_eq!(listed.len(), 3);
    for (entry, (digest, kind, note)) in listed.iter().zip(&digests) {
        assert_eq!(entry["digest"], **digest);
        assert_eq!(entry["artifactType"], *kind);
        assert_eq!(entry["annotations"]["note"], *note);
        assert_eq!(entry["mediaType"], MANIFEST);
        assert!(entry["size"].as_u64() > Some(0));
    }
    assert_eq!(all.header("oci-filters-applied"), None);
    let filtered = repo.get(&format!("referrers/{subject}?artifactType=a%2Fsignature"));
    assert_eq!(filtered.header("oci-filters-applied"), Some("artifactType"));
    assert_eq!(filtered.json()["manifests"].as_array().unwrap().len(), 2);

    let mut next = Some(repo.at(&format!("referrers/{subject}?n=2")));
    let mut paged = Vec::new();
    while let Some(target) = next {
        let page = server.get(&target);
        paged.extend(page.json()["manifests"].as_array().unwrap().clone());
        next = page.next();
    }
    assert_eq!(paged, listed);

    repo.ask("DELETE", &format!("manifests/{}", digests[0].0), &[], b"").expect(202);
    assert_eq!(repo.get(&format!("referrers/{subject}")).json()["manifests"].as_array().unwrap().len(), 2);
    // A subject that is not there (yet) is no error.
    let ghost = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor("x/y", config), "layers": [],
        "subject": descriptor(MANIFEST, b"not yet"),
    });
    let answer = repo.put_manifest("ghost", MANIFEST, &ghost);
    assert_eq!(answer.expect(201).header("oci-subject"), Some(&*digest_of(b"not yet").to_string()));
    let of_ghost = repo.get(&format!("referrers/{}", digest_of(b"not yet"))).json();
    assert_eq!(of_ghost["manifests"][0]["artifactType"], "x/y");
}

#[test]
fn end_13_an_upload_says_how_far_it_is_and_is_cancelled() {
    let server = Server::under_test();
    let repo = server.repository();
    let location = repo.begin();
    let location = server.ask("PATCH", &location, &[], &fresh(1234)).expect(202).location();
    let status = server.get(&location);
    status.expect(204);
    assert_eq!(status.header("range"), Some("0-1233"));
    assert!(status.header("docker-upload-uuid").is_some());
    let location = status.location();
    server.ask("DELETE", &location, &[], b"").expect(204);
    server.get(&location).expect_error(404, "BLOB_UPLOAD_UNKNOWN");
}

#[test]
fn the_catalog_lists_repositories_in_pages() {
    let server = Server::under_test();
    let mut names: Vec<String> = Vec::new();
    for _ in 0..5 {
        let repo = server.repository();
        repo.push_image("v1", b"the same layer");
        names.push(repo.name);
    }
    let mut next = Some("/v2/_catalog?n=2".to_owned());
    let mut listed = Vec::new();
    while let Some(target) = next {
        let page = server.get(&target);
        let entries = page.expect(200).json()["repositories"].as_array().unwrap().clone();
        assert!(entries.len() <= 2);
        listed.extend(entries.into_iter().map(|name| name.as_str().unwrap().to_owned()));
        next = page.next();
    }
    assert!(listed.is_sorted());
    assert!(names.iter().all(|name| listed.contains(name)));
}

#[test]
fn code_blob_unknown() {
    let server = Server::under_test();
    let repo = server.repository();
    repo.push_image("v1", b"x");
    repo.get(&format!("blobs/{}", digest_of(b"absent"))).expect_error(404, "BLOB_UNKNOWN");
}

#[test]
fn code_blob_upload_invalid() {
    let server = Server::under_test();
    if server.is_reference {
        return;
    }
    let repo = server.repository();
    let location = repo.begin();
    for range in ["x-y", "5-2", "-", "0-18446744073709551616", "bytes"] {
        let answer = server.ask("PATCH", &location, &[("content-range", range)], b"abc");
        answer.expect_error(400, "BLOB_UPLOAD_INVALID");
    }
    server
        .ask("PATCH", &location, &[("content-range", "5-7")], b"abc")
        .expect_error(416, "BLOB_UPLOAD_INVALID");
}

#[test]
fn code_blob_upload_unknown() {
    let server = Server::under_test();
    let (mine, other) = (server.repository(), server.repository());
    let location = mine.begin();
    let elsewhere = location.replace(&mine.name, &other.name);
    // docker-registry calls it BLOB_UPLOAD_INVALID.
    server.get(&elsewhere).expect(404);
    if !server.is_reference {
        server.ask("PATCH", &elsewhere, &[], b"x").expect_error(404, "BLOB_UPLOAD_UNKNOWN");
        mine.get("blobs/uploads/0").expect_error(404, "BLOB_UPLOAD_UNKNOWN");
    }
}

#[test]
fn code_digest_invalid() {
    let server = Server::under_test();
    let repo = server.repository();
    let wrong = digest_of(b"something else").to_string();
    server.ask("PUT", &with_digest(&repo.begin(), &wrong), &[], b"bytes").expect_error(400, "DIGEST_INVALID");
    server.ask("PUT", &repo.begin(), &[], b"bytes").expect_error(400, "DIGEST_INVALID");
    for digest in ["sha256:x", "sha256", "md5:00"] {
        server.ask("PUT", &with_digest(&repo.begin(), digest), &[], b"").expect_error(400, "DIGEST_INVALID");
    }
    let manifest = repo.push_image("v1", b"x").0;
    repo.put_manifest(&wrong, MANIFEST, &manifest).expect_error(400, "DIGEST_INVALID");
}

#[test]
fn code_manifest_blob_unknown() {
    let server = Server::under_test();
    let repo = server.repository();
    let answer = repo.put_manifest("v1", MANIFEST, &image(b"no config", b"no layer"));
    if server.is_reference {
        answer.expect(400);
        return;
    }
    answer.expect_error(400, "MANIFEST_BLOB_UNKNOWN");
    // Having it in another repository is not having it.
    let other = server.repository();
    let (manifest, _) = other.push_image("v1", &fresh(10));
    repo.put_manifest("v1", MANIFEST, &manifest).expect_error(400, "MANIFEST_BLOB_UNKNOWN");
    let index =
        json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [descriptor(MANIFEST, b"absent")]});
    repo.put_manifest("v1", INDEX, &index).expect_error(400, "MANIFEST_BLOB_UNKNOWN");
}

#[test]
fn code_manifest_invalid() {
    let server = Server::under_test();
    let repo = server.repository();
    for body in ["", "{", "[]", "null", "{}", "{\"schemaVersion\":1}"] {
        let answer = repo.ask("PUT", "manifests/v1", &[("content-type", MANIFEST)], body.as_bytes());
        if server.is_reference {
            // Some of these are internal errors there.
            assert!(answer.status >= 400);
            continue;
        }
        answer.expect_error(400, "MANIFEST_INVALID");
    }
    if !server.is_reference {
        let (manifest, _) = repo.push_image("v1", b"x");
        repo.put_manifest("v1", "text/plain", &manifest).expect_error(400, "MANIFEST_INVALID");
        let mut longer = manifest;
        longer["layers"][0]["size"] = json!(2);
        repo.put_manifest("v1", MANIFEST, &longer).expect_error(400, "MANIFEST_INVALID");
    }
}

#[test]
fn code_manifest_unknown() {
    let server = Server::under_test();
    let repo = server.repository();
    repo.push_image("v1", b"x");
    repo.get("manifests/v2").expect_error(404, "MANIFEST_UNKNOWN");
    repo.get(&format!("manifests/{}", digest_of(b"absent"))).expect_error(404, "MANIFEST_UNKNOWN");
    repo.get("manifests/.INVALID").expect(404);
}

#[test]
fn code_name_invalid() {
    let server = Server::under_test();
    if server.is_reference {
        return;
    }
    for name in ["A", "a//b", "-a", "a/../b", "a/%2e%2e/b", &"a".repeat(256)] {
        server.get(&format!("/v2/{name}/tags/list")).expect_error(400, "NAME_INVALID");
    }
}

#[test]
fn code_name_unknown() {
    let server = Server::under_test();
    server.repository().get("tags/list").expect_error(404, "NAME_UNKNOWN");
}

#[test]
fn code_size_invalid() {
    let server = Server::under_test();
    if server.is_reference {
        return;
    }
    let repo = server.repository();
    let answer = server.ask("PATCH", &repo.begin(), &[("content-range", "0-9")], b"abc");
    answer.expect_error(400, "SIZE_INVALID");
}

#[test]
fn code_unsupported() {
    let server = Server::under_test();
    let repo = server.repository();
    if server.is_reference {
        repo.ask("PATCH", "tags/list", &[], b"").expect(405);
        return;
    }
    repo.ask("PATCH", "tags/list", &[], b"").expect_error(405, "UNSUPPORTED");
    server.get("/v2/a").expect_error(404, "UNSUPPORTED");
    server.get("/v1/_ping").expect_error(404, "UNSUPPORTED");
}
