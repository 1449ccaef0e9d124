//! From a name to a connection.
//!
//! What is allowed is decided on the address that is dialled, not on the name: whether plain HTTP may be spoken, whether
//! the certificate is checked, and whether the address is nearer than it may be. A name that answers with loopback and
//! another address therefore gains nothing.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::{fmt, io};

use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::address::Nearness;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::origin::{Origin, bracketed, split_port};
use crate::proxy::{Cidr, Proxies, Proxy};
use crate::trust::Trust;

/// The head of a proxy's answer to CONNECT has at most this many bytes.
const MAX_CONNECT_HEAD: usize = 8 << 10;

/// What is spoken with a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Spoken {
    /// TLS and nothing else.
    Tls,
    /// HTTP without TLS, because somebody who may say so did.
    Plain,
    /// TLS; or HTTP, where the address dialled allows that and TLS is not spoken.
    Either,
}

/// Whom to connect to.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    pub(crate) host: String,
    /// As configured; the scheme's own when absent.
    pub(crate) port: Option<u16>,
    pub(crate) spoken: Spoken,
    pub(crate) trust: Arc<Trust>,
    /// Addresses nearer than this are refused.
    pub(crate) nearest: Nearness,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&bracketed(&self.host))?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

/// A connection.
pub(crate) struct Line {
    pub(crate) stream: TokioIo<Box<dyn Stream>>,
    pub(crate) origin: Origin,
    pub(crate) nearness: Nearness,
    /// The requests on it name the whole address, and carry this for the proxy.
    pub(crate) by_proxy: Option<Option<String>>,
}

pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Makes connections.
#[derive(Debug)]
pub(crate) struct Dialer {
    insecure_names: Vec<(String, Option<u16>)>,
    insecure_ranges: Vec<Cidr>,
    proxies: Proxies,
    addresses: std::collections::BTreeMap<String, Vec<IpAddr>>,
    patience: std::time::Duration,
}

/// What an address allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Permit {
    plain: bool,
    verify: bool,
}

/// Why one attempt failed.
enum Failure {
    /// The other side does not speak TLS.
    NotTls(String),
    Tls(String),
    Network(String),
}

impl Dialer {
    pub(crate) fn new(config: &Config) -> Result<Self> {
        let mut names = Vec::new();
        let mut ranges = Vec::new();
        for entry in &config.insecure {
            let bare =
                entry.trim_start_matches("http://").trim_start_matches("https://").trim_end_matches('/');
            match (Cidr::parse(bare), split_port(bare)) {
                (Some(range), _) => ranges.push(range),
                (None, Some(name)) if !bare.contains('/') => names.push(name),
                _ => {
                    return Err(Error::Config(format!(
                        "insecure registry {entry} is not valid: expected host[:port] or a range of addresses"
                    )));
                }
            }
        }
        if let Some(wrong) = &config.proxies.wrong {
            return Err(Error::Config(wrong.clone()));
        }
        Ok(Self {
            insecure_names: names,
            insecure_ranges: ranges,
            proxies: config.proxies.clone(),
            addresses: config.addresses.clone(),
            patience: config.timeouts.connect,
        })
    }

    /// Connects. `doing` begins the text of an error: `Get "https://host/v2/"`.
    pub(crate) async fn dial(&self, peer: &Peer, doing: &str) -> Result<Line> {
        match tokio::time::timeout(self.patience, self.connect(peer, doing)).await {
            Ok(done) => done,
            Err(_) => Err(Error::Deadline {
                doing: doing.to_owned(),
                reason: format!("no connection to {peer} within {:?}", self.patience),
            }),
        }
    }

    async fn connect(&self, peer: &Peer, doing: &str) -> Result<Line> {
        // Through a proxy nobody here sees what a name resolves to, but an address is one.
        if let Ok(address) = peer.host.parse() {
            self.check(peer, address)?;
        }
        let tls = peer.spoken != Spoken::Plain;
        let port = peer.port.unwrap_or(if tls { 443 } else { 80 });
        if let Some(proxy) = self.proxies.choose(tls, &peer.host, port) {
            return self.connect_by_proxy(peer, port, proxy, doing).await;
        }
        let mut last = None;
        for address in self.resolve(peer, port, doing).await? {
            let nearness = match self.check(peer, address) {
                Ok(nearness) => nearness,
                Err(error) => {
                    last = Some(error);
                    continue;
                }
            };
            match self.attempt(peer, address).await {
                Ok((stream, tls, port)) => {
                    let origin = Origin { tls, host: peer.host.clone(), port };
                    return Ok(Line { stream: TokioIo::new(stream), origin, nearness, by_proxy: None });
                }
                Err(Failure::Network(reason)) => {
                    last = Some(Error::Network { doing: doing.to_owned(), reason })
                }
                // A wrong certificate is an answer: no other address may make up for it.
                Err(Failure::Tls(reason) | Failure::NotTls(reason)) => {
                    return Err(Error::Tls { doing: doing.to_owned(), reason });
                }
            }
        }
        Err(last.unwrap_or_else(|| Error::Network {
            doing: doing.to_owned(),
            reason: format!("lookup {}: no such host", peer.host),
        }))
    }

