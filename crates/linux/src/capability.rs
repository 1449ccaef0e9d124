//! Capability sets of the calling process.

use crate::namespace::check;
use rustix::thread::{CapabilitySet, CapabilitySets};
use std::io;

/// A set of capabilities, bit n for capability number n.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Set(pub u64);

impl Set {
    /// Whether capability number `n` is in the set.
    pub const fn has(self, n: u8) -> bool {
        self.0 & (1 << n) != 0
    }
}

/// The five sets of a process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sets {
    /// What `execve` can ever give.
    pub bounding: Set,
    /// What is in force.
    pub effective: Set,
    /// What can be put in force.
    pub permitted: Set,
    /// What files with inheritable capabilities can pass on.
    pub inheritable: Set,
    /// What survives `execve` of an ordinary file.
    pub ambient: Set,
}

/// The highest capability the running kernel may know. Asking for more is an error by itself.
const HIGHEST: u8 = 63;

/// Takes everything outside `bounding` out of the bounding set. Needs `CAP_SETPCAP`.
pub fn limit_bounding(bounding: Set) -> io::Result<()> {
    for number in (0..=HIGHEST).filter(|n| !bounding.has(*n)) {
        // SAFETY: takes no pointers.
        if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(number), 0, 0, 0) } < 0 {
            let error = io::Error::last_os_error();
            // The first number the kernel does not know ends the list.
            return if error.raw_os_error() == Some(libc::EINVAL) { Ok(()) } else { Err(error) };
        }
    }
    Ok(())
}

/// Lets the permitted set survive the next change of user ids.
pub fn keep_over_setuid(keep: bool) -> io::Result<()> {
    Ok(rustix::thread::set_keep_capabilities(keep)?)
}

/// Sets effective, permitted, inheritable and ambient sets.
pub fn apply(sets: &Sets) -> io::Result<()> {
    let raw = |set: Set| CapabilitySet::from_bits_retain(set.0);
    rustix::thread::set_capabilities(
        None,
        CapabilitySets {
            effective: raw(sets.effective),
            permitted: raw(sets.permitted),
            inheritable: raw(sets.inheritable),
        },
    )?;
    rustix::thread::clear_ambient_capability_set()?;
    for number in (0..=HIGHEST).filter(|n| sets.ambient.has(*n)) {
        // SAFETY: takes no pointers.
        check(
            unsafe {
                libc::prctl(
                    libc::PR_CAP_AMBIENT,
                    libc::PR_CAP_AMBIENT_RAISE as libc::c_ulong,
                    libc::c_ulong::from(number),
                    0,
                    0,
                )
            }
            .into(),
        )?;
    }
    Ok(())
}

/// The calling process's permitted set: what it can have and hand on.
pub fn permitted() -> io::Result<Set> {
    Ok(Set(rustix::thread::capabilities(None)?.permitted.bits()))
}
