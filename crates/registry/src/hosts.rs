//! Which endpoints a registry's name stands for: mirrors first, the registry itself last; and whom each one trusts.
//!
//! A directory `HOST[:PORT]` of `hosts_directories` is read as containerd reads it when it has a `hosts.toml`, and as
//! Docker reads it otherwise: `*.crt` are authorities, `X.cert` with `X.key` is who we are.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use http::header::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use url::Url;
use wharf_linux::hostfs;
use wharf_model::reference::DEFAULT_DOMAIN;

use crate::address::Nearness;
use crate::config::Config;
use crate::dial::{Peer, Spoken};
use crate::error::{Error, Result};
use crate::origin::{Origin, split_port};
use crate::trust::{Identity, Trust, certificates};

/// The host behind Docker's default name.
const DEFAULT_HOST: &str = "registry-1.docker.io";
/// Configuration and certificates are smaller.
const MAX_FILE: u64 = 1 << 20;

/// One place that answers for a registry.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    pub(crate) peer: Peer,
    /// What precedes the repository in a path: `/v2`.
    pub(crate) prefix: String,
    pub(crate) pull: bool,
    pub(crate) resolve: bool,
    pub(crate) push: bool,
    pub(crate) headers: HeaderMap,
    /// The registry that a mirror is asked to stand for (containerd's `ns` parameter).
    pub(crate) namespace: Option<String>,
    /// The registry itself: only it gets the credential.
    pub(crate) own: bool,
}

/// The endpoints of a registry, in the order in which they are tried; the last one is the registry itself.
pub(crate) fn endpoints(config: &Config, domain: &str) -> Result<Vec<Endpoint>> {
    let mut endpoints = Vec::new();
    if domain == DEFAULT_DOMAIN {
        for mirror in &config.mirrors {
            endpoints.push(mirror_of(config, mirror)?);
        }
    }
    match find(config, domain)? {
        Some(Found::Hosts(path)) => read_hosts(&path, domain, &mut endpoints)?,
        Some(Found::Certificates(path)) => endpoints.push(own(domain, docker_trust(&path)?)?),
        None => endpoints.push(own(domain, Trust::system())?),
    }
    Ok(endpoints)
}

fn own(domain: &str, trust: std::sync::Arc<Trust>) -> Result<Endpoint> {
    let host = if domain == DEFAULT_DOMAIN { DEFAULT_HOST } else { domain };
    let (host, port) = split_port(host)
        .ok_or_else(|| Error::Config(format!("invalid registry host {domain:?}: expected host[:port]")))?;
    Ok(Endpoint {
        peer: Peer { host, port, spoken: Spoken::Either, trust, nearest: Nearness::Loopback },
        prefix: "/v2".to_owned(),
        pull: true,
        resolve: true,
        push: true,
        headers: HeaderMap::new(),
        namespace: None,
        own: true,
    })
}

/// A mirror of the `registry-mirrors` setting.
fn mirror_of(config: &Config, address: &str) -> Result<Endpoint> {
    let wrong =
        || Error::Config(format!("invalid mirror {address:?}: expected http[s]://host[:port][/path]"));
    let text = if address.contains("://") { address.to_owned() } else { format!("https://{address}") };
    let url = Url::parse(&text).map_err(|_| wrong())?;
    let origin = Origin::of(&url).ok_or_else(wrong)?;
    if !url.username().is_empty() || url.query().is_some() || url.fragment().is_some() {
        return Err(wrong());
    }
    let trust = match find(config, &origin.authority())? {
        Some(Found::Certificates(path)) => docker_trust(&path)?,
        _ => Trust::system(),
    };
    let mut endpoint = at(&url, &origin, trust, false);
    endpoint.push = false;
    Ok(endpoint)
}

fn at(url: &Url, origin: &Origin, trust: std::sync::Arc<Trust>, whole_path: bool) -> Endpoint {
    let path = url.path().trim_end_matches('/');
    Endpoint {
        peer: Peer {
            host: origin.host.clone(),
            port: url.port(),
            spoken: if origin.tls { Spoken::Tls } else { Spoken::Plain },
            trust,
            nearest: Nearness::Loopback,
        },
        prefix: if whole_path { path.to_owned() } else { format!("{path}/v2") },
        pull: true,
        resolve: true,
        push: true,
        headers: HeaderMap::new(),
        namespace: None,
        own: false,
    }
}

