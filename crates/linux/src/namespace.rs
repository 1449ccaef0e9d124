//! Namespaces: sets of them, joining by descriptor, leaving for new ones.

use std::io;
use std::ops::{BitOr, BitOrAssign};
use std::os::fd::{AsFd, AsRawFd};

/// A set of namespace kinds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Namespaces(u64);

impl Namespaces {
    /// No namespace.
    pub const NONE: Self = Self(0);
    /// Mounts.
    pub const MOUNT: Self = Self(libc::CLONE_NEWNS as u64);
    /// Process ids.
    pub const PID: Self = Self(libc::CLONE_NEWPID as u64);
    /// Network stack.
    pub const NETWORK: Self = Self(libc::CLONE_NEWNET as u64);
    /// System V IPC and POSIX message queues.
    pub const IPC: Self = Self(libc::CLONE_NEWIPC as u64);
    /// Host and domain name.
    pub const UTS: Self = Self(libc::CLONE_NEWUTS as u64);
    /// User and group ids, capabilities.
    pub const USER: Self = Self(libc::CLONE_NEWUSER as u64);
    /// Root of the cgroup view.
    pub const CGROUP: Self = Self(libc::CLONE_NEWCGROUP as u64);
    /// Monotonic and boot clocks.
    pub const TIME: Self = Self(0x80);

    /// Whether every kind of `other` is in the set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The set without the kinds of `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// The kinds in both sets.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether the set is empty.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(crate) const fn bits(self) -> u64 {
        self.0
    }
}

impl BitOr for Namespaces {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for Namespaces {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

/// Moves the calling thread into new namespaces.
pub fn unshare(kinds: Namespaces) -> io::Result<()> {
    // SAFETY: takes no pointers. Descriptors and memory are not touched because only namespace bits can be set.
    check(unsafe { libc::syscall(libc::SYS_unshare, kinds.bits()) })
}

/// Joins the namespaces `kinds` that `fd` stands for: a file of `/proc/<pid>/ns` or a pidfd.
///
/// With [`Namespaces::PID`] the caller itself stays where it is; its next children are born in the namespace.
pub fn join(fd: impl AsFd, kinds: Namespaces) -> io::Result<()> {
    // SAFETY: takes no pointers.
    check(unsafe { libc::syscall(libc::SYS_setns, fd.as_fd().as_raw_fd(), kinds.bits()) })
}

/// Which kind of namespace a descriptor stands for; an error if it is not one.
pub fn kind_of(fd: impl AsFd) -> io::Result<Namespaces> {
    const NS_GET_NSTYPE: libc::Ioctl = 0xb703;
    // SAFETY: this ioctl takes no argument; on a file that is not a namespace it fails.
    let kind = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), NS_GET_NSTYPE) };
    u64::try_from(kind).map(Namespaces).map_err(|_| io::Error::last_os_error())
}

pub(crate) fn check(result: libc::c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
