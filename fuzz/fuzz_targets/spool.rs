//! Anything as a segment of a spool, in both forms: readers come to an end and go on in the next segment.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wharf_shim::spool::{Lines, Limits, Origin, Reader, Stream, Writer, tail};

fuzz_target!(|bytes: &[u8]| {
    let Some((form, bytes)) = bytes.split_first() else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let log = dir.path().join("log");
    let limits = Limits { segment_bytes: 1 << 20, segments: 4 };
    drop(Writer::open(&log, limits).expect("a spool"));
    std::fs::rename(log.join("0000000000.spool"), log.join("0000000001.spool")).expect("ours");
    let name = if form % 2 == 0 { "0000000000.spool" } else { "0000000000.spool.zst" };
    std::fs::write(log.join(name), bytes).expect("room");
    let mut writer = Writer::open(&log, limits).expect("the spool goes on");
    writer.append(Stream::Stdout, 1, b"last\n").expect("room");
    let mut reader = Reader::open_at(&log, Origin::Start).expect("readable");
    while reader.next().expect("no error").is_some() {}
    assert_eq!(reader.position(), writer.end());
    let mut lines = Lines::new(Reader::open_at(&log, Origin::Start).expect("readable"));
    while lines.next().expect("no error").is_some() {}
    tail(&log, 3).expect("a tail");
});
