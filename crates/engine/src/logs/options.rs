//! What a container's log driver is told: `--log-driver`, `--log-opt`, and the engine's own defaults.
//!
//! As in Docker there are two looks. [`validate`] is `create`'s: it knows the names of options and a few values.
//! [`Settings::read`] is `start`'s and reads every value. Both use Docker's words.

use std::collections::BTreeMap;

use wharf_model::spec::LogSpec;
use wharf_shim::spool::Limits;

use super::values::{self, Unit};
use super::{fluentd, gelf, syslog};
use crate::{Error, Result};

/// The driver of those who name none, written as no name in their records: the API shows that as `json-file`, because
/// clients take any other word for output that cannot be read (docker-py's `containers.run` then answers nothing).
pub(crate) const DEFAULT_DRIVER: &str = "local";
/// The drivers there are, as `info` lists them. (`none` is no driver.)
pub const DRIVERS: [&str; 6] = ["fluentd", "gelf", "journald", "json-file", "local", "syslog"];

/// 100 MB a container.
const DEFAULT_SEGMENT: u64 = 20_000_000;
const DEFAULT_SEGMENTS: u32 = 5;
/// Less than a read of the shim makes no sense as a segment.
const LEAST_SEGMENT: u64 = 64 * 1024;
/// Of a container whose output nobody will read later: what attached clients may be behind.
const UNREAD: Limits = Limits { segment_bytes: 4_000_000, segments: 4 };
/// More files than anybody keeps.
const MOST_FILES: i64 = 10_000;

/// Options that say which facts about the container go into each record.
const FACTS: [&str; 5] = ["env", "env-regex", "labels", "labels-regex", "tag"];
/// Options of every driver.
const COMMON: [&str; 6] =
    ["mode", "max-buffer-size", "cache-disabled", "cache-max-size", "cache-max-file", "cache-compress"];

type Options = BTreeMap<String, String>;

/// Where lines go besides the spool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Driver {
    /// Nowhere: the spool is all.
    Local,
    /// Nowhere, and `logs` does not give them.
    None,
    JsonFile(JsonFile),
    Journald,
    Syslog(syslog::Options),
    Fluentd(fluentd::Options),
    Gelf(gelf::Options),
}

/// How `json-file` rotates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct JsonFile {
    /// No limit without.
    pub(super) max_size: Option<u64>,
    pub(super) max_files: u32,
    pub(super) compress: bool,
}

/// All options, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) driver: Driver,
    pub(crate) spool: Limits,
    /// Closed segments are compressed.
    pub(crate) compress: bool,
    /// `logs` gives what was written.
    pub(crate) readable: bool,
    /// The driver misses nothing: the container waits for it.
    pub(crate) blocking: bool,
    /// How many bytes the driver may be behind before it leaves some out. Without: as much as the spool keeps.
    pub(crate) behind: Option<u64>,
}

/// `create`'s check.
///
/// # Errors
/// [`Error::Invalid`] with Docker's text.
pub(crate) fn validate(log: &LogSpec) -> Result<()> {
    check(log).map_err(Error::Invalid)?;
    if log.driver == "syslog" {
        let options = syslog::Options::read(&log.options);
        options.and_then(|options| options.find_socket()).map_err(Error::Invalid)?;
    }
    Ok(())
}

/// Fills in what the engine's own settings say; a container's options win.
pub(crate) fn merge(log: &mut LogSpec, defaults: &LogSpec) {
    if log.driver.is_empty() {
        log.driver.clone_from(&defaults.driver);
    }
    if log.driver == defaults.driver || log.driver == default_driver(defaults) {
        for (name, value) in &defaults.options {
            log.options.entry(name.clone()).or_insert_with(|| value.clone());
        }
    }
}

/// The driver of containers that name none.
pub(crate) fn default_driver(defaults: &LogSpec) -> &str {
    if defaults.driver.is_empty() { DEFAULT_DRIVER } else { &defaults.driver }
}

