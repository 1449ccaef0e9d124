//! Flags, with dockerd's names, and the settings file, with the same keys.
//!
//! A key may be given in one of the two places only: an engine that silently preferred one would surprise someone.

mod elsewhere;
mod values;

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{ArgAction, Parser};
use serde::Deserialize;
use tracing::Level;
use wharf_engine::{
    ContainerDefaults, LayerStorage, PLUGIN_DIRS, RUNTIME_PATIENCE, Remap, Runtimes, VOLUME_PATIENCE,
};
use wharf_image::Concurrency;
use wharf_model::spec::LogSpec;
use wharf_server::TlsFiles;

pub(crate) use values::Host;

const DATA_ROOT: &str = "/var/lib/wharf";
const EXEC_ROOT: &str = "/run/wharf";
const HOST: &str = "unix:///run/wharf/wharf.sock";
const CONFIG_FILE: &str = "/etc/wharf/daemon.json";
const CDI_DIRS: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];
/// Seconds that containers have to stop when the engine does.
const SHUTDOWN_TIMEOUT: i64 = 15;

/// The Wharf engine: serves the Docker Engine API.
#[derive(Debug, Default, Parser)]
#[command(version, disable_version_flag = true, max_term_width = 100)]
pub(crate) struct Flags {
    #[command(flatten)]
    given: Given,
    /// Settings file
    #[arg(long, value_name = "FILE", help = format!("Settings file (default {CONFIG_FILE})"))]
    config_file: Option<PathBuf>,
    /// Check the settings and leave
    #[arg(long)]
    pub(crate) validate: bool,
    /// Print the version
    #[arg(long, short = 'v', action = ArgAction::Version)]
    version: (),
}

