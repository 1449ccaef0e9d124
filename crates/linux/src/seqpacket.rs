//! Packets with descriptors over unix sockets: what an engine and its shims talk through.
//!
//! Every socket made here is close-on-exec, and no call here ever blocks: a caller that wants to wait polls first.
//! A received packet is taken whole or not at all, its descriptors are close-on-exec, and those that nobody takes are
//! closed.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

/// The most descriptors one packet carries; the kernel's limit is 253.
pub const MAX_FDS: usize = 250;

/// Connections that wait to be accepted; more get `WouldBlock`.
const BACKLOG: i32 = 64;

/// Who is at the other end of a socket, as it was when it connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Credentials {
    /// Process id, 0 if it has none in our pid namespace.
    pub pid: i32,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// What [`recv`] found.
#[derive(Debug)]
pub enum Received {
    /// A packet: its bytes are in the buffer.
    Packet(Vec<OwnedFd>),
    /// The other end is closed and everything it sent has been read.
    End,
}

/// Two sockets that are connected to each other.
pub fn socketpair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// A listening socket at `path`, of mode 0600 from its first moment. A socket left there by a dead process is replaced.
pub fn listen(path: &Path) -> io::Result<OwnedFd> {
    let socket = socket()?;
    // The inode of a socket file takes its mode from the socket, so nobody can connect before a chmod.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    let address = Address::of(path)?;
    match rustix::fs::unlink(path) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    rustix::net::bind(&socket, &address.unix)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// Connects to the socket at `path`; `WouldBlock` if too many others wait already.
pub fn connect(path: &Path) -> io::Result<OwnedFd> {
    let socket = socket()?;
    let address = Address::of(path)?;
    rustix::net::connect(&socket, &address.unix)?;
    Ok(socket)
}

/// Takes one waiting connection, and says whose it is.
pub fn accept(listener: BorrowedFd<'_>) -> io::Result<(OwnedFd, Credentials)> {
    let socket = rustix::net::accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
    let credentials = peer(socket.as_fd())?;
    Ok((socket, credentials))
}

/// Who is at the other end.
pub fn peer(socket: BorrowedFd<'_>) -> io::Result<Credentials> {
    let mut found = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, the size of `found`, which is plain data valid for any bits.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut found).cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Credentials { pid: found.pid, uid: found.uid, gid: found.gid })
}

/// Sends one packet; `WouldBlock` if the receiver's queue is full.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    if fds.len() > MAX_FDS {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors for one packet"));
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors for one packet"));
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    loop {
        match rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, flags) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Receives one packet into `buffer`, whose former content is dropped; `WouldBlock` if there is none. A packet longer
/// than `limit` is thrown away whole and gives `InvalidData`, as does one with more descriptors than [`MAX_FDS`].
pub fn recv(socket: BorrowedFd<'_>, buffer: &mut Vec<u8>, limit: usize) -> io::Result<Received> {
    // A peer that closed with unread packets of ours in its queue makes the first call say ECONNRESET although packets
    // of its own may still wait; the error is said once only.
    match receive(socket, buffer, limit) {
        Err(error) if error.raw_os_error() == Some(libc::ECONNRESET) => {
            match receive(socket, buffer, limit) {
                Err(error) if error.raw_os_error() == Some(libc::ECONNRESET) => Ok(Received::End),
                other => other,
            }
        }
        other => other,
    }
}

fn receive(socket: BorrowedFd<'_>, buffer: &mut Vec<u8>, limit: usize) -> io::Result<Received> {
    buffer.clear();
    // First only the length: memory is spent on packets that exist.
    let peek = RecvFlags::DONTWAIT | RecvFlags::PEEK | RecvFlags::TRUNC;
    let length = loop {
        let mut nothing = [0u8; 1];
        match rustix::net::recv(socket, &mut nothing[..], peek) {
            Ok((_, length)) => break length,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    };
    buffer.resize(length.min(limit), 0);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let message = loop {
        match rustix::net::recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut control, flags) {
            Ok(message) => break message,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    };
    let fds: Vec<OwnedFd> = control
        .drain()
        .filter_map(|part| if let RecvAncillaryMessage::ScmRights(fds) = part { Some(fds) } else { None })
        .flatten()
        .collect();
    if message.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        buffer.clear();
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a packet is too long or has too many descriptors",
        ));
    }
    buffer.truncate(message.bytes);
    // An empty packet looks like the end and is taken for it; nobody honest sends one.
    if message.bytes == 0 { Ok(Received::End) } else { Ok(Received::Packet(fds)) }
}

fn socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

/// A socket address for a path of any length: one that does not fit is reached through its directory's descriptor.
struct Address {
    unix: SocketAddrUnix,
    _directory: Option<OwnedFd>,
}

