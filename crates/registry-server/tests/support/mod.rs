//! A registry to talk to over TCP, and a client that knows nothing but HTTP: a bug of the product's client must not hide
//! one of the server.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    reason = "each test file uses its part"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use wharf_content::digest_of;
use wharf_registry_server::{Options, Registry, storage::Local};

pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A registry and what keeps it alive.
pub struct Server {
    pub address: SocketAddr,
    /// Ours, when it is ours.
    pub registry: Option<Registry>,
    pub is_reference: bool,
    runtime: Option<tokio::runtime::Runtime>,
    directory: Option<tempfile::TempDir>,
}

impl Server {
    pub fn new() -> Self {
        Self::with(Options::default())
    }

    pub fn with(options: Options) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut server = Self::open(directory.path(), options);
        server.directory = Some(directory);
        server
    }

    /// A registry over a directory that outlives it.
    pub fn open(directory: &Path, options: Options) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (registry, address) = runtime.block_on(async {
            let storage = Local::open(directory).await.unwrap();
            let registry = Registry::new(storage, options);
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let router = registry.router();
            tokio::spawn(async move { axum::serve(listener, router).await });
            let collector = registry.clone();
            tokio::spawn(async move { collector.collect().await });
            (registry, address)
        });
        Self {
            address,
            registry: Some(registry),
            is_reference: false,
            runtime: Some(runtime),
            directory: None,
        }
    }

    /// Debian's docker-registry, when the environment asks for it (`WHARF_TEST_REGISTRY=HOST:PORT`).
    pub fn under_test() -> Self {
        match std::env::var("WHARF_TEST_REGISTRY") {
            Ok(address) => Self {
                address: address.parse().expect("WHARF_TEST_REGISTRY is ADDRESS:PORT"),
                registry: None,
                is_reference: true,
                runtime: None,
                directory: None,
            },
            Err(_) => Self::new(),
        }
    }

    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.as_ref().unwrap().block_on(future)
    }

    /// One request on a connection of its own.
    pub fn ask(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        self.try_ask(method, target, headers, body)
            .unwrap_or_else(|error| panic!("{method} {target}: {error}"))
    }

    pub fn try_ask(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> std::io::Result<Answer> {
        Connection::open(self.address)?.ask(method, target, headers, body)
    }

    pub fn get(&self, target: &str) -> Answer {
        self.ask("GET", target, &[], b"")
    }

    /// A repository nobody else uses: the reference keeps what earlier tests left.
    pub fn repository(&self) -> Repo<'_> {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
        let name = format!("test/r{now}-{}", SERIAL.fetch_add(1, Ordering::Relaxed));
        Repo { server: self, name }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The storage is unlocked when its last user is gone.
        self.registry = None;
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(20));
        }
    }
}

/// Shorthand for one repository.
pub struct Repo<'a> {
    pub server: &'a Server,
    pub name: String,
}

impl Repo<'_> {
    pub fn at(&self, rest: &str) -> String {
        format!("/v2/{}/{rest}", self.name)
    }

    pub fn ask(&self, method: &str, rest: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        self.server.ask(method, &self.at(rest), headers, body)
    }

    pub fn get(&self, rest: &str) -> Answer {
        self.ask("GET", rest, &[], b"")
    }

    /// Begins an upload and gives its address.
    pub fn begin(&self) -> String {
        let answer = self.ask("POST", "blobs/uploads/", &[], b"");
        answer.expect(202);
        answer.location()
    }

    pub fn push_blob(&self, bytes: &[u8]) -> String {
        let digest = digest_of(bytes).to_string();
        let location = self.begin();
        self.server.ask("PUT", &with_digest(&location, &digest), &[], bytes).expect(201);
        digest
    }

    pub fn put_manifest(&self, reference: &str, media_type: &str, manifest: &Value) -> Answer {
        let bytes = manifest.to_string();
        self.ask("PUT", &format!("manifests/{reference}"), &[("content-type", media_type)], bytes.as_bytes())
    }

    /// Pushes an image of one layer and gives manifest and digest.
    pub fn push_image(&self, reference: &str, layer: &[u8]) -> (Value, String) {
        let config = format!("{{\"layer\":\"{}\"}}", digest_of(layer));
        self.push_blob(config.as_bytes());
        self.push_blob(layer);
        let manifest = image(config.as_bytes(), layer);
        self.put_manifest(reference, MANIFEST, &manifest).expect(201);
        let digest = digest_of(manifest.to_string().as_bytes()).to_string();
        (manifest, digest)
    }
}

pub fn with_digest(location: &str, digest: &str) -> String {
    let sign = if location.contains('?') { '&' } else { '?' };
    format!("{location}{sign}digest={digest}")
}

pub fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": digest_of(bytes), "size": bytes.len()})
}

pub fn image(config: &[u8], layer: &[u8]) -> Value {
    json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor("application/vnd.oci.image.config.v1+json", config),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", layer)],
    })
}

/// A connection that is kept.
pub struct Connection {
    stream: BufReader<TcpStream>,
    address: SocketAddr,
}

