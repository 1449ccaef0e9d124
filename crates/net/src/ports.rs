//! Host ports: choosing and reserving them.
//!
//! The firewall would translate a port that a program of the host listens on just as well, so a published port is reserved
//! by a real socket: the kernel then arbitrates between programs, engines and containers. The socket is bound and cannot be
//! bound over, but does not listen: a client that comes in the instant before or after the translation exists is refused
//! instead of waiting for an answer forever.

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU16, Ordering};

use rustix::io::Errno;
use rustix::net::{AddressFamily, Shutdown, SocketFlags, SocketType, ipproto, sockopt};
use wharf_model::network::{Port, Protocol};

use crate::{Error, HostPort, PortRequest, PublishedPort};

/// The ports an ephemeral one comes from: the kernel's own default range, as Docker.
const EPHEMERAL: (u16, u16) = (32768, 60999);

/// Where the next search for an ephemeral port begins, by protocol.
#[derive(Debug)]
pub(crate) struct Allocator {
    next: [AtomicU16; 3],
}

/// Finds the container that has published a port, for the message and for protocols the kernel cannot reserve.
pub(crate) type Holder<'a> = dyn Fn(&PublishedPort) -> Result<Option<String>, Error> + 'a;

impl Default for Allocator {
    fn default() -> Self {
        Self { next: [const { AtomicU16::new(EPHEMERAL.0) }; 3] }
    }
}

impl Allocator {
    /// Chooses and reserves the ports of a container, in the order of the requests.
    pub(crate) fn reserve(
        &self,
        requests: &[PortRequest],
        container: Ipv4Addr,
        holder: &Holder<'_>,
    ) -> Result<(Vec<PublishedPort>, Vec<OwnedFd>), Error> {
        let mut published = Vec::with_capacity(requests.len());
        let mut sockets = Vec::with_capacity(requests.len());
        for request in requests {
            let host_ip = match request.host_ip {
                None => Ipv4Addr::UNSPECIFIED,
                Some(IpAddr::V4(address)) => address,
                Some(address) => return Err(Error::Ipv6Unsupported { address }),
            };
            let (port, socket) = self.reserve_one(request, host_ip, container, &|port| {
                if published.iter().any(|other| collide(other, port)) {
                    return Ok(Some("this container".to_owned()));
                }
                holder(port)
            })?;
            published.push(port);
            sockets.extend(socket);
        }
        Ok((published, sockets))
    }

    fn reserve_one(
        &self,
        request: &PortRequest,
        host_ip: Ipv4Addr,
        container: Ipv4Addr,
        holder: &Holder<'_>,
    ) -> Result<(PublishedPort, Option<OwnedFd>), Error> {
        let (protocol, container_port) = (request.protocol, request.container_port);
        let (first, last) = match request.host_port {
            HostPort::Between(first, last) => (first, last),
            HostPort::Ephemeral => EPHEMERAL,
        };
        let start = match request.host_port {
            HostPort::Between(first, _) => first,
            HostPort::Ephemeral => self.next(protocol).load(Ordering::Relaxed),
        };
        for host_port in (start..=last).chain(first..start) {
            let port = PublishedPort { host_ip, host_port, container_port, protocol };
            match try_reserve(&port, container, holder) {
                Ok(socket) => {
                    if request.host_port == HostPort::Ephemeral {
                        let next = if host_port == last { first } else { host_port + 1 };
                        self.next(protocol).store(next, Ordering::Relaxed);
                    }
                    return Ok((port, socket));
                }
                Err(Error::PortInUse { .. } | Error::PortAllocated { .. }) if first < last => {}
                Err(error) => return Err(error),
            }
        }
        let port = Port { number: container_port, protocol };
        Err(Error::PortsExhausted { host_ip, first, last, port })
    }

    const fn next(&self, protocol: Protocol) -> &AtomicU16 {
        match protocol {
            Protocol::Tcp => &self.next[0],
            Protocol::Udp => &self.next[1],
            Protocol::Sctp => &self.next[2],
        }
    }
}

/// True when no two programs could listen on both.
pub(crate) fn collide(one: &PublishedPort, other: &PublishedPort) -> bool {
    one.protocol == other.protocol
        && one.host_port == other.host_port
        && (one.host_ip == other.host_ip || one.host_ip.is_unspecified() || other.host_ip.is_unspecified())
}

fn try_reserve(
    port: &PublishedPort,
    container: Ipv4Addr,
    holder: &Holder<'_>,
) -> Result<Option<OwnedFd>, Error> {
    let host = SocketAddrV4::new(port.host_ip, port.host_port);
    let inside = SocketAddrV4::new(container, port.container_port);
    let protocol = port.protocol;
    let allocated = |holder| Error::PortAllocated { host, protocol, holder };
    match bind(host, protocol) {
        Ok(socket) => Ok(Some(socket)),
        Err(Errno::ADDRINUSE) => Err(match holder(port)? {
            Some(holder) => allocated(holder),
            None => Error::PortInUse { host, container: inside, protocol },
        }),
        // Translation needs no SCTP sockets: only the check against programs of the host is missing then.
        Err(Errno::PROTONOSUPPORT | Errno::SOCKTNOSUPPORT) if protocol == Protocol::Sctp => {
            holder(port)?.map_or(Ok(None), |holder| Err(allocated(holder)))
        }
        Err(Errno::ADDRNOTAVAIL) => Err(Error::NoSuchAddress { host, container: inside, protocol }),
        Err(errno) => Err(Error::Bind { host, container: inside, protocol, source: errno.into() }),
    }
}

/// A socket that holds the port. A stream socket has listened once, which makes the kernel check against every other
/// socket; thereafter it is deaf but still bound, and without `SO_REUSEADDR` nobody can bind over it.
fn bind(address: SocketAddrV4, protocol: Protocol) -> Result<OwnedFd, Errno> {
    let (kind, number) = match protocol {
        Protocol::Tcp => (SocketType::STREAM, ipproto::TCP),
        Protocol::Udp => (SocketType::DGRAM, ipproto::UDP),
        Protocol::Sctp => (SocketType::STREAM, ipproto::SCTP),
    };
    let socket = rustix::net::socket_with(AddressFamily::INET, kind, SocketFlags::CLOEXEC, Some(number))?;
    if protocol == Protocol::Udp {
        rustix::net::bind(&socket, &address)?;
        return Ok(socket);
    }
    // Connections of an earlier program that linger in TIME_WAIT are no obstacle.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, 1)?;
    sockopt::set_socket_reuseaddr(&socket, false)?;
    if protocol == Protocol::Tcp {
        rustix::net::shutdown(&socket, Shutdown::Read)?;
    }
    Ok(socket)
}
