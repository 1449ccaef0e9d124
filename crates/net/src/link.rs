//! Links, addresses and routes: what this crate says to rtnetlink, and nothing of why.
//!
//! Functions that change something take the socket of the network namespace they change. Each is one batch: the cost of a
//! start is counted in system calls here.

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd};

use ipnet::Ipv4Net;
use rustix::io::Errno;
use wharf_linux::netlink::{Attributes, Batch, Error, Frame, Socket};

use crate::Mac;

/// `enum rtm`.
const NEW_LINK: u16 = 16;
const DELETE_LINK: u16 = 17;
const GET_LINK: u16 = 18;
const NEW_ADDRESS: u16 = 20;
const DELETE_ADDRESS: u16 = 21;
const GET_ADDRESS: u16 = 22;
const NEW_ROUTE: u16 = 24;
const GET_ROUTE: u16 = 26;
/// `enum ifla`.
const IFLA_ADDRESS: u16 = 1;
const IFLA_NAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_OPERATION: u16 = 16;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NETNS_FD: u16 = 28;
/// `enum ifla_info`.
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const INFO_SLAVE_KIND: u16 = 4;
const INFO_SLAVE_DATA: u16 = 5;
/// `VETH_INFO_PEER`, `IFLA_BRPORT_MODE`.
const VETH_PEER: u16 = 1;
const PORT_HAIRPIN: u16 = 4;
/// `enum ifa`.
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
/// `enum rta`.
const ROUTE_DESTINATION: u16 = 1;
const ROUTE_INTERFACE: u16 = 4;
const ROUTE_GATEWAY: u16 = 5;
/// `IF_OPER_UP`.
const IN_OPERATION: u8 = 6;
/// `IFF_UP`.
const UP: u32 = 1;
/// `AF_INET`.
const IPV4: u8 = 2;
/// The loopback interface is the first of every network namespace.
const LOOPBACK: u32 = 1;
/// Sizes of `ifinfomsg`, `ifaddrmsg`, `rtmsg`.
const LINK_HEADER: usize = 16;
const ADDRESS_HEADER: usize = 8;
const ROUTE_HEADER: usize = 12;

/// A link, as far as this crate cares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) up: bool,
    /// Frames pass: the kernel has noticed that both ends are up.
    pub(crate) in_operation: bool,
    pub(crate) mtu: u32,
    /// The index of the bridge it is a port of.
    pub(crate) master: Option<u32>,
    /// `bridge`, `veth`, …; empty for real devices.
    pub(crate) kind: String,
}

/// Makes a bridge that is down. Its Ethernet address is given, for otherwise it would change with every port.
pub(crate) fn create_bridge(socket: &mut Socket, name: &str, mac: Mac, mtu: u32) -> Result<(), Error> {
    let mut batch = Batch::new();
    batch.push(NEW_LINK, Batch::ACK | Batch::CREATE | Batch::EXCL, &link_header(0, 0), |link| {
        link.string(IFLA_NAME, name).bytes(IFLA_ADDRESS, &mac.0).u32(IFLA_MTU, mtu).nest(
            IFLA_LINKINFO,
            |info| {
                info.string(INFO_KIND, "bridge");
            },
        );
    });
    socket.transact(&mut batch)
}

/// Makes a veth pair that is down: `name` here, `peer` with its Ethernet address in the other network namespace.
pub(crate) fn create_veth(
    socket: &mut Socket,
    name: &str,
    mtu: u32,
    peer: &str,
    peer_mac: Mac,
    netns: BorrowedFd<'_>,
) -> Result<(), Error> {
    let mut batch = Batch::new();
    batch.push(NEW_LINK, Batch::ACK | Batch::CREATE | Batch::EXCL, &link_header(0, 0), |link| {
        link.string(IFLA_NAME, name).u32(IFLA_MTU, mtu).nest(IFLA_LINKINFO, |info| {
            info.string(INFO_KIND, "veth").nest(INFO_DATA, |data| {
                data.nest_after(VETH_PEER, &link_header(0, 0), |link| {
                    link.string(IFLA_NAME, peer)
                        .bytes(IFLA_ADDRESS, &peer_mac.0)
                        .u32(IFLA_MTU, mtu)
                        .u32(IFLA_NETNS_FD, netns.as_raw_fd().cast_unsigned());
                });
            });
        });
    });
    socket.transact(&mut batch)
}

