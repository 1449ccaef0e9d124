//! Trees to streams and back, and streams that want out.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::ffi::OsStr;
use std::fs;
use std::io::Cursor;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use wharf_archive::extract::{self, Names, Options, Owners, extract};
use wharf_archive::pack::{Holes, Packer};
use wharf_archive::tar::{Entry, Kind, Reader, Writer};
use wharf_linux::confined::Root;
use wharf_linux::hostfs;

fn packed(path: &Path, holes: Holes) -> Vec<u8> {
    let mut packer = Packer::new(Vec::new(), holes);
    packer.beneath(hostfs::open_dir(path).unwrap(), b"").unwrap();
    packer.finish().unwrap()
}

fn client() -> Options {
    Options {
        owners: Owners::Own,
        keep_types: true,
        refuse_outward_links: true,
        names: Names::Keep,
        ids: None,
    }
}

fn extracted(stream: &[u8], to: &Path, options: &Options) -> extract::Result<u64> {
    let root = Root::open(to).unwrap().without_links();
    extract(&mut Reader::new(Cursor::new(stream)), &root, Path::new("."), options)
}

fn entry(path: &str, kind: Kind) -> Entry {
    let mode = if kind == Kind::Directory { 0o755 } else { 0o644 };
    Entry { path: path.into(), kind, mode, uid: 0, gid: 0, mtime: (1, 0), xattrs: Vec::new() }
}

fn stream(entries: &[(&str, Kind)]) -> Vec<u8> {
    let mut tar = Writer::new(Vec::new());
    for (path, kind) in entries {
        tar.entry(&entry(path, kind.clone())).unwrap();
        tar.fill().unwrap();
    }
    tar.finish().unwrap()
}

fn file() -> Kind {
    Kind::File { size: 4, pieces: None }
}

#[test]
fn a_tree_survives_packing_and_extracting() {
    let base = tempfile::tempdir().unwrap();
    let (from, to) = (base.path().join("from"), base.path().join("to"));
    fs::create_dir_all(from.join("sub/deep")).unwrap();
    fs::create_dir(&to).unwrap();
    fs::write(from.join("sub/file"), "text").unwrap();
    fs::set_permissions(from.join("sub/file"), PermissionsExt::from_mode(0o4751)).unwrap();
    fs::hard_link(from.join("sub/file"), from.join("sub/other")).unwrap();
    symlink("../../../etc/passwd", from.join("link")).unwrap();
    let odd = from.join(OsStr::from_bytes(b"\xff-odd"));
    fs::write(&odd, "x").unwrap();
    let sparse = fs::File::create(from.join("sparse")).unwrap();
    sparse.set_len(40 << 20).unwrap();
    sparse.write_all_at(b"middle", 20 << 20).unwrap();
    let name = "n".repeat(200);
    fs::write(from.join("sub/deep").join(&name), "long").unwrap();
    for holes in [Holes::Keep, Holes::Expand] {
        let stream = packed(&from, holes);
        assert_eq!(stream, packed(&from, holes), "the same tree gives the same stream");
        assert_eq!(stream.len() < (1 << 20), holes == Holes::Keep);
        extracted(&stream, &to, &Options { refuse_outward_links: false, ..client() }).unwrap();
        let meta = |path: &Path| {
            let meta = fs::symlink_metadata(path).unwrap();
            (meta.mode(), meta.uid(), meta.mtime(), meta.mtime_nsec(), meta.size(), meta.nlink())
        };
        for path in ["sub/file", "sub/other", "link", "sparse", "sub/deep", "sub"] {
            let (a, b) = (from.join(path), to.join(path));
            let (mut wanted, mut found) = (meta(&a), meta(&b));
            if a.is_dir() {
                (wanted.4, found.4) = (0, 0);
            }
            assert_eq!(wanted, found, "{path}");
        }
        assert_eq!(fs::read(from.join("sparse")).unwrap(), fs::read(to.join("sparse")).unwrap());
        assert_eq!(fs::metadata(to.join("sparse")).unwrap().blocks() < 1000, holes == Holes::Keep);
        assert_eq!(fs::read(to.join(OsStr::from_bytes(b"\xff-odd"))).unwrap(), b"x");
        assert_eq!(fs::read(to.join("sub/deep").join(&name)).unwrap(), b"long");
    }
}

#[test]
fn cp_06_special_files_are_described_and_not_opened() {
    let base = tempfile::tempdir().unwrap();
    let from = base.path().join("from");
    fs::create_dir(&from).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, from.join("fifo"), rustix::fs::FileType::Fifo, 0o600.into(), 0)
        .unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(from.join("socket")).unwrap();
    // Opening the FIFO would wait for a writer for ever.
    let stream = packed(&from, Holes::Keep);
    let mut reader = Reader::new(Cursor::new(stream));
    assert_eq!(reader.next_entry().unwrap().unwrap().kind, Kind::Fifo);
    assert_eq!(reader.next_entry().unwrap(), None);
}

