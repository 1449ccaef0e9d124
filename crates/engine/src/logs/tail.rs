//! The spool as a log driver reads it: batches of messages from where its cursor stands.

use std::path::{Path, PathBuf};

use wharf_shim::spool::{Entry, Limits, Origin, Position, Reader, SpoolError};

use super::cursor::{Cursor, FileMark, Mark};
use super::messages::Message;

/// Bytes of output that are taken together. A record more may come, and each byte may become six in a file.
const BATCH: usize = 256 * 1024;

/// Encoded messages.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) bytes: Vec<u8>,
    /// Where each message ends in `bytes`.
    pub(super) ends: Vec<usize>,
    /// How many messages before these were counted: the number of the first.
    pub(super) first: u64,
    /// Messages that were left out to keep up.
    pub(super) dropped: u64,
    /// Output was lost before the driver could read it.
    pub(super) gap: bool,
    /// Something was read, if only a part of a line.
    pub(super) moved: bool,
}

impl Batch {
    /// The bytes of a message.
    pub(super) fn message(&self, index: usize) -> &[u8] {
        &self.bytes[self.start(index)..self.ends[index]]
    }

    /// Where a message begins.
    pub(super) fn start(&self, index: usize) -> usize {
        if index == 0 { 0 } else { self.ends[index - 1] }
    }
}

/// Turns a message into bytes; the number counts a container's messages from 0 on.
pub(super) trait Encode: Send {
    fn encode(&mut self, message: &Message<'_>, number: u64, out: &mut Vec<u8>);
}

/// Leave out what is more than `bytes` behind `end`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hurry {
    pub(super) limits: Limits,
    pub(super) end: Position,
    pub(super) bytes: u64,
}

/// See the module.
pub(super) struct Tail {
    directory: PathBuf,
    reader: Option<Reader>,
    cursor: Cursor,
    /// Where the batch in hand begins: on disk.
    mark: Mark,
    /// Where it ends.
    next: Mark,
}

impl Tail {
    /// Goes on where the cursor `name` of the spool in `directory` stands. The directory must exist.
    pub(super) fn open(directory: &Path, name: &str) -> std::io::Result<Self> {
        let (cursor, mark) = Cursor::open(&directory.join(format!("{name}.cursor")))?;
        Ok(Self { directory: directory.to_owned(), reader: None, cursor, next: mark.clone(), mark })
    }

    /// Reads the next messages, which must be committed before the next ones. With `ending`, what is unfinished at the
    /// end of the spool, too.
    pub(super) fn fill(
        &mut self,
        encode: &mut dyn Encode,
        hurry: Option<Hurry>,
        ending: bool,
    ) -> Result<Batch, SpoolError> {
        if self.reader.is_none() {
            self.reader = Some(Reader::open_at(&self.directory, Origin::Position(self.mark.position))?);
        }
        let Self { reader: Some(reader), mark, next, .. } = self else { return Ok(Batch::default()) };
        next.clone_from(mark);
        let mut intake = Intake {
            encode,
            skip: mark.skip,
            seen: 0,
            behind: false,
            batch: Batch { first: mark.delivered, ..Batch::default() },
        };
        let mut read = 0;
        while read < BATCH {
            match reader.next()? {
                None => {
                    // A container that is quiet keeps no buffer.
                    reader.rest();
                    break;
                }
                Some(Entry::Record(record)) => {
                    read += record.bytes.len();
                    intake.behind = hurry
                        .is_some_and(|hurry| hurry.limits.distance(next.position, hurry.end) > hurry.bytes);
                    next.cutter.record(&record, &mut |message| intake.take(&message));
                }
                Some(Entry::Gap { .. }) => {
                    next.cutter.flush(&mut |message| intake.take(&message));
                    intake.batch.gap = true;
                }
            }
            next.position = reader.position();
        }
        if ending && read < BATCH && next.cutter.is_pending() {
            next.cutter.flush(&mut |message| intake.take(&message));
        }
        let mut batch = intake.batch;
        batch.moved = next != mark;
        Ok(batch)
    }

    /// Writes down that `done` messages of the batch in hand were delivered, the last of them into `file`.
    pub(super) fn save_part(&mut self, done: u64, file: FileMark) -> std::io::Result<()> {
        let mut mark = self.mark.clone();
        mark.skip += done;
        mark.delivered += done;
        mark.file = file;
        self.cursor.save(&mark)
    }

    /// The batch in hand is delivered: writes that down, if `durably`, and goes on behind it.
    pub(super) fn commit(&mut self, batch: &Batch, file: FileMark, durably: bool) -> std::io::Result<()> {
        self.next.skip = 0;
        self.next.delivered = batch.first + batch.dropped + batch.ends.len() as u64;
        self.next.file = file;
        self.mark.clone_from(&self.next);
        if durably { self.cursor.save(&self.mark) } else { Ok(()) }
    }

