//! Ports of a test's own servers.
//!
//! Never the kernel's choice: that is in the range which engines publish ports from, and what an engine that a test has
//! killed still translates goes to its container, whoever has bound the port since. The engines' fixed ports are below.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};

/// Above the slots of [`crate::Engine`], below the kernel's ephemeral ports.
const PORTS: std::ops::Range<u32> = 25_000..32_768;

/// A listener on a free port of 127.0.0.1.
///
/// # Panics
/// When no port is free.
pub fn tcp() -> TcpListener {
    search(TcpListener::bind)
}

/// A bound socket on a free port of 127.0.0.1.
///
/// # Panics
/// When no port is free.
pub fn udp() -> UdpSocket {
    search(UdpSocket::bind)
}

/// An address of 127.0.0.1 for a program that binds it itself, soon.
///
/// # Panics
/// When no port is free.
pub fn address() -> SocketAddr {
    tcp().local_addr().expect("it is bound")
}

fn search<T>(bind: impl Fn(SocketAddr) -> std::io::Result<T>) -> T {
    /// Processes that run at the same time begin far from each other.
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let spread = std::process::id().wrapping_mul(37);
    let bound = PORTS.clone().find_map(|_| {
        let step = spread.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % (PORTS.end - PORTS.start);
        let port = u16::try_from(PORTS.start + step).expect("in range");
        bind(SocketAddr::from(([127, 0, 0, 1], port))).ok()
    });
    bound.expect("a free port on loopback")
}
