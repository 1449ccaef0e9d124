//! `config.json` as a keeper of credentials: what it says of a server is that server's.
#![no_main]
#![allow(dead_code)]

use libfuzzer_sys::fuzz_target;

#[path = "../../crates/wharf/src/credentials/mod.rs"]
mod credentials;

fuzz_target!(|input: (&[u8], &str)| {
    let (bytes, server) = input;
    credentials::fuzz(bytes, server);
});