impl Connection {
    pub fn open(address: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        stream.set_write_timeout(Some(Duration::from_secs(60)))?;
        Ok(Self { stream: BufReader::with_capacity(256 << 10, stream), address })
    }

    pub fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    pub fn ask(
        &mut self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> std::io::Result<Answer> {
        let mut head = format!("{method} {target} HTTP/1.1\r\nhost: {}\r\n", self.address);
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        let chunked = headers.iter().any(|(name, _)| *name == "transfer-encoding");
        if !chunked && (!body.is_empty() || matches!(method, "PUT" | "POST" | "PATCH")) {
            head.push_str(&format!("content-length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        self.write(head.as_bytes())?;
        // A server that refuses a body may close before all of it is written; its answer counts.
        let written = self.write(body);
        match self.answer(method == "HEAD") {
            Err(error) => Err(written.err().unwrap_or(error)),
            answer => answer,
        }
    }

    pub fn answer(&mut self, is_head: bool) -> std::io::Result<Answer> {
        let cut = || std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line)? == 0 {
                return Err(cut());
            }
            let line = line.trim_end();
            if line.is_empty() {
                break;
            }
            lines.push(line.to_owned());
        }
        let status = lines[0].split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(cut)?;
        let headers = lines[1..].iter().filter_map(|line| line.split_once(':'));
        let headers: Vec<_> = headers.map(|(n, v)| (n.to_ascii_lowercase(), v.trim().to_owned())).collect();
        let mut answer = Answer { status, headers, body: Vec::new() };
        if is_head || status == 204 || status == 304 {
            return Ok(answer);
        }
        if answer.header("transfer-encoding") == Some("chunked") {
            loop {
                let mut line = String::new();
                self.stream.read_line(&mut line)?;
                let size = usize::from_str_radix(line.trim(), 16).map_err(std::io::Error::other)?;
                let mut chunk = vec![0; size + 2];
                self.stream.read_exact(&mut chunk)?;
                if size == 0 {
                    break;
                }
                answer.body.extend_from_slice(&chunk[..size]);
            }
        } else if let Some(length) = answer.header("content-length") {
            let length = length.parse().map_err(std::io::Error::other)?;
            answer.body = vec![0; length];
            self.stream.read_exact(&mut answer.body)?;
        }
        Ok(answer)
    }
}

/// What came back.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub fn expect(&self, status: u16) -> &Self {
        assert_eq!(self.status, status, "{} {:?}", self.text(), self.headers);
        self
    }

    /// An error body with this code.
    #[track_caller]
    pub fn expect_error(&self, status: u16, code: &str) -> &Self {
        self.expect(status);
        assert_eq!(self.json()["errors"][0]["code"], code, "{}", self.text());
        assert!(self.json()["errors"][0]["message"].is_string());
        self
    }

    /// Where to go on, as a path.
    pub fn location(&self) -> String {
        let location = self.header("location").expect("Location");
        match location.split_once("://") {
            Some((_, rest)) => rest[rest.find('/').unwrap()..].to_owned(),
            None => location.to_owned(),
        }
    }

    /// The target of `Link: <...>; rel="next"`.
    pub fn next(&self) -> Option<String> {
        let (target, rest) = self.header("link")?.strip_prefix('<')?.split_once('>')?;
        assert!(rest.contains("rel=\"next\""));
        Some(target.to_owned())
    }
}

/// Bytes that are different each time.
pub fn fresh(length: usize) -> Vec<u8> {
    static SERIAL: AtomicU64 = AtomicU64::new(0);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
    let mut random =
        wharf_testkit::random::Random::seeded(now ^ SERIAL.fetch_add(1, Ordering::Relaxed) << 48);
    std::iter::repeat_with(|| random.next().to_le_bytes()).flatten().take(length).collect()
}

/// The program, in a process of its own that can be killed and measured.
pub struct Process {
    pub server: Server,
    child: std::process::Child,
    flags: Vec<String>,
    directory: tempfile::TempDir,
}

impl Process {
    pub fn start(flags: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let (child, address) = Self::spawn(&directory.path().join("data"), &flags);
        let server = Server { address, registry: None, is_reference: false, runtime: None, directory: None };
        Self { server, child, flags, directory }
    }

    fn spawn(data: &Path, flags: &[String]) -> (std::process::Child, SocketAddr) {
        let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_wharf-registry"))
            .args(["serve", "--address", "127.0.0.1:0", "--access-log", "none", "--data"])
            .arg(data)
            .args(flags)
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut said = String::new();
        let address = loop {
            let mut line = String::new();
            assert!(log.read_line(&mut line).unwrap() > 0, "the registry did not start: {said}");
            if let Some((_, address)) = line.split_once("listening on http://") {
                break address.trim().parse().unwrap();
            }
            said.push_str(&line);
        };
        // Nobody may be kept from speaking by a full pipe.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        (child, address)
    }

    pub fn data(&self) -> std::path::PathBuf {
        self.directory.path().join("data")
    }

    /// Without warning, as a power cut does to a process.
    pub fn kill_and_restart(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let (child, address) = Self::spawn(&self.data(), &self.flags);
        self.child = child;
        self.server.address = address;
    }

    /// Resident bytes.
    pub fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
