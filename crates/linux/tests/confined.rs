//! Nothing leads out of a confined root.
#![allow(clippy::unwrap_used, reason = "a failing helper is a failing test")]

use std::ffi::OsStr;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, Timespec, Timestamps};
use wharf_linux::confined::{Handle, Metadata, Root, Special, apply};

struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("wharf-confined-{name}-{}", std::process::id()));
        fs::create_dir_all(path.join("root")).unwrap();
        fs::write(path.join("secret"), "outside").unwrap();
        Self(path)
    }
    fn root(&self) -> PathBuf {
        self.0.join("root")
    }
    fn open(&self) -> Root {
        Root::open(&self.root()).unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

#[test]
fn links_and_dots_end_at_the_root() {
    let scratch = Scratch::new("links");
    let root = scratch.open();
    fs::write(scratch.root().join("secret"), "inside").unwrap();
    fs::create_dir(scratch.root().join("d")).unwrap();
    let outside = scratch.0.join("secret");
    for (name, target) in [
        ("up", Path::new("../secret")),
        ("far", Path::new("../../../../secret")),
        ("abs", Path::new("/secret")),
    ] {
        symlink(target, scratch.root().join(name)).unwrap();
    }
    symlink(&outside, scratch.root().join("real")).unwrap();
    symlink("/proc/self/root", scratch.root().join("magic")).unwrap();
    for path in ["secret", "/secret", "../secret", "d/../../secret", "up", "far", "abs"] {
        assert_eq!(root.read_file(Path::new(path), 100).unwrap(), b"inside", "{path}");
    }
    assert!(root.read_file(Path::new("real"), 100).unwrap_err().is_not_found());
    assert!(root.read_file(&Path::new("magic").join(outside.strip_prefix("/").unwrap()), 100).is_err());
}

#[test]
fn only_bounded_regular_files_are_read() {
    let scratch = Scratch::new("special");
    let root = scratch.open();
    let directory = root.directory(Path::new(".")).unwrap();
    directory.special(OsStr::new("fifo"), Special::Fifo).unwrap();
    directory.special(OsStr::new("tty"), Special::Character { major: 5, minor: 0 }).unwrap();
    fs::create_dir(scratch.root().join("dir")).unwrap();
    symlink("fifo", scratch.root().join("link")).unwrap();
    for name in ["fifo", "tty", "dir", "link"] {
        // A FIFO would hang if it were opened.
        let error = root.read_file(Path::new(name), 100).unwrap_err();
        assert!(error.to_string().ends_with("not a regular file"), "{error}");
    }
    fs::File::create(scratch.root().join("huge")).unwrap().set_len(1 << 40).unwrap();
    let error = root.read_file(Path::new("huge"), 1000).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::FileTooLarge);
}

#[test]
fn directories_are_made_beneath_the_root_only() {
    let scratch = Scratch::new("mkdir");
    let root = scratch.open();
    let mut made = Vec::new();
    root.create_directory_all(Path::new("/a/b/c"), 0o755, &mut |path| made.push(path.to_owned())).unwrap();
    assert_eq!(made, ["a", "a/b", "a/b/c"].map(PathBuf::from));
    symlink("../../..", scratch.root().join("a/out")).unwrap();
    // `out` leads to the root itself.
    root.create_directory_all(Path::new("a/out/x/y"), 0o755, &mut |_| {}).unwrap();
    assert!(scratch.root().join("x/y").is_dir());
    symlink("nowhere", scratch.root().join("dangling")).unwrap();
    assert!(
        root.create_directory_all(Path::new("dangling/x"), 0o755, &mut |_| {}).unwrap_err().is_not_found()
    );
    assert!(root.create_directory_all(Path::new("new/../../x"), 0o755, &mut |_| {}).is_err());
    assert_eq!(fs::read_dir(&scratch.0).unwrap().count(), 2);
}

#[test]
fn entries_have_one_name_and_are_not_followed() {
    let scratch = Scratch::new("names");
    let directory = scratch.open().directory(Path::new(".")).unwrap();
    for name in ["", ".", "..", "a/b", "/a", "a\0b"] {
        assert!(directory.create(OsStr::new(name), 0o600).is_err(), "{name:?}");
        assert!(directory.remove(OsStr::new(name)).is_err(), "{name:?}");
    }
    symlink("../secret", scratch.root().join("link")).unwrap();
    let error = directory.create(OsStr::new("link"), 0o600).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AlreadyExists);
    assert!(directory.subdirectory(OsStr::new("link")).is_err());
    directory.remove(OsStr::new("link")).unwrap();
    assert_eq!(fs::read(scratch.0.join("secret")).unwrap(), b"outside");
}

#[test]
fn metadata_reaches_the_entry_itself() {
    let scratch = Scratch::new("metadata");
    let root = scratch.open();
    let directory = root.directory(Path::new(".")).unwrap();
    let time = Timespec { tv_sec: 1_000_000_000, tv_nsec: 123_456_789 };
    let times = || Some(Timestamps { last_access: time, last_modification: time });
    let xattrs = [(c"user.x".to_owned(), b"y".to_vec())];
    let capability =
        (c"security.capability".to_owned(), b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec());
    let metadata = |mode, xattrs| Metadata { uid: 1000, gid: 1001, mode, times: times(), xattrs };

    let file = directory.create(OsStr::new("file"), 0o600).unwrap();
    let both = [xattrs[0].clone(), capability];
    apply(file.as_fd(), Handle::Opened, &metadata(0o6755, &both)).unwrap();
    let link = directory.symlink(OsStr::new("link"), OsStr::new("../secret")).unwrap();
    apply(link.as_fd(), Handle::Link, &metadata(0o777, &[])).unwrap();
    let fifo = directory.special(OsStr::new("fifo"), Special::Fifo).unwrap();
    apply(fifo.as_fd(), Handle::Path, &metadata(0o4640, &[])).unwrap();

    for (name, mode) in [("file", 0o6755), ("link", 0o777), ("fifo", 0o4640)] {
        let seen = fs::symlink_metadata(scratch.root().join(name)).unwrap();
        assert_eq!((seen.uid(), seen.gid(), seen.mode() & 0o7777), (1000, 1001, mode), "{name}");
        assert_eq!((seen.mtime(), seen.mtime_nsec()), (1_000_000_000, 123_456_789), "{name}");
    }
    let mut value = [0; 32];
    let length =
        rustix::fs::lgetxattr(scratch.root().join("file"), "security.capability", &mut value).unwrap();
    assert_eq!(length, 20);
    let secret = fs::metadata(scratch.0.join("secret")).unwrap();
    assert_eq!((secret.uid(), secret.permissions().mode() & 0o111), (0, 0));
    assert!(fs::symlink_metadata(scratch.root().join("fifo")).unwrap().file_type().is_fifo());
    assert!(root.open_at(Path::new("link"), OFlags::RDONLY, Mode::empty()).is_err());
}
