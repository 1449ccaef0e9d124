//! The firewall as a value.
//!
//! One `ip` table per engine holds everything: [`Table::build`] makes it from the bridge and the endpoints without
//! touching the kernel, [`std::fmt::Display`] writes it as `nft` would, `encode` turns it into one `nf_tables`
//! transaction, [`install`] makes the kernel have it. What a container adds is only elements of the two port maps, and
//! `Table::build` with one endpoint more is the same table with exactly [`elements`] of that endpoint more: so a live change
//! and a rebuild cannot disagree.
//!
//! What the rules promise (the reasons are in docs/adr/0003):
//! - a container port answers only through a published address and port, whoever routes to the bridge;
//! - a port published on a loopback address answers only the host itself;
//! - only traffic to addresses of the host is translated, never traffic it forwards for others;
//! - the address of a client from outside is kept; from the host's loopback and from the same bridge it becomes the
//!   gateway's, for otherwise the answer would not come back this way;
//! - what containers send outside leaves with the host's address.

mod encode;
mod inspect;

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use wharf_linux::netlink::{Error, Socket};
use wharf_model::network::Protocol;

use crate::Endpoint;

pub(crate) use encode::{Transaction, protocol_number};
pub(crate) use inspect::others_that_drop;

/// Loopback addresses.
const LOOPBACK: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8);

/// A whole table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) name: String,
    pub(crate) chains: Vec<Chain>,
    pub(crate) published: BTreeMap<Key, Target>,
}

/// A chain; one without a hook is only jumped to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chain {
    pub(crate) name: &'static str,
    pub(crate) hook: Option<Hook>,
    pub(crate) rules: Vec<Rule>,
}

/// Where the kernel calls a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hook {
    pub(crate) kind: Kind,
    pub(crate) point: Point,
    pub(crate) priority: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Filter,
    Nat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Point {
    Prerouting,
    Forward,
    Output,
    Postrouting,
}

/// When every match holds, the action happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) when: Vec<Match>,
    pub(crate) then: Action,
}

/// Whether a match must hold or must not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Is {
    Equal,
    Different,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Match {
    /// The interface a packet came in by.
    From(Is, String),
    /// The interface it will leave by.
    To(Is, String),
    Source(Is, Ipv4Net),
    Destination(Is, Ipv4Net),
    /// The destination is an address of the host.
    DestinationIsLocal,
    /// The packet belongs to a known connection, or is an error about one.
    Established,
    /// The connection's destination was translated: it came through a published port.
    Translated,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Accept,
    Drop,
    Return,
    Jump(&'static str),
    Masquerade,
    /// Translate the destination as the map says; go on when the map knows nothing.
    Publish(Map),
}

/// The two maps of published ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Map {
    /// By address, protocol and port.
    OneAddress,
    /// By protocol and port.
    AnyAddress,
}

impl Map {
    pub(crate) const ALL: [Self; 2] = [Self::OneAddress, Self::AnyAddress];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::OneAddress => "published_on_address",
            Self::AnyAddress => "published",
        }
    }
}

/// What a client connects to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    /// `None` for every address of the host.
    pub(crate) address: Option<Ipv4Addr>,
    pub(crate) protocol: Protocol,
    pub(crate) port: u16,
}

impl Key {
    pub(crate) const fn map(&self) -> Map {
        if self.address.is_some() { Map::OneAddress } else { Map::AnyAddress }
    }
}

/// Where the connection ends up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Target {
    pub(crate) address: Ipv4Addr,
    pub(crate) port: u16,
}

/// What an endpoint adds to the table.
pub(crate) fn elements(endpoint: &Endpoint) -> BTreeMap<Key, Target> {
    let element = |port: &crate::PublishedPort| {
        let address = (!port.host_ip.is_unspecified()).then_some(port.host_ip);
        let key = Key { address, protocol: port.protocol, port: port.host_port };
        (key, Target { address: endpoint.address, port: port.container_port })
    };
    endpoint.ports.iter().map(element).collect()
}

/// Makes the kernel's table this one, in one transaction. A table of the same shape keeps its maps, for replacing a map
/// would lose packets that are being looked up; one of another shape, from another version or damaged, is replaced.
pub(crate) fn install(socket: &mut Socket, table: &Table) -> Result<(), Error> {
    if let Some(published) = inspect::published(socket, table)?
        && Transaction::new(&table.name).update(table, &published).commit(socket).is_ok()
    {
        return Ok(());
    }
    Transaction::new(&table.name).replace(table).commit(socket)
}

/// True if the kernel has a table of this name and shape.
pub(crate) fn is_installed(socket: &mut Socket, table: &Table) -> Result<bool, Error> {
    Ok(inspect::published(socket, table)?.is_some())
}

