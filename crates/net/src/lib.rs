//! Bridge networking: endpoints, addresses, published ports, firewall as a value.
//!
//! [`Network`] is all that other crates see. Inside, each module knows one thing: `link` what rtnetlink is told, `firewall`
//! the table as a value and its encoding, `guard` how to
//! notice that it is gone, `conntrack` how to forget connections, `ports` the reservation of host ports,
//! `records` the database, `bridge` the choice of addresses, `removal` how links go without anybody waiting, `network` the order of it all and what happens when a step
//! fails. No program is run; every call is synchronous.

mod bridge;
mod conntrack;
mod endpoint;
mod error;
mod firewall;
mod guard;
mod link;
mod network;
mod ports;
mod records;
mod removal;
mod sysctl;

pub use endpoint::{
    Attached, CONTAINER_INTERFACE, Endpoint, EndpointRequest, HostPort, InvalidHostPort, InvalidMac, Mac,
    PortRequest, PublishedPort,
};
pub use error::Error;
pub use ipnet::Ipv4Net;
pub use network::{BridgeInfo, Network, NetworkConfig};
pub use wharf_model::network::Protocol;
