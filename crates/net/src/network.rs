//! The façade: one default bridge network per engine.
//!
//! Layout in the kernel: a bridge (`wharf0`), for each container a veth pair whose host end is a port of it, one
//! `nf_tables` table. In the state database: see `records`.
//!
//! Invariants: an endpoint's row is written before anything of it exists in the kernel and removed only when nothing of it
//! is left, so whatever a crash leaves is found by its row. A live change of the firewall is set elements only; the table
//! as a whole is replaced in one transaction. A published port is reserved longer than it is translated: a program of the
//! host that could bind it in between would have its clients sent to a container that has ended.
//!
//! Locking: `kernel` is held for exchanges with the host's sockets, never while a container's network namespace is entered
//! or a link is removed, which may take the kernel many milliseconds (see `removal`). A database transaction never waits
//! for `kernel`. Whoever replaces the table holds `kernel` from reading the rows on, and a container is announced as
//! leaving before its ports are withdrawn under it, so that they cannot come back with the table. `reservations` is a leaf.
//!
//! Crash: at any point at most an endpoint without a living container, which the next reconcile sweeps.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use ipnet::Ipv4Net;
use rustix::io::Errno;
use wharf_linux::netlink::{self, Family, Socket, in_netns};
use wharf_model::network::Protocol;
use wharf_state::Database;

use crate::bridge::{self, Bridge, Names};
use crate::firewall::{self, Table, Transaction};
use crate::guard::Guard;
use crate::link::{self, Addressing};
use crate::ports::Allocator;
use crate::records::Records;
use crate::removal::{Removal, Sockets};
use crate::{Attached, CONTAINER_INTERFACE, Endpoint, EndpointRequest, Error, Mac, conntrack, sysctl};

/// How an engine's network is set up.
#[derive(Clone, Debug)]
pub struct NetworkConfig {
    /// Empty for the default engine, else a short suffix that keeps engines on one machine apart.
    pub instance: String,
    /// The bridge's name (`--bridge`); `None` for `wharf0` or `wh-<instance>`. A bridge of this name that exists is used
    /// with the addresses it has.
    pub bridge: Option<String>,
    /// The bridge's address with its prefix (`--bip`); `None` for a free private subnet. A change takes effect when no
    /// container is on the bridge.
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
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: NetworkConfig,
    names: Names,
    records: Records,
    ports: Allocator,
    removal: Removal,
    kernel: Mutex<Kernel>,
    /// By container. Whoever lives as long as it has copies, for the time without an engine.
    reservations: Mutex<HashMap<String, Arc<[OwnedFd]>>>,
    /// For the guard, which must not keep the network alive.
    me: Weak<Shared>,
}

/// The host's sockets, and the bridge once it is known to be there, with the guard of the table.
#[derive(Debug)]
struct Kernel {
    route: Socket,
    filter: Socket,
    bridge: Option<Bridge>,
    guard: Option<Guard>,
}

impl Network {
    /// Opens the network in the calling thread's network namespace. Nothing is made in the kernel before the first
    /// endpoint.
    ///
    /// # Errors
    /// An invalid name or subnet, or a failure of the state database or of netlink.
    pub fn open(config: NetworkConfig) -> Result<Self, Error> {
        let names = Names::new(&config)?;
        bridge::validate(&config, &names)?;
        let records = Records::open(config.state.clone())?;
        let open = |family, action: &str| {
            Socket::open(family).map_err(|source| Error::Kernel { action: action.into(), source })
        };
        let kernel = Kernel {
            route: open(Family::Route, "speak to the kernel about links")?,
            filter: open(Family::Netfilter, "speak to the kernel about the firewall")?,
            bridge: None,
            guard: None,
        };
        let removal = Removal::start(records.clone())?;
        let ports = Allocator::default();
        let kernel = Mutex::new(kernel);
        let shared = |me: &Weak<Shared>| {
            let me = me.clone();
            Shared { config, names, records, ports, removal, kernel, reservations: Mutex::default(), me }
        };
        Ok(Self { shared: Arc::new_cyclic(shared) })
    }

