//! What log receivers answer, what cursors hold after a power cut, and options as users write them.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    wharf_engine::fuzz_logs::acknowledgement(bytes);
    wharf_engine::fuzz_logs::cursor(bytes);
    if let Ok(text) = std::str::from_utf8(bytes) {
        wharf_engine::fuzz_logs::option(text);
    }
});
