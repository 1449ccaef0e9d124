//! The sockets the API is reached at: paths of our own and those a service manager hands over.
//!
//! Whoever can write to a socket is root on this machine, so a path gets mode 0660 and a group, and TCP is for clients
//! with certificates (the settings see to it). A path that exists is replaced only when it is a socket that nobody
//! answers on.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use tokio::net::{TcpListener, TcpSocket, UnixListener};
use wharf_server::{Door, Tls};

use crate::settings::Host;

/// The first descriptor of those that a service manager hands over.
const FIRST_PASSED: i32 = 3;
/// Groups that the sockets are given to, the first that exists.
const GROUPS: [&str; 2] = ["wharf", "docker"];
/// Who may connect: the owner and the group.
const SOCKET_MODE: u32 = 0o660;

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 1024;

/// One socket that accepts connections.
pub(crate) struct Listener {
    pub(crate) door: Door,
    /// Takes the path away in the end.
    pub(crate) guard: PathGuard,
    /// What to call it in the log.
    pub(crate) name: String,
}

/// Opens all of `hosts`, those on TCP with `tls`.
pub(crate) fn open(hosts: &[Host], group: Option<&str>, tls: Option<&Arc<Tls>>) -> Result<Vec<Listener>> {
    let gid = group_id(group)?;
    let mut listeners = Vec::new();
    for host in hosts {
        match host {
            Host::Unix(path) => listeners.push(bind(path, gid)?),
            Host::Passed => listeners.extend(passed()?),
            Host::Tcp(address) => listeners.push(bind_tcp(*address, tls)?),
        }
    }
    Ok(listeners)
}

fn bind_tcp(address: SocketAddr, tls: Option<&Arc<Tls>>) -> Result<Listener> {
    let context = || format!("listening on tcp://{address}");
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    };
    let socket = socket.with_context(context)?;
    socket.set_reuseaddr(true).and_then(|()| socket.bind(address)).with_context(context)?;
    let socket: TcpListener = socket.listen(BACKLOG).with_context(context)?;
    let bound = socket.local_addr().with_context(context)?;
    if tls.is_none() {
        tracing::warn!("tcp://{bound} is served without TLS: every user of this machine is root through it");
    }
    Ok(Listener {
        door: Door::Tcp(socket, tls.cloned()),
        guard: PathGuard(None),
        name: format!("tcp://{bound}"),
    })
}

fn bind(path: &Path, gid: Option<u32>) -> Result<Listener> {
    let context = || format!("listening on {}", path.display());
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(context)?;
    }
    clear(path)?;
    let socket = StdListener::bind(path).with_context(context)?;
    let guard = PathGuard::new(path).with_context(context)?;
    // Until here the umask keeps everyone but the owner out.
    chown(path, None, gid).with_context(context)?;
    fs::set_permissions(path, fs::Permissions::from_mode(SOCKET_MODE)).with_context(context)?;
    let door = Door::Unix(adopt(socket).with_context(context)?);
    Ok(Listener { door, guard, name: path.display().to_string() })
}

/// Removes a socket that a dead engine left.
fn clear(path: &Path) -> Result<()> {
    let Ok(found) = fs::symlink_metadata(path) else { return Ok(()) };
    if !found.file_type().is_socket() {
        bail!("{} exists and is not a socket: remove it or listen elsewhere", path.display());
    }
    if answers(path) {
        bail!("something already answers on {}: stop it or listen elsewhere", path.display());
    }
    fs::remove_file(path).with_context(|| format!("removing the stale socket {}", path.display()))
}

/// Whether a connection to the socket is taken. Never waits: a queue that is full has an owner, too.
fn answers(path: &Path) -> bool {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let connected = SocketAddrUnix::new(path).and_then(|address| {
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        connect(&socket, &address)
    });
    !matches!(connected, Err(rustix::io::Errno::CONNREFUSED | rustix::io::Errno::NOENT))
}

fn adopt(socket: StdListener) -> io::Result<UnixListener> {
    socket.set_nonblocking(true)?;
    UnixListener::from_std(socket)
}

/// The sockets of systemd's activation protocol.
fn passed() -> Result<Vec<Listener>> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<i32>().ok());
    let count = match (number("LISTEN_PID"), number("LISTEN_FDS")) {
        (Some(pid), Some(count)) if pid == getpid().as_raw_nonzero().get() && count > 0 => count,
        _ => bail!("fd://: no sockets were passed to this process; start it from its systemd socket unit"),
    };
    (FIRST_PASSED..FIRST_PASSED + count).map(from_passed).collect()
}

