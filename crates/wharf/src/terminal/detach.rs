//! The keys that leave a container running and go away.

use crate::failure::{Failure, Result};

/// What detaches unless the user says otherwise.
pub(crate) const DEFAULT: &str = "ctrl-p,ctrl-q";

/// Reads a sequence such as `ctrl-p,ctrl-q` or `a,b,c`.
pub(crate) fn parse(text: &str) -> Result<Vec<u8>> {
    let unknown = || Failure::message(format!("invalid detach keys ({text}) provided"));
    text.split(',')
        .map(|key| match key.as_bytes() {
            [byte] => Ok(*byte),
            _ => match key.to_ascii_lowercase().strip_prefix("ctrl-").map(str::as_bytes) {
                Some([byte @ (b'a'..=b'z' | b'@' | b'['..=b'_')]) => Ok(byte.to_ascii_uppercase() & 0x1f),
                _ => Err(unknown()),
            },
        })
        .collect()
}

/// Finds the sequence in what is typed, however it is cut into pieces.
#[derive(Debug)]
pub(crate) struct Scanner {
    keys: Vec<u8>,
    /// How many keys of the sequence were typed last; they are held back.
    matched: usize,
}

impl Scanner {
    pub(crate) fn new(keys: Vec<u8>) -> Self {
        Self { keys, matched: 0 }
    }

    /// Appends to `out` what of `input` goes to the container; whether the sequence was completed.
    pub(crate) fn scan(&mut self, input: &[u8], out: &mut Vec<u8>) -> bool {
        for &byte in input {
            if self.keys.get(self.matched) == Some(&byte) {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    return true;
                }
                continue;
            }
            out.extend_from_slice(&self.keys[..self.matched]);
            self.matched = 0;
            if self.keys.first() == Some(&byte) {
                self.matched = 1;
            } else {
                out.push(byte);
            }
        }
        false
    }

    /// The keys held back, when input ends in the middle of a sequence.
    pub(crate) fn held(&self) -> &[u8] {
        &self.keys[..self.matched]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_parse() {
        assert_eq!(parse(DEFAULT).unwrap(), [16, 17]);
        assert_eq!(parse("a,ctrl-[,ctrl-@").unwrap(), [b'a', 27, 0]);
        assert_eq!(parse("ctrl-pp").unwrap_err().to_string(), "invalid detach keys (ctrl-pp) provided");
    }

    #[test]
    fn the_sequence_is_found_in_any_pieces() {
        for size in 1..6 {
            let mut scanner = Scanner::new(vec![16, 17]);
            let mut out = Vec::new();
            let input = [b'x', 16, b'y', 16, 16, 17, b'z'];
            let detached = input.chunks(size).any(|piece| scanner.scan(piece, &mut out));
            assert!(detached);
            assert_eq!(out, [b'x', 16, b'y', 16]);
        }
    }

    #[test]
    fn a_single_key_detaches_and_an_unfinished_sequence_is_known() {
        let mut scanner = Scanner::new(vec![b'q']);
        assert!(scanner.scan(b"q", &mut Vec::new()));
        let mut scanner = Scanner::new(vec![16, 17]);
        assert!(!scanner.scan(&[16], &mut Vec::new()));
        assert_eq!(scanner.held(), [16]);
    }
}
