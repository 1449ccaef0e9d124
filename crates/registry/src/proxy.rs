//! Proxies of the environment, by the rules that Go programs have made usual.
//!
//! `HTTPS_PROXY` and `HTTP_PROXY` are chosen by the scheme of the request; `NO_PROXY` is a list of names, suffixes,
//! addresses and ranges that go without. Loopback always does. Under CGI (`REQUEST_METHOD`) `HTTP_PROXY` is a header of
//! a stranger and is not believed.

use std::fmt;
use std::net::IpAddr;

use base64::Engine as _;
use url::{Host, Url};

/// Through whom connections go.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    http: Option<Proxy>,
    https: Option<Proxy>,
    without: Vec<Rule>,
    /// A setting that could not be used; reported when a client is made with it.
    pub(crate) wrong: Option<String>,
}

/// One proxy.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Proxy {
    pub(crate) host: String,
    pub(crate) port: u16,
    /// Whether the connection to the proxy itself is TLS.
    pub(crate) tls: bool,
    /// The value of `Proxy-Authorization`.
    pub(crate) authorization: Option<String>,
}

/// One entry of `NO_PROXY`.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Rule {
    Everything,
    Range(Cidr),
    Address(IpAddr, Option<u16>),
    /// `.example.com`: hosts below; with `itself` also `example.com`.
    Suffix {
        domain: String,
        itself: bool,
        port: Option<u16>,
    },
}

impl Proxies {
    /// As the environment says: `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY`, or their lower-case names.
    #[must_use]
    pub fn from_env() -> Self {
        let get = |name: &str| {
            let value = std::env::var(name).ok().filter(|value| !value.is_empty());
            value.or_else(|| std::env::var(name.to_ascii_lowercase()).ok()).unwrap_or_default()
        };
        let cgi = std::env::var_os("REQUEST_METHOD").is_some();
        Self::new(&if cgi { String::new() } else { get("HTTP_PROXY") }, &get("HTTPS_PROXY"), &get("NO_PROXY"))
    }

    /// From the three values; an empty one says nothing.
    #[must_use]
    pub fn new(http: &str, https: &str, without: &str) -> Self {
        let mut wrong = None;
        let mut read = |name: &str, text: &str| match Proxy::parse(text) {
            Ok(proxy) => proxy,
            Err(reason) => {
                wrong = Some(format!("invalid proxy in {name}: {reason}"));
                None
            }
        };
        let (http, https) = (read("HTTP_PROXY", http), read("HTTPS_PROXY", https));
        Self { http, https, without: without.split(',').filter_map(Rule::parse).collect(), wrong }
    }

    /// The proxy for a host, which may be a bracketed or bare address.
    pub(crate) fn choose(&self, tls: bool, host: &str, port: u16) -> Option<&Proxy> {
        let proxy = if tls { self.https.as_ref() } else { self.http.as_ref() }?;
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let address = host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .parse::<IpAddr>()
            .ok()
            .map(|a| a.to_canonical());
        let local = host == "localhost" || address.is_some_and(|address| address.is_loopback());
        let direct = local || self.without.iter().any(|rule| rule.matches(&host, address, port));
        (!direct).then_some(proxy)
    }
}

impl fmt::Debug for Proxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name =
            |proxy: &Option<Proxy>| proxy.as_ref().map(|proxy| format!("{}:{}", proxy.host, proxy.port));
        write!(
            f,
            "Proxies(http {:?}, https {:?}, without {:?})",
            name(&self.http),
            name(&self.https),
            self.without
        )
    }
}

impl Proxy {
    fn parse(text: &str) -> Result<Option<Self>, String> {
        let text = text.trim();
        if text.is_empty() {
            return Ok(None);
        }
        // The value may hold a password, so it is not repeated.
        let full = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let url = Url::parse(&full).map_err(|error| error.to_string())?;
        let tls = match url.scheme() {
            "http" => false,
            "https" => true,
            other => return Err(format!("scheme {other:?} is not supported, only http and https are")),
        };
        let Some(host) = url.host() else { return Err("it names no host".to_owned()) };
        let host = match host {
            Host::Ipv6(address) => address.to_string(),
            other => other.to_string(),
        };
        let authorization = (!url.username().is_empty()).then(|| {
            let pair =
                [decode(url.username()), b":".to_vec(), decode(url.password().unwrap_or_default())].concat();
            format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair))
        });
        Ok(Some(Self { host, port: url.port_or_known_default().unwrap_or(80), tls, authorization }))
    }
}

/// Percent-decoding of the user part of an address.
fn decode(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let escaped = match (first, tail) {
            (b'%', [high, low, ..]) => {
                std::str::from_utf8(&[*high, *low]).ok().and_then(|hex| u8::from_str_radix(hex, 16).ok())
            }
            _ => None,
        };
        rest = if escaped.is_some() { &tail[2..] } else { tail };
        bytes.push(escaped.unwrap_or(first));
    }
    bytes
}

