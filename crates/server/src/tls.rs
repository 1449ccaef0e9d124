//! TLS of the API, from files that may be read again while the engine runs.
//!
//! A client authority is not optional except where nobody but this machine can connect (`wharfd` decides that): whoever
//! reaches the API is root here, and encryption alone keeps nobody out. A connection takes the configuration that is in
//! force when it is accepted; connections that are open keep theirs.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::client::verify_server_name;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;

/// How large a file with certificates may be.
const FILE_LIMIT: u64 = 1 << 20;

/// Where the certificates are.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// The engine's certificate, followed by those that lead to its authority.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The authorities whose clients are let in; without it nobody is asked for a certificate.
    pub client_authority: Option<PathBuf>,
}

/// What makes TLS connections of plain ones.
#[derive(Debug)]
pub struct Tls {
    files: TlsFiles,
    current: RwLock<Certificates>,
}

/// What was read of the files.
#[derive(Debug, Clone)]
pub struct Certificates {
    config: Arc<ServerConfig>,
    certificate: CertificateDer<'static>,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// When one of them cannot be used; the message names it.
    pub fn open(files: TlsFiles) -> io::Result<Arc<Self>> {
        let current = RwLock::new(load(&files)?);
        Ok(Arc::new(Self { files, current }))
    }

    /// Reads the files again. What was in force stays so until [`Tls::put`].
    ///
    /// # Errors
    /// As [`Tls::open`].
    pub fn read_again(&self) -> io::Result<Certificates> {
        load(&self.files)
    }

    /// Puts what was read in force, for connections to come.
    pub fn put(&self, loaded: Certificates) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = loaded;
    }

    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.loaded().config)
    }

    /// Whether the engine's own certificate is for `host`.
    pub(crate) fn is_for(&self, host: &str) -> bool {
        let loaded = self.loaded();
        let Ok(name) = ServerName::try_from(host) else { return false };
        ParsedCertificate::try_from(&loaded.certificate)
            .is_ok_and(|certificate| verify_server_name(&certificate, &name).is_ok())
    }

    fn loaded(&self) -> Certificates {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn load(files: &TlsFiles) -> io::Result<Certificates> {
    let chain = certificates(&files.certificate)?;
    let key = PrivateKeyDer::from_pem_slice(&read(&files.key)?)
        .map_err(|_| unusable(&files.key, "has no private key in PEM form"))?;
    let wrong =
        |error: &dyn std::fmt::Display| unusable(&files.certificate, format!("cannot be used: {error}"));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(&error))?;
    let builder = match &files.client_authority {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(path)? {
                let added = roots.add(certificate);
                added.map_err(|error| unusable(path, format!("is no authority: {error}")))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(
                verifier.map_err(|error| unusable(path, format!("cannot verify clients: {error}")))?,
            )
        }
    };
    let certificate = chain.first().cloned().ok_or_else(|| unusable(&files.certificate, "is empty"))?;
    let key_path = files.key.display();
    let mut config = builder.with_single_cert(chain, key).map_err(|error| {
        unusable(&files.certificate, format!("does not go with the key {key_path}: {error}"))
    })?;
    // Attach and exec take the connection over, which HTTP/2 cannot.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Certificates { config: Arc::new(config), certificate })
}

fn certificates(path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let text = read(path)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let chain = chain.map_err(|error| unusable(path, format!("is damaged: {error}")))?;
    match chain.is_empty() {
        true => Err(unusable(path, "has no certificate: expected -----BEGIN CERTIFICATE-----")),
        false => Ok(chain),
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    wharf_linux::hostfs::read_bounded(path, FILE_LIMIT)
        .map_err(|error| io::Error::new(error.kind(), error.to_string()))
}

fn unusable(path: &Path, why: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{} {why}", path.display()))
}

/// The common name in the subject of a certificate that was verified: who the client is.
pub(crate) fn common_name(certificate: &[u8]) -> Option<String> {
    /// The attribute's type, as it stands in the encoding.
    const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
    let (certificate, _) = element(certificate)?;
    let (mut body, _) = element(certificate)?;
    // Version (its tag says so), serial number, algorithm, issuer, validity; then the subject.
    if body.first() == Some(&0xa0) {
        body = element(body)?.1;
    }
    for _ in 0..4 {
        body = element(body)?.1;
    }
    let (mut subject, _) = element(body)?;
    let mut found = None;
    while !subject.is_empty() {
        let (mut set, rest) = element(subject)?;
        subject = rest;
        while !set.is_empty() {
            let (attribute, others) = element(set)?;
            set = others;
            let (kind, value) = element(attribute)?;
            if kind == COMMON_NAME {
                // The most specific one comes last.
                found = std::str::from_utf8(element(value)?.0).ok().map(str::to_owned);
            }
        }
    }
    found
}

/// The content of the first element of some DER, and what follows it.
fn element(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&first, rest) = der.get(1..)?.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x84 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (bytes.iter().fold(0, |length, byte| (length << 8) | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    rest.split_at_checked(length)
}