    /// Gives a container its place on the bridge and publishes its ports. Whatever a failed call has made is taken back;
    /// an endpoint the container still has from an earlier life is removed first.
    ///
    /// # Errors
    /// A port or an address that cannot be had, or a refusal of the kernel.
    pub fn attach(&self, request: &EndpointRequest<'_>) -> Result<Attached, Error> {
        let Shared { names, records, ports, removal, .. } = &*self.shared;
        if let Some(mac) = request.mac.filter(|mac| !mac.is_station()) {
            return Err(Error::InvalidMac(mac));
        }
        removal.wait_for(request.container);
        if let Some(stale) = self.shared.recorded(request.container)? {
            self.shared.take_down(&stale)?;
        }
        let bridge = self.shared.ready()?;
        let (endpoint, reservations) = records.grant(bridge.pool, request.address, |address, holder| {
            let (published, sockets) = ports.reserve(request.ports, address, holder)?;
            let endpoint = Endpoint {
                container: request.container.to_owned(),
                host_interface: names.host_interface(request.container),
                interface: CONTAINER_INTERFACE.to_owned(),
                address,
                prefix_len: bridge.pool.gateway.prefix_len(),
                gateway: bridge.pool.gateway.addr(),
                mac: request.mac.unwrap_or_else(|| Mac::derived(address)),
                ports: published,
            };
            Ok((endpoint, sockets))
        })?;
        let shared = &self.shared;
        let reservations: Arc<[OwnedFd]> = reservations.into();
        shared.reserve(request.container, reservations.clone());
        let wired = shared.wire(&endpoint, request.netns, bridge).and_then(|()| shared.publish(&endpoint));
        match wired.map_err(|cause| (cause, shared.take_down(&endpoint))) {
            Ok(()) => Ok(Attached { endpoint, reservations }),
            Err((cause, Ok(()))) => Err(cause),
            Err((cause, Err(cleanup))) => {
                Err(Error::Unfinished { cause: Box::new(cause), cleanup: Box::new(cleanup) })
            }
        }
    }

    /// Takes a container's ports back and starts to take it off the bridge; [`Network::settle`] waits until that is done.
    /// A container without an endpoint is no error. The address is not given to another container before.
    ///
    /// # Errors
    /// The ports could not be taken back, or a failure of the state database. The container is taken off the bridge
    /// nevertheless, unless its record could not be read.
    pub fn detach(&self, container: &str) -> Result<(), Error> {
        let removal = &self.shared.removal;
        let Some(endpoint) = self.shared.recorded(container)? else { return Ok(()) };
        if !removal.announce(container) {
            return Ok(());
        }
        let withdrawn = self.shared.withdraw(&endpoint);
        removal.enqueue(endpoint);
        withdrawn
    }

    /// Takes over the reservations of a container that an earlier engine attached.
    pub fn keep(&self, container: &str, reservations: Vec<OwnedFd>) {
        self.shared.reserve(container, reservations.into());
    }

    /// Tells `listener`, from a thread of the network's, of containers that were detached and of which something is left:
    /// they are to be detached again after a while.
    pub fn on_failed_removal(&self, listener: impl Fn(&str) + Send + 'static) {
        self.shared.removal.on_failure(Box::new(listener));
    }

    /// Waits until nothing is left of every container that was detached.
    pub fn settle(&self) {
        self.shared.removal.wait();
    }

    /// Brings up the loopback interface of a network namespace that gets no endpoint (`--network none`).
    ///
    /// # Errors
    /// A refusal of the kernel.
    pub fn loopback(&self, netns: BorrowedFd<'_>) -> Result<(), Error> {
        let up = || Socket::open(Family::Route).and_then(|mut socket| link::loopback_up(&mut socket));
        in_netns(netns, up)
            .map_err(|source| Error::Enter { container: "the container".into(), source })?
            .map_err(|source| Error::Kernel { action: "bring up the loopback interface".into(), source })
    }

