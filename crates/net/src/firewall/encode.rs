//! The table as `nf_tables` messages.
//!
//! A [`Transaction`] is applied by the kernel as a whole or not at all. Each match and action becomes a few expressions of
//! the kernel's register machine: load something, compare or look it up, act.

use std::collections::BTreeMap;

use wharf_linux::netlink::{AttributesMut, Batch, Error, Socket};
use wharf_model::network::Protocol;

use super::{Action, Chain, Hook, Is, Key, Kind, Map, Match, Point, Rule, Table, Target};

/// `NFNL_SUBSYS_NFTABLES`.
pub(super) const SUBSYSTEM: u16 = 10;
/// `NFNL_MSG_BATCH_BEGIN` and `NFNL_MSG_BATCH_END`.
const BEGIN: u16 = 0x10;
const END: u16 = 0x11;
/// `enum nf_tables_msg_types`.
const NEW_TABLE: u16 = 0;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const NEW_RULE: u16 = 6;
const DELETE_RULE: u16 = 8;
const NEW_SET: u16 = 9;
const NEW_ELEMENT: u16 = 12;
const DELETE_ELEMENT: u16 = 14;
/// `NFPROTO_IPV4`.
pub(super) const IPV4: u8 = 2;
/// Elements of one message: far below the 64 KiB an attribute can hold.
const ELEMENTS: usize = 500;

/// The first 32-bit register and its neighbours: a key of several fields fills them one after another.
const REGISTER: u32 = 8;
/// `NFT_REG_VERDICT`.
const VERDICT: u32 = 0;
/// `NFTA_LIST_ELEM`, `NFTA_DATA_VALUE`, `NFTA_DATA_VERDICT`.
const LIST_ELEMENT: u16 = 1;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
/// `nft`'s numbers of the data types, by which it lists maps.
const TYPE_ADDRESS: u32 = 7;
const TYPE_PROTOCOL: u32 = 12;
const TYPE_SERVICE: u32 = 13;

/// Changes that happen together.
#[derive(Debug)]
pub(crate) struct Transaction {
    batch: Batch,
    table: String,
}

impl Transaction {
    /// No changes yet.
    pub(crate) fn new(table: &str) -> Self {
        let mut batch = Batch::new();
        batch.push(BEGIN, 0, &header(0, SUBSYSTEM), |_| {});
        Self { batch, table: table.to_owned() }
    }

    /// Hands the changes to the kernel.
    pub(crate) fn commit(mut self, socket: &mut Socket) -> Result<(), Error> {
        self.batch.push(END, 0, &header(0, SUBSYSTEM), |_| {});
        socket.transact(&mut self.batch)
    }

    /// Puts the table in the place of one of the same name, or of none. A packet that is on its way through the old
    /// table at this instant finds its maps empty.
    pub(crate) fn replace(mut self, table: &Table) -> Self {
        self = self.remove();
        self.message(NEW_TABLE, Batch::CREATE, |_| {});
        for (id, map) in (1..).zip(Map::ALL) {
            self.map(map, id);
        }
        for chain in &table.chains {
            self.chain(chain);
        }
        self.rules(table);
        self.add(&table.published)
    }

    /// Exchanges the rules of a table of the same shape, whose maps hold `published` now. Ports that were published before
    /// and still are do not notice.
    pub(crate) fn update(mut self, table: &Table, published: &BTreeMap<Key, Target>) -> Self {
        for chain in &table.chains {
            self.chain(chain);
        }
        self.message(DELETE_RULE, 0, |_| {});
        self.rules(table);
        let differs =
            |(key, target): &(&Key, &Target), from: &BTreeMap<Key, Target>| from.get(key) != Some(target);
        let old = published.iter().filter(|element| differs(element, &table.published));
        self = self.withdraw(old.map(|(key, _)| key));
        let new = table.published.iter().filter(|element| differs(element, published));
        self.add(&new.map(|(key, target)| (*key, *target)).collect())
    }

    /// Removes the table; none is no error, for it is made first.
    pub(crate) fn remove(mut self) -> Self {
        self.message(NEW_TABLE, Batch::CREATE, |_| {});
        self.message(DELETE_TABLE, 0, |_| {});
        self
    }

    /// Adds published ports. One that is there with the same target already is no error.
    pub(crate) fn add(mut self, published: &BTreeMap<Key, Target>) -> Self {
        self.elements(NEW_ELEMENT, Batch::CREATE, published.iter().map(|(key, target)| (key, Some(target))));
        self
    }