/// The check of the engine's own settings, at its start.
///
/// # Errors
/// [`Error::Invalid`] with Docker's text.
pub fn validate_defaults(defaults: &LogSpec) -> Result<()> {
    let mut log = LogSpec::default();
    merge(&mut log, defaults);
    check(&log).map_err(|error| Error::Invalid(format!("failed to set log opts: {error}")))
}

fn check(log: &LogSpec) -> std::result::Result<(), String> {
    let (driver, options) = (log.driver.as_str(), &log.options);
    if driver == "none" {
        return Ok(());
    }
    let mode = options.get("mode").map_or("", String::as_str);
    if !matches!(mode, "" | "blocking" | "non-blocking") {
        return Err(format!("logger: logging mode not supported: {mode}"));
    }
    if let Some(size) = options.get("max-buffer-size") {
        if mode != "non-blocking" {
            return Err("logger: max-buffer-size option is only supported with 'mode=non-blocking'".into());
        }
        values::size(size, Unit::Binary)
            .map_err(|error| format!("error parsing option max-buffer-size: {error}"))?;
    }
    if let Some(text) = options.get("cache-disabled") {
        values::boolean(text).map_err(|_| format!("invalid value for option cache-disabled: {text}"))?;
    }
    let unknown = |known: &[&str]| {
        let known = |name: &str| known.contains(&name) || COMMON.contains(&name);
        options.keys().find(|name| !known(name)).cloned()
    };
    let refuse = |known: &[&str]| match unknown(known) {
        Some(name) => Err(format!("unknown log opt '{name}' for {driver} log driver")),
        None => Ok(()),
    };
    match driver {
        // Facts as well, for `logs --details`: what works with Docker's default driver works with ours.
        "" | "local" | "json-file" => {
            match unknown(&[&FACTS[..], &["compress", "max-file", "max-size"]].concat()) {
                Some(name) if driver == "local" => {
                    Err(format!("unknown log opt '{name}' for log driver local"))
                }
                Some(name) => Err(format!("unknown log opt '{name}' for json-file log driver")),
                None => Ok(()),
            }
        }
        "journald" => refuse(&FACTS),
        "syslog" => {
            refuse(&[&FACTS[..], &syslog::OPTIONS].concat())?;
            syslog::Options::read(options).map(drop)
        }
        "fluentd" => {
            refuse(&[&FACTS[..], &fluentd::OPTIONS].concat())?;
            fluentd::Options::read(options).map(drop)
        }
        "gelf" => {
            refuse(&[&FACTS[..], &gelf::OPTIONS].concat())?;
            gelf::Options::read(options).map(drop)
        }
        other => Err(format!("error looking up logging plugin {other}: plugin \"{other}\" not found")),
    }
}

impl Settings {
    /// Reads everything.
    ///
    /// # Errors
    /// Docker's text.
    pub(crate) fn read(log: &LogSpec) -> std::result::Result<Self, String> {
        check(log)?;
        let options = &log.options;
        let text = |name: &str| options.get(name).map(String::as_str);
        let driver = match log.driver.as_str() {
            "none" => Driver::None,
            "json-file" => Driver::JsonFile(JsonFile::read(options)?),
            "journald" => Driver::Journald,
            "syslog" => Driver::Syslog(syslog::Options::read(options)?),
            "fluentd" => Driver::Fluentd(fluentd::Options::read(options)?),
            "gelf" => Driver::Gelf(gelf::Options::read(options)?),
            _ => Driver::Local,
        };
        let cache_disabled = text("cache-disabled").map_or(Ok(false), values::boolean)?;
        let readable = match driver {
            Driver::None => false,
            Driver::Local | Driver::JsonFile(_) => true,
            _ => !cache_disabled,
        };
        let (spool, compress) = match driver {
            Driver::None => (UNREAD, false),
            Driver::Local => local(options)?,
            Driver::JsonFile(file) => (file.spool(), true),
            _ => cache(options)?,
        };
        let blocking = text("mode") != Some("non-blocking");
        let behind = text("max-buffer-size").map(|size| values::size(size, Unit::Binary)).transpose()?;
        let behind = behind.and_then(|size| u64::try_from(size).ok());
        Ok(Self { driver, spool, compress, readable, blocking, behind })
    }
}

