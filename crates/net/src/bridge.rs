//! The bridge: choosing its addresses and making it.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use wharf_linux::netlink::Socket;

use crate::link::{self, Addressing};
use crate::records::{Pool, Records};
use crate::{Error, Mac, NetworkConfig, sysctl};

/// Ethernet's frame size; a bridge takes the uplink's if that is smaller.
const MTU: u32 = 1500;
/// `IFNAMSIZ` without the terminating zero.
const NAME_LENGTH: usize = 15;

/// The names of an engine's network.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    pub(crate) bridge: String,
    pub(crate) table: String,
    /// Nobody else uses this bridge, so what hangs on it is ours to remove.
    pub(crate) own_bridge: bool,
}

/// A bridge that is up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bridge {
    pub(crate) index: u32,
    pub(crate) mtu: u32,
    pub(crate) pool: Pool,
}

impl Names {
    pub(crate) fn new(config: &NetworkConfig) -> Result<Self, Error> {
        let bridge = match (&config.bridge, config.instance.as_str()) {
            (Some(name), _) => name.clone(),
            (None, "") => "wharf0".to_owned(),
            (None, instance) => format!("wh-{instance}"),
        };
        let table = match config.instance.as_str() {
            "" => "wharf".to_owned(),
            instance => format!("wharf-{instance}"),
        };
        if !is_interface_name(&bridge) {
            return Err(Error::InvalidName { name: bridge });
        }
        if !table.bytes().all(is_name_byte) || table.len() > 64 {
            return Err(Error::InvalidName { name: config.instance.clone() });
        }
        Ok(Self { bridge, table, own_bridge: config.bridge.is_none() })
    }

    /// The host's end of a container's veth pair. Derived, so that it can be found without a record, and different for
    /// every engine on the machine.
    pub(crate) fn host_interface(&self, container: &str) -> String {
        // FNV-1a: stable between versions of the engine, which std's hashes are not.
        let bytes = self.bridge.bytes().chain([0]).chain(container.bytes());
        let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        format!("veth{:010x}", hash >> 24)
    }
}

/// Also a safe component of a path below `/proc/sys`, and neither of the two names that mean every interface there.
fn is_interface_name(name: &str) -> bool {
    (1..=NAME_LENGTH).contains(&name.len())
        && name.bytes().all(is_name_byte)
        && !matches!(name, "." | ".." | "all" | "default" | "lo")
}

const fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')
}

/// A configured subnet with the bridge's address: its first one if only the subnet was given.
fn configured(bridge: &str, subnet: Ipv4Net) -> Result<Pool, Error> {
    let invalid = || Error::InvalidSubnet { bridge: bridge.to_owned(), subnet };
    if !(1..=30).contains(&subnet.prefix_len()) || subnet.addr() == subnet.broadcast() {
        return Err(invalid());
    }
    let address = if subnet.addr() == subnet.network() {
        Ipv4Addr::from(u32::from(subnet.network()) + 1)
    } else {
        subnet.addr()
    };
    let gateway = Ipv4Net::new(address, subnet.prefix_len()).map_err(|_| invalid())?;
    Ok(Pool { gateway })
}

/// Checks what can be checked before the kernel is asked.
pub(crate) fn validate(config: &NetworkConfig, names: &Names) -> Result<(), Error> {
    config.subnet.map_or(Ok(()), |subnet| configured(&names.bridge, subnet).map(drop))
}

/// The addresses of the bridge: those that endpoints already have, else those configured, else those a bridge made by
/// somebody else has, else those chosen earlier if they are still free, else the first free ones. Recorded when new.
pub(crate) fn pool(
    socket: &mut Socket,
    config: &NetworkConfig,
    names: &Names,
    records: &Records,
) -> Result<Pool, Error> {
    let recorded = records.pool()?;
    if let Some(pool) = recorded
        && !records.is_empty()?
    {
        return Ok(pool);
    }
    let pool = match config.subnet {
        Some(subnet) => configured(&names.bridge, subnet)?,
        None => unconfigured(socket, names, recorded)?,
    };
    if recorded != Some(pool) {
        records.set_pool(pool)?;
    }
    Ok(pool)
}

fn unconfigured(socket: &mut Socket, names: &Names, recorded: Option<Pool>) -> Result<Pool, Error> {
    let looking = |source| Error::Kernel { action: "read the host's addresses and routes".into(), source };
    let index = link::find(socket, &names.bridge).map_err(looking)?.map(|link| link.index);
    if !names.own_bridge && index.is_some() {
        let addresses = link::addresses(socket).map_err(looking)?;
        if let Some((_, gateway)) = addresses.into_iter().find(|(at, _)| Some(*at) == index) {
            return configured(&names.bridge, gateway);
        }
    }
    let taken: Vec<Ipv4Net> = link::routes(socket)
        .map_err(looking)?
        .into_iter()
        .filter(|(interface, net)| net.prefix_len() > 0 && (index.is_none() || *interface != index))
        .map(|(_, net)| net)
        .collect();
    choose(recorded, &taken).ok_or_else(|| Error::SubnetsExhausted { bridge: names.bridge.clone() })
}

