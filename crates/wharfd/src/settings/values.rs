//! Values of settings, from their text.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Deserializer};
use tracing::Level;
use wharf_engine::RuntimeProgram;
use wharf_model::spec::{LogSpec, Ulimit};

/// Docker's port of the API with TLS, and without.
const TLS_PORT: u16 = 2376;
const PLAIN_PORT: u16 = 2375;

/// Where the API is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Host {
    Unix(PathBuf),
    /// The sockets of a service manager.
    Passed,
    Tcp(SocketAddr),
}

impl Host {
    /// Understands the value of `-H`.
    pub(super) fn parse(text: &str, tls: bool) -> Result<Self> {
        match text.split_once("://") {
            Some(("unix", path)) if path.starts_with('/') => Ok(Self::Unix(Path::new(path).to_path_buf())),
            Some(("unix", path)) => bail!("{text}: {path:?} is not an absolute path"),
            Some(("fd", "" | "*")) => Ok(Self::Passed),
            Some(("tcp", authority)) => address(authority, if tls { TLS_PORT } else { PLAIN_PORT })
                .map(Self::Tcp)
                .with_context(|| text.to_owned()),
            _ => bail!("{text}: expected unix://PATH, fd:// or tcp://ADDRESS:PORT"),
        }
    }
}

/// An address to listen on: Docker's defaults are loopback and its own ports.
fn address(authority: &str, port: u16) -> Result<SocketAddr> {
    let authority = authority.trim_end_matches('/');
    if let Ok(address) = authority.parse() {
        return Ok(address);
    }
    if let Ok(ip) = authority.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        return Ok(SocketAddr::new(ip, port));
    }
    let (name, port) = match authority.rsplit_once(':') {
        Some((name, given)) => (name, given.parse().context("the port must be a number up to 65535")?),
        None => (authority, port),
    };
    let name = if name.is_empty() { "127.0.0.1" } else { name };
    let found: Vec<SocketAddr> = (name, port).to_socket_addrs().context("finding the address")?.collect();
    let first = found.iter().find(|address| address.is_ipv4()).or(found.first());
    first.copied().context("the name has no address")
}

/// `20GB` and the like: powers of 1000, or of 1024 with an `i`.
pub(super) fn size(text: &str) -> Result<u64> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let unit = unit.trim().to_ascii_lowercase();
    let unit = unit.strip_suffix('b').unwrap_or(&unit);
    let (prefix, base) = unit.strip_suffix('i').map_or((unit, 1000_u64), |prefix| (prefix, 1024));
    scaled(number, prefix, base)
}

/// `64m` and the like as Docker reads sizes of memory: powers of 1024.
pub(super) fn memory(text: &str) -> Result<i64> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let unit = unit.trim().to_ascii_lowercase();
    let unit = unit.strip_suffix('b').unwrap_or(&unit);
    let bytes = scaled(number, unit.strip_suffix('i').unwrap_or(unit), 1024)?;
    i64::try_from(bytes).context("that is more memory than any machine has")
}

fn scaled(number: &str, prefix: &str, base: u64) -> Result<u64> {
    let power = match prefix {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        _ => bail!("expected a size such as 500MB, 20GB or 1TiB"),
    };
    let number: u64 = number.parse().context("expected a size such as 500MB, 20GB or 1TiB")?;
    number.checked_mul(base.pow(power)).context("that is more than any disk has")
}

pub(super) fn log_level(word: Option<&str>) -> Result<Level> {
    Ok(match word.unwrap_or("info") {
        "trace" => Level::TRACE,
        "debug" => Level::DEBUG,
        "info" => Level::INFO,
        "warn" | "warning" => Level::WARN,
        "error" | "fatal" | "panic" => Level::ERROR,
        other => bail!("invalid log level {other:?}: use debug, info, warn, error or fatal"),
    })
}

/// `name=value`, each name once.
pub(super) fn labels(labels: Vec<String>) -> Result<Vec<String>> {
    let mut values = BTreeMap::new();
    for label in &labels {
        let Some((name, value)) = label.split_once('=').filter(|(name, _)| !name.trim().is_empty()) else {
            bail!("bad attribute format: {label}: expected name=value");
        };
        if values.insert(name, value).is_some_and(|before| before != value) {
            bail!("conflict labels for {name}: it has two values");
        }
        if ["com.docker.", "io.docker.", "org.dockerproject."]
            .iter()
            .any(|reserved| name.starts_with(reserved))
        {
            bail!(
                "label {name} is not allowed: namespaces com.docker.*, io.docker.*, and org.dockerproject.* are reserved"
            );
        }
    }
    let mut seen = std::collections::BTreeSet::new();
    Ok(labels.into_iter().filter(|label| seen.insert(label.clone())).collect())
}

