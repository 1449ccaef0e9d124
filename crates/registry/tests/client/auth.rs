//! To whom credentials go, and where registries can lead.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine as _;
use wharf_content::digest_of;
use wharf_registry::{Access, Config, Credential, Error, Target};

use crate::support::{
    Exchange, FakeRegistry, blob_of, client, config, manifest_of, noise, password, read, repository,
};

fn basic() -> String {
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode("me:hidden"))
}

/// A registry that wants tokens of `realm`, which may contain `{host}` for itself, and serves tokens at `/token`.
fn with_tokens(realm: &str) -> FakeRegistry {
    let realm = realm.to_owned();
    FakeRegistry::start(move |exchange: &mut Exchange<'_>| {
        let host = exchange.head.header("host").unwrap().to_owned();
        if exchange.head.target.starts_with("/token") {
            let known = exchange.head.header("authorization") == Some(&basic());
            let body =
                format!(r#"{{"token":"for-{}","refresh_token":"kept"}}"#, if known { "me" } else { "all" });
            exchange.answer(200, &[], body.as_bytes());
        } else if exchange.head.header("authorization").is_some_and(|value| value.starts_with("Bearer for-"))
        {
            exchange.answer(200, &[], br#"{"tags":["x"]}"#);
        } else {
            let realm = realm.replace("{host}", &host);
            let challenge = format!("Bearer realm=\"{realm}\",service=\"reg\",scope=\"repository:a/b:pull\"");
            exchange.answer(401, &[("www-authenticate", &challenge)], b"");
        }
    })
}

#[tokio::test]
async fn a_token_is_asked_for_once_and_for_what_is_needed() {
    let registry = with_tokens("http://{host}/token");
    let client = client(config());
    let repository = repository(&client, &registry.host(), Access::Push, Some(password()));
    let (one, two, three) = tokio::join!(repository.tags(), repository.tags(), repository.tags());
    assert!(one.is_ok() && two.is_ok() && three.is_ok());
    repository.tags().await.unwrap();
    let tokens: Vec<_> = registry.lines().into_iter().filter(|line| line.contains("/token")).collect();
    assert_eq!(
        tokens,
        ["GET /token?account=me&client_id=wharf&service=reg&scope=repository%3Aa%2Fb%3Apull%2Cpush"]
    );
    assert_eq!(registry.authorizations().iter().filter(|value| value.starts_with("Basic")).count(), 1);

    // Another user is another token.
    let anonymous = crate::support::repository(&client, &registry.host(), Access::Push, None);
    anonymous.tags().await.unwrap();
    assert_eq!(registry.authorizations().last().unwrap(), "Bearer for-all");
}

#[tokio::test]
async fn a_token_that_is_refused_is_replaced_once() {
    let given = AtomicUsize::new(0);
    let registry = FakeRegistry::start(move |exchange: &mut Exchange<'_>| {
        if exchange.head.target.starts_with("/token") {
            let body = format!(r#"{{"access_token":"t{}"}}"#, given.fetch_add(1, Ordering::Relaxed));
            return exchange.answer(200, &[], body.as_bytes());
        }
        let realm = format!("Bearer realm=\"http://{}/token\"", exchange.head.header("host").unwrap());
        match exchange.head.header("authorization") {
            Some("Bearer t0") if exchange.nth < 2 => exchange.answer(200, &[], br#"{"tags":["x"]}"#),
            Some("Bearer t1") => exchange.answer(200, &[], br#"{"tags":["y"]}"#),
            _ => exchange.answer(401, &[("www-authenticate", &realm)], b""),
        }
    });
    let repository = registry.repository(Access::Pull);
    assert_eq!(repository.tags().await.unwrap(), ["x"]);
    assert_eq!(repository.tags().await.unwrap(), ["y"]);
}

#[tokio::test]
async fn a_login_gives_the_identity_token_or_an_error() {
    let registry = with_tokens("http://{host}/token");
    let login = client(config()).login(&registry.host(), &password()).await.unwrap();
    assert_eq!(login.identity_token.as_deref(), Some("kept"));
    assert!(registry.lines().iter().any(|line| line.contains("offline_token=true")));

    let strict = FakeRegistry::start(|exchange: &mut Exchange<'_>| {
        if exchange.head.header("authorization") == Some(&basic()) {
            exchange.answer(200, &[], b"{}");
        } else {
            exchange.answer(401, &[("www-authenticate", "Basic realm=\"x\"")], b"");
        }
    });
    let login = client(config()).login(&format!("http://{}/v1/", strict.host()), &password()).await.unwrap();
    assert_eq!(login.identity_token, None);
    let wrong = Credential::Password { username: "me".into(), password: "wrong".into() };
    let error = client(config()).login(&strict.host(), &wrong).await.unwrap_err();
    assert!(matches!(error, Error::Unauthorized { .. }), "{error}");
}

#[tokio::test]
async fn an_identity_token_is_exchanged_by_post() {
    let bodies: Arc<std::sync::Mutex<Vec<String>>> = Arc::default();
    let there = Arc::clone(&bodies);
    let registry = FakeRegistry::start(move |exchange: &mut Exchange<'_>| {
        if exchange.head.is("POST", "/token") {
            there.lock().unwrap().push(String::from_utf8(exchange.whole_body()).unwrap());
            return exchange.answer(200, &[], br#"{"access_token":"good","expires_in":300}"#);
        }
        let realm = format!(
            "Bearer realm=\"http://{}/token\",service=\"reg\"",
            exchange.head.header("host").unwrap()
        );
        match exchange.head.header("authorization") {
            Some("Bearer good") => exchange.answer(200, &[], br#"{"tags":[]}"#),
            _ => exchange.answer(401, &[("www-authenticate", &realm)], b""),
        }
    });
    let client = client(config());
    let credential = Credential::IdentityToken("kept".into());
    repository(&client, &registry.host(), Access::Pull, Some(credential)).tags().await.unwrap();
    assert_eq!(
        bodies.lock().unwrap().as_slice(),
        [
            "grant_type=refresh_token&client_id=wharf&service=reg&scope=repository%3Aa%2Fb%3Apull&refresh_token=kept"
        ]
    );
    let direct = Credential::RegistryToken("good".into());
    repository(&crate::support::client(config()), &registry.host(), Access::Pull, Some(direct))
        .tags()
        .await
        .unwrap();
}

#[tokio::test]
async fn rc_01_a_redirect_takes_no_credential_along() {
    let manifest = manifest_of(b"{}");
    let there = manifest.clone();
    let other = FakeRegistry::start(move |exchange: &mut Exchange<'_>| {
        exchange.answer(200, &[("content-type", wharf_content::spec::MANIFEST)], &there);
    });
    let location = format!("http://{}/elsewhere?signed=1", other.host());
    let registry =
        FakeRegistry::start(move |exchange: &mut Exchange<'_>| match exchange.head.header("authorization") {
            None => exchange.answer(401, &[("www-authenticate", "Basic realm=\"x\"")], b""),
            Some(_) => exchange.answer(307, &[("location", &location)], b""),
        });
    let client = client(config());
    let repository = repository(&client, &registry.host(), Access::Pull, Some(password()));
    let document = repository.manifest(&Target::Digest(digest_of(&manifest))).await.unwrap();
    assert_eq!(document.bytes, manifest);
    let download = repository.blob(&blob_of(&manifest), 0).await.unwrap();
    assert_eq!(read(download).await.unwrap(), manifest);
    assert_eq!(other.seen().len(), 2);
    assert!(other.authorizations().is_empty());
    assert!(other.seen().iter().all(|head| head.header("cookie").is_none()));
    assert_eq!(registry.authorizations().first(), Some(&basic()));
}

#[tokio::test]
async fn rc_01_an_upload_location_elsewhere_gets_bytes_and_no_credential() {
    let other = FakeRegistry::start(|exchange: &mut Exchange<'_>| exchange.answer(201, &[], b""));
    let location = format!("http://{}/upload/1", other.host());
    let registry =
        FakeRegistry::start(move |exchange: &mut Exchange<'_>| match exchange.head.header("authorization") {
            None => exchange.answer(401, &[("www-authenticate", "Basic realm=\"x\"")], b""),
            Some(_) if exchange.head.method == "HEAD" => exchange.answer(404, &[], b""),
            Some(_) => exchange.answer(202, &[("location", &location)], b""),
        });
    let client = client(config());
    let bytes = noise(1000);
    let repository = repository(&client, &registry.host(), Access::Push, Some(password()));
    let source = crate::push::Memory::new(&bytes);
    repository.push_blob(&blob_of(&bytes), &source, None, &mut |_| {}).await.unwrap();
    assert_eq!(other.lines(), [format!("PUT /upload/1?digest={}", digest_of(&bytes))]);
    assert!(other.authorizations().is_empty());
}

#[tokio::test]
async fn rc_01_a_token_service_elsewhere_is_asked_without_the_credential() {
    let listener = FakeRegistry::start(|exchange: &mut Exchange<'_>| {
        exchange.answer(200, &[], br#"{"token":"for-all"}"#)
    });
    // Another host of this machine without TLS, then the same host under another name.
    for realm in [
        format!("http://localhost:{}/token", listener.address.port()),
        "ftp://{host}/token".into(),
        "http://me:pw@{host}/token".into(),
    ] {
        let registry = with_tokens(&realm);
        let client = client(config());
        let error =
            repository(&client, &registry.host(), Access::Pull, Some(password())).tags().await.unwrap_err();
        assert!(matches!(error, Error::Refused { .. }), "{realm}: {error}");
        assert!(registry.authorizations().is_empty());
    }
    assert!(listener.seen().is_empty());

    // The same host on another port is the registry's own.
    let registry = with_tokens(&format!("http://{}/token", listener.host()));
    let client = client(config());
    repository(&client, &registry.host(), Access::Pull, Some(password())).tags().await.unwrap();
    assert_eq!(listener.authorizations(), [basic()]);
}

#[tokio::test]
async fn rc_01_a_token_service_does_not_redirect_a_credential() {
    let listener =
        FakeRegistry::start(|exchange: &mut Exchange<'_>| exchange.answer(200, &[], br#"{"token":"t"}"#));
    let location = format!("http://{}/token", listener.host());
    let registry = FakeRegistry::start(move |exchange: &mut Exchange<'_>| {
        let realm = format!("Bearer realm=\"http://{}/token\"", exchange.head.header("host").unwrap());
        match exchange.head.target.starts_with("/token") {
            true => exchange.answer(307, &[("location", &location)], b""),
            false => exchange.answer(401, &[("www-authenticate", &realm)], b""),
        }
    });
    let client = client(config());
    assert!(repository(&client, &registry.host(), Access::Pull, Some(password())).tags().await.is_err());
    assert!(listener.seen().is_empty());
}

#[tokio::test]
async fn rc_01_a_mirror_never_gets_the_registrys_credential() {
    let challenge = [("www-authenticate", "Basic realm=\"x\"")];
    let mirror =
        FakeRegistry::start(move |exchange: &mut Exchange<'_>| exchange.answer(401, &challenge, b""));
    let upstream =
        FakeRegistry::start(move |exchange: &mut Exchange<'_>| match exchange.head.header("authorization") {
            None => exchange.answer(401, &challenge, b""),
            Some(_) => exchange.answer(200, &[], br#"{"tags":["x"]}"#),
        });
    let dir = tempfile::tempdir().unwrap();
    let host = upstream.host();
    let toml = format!(
        "server = \"http://{host}\"\n[host.\"http://{}\"]\ncapabilities = [\"pull\", \"resolve\"]\n",
        mirror.host()
    );
    wharf_linux::hostfs::create_dir_all(&dir.path().join(&host), 0o755).unwrap();
    wharf_linux::hostfs::write(&dir.path().join(&host).join("hosts.toml"), toml.as_bytes()).unwrap();

    let client = client(Config { hosts_directories: vec![dir.path().to_owned()], ..config() });
    let pulled = repository(&client, &host, Access::Pull, Some(password()));
    assert_eq!(pulled.tags().await.unwrap(), ["x"]);
    assert_eq!(mirror.lines().len(), 1);
    assert!(mirror.seen()[0].target.ends_with(&format!("ns={}", host.replace(':', "%3A"))));
    assert!(mirror.authorizations().is_empty());
    assert_eq!(upstream.authorizations(), [basic()]);

    // What cannot push is not asked to.
    let pushed = repository(&client, &host, Access::Push, Some(password()));
    pushed.put_manifest(&Target::Tag("t".into()), "x", b"{}").await.unwrap();
    assert_eq!(mirror.lines().len(), 1);
}

#[tokio::test]
async fn rc_04_redirects_end_and_never_leave_http_behind() {
    let registry = FakeRegistry::start(|exchange: &mut Exchange<'_>| {
        let next = format!("/next/{}", exchange.head.target.len());
        exchange.answer(
            302,
            &[("location", &format!("{next}{}", "x".repeat(exchange.head.target.len())))],
            b"",
        );
    });
    let error = registry.repository(Access::Pull).tags().await.unwrap_err();
    assert!(matches!(&error, Error::Protocol { what, .. } if what.contains("10 redirects")), "{error}");
    assert_eq!(registry.seen().len(), 11);

    for location in
        ["file:///etc/passwd", "gopher://127.0.0.1/", "http://", "//", "http://[::1", "javascript:1"]
    {
        let registry = FakeRegistry::start(move |exchange: &mut Exchange<'_>| {
            exchange.answer(302, &[("location", location)], b"");
        });
        assert!(registry.repository(Access::Pull).tags().await.is_err(), "{location}");
        assert_eq!(registry.seen().len(), 1);
    }
}

