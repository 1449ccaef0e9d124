//! A small internet in network namespaces: the machine the engine runs on, its neighbours on two networks, containers.
//!
//! Nothing here has a name in the file system: a namespace lives as long as a descriptor of it, so a test that panics
//! leaves nothing behind, and the machine's own network is never touched.
#![allow(dead_code, reason = "every test file uses a part of this")]
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "only tests call this")]

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};
use wharf_linux::netlink::{Batch, Family, Socket, in_netns};
use wharf_net::{Attached, EndpointRequest, Error, HostPort, Network, NetworkConfig, PortRequest, Protocol};
use wharf_state::Database;

/// Long enough for anything that does happen, on any machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// How long a packet that must not arrive is given to arrive.
pub(crate) const SILENCE: Duration = Duration::from_millis(300);

/// The machine's address on the network of [`World::lan`], and the neighbour's.
pub(crate) const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub(crate) const LAN: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// The same on the network of [`World::far`].
pub(crate) const HOST_FAR: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
pub(crate) const FAR: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);

/// A network namespace.
#[derive(Debug)]
pub(crate) struct Netns(File);

impl Netns {
    pub(crate) fn new() -> io::Result<Self> {
        let make = || {
            // SAFETY: only the network namespace is unshared; file descriptors stay shared.
            #[expect(unsafe_code, reason = "rustix marks every unshare unsafe because of FILES")]
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }?;
            File::open("/proc/thread-self/ns/net")
        };
        std::thread::spawn(make).join().unwrap().map(Self)
    }

    /// Runs a closure inside. A socket made there stays there.
    pub(crate) fn run<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> T {
        in_netns(self.0.as_fd(), inside).unwrap()
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Reads a kernel parameter.
    pub(crate) fn sysctl(&self, path: &str) -> String {
        let path = format!("/proc/sys/net/{path}");
        self.run(|| std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}")))
            .trim()
            .to_owned()
    }

    /// The addresses of IPv6 on one interface, from the kernel's own list.
    pub(crate) fn ipv6_addresses(&self, interface: &str) -> Vec<String> {
        let list = self.run(|| std::fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap_or_default());
        list.lines().filter(|line| line.ends_with(&format!(" {interface}"))).map(str::to_owned).collect()
    }

    /// A listening socket inside.
    pub(crate) fn listen(&self, address: &str) -> TcpListener {
        self.run(|| TcpListener::bind(address).unwrap_or_else(|error| panic!("{address}: {error}")))
    }

    /// A connection from inside, or the reason there is none.
    pub(crate) fn connect(
        &self,
        address: impl Into<SocketAddr>,
        patience: Duration,
    ) -> io::Result<TcpStream> {
        let address = address.into();
        self.run(|| TcpStream::connect_timeout(&address, patience))
    }

    /// A datagram socket inside.
    pub(crate) fn udp(&self, address: &str) -> UdpSocket {
        let socket =
            self.run(|| UdpSocket::bind(address).unwrap_or_else(|error| panic!("{address}: {error}")));
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    }
}

/// The machine and its neighbours. The calling thread is moved into the machine's namespace, so everything the test does
/// outside [`Netns::run`] happens on "the host".
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) host: Netns,
    pub(crate) lan: Netns,
    pub(crate) far: Netns,
}

impl World {
    /// `None`, with a note, for a user who may not make network namespaces.
    pub(crate) fn new() -> Option<Self> {
        let host = match Netns::new() {
            Ok(host) => host,
            Err(error) => {
                eprintln!("skipped: network namespaces need root ({error})");
                return None;
            }
        };
        move_into_link_name_space(host.fd(), Some(LinkNameSpaceType::Network)).unwrap();
        let world = Self { host, lan: Netns::new().unwrap(), far: Netns::new().unwrap() };
        loopback_up();
        cable("lan0", HOST, &world.lan, LAN);
        cable("far0", HOST_FAR, &world.far, FAR);
        for (neighbour, host) in [(&world.lan, HOST), (&world.far, HOST_FAR)] {
            neighbour.run(|| {
                loopback_up();
                default_route(host);
            });
        }
        Some(world)
    }

    /// An engine's network on the host.
    pub(crate) fn network(&self) -> Network {
        self.network_of("", Database::in_memory().unwrap())
    }

    pub(crate) fn network_of(&self, instance: &str, state: Database) -> Network {
        let config = NetworkConfig { instance: instance.into(), bridge: None, subnet: None, state };
        Network::open(config).unwrap()
    }

    /// A container on the network.
    pub(crate) fn container(&self, network: &Network, name: &str, ports: &[PortRequest]) -> Container {
        self.try_container(network, name, ports).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    pub(crate) fn try_container(
        &self,
        network: &Network,
        name: &str,
        ports: &[PortRequest],
    ) -> Result<Container, Error> {
        let netns = Netns::new().unwrap();
        let request = EndpointRequest { container: name, netns: netns.fd(), ports, address: None, mac: None };
        let attached = network.attach(&request)?;
        Ok(Container { netns, attached })
    }
}

/// A container: a namespace with an endpoint.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) netns: Netns,
    pub(crate) attached: Attached,
}