    /// Makes the kernel agree with the record: endpoints of containers that are not in `live` go, a lost bridge comes
    /// back with its ports, the firewall is replaced in one transaction. An engine that never had an endpoint makes
    /// nothing. Returns the containers whose endpoints were swept.
    ///
    /// # Errors
    /// A failure of the state database or a refusal of the kernel; what could be repaired was.
    pub fn reconcile(&self, live: &[&str]) -> Result<Vec<String>, Error> {
        self.shared.reconcile(live)
    }

    /// The bridge's name, subnet and gateway; chooses and records a subnet if there is none yet.
    ///
    /// # Errors
    /// [`Error::SubnetsExhausted`], or a failure of the state database.
    pub fn info(&self) -> Result<BridgeInfo, Error> {
        let Shared { config, names, records, .. } = &*self.shared;
        let mut kernel = self.shared.kernel();
        let pool = match kernel.bridge {
            Some(bridge) => bridge.pool,
            None => bridge::pool(&mut kernel.route, config, names, records)?,
        };
        Ok(BridgeInfo { name: names.bridge.clone(), subnet: pool.subnet(), gateway: pool.gateway.addr() })
    }

    /// Every recorded endpoint.
    ///
    /// # Errors
    /// A failure of the state database.
    pub fn endpoints(&self) -> Result<Vec<Endpoint>, Error> {
        self.shared.records.endpoints()
    }

    /// Settles, then removes the firewall table and the bridge, unless somebody else made it, if no endpoint is left.
    ///
    /// # Errors
    /// [`Error::Teardown`] with every step that failed.
    pub fn shutdown(&self) -> Result<(), Error> {
        let Shared { names, records, .. } = &*self.shared;
        self.settle();
        let mut kernel = self.shared.kernel();
        if !records.is_empty()? {
            return Ok(());
        }
        kernel.bridge = None;
        kernel.guard = None;
        let mut failures = Vec::new();
        let mut note = |action: String, done: Result<(), netlink::Error>| {
            failures.extend(done.err().map(|source| Error::Kernel { action, source }));
        };
        note(
            format!("remove the firewall table {}", names.table),
            Transaction::new(&names.table).remove().commit(&mut kernel.filter),
        );
        if names.own_bridge {
            note(format!("remove bridge {}", names.bridge), link::delete(&mut kernel.route, &names.bridge));
        }
        if failures.is_empty() {
            Ok(())
        } else {
            Err(Error::Teardown { what: names.bridge.clone(), failures })
        }
    }
}

impl Shared {
    fn kernel(&self) -> MutexGuard<'_, Kernel> {
        // A panic in between leaves sockets that number their messages anew and a bridge that is looked at again.
        self.kernel.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bridge and the table, made on first use.
    fn ready(&self) -> Result<Bridge, Error> {
        let mut kernel = self.kernel();
        match kernel.bridge {
            Some(bridge) => Ok(bridge),
            None => self.make_ready(&mut kernel),
        }
    }

    /// Makes bridge and table whatever is thought to be there.
    fn make_ready(&self, kernel: &mut Kernel) -> Result<Bridge, Error> {
        kernel.bridge = None;
        let pool = bridge::pool(&mut kernel.route, &self.config, &self.names, &self.records)?;
        let bridge = bridge::make(&mut kernel.route, &self.names, pool)?;
        self.replace_table(kernel, bridge, &self.records.endpoints()?)?;
        self.warn_of_others(kernel);
        kernel.bridge = Some(bridge);
        Ok(bridge)
    }

    /// Another program's firewall that drops what it does not know drops the containers' packets, and no table can help it.
    fn warn_of_others(&self, kernel: &mut Kernel) {
        let bridge = &self.names.bridge;
        for chain in firewall::others_that_drop(&mut kernel.filter, &self.names.table).unwrap_or_default() {
            tracing::warn!(
                "the firewall chain {chain} drops forwarded packets unless a rule of its own accepts them; if containers \
                 reach nobody, accept what comes from and goes to {bridge} there"
            );
        }
    }

