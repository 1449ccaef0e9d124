//! Pseudo terminals, taken from a devpts instance by descriptor and never through a name that a container owns.

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

const DEVPTS_MAGIC: u64 = 0x1cd1;

/// Both ends of a new pseudo terminal.
#[derive(Debug)]
pub struct Pty {
    /// The controlling program's end.
    pub master: OwnedFd,
    /// The terminal itself.
    pub slave: OwnedFd,
}

/// Makes a pseudo terminal in the devpts instance whose root directory is `devpts`.
pub fn open(devpts: impl AsFd, rows: u16, cols: u16) -> io::Result<Pty> {
    let devpts = devpts.as_fd();
    if rustix::fs::fstatfs(devpts)?.f_type as u64 != DEVPTS_MAGIC {
        return Err(io::Error::other("not a devpts file system"));
    }
    let master = rustix::fs::openat2(
        devpts,
        c"ptmx",
        OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV,
    )?;
    let stat = rustix::fs::fstat(&master)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::CharacterDevice
        || stat.st_rdev != rustix::fs::makedev(5, 2)
    {
        return Err(io::Error::other("ptmx is not the terminal multiplexer"));
    }
    rustix::pty::unlockpt(&master)?;
    rustix::termios::tcsetwinsize(
        &master,
        Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 },
    )?;
    // TIOCGPTPEER gives the other end of this very terminal without looking up a path.
    let slave = rustix::pty::ioctl_tiocgptpeer(
        &master,
        OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC,
    )?;
    Ok(Pty { master, slave })
}

/// Makes a terminal the controlling one of a new session that the calling process leads.
pub fn make_controlling(slave: impl AsFd) -> io::Result<()> {
    rustix::process::setsid()?;
    Ok(rustix::process::ioctl_tiocsctty(slave)?)
}
