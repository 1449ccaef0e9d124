//! Probes without a process: connect, and for HTTP ask for a page, in the container's network.
//!
//! Nothing of the container is run, and nothing waits: sockets are non-blocking and belong to the container's network
//! namespace from their birth.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, connect, send, socket_with, sockopt};
use wharf_linux::hostfs;
use wharf_linux::namespace::{self, Namespaces};
use wharf_shim::health::Probe;

use crate::failure::Failure;
use crate::poller::{Interest, Poller, Token};

/// Bytes in which the status line must be.
const HEAD: usize = 4096;
/// Bytes of the page that are taken from a server before it is hung up on.
const POLITE: usize = 64 * 1024;
/// Reads before anything else is looked at.
const BURST: usize = 8;

/// What came of it: an exit code and a text, as a command would leave.
pub(crate) type Verdict = (i32, String);

/// A connection on its way.
#[derive(Debug)]
pub(crate) struct Dial {
    socket: OwnedFd,
    address: String,
    /// Still to be tried.
    rest: Vec<SocketAddr>,
    /// Why the first address failed.
    refused: Option<String>,
    /// What is asked once connected; nothing for a mere connection.
    request: Option<String>,
    asked: bool,
    head: Vec<u8>,
    read: usize,
    verdict: Option<Verdict>,
}

/// The container to look into.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) pidfd: BorrowedFd<'a>,
}

impl Dial {
    /// Begins; a verdict at once where nobody listens.
    pub(crate) fn begin(poller: &Poller, place: Place<'_>, probe: &Probe) -> Result<Self, Verdict> {
        match probe {
            Probe::Http { addresses, host, path } => {
                let request = format!(
                    "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: wharf-health\r\nAccept: */*\r\nConnection: close\r\n\r\n"
                );
                Self::network(poller, place, addresses, Some(request))
            }
            Probe::Tcp { addresses } => Self::network(poller, place, addresses, None),
            Probe::Unix { .. } | Probe::Command { .. } => Err((-1, "nothing to dial".to_owned())),
        }
    }

    fn network(
        poller: &Poller,
        place: Place<'_>,
        addresses: &[SocketAddr],
        request: Option<String>,
    ) -> Result<Self, Verdict> {
        let mut rest: Vec<SocketAddr> = addresses.iter().rev().copied().collect();
        let mut refused = None;
        let (socket, address) = next(poller, place, &mut rest, &mut refused)?;
        Ok(Self {
            socket,
            address,
            rest,
            refused,
            request,
            asked: false,
            head: Vec::new(),
            read: 0,
            verdict: None,
        })
    }

    /// There is news of the socket.
    pub(crate) fn step(&mut self, poller: &Poller, place: Place<'_>) -> Option<Verdict> {
        if !self.asked {
            match sockopt::socket_error(&self.socket) {
                Ok(Ok(())) => return self.connected(poller),
                Ok(Err(error)) | Err(error) => {
                    self.refused.get_or_insert(refusal(&self.address, error));
                }
            }
            poller.remove(&self.socket);
            match next(poller, place, &mut self.rest, &mut self.refused) {
                Ok((socket, address)) => (self.socket, self.address) = (socket, address),
                Err(verdict) => return Some(verdict),
            }
            return None;
        }
        self.receive()
    }

    /// Whether it is clear already what will come of it, and only the server's page is being taken.
    pub(crate) fn verdict(&self) -> Option<&Verdict> {
        self.verdict.as_ref()
    }

    /// Hangs up.
    pub(crate) fn close(self, poller: &Poller) {
        poller.remove(&self.socket);
    }

    fn connected(&mut self, poller: &Poller) -> Option<Verdict> {
        let Some(request) = &self.request else {
            return Some((0, format!("connected to {}", self.address)));
        };
        self.asked = true;
        // The queue of a new connection has room for it.
        let sent = send(&self.socket, request.as_bytes(), SendFlags::NOSIGNAL).ok() == Some(request.len());
        if !sent || poller.change(&self.socket, Token::Probe, Interest::Read).is_err() {
            return Some((1, format!("cannot send a request to {}", self.address)));
        }
        None
    }