    /// Installs the table again if it is gone.
    fn repair(&self) -> Result<(), Error> {
        let mut kernel = self.kernel();
        let Some(bridge) = kernel.bridge else { return Ok(()) };
        let table = Table::build(&self.names.table, &self.names.bridge, bridge.pool.subnet(), []);
        let reading = |source| Error::Kernel { action: "read the firewall".into(), source };
        if firewall::is_installed(&mut kernel.filter, &table).map_err(reading)? {
            return Ok(());
        }
        self.replace_table(&mut kernel, bridge, &self.records.endpoints()?)?;
        tracing::warn!("somebody removed the firewall table {}; it is back", self.names.table);
        Ok(())
    }

    fn replace_table(
        &self,
        kernel: &mut Kernel,
        bridge: Bridge,
        endpoints: &[Endpoint],
    ) -> Result<(), Error> {
        let Names { bridge: name, table, .. } = &self.names;
        if kernel.guard.is_none() {
            let network = self.me.clone();
            let repair = move || {
                let Some(network) = network.upgrade() else { return false };
                if let Err(error) = network.repair() {
                    tracing::warn!("cannot repair the firewall: {error}");
                }
                true
            };
            let started = Guard::start(table, repair);
            kernel.guard = Some(started.map_err(|source| Error::Kernel {
                action: format!("watch the firewall table {table}"),
                source,
            })?);
        }
        let staying = endpoints.iter().filter(|endpoint| !self.removal.is_leaving(&endpoint.container));
        let table = Table::build(table, name, bridge.pool.subnet(), staying);
        firewall::install(&mut kernel.filter, &table).map_err(|source| Error::Kernel {
            action: format!("install the firewall table {}", table.name),
            source,
        })
    }

    /// The endpoint of a container. A record that cannot be read is swept with everything that it may have meant: the link
    /// by its derived name, the ports by building the table without it.
    fn recorded(&self, container: &str) -> Result<Option<Endpoint>, Error> {
        let damaged = match self.records.endpoint(container) {
            Err(error @ Error::Record { .. }) => error,
            recorded => return recorded,
        };
        tracing::warn!("{damaged}; it is removed");
        let name = self.names.host_interface(container);
        Socket::open(Family::Route).and_then(|mut socket| link::delete(&mut socket, &name)).map_err(
            |source| Error::Kernel { action: format!("remove the network interface of {container}"), source },
        )?;
        let mut kernel = self.kernel();
        if let Some(bridge) = kernel.bridge {
            self.replace_table(&mut kernel, bridge, &self.records.endpoints()?)?;
        }
        self.release(container);
        self.records.remove(container)?;
        Ok(None)
    }

    fn reserve(&self, container: &str, reservations: Arc<[OwnedFd]>) {
        if !reservations.is_empty() {
            self.reservations().insert(container.to_owned(), reservations);
        }
    }

    /// Lets go of a container's ports, which are not translated any more.
    fn release(&self, container: &str) {
        let released = self.reservations().remove(container);
        drop(released);
    }

    fn reservations(&self) -> MutexGuard<'_, HashMap<String, Arc<[OwnedFd]>>> {
        self.reservations.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the veth pair and sets up both ends.
    fn wire(&self, endpoint: &Endpoint, netns: BorrowedFd<'_>, bridge: Bridge) -> Result<(), Error> {
        let Endpoint { container, host_interface, interface, .. } = endpoint;
        let refused = |action: &str| {
            let action = format!("{action} of {container}");
            move |source| Error::Kernel { action, source }
        };
        // One visit: interfaces born here from now on have no IPv6, and the socket stays with the namespace.
        let mut inside = in_netns(netns, || {
            sysctl::forbid_ipv6("default")?;
            Socket::open(Family::Route).map_err(refused("open a socket in the network namespace"))
        })
        .map_err(|source| Error::Enter { container: container.clone(), source })??;
        link::create_veth(
            &mut self.kernel().route,
            host_interface,
            bridge.mtu,
            interface,
            endpoint.mac,
            netns,
        )
        .map_err(refused("create the network interface"))?;
        sysctl::forbid_ipv6(host_interface)?;
        let index = link::find(&mut inside, interface)
            .map_err(refused("find the network interface"))?
            .ok_or_else(|| refused("find the network interface")(netlink::Error::Answer("empty")))?
            .index;
        let address = Ipv4Net::new(endpoint.address, endpoint.prefix_len).unwrap_or(bridge.pool.subnet());
        let addressing = Addressing { index, address, gateway: Some(endpoint.gateway), loopback: true };
        link::configure(&mut inside, &addressing).map_err(refused("set up the network interface"))?;
        self.join(&mut self.kernel(), endpoint, bridge)?;
        self.await_operation(&mut inside, endpoint).map_err(refused("look at the network interface"))
    }

