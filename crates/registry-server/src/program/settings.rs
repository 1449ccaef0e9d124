//! Settings: flags, and a file with the same names. A flag wins over the file.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde::{Deserialize, Serialize};
use url::Url;
use wharf_registry::Credential;

use crate::Options;
use crate::auth::{Config as AuthConfig, Tokens};
use crate::observe::Destination;
use crate::proxy::Upstream;
use crate::storage::Bucket;
use crate::tls::TlsFiles;

const DEFAULT_ADDRESS: &str = "127.0.0.1:5000";
const DEFAULT_DATA: &str = "/var/lib/wharf-registry";
const DEFAULT_CONNECTIONS: usize = 4096;
const DEFAULT_FRESHNESS: Duration = Duration::from_secs(60);
const DEFAULT_DRAIN: Duration = Duration::from_secs(30);
/// The most bytes of a settings file.
const MAX_FILE: u64 = 1 << 20;

#[derive(Debug, Args)]
pub(super) struct ServeFlags {
    /// Take settings from this TOML file, too: it has the names of the flags without the dashes in front
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    all: Values,
}

/// Everything that can be set, as it is written.
#[derive(Debug, Default, Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct Values {
    /// Where to listen [default: 127.0.0.1:5000]; port 0 takes a free one
    #[arg(long, value_name = "HOST:PORT")]
    address: Option<String>,
    /// Where to keep everything [default: /var/lib/wharf-registry]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// How much to say on standard error: error, warn, info or debug
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,

    /// Keep the content in this bucket, with the keys of the environment (AWS_ACCESS_KEY_ID, …)
    #[arg(long, value_name = "NAME", help_heading = "S3")]
    s3_bucket: Option<String>,
    /// The store's address, where it is not Amazon's
    #[arg(long, value_name = "URL", help_heading = "S3", requires = "s3_bucket")]
    s3_endpoint: Option<String>,
    /// The store's region
    #[arg(long, value_name = "NAME", help_heading = "S3", requires = "s3_bucket")]
    s3_region: Option<String>,
    /// What the names of all objects begin with
    #[arg(long, value_name = "TEXT", help_heading = "S3", requires = "s3_bucket")]
    s3_prefix: Option<String>,

    /// Users and their passwords: an htpasswd file with bcrypt hashes (see hash-password)
    #[arg(long, value_name = "FILE", help_heading = "Access")]
    htpasswd: Option<PathBuf>,
    /// Who may pull, push, delete and list what: a TOML file with [groups] and [[rule]]
    #[arg(long, value_name = "FILE", help_heading = "Access")]
    rules: Option<PathBuf>,
    /// Without --rules: everyone may pull, with or without a password
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Access")]
    anonymous: Option<bool>,
    /// Make tokens at /token, so that clients send passwords only there and can keep a token in place of one
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Access")]
    tokens: Option<bool>,
    /// The key for --tokens [default: token-key.pem in the data directory, made at the first start]
    #[arg(long, value_name = "FILE", help_heading = "Access")]
    token_key: Option<PathBuf>,
    /// Accept the tokens of another service, which clients find here
    #[arg(long, value_name = "URL", help_heading = "Access")]
    token_realm: Option<String>,
    /// What this registry is called by that service
    #[arg(long, value_name = "NAME", help_heading = "Access")]
    token_service: Option<String>,
    /// What that service is called in its tokens
    #[arg(long, value_name = "NAME", help_heading = "Access")]
    token_issuer: Option<String>,
    /// That service's public keys: PEM or a JSON Web Key Set
    #[arg(long, value_name = "FILE", help_heading = "Access")]
    token_keys: Option<PathBuf>,
    /// What clients call this registry, when a proxy in front of it ends TLS
    #[arg(long, value_name = "URL", help_heading = "Access")]
    public_url: Option<String>,

    /// Serve TLS with this certificate chain; a changed file is taken up without a restart
    #[arg(long, value_name = "FILE", help_heading = "Connections")]
    tls_certificate: Option<PathBuf>,
    /// The certificate's key
    #[arg(long, value_name = "FILE", help_heading = "Connections")]
    tls_key: Option<PathBuf>,
    /// Demand of clients a certificate of this authority
    #[arg(long, value_name = "FILE", help_heading = "Connections")]
    tls_client_ca: Option<PathBuf>,
    /// The most connections at once [default: 4096]
    #[arg(long, value_name = "COUNT", help_heading = "Connections")]
    connections: Option<usize>,
    /// How long requests may go on after a signal to end [default: 30s]
    #[arg(long, value_name = "DURATION", help_heading = "Connections")]
    drain: Option<Span>,
    /// A line for each request: a file (reopened on SIGHUP), `-` for standard output, or `none` [default: -]
    #[arg(long, value_name = "FILE", help_heading = "Connections")]
    access_log: Option<String>,
    /// Serve /metrics here, and not to everybody
    #[arg(long, value_name = "HOST:PORT", help_heading = "Connections")]
    metrics_address: Option<String>,

    /// Serve copies of another registry's repositories below NAME (`docker.io=https://registry-1.docker.io`), or at
    /// the root when NAME is `*`; may be given several times
    #[arg(long, value_name = "NAME=URL", help_heading = "Cache of other registries")]
    proxy: Option<Vec<String>>,
    /// Who we are there: a file with NAME USER PASSWORD on each line
    #[arg(long, value_name = "FILE", help_heading = "Cache of other registries")]
    proxy_credentials: Option<PathBuf>,
    /// How long a tag is believed before the other registry is asked again [default: 1m]
    #[arg(long, value_name = "DURATION", help_heading = "Cache of other registries")]
    proxy_freshness: Option<Span>,

    /// Refuse whatever would change something
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Content")]
    read_only: Option<bool>,
    /// Refuse to delete
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Content")]
    no_delete: Option<bool>,
    /// Remove manifests that lost their last tag
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Content")]
    remove_untagged: Option<bool>,
    /// Leave collecting to another server of the same storage
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Content")]
    no_collect: Option<bool>,
    /// The largest manifest [default: 4MiB]
    #[arg(long, value_name = "SIZE", help_heading = "Content")]
    max_manifest_size: Option<Size>,
    /// The largest blob
    #[arg(long, value_name = "SIZE", help_heading = "Content")]
    max_blob_size: Option<Size>,
    /// The most bytes of the whole registry
    #[arg(long, value_name = "SIZE", help_heading = "Content")]
    quota: Option<Size>,
    /// The most bytes of one repository
    #[arg(long, value_name = "SIZE", help_heading = "Content")]
    repository_quota: Option<Size>,
    /// The most repositories
    #[arg(long, value_name = "COUNT", help_heading = "Content")]
    max_repositories: Option<u64>,
    /// How long an upload that nobody goes on with is kept [default: 24h]
    #[arg(long, value_name = "DURATION", help_heading = "Content")]
    upload_expiry: Option<Span>,
    /// How long what is needed no more stays [default: 30s]
    #[arg(long, value_name = "DURATION", help_heading = "Content")]
    grace: Option<Span>,
    /// How long a blob waits for the manifest that names it [default: 1h]
    #[arg(long, value_name = "DURATION", help_heading = "Content")]
    patience: Option<Span>,
}

