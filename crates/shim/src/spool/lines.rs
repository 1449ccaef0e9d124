//! Records as lines.

use std::ops::Range;
use std::path::Path;

use memchr::{memchr, memchr_iter};

use super::directory::Directory;
use super::reader::Found;
use super::{Origin, Position, Reader, SpoolError, Stream};

/// The longest line given in one piece, without its newline.
pub const LINE_LIMIT: usize = 1024 * 1024;
/// What the buffer of a stream without an unfinished line keeps.
const IDLE_CAPACITY: usize = 16 * 1024;
/// How finely [`tail`] looks for a place to begin.
const BLOCK: u64 = 64 * 1024;

/// One line, or a piece of one longer than [`LINE_LIMIT`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line<'a> {
    /// Where it was written to.
    pub stream: Stream,
    /// When its first byte was read from the container, nanoseconds since 1970.
    pub time_ns: i64,
    /// Its first byte begins a line: false for the later pieces of a long line, and if the beginning is missing.
    pub begins: bool,
    /// Its bytes with the newline; without one it is a piece of a longer line, or was never finished.
    pub bytes: &'a [u8],
}

/// What [`Lines::next`] finds.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// A line.
    Line(Line<'a>),
    /// Output is missing here; lines cut by it are given up to the cut, before this. With `from == to` the disk
    /// refused it; otherwise see [`super::Entry::Gap`].
    Gap {
        /// Where output ends.
        from: Position,
        /// Where it goes on.
        to: Position,
    },
}

/// Merges a reader's records into whole lines, per stream, in the order in which the lines became complete.
///
/// A line that a container left unfinished when it ended is given, without a newline, when the next run's output
/// begins, or by [`Lines::flush`].
#[derive(Debug)]
pub struct Lines {
    reader: Reader,
    /// The record that is being taken apart.
    current: Option<Current>,
    streams: [StreamState; 2],
    /// The stream whose pending bytes the last call gave away.
    given: Option<Stream>,
    /// To be told once the unfinished lines before it are.
    gap: Option<(Position, Position)>,
}

#[derive(Debug)]
struct Current {
    stream: Stream,
    time_ns: i64,
    /// Must first end an unfinished line of its stream.
    breaks: bool,
    /// What is left of it, in the reader's buffer.
    rest: Range<usize>,
}

#[derive(Debug, Default)]
struct StreamState {
    /// The beginning of an unfinished line.
    pending: Vec<u8>,
    pending_time_ns: i64,
    pending_begins: bool,
    /// The next byte begins a line.
    at_start: bool,
}

/// [`Piece`] without borrowing.
enum Step {
    /// Bytes of the current record.
    Direct {
        stream: Stream,
        time_ns: i64,
        begins: bool,
        bytes: Range<usize>,
    },
    /// All that is pending of a stream.
    Pending(Stream),
    Gap(Position, Position),
}

impl Lines {
    /// Lines from where `reader` stands.
    pub fn new(reader: Reader) -> Self {
        Self { reader, current: None, streams: Default::default(), given: None, gap: None }
    }

    /// The next line; `None` when there is no whole line more for now.
    #[expect(
        clippy::should_implement_trait,
        reason = "a line borrows the reader's buffer, an iterator's item cannot"
    )]
    pub fn next(&mut self) -> Result<Option<Piece<'_>>, SpoolError> {
        self.reclaim();
        loop {
            if let Some(step) = self.step() {
                return Ok(Some(self.piece(step)));
            }
            match self.reader.find()? {
                None => return Ok(None),
                Some(Found::Gap { from, to }) => self.gap = Some((from, to)),
                Some(Found::Record(header, rest)) => {
                    if header.after_loss {
                        let mut at = self.reader.position();
                        at.offset -= header.record_len() as u64;
                        self.gap = Some((at, at));
                    }
                    let (stream, time_ns, breaks) = (header.stream, header.time_ns, header.line_start);
                    self.current = Some(Current { stream, time_ns, breaks, rest });
                }
            }
        }
    }

    /// The unfinished line of each stream, when no more output will come: call until `None`.
    pub fn flush(&mut self) -> Option<Line<'_>> {
        self.reclaim();
        let stream = self.unfinished()?;
        self.given = Some(stream);
        Some(self.pending(stream))
    }

    /// Where the reader stands, for an `Ack`. (Lines not yet given may begin before it.)
    pub fn position(&self) -> Position {
        self.reader.position()
    }

    /// Forgets pending bytes that were given away by the last call.
    fn reclaim(&mut self) {
        if let Some(stream) = self.given.take() {
            let pending = &mut self.streams[stream as usize].pending;
            pending.clear();
            pending.shrink_to(IDLE_CAPACITY);
        }
    }

    fn unfinished(&self) -> Option<Stream> {
        [Stream::Stdout, Stream::Stderr].into_iter().find(|s| !self.streams[*s as usize].pending.is_empty())
    }

    /// Takes the next piece off what has been read; `None` if that is used up.
    fn step(&mut self) -> Option<Step> {
        if let Some((from, to)) = self.gap {
            if let Some(stream) = self.unfinished() {
                return Some(Step::Pending(stream));
            }
            self.gap = None;
            self.streams.iter_mut().for_each(|state| state.at_start = false);
            return Some(Step::Gap(from, to));
        }
        let current = self.current.as_mut()?;
        let state = &mut self.streams[current.stream as usize];
        if std::mem::take(&mut current.breaks) {
            state.at_start = true;
            if !state.pending.is_empty() {
                return Some(Step::Pending(current.stream));
            }
        }
        let bytes = self.reader.bytes(current.rest.clone());
        let newline = memchr(b'\n', bytes);
        if let (Some(at), true) = (newline, state.pending.is_empty()) {
            let line = current.rest.start..=current.rest.start + at;
            current.rest.start += at + 1;
            let begins = std::mem::replace(&mut state.at_start, true);
            let bytes = *line.start()..line.end() + 1;
            return Some(Step::Direct { stream: current.stream, time_ns: current.time_ns, begins, bytes });
        }
        let done = state.join(bytes, newline, current.time_ns);
        current.rest.start += done.taken;
        let stream = current.stream;
        if current.rest.is_empty() {
            self.current = None;
        }
        done.complete.then_some(Step::Pending(stream))
    }

    fn piece(&mut self, step: Step) -> Piece<'_> {
        match step {
            Step::Gap(from, to) => Piece::Gap { from, to },
            Step::Pending(stream) => {
                self.given = Some(stream);
                Piece::Line(self.pending(stream))
            }
            Step::Direct { stream, time_ns, begins, bytes } => {
                Piece::Line(Line { stream, time_ns, begins, bytes: self.reader.bytes(bytes) })
            }
        }
    }

    fn pending(&self, stream: Stream) -> Line<'_> {
        let state = &self.streams[stream as usize];
        Line { stream, time_ns: state.pending_time_ns, begins: state.pending_begins, bytes: &state.pending }
    }
}