/// `nofile=1024:2048`.
pub(super) fn ulimit(text: &str) -> Result<Ulimit> {
    const NAMES: [&str; 15] = [
        "core",
        "cpu",
        "data",
        "fsize",
        "locks",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rss",
        "rtprio",
        "rttime",
        "sigpending",
        "stack",
    ];
    let Some((name, limits)) = text.split_once('=') else { bail!("invalid ulimit argument: {text}") };
    if !NAMES.contains(&name) {
        bail!("invalid ulimit type: {name}");
    }
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    let number = |text: &str| text.parse::<i64>().with_context(|| format!("invalid ulimit argument: {text}"));
    let (soft, hard) = (number(soft)?, number(hard)?);
    if hard != -1 && (soft == -1 || soft > hard) {
        bail!("ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}");
    }
    Ok(Ulimit { name: name.to_owned(), soft, hard })
}

/// `"default-ulimits": {"nofile": {"Name": "nofile", "Soft": 1, "Hard": 2}}` as the flag's texts.
pub(super) fn ulimits_of_file<'de, D: Deserializer<'de>>(reader: D) -> Result<Option<Vec<String>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Limit {
        #[serde(default)]
        name: String,
        #[serde(default)]
        soft: i64,
        #[serde(default)]
        hard: i64,
    }
    let limits = Option::<BTreeMap<String, Limit>>::deserialize(reader)?;
    let text = |(key, limit): (String, Limit)| {
        let name = if limit.name.is_empty() { key } else { limit.name };
        format!("{name}={}:{}", limit.soft, limit.hard)
    };
    Ok(limits.map(|limits| limits.into_iter().map(text).collect()))
}
/// The default log driver and its options, `NAME=VALUE` each.
pub(super) fn log(driver: Option<String>, options: Option<Vec<String>>) -> Result<LogSpec> {
    let pair = |text: String| match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => bail!("invalid log option {text:?}: expected NAME=VALUE"),
    };
    let options = options.into_iter().flatten().map(pair).collect::<Result<_>>()?;
    let log = LogSpec { driver: driver.unwrap_or_default(), options };
    wharf_engine::validate_log_defaults(&log)?;
    Ok(log)
}

/// The settings file has pairs as an object.
pub(super) fn pairs_of_file<'de, D: Deserializer<'de>>(
    from: D,
) -> std::result::Result<Option<Vec<String>>, D::Error> {
    let map = Option::<BTreeMap<String, String>>::deserialize(from)?;
    Ok(map.map(|map| map.into_iter().map(|(name, value)| format!("{name}={value}")).collect()))
}

/// `"runtimes": {"crun": {"path": "/usr/bin/crun", "runtimeArgs": ["--debug"]}}`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct RuntimeOfFile {
    path: String,
    runtime_args: Vec<String>,
    runtime_type: String,
    options: serde_json::Map<String, serde_json::Value>,
}

/// `NAME=PATH`, each name once.
pub(super) fn runtimes(flags: &[String]) -> Result<BTreeMap<String, RuntimeProgram>> {
    let mut named = BTreeMap::new();
    for text in flags {
        let (name, path) = text.split_once('=').unwrap_or_default();
        let (name, path) = (name.trim().to_lowercase(), path.trim().to_owned());
        if name.is_empty() || path.is_empty() {
            bail!("invalid runtime argument: {text}");
        }
        if named.insert(name.clone(), RuntimeProgram { path, args: Vec::new() }).is_some() {
            bail!("runtime '{name}' was already defined");
        }
    }
    Ok(named)
}

/// The settings file has more to say about each.
pub(super) fn runtimes_of_file(
    runtimes: BTreeMap<String, RuntimeOfFile>,
) -> Result<BTreeMap<String, RuntimeProgram>> {
    /// What containerd calls the shim that runs runc and its like.
    const RUNC: &str = "io.containerd.runc.v2";
    let program = |(name, runtime): (String, RuntimeOfFile)| {
        let RuntimeOfFile { path, runtime_args: args, runtime_type, mut options } = runtime;
        let path = match (path.as_str(), runtime_type.as_str()) {
            ("", "") => bail!("runtime {name}: either a runtimeType or a path must be configured"),
            (_, "") if !options.is_empty() => {
                bail!("runtime {name}: options cannot be used with a path runtime")
            }
            (_, "") => path,
            ("", _) if !args.is_empty() => {
                bail!("runtime {name}: args cannot be used with a runtimeType runtime")
            }
            ("", RUNC) => {
                let program = options.remove("BinaryName");
                if let Some(option) = options.keys().next() {
                    bail!("runtime {name}: the option {option} is not supported: there is no containerd");
                }
                program.and_then(|program| program.as_str().map(str::to_owned)).unwrap_or_default()
            }
            ("", other) => {
                bail!(
                    "runtime {name}: the runtimeType {other} is not supported: there is no containerd, name a program with path"
                )
            }
            _ => bail!("runtime {name}: cannot configure both path and runtimeType for the same runtime"),
        };
        Ok((name, RuntimeProgram { path, args }))
    };
    runtimes.into_iter().map(program).collect()
}
