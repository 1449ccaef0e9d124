//! The spool as its users see it; randomness is from a fixed seed, so a failure repeats.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::*;

const WIDE: Limits = Limits { segment_bytes: 1 << 20, segments: 8 };

fn segment(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:010}.spool"))
}

/// Everything readable from `origin`: (stream, bytes), gaps as None.
fn drain(reader: &mut Reader) -> Vec<Option<(Stream, Vec<u8>)>> {
    let mut all = Vec::new();
    while let Some(entry) = reader.next().unwrap() {
        all.push(match entry {
            Entry::Record(record) => Some((record.stream, record.bytes.to_vec())),
            Entry::Gap { .. } => None,
        });
    }
    all
}

fn read_all(dir: &Path) -> Vec<Option<(Stream, Vec<u8>)>> {
    drain(&mut Reader::open_at(dir, Origin::Start).unwrap())
}

/// All lines that come, and with `end` also the unfinished ones.
fn texts(lines: &mut Lines, end: bool) -> Vec<String> {
    let mut all = Vec::new();
    while let Some(piece) = lines.next().unwrap() {
        all.push(match piece {
            Piece::Line(line) => String::from_utf8_lossy(line.bytes).into_owned(),
            Piece::Gap { .. } => "<gap>".to_owned(),
        });
    }
    while end && let Some(line) = lines.flush() {
        all.push(String::from_utf8_lossy(line.bytes).into_owned());
    }
    all
}

fn lines_of(dir: &Path) -> Vec<String> {
    texts(&mut Lines::new(Reader::open_at(dir, Origin::Start).unwrap()), true)
}

fn tail_of(dir: &Path, n: u64) -> Vec<String> {
    texts(&mut tail(dir, n).unwrap(), true)
}

/// A small generator of pseudo-random numbers (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

#[test]
fn what_is_written_is_read_with_its_stream_and_time() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let mut writer = Writer::open(&log, WIDE).unwrap();
    writer.append(Stream::Stdout, 7, b"out").unwrap();
    writer.append(Stream::Stderr, -8, b"err\n").unwrap();
    writer.append(Stream::Stdout, i64::MAX, b"more").unwrap();
    let mut reader = Reader::open_at(&log, Origin::Start).unwrap();
    let mut expect = |stream, time_ns, line_start, bytes: &[u8]| {
        let record = Record { stream, time_ns, line_start, after_loss: false, bytes };
        assert_eq!(reader.next().unwrap(), Some(Entry::Record(record)));
    };
    expect(Stream::Stdout, 7, true, b"out");
    expect(Stream::Stderr, -8, true, b"err\n");
    expect(Stream::Stdout, i64::MAX, false, b"more");
    assert_eq!(reader.next().unwrap(), None);
    assert_eq!(reader.position(), writer.end());
    assert_eq!(Reader::end(&log).unwrap(), writer.end());
    assert_eq!(fs::metadata(&log).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(fs::metadata(segment(&log, 0)).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_reader_follows_the_writer_from_any_position() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::open(dir.path(), Limits { segment_bytes: 100, segments: 1000 }).unwrap();
    let mut follower = Reader::open_at(dir.path(), Origin::Start).unwrap();
    let mut marks = Vec::new();
    for number in 0..50 {
        marks.push(writer.end());
        writer.append(Stream::Stdout, 0, format!("line {number}\n").as_bytes()).unwrap();
        assert_eq!(drain(&mut follower).len(), 1);
        assert_eq!(follower.position(), writer.end());
    }
    assert!(writer.end().segment > 10);
    for (number, mark) in marks.into_iter().enumerate() {
        let mut reader = Reader::open_at(dir.path(), Origin::Position(mark)).unwrap();
        assert_eq!(drain(&mut reader).len(), 50 - number);
    }
    let mut late = Reader::open_at(dir.path(), Origin::End).unwrap();
    assert_eq!(late.next().unwrap(), None);
    writer.append(Stream::Stderr, 0, b"new").unwrap();
    assert_eq!(drain(&mut late), [Some((Stream::Stderr, b"new".to_vec()))]);
}

#[test]
fn a_reader_may_come_before_the_writer() {
    let dir = tempfile::tempdir().unwrap();
    assert!(Reader::open_at(&dir.path().join("none"), Origin::Start).unwrap_err().is_missing());
    let mut reader = Reader::open_at(dir.path(), Origin::Start).unwrap();
    assert_eq!(reader.next().unwrap(), None);
    Writer::open(dir.path(), WIDE).unwrap().append(Stream::Stdout, 0, b"x").unwrap();
    assert_eq!(drain(&mut reader).len(), 1);
}

#[test]
fn rotation_keeps_the_newest_segments_and_their_limits() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::open(dir.path(), Limits { segment_bytes: 200, segments: 3 }).unwrap();
    for _ in 0..100 {
        writer.append(Stream::Stdout, 0, &[b'x'; 70]).unwrap();
    }
    writer.append(Stream::Stdout, 0, &[b'y'; 1000]).unwrap();
    let mut sizes: Vec<u64> =
        fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [180, 180, 1020]);
    let mut reader = Reader::open_at(dir.path(), Origin::Start).unwrap();
    assert_eq!(reader.position().segment, 48);
    assert_eq!(drain(&mut reader).iter().filter(|entry| entry.is_some()).count(), 5);
}

