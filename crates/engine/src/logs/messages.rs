//! Output as log drivers get it: lines without their newline, long ones in pieces of [`PIECE`] bytes, as Docker cuts
//! them.
//!
//! The cut follows from the records and the state before them alone: whoever goes on from a saved state gets the same
//! messages again, which is how a driver's cursor can say how many of them were delivered.

use wharf_shim::spool::{Record, Stream};

/// The longest message.
pub(crate) const PIECE: usize = 16 * 1024;

/// One line, or a piece of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Message<'a> {
    pub(crate) stream: Stream,
    /// When its line's first byte was read from the container, nanoseconds since 1970.
    pub(crate) time_ns: i64,
    /// At most [`PIECE`] bytes, no newline.
    pub(crate) bytes: &'a [u8],
    /// Of pieces only.
    pub(crate) partial: Option<Partial>,
}

/// Which piece of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Partial {
    /// From 1.
    pub(crate) ordinal: u32,
    /// It ends the line; an unfinished line has no such piece.
    pub(crate) last: bool,
}

impl Message<'_> {
    /// It ends its line.
    pub(crate) fn ends(&self) -> bool {
        self.partial.is_none_or(|partial| partial.last)
    }
}

/// What is known of an unfinished line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Pending {
    /// Less than a piece.
    pub(super) bytes: Vec<u8>,
    pub(super) time_ns: i64,
    /// Pieces of this line that were given.
    pub(super) pieces: u32,
}

/// Cuts records into messages.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Cutter {
    pub(super) streams: [Pending; 2],
}