#[test]
fn cp_05_a_hostile_stream_stays_in_the_destination() {
    let base = tempfile::tempdir().unwrap();
    let canary = base.path().join("canary");
    let to = base.path().join("to");
    let streams: &[&[(&str, Kind)]] = &[
        &[("../canary", file())],
        &[("a/../../canary", file())],
        &[("l", Kind::Symlink(base.path().as_os_str().as_bytes().into())), ("l/canary", file())],
        &[("l", Kind::Symlink(b"..".into()))],
        &[("d", Kind::Directory), ("d/l", Kind::Symlink(b"a/../../../canary".into()))],
        &[("h", Kind::HardLink(b"../canary".into()))],
        &[("l", Kind::Symlink(b"/".into())), ("h", Kind::HardLink(b"l/etc/passwd".into()))],
        &[("l", Kind::Symlink(base.path().as_os_str().as_bytes().into())), ("l", Kind::Directory)],
    ];
    for entries in streams {
        fs::write(&canary, "canary").unwrap();
        fs::create_dir(&to).unwrap();
        extracted(&stream(entries), &to, &client()).expect_err(&format!("{entries:?}"));
        assert_eq!(fs::read_to_string(&canary).unwrap(), "canary", "{entries:?}");
        assert_eq!(fs::read_dir(base.path()).unwrap().count(), 2, "{entries:?}");
        fs::remove_dir_all(&to).unwrap();
    }
    // An absolute name is one beneath the destination.
    fs::create_dir(&to).unwrap();
    extracted(&stream(&[("/etc/file", file())]), &to, &client()).unwrap();
    assert!(to.join("etc/file").exists());
}

#[test]
fn cp_03_what_is_beside_the_destination_keeps_its_metadata() {
    let base = tempfile::tempdir().unwrap();
    let (canary, to) = (base.path().join("canary"), base.path().join("to"));
    fs::create_dir(&to).unwrap();
    fs::write(&canary, "canary").unwrap();
    fs::set_permissions(&canary, PermissionsExt::from_mode(0o600)).unwrap();
    let look = |path: &Path| {
        let meta = fs::metadata(path).unwrap();
        (meta.mode(), meta.uid(), meta.gid(), meta.mtime(), meta.mtime_nsec())
    };
    let (file_before, base_before) = (look(&canary), look(base.path()));
    // A link is replaced by the file, a hard link of the user's own too, and the mode, owner and times are the new file's.
    symlink(&canary, to.join("x")).unwrap();
    fs::hard_link(&canary, to.join("y")).unwrap();
    symlink(base.path(), to.join("z")).unwrap();
    let free = Options { keep_types: false, ..client() };
    for (name, kind) in [("x", file()), ("y", file()), ("z", Kind::Directory)] {
        let result = extracted(&stream(&[(name, kind)]), &to, &free);
        assert_eq!(fs::read_to_string(&canary).unwrap(), "canary", "{name}");
        assert_eq!(look(&canary), file_before, "{name}");
        assert_eq!(look(base.path()), base_before, "{name}");
        result.unwrap();
    }
}

#[test]
fn cp_05_only_what_was_asked_for_is_renamed() {
    let to = tempfile::tempdir().unwrap();
    let options = Options { names: Names::Rename(b"old".to_vec(), b"new".to_vec()), ..client() };
    extracted(&stream(&[("old", Kind::Directory), ("old/old", file())]), to.path(), &options).unwrap();
    assert!(to.path().join("new/old").exists());
    for entries in [&[("other", file())][..], &[("old/x", file()), ("./../old", file())], &[("olds", file())]]
    {
        extracted(&stream(entries), to.path(), &options).unwrap_err();
    }
    assert_eq!(fs::read_dir(to.path()).unwrap().count(), 1);
    let beneath = Options { names: Names::Beneath(b"all".to_vec()), ..client() };
    extracted(&stream(&[("./", Kind::Directory), ("/x", file())]), to.path(), &beneath).unwrap();
    assert!(to.path().join("all/x").exists());
}

#[test]
fn types_are_kept_if_asked() {
    let to = tempfile::tempdir().unwrap();
    fs::create_dir(to.path().join("d")).unwrap();
    fs::write(to.path().join("f"), "x").unwrap();
    let error =
        |entries: &[(&str, Kind)]| extracted(&stream(entries), to.path(), &client()).unwrap_err().to_string();
    assert_eq!(error(&[("d", file())]), "cannot overwrite directory \"d\" with non-directory \"/\"");
    assert_eq!(error(&[("f", Kind::Directory)]), "cannot overwrite non-directory \"f\" with directory \"/\"");
    let free = Options { keep_types: false, ..client() };
    extracted(&stream(&[("d", file()), ("f", Kind::Directory)]), to.path(), &free).unwrap();
    assert!(to.path().join("d").is_file() && to.path().join("f").is_dir());
}
