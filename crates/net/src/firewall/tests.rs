use std::io::Write;
use std::process::{Command, Stdio};

use wharf_linux::netlink::{Family, Socket};

use super::*;
use crate::{Mac, PublishedPort};

fn endpoint(container: &str, address: [u8; 4], ports: &[(&str, u16, u16, Protocol)]) -> Endpoint {
    let address = Ipv4Addr::from(address);
    let port = |&(host_ip, host_port, container_port, protocol): &(&str, u16, u16, Protocol)| PublishedPort {
        host_ip: host_ip.parse().unwrap(),
        host_port,
        container_port,
        protocol,
    };
    Endpoint {
        container: container.into(),
        host_interface: format!("veth-{container}"),
        interface: "eth0".into(),
        address,
        prefix_len: 16,
        gateway: Ipv4Addr::new(172, 17, 0, 1),
        mac: Mac::derived(address),
        ports: ports.iter().map(port).collect(),
    }
}

fn build(endpoints: &[Endpoint]) -> Table {
    Table::build("wharf", "wharf0", "172.17.0.0/16".parse().unwrap(), endpoints)
}

fn web() -> Endpoint {
    endpoint(
        "web",
        [172, 17, 0, 2],
        &[
            ("0.0.0.0", 8080, 80, Protocol::Tcp),
            ("127.0.0.1", 8443, 443, Protocol::Tcp),
            ("0.0.0.0", 53, 53, Protocol::Udp),
            ("192.0.2.1", 9000, 9000, Protocol::Sctp),
        ],
    )
}

#[test]
fn the_whole_table() {
    assert_eq!(
        build(&[web()]).to_string(),
        r#"table ip wharf {
	map published_on_address {
		type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service
		elements = { 127.0.0.1 . tcp . 8443 : 172.17.0.2 . 443,
			     192.0.2.1 . sctp . 9000 : 172.17.0.2 . 9000 }
	}

	map published {
		type inet_proto . inet_service : ipv4_addr . inet_service
		elements = { tcp . 8080 : 172.17.0.2 . 80,
			     udp . 53 : 172.17.0.2 . 53 }
	}

	chain guard {
		type filter hook prerouting priority -300; policy accept;
		iifname "wharf0" ip saddr 127.0.0.0/8 drop
		iifname "wharf0" ip daddr 127.0.0.0/8 drop
	}

	chain prerouting {
		type nat hook prerouting priority -100; policy accept;
		iifname != "lo" ip daddr 127.0.0.0/8 return
		fib daddr type local jump publish
	}

	chain output {
		type nat hook output priority -100; policy accept;
		fib daddr type local jump publish
	}

	chain publish {
		dnat ip to ip daddr . meta l4proto . th dport map @published_on_address
		dnat ip to meta l4proto . th dport map @published
	}

	chain forward {
		type filter hook forward priority 0; policy accept;
		oifname "wharf0" ct state established,related accept
		iifname "wharf0" accept
		oifname "wharf0" ct status dnat accept
		oifname "wharf0" drop
	}

	chain postrouting {
		type nat hook postrouting priority 100; policy accept;
		ip saddr 172.17.0.0/16 oifname != "wharf0" masquerade
		ip saddr 172.17.0.0/16 oifname "wharf0" ct status dnat masquerade
		ip saddr 127.0.0.0/8 oifname "wharf0" masquerade
	}
}
"#
    );
}

#[test]
fn an_endpoint_adds_exactly_its_elements() {
    let other = endpoint("other", [172, 17, 0, 3], &[("0.0.0.0", 8081, 80, Protocol::Tcp)]);
    let mut grown = build(&[web()]);
    grown.published.extend(elements(&other));
    assert_eq!(grown, build(&[web(), other]));
}

#[test]
fn a_damaged_record_does_not_take_a_port_over() {
    let thief = endpoint("thief", [172, 17, 0, 9], &[("0.0.0.0", 8080, 1, Protocol::Tcp)]);
    assert_eq!(build(&[web(), thief]), build(&[web()]));
}

/// Waits until the kernel lists the table's elements: while its hash table grows, a listing may miss some or have them
/// twice.
fn settles(socket: &mut Socket, table: &Table) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    loop {
        let listed = inspect::published(socket, table).unwrap();
        if listed.as_ref() == Some(&table.published) {
            return;
        }
        assert!(std::time::Instant::now() < deadline, "the kernel lists {listed:?}");
        std::thread::yield_now();
    }
}

/// What the kernel understood from our encoder is what it understands from `nft` reading our rendering.
#[test]
fn nft_reads_the_rendering_as_the_kernel_reads_the_encoding() {
    if Command::new("nft").arg("--version").output().is_err() {
        eprintln!("skipped: nft is not installed");
        return;
    }
    let mut table = build(&[web()]);
    // More than one message of elements.
    for number in 0..1200 {
        table.published.insert(
            Key { address: None, protocol: Protocol::Tcp, port: 10_000 + number },
            Target { address: Ipv4Addr::new(172, 17, 1, 1), port: number + 1 },
        );
    }
    let encoded = in_fresh_netns(|| {
        let mut socket = Socket::open(Family::Netfilter).unwrap();
        // New; then from a table with other elements; then from the same; then replaced as a whole.
        let mut other = table.clone();
        other.published.retain(|key, _| key.port % 2 == 0);
        for target in other.published.values_mut().take(300) {
            target.port += 1;
        }
        install(&mut socket, &other).unwrap();
        settles(&mut socket, &other);
        for _ in 0..2 {
            install(&mut socket, &table).unwrap();
            settles(&mut socket, &table);
        }
        let updated = list_ruleset();
        Transaction::new("wharf").replace(&table).commit(&mut socket).unwrap();
        assert_eq!(list_ruleset(), updated);
        updated
    });
    let rendered = in_fresh_netns(|| {
        load(&table.to_string());
        list_ruleset()
    });
    let (Some(encoded), Some(rendered)) = (encoded, rendered) else { return };
    assert_eq!(encoded, rendered);
    assert!(encoded.contains("tcp . 8080 : 172.17.0.2 . 80"), "{encoded}");
}

