//! Bridge networking: endpoints, addresses, published ports, firewall as a value.

mod endpoint;
mod error;
mod network;

pub use endpoint::{
    Attached, CONTAINER_INTERFACE, Endpoint, EndpointRequest, HostPort, InvalidHostPort, InvalidMac, Mac,
    PortRequest, PublishedPort,
};
pub use error::Error;
pub use ipnet::Ipv4Net;
pub use network::{BridgeInfo, Network, NetworkConfig};
pub use wharf_model::network::Protocol;