/// What may be given as a flag or as a key of the settings file.
#[derive(Debug, Clone, Default, clap::Args, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct Given {
    /// Directory of images, containers and volumes
    #[arg(long, value_name = "DIR", help = format!("Directory of images, containers and volumes (default {DATA_ROOT})"))]
    data_root: Option<PathBuf>,
    /// Directory of sockets and other state that does not survive a reboot
    #[arg(long, value_name = "DIR", help = format!("Directory of state that does not survive a reboot (default {EXEC_ROOT})"))]
    exec_root: Option<PathBuf>,
    /// Where to listen; may be given more than once
    #[arg(long = "host", short = 'H', value_name = "unix://PATH|tcp://ADDRESS:PORT|fd://", help = format!("Where to listen; may be repeated (default {HOST})"))]
    #[serde(rename = "hosts")]
    host: Option<Vec<String>>,
    /// Group of the sockets (default `wharf`, or `docker` if there is no such group)
    #[arg(long, short = 'G', value_name = "NAME|GID")]
    group: Option<String>,
    /// Use TLS on TCP; implied by a tcp:// host, `false` only where nobody but this machine can connect
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set, value_name = "BOOL")]
    tls: Option<bool>,
    /// Let only clients in whose certificate the authority has signed (default true)
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set, value_name = "BOOL")]
    tlsverify: Option<bool>,
    /// Authorities of clients' certificates (default ~/.docker/ca.pem)
    #[arg(long, value_name = "FILE")]
    tlscacert: Option<PathBuf>,
    /// Certificate of the engine (default ~/.docker/cert.pem)
    #[arg(long, value_name = "FILE")]
    tlscert: Option<PathBuf>,
    /// Its key (default ~/.docker/key.pem)
    #[arg(long, value_name = "FILE")]
    tlskey: Option<PathBuf>,
    /// Plugin that is asked about every request; may be repeated
    #[arg(long = "authorization-plugin", value_name = "NAME")]
    #[serde(rename = "authorization-plugins")]
    authorization_plugin: Option<Vec<String>>,
    /// Name of the default bridge
    #[arg(long, short = 'b', value_name = "NAME")]
    bridge: Option<String>,
    /// Address and subnet of the default bridge
    #[arg(long, value_name = "CIDR")]
    bip: Option<String>,
    /// File for this process's id
    #[arg(long, short = 'p', value_name = "FILE")]
    pidfile: Option<PathBuf>,
    /// Log everything
    #[arg(long, short = 'D', num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set, value_name = "BOOL")]
    debug: Option<bool>,
    /// Least severity that is logged: debug, info, warn, error or fatal (default info)
    #[arg(long, short = 'l', value_name = "LEVEL")]
    log_level: Option<String>,
    /// How lines of the log look: text or json (default text)
    #[arg(long, value_name = "text|json")]
    log_format: Option<String>,
    /// Never colour the log
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set, value_name = "BOOL")]
    raw_logs: Option<bool>,
    /// Label of this engine; may be repeated
    #[arg(long = "label", value_name = "NAME=VALUE")]
    #[serde(rename = "labels")]
    label: Option<Vec<String>>,
    /// Leave containers running when the engine stops (default true)
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set, value_name = "BOOL")]
    live_restore: Option<bool>,
    /// Seconds that containers have to stop when the engine stops; -1 for no limit (default 15)
    #[arg(long, value_name = "SECONDS", allow_hyphen_values = true)]
    shutdown_timeout: Option<i64>,
    /// How layers are kept: `overlay2` as directories, `erofs` as files where the kernel can mount them (default)
    #[arg(long, short = 's', value_name = "overlay2|erofs")]
    storage_driver: Option<String>,
    /// Registry that may be reached without TLS or with a certificate nobody vouches for; may be repeated
    #[arg(long = "insecure-registry", value_name = "HOST[:PORT]|CIDR")]
    #[serde(rename = "insecure-registries")]
    insecure_registry: Option<Vec<String>>,
    /// Where to look for images of docker.io first; may be repeated
    #[arg(long = "registry-mirror", value_name = "URL")]
    #[serde(rename = "registry-mirrors")]
    registry_mirror: Option<Vec<String>>,
    /// Serve a registry too, on a loopback address, with its content in the data root
    #[arg(long, value_name = "HOST:PORT")]
    registry_address: Option<SocketAddr>,
    /// Layers that are downloaded at the same time (default 3)
    #[arg(long, value_name = "NUMBER")]
    max_concurrent_downloads: Option<usize>,
    /// Layers that are uploaded at the same time (default 5)
    #[arg(long, value_name = "NUMBER")]
    max_concurrent_uploads: Option<usize>,
    /// How often a step of a download is tried (default 5)
    #[arg(long, value_name = "NUMBER")]
    max_download_attempts: Option<u32>,
    /// Room for images on disk, such as 20GB; beyond it those unused longest are removed (default: no limit)
    #[arg(long, value_name = "SIZE")]
    image_budget: Option<String>,
    /// Where volume plugins are looked for; may be repeated (default Docker's three directories)
    #[arg(long = "plugin-dir", value_name = "DIR")]
    #[serde(rename = "plugin-dirs")]
    plugin_dir: Option<Vec<PathBuf>>,
    /// Seconds that a volume's mount or plugin may take (default 60)
    #[arg(long, value_name = "SECONDS")]
    volume_timeout: Option<u64>,
    /// Whose ids the users of containers have: `default` (dockremap), USER[:GROUP] or UID[:GID] with ranges in subuid and subgid
    #[arg(long, value_name = "USER[:GROUP]")]
    userns_remap: Option<String>,
    /// Directory with the files subuid and subgid (default /etc)
    #[arg(long, value_name = "DIR")]
    subid_dir: Option<PathBuf>,
    /// Program with runc's command line that makes the containers which ask for it; may be repeated
    #[arg(long = "add-runtime", value_name = "NAME=PATH")]
    #[serde(skip)]
    add_runtime: Option<Vec<String>>,
    #[arg(skip)]
    runtimes: Option<BTreeMap<String, values::RuntimeOfFile>>,
    /// Runtime of containers that ask for no other (default wharf, the built-in one)
    #[arg(long, value_name = "NAME")]
    default_runtime: Option<String>,
    /// Seconds that a command of another runtime may take (default 40)
    #[arg(long, value_name = "SECONDS")]
    runtime_timeout: Option<u64>,
    /// Proxy for registries that speak HTTP (default: of the environment)
    #[arg(long, value_name = "URL")]
    #[serde(skip)]
    http_proxy: Option<String>,
    /// Proxy for registries (default: of the environment)
    #[arg(long, value_name = "URL")]
    #[serde(skip)]
    https_proxy: Option<String>,
    /// Hosts that are reached without a proxy
    #[arg(long, value_name = "HOST,...")]
    #[serde(skip)]
    no_proxy: Option<String>,
    #[arg(skip)]
    proxies: Option<BTreeMap<String, String>>,
    /// Directory of files that describe devices (CDI); may be repeated, later ones count more (default /etc/cdi and /var/run/cdi)
    #[arg(long = "cdi-spec-dir", value_name = "DIR")]
    #[serde(rename = "cdi-spec-dirs")]
    cdi_spec_dir: Option<Vec<PathBuf>>,
    /// Limit of processes in containers that ask for no other; may be repeated
    #[arg(long = "default-ulimit", value_name = "NAME=SOFT[:HARD]")]
    #[serde(rename = "default-ulimits", deserialize_with = "values::ulimits_of_file")]
    default_ulimit: Option<Vec<String>>,
    /// Size of /dev/shm in containers that ask for no other (default 64MiB)
    #[arg(long, value_name = "SIZE")]
    default_shm_size: Option<String>,
    /// IPC namespace of containers that ask for no other: private or shareable
    #[arg(long, value_name = "MODE")]
    default_ipc_mode: Option<String>,
    /// Cgroup namespace of containers that ask for no other: private or host
    #[arg(long, value_name = "MODE")]
    default_cgroupns_mode: Option<String>,
    /// Parent control group of containers that ask for no other
    #[arg(long, value_name = "PATH")]
    cgroup_parent: Option<String>,
    /// Run an init in containers unless they say no
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set, value_name = "BOOL")]
    init: Option<bool>,
    /// Processes in containers gain no privileges by executing files unless they ask for it
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set, value_name = "BOOL")]
    no_new_privileges: Option<bool>,
    /// Log driver of containers that ask for no other (default local)
    #[arg(long, value_name = "DRIVER")]
    log_driver: Option<String>,
    /// Option of the default log driver; may be repeated
    #[arg(long = "log-opt", value_name = "NAME=VALUE")]
    #[serde(rename = "log-opts", deserialize_with = "values::pairs_of_file")]
    log_opt: Option<Vec<String>>,
    /// Name server for containers that ask for no other; may be repeated
    #[arg(long, value_name = "ADDRESS")]
    dns: Option<Vec<String>>,
    /// Option of resolv.conf for containers that ask for no other; may be repeated
    #[arg(long = "dns-opt", value_name = "OPTION")]
    #[serde(rename = "dns-opts")]
    dns_opt: Option<Vec<String>>,
    /// Search domain for containers that ask for no other; may be repeated
    #[arg(long, value_name = "DOMAIN")]
    dns_search: Option<Vec<String>>,
}