/// What a directory has for a host.
enum Found {
    Hosts(PathBuf),
    Certificates(PathBuf),
}

fn find(config: &Config, domain: &str) -> Result<Option<Found>> {
    // It becomes part of a path.
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
    if domain.is_empty() || domain.len() > 255 || domain.starts_with('.') || !domain.bytes().all(plain) {
        let shown: String = domain.chars().take(80).collect();
        return Err(Error::Config(format!("invalid registry host {shown:?}: expected host[:port]")));
    }
    // containerd writes the colon of a port as underscores, for systems where a file cannot have one.
    let escaped = domain.rsplit_once(':').map(|(host, port)| format!("{host}_{port}_"));
    for directory in &config.hosts_directories {
        for name in escaped.iter().map(String::as_str).chain([domain, "_default"]) {
            let path = directory.join(name);
            let file = path.join("hosts.toml");
            if hostfs::exists(&file)? {
                return Ok(Some(Found::Hosts(file)));
            }
            if name != "_default" && hostfs::exists(&path)? {
                return Ok(Some(Found::Certificates(path)));
            }
        }
    }
    Ok(None)
}

fn docker_trust(directory: &Path) -> Result<std::sync::Arc<Trust>> {
    let mut names: Vec<String> =
        hostfs::read_dir(directory)?.into_iter().filter_map(|name| name.into_string().ok()).collect();
    names.sort();
    let mut authorities = Vec::new();
    let mut identity = None;
    for name in &names {
        let path = directory.join(name);
        if name.ends_with(".crt") {
            authorities
                .extend(certificates(&hostfs::read_bounded(&path, MAX_FILE)?, &path.display().to_string())?);
        } else if let Some(stem) = name.strip_suffix(".cert") {
            let key = format!("{stem}.key");
            if !names.contains(&key) {
                return Err(Error::Config(format!(
                    "missing key {key} for client certificate {name} in {}. CA certificates must use the extension .crt",
                    directory.display()
                )));
            }
            identity = Some(read_identity(&path, &directory.join(key))?);
        } else if let Some(stem) = name.strip_suffix(".key")
            && !names.contains(&format!("{stem}.cert"))
        {
            return Err(Error::Config(format!(
                "missing client certificate {stem}.cert for key {name} in {}",
                directory.display()
            )));
        }
    }
    Ok(Trust::new(authorities, identity, false))
}

fn read_identity(certificate: &Path, key: &Path) -> Result<Identity> {
    let chain = hostfs::read_bounded(certificate, MAX_FILE)?;
    let key = hostfs::read_bounded(key, MAX_FILE)?;
    Identity::new(&chain, &key, &certificate.display().to_string())
}

