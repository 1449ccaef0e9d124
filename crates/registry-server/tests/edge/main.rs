//! The program from outside: the built binary on a free port of the loopback address and scratch directories.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by a panic")]

mod connections;
mod matrix;
mod program;
mod proxy;
mod tls;
mod tokens;
mod world;
