//! What an entry's name means in a layer.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
const AUFS: &[u8] = b".wh..wh.";

/// The meaning of a name. Paths are relative, without `.` and `..`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Name {
    /// The root directory itself.
    Root,
    /// An ordinary entry.
    Plain(PathBuf),
    /// This entry of a lower layer is gone.
    Whiteout(PathBuf),
    /// Lower layers' entries of this directory are gone.
    Opaque(PathBuf),
    /// Bookkeeping of AUFS that was never meant to be unpacked.
    Aufs,
}

impl Name {
    pub(crate) fn parse(written: &[u8]) -> Result<Self, &'static str> {
        let path = clean(written)?;
        let Some(name) = path.file_name().map(OsStrExt::as_bytes) else { return Ok(Self::Root) };
        let first = path.components().next().map_or(&[][..], |first| first.as_os_str().as_bytes());
        if first.starts_with(AUFS) && first != OPAQUE {
            return Ok(Self::Aufs);
        }
        let parent = path.parent().unwrap_or(Path::new(""));
        if parent.components().any(|part| part.as_os_str().as_bytes().starts_with(WHITEOUT)) {
            return Err("an entry beneath a whiteout");
        }
        let Some(hidden) = name.strip_prefix(WHITEOUT) else { return Ok(Self::Plain(path)) };
        if name == OPAQUE {
            return Ok(Self::Opaque(parent.to_owned()));
        }
        // `.wh...` would mean the directory itself or the one above it, `.wh..wh.x` a file no layer can have.
        if hidden.is_empty() || hidden == b"." || hidden == b".." || hidden.starts_with(WHITEOUT) {
            return Err("a whiteout of no valid name");
        }
        Ok(Self::Whiteout(parent.join(OsStr::from_bytes(hidden))))
    }
}

/// A path relative to the root, without empty and `.` components. `..` is refused wherever it stands: tools disagree
/// on what it means behind a link.
pub(crate) fn clean(written: &[u8]) -> Result<PathBuf, &'static str> {
    if written.is_empty() {
        return Err("an empty name");
    }
    let mut path = PathBuf::new();
    for part in written.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return Err("a name with \"..\""),
            part => path.push(OsStr::from_bytes(part)),
        }
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn im_06_a_whiteout_hides_exactly_one_name() {
        let plain = |path: &str| Ok(Name::Plain(path.into()));
        for (written, meaning) in [
            ("./", Ok(Name::Root)),
            ("/", Ok(Name::Root)),
            (".", Ok(Name::Root)),
            ("", Err("an empty name")),
            ("/a//b/./c/", plain("a/b/c")),
            ("a/../b", Err("a name with \"..\"")),
            ("..", Err("a name with \"..\"")),
            ("a/...", plain("a/...")),
            ("a/.wh.b", Ok(Name::Whiteout("a/b".into()))),
            (".wh.b", Ok(Name::Whiteout("b".into()))),
            ("a/.wh..b", Ok(Name::Whiteout("a/.b".into()))),
            ("a/.wh..wh..opq", Ok(Name::Opaque("a".into()))),
            (".wh..wh..opq", Ok(Name::Opaque("".into()))),
            (".wh..wh.plnk/1.2", Ok(Name::Aufs)),
            (".wh..wh.aufs", Ok(Name::Aufs)),
            ("a/.wh.", Err("a whiteout of no valid name")),
            ("a/.wh..", Err("a whiteout of no valid name")),
            ("a/.wh...", Err("a whiteout of no valid name")),
            ("a/.wh..wh.b", Err("a whiteout of no valid name")),
            (".wh./x", Err("an entry beneath a whiteout")),
            ("a/.wh.b/c", Err("an entry beneath a whiteout")),
            ("a/.wh.b/.wh.c", Err("an entry beneath a whiteout")),
        ] {
            assert_eq!(Name::parse(written.as_bytes()), meaning, "{written}");
        }
    }
}
