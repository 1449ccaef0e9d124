//! Our tar reader, beside the `tar` crate: what both accept, both read the same way.
#![no_main]

use std::io::Read as _;

use libfuzzer_sys::fuzz_target;
use wharf_archive::tar::{Entry, Kind, Reader};

/// Name, size and content of each regular file.
type Files = Vec<(Vec<u8>, Vec<u8>)>;

fn ours(bytes: &[u8]) -> Option<(Files, bool)> {
    let mut reader = Reader::new(bytes);
    let (mut files, mut plain) = (Files::new(), true);
    while let Some(Entry { path, kind, .. }) = reader.next_entry().ok()? {
        let mut content = Vec::new();
        loop {
            let chunk = reader.chunk().ok()?;
            if chunk.is_empty() {
                break;
            }
            content.extend_from_slice(chunk);
            let taken = chunk.len();
            reader.advance(taken);
        }
        if let Kind::File { pieces, .. } = kind {
            plain &= pieces.is_none();
            files.push((path, content));
        }
    }
    Some((files, plain))
}

fn theirs(bytes: &[u8]) -> Option<Files> {
    let mut files = Files::new();
    for entry in tar::Archive::new(bytes).entries().ok()? {
        let mut entry = entry.ok()?;
        if matches!(entry.header().entry_type(), tar::EntryType::Regular | tar::EntryType::Continuous) {
            let mut content = Vec::new();
            let path = entry.path_bytes().into_owned();
            entry.read_to_end(&mut content).ok()?;
            files.push((path, content));
        }
    }
    Some(files)
}

fuzz_target!(|bytes: &[u8]| {
    let Some((files, plain)) = ours(bytes) else { return };
    // Theirs fails where names are not what its platform takes, and reads holes in its own way.
    if plain && let Some(theirs) = theirs(bytes) {
        let names = |files: &Files| files.iter().map(|(path, content)| (path.clone(), content.len())).collect::<Vec<_>>();
        assert_eq!(names(&files), names(&theirs));
        assert_eq!(files, theirs);
    }
});
