//! What reads foreign bytes, for `fuzz/`.

use std::path::Path;

/// Reads rules, and asks them.
pub fn rules(text: &str, user: &str, repository: &str) -> bool {
    crate::auth::fuzz_rules(Path::new("rules.toml"), text, user, repository)
}

/// Looks at a token.
pub fn token(token: &str) -> bool {
    crate::auth::fuzz_token(token)
}

/// Reads a manifest that is pushed; its media type.
pub fn document(bytes: &[u8], announced: Option<&str>) -> Option<String> {
    crate::document::Document::parse(bytes, announced).ok().map(|(_, media_type)| media_type)
}