fn from_passed(number: i32) -> Result<Listener> {
    let context = || format!("taking over descriptor {number}");
    let socket: OwnedFd = own(getpid(), number).with_context(context)?;
    let domain = rustix::net::sockopt::socket_domain(&socket).with_context(context)?;
    let listens = rustix::net::sockopt::socket_acceptconn(&socket).with_context(context)?;
    if domain != AddressFamily::UNIX || !listens {
        bail!("descriptor {number} is not a listening unix socket; only those are served");
    }
    let socket = StdListener::from(socket);
    let address = socket.local_addr().with_context(context)?;
    let name =
        address.as_pathname().map_or_else(|| format!("fd {number}"), |path| path.display().to_string());
    // The path stays: it is the service manager's.
    let door = Door::Unix(adopt(socket).with_context(context)?);
    Ok(Listener { door, guard: PathGuard(None), name })
}

/// An owned duplicate of a descriptor that is only known by its number.
fn own(process: Pid, number: i32) -> rustix::io::Result<OwnedFd> {
    let process = pidfd_open(process, PidfdFlags::empty())?;
    pidfd_getfd(process, number, PidfdGetfdFlags::empty())
}

/// Removes a socket's path when dropped, unless another engine has meanwhile put its own there.
pub(crate) struct PathGuard(Option<(PathBuf, (u64, u64))>);

impl PathGuard {
    fn new(path: &Path) -> io::Result<Self> {
        Ok(Self(Some((path.to_path_buf(), identity(path)?))))
    }
}

impl Drop for PathGuard {
    fn drop(&mut self) {
        if let Some((path, own)) = &self.0
            && identity(path).ok() == Some(*own)
        {
            let _already_gone = fs::remove_file(path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// The id of the wanted group, or of the first usual one.
fn group_id(wanted: Option<&str>) -> Result<Option<u32>> {
    let groups = fs::read_to_string("/etc/group").unwrap_or_default();
    match wanted {
        None => Ok(GROUPS.iter().find_map(|name| find_group(&groups, name))),
        Some(name) => match find_group(&groups, name).or_else(|| name.parse().ok()) {
            Some(gid) => Ok(Some(gid)),
            None => bail!("group {name} not found: make it with `groupadd {name}` or give another --group"),
        },
    }
}

fn find_group(groups: &str, name: &str) -> Option<u32> {
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(path: &Path) -> Vec<Host> {
        vec![Host::Unix(path.to_path_buf())]
    }

    fn open(hosts: &[Host], group: Option<&str>) -> Result<Vec<Listener>> {
        super::open(hosts, group, None)
    }

    #[tokio::test]
    async fn a_path_is_private_and_goes_in_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/wharf.sock");
        let listeners = open(&hosts(&path), Some("0")).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, SOCKET_MODE);
        drop(listeners);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn only_a_stale_socket_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let live = open(&hosts(&path), None).unwrap();
        let refusal = |path: &Path| open(&hosts(path), None).err().unwrap().to_string();
        assert!(refusal(&path).contains("something already answers"));
        drop(live);

        drop(StdListener::bind(&path).unwrap());
        assert!(path.exists(), "std leaves the path behind");
        drop(open(&hosts(&path), None).unwrap());

        fs::write(&path, "precious").unwrap();
        assert!(refusal(&path).contains("is not a socket"));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[tokio::test]
    async fn a_successor_keeps_its_path() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let old = open(&hosts(&path), None).unwrap();
        fs::remove_file(&path).unwrap();
        let _new = StdListener::bind(&path).unwrap();
        drop(old);
        assert!(path.exists());
    }

    #[tokio::test]
    async fn nothing_is_passed_to_a_process_that_was_not_activated() {
        let message = open(&[Host::Passed], None).err().unwrap().to_string();
        assert!(message.contains("no sockets were passed"), "{message}");
    }

    #[test]
    fn groups_are_found_by_their_whole_name() {
        let groups = "root:x:0:\ndockerroot:x:7:\ndocker:x:994:a,b\n";
        assert_eq!(find_group(groups, "docker"), Some(994));
        assert_eq!(find_group(groups, "wharf"), None);
        assert!(group_id(Some("no-such-group")).is_err());
    }
}