/// What the daemon goes by.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) data_root: PathBuf,
    pub(crate) exec_root: PathBuf,
    pub(crate) hosts: Vec<Host>,
    pub(crate) group: Option<String>,
    /// For hosts on TCP; `None` without encryption, which [`Settings::load`] lets through on loopback only.
    pub(crate) tls: Option<TlsFiles>,
    pub(crate) authorization_plugins: Vec<String>,
    pub(crate) bridge: Option<String>,
    pub(crate) bip: Option<String>,
    pub(crate) pidfile: Option<PathBuf>,
    pub(crate) debug: bool,
    pub(crate) log_level: Level,
    pub(crate) log_as_json: bool,
    pub(crate) raw_logs: bool,
    pub(crate) labels: Vec<String>,
    pub(crate) log: LogSpec,
    pub(crate) live_restore: bool,
    /// `None` for no limit.
    pub(crate) shutdown_timeout: Option<Duration>,
    pub(crate) layers: LayerStorage,
    pub(crate) registries: wharf_registry::Config,
    pub(crate) registry_address: Option<SocketAddr>,
    pub(crate) transfers: Concurrency,
    pub(crate) image_budget: Option<u64>,
    pub(crate) cdi_dirs: Vec<PathBuf>,
    pub(crate) plugin_dirs: Vec<PathBuf>,
    pub(crate) volume_patience: Duration,
    pub(crate) runtimes: Runtimes,
    pub(crate) defaults: ContainerDefaults,
    pub(crate) remap: Option<Remap>,
}

