//! The same calls against a registry that is not ours: Debian's docker-registry of `../shared/peers` when
//! `WHARF_TEST_REFERENCE` is set, or the one at `WHARF_TEST_REGISTRY` (`host:port`, user `me`, password `hidden`).

use std::io::Read;
use std::net::{Shutdown, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use wharf_content::{digest_of, spec};
use wharf_linux::hostfs;
use wharf_model::Reference;
use wharf_registry::{Access, Config, Credential, Error, Pushed, Repository, Target};

use crate::push::Memory;
use crate::support::{blob_of, client, config, manifest_of, noise, password, read};

/// `me` with the password `hidden`.
const HTPASSWD: &str = "me:$2y$05$abcdefghijklmnopqrstuu4BcS2/37KDukaKm7SMr8Dt17UhqpC0G\n";

struct Peer {
    host: String,
    /// Its process group and its data, where it is ours to end.
    running: Option<(Child, tempfile::TempDir)>,
}

impl Peer {
    async fn find() -> Option<Self> {
        if let Ok(host) = std::env::var("WHARF_TEST_REGISTRY") {
            return Some(Self { host, running: None });
        }
        if std::env::var("WHARF_TEST_REFERENCE").is_ok_and(|wanted| !wanted.is_empty() && wanted != "0") {
            return Some(Self::start().await);
        }
        println!("skipped: no other registry is asked (set WHARF_TEST_REFERENCE=1)");
        None
    }

    async fn start() -> Self {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
        let script = manifest.ancestors().map(|above| above.join("shared/peers")).find(|path| path.exists());
        let script = script.expect("shared/peers beside the repository");
        let dir = tempfile::tempdir_in("/tmp").unwrap();
        let inside = Path::new("/xfer").join(dir.path().strip_prefix("/tmp").unwrap());
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let host = free.local_addr().unwrap().to_string();
        drop(free);
        let inside = inside.display();
        let settings = format!(
            "version: 0.1\nlog: {{level: error}}\nhttp: {{addr: \"{host}\"}}\n\
             auth: {{htpasswd: {{realm: r, path: {inside}/htpasswd}}}}\n\
             storage: {{filesystem: {{rootdirectory: {inside}/data}}, delete: {{enabled: true}}}}\n"
        );
        hostfs::write(&dir.path().join("config.yml"), settings.as_bytes()).unwrap();
        hostfs::write(&dir.path().join("htpasswd"), HTPASSWD.as_bytes()).unwrap();
        let child = Command::new(script)
            .args(["sh", "docker-registry", "serve", &format!("{inside}/config.yml")])
            .process_group(0)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let began = Instant::now();
        while TcpStream::connect(&host).is_err() {
            assert!(began.elapsed() < Duration::from_secs(30), "docker-registry does not listen on {host}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Self { host, running: Some((child, dir)) }
    }

    fn repository(
        &self,
        name: &str,
        access: Access,
        settings: Config,
        credential: Option<Credential>,
    ) -> Repository {
        let name = Reference::parse_normalized(&format!("{}/{name}", self.host)).unwrap();
        client(settings).repository(&name, access, credential).unwrap()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if let Some((child, _)) = &mut self.running {
            let group = format!("-{}", child.id());
            let _ = Command::new("kill").args(["-9", "--", &group]).status();
            let _ = child.wait();
        }
    }
}

#[tokio::test]
async fn images_go_to_another_registry_and_come_back() {
    let Some(peer) = Peer::find().await else { return };
    let wrong = Credential::Password { username: "me".into(), password: "wrong".into() };
    let error = client(config()).login(&peer.host, &wrong).await.unwrap_err();
    assert!(matches!(error, Error::Unauthorized { .. }), "{error}");
    client(config()).login(&peer.host, &password()).await.unwrap();

    let repository = peer.repository("one/app", Access::Push, config(), Some(password()));
    let chunked = Config { upload_chunk: 1_000_000, ..config() };
    let in_chunks = peer.repository("one/app", Access::Push, chunked, Some(password()));
    let (small, large, pieces) = (noise(1000), noise(5_000_000), noise(3_500_000));
    for (bytes, by) in
        [(&small, &repository), (&large, &repository), (&pieces, &in_chunks), (&noise(0), &repository)]
    {
        let (blob, source) = (blob_of(bytes), Memory::new(bytes));
        assert!(!by.has_blob(&blob.digest).await.unwrap());
        assert_eq!(by.push_blob(&blob, &source, None, &mut |_| {}).await.unwrap(), Pushed::Uploaded);
        assert_eq!(by.push_blob(&blob, &source, None, &mut |_| {}).await.unwrap(), Pushed::Existed);
        assert!(read(by.blob(&blob, 0).await.unwrap()).await.unwrap() == *bytes);
        let middle = bytes.len() / 2;
        assert!(read(by.blob(&blob, middle as u64).await.unwrap()).await.unwrap() == bytes[middle..]);
    }
    let other = peer.repository("two/app", Access::Push, config(), Some(password()));
    let mounted = other.push_blob(&blob_of(&large), &Memory::new(&large), Some("one/app"), &mut |_| {}).await;
    assert_eq!(mounted.unwrap(), Pushed::Mounted);

    let wrong = blob_of(b"other bytes of that size");
    let lying = Memory::new(&noise(24));
    let error = repository.push_blob(&wrong, &lying, None, &mut |_| {}).await.unwrap_err();
    assert!(matches!(error, Error::Rejected { status: 400, .. }), "{error}");

    manifests_and_lists(&peer, &repository, &small).await;
}

async fn manifests_and_lists(peer: &Peer, repository: &Repository, config_blob: &[u8]) {
    let manifest = manifest_of(config_blob);
    let digest = digest_of(&manifest);
    for tag in ["1", "2", "3"] {
        let target = Target::Tag(tag.into());
        repository.put_manifest(&target, spec::MANIFEST, &manifest).await.unwrap();
        assert_eq!(repository.resolve(&target).await.unwrap().digest, digest);
        assert_eq!(repository.manifest(&target).await.unwrap().bytes, manifest);
    }
    assert_eq!(repository.manifest(&Target::Digest(digest)).await.unwrap().bytes, manifest);
    let mut tags = repository.tags().await.unwrap();
    // docker-registry has no order here.
    tags.sort();
    assert_eq!(tags, ["1", "2", "3"]);
    let error = repository.manifest(&Target::Tag("none".into())).await.unwrap_err();
    assert!(error.to_string().starts_with("manifest unknown: manifest"), "{error}");
    let error =
        peer.repository("no/such", Access::Pull, config(), Some(password())).tags().await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
    let anonymous = peer.repository("one/app", Access::Pull, config(), None).tags().await.unwrap_err();
    assert!(matches!(anonymous, Error::Unauthorized { .. }), "{anonymous}");

    let mut signature: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    signature["artifactType"] = "application/x-test".into();
    signature["subject"] =
        serde_json::json!({"mediaType": spec::MANIFEST, "digest": digest, "size": manifest.len()});
    let signature = serde_json::to_vec(&signature).unwrap();
    let by_digest = Target::Digest(digest_of(&signature));
    repository.put_manifest(&by_digest, spec::MANIFEST, &signature).await.unwrap();
    let referrers = repository.referrers(&digest, Some("application/x-test")).await.unwrap();
    assert_eq!(referrers.manifests[0].digest, digest_of(&signature));

    let deleting = peer.repository("one/app", Access::Delete, config(), Some(password()));
    deleting.delete_manifest(&Target::Digest(digest)).await.unwrap();
    let gone = repository.manifest(&Target::Digest(digest)).await.unwrap_err();
    assert!(matches!(gone, Error::NotFound { .. }), "{gone}");
}

/// Passes connections on, and breaks each one that carried `limit` bytes in one direction, `times` times in all.
fn breaking(to: &str, limit: u64, times: usize) -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (to, left) = (to.to_owned(), Arc::new(AtomicUsize::new(times)));
    std::thread::spawn(move || {
        for near in listener.incoming() {
            let (Ok(near), Ok(far)) = (near, TcpStream::connect(&to)) else { return };
            for (from, into) in [(&near, &far), (&far, &near)] {
                let (mut from, mut into) = (from.try_clone().unwrap(), into.try_clone().unwrap());
                let left = Arc::clone(&left);
                std::thread::spawn(move || {
                    let carried = std::io::copy(&mut Read::by_ref(&mut from).take(limit), &mut into);
                    let full = carried.is_ok_and(|carried| carried == limit);
                    let take = |left: usize| left.checked_sub(1);
                    if full && left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_err() {
                        let _ = std::io::copy(&mut from, &mut into);
                    }
                    let _ = (from.shutdown(Shutdown::Both), into.shutdown(Shutdown::Both));
                });
            }
        }
    });
    address
}

#[tokio::test]
async fn broken_connections_to_another_registry_cost_no_blob() {
    let Some(peer) = Peer::find().await else { return };
    let bytes = noise(8_000_000);
    let blob = blob_of(&bytes);
    let through = Peer { host: breaking(&peer.host, 3_000_000, 2), running: None };
    let repository = through.repository("broken/app", Access::Push, config(), Some(password()));
    let mut highest = 0;
    let pushed =
        repository.push_blob(&blob, &Memory::new(&bytes), None, &mut |at| highest = at.max(highest)).await;
    assert_eq!((pushed.unwrap(), highest), (Pushed::Uploaded, blob.size));

    let through = Peer { host: breaking(&peer.host, 3_000_000, 2), running: None };
    let repository = through.repository("broken/app", Access::Pull, config(), Some(password()));
    assert!(read(repository.blob(&blob, 0).await.unwrap()).await.unwrap() == bytes);
}