struct Joined {
    taken: usize,
    complete: bool,
}

impl StreamState {
    /// Adds what belongs to the pending line from `bytes`, whose first newline is at `newline`.
    fn join(&mut self, bytes: &[u8], newline: Option<usize>, time_ns: i64) -> Joined {
        let room = LINE_LIMIT - self.pending.len();
        let (taken, complete) = match newline {
            Some(at) if at <= room => (at + 1, true),
            _ if bytes.len() > room => (room, true),
            _ => (bytes.len(), false),
        };
        if self.pending.is_empty() && taken > 0 {
            self.pending_time_ns = time_ns;
            self.pending_begins = std::mem::take(&mut self.at_start);
        }
        self.pending.extend_from_slice(&bytes[..taken]);
        if complete {
            self.at_start = self.pending.ends_with(b"\n");
        }
        Joined { taken, complete }
    }
}

/// Lines from the `n`th last one on, as the spool in `dir` is now; following goes on from there. An unfinished last
/// line counts. Reads about as much as it gives (and the last segment), not the whole spool.
pub fn tail(dir: &Path, n: u64) -> Result<Lines, SpoolError> {
    if n == 0 {
        return Ok(Lines::new(Reader::open_at(dir, Origin::End)?));
    }
    let mut older = Directory::open(dir)?.segments()?;
    let mut blocks = Vec::new();
    let mut known = 0;
    // One more than asked for, so that the first line given is known to begin behind a newline.
    let mut wanted = n.saturating_add(1);
    let mut end = None;
    loop {
        while known < wanted
            && let Some(segment) = older.pop()
        {
            let survey = Survey::of(dir, segment)?;
            end = end.or(Some(survey.end));
            known += survey.blocks.iter().map(|block| block.newlines).sum::<u64>();
            blocks.extend(survey.blocks.into_iter().rev());
        }
        let mut passed = 0;
        let chosen = blocks.iter().find(|block| {
            passed += block.newlines;
            passed >= wanted
        });
        let origin = chosen.map_or(Origin::Start, |block| Origin::Position(block.start));
        let end = end.unwrap_or_default();
        let (total, cut) = count(Lines::new(Reader::open_at(dir, origin)?), end)?;
        let skip = total.saturating_sub(n);
        if origin == Origin::Start || cut <= skip {
            let mut lines = Lines::new(Reader::open_at(dir, origin)?);
            let mut skipped = 0;
            while skipped < skip
                && let Some(piece) = lines.next()?
            {
                skipped += u64::from(matches!(piece, Piece::Line(_)));
            }
            return Ok(lines);
        }
        // A line of the other stream began long before: look further back.
        wanted = wanted.saturating_mul(2);
    }
}

/// Where lines end in a segment, coarsely.
struct Survey {
    /// Oldest first.
    blocks: Vec<Block>,
    end: Position,
}

struct Block {
    start: Position,
    newlines: u64,
}

impl Survey {
    fn of(dir: &Path, segment: u64) -> Result<Self, SpoolError> {
        let mut end = Position { segment, offset: 0 };
        let mut reader = Reader::open_at(dir, Origin::Position(end))?;
        let mut blocks: Vec<Block> = Vec::new();
        while let Some(Found::Record(_, range)) = reader.find()?
            && reader.position().segment == segment
        {
            let newlines = memchr_iter(b'\n', reader.bytes(range)).count() as u64;
            match blocks.last_mut() {
                Some(block) if end.offset - block.start.offset < BLOCK => block.newlines += newlines,
                _ => blocks.push(Block { start: end, newlines }),
            }
            end = reader.position();
        }
        Ok(Self { blocks, end })
    }
}

/// How many lines there are up to `end`, and how many of them come before all streams have shown where their lines
/// begin.
fn count(mut lines: Lines, end: Position) -> Result<(u64, u64), SpoolError> {
    let mut total = 0;
    let mut cut = 0;
    let mut seen = [false; 2];
    let mut note = |line: Line<'_>| {
        total += 1;
        if !std::mem::replace(&mut seen[line.stream as usize], true) && !line.begins {
            cut = total;
        }
    };
    // A record may end several lines; those behind it that were read with it still count.
    while lines.position() < end || lines.current.is_some() {
        match lines.next()? {
            Some(Piece::Line(line)) => note(line),
            Some(Piece::Gap { .. }) => {}
            None => break,
        }
    }
    while let Some(line) = lines.flush() {
        note(line);
    }
    Ok((total, cut))
}
