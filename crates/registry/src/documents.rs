//! What a document is: the one reading it has.
//!
//! The media type decides what a digest means, and it is not part of what the digest covers. So what the header says and
//! what the body says must agree, and a body must not read as a manifest and as an index.

use serde::Deserialize;
use serde::de::IgnoredAny;
use wharf_content::digest_of;
use wharf_content::spec::{
    Annotations, DOCKER_INDEX, DOCKER_MANIFEST, Descriptor, DocumentError, INDEX, Index, MANIFEST,
    MAX_DOCUMENT, Manifest,
};
use wharf_model::Digest;

use crate::error::{Error, Result};
use crate::repository::Document;

/// What is asked for. Registries that look at nothing else convert nothing when they see the first.
pub(crate) const ACCEPTED: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json, */*";

const KNOWN: [&str; 4] = [INDEX, MANIFEST, DOCKER_INDEX, DOCKER_MANIFEST];
/// What servers say that do not know.
const VAGUE: [&str; 4] = ["", "application/json", "text/plain", "application/octet-stream"];
const SCHEMA_1: &str = "application/vnd.docker.distribution.manifest.v1+";

/// The media type of a header, without parameters, if it is one of a manifest or an index.
pub(crate) fn known(header: &str) -> Option<&'static str> {
    let bare = bare(header);
    KNOWN.into_iter().find(|known| bare.eq_ignore_ascii_case(known))
}

fn bare(header: &str) -> &str {
    header.split(';').next().unwrap_or_default().trim()
}

/// The parts that tell what a document is.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    schema_version: Option<u64>,
    media_type: Option<String>,
    layers: Option<IgnoredAny>,
    fs_layers: Option<IgnoredAny>,
    manifests: Option<IgnoredAny>,
}

/// The media type of a document that was announced with the header `announced`, after it was read as that type.
/// `what` names the document in errors, and `host` who sent it.
pub(crate) fn media_type(bytes: &[u8], announced: Option<&str>, host: &str, what: &str) -> Result<String> {
    let wrong = |error: DocumentError| match error {
        DocumentError::TooLarge(_) => Error::Limit { what: what.to_owned(), limit: MAX_DOCUMENT },
        other => Error::Protocol { host: host.to_owned(), what: format!("{what} is {}", reason(&other)) },
    };
    let header = bare(announced.unwrap_or_default());
    let shape: Shape = wharf_content::spec::parse(bytes).map_err(wrong)?;
    if header.starts_with(SCHEMA_1) || shape.schema_version == Some(1) || shape.fs_layers.is_some() {
        return Err(Error::NotImplemented(format!(
            "{what} is in Docker's image format of schema version 1, which is no longer supported: its author has to \
             push it again with a present tool"
        )));
    }
    let stated = shape.media_type.as_deref();
    let media_type = match known(header) {
        Some(known) => known,
        None if VAGUE.contains(&header) => match (stated, &shape.layers, &shape.manifests) {
            (Some(stated), _, _) => known(stated).ok_or_else(|| unsupported(what, stated))?,
            (None, Some(_), None) => MANIFEST,
            (None, None, Some(_)) => INDEX,
            _ => {
                return Err(Error::Protocol {
                    host: host.to_owned(),
                    what: format!("{what} is neither manifest nor index"),
                });
            }
        },
        None => return Err(unsupported(what, header)),
    };
    if [INDEX, DOCKER_INDEX].contains(&media_type) {
        Index::parse(bytes, media_type).map_err(wrong)?;
    } else {
        Manifest::parse(bytes, media_type).map_err(wrong)?;
    }
    Ok(media_type.to_owned())
}

fn unsupported(what: &str, media_type: &str) -> Error {
    Error::NotImplemented(format!("{what} has the unsupported media type {media_type:.200?}"))
}

fn reason(error: &DocumentError) -> String {
    match error {
        DocumentError::Shape(text) => format!("not usable: {text}"),
        other => other.to_string(),
    }
}

/// A document that must be an index.
pub(crate) fn index(document: &Document, host: &str) -> Result<Index> {
    Index::parse(&document.bytes, &document.descriptor.media_type).map_err(|error| Error::Protocol {
        host: host.to_owned(),
        what: format!("the list of referrers is {}", reason(&error)),
    })
}

/// The parts of a manifest that say what it refers to.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Referring {
    subject: Option<Descriptor>,
    artifact_type: Option<String>,
    config: Option<ConfigType>,
    annotations: Option<Annotations>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ConfigType {
    media_type: String,
}

/// What a manifest refers to, and how it is listed there.
pub(crate) fn subject(bytes: &[u8], media_type: &str) -> Option<(Digest, Descriptor)> {
    let referring: Referring = wharf_content::spec::parse(bytes).ok()?;
    let mut referrer = Descriptor::new(media_type, digest_of(bytes), bytes.len() as u64);
    referrer.artifact_type = referring.artifact_type.or(referring.config.map(|config| config.media_type));
    referrer.annotations = referring.annotations;
    Some((referring.subject?.digest, referrer))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const D: &str = r#"{"mediaType":"x","digest":"sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef","size":1}"#;

    fn read(body: &str, header: &str) -> Result<String> {
        media_type(body.as_bytes(), Some(header), "reg.test", "the manifest of a")
    }

    #[test]
    fn im_10_a_document_has_one_reading() {
        let manifest = format!(r#"{{"schemaVersion":2,"config":{D},"layers":[]}}"#);
        let index = format!(r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[{D}]}}"#);
        for (body, header, wanted) in [
            (&manifest, MANIFEST, Some(MANIFEST)),
            (&manifest, DOCKER_MANIFEST, Some(DOCKER_MANIFEST)),
            (&manifest, "application/json; charset=utf-8", Some(MANIFEST)),
            (&manifest, "", Some(MANIFEST)),
            (&manifest, INDEX, None),
            (&manifest, "image/png", None),
            (&index, INDEX, Some(INDEX)),
            (&index, "text/plain", Some(INDEX)),
            (&index, DOCKER_INDEX, None),
            (&index, MANIFEST, None),
            (&format!(r#"{{"schemaVersion":2,"config":{D},"layers":[],"manifests":[]}}"#), MANIFEST, None),
            (&format!(r#"{{"schemaVersion":2,"config":{D},"layers":[],"manifests":[]}}"#), INDEX, None),
            (&format!(r#"{{"schemaVersion":2,"config":{D},"layers":[],"manifests":[]}}"#), "", None),
            (&format!(r#"{{"schemaVersion":2,"config":{D},"layers":[],"layers":[]}}"#), MANIFEST, None),
            (
                &format!(
                    r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","mediaType":"{INDEX}","manifests":[]}}"#
                ),
                INDEX,
                None,
            ),
            (&"[".repeat(100_000), MANIFEST, None),
        ] {
            assert_eq!(read(body, header).ok().as_deref(), wanted, "{header}: {body:.200}");
        }
        let old = read(
            r#"{"schemaVersion":1,"fsLayers":[]}"#,
            "application/vnd.docker.distribution.manifest.v1+prettyjws",
        );
        assert!(
            matches!(&old, Err(Error::NotImplemented(text)) if text.contains("schema version 1")),
            "{old:?}"
        );
    }

    #[test]
    fn a_subject_is_found_with_how_to_list_it() {
        let body = format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"t"}},"subject":{D},"annotations":{{"a":"b"}}}}"#
        );
        let (subject, referrer) = subject(body.as_bytes(), MANIFEST).unwrap();
        assert!(subject.hex().starts_with("0123"));
        assert_eq!(referrer.artifact_type.as_deref(), Some("t"));
        assert_eq!(referrer.annotation("a"), Some("b"));
        assert!(super::subject(b"{}", MANIFEST).is_none());
    }

    proptest! {
        #[test]
        fn any_body_is_read_without_panic(body in "\\PC{0,100}", header in "\\PC{0,40}") {
            let _ = read(&body, &header);
            let _ = subject(body.as_bytes(), &header);
        }
    }
}