    fn receive(&mut self) -> Option<Verdict> {
        let mut buffer = [0; HEAD];
        for _ in 0..BURST {
            match rustix::io::read(&self.socket, &mut buffer) {
                Ok(count @ 1..) => {
                    self.read += count;
                    self.take(&buffer[..count]);
                    if self.read > POLITE {
                        break;
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return None,
                Ok(0) | Err(_) => {
                    let cut = || (1, format!("{} hung up without an HTTP answer", self.address));
                    return Some(self.verdict.take().unwrap_or_else(cut));
                }
            }
        }
        if self.read > POLITE { self.verdict.take() } else { None }
    }

    /// Looks for the status line.
    fn take(&mut self, bytes: &[u8]) {
        if self.verdict.is_some() {
            return;
        }
        self.head.extend_from_slice(&bytes[..bytes.len().min(HEAD - self.head.len())]);
        let end = self.head.iter().position(|byte| *byte == b'\n');
        if end.is_none() && self.head.len() < HEAD {
            return;
        }
        let line = String::from_utf8_lossy(&self.head[..end.unwrap_or(0)]).trim_end().to_owned();
        self.verdict = Some(match status(&line) {
            Some(200..=399) => (0, line),
            Some(_) => (1, line),
            None => (1, format!("{} does not speak HTTP", self.address)),
        });
        self.head = Vec::new();
    }
}

/// The number in `HTTP/1.1 200 OK`.
fn status(line: &str) -> Option<u16> {
    let (version, rest) = line.split_once(' ')?;
    let number = rest.split(' ').next()?;
    let plain = number.len() == 3 && number.bytes().all(|byte| byte.is_ascii_digit());
    number.parse().ok().filter(|_| plain && matches!(version, "HTTP/1.1" | "HTTP/1.0"))
}

/// A socket on its way to the first address that does not refuse at once.
fn next(
    poller: &Poller,
    place: Place<'_>,
    rest: &mut Vec<SocketAddr>,
    refused: &mut Option<String>,
) -> Result<(OwnedFd, String), Verdict> {
    while let Some(address) = rest.pop() {
        match dial(poller, place, address) {
            Ok(socket) => return Ok((socket, address.to_string())),
            Err(reason) => {
                refused.get_or_insert(reason);
            }
        }
    }
    Err((1, refused.take().unwrap_or_else(|| "there is no address to connect to".to_owned())))
}

pub(super) fn refusal(address: &str, error: Errno) -> String {
    format!("cannot connect to {address}: {}", text(error))
}

fn text(error: Errno) -> String {
    let whole = io::Error::from(error).to_string();
    whole.split(" (os error").next().unwrap_or_default().to_lowercase()
}

fn dial(poller: &Poller, place: Place<'_>, address: SocketAddr) -> Result<OwnedFd, String> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = in_network(place.pidfd, || socket(family, SocketType::STREAM))
        .map_err(|failure| failure.message)?
        .map_err(|error| refusal(&address.to_string(), error))?;
    match connect(&socket, &address) {
        Ok(()) | Err(Errno::INPROGRESS) => {}
        Err(error) => return Err(refusal(&address.to_string(), error)),
    }
    poller.add(&socket, Token::Probe, Interest::Write).map_err(|failure| failure.message)?;
    Ok(socket)
}

pub(super) fn socket(family: AddressFamily, kind: SocketType) -> Result<OwnedFd, Errno> {
    socket_with(family, kind, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, None)
}

/// Does something in the container's network namespace; this program has only one thread.
fn in_network<T>(init: BorrowedFd<'_>, act: impl FnOnce() -> T) -> Result<T, Failure> {
    let own = hostfs::open(Path::new("/proc/self/ns/net")).map_err(Failure::on("find the own network"))?;
    namespace::join(init, Namespaces::NETWORK).map_err(Failure::on("enter the container's network"))?;
    let result = act();
    // The shim opens no other sockets by address: one that stays would be told in its log and harm nobody.
    namespace::join(&own, Namespaces::NETWORK).map_err(Failure::on("leave the container's network"))?;
    Ok(result)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn only_a_status_line_of_http_1_counts() {
        for (line, wanted) in [
            ("HTTP/1.1 200 OK", Some(200)),
            ("HTTP/1.0 399", Some(399)),
            ("HTTP/1.1 503 Service Unavailable", Some(503)),
            ("HTTP/2 200", None),
            ("HTTP/1.1 +20 x", None),
            ("HTTP/1.1 2000 x", None),
            ("HTTP/1.1", None),
            ("SSH-2.0-OpenSSH_9", None),
            ("", None),
        ] {
            assert_eq!(status(line), wanted, "{line}");
        }
    }

    #[test]
    fn reasons_have_no_numbers_of_errors() {
        assert_eq!(refusal("a", Errno::CONNREFUSED), "cannot connect to a: connection refused");
    }

    /// What comes of a probe of this very process's network and files.
    fn verdict(probe: &Probe) -> Verdict {
        let pid = i32::try_from(std::process::id()).unwrap();
        let pidfd = wharf_linux::process::open(pid).unwrap();
        let place = Place { pidfd: pidfd.as_fd() };
        let mut poller = Poller::new().unwrap();
        let mut dial = match Dial::begin(&poller, place, probe) {
            Ok(dial) => dial,
            Err(verdict) => return verdict,
        };
        loop {
            let ready = poller.wait(Some(std::time::Duration::from_secs(20))).unwrap();
            assert!(!ready.is_empty(), "nothing came: {dial:?}");
            if let Some(verdict) = dial.step(&poller, place) {
                dial.close(&poller);
                return verdict;
            }
        }
    }

    /// A server that answers one connection with `answer`; its port.
    fn server(answer: &'static [u8]) -> (u16, std::thread::JoinHandle<String>) {
        use std::io::{Read, Write};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = Vec::new();
            let mut buffer = [0; 1024];
            while !asked.ends_with(b"\r\n\r\n") {
                match stream.read(&mut buffer).unwrap() {
                    0 => break,
                    count => asked.extend_from_slice(&buffer[..count]),
                }
            }
            // A client that has heard enough hangs up.
            let _enough = stream.write_all(answer);
            String::from_utf8(asked).unwrap()
        });
        (port, thread)
    }

