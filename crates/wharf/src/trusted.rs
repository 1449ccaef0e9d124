//! From where this program runs others: only from directories that nobody but their owner can write to, who is root or
//! the user. Whoever can put a file there decides what we run, with the user's credentials.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

/// Why programs of a directory are not run, if they are not; an error when there is no such directory.
pub(crate) fn objection(directory: &Path) -> io::Result<Option<String>> {
    let real = fs::canonicalize(directory)?;
    for (depth, place) in real.ancestors().enumerate() {
        let data = fs::metadata(place)?;
        // Above it, a directory whose entries only their owners may replace, as /tmp, does no harm.
        let sticky = depth > 0 && data.mode() & 0o1000 != 0;
        if let Some(why) = weakness(&data, sticky) {
            return Ok(Some(format!("{}: {why}", place.display())));
        }
    }
    Ok(None)
}

/// The same for one program.
pub(crate) fn objection_to_program(program: &Path) -> io::Result<Option<String>> {
    let real = fs::canonicalize(program)?;
    if let Some(why) = weakness(&fs::metadata(&real)?, false) {
        return Ok(Some(format!("{}: {why}", real.display())));
    }
    objection(real.parent().unwrap_or(Path::new("/")))
}

fn weakness(data: &fs::Metadata, sticky: bool) -> Option<&'static str> {
    let (user, group) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    if ![0, user].contains(&data.uid()) {
        return Some("it belongs to another user");
    }
    if data.mode() & 0o002 != 0 && !sticky {
        return Some("everybody can write to it");
    }
    if data.mode() & 0o020 != 0 && ![0, group].contains(&data.gid()) && !sticky {
        return Some("another group can write to it");
    }
    None
}

/// The first program of this name in `PATH` that may be run. What is passed over is told to `warn`.
pub(crate) fn in_path(name: &str, warn: &dyn Fn(&str)) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).filter(|directory| directory.is_absolute()).find_map(|directory| {
        let program = directory.join(name);
        let runs =
            fs::metadata(&program).is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0);
        if !runs {
            return None;
        }
        match objection_to_program(&program) {
            Ok(None) => Some(program),
            Ok(Some(why)) => {
                warn(&format!("WARNING: {} is not run: {why}", program.display()));
                None
            }
            Err(_) => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn en_15_a_directory_that_others_can_write_to_has_no_programs() {
        let dir = tempfile::tempdir().unwrap();
        let set = |mode| fs::set_permissions(dir.path(), fs::Permissions::from_mode(mode)).unwrap();
        set(0o755);
        assert_eq!(objection(dir.path()).unwrap(), None);
        for mode in [0o777, 0o1777, 0o757] {
            set(mode);
            assert!(objection(dir.path()).unwrap().unwrap().contains("everybody can write"), "{mode:o}");
        }
        set(0o755);
        let program = dir.path().join("p");
        fs::write(&program, "").unwrap();
        assert_eq!(objection_to_program(&program).unwrap(), None);
        fs::set_permissions(&program, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(objection_to_program(&program).unwrap().is_some());
        assert!(objection(&dir.path().join("missing")).is_err());
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(dir.path(), Some(1000), None).unwrap();
            assert!(objection(dir.path()).unwrap().unwrap().contains("another user"));
        }
    }
}