impl Flags {
    /// Reads the command line.
    pub(crate) fn read() -> Result<Self> {
        Ok(Self::parse_from(elsewhere::strip(std::env::args_os())?))
    }
}

impl Settings {
    /// Merges the flags with the settings file, as it is now.
    pub(crate) fn load(flags: &Flags) -> Result<Self> {
        let file = match &flags.config_file {
            Some(path) => read(path)?,
            None if Path::new(CONFIG_FILE).exists() => read(Path::new(CONFIG_FILE))?,
            None => Given::default(),
        };
        Self::merge(flags.given.clone(), file)
    }

    fn merge(flags: Given, file: Given) -> Result<Self> {
        macro_rules! once {
            ($field:ident, $key:literal) => {
                once($key, flags.$field, file.$field)?
            };
        }
        let registries = registries(&flags, &file)?;
        let defaults = defaults(&flags, &file)?;
        let (hosts, tls) = doors(&flags, &file)?;
        let runtimes = runtimes(&flags, &file)?;
        let debug = once!(debug, "debug").unwrap_or_default();
        let level = once!(log_level, "log-level");
        let transfers = Concurrency::default();
        let settings = Self {
            data_root: once!(data_root, "data-root").unwrap_or_else(|| DATA_ROOT.into()),
            exec_root: once!(exec_root, "exec-root").unwrap_or_else(|| EXEC_ROOT.into()),
            hosts,
            group: once!(group, "group"),
            tls,
            authorization_plugins: once!(authorization_plugin, "authorization-plugins").unwrap_or_default(),
            bridge: once!(bridge, "bridge"),
            bip: once!(bip, "bip"),
            pidfile: once!(pidfile, "pidfile"),
            debug,
            log_level: if debug { Level::DEBUG } else { values::log_level(level.as_deref())? },
            log_as_json: match once!(log_format, "log-format").as_deref() {
                None | Some("" | "text") => false,
                Some("json") => true,
                Some(other) => bail!("invalid log format: {other}: use text or json"),
            },
            raw_logs: once!(raw_logs, "raw-logs").unwrap_or_default(),
            labels: values::labels(once!(label, "labels").unwrap_or_default())?,
            log: values::log(once!(log_driver, "log-driver"), once!(log_opt, "log-opts"))?,
            live_restore: once!(live_restore, "live-restore").unwrap_or(true),
            shutdown_timeout: u64::try_from(
                once!(shutdown_timeout, "shutdown-timeout").unwrap_or(SHUTDOWN_TIMEOUT),
            )
            .ok()
            .map(Duration::from_secs),
            layers: match once!(storage_driver, "storage-driver").as_deref() {
                None | Some("erofs") => LayerStorage::Automatic,
                Some("overlay2") => LayerStorage::Directories,
                Some(other) => bail!("storage-driver must be overlay2 or erofs, not {other:?}"),
            },
            registries,
            registry_address: once!(registry_address, "registry-address"),
            transfers: Concurrency {
                downloads: once!(max_concurrent_downloads, "max-concurrent-downloads")
                    .unwrap_or(transfers.downloads),
                uploads: once!(max_concurrent_uploads, "max-concurrent-uploads").unwrap_or(transfers.uploads),
            },
            plugin_dirs: once!(plugin_dir, "plugin-dirs")
                .unwrap_or_else(|| PLUGIN_DIRS.iter().map(PathBuf::from).collect()),
            volume_patience: once!(volume_timeout, "volume-timeout")
                .map_or(VOLUME_PATIENCE, |seconds| Duration::from_secs(seconds.clamp(1, 3600))),
            runtimes,
            image_budget: once!(image_budget, "image-budget")
                .map(|text| values::size(&text).with_context(|| format!("invalid image-budget {text:?}")))
                .transpose()?,
            cdi_dirs: once!(cdi_spec_dir, "cdi-spec-dirs")
                .unwrap_or_else(|| CDI_DIRS.map(PathBuf::from).to_vec()),
            defaults,
            remap: remap(
                once!(userns_remap, "userns-remap").as_deref().unwrap_or_default(),
                once!(subid_dir, "subid-dir").as_deref(),
            )?,
        };
        for (key, path) in [("data-root", &settings.data_root), ("exec-root", &settings.exec_root)] {
            if !path.is_absolute() {
                bail!("{key} must be an absolute path, not {path:?}");
            }
        }
        Ok(settings)
    }
}

