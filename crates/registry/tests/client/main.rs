//! The client against scripted registries, and against Debian's.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, too")]
#![allow(clippy::print_stdout, reason = "a test that did nothing says so")]

mod auth;
mod pull;
mod push;
mod reference;
mod support;
mod tls;