impl Cutter {
    /// Gives what a record completes.
    pub(super) fn record(&mut self, record: &Record<'_>, give: &mut dyn FnMut(Message<'_>)) {
        if record.line_start || record.after_loss {
            self.end(record.stream, give);
        }
        let pending = &mut self.streams[record.stream as usize];
        let mut rest = record.bytes;
        while !rest.is_empty() {
            if pending.bytes.is_empty() && pending.pieces == 0 {
                pending.time_ns = record.time_ns;
            }
            let room = PIECE - pending.bytes.len();
            let newline = memchr::memchr(b'\n', &rest[..rest.len().min(room)]);
            let taken = newline.unwrap_or(rest.len().min(room));
            let (bytes, after) = rest.split_at(taken);
            rest = after;
            if newline.is_none() && taken < room {
                pending.bytes.extend_from_slice(bytes);
                break;
            }
            let last = newline.is_some();
            if last {
                rest = &rest[1..];
            }
            pending.give(record.stream, bytes, last, give);
        }
    }

    /// No more will come of unfinished lines: gives them as they are.
    pub(super) fn flush(&mut self, give: &mut dyn FnMut(Message<'_>)) {
        self.end(Stream::Stdout, give);
        self.end(Stream::Stderr, give);
    }

    fn end(&mut self, stream: Stream, give: &mut dyn FnMut(Message<'_>)) {
        let pending = &mut self.streams[stream as usize];
        if !pending.bytes.is_empty() {
            pending.give(stream, &[], false, give);
        }
        *pending = Pending::default();
    }

    /// An unfinished line is waiting.
    pub(super) fn is_pending(&self) -> bool {
        self.streams.iter().any(|pending| !pending.bytes.is_empty())
    }
}

impl Pending {
    /// Gives what is pending, with `more` behind it.
    fn give(&mut self, stream: Stream, more: &[u8], last: bool, give: &mut dyn FnMut(Message<'_>)) {
        let time_ns = self.time_ns;
        let partial =
            (self.pieces > 0 || !last).then_some(Partial { ordinal: self.pieces.saturating_add(1), last });
        if self.bytes.is_empty() {
            give(Message { stream, time_ns, bytes: more, partial });
        } else {
            self.bytes.extend_from_slice(more);
            give(Message { stream, time_ns, bytes: &self.bytes, partial });
            self.bytes.clear();
        }
        self.pieces = if last { 0 } else { self.pieces.saturating_add(1) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(stream: Stream, time_ns: i64, line_start: bool, bytes: &[u8]) -> Record<'_> {
        Record { stream, time_ns, line_start, after_loss: false, bytes }
    }

    type Seen = (i64, Vec<u8>, Option<(u32, bool)>);

    fn seen(message: Message<'_>) -> Seen {
        let partial = message.partial.map(|partial| (partial.ordinal, partial.last));
        (message.time_ns, message.bytes.to_vec(), partial)
    }

    #[test]
    fn lines_lose_their_newline_and_long_ones_are_cut() {
        let mut cutter = Cutter::default();
        let mut all = Vec::new();
        let long = [b'x'; 2 * PIECE + 5];
        let mut feed = |cutter: &mut Cutter, record: Record<'_>| {
            cutter.record(&record, &mut |message| all.push(seen(message)));
        };
        feed(&mut cutter, record(Stream::Stdout, 1, true, b"a\n\nb"));
        feed(&mut cutter, record(Stream::Stderr, 2, true, b"e\n"));
        feed(&mut cutter, record(Stream::Stdout, 3, false, b"c\n"));
        feed(&mut cutter, record(Stream::Stdout, 4, true, &long));
        feed(&mut cutter, record(Stream::Stdout, 5, false, b"\nend"));
        assert!(cutter.is_pending());
        cutter.flush(&mut |message| all.push(seen(message)));
        let piece = vec![b'x'; PIECE];
        assert_eq!(
            all,
            [
                (1, b"a".to_vec(), None),
                (1, Vec::new(), None),
                (2, b"e".to_vec(), None),
                (1, b"bc".to_vec(), None),
                (4, piece.clone(), Some((1, false))),
                (4, piece, Some((2, false))),
                (4, b"xxxxx".to_vec(), Some((3, true))),
                (5, b"end".to_vec(), Some((1, false))),
            ]
        );
        assert_eq!(cutter, Cutter::default());
    }

    #[test]
    fn the_next_run_does_not_go_on_with_an_unfinished_line() {
        let mut cutter = Cutter::default();
        let mut all = Vec::new();
        for (line_start, bytes) in [(true, &b"un"[..]), (true, b"new\n")] {
            cutter.record(&record(Stream::Stdout, 1, line_start, bytes), &mut |message| {
                all.push(seen(message));
            });
        }
        assert_eq!(all, [(1, b"un".to_vec(), Some((1, false))), (1, b"new".to_vec(), None)]);
    }

    /// However the bytes come, the messages are those of the whole, and a copy of the state gives the same again.
    #[test]
    fn the_cut_depends_on_the_bytes_alone() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = |limit: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state % limit as u64) as usize
        };
        for _ in 0..50 {
            let mut text = Vec::new();
            for _ in 0..20 {
                let length = [random(10), random(3 * PIECE), PIECE, PIECE - 1][random(4)];
                text.extend(std::iter::repeat_n(b'y', length));
                text.push(b'\n');
            }
            let mut whole = Vec::new();
            Cutter::default()
                .record(&record(Stream::Stdout, 7, true, &text), &mut |message| whole.push(seen(message)));
            let mut pieces = Vec::new();
            let mut cutter = Cutter::default();
            let mut rest = &text[..];
            let mut first = true;
            while !rest.is_empty() {
                let (now, later) = rest.split_at(1 + random(rest.len().min(9_000)));
                let mut copy = cutter.clone();
                let record = record(Stream::Stdout, 7, first, now);
                let before = pieces.len();
                cutter.record(&record, &mut |message| pieces.push(seen(message)));
                let mut again = Vec::new();
                copy.record(&record, &mut |message| again.push(seen(message)));
                assert_eq!(again, pieces[before..]);
                (rest, first) = (later, false);
            }
            assert_eq!(pieces, whole);
        }
    }
}
