//! How far away an address is.
//!
//! A registry decides where redirects, token services and upload locations lead. One on the internet has no business
//! in this machine or its network, so no step may lead nearer than the registry that was named lies itself.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// How near an address is. Greater is nearer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Nearness {
    /// The internet.
    Public,
    /// A network of an organisation.
    Private,
    /// This link, where clouds keep the metadata of machines; also what no unicast may be sent to.
    Link,
    /// This machine.
    Loopback,
}

impl Nearness {
    /// Of an address, whatever it is wrapped in.
    pub(crate) fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => of_v4(v4),
            IpAddr::V6(v6) => match embedded(v6) {
                Some(v4) => of_v4(v4),
                None => of_v6(v6),
            },
        }
    }
}

fn of_v4(address: Ipv4Addr) -> Nearness {
    let [a, b, ..] = address.octets();
    // 0.0.0.0/8 reaches this machine on Linux.
    if address.is_loopback() || a == 0 {
        Nearness::Loopback
    } else if address.is_link_local() || a >= 224 {
        Nearness::Link
    } else if address.is_private()
        || (a == 100 && (64..128).contains(&b))
        || (a == 198 && matches!(b, 18 | 19))
    {
        Nearness::Private
    } else {
        Nearness::Public
    }
}

fn of_v6(address: Ipv6Addr) -> Nearness {
    if address.is_loopback() || address.is_unspecified() {
        Nearness::Loopback
    } else if address.is_unicast_link_local() || address.is_multicast() {
        Nearness::Link
    } else if address.is_unique_local() || address.segments()[0] & 0xffc0 == 0xfec0 {
        Nearness::Private
    } else {
        Nearness::Public
    }
}

/// The IPv4 address inside: mapped (`::ffff:a.b.c.d`), compatible (`::a.b.c.d`), NAT64 and 6to4.
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let low = |high: u16, low: u16| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low));
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => None,
        [0, 0, 0, 0, 0, 0 | 0xffff, a, b] | [0x64, 0xff9b, 0, 0, 0, 0, a, b] | [0x2002, a, b, ..] => {
            Some(low(a, b))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_as_near_as_what_they_wrap() {
        for (text, wanted) in [
            ("127.0.0.1", Nearness::Loopback),
            ("127.255.255.254", Nearness::Loopback),
            ("0.0.0.0", Nearness::Loopback),
            ("::1", Nearness::Loopback),
            ("::", Nearness::Loopback),
            ("::ffff:127.0.0.1", Nearness::Loopback),
            ("::127.0.0.1", Nearness::Loopback),
            ("64:ff9b::7f00:1", Nearness::Loopback),
            ("2002:7f00:1::", Nearness::Loopback),
            ("169.254.169.254", Nearness::Link),
            ("::ffff:169.254.169.254", Nearness::Link),
            ("fe80::1", Nearness::Link),
            ("255.255.255.255", Nearness::Link),
            ("ff02::1", Nearness::Link),
            ("10.1.2.3", Nearness::Private),
            ("172.31.0.1", Nearness::Private),
            ("192.168.0.1", Nearness::Private),
            ("100.64.0.1", Nearness::Private),
            ("fd00::1", Nearness::Private),
            ("::ffff:10.0.0.1", Nearness::Private),
            ("172.32.0.1", Nearness::Public),
            ("8.8.8.8", Nearness::Public),
            ("2001:4860:4860::8888", Nearness::Public),
        ] {
            assert_eq!(Nearness::of(text.parse().unwrap()), wanted, "{text}");
        }
    }
}