#[test]
fn a_table_of_another_shape_is_replaced() {
    in_fresh_netns(|| {
        let mut socket = Socket::open(Family::Netfilter).unwrap();
        let table = build(&[web()]);
        assert_eq!(inspect::published(&mut socket, &table).unwrap(), None);
        let mut other = table.clone();
        other.chains[1].name = "older";
        install(&mut socket, &other).unwrap();
        assert_eq!(inspect::published(&mut socket, &table).unwrap(), None);
        install(&mut socket, &table).unwrap();
        // The same names but another hook: the kernel refuses to update such a chain.
        other = table.clone();
        other.chains[0].hook = other.chains[4].hook;
        install(&mut socket, &other).unwrap();
        install(&mut socket, &table).unwrap();
        assert_eq!(inspect::published(&mut socket, &table).unwrap(), Some(table.published));
    });
}

#[test]
fn other_peoples_drops_are_named() {
    in_fresh_netns(|| {
        let mut socket = Socket::open(Family::Netfilter).unwrap();
        install(&mut socket, &build(&[])).unwrap();
        assert_eq!(others_that_drop(&mut socket, "wharf").unwrap(), Vec::<String>::new());
        if Command::new("nft").arg("--version").output().is_err() {
            eprintln!("skipped: nft is not installed");
            return;
        }
        let chain = |family: &str, table: &str, name: &str, hook: &str, policy: &str| {
            format!(
                "table {family} {table} {{\nchain {name} {{\ntype filter hook {hook} priority 5; policy {policy};\n}}\n}}\n"
            )
        };
        load(
            &[
                chain("ip", "filter", "FORWARD", "forward", "drop"),
                chain("ip", "filter", "INPUT", "input", "drop"),
                chain("inet", "host", "forward", "forward", "drop"),
                chain("ip6", "six", "forward", "forward", "drop"),
                chain("ip", "good", "forward", "forward", "accept"),
            ]
            .concat(),
        );
        let mut found = others_that_drop(&mut socket, "wharf").unwrap();
        found.sort();
        assert_eq!(found, ["inet host forward", "ip filter FORWARD"]);
    });
}

#[test]
fn elements_come_and_go_in_one_transaction() {
    in_fresh_netns(|| {
        let mut socket = Socket::open(Family::Netfilter).unwrap();
        Transaction::new("wharf").replace(&build(&[])).commit(&mut socket).unwrap();
        let published = elements(&web());
        let add = || Transaction::new("wharf").add(&published);
        add().commit(&mut socket).unwrap();
        // Again: the same is no conflict.
        add().commit(&mut socket).unwrap();
        Transaction::new("wharf").withdraw(published.keys()).commit(&mut socket).unwrap();
        let absent = Transaction::new("wharf").withdraw(published.keys()).commit(&mut socket).unwrap_err();
        assert_eq!(absent.errno(), Some(rustix::io::Errno::NOENT));
        // A transaction with one impossible change changes nothing: nothing was added here.
        let half = add().withdraw([&Key { address: None, protocol: Protocol::Tcp, port: 1 }].into_iter());
        half.commit(&mut socket).unwrap_err();
        let absent = Transaction::new("wharf").withdraw(published.keys()).commit(&mut socket).unwrap_err();
        assert_eq!(absent.errno(), Some(rustix::io::Errno::NOENT));
        Transaction::new("wharf").remove().commit(&mut socket).unwrap();
        let gone = add().commit(&mut socket).unwrap_err();
        assert_eq!(gone.errno(), Some(rustix::io::Errno::NOENT));
    });
}

fn load(ruleset: &str) {
    let mut nft = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    nft.stdin.take().unwrap().write_all(ruleset.as_bytes()).unwrap();
    assert!(nft.wait().unwrap().success());
}

fn list_ruleset() -> String {
    let output = Command::new("nft").args(["list", "ruleset"]).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && errors.is_empty(), "{errors}");
    let list = String::from_utf8(output.stdout).unwrap();
    // A map's elements are listed in the order of the kernel's hash table.
    let mut lines: Vec<_> = list.lines().collect();
    let mut elements = String::new();
    lines.retain(|line| {
        let element = line.contains(" : ") && !line.contains("type");
        if element {
            elements.push_str(line);
        }
        !element
    });
    let mut elements: Vec<_> =
        elements.split(['{', '}', ',', '=']).map(str::trim).filter(|e| e.contains(" : ")).collect();
    elements.sort_unstable();
    // While the kernel makes its hash table larger, a listing may have an element twice.
    elements.dedup();
    lines.extend(elements);
    lines.join("\n")
}

/// `None`, with a note, for a user who may not make network namespaces.
fn in_fresh_netns<T: Send>(inside: impl FnOnce() -> T + Send) -> Option<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: only the network namespace is unshared; file descriptors stay shared.
            #[expect(unsafe_code, reason = "rustix marks every unshare unsafe because of FILES")]
            let unshared = unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) };
            match unshared {
                Ok(()) => Some(inside()),
                Err(errno) => {
                    eprintln!("skipped: network namespaces need root ({errno})");
                    None
                }
            }
        });
        thread.join().unwrap()
    })
}
