//! References and digests read back as they were written, whatever they are.
#![allow(clippy::unwrap_used, reason = "a failing helper is a failing test")]

use proptest::prelude::*;
use wharf_model::{Digest, Reference};

fn path_component() -> impl Strategy<Value = String> {
    "[a-z0-9]{1,8}((\\.|_|__|-{1,3})[a-z0-9]{1,8}){0,2}"
}

fn name() -> impl Strategy<Value = String> {
    let domain = prop_oneof![
        Just(String::new()),
        Just("localhost/".to_owned()),
        "[a-z0-9]{1,6}(\\.[a-z0-9]{1,6}){1,2}(:[0-9]{1,5})?/",
        "[a-z0-9]{1,6}:[0-9]{1,5}/",
        "\\[[0-9a-f]{1,4}:[0-9a-f:]{1,10}\\](:[0-9]{1,5})?/",
        Just("docker.io/".to_owned()),
    ];
    (domain, prop::collection::vec(path_component(), 1..4)).prop_map(|(domain, mut parts)| {
        // A first component with a dot is taken for a domain, and a domain has no underscore.
        if domain.is_empty() && parts.len() > 1 {
            parts[0] = parts[0].replace('.', "_");
        }
        domain + &parts.join("/")
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_valid_reference_reads_back(name in name(), tag in proptest::option::of("[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}"), digest in proptest::option::of(any::<[u8; 32]>())) {
        let mut text = name;
        if let Some(tag) = &tag {
            text = format!("{text}:{tag}");
        }
        if let Some(digest) = digest {
            text = format!("{text}@{}", Digest::from_sha256(digest));
        }
        // 64 hexadecimal digits are an id; the strategy is not long enough to make them.
        let reference = Reference::parse_normalized(&text).unwrap();
        prop_assert_eq!(reference.tag(), tag.as_deref());
        prop_assert_eq!(&Reference::parse_normalized(&reference.to_string()).unwrap(), &reference);
        prop_assert_eq!(&Reference::parse_normalized(&reference.familiar()).unwrap(), &reference);
        prop_assert!(reference.familiar().len() <= reference.to_string().len());
    }

    #[test]
    fn no_text_becomes_a_dangerous_reference(text in "[a-zA-Z0-9:/@._ \\\\\\x00\\n-]{0,60}") {
        if let Ok(reference) = Reference::parse_normalized(&text) {
            let full = reference.to_string();
            prop_assert!(full.bytes().all(|byte| byte.is_ascii_graphic()), "{}", full);
            prop_assert!(reference.path().split('/').all(|part| !part.is_empty() && part != "." && part != ".."));
            prop_assert_eq!(Reference::parse_normalized(&full).unwrap(), reference);
        }
    }

    #[test]
    fn a_digest_reads_back_and_nothing_else_does(bytes in any::<[u8; 32]>(), at in 0..71_usize, other in any::<char>()) {
        let digest = Digest::from_sha256(bytes);
        let text = digest.to_string();
        prop_assert_eq!(text.parse::<Digest>().unwrap(), digest);
        let mut damaged: Vec<char> = text.chars().collect();
        damaged[at] = other;
        let damaged: String = damaged.into_iter().collect();
        if let Ok(parsed) = damaged.parse::<Digest>() {
            prop_assert_eq!(parsed.to_string(), damaged);
        }
    }
}
