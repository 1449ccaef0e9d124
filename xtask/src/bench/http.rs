//! The least HTTP/1.1 that pushes to and pulls from a registry: what is measured is the server, not a client.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use anyhow::{Context as _, Result, bail, ensure};
use sha2::{Digest as _, Sha256};

use super::large::{Blob, hex};

/// One connection to a registry.
pub(crate) struct Connection {
    stream: BufReader<TcpStream>,
    address: SocketAddr,
}

struct Answer {
    status: u16,
    location: Option<String>,
    length: u64,
}

impl Connection {
    pub(crate) fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).context("connecting to the registry")?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::with_capacity(1 << 20, stream), address })
    }

    /// Uploads a blob in one piece.
    pub(crate) fn push_blob(&mut self, repository: &str, blob: &Blob) -> Result<()> {
        let file = File::open(&blob.path).context("opening a blob")?;
        let target = self.begin(repository, &blob.digest)?;
        self.head("PUT", &target, blob.size, "application/octet-stream")?;
        let sent = io::copy(&mut &file, self.stream.get_mut()).context("sending a blob")?;
        ensure!(sent == blob.size, "the blob has changed");
        self.expect(201)
    }

    /// Uploads a blob that is in memory.
    pub(crate) fn push_bytes(&mut self, repository: &str, bytes: &[u8]) -> Result<String> {
        let digest = format!("sha256:{}", hex(&Sha256::digest(bytes)));
        let target = self.begin(repository, &digest)?;
        self.head("PUT", &target, bytes.len() as u64, "application/octet-stream")?;
        self.stream.get_mut().write_all(bytes)?;
        self.expect(201)?;
        Ok(digest)
    }

    pub(crate) fn push_manifest(
        &mut self,
        repository: &str,
        tag: &str,
        media_type: &str,
        bytes: &[u8],
    ) -> Result<()> {
        let target = format!("/v2/{repository}/manifests/{tag}");
        self.head("PUT", &target, bytes.len() as u64, media_type)?;
        self.stream.get_mut().write_all(bytes)?;
        self.expect(201)
    }

    /// Reads something to its end and returns how long it was.
    pub(crate) fn get(&mut self, target: &str) -> Result<u64> {
        self.head("GET", target, 0, "")?;
        let answer = self.answer()?;
        ensure!(answer.status == 200, "GET {target}: {}", answer.status);
        let mut left = answer.length;
        while left > 0 {
            let read = self.stream.fill_buf()?.len().min(usize::try_from(left)?);
            ensure!(read > 0, "GET {target}: cut off");
            self.stream.consume(read);
            left -= read as u64;
        }
        Ok(answer.length)
    }

    fn begin(&mut self, repository: &str, digest: &str) -> Result<String> {
        self.head("POST", &format!("/v2/{repository}/blobs/uploads/"), 0, "")?;
        let answer = self.answer()?;
        ensure!(answer.status == 202, "beginning an upload: {}", answer.status);
        let location = answer.location.context("an upload without a location")?;
        let path = match location.split_once("://") {
            Some((_, rest)) => rest.find('/').map_or("/", |slash| &rest[slash..]),
            None => &location,
        };
        let join = if path.contains('?') { '&' } else { '?' };
        Ok(format!("{path}{join}digest={digest}"))
    }

    fn head(&mut self, method: &str, target: &str, length: u64, media_type: &str) -> Result<()> {
        const ACCEPT: &str = "application/vnd.docker.distribution.manifest.v2+json, */*";
        let kind =
            if media_type.is_empty() { String::new() } else { format!("Content-Type: {media_type}\r\n") };
        let head = format!(
            "{method} {target} HTTP/1.1\r\nHost: {}\r\nAccept: {ACCEPT}\r\n{kind}Content-Length: {length}\r\n\r\n",
            self.address
        );
        Ok(self.stream.get_mut().write_all(head.as_bytes())?)
    }

    fn answer(&mut self) -> Result<Answer> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        let status = line.split(' ').nth(1).and_then(|text| text.parse().ok());
        let mut answer =
            Answer { status: status.with_context(|| format!("answer {line:?}"))?, location: None, length: 0 };
        loop {
            line.clear();
            self.stream.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(": ") else { break };
            match name.to_ascii_lowercase().as_str() {
                "location" => answer.location = Some(value.to_owned()),
                "content-length" => answer.length = value.parse()?,
                "transfer-encoding" => bail!("the registry sends chunks where it knows the length"),
                _ => {}
            }
        }
        Ok(answer)
    }

    fn expect(&mut self, status: u16) -> Result<()> {
        let answer = self.answer()?;
        let mut body = vec![0; usize::try_from(answer.length)?];
        self.stream.read_exact(&mut body)?;
        ensure!(answer.status == status, "answer {}: {}", answer.status, String::from_utf8_lossy(&body));
        Ok(())
    }
}