#[test]
fn an_overtaken_reader_learns_of_the_gap() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { segment_bytes: 50, segments: 2 };
    let mut writer = Writer::open(dir.path(), limits).unwrap();
    writer.append(Stream::Stdout, 0, &[b'0'; 30]).unwrap();
    let mut slow = Reader::open_at(dir.path(), Origin::Start).unwrap();
    let mut unopened = Reader::open_at(dir.path(), Origin::Start).unwrap();
    assert!(slow.next().unwrap().is_some());
    for digit in b'1'..=b'6' {
        writer.append(Stream::Stdout, 0, &[digit; 30]).unwrap();
    }
    let (from, to) = (Position { segment: 0, offset: 50 }, Position { segment: 5, offset: 0 });
    assert_eq!(slow.next().unwrap(), Some(Entry::Gap { from, to }));
    assert_eq!(drain(&mut slow).len(), 2);
    let from = Position::default();
    assert_eq!(unopened.next().unwrap(), Some(Entry::Gap { from, to }));
    assert_eq!(drain(&mut unopened).len(), 2);
}

#[test]
fn a_deleted_segment_that_is_being_read_is_read_to_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::open(dir.path(), Limits { segment_bytes: 1000, segments: 2 }).unwrap();
    for digit in 0..10 {
        writer.append(Stream::Stdout, 0, &[digit; 80]).unwrap();
    }
    let mut reader = Reader::open_at(dir.path(), Origin::Start).unwrap();
    reader.next().unwrap();
    for digit in 10..30 {
        writer.append(Stream::Stdout, 0, &[digit; 80]).unwrap();
    }
    assert!(!segment(dir.path(), 0).exists());
    let rest = drain(&mut reader);
    assert_eq!(rest.len(), 29, "no gap: segment 1 was still there");
    assert!(rest.iter().all(Option::is_some));
}

#[test]
fn a_torn_tail_is_passed_by_readers_and_cut_by_the_next_writer() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::open(dir.path(), WIDE).unwrap();
    writer.append(Stream::Stdout, 0, b"first\n").unwrap();
    let whole = writer.end().offset as usize;
    writer.append(Stream::Stdout, 0, b"second\n").unwrap();
    drop(writer);
    let path = segment(dir.path(), 0);
    let bytes = fs::read(&path).unwrap();
    for cut in whole..bytes.len() {
        for tail in [0, 100] {
            // Cut short, and, as after a power cut, cut short with zeros behind.
            let mut torn = bytes[..cut].to_vec();
            torn.resize(cut + tail, 0);
            fs::write(&path, &torn).unwrap();
            assert_eq!(Reader::end(dir.path()).unwrap().offset as usize, whole);
            let mut follower = Reader::open_at(dir.path(), Origin::Start).unwrap();
            assert_eq!(drain(&mut follower).len(), 1);
            let mut writer = Writer::open(dir.path(), WIDE).unwrap();
            assert_eq!(writer.end().offset as usize, whole);
            writer.append(Stream::Stderr, 0, b"a third record that is longer than the second\n").unwrap();
            assert_eq!(drain(&mut follower).len(), 1, "cut {cut}");
            assert_eq!(lines_of(dir.path()), ["first\n", "a third record that is longer than the second\n"]);
        }
    }
}

#[test]
fn damage_in_the_middle_is_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::open(dir.path(), Limits { segment_bytes: 300, segments: 10 }).unwrap();
    for digit in b'0'..=b'9' {
        writer.append(Stream::Stdout, 0, &[digit; 80]).unwrap();
    }
    let path = segment(dir.path(), 1);
    let mut bytes = fs::read(&path).unwrap();
    bytes[150] ^= 1;
    fs::write(&path, bytes).unwrap();
    let found = read_all(dir.path());
    let shown: String = found.iter().map(|e| e.as_ref().map_or('-', |(_, bytes)| bytes[0] as char)).collect();
    assert_eq!(shown, "0123-6789");
}