fn remap(text: &str, directory: Option<&Path>) -> Result<Option<Remap>> {
    let remap = Remap::find(text, directory.unwrap_or(Path::new("/etc")))?;
    if remap.is_none() && !text.is_empty() {
        tracing::warn!("User namespaces: root cannot be remapped with itself; user namespaces are OFF");
    }
    Ok(remap)
}

/// The runtimes beside the built-in one, and which is for containers that ask for none.
fn runtimes(flags: &Given, file: &Given) -> Result<Runtimes> {
    let named = match (&flags.add_runtime, &file.runtimes) {
        (Some(_), Some(_)) => {
            bail!("runtimes is given both as a flag (add-runtime) and in the settings file: keep one")
        }
        (Some(flags), None) => values::runtimes(flags)?,
        (None, file) => values::runtimes_of_file(file.clone().unwrap_or_default())?,
    };
    let default = once("default-runtime", flags.default_runtime.clone(), file.default_runtime.clone())?;
    // Beyond this, who waits for the container's start gives up first.
    let patience = once("runtime-timeout", flags.runtime_timeout, file.runtime_timeout)?
        .map_or(RUNTIME_PATIENCE, |seconds| {
            Duration::from_secs(seconds.clamp(1, RUNTIME_PATIENCE.as_secs()))
        });
    Ok(Runtimes::new(default.as_deref().unwrap_or_default(), named, patience)?)
}

/// Where the API is served, and how connections over TCP are made safe.
fn doors(flags: &Given, file: &Given) -> Result<(Vec<Host>, Option<TlsFiles>)> {
    let hosts =
        once("hosts", flags.host.clone(), file.host.clone())?.unwrap_or_else(|| vec![HOST.to_owned()]);
    let tls = once("tls", flags.tls, file.tls)?.unwrap_or(true);
    let verify = once("tlsverify", flags.tlsverify, file.tlsverify)?;
    if verify == Some(true) && flags.tls.or(file.tls) == Some(false) {
        bail!("tlsverify needs TLS, and tls is false: keep one");
    }
    let parsed: Vec<Host> = hosts.iter().map(|host| Host::parse(host, tls)).collect::<Result<_>>()?;
    let public = parsed.iter().find_map(|host| match host {
        Host::Tcp(address) if !address.ip().is_loopback() => Some(*address),
        _ => None,
    });
    let authenticated = tls && verify != Some(false);
    if let (Some(address), false) = (public, authenticated) {
        bail!(
            "tcp://{address}: whoever reaches the API is root here, so clients need certificates: give --tlsverify              with --tlscacert, --tlscert and --tlskey, or listen on loopback or a unix socket"
        );
    }
    if !tls || !parsed.iter().any(|host| matches!(host, Host::Tcp(_))) {
        return Ok((parsed, None));
    }
    let directory = std::env::var_os("DOCKER_CERT_PATH").filter(|path| !path.is_empty()).map_or_else(
        || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".docker"),
        PathBuf::from,
    );
    let file_of =
        |key: &str, flag: &Option<PathBuf>, given: &Option<PathBuf>, name: &str| -> Result<PathBuf> {
            Ok(once(key, flag.clone(), given.clone())?.unwrap_or_else(|| directory.join(name)))
        };
    let authority = file_of("tlscacert", &flags.tlscacert, &file.tlscacert, "ca.pem")?;
    let files = TlsFiles {
        certificate: file_of("tlscert", &flags.tlscert, &file.tlscert, "cert.pem")?,
        key: file_of("tlskey", &flags.tlskey, &file.tlskey, "key.pem")?,
        client_authority: authenticated.then_some(authority),
    };
    Ok((parsed, Some(files)))
}

