//! The client against scripted registries, and against Debian's.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, too")]

mod auth;
mod pull;
mod push;
mod reference;
mod support;
mod tls;