#[tokio::test]
async fn proxies_carry_what_is_not_local() {
    // A proxy sees the whole address of plain requests; the name is one that nobody could resolve.
    let proxy = FakeRegistry::start(|exchange: &mut Exchange<'_>| match exchange.head.method.as_str() {
        "CONNECT" => exchange.answer(403, &[], b""),
        _ => exchange.answer(200, &[], br#"{"tags":["x"]}"#),
    });
    let dir = tempfile::tempdir().unwrap();
    wharf_linux::hostfs::create_dir_all(&dir.path().join("far.test"), 0o755).unwrap();
    wharf_linux::hostfs::write(&dir.path().join("far.test/hosts.toml"), b"server = \"http://far.test\"")
        .unwrap();
    let address = format!("http://user:pw@{}", proxy.host());
    let proxies = wharf_registry::Proxies::new(&address, &address, "");
    let client =
        client(Config { proxies, hosts_directories: vec![dir.path().to_owned()], retries: 0, ..config() });
    assert_eq!(repository(&client, "far.test", Access::Pull, None).tags().await.unwrap(), ["x"]);
    assert_eq!(proxy.lines(), ["GET http://far.test/v2/a/b/tags/list?n=1000"]);
    assert_eq!(proxy.seen()[0].header("proxy-authorization"), Some("Basic dXNlcjpwdw=="));

    let error = repository(&client, "secure.test", Access::Pull, None).tags().await.unwrap_err();
    assert!(error.to_string().contains("403"), "{error}");
    assert_eq!(proxy.lines()[1], "CONNECT secure.test:443");
}