fn registries(flags: &Given, file: &Given) -> Result<wharf_registry::Config> {
    let mut config = wharf_registry::Config {
        insecure: once(
            "insecure-registries",
            flags.insecure_registry.clone(),
            file.insecure_registry.clone(),
        )?
        .unwrap_or_default(),
        mirrors: once("registry-mirrors", flags.registry_mirror.clone(), file.registry_mirror.clone())?
            .unwrap_or_default(),
        ..wharf_registry::Config::default()
    };
    if let Some(attempts) =
        once("max-download-attempts", flags.max_download_attempts, file.max_download_attempts)?
    {
        if attempts == 0 {
            bail!("invalid max download attempts: 0: at least one is needed");
        }
        config.retries = attempts - 1;
    }
    let of_file = |key: &str| file.proxies.as_ref().and_then(|proxies| proxies.get(key).cloned());
    if let Some(unknown) = file
        .proxies
        .iter()
        .flat_map(BTreeMap::keys)
        .find(|key| !["http-proxy", "https-proxy", "no-proxy"].contains(&key.as_str()))
    {
        bail!("unknown field `{unknown}` in proxies, expected http-proxy, https-proxy or no-proxy");
    }
    let once = |key: &str, flag: &Option<String>| match (flag.clone(), of_file(key)) {
        // The values stay out of the message: they may have passwords.
        (Some(_), Some(_)) => bail!("{key} is given both as a flag and in the settings file: keep one"),
        (flag, file) => Ok(flag.or(file)),
    };
    let http = once("http-proxy", &flags.http_proxy)?;
    let https = once("https-proxy", &flags.https_proxy)?;
    let without = once("no-proxy", &flags.no_proxy)?;
    if http.is_some() || https.is_some() || without.is_some() {
        let text = |given: Option<String>, name: &str| {
            given
                .or_else(|| std::env::var(name).ok())
                .or_else(|| std::env::var(name.to_lowercase()).ok())
                .unwrap_or_default()
        };
        config.proxies = wharf_registry::Proxies::new(
            &text(http, "HTTP_PROXY"),
            &text(https, "HTTPS_PROXY"),
            &text(without, "NO_PROXY"),
        );
    }
    Ok(config)
}

fn defaults(flags: &Given, file: &Given) -> Result<ContainerDefaults> {
    macro_rules! once {
        ($field:ident, $key:literal) => {
            once($key, flags.$field.clone(), file.$field.clone())?.unwrap_or_default()
        };
    }
    let ulimits = once!(default_ulimit, "default-ulimits");
    let shm_size = once!(default_shm_size, "default-shm-size");
    let defaults = ContainerDefaults {
        ulimits: ulimits.iter().map(|limit| values::ulimit(limit)).collect::<Result<_>>()?,
        shm_size: match shm_size.as_str() {
            "" => 0,
            text => values::memory(text).with_context(|| format!("invalid default-shm-size {text:?}"))?,
        },
        ipc_mode: once!(default_ipc_mode, "default-ipc-mode"),
        cgroupns_mode: once!(default_cgroupns_mode, "default-cgroupns-mode"),
        cgroup_parent: once!(cgroup_parent, "cgroup-parent"),
        init: once!(init, "init"),
        no_new_privileges: once!(no_new_privileges, "no-new-privileges"),
        dns: once!(dns, "dns"),
        dns_options: once!(dns_opt, "dns-opts"),
        dns_search: once!(dns_search, "dns-search"),
    };
    if !["", "private", "shareable"].contains(&defaults.ipc_mode.as_str()) {
        bail!("IPC mode setting is invalid: {}: use private or shareable", defaults.ipc_mode);
    }
    if !["", "private", "host"].contains(&defaults.cgroupns_mode.as_str()) {
        bail!("cgroup namespace mode setting is invalid: {}: use private or host", defaults.cgroupns_mode);
    }
    if let Some(wrong) = defaults.dns.iter().find(|address| address.parse::<std::net::IpAddr>().is_err()) {
        bail!("{wrong} is not an ip address");
    }
    Ok(defaults)
}

