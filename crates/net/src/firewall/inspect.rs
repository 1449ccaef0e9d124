//! What the kernel has of a table now, as far as a change of it must know.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use rustix::io::Errno;
use wharf_linux::netlink::{Attributes, Batch, Error, Frame, Socket};
use wharf_model::network::Protocol;

use super::encode::{IPV4, SUBSYSTEM, header, protocol_number};
use super::{Key, Map, Table, Target};

const GET_CHAIN: u16 = 4;
const GET_SET: u16 = 10;
const GET_ELEMENT: u16 = 13;
/// Attributes of chains, sets and lists of elements.
const TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const SET_NAME: u16 = 2;
const ELEMENTS: u16 = 3;

/// The published ports of a table that has the shape of `wanted`: the same chains and maps, so that its rules can be
/// exchanged while its maps stay. `None` if there is no such table, or one of another shape.
pub(crate) fn published(socket: &mut Socket, wanted: &Table) -> Result<Option<BTreeMap<Key, Target>>, Error> {
    let chains = names(socket, &wanted.name, GET_CHAIN, CHAIN_NAME)?;
    let sets = names(socket, &wanted.name, GET_SET, SET_NAME)?;
    if !chains.iter().map(String::as_str).eq(sorted(wanted.chains.iter().map(|chain| chain.name)))
        || !sets.iter().map(String::as_str).eq(sorted(Map::ALL.iter().map(|map| map.name())))
    {
        return Ok(None);
    }
    let mut published = BTreeMap::new();
    for map in Map::ALL {
        let request = |attributes: &mut wharf_linux::netlink::AttributesMut<'_>| {
            attributes.string(TABLE, &wanted.name).string(SET_NAME, map.name());
        };
        let ask = |batch: &mut Batch| batch.push(kind(GET_ELEMENT), Batch::DUMP, &header(IPV4, 0), request);
        let elements = dump(socket, ask, |frame, found: &mut Vec<_>| {
            let list = Attributes::after(frame.payload, 4).find(ELEMENTS)?.unwrap_or_default();
            for element in Attributes::new(list) {
                found.extend(parse_element(map, element?.1)?);
            }
            Ok(())
        })?;
        published.extend(elements);
    }
    Ok(Some(published))
}

/// The chains of other tables that see forwarded packets and drop them by default: `ip filter FORWARD`.
pub(crate) fn others_that_drop(socket: &mut Socket, own_table: &str) -> Result<Vec<String>, Error> {
    /// `NFPROTO_UNSPEC`, `NFPROTO_INET`.
    const ANY: u8 = 0;
    const INET: u8 = 1;
    const HOOK: u16 = 4;
    const HOOK_NUMBER: u16 = 1;
    const POLICY: u16 = 5;
    /// `NF_INET_FORWARD`, `NF_DROP`.
    const FORWARD: [u8; 4] = 2_u32.to_be_bytes();
    const DROP: [u8; 4] = 0_u32.to_be_bytes();
    let ask = |batch: &mut Batch| batch.push(kind(GET_CHAIN), Batch::DUMP, &header(ANY, 0), |_| {});
    dump(socket, ask, |frame, found: &mut Vec<_>| {
        let family = match frame.payload.first() {
            Some(&IPV4) => "ip",
            Some(&INET) => "inet",
            _ => return Ok(()),
        };
        let attributes = Attributes::after(frame.payload, 4);
        let text_of = |kind| Ok::<_, Error>(attributes.clone().find(kind)?.map(text).unwrap_or_default());
        let (table, name) = (text_of(TABLE)?, text_of(CHAIN_NAME)?);
        let hook = attributes.clone().find(HOOK)?.unwrap_or_default();
        let forwards = Attributes::new(hook).find(HOOK_NUMBER)? == Some(&FORWARD);
        if forwards && attributes.find(POLICY)? == Some(&DROP) && table != own_table {
            found.push(format!("{family} {table} {name}"));
        }
        Ok(())
    })
}

fn sorted<'a>(names: impl Iterator<Item = &'a str>) -> BTreeSet<&'a str> {
    names.collect()
}

/// The names of a table's chains or sets.
fn names(socket: &mut Socket, table: &str, what: u16, name: u16) -> Result<BTreeSet<String>, Error> {
    let ask = |batch: &mut Batch| {
        batch.push(kind(what), Batch::DUMP, &header(IPV4, 0), |attributes| {
            attributes.string(TABLE, table);
        });
    };
    let found = dump(socket, ask, |frame, found: &mut Vec<_>| {
        // Some kernels list every table's, whatever was asked.
        let attributes = Attributes::after(frame.payload, 4);
        if attributes.clone().find(TABLE)?.map(text).as_deref() == Some(table) {
            found.extend(attributes.find(name)?.map(text));
        }
        Ok(())
    });
    match found {
        Ok(found) => Ok(found.into_iter().collect()),
        // Others say at once that there is no such table.
        Err(error) if error.errno() == Some(Errno::NOENT) => Ok(BTreeSet::new()),
        Err(error) => Err(error),
    }
}

/// Asks again when somebody's change overtook the answer.
fn dump<T>(
    socket: &mut Socket,
    ask: impl Fn(&mut Batch),
    parse: impl Fn(&Frame<'_>, &mut Vec<T>) -> Result<(), Error>,
) -> Result<Vec<T>, Error> {
    const ATTEMPTS: u32 = 20;
    let mut attempt = 1;
    loop {
        let mut batch = Batch::new();
        ask(&mut batch);
        let mut found = Vec::new();
        match socket.exchange(&mut batch, &mut |frame| parse(&frame, &mut found)) {
            Ok(()) => return Ok(found),
            Err(Error::Answer(_)) if attempt < ATTEMPTS => attempt += 1,
            Err(error) => return Err(error),
        }
    }
}

const fn kind(message: u16) -> u16 {
    SUBSYSTEM << 8 | message
}

/// `None` for an element that is not one of ours.
fn parse_element(map: Map, bytes: &[u8]) -> Result<Option<(Key, Target)>, Error> {
    let attributes = Attributes::new(bytes);
    let value = |kind| -> Result<&[u8], Error> {
        let nested = attributes.clone().find(kind)?.unwrap_or_default();
        Ok(Attributes::new(nested).find(1)?.unwrap_or_default())
    };
    let (mut key, target) = (value(1)?, value(2)?);
    let mut address = None;
    if map == Map::OneAddress {
        let Some((first, rest)) = key.split_first_chunk::<4>() else { return Ok(None) };
        address = Some(Ipv4Addr::from(*first));
        key = rest;
    }
    let (&[number, 0, 0, 0, high, low, 0, 0], &[a, b, c, d, to_high, to_low, 0, 0]) = (key, target) else {
        return Ok(None);
    };
    let protocols = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
    let protocol = protocols.into_iter().find(|protocol| protocol_number(*protocol) == number);
    Ok(protocol.map(|protocol| {
        let key = Key { address, protocol, port: u16::from_be_bytes([high, low]) };
        (key, Target { address: Ipv4Addr::new(a, b, c, d), port: u16::from_be_bytes([to_high, to_low]) })
    }))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned()
}
