//! The files the engine makes for a container: `hosts`, `hostname`, `resolv.conf`.
//!
//! They are bind-mounted into the container, so they are only ever written in place. Every value in them has been
//! checked at create: none can bring a line of its own (RT-18).

use std::net::Ipv4Addr;
use std::path::Path;

use wharf_linux::hostfs;
use wharf_model::network::NetworkMode;

use crate::Result;
use crate::containers::Record;
use crate::spec::hostname;

/// Servers used when the host has none but local ones that no container can reach.
const FALLBACK_SERVERS: &[&str] = &["8.8.8.8", "8.8.4.4"];
/// The most of the host's own files that is copied.
const LIMIT: u64 = 1024 * 1024;

/// Writes all three; the address is not known yet.
pub(crate) fn write(directory: &Path, record: &Record) -> Result<()> {
    hostfs::write(&directory.join("hostname"), format!("{}\n", hostname(record)).as_bytes())?;
    hostfs::write(&directory.join("resolv.conf"), resolv_conf(record).as_bytes())?;
    write_hosts(directory, record, None, None)
}

/// Writes `hosts` with the container's own address.
pub(crate) fn write_hosts(
    directory: &Path,
    record: &Record,
    address: Option<Ipv4Addr>,
    gateway: Option<Ipv4Addr>,
) -> Result<()> {
    Ok(hostfs::write(&directory.join("hosts"), hosts(record, address, gateway).as_bytes())?)
}

fn hosts(record: &Record, address: Option<Ipv4Addr>, gateway: Option<Ipv4Addr>) -> String {
    let spec = &record.spec;
    let mut text = if spec.host.network_mode == NetworkMode::Host {
        hostfs::read_bounded(Path::new("/etc/hosts"), LIMIT)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    } else {
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\nff00::\tip6-mcastprefix\n\
         ff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n"
            .to_owned()
    };
    for entry in &spec.host.extra_hosts {
        let (name, wanted) = entry.split_once(':').unwrap_or((entry, ""));
        let wanted = wanted.trim_matches(['[', ']']);
        match (wanted, gateway) {
            ("host-gateway", Some(gateway)) => text.push_str(&format!("{gateway}\t{name}\n")),
            ("host-gateway", None) => {}
            _ => text.push_str(&format!("{wanted}\t{name}\n")),
        }
    }
    for link in &record.links {
        if let Some(address) = link.address {
            text.push_str(&format!("{address}\t{}\n", link.names.join(" ")));
        }
    }
    if let Some(address) = address {
        let name = hostname(record);
        if spec.domainname.is_empty() {
            text.push_str(&format!("{address}\t{name}\n"));
        } else {
            text.push_str(&format!("{address}\t{name}.{} {name}\n", spec.domainname));
        }
    }
    text
}

fn resolv_conf(record: &Record) -> String {
    let host = hostfs::read_bounded(Path::new("/etc/resolv.conf"), LIMIT).unwrap_or_default();
    compose_resolv_conf(&String::from_utf8_lossy(&host), record)
}

/// The host's file with what was asked for instead. A server on the host's loopback is out of a container's reach.
fn compose_resolv_conf(host: &str, record: &Record) -> String {
    let wishes = &record.spec.host;
    let of = |keyword: &str| -> Vec<String> {
        let lines = host.lines().filter_map(|line| line.trim().strip_prefix(keyword));
        let values = lines.filter(|rest| rest.starts_with([' ', '\t']));
        values.flat_map(|rest| rest.split_ascii_whitespace().map(str::to_owned)).collect()
    };
    let shares_host = wishes.network_mode == NetworkMode::Host;
    let mut servers = if wishes.dns.is_empty() { of("nameserver") } else { wishes.dns.clone() };
    if wishes.dns.is_empty() && !shares_host {
        servers.retain(|server| {
            server
                .parse::<std::net::IpAddr>()
                .is_ok_and(|address| !address.is_loopback() && address.is_ipv4())
        });
        if servers.is_empty() {
            servers = FALLBACK_SERVERS.iter().map(|server| (*server).to_owned()).collect();
        }
    }
    let search = if wishes.dns_search.is_empty() { of("search") } else { wishes.dns_search.clone() };
    let options = if wishes.dns_options.is_empty() { of("options") } else { wishes.dns_options.clone() };
    let mut text: String = servers.iter().map(|server| format!("nameserver {server}\n")).collect();
    if !search.is_empty() && search != ["."] {
        text.push_str(&format!("search {}\n", search.join(" ")));
    }
    if !options.is_empty() {
        text.push_str(&format!("options {}\n", options.join(" ")));
    }
    text
}
