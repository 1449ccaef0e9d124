//! From what a user says about the engine's place to an endpoint: flags, environment, contexts; TLS and ssh.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _},
};
use wharf_api::client::Endpoint;

use crate::{
    cli::Globals,
    config::Config,
    contexts::{self, DOCKER, Files, Store, variable},
    engine::SESSION_WORD,
    failure::{Failure, Result},
};

/// Where our own engine listens.
pub(crate) const DEFAULT_HOST: &str = "unix:///run/wharf/wharf.sock";

/// What the other end of an ssh connection runs: our program, or Docker's.
const REMOTE: &str =
    r#"if command -v wharf >/dev/null 2>&1; then exec wharf "$@"; else exec docker "$@"; fi"#;

/// Where the engine is, and how to speak to it.
pub(crate) struct Target {
    pub(crate) endpoint: Endpoint,
    pub(crate) tls: Option<Arc<ClientConfig>>,
    /// Whether the user said where, so that none is started.
    pub(crate) chosen: bool,
}

/// Whom to trust and who we are, in PEM.
#[derive(Default)]
pub(crate) struct Material {
    pub(crate) authority: Option<Vec<u8>>,
    pub(crate) certificate: Option<Vec<u8>>,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) skip_verify: bool,
}

impl Material {
    /// Of a context's files.
    pub(crate) fn of_files(mut files: Files, skip_verify: bool) -> Self {
        let mut take = |name: &str| files.remove(name);
        Self { authority: take("ca.pem"), certificate: take("cert.pem"), key: take("key.pem"), skip_verify }
    }

    fn is_empty(&self) -> bool {
        self.authority.is_none() && self.certificate.is_none() && self.key.is_none()
    }

    /// The settings of connections.
    pub(crate) fn config(&self) -> Result<ClientConfig> {
        let wrong = |error: rustls::Error| Failure::message(format!("TLS: {error}"));
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(wrong)?;
        let builder = if self.skip_verify {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(Unverified(provider)))
        } else {
            builder.with_root_certificates(self.roots()?)
        };
        let mut config = match (&self.certificate, &self.key) {
            (Some(certificate), Some(key)) => {
                let key = PrivateKeyDer::from_pem_slice(key)
                    .map_err(|error| Failure::message(format!("key.pem seems invalid: {error}")))?;
                builder.with_client_auth_cert(certificates(certificate, "cert.pem")?, key).map_err(wrong)?
            }
            _ => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }

    /// The authority that was given and no other; without one those of this machine.
    fn roots(&self) -> Result<RootCertStore> {
        let mut roots = RootCertStore::empty();
        match &self.authority {
            Some(pem) => {
                for certificate in certificates(pem, "ca.pem")? {
                    let added = roots.add(certificate);
                    added.map_err(|_| {
                        Failure::message("failed to retrieve context tls info: ca.pem seems invalid")
                    })?;
                }
            }
            None => {
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            }
        }
        Ok(roots)
    }
}

fn certificates(pem: &[u8], name: &str) -> Result<Vec<CertificateDer<'static>>> {
    let all: std::result::Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    all.ok()
        .filter(|all| !all.is_empty())
        .ok_or_else(|| Failure::message(format!("failed to retrieve context tls info: {name} seems invalid")))
}

/// The engine the user means.
pub(crate) fn target(globals: &Globals, config: &Config) -> Result<Target> {
    let failed = |failure: Failure| Failure::message(format!("Failed to initialize: {failure}"));
    let name = contexts::current(globals, config);
    if name == contexts::DEFAULT {
        return of_flags(globals, config).map_err(failed);
    }
    of_context(&Store::of(config.directory()), &name)
        .map_err(|failure| failed(Failure::message(format!("unable to resolve docker endpoint: {failure}"))))
}

fn of_context(store: &Store, name: &str) -> Result<Target> {
    let endpoint = store.get(name)?.endpoint()?;
    let material = Material::of_files(store.files(name, DOCKER)?, endpoint.skip_tls_verify);
    let host = if endpoint.host.is_empty() { DEFAULT_HOST } else { &endpoint.host };
    let parsed = endpoint_of(host)?;
    let wanted = matches!(parsed, Endpoint::Tcp(_)) && (!material.is_empty() || material.skip_verify);
    let tls = if wanted { Some(Arc::new(material.config()?)) } else { None };
    Ok(Target { endpoint: parsed, tls, chosen: true })
}

