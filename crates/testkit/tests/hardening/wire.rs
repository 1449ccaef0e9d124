//! Bytes as they are: requests that no client library would send.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What came back; status 0 when the connection was closed without an answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
    /// Nothing came before the deadline.
    pub(crate) silent: bool,
}

impl Answer {
    fn new(bytes: &[u8], silent: bool) -> Self {
        let text = String::from_utf8_lossy(bytes).into_owned();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
        Self { status, head: head.to_owned(), body: body.to_owned(), silent }
    }
}

/// Sends bytes to a socket and reads what comes, at most for this long.
pub(crate) fn exchange(socket: &Path, request: &[u8], patience: Duration) -> Answer {
    let stream = UnixStream::connect(socket).expect("the engine listens");
    stream.set_read_timeout(Some(patience)).expect("a timeout");
    stream.set_write_timeout(Some(patience)).expect("a timeout");
    talk(stream, request)
}

pub(crate) fn exchange_tcp(address: &str, request: &[u8], patience: Duration) -> Answer {
    let stream = TcpStream::connect(address).expect("the engine listens");
    stream.set_read_timeout(Some(patience)).expect("a timeout");
    stream.set_write_timeout(Some(patience)).expect("a timeout");
    talk(stream, request)
}

fn talk(mut stream: impl Read + Write, request: &[u8]) -> Answer {
    // An engine that answers early may stop reading.
    let _ = stream.write_all(request);
    let (mut bytes, mut buffer, mut silent) = (Vec::new(), [0; 16 << 10], false);
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => bytes.extend_from_slice(&buffer[..count]),
            Err(error) => {
                let late =
                    [std::io::ErrorKind::WouldBlock, std::io::ErrorKind::TimedOut].contains(&error.kind());
                silent = late && bytes.is_empty();
                break;
            }
        }
        if bytes.len() > 1 << 20 {
            break;
        }
    }
    Answer::new(&bytes, silent)
}

/// A connection for many requests, made anew when it ends.
pub(crate) struct Wire {
    socket: PathBuf,
    stream: Option<UnixStream>,
}

impl Wire {
    pub(crate) fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned(), stream: None }
    }

    /// Sends a request and reads its answer. An answer without a length ends with the connection or the patience.
    pub(crate) fn ask(&mut self, request: &[u8], patience: Duration) -> Answer {
        let used = self.stream.is_some();
        let answer = self.try_once(request, patience);
        // An engine may hang up on an idle client; that is no answer.
        if used && answer.status == 0 && !answer.silent { self.try_once(request, patience) } else { answer }
    }

    fn try_once(&mut self, request: &[u8], patience: Duration) -> Answer {
        let mut stream = self
            .stream
            .take()
            .unwrap_or_else(|| UnixStream::connect(&self.socket).expect("the engine listens"));
        stream.set_read_timeout(Some(patience)).expect("a timeout");
        stream.set_write_timeout(Some(patience)).expect("a timeout");
        let _early = stream.write_all(request);
        let (mut bytes, mut buffer, mut late) = (Vec::new(), [0; 16 << 10], false);
        let whole = loop {
            if is_whole(&bytes, request.starts_with(b"HEAD ")) {
                break true;
            }
            match stream.read(&mut buffer) {
                Ok(count @ 1..) if bytes.len() < 1 << 20 => bytes.extend_from_slice(&buffer[..count]),
                Err(error) => {
                    late =
                        matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut);
                    break false;
                }
                Ok(_) => break false,
            }
        };
        let answer = Answer::new(&bytes, late && bytes.is_empty());
        let stays = !answer.head.to_ascii_lowercase().contains("connection: close");
        self.stream = (whole && stays).then_some(stream);
        answer
    }
}

/// Whether an answer of a known length is complete.
fn is_whole(bytes: &[u8], of_head: bool) -> bool {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return false };
    let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
    let body = &bytes[end + 4..];
    let status = head.split(' ').nth(1).unwrap_or_default();
    if of_head || status == "204" || status == "304" {
        return true;
    }
    let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    match field("content-length:").and_then(|length| length.parse::<usize>().ok()) {
        Some(length) => body.len() >= length,
        None => field("transfer-encoding:") == Some("chunked") && body.ends_with(b"0\r\n\r\n"),
    }
}

const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

pub(crate) fn base64(bytes: &[u8]) -> String {
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let number = group.iter().fold(0_u32, |number, byte| (number << 8) | u32::from(*byte))
            << (8 * (3 - group.len()));
        for at in 0..4 {
            let letter = LETTERS[(number >> (18 - 6 * at)) as usize & 63];
            text.push(if at > group.len() { '=' } else { char::from(letter) });
        }
    }
    text
}

pub(crate) fn from_base64(text: &str) -> Vec<u8> {
    let values: Vec<u32> = text
        .bytes()
        .filter_map(|letter| LETTERS.iter().position(|known| *known == letter))
        .map(|value| value as u32)
        .collect();
    let mut bytes = Vec::new();
    for group in values.chunks(4) {
        let number = group.iter().fold(0, |number, value| (number << 6) | value) << (6 * (4 - group.len()));
        bytes.extend(number.to_be_bytes()[1..].iter().take(group.len() - 1));
    }
    bytes
}
