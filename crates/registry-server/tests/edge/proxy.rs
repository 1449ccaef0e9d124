//! Copies of another registry.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;

use wharf_content::digest_of;
use wharf_testkit::wait_until;

use crate::world::{Answer, PATIENCE, Server, scratch};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

fn layer(seed: u8) -> Vec<u8> {
    (0..3_000_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8 ^ seed).collect()
}

fn manifest(layer: &[u8]) -> Vec<u8> {
    let descriptor = |kind: &str, bytes: &[u8]| {
        format!(r#"{{"mediaType":"{kind}","digest":"{}","size":{}}}"#, digest_of(bytes), bytes.len())
    };
    let config = descriptor("application/vnd.oci.empty.v1+json", b"{}");
    let layer = descriptor("application/vnd.oci.image.layer.v1.tar", layer);
    format!(r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{config},"layers":[{layer}]}}"#)
        .into_bytes()
}

fn push(server: &Server, repository: &str, tag: &str, layer: &[u8]) {
    for blob in [b"{}", layer] {
        let path = format!("/v2/{repository}/blobs/uploads/?digest={}", digest_of(blob));
        let octets = [("Content-Type", "application/octet-stream")];
        assert_eq!(server.request("POST", &path, &octets, blob).status, 201);
    }
    let path = format!("/v2/{repository}/manifests/{tag}");
    assert_eq!(server.request("PUT", &path, &[("Content-Type", MANIFEST)], &manifest(layer)).status, 201);
}

/// A copy of what is at `address`, below `up.test` and at the root.
fn copy_of(dir: &Path, address: &str) -> Server {
    let below = format!("up.test=http://{address}");
    let root = format!("*=http://{address}/team");
    Server::start(dir, &["--proxy", &below, "--proxy", &root, "--proxy-freshness", "0s"])
}

fn blob(server: &Server, repository: &str, bytes: &[u8]) -> Answer {
    server.get(&format!("/v2/{repository}/blobs/{}", digest_of(bytes)))
}

#[test]
fn what_was_asked_for_once_is_served_when_the_upstream_is_down() {
    let (above, below) = (scratch(), scratch());
    let upstream = Server::start(above.path(), &[]);
    let (old, new) = (layer(1), layer(2));
    push(&upstream, "team/app", "latest", &old);
    let copy = copy_of(below.path(), &upstream.address.to_string());

    let tag = |name: &str| copy.get(&format!("/v2/{name}/manifests/latest"));
    assert_eq!(blob(&copy, "up.test/team/app", &old).status, 404, "no manifest here names it");
    assert_eq!(tag("up.test/team/app").body, manifest(&old));
    let head = copy.request("HEAD", &format!("/v2/up.test/team/app/blobs/{}", digest_of(&old)), &[], b"");
    assert_eq!((head.status, head.header("content-length")), (200, Some("3000000")));
    assert_eq!(blob(&copy, "up.test/team/app", &old).body, old);
    assert_eq!(tag("app").body, manifest(&old), "the mirror's form: names of there at the root of here");

    push(&upstream, "team/app", "latest", &new);
    assert_eq!(tag("up.test/team/app").body, manifest(&new), "the tag has moved");
    assert_eq!(blob(&copy, "up.test/team/app", &new).body, new);
    assert_eq!(copy.get("/v2/up.test/team/app/manifests/none").status, 404);
    let put = copy.request(
        "PUT",
        "/v2/up.test/team/app/manifests/x",
        &[("Content-Type", MANIFEST)],
        &manifest(&new),
    );
    assert_eq!(put.status, 405);

    drop(upstream);
    wait_until("the blob to be stored", PATIENCE, || {
        copy.get("/metrics").body.windows(24).any(|window| window == b"wharf_registry_blobs 2\n#")
    });
    assert_eq!(tag("up.test/team/app").body, manifest(&new));
    for bytes in [&old, &new] {
        assert_eq!(&blob(&copy, "up.test/team/app", bytes).body, bytes);
    }
    let unknown = copy.get("/v2/up.test/team/other/manifests/latest");
    assert_eq!(unknown.status, 502, "{}", String::from_utf8_lossy(&unknown.body));
}

#[test]
fn clients_that_miss_the_same_blob_share_one_download() {
    let (above, below) = (scratch(), scratch());
    let upstream = Server::start(above.path(), &[]);
    let bytes = layer(3);
    push(&upstream, "team/app", "latest", &bytes);
    let copy = copy_of(below.path(), &upstream.address.to_string());
    assert_eq!(copy.get("/v2/app/manifests/latest").status, 200);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| assert_eq!(blob(&copy, "app", &bytes).body, bytes));
        }
    });
    let downloads = || {
        let log = std::fs::read_to_string(above.path().join("access.log")).unwrap();
        log.lines()
            .filter(|line| line.contains("GET") && line.contains(&digest_of(&bytes).to_string()))
            .count()
    };
    wait_until("the upstream's line", PATIENCE, || downloads() > 0);
    assert_eq!(downloads(), 1);
}

#[test]
fn im_11_a_blob_with_other_bytes_is_neither_kept_nor_given_whole() {
    let bytes = layer(4);
    let document = manifest(&bytes);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut wrong = bytes.clone();
    wrong[1_000_000] ^= 1;
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            // The client tries TLS first.
            let mut first = [0];
            if stream.read_exact(&mut first).is_err() || !first[0].is_ascii_uppercase() {
                continue;
            }
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut request = String::new();
            let _gone = reader.read_line(&mut request);
            let mut line = String::new();
            while reader.read_line(&mut line).is_ok_and(|read| read > 2) {
                line.clear();
            }
            let is_manifest = request.contains("/manifests/");
            let (kind, body) =
                if is_manifest { (MANIFEST, &document) } else { ("application/octet-stream", &wrong) };
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                body.len()
            );
            // HEAD has lost its first letter.
            let body = if request.starts_with("EAD") { &[][..] } else { body };
            let _gone = stream.write_all(&[head.as_bytes(), body].concat());
        }
    });
    let below = scratch();
    let copy = copy_of(below.path(), &address);
    assert_eq!(copy.get("/v2/app/manifests/latest").status, 200);
    for _ in 0..2 {
        let answer = blob(&copy, "app", &bytes);
        assert!(answer.body.len() < bytes.len(), "{} bytes", answer.body.len());
    }
    copy.wait_for_log("with the digest");
}