fn read(path: &Path) -> Result<Given> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    if text.trim().is_empty() {
        return Ok(Given::default());
    }
    parse(&text).with_context(|| format!("reading {}", path.display()))
}

fn parse(text: &str) -> Result<Given> {
    let mut document: serde_json::Map<String, serde_json::Value> = serde_json::from_str(text)?;
    elsewhere::take(&mut document)?;
    Ok(serde_json::from_value(document.into())?)
}

fn once<T: std::fmt::Debug>(key: &str, flag: Option<T>, file: Option<T>) -> Result<Option<T>> {
    match (flag, file) {
        (Some(flag), Some(file)) => {
            bail!("{key} is given both as a flag ({flag:?}) and in the settings file ({file:?}): keep one")
        }
        (flag, file) => Ok(flag.or(file)),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn flags(args: &[&str]) -> Flags {
        Flags::try_parse_from([&["wharfd"], args].concat()).unwrap()
    }

    fn settings(args: &[&str], file: &str) -> Result<Settings> {
        Settings::merge(flags(args).given, parse(file)?)
    }

    #[test]
    fn the_flags_are_consistent() {
        Flags::command().debug_assert();
    }

    #[test]
    fn defaults_live_in_the_usual_places() {
        let settings = settings(&[], "{}").unwrap();
        assert_eq!(settings.data_root, Path::new("/var/lib/wharf"));
        assert_eq!(settings.hosts, [Host::Unix("/run/wharf/wharf.sock".into())]);
        assert!(settings.live_restore);
        assert_eq!(settings.layers, LayerStorage::Automatic);
        assert_eq!(settings.log_level, Level::INFO);
    }

    #[test]
    fn switches_take_a_value_only_with_an_equals_sign() {
        assert!(!settings(&["--live-restore=false"], "{}").unwrap().live_restore);
        let given = settings(&["--live-restore", "-D", "-H", "unix:///a", "--host=unix:///b"], "{}").unwrap();
        assert!(given.live_restore && given.debug);
        let given = settings(&["-s", "overlay2"], "{}").unwrap();
        assert_eq!(given.layers, LayerStorage::Directories);
        let given = settings(&["-H", "unix:///a", "--host=unix:///b"], "{}").unwrap();
        assert_eq!(given.hosts, [Host::Unix("/a".into()), Host::Unix("/b".into())]);
    }

    #[test]
    fn a_key_has_one_place() {
        let given = settings(&["--bip", "10.0.0.1/24"], r#"{"debug": true, "hosts": ["fd://"]}"#).unwrap();
        assert!(given.debug);
        assert_eq!(given.hosts, [Host::Passed]);
        let message = settings(&["--debug"], r#"{"debug": false}"#).unwrap_err().to_string();
        assert!(message.contains("debug is given both"), "{message}");
    }

    #[test]
    fn tcp_needs_certificates_of_clients() {
        let refused = |args: &[&str]| {
            let message = settings(args, "{}").unwrap_err().to_string();
            assert!(message.contains("clients need certificates"), "{args:?}: {message}");
        };
        refused(&["-H", "tcp://0.0.0.0:2376", "--tls=false"]);
        refused(&["-H", "tcp://0.0.0.0:2376", "--tlsverify=false"]);
        refused(&["-H", "tcp://[::]:2376", "--tls", "--tlsverify=false"]);
        let plain = settings(&["-H", "tcp://127.0.0.1:1", "--tls=false"], "{}").unwrap();
        assert_eq!(
            (plain.hosts, plain.tls.is_none()),
            (vec![Host::Tcp("127.0.0.1:1".parse().unwrap())], true)
        );
        let file = r#"{"hosts": ["tcp://"], "tlscacert": "/ca", "tlscert": "/cert", "tlskey": "/key"}"#;
        let safe = settings(&[], file).unwrap();
        assert_eq!(safe.hosts, [Host::Tcp("127.0.0.1:2376".parse().unwrap())]);
        let files = safe.tls.unwrap();
        assert_eq!((files.client_authority, files.certificate), (Some("/ca".into()), "/cert".into()));
        assert!(settings(&["--tls=false", "--tlsverify"], "{}").is_err());
    }

    #[test]
    fn docker_s_daemon_json_is_understood() {
        let file = r#"{"default-ulimits": {"nofile": {"Name": "nofile", "Hard": 64000, "Soft": 1024}}, "labels": ["a=b"], "log-opts": {"max-size": "1m"},
            "authorization-plugins": ["p"], "shutdown-timeout": -1, "default-shm-size": "64M", "dns": ["192.0.2.1"],
            "proxies": {"http-proxy": "http://p:1"}, "log-format": "json", "iptables": true}"#;
        let settings = settings(&["--max-download-attempts", "2"], file).unwrap();
        let limit = &settings.defaults.ulimits[0];
        assert_eq!((limit.name.as_str(), limit.soft, limit.hard), ("nofile", 1024, 64000));
        assert_eq!((settings.labels.len(), settings.shutdown_timeout), (1, None));
        assert_eq!((settings.defaults.shm_size, settings.registries.retries), (64 << 20, 1));
        assert!(settings.log_as_json);
    }

    #[test]
    fn sizes_have_units() {
        for (text, bytes) in
            [("5", 5), ("20GB", 20_000_000_000), ("1k", 1000), ("2MiB", 2 << 20), ("1 TB", 1_000_000_000_000)]
        {
            assert_eq!(values::size(text).unwrap(), bytes, "{text}");
        }
        for text in ["", "GB", "-1", "1.5GB", "1XB", "99999999999TB"] {
            values::size(text).unwrap_err();
        }
    }

    #[test]
    fn mistakes_are_named() {
        let message = |args: &[&str], file: &str| settings(args, file).unwrap_err().to_string();
        assert!(message(&[], r#"{"storage-driver": "zfs"}"#).contains("overlay2 or erofs, not \"zfs\""));
        assert!(message(&[], r#"{"no-such-key": 1}"#).contains("unknown field `no-such-key`"));
        assert!(message(&["-l", "loud"], "{}").contains("invalid log level \"loud\""));
        assert!(message(&["--data-root", "here"], "{}").contains("absolute"));
        assert!(message(&["--image-budget", "much"], "{}").contains("invalid image-budget \"much\""));
        assert!(message(&["--default-ulimit", "nofil=1"], "{}").contains("invalid ulimit type: nofil"));
        assert!(message(&["--default-ulimit", "nofile=2:1"], "{}").contains("less than or equal"));
        assert!(
            message(&["--log-opt", "bogus=1"], "{}")
                .contains("failed to set log opts: unknown log opt 'bogus'")
        );
        assert!(message(&[], r#"{"log-driver": "x"}"#).contains("error looking up logging plugin x"));
        assert!(message(&["--label", "x"], "{}").contains("bad attribute format: x"));
        assert!(message(&["--label", "x=1", "--label", "x=2"], "{}").contains("conflict labels for x"));
        assert!(message(&["--default-ipc-mode", "host"], "{}").contains("use private or shareable"));
        assert!(message(&["-H", "/run/x.sock"], "{}").contains("expected unix://PATH"));
        assert!(message(&["-H", "unix://relative"], "{}").contains("not an absolute path"));
        assert!(Flags::try_parse_from(["wharfd", "--no-such-flag"]).is_err());
    }
}
