//! `subuid` and `subgid` as anybody may have written them: no map ever has the host's root in it.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| wharf_engine::fuzz_subids(text));
