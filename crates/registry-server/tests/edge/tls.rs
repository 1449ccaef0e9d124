//! Certificates that change, and clients with certificates.

use std::net::TcpStream;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use wharf_testkit::wait_until;

use crate::world::{PATIENCE, Server, certificate, exchange, scratch};

/// A TLS client that trusts the tests' authority.
pub(crate) struct Client(Arc<ClientConfig>);

impl Client {
    /// With the certificate and key of that name.
    pub(crate) fn new(identity: Option<&str>) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(certificate("ca.pem")).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config =
            ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_root_certificates(roots);
        Self(Arc::new(match identity {
            None => config.with_no_client_auth(),
            Some(name) => {
                let chain = vec![CertificateDer::from_pem_file(certificate(&format!("{name}.pem"))).unwrap()];
                let key = PrivateKeyDer::from_pem_file(certificate(&format!("{name}.key"))).unwrap();
                config.with_client_auth_cert(chain, key).unwrap()
            }
        }))
    }

    pub(crate) fn connect(&self, server: &Server) -> StreamOwned<ClientConnection, TcpStream> {
        let name = ServerName::try_from("localhost").unwrap();
        StreamOwned::new(ClientConnection::new(self.0.clone(), name).unwrap(), server.connect())
    }

    /// The handshake, and whose certificate the server has.
    fn server_certificate(&self, server: &Server) -> CertificateDer<'static> {
        let mut stream = self.connect(server);
        stream.conn.complete_io(&mut stream.sock).unwrap();
        stream.conn.peer_certificates().unwrap()[0].clone().into_owned()
    }
}

#[test]
fn a_new_certificate_is_taken_up_and_open_connections_live() {
    let dir = scratch();
    let (pem, key) = (dir.path().join("server.pem"), dir.path().join("server.key"));
    let install = |name: &str| {
        std::fs::copy(certificate(&format!("{name}.key")), &key).unwrap();
        std::fs::copy(certificate(&format!("{name}.pem")), &pem).unwrap();
    };
    install("first");
    let args = ["--tls-certificate", pem.to_str().unwrap(), "--tls-key", key.to_str().unwrap()];
    let server = Server::start(dir.path(), &args);
    assert!(server.log().contains("listening on https://"));
    let client = Client::new(None);
    let of = |name: &str| CertificateDer::from_pem_file(certificate(name)).unwrap();
    let mut old = client.connect(&server);
    old.conn.complete_io(&mut old.sock).unwrap();
    assert_eq!(client.server_certificate(&server), of("first.pem"));

    std::fs::write(&pem, "-----BEGIN CERTIFICATE-----\nbroken").unwrap();
    wait_until("the broken file to be noticed", PATIENCE, || {
        client.server_certificate(&server) == of("first.pem") && server.log().contains("stays in force")
    });
    install("second");
    wait_until("the new certificate", PATIENCE, || client.server_certificate(&server) == of("second.pem"));
    assert_eq!(exchange(&mut old, "GET", "/healthz", &[], b"").status, 200);
}

#[test]
fn with_a_client_authority_nobody_comes_in_without_a_certificate() {
    let dir = scratch();
    let (pem, key, ca) = (certificate("first.pem"), certificate("first.key"), certificate("ca.pem"));
    let args = ["--tls-certificate", pem.to_str().unwrap(), "--tls-key", key.to_str().unwrap()];
    let server = Server::start(dir.path(), &[&args[..], &["--tls-client-ca", ca.to_str().unwrap()]].concat());
    let mut known = Client::new(Some("client")).connect(&server);
    assert_eq!(exchange(&mut known, "GET", "/healthz", &[], b"").status, 200);

    use std::io::{Read as _, Write as _};
    let mut unknown = Client::new(None).connect(&server);
    let asked = unknown.write_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    let mut answer = Vec::new();
    let read = asked.and_then(|()| unknown.read_to_end(&mut answer));
    assert!(read.is_err() && answer.is_empty(), "{}", String::from_utf8_lossy(&answer));
}