/// Brings a link up and makes it a port of a bridge; `hairpin` lets the bridge send a frame back where it came from.
pub(crate) fn join_bridge(socket: &mut Socket, name: &str, bridge: u32, hairpin: bool) -> Result<(), Error> {
    let mut batch = Batch::new();
    batch.push(NEW_LINK, Batch::ACK, &link_header(0, UP), |link| {
        link.string(IFLA_NAME, name).u32(IFLA_MASTER, bridge);
    });
    if hairpin {
        batch.push(NEW_LINK, Batch::ACK, &link_header(0, 0), |link| {
            link.string(IFLA_NAME, name).nest(IFLA_LINKINFO, |info| {
                info.string(INFO_SLAVE_KIND, "bridge").nest(INFO_SLAVE_DATA, |port| {
                    port.u8(PORT_HAIRPIN, 1);
                });
            });
        });
    }
    socket.transact(&mut batch)
}

/// Removes a link; none is no error.
pub(crate) fn delete(socket: &mut Socket, name: &str) -> Result<(), Error> {
    let mut batch = Batch::new();
    batch.push(DELETE_LINK, Batch::ACK, &link_header(0, 0), |link| {
        link.string(IFLA_NAME, name);
    });
    match socket.transact(&mut batch) {
        Err(error) if error.errno() == Some(Errno::NODEV) => Ok(()),
        done => done,
    }
}

/// Brings the loopback interface up; it has its addresses by itself.
pub(crate) fn loopback_up(socket: &mut Socket) -> Result<(), Error> {
    let mut batch = Batch::new();
    batch.push(NEW_LINK, Batch::ACK, &link_header(LOOPBACK, UP), |_| {});
    socket.transact(&mut batch)
}

/// What an interface gets inside a container, or on the host for a bridge.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addressing {
    pub(crate) index: u32,
    pub(crate) address: Ipv4Net,
    pub(crate) gateway: Option<Ipv4Addr>,
    pub(crate) loopback: bool,
}

/// Gives an interface its address, brings it up, then sets the default route; and the loopback interface up if asked for.
pub(crate) fn configure(socket: &mut Socket, wanted: &Addressing) -> Result<(), Error> {
    let mut batch = Batch::new();
    if wanted.loopback {
        batch.push(NEW_LINK, Batch::ACK, &link_header(LOOPBACK, UP), |_| {});
    }
    let header = address_header(wanted.index, wanted.address);
    batch.push(NEW_ADDRESS, Batch::ACK | Batch::CREATE | Batch::REPLACE, &header, |attributes| {
        let local = wanted.address.addr().octets();
        attributes.bytes(IFA_LOCAL, &local).bytes(IFA_ADDRESS, &local);
        if wanted.address.prefix_len() < 31 {
            attributes.bytes(IFA_BROADCAST, &wanted.address.broadcast().octets());
        }
    });
    batch.push(NEW_LINK, Batch::ACK, &link_header(wanted.index, UP), |_| {});
    if let Some(gateway) = wanted.gateway {
        /// `RT_TABLE_MAIN`, `RTPROT_BOOT`, `RT_SCOPE_UNIVERSE`, `RTN_UNICAST`.
        const DEFAULT_ROUTE: [u8; ROUTE_HEADER] = [IPV4, 0, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0];
        batch.push(NEW_ROUTE, Batch::ACK | Batch::CREATE | Batch::EXCL, &DEFAULT_ROUTE, |route| {
            route.bytes(ROUTE_GATEWAY, &gateway.octets()).u32(ROUTE_INTERFACE, wanted.index);
        });
    }
    socket.transact(&mut batch)
}

