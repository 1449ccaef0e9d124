//! The small languages inside flags: sizes, durations, mounts, ports, filters and so on.
//!
//! Everything here is pure except for reading the files a flag names. Errors are the bare reason; whoever parses the
//! command line says which flag it is about.

pub(crate) mod csv;
pub(crate) mod device;
pub(crate) mod environment;
pub(crate) mod filter;
pub(crate) mod moment;
pub(crate) mod mount;
pub(crate) mod network;
pub(crate) mod platform;
pub(crate) mod port;
pub(crate) mod security;
pub(crate) mod ulimit;
pub(crate) mod units;
pub(crate) mod volume;

/// What a parser of a flag's value returns.
pub(crate) type Parsed<T> = Result<T, String>;