    fn http(ports: &[u16]) -> Probe {
        let addresses = ports.iter().map(|port| SocketAddr::from(([127, 0, 0, 1], *port))).collect();
        Probe::Http { addresses, host: "here:1".into(), path: "/a?b".into() }
    }

    #[test]
    fn a_page_is_asked_for_and_its_status_counts() {
        for (answer, wanted) in [
            (&b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"[..], (0, "HTTP/1.1 200 OK")),
            // Followed it would lead elsewhere; it is an answer.
            (b"HTTP/1.1 302 Found\r\nLocation: http://192.0.2.1/\r\n\r\n", (0, "HTTP/1.1 302 Found")),
            (b"HTTP/1.0 503 No\n\n", (1, "HTTP/1.0 503 No")),
        ] {
            let (port, thread) = server(answer);
            assert_eq!(verdict(&http(&[port])), (wanted.0, wanted.1.to_owned()));
            let asked = thread.join().unwrap();
            assert!(asked.starts_with("GET /a?b HTTP/1.1\r\nHost: here:1\r\n"), "{asked}");
        }
    }

    #[test]
    fn what_is_no_http_is_told_from_it_and_bounded() {
        static ENDLESS: [u8; 1 << 20] = [b'x'; 1 << 20];
        let (port, thread) = server(&ENDLESS);
        assert_eq!(verdict(&http(&[port])), (1, format!("127.0.0.1:{port} does not speak HTTP")));
        thread.join().unwrap();
        let (port, thread) = server(b"");
        assert_eq!(verdict(&http(&[port])), (1, format!("127.0.0.1:{port} hung up without an HTTP answer")));
        thread.join().unwrap();
    }

    #[test]
    fn the_next_address_is_tried() {
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (port, thread) = server(b"HTTP/1.1 204 None\r\n\r\n");
        assert_eq!(verdict(&http(&[closed, port])), (0, "HTTP/1.1 204 None".to_owned()));
        thread.join().unwrap();
        let Probe::Http { addresses, .. } = http(&[closed]) else { unreachable!() };
        let refused = format!("cannot connect to 127.0.0.1:{closed}: connection refused");
        assert_eq!(verdict(&Probe::Tcp { addresses }), (1, refused));
    }
}