impl Container {
    pub(crate) fn address(&self) -> Ipv4Addr {
        self.attached.endpoint.address
    }
}

/// `-p host_port:container_port`.
pub(crate) fn tcp(host_port: u16, container_port: u16) -> PortRequest {
    publish(None, host_port, container_port, Protocol::Tcp)
}

pub(crate) fn udp(host_port: u16, container_port: u16) -> PortRequest {
    publish(None, host_port, container_port, Protocol::Udp)
}

/// `-p host_ip:host_port:container_port/protocol`; host port 0 is an ephemeral one.
pub(crate) fn publish(
    host_ip: Option<&str>,
    host_port: u16,
    container_port: u16,
    protocol: Protocol,
) -> PortRequest {
    let host_port =
        if host_port == 0 { HostPort::Ephemeral } else { HostPort::Between(host_port, host_port) };
    PortRequest { host_ip: host_ip.map(|ip| ip.parse().unwrap()), host_port, container_port, protocol }
}

/// Connects, and returns the address the server saw the client under.
pub(crate) fn meet(server: &TcpListener, from: &Netns, to: (Ipv4Addr, u16)) -> Ipv4Addr {
    let client = from.connect(to, PATIENCE).unwrap_or_else(|error| panic!("connect to {to:?}: {error}"));
    let patience = PATIENCE.try_into().unwrap();
    let mut ready = [PollFd::new(server, PollFlags::IN)];
    assert_eq!(poll(&mut ready, Some(&patience)), Ok(1), "somebody else answers at {to:?}");
    let (_, peer) = server.accept().unwrap();
    drop(client);
    match peer {
        SocketAddr::V4(peer) => *peer.ip(),
        SocketAddr::V6(peer) => panic!("{peer}"),
    }
}

/// Asserts that nobody answers there.
pub(crate) fn assert_unreachable(from: &Netns, to: (Ipv4Addr, u16)) {
    if let Ok(stream) = from.connect(to, SILENCE) {
        panic!("{to:?} answered: {stream:?}");
    }
}

/// A veth pair between the calling thread's namespace and another, up at both ends.
fn cable(name: &str, here: Ipv4Addr, other: &Netns, there: Ipv4Addr) {
    use std::os::fd::AsRawFd;
    let netns = other.fd().as_raw_fd().cast_unsigned();
    talk(|batch| {
        batch.push(16, CREATE, &[0; 16], |link| {
            link.string(3, name).nest(18, |info| {
                info.string(1, "veth").nest(2, |data| {
                    data.nest_after(1, &[0; 16], |peer| {
                        peer.string(3, "wire0").u32(28, netns);
                    });
                });
            });
        });
    });
    address(name, here);
    other.run(|| address("wire0", there));
}

const CREATE: u16 = Batch::ACK | Batch::CREATE | Batch::EXCL;

/// Gives an interface an address of a /24 and brings it up.
pub(crate) fn address(name: &str, address: Ipv4Addr) {
    let index = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    assert!(index.contains(name), "no {name} in {index}");
    let index = rustix::net::netdevice::name_to_index(any_socket(), name).unwrap().to_ne_bytes();
    talk(|batch| {
        let header = [[2, 24, 0, 0], index].concat();
        batch.push(20, CREATE, &header, |attributes| {
            attributes.bytes(2, &address.octets()).bytes(1, &address.octets());
        });
        let up = [[0; 4], index, [1, 0, 0, 0], [1, 0, 0, 0]].concat();
        batch.push(16, Batch::ACK, &up, |_| {});
    });
}

pub(crate) fn loopback_up() {
    let up = [[0; 4], [1, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]].concat();
    talk(|batch| batch.push(16, Batch::ACK, &up, |_| {}));
}

/// A route by way of `gateway`; `None` for everything.
pub(crate) fn route(destination: Option<(Ipv4Addr, u8)>, gateway: Ipv4Addr) {
    let length = destination.map_or(0, |(_, length)| length);
    talk(|batch| {
        batch.push(24, CREATE, &[2, length, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0], |route| {
            if let Some((destination, _)) = destination {
                route.bytes(1, &destination.octets());
            }
            route.bytes(5, &gateway.octets());
        });
    });
}

pub(crate) fn default_route(gateway: Ipv4Addr) {
    route(None, gateway);
}

/// Removes a link of the calling thread's namespace.
pub(crate) fn remove_link(name: &str) {
    talk(|batch| {
        batch.push(17, Batch::ACK, &[0; 16], |link| {
            link.string(3, name);
        });
    });
}

/// The names of the calling thread's links.
pub(crate) fn links() -> Vec<String> {
    let list = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    let mut names: Vec<_> = list
        .lines()
        .skip(2)
        .filter_map(|line| line.split(':').next())
        .map(|name| name.trim().to_owned())
        .collect();
    names.sort();
    names
}

