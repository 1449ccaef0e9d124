//! TLS from certificate files that may change while the registry serves.
//!
//! Each accepted connection takes the configuration in force; connections that are open keep theirs. Without a client
//! authority nobody is asked for a certificate; with one, who has none gets no connection.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;

use crate::watched::{Refused, Watched, text};

/// The files.
#[derive(Debug, Clone)]
pub(crate) struct TlsFiles {
    /// The certificate, followed by those that lead to the authority.
    pub(crate) certificate: PathBuf,
    /// Its key.
    pub(crate) key: PathBuf,
    /// Authorities of clients' certificates.
    pub(crate) client_authority: Option<PathBuf>,
}

/// What makes TLS connections of plain ones.
pub(crate) struct Tls(Watched<ServerConfig>);

impl Tls {
    /// Reads the files.
    pub(crate) fn open(files: TlsFiles) -> Result<Self, Refused> {
        let mut watched = vec![files.certificate.clone(), files.key.clone()];
        watched.extend(files.client_authority.clone());
        Ok(Self(Watched::open(watched, move || configuration(&files))?))
    }

    /// For the next connection.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.0.current())
    }
}

fn configuration(files: &TlsFiles) -> Result<ServerConfig, Refused> {
    let chain = certificates(&files.certificate)?;
    let key = PrivateKeyDer::from_pem_slice(text(&files.key)?.as_bytes())
        .map_err(|_| Refused::file(&files.key, "has no private key in PEM form"))?;
    let unusable =
        |error: &dyn std::fmt::Display| Refused::file(&files.certificate, format!("cannot be used: {error}"));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable(&error))?;
    let builder = match &files.client_authority {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(path)? {
                roots
                    .add(certificate)
                    .map_err(|error| Refused::file(path, format!("is no authority: {error}")))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(
                verifier.map_err(|error| Refused::file(path, format!("cannot verify clients: {error}")))?,
            )
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|error| {
        let key = files.key.display();
        Refused::file(&files.certificate, format!("does not go with the key {key}: {error}"))
    })?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Refused> {
    let text = text(path)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    let chain = chain.map_err(|error| Refused::file(path, format!("is damaged: {error}")))?;
    if chain.is_empty() {
        return Err(Refused::file(path, "has no certificate: expected -----BEGIN CERTIFICATE-----"));
    }
    Ok(chain)
}
