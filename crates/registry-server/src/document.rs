//! Manifests as they are pushed: what one says, and whether it says it unambiguously (IM-09, IM-10).

use std::collections::BTreeMap;

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use wharf_content::spec::{self, Annotations, DOCKER_INDEX, DOCKER_MANIFEST, INDEX, MANIFEST};
use wharf_model::Digest;

use crate::{Error, error::Result};

/// A manifest names at most so many others. The largest images have some 130 layers.
const MAX_REFERENCES: usize = 4096;
/// Values that this registry skips may be the ones another reader falls over.
const MAX_DEPTH: usize = 64;

/// What the registry needs to know of a manifest.
#[derive(Debug)]
pub(crate) struct Document {
    /// Config and layers, or children.
    pub(crate) references: Vec<Reference>,
    pub(crate) subject: Option<Digest>,
    artifact_type: Option<String>,
    annotations: Option<Annotations>,
}

/// Something a manifest needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reference {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    pub(crate) what: What,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    Blob,
    /// A layer that may be fetched from elsewhere and need not be here.
    ForeignBlob,
    Manifest,
}

/// An entry of a referrers list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Referrer {
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) artifact_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) annotations: Option<Annotations>,
}

/// Duplicate keys are errors for serde; keys that differ in case only would be duplicates for readers written in Go.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    schema_version: u32,
    media_type: Option<String>,
    artifact_type: Option<String>,
    config: Option<RawDescriptor>,
    layers: Option<Vec<RawDescriptor>>,
    manifests: Option<Vec<RawDescriptor>>,
    subject: Option<RawDescriptor>,
    annotations: Option<Annotations>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDescriptor {
    media_type: String,
    digest: Digest,
    size: u64,
    #[serde(default)]
    urls: Option<Vec<IgnoredAny>>,
}

const KEYS: &[&str] = &[
    "schemaVersion",
    "mediaType",
    "artifactType",
    "config",
    "layers",
    "manifests",
    "subject",
    "annotations",
    "fsLayers",
    "blobs",
];

impl Document {
    /// Reads a manifest that was announced as `announced`; the second result is the media type it has.
    pub(crate) fn parse(bytes: &[u8], announced: Option<&str>) -> Result<(Self, String)> {
        if is_deep(bytes) {
            return Err(refuse(format!("it is nested deeper than {MAX_DEPTH} levels")));
        }
        let invalid =
            |error: serde_json::Error| Error::ManifestInvalid(format!("malformed manifest: {error}"));
        let raw: Raw = serde_json::from_slice(bytes).map_err(invalid)?;
        let keys: BTreeMap<String, IgnoredAny> = serde_json::from_slice(bytes).map_err(invalid)?;
        check_keys(keys.keys())?;
        if raw.schema_version != 2 {
            return Err(refuse(format!("schema version {} is not supported", raw.schema_version)));
        }
        let media_type = match (announced, raw.media_type.as_deref()) {
            (Some(announced), Some(stated)) if announced != stated => {
                return Err(refuse(format!("it says it is {stated:?} and was announced as {announced:?}")));
            }
            (Some(media_type), _) | (None, Some(media_type)) => media_type.to_owned(),
            (None, None) => return Err(refuse("neither Content-Type nor mediaType says what it is")),
        };
        let subject = raw.subject.map(|subject| subject.digest);
        let (references, config_type) = match media_type.as_str() {
            MANIFEST | DOCKER_MANIFEST => {
                if raw.manifests.is_some() {
                    return Err(refuse("a manifest has no \"manifests\""));
                }
                let (Some(config), Some(layers)) = (raw.config, raw.layers) else {
                    return Err(refuse("a manifest has \"config\" and \"layers\""));
                };
                let blobs = layers.iter().map(RawDescriptor::layer);
                (std::iter::once(config.blob()).chain(blobs).collect(), Some(config.media_type))
            }
            INDEX | DOCKER_INDEX => {
                if raw.layers.is_some() || raw.config.is_some() {
                    return Err(refuse("an index has neither \"layers\" nor \"config\""));
                }
                let Some(children) = raw.manifests else {
                    return Err(refuse("an index has \"manifests\""));
                };
                (children.iter().map(RawDescriptor::child).collect::<Vec<_>>(), None)
            }
            other => return Err(refuse(format!("manifests of the media type {other:?} are not supported"))),
        };
        if references.len() > MAX_REFERENCES {
            let count = references.len();
            return Err(refuse(format!("it names {count} others, more than the {MAX_REFERENCES} allowed")));
        }
        let artifact_type = raw.artifact_type.filter(|name| !name.is_empty()).or(config_type);
        Ok((Self { references, subject, artifact_type, annotations: raw.annotations }, media_type))
    }

    /// How a list of its subject's referrers shows this manifest.
    pub(crate) fn referrer(&self, digest: Digest, size: u64, media_type: &str) -> Referrer {
        Referrer {
            media_type: media_type.to_owned(),
            digest,
            size,
            artifact_type: self.artifact_type.clone(),
            annotations: self.annotations.clone(),
        }
    }
}

impl RawDescriptor {
    fn blob(&self) -> Reference {
        Reference { digest: self.digest, size: self.size, what: What::Blob }
    }