    /// Takes published ports away. One that is not there makes the transaction fail.
    pub(crate) fn withdraw<'a>(mut self, keys: impl Iterator<Item = &'a Key> + Clone) -> Self {
        self.elements(DELETE_ELEMENT, 0, keys.map(|key| (key, None)));
        self
    }

    /// A message about the table; its attribute 1 is the table's name in every kind of message.
    fn message(&mut self, kind: u16, flags: u16, fill: impl FnOnce(&mut AttributesMut<'_>)) {
        let Self { batch, table } = self;
        batch.push(SUBSYSTEM << 8 | kind, flags | Batch::ACK, &header(IPV4, 0), |attributes| {
            attributes.string(1, table);
            fill(attributes);
        });
    }

    fn map(&mut self, map: Map, id: u32) {
        const FLAG_MAP: u32 = 0x8;
        let (key_type, key_length) = match map {
            Map::OneAddress => (concatenated(&[TYPE_ADDRESS, TYPE_PROTOCOL, TYPE_SERVICE]), 12),
            Map::AnyAddress => (concatenated(&[TYPE_PROTOCOL, TYPE_SERVICE]), 8),
        };
        self.message(NEW_SET, Batch::CREATE, |set| {
            set.string(2, map.name())
                .be32(3, FLAG_MAP)
                .be32(4, key_type)
                .be32(5, key_length)
                .be32(6, concatenated(&[TYPE_ADDRESS, TYPE_SERVICE]))
                .be32(7, 8)
                .be32(10, id);
        });
    }

    fn chain(&mut self, chain: &Chain) {
        self.message(NEW_CHAIN, Batch::CREATE, |attributes| {
            attributes.string(3, chain.name);
            if let Some(Hook { kind, point, priority }) = chain.hook {
                let number = match point {
                    Point::Prerouting => 0,
                    Point::Forward => 2,
                    Point::Output => 3,
                    Point::Postrouting => 4,
                };
                let kind = match kind {
                    Kind::Filter => "filter",
                    Kind::Nat => "nat",
                };
                attributes
                    .nest(4, |hook| {
                        hook.be32(1, number).be32(2, priority.cast_unsigned());
                    })
                    .be32(5, ACCEPT)
                    .string(7, kind);
            }
        });
    }

    fn rules(&mut self, table: &Table) {
        for chain in &table.chains {
            for rule in &chain.rules {
                self.rule(chain.name, rule);
            }
        }
    }

    fn rule(&mut self, chain: &str, rule: &Rule) {
        self.message(NEW_RULE, Batch::CREATE | Batch::APPEND, |attributes| {
            attributes.string(2, chain).nest(4, |expressions| {
                let mut expressions = Expressions(expressions);
                for condition in &rule.when {
                    expressions.condition(condition);
                }
                expressions.action(rule.then);
            });
        });
    }

    fn elements<'a>(
        &mut self,
        kind: u16,
        flags: u16,
        elements: impl Iterator<Item = (&'a Key, Option<&'a Target>)> + Clone,
    ) {
        for map in Map::ALL {
            let mut rest = elements.clone().filter(|(key, _)| key.map() == map).peekable();
            while rest.peek().is_some() {
                self.message(kind, flags, |attributes| {
                    attributes.string(2, map.name()).nest(3, |list| {
                        for (key, target) in rest.by_ref().take(ELEMENTS) {
                            list.nest(LIST_ELEMENT, |element| {
                                value(element, 1, &key_bytes(key));
                                if let Some(target) = target {
                                    value(element, 2, &target_bytes(target));
                                }
                            });
                        }
                    });
                });
            }
        }
    }
}

/// `NF_ACCEPT` and its like.
const DROP: u32 = 0;
const ACCEPT: u32 = 1;
const JUMP: u32 = (-3_i32).cast_unsigned();
const RETURN: u32 = (-5_i32).cast_unsigned();

/// The expressions of a rule.
struct Expressions<'a, 'b>(&'a mut AttributesMut<'b>);

