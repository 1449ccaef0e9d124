//! The image of P6, P7 and P12: 800 MB in 60,000 files, some 335 MB compressed, in four layers. Made once, kept in `target/`.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use wharf_testkit::workspace_root;

/// Files and megabytes of each layer.
const LAYERS: [(usize, usize); 4] = [(20_000, 300), (24_000, 280), (10_000, 140), (6_000, 80)];
/// Of each kilobyte, so many bytes do not compress.
const NOISE: usize = 400;

/// A blob that lies in a file.
#[derive(Debug, Clone)]
pub(crate) struct Blob {
    pub(crate) path: PathBuf,
    pub(crate) digest: String,
    pub(crate) size: u64,
}

/// The image as a registry holds it.
#[derive(Debug, Clone)]
pub(crate) struct LargeImage {
    pub(crate) manifest: Vec<u8>,
    pub(crate) config: Blob,
    pub(crate) layers: Vec<Blob>,
}

impl LargeImage {
    /// The image; takes a minute the first time.
    pub(crate) fn make() -> Result<Self> {
        let dir = workspace_root().join("target/bench/large-1");
        let marker = dir.join("manifest.json");
        if !marker.is_file() {
            println!("  making an image of 800 MB, once …");
            let _not_there_yet = fs::remove_dir_all(&dir);
            fs::create_dir_all(&dir).context("making target/bench")?;
            make(&dir)?;
        }
        let manifest = fs::read(&marker).context("reading the manifest")?;
        let document: Value = serde_json::from_slice(&manifest)?;
        let blob = |descriptor: &Value| -> Result<Blob> {
            let digest = descriptor["digest"].as_str().context("a digest")?.to_owned();
            let path = dir.join(digest.trim_start_matches("sha256:"));
            Ok(Blob { path, digest, size: descriptor["size"].as_u64().context("a size")? })
        };
        let layers = document["layers"].as_array().context("layers")?;
        let layers = layers.iter().map(blob).collect::<Result<_>>()?;
        let config = blob(&document["config"])?;
        Ok(Self { manifest, config, layers })
    }

    /// All blobs, layers first.
    pub(crate) fn blobs(&self) -> impl Iterator<Item = &Blob> {
        self.layers.iter().chain([&self.config])
    }
}

fn make(dir: &Path) -> Result<()> {
    let mut diff_ids = Vec::new();
    let mut layers = Vec::new();
    for (number, (files, megabytes)) in LAYERS.into_iter().enumerate() {
        let temporary = dir.join("layer");
        let compressed = Hashing::new(BufWriter::new(File::create(&temporary).context("making a layer")?));
        let mut plain = Hashing::new(GzEncoder::new(compressed, Compression::new(6)));
        write_layer(&mut plain, number, files, megabytes * 1_000_000 / files)?;
        let (diff, encoder) = plain.finish();
        let (digest, mut file) = encoder.finish()?.finish();
        file.flush()?;
        let size = fs::metadata(&temporary)?.len();
        fs::rename(&temporary, dir.join(&digest))?;
        diff_ids.push(format!("sha256:{diff}"));
        layers.push(json!({
            "mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip",
            "size": size, "digest": format!("sha256:{digest}"),
        }));
    }
    let config = json!({
        "architecture": "amd64", "os": "linux", "created": "2024-01-01T00:00:00Z", "config": {"Cmd": ["/sh"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    })
    .to_string();
    let digest = hex(&Sha256::digest(config.as_bytes()));
    fs::write(dir.join(&digest), &config)?;
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": {
            "mediaType": "application/vnd.docker.container.image.v1+json",
            "size": config.len(), "digest": format!("sha256:{digest}"),
        },
        "layers": layers,
    });
    // Last, because it says that the image is whole.
    fs::write(dir.join("manifest.json"), manifest.to_string()).context("writing the manifest")
}

fn write_layer(out: &mut impl Write, layer: usize, files: usize, bytes: usize) -> Result<()> {
    let mut tar = tar::Builder::new(out);
    let mut noise = Noise(0x9e37_79b9_7f4a_7c15 ^ layer as u64);
    for number in 0..files {
        // Few files are large and many are small, as everywhere.
        let size = if number % 10 == 0 { bytes * 55 / 10 } else { bytes / 2 };
        let mut content = vec![0; size];
        for piece in content.chunks_mut(1024) {
            let (random, text) = piece.split_at_mut(NOISE.min(piece.len()));
            random.chunks_mut(8).for_each(|chunk| chunk.copy_from_slice(&noise.next()[..chunk.len()]));
            let line = b"the quick brown fox jumps over the lazy dog; ";
            text.iter_mut().zip(line.iter().cycle()).for_each(|(to, from)| *to = *from);
        }
        let mut header = tar::Header::new_gnu();
        header.set_size(size as u64);
        header.set_mode(0o644);
        header.set_mtime(1_700_000_000);
        let path = format!("usr/share/layer{layer}/{}/file{number}", number / 100);
        tar.append_data(&mut header, path, content.as_slice())?;
    }
    tar.finish()?;
    Ok(())
}

struct Noise(u64);

impl Noise {
    fn next(&mut self) -> [u8; 8] {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.to_le_bytes()
    }
}

struct Hashing<W> {
    out: W,
    hasher: Sha256,
}

impl<W> Hashing<W> {
    fn new(out: W) -> Self {
        Self { out, hasher: Sha256::new() }
    }

    fn finish(self) -> (String, W) {
        (hex(&self.hasher.finalize()), self.out)
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
