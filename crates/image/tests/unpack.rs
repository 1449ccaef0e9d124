//! What GNU tar packs, comes out the same: differential tests of the layer unpacker.
#![allow(clippy::unwrap_used, reason = "a failing helper is a failing test")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use support::{Scratch, Seen, survey};

fn run(program: &str, arguments: &[&str]) -> Vec<u8> {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// A tree with one of everything.
fn make_tree(root: &Path) {
    let path = |name: &str| root.join(name);
    fs::create_dir_all(path("dir/sub")).unwrap();
    fs::write(path("dir/file"), "content").unwrap();
    fs::write(path("empty"), "").unwrap();
    fs::write(path("block"), [b'x'; 512]).unwrap();
    fs::write(path("large"), vec![b'y'; 3_000_001]).unwrap();
    fs::hard_link(path("dir/file"), path("dir/sub/hard")).unwrap();
    symlink("../large", path("dir/link")).unwrap();
    symlink("x".repeat(200), path("longlink")).unwrap();
    fs::hard_link(path("longlink"), path("hardlink-to-link")).unwrap();
    let deep = format!("{}/{}", "d".repeat(150), "e".repeat(150));
    fs::create_dir_all(path(&deep)).unwrap();
    fs::write(path(&deep).join("f".repeat(255)), "deep").unwrap();
    fs::write(path("name with\nnewline and ünïcode"), "").unwrap();
    let text = |name: &str| path(name).to_str().unwrap().to_owned();
    run("mkfifo", &[&text("fifo")]);
    run("mknod", &[&text("char"), "c", "1", "3"]);
    run("mknod", &[&text("blk"), "b", "7", "250"]);
    run("chown", &["1234:2345", &text("dir/file")]);
    run("chown", &["3000000:4000000", &text("block")]);
    run("chown", &["-h", "5:6", &text("dir/link")]);
    run("chmod", &["6751", &text("block")]);
    run("chmod", &["1777", &text("dir/sub")]);
    run("chmod", &["0000", &text("empty")]);
    for (name, time) in [
        ("large", "2001-02-03 04:05:06.789012345"),
        ("empty", "1969-12-31 23:59:58.5 UTC"),
        ("dir", "2010-01-01 00:00:00.1"),
    ] {
        run("touch", &["-d", time, &text(name)]);
    }
    run("touch", &["-h", "-d", "2005-05-05 05:05:05.5", &text("dir/link")]);
    let capability = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(path("large"), "security.capability", capability, flags).unwrap();
    rustix::fs::setxattr(path("dir"), "user.note", b"a=b\nc\0d", flags).unwrap();
    // Holes at the start, in the middle and at the end.
    let sparse = fs::File::create(path("sparse")).unwrap();
    use std::os::unix::fs::FileExt;
    sparse.set_len(5 << 20).unwrap();
    for offset in [1 << 20, 2 << 20, 3 << 20, 3_500_000, 4_000_000, 4_300_000] {
        sparse.write_all_at(&[b'z'; 5000], offset).unwrap();
    }
    fs::File::create(path("hole")).unwrap().set_len(1 << 20).unwrap();
}

/// Drops what a format cannot express.
fn reduce(tree: &mut BTreeMap<PathBuf, Seen>, xattrs: bool, nanoseconds: bool) {
    for seen in tree.values_mut() {
        if !xattrs {
            seen.xattrs.clear();
        }
        if !nanoseconds {
            seen.mtime.1 = 0;
        }
    }
}

fn compare(expected: &BTreeMap<PathBuf, Seen>, found: &BTreeMap<PathBuf, Seen>, what: &str) {
    let names = |tree: &BTreeMap<PathBuf, Seen>| tree.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(expected), names(found), "{what}");
    for (path, seen) in expected {
        assert_eq!(seen, &found[path], "{what}: {}", path.display());
    }
}

#[test]
fn one_of_everything_survives_every_format_of_gnu_tar() {
    let scratch = Scratch::on_disk();
    let source = scratch.dir.path().join("source");
    fs::create_dir(&source).unwrap();
    make_tree(&source);
    let from = source.to_str().unwrap();
    for (options, xattrs, nanoseconds) in [
        (&["--format=gnu"][..], false, false),
        (&["--format=gnu", "--sparse"], false, false),
        (&["--format=oldgnu", "--sparse"], false, false),
        (&["--format=posix"], false, true),
        (&["--format=posix", "--xattrs", "--xattrs-include=*"], true, true),
        (&["--format=posix", "--sparse", "--sparse-version=0.0"], false, true),
        (&["--format=posix", "--sparse", "--sparse-version=0.1"], false, true),
        (
            &["--format=posix", "--sparse", "--sparse-version=1.0", "--xattrs", "--xattrs-include=*"],
            true,
            true,
        ),
    ] {
        let mut arguments = vec!["-C", from, "--sort=name", "-c"];
        arguments.extend(options);
        arguments.push(".");
        let tar = run("tar", &arguments);
        let id = scratch.import(&tar).unwrap_or_else(|error| panic!("{options:?}: {error}"));
        let mut expected = survey(&source);
        let mut found = survey(&scratch.top(&id));
        reduce(&mut expected, xattrs, nanoseconds);
        reduce(&mut found, xattrs, nanoseconds);
        compare(&expected, &found, &format!("{options:?}"));
        if options.contains(&"--sparse") {
            for name in ["sparse", "hole"] {
                let blocks = |root: &Path| fs::metadata(root.join(name)).unwrap().blocks();
                assert!(
                    blocks(&scratch.top(&id)) <= blocks(&source) + 8,
                    "{options:?}: {name} has lost its holes"
                );
            }
        }
        let ino = |name: &str| fs::symlink_metadata(scratch.top(&id).join(name)).unwrap().ino();
        assert_eq!(ino("dir/file"), ino("dir/sub/hard"));
        assert_eq!(ino("longlink"), ino("hardlink-to-link"));
    }
}

