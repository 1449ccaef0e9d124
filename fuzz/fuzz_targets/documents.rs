//! Manifests and indexes: what client, store and server accept is the same document to all.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wharf_content::spec::{DOCKER_INDEX, DOCKER_MANIFEST, INDEX, Index, MANIFEST, Manifest};

fuzz_target!(|bytes: &[u8]| {
    let readings: Vec<&str> = [MANIFEST, INDEX, DOCKER_MANIFEST, DOCKER_INDEX]
        .into_iter()
        .filter(|media_type| {
            let is_index = [INDEX, DOCKER_INDEX].contains(media_type);
            let read = if is_index {
                Index::parse(bytes, media_type).is_ok()
            } else {
                Manifest::parse(bytes, media_type).is_ok()
            };
            let client = wharf_registry::fuzz::document(bytes, media_type);
            assert!(client.is_none() || (read && client.as_deref() == Some(*media_type)));
            if let Some(stored) = wharf_registry_server::fuzz::document(bytes, Some(media_type)) {
                assert_eq!(stored, *media_type);
            }
            read
        })
        .collect();
    // One reading: an index or a manifest.
    let indexes = readings.iter().filter(|reading| reading.contains("index") || reading.contains("list")).count();
    // A body that says nothing can be of either vendor, and an index may be without children.
    assert!(indexes == 0 || indexes == readings.len(), "{readings:?}");
    for announced in ["", "application/json", "text/html"] {
        let _ = wharf_registry::fuzz::document(bytes, announced);
    }
    let _ = wharf_registry_server::fuzz::document(bytes, None);
});