/// Segments for `files` of `size` bytes. One file has nowhere to rotate to: half of it is kept while the other fills.
fn limits(size: u64, files: u32) -> Limits {
    let size = size.max(LEAST_SEGMENT);
    match files {
        0 | 1 => Limits { segment_bytes: (size / 2).max(LEAST_SEGMENT), segments: 2 },
        files => Limits { segment_bytes: size, segments: files },
    }
}

/// The options of `local`.
fn local(options: &Options) -> std::result::Result<(Limits, bool), String> {
    let (mut size, mut files) = (DEFAULT_SEGMENT, DEFAULT_SEGMENTS);
    if let Some(text) = options.get("max-size") {
        let read = values::size(text, Unit::Decimal)
            .map_err(|error| format!("invalid value for max-size: {text}: {error}"))?;
        size = u64::try_from(read).ok().filter(|size| *size > 0).unwrap_or(DEFAULT_SEGMENT);
    }
    if let Some(text) = options.get("max-file") {
        let read =
            values::integer(text).map_err(|error| format!("invalid value for max-file: {text}: {error}"))?;
        if read < 0 {
            return Err("max-file must not be negative".into());
        }
        files = read.clamp(1, MOST_FILES) as u32;
    }
    let compress = match options.get("compress") {
        Some(text) => {
            values::boolean(text).map_err(|error| format!("error reading compress log option: {error}"))?
        }
        None => true,
    };
    Ok((limits(size, files), compress))
}

/// The options of the copy that `logs` reads where the driver itself cannot be read.
fn cache(options: &Options) -> std::result::Result<(Limits, bool), String> {
    let renamed =
        |name: &str| options.get(&format!("cache-{name}")).map(|value| (name.to_owned(), value.clone()));
    local(&["max-size", "max-file", "compress"].into_iter().filter_map(renamed).collect())
}

impl JsonFile {
    fn read(options: &Options) -> std::result::Result<Self, String> {
        let max_size = match options.get("max-size") {
            None => None,
            Some(text) => match u64::try_from(values::size(text, Unit::Decimal)?) {
                Ok(size) if size > 0 => Some(size),
                _ => return Err("max-size must be a positive number".into()),
            },
        };
        let max_files = match options.get("max-file") {
            None => 1,
            Some(text) => values::integer(text)?,
        };
        if max_files < 1 {
            return Err("max-file cannot be less than 1".into());
        }
        let compress = options.get("compress").map_or(Ok(false), |text| values::boolean(text))?;
        if compress && (max_files == 1 || max_size.is_none()) {
            return Err("compress cannot be true when max-file is less than 2 or max-size is not set".into());
        }
        Ok(Self { max_size, max_files: max_files.min(MOST_FILES) as u32, compress })
    }