/// Takes an address off an interface; none is no error.
pub(crate) fn remove_address(socket: &mut Socket, index: u32, address: Ipv4Net) -> Result<(), Error> {
    let mut batch = Batch::new();
    batch.push(DELETE_ADDRESS, Batch::ACK, &address_header(index, address), |attributes| {
        attributes.bytes(IFA_LOCAL, &address.addr().octets());
    });
    match socket.transact(&mut batch) {
        Err(error) if error.errno() == Some(Errno::ADDRNOTAVAIL) => Ok(()),
        done => done,
    }
}

/// The link of this name.
pub(crate) fn find(socket: &mut Socket, name: &str) -> Result<Option<Link>, Error> {
    let mut batch = Batch::new();
    batch.push(GET_LINK, Batch::ACK, &link_header(0, 0), |link| {
        link.string(IFLA_NAME, name);
    });
    let mut found = None;
    let asked = socket.exchange(&mut batch, &mut |frame| {
        found = parse_link(&frame)?;
        Ok(())
    });
    match asked {
        Ok(()) => Ok(found),
        Err(error) if error.errno() == Some(Errno::NODEV) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Every link.
pub(crate) fn all(socket: &mut Socket) -> Result<Vec<Link>, Error> {
    dump(socket, GET_LINK, &link_header(0, 0), parse_link)
}

/// The IPv4 addresses of every interface, with their interfaces.
pub(crate) fn addresses(socket: &mut Socket) -> Result<Vec<(u32, Ipv4Net)>, Error> {
    dump(socket, GET_ADDRESS, &[IPV4, 0, 0, 0, 0, 0, 0, 0], parse_address)
}

/// The IPv4 routes with their interfaces; a default route has the prefix length 0.
pub(crate) fn routes(socket: &mut Socket) -> Result<Vec<(Option<u32>, Ipv4Net)>, Error> {
    let mut header = [0; ROUTE_HEADER];
    header[0] = IPV4;
    dump(socket, GET_ROUTE, &header, parse_route)
}

/// Asks for everything, again when the answer was overtaken by changes.
fn dump<T>(
    socket: &mut Socket,
    kind: u16,
    header: &[u8],
    parse: impl Fn(&Frame<'_>) -> Result<Option<T>, Error>,
) -> Result<Vec<T>, Error> {
    let mut attempts = 0;
    loop {
        let mut batch = Batch::new();
        batch.push(kind, Batch::DUMP, header, |_| {});
        let mut found = Vec::new();
        let asked = socket.exchange(&mut batch, &mut |frame| {
            found.extend(parse(&frame)?);
            Ok(())
        });
        attempts += 1;
        match asked {
            Ok(()) => return Ok(found),
            Err(Error::Answer(_)) if attempts < 10 => {}
            Err(error) => return Err(error),
        }
    }
}

fn parse_link(frame: &Frame<'_>) -> Result<Option<Link>, Error> {
    let (Some(index), Some(flags)) = (u32_at(frame.payload, 4), u32_at(frame.payload, 8)) else {
        return Err(Error::Answer("too short"));
    };
    let mut link = Link { index, up: flags & UP != 0, ..Link::default() };
    for attribute in Attributes::after(frame.payload, LINK_HEADER) {
        match attribute? {
            (IFLA_NAME, name) => link.name = text(name),
            (IFLA_MTU, mtu) => link.mtu = u32_at(mtu, 0).unwrap_or_default(),
            (IFLA_OPERATION, state) => link.in_operation = state == [IN_OPERATION],
            (IFLA_MASTER, master) => link.master = u32_at(master, 0),
            (IFLA_LINKINFO, info) => {
                link.kind = Attributes::new(info).find(INFO_KIND)?.map(text).unwrap_or_default();
            }
            _ => {}
        }
    }
    Ok(Some(link))
}

fn parse_address(frame: &Frame<'_>) -> Result<Option<(u32, Ipv4Net)>, Error> {
    let (Some(&prefix), Some(index)) = (frame.payload.get(1), u32_at(frame.payload, 4)) else {
        return Err(Error::Answer("too short"));
    };
    let attributes = Attributes::after(frame.payload, ADDRESS_HEADER);
    let address = match attributes.clone().find(IFA_LOCAL)? {
        Some(address) => Some(address),
        None => attributes.find(IFA_ADDRESS)?,
    };
    Ok(address.and_then(ipv4).and_then(|address| Ipv4Net::new(address, prefix).ok()).map(|net| (index, net)))
}

fn parse_route(frame: &Frame<'_>) -> Result<Option<(Option<u32>, Ipv4Net)>, Error> {
    let Some(&prefix) = frame.payload.get(1) else { return Err(Error::Answer("too short")) };
    let attributes = Attributes::after(frame.payload, ROUTE_HEADER);
    let interface = attributes.clone().find(ROUTE_INTERFACE)?.and_then(|index| u32_at(index, 0));
    let destination = match attributes.find(ROUTE_DESTINATION)? {
        Some(address) => ipv4(address),
        None => Some(Ipv4Addr::UNSPECIFIED),
    };
    let net = destination.and_then(|address| Ipv4Net::new(address, prefix).ok());
    Ok(net.map(|net| (interface, net)))
}

/// `struct ifinfomsg`: only the named flags change.
fn link_header(index: u32, flags: u32) -> [u8; LINK_HEADER] {
    let mut header = [0; LINK_HEADER];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&flags.to_ne_bytes());
    header
}

/// `struct ifaddrmsg`.
fn address_header(index: u32, address: Ipv4Net) -> [u8; ADDRESS_HEADER] {
    let [a, b, c, d] = index.to_ne_bytes();
    [IPV4, address.prefix_len(), 0, 0, a, b, c, d]
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

fn ipv4(bytes: &[u8]) -> Option<Ipv4Addr> {
    <[u8; 4]>::try_from(bytes).ok().map(Ipv4Addr::from)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use wharf_linux::netlink::{Family, Frames};

    use super::*;

    #[test]
    fn a_link_is_read_as_it_was_written() {
        let mut batch = Batch::new();
        batch.push(NEW_LINK, 0, &link_header(7, UP), |link| {
            link.string(IFLA_NAME, "veth1")
                .u32(IFLA_MTU, 1450)
                .u8(IFLA_OPERATION, IN_OPERATION)
                .u32(IFLA_MASTER, 3);
            link.nest(IFLA_LINKINFO, |info| {
                info.string(INFO_KIND, "veth");
            });
        });
        let frame = Frames::new(batch.as_bytes()).next().unwrap().unwrap();
        let link = Link {
            index: 7,
            name: "veth1".into(),
            up: true,
            in_operation: true,
            mtu: 1450,
            master: Some(3),
            kind: "veth".into(),
        };
        assert_eq!(parse_link(&frame).unwrap(), Some(link));
    }

    #[test]
    fn the_loopback_interface_has_its_address_and_no_master() {
        let mut socket = Socket::open(Family::Route).unwrap();
        let links = all(&mut socket).unwrap();
        let loopback = links.iter().find(|link| link.name == "lo").unwrap();
        assert_eq!((loopback.index, loopback.master), (1, None));
        assert_eq!(find(&mut socket, "lo").unwrap().unwrap().index, 1);
        assert_eq!(find(&mut socket, "no-such-link").unwrap(), None);
        if loopback.up {
            assert!(addresses(&mut socket).unwrap().contains(&(1, "127.0.0.1/8".parse().unwrap())));
        }
    }

    proptest! {
        #[test]
        fn any_answer_is_survived(payload in prop::collection::vec(any::<u8>(), 0..120), kind in any::<u16>()) {
            let frame = Frame { kind, flags: 0, sequence: 0, payload: &payload };
            let _ = parse_link(&frame);
            let _ = parse_address(&frame);
            let _ = parse_route(&frame);
        }
    }
}
