//! What the façade takes and gives.

use std::path::PathBuf;

use jiff::Timestamp;
use oci_spec::image::ImageConfiguration;
use serde::Deserialize;
use wharf_model::{Digest, Reference};

/// One image of the store.
#[derive(Debug, Clone)]
pub struct Image {
    /// The digest of the config document: Docker's image id.
    pub id: Digest,
    /// Names with a tag, sorted.
    pub references: Vec<Reference>,
    /// Names with the digest they were pulled by, sorted.
    pub repo_digests: Vec<Reference>,
    /// The config document.
    pub config: ImageConfiguration,
    /// What Docker writes beside the OCI fields.
    pub docker: DockerFields,
    /// When it was made, if the config says.
    pub created: Option<Timestamp>,
    /// When a name last began to point at it here.
    pub tagged: Option<Timestamp>,
    /// Bytes of the regular files and links of its layers.
    pub size: u64,
    /// The manifest document.
    pub manifest: Digest,
    /// The uncompressed layers, base first.
    pub diff_ids: Vec<Digest>,
}

/// Fields of a config document that Docker knows and OCI does not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DockerFields {
    /// `config.Healthcheck`.
    pub healthcheck: Option<Healthcheck>,
    /// `config.OnBuild`.
    pub on_build: Vec<String>,
    /// `config.Shell`.
    pub shell: Option<Vec<String>>,
    /// The `comment` of the image (what `import --message` sets).
    pub comment: String,
    /// The engine that made the image.
    pub docker_version: String,
}

/// A health check as the config document has it; times are nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Healthcheck {
    /// `["NONE"]`, `["CMD", …]` or `["CMD-SHELL", line]`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub test: Vec<String>,
    /// Time between two checks.
    #[serde(skip_serializing_if = "is_zero")]
    pub interval: i64,
    /// Time one check may take.
    #[serde(skip_serializing_if = "is_zero")]
    pub timeout: i64,
    /// Time after the start in which failures do not count.
    #[serde(skip_serializing_if = "is_zero")]
    pub start_period: i64,
    /// Time between checks during the start period.
    #[serde(skip_serializing_if = "is_zero")]
    pub start_interval: i64,
    /// Failures in a row that make it unhealthy.
    #[serde(skip_serializing_if = "is_zero")]
    pub retries: i64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde calls")]
fn is_zero(number: &i64) -> bool {
    *number == 0
}

/// Progress of [`crate::Images::load`], as Docker's stream shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadProgress {
    /// Short id of the layer being read.
    pub layer: String,
    /// Bytes read so far.
    pub current: u64,
    /// Bytes it has.
    pub total: u64,
}

/// One name or image that a load brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// The name, unless the archive has none for this image.
    pub reference: Option<Reference>,
    /// The image.
    pub id: Digest,
    /// Another image that had this name until now.
    pub replaced: Option<Digest>,
}

/// How [`crate::Images::import`] turns a root filesystem into an image.
#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    /// Its name, if any.
    pub reference: Option<Reference>,
    /// The commit message.
    pub message: String,
    /// Dockerfile instructions to apply: `CMD ["sh"]`, `ENV A=b`.
    pub changes: Vec<String>,
    /// `os[/architecture[/variant]]`; the host's when absent.
    pub platform: Option<String>,
}

/// How layers are kept on disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LayerStorage {
    /// As file systems in files where the kernel can mount them, otherwise as directories.
    #[default]
    Automatic,
    /// As directories, everywhere.
    Directories,
}

/// What a removal did, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removed {
    /// A name is gone.
    Untagged(String),
    /// An image or one of its layers (by chain id) is gone.
    Deleted(Digest),
}

/// What [`crate::Images::prune`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Names, images and layers, in order.
    pub removed: Vec<Removed>,
    /// Bytes of layers that are gone.
    pub reclaimed: u64,
}

/// One line of an image's history, newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryEntry {
    /// The image, on the newest line only.
    pub id: Option<Digest>,
    /// When the step ran.
    pub created: Option<Timestamp>,
    /// The instruction.
    pub created_by: String,
    /// The comment.
    pub comment: String,
    /// Bytes the step added.
    pub size: u64,
    /// Names of the image, on the newest line only.
    pub tags: Vec<Reference>,
}

/// A container's overlay mount: every name is relative to `base`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotMounts {
    /// The directory of all snapshots.
    pub base: PathBuf,
    /// Read-only layers, topmost first; never empty.
    pub lower: Vec<String>,
    /// The writable directory.
    pub upper: String,
    /// Overlayfs' own directory.
    pub work: String,
}

/// A container that uses an image: its id, and whether it is running.
pub type User = (String, bool);
