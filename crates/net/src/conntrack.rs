//! Forgetting connections: what the kernel remembers of a translated connection outlives the rule that translated it.
//!
//! A UDP flow that never pauses would otherwise go on to a dead container's address, or past a container that has just
//! published the port it uses. A flow that cannot be forgotten runs into its timeout: that is no failure of the caller's, and
//! kernels before 6.3 cannot.

use std::net::Ipv4Addr;

use rustix::io::Errno;
use wharf_linux::netlink::{AttributesMut, Batch, Socket};
use wharf_model::network::Protocol;

use crate::firewall::protocol_number;

/// `NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE`.
const DELETE: u16 = 1 << 8 | 2;
/// `struct nfgenmsg` for IPv4.
const HEADER: [u8; 4] = [2, 0, 0, 0];
/// `enum ctattr_type`.
const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const FILTER: u16 = 25;
/// `enum ctattr_tuple`.
const TUPLE_IP: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
/// `enum ctattr_ip`, `enum ctattr_l4proto`.
const IP_SOURCE: u16 = 1;
const PROTOCOL_NUMBER: u16 = 1;
const PROTOCOL_DESTINATION: u16 = 3;
/// Which fields of a tuple a filter looks at.
const BY_IP_SOURCE: u32 = 1;
const BY_PROTOCOL: u32 = 1 << 3;
const BY_DESTINATION_PORT: u32 = 1 << 5;

/// Forgets every connection from this address, and every connection that was translated to it.
pub(crate) fn forget_address(socket: &mut Socket, address: Ipv4Addr) {
    let mut batch = Batch::new();
    let source = |tuple: &mut AttributesMut<'_>| {
        tuple.nest(TUPLE_IP, |ip| {
            ip.bytes(IP_SOURCE, &address.octets());
        });
    };
    batch.push(DELETE, Batch::ACK, &HEADER, |attributes| {
        attributes.nest(ORIGINAL, source);
        filter(attributes, BY_IP_SOURCE, 0);
    });
    // The answers of a translated connection come from the container.
    batch.push(DELETE, Batch::ACK, &HEADER, |attributes| {
        attributes.nest(REPLY, source);
        filter(attributes, 0, BY_IP_SOURCE);
    });
    forget(socket, batch);
}

/// Forgets every connection to this port of any address.
pub(crate) fn forget_port(socket: &mut Socket, protocol: Protocol, port: u16) {
    let mut batch = Batch::new();
    batch.push(DELETE, Batch::ACK, &HEADER, |attributes| {
        attributes.nest(ORIGINAL, |tuple| {
            tuple.nest(TUPLE_PROTOCOL, |fields| {
                fields.u8(PROTOCOL_NUMBER, protocol_number(protocol)).be16(PROTOCOL_DESTINATION, port);
            });
        });
        filter(attributes, BY_PROTOCOL | BY_DESTINATION_PORT, 0);
    });
    forget(socket, batch);
}

fn forget(socket: &mut Socket, mut batch: Batch) {
    match socket.transact(&mut batch) {
        Err(error) if error.errno() != Some(Errno::NOENT) => {
            tracing::debug!("cannot forget tracked connections: {error}");
        }
        _ => {}
    }
}

/// A kernel that does not know filters sees an incomplete tuple and refuses, rather than forget everything.
fn filter(attributes: &mut AttributesMut<'_>, original: u32, reply: u32) {
    attributes.nest(FILTER, |filter| {
        filter.u32(1, original).u32(2, reply);
    });
}
