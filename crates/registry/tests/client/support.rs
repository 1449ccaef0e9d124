//! A registry that does what a test says, byte for byte, and remembers everything that it was sent.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use wharf_content::spec::Descriptor;
use wharf_content::{digest_of, spec};
use wharf_model::Reference;
use wharf_registry::{Access, Client, Config, Credential, Proxies, Repository, Timeouts};

pub(crate) trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

/// One request, as far as its head goes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Head {
    pub(crate) method: String,
    /// Path and query.
    pub(crate) target: String,
    pub(crate) headers: Vec<(String, String)>,
}

impl Head {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn is(&self, method: &str, path: &str) -> bool {
        self.method == method && self.target.split('?').next() == Some(path)
    }
}

/// One request and the way to answer it. Dropped without an answer, it breaks the connection.
pub(crate) struct Exchange<'a> {
    pub(crate) head: Head,
    /// How many requests of this method and path came before.
    pub(crate) nth: usize,
    stream: &'a mut dyn Stream,
    unread: u64,
    keep: bool,
}

impl Exchange<'_> {
    /// Up to `max` bytes of the body.
    pub(crate) fn body(&mut self, max: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        let wanted = self.unread.min(max);
        (&mut self.stream).take(wanted).read_to_end(&mut bytes).unwrap_or_default();
        self.unread -= bytes.len() as u64;
        bytes
    }

    pub(crate) fn whole_body(&mut self) -> Vec<u8> {
        self.body(u64::MAX)
    }

    /// An answer with a length, as it should be.
    pub(crate) fn answer(&mut self, status: u16, headers: &[(&str, &str)], body: &[u8]) {
        self.whole_body();
        let mut text = format!("HTTP/1.1 {status} X\r\n");
        if status != 204 {
            text.push_str(&format!("content-length: {}\r\n", body.len()));
        }
        headers.iter().for_each(|(name, value)| text.push_str(&format!("{name}: {value}\r\n")));
        text.push_str("\r\n");
        let body = if self.head.method == "HEAD" { &[][..] } else { body };
        self.keep = self.raw(text.as_bytes()) && self.raw(body);
    }

    /// Bytes of an answer that nobody else would give; the connection is closed afterwards.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok() && self.stream.flush().is_ok()
    }
}

type Script = dyn Fn(&mut Exchange<'_>) + Send + Sync;

/// A registry on a port of its own.
pub(crate) struct FakeRegistry {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<Head>>>,
    stopped: Arc<AtomicBool>,
}

impl FakeRegistry {
    pub(crate) fn start(script: impl Fn(&mut Exchange<'_>) + Send + Sync + 'static) -> Self {
        Self::start_with(|stream| Some(Box::new(stream)), script)
    }

    /// `accept` turns a connection into what requests come on.
    pub(crate) fn start_with(
        accept: impl Fn(TcpStream) -> Option<Box<dyn Stream>> + Send + Sync + 'static,
        script: impl Fn(&mut Exchange<'_>) + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let seen: Arc<Mutex<Vec<Head>>> = Arc::default();
        let stopped: Arc<AtomicBool> = Arc::default();
        let (script, accept): (Arc<Script>, _) = (Arc::new(script), Arc::new(accept));
        let (seen_there, stopped_there) = (Arc::clone(&seen), Arc::clone(&stopped));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped_there.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                stream.set_nodelay(true).unwrap();
                stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
                let (script, accept, seen) =
                    (Arc::clone(&script), Arc::clone(&accept), Arc::clone(&seen_there));
                std::thread::spawn(move || {
                    if let Some(mut stream) = accept(stream) {
                        while serve(&mut *stream, &seen, &*script) {}
                    }
                });
            }
        });
        Self { address, seen, stopped }
    }

    /// `127.0.0.1:port`.
    pub(crate) fn host(&self) -> String {
        self.address.to_string()
    }

    pub(crate) fn seen(&self) -> Vec<Head> {
        self.seen.lock().unwrap().clone()
    }

    /// `METHOD path` of everything that was asked.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.seen().iter().map(|head| format!("{} {}", head.method, head.target)).collect()
    }

    /// Every value of `Authorization` that was sent here.
    pub(crate) fn authorizations(&self) -> Vec<String> {
        self.seen().iter().filter_map(|head| head.header("authorization").map(str::to_owned)).collect()
    }

    pub(crate) fn repository(&self, access: Access) -> Repository {
        repository(&client(config()), &self.host(), access, None)
    }
}

impl Drop for FakeRegistry {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(stream: &mut dyn Stream, seen: &Mutex<Vec<Head>>, script: &Script) -> bool {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while !bytes.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            // A handshake of TLS, answered as servers without TLS do.
            Ok(1) if bytes.is_empty() && byte[0] == 0x16 => {
                let _ = stream.write_all(b"HTTP/1.0 400 Bad Request\r\n\r\n");
                return false;
            }
            Ok(1) => bytes.push(byte[0]),
            _ => return false,
        }
    }
    let text = String::from_utf8(bytes).unwrap();
    let mut lines = text.lines();
    let mut words = lines.next().unwrap().split(' ');
    let (method, target) = (words.next().unwrap().to_owned(), words.next().unwrap().to_owned());
    let headers = lines.filter_map(|line| line.split_once(": "));
    let head = Head {
        method,
        target,
        headers: headers.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect(),
    };
    let nth = {
        let mut seen = seen.lock().unwrap();
        let path = |head: &Head| head.target.split('?').next().unwrap().to_owned();
        let nth =
            seen.iter().filter(|other| other.method == head.method && path(other) == path(&head)).count();
        seen.push(head.clone());
        nth
    };
    let unread = head.header("content-length").map_or(0, |length| length.parse().unwrap());
    let mut exchange = Exchange { head, nth, stream, unread, keep: false };
    script(&mut exchange);
    exchange.keep
}

/// Settings in which nothing takes long and nothing comes from the machine.
pub(crate) fn config() -> Config {
    Config {
        hosts_directories: Vec::new(),
        proxies: Proxies::default(),
        timeouts: Timeouts {
            connect: Duration::from_secs(10),
            idle: Duration::from_secs(10),
            document: Duration::from_secs(10),
            commit: Duration::from_secs(10),
            backoff: Duration::from_millis(2),
            longest_pause: Duration::from_secs(2),
        },
        ..Config::default()
    }
}

pub(crate) fn client(config: Config) -> Client {
    Client::new(config).unwrap()
}

pub(crate) fn repository(
    client: &Client,
    host: &str,
    access: Access,
    credential: Option<Credential>,
) -> Repository {
    let name = Reference::parse_normalized(&format!("{host}/a/b")).unwrap();
    client.repository(&name, access, credential).unwrap()
}

pub(crate) fn password() -> Credential {
    Credential::Password { username: "me".into(), password: "hidden".into() }
}

/// Bytes that are not the same anywhere.
pub(crate) fn noise(size: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}

pub(crate) fn blob_of(bytes: &[u8]) -> Descriptor {
    Descriptor::new(spec::LAYER_TAR, digest_of(bytes), bytes.len() as u64)
}

/// A manifest of no layers.
pub(crate) fn manifest_of(config: &[u8]) -> Vec<u8> {
    let config = Descriptor::new(spec::CONFIG, digest_of(config), config.len() as u64);
    spec::to_json(&spec::Manifest::new(config, Vec::new()))
}

/// Everything that a download brings.
pub(crate) async fn read(mut download: wharf_registry::Download) -> wharf_registry::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while let Some(chunk) = download.chunk().await? {
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}
