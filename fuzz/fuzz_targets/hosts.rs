//! containerd's `hosts.toml`, and names of registries.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&str, &str)| {
    let (text, domain) = input;
    let scratch = tempfile::tempdir_in("/dev/shm").expect("a scratch directory");
    let directory = scratch.path().join("_default");
    std::fs::create_dir(&directory).expect("a directory");
    std::fs::write(directory.join("hosts.toml"), text).expect("a file");
    let _ = wharf_registry::fuzz::hosts(scratch.path(), "reg.test:5000");
    if !domain.contains(['/', '\0']) && domain != ".." {
        let _ = wharf_registry::fuzz::hosts(scratch.path(), domain);
    }
});