/// Removes every firewall table of the calling thread's namespace, as `nft flush ruleset` does.
pub(crate) fn flush_firewall() {
    let mut batch = Batch::new();
    batch.push(0x10, 0, &[0, 0, 0, 10], |_| {});
    batch.push(10 << 8 | 2, Batch::ACK, &[0, 0, 0, 0], |_| {});
    batch.push(0x11, 0, &[0, 0, 0, 10], |_| {});
    Socket::open(Family::Netfilter).unwrap().transact(&mut batch).unwrap();
}

/// The names of the calling thread's firewall tables.
pub(crate) fn tables() -> Vec<String> {
    let mut batch = Batch::new();
    batch.push(10 << 8 | 1, Batch::DUMP, &[0, 0, 0, 0], |_| {});
    let mut names = Vec::new();
    Socket::open(Family::Netfilter)
        .unwrap()
        .exchange(&mut batch, &mut |frame| {
            let name = wharf_linux::netlink::Attributes::after(frame.payload, 4).find(1)?.unwrap_or_default();
            names.push(String::from_utf8_lossy(name).trim_end_matches('\0').to_owned());
            Ok(())
        })
        .unwrap();
    names.sort();
    names
}

fn talk(fill: impl FnOnce(&mut Batch)) {
    let mut batch = Batch::new();
    fill(&mut batch);
    Socket::open(Family::Route).unwrap().transact(&mut batch).unwrap();
}

fn any_socket() -> UdpSocket {
    UdpSocket::bind("0.0.0.0:0").unwrap()
}

/// Binds a packet socket to one interface and every protocol.
pub(crate) fn bind_packet_socket(socket: impl AsFd, index: u32) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    // SAFETY: all fields of sockaddr_ll may be zero.
    #[expect(unsafe_code, reason = "rustix has no link-layer address")]
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET.try_into().unwrap();
    address.sll_protocol = 3_u16.to_be();
    address.sll_ifindex = index.try_into().unwrap();
    let length = size_of::<libc::sockaddr_ll>().try_into().unwrap();
    // SAFETY: the pointer and the length describe `address`.
    #[expect(unsafe_code, reason = "rustix has no link-layer address")]
    let bound = unsafe { libc::bind(socket.as_fd().as_raw_fd(), (&raw const address).cast(), length) };
    if bound == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The Ethernet address of a link of the calling thread's namespace.
pub(crate) fn mac_of(name: &str) -> [u8; 6] {
    let mut batch = Batch::new();
    batch.push(18, Batch::ACK, &[0; 16], |link| {
        link.string(3, name);
    });
    let mut mac = [0; 6];
    Socket::open(Family::Route)
        .unwrap()
        .exchange(&mut batch, &mut |frame| {
            let found =
                wharf_linux::netlink::Attributes::after(frame.payload, 16).find(1)?.unwrap_or_default();
            mac.copy_from_slice(found);
            Ok(())
        })
        .unwrap();
    mac
}

/// Makes the calling thread's namespace send what is meant for 127.0.0.0/8 to a neighbour.
pub(crate) fn hijack_loopback(interface: &str, gateway: Ipv4Addr) {
    let index = rustix::net::netdevice::name_to_index(any_socket(), interface).unwrap();
    talk(|batch| {
        // The kernel's own entries first: loopback addresses are local.
        for (address, length) in [([127, 0, 0, 0], 8), ([127, 0, 0, 1], 32)] {
            batch.push(25, Batch::ACK, &[2, length, 0, 0, 255, 2, 254, 2, 0, 0, 0, 0], |route| {
                route.bytes(1, &address);
            });
        }
        batch.push(24, CREATE, &[2, 8, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0], |route| {
            route.bytes(1, &[127, 0, 0, 0]).bytes(5, &gateway.octets()).u32(4, index);
        });
    });
}

/// Makes a bridge that is up.
pub(crate) fn make_bridge(name: &str) {
    talk(|batch| {
        let up = [[0; 4], [0; 4], [1, 0, 0, 0], [1, 0, 0, 0]].concat();
        batch.push(16, CREATE, &up, |link| {
            link.string(3, name).nest(18, |info| {
                info.string(1, "bridge");
            });
        });
    });
}

/// How many ports a table publishes.
pub(crate) fn published(table: &str) -> usize {
    let mut count = 0;
    for map in ["published", "published_on_address"] {
        let mut batch = Batch::new();
        batch.push(10 << 8 | 13, Batch::DUMP, &[2, 0, 0, 0], |attributes| {
            attributes.string(1, table).string(2, map);
        });
        Socket::open(Family::Netfilter)
            .unwrap()
            .exchange(&mut batch, &mut |frame| {
                let list =
                    wharf_linux::netlink::Attributes::after(frame.payload, 4).find(3)?.unwrap_or_default();
                count += wharf_linux::netlink::Attributes::new(list).count();
                Ok(())
            })
            .unwrap();
    }
    count
}
