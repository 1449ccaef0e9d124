//! What the paths of a copy mean: Docker's rules, which are those of `cp -a` with the additions that a slash or a dot at
//! the end says "directory" and "what is in it".

use std::path::{Component, Path, PathBuf};

use wharf_archive::extract::Names;

use crate::failure::{Failure, Result};

/// One end of a copy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct End {
    pub(super) path: String,
    pub(super) exists: bool,
    pub(super) is_directory: bool,
    /// What the copy is called, where that is not the last name of the path.
    pub(super) called: Option<String>,
}

/// Where to extract, and under what names.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) directory: String,
    /// What the top of the stream is to be called; as it is if absent.
    pub(super) name: Option<String>,
}

/// `container:path`, or a local path.
pub(super) fn split_argument(argument: &str) -> (Option<&str>, &str) {
    if argument.starts_with('/') {
        return (None, argument);
    }
    match argument.split_once(':') {
        // `./a:b` is a local file.
        Some((container, path)) if !container.is_empty() && !container.starts_with('.') => {
            (Some(container), path)
        }
        _ => (None, argument),
    }
}

/// Decides by what is at both ends.
pub(super) fn plan(source: &End, destination: &End) -> Result<Plan> {
    let (directory, base) = split(&destination.path);
    if destination.exists && destination.is_directory {
        return Ok(Plan { directory: destination.path.clone(), name: source.called.clone() });
    }
    if destination.exists && source.is_directory {
        return Err(Failure::message("cannot copy directory"));
    }
    if !destination.exists && !source.is_directory && means_directory(&destination.path) {
        return Err(Failure::message("no such directory"));
    }
    Ok(Plan { directory, name: Some(base) })
}

/// The names for extracting a stream whose top is `source`.
pub(super) fn names(source: &str, name: Option<&str>) -> Names {
    let (_, base) = split(source);
    match (base.as_str(), name) {
        // A stream of what is in a directory, and of everything.
        ("." | "/", None) => Names::Keep,
        ("." | "/", Some(name)) => Names::Beneath(name.into()),
        (base, name) => Names::Rename(base.into(), name.unwrap_or(base).into()),
    }
}

/// Parent and last name of a path; `.` at the end is a name.
pub(super) fn split(path: &str) -> (String, String) {
    let clean = clean(path);
    if base(path) == "." {
        return (clean, ".".to_owned());
    }
    let parent = match clean.rsplit_once('/') {
        Some(("", _)) => "/",
        Some((parent, _)) => parent,
        None => ".",
    };
    (parent.to_owned(), base(&clean).to_owned())
}

/// A path without doubled slashes, `.` and, where that is certain by the text, `..`.
pub(super) fn clean(path: &str) -> String {
    let mut clean = PathBuf::new();
    for component in Path::new(path).components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir if clean.file_name().is_some_and(|name| name != "..") => drop(clean.pop()),
            Component::ParentDir if clean.has_root() => {}
            other => clean.push(other),
        }
    }
    let text = clean.to_string_lossy().into_owned();
    if text.is_empty() { ".".to_owned() } else { text }
}

/// The last name; `/` of the root, `.` of nothing.
pub(super) fn base(path: &str) -> &str {
    let trimmed = path.trim_end_matches('/');
    match trimmed.rsplit_once('/') {
        _ if path.is_empty() => ".",
        _ if trimmed.is_empty() => "/",
        Some((_, base)) => base,
        None => trimmed,
    }
}

/// Whether the end of a path says that it is a directory.
pub(super) fn means_directory(path: &str) -> bool {
    path.ends_with('/') || base(path) == "."
}

/// Gives a path the end that another had before it was cleaned or resolved.
pub(super) fn with_end_of(mut path: String, original: &str) -> String {
    if base(original) == "." && base(&path) != "." {
        if !path.ends_with('/') {
            path.push('/');
        }
        path.push('.');
    }
    if original.ends_with('/') && !path.ends_with('/') {
        path.push('/');
    }
    path
}

