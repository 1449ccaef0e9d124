//! A registry that serves what a test says, as badly as the test says.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use wharf_content::digest_of;
use wharf_model::{Digest, Reference};
use wharf_registry::{Access, Client, Config, Repository, Timeouts};

use super::{config_of, gzip};

pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// What may be done to an answer.
#[derive(Debug)]
pub struct Answer {
    pub body: Vec<u8>,
    /// The connection breaks after so many bytes of the body.
    pub cut: Option<usize>,
    /// The rest of the body comes only when this side is dropped.
    pub stall: Option<Arc<std::sync::Barrier>>,
    /// The body comes byte by byte, with such pauses.
    pub drip: Option<Duration>,
    pub media_type: String,
}

type Tamper = Box<dyn FnMut(&str, &mut Answer) + Send>;

struct Shared {
    documents: Mutex<HashMap<String, (String, Vec<u8>)>>,
    tamper: Mutex<Tamper>,
    /// Path and first byte that was asked for, in order.
    requests: Mutex<Vec<(String, u64)>>,
}

pub struct Fake {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Fake {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            documents: Mutex::default(),
            tamper: Mutex::new(Box::new(|_, _| {})),
            requests: Mutex::default(),
        });
        let serving = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&serving);
                thread::spawn(move || serve(&shared, stream));
            }
        });
        Self { address, shared }
    }

    /// Does something to answers from now on; gets the path below the repository.
    pub fn tamper(&self, tamper: impl FnMut(&str, &mut Answer) + Send + 'static) {
        *self.shared.tamper.lock().unwrap() = Box::new(tamper);
    }

    pub fn honest(&self) {
        self.tamper(|_, _| {});
    }

    pub fn blob(&self, bytes: &[u8]) -> Digest {
        let digest = digest_of(bytes);
        self.put(&format!("blobs/{digest}"), "application/octet-stream", bytes);
        digest
    }

    pub fn manifest(&self, tag: &str, media_type: &str, bytes: &[u8]) -> Digest {
        let digest = digest_of(bytes);
        self.put(&format!("manifests/{tag}"), media_type, bytes);
        self.put(&format!("manifests/{digest}"), media_type, bytes);
        digest
    }

    fn put(&self, path: &str, media_type: &str, bytes: &[u8]) {
        let document = (media_type.to_owned(), bytes.to_vec());
        self.shared.documents.lock().unwrap().insert(path.to_owned(), document);
    }

    /// An image of these plain tars, compressed; returns the manifest's digest.
    pub fn image(&self, tag: &str, layers: &[&[u8]]) -> Digest {
        self.image_with(tag, &config_of(layers), layers)
    }

    pub fn image_with(&self, tag: &str, config: &str, layers: &[&[u8]]) -> Digest {
        let blobs: Vec<Vec<u8>> = layers.iter().map(|layer| gzip(layer)).collect();
        self.image_of_blobs(tag, config, &blobs, "application/vnd.oci.image.layer.v1.tar+gzip")
    }

    /// An image of blobs as they are.
    pub fn image_of_blobs(&self, tag: &str, config: &str, blobs: &[Vec<u8>], kind: &str) -> Digest {
        let layers: Vec<String> = blobs
            .iter()
            .map(|blob| {
                let digest = self.blob(blob);
                format!(r#"{{"mediaType":"{kind}","digest":"{digest}","size":{}}}"#, blob.len())
            })
            .collect();
        let digest = self.blob(config.as_bytes());
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{digest}","size":{}}},"layers":[{}]}}"#,
            config.len(),
            layers.join(",")
        );
        self.manifest(tag, MANIFEST, manifest.as_bytes())
    }

    pub fn document(&self, manifest: &Digest) -> String {
        let bytes = self.shared.documents.lock().unwrap()[&format!("manifests/{manifest}")].1.clone();
        String::from_utf8(bytes).unwrap()
    }

    pub fn size_of(&self, manifest: &Digest) -> usize {
        self.shared.documents.lock().unwrap()[&format!("manifests/{manifest}")].1.len()
    }

    pub fn reference(&self, tag: &str) -> Reference {
        Reference::parse_normalized(&format!("{}/app:{tag}", self.address)).unwrap()
    }

    /// A client that does not wait long.
    pub fn repository(&self) -> Repository {
        self.repository_with(Timeouts { backoff: Duration::from_millis(1), ..Timeouts::default() })
    }

    pub fn repository_with(&self, timeouts: Timeouts) -> Repository {
        let client = Client::new(Config { timeouts, retries: 0, ..Config::default() }).unwrap();
        client.repository(&self.reference("x"), Access::Pull, None).unwrap()
    }

    /// The requests for blobs so far, with the byte from which.
    pub fn blobs_asked_for(&self) -> Vec<(String, u64)> {
        let requests = self.shared.requests.lock().unwrap();
        requests.iter().filter(|(path, _)| path.starts_with("blobs/")).cloned().collect()
    }

    pub fn forget_requests(&self) {
        self.shared.requests.lock().unwrap().clear();
    }
}

fn serve(shared: &Shared, stream: TcpStream) {
    let mut input = BufReader::new(stream.try_clone().unwrap());
    let mut output = stream;
    loop {
        let mut first = String::new();
        if input.read_line(&mut first).unwrap_or(0) == 0 {
            return;
        }
        let mut from = 0;
        loop {
            let mut line = String::new();
            if input.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            let line = line.trim_end().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(range) = line.strip_prefix("range: bytes=") {
                from = range.trim_end_matches('-').parse().unwrap();
            }
        }
        // A TLS client's first bytes are no request: hang up, as a plain server does.
        let Some(path) = first.split(' ').nth(1) else { return };
        let path = path.strip_prefix("/v2/app/").unwrap_or(path).to_owned();
        if !answer(shared, &path, from, &mut output) {
            return;
        }
    }
}

/// Whether the connection goes on.
fn answer(shared: &Shared, path: &str, from: u64, output: &mut TcpStream) -> bool {
    shared.requests.lock().unwrap().push((path.to_owned(), from));
    let found = shared.documents.lock().unwrap().get(path).cloned();
    let Some((media_type, body)) = found else {
        let status = if path == "/v2/" { "200 OK" } else { "404 Not Found" };
        return write!(output, "HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").is_ok();
    };
    let mut answer = Answer { body, cut: None, stall: None, drip: None, media_type };
    (shared.tamper.lock().unwrap())(path, &mut answer);
    let total = answer.body.len();
    let from = usize::try_from(from).unwrap().min(total);
    let status = match from {
        0 => "200 OK".to_owned(),
        from => format!("206 Partial Content\r\nContent-Range: bytes {from}-{}/{total}", total - 1),
    };
    let body = &answer.body[from..];
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {}\r\nContent-Length: {}\r\n\r\n",
        answer.media_type,
        body.len()
    );
    if output.write_all(head.as_bytes()).is_err() {
        return false;
    }
    if let Some(barrier) = answer.stall {
        let half = body.len() / 2;
        let _client_may_leave = output.write_all(&body[..half]).and_then(|()| output.flush());
        barrier.wait();
        barrier.wait();
        return output.write_all(&body[half..]).is_ok();
    }
    if let Some(pause) = answer.drip {
        return body.iter().all(|byte| {
            thread::sleep(pause);
            output.write_all(&[*byte]).and_then(|()| output.flush()).is_ok()
        });
    }
    match answer.cut {
        Some(cut) if cut < body.len() => {
            let _client_may_leave = output.write_all(&body[..cut]);
            false
        }
        _ => output.write_all(body).is_ok(),
    }
}
