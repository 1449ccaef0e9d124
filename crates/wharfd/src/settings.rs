//! Flags, with dockerd's names, and the settings file, with the same keys.
//!
//! A key may be given in one of the two places only: an engine that silently preferred one would surprise someone.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{ArgAction, Parser};
use serde::Deserialize;
use tracing::Level;
use wharf_engine::LayerStorage;
use wharf_image::Concurrency;

const DATA_ROOT: &str = "/var/lib/wharf";
const EXEC_ROOT: &str = "/run/wharf";
const HOST: &str = "unix:///run/wharf/wharf.sock";
const CONFIG_FILE: &str = "/etc/wharf/daemon.json";

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
#[derive(Debug, Default, clap::Args, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct Given {
    /// Directory of images, containers and volumes
    #[arg(long, value_name = "DIR", help = format!("Directory of images, containers and volumes (default {DATA_ROOT})"))]
    data_root: Option<PathBuf>,
    /// Directory of sockets and other state that does not survive a reboot
    #[arg(long, value_name = "DIR", help = format!("Directory of state that does not survive a reboot (default {EXEC_ROOT})"))]
    exec_root: Option<PathBuf>,
    /// Where to listen; may be given more than once
    #[arg(long = "host", short = 'H', value_name = "unix://PATH|fd://", help = format!("Where to listen; may be repeated (default {HOST})"))]
    #[serde(rename = "hosts")]
    host: Option<Vec<String>>,
    /// Group of the sockets (default `wharf`, or `docker` if there is no such group)
    #[arg(long, short = 'G', value_name = "NAME|GID")]
    group: Option<String>,
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
    /// Leave containers running when the engine stops (default true)
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set, value_name = "BOOL")]
    live_restore: Option<bool>,
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
    /// Room for images on disk, such as 20GB; beyond it those unused longest are removed (default: no limit)
    #[arg(long, value_name = "SIZE")]
    image_budget: Option<String>,
}

/// What the daemon goes by.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) data_root: PathBuf,
    pub(crate) exec_root: PathBuf,
    pub(crate) hosts: Vec<String>,
    pub(crate) group: Option<String>,
    pub(crate) bridge: Option<String>,
    pub(crate) bip: Option<String>,
    pub(crate) pidfile: Option<PathBuf>,
    pub(crate) debug: bool,
    pub(crate) log_level: Level,
    pub(crate) live_restore: bool,
    pub(crate) layers: LayerStorage,
    pub(crate) insecure_registries: Vec<String>,
    pub(crate) registry_mirrors: Vec<String>,
    pub(crate) registry_address: Option<SocketAddr>,
    pub(crate) transfers: Concurrency,
    pub(crate) image_budget: Option<u64>,
}

impl Settings {
    /// Merges the flags with the settings file.
    pub(crate) fn load(flags: Flags) -> Result<Self> {
        let file = match &flags.config_file {
            Some(path) => read(path)?,
            None if Path::new(CONFIG_FILE).exists() => read(Path::new(CONFIG_FILE))?,
            None => Given::default(),
        };
        Self::merge(flags.given, file)
    }

    fn merge(flags: Given, file: Given) -> Result<Self> {
        let debug = once("debug", flags.debug, file.debug)?.unwrap_or_default();
        let level = once("log-level", flags.log_level, file.log_level)?;
        let defaults = Concurrency::default();
        let downloads =
            once("max-concurrent-downloads", flags.max_concurrent_downloads, file.max_concurrent_downloads)?;
        let uploads =
            once("max-concurrent-uploads", flags.max_concurrent_uploads, file.max_concurrent_uploads)?;
        let settings = Self {
            data_root: once("data-root", flags.data_root, file.data_root)?
                .unwrap_or_else(|| DATA_ROOT.into()),
            exec_root: once("exec-root", flags.exec_root, file.exec_root)?
                .unwrap_or_else(|| EXEC_ROOT.into()),
            hosts: once("hosts", flags.host, file.host)?.unwrap_or_else(|| vec![HOST.to_owned()]),
            group: once("group", flags.group, file.group)?,
            bridge: once("bridge", flags.bridge, file.bridge)?,
            bip: once("bip", flags.bip, file.bip)?,
            pidfile: once("pidfile", flags.pidfile, file.pidfile)?,
            debug,
            log_level: if debug { Level::DEBUG } else { log_level(level.as_deref())? },
            live_restore: once("live-restore", flags.live_restore, file.live_restore)?.unwrap_or(true),
            layers: match once("storage-driver", flags.storage_driver, file.storage_driver)?.as_deref() {
                None | Some("erofs") => LayerStorage::Automatic,
                Some("overlay2") => LayerStorage::Directories,
                Some(other) => bail!("storage-driver must be overlay2 or erofs, not {other:?}"),
            },
            insecure_registries: once(
                "insecure-registries",
                flags.insecure_registry,
                file.insecure_registry,
            )?
            .unwrap_or_default(),
            registry_mirrors: once("registry-mirrors", flags.registry_mirror, file.registry_mirror)?
                .unwrap_or_default(),
            registry_address: once("registry-address", flags.registry_address, file.registry_address)?,
            transfers: Concurrency {
                downloads: downloads.unwrap_or(defaults.downloads),
                uploads: uploads.unwrap_or(defaults.uploads),
            },
            image_budget: once("image-budget", flags.image_budget, file.image_budget)?
                .map(|text| parse_size(&text).with_context(|| format!("invalid image-budget {text:?}")))
                .transpose()?,
        };
        for (key, path) in [("data-root", &settings.data_root), ("exec-root", &settings.exec_root)] {
            if !path.is_absolute() {
                bail!("{key} must be an absolute path, not {path:?}");
            }
        }
        Ok(settings)
    }
}

