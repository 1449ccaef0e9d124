//! What a container's place on the bridge is: the request for it, the granted endpoint, published ports.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use wharf_model::network::Protocol;

/// The name of the interface inside a container.
pub const CONTAINER_INTERFACE: &str = "eth0";

/// An Ethernet address; shown and stored as `02:42:ac:11:00:02`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac(pub [u8; 6]);

/// A string that is not an Ethernet address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid MAC address {0:?}: expected six pairs of hexadecimal digits, as in 02:42:ac:11:00:02")]
pub struct InvalidMac(pub String);

impl Mac {
    /// The address an endpoint has when none was asked for: locally administered and derived from its IPv4 address, so
    /// that a reused address never meets a stale neighbour entry.
    #[must_use]
    pub const fn derived(address: Ipv4Addr) -> Self {
        let [a, b, c, d] = address.octets();
        Self([0x02, 0x42, a, b, c, d])
    }

    /// True for an address one station may own: neither multicast nor all zero.
    #[must_use]
    pub fn is_station(&self) -> bool {
        self.0[0] & 1 == 0 && self.0 != [0; 6]
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for Mac {
    type Err = InvalidMac;

    fn from_str(text: &str) -> Result<Self, InvalidMac> {
        let invalid = || InvalidMac(text.chars().take(40).collect());
        let mut bytes = [0_u8; 6];
        let mut pairs = text.split([':', '-']);
        for byte in &mut bytes {
            let pair = pairs.next().filter(|pair| pair.len() == 2).ok_or_else(invalid)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| invalid())?;
        }
        if pairs.next().is_some() || text.contains('+') {
            return Err(invalid());
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for Mac {
    type Error = InvalidMac;

    fn try_from(text: String) -> Result<Self, InvalidMac> {
        text.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

/// Which host port a published port may get.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HostPort {
    /// Any free one of 32768 to 60999.
    Ephemeral,
    /// The first free one of these, both included; the same number twice for exactly one.
    Between(u16, u16),
}

/// A string that is not a host port.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid host port {0:?}: expected a number from 1 to 65535, a range such as 8000-8010, or nothing")]
pub struct InvalidHostPort(pub String);

impl FromStr for HostPort {
    type Err = InvalidHostPort;

    /// Reads Docker's notation: empty or `0` (ephemeral), `8080`, `8000-8010`.
    fn from_str(text: &str) -> Result<Self, InvalidHostPort> {
        let invalid = || InvalidHostPort(text.chars().take(40).collect());
        let number = |part: &str| match part.bytes().all(|byte| byte.is_ascii_digit()) {
            true => part.parse::<u16>().map_err(|_| invalid()),
            false => Err(invalid()),
        };
        if text.is_empty() {
            return Ok(Self::Ephemeral);
        }
        let (first, last) = match text.split_once('-') {
            Some((first, last)) => (number(first)?, number(last)?),
            None => (number(text)?, number(text)?),
        };
        match (first, last) {
            (0, 0) => Ok(Self::Ephemeral),
            (first, last) if 0 < first && first <= last => Ok(Self::Between(first, last)),
            _ => Err(invalid()),
        }
    }
}

/// A port to publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRequest {
    /// The host address it answers on; `None` for every one.
    pub host_ip: Option<IpAddr>,
    /// The host port.
    pub host_port: HostPort,
    /// The port inside the container.
    pub container_port: u16,
    /// The protocol.
    pub protocol: Protocol,
}

/// A request for a place on the bridge.
#[derive(Debug)]
pub struct EndpointRequest<'a> {
    /// The container's id: the key of the endpoint.
    pub container: &'a str,
    /// The container's network namespace.
    pub netns: BorrowedFd<'a>,
    /// Ports to publish.
    pub ports: &'a [PortRequest],
    /// A wished address; `None` for the next free one.
    pub address: Option<Ipv4Addr>,
    /// A wished Ethernet address; `None` for [`Mac::derived`].
    pub mac: Option<Mac>,
}

/// A port that is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PublishedPort {
    /// The host address; unspecified (`0.0.0.0`) for every one.
    pub host_ip: Ipv4Addr,
    /// The host port.
    pub host_port: u16,
    /// The port inside the container.
    pub container_port: u16,
    /// The protocol.
    pub protocol: Protocol,
}

/// A container's place on the bridge, as it is recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The container's id.
    pub container: String,
    /// The host's end of the veth pair.
    pub host_interface: String,
    /// The container's end.
    pub interface: String,
    /// The IPv4 address.
    pub address: Ipv4Addr,
    /// The subnet's prefix length.
    pub prefix_len: u8,
    /// The bridge's address: the default route.
    pub gateway: Ipv4Addr,
    /// The Ethernet address.
    pub mac: Mac,
    /// What is published, in the order of the request.
    pub ports: Vec<PublishedPort>,
}

/// What [`crate::Network::attach`] gives.
#[derive(Debug)]
pub struct Attached {
    /// The endpoint.
    pub endpoint: Endpoint,
    /// Sockets bound to the published ports. Whoever lives as long as the container holds copies of them open: they keep
    /// other programs from taking the ports, and nothing is ever read from them.
    pub reservations: Arc<[OwnedFd]>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_ports_are_strict() {
        assert_eq!("".parse(), Ok(HostPort::Ephemeral));
        assert_eq!("0".parse(), Ok(HostPort::Ephemeral));
        assert_eq!("8080".parse(), Ok(HostPort::Between(8080, 8080)));
        assert_eq!("8000-8010".parse(), Ok(HostPort::Between(8000, 8010)));
        for bad in ["+1", "-", "1-", "-1", "0-5", "9-8", "65536", "a", "1-2-3", " 1"] {
            assert!(bad.parse::<HostPort>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn ethernet_addresses_read_back_as_written() {
        let mac = Mac::derived(Ipv4Addr::new(172, 17, 0, 2));
        assert_eq!(mac.to_string(), "02:42:ac:11:00:02");
        assert_eq!("02-42-AC-11-00-02".parse(), Ok(mac));
        for bad in ["", "02:42:ac:11:00", "02:42:ac:11:00:02:03", "+2:42:ac:11:00:02", "2:42:ac:11:00:02"] {
            assert!(bad.parse::<Mac>().is_err(), "{bad:?}");
        }
        assert!(mac.is_station());
        assert!(!Mac([0; 6]).is_station() && !Mac([1, 0, 0, 0, 0, 1]).is_station());
    }
}
