//! A list of manifests, and what is known of each of them.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use wharf_content::spec::{DOCKER_INDEX, INDEX, MANIFEST};
use wharf_model::{Digest, Reference};

use crate::{
    failure::{Failure, Result},
    syntax::platform::Platform,
    template::{Value, to_json},
};

/// A manifest that is in a list, or may become part of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// Where it was found.
    pub(super) reference: Reference,
    pub(super) descriptor: Descriptor,
    /// As the registry has it.
    pub(super) bytes: Vec<u8>,
}

/// What points to a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    pub(super) media_type: String,
    pub(super) digest: Digest,
    pub(super) size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) platform: Option<Platform>,
}

/// The record of an entry, in this order.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Record<'a> {
    r#ref: String,
    descriptor: &'a Descriptor,
    #[serde(serialize_with = "as_base64")]
    raw: &'a [u8],
}

fn as_base64<S: serde::Serializer>(bytes: &[u8], serializer: S) -> std::result::Result<S::Ok, S::Error> {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    serializer.serialize_str(&STANDARD.encode(bytes))
}

impl Entry {
    /// The manifest as text.
    pub(super) fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.bytes)
    }

    /// Everything about it as one JSON document, the manifest both as bytes and as members.
    pub(super) fn to_json(&self) -> String {
        let record =
            Record { r#ref: self.reference.to_string(), descriptor: &self.descriptor, raw: &self.bytes };
        // Records of strings and numbers always have a JSON form.
        let mut text = serde_json::to_string(&record).unwrap_or_default();
        let member = if self.descriptor.media_type == MANIFEST { "OCIManifest" } else { "SchemaV2Manifest" };
        if let Ok(manifest) = Value::parse_json(&self.bytes) {
            text.truncate(text.len() - 1);
            text.push_str(&format!(",\"{member}\":{}}}", to_json(&manifest)));
        }
        text
    }
}

/// A list as it is in a registry.
pub(super) struct List {
    pub(super) media_type: &'static str,
    pub(super) bytes: Vec<u8>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    schema_version: u8,
    media_type: &'static str,
    manifests: Vec<Member>,
}

/// The members of a descriptor in the order that lists have them, which is part of the list's digest.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Member {
    media_type: String,
    size: u64,
    digest: Digest,
    platform: Platform,
}

/// The list of `entries`, to be known as `name`.
pub(super) fn build(name: &Reference, entries: &[Entry]) -> Result<List> {
    if let Some(stranger) = entries.iter().find(|entry| entry.reference.domain() != name.domain()) {
        return Err(Failure::message(format!(
            "cannot use source images from a different registry than the target image: {} != {}",
            stranger.reference.domain(),
            name.domain()
        )));
    }
    // The first decides of which of the two kinds the list is.
    let is_oci = entries.first().is_some_and(|entry| entry.descriptor.media_type == MANIFEST);
    let media_type = if is_oci { INDEX } else { DOCKER_INDEX };
    let member = |Descriptor { media_type, digest, size, platform }: &Descriptor| Member {
        media_type: media_type.clone(),
        size: *size,
        digest: *digest,
        platform: platform.clone().unwrap_or_default(),
    };
    let manifests = entries.iter().map(|entry| member(&entry.descriptor)).collect();
    let document = Document { schema_version: 2, media_type, manifests };
    let mut bytes = Vec::new();
    let indent = serde_json::ser::PrettyFormatter::with_indent(b"   ");
    document
        .serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, indent))
        .map_err(|error| Failure::message(error.to_string()))?;
    Ok(List { media_type, bytes })
}