#[test]
fn any_bytes_as_a_segment_are_harmless() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::open(dir.path(), WIDE).unwrap();
    for text in ["a\n", "bb", "ccc\n\n", "d"] {
        writer.append(Stream::Stdout, 0, text.as_bytes()).unwrap();
        writer.append(Stream::Stderr, 0, text.as_bytes()).unwrap();
    }
    let path = segment(dir.path(), 0);
    let good = fs::read(&path).unwrap();
    let mut random = Random(1);
    for round in 0..2000 {
        let mut bytes = good.clone();
        for _ in 0..=random.below(4) {
            let at = random.below(bytes.len() as u64) as usize;
            bytes[at] = random.below(256) as u8;
        }
        bytes.truncate(random.below(bytes.len() as u64 + 1) as usize);
        if round % 4 == 0 {
            bytes.iter_mut().for_each(|byte| *byte = random.below(256) as u8);
        }
        fs::write(&path, &bytes).unwrap();
        lines_of(dir.path());
        tail_of(dir.path(), 2);
        let end = Writer::open(dir.path(), WIDE).unwrap().end();
        assert!(end.offset <= bytes.len() as u64);
        assert_eq!(fs::metadata(&path).unwrap().len(), end.offset);
    }
}

#[test]
fn records_become_lines_per_stream() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::open(dir.path(), WIDE).unwrap();
    writer.append(Stream::Stdout, 1, b"one\ntw").unwrap();
    writer.append(Stream::Stderr, 2, b"err").unwrap();
    writer.append(Stream::Stdout, 3, b"o\n\nthree").unwrap();
    writer.append(Stream::Stderr, 4, b"or\n").unwrap();
    let mut lines = Lines::new(Reader::open_at(dir.path(), Origin::Start).unwrap());
    let mut expect = |stream, time_ns, bytes: &[u8]| {
        let line = Line { stream, time_ns, begins: true, bytes };
        assert_eq!(lines.next().unwrap(), Some(Piece::Line(line)));
    };
    expect(Stream::Stdout, 1, b"one\n");
    expect(Stream::Stdout, 1, b"two\n");
    expect(Stream::Stdout, 3, b"\n");
    expect(Stream::Stderr, 2, b"error\n");
    assert_eq!(lines.next().unwrap(), None);
    writer.append(Stream::Stdout, 5, b" four\n").unwrap();
    assert_eq!(texts(&mut lines, true), ["three four\n"]);
}

#[test]
fn an_unfinished_line_of_an_earlier_run_is_not_joined_with_the_next_run() {
    let dir = tempfile::tempdir().unwrap();
    Writer::open(dir.path(), WIDE).unwrap().append(Stream::Stdout, 0, b"prompt> ").unwrap();
    Writer::open(dir.path(), WIDE).unwrap().append(Stream::Stdout, 0, b"hello\n").unwrap();
    assert_eq!(lines_of(dir.path()), ["prompt> ", "hello\n"]);
    assert_eq!(tail_of(dir.path(), 1), ["hello\n"]);
    assert_eq!(tail_of(dir.path(), 2), ["prompt> ", "hello\n"]);
}

#[test]
fn lines_up_to_the_limit_are_whole_and_longer_ones_come_in_pieces() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { segment_bytes: 300_000, segments: 100 };
    let mut writer = Writer::open(dir.path(), limits).unwrap();
    let mut text = vec![b'a'; LINE_LIMIT];
    text.push(b'\n');
    text.extend(vec![b'b'; 2 * LINE_LIMIT + 1]);
    text.extend(b"\nlast");
    for chunk in text.chunks(50_001) {
        writer.append(Stream::Stdout, 0, chunk).unwrap();
        writer.append(Stream::Stderr, 0, b"x\n").unwrap();
    }
    let mut lines = Lines::new(Reader::open_at(dir.path(), Origin::Start).unwrap());
    let mut lengths = Vec::new();
    let mut joined = Vec::new();
    let mut note = |line: Line<'_>| {
        if line.stream == Stream::Stdout {
            lengths.push((line.bytes.len(), line.begins));
            joined.extend_from_slice(line.bytes);
        }
    };
    while let Some(Piece::Line(line)) = lines.next().unwrap() {
        note(line);
    }
    while let Some(line) = lines.flush() {
        note(line);
    }
    assert_eq!(
        lengths,
        [(LINE_LIMIT + 1, true), (LINE_LIMIT, true), (LINE_LIMIT, false), (2, false), (4, true)]
    );
    assert_eq!(joined, text);
}