    /// Connects to one address and finds out what is spoken there.
    async fn attempt(&self, peer: &Peer, address: IpAddr) -> Result<(Box<dyn Stream>, bool, u16), Failure> {
        let permit = self.permit(peer, address);
        let (tls_port, plain_port) = (peer.port.unwrap_or(443), peer.port.unwrap_or(80));
        if peer.spoken == Spoken::Plain {
            return Ok((Box::new(tcp(address, plain_port).await?), false, plain_port));
        }
        let reason = match tcp(address, tls_port).await {
            Ok(stream) => match handshake(Box::new(stream), peer, permit.verify).await {
                Ok(stream) => return Ok((stream, true, tls_port)),
                Err(failure) => failure,
            },
            Err(failure) => failure,
        };
        let may_fall = peer.spoken == Spoken::Either && permit.plain;
        match reason {
            Failure::NotTls(_) if may_fall => {
                Ok((Box::new(tcp(address, plain_port).await?), false, plain_port))
            }
            Failure::Network(_) if may_fall && plain_port != tls_port => {
                Ok((Box::new(tcp(address, plain_port).await?), false, plain_port))
            }
            other => Err(other),
        }
    }

    async fn connect_by_proxy(&self, peer: &Peer, port: u16, proxy: &Proxy, doing: &str) -> Result<Line> {
        let network = |reason: String| Error::Network { doing: doing.to_owned(), reason };
        let failed = |failure: Failure| match failure {
            Failure::Network(reason) => network(format!("proxyconnect {reason}")),
            Failure::Tls(reason) | Failure::NotTls(reason) => Error::Tls { doing: doing.to_owned(), reason },
        };
        let resolved = tokio::net::lookup_host((proxy.host.as_str(), proxy.port)).await;
        let address = resolved
            .map_err(|error| network(format!("proxyconnect tcp: lookup {}: {error}", proxy.host)))?
            .next()
            .ok_or_else(|| network(format!("proxyconnect tcp: lookup {}: no such host", proxy.host)))?;
        let mut stream: Box<dyn Stream> = Box::new(tcp(address.ip(), address.port()).await.map_err(failed)?);
        if proxy.tls {
            let front = Peer { host: proxy.host.clone(), trust: Trust::system(), ..peer.clone() };
            stream = handshake(stream, &front, true).await.map_err(failed)?;
        }
        let origin = Origin { tls: peer.spoken != Spoken::Plain, host: peer.host.clone(), port };
        if !origin.tls {
            let by_proxy = Some(proxy.authorization.clone());
            return Ok(Line { stream: TokioIo::new(stream), origin, nearness: Nearness::Public, by_proxy });
        }
        tunnel(&mut stream, &origin, proxy).await.map_err(network)?;
        let named = self.is_insecure_name(peer);
        let stream = handshake(stream, peer, !named).await.map_err(failed)?;
        Ok(Line { stream: TokioIo::new(stream), origin, nearness: Nearness::Public, by_proxy: None })
    }

    async fn resolve(&self, peer: &Peer, port: u16, doing: &str) -> Result<Vec<IpAddr>> {
        if let Ok(address) = peer.host.parse() {
            return Ok(vec![address]);
        }
        if let Some(known) = self.addresses.get(&peer.host) {
            return Ok(known.clone());
        }
        match tokio::net::lookup_host((peer.host.as_str(), port)).await {
            Ok(found) => {
                let mut unique: Vec<IpAddr> = Vec::new();
                for address in found.map(|address| address.ip()) {
                    if !unique.contains(&address) && unique.len() < 16 {
                        unique.push(address);
                    }
                }
                Ok(unique)
            }
            Err(error) => Err(Error::Network {
                doing: doing.to_owned(),
                reason: format!("dial tcp: lookup {}: {}", peer.host, words(&error)),
            }),
        }
    }

    fn check(&self, peer: &Peer, address: IpAddr) -> Result<Nearness> {
        let nearness = Nearness::of(address);
        if nearness > peer.nearest {
            return Err(Error::Refused {
                host: peer.to_string(),
                what: format!(
                    "connect to {address}: a registry elsewhere must not lead into this machine's network"
                ),
            });
        }
        Ok(nearness)
    }

    fn permit(&self, peer: &Peer, address: IpAddr) -> Permit {
        let configured =
            self.is_insecure_name(peer) || self.insecure_ranges.iter().any(|range| range.contains(address));
        Permit { plain: configured || address.to_canonical().is_loopback(), verify: !configured }
    }

    fn is_insecure_name(&self, peer: &Peer) -> bool {
        self.insecure_names.iter().any(|(host, port)| *host == peer.host && *port == peer.port)
    }
}

