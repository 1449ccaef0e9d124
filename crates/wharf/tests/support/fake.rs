//! An engine of a few lines: it records requests and answers as the test says.

use std::{
    io::{Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
    process::Command,
    sync::{Arc, Condvar, Mutex},
    thread,
};

/// A request as it arrived, the API version cut off its path.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) version: String,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) headers: String,
    pub(crate) body: String,
}

/// What the fake answers.
pub(crate) enum Reply {
    /// A status and a JSON body.
    Json(u16, String),
    /// A JSON body that comes after the head, when a request to this path has been answered.
    After(&'static str, String),
    /// Another protocol on the same connection: these bytes, then everything the client sent until it closed its
    /// half, then the end.
    Hijack(Vec<u8>, bool),
}

#[derive(Default)]
struct Shared {
    seen: Mutex<Vec<String>>,
    answered: Mutex<Vec<String>>,
    changed: Condvar,
    input: Mutex<Vec<u8>>,
}

/// The engine; it lives as long as the test's process.
pub(crate) struct FakeEngine {
    socket: PathBuf,
    shared: Arc<Shared>,
}

impl FakeEngine {
    /// Starts an engine that answers with `answer`.
    pub(crate) fn start(name: &str, answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let socket = std::env::temp_dir().join(format!("wharf-fake-{}-{name}.sock", std::process::id()));
        let _ = std::fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).unwrap();
        let shared = Arc::new(Shared::default());
        let engine = Self { socket, shared: Arc::clone(&shared) };
        let answer = Arc::new(answer);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (shared, answer) = (Arc::clone(&shared), Arc::clone(&answer));
                thread::spawn(move || serve(stream, &shared, answer.as_ref()));
            }
        });
        engine
    }

    /// The program under test, talking to this engine.
    pub(crate) fn wharf(&self) -> Command {
        let mut command = super::wharf();
        command.env("DOCKER_HOST", format!("unix://{}", self.socket.display()));
        command
    }

    /// The requests so far, as `METHOD path?query`.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.shared.seen.lock().unwrap().clone()
    }

    /// Waits until a request to this path has been answered to its end.
    pub(crate) fn wait_for_answer(&self, path: &str) {
        let mut answered = self.shared.answered.lock().unwrap();
        while !answered.iter().any(|seen| seen == path) {
            answered = self.shared.changed.wait(answered).unwrap();
        }
    }

    /// What came in on hijacked connections.
    pub(crate) fn input(&self) -> Vec<u8> {
        self.shared.input.lock().unwrap().clone()
    }
}

impl Drop for FakeEngine {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.socket);
    }
}

/// Frames of a multiplexed stream.
pub(crate) fn frame(stream: u8, text: &str) -> Vec<u8> {
    let mut bytes = vec![stream, 0, 0, 0];
    bytes.extend_from_slice(&u32::try_from(text.len()).unwrap().to_be_bytes());
    bytes.extend_from_slice(text.as_bytes());
    bytes
}

fn serve(mut stream: UnixStream, shared: &Shared, answer: &(dyn Fn(&Request) -> Reply + Send + Sync)) {
    let mut buffer = Vec::new();
    while let Some(request) = read_request(&mut stream, &mut buffer) {
        let separator = if request.query.is_empty() { "" } else { "?" };
        let line = format!("{} {}{separator}{}", request.method, request.path, request.query);
        shared.seen.lock().unwrap().push(line);
        // A client that went away is not this engine's problem.
        let done = match answer(&request) {
            Reply::Json(status, body) => {
                let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n", body.len());
                stream.write_all(format!("{head}{body}").as_bytes()).is_err()
            }
            Reply::After(path, body) => {
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
                let _ = stream.write_all(head.as_bytes());
                let mut answered = shared.answered.lock().unwrap();
                while !answered.iter().any(|seen| seen.ends_with(path)) {
                    answered = shared.changed.wait(answered).unwrap();
                }
                drop(answered);
                stream.write_all(body.as_bytes()).is_err()
            }
            Reply::Hijack(output, reads_input) => {
                let head = "HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.multiplexed-stream\r\n\
                            Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n";
                let _ = stream.write_all(head.as_bytes());
                if reads_input {
                    let mut input = Vec::new();
                    let _ = stream.read_to_end(&mut input);
                    shared.input.lock().unwrap().extend_from_slice(&input);
                }
                let _ = stream.write_all(&output);
                true
            }
        };
        shared.answered.lock().unwrap().push(request.path.clone());
        shared.changed.notify_all();
        if done {
            return;
        }
    }
}

fn read_request(stream: &mut UnixStream, buffer: &mut Vec<u8>) -> Option<Request> {
    let mut more = |buffer: &mut Vec<u8>| {
        let mut piece = [0; 4096];
        let count = stream.read(&mut piece).ok().filter(|count| *count > 0)?;
        buffer.extend_from_slice(&piece[..count]);
        Some(())
    };
    let head_end = loop {
        match buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            Some(position) => break position + 4,
            None => more(buffer)?,
        }
    };
    let head = String::from_utf8(buffer[..head_end].to_vec()).unwrap();
    let length: usize = head
        .lines()
        .find_map(|line| {
            line.to_ascii_lowercase().strip_prefix("content-length:").map(|text| text.trim().parse().unwrap())
        })
        .unwrap_or(0);
    while buffer.len() < head_end + length {
        more(buffer)?;
    }
    let body = String::from_utf8_lossy(&buffer[head_end..head_end + length]).into_owned();
    buffer.drain(..head_end + length);
    let mut words = head.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let (version, path) = path.trim_start_matches('/').split_once('/')?;
    Some(Request {
        method,
        version: version.to_owned(),
        path: format!("/{path}"),
        query: query.to_owned(),
        headers: head.clone(),
        body,
    })
}
