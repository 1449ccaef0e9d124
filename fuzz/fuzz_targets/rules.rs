//! The rules of a registry, and what they mean for a user.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&str, &str, &str)| {
    let (text, user, repository) = input;
    let _ = wharf_registry_server::fuzz::rules(text, user, repository);
    // Patterns without the rest of a file.
    let rule = format!("[[rules]]\nwho = \"*\"\nmay = \"pull\"\nrepositories = {user:?}\n");
    let _ = wharf_registry_server::fuzz::rules(&rule, user, repository);
});
