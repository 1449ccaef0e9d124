//! What comes over the network and is no client of ours.
//!
//! A browser on a machine that holds a client certificate, or on the engine's own machine, sends requests for any page
//! that asks it to. Those cannot read the answers, but the requests would be obeyed. What tells them apart: a browser
//! says where the page is from (`Origin`), and names the host that the page named, which after a rebinding of its name is
//! not ours. No client of Docker's API does either. The unix socket needs none of this: no browser reaches it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::{HeaderMap, Method, Request, StatusCode, header};
use rustls::pki_types::CertificateDer;

use crate::error::Failure;
use crate::tls::{Tls, common_name};

/// Who is at the other end of a network connection: an extension of its requests.
#[derive(Debug)]
pub(crate) struct Peer {
    local: SocketAddr,
    tls: Option<Arc<Tls>>,
    /// The client's certificate and those behind it, verified during the handshake.
    pub(crate) chain: Vec<CertificateDer<'static>>,
}

impl Peer {
    /// One of this machine's own, without TLS.
    pub(crate) fn plain(local: SocketAddr) -> Self {
        Self { local, tls: None, chain: Vec::new() }
    }

    pub(crate) fn over_tls(local: SocketAddr, tls: Arc<Tls>, chain: Vec<CertificateDer<'static>>) -> Self {
        Self { local, tls: Some(tls), chain }
    }

    /// The name in the client's certificate.
    pub(crate) fn name(&self) -> Option<String> {
        common_name(self.chain.first()?)
    }

    /// Whether a client that means this engine may call it `authority`.
    fn is_called(&self, authority: &str) -> bool {
        let host = host_of(authority);
        if let Ok(address) = host.parse::<IpAddr>()
            && (address.to_canonical() == self.local.ip().to_canonical())
        {
            return true;
        }
        match &self.tls {
            Some(tls) => tls.is_for(host),
            // Without TLS there are only clients on this machine.
            None => host.eq_ignore_ascii_case("localhost"),
        }
    }
}

/// `host:port` without the port, an IPv6 address without its brackets.
fn host_of(authority: &str) -> &str {
    if let Some(rest) = authority.strip_prefix('[') {
        return rest.split(']').next().unwrap_or_default();
    }
    authority.rsplit_once(':').map_or(authority, |(host, _)| host)
}

/// Why a request is not served, if it is not.
pub(crate) fn refusal<B>(peer: &Peer, request: &Request<B>) -> Option<Failure> {
    let headers = request.headers();
    let forbidden = |why: &str| Some(Failure::new(StatusCode::FORBIDDEN, why));
    if headers.contains_key(header::ORIGIN) {
        return forbidden("requests of web pages are refused: this one has an Origin");
    }
    let mut hosts = headers.get_all(header::HOST).iter();
    let named = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.to_str().is_ok_and(|host| peer.is_called(host)),
        _ => false,
    };
    let target = request.uri().authority().is_none_or(|authority| peer.is_called(authority.as_str()));
    if !named || !target {
        return forbidden(
            "the Host of the request is not this engine: use an address of it or a name in its certificate",
        );
    }
    if is_a_form(request.method(), headers) {
        return Some(Failure::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported Content-Type header: must be 'application/json' or an archive's",
        ));
    }
    None
}

/// Whether the body is of a kind that a form on a web page sends without asking first. `text/plain` is one, too, but the
/// docker command line says that of archives and of what it is about to take over; no JSON is read from it
/// ([`request`](crate::request)).
fn is_a_form(method: &Method, headers: &HeaderMap) -> bool {
    let kinds = ["application/x-www-form-urlencoded", "multipart/form-data"];
    let given = headers.get(header::CONTENT_TYPE).map(|value| value.to_str().unwrap_or_default());
    let media_type = given.and_then(|value| value.split(';').next()).unwrap_or_default().trim();
    *method != Method::GET && kinds.iter().any(|kind| media_type.eq_ignore_ascii_case(kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(fields: &[(&str, &str)]) -> Option<u16> {
        let peer = Peer::plain("127.0.0.1:2375".parse().unwrap());
        let mut request = Request::post("/containers/create");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        refusal(&peer, &request.body(()).unwrap()).map(|failure| failure.status.as_u16())
    }

    #[test]
    fn en_04_only_a_request_for_this_engine_is_served() {
        for host in ["127.0.0.1:2375", "127.0.0.1", "localhost:1", "LOCALHOST", "[::ffff:127.0.0.1]:2375"] {
            assert_eq!(status(&[("host", host)]), None, "{host}");
        }
        for host in ["evil.example", "evil.example:2375", "127.0.0.2", "localhost.evil.example", "", "[::1]"]
        {
            assert_eq!(status(&[("host", host)]), Some(403), "{host}");
        }
        assert_eq!(status(&[]), Some(403));
        assert_eq!(status(&[("host", "localhost"), ("host", "localhost")]), Some(403));
    }

    #[test]
    fn en_04_web_pages_are_refused() {
        for origin in ["http://localhost", "null", "https://evil.example"] {
            assert_eq!(status(&[("host", "localhost"), ("origin", origin)]), Some(403), "{origin}");
        }
        for kind in ["application/x-www-form-urlencoded", "Multipart/Form-Data; boundary=x"] {
            assert_eq!(status(&[("host", "localhost"), ("content-type", kind)]), Some(415), "{kind}");
        }
        assert_eq!(status(&[("host", "localhost"), ("content-type", "application/json")]), None);
    }
}