/// `hosts.toml`. Its top level describes the server with the fields of a host.
#[derive(Debug, Deserialize)]
struct HostsFile {
    server: Option<String>,
    /// With their places, because their order matters and a map has none.
    #[serde(default)]
    host: BTreeMap<String, toml::Spanned<HostFields>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct HostFields {
    capabilities: Option<Vec<String>>,
    ca: Option<OneOrMany>,
    client: Option<Clients>,
    skip_verify: bool,
    override_path: bool,
    header: BTreeMap<String, OneOrMany>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    fn all(&self) -> &[String] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

/// One file with certificate and key, several, or pairs.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum Clients {
    Files(OneOrMany),
    Pairs(Vec<OneOrMany>),
}

fn read_hosts(path: &Path, domain: &str, endpoints: &mut Vec<Endpoint>) -> Result<()> {
    let wrong = |what: &dyn std::fmt::Display| Error::Config(format!("{}: {what}", path.display()));
    let bytes = hostfs::read_bounded(path, MAX_FILE)?;
    let text = std::str::from_utf8(&bytes).map_err(|error| wrong(&error))?;
    let file: HostsFile = toml::from_str(text).map_err(|error| wrong(&error))?;
    let server: HostFields = toml::from_str(text).map_err(|error| wrong(&error))?;

    let mut hosts: Vec<_> = file.host.into_iter().collect();
    hosts.sort_by_key(|(_, fields)| fields.span().start);
    for (address, fields) in hosts {
        let mut endpoint = read_host(path, &address, fields.get_ref())?;
        endpoint.namespace = Some(domain.to_owned());
        endpoints.push(endpoint);
    }
    let mut last = match &file.server {
        Some(address) => read_host(path, address, &server)?,
        None => {
            let mut last = own(domain, trust_of(path, &server)?)?;
            last.headers = headers_of(path, &server)?;
            last
        }
    };
    // The server of a file is the registry itself only if it is the host that was named.
    let named = own(domain, Trust::system())?.peer;
    last.own = last.peer.host == named.host && last.peer.port.unwrap_or(443) == named.port.unwrap_or(443);
    endpoints.push(last);
    Ok(())
}

fn read_host(path: &Path, address: &str, fields: &HostFields) -> Result<Endpoint> {
    let wrong = || {
        Error::Config(format!(
            "{}: invalid host {address:?}: expected http[s]://host[:port][/path]",
            path.display()
        ))
    };
    let scheme = address.contains("://");
    let text = if scheme { address.to_owned() } else { format!("https://{address}") };
    let url = Url::parse(&text).map_err(|_| wrong())?;
    let origin = Origin::of(&url).ok_or_else(wrong)?;
    let mut endpoint = at(&url, &origin, trust_of(path, fields)?, fields.override_path);
    if !scheme {
        endpoint.peer.spoken = Spoken::Either;
    }
    if let Some(capabilities) = &fields.capabilities {
        let can = |what: &str| capabilities.iter().any(|capability| capability == what);
        (endpoint.pull, endpoint.resolve, endpoint.push) = (can("pull"), can("resolve"), can("push"));
    }
    endpoint.headers = headers_of(path, fields)?;
    Ok(endpoint)
}

fn headers_of(path: &Path, fields: &HostFields) -> Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    for (name, values) in &fields.header {
        let wrong = || Error::Config(format!("{}: invalid header {name:?}", path.display()));
        let name: HeaderName = name.parse().map_err(|_| wrong())?;
        for value in values.all() {
            let mut value = HeaderValue::from_str(value).map_err(|_| wrong())?;
            value.set_sensitive(true);
            headers.append(name.clone(), value);
        }
    }
    Ok(headers)
}