    /// From here on messages go into `file`: known before the first of them is in it.
    pub(super) fn begin_file(&mut self, file: FileMark) -> std::io::Result<()> {
        if self.mark.file == file {
            return Ok(());
        }
        self.mark.file = file;
        self.cursor.save(&self.mark)
    }

    /// Where the next batch begins.
    pub(super) fn position(&self) -> Position {
        self.mark.position
    }

    /// Where the batch in hand ends.
    pub(super) fn end(&self) -> Position {
        self.next.position
    }

    /// The file that was written last.
    pub(super) fn file(&self) -> FileMark {
        self.mark.file
    }
}

/// Messages on their way into a batch.
struct Intake<'a> {
    encode: &'a mut dyn Encode,
    skip: u64,
    seen: u64,
    behind: bool,
    batch: Batch,
}

impl Intake<'_> {
    fn take(&mut self, message: &Message<'_>) {
        self.seen += 1;
        if self.seen <= self.skip {
            return;
        }
        let batch = &mut self.batch;
        // Those that are left out come first: the end that they are measured from stands still.
        if self.behind && batch.ends.is_empty() {
            batch.dropped += 1;
            return;
        }
        let number = batch.first + batch.dropped + batch.ends.len() as u64;
        self.encode.encode(message, number, &mut batch.bytes);
        batch.ends.push(batch.bytes.len());
    }
}

#[cfg(test)]
mod tests {
    use wharf_shim::spool::{Stream, Writer};

    use super::*;

    /// Messages as text, with their number.
    struct Plain;

    impl Encode for Plain {
        fn encode(&mut self, message: &Message<'_>, number: u64, out: &mut Vec<u8>) {
            out.extend_from_slice(format!("{number} {};", String::from_utf8_lossy(message.bytes)).as_bytes());
        }
    }

    const LIMITS: Limits = Limits { segment_bytes: 100_000, segments: 3 };

    fn text(batch: &Batch) -> String {
        String::from_utf8(batch.bytes.clone()).unwrap()
    }

    #[test]
    fn whoever_comes_after_a_death_gets_what_was_not_delivered() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let mut writer = Writer::open(&log, LIMITS).unwrap();
        writer.append(Stream::Stdout, 1, b"a\nb\nc\nuns").unwrap();
        let open = || Tail::open(&log, "test").unwrap();

        // Nothing was committed: all of it comes again.
        for _ in 0..2 {
            assert_eq!(text(&open().fill(&mut Plain, None, false).unwrap()), "0 a;1 b;2 c;");
        }
        // Two were delivered.
        let mut tail = open();
        tail.fill(&mut Plain, None, false).unwrap();
        tail.save_part(2, FileMark::default()).unwrap();
        let mut tail = open();
        let batch = tail.fill(&mut Plain, None, false).unwrap();
        assert_eq!(text(&batch), "2 c;");
        tail.commit(&batch, FileMark { inode: 1, size: 2 }, true).unwrap();
        assert!(!tail.fill(&mut Plain, None, false).unwrap().moved);

        // The unfinished line is in the cursor.
        writer.append(Stream::Stdout, 2, b"aid\nend").unwrap();
        let mut tail = open();
        assert_eq!(tail.file(), FileMark { inode: 1, size: 2 });
        let batch = tail.fill(&mut Plain, None, false).unwrap();
        assert_eq!(text(&batch), "3 unsaid;");
        tail.commit(&batch, FileMark::default(), true).unwrap();
        let batch = tail.fill(&mut Plain, None, true).unwrap();
        assert_eq!(text(&batch), "4 end;");
        tail.commit(&batch, FileMark::default(), true).unwrap();
        assert_eq!(text(&open().fill(&mut Plain, None, true).unwrap()), "");
    }

    #[test]
    fn who_is_in_a_hurry_leaves_out_the_oldest_and_who_lost_some_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let mut writer = Writer::open(&log, LIMITS).unwrap();
        for number in 0..100 {
            writer.append(Stream::Stdout, 1, format!("{number}{}\n", " ".repeat(480)).as_bytes()).unwrap();
        }
        let hurry = Hurry { limits: LIMITS, end: writer.end(), bytes: 5_500 };
        let mut tail = Tail::open(&log, "test").unwrap();
        let batch = tail.fill(&mut Plain, Some(hurry), false).unwrap();
        assert_eq!((batch.dropped, batch.ends.len(), batch.gap), (90, 10, false));
        assert!(batch.message(0).starts_with(b"90 90 "));
        tail.commit(&batch, FileMark::default(), true).unwrap();
        for _ in 0..10 {
            writer.append(Stream::Stdout, 1, &[b'y'; 60_000]).unwrap();
        }
        let batch = Tail::open(&log, "test").unwrap().fill(&mut Plain, None, false).unwrap();
        assert!(batch.gap);
    }
}
