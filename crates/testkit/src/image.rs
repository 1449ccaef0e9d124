//! Small images made on the spot: a static busybox, a few files, a `docker load` archive around them.
//!
//! The same busybox gives the same bytes and so the same ids: times are zero, names are in a fixed order.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// The name under which [`archive`] loads.
pub const NAME: &str = "box:latest";

/// Commands that tests use, as links to busybox. Fixed, so that the image does not depend on how busybox was configured.
const APPLETS: &[&str] = &[
    "[", "cat", "chmod", "chown", "cp", "cut", "date", "dd", "df", "echo", "env", "false", "find", "free",
    "grep", "head", "hostname", "httpd", "id", "ip", "kill", "ln", "ls", "md5sum", "mkdir", "mknod", "mount",
    "mv", "nc", "nslookup", "ping", "printf", "ps", "pwd", "readlink", "rm", "route", "sed", "seq", "sh",
    "sleep", "sort", "stat", "stty", "tail", "tee", "test", "top", "touch", "tr", "true", "tty", "ulimit",
    "umount", "uname", "usleep", "vi", "wc", "wget", "whoami", "yes",
];

/// An image archive under construction.
#[derive(Debug, Clone)]
pub struct Builder {
    name: String,
    architecture: String,
    config: Value,
    layers: Vec<Vec<u8>>,
}

impl Builder {
    /// An image called `name` with one `layer` (a tar), running `sh`.
    pub fn new(name: &str, layer: Vec<u8>) -> Self {
        let config = json!({
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "Cmd": ["sh"],
        });
        Self { name: name.to_owned(), architecture: "amd64".to_owned(), config, layers: vec![layer] }
    }

    /// One more layer on top.
    #[must_use]
    pub fn layer(mut self, tar: Vec<u8>) -> Self {
        self.layers.push(tar);
        self
    }

    /// For another machine.
    #[must_use]
    pub fn architecture(mut self, name: &str) -> Self {
        name.clone_into(&mut self.architecture);
        self
    }

    /// Sets a field of the image's `config`, such as `Entrypoint` or `User`.
    #[must_use]
    pub fn config(mut self, field: &str, value: Value) -> Self {
        self.config[field] = value;
        self
    }

    /// The id the image will have.
    pub fn id(&self) -> String {
        format!("sha256:{}", sha256(self.config_document().as_bytes()))
    }

    fn config_document(&self) -> String {
        let diff_ids: Vec<String> =
            self.layers.iter().map(|layer| format!("sha256:{}", sha256(layer))).collect();
        let history: Vec<Value> = self
            .layers
            .iter()
            .map(|_| json!({"created": "2024-01-01T00:00:00Z", "created_by": "testkit"}))
            .collect();
        json!({
            "architecture": self.architecture, "os": "linux", "created": "2024-01-01T00:00:00Z",
            "config": self.config, "history": history,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        })
        .to_string()
    }

    /// The archive in the form `docker save` writes and `docker load` reads.
    pub fn build(&self) -> Vec<u8> {
        let config = self.config_document();
        let config_name = format!("{}.json", sha256(config.as_bytes()));
        let layer_names: Vec<String> =
            self.layers.iter().map(|layer| format!("{}/layer.tar", sha256(layer))).collect();
        let manifest =
            json!([{"Config": config_name, "RepoTags": [self.name], "Layers": layer_names}]).to_string();
        let mut tar = Tar::new();
        tar.file(&config_name, 0o644, config.as_bytes());
        for (name, layer) in layer_names.iter().zip(&self.layers) {
            tar.file(name, 0o644, layer);
        }
        tar.file("manifest.json", 0o644, manifest.as_bytes());
        tar.finish()
    }
}

/// The archive of [`NAME`]: busybox with its links, `/etc/passwd` with users root and guest (1000), a web page in `/www`.
pub fn archive() -> Vec<u8> {
    Builder::new(NAME, rootfs()).build()
}

/// The root filesystem of [`NAME`] as a plain tar, as `docker import` reads it.
pub fn rootfs() -> Vec<u8> {
    let busybox = std::fs::read(busybox()).expect("busybox is readable");
    let mut tar = Tar::new();
    for dir in
        ["bin", "dev", "etc", "home", "home/guest", "proc", "root", "sys", "usr", "usr/bin", "var", "www"]
    {
        tar.dir(dir, 0o755);
    }
    tar.dir("tmp", 0o1777);
    tar.file("bin/busybox", 0o755, &busybox);
    for applet in APPLETS {
        tar.link(&format!("bin/{applet}"), "/bin/busybox");
    }
    tar.file("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\nguest:x:1000:1000::/home/guest:/bin/sh\n");
    tar.file("etc/group", 0o644, b"root:x:0:\nguest:x:1000:\ncrew:x:2000:guest\n");
    tar.file("www/index.html", 0o644, b"hello from the container\n");
    tar.file("etc/notes", 0o644, b"not a program\n");
    tar.finish()
}

/// The machine's static busybox.
///
/// # Panics
/// When there is none; the message says how to get it.
pub fn busybox() -> PathBuf {
    let candidates = ["/bin/busybox", "/usr/bin/busybox"];
    let found = candidates.into_iter().map(Path::new).find(|path| path.is_file());
    found.expect("no busybox on this machine; run `apt-get install busybox-static`").to_path_buf()
}

/// Writes tar streams entry by entry.
pub struct Tar(tar::Builder<Vec<u8>>);

impl Default for Tar {
    fn default() -> Self {
        Self::new()
    }
}

impl Tar {
    /// An empty stream.
    pub fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    /// Adds a regular file.
    pub fn file(&mut self, path: &str, mode: u32, content: &[u8]) {
        let mut header = self.header(tar::EntryType::Regular, mode);
        header.set_size(content.len() as u64);
        self.0.append_data(&mut header, path, content).expect("a tar in memory takes every entry");
    }

    /// Adds a directory.
    pub fn dir(&mut self, path: &str, mode: u32) {
        let mut header = self.header(tar::EntryType::Directory, mode);
        self.0.append_data(&mut header, format!("{path}/"), std::io::empty()).expect("as above");
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, path: &str, target: &str) {
        let mut header = self.header(tar::EntryType::Symlink, 0o777);
        self.0.append_link(&mut header, path, target).expect("as above");
    }

    /// The bytes.
    pub fn finish(self) -> Vec<u8> {
        self.0.into_inner().expect("a tar in memory finishes")
    }

    fn header(&self, kind: tar::EntryType, mode: u32) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(0);
        header
    }
}

/// The SHA-256 of `bytes` in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_input_gives_the_same_archive() {
        let layer = {
            let mut tar = Tar::new();
            tar.file("a", 0o644, b"x");
            tar.finish()
        };
        assert_eq!(Builder::new("a:1", layer.clone()).build(), Builder::new("a:1", layer).build());
    }
}
