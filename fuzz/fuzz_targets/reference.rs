//! Names of images: what is accepted is printed as it is read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wharf_model::{Digest, Reference};
use wharf_registry::spec::{RepositoryName, Tag};

fuzz_target!(|text: &str| {
    if let Ok(name) = Reference::parse_normalized(text) {
        let again = Reference::parse_normalized(&name.to_string()).expect("a printed name is a name");
        assert_eq!(name, again);
        let familiar = Reference::parse_normalized(&name.familiar_name()).expect("a familiar name is a name");
        assert_eq!(name.path(), familiar.path());
        assert!(!name.path().split('/').any(|part| part.is_empty() || part == "." || part == ".."));
    }
    if let Ok(digest) = text.parse::<Digest>() {
        assert_eq!(digest.to_string(), text);
    }
    if let Ok(name) = text.parse::<RepositoryName>() {
        assert!(!name.as_str().split('/').any(|part| part.is_empty() || part == "." || part == ".."));
    }
    if let Ok(tag) = text.parse::<Tag>() {
        assert!(!tag.as_str().contains(['/', '\0']) && tag.as_str() != ".." && tag.as_str() != ".");
    }
});
