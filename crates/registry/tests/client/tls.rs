//! Whom TLS trusts. The certificates beside this file end in the year 2124, but for the one that has ended.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use wharf_linux::hostfs;
use wharf_registry::{Access, Config, Error, Repository};

use crate::support::{Exchange, FakeRegistry, Stream, client, config, password, repository};

const CA: &[u8] = include_bytes!("tls/ca.crt");
const LOCALHOST: [&[u8]; 2] = [include_bytes!("tls/localhost.crt"), include_bytes!("tls/localhost.key")];
const OTHER: [&[u8]; 2] = [include_bytes!("tls/other.crt"), include_bytes!("tls/other.key")];
const EXPIRED: [&[u8]; 2] = [include_bytes!("tls/expired.crt"), include_bytes!("tls/expired.key")];
const CLIENT: [&[u8]; 2] = [include_bytes!("tls/client.crt"), include_bytes!("tls/client.key")];

fn serve(certificate: [&'static [u8]; 2], mutual: bool) -> FakeRegistry {
    scripted(certificate, mutual, |exchange| exchange.answer(200, &[], br#"{"tags":["x"]}"#))
}

fn scripted(
    [chain, key]: [&'static [u8]; 2],
    mutual: bool,
    script: impl Fn(&mut Exchange<'_>) + Send + Sync + 'static,
) -> FakeRegistry {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(CA).unwrap()).unwrap();
    let builder = if mutual {
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
        builder.with_client_cert_verifier(verifier)
    } else {
        builder.with_no_client_auth()
    };
    let chain = CertificateDer::pem_slice_iter(chain).collect::<Result<Vec<_>, _>>().unwrap();
    let settings = builder.with_single_cert(chain, PrivateKeyDer::from_pem_slice(key).unwrap()).unwrap();
    let settings = Arc::new(settings);
    FakeRegistry::start_with(
        move |stream| {
            let connection = ServerConnection::new(Arc::clone(&settings)).unwrap();
            Some(Box::new(StreamOwned::new(connection, stream)) as Box<dyn Stream>)
        },
        script,
    )
}

fn files(directory: &Path, host: &str, files: &[(&str, &[u8])]) {
    let directory = directory.join(host);
    hostfs::create_dir_all(&directory, 0o755).unwrap();
    for (name, bytes) in files {
        hostfs::write(&directory.join(name), bytes).unwrap();
    }
}

/// The repository of a registry with a directory of certificates, as Docker has them.
fn trusting(registry: &FakeRegistry, with: &[(&str, &[u8])]) -> (Repository, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    files(dir.path(), &registry.host(), with);
    let client = client(Config { hosts_directories: vec![dir.path().to_owned()], retries: 0, ..config() });
    (repository(&client, &registry.host(), Access::Pull, None), dir)
}

#[tokio::test]
async fn an_authority_of_the_hosts_directory_is_trusted() {
    let registry = serve(LOCALHOST, false);
    let (repository, _dir) = trusting(&registry, &[("ca.crt", CA)]);
    assert_eq!(repository.tags().await.unwrap(), ["x"]);
}

#[tokio::test]
async fn a_client_certificate_is_shown_to_the_host_it_is_for() {
    let registry = serve(LOCALHOST, true);
    let (with, _dir) = trusting(&registry, &[("ca.crt", CA), ("me.cert", CLIENT[0]), ("me.key", CLIENT[1])]);
    assert_eq!(with.tags().await.unwrap(), ["x"]);
    let (without, _other) = trusting(&registry, &[("ca.crt", CA)]);
    assert!(without.tags().await.is_err());

    let toml = b"ca = \"ca.crt\"\nclient = [[\"me.crt\", \"me.key\"]]\n";
    let all: [(&str, &[u8]); 4] =
        [("hosts.toml", toml), ("ca.crt", CA), ("me.crt", CLIENT[0]), ("me.key", CLIENT[1])];
    let (with, _third) = trusting(&registry, &all);
    assert_eq!(with.tags().await.unwrap(), ["x"]);
}

#[tokio::test]
async fn rc_03_bad_certificates_are_refused_and_never_answered_with_plain_http() {
    for (certificate, authority) in [(LOCALHOST, None), (OTHER, Some(CA)), (EXPIRED, Some(CA))] {
        let registry = serve(certificate, false);
        let with: Vec<(&str, &[u8])> = authority.map(|authority| ("ca.crt", authority)).into_iter().collect();
        let (repository, _dir) = trusting(&registry, &with);
        let error = repository.tags().await.unwrap_err();
        assert!(matches!(error, Error::Tls { .. }), "{error}");
        assert!(registry.seen().is_empty());
    }
}

#[tokio::test]
async fn rc_03_only_the_host_that_was_configured_goes_unchecked() {
    let (one, other) = (serve(EXPIRED, false), serve(EXPIRED, false));
    let client = client(Config { insecure: vec![one.host()], retries: 0, ..config() });
    assert_eq!(repository(&client, &one.host(), Access::Pull, None).tags().await.unwrap(), ["x"]);
    let error = repository(&client, &other.host(), Access::Pull, None).tags().await.unwrap_err();
    assert!(matches!(error, Error::Tls { .. }), "{error}");
}

#[tokio::test]
async fn rc_03_https_that_was_asked_for_is_never_given_up() {
    // Plain HTTP on loopback is fine for a name without a scheme, and not for one with https.
    let registry = FakeRegistry::start_with(
        |stream| {
            let mut first = [0];
            (stream.peek(&mut first).ok()? == 1 && first[0] != 0x16).then_some(())?;
            Some(Box::new(stream))
        },
        |exchange: &mut Exchange<'_>| exchange.answer(200, &[], br#"{"tags":["x"]}"#),
    );
    assert_eq!(registry.repository(Access::Pull).tags().await.unwrap(), ["x"]);
    let before = registry.seen().len();
    let toml = format!("server = \"https://{}\"", registry.host());
    let (strict, _dir) = trusting(&registry, &[("hosts.toml", toml.as_bytes())]);
    let error = strict.tags().await.unwrap_err();
    assert!(matches!(error, Error::Tls { .. } | Error::Network { .. }), "{error}");
    assert_eq!(registry.seen().len(), before);
}

#[tokio::test]
async fn rc_03_no_secret_is_sent_before_the_certificate_was_checked() {
    // Reads whatever comes over a connection whose certificate is wrong.
    let heard: Arc<std::sync::Mutex<Vec<u8>>> = Arc::default();
    let there = Arc::clone(&heard);
    let registry = FakeRegistry::start_with(
        move |mut stream| {
            let mut bytes = [0; 4096];
            let read = stream.read(&mut bytes).ok()?;
            there.lock().unwrap().extend_from_slice(&bytes[..read]);
            None
        },
        |_: &mut Exchange<'_>| {},
    );
    let toml = format!("server = \"https://{}\"", registry.host());
    let dir = tempfile::tempdir().unwrap();
    files(dir.path(), &registry.host(), &[("hosts.toml", toml.as_bytes())]);
    let client = client(Config { hosts_directories: vec![dir.path().to_owned()], retries: 0, ..config() });
    assert!(client.login(&registry.host(), &password()).await.is_err());
    let heard = heard.lock().unwrap();
    assert_eq!(heard[0], 0x16);
    assert!(!heard.windows(5).any(|window| window == b"Basic"));
}

#[tokio::test]
async fn tls_does_not_give_way_to_http_on_a_redirect() {
    let listener = FakeRegistry::start(|exchange: &mut Exchange<'_>| exchange.answer(200, &[], b"{}"));
    let location = format!("http://{}/x", listener.host());
    let registry =
        scripted(LOCALHOST, false, move |exchange| exchange.answer(302, &[("location", &location)], b""));
    let (repository, _dir) = trusting(&registry, &[("ca.crt", CA)]);
    let error = repository.tags().await.unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error}");
    assert!(listener.seen().is_empty());
}

#[tokio::test]
async fn rc_01_a_token_service_of_strangers_gets_no_credential() {
    let stranger = scripted(OTHER, false, |exchange| exchange.answer(200, &[], br#"{"token":"for-all"}"#));
    let place = format!("other.test:{}", stranger.address.port());
    let realm = format!("Bearer realm=\"https://{place}/token\"");
    let registry =
        FakeRegistry::start(move |exchange: &mut Exchange<'_>| match exchange.head.header("authorization") {
            Some("Bearer for-all") => exchange.answer(200, &[], br#"{"tags":["x"]}"#),
            _ => exchange.answer(401, &[("www-authenticate", &realm)], b""),
        });
    let addresses = [("other.test".to_owned(), vec![stranger.address.ip()])].into();
    let strict = Config { addresses, insecure: vec![place], ..config() };
    // What everybody may see is seen without the credential; a pair in the settings makes the service the registry's.
    let related = Config { realms: vec![("127.0.0.1".into(), "other.test".into())], ..strict.clone() };
    for (config, credentials) in [(strict, 0), (related, 1)] {
        let repository = repository(&client(config), &registry.host(), Access::Pull, Some(password()));
        assert_eq!(repository.tags().await.unwrap(), ["x"]);
        assert_eq!(stranger.authorizations().len(), credentials);
    }
    assert!(registry.authorizations().iter().all(|value| value == "Bearer for-all"));
}