/// A path that stands for `original` after its links were followed: what it is to be called, if that is not its own
/// last name.
pub(super) fn followed(original: &str, target: String) -> End {
    let path = with_end_of(target, original);
    let called = (base(original) != base(&path)).then(|| base(original).to_owned());
    End { path, called, ..End::default() }
}

/// What a link beside `path` points at.
pub(super) fn link_target(path: &str, target: &str) -> String {
    if target.starts_with('/') {
        return target.to_owned();
    }
    let (parent, _) = split(path);
    clean(&format!("{parent}/{target}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(path: &str, exists: bool, is_directory: bool) -> End {
        End { path: path.to_owned(), exists, is_directory, called: None }
    }

    #[test]
    fn arguments_name_a_container_or_a_local_path() {
        assert_eq!(split_argument("c:/x"), (Some("c"), "/x"));
        assert_eq!(split_argument("c:"), (Some("c"), ""));
        assert_eq!(split_argument("/a:b"), (None, "/a:b"));
        assert_eq!(split_argument("./a:b"), (None, "./a:b"));
        assert_eq!(split_argument("a"), (None, "a"));
        assert_eq!(split_argument("-"), (None, "-"));
    }

    #[test]
    fn paths_are_split_as_go_does() {
        for (path, parent, name) in [
            ("/a/b", "/a", "b"),
            ("/a/b/", "/a", "b"),
            ("/a/b/.", "/a/b", "."),
            ("/", "/", "/"),
            ("/a", "/", "a"),
            ("a", ".", "a"),
            (".", ".", "."),
            ("/a/../b", "/", "b"),
            ("../x", "..", "x"),
        ] {
            assert_eq!(split(path), (parent.to_owned(), name.to_owned()), "{path}");
        }
    }

    #[test]
    fn the_ends_decide_where_the_copy_goes() {
        let to = |source: &End, destination: &End| {
            let plan = plan(source, destination).map_err(|error| error.to_string())?;
            Ok::<_, String>((plan.directory, plan.name))
        };
        let (file, directory) = (end("/s/f", true, false), end("/s/d", true, true));
        let existing = |is_directory| end("/t/x", true, is_directory);
        let missing = |path: &str| end(path, false, false);
        let named = |directory: &str, name: &str| Ok((directory.to_owned(), Some(name.to_owned())));
        assert_eq!(to(&file, &existing(true)), Ok(("/t/x".to_owned(), None)));
        assert_eq!(to(&directory, &existing(true)), Ok(("/t/x".to_owned(), None)));
        assert_eq!(to(&file, &existing(false)), named("/t", "x"));
        assert_eq!(to(&directory, &existing(false)), Err("cannot copy directory".to_owned()));
        assert_eq!(to(&file, &missing("/t/new")), named("/t", "new"));
        assert_eq!(to(&directory, &missing("/t/new")), named("/t", "new"));
        assert_eq!(to(&directory, &missing("/t/new/")), named("/t", "new"));
        assert_eq!(to(&file, &missing("/t/new/")), Err("no such directory".to_owned()));
    }

    #[test]
    fn only_what_was_asked_for_is_extracted() {
        assert_eq!(names("/d", None), Names::Rename(b"d".into(), b"d".into()));
        assert_eq!(names("/d", Some("new")), Names::Rename(b"d".into(), b"new".into()));
        assert_eq!(names("/d/.", None), Names::Keep);
        assert_eq!(names("/d/.", Some("new")), Names::Beneath(b"new".into()));
        assert_eq!(names("/", Some("new")), Names::Beneath(b"new".into()));
    }

    #[test]
    fn followed_links_keep_the_name_that_was_asked_for() {
        let end = followed("/a/link", "/b/file".to_owned());
        assert_eq!((end.path.as_str(), end.called.as_deref()), ("/b/file", Some("link")));
        let end = followed("/a/link/.", "/b/dir".to_owned());
        assert_eq!((end.path.as_str(), end.called), ("/b/dir/.", None));
        assert_eq!(link_target("/a/link", "../c"), "/c");
    }
}
