//! How much a foreign archive may cost.

use crate::{Error, Result};

/// Limits on archives. The defaults leave every real image through that we know of and stop bombs early.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Files, directories and links of one layer.
    pub entries: u64,
    /// Bytes that one layer takes once unpacked, holes counted as if they were data.
    pub layer_bytes: u64,
    /// Decompressed bytes per compressed byte, looked at beyond [`Limits::ratio_from`]. Gzip cannot exceed 1,032.
    pub ratio: u64,
    /// Decompressed bytes up to which any ratio is fine.
    pub ratio_from: u64,
    /// Base two logarithm of the memory a zstd stream may ask for.
    pub zstd_window_log: u32,
    /// Manifests, configs and other small files of one archive.
    pub documents: usize,
    /// All entries of one docker-archive or oci-archive.
    pub archive_entries: u64,
    /// Layers of one image. Overlayfs takes 500; their names have to fit in a page.
    pub layers: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries: 20_000_000,
            layer_bytes: 1 << 40,
            ratio: 400,
            ratio_from: 1 << 30,
            zstd_window_log: 26,
            documents: 10_000,
            archive_entries: 100_000,
            layers: 256,
        }
    }
}

/// What a layer has cost so far.
#[derive(Debug)]
pub(crate) struct Spent<'a> {
    limits: &'a Limits,
    entries: u64,
    bytes: u64,
}

impl<'a> Spent<'a> {
    pub(crate) fn new(limits: &'a Limits) -> Self {
        Self { limits, entries: 0, bytes: 0 }
    }

    /// Another entry.
    pub(crate) fn entry(&mut self) -> Result<()> {
        self.entries += 1;
        if self.entries > self.limits.entries {
            return Err(Error::limit("the number of entries in a layer", self.limits.entries));
        }
        Ok(())
    }

    /// Another file of `size` bytes.
    pub(crate) fn file(&mut self, size: u64) -> Result<()> {
        self.bytes = self.bytes.saturating_add(size);
        if self.bytes > self.limits.layer_bytes {
            return Err(Error::limit("the unpacked size of a layer in bytes", self.limits.layer_bytes));
        }
        Ok(())
    }
}
