//! Netlink: typed messages, one socket, batches.

/// What can go wrong on a netlink socket.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A socket call failed.
    #[error("netlink {call}: {source}")]
    Socket {
        /// The call.
        call: &'static str,
        /// The reason.
        source: std::io::Error,
    },
}
