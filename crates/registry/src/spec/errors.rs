//! Error codes and the body that carries them.

use std::fmt;

use serde::{Deserialize, Serialize};

/// An error body has at most this many bytes; what is longer is no error body.
pub const MAX_ERROR_BODY: usize = 64 << 10;
/// So many errors of one body are kept.
const MAX_ENTRIES: usize = 16;
/// So many bytes of one message are kept.
const MAX_MESSAGE: usize = 1024;

/// The codes of the specification, and `UNKNOWN` for what is none of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[expect(missing_docs, reason = "the specification says what each one means, in the words of `message`")]
pub enum ErrorCode {
    BlobUnknown,
    BlobUploadInvalid,
    BlobUploadUnknown,
    DigestInvalid,
    ManifestBlobUnknown,
    ManifestInvalid,
    ManifestUnknown,
    NameInvalid,
    NameUnknown,
    SizeInvalid,
    Unauthorized,
    Denied,
    Unsupported,
    #[serde(rename = "TOOMANYREQUESTS")]
    TooManyRequests,
    #[serde(other)]
    Unknown,
}

impl ErrorCode {
    /// As it stands in the body: `BLOB_UNKNOWN`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BlobUnknown => "BLOB_UNKNOWN",
            Self::BlobUploadInvalid => "BLOB_UPLOAD_INVALID",
            Self::BlobUploadUnknown => "BLOB_UPLOAD_UNKNOWN",
            Self::DigestInvalid => "DIGEST_INVALID",
            Self::ManifestBlobUnknown => "MANIFEST_BLOB_UNKNOWN",
            Self::ManifestInvalid => "MANIFEST_INVALID",
            Self::ManifestUnknown => "MANIFEST_UNKNOWN",
            Self::NameInvalid => "NAME_INVALID",
            Self::NameUnknown => "NAME_UNKNOWN",
            Self::SizeInvalid => "SIZE_INVALID",
            Self::Unauthorized => "UNAUTHORIZED",
            Self::Denied => "DENIED",
            Self::Unsupported => "UNSUPPORTED",
            Self::TooManyRequests => "TOOMANYREQUESTS",
            Self::Unknown => "UNKNOWN",
        }
    }

    /// The short text that goes with the code when there is nothing more exact to say.
    #[must_use]
    pub fn message(self) -> &'static str {
        match self {
            Self::BlobUnknown => "blob unknown to registry",
            Self::BlobUploadInvalid => "blob upload invalid",
            Self::BlobUploadUnknown => "blob upload unknown to registry",
            Self::DigestInvalid => "provided digest did not match uploaded content",
            Self::ManifestBlobUnknown => "blob unknown to registry",
            Self::ManifestInvalid => "manifest invalid",
            Self::ManifestUnknown => "manifest unknown",
            Self::NameInvalid => "invalid repository name",
            Self::NameUnknown => "repository name not known to registry",
            Self::SizeInvalid => "provided length did not match content length",
            Self::Unauthorized => "authentication required",
            Self::Denied => "requested access to the resource is denied",
            Self::Unsupported => "The operation is unsupported.",
            Self::TooManyRequests => "too many requests",
            Self::Unknown => "unknown error",
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One error of a body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Which error.
    pub code: ErrorCode,
    /// For people.
    #[serde(default, deserialize_with = "text_or_nothing")]
    pub message: String,
    /// Whatever the registry adds; never read here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<serde_json::Value>,
}

/// `manifest unknown: manifest unknown`: the code in words and the message, as Docker shows them.
impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let code = self.code.as_str().to_ascii_lowercase().replace('_', " ");
        let message = if self.message.is_empty() { self.code.message() } else { &self.message };
        write!(f, "{code}: {message}")
    }
}

/// The body of every answer that is an error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// Never empty in a body of ours.
    pub errors: Vec<Entry>,
}