fn trust_of(path: &Path, fields: &HostFields) -> Result<std::sync::Arc<Trust>> {
    let beside = |name: &str| path.parent().map_or_else(|| PathBuf::from(name), |parent| parent.join(name));
    let mut authorities = Vec::new();
    for name in fields.ca.iter().flat_map(OneOrMany::all) {
        let file = beside(name);
        authorities
            .extend(certificates(&hostfs::read_bounded(&file, MAX_FILE)?, &file.display().to_string())?);
    }
    let first: Option<Vec<String>> = match &fields.client {
        // A list of names is files that each hold both; TLS presents one of them.
        Some(Clients::Files(files)) => files.all().first().map(|file| vec![file.clone()]),
        Some(Clients::Pairs(pairs)) => pairs.first().map(|pair| pair.all().to_vec()),
        None => None,
    };
    let identity = match first.as_deref() {
        Some([both]) => Some(read_identity(&beside(both), &beside(both))?),
        Some([certificate, key]) => Some(read_identity(&beside(certificate), &beside(key))?),
        Some(_) => {
            return Err(Error::Config(format!(
                "{}: client expects a file or [certificate, key]",
                path.display()
            )));
        }
        None => None,
    };
    if authorities.is_empty() && identity.is_none() && !fields.skip_verify {
        return Ok(Trust::system());
    }
    Ok(Trust::new(authorities, identity, fields.skip_verify))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(directory: &Path) -> Config {
        Config { hosts_directories: vec![directory.to_owned()], ..Config::default() }
    }

    fn write(directory: &Path, name: &str, text: &str) {
        let path = directory.join(name);
        hostfs::create_dir_all(path.parent().unwrap(), 0o755).unwrap();
        hostfs::write(&path, text.as_bytes()).unwrap();
    }

    #[test]
    fn dockers_name_stands_for_its_host_and_its_mirrors() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(dir.path());
        config.mirrors = vec!["http://mirror.test:5000/cache/".into()];
        let all = endpoints(&config, "docker.io").unwrap();
        assert_eq!(all.len(), 2);
        assert_eq!(
            (all[0].peer.to_string().as_str(), all[0].prefix.as_str()),
            ("mirror.test:5000", "/cache/v2")
        );
        assert_eq!((all[0].peer.spoken, all[0].push, all[0].own), (Spoken::Plain, false, false));
        assert_eq!(
            (all[1].peer.to_string().as_str(), all[1].push, all[1].own),
            ("registry-1.docker.io", true, true)
        );
        assert_eq!(endpoints(&config, "other.test:5000").unwrap().len(), 1);
        config.mirrors = vec!["ftp://x".into()];
        assert!(endpoints(&config, "docker.io").is_err());
    }

    #[test]
    fn a_host_is_no_path() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "hosts.toml", "server = \"https://evil.test\"");
        write(dir.path(), "certs.d/good.test/hosts.toml", "");
        let config = Config { hosts_directories: vec![dir.path().join("certs.d")], ..Config::default() };
        assert!(matches!(find(&config, "good.test"), Ok(Some(Found::Hosts(_)))));
        for domain in ["..", ".", "", "a/..", "good.test/../..", "\0", "\u{1f433}", &"x".repeat(300)] {
            assert!(matches!(find(&config, domain), Err(Error::Config(_))), "{domain:?}");
        }
    }

    #[test]
    fn hosts_toml_is_read_in_its_own_order() {
        let dir = tempfile::tempdir().unwrap();
        write(
            dir.path(),
            "reg.test_5000_/hosts.toml",
            r#"
                server = "https://reg.test:5000"
                [host."https://z.test"]
                  capabilities = ["pull", "resolve"]
                  [host."https://z.test".header]
                    x-one = "1"
                    x-many = ["2", "3"]
                [host."http://a.test:81/some/path"]
                  override_path = true
                  skip_verify = true
            "#,
        );
        let all = endpoints(&config(dir.path()), "reg.test:5000").unwrap();
        let hosts: Vec<_> = all.iter().map(|endpoint| endpoint.peer.to_string()).collect();
        assert_eq!(hosts, ["z.test", "a.test:81", "reg.test:5000"]);
        assert_eq!((all[0].pull, all[0].resolve, all[0].push), (true, true, false));
        assert_eq!(all[0].headers.get_all("x-many").iter().count(), 2);
        assert_eq!((all[1].prefix.as_str(), all[1].peer.spoken), ("/some/path", Spoken::Plain));
        assert_eq!((all[0].own, all[1].own, all[2].own), (false, false, true));
        assert_eq!(all[0].namespace.as_deref(), Some("reg.test:5000"));
    }

    #[test]
    fn a_client_certificate_without_its_key_is_named() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "reg.test/me.cert", "x");
        let text = endpoints(&config(dir.path()), "reg.test").unwrap_err().to_string();
        assert!(text.starts_with("missing key me.key for client certificate me.cert"), "{text}");
        write(dir.path(), "other.test/ca.crt", "no pem");
        assert!(
            endpoints(&config(dir.path()), "other.test").unwrap_err().to_string().contains("no certificate")
        );
    }

    proptest::proptest! {
        #[test]
        fn any_hosts_toml_is_read_without_panic(text in "\\PC{0,80}|(\\[host\\.\"https?://[a-z]{1,4}\"\\]\n(ca|client) = [\\[\\]\"a,]{0,12}\n){0,3}") {
            let dir = tempfile::tempdir().unwrap();
            write(dir.path(), "reg.test/hosts.toml", &text);
            let _ = endpoints(&config(dir.path()), "reg.test");
        }
    }
}
