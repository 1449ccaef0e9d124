//! Noticing that somebody has removed the firewall table.
//!
//! `nft flush ruleset`, which many scripts begin with, takes everybody's tables away; published ports and isolation would be
//! gone until the next container is published. One thread sleeps on the kernel's notifications and asks for a repair.
//!
//! Crash: while no engine runs nobody notices; the next start repairs.

use std::os::fd::{AsFd, OwnedFd};

use wharf_linux::netlink::{Attributes, Error, Events, Family, Heard};

/// `NFNLGRP_NFTABLES`.
const GROUP: u32 = 7;
/// `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_DELTABLE`.
const TABLE_REMOVED: u16 = 10 << 8 | 2;

/// The thread, which ends with this handle.
#[derive(Debug)]
pub(crate) struct Guard {
    _stop: OwnedFd,
}

impl Guard {
    /// Calls `repair` whenever a table of this name was removed, or may have been, until it returns false.
    pub(crate) fn start(table: &str, repair: impl Fn() -> bool + Send + 'static) -> Result<Self, Error> {
        let failed = |call| move |source| Error::Socket { call, source };
        let mut events = Events::subscribe(Family::Netfilter, GROUP)?;
        let flags = rustix::pipe::PipeFlags::CLOEXEC;
        let (stop, other_end) =
            rustix::pipe::pipe_with(flags).map_err(|errno| failed("pipe")(errno.into()))?;
        let table = [table.as_bytes(), b"\0"].concat();
        let watch = move || {
            loop {
                let mut removed = false;
                let heard = events.wait(stop.as_fd(), &mut |frame| {
                    removed |= frame.kind == TABLE_REMOVED
                        && Attributes::after(frame.payload, 4).find(1).ok().flatten() == Some(&table);
                });
                match heard {
                    Ok(Heard::Stopped) => return,
                    Ok(Heard::Events) if !removed => {}
                    Ok(Heard::Events | Heard::Lost) => {
                        if !repair() {
                            return;
                        }
                    }
                    Err(error) => {
                        tracing::warn!("the firewall table is not watched any more: {error}");
                        return;
                    }
                }
            }
        };
        std::thread::Builder::new()
            .name("net-guard".into())
            .stack_size(128 * 1024)
            .spawn(watch)
            .map_err(failed("clone"))?;
        Ok(Self { _stop: other_end })
    }
}
