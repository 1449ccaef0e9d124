//! One raw HTTP exchange over a socket: any method, header and body, answers that stream, connections that are taken over.
//!
//! Unlike [`crate::Api`], which is for tests that want something done, this shows an answer as it came.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// How long a silent engine is waited for.
const DEADLINE: Duration = Duration::from_secs(30);
/// More than any answer of a test has.
const LARGEST: usize = 64 << 20;

/// A request.
#[derive(Debug, Clone)]
pub struct Call {
    /// Such as `GET`.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Beside `Host`, `Connection` and the body's length.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// What is sent once the connection is taken over; its end is the end of the input.
    pub input: Vec<u8>,
    /// Stop reading after so many lines of the answer's body.
    pub lines: Option<usize>,
}

/// What came back.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body, decoded from chunks.
    pub body: Vec<u8>,
    /// False when the engine broke off.
    pub whole: bool,
}

impl Answer {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

impl Call {
    fn upgrades(&self) -> bool {
        self.header("upgrade").is_some()
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    fn head(&self) -> String {
        let mut head = format!("{} {} HTTP/1.1\r\nHost: docker\r\n", self.method, self.target);
        if !self.upgrades() {
            head.push_str("Connection: close\r\n");
        }
        for (name, value) in self.headers.iter().filter(|(_, value)| !value.is_empty()) {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        let sends = !self.body.is_empty() || matches!(self.method.as_str(), "POST" | "PUT");
        if sends && self.header("transfer-encoding").is_none() {
            head.push_str(&format!("Content-Length: {}\r\n", self.body.len()));
        }
        head + "\r\n"
    }

    /// The bytes after the head. A chunked body goes in two pieces, so that joining them is tested.
    fn payload(&self) -> Vec<u8> {
        if self.header("transfer-encoding").is_none() {
            return self.body.clone();
        }
        let (front, back) = self.body.split_at(self.body.len() / 2);
        let mut bytes = Vec::new();
        for piece in [front, back].into_iter().filter(|piece| !piece.is_empty()) {
            bytes.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
            bytes.extend_from_slice(piece);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"0\r\n\r\n");
        bytes
    }

    /// Sends the request and reads the answer; `on_head` is called when its head is there.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn send(&self, socket: &Path, on_head: impl FnOnce()) -> std::io::Result<Answer> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.set_write_timeout(Some(DEADLINE))?;
        stream.write_all(self.head().as_bytes())?;
        // An engine that refuses a large body does not read it to its end; its answer is what counts.
        let _ = stream.write_all(&self.payload());
        let mut bytes = Vec::new();
        let end = loop {
            if let Some(end) = find(&bytes, b"\r\n\r\n") {
                break end;
            }
            if !more(&mut stream, &mut bytes)? {
                return Err(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "no head"));
            }
        };
        let mut answer = head(&bytes[..end])?;
        let mut rest = bytes.split_off(end + 4);
        on_head();
        if taken_over(&answer) && !self.input.is_empty() {
            stream.write_all(&self.input)?;
            stream.shutdown(Shutdown::Write)?;
        }
        loop {
            let (body, state) = decode(&answer, &rest, self.method == "HEAD");
            let enough =
                self.lines.is_some_and(|lines| body.iter().filter(|byte| **byte == b'\n').count() >= lines);
            if enough || matches!(state, State::Whole) || !more(&mut stream, &mut rest)? {
                answer.whole = enough || !matches!(state, State::More);
                answer.body = body;
                return Ok(answer);
            }
        }
    }
}

/// Reads a piece; false at the end.
fn more(stream: &mut UnixStream, bytes: &mut Vec<u8>) -> std::io::Result<bool> {
    let mut piece = vec![0; 64 * 1024];
    let count = match stream.read(&mut piece) {
        Ok(count) => count,
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => 0,
        Err(error) => return Err(error),
    };
    bytes.extend_from_slice(&piece[..count]);
    if bytes.len() > LARGEST {
        return Err(std::io::Error::other("the answer does not end"));
    }
    Ok(count > 0)
}

fn find(bytes: &[u8], pattern: &[u8]) -> Option<usize> {
    bytes.windows(pattern.len()).position(|window| window == pattern)
}

fn head(bytes: &[u8]) -> std::io::Result<Answer> {
    let text = String::from_utf8_lossy(bytes).into_owned();
    let mut lines = text.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|code| code.parse().ok());
    let status = status.ok_or_else(|| std::io::Error::other(format!("not an HTTP answer: {text}")))?;
    let headers = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    Ok(Answer { status, headers, body: Vec::new(), whole: false })
}

/// True for a connection that is a byte stream in both directions from now on.
fn taken_over(answer: &Answer) -> bool {
    answer.status == 101
        || answer.header("content-type").is_some_and(|kind| kind.starts_with("application/vnd.docker."))
}

enum State {
    /// Nothing more belongs to the answer.
    Whole,
    /// Ends with the connection.
    Open,
    /// A broken connection now would be a broken answer.
    More,
}

fn decode(answer: &Answer, rest: &[u8], head_only: bool) -> (Vec<u8>, State) {
    if head_only || matches!(answer.status, 204 | 304) {
        return (Vec::new(), State::Whole);
    }
    if answer.header("transfer-encoding") == Some("chunked") {
        return dechunk(rest);
    }
    match answer.header("content-length").and_then(|length| length.parse::<usize>().ok()) {
        Some(length) if rest.len() >= length => (rest[..length].to_vec(), State::Whole),
        Some(_) => (rest.to_vec(), State::More),
        None => (rest.to_vec(), State::Open),
    }
}

fn dechunk(mut rest: &[u8]) -> (Vec<u8>, State) {
    let mut body = Vec::new();
    loop {
        let Some(end) = find(rest, b"\r\n") else { return (body, State::More) };
        let size =
            std::str::from_utf8(&rest[..end]).ok().and_then(|text| usize::from_str_radix(text, 16).ok());
        match size {
            None => return (body, State::More),
            Some(0) if find(&rest[end..], b"\r\n\r\n").is_some() => return (body, State::Whole),
            Some(0) => return (body, State::More),
            Some(size) if rest.len() < end + 2 + size + 2 => {
                body.extend_from_slice(&rest[end + 2..rest.len().min(end + 2 + size)]);
                return (body, State::More);
            }
            Some(size) => {
                body.extend_from_slice(&rest[end + 2..end + 2 + size]);
                rest = &rest[end + 2 + size + 2..];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_joined_and_a_missing_end_is_seen() {
        let (body, state) = dechunk(b"3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n");
        assert_eq!(body, b"abcd");
        assert!(matches!(state, State::Whole));
        let (body, state) = dechunk(b"3\r\nabc\r\n5\r\nd");
        assert_eq!(body, b"abcd");
        assert!(matches!(state, State::More));
    }

    #[test]
    fn a_chunked_request_is_framed() {
        let call = Call {
            method: "POST".into(),
            target: "/x".into(),
            headers: vec![("Transfer-Encoding".into(), "chunked".into())],
            body: b"abcd".to_vec(),
            input: Vec::new(),
            lines: None,
        };
        assert_eq!(call.payload(), b"2\r\nab\r\n2\r\ncd\r\n0\r\n\r\n");
        assert!(!call.head().contains("Content-Length"));
    }
}