    /// Waits until frames pass, at most some milliseconds. A pair that has just come up drops what is sent before the
    /// kernel's own worker has noticed, and a lost first ARP request costs a container a second. Since Linux 6.9 asking
    /// makes the kernel notice at once; before, it does so soon.
    fn await_operation(&self, inside: &mut Socket, endpoint: &Endpoint) -> Result<(), netlink::Error> {
        const ATTEMPTS: u32 = 50;
        const PAUSE: Duration = Duration::from_micros(200);
        let passes = |link: Option<link::Link>| link.is_none_or(|link| link.in_operation);
        for _ in 0..ATTEMPTS {
            if passes(link::find(inside, &endpoint.interface)?)
                && passes(link::find(&mut self.kernel().route, &endpoint.host_interface)?)
            {
                break;
            }
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }

    /// Makes the host's end a port of the bridge. A bridge that somebody has removed is made again.
    fn join(&self, kernel: &mut Kernel, endpoint: &Endpoint, bridge: Bridge) -> Result<(), Error> {
        let hairpin = !endpoint.ports.is_empty();
        let name = &endpoint.host_interface;
        let joined = match link::join_bridge(&mut kernel.route, name, bridge.index, hairpin) {
            Err(error) if matches!(error.errno(), Some(Errno::NODEV | Errno::INVAL)) => {
                let bridge = self.make_ready(kernel)?;
                link::join_bridge(&mut kernel.route, name, bridge.index, hairpin)
            }
            joined => joined,
        };
        joined.map_err(|source| Error::Kernel {
            action: format!("connect {} to bridge {}", endpoint.container, self.names.bridge),
            source,
        })
    }

    /// Opens the published ports. A table that somebody has flushed is made again, which contains them.
    fn publish(&self, endpoint: &Endpoint) -> Result<(), Error> {
        if endpoint.ports.is_empty() {
            return Ok(());
        }
        let mut kernel = self.kernel();
        let change = Transaction::new(&self.names.table).add(&firewall::elements(endpoint));
        match change.commit(&mut kernel.filter) {
            Err(error) if error.errno() == Some(Errno::NOENT) => {
                self.make_ready(&mut kernel)?;
            }
            done => done.map_err(|source| Error::Kernel {
                action: format!("publish the ports of {}", endpoint.container),
                source,
            })?,
        }
        for port in endpoint.ports.iter().filter(|port| port.protocol == Protocol::Udp) {
            conntrack::forget_port(&mut kernel.filter, port.protocol, port.host_port);
        }
        Ok(())
    }

    /// Closes the published ports of a container that was announced as leaving: for good, for a table that is replaced from
    /// now on does not have them.
    fn withdraw(&self, endpoint: &Endpoint) -> Result<(), Error> {
        let withdrawn = self.withdraw_elements(endpoint);
        self.release(&endpoint.container);
        withdrawn
    }

    fn withdraw_elements(&self, endpoint: &Endpoint) -> Result<(), Error> {
        let keys: Vec<_> = firewall::elements(endpoint).into_keys().collect();
        if keys.is_empty() {
            return Ok(());
        }
        let mut kernel = self.kernel();
        let mut withdraw = |keys: &[firewall::Key]| {
            Transaction::new(&self.names.table).withdraw(keys.iter()).commit(&mut kernel.filter)
        };
        let mut done = withdraw(&keys);
        if done.as_ref().is_err_and(is_absent) {
            // One that is not there keeps the others; one by one, those that are there go.
            done = keys.chunks(1).try_for_each(|key| match withdraw(key) {
                Err(error) if is_absent(&error) => Ok(()),
                done => done,
            });
        }
        done.map_err(|source| Error::Kernel {
            action: format!("take back the ports of {}", endpoint.container),
            source,
        })
    }

    /// Removes everything of an endpoint, goes on after failures, and waits until it is gone.
    fn take_down(&self, endpoint: &Endpoint) -> Result<(), Error> {
        self.removal.announce(&endpoint.container);
        let withdrawn = self.withdraw(endpoint);
        let removed = Sockets::open()
            .map_err(|source| Error::Kernel { action: "remove a network interface".into(), source })
            .and_then(|mut sockets| sockets.remove(&self.records, endpoint));
        self.removal.forget(&endpoint.container);
        let failures: Vec<_> = withdrawn.err().into_iter().chain(removed.err()).collect();
        if failures.is_empty() {
            return Ok(());
        }
        Err(Error::Teardown { what: endpoint.container.clone(), failures })
    }

    fn reconcile(&self, live: &[&str]) -> Result<Vec<String>, Error> {
        let mut kernel = self.kernel();
        let known = self.records.containers()?;
        let (kept, dead): (Vec<_>, Vec<_>) =
            known.into_iter().partition(|container| live.contains(&container.as_str()));
        let looking = |source| Error::Kernel { action: "list the network interfaces".into(), source };
        let links = link::all(&mut kernel.route).map_err(looking)?;
        let exists = links.iter().any(|link| link.name == self.names.bridge);
        if kept.is_empty() && dead.is_empty() && !exists {
            return Ok(Vec::new());
        }
        let endpoints = self.records.endpoints()?;
        let (kept, gone): (Vec<_>, Vec<_>) =
            endpoints.into_iter().partition(|endpoint| kept.contains(&endpoint.container));
        for container in &dead {
            let name = self.names.host_interface(container);
            link::delete(&mut kernel.route, &name).map_err(|source| Error::Kernel {
                action: format!("remove the network interface of {container}"),
                source,
            })?;
        }
        let pool = bridge::pool(&mut kernel.route, &self.config, &self.names, &self.records)?;
        let bridge = bridge::make(&mut kernel.route, &self.names, pool)?;
        self.replace_table(&mut kernel, bridge, &kept)?;
        kernel.bridge = Some(bridge);
        for endpoint in &gone {
            conntrack::forget_address(&mut kernel.filter, endpoint.address);
        }
        for container in &dead {
            self.release(container);
            self.records.remove(container)?;
        }
        self.repair_ports(&mut kernel, bridge, &kept, &links)?;
        Ok(dead)
    }

    /// Connects living endpoints whose bridge was lost, and removes ports of our bridge that nobody owns.
    fn repair_ports(
        &self,
        kernel: &mut Kernel,
        bridge: Bridge,
        kept: &[Endpoint],
        links: &[link::Link],
    ) -> Result<(), Error> {
        for endpoint in kept {
            match links.iter().find(|link| link.name == endpoint.host_interface) {
                Some(link) if link.master == Some(bridge.index) && link.up => {}
                Some(_) => self.join(kernel, endpoint, bridge)?,
                None => tracing::warn!(
                    container = %endpoint.container,
                    "the container has lost its network interface; restart it to give it a new one"
                ),
            }
        }
        let owned = |name: &str| kept.iter().any(|endpoint| endpoint.host_interface == name);
        let strays = links.iter().filter(|link| {
            self.names.own_bridge
                && link.master == Some(bridge.index)
                && link.kind == "veth"
                && !owned(&link.name)
        });
        for stray in strays {
            link::delete(&mut kernel.route, &stray.name).map_err(|source| Error::Kernel {
                action: format!("remove the stray network interface {}", stray.name),
                source,
            })?;
        }
        Ok(())
    }
}

/// The element or the table is not there.
fn is_absent(error: &netlink::Error) -> bool {
    error.errno() == Some(Errno::NOENT)
}