impl Values {
    /// These, and for what they leave open those of `file`. Field by field, through the names of both.
    fn over(self, file: Self) -> Result<Self> {
        let mut merged = serde_json::to_value(file)?;
        let flags = serde_json::to_value(self)?;
        if let (Some(merged), serde_json::Value::Object(flags)) = (merged.as_object_mut(), flags) {
            merged.extend(flags.into_iter().filter(|(_, value)| !value.is_null()));
        }
        Ok(serde_json::from_value(merged)?)
    }

    fn read(path: &Path) -> Result<Self> {
        let bytes = wharf_linux::hostfs::read_bounded(path, MAX_FILE)?;
        let text = String::from_utf8(bytes).with_context(|| format!("{} is not UTF-8", path.display()))?;
        toml::from_str(&text).with_context(|| path.display().to_string())
    }
}

/// Everything that is set, as it is meant.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) address: String,
    pub(super) data: PathBuf,
    pub(super) log_level: tracing::Level,
    pub(super) access: Option<AuthConfig>,
    pub(super) tls: Option<TlsFiles>,
    pub(super) connections: usize,
    pub(super) drain: Duration,
    pub(super) access_log: Destination,
    pub(super) metrics_address: Option<String>,
    pub(super) options: Options,
    pub(super) upstreams: Vec<Upstream>,
    pub(super) bucket: Option<Bucket>,
}