impl ErrorBody {
    /// A body with one error; an empty `message` becomes the code's own.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        let mut message = message.into();
        if message.is_empty() {
            message.push_str(code.message());
        }
        Self { errors: vec![Entry { code, message, detail: None }] }
    }

    /// Adds the detail that the specification leaves open to the (last) error.
    #[must_use]
    pub fn with_detail(mut self, detail: serde_json::Value) -> Self {
        if let Some(last) = self.errors.last_mut() {
            last.detail = Some(detail);
        }
        self
    }

    /// The bytes to send.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads a foreign body. What is no error body gives `None`; messages lose their control characters and their
    /// length, because they end in terminals and logs.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.len() > MAX_ERROR_BODY {
            return None;
        }
        let mut body: Self = serde_json::from_slice(bytes).ok()?;
        body.errors.truncate(MAX_ENTRIES);
        for entry in &mut body.errors {
            entry.message = printable(&entry.message);
            entry.detail = None;
        }
        (!body.errors.is_empty()).then_some(body)
    }

    /// Whether one of the errors has this code.
    #[must_use]
    pub fn has(&self, code: ErrorCode) -> bool {
        self.errors.iter().any(|entry| entry.code == code)
    }
}

impl fmt::Display for ErrorBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.errors.as_slice() {
            [] => f.write_str("<nil>"),
            [only] => only.fmt(f),
            many => {
                f.write_str("errors:\n")?;
                many.iter().try_for_each(|entry| writeln!(f, "{entry}"))
            }
        }
    }
}

/// One line of text without control characters, cut to a length.
fn printable(text: &str) -> String {
    let mut kept = String::new();
    for char in text.chars() {
        let char = if char.is_control() { ' ' } else { char };
        if kept.len() + char.len_utf8() > MAX_MESSAGE {
            break;
        }
        kept.push(char);
    }
    kept
}

/// Some registries send `null`, a number or an object where the text belongs; the code still counts.
fn text_or_nothing<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(match serde_json::Value::deserialize(deserializer)? {
        serde_json::Value::String(text) => text,
        _ => String::new(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bodies_read_back_as_written_and_print_as_dockers() {
        let body = ErrorBody::new(ErrorCode::ManifestUnknown, "");
        assert_eq!(
            body.to_json(),
            br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#
        );
        assert_eq!(ErrorBody::parse(&body.to_json()), Some(body.clone()));
        assert_eq!(body.to_string(), "manifest unknown: manifest unknown");

        let both = br#"{"errors":[{"code":"DENIED","message":"no"},{"code":"UNAUTHORIZED","detail":[1]}]}"#;
        let both = ErrorBody::parse(both).unwrap();
        assert_eq!(both.to_string(), "errors:\ndenied: no\nunauthorized: authentication required\n");
        assert!(both.has(ErrorCode::Denied) && !both.has(ErrorCode::NameUnknown));
    }

    #[test]
    fn every_code_survives_the_wire() {
        for code in [
            ErrorCode::BlobUnknown,
            ErrorCode::BlobUploadInvalid,
            ErrorCode::BlobUploadUnknown,
            ErrorCode::DigestInvalid,
            ErrorCode::ManifestBlobUnknown,
            ErrorCode::ManifestInvalid,
            ErrorCode::ManifestUnknown,
            ErrorCode::NameInvalid,
            ErrorCode::NameUnknown,
            ErrorCode::SizeInvalid,
            ErrorCode::Unauthorized,
            ErrorCode::Denied,
            ErrorCode::Unsupported,
            ErrorCode::TooManyRequests,
        ] {
            let json = serde_json::to_string(&code).unwrap();
            assert_eq!(json, format!("\"{code}\""));
            assert_eq!(serde_json::from_str::<ErrorCode>(&json).unwrap(), code);
        }
    }

    #[test]
    fn a_hostile_message_cannot_paint_the_terminal() {
        let body = format!(r#"{{"errors":[{{"code":"X","message":"\u001b[2J{}"}}]}}"#, "é".repeat(4000));
        let body = ErrorBody::parse(body.as_bytes()).unwrap();
        assert_eq!(body.errors[0].code, ErrorCode::Unknown);
        assert!(body.errors[0].message.len() <= MAX_MESSAGE);
        assert!(!body.errors[0].message.contains('\u{1b}'));
        assert_eq!(ErrorBody::parse(&vec![b' '; MAX_ERROR_BODY + 1]), None);
        assert_eq!(ErrorBody::parse(br#"{"errors":[]}"#), None);
        assert_eq!(
            ErrorBody::parse(br#"{"errors":[{"code":"DENIED","message":null}]}"#).unwrap().errors[0].message,
            ""
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = ErrorBody::parse(&bytes);
        }
    }
}