#[test]
fn ordinary_trees_come_out_as_gnu_tar_unpacks_them() {
    let scratch = Scratch::new();
    for (number, tree) in ["/etc", "/usr/include", "/usr/lib/python3", "/usr/share/perl"].iter().enumerate() {
        if !Path::new(tree).exists() {
            continue;
        }
        let tar = run("tar", &["-C", tree, "-c", "."]);
        let theirs = scratch.dir.path().join(number.to_string());
        fs::create_dir(&theirs).unwrap();
        let file = scratch.dir.path().join("tar");
        fs::write(&file, &tar).unwrap();
        run("tar", &["-C", theirs.to_str().unwrap(), "-xpf", file.to_str().unwrap(), "--numeric-owner"]);
        let id = scratch.import(&tar).unwrap();
        compare(&survey(&theirs), &survey(&scratch.top(&id)), tree);
        // And compressed, through the other path.
        let id = scratch.import(&support::gzip(&tar)).unwrap();
        compare(&survey(&theirs), &survey(&scratch.top(&id)), tree);
    }
}

#[test]
fn later_entries_replace_earlier_ones() {
    use support::{Header, Tar};
    for scratch in Scratch::of_each_format() {
        let tar = Tar::new()
            .file("a", b"1")
            .file("a", b"22")
            .dir("b")
            .file("b/x", b"")
            .file("b", b"now a file")
            .file("c", b"")
            .header(&Header::new("c", b'5').mode(0o711))
            .file("c/y", b"y")
            .header(&Header::new("c", b'5').mode(0o722))
            .symlink("d", "c")
            .file("d/z", b"through the link")
            .file("e", b"e")
            .hardlink("f", "e")
            .file("e", b"other")
            .finish();
        let id = scratch.import(&tar).unwrap();
        let files = scratch.top(&id);
        let read = |name: &str| fs::read_to_string(files.join(name)).unwrap();
        assert_eq!(read("a"), "22");
        assert_eq!(read("b"), "now a file");
        assert_eq!(read("c/y"), "y");
        assert_eq!(read("c/z"), "through the link");
        assert_eq!((read("e"), read("f")), ("other".to_owned(), "e".to_owned()));
        assert_eq!(fs::metadata(files.join("c")).unwrap().mode() & 0o7777, 0o722);
        // 22 + "now a file" + y + "through the link" + the link + e + other.
        assert_eq!(scratch.images.resolve(&id.to_string()).unwrap().size, 2 + 10 + 1 + 16 + 1 + 1 + 5);
    }
}

#[test]
fn directory_times_are_set_on_the_directory_that_had_them() {
    use support::{Header, Tar, octal};
    for scratch in Scratch::of_each_format() {
        let at = |name: &str, time: u64| Header { mtime: octal(time, 12), ..Header::new(name, b'5') };
        let tar = Tar::new()
            .header(&at("b", 3000))
            .header(&at("b/d", 4000))
            .file("b/d/late", b"")
            .header(&at("a", 1000))
            .header(&at("a/d", 2000))
            .symlink("a", "b")
            .header(&at("c", 5000))
            .header(&at("c/e", 6000))
            .file("c", b"")
            .finish();
        let id = scratch.import(&tar).unwrap();
        let time = |name: &str| fs::metadata(scratch.top(&id).join(name)).unwrap().mtime();
        assert_eq!((time("b"), time("b/d"), time("c")), (3000, 4000, 1_500_000_000));
    }
}

#[test]
fn directories_that_a_layer_does_not_describe_look_as_below() {
    use support::{Header, Tar, docker_archive};
    for scratch in Scratch::of_each_format() {
        let base = Tar::new()
            .header(&Header::new("./", b'5').mode(0o711).owner(8, 9))
            .header(&Header::new("a", b'5').mode(0o1777).owner(1, 2))
            .header(&Header::new("a/b", b'5').mode(0o700).owner(3, 4))
            .file("a/b/old", b"")
            .finish();
        let middle = Tar::new().file("other", b"").finish();
        let top = Tar::new().file("a/b/new", b"").file("a/b/.wh.old", b"").file("q/r/s", b"").finish();
        let id = scratch.load(&docker_archive("x:1", &[&base, &middle, &top])).unwrap()[0].id;
        let files = scratch.top(&id);
        let look = |path: &str| {
            let metadata = fs::metadata(files.join(path)).unwrap();
            (metadata.mode() & 0o7777, metadata.uid(), metadata.gid())
        };
        assert_eq!(look("."), (0o711, 8, 9));
        assert_eq!(look("a"), (0o1777, 1, 2));
        assert_eq!(look("a/b"), (0o700, 3, 4));
        assert_eq!(fs::metadata(files.join("a/b")).unwrap().mtime(), 1_500_000_000);
        assert_eq!(look("q/r"), (0o755, 0, 0));
    }
}