fn of_flags(globals: &Globals, config: &Config) -> Result<Target> {
    let (host, chosen) = match globals.host.as_slice() {
        [] => match variable("DOCKER_HOST") {
            Some(host) => (host, true),
            None => (DEFAULT_HOST.to_owned(), false),
        },
        [host] => (host.clone(), true),
        _ => return Err(Failure::message("specify only one -H")),
    };
    let verify = globals.tlsverify.unwrap_or_else(|| variable("DOCKER_TLS_VERIFY").is_some());
    let encrypted = verify || globals.tls.unwrap_or_else(|| variable("DOCKER_TLS").is_some());
    let resolving =
        |failure: Failure| Failure::message(format!("unable to resolve docker endpoint: {failure}"));
    let host = completed(&host, encrypted).map_err(resolving)?;
    let endpoint = endpoint_of(&host)?;
    let tls = match encrypted && matches!(endpoint, Endpoint::Tcp(_)) {
        true => Some(Arc::new(
            material_of_flags(globals, config, !verify).and_then(|all| all.config()).map_err(resolving)?,
        )),
        false => None,
    };
    Ok(Target { endpoint, tls, chosen })
}

/// The files that the flags name, or those where docker looks. Who we are need not be said.
fn material_of_flags(globals: &Globals, config: &Config, skip_verify: bool) -> Result<Material> {
    let directory = variable("DOCKER_CERT_PATH").map_or_else(|| config.directory().to_owned(), PathBuf::from);
    let read = |path: &Path| contexts_read(path).map(Some);
    let (certificate, key) = (directory.join("cert.pem"), directory.join("key.pem"));
    let own = |flag: &Option<String>, usual: &Path| match flag {
        Some(path) => read(Path::new(path)),
        None if usual.exists() => read(usual),
        None => Ok(None),
    };
    let authority = globals.tlscacert.as_ref().map_or_else(|| directory.join("ca.pem"), PathBuf::from);
    Ok(Material {
        authority: read(&authority)?,
        certificate: own(&globals.tlscert, &certificate)?,
        key: own(&globals.tlskey, &key)?,
        skip_verify,
    })
}

/// Reads a file that the user named.
pub(crate) fn contexts_read(path: &Path) -> Result<Vec<u8>> {
    use std::io::Read as _;
    let failed = |error: std::io::Error| {
        let reason = match error.kind() {
            std::io::ErrorKind::NotFound => "no such file or directory".to_owned(),
            _ => error.to_string(),
        };
        Failure::message(format!("open {}: {reason}", path.display()))
    };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(1 << 20).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

/// An address as a user types it, with what docker adds to it.
fn completed(host: &str, encrypted: bool) -> Result<String> {
    let host = host.trim();
    let port = if encrypted { 2376 } else { 2375 };
    let (scheme, rest) = host.split_once("://").unwrap_or(("tcp", host));
    match scheme {
        "unix" if rest.is_empty() => Ok(DEFAULT_HOST.to_owned()),
        "unix" | "fd" | "ssh" => Ok(host.to_owned()),
        "npipe" => Err(Failure::message("protocol not available")),
        "tcp" => {
            let authority = rest.trim_end_matches('/');
            let after_address = authority.rsplit(']').next().unwrap_or_default();
            Ok(match after_address.rsplit_once(':') {
                Some(("", given)) if !authority.contains(']') => format!("tcp://localhost:{given}"),
                Some(_) => format!("tcp://{authority}"),
                None if authority.is_empty() => format!("tcp://localhost:{port}"),
                None => format!("tcp://{authority}:{port}"),
            })
        }
        _ => Err(Failure::message(format!("invalid bind address format: {host}"))),
    }
}

fn endpoint_of(host: &str) -> Result<Endpoint> {
    match host.strip_prefix("ssh://") {
        Some(_) => ssh(host).map_err(|reason| {
            Failure::message(format!("ssh host connection is not valid: invalid SSH URL: {reason}"))
        }),
        None => Ok(host.parse()?),
    }
}

/// The command that reaches the engine behind `ssh://[user@]host[:port][/path of its socket]`.
fn ssh(url: &str) -> std::result::Result<Endpoint, String> {
    let rest = url.strip_prefix("ssh://").unwrap_or(url);
    let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    if !query.is_empty() {
        return Err(format!("query parameters are not allowed: {query:?}"));
    }
    if !fragment.is_empty() {
        return Err(format!("fragments are not allowed: {fragment:?}"));
    }
    let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    let (user, host) =
        authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
    if user.is_some_and(|user| user.contains(':')) {
        return Err("plain-text password is not supported".to_owned());
    }
    let (host, port) = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) => (address, port.strip_prefix(':')),
        None => host.split_once(':').map_or((host, None), |(host, port)| (host, Some(port))),
    };
    if host.is_empty() {
        return Err("hostname is empty".to_owned());
    }
    // ssh takes what begins with a dash for its own options, and a shell at the other end reads the path.
    for (what, text) in [("host", host), ("user", user.unwrap_or("x")), ("path", path)] {
        if text.starts_with('-') || text.is_empty() && what == "user" {
            return Err(format!("{text:?} is no {what}"));
        }
        if let Some(odd) = text
            .chars()
            .find(|letter| letter.is_control() || letter.is_whitespace() || "'\"\\$`".contains(*letter))
        {
            return Err(format!("the {what} contains {odd:?}"));
        }
    }
    if port.is_some_and(|port| port.parse::<u16>().is_err()) {
        return Err(format!("invalid port {:?}", port.unwrap_or_default()));
    }
    let mut remote = format!("sh -c '{REMOTE}' wharf");
    if !path.trim_start_matches('/').is_empty() {
        remote.push_str(&format!(" --host 'unix://{path}'"));
    }
    remote.push_str(" system dial-stdio");
    // In a session of its own: what the user types at the terminal is for the container, not for ssh.
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut words: Vec<OsString> = vec![program.into(), SESSION_WORD.into()];
    words.extend(["ssh", "-o", "ConnectTimeout=30", "-T"].map(OsString::from));
    for (flag, value) in [("-l", user), ("-p", port)] {
        if let Some(value) = value {
            words.extend([OsString::from(flag), OsString::from(value)]);
        }
    }
    words.extend([OsString::from("--"), host.into(), remote.into()]);
    Ok(Endpoint::Command { name: url.to_owned(), words })
}

