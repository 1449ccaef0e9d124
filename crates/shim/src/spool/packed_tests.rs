//! Compressed segments as readers, writer and packer meet in them.

use std::fs;
use std::path::{Path, PathBuf};

use super::*;

const NARROW: Limits = Limits { segment_bytes: 240_000, segments: 6 };

fn plain(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:010}.spool"))
}

fn packed(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:010}.spool.zst"))
}

/// Five closed segments and one that grows, of numbered lines.
fn filled(log: &Path) -> Writer {
    let mut writer = Writer::open(log, NARROW).unwrap();
    for number in 0..1_600 {
        let line = format!("{number} {}\n", "x".repeat(number % 2_000));
        writer.append(Stream::Stdout, number as i64, line.as_bytes()).unwrap();
    }
    assert_eq!(writer.end().segment, 5);
    writer
}

/// Where each record ends, and its bytes.
fn records(log: &Path, from: Origin) -> Vec<(Position, Option<Vec<u8>>)> {
    let mut reader = Reader::open_at(log, from).unwrap();
    let mut all = Vec::new();
    loop {
        let bytes = match reader.next().unwrap() {
            None => return all,
            Some(Entry::Record(record)) => Some(record.bytes.to_vec()),
            Some(Entry::Gap { .. }) => None,
        };
        all.push((reader.position(), bytes));
    }
}

#[test]
fn packed_segments_read_the_same_from_every_position() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let _writer = filled(&log);
    let before = records(&log, Origin::Start);
    let size = |path: PathBuf| fs::metadata(path).map_or(0, |meta| meta.len());
    let plain_size = size(plain(&log, 2));
    assert_eq!(unpacked(&log).unwrap(), [0, 1, 2, 3, 4]);
    for segment in [0, 2, 3, 4] {
        assert!(pack(&log, segment, || true).unwrap());
        assert!(!plain(&log, segment).exists());
    }
    assert!(size(packed(&log, 2)) * 10 < plain_size, "it is compressed");
    assert_eq!(unpacked(&log).unwrap(), [1]);
    assert_eq!(records(&log, Origin::Start), before);
    for index in (0..before.len()).step_by(41) {
        let rest = records(&log, Origin::Position(before[index].0));
        assert_eq!(rest, before[index + 1..], "from record {index}");
    }
    let mut lines = tail(&log, 700).unwrap();
    let Some(Piece::Line(line)) = lines.next().unwrap() else { panic!("a line") };
    assert!(line.bytes.starts_with(b"900 "));
}

#[test]
fn a_reader_goes_on_through_packing_and_rotation() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let mut writer = filled(&log);
    let before = records(&log, Origin::Start);
    let mut reader = Reader::open_at(&log, Origin::Start).unwrap();
    for _ in 0..100 {
        reader.next().unwrap();
    }
    for segment in unpacked(&log).unwrap() {
        pack(&log, segment, || true).unwrap();
    }
    let mut count = 100;
    while let Some(entry) = reader.next().unwrap() {
        assert!(matches!(entry, Entry::Record(_)), "record {count}");
        count += 1;
    }
    assert_eq!(count, before.len());
    // The writer takes packed segments away like others.
    while writer.end().segment < 8 {
        writer.append(Stream::Stderr, 1, &[b'y'; 50_000]).unwrap();
    }
    assert!(!packed(&log, 2).exists());
    assert!(packed(&log, 3).exists());
}

#[test]
fn a_crash_leaves_either_form_whole() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let writer = filled(&log);
    let before = records(&log, Origin::Start);
    let copy = fs::read(plain(&log, 1)).unwrap();

    // Killed between the renaming and the unlinking: both are there.
    pack(&log, 1, || true).unwrap();
    fs::write(plain(&log, 1), copy).unwrap();
    assert_eq!(records(&log, Origin::Start), before);
    assert_eq!(unpacked(&log).unwrap(), [0, 1, 2, 3, 4]);
    assert!(pack(&log, 1, || true).unwrap());
    assert_eq!(records(&log, Origin::Start), before);

    // Killed in the middle.
    let temporary = log.join("0000000002.spool.tmp");
    fs::write(&temporary, "half").unwrap();
    assert_eq!(records(&log, Origin::Start), before);
    sweep(&log).unwrap();
    assert!(!temporary.exists());

    // Ended in the middle.
    let mut left = 1;
    assert!(!pack(&log, 3, || std::mem::replace(&mut left, 0) == 1).unwrap());
    assert!(plain(&log, 3).exists() && !log.join("0000000003.spool.tmp").exists());

    // The segment that grows is never packed, and the next writer goes on in it.
    assert!(!pack(&log, 5, || true).unwrap());
    drop(writer);
    let end = Writer::open(&log, NARROW).unwrap().end();
    assert_eq!(end.segment, 5);
    assert_eq!(records(&log, Origin::Start), before);
}

#[test]
fn a_packer_that_is_overtaken_by_rotation_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let _writer = filled(&log);
    let gone = plain(&log, 0);
    let removed = || {
        let _again = fs::remove_file(&gone);
        true
    };
    assert!(!pack(&log, 0, removed).unwrap());
    assert!(!packed(&log, 0).exists() && !log.join("0000000000.spool.tmp").exists());
}

#[test]
fn damage_is_a_gap_and_never_more() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let _writer = filled(&log);
    let before = records(&log, Origin::Start);
    pack(&log, 1, || true).unwrap();
    let whole = fs::read(packed(&log, 1)).unwrap();
    let mut state = 0x1234_5678_9abc_def1_u64;
    for round in 0..200 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let mut bytes = whole.clone();
        let at = (state >> 33) as usize % bytes.len();
        match round % 3 {
            0 => bytes[at] ^= 1 << (round % 8),
            1 => bytes.truncate(at),
            // The table at the end.
            _ => {
                let at = bytes.len() - 1 - at % 40;
                bytes[at] = state as u8;
            }
        }
        fs::write(packed(&log, 1), &bytes).unwrap();
        let after = records(&log, Origin::Start);
        let last = before.last().unwrap();
        assert_eq!(after.last().unwrap(), last, "round {round}");
        let others = |records: &[(Position, Option<Vec<u8>>)]| {
            records.iter().filter(|record| record.0.segment > 2).count()
        };
        assert_eq!(others(&after), others(&before), "round {round}");
    }
}