#[test]
fn lines_tell_of_gaps_and_end_what_they_cut() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::open(dir.path(), Limits { segment_bytes: 60, segments: 2 }).unwrap();
    writer.append(Stream::Stdout, 0, b"whole\ncut off").unwrap();
    let mut lines = Lines::new(Reader::open_at(dir.path(), Origin::Start).unwrap());
    assert_eq!(texts(&mut lines, false), ["whole\n"]);
    for _ in 0..5 {
        writer.append(Stream::Stdout, 0, b" and the middle of a long line").unwrap();
    }
    writer.append(Stream::Stdout, 0, b" and its end\nlast\n").unwrap();
    let rest = texts(&mut lines, false);
    assert_eq!(rest, ["cut off", "<gap>", " and the middle of a long line and its end\n", "last\n"]);
}

#[test]
fn what_the_disk_refused_shows_as_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::open(dir.path(), Limits { segment_bytes: 100, segments: 9 }).unwrap();
    writer.append(Stream::Stdout, 0, &[b'a'; 70]).unwrap();
    // The next segment cannot be made.
    fs::create_dir(segment(dir.path(), 1)).unwrap();
    let error = writer.append(Stream::Stdout, 0, &[b'b'; 70]).unwrap_err();
    assert!(error.to_string().contains("0000000001.spool"), "{error}");
    fs::remove_dir(segment(dir.path(), 1)).unwrap();
    writer.append(Stream::Stdout, 0, b"c\n").unwrap();
    assert_eq!(lines_of(dir.path()), ["a".repeat(70).as_str(), "<gap>", "c\n"]);
}

/// Random output of both streams, its lines by the simplest means, and every tail of it.
#[test]
fn lines_and_tails_match_a_plain_model() {
    let mut random = Random(42);
    for _ in 0..60 {
        let dir = tempfile::tempdir().unwrap();
        let limits = Limits { segment_bytes: 100 + random.below(100_000), segments: 10_000 };
        let mut writer = Writer::open(dir.path(), limits).unwrap();
        let mut model: Vec<String> = Vec::new();
        let mut open = [String::new(), String::new()];
        for _ in 0..random.below(200) {
            let stream = if random.below(5) == 0 { Stream::Stderr } else { Stream::Stdout };
            let text: String = (0..1 + random.below(60))
                .map(|_| if random.below(20) == 0 { '\n' } else { (b'a' + random.below(26) as u8) as char })
                .collect();
            writer.append(stream, 0, text.as_bytes()).unwrap();
            for character in text.chars() {
                open[stream as usize].push(character);
                if character == '\n' {
                    model.push(std::mem::take(&mut open[stream as usize]));
                }
            }
        }
        let finished = model.len();
        model.extend(open.into_iter().filter(|rest| !rest.is_empty()));
        assert_eq!(lines_of(dir.path()), model);
        for n in [1, 2, 3, 10, model.len() as u64, 1000] {
            let wanted = &model[model.len().saturating_sub(n as usize).min(finished)..];
            assert_eq!(tail_of(dir.path(), n), wanted, "{n} of {}", model.len());
        }
        assert!(texts(&mut tail(dir.path(), 0).unwrap(), true).is_empty());
    }
}

#[test]
fn a_tail_can_be_followed() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::open(dir.path(), WIDE).unwrap();
    writer.append(Stream::Stdout, 0, b"1\n2\n3\nunfin").unwrap();
    let mut lines = tail(dir.path(), 2).unwrap();
    assert_eq!(texts(&mut lines, false), ["3\n"]);
    writer.append(Stream::Stdout, 0, b"ished\n4\n").unwrap();
    assert_eq!(texts(&mut lines, false), ["unfinished\n", "4\n"]);
}

#[test]
fn distances_are_never_too_short() {
    let limits = Limits { segment_bytes: 100, segments: 4 };
    let at = |segment, offset| Position { segment, offset };
    assert_eq!(limits.capacity(), 400);
    assert_eq!(limits.distance(at(1, 10), at(1, 60)), 50);
    assert_eq!(limits.distance(at(1, 90), at(3, 10)), 120);
    assert_eq!(limits.distance(at(3, 10), at(1, 90)), 0);
    assert_eq!(limits.distance(at(0, 0), at(u64::MAX, 0)), u64::MAX);
}
