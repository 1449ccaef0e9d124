//! A layer into a directory: nothing outside of it changes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wharf_image::Limits;

fuzz_target!(|bytes: &[u8]| {
    let scratch = tempfile::tempdir_in("/dev/shm").expect("a scratch directory");
    std::fs::write(scratch.path().join("canary"), "canary").expect("a canary");
    let place = scratch.path().join("1");
    let limits = Limits { entries: 1000, layer_bytes: 16 << 20, ..Limits::default() };
    let _ = wharf_image::fuzz::unpack(bytes, &place, &limits);
    let canary = std::fs::read(scratch.path().join("canary")).expect("the canary is there");
    assert_eq!(canary, b"canary");
    let names = std::fs::read_dir(scratch.path()).expect("the scratch directory is there").count();
    assert_eq!(names, 2, "something was made outside");
});
