//! Tokens: none that nobody signed is believed.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|token: &str| {
    assert!(!wharf_registry_server::fuzz::token(token));
});