/// The first pool that overlaps no route, the one used before first.
fn choose(recorded: Option<Pool>, taken: &[Ipv4Net]) -> Option<Pool> {
    let large = (17..=31).map(|second| (Ipv4Addr::new(172, second, 0, 1), 16));
    let small = (0..=240).step_by(16).map(|third| (Ipv4Addr::new(192, 168, third, 1), 20));
    let candidates = large.chain(small).filter_map(|(address, prefix)| Ipv4Net::new(address, prefix).ok());
    let is_free = |pool: &Pool| {
        let subnet = pool.subnet();
        !taken.iter().any(|net| net.contains(&subnet.network()) || subnet.contains(&net.network()))
    };
    recorded.into_iter().chain(candidates.map(|gateway| Pool { gateway })).find(is_free)
}

/// Makes the bridge, or takes the one there is, and sets it up. Everything here may be repeated.
pub(crate) fn make(socket: &mut Socket, names: &Names, pool: Pool) -> Result<Bridge, Error> {
    let name = &names.bridge;
    let refused = |action: &str| {
        let action = format!("{action} bridge {name}");
        move |source| Error::Kernel { action, source }
    };
    let found = match link::find(socket, name).map_err(refused("look for"))? {
        Some(link) if link.kind == "bridge" => link,
        Some(_) => return Err(Error::NotABridge { name: name.clone() }),
        None => {
            let mtu = uplink_mtu(socket).map_err(refused("read the uplink's frame size for"))?;
            let mac = Mac::derived(pool.gateway.addr());
            link::create_bridge(socket, name, mac, mtu).map_err(refused("create"))?;
            link::find(socket, name)
                .map_err(refused("look for"))?
                .ok_or_else(|| Error::NotABridge { name: name.clone() })?
        }
    };
    // While the bridge is still down: once it is up, a router's advertisement is believed at once.
    sysctl::forbid_ipv6(name)?;
    // The way from the host's 127.0.0.1 to a container; the firewall closes it in the other direction.
    sysctl::set(&format!("net/ipv4/conf/{name}/route_localnet"), "1")?;
    sysctl::set("net/ipv4/ip_forward", "1")?;
    if names.own_bridge {
        let addresses = link::addresses(socket).map_err(refused("read the addresses of"))?;
        for (_, old) in
            addresses.into_iter().filter(|(index, net)| *index == found.index && *net != pool.gateway)
        {
            link::remove_address(socket, found.index, old).map_err(refused("take an old address off"))?;
        }
    }
    let addressing = Addressing { index: found.index, address: pool.gateway, gateway: None, loopback: false };
    link::configure(socket, &addressing).map_err(refused("bring up"))?;
    Ok(Bridge { index: found.index, mtu: found.mtu, pool })
}

/// The frame size of the device the default route leaves by, if that is less than Ethernet's: tunnels need it.
fn uplink_mtu(socket: &mut Socket) -> Result<u32, wharf_linux::netlink::Error> {
    let uplink = link::routes(socket)?.into_iter().find(|(_, net)| net.prefix_len() == 0);
    let Some((Some(index), _)) = uplink else { return Ok(MTU) };
    let mtu = link::all(socket)?.into_iter().find(|link| link.index == index).map_or(MTU, |link| link.mtu);
    Ok(mtu.clamp(576, MTU))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    #[test]
    fn the_first_subnet_that_overlaps_no_route_is_chosen() {
        let chosen = |recorded: Option<&str>, taken: &[&str]| {
            let taken: Vec<_> = taken.iter().map(|text| net(text)).collect();
            choose(recorded.map(|text| Pool { gateway: net(text) }), &taken)
                .map(|pool| pool.gateway.to_string())
        };
        assert_eq!(chosen(None, &[]).as_deref(), Some("172.17.0.1/16"));
        assert_eq!(chosen(None, &["172.17.0.0/16", "172.18.5.0/24"]).as_deref(), Some("172.19.0.1/16"));
        assert_eq!(chosen(None, &["172.16.0.0/12"]).as_deref(), Some("192.168.0.1/20"));
        assert_eq!(chosen(None, &["172.16.0.0/12", "192.168.3.0/24"]).as_deref(), Some("192.168.16.1/20"));
        assert_eq!(chosen(None, &["172.16.0.0/12", "192.168.0.0/16"]), None);
        assert_eq!(chosen(Some("172.20.0.1/16"), &[]).as_deref(), Some("172.20.0.1/16"));
        assert_eq!(chosen(Some("172.20.0.1/16"), &["172.20.1.0/24"]).as_deref(), Some("172.17.0.1/16"));
    }

    #[test]
    fn the_bridge_has_the_configured_address_or_the_first() {
        let gateway = |text| configured("b", net(text)).map(|pool| pool.gateway.to_string());
        assert_eq!(gateway("10.9.0.0/24").unwrap(), "10.9.0.1/24");
        assert_eq!(gateway("10.9.0.77/24").unwrap(), "10.9.0.77/24");
        for bad in ["10.9.0.0/31", "10.9.0.0/32", "10.9.0.255/24", "0.0.0.0/0"] {
            assert!(matches!(gateway(bad), Err(Error::InvalidSubnet { .. })), "{bad}");
        }
    }

    #[test]
    fn interface_names_are_no_paths() {
        for good in ["wharf0", "wh-a.b_c", "abcdefghijklmno"] {
            assert!(is_interface_name(good), "{good}");
        }
        for bad in ["", ".", "..", "all", "default", "lo", "a/b", "a b", "abcdefghijklmnop", "ä", "a\0"] {
            assert!(!is_interface_name(bad), "{bad:?}");
        }
    }
}