/// A registry that is not of this machine, as far as anybody can tell: it is only reached through a proxy.
fn far(
    script: impl Fn(&mut Exchange<'_>) + Send + Sync + 'static,
) -> (FakeRegistry, wharf_registry::Client, tempfile::TempDir) {
    let proxy = FakeRegistry::start(script);
    let dir = tempfile::tempdir().unwrap();
    wharf_linux::hostfs::create_dir_all(&dir.path().join("far.test"), 0o755).unwrap();
    wharf_linux::hostfs::write(&dir.path().join("far.test/hosts.toml"), b"server = \"http://far.test\"")
        .unwrap();
    let proxies = wharf_registry::Proxies::new(&format!("http://{}", proxy.host()), "", "");
    let client =
        client(Config { proxies, hosts_directories: vec![dir.path().to_owned()], retries: 0, ..config() });
    (proxy, client, dir)
}

#[tokio::test]
async fn rc_04_a_registry_elsewhere_does_not_lead_to_local_addresses() {
    let target =
        FakeRegistry::start(|exchange: &mut Exchange<'_>| exchange.answer(200, &[], br#"{"tags":["x"]}"#));
    let port = target.address.port();
    for host in [
        "127.0.0.1",
        "localhost",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "0.0.0.0",
        "[::]",
        "169.254.169.254",
        "[fe80::1]",
        "10.0.0.1",
        "192.168.1.1",
        "[fd00::1]",
        "[64:ff9b::7f00:1]",
    ] {
        for scheme in ["http", "https"] {
            let location = format!("{scheme}://{host}:{port}/x");
            let (_proxy, client, _dir) = far({
                let location = location.clone();
                move |exchange: &mut Exchange<'_>| exchange.answer(307, &[("location", &location)], b"")
            });
            let error = repository(&client, "far.test", Access::Pull, None).tags().await.unwrap_err();
            assert!(matches!(error, Error::Refused { .. }), "{location}: {error}");

            let (_proxy, client, _dir) = far(move |exchange: &mut Exchange<'_>| {
                exchange.answer(401, &[("www-authenticate", &format!("Bearer realm=\"{location}\""))], b"");
            });
            let error =
                repository(&client, "far.test", Access::Pull, Some(password())).tags().await.unwrap_err();
            assert!(matches!(error, Error::Refused { .. }), "{error}");
        }
    }
    assert!(target.seen().is_empty());
}
