//! Taking the power from a file system, for tests: what is not on its disk is lost, and nothing more gets there.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `EXT4_IOC_SHUTDOWN` (the same for XFS and F2FS): `_IOR('X', 125, __u32)`.
const SHUTDOWN: libc::c_ulong = 0x8004_587d;

/// What becomes of the journal's transaction that is being gathered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Journal {
    /// It reaches the disk; data that nobody synced does not.
    Flushed,
    /// It is lost too.
    Lost,
}

/// Shuts down the file system that holds `file`, at once and for good: until it is unmounted, everything on it fails
/// with `EIO`.
///
/// # Errors
/// `ENOTTY` for a file system without such a switch, `EPERM` without `CAP_SYS_ADMIN`.
pub fn cut(file: BorrowedFd<'_>, journal: Journal) -> io::Result<()> {
    let flags: u32 = match journal {
        Journal::Flushed => 1,
        Journal::Lost => 2,
    };
    // SAFETY: the descriptor is open for the duration of the call, which reads one u32 behind the pointer.
    let done = unsafe { libc::ioctl(file.as_raw_fd(), SHUTDOWN as _, &raw const flags) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
