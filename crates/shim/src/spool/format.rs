//! One record as bytes.

use super::Stream;

/// The length of a record's header.
pub const HEADER: usize = 20;
/// The most bytes one record holds.
pub const MAX_CHUNK: usize = 64 * 1024;

/// Flag: the chunk begins a line of its stream.
const LINE_START: u8 = 1;
/// Flag: output before this chunk was lost.
const AFTER_LOSS: u8 = 2;

/// A record's header, without the check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) length: u32,
    pub(super) time_ns: i64,
    pub(super) stream: Stream,
    pub(super) line_start: bool,
    pub(super) after_loss: bool,
}

/// What the bytes at a position are.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Parsed {
    /// A whole, valid record: its bytes are `HEADER..HEADER + length`.
    Record(Header),
    /// Too few bytes; a valid record may need this many in all.
    Short(usize),
    /// No record can begin like this.
    Invalid,
}

impl Header {
    /// The header as it is written before `chunk`, whose length it must name.
    pub(super) fn encode(&self, chunk: &[u8]) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[4..8].copy_from_slice(&self.length.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.time_ns.to_le_bytes());
        bytes[16] = match self.stream {
            Stream::Stdout => 1,
            Stream::Stderr => 2,
        };
        bytes[17] = u8::from(self.line_start) * LINE_START + u8::from(self.after_loss) * AFTER_LOSS;
        let check = checksum(&bytes[4..], chunk);
        bytes[..4].copy_from_slice(&check.to_le_bytes());
        bytes
    }

    /// The length of the whole record.
    pub(super) fn record_len(&self) -> usize {
        HEADER + self.length as usize
    }

    fn decode(bytes: &[u8; HEADER]) -> Option<Self> {
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let length = word(4);
        let stream = match bytes[16] {
            1 => Stream::Stdout,
            2 => Stream::Stderr,
            _ => return None,
        };
        let flags = bytes[17];
        let sane = (1..=MAX_CHUNK as u32).contains(&length)
            && flags & !(LINE_START | AFTER_LOSS) == 0
            && bytes[18..20] == [0, 0];
        sane.then(|| Self {
            length,
            time_ns: i64::from(word(8)) | (i64::from(word(12) as i32) << 32),
            stream,
            line_start: flags & LINE_START != 0,
            after_loss: flags & AFTER_LOSS != 0,
        })
    }
}

/// Reads the record at the beginning of `bytes`.
pub(super) fn parse(bytes: &[u8]) -> Parsed {
    let Some(head) = bytes.first_chunk::<HEADER>() else {
        return Parsed::Short(HEADER);
    };
    let Some(header) = Header::decode(head) else {
        return Parsed::Invalid;
    };
    let Some(chunk) = bytes.get(HEADER..header.record_len()) else {
        return Parsed::Short(header.record_len());
    };
    let check = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
    if checksum(&head[4..], chunk) == check { Parsed::Record(header) } else { Parsed::Invalid }
}

/// A quick check against torn and zeroed bytes, not against an adversary: every eight bytes are mixed into one of
/// four independent lanes, so that it runs at memory speed.
fn checksum(head: &[u8], chunk: &[u8]) -> u32 {
    const PRIME: u64 = 0x9e37_79b9_7f4a_7c15;
    let word = |bytes: &[u8]| {
        let mut padded = [0; 8];
        padded[..bytes.len()].copy_from_slice(bytes);
        u64::from_le_bytes(padded)
    };
    let mix = |lane: u64, value: u64| (lane ^ value).wrapping_mul(PRIME).rotate_left(29);
    let mut lanes = [PRIME, !PRIME, PRIME.rotate_left(17), !PRIME.rotate_left(41)];
    let (blocks, rest) = chunk.as_chunks::<32>();
    for block in blocks {
        let (words, _) = block.as_chunks::<8>();
        for (lane, bytes) in lanes.iter_mut().zip(words) {
            *lane = mix(*lane, u64::from_le_bytes(*bytes));
        }
    }
    let mut sum = chunk.len() as u64;
    for piece in head.chunks(8).chain(rest.chunks(8)) {
        sum = mix(sum, word(piece));
    }
    for lane in lanes {
        sum = mix(sum, lane);
    }
    sum = mix(sum ^ (sum >> 32), PRIME);
    (sum >> 32) as u32 ^ sum as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_written_and_every_changed_bit_is_noticed() {
        let chunk: Vec<u8> = (0..200u8).collect();
        let header =
            Header { length: 200, time_ns: -5, stream: Stream::Stderr, line_start: true, after_loss: false };
        let mut bytes = header.encode(&chunk).to_vec();
        bytes.extend(&chunk);
        assert_eq!(parse(&bytes), Parsed::Record(header));
        assert_eq!(parse(&bytes[..19]), Parsed::Short(HEADER));
        assert_eq!(parse(&bytes[..219]), Parsed::Short(220));
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(!matches!(parse(&bytes), Parsed::Record(_)), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn impossible_headers_are_refused_before_their_length_is_believed() {
        assert_eq!(parse(&[0; 100]), Parsed::Invalid);
        assert_eq!(parse(&[0xff; 100]), Parsed::Invalid);
        let header = Header {
            length: MAX_CHUNK as u32 + 1,
            time_ns: 0,
            stream: Stream::Stdout,
            line_start: false,
            after_loss: false,
        };
        assert_eq!(parse(&header.encode(&[])), Parsed::Invalid);
    }
}