impl Expressions<'_, '_> {
    fn push(&mut self, name: &str, fill: impl FnOnce(&mut AttributesMut<'_>)) {
        self.0.nest(LIST_ELEMENT, |expression| {
            expression.string(1, name).nest(2, fill);
        });
    }

    fn condition(&mut self, condition: &Match) {
        /// `NFT_META_IIFNAME`, `NFT_META_OIFNAME`.
        const IN_NAME: u32 = 6;
        const OUT_NAME: u32 = 7;
        /// Offsets in the IPv4 header.
        const SOURCE: u32 = 12;
        const DESTINATION: u32 = 16;
        /// `NFT_CT_STATE`, `NFT_CT_STATUS`.
        const STATE: u32 = 0;
        const STATUS: u32 = 2;
        match condition {
            Match::From(is, name) => self.interface(IN_NAME, *is, name),
            Match::To(is, name) => self.interface(OUT_NAME, *is, name),
            Match::Source(is, net) => self.network(SOURCE, *is, *net),
            Match::Destination(is, net) => self.network(DESTINATION, *is, *net),
            Match::DestinationIsLocal => self.destination_is_local(),
            // The bits of IP_CT_ESTABLISHED and IP_CT_RELATED.
            Match::Established => self.connection(STATE, 0b110),
            // IPS_DST_NAT.
            Match::Translated => self.connection(STATUS, 1 << 5),
        }
    }

    fn interface(&mut self, key: u32, is: Is, name: &str) {
        let mut padded = [0; 16];
        for (to, from) in padded[..15].iter_mut().zip(name.bytes()) {
            *to = from;
        }
        self.meta(key, REGISTER);
        self.compare(is, &padded);
    }

    fn network(&mut self, offset: u32, is: Is, net: ipnet::Ipv4Net) {
        self.payload(PayloadBase::Network, offset, 4, REGISTER);
        if net.prefix_len() < 32 {
            self.mask(&net.netmask().octets());
        }
        self.compare(is, &net.network().octets());
    }

    fn destination_is_local(&mut self) {
        /// `NFT_FIB_RESULT_ADDRTYPE`, `NFTA_FIB_F_DADDR`, `RTN_LOCAL`.
        const ADDRESS_TYPE: u32 = 3;
        const OF_DESTINATION: u32 = 2;
        const LOCAL: u32 = 2;
        self.push("fib", |fib| {
            fib.be32(1, REGISTER).be32(2, ADDRESS_TYPE).be32(3, OF_DESTINATION);
        });
        self.compare(Is::Equal, &LOCAL.to_ne_bytes());
    }

    /// One of these bits is set.
    fn connection(&mut self, key: u32, bits: u32) {
        self.push("ct", |ct| {
            ct.be32(1, REGISTER).be32(2, key);
        });
        self.mask(&bits.to_ne_bytes());
        self.compare(Is::Different, &[0; 4]);
    }

    fn action(&mut self, action: Action) {
        match action {
            Action::Accept => self.verdict(ACCEPT, None),
            Action::Drop => self.verdict(DROP, None),
            Action::Return => self.verdict(RETURN, None),
            Action::Jump(chain) => self.verdict(JUMP, Some(chain)),
            Action::Masquerade => self.push("masq", |_| {}),
            Action::Publish(map) => self.publish(map),
        }
    }

    /// Looks the destination up; the map's answer, address and port, replaces the key and is what it becomes.
    fn publish(&mut self, map: Map) {
        /// `NFT_META_L4PROTO`.
        const PROTOCOL: u32 = 16;
        /// `NFT_NAT_DNAT`.
        const DESTINATION: u32 = 1;
        let mut register = REGISTER;
        if map == Map::OneAddress {
            self.payload(PayloadBase::Network, 16, 4, register);
            register += 1;
        }
        self.meta(PROTOCOL, register);
        self.payload(PayloadBase::Transport, 2, 2, register + 1);
        self.push("lookup", |lookup| {
            lookup.string(1, map.name()).be32(2, REGISTER).be32(3, REGISTER);
        });
        self.push("nat", |nat| {
            nat.be32(1, DESTINATION).be32(2, u32::from(IPV4)).be32(3, REGISTER).be32(5, REGISTER + 1);
        });
    }

    fn meta(&mut self, key: u32, register: u32) {
        self.push("meta", |meta| {
            meta.be32(1, register).be32(2, key);
        });
    }

    fn payload(&mut self, base: PayloadBase, offset: u32, length: u32, register: u32) {
        self.push("payload", |payload| {
            payload.be32(1, register).be32(2, base as u32).be32(3, offset).be32(4, length);
        });
    }

    fn mask(&mut self, mask: &[u8; 4]) {
        self.push("bitwise", |bitwise| {
            bitwise.be32(1, REGISTER).be32(2, REGISTER).be32(3, 4);
            value(bitwise, 4, mask);
            value(bitwise, 5, &[0; 4]);
        });
    }

    fn compare(&mut self, is: Is, with: &[u8]) {
        self.push("cmp", |compare| {
            compare.be32(1, REGISTER).be32(2, u32::from(is == Is::Different));
            value(compare, 3, with);
        });
    }

    fn verdict(&mut self, code: u32, chain: Option<&str>) {
        self.push("immediate", |immediate| {
            immediate.be32(1, VERDICT).nest(2, |data| {
                data.nest(DATA_VERDICT, |verdict| {
                    verdict.be32(1, code);
                    if let Some(chain) = chain {
                        verdict.string(2, chain);
                    }
                });
            });
        });
    }
}

/// `enum nft_payload_bases`.
#[derive(Clone, Copy)]
enum PayloadBase {
    Network = 1,
    Transport = 2,
}

/// `struct nfgenmsg`.
pub(super) const fn header(family: u8, resource: u16) -> [u8; 4] {
    let [high, low] = resource.to_be_bytes();
    [family, 0, high, low]
}

/// `nft` packs the types of a key's fields six bits each.
fn concatenated(types: &[u32]) -> u32 {
    types.iter().fold(0, |packed, kind| packed << 6 | kind)
}

fn value(attributes: &mut AttributesMut<'_>, kind: u16, bytes: &[u8]) {
    attributes.nest(kind, |data| {
        data.bytes(DATA_VALUE, bytes);
    });
}

/// Each field starts at a multiple of four bytes.
fn key_bytes(key: &Key) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(12);
    if let Some(address) = key.address {
        bytes.extend_from_slice(&address.octets());
    }
    bytes.extend_from_slice(&[protocol_number(key.protocol), 0, 0, 0]);
    bytes.extend_from_slice(&port_bytes(key.port));
    bytes
}

fn target_bytes(target: &Target) -> Vec<u8> {
    [target.address.octets(), port_bytes(target.port)].concat()
}

const fn port_bytes(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}

/// The number of a protocol in the IP header.
pub(crate) const fn protocol_number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}