impl Address {
    fn of(path: &Path) -> io::Result<Self> {
        match SocketAddrUnix::new(path) {
            Ok(unix) => return Ok(Self { unix, _directory: None }),
            Err(Errno::NAMETOOLONG) => {}
            Err(error) => return Err(error.into()),
        }
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a socket needs a file name"));
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(CWD, parent, flags, Mode::empty())?;
        let short = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name);
        Ok(Self { unix: SocketAddrUnix::new(&short)?, _directory: Some(directory) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::unix::fs::PermissionsExt;

    fn packet(socket: &OwnedFd, limit: usize) -> io::Result<(Vec<u8>, Received)> {
        let mut buffer = Vec::new();
        let received = recv(socket.as_fd(), &mut buffer, limit)?;
        Ok((buffer, received))
    }

    fn scratch(name: &str) -> std::path::PathBuf {
        let path = std::env::temp_dir().join(format!("wharf-seqpacket-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    #[test]
    fn packets_keep_their_borders_and_descriptors() {
        let (a, b) = socketpair().unwrap();
        let (reader, writer) = io::pipe().unwrap();
        send(a.as_fd(), b"one", &[]).unwrap();
        send(a.as_fd(), b"two", &[writer.as_fd()]).unwrap();
        drop(writer);
        let (bytes, received) = packet(&b, 100).unwrap();
        assert_eq!(bytes, b"one");
        assert!(matches!(received, Received::Packet(fds) if fds.is_empty()));
        let (bytes, received) = packet(&b, 100).unwrap();
        assert_eq!(bytes, b"two");
        let Received::Packet(mut fds) = received else { panic!("no packet") };
        let fd = fds.pop().unwrap();
        assert!(rustix::io::fcntl_getfd(&fd).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
        File::from(fd).write_all(b"through").unwrap();
        let mut text = String::new();
        File::from(OwnedFd::from(reader)).read_to_string(&mut text).unwrap();
        assert_eq!(text, "through");
    }

    #[test]
    fn nothing_blocks() {
        let (a, b) = socketpair().unwrap();
        assert_eq!(packet(&b, 100).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let error = loop {
            if let Err(error) = send(a.as_fd(), &[0; 1000], &[]) {
                break error;
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_long_packet_is_thrown_away_with_its_descriptors() {
        let (a, b) = socketpair().unwrap();
        let (mut reader, writer) = io::pipe().unwrap();
        send(a.as_fd(), &[1; 101], &[writer.as_fd()]).unwrap();
        drop(writer);
        send(a.as_fd(), &[2; 100], &[]).unwrap();
        assert_eq!(packet(&b, 100).unwrap_err().kind(), io::ErrorKind::InvalidData);
        let mut end = Vec::new();
        reader.read_to_end(&mut end).unwrap();
        assert!(end.is_empty(), "the descriptor was closed, so the pipe ends");
        assert_eq!(packet(&b, 100).unwrap().0, [2; 100]);
    }

    #[test]
    fn the_last_packets_of_a_closed_peer_arrive() {
        let (a, b) = socketpair().unwrap();
        send(b.as_fd(), b"never read", &[]).unwrap();
        send(a.as_fd(), b"last words", &[]).unwrap();
        drop(a);
        assert_eq!(packet(&b, 100).unwrap().0, b"last words");
        assert!(matches!(packet(&b, 100).unwrap().1, Received::End));
    }

    #[test]
    fn as_many_descriptors_as_promised() {
        let (a, b) = socketpair().unwrap();
        let null = File::open("/dev/null").unwrap();
        send(a.as_fd(), b"many", &[null.as_fd(); MAX_FDS]).unwrap();
        assert!(matches!(packet(&b, 100).unwrap().1, Received::Packet(fds) if fds.len() == MAX_FDS));
        assert!(send(a.as_fd(), b"too many", &[null.as_fd(); MAX_FDS + 1]).is_err());
    }

    #[test]
    fn a_named_socket_is_private_and_knows_its_peer() {
        let dir = scratch("named");
        let path = dir.join("s");
        let stale = listen(&path).unwrap();
        drop(stale);
        let listener = listen(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(accept(listener.as_fd()).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let client = connect(&path).unwrap();
        let (server, credentials) = accept(listener.as_fd()).unwrap();
        assert_eq!(credentials.pid, std::process::id() as i32);
        assert_eq!(credentials.uid, rustix::process::getuid().as_raw());
        send(client.as_fd(), b"hello", &[]).unwrap();
        assert_eq!(packet(&server, 100).unwrap().0, b"hello");
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_path_longer_than_a_socket_address_works() {
        let dir = scratch("long");
        let deep = dir.join("d".repeat(120));
        std::fs::create_dir_all(&deep).unwrap();
        let listener = listen(&deep.join("s")).unwrap();
        let _client = connect(&deep.join("s")).unwrap();
        accept(listener.as_fd()).unwrap();
        std::fs::remove_dir_all(dir).unwrap();
    }
}