    fn layer(&self) -> Reference {
        let distributed =
            !self.media_type.contains("foreign") && !self.media_type.contains("nondistributable");
        let elsewhere = self.urls.as_ref().is_some_and(|urls| !urls.is_empty());
        let what = if distributed || !elsewhere { What::Blob } else { What::ForeignBlob };
        Reference { what, ..self.blob() }
    }

    fn child(&self) -> Reference {
        Reference { what: What::Manifest, ..self.blob() }
    }
}

fn check_keys<'a>(keys: impl Iterator<Item = &'a String>) -> Result<()> {
    for key in keys {
        if let Some(known) = spec::reads_as(key, KEYS) {
            return Err(refuse(format!("{key:?} would be read as {known:?} by some")));
        }
    }
    Ok(())
}

/// Whether brackets outside of strings nest too deep.
fn is_deep(json: &[u8]) -> bool {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_string,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => depth += 1,
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_DEPTH {
            return true;
        }
    }
    false
}

fn refuse(reason: impl Into<String>) -> Error {
    Error::ManifestInvalid(reason.into())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn descriptor(media_type: &str) -> serde_json::Value {
        json!({"mediaType": media_type, "digest": wharf_content::digest_of(media_type.as_bytes()), "size": 7})
    }

    fn image() -> serde_json::Value {
        json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor("a/config"), "layers": [descriptor("a/layer")]})
    }

    fn reason(document: &str, announced: Option<&str>) -> String {
        Document::parse(document.as_bytes(), announced).unwrap_err().to_string()
    }

    #[test]
    fn a_manifest_says_what_it_needs() {
        let (document, media_type) = Document::parse(image().to_string().as_bytes(), Some(MANIFEST)).unwrap();
        assert_eq!(media_type, MANIFEST);
        assert_eq!(document.references.len(), 2);
        assert_eq!(document.artifact_type.as_deref(), Some("a/config"));
        let mut typed = image();
        typed["artifactType"] = json!("the/artifact");
        let (document, _) = Document::parse(typed.to_string().as_bytes(), None).unwrap();
        assert_eq!(document.artifact_type.as_deref(), Some("the/artifact"));
    }

    #[test]
    fn only_a_foreign_layer_with_an_address_may_be_elsewhere() {
        for (media_type, urls, wanted) in [
            (
                "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
                json!(["https://x/y"]),
                What::ForeignBlob,
            ),
            ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", json!([]), What::Blob),
            ("application/vnd.oci.image.layer.v1.tar", json!(["https://x/y"]), What::Blob),
        ] {
            let mut document = image();
            document["layers"][0] = descriptor(media_type);
            document["layers"][0]["urls"] = urls;
            let (document, _) = Document::parse(document.to_string().as_bytes(), None).unwrap();
            assert_eq!(document.references[1].what, wanted);
        }
    }

    #[test]
    fn im_10_a_document_with_two_readings_is_refused() {
        let index = json!({"schemaVersion": 2, "manifests": []}).to_string();
        let both =
            json!({"schemaVersion": 2, "manifests": [], "config": descriptor("c"), "layers": []}).to_string();
        let image = image().to_string();
        assert!(reason(&image, Some(INDEX)).contains("was announced as"));
        assert!(reason(&index, Some(MANIFEST)).contains("\"manifests\""));
        assert!(reason(&both, Some(MANIFEST)).contains("\"manifests\""));
        assert!(reason(&both, Some(INDEX)).contains("neither \"layers\" nor"));
        assert!(reason(&index, None).contains("neither Content-Type"));
        assert!(
            reason(&image.replacen('{', "{\"layers\":[],", 1), Some(MANIFEST)).contains("duplicate field")
        );
        assert!(reason(&image.replacen('{', "{\"Layers\":[],", 1), Some(MANIFEST)).contains("read as"));
        assert!(reason(&image.replacen('{', "{\"MANIFESTS\":[],", 1), Some(MANIFEST)).contains("read as"));
        assert!(reason(&image.replacen('{', "{\"layer\u{17f}\":[],", 1), Some(MANIFEST)).contains("read as"));
    }

    #[test]
    fn im_09_a_document_of_too_many_or_too_deep_parts_is_refused() {
        let many: Vec<_> = std::iter::repeat_n(descriptor("x"), MAX_REFERENCES + 1).collect();
        let many = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": many}).to_string();
        assert!(reason(&many, None).contains("more than"));
        let deep = format!("{{\"schemaVersion\":2,\"x\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(reason(&deep, Some(INDEX)).contains("nested deeper"));
        let text = format!("{{\"schemaVersion\":2,\"manifests\":[],\"x\":\"\\\"{}\"}}", "[".repeat(1000));
        assert!(Document::parse(text.as_bytes(), Some(INDEX)).is_ok(), "brackets in a string nest nothing");
        for digest in ["sha256:../../x", "SHA256:00", "sha512:00", ""] {
            let bad =
                json!({"schemaVersion": 2, "manifests": [{"mediaType": "x", "digest": digest, "size": 1}]});
            assert!(reason(&bad.to_string(), Some(INDEX)).contains("malformed manifest"), "{digest}");
        }
    }
}