fn read(path: &Path) -> Result<Given> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    if text.trim().is_empty() {
        return Ok(Given::default());
    }
    serde_json::from_str(&text).with_context(|| format!("reading {}", path.display()))
}

fn once<T: std::fmt::Debug>(key: &str, flag: Option<T>, file: Option<T>) -> Result<Option<T>> {
    match (flag, file) {
        (Some(flag), Some(file)) => {
            bail!("{key} is given both as a flag ({flag:?}) and in the settings file ({file:?}): keep one")
        }
        (flag, file) => Ok(flag.or(file)),
    }
}

/// `20GB` and the like: powers of 1000, or of 1024 with an `i`.
fn parse_size(text: &str) -> Result<u64> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let unit = unit.trim().to_ascii_lowercase();
    let unit = unit.strip_suffix('b').unwrap_or(&unit);
    let (prefix, base) = unit.strip_suffix('i').map_or((unit, 1000_u64), |prefix| (prefix, 1024));
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

fn log_level(word: Option<&str>) -> Result<Level> {
    Ok(match word.unwrap_or("info") {
        "trace" => Level::TRACE,
        "debug" => Level::DEBUG,
        "info" => Level::INFO,
        "warn" | "warning" => Level::WARN,
        "error" | "fatal" | "panic" => Level::ERROR,
        other => bail!("invalid log level {other:?}: use debug, info, warn, error or fatal"),
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(args: &[&str]) -> Flags {
        Flags::try_parse_from([&["wharfd"], args].concat()).unwrap()
    }

    fn settings(args: &[&str], file: &str) -> Result<Settings> {
        Settings::merge(parse(args).given, serde_json::from_str(file)?)
    }

    #[test]
    fn the_flags_are_consistent() {
        Flags::command().debug_assert();
    }

    #[test]
    fn defaults_live_in_the_usual_places() {
        let settings = settings(&[], "{}").unwrap();
        assert_eq!(settings.data_root, Path::new("/var/lib/wharf"));
        assert_eq!(settings.hosts, ["unix:///run/wharf/wharf.sock"]);
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
        assert_eq!(given.hosts, ["unix:///a", "unix:///b"]);
    }

    #[test]
    fn a_key_has_one_place() {
        let given = settings(&["--bip", "10.0.0.1/24"], r#"{"debug": true, "hosts": ["fd://"]}"#).unwrap();
        assert!(given.debug);
        assert_eq!(given.hosts, ["fd://"]);
        let message = settings(&["--debug"], r#"{"debug": false}"#).unwrap_err().to_string();
        assert!(message.contains("debug is given both"), "{message}");
    }

    #[test]
    fn sizes_have_units() {
        for (text, bytes) in
            [("5", 5), ("20GB", 20_000_000_000), ("1k", 1000), ("2MiB", 2 << 20), ("1 TB", 1_000_000_000_000)]
        {
            assert_eq!(parse_size(text).unwrap(), bytes, "{text}");
        }
        for text in ["", "GB", "-1", "1.5GB", "1XB", "99999999999TB"] {
            parse_size(text).unwrap_err();
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
        assert!(Flags::try_parse_from(["wharfd", "--no-such-flag"]).is_err());
    }
}
