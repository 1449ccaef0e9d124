//! The distribution specification: what both ends share ([`spec`]), and the client.

pub mod spec;
