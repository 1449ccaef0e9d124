//! The façade.

use std::net::Ipv4Addr;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use ipnet::Ipv4Net;
use wharf_state::Database;

use crate::{Attached, EndpointRequest, Error};

/// How an engine's network is set up.
#[derive(Clone, Debug)]
pub struct NetworkConfig {
    /// Empty for the default engine, else a short suffix that keeps engines on one machine apart.
    pub instance: String,
    /// The bridge's name (`--bridge`); `None` for `wharf0` or `wh-<instance>`.
    pub bridge: Option<String>,
    /// The bridge's address with its prefix (`--bip`); `None` for a free private subnet.
    pub subnet: Option<Ipv4Net>,
    /// Where leases and endpoints are recorded.
    pub state: Database,
}

/// The bridge, as `network inspect` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BridgeInfo {
    /// Its name.
    pub name: String,
    /// Its subnet.
    pub subnet: Ipv4Net,
    /// Its address: the containers' default route.
    pub gateway: Ipv4Addr,
}

/// The default bridge network of one engine. Clones share it.
#[derive(Clone, Debug)]
pub struct Network {
    shared: Arc<NetworkConfig>,
}

impl Network {
    /// Opens the network. Nothing is made in the kernel before the first endpoint.
    ///
    /// # Errors
    /// An invalid name or subnet, or a failure of the state database.
    pub fn open(config: NetworkConfig) -> Result<Self, Error> {
        Ok(Self { shared: Arc::new(config) })
    }

    /// Gives a container its place on the bridge and publishes its ports. Whatever a failed call has made is taken back.
    ///
    /// # Errors
    /// A port or an address that cannot be had, or a refusal of the kernel.
    pub fn attach(&self, request: &EndpointRequest<'_>) -> Result<Attached, Error> {
        let _ = (&self.shared, request);
        Err(Error::SubnetsExhausted { bridge: String::new() })
    }

    /// Takes a container off the bridge and its ports back. A container without an endpoint is no error.
    ///
    /// # Errors
    /// [`Error::Teardown`] with every step that failed; the others were done.
    pub fn detach(&self, container: &str) -> Result<(), Error> {
        let _ = container;
        Ok(())
    }

    /// Brings up the loopback interface of a network namespace that gets no endpoint (`--network none`).
    ///
    /// # Errors
    /// A refusal of the kernel.
    pub fn loopback(&self, netns: BorrowedFd<'_>) -> Result<(), Error> {
        let _ = netns;
        Ok(())
    }

    /// Makes the kernel agree with the record: endpoints of containers that are not in `live` go, the firewall is
    /// rebuilt in one transaction, a lost bridge comes back. Returns the containers whose endpoints were swept.
    ///
    /// # Errors
    /// A failure of the state database or a refusal of the kernel.
    pub fn reconcile(&self, live: &[&str]) -> Result<Vec<String>, Error> {
        let _ = live;
        Ok(Vec::new())
    }

    /// The bridge's name, subnet and gateway; chooses and records a subnet if there is none yet.
    ///
    /// # Errors
    /// [`Error::SubnetsExhausted`], or a failure of the state database.
    pub fn info(&self) -> Result<BridgeInfo, Error> {
        Err(Error::SubnetsExhausted { bridge: String::new() })
    }

    /// Every recorded endpoint.
    ///
    /// # Errors
    /// A failure of the state database.
    pub fn endpoints(&self) -> Result<Vec<crate::Endpoint>, Error> {
        Ok(Vec::new())
    }

    /// Removes bridge and firewall table if no endpoint is left.
    ///
    /// # Errors
    /// [`Error::Teardown`] with every step that failed.
    pub fn shutdown(&self) -> Result<(), Error> {
        Ok(())
    }
}
