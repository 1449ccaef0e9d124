//! Settings of Docker's daemon that this engine knows and does not have.
//!
//! A value that asks for what happens anyway is taken and does nothing, so that a usual `daemon.json` works; any other is
//! refused with the reason. Silence would be worse: somebody relies on it.

use std::ffi::OsString;

use anyhow::{Result, bail};
use serde_json::{Map, Value};

/// Flag and key (the flag's name when empty), values that change nothing (`*` for all), why others are refused.
struct Elsewhere(&'static str, &'static str, &'static [&'static str], &'static str);

const NETWORKS: &str = "networks other than the default bridge are not there yet";
const CONTAINERD: &str = "there is no containerd";
const SWARM: &str = "there is no swarm mode";
const REALTIME: &str = "real-time scheduling is set for each container, not for all";

const TABLE: &[Elsewhere] = &[
    Elsewhere("allow-direct-routing", "", &["false"], NETWORKS),
    Elsewhere("bip6", "", &[""], NETWORKS),
    Elsewhere("containerd", "", &[""], CONTAINERD),
    Elsewhere("containerd-namespace", "", &["*"], CONTAINERD),
    Elsewhere("containerd-plugins-namespace", "containerd-plugin-namespace", &["*"], CONTAINERD),
    Elsewhere("cpu-rt-period", "", &["0"], REALTIME),
    Elsewhere("cpu-rt-runtime", "", &["0"], REALTIME),
    Elsewhere("cri-containerd", "", &["false"], CONTAINERD),
    Elsewhere("default-address-pool", "default-address-pools", &[], NETWORKS),
    Elsewhere("default-gateway", "", &[""], NETWORKS),
    Elsewhere("default-gateway-v6", "", &[""], NETWORKS),
    Elsewhere("default-network-opt", "default-network-opts", &[], NETWORKS),
    Elsewhere(
        "exec-opt",
        "exec-opts",
        &["native.cgroupdriver=cgroupfs"],
        "control groups are managed as files only",
    ),
    Elsewhere("experimental", "", &["*"], ""),
    Elsewhere("feature", "features", &["*"], ""),
    Elsewhere("fixed-cidr", "", &[""], NETWORKS),
    Elsewhere("fixed-cidr-v6", "", &[""], NETWORKS),
    Elsewhere("host-gateway-ip", "host-gateway-ips", &[""], NETWORKS),
    Elsewhere("icc", "", &["true"], NETWORKS),
    Elsewhere("init-path", "", &[""], "the init is part of the shim"),
    Elsewhere("ip", "", &["", "0.0.0.0"], NETWORKS),
    Elsewhere("ip-forward", "", &["true"], "containers need it"),
    Elsewhere("ip-forward-no-drop", "", &["false"], "the policy of forwarding is not touched"),
    Elsewhere("ip-masq", "", &["true"], NETWORKS),
    Elsewhere("ip6tables", "", &["true"], "the firewall is one table of nftables, which is always made"),
    Elsewhere("iptables", "", &["true"], "the firewall is one table of nftables, which is always made"),
    Elsewhere("ipv6", "", &["false"], NETWORKS),
    Elsewhere("metrics-addr", "", &[""], "there are no metrics yet"),
    Elsewhere("mtu", "", &["0", "1500"], NETWORKS),
    Elsewhere("network-control-plane-mtu", "", &["*"], SWARM),
    Elsewhere("node-generic-resource", "node-generic-resources", &[], SWARM),
    Elsewhere("rootless", "", &["false"], "there is no rootless mode yet"),
    Elsewhere("seccomp-profile", "", &["", "builtin"], "a profile is given for each container"),
    Elsewhere("selinux-enabled", "", &["false"], "there is no support of SELinux yet"),
    Elsewhere("storage-opt", "storage-opts", &[], "storage has no such options"),
    Elsewhere("swarm-default-advertise-addr", "", &[""], SWARM),
    Elsewhere("userland-proxy", "", &["*"], ""),
    Elsewhere("userland-proxy-path", "", &["*"], ""),
];

/// Which of these are given alone, without a value behind them.
const SWITCHES: [&str; 15] = [
    "allow-direct-routing",
    "cri-containerd",
    "experimental",
    "icc",
    "ip-forward",
    "ip-forward-no-drop",
    "ip-masq",
    "ip6tables",
    "iptables",
    "ipv6",
    "rootless",
    "selinux-enabled",
    "userland-proxy",
    "init",
    "no-new-privileges",
];

impl Elsewhere {
    fn check(&self, value: &str) -> Result<()> {
        let Self(flag, _, harmless, reason) = self;
        if harmless.contains(&"*") || harmless.contains(&value) {
            return Ok(());
        }
        bail!("{flag} ({value:?}) is not supported: {reason}")
    }
}

/// Takes what is elsewhere out of the command line.
pub(super) fn strip(args: impl Iterator<Item = OsString>) -> Result<Vec<OsString>> {
    let mut kept = Vec::new();
    let mut args = args.peekable();
    while let Some(arg) = args.next() {
        let text = arg.to_string_lossy();
        let (name, value) = match text.strip_prefix("--").unwrap_or("").split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (text.strip_prefix("--").unwrap_or("").to_owned(), None),
        };
        let Some(found) = TABLE.iter().find(|Elsewhere(flag, ..)| *flag == name) else {
            kept.push(arg);
            continue;
        };
        let value = match value {
            Some(value) => value,
            None if SWITCHES.contains(&name.as_str()) => "true".to_owned(),
            None => args.next().map(|value| value.to_string_lossy().into_owned()).unwrap_or_default(),
        };
        found.check(&value)?;
    }
    Ok(kept)
}

/// Takes what is elsewhere out of the settings file.
pub(super) fn take(document: &mut Map<String, Value>) -> Result<()> {
    for found @ Elsewhere(flag, key, ..) in TABLE {
        let key = if key.is_empty() { flag } else { key };
        let Some(value) = document.remove(*key) else { continue };
        match value {
            Value::Null => {}
            Value::Array(values) => values.iter().try_for_each(|value| found.check(&plain(value)))?,
            Value::Object(members) if members.is_empty() => {}
            value => found.check(&plain(&value))?,
        }
    }
    Ok(())
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_nothing_is_taken() {
        let args = ["wharfd", "--iptables=true", "--userland-proxy", "-D", "--mtu", "1500", "--icc=true"];
        let kept = strip(args.iter().map(OsString::from)).unwrap();
        assert_eq!(kept, ["wharfd", "-D"]);
        let text = r#"{"experimental": true, "icc": true, "exec-opts": ["native.cgroupdriver=cgroupfs"], "debug": true,
            "features": {"buildkit": true}}"#;
        let mut document = serde_json::from_str(text).unwrap();
        take(&mut document).unwrap();
        assert_eq!(document.keys().collect::<Vec<_>>(), ["debug"]);
    }

    #[test]
    fn what_would_be_missing_is_refused_with_the_reason() {
        let refusal = |args: &[&str]| strip(args.iter().map(OsString::from)).unwrap_err().to_string();
        assert!(refusal(&["--icc=false"]).contains("icc (\"false\") is not supported: networks"));
        assert!(refusal(&["--metrics-addr", "127.0.0.1:9323"]).contains("no metrics"));
        let mut document = serde_json::from_str(r#"{"selinux-enabled": true}"#).unwrap();
        assert!(take(&mut document).unwrap_err().to_string().contains("SELinux"));
    }
}
