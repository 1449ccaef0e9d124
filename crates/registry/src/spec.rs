//! What client and server share of the distribution specification: names, error bodies, and the headers that carry
//! structure. Pure; every parser takes bytes of a stranger, looks at a bounded number of them and never panics.

mod challenge;
mod errors;
mod link;
mod names;
mod ranges;

pub use challenge::{Challenge, MAX_CHALLENGE};
pub use errors::{Entry, ErrorBody, ErrorCode, MAX_ERROR_BODY};
pub use link::{next_page, print_next};
pub use names::{NameError, RepositoryName, Tag, referrers_tag};
pub use ranges::{ByteRange, ContentRange, RangeError, Requested};

/// The header with the digest of the document or blob.
pub const CONTENT_DIGEST: &str = "docker-content-digest";
/// The header with the id of an upload.
pub const UPLOAD_ID: &str = "docker-upload-uuid";
/// The header by which a registry says that it keeps referrers itself.
pub const SUBJECT: &str = "oci-subject";
/// The header that names the filters a referrers list went through.
pub const FILTERS_APPLIED: &str = "oci-filters-applied";
/// The header with the smallest chunk a registry takes.
pub const CHUNK_MIN_LENGTH: &str = "oci-chunk-min-length";
