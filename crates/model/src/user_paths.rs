//! Names that people choose and that end up in paths or messages.

/// True for a container or volume name: a letter or digit, then letters, digits, `_`, `.` and `-`.
#[must_use]
pub fn is_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_alphanumeric())
        && text.len() >= 2
        && text.len() <= 255
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
}

/// Resolves `.` and `..` of an absolute path without looking at any file system; `None` when it is not absolute.
#[must_use]
pub fn clean_absolute(text: &str) -> Option<String> {
    if !text.starts_with('/') {
        return None;
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            other => parts.push(other),
        }
    }
    Some(format!("/{}", parts.join("/")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["ab", "a1", "web-1", "A_b.c"] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", "a", "-a", ".a", "..", "a/b", "a b", "a\n", "é1", &"a".repeat(256)] {
            assert!(!is_name(bad), "{bad:?}");
        }
    }

    #[test]
    fn absolute_paths_are_cleaned() {
        assert_eq!(clean_absolute("/a/./b/../c//d").as_deref(), Some("/a/c/d"));
        assert_eq!(clean_absolute("/../..").as_deref(), Some("/"));
        assert_eq!(clean_absolute("a"), None);
    }
}
