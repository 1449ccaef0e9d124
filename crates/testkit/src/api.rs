//! A minimal blocking HTTP client for an engine's socket: one request, one connection, JSON bodies.
//!
//! Deliberately not the product's client: a bug there must not hide a bug in the server.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

/// An engine's socket.
#[derive(Debug, Clone)]
pub struct Api {
    socket: PathBuf,
    deadline: Duration,
}

/// Status and body of an answer.
#[derive(Debug, Clone)]
pub struct Response {
    /// HTTP status.
    pub status: u16,
    /// The body, decoded from chunks.
    pub body: Vec<u8>,
}

impl Response {
    /// The body as JSON; `null` when it is empty or not JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// The engine's `message`, or the whole body.
    pub fn message(&self) -> String {
        let json = self.json();
        let text = json.get("message").and_then(Value::as_str).map(str::to_owned);
        text.unwrap_or_else(|| String::from_utf8_lossy(&self.body).into_owned())
    }
}

impl Api {
    /// The engine listening on `socket`.
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_path_buf(), deadline: Duration::from_secs(60) }
    }

    /// Sends a request and reads the whole answer.
    ///
    /// # Errors
    /// When the engine does not answer, or dies while it does.
    pub fn request(&self, method: &str, path: &str, body: Option<&Value>) -> std::io::Result<Response> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(self.deadline))?;
        stream.set_write_timeout(Some(self.deadline))?;
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: wharf\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        )?;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes)?;
        parse(&bytes)
    }

    /// `GET path` as JSON.
    ///
    /// # Errors
    /// When the engine does not answer, or not with success.
    pub fn get(&self, path: &str) -> std::io::Result<Value> {
        let response = self.request("GET", path, None)?;
        if response.status >= 300 {
            let text = format!("GET {path}: {} {}", response.status, response.message());
            return Err(std::io::Error::other(text));
        }
        Ok(response.json())
    }

    /// True when the engine answers `/_ping`.
    pub fn is_up(&self) -> bool {
        self.request("GET", "/_ping", None).is_ok_and(|answer| answer.status == 200)
    }
}

fn parse(bytes: &[u8]) -> std::io::Result<Response> {
    let cut = || std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "the engine's answer is cut short");
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").ok_or_else(cut)?;
    let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(cut)?;
    let rest = &bytes[end + 4..];
    let header = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let body = if header("transfer-encoding:") == Some("chunked") {
        dechunk(rest).ok_or_else(cut)?
    } else {
        let length = header("content-length:").and_then(|text| text.parse().ok()).unwrap_or(rest.len());
        rest.get(..length).ok_or_else(cut)?.to_vec()
    };
    Ok(Response { status, body })
}

fn dechunk(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|window| window == b"\r\n")?;
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..end]).ok()?.trim(), 16).ok()?;
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(rest.get(end + 2..end + 2 + size)?);
        rest = rest.get(end + 2 + size + 2..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_plain_and_chunked_answers() {
        let plain =
            parse(b"HTTP/1.1 404 Not Found\r\nContent-Length: 15\r\n\r\n{\"message\":\"x\"}").unwrap();
        assert_eq!((plain.status, plain.message().as_str()), (404, "x"));
        let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n";
        assert_eq!(parse(chunked).unwrap().body, b"abcd");
    }

    #[test]
    fn an_answer_cut_short_is_an_error() {
        assert!(parse(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab").is_err());
        assert!(parse(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nab").is_err());
    }
}
