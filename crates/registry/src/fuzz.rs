//! What reads foreign bytes, for `fuzz/`.

use std::path::Path;

use crate::config::Config;
use crate::proxy::Proxies;

/// Reads a document that came with a header.
pub fn document(bytes: &[u8], announced: &str) -> Option<String> {
    let _ = crate::documents::subject(bytes, announced);
    crate::documents::media_type(bytes, Some(announced), "reg.test", "the manifest").ok()
}

/// Reads the settings in a directory of hosts.
pub fn hosts(directory: &Path, domain: &str) -> bool {
    let hosts_directories = vec![directory.to_owned()];
    let config = Config { hosts_directories, proxies: Proxies::default(), ..Config::default() };
    crate::hosts::endpoints(&config, domain).is_ok()
}