impl Table {
    /// The table for a bridge and the endpoints on it.
    pub(crate) fn build<'a>(
        name: &str,
        bridge: &str,
        subnet: Ipv4Net,
        endpoints: impl IntoIterator<Item = &'a Endpoint>,
    ) -> Self {
        let bridge = || bridge.to_owned();
        let rule = |when: &[Match], then| Rule { when: when.to_vec(), then };
        let from_bridge = Match::From(Is::Equal, bridge());
        let to_bridge = Match::To(Is::Equal, bridge());
        let chains = vec![
            // route_localnet, which the way from 127.0.0.1 to a container needs, would let containers use the host's
            // loopback addresses too.
            Chain {
                name: "guard",
                hook: hook(Kind::Filter, Point::Prerouting, -300),
                rules: vec![
                    rule(&[from_bridge.clone(), Match::Source(Is::Equal, LOOPBACK)], Action::Drop),
                    rule(&[from_bridge.clone(), Match::Destination(Is::Equal, LOOPBACK)], Action::Drop),
                ],
            },
            Chain {
                name: "prerouting",
                hook: hook(Kind::Nat, Point::Prerouting, -100),
                rules: vec![
                    // Before translation nothing has refused such a packet from the wire yet.
                    rule(
                        &[Match::From(Is::Different, "lo".into()), Match::Destination(Is::Equal, LOOPBACK)],
                        Action::Return,
                    ),
                    rule(&[Match::DestinationIsLocal], Action::Jump("publish")),
                ],
            },
            Chain {
                name: "output",
                hook: hook(Kind::Nat, Point::Output, -100),
                rules: vec![rule(&[Match::DestinationIsLocal], Action::Jump("publish"))],
            },
            Chain {
                name: "publish",
                hook: None,
                rules: Map::ALL.map(|map| rule(&[], Action::Publish(map))).into(),
            },
            Chain {
                name: "forward",
                hook: hook(Kind::Filter, Point::Forward, 0),
                rules: vec![
                    rule(&[to_bridge.clone(), Match::Established], Action::Accept),
                    rule(&[from_bridge], Action::Accept),
                    rule(&[to_bridge.clone(), Match::Translated], Action::Accept),
                    rule(std::slice::from_ref(&to_bridge), Action::Drop),
                ],
            },
            Chain {
                name: "postrouting",
                hook: hook(Kind::Nat, Point::Postrouting, 100),
                rules: vec![
                    rule(
                        &[Match::Source(Is::Equal, subnet), Match::To(Is::Different, bridge())],
                        Action::Masquerade,
                    ),
                    // From a container through the host back to the bridge.
                    rule(
                        &[Match::Source(Is::Equal, subnet), to_bridge.clone(), Match::Translated],
                        Action::Masquerade,
                    ),
                    rule(&[Match::Source(Is::Equal, LOOPBACK), to_bridge], Action::Masquerade),
                ],
            },
        ];
        let mut published = BTreeMap::new();
        for (key, target) in endpoints.into_iter().flat_map(elements) {
            // Reservations make a second holder impossible; a damaged record must not make the whole table fail.
            published.entry(key).or_insert(target);
        }
        Self { name: name.to_owned(), chains, published }
    }
}

#[expect(clippy::unnecessary_wraps, reason = "the field is an option: one chain has no hook")]
const fn hook(kind: Kind, point: Point, priority: i32) -> Option<Hook> {
    Some(Hook { kind, point, priority })
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "table ip {} {{", self.name)?;
        for map in Map::ALL {
            let key = match map {
                Map::OneAddress => "ipv4_addr . inet_proto . inet_service",
                Map::AnyAddress => "inet_proto . inet_service",
            };
            writeln!(f, "\tmap {} {{\n\t\ttype {key} : ipv4_addr . inet_service", map.name())?;
            let elements: Vec<_> = self
                .published
                .iter()
                .filter(|(key, _)| key.map() == map)
                .map(|(key, target)| format!("{key} : {target}"))
                .collect();
            if !elements.is_empty() {
                writeln!(f, "\t\telements = {{ {} }}", elements.join(",\n\t\t\t     "))?;
            }
            writeln!(f, "\t}}\n")?;
        }
        for (index, chain) in self.chains.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{chain}")?;
        }
        writeln!(f, "}}")
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\tchain {} {{", self.name)?;
        if let Some(Hook { kind, point, priority }) = self.hook {
            let kind = match kind {
                Kind::Filter => "filter",
                Kind::Nat => "nat",
            };
            let point = match point {
                Point::Prerouting => "prerouting",
                Point::Forward => "forward",
                Point::Output => "output",
                Point::Postrouting => "postrouting",
            };
            writeln!(f, "\t\ttype {kind} hook {point} priority {priority}; policy accept;")?;
        }
        for rule in &self.rules {
            writeln!(f, "\t\t{rule}")?;
        }
        writeln!(f, "\t}}")
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for condition in &self.when {
            write!(f, "{condition} ")?;
        }
        write!(f, "{}", self.then)
    }
}

impl fmt::Display for Is {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Equal => "",
            Self::Different => "!= ",
        })
    }
}

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::From(is, name) => write!(f, "iifname {is}\"{name}\""),
            Self::To(is, name) => write!(f, "oifname {is}\"{name}\""),
            Self::Source(is, net) => write!(f, "ip saddr {is}{net}"),
            Self::Destination(is, net) => write!(f, "ip daddr {is}{net}"),
            Self::DestinationIsLocal => f.write_str("fib daddr type local"),
            Self::Established => f.write_str("ct state established,related"),
            Self::Translated => f.write_str("ct status dnat"),
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accept => f.write_str("accept"),
            Self::Drop => f.write_str("drop"),
            Self::Return => f.write_str("return"),
            Self::Jump(chain) => write!(f, "jump {chain}"),
            Self::Masquerade => f.write_str("masquerade"),
            Self::Publish(map) => {
                let address = match map {
                    Map::OneAddress => "ip daddr . ",
                    Map::AnyAddress => "",
                };
                write!(f, "dnat ip to {address}meta l4proto . th dport map @{}", map.name())
            }
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(address) = self.address {
            write!(f, "{address} . ")?;
        }
        write!(f, "{} . {}", self.protocol, self.port)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} . {}", self.address, self.port)
    }
}

#[cfg(test)]
#[path = "firewall/tests.rs"]
mod tests;