impl Settings {
    pub(super) fn load(flags: ServeFlags) -> Result<Self> {
        let file = flags.config.as_deref().map(Values::read).transpose()?.unwrap_or_default();
        Self::of(flags.all.over(file)?)
    }

    fn of(values: Values) -> Result<Self> {
        let data = values.data.clone().unwrap_or_else(|| DEFAULT_DATA.into());
        let level = values.log_level.as_deref().unwrap_or("info");
        let settings = Self {
            address: values.address.clone().unwrap_or_else(|| DEFAULT_ADDRESS.to_owned()),
            log_level: level
                .parse()
                .with_context(|| format!("log-level {level:?}: expected error, warn, info or debug"))?,
            access: access(&values, &data)?,
            tls: tls(&values)?,
            connections: values.connections.unwrap_or(DEFAULT_CONNECTIONS),
            drain: values.drain.map_or(DEFAULT_DRAIN, |drain| drain.0),
            access_log: match values.access_log.as_deref() {
                None | Some("-") => Destination::Stdout,
                Some("none") => Destination::None,
                Some(path) => Destination::File(path.into()),
            },
            metrics_address: values.metrics_address.clone(),
            options: options(&values),
            upstreams: upstreams(&values)?,
            bucket: bucket(&values)?,
            data,
        };
        if settings.connections == 0 {
            bail!("connections is 0: nobody could connect");
        }
        Ok(settings)
    }

    /// Whether only this machine can reach an address.
    pub(super) fn is_local(address: SocketAddr) -> bool {
        address.ip().is_loopback()
    }
}

fn access(values: &Values, data: &Path) -> Result<Option<AuthConfig>> {
    let external = (&values.token_realm, &values.token_service, &values.token_issuer, &values.token_keys);
    let own = values.tokens.unwrap_or(false) || values.token_key.is_some();
    let tokens = match external {
        (Some(_), ..) if own => bail!("tokens and token-realm: tokens are made here or elsewhere, not both"),
        (Some(realm), Some(service), Some(issuer), Some(keys)) => Tokens::External {
            realm: url("token-realm", realm)?,
            service: service.clone(),
            issuer: issuer.clone(),
            keys: keys.clone(),
        },
        (None, None, None, None) if own => {
            Tokens::Own(values.token_key.clone().unwrap_or_else(|| data.join("token-key.pem")))
        }
        (None, None, None, None) => Tokens::None,
        _ => bail!("token-realm, token-service, token-issuer and token-keys belong together: give all four"),
    };
    let external = matches!(tokens, Tokens::External { .. });
    if own && values.htpasswd.is_none() {
        bail!("tokens without htpasswd: nobody could get one; name a file of users");
    }
    if values.rules.is_some() && values.htpasswd.is_none() && !external {
        bail!("rules without htpasswd: nobody has a name; name a file of users");
    }
    if values.rules.is_some() && values.anonymous == Some(true) {
        bail!("anonymous and rules: say it in the rules instead, with who = \"anonymous\"");
    }
    if values.htpasswd.is_none() && !external {
        return Ok(None);
    }
    Ok(Some(AuthConfig {
        htpasswd: values.htpasswd.clone(),
        rules: values.rules.clone(),
        anonymous: values.anonymous.unwrap_or(false),
        tokens,
        public_url: values.public_url.as_deref().map(|text| url("public-url", text)).transpose()?,
    }))
}