async fn tcp(address: IpAddr, port: u16) -> Result<TcpStream, Failure> {
    let address = SocketAddr::new(address, port);
    let stream = TcpStream::connect(address).await;
    let stream = stream
        .map_err(|error| Failure::Network(format!("dial tcp {address}: connect: {}", words(&error))))?;
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

async fn handshake(stream: Box<dyn Stream>, peer: &Peer, verify: bool) -> Result<Box<dyn Stream>, Failure> {
    let settings = peer.trust.settings(verify).map_err(|error| Failure::Tls(error.to_string()))?;
    let name = ServerName::try_from(peer.host.clone())
        .map_err(|_| Failure::Tls(format!("{} is no name a certificate can have", peer.host)))?;
    match TlsConnector::from(settings).connect(name, stream).await {
        Ok(stream) => Ok(Box::new(stream)),
        Err(error) => Err(tls_failure(&error)),
    }
}

/// Sorts a failed handshake: not TLS at all, or TLS that is not trusted.
fn tls_failure(error: &io::Error) -> Failure {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::InvalidMessage(_)) => {
            Failure::NotTls("http: server gave HTTP response to HTTPS client".to_owned())
        }
        Some(rustls::Error::InvalidCertificate(reason)) => Failure::Tls(format!(
            "tls: failed to verify certificate: {reason} (its authority belongs into certs.d/HOST/ca.crt)"
        )),
        Some(other) => Failure::Tls(format!("tls: {other}")),
        None if matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) => {
            Failure::NotTls("EOF".to_owned())
        }
        None => Failure::Network(words(error)),
    }
}

/// Asks a proxy for a connection to `origin`.
async fn tunnel(stream: &mut Box<dyn Stream>, origin: &Origin, proxy: &Proxy) -> Result<(), String> {
    let target = format!("{}:{}", bracketed(&origin.host), origin.port);
    let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
    if let Some(authorization) = &proxy.authorization {
        request.push_str(&format!("Proxy-Authorization: {authorization}\r\n"));
    }
    request.push_str("\r\n");
    let broken = |error: io::Error| format!("proxyconnect tcp: {}", words(&error));
    stream.write_all(request.as_bytes()).await.map_err(broken)?;
    stream.flush().await.map_err(broken)?;
    // Byte by byte, so that nothing of what follows the head is taken.
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() == MAX_CONNECT_HEAD {
            return Err("proxyconnect tcp: the proxy's answer does not end".to_owned());
        }
        head.push(stream.read_u8().await.map_err(broken)?);
    }
    let line: String =
        String::from_utf8_lossy(&head).lines().next().unwrap_or_default().chars().take(100).collect();
    match line.split(' ').nth(1) {
        Some(status) if status.starts_with('2') => Ok(()),
        _ => Err(format!("proxyconnect tcp: {line}")),
    }
}

/// An operating system's error without its number.
pub(crate) fn words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::ConnectionReset => "connection reset by peer".to_owned(),
        io::ErrorKind::HostUnreachable => "no route to host".to_owned(),
        io::ErrorKind::NetworkUnreachable => "network is unreachable".to_owned(),
        io::ErrorKind::TimedOut => "i/o timeout".to_owned(),
        _ if error.to_string().contains("Name or service not known") => "no such host".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dialer(insecure: &[&str]) -> Dialer {
        let insecure = insecure.iter().map(|entry| (*entry).to_owned()).collect();
        Dialer::new(&Config { insecure, proxies: Proxies::default(), ..Config::default() }).unwrap()
    }

    fn peer(host: &str, port: Option<u16>) -> Peer {
        Peer {
            host: host.into(),
            port,
            spoken: Spoken::Either,
            trust: Trust::system(),
            nearest: Nearness::Loopback,
        }
    }

    #[test]
    fn rc_03_the_dialled_address_decides_what_may_be_weak() {
        let dialer = dialer(&["reg.test:5000", "10.0.0.0/8"]);
        let permit = |host: &str, port, address: &str| {
            let Permit { plain, verify } = dialer.permit(&peer(host, port), address.parse().unwrap());
            (plain, verify)
        };
        assert_eq!(permit("reg.test", Some(5000), "8.8.8.8"), (true, false));
        assert_eq!(permit("reg.test", Some(5001), "8.8.8.8"), (false, true));
        assert_eq!(permit("reg.test", None, "8.8.8.8"), (false, true));
        assert_eq!(permit("other.test", None, "10.1.1.1"), (true, false));
        // A name that answers with loopback and another address: plain HTTP on the first only, checks on both.
        assert_eq!(permit("other.test", None, "127.0.0.1"), (true, true));
        assert_eq!(permit("other.test", None, "::1"), (true, true));
        assert_eq!(permit("other.test", None, "::ffff:127.0.0.9"), (true, true));
        assert_eq!(permit("localhost", None, "8.8.8.8"), (false, true));
    }

    #[test]
    fn an_insecure_entry_that_means_nothing_is_refused() {
        for entry in ["a/b", "10.0.0.0/33", "a:x"] {
            let config =
                Config { insecure: vec![entry.into()], proxies: Proxies::default(), ..Config::default() };
            assert!(Dialer::new(&config).is_err(), "{entry}");
        }
    }
}