/// Accepts any certificate, as asked for; the handshake must still be signed with its key.
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
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_completed_as_docker_does() {
        for (given, encrypted, wanted) in [
            ("tcp://", false, "tcp://localhost:2375"),
            ("tcp://h", true, "tcp://h:2376"),
            ("127.0.0.1:99", false, "tcp://127.0.0.1:99"),
            ("bogus", false, "tcp://bogus:2375"),
            (":1", false, "tcp://localhost:1"),
            ("tcp://[::1]:5", false, "tcp://[::1]:5"),
            ("tcp://[::1]", false, "tcp://[::1]:2375"),
            ("unix://", false, DEFAULT_HOST),
        ] {
            assert_eq!(completed(given, encrypted).unwrap(), wanted, "{given}");
        }
        assert!(completed("http://x", false).is_err());
    }

    #[test]
    fn ssh_addresses_become_commands() {
        let words = |url: &str| match ssh(url) {
            Ok(Endpoint::Command { words, .. }) => {
                words[2..].iter().map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>()
            }
            other => panic!("{other:?}"),
        };
        let all = words("ssh://me@box:2222/run/docker.sock");
        assert_eq!(all[..9], ["ssh", "-o", "ConnectTimeout=30", "-T", "-l", "me", "-p", "2222", "--"]);
        assert_eq!(all[9], "box");
        assert!(all[10].ends_with("wharf --host 'unix:///run/docker.sock' system dial-stdio"), "{}", all[10]);
        assert!(words("ssh://box")[6].ends_with("wharf system dial-stdio"));
        assert_eq!(words("ssh://[fe80::1]")[5], "fe80::1");
        for (url, reason) in [
            ("ssh://u:p@h", "plain-text password is not supported"),
            ("ssh://u@h/path?x=1", "query parameters are not allowed: \"x=1\""),
            ("ssh:///x", "hostname is empty"),
            ("ssh://-oProxyCommand=x", "\"-oProxyCommand=x\" is no host"),
            ("ssh://h/a'b", "the path contains '\\''"),
            ("ssh://h:x", "invalid port \"x\""),
        ] {
            assert_eq!(ssh(url).unwrap_err(), reason, "{url}");
        }
    }
}