fn bucket(values: &Values) -> Result<Option<Bucket>> {
    let Some(name) = values.s3_bucket.clone() else { return Ok(None) };
    Ok(Some(Bucket {
        name,
        endpoint: values.s3_endpoint.as_deref().map(|text| url("s3-endpoint", text)).transpose()?,
        region: values.s3_region.clone(),
        prefix: values.s3_prefix.clone().unwrap_or_default(),
    }))
}

fn upstreams(values: &Values) -> Result<Vec<Upstream>> {
    let mut credentials = match &values.proxy_credentials {
        None => std::collections::BTreeMap::new(),
        Some(path) => credentials(path)?,
    };
    let mut upstreams = Vec::new();
    for text in values.proxy.iter().flatten() {
        let Some((name, address)) = text.split_once('=') else {
            bail!("proxy {text:?}: expected NAME=URL, like docker.io=https://registry-1.docker.io");
        };
        let prefix = if name == "*" { "" } else { name };
        if !prefix.is_empty() && prefix.parse::<wharf_registry::spec::RepositoryName>().is_err() {
            bail!("proxy {text:?}: {name:?} cannot begin a repository's name; * serves it at the root");
        }
        upstreams.push(Upstream {
            prefix: prefix.to_owned(),
            url: url("proxy", address)?,
            credential: credentials.remove(name),
            freshness: values.proxy_freshness.map_or(DEFAULT_FRESHNESS, |span| span.0),
        });
    }
    if let Some(name) = credentials.keys().next() {
        bail!("proxy-credentials has a line for {name:?}, and there is no proxy of that name");
    }
    Ok(upstreams)
}

fn credentials(path: &Path) -> Result<std::collections::BTreeMap<String, Credential>> {
    let text = crate::watched::text(path)?;
    let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(number, line)| match line.split_whitespace().collect::<Vec<_>>()[..] {
            [name, username, password] => {
                let (username, password) = (username.to_owned(), password.to_owned());
                Ok((name.to_owned(), Credential::Password { username, password }))
            }
            _ => bail!("{}:{number}: expected NAME USER PASSWORD", path.display()),
        })
        .collect()
}

fn url(name: &str, text: &str) -> Result<Url> {
    match Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Ok(url),
        _ => bail!("{name} {text:?} is no address: expected something like https://registry.example.com"),
    }
}

fn tls(values: &Values) -> Result<Option<TlsFiles>> {
    match (&values.tls_certificate, &values.tls_key) {
        (Some(certificate), Some(key)) => Ok(Some(TlsFiles {
            certificate: certificate.clone(),
            key: key.clone(),
            client_authority: values.tls_client_ca.clone(),
        })),
        (None, None) if values.tls_client_ca.is_some() => {
            bail!("tls-client-ca without tls-certificate: only TLS connections have certificates")
        }
        (None, None) => Ok(None),
        _ => bail!("tls-certificate and tls-key belong together: give both"),
    }
}

fn options(values: &Values) -> Options {
    let defaults = Options::default();
    let span = |span: Option<Span>, default| span.map_or(default, |span| span.0);
    Options {
        read_only: values.read_only.unwrap_or(false),
        delete: !values.no_delete.unwrap_or(false),
        remove_untagged: values.remove_untagged.unwrap_or(false),
        collect: !values.no_collect.unwrap_or(false),
        grace: span(values.grace, defaults.grace),
        patience: span(values.patience, defaults.patience),
        upload_expiry: span(values.upload_expiry, defaults.upload_expiry),
        max_manifest: values.max_manifest_size.map_or(defaults.max_manifest, |size| size.0),
        max_blob: values.max_blob_size.map(|size| size.0),
        max_repositories: values.max_repositories,
        repository_quota: values.repository_quota.map(|size| size.0),
        total_quota: values.quota.map(|size| size.0),
        ..defaults
    }
}

/// A number of bytes: `500MB`, `10GiB`, `4096`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Text", into = "u64")]
struct Size(u64);

/// A time: `30s`, `24h`, `1h 30m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Text", into = "String")]
struct Span(Duration);

