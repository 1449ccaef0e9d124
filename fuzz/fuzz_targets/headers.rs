//! Challenges, ranges, links and error bodies: what other servers and clients say.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wharf_registry::spec::{ByteRange, Challenge, ContentRange, ErrorBody, Requested, next_page};

fuzz_target!(|text: &str| {
    for challenge in Challenge::parse(text) {
        let printed = challenge.print();
        if !matches!(challenge, Challenge::Other(_)) && !printed.contains(char::is_control) {
            assert!(Challenge::parse(&printed).len() <= 1, "{printed}");
        }
    }
    if let Ok(range) = text.parse::<ByteRange>() {
        assert!(range.len() > 0);
        assert_eq!(range.to_string().parse(), Ok(range));
    }
    if let Ok(requested) = text.parse::<Requested>() {
        assert_eq!(requested.to_string().parse(), Ok(requested));
        for size in [0, 1, 1 << 20, u64::MAX] {
            if let Some(range) = requested.resolve(size) {
                assert!(range.first <= range.last && range.last < size);
            }
        }
    }
    if let Ok(range) = text.parse::<ContentRange>() {
        assert_eq!(range.to_string().parse(), Ok(range));
    }
    let _ = next_page(text);
    let _ = ErrorBody::parse(text.as_bytes());
});