impl Rule {
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim().to_ascii_lowercase();
        if text.is_empty() {
            return None;
        }
        if text == "*" {
            return Some(Self::Everything);
        }
        if let Some(range) = Cidr::parse(&text) {
            return Some(Self::Range(range));
        }
        let bare = text.trim_start_matches('[').trim_end_matches(']');
        if let Ok(address) = bare.parse::<IpAddr>() {
            return Some(Self::Address(address.to_canonical(), None));
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => (host, Some(port.parse::<u16>().ok()?)),
            None => (text.as_str(), None),
        };
        if let Ok(address) = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            return Some(Self::Address(address.to_canonical(), port));
        }
        let host = host.strip_prefix('*').filter(|rest| rest.starts_with('.')).unwrap_or(host);
        let (domain, itself) = match host.strip_prefix('.') {
            Some(domain) => (domain, false),
            None => (host, true),
        };
        (!domain.is_empty()).then(|| Self::Suffix { domain: domain.to_owned(), itself, port })
    }

    fn matches(&self, host: &str, address: Option<IpAddr>, on: u16) -> bool {
        let port_fits = |port: Option<u16>| port.is_none_or(|port| port == on);
        match self {
            Self::Everything => true,
            Self::Range(range) => address.is_some_and(|address| range.contains(address)),
            Self::Address(wanted, port) => address == Some(*wanted) && port_fits(*port),
            Self::Suffix { domain, itself, port } => {
                let below = host.strip_suffix(domain.as_str()).is_some_and(|rest| rest.ends_with('.'));
                (below || (*itself && host == domain)) && port_fits(*port)
            }
        }
    }
}

/// A range of addresses: `10.0.0.0/8`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cidr {
    network: u128,
    mask: u128,
    v4: bool,
}

impl Cidr {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = text.split_once('/')?;
        let address = address.parse::<IpAddr>().ok()?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.parse::<u32>().ok().filter(|prefix| *prefix <= width)?;
        let mask = u128::MAX.checked_shl(width - prefix).unwrap_or(0);
        Some(Self { network: number(address) & mask, mask, v4: address.is_ipv4() })
    }

    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.v4 && number(address) & self.mask == self.network
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn proxies_are_chosen_as_go_chooses() {
        let list =
            "corp.test,.below.test,*.star.test,10.0.0.0/8,192.168.1.1,[fd00::1],port.test:5000, ,bad:port:x";
        let proxies = Proxies::new("http://u:p%40@plain:3128", "secure:3129", list);
        assert_eq!(proxies.wrong, None);
        for (host, port, proxied) in [
            ("hub.test", 443, true),
            ("corp.test", 443, false),
            ("a.corp.test", 443, false),
            ("notcorp.test", 443, true),
            ("below.test", 443, true),
            ("x.below.test", 443, false),
            ("x.star.test", 443, false),
            ("star.test", 443, true),
            ("10.9.9.9", 443, false),
            ("11.0.0.1", 443, true),
            ("192.168.1.1", 443, false),
            ("[fd00::1]", 443, false),
            ("port.test", 443, true),
            ("port.test", 5000, false),
            ("localhost", 5000, false),
            ("127.8.8.8", 5000, false),
            ("[::1]", 5000, false),
            ("[::ffff:127.0.0.1]", 5000, false),
        ] {
            assert_eq!(proxies.choose(true, host, port).is_some(), proxied, "{host}:{port}");
        }
        let plain = proxies.choose(false, "hub.test", 80).unwrap();
        assert_eq!((plain.host.as_str(), plain.port, plain.tls), ("plain", 3128, false));
        assert_eq!(plain.authorization.as_deref(), Some("Basic dTpwQA=="));
        assert_eq!(proxies.choose(true, "hub.test", 443).unwrap().port, 3129);
        assert!(Proxies::new("x:1", "y:1", "*").choose(true, "hub.test", 1).is_none());
        assert!(!format!("{proxies:?}").contains("p@"));
    }

    #[test]
    fn a_proxy_that_cannot_be_used_is_named() {
        let wrong = Proxies::new("", "socks5://u:hidden@x:1", "").wrong.unwrap();
        assert!(
            wrong.contains("HTTPS_PROXY") && wrong.contains("socks5") && !wrong.contains("hidden"),
            "{wrong}"
        );
    }

    proptest! {
        #[test]
        fn any_environment_is_read_without_panic(a in "\\PC{0,60}", b in "(https?://)?[a-z0-9:@%\\[\\]./]{0,40}", c in "[a-z0-9:/.,*\\[\\]]{0,60}") {
            let proxies = Proxies::new(&a, &b, &c);
            let _ = proxies.choose(true, &a, 1);
            let _ = Proxies::new(&b, &a, &a).choose(false, &c, 1);
        }
    }
}