/// Numbers may be written without quotes.
#[derive(Deserialize)]
#[serde(untagged)]
enum Text {
    Number(u64),
    Text(String),
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || {
            format!(
                "{text:?} is no size: expected a number of bytes, or with kB, MB, GB, TB, KiB, MiB, GiB or TiB"
            )
        };
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let number: u64 = text[..digits].parse().map_err(|_| bad())?;
        let unit: u64 = match text[digits..].trim_start().to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "kb" => 1000,
            "mb" => 1_000_000,
            "gb" => 1_000_000_000,
            "tb" => 1_000_000_000_000,
            "k" | "kib" => 1 << 10,
            "m" | "mib" => 1 << 20,
            "g" | "gib" => 1 << 30,
            "t" | "tib" => 1 << 40,
            _ => return Err(bad()),
        };
        number.checked_mul(unit).map(Self).ok_or_else(bad)
    }
}

impl TryFrom<Text> for Size {
    type Error = String;

    fn try_from(text: Text) -> Result<Self, String> {
        match text {
            Text::Number(number) => Ok(Self(number)),
            Text::Text(text) => text.parse(),
        }
    }
}

impl From<Size> for u64 {
    fn from(size: Size) -> Self {
        size.0
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is no duration: expected something like 30s, 10m or 24h");
        let span: jiff::SignedDuration = text.parse().map_err(|_| bad())?;
        Duration::try_from(span).map(Self).map_err(|_| bad())
    }
}

impl TryFrom<Text> for Span {
    type Error = String;

    fn try_from(text: Text) -> Result<Self, String> {
        match text {
            Text::Number(seconds) => Ok(Self(Duration::from_secs(seconds))),
            Text::Text(text) => text.parse(),
        }
    }
}

impl From<Span> for String {
    fn from(span: Span) -> Self {
        format!("{}s", span.0.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        flags: ServeFlags,
    }

    fn load(args: &[&str]) -> Result<Settings> {
        Settings::load(Line::try_parse_from([&["x"], args].concat())?.flags)
    }

    #[test]
    fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.toml");
        let file = "quota = '10GiB'\nmax-blob-size = 4096\nread-only = true\ndrain = 5\ngrace = '1.5s'\n";
        std::fs::write(&path, file).unwrap();
        let settings =
            load(&["--config", path.to_str().unwrap(), "--quota", "1MB", "--read-only=false"]).unwrap();
        assert_eq!(settings.options.total_quota, Some(1_000_000));
        assert_eq!(settings.options.max_blob, Some(4096));
        assert!(!settings.options.read_only);
        assert_eq!(settings.drain, Duration::from_secs(5));
        assert_eq!(settings.options.grace, Duration::from_millis(1500));
        assert_eq!(settings.address, DEFAULT_ADDRESS);
        assert!(settings.access.is_none());

        std::fs::write(&path, "qouta = 1\n").unwrap();
        let message = format!("{:#}", load(&["--config", path.to_str().unwrap()]).unwrap_err());
        assert!(message.contains("c.toml") && message.contains("unknown field `qouta`"), "{message}");
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_the_way_out() {
        for (args, wanted) in [
            (&["--tls-key", "k"][..], "tls-certificate and tls-key belong together"),
            (&["--tls-client-ca", "k"], "tls-client-ca without tls-certificate"),
            (&["--tokens"], "tokens without htpasswd"),
            (&["--rules", "r"], "rules without htpasswd"),
            (&["--htpasswd", "h", "--rules", "r", "--anonymous"], "say it in the rules"),
            (&["--token-realm", "https://a/token"], "give all four"),
            (&["--htpasswd", "h", "--public-url", "registry"], "is no address"),
            (&["--connections", "0"], "nobody could connect"),
            (&["--quota", "1 parsec"], "is no size"),
            (&["--quota", "99999999999TB"], "is no size"),
            (&["--drain", "-5s"], "unexpected argument"),
            (&["--drain", "soon"], "is no duration"),
            (&["--log-level", "loud"], "expected error, warn, info or debug"),
        ] {
            let message = format!("{:#}", load(args).err().unwrap_or_else(|| panic!("{args:?} is refused")));
            assert!(message.contains(wanted), "{args:?}: {message}");
        }
    }
}
