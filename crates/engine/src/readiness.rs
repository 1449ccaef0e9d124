//! Descriptors whose readiness the async runtime watches.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Watches a non-blocking descriptor.
#[expect(
    deprecated,
    reason = "the replacement is unsafe because a type's as_raw_fd may change its mind; that of OwnedFd never does"
)]
pub(crate) fn watch(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(fd, interest)
}
