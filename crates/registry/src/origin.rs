//! Scheme, host and port: the border that credentials do not cross.

use std::fmt;

use url::{Host, Url};

/// Where requests go.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Origin {
    pub(crate) tls: bool,
    /// Lower case; an IPv6 address without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl Origin {
    /// Of an address with the scheme `http` or `https`. The parser of `url` has turned decimal, octal and short forms
    /// of addresses into plain ones.
    pub(crate) fn of(url: &Url) -> Option<Self> {
        let tls = match url.scheme() {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let host = match url.host()? {
            Host::Ipv6(address) => address.to_string(),
            Host::Ipv4(address) => address.to_string(),
            Host::Domain(name) => name.trim_end_matches('.').to_ascii_lowercase(),
        };
        (!host.is_empty()).then_some(())?;
        Some(Self { tls, host, port: url.port_or_known_default()? })
    }

    /// `host[:port]`, as it stands in a `Host` header.
    pub(crate) fn authority(&self) -> String {
        let host = bracketed(&self.host);
        let usual = if self.tls { 443 } else { 80 };
        if self.port == usual { host } else { format!("{host}:{}", self.port) }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.tls { "https" } else { "http" }, self.authority())
    }
}

/// An IPv6 address needs brackets before a port.
pub(crate) fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

/// Splits `host[:port]` and `[address]:port`.
pub(crate) fn split_port(text: &str) -> Option<(String, Option<u16>)> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']')?;
            (host, if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) })
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let port = match port {
        Some(port) => Some(port.parse().ok().filter(|port| *port != 0)?),
        None => None,
    };
    (!host.is_empty()).then(|| (host.to_ascii_lowercase(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_an_address_are_one_origin() {
        for text in [
            "http://127.0.0.1/",
            "http://2130706433/",
            "http://0x7f.1/",
            "http://0177.0.0.1:80/",
            "http://127.1/",
        ] {
            let origin = Origin::of(&Url::parse(text).unwrap()).unwrap();
            assert_eq!(origin.to_string(), "http://127.0.0.1", "{text}");
        }
        let origin = Origin::of(&Url::parse("https://[::1]:5000/x").unwrap()).unwrap();
        assert_eq!((origin.host.as_str(), origin.authority().as_str()), ("::1", "[::1]:5000"));
        assert_eq!(Origin::of(&Url::parse("ftp://x/").unwrap()), None);
    }

    #[test]
    fn ports_are_split_off() {
        assert_eq!(split_port("A:5000"), Some(("a".into(), Some(5000))));
        assert_eq!(split_port("[::1]:1"), Some(("::1".into(), Some(1))));
        assert_eq!(split_port("a"), Some(("a".into(), None)));
        for bad in ["", ":1", "a:0", "a:x", "a:70000", "[::1", "[::1]x"] {
            assert_eq!(split_port(bad), None, "{bad}");
        }
    }
}
