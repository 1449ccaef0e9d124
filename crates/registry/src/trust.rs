//! Whom TLS connections to a host trust, and who we are to it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::error::{Error, Result};

/// Trust for one host. The machine's own authorities are always trusted; configuration adds to them.
#[derive(Debug)]
pub(crate) struct Trust {
    /// Tells pooled connections of different trust apart.
    pub(crate) id: u64,
    authorities: Vec<CertificateDer<'static>>,
    identity: Option<Identity>,
    skip_verify: bool,
    checked: OnceLock<Arc<ClientConfig>>,
    unchecked: OnceLock<Arc<ClientConfig>>,
}

/// A client certificate.
#[derive(Debug)]
pub(crate) struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Identity {
    /// From PEM.
    pub(crate) fn new(chain: &[u8], key: &[u8], name: &str) -> Result<Self> {
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|error| Error::Config(format!("{name}: no private key in PEM: {error}")))?;
        Ok(Self { chain: certificates(chain, name)?, key })
    }
}

/// Every certificate in some PEM.
pub(crate) fn certificates(pem: &[u8], name: &str) -> Result<Vec<CertificateDer<'static>>> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        Ok(_) => Err(Error::Config(format!("{name}: no certificate in PEM"))),
        Err(error) => Err(Error::Config(format!("{name}: {error}"))),
    }
}

impl Trust {
    pub(crate) fn new(
        authorities: Vec<CertificateDer<'static>>,
        identity: Option<Identity>,
        skip_verify: bool,
    ) -> Arc<Self> {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        Arc::new(Self {
            id: SERIAL.fetch_add(1, Ordering::Relaxed),
            authorities,
            identity,
            skip_verify,
            checked: OnceLock::new(),
            unchecked: OnceLock::new(),
        })
    }

    /// The machine's authorities and nothing else.
    pub(crate) fn system() -> Arc<Self> {
        static SYSTEM: OnceLock<Arc<Trust>> = OnceLock::new();
        Arc::clone(SYSTEM.get_or_init(|| Self::new(Vec::new(), None, false)))
    }

    /// The settings of a connection. `verify` is false for hosts that were configured to be insecure.
    pub(crate) fn settings(&self, verify: bool) -> Result<Arc<ClientConfig>> {
        let verify = verify && !self.skip_verify;
        let made = if verify { &self.checked } else { &self.unchecked };
        if let Some(settings) = made.get() {
            return Ok(Arc::clone(settings));
        }
        let settings = Arc::new(self.make(verify)?);
        Ok(Arc::clone(made.get_or_init(|| settings)))
    }

    fn make(&self, verify: bool) -> Result<ClientConfig> {
        let wrong = |error: rustls::Error| Error::Config(format!("TLS: {error}"));
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(wrong)?;
        let builder = if verify {
            let mut roots = machine_roots().clone();
            for authority in &self.authorities {
                roots.add(authority.clone()).map_err(wrong)?;
            }
            builder.with_root_certificates(roots)
        } else {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(Unverified(provider)))
        };
        let mut settings = match &self.identity {
            Some(identity) => builder
                .with_client_auth_cert(identity.chain.clone(), identity.key.clone_key())
                .map_err(wrong)?,
            None => builder.with_no_client_auth(),
        };
        settings.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(settings)
    }
}

/// Settings of TLS connections to others than registries: trusts `authorities` (PEM) besides the machine's own, and
/// shows `identity` (certificate chain and key, PEM) to who asks. Without `verify` anybody is trusted.
///
/// # Errors
/// [`Error::Config`] when something is not PEM.
pub fn tls_settings(
    authorities: Option<&[u8]>,
    identity: Option<(&[u8], &[u8])>,
    verify: bool,
) -> Result<Arc<ClientConfig>> {
    let authorities =
        authorities.map(|pem| certificates(pem, "authorities")).transpose()?.unwrap_or_default();
    let identity =
        identity.map(|(chain, key)| Identity::new(chain, key, "client certificate")).transpose()?;
    let mut settings = Trust::new(authorities, identity, !verify).make(verify)?;
    settings.alpn_protocols.clear();
    Ok(Arc::new(settings))
}

/// The machine's authorities, read once. A machine without any trusts nobody.
fn machine_roots() -> &'static RootCertStore {
    static ROOTS: OnceLock<RootCertStore> = OnceLock::new();
    ROOTS.get_or_init(|| {
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            tracing::warn!(errors = ?found.errors, "this machine has no certificate authorities (install ca-certificates)");
        }
        roots
    })
}

/// Accepts any certificate; the handshake must still be signed with its key.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