    /// The spool keeps as much as the files, but not more than by default: it is the second copy.
    fn spool(&self) -> Limits {
        let default = Limits { segment_bytes: DEFAULT_SEGMENT, segments: DEFAULT_SEGMENTS };
        match self.max_size.map(|size| limits(size, self.max_files)) {
            Some(limits) if limits.capacity() < default.capacity() => limits,
            _ => default,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(driver: &str, options: &[(&str, &str)]) -> LogSpec {
        let options = options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        LogSpec { driver: driver.into(), options: options.collect() }
    }

    #[test]
    fn the_spool_has_bounds_whatever_the_driver() {
        let spool = |driver: &str, options: &[(&str, &str)]| {
            let settings = Settings::read(&log(driver, options)).unwrap();
            (settings.spool.segment_bytes, settings.spool.segments)
        };
        assert_eq!(spool("local", &[]), (20_000_000, 5));
        assert_eq!(spool("local", &[("max-size", "10m"), ("max-file", "3")]), (10_000_000, 3));
        assert_eq!(spool("local", &[("max-size", "10m"), ("max-file", "1")]), (5_000_000, 2));
        assert_eq!(spool("local", &[("max-size", "1")]), (LEAST_SEGMENT, 5));
        assert_eq!(spool("json-file", &[]), (20_000_000, 5));
        assert_eq!(spool("json-file", &[("max-size", "1m")]), (500_000, 2));
        assert_eq!(spool("json-file", &[("max-size", "1g"), ("max-file", "9")]), (20_000_000, 5));
        assert_eq!(spool("journald", &[("cache-max-size", "1m"), ("cache-max-file", "2")]), (1_000_000, 2));
        assert_eq!(spool("none", &[]).1, 4);
    }

    #[test]
    fn mistakes_are_named_in_dockers_words_when_docker_names_them() {
        let at_create =
            |driver: &str, options: &[(&str, &str)]| validate(&log(driver, options)).unwrap_err().to_string();
        assert_eq!(
            at_create("bogus", &[]),
            "error looking up logging plugin bogus: plugin \"bogus\" not found"
        );
        assert_eq!(at_create("json-file", &[("x", "")]), "unknown log opt 'x' for json-file log driver");
        assert_eq!(at_create("local", &[("x", "")]), "unknown log opt 'x' for log driver local");
        assert_eq!(at_create("syslog", &[("mode", "x")]), "logger: logging mode not supported: x");
        assert_eq!(
            at_create("syslog", &[("max-buffer-size", "1m")]),
            "logger: max-buffer-size option is only supported with 'mode=non-blocking'"
        );
        let start = |driver: &str, name: &str, value: &str| {
            let log = log(driver, &[(name, value)]);
            validate(&log).unwrap();
            Settings::read(&log).unwrap_err()
        };
        assert_eq!(start("json-file", "max-size", "ten"), "invalid size: 'ten'");
        assert_eq!(start("json-file", "max-size", "0"), "max-size must be a positive number");
        assert_eq!(start("json-file", "max-file", "0"), "max-file cannot be less than 1");
        assert_eq!(
            start("json-file", "compress", "true"),
            "compress cannot be true when max-file is less than 2 or max-size is not set"
        );
        assert_eq!(start("local", "max-size", "ten"), "invalid value for max-size: ten: invalid size: 'ten'");
    }

    #[test]
    fn the_engines_defaults_are_for_its_default_driver_only() {
        let defaults = log("json-file", &[("max-size", "1m")]);
        let merged = |driver: &str, options: &[(&str, &str)]| {
            let mut log = log(driver, options);
            merge(&mut log, &defaults);
            log
        };
        assert_eq!(merged("", &[]), defaults);
        assert_eq!(merged("json-file", &[("max-size", "2m")]).options["max-size"], "2m");
        assert!(merged("syslog", &[]).options.is_empty());
        assert_eq!(merged("none", &[]).driver, "none");
        // Who names no driver, to an engine that was told none: what the API shows as `json-file` is the spool.
        let mut unnamed = log("", &[("max-size", "10m")]);
        merge(&mut unnamed, &LogSpec::default());
        assert_eq!(unnamed.driver, "");
        assert_eq!(Settings::read(&unnamed).unwrap().driver, Driver::Local);
        assert!(validate_defaults(&log("syslog", &[("syslog-facility", "x")])).is_err());
    }

    #[test]
    fn non_blocking_never_holds_the_container() {
        let settings = Settings::read(&log("fluentd", &[("mode", "non-blocking")])).unwrap();
        assert!(!settings.blocking && settings.behind.is_none() && settings.readable);
        let options = [("mode", "non-blocking"), ("max-buffer-size", "2m"), ("cache-disabled", "true")];
        let settings = Settings::read(&log("fluentd", &options)).unwrap();
        assert_eq!(settings.behind, Some(2 << 20));
        assert!(!settings.readable);
    }
}
