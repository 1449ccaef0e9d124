//! How much a foreign archive may cost.

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
