//! The documents of the OCI image specification, as far as the store and the registry need to understand them.
//!
//! Own types rather than `oci-spec`'s, for two reasons: digests parse strictly here, and what we write is the same
//! bytes each time (sorted maps), so that it has the same digest each time.

use std::collections::BTreeMap;

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use wharf_model::Digest;

/// Manifests, indexes and configs have at most this many bytes; the distribution specification's own limit.
pub const MAX_DOCUMENT: u64 = 4 << 20;

pub(crate) const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// An image index.
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// An image manifest.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// An image config.
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// A layer as plain tar.
pub const LAYER_TAR: &str = "application/vnd.oci.image.layer.v1.tar";
/// A layer as tar in gzip.
pub const LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// A layer as tar in zstd.
pub const LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
/// Docker's manifest list, the elder of [`INDEX`].
pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Docker's manifest, the elder of [`MANIFEST`].
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker's config, the elder of [`CONFIG`].
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
/// Docker's name for [`LAYER_TAR`].
pub const DOCKER_LAYER_TAR: &str = "application/vnd.docker.image.rootfs.diff.tar";
/// Docker's name for [`LAYER_GZIP`].
pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

/// The annotation that names an image in an index.
pub const ANNOTATION_REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Docker's and containerd's annotation with the full name of an image.
pub const ANNOTATION_IMAGE_NAME: &str = "io.containerd.image.name";

/// Names and values on a descriptor or document.
pub type Annotations = BTreeMap<String, String>;

/// A pointer to content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What the content is.
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// How many bytes it has.
    pub size: u64,
    /// The type of the thing described, where a manifest describes no image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// Names and values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<Annotations>,
    /// What the image runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
}

impl Descriptor {
    /// A descriptor without annotations and platform.
    #[must_use]
    pub fn new(media_type: &str, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest,
            size,
            artifact_type: None,
            annotations: None,
            platform: None,
        }
    }

    /// One annotation.
    #[must_use]
    pub fn annotation(&self, name: &str) -> Option<&str> {
        self.annotations.as_ref()?.get(name).map(String::as_str)
    }
}

/// What an image runs on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// `amd64`, `arm64`.
    pub architecture: String,
    /// `linux`.
    pub os: String,
    /// `v7`, `v8`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

/// An index: several manifests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    pub schema_version: u32,
    /// [`INDEX`], or absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// What it points at.
    #[serde(default)]
    pub manifests: Vec<Descriptor>,
}

impl Default for Index {
    fn default() -> Self {
        Self { schema_version: 2, media_type: Some(INDEX.to_owned()), manifests: Vec::new() }
    }
}

/// A manifest: one image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// [`MANIFEST`], [`DOCKER_MANIFEST`], or absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The config document.
    pub config: Descriptor,
    /// The layers, base first.
    pub layers: Vec<Descriptor>,
    /// Names and values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<Annotations>,
}

impl Manifest {
    /// An OCI manifest.
    #[must_use]
    pub fn new(config: Descriptor, layers: Vec<Descriptor>) -> Self {
        Self { schema_version: 2, media_type: Some(MANIFEST.to_owned()), config, layers, annotations: None }
    }
}

/// The parts of a document by which it can be taken for a manifest or an index. A document that could be taken for
/// both would be two things under one digest.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    schema_version: u32,
    media_type: Option<String>,
    layers: Option<IgnoredAny>,
    config: Option<IgnoredAny>,
    manifests: Option<IgnoredAny>,
}

/// Why a document cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// Not JSON of this shape.
    #[error("malformed: {0}")]
    Json(#[from] serde_json::Error),
    /// Larger than [`MAX_DOCUMENT`].
    #[error("{0} bytes, more than the {MAX_DOCUMENT} a manifest may have")]
    TooLarge(u64),
    /// Valid, and yet ambiguous or of another version.
    #[error("{0}")]
    Shape(String),
}

impl Manifest {
    /// Reads a manifest that was announced as `media_type`.
    ///
    /// # Errors
    /// [`DocumentError`] when it is malformed, too large, or also reads as something else.
    pub fn parse(bytes: &[u8], media_type: &str) -> Result<Self, DocumentError> {
        let shape = check(bytes, media_type)?;
        if shape.manifests.is_some() {
            return Err(DocumentError::Shape("it has both \"layers\" and \"manifests\"".to_owned()));
        }
        parse(bytes)
    }
}

impl Index {
    /// Reads an index that was announced as `media_type`.
    ///
    /// # Errors
    /// [`DocumentError`] when it is malformed, too large, or also reads as something else.
    pub fn parse(bytes: &[u8], media_type: &str) -> Result<Self, DocumentError> {
        let shape = check(bytes, media_type)?;
        if shape.layers.is_some() || shape.config.is_some() {
            return Err(DocumentError::Shape("it has both \"manifests\" and \"layers\"".to_owned()));
        }
        parse(bytes)
    }
}

/// Reads any JSON document within the size limit.
///
/// # Errors
/// [`DocumentError::TooLarge`] or [`DocumentError::Json`].
pub fn parse<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, DocumentError> {
    if bytes.len() as u64 > MAX_DOCUMENT {
        return Err(DocumentError::TooLarge(bytes.len() as u64));
    }
    Ok(serde_json::from_slice(bytes)?)
}

/// Keys whose spelling decides what a document is. Duplicates of them are errors when it is read; readers written in Go
/// take other spellings of them for duplicates, and the last one counts.
const KEYS: [&str; 6] = ["schemaVersion", "mediaType", "config", "layers", "manifests", "fsLayers"];

/// The keys of an object, none of which another reader takes for one of [`KEYS`].
struct Keys;

impl<'de> Deserialize<'de> for Keys {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Self)
    }
}

impl<'de> serde::de::Visitor<'de> for Keys {
    type Value = Self;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Self, A::Error> {
        while let Some(key) = map.next_key::<std::borrow::Cow<'de, str>>()? {
            if let Some(known) = reads_as(&key, &KEYS) {
                let text = format!("its key {key:.40?} can be read as {known:?}");
                return Err(serde::de::Error::custom(text));
            }
            map.next_value::<IgnoredAny>()?;
        }
        Ok(self)
    }
}

/// The one of `known` that a reader which ignores case takes `key` for, though it is spelled otherwise.
#[must_use]
pub fn reads_as<'a>(key: &str, known: &[&'a str]) -> Option<&'a str> {
    // Go folds these two into ASCII letters as well.
    let folds = |letter: char| match letter {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        other => other.to_ascii_lowercase(),
    };
    let same = |name: &&&str| key.chars().map(folds).eq(name.chars().map(folds));
    known.iter().find(same).copied().filter(|name| *name != key)
}

fn check(bytes: &[u8], announced: &str) -> Result<Shape, DocumentError> {
    let shape: Shape = parse(bytes)?;
    parse::<Keys>(bytes)?;
    if shape.schema_version != 2 {
        return Err(DocumentError::Shape(format!(
            "schema version {} is not supported",
            shape.schema_version
        )));
    }
    match &shape.media_type {
        Some(stated) if stated != announced => {
            Err(DocumentError::Shape(format!("it says it is {stated:?} and was announced as {announced:?}")))
        }
        _ => Ok(shape),
    }
}

/// A document as the bytes to store. Serialising these types cannot fail: maps have text keys.
#[must_use]
pub fn to_json<T: Serialize>(document: &T) -> Vec<u8> {
    serde_json::to_vec(document).unwrap_or_default()
}
