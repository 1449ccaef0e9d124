//! What can go wrong between a container and the network.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;

use ipnet::Ipv4Net;
use wharf_linux::netlink;
use wharf_model::ErrorKind;
use wharf_model::network::{Port, Protocol};

use crate::PublishedPort;

/// The error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A program of the host holds the port.
    #[error("failed to bind host port for {}: address already in use", binding(.host, .container, *.protocol))]
    PortInUse {
        /// The wished host address and port.
        host: SocketAddrV4,
        /// The container's address and port.
        container: SocketAddrV4,
        /// The protocol.
        protocol: Protocol,
    },
    /// Another container of this engine has published the port.
    #[error("Bind for {host} failed: port is already allocated")]
    PortAllocated {
        /// The wished host address and port.
        host: SocketAddrV4,
        /// The protocol.
        protocol: Protocol,
        /// The container that has it.
        holder: String,
    },
    /// Every port of the wished range is taken.
    #[error("all ports from {first} to {last} of {host_ip} are taken; choose another range for {port}")]
    PortsExhausted {
        /// The wished host address.
        host_ip: Ipv4Addr,
        /// The first port tried.
        first: u16,
        /// The last port tried.
        last: u16,
        /// The container's port.
        port: Port,
    },
    /// The host has no such address to publish on.
    #[error("failed to bind host port for {}: cannot assign requested address", binding(.host, .container, *.protocol))]
    NoSuchAddress {
        /// The wished host address and port.
        host: SocketAddrV4,
        /// The container's address and port.
        container: SocketAddrV4,
        /// The protocol.
        protocol: Protocol,
    },
    /// A published port could not be bound for another reason.
    #[error("failed to bind host port for {}: {source}", binding(.host, .container, *.protocol))]
    Bind {
        /// The wished host address and port.
        host: SocketAddrV4,
        /// The container's address and port.
        container: SocketAddrV4,
        /// The protocol.
        protocol: Protocol,
        /// The kernel's reason.
        source: io::Error,
    },
    /// Publishing on an IPv6 address.
    #[error("cannot publish a port on {address}: this engine publishes on IPv4 addresses only")]
    Ipv6Unsupported {
        /// The wished host address.
        address: IpAddr,
    },
    /// The wished container address is taken.
    #[error("Address already in use: {address} belongs to {holder}")]
    AddressInUse {
        /// The wished address.
        address: Ipv4Addr,
        /// Who has it.
        holder: String,
    },
    /// The wished container address is not one the subnet can give.
    #[error("invalid address {address}: it is not a host address of the subnet {subnet}")]
    AddressOutside {
        /// The wished address.
        address: Ipv4Addr,
        /// The bridge's subnet.
        subnet: Ipv4Net,
    },
    /// The wished Ethernet address is not one a station may have.
    #[error("invalid MAC address {0}: it is a group address or all zero")]
    InvalidMac(crate::Mac),
    /// Every address of the subnet is leased.
    #[error("no available IPv4 addresses in {subnet}: remove a container or give the bridge a larger subnet")]
    AddressesExhausted {
        /// The bridge's subnet.
        subnet: Ipv4Net,
    },
    /// Every subnet a default bridge may take overlaps one of the host's.
    #[error(
        "could not find a subnet for bridge {bridge} that overlaps none of the host's routes; give one with --bip"
    )]
    SubnetsExhausted {
        /// The bridge.
        bridge: String,
    },
    /// The configured subnet cannot hold containers.
    #[error(
        "invalid subnet {subnet} for bridge {bridge}: it needs room for a gateway and a container (/30 or larger)"
    )]
    InvalidSubnet {
        /// The bridge.
        bridge: String,
        /// The configured subnet.
        subnet: Ipv4Net,
    },
    /// The bridge's or the instance's name is no interface name.
    #[error("invalid bridge name {name:?}: expected 1 to 15 letters, digits, '-', '_' or '.'")]
    InvalidName {
        /// The name.
        name: String,
    },
    /// The kernel refused a request.
    #[error("cannot {action}: {source}")]
    Kernel {
        /// What was to be done.
        action: String,
        /// The kernel's answer.
        source: netlink::Error,
    },
    /// A kernel parameter could not be set.
    #[error("cannot set {path} to {value}: {source}")]
    Sysctl {
        /// The file below `/proc/sys`.
        path: PathBuf,
        /// The wished value.
        value: &'static str,
        /// The reason.
        source: io::Error,
    },
    /// The network namespace of a container could not be entered.
    #[error("cannot enter the network namespace of {container}: {source}")]
    Enter {
        /// The container.
        container: String,
        /// The reason.
        source: io::Error,
    },
    /// The bridge's name belongs to an interface that is no bridge.
    #[error(
        "cannot use {name} as bridge: it is an interface of another kind; choose another name with --bridge"
    )]
    NotABridge {
        /// The name.
        name: String,
    },
    /// The state database failed.
    #[error(transparent)]
    State(#[from] wharf_state::Error),
    /// A recorded endpoint cannot be read.
    #[error("the recorded endpoint of {container} is damaged: {source}")]
    Record {
        /// The container.
        container: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// Taking down went on to the end, and these steps failed.
    #[error("cannot remove the network of {what} completely: {}", Joined(.failures))]
    Teardown {
        /// The container or the bridge.
        what: String,
        /// Every failure.
        failures: Vec<Error>,
    },
    /// Making an endpoint failed, and so did taking back what was made; the next start of the engine sweeps it.
    #[error("{cause}; moreover {cleanup}")]
    Unfinished {
        /// Why it failed.
        cause: Box<Error>,
        /// What could not be undone.
        cleanup: Box<Error>,
    },
}

impl Error {
    /// The sort of failure.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::PortInUse { .. }
            | Self::PortAllocated { .. }
            | Self::PortsExhausted { .. }
            | Self::NoSuchAddress { .. }
            | Self::Bind { .. }
            | Self::Kernel { .. }
            | Self::Sysctl { .. }
            | Self::Enter { .. }
            | Self::NotABridge { .. }
            | Self::Teardown { .. } => ErrorKind::System,
            Self::AddressInUse { .. } => ErrorKind::Forbidden,
            Self::AddressOutside { .. }
            | Self::InvalidMac(_)
            | Self::InvalidSubnet { .. }
            | Self::InvalidName { .. } => ErrorKind::InvalidParameter,
            Self::Ipv6Unsupported { .. } => ErrorKind::NotImplemented,
            Self::AddressesExhausted { .. } | Self::SubnetsExhausted { .. } => ErrorKind::Exhausted,
            Self::State(source) if source.is_full() => ErrorKind::Exhausted,
            Self::State(_) => ErrorKind::System,
            Self::Record { .. } => ErrorKind::DataLoss,
            Self::Unfinished { cause, .. } => cause.kind(),
        }
    }
}

impl From<wharf_state::rusqlite::Error> for Error {
    fn from(source: wharf_state::rusqlite::Error) -> Self {
        Self::State(source.into())
    }
}

/// `0.0.0.0:8080:172.17.0.2:80/tcp`, as Docker writes it.
fn binding(host: &SocketAddrV4, container: &SocketAddrV4, protocol: Protocol) -> String {
    format!("{host}:{container}/{protocol}")
}

/// Errors one after another, separated by semicolons.
struct Joined<'a>(&'a [Error]);

impl fmt::Display for Joined<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

impl fmt::Display for PublishedPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}->{}/{}", self.host_ip, self.host_port, self.container_port, self.protocol)
    }
}
