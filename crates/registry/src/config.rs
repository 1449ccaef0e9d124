//! What the client is told once.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::proxy::Proxies;

/// The settings of a client. [`Default`] is what an engine without a configuration file does: Docker's and
/// containerd's directories of certificates, proxies of the environment, nothing insecure but loopback.
#[derive(Debug, Clone)]
pub struct Config {
    /// `host[:port]` and address ranges (`10.0.0.0/8`) where certificates are not checked and plain HTTP is tried when
    /// TLS is not spoken.
    pub insecure: Vec<String>,
    /// Addresses of mirrors of `docker.io`, asked in order before it, for pulls only.
    pub mirrors: Vec<String>,
    /// Directories with `HOST[:PORT]/hosts.toml` (containerd) or `HOST[:PORT]/*.crt` (Docker); the first that knows
    /// the host wins.
    pub hosts_directories: Vec<PathBuf>,
    /// Through whom connections go.
    pub proxies: Proxies,
    /// What we call ourselves.
    pub user_agent: String,
    /// Pairs of a registry's host and the host of its token service that belong together although their names do not
    /// show it. Credentials may go from the first to the second.
    pub realms: Vec<(String, String)>,
    /// Addresses of names that are not to be asked of the system.
    pub addresses: BTreeMap<String, Vec<IpAddr>>,
    /// How long things may take.
    pub timeouts: Timeouts,
    /// How often a step is tried again when that may help.
    pub retries: u32,
    /// Larger blobs are uploaded in pieces of this size; one piece when it is 0, which every registry understands.
    pub upload_chunk: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            insecure: Vec::new(),
            mirrors: Vec::new(),
            hosts_directories: vec!["/etc/containerd/certs.d".into(), "/etc/docker/certs.d".into()],
            proxies: Proxies::from_env(),
            user_agent: format!("wharf/{}", env!("CARGO_PKG_VERSION")),
            realms: Vec::new(),
            addresses: BTreeMap::new(),
            timeouts: Timeouts::default(),
            retries: 5,
            upload_chunk: 0,
        }
    }
}

/// How long things may take.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// From a name to a connection that can be used.
    pub connect: Duration,
    /// Without progress. A body makes progress when it brings at least 16 KiB in this time.
    pub idle: Duration,
    /// A whole small document: a manifest, a token, a list.
    pub document: Duration,
    /// A registry may think about a finished upload for so long.
    pub commit: Duration,
    /// The first pause before something is tried again; each further one is twice as long, up to a limit.
    pub backoff: Duration,
    /// The longest pause that a registry can ask for; what asks for more has failed.
    pub longest_pause: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(30),
            idle: Duration::from_secs(60),
            document: Duration::from_secs(120),
            commit: Duration::from_secs(300),
            backoff: Duration::from_millis(250),
            longest_pause: Duration::from_secs(60),
        }
    }
}
