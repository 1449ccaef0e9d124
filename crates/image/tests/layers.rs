//! The conformance suite of the ways to keep layers: each shows the same files for the same stream, or refuses it as
//! the others do. Directories, which the kernel itself builds, are the measure.
#![allow(clippy::unwrap_used, reason = "a failing helper is a failing test")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use rustix::mount::UnmountFlags;
use support::{Header, Scratch, Seen, Tar, docker_archive, gzip, octal, survey};
use wharf_model::ErrorKind;

type Tree = BTreeMap<PathBuf, Seen>;

/// What a stream becomes; or that it is refused.
fn tree_of(scratch: &Scratch, tar: &[u8]) -> Result<Tree, ErrorKind> {
    let id = scratch.import(tar).map_err(|error| error.kind())?;
    let mut tree = survey(&scratch.top(&id));
    scratch.images.remove(&id.to_string(), false, &|_| Vec::new()).unwrap();
    // What nobody described has no time to compare.
    let today = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64 - 86_400;
    for seen in tree.values_mut() {
        if seen.mtime.0 > today || seen.mtime == (0, 0) {
            seen.mtime = (0, 0);
        }
    }
    Ok(tree)
}

/// A directory on disk gets its time at the end and by its path: once that leads elsewhere, the time is lost.
fn forgive_times(expected: &Tree, found: &mut Tree) {
    for (path, seen) in found {
        let lost = expected.get(path).is_some_and(|seen| seen.kind == 'd' && seen.mtime == (0, 0));
        if lost && seen.mtime == (1_500_000_000, 0) {
            seen.mtime = (0, 0);
        }
    }
}

fn compare(directories: &Scratch, images: &Scratch, tar: &[u8], what: &str) {
    let expected = tree_of(directories, tar);
    let mut found = tree_of(images, tar);
    if let (Ok(expected), Ok(found)) = (&expected, &mut found) {
        forgive_times(expected, found);
    }
    match (&expected, &found) {
        (Ok(expected), Ok(found)) => {
            let names = |tree: &Tree| tree.keys().cloned().collect::<Vec<_>>();
            assert_eq!(names(expected), names(found), "{what}");
            for (path, seen) in expected {
                assert_eq!(seen, &found[path], "{what}: {}", path.display());
            }
        }
        _ => assert_eq!(expected.is_ok(), found.is_ok(), "{what}: {:?} {:?}", expected.err(), found.err()),
    }
}

const CAPABILITY: &[u8] = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

/// Streams that have given some tool trouble, by name.
#[expect(clippy::too_many_lines, reason = "a list of streams")]
fn streams() -> Vec<(&'static str, Tar)> {
    let t = Tar::new;
    let deep = |part: &str, times: usize| vec![part; times].join("/");
    let xattr = |name: &str| format!("SCHILY.xattr.{name}");
    let many = (0..3000).fold(t().dir("d"), |tar, number| tar.file(&format!("d/{number}"), b"x"));
    let sizes = (0..40_u32).fold(t(), |tar, number| {
        let size = (number * number * 13) as usize;
        tar.file(&number.to_string(), &vec![b'a' + (number % 26) as u8; size])
    });
    let links =
        [1, 300, 447, 448, 449, 511, 512, 513, 1000, 4095, 4096].into_iter().fold(t(), |tar, length| {
            tar.long(b'K', "t".repeat(length).as_bytes()).symlink(&length.to_string(), "x")
        });
    let directories = (1..60).fold(t(), |tar, count| {
        (0..count).fold(tar, |tar, file| tar.file(&format!("{count}/{file}{}", "n".repeat(count)), b""))
    });
    vec![
        ("nothing", t()),
        ("an empty file", t().file("empty", b"")),
        ("files of many sizes", sizes),
        ("links of many lengths", links),
        ("directories of many sizes", directories),
        ("3,000 files in one directory", many),
        (
            "names of 255 bytes",
            t().long(b'L', &[b'n'; 255]).file("x", b"1").long(b'L', "ä".repeat(127).as_bytes()).dir("x"),
        ),
        ("a name of 256 bytes", t().long(b'L', &[b'n'; 256]).file("x", b"1")),
        (
            "a name of 256 bytes on the way",
            t().long(b'L', &[vec![b'n'; 256], b"/x".to_vec()].concat()).file("x", b"1"),
        ),
        (
            "names that are not UTF-8",
            t().long(b'L', b"\xff\xfe\x80").file("x", b"1").long(b'K', b"\xff").symlink("y", "x"),
        ),
        (
            "names around the dot",
            ["!", "-", ".a", "..a", "...", "a", "A", "\u{7f}"]
                .iter()
                .fold(t(), |tar, name| tar.file(name, b"")),
        ),
        ("a deep path", t().long(b'L', deep("d", 2000).as_bytes()).file("x", b"deep")),
        ("a path that is too long", t().long(b'L', deep("dd", 1400).as_bytes()).file("x", b"")),
        (
            "owners and modes",
            t().header(&Header::new("a", b'0').mode(0o6755).owner(4_000_000, 70_000))
                .header(&Header::new("d", b'5').mode(0o3777).owner(1, 2))
                .header(&Header::new("l", b'2').link("a").owner(3, 4).mode(0)),
        ),
        (
            "times",
            t().pax(&[("mtime", b"-1.25")])
                .file("before", b"")
                .pax(&[("mtime", b"4000000000.123456789")])
                .dir("late"),
        ),
        (
            "hard links",
            t().file("a", b"x")
                .hardlink("b", "a")
                .hardlink("d/c", "./a")
                .symlink("l", "a")
                .hardlink("m", "l")
                .header(&Header::new("f", b'6'))
                .hardlink("g", "f"),
        ),
        ("a hard link to what is replaced", t().file("a", b"x").hardlink("b", "a").file("a", b"y")),
        ("a hard link over its target's directory", t().file("d/x", b"x").hardlink("d", "d/x")),
        (
            "a hard link onto itself through a link",
            t().file("a", b"x").symlink("l", ".").hardlink("l/a", "a"),
        ),
        ("a hard link to a second name", t().file("a", b"x").hardlink("b", "a").hardlink("b", "a")),
        (
            "devices",
            t().header(&Header { major: octal(1, 8), minor: octal(3, 8), ..Header::new("null", b'3') })
                .header(&Header {
                    major: octal(4095, 8),
                    minor: octal(0xf_ffff, 8),
                    ..Header::new("b", b'4')
                }),
        ),
        ("a device that is a whiteout", t().header(&Header::new("w", b'3'))),
        (
            "attributes",
            t().pax(&[
                (&xattr("user.a"), b"1"),
                (&xattr("user.b"), &[b'x'; 1000]),
                (&xattr("trusted.c"), b""),
                (&xattr("security.capability"), CAPABILITY),
            ])
            .file("f", b"x")
            .pax(&[(&xattr("user.d"), b"\0\xff")])
            .dir("d")
            .pax(&[(&xattr("trusted.x"), b"y")])
            .symlink("l", "f"),
        ),
        (
            "attributes of a directory described twice",
            t().pax(&[(&xattr("user.a"), b"1"), (&xattr("user.b"), b"1")])
                .dir("d")
                .pax(&[(&xattr("user.b"), b"2")])
                .dir("d"),
        ),
        ("an attribute without a name", t().pax(&[(&xattr("user."), b"1")]).file("f", b"")),
        ("a capability that is none", t().pax(&[(&xattr("security.capability"), b"1")]).file("f", b"")),
        (
            "overlay's attributes",
            t().pax(&[(&xattr("trusted.overlay.opaque"), b"y"), (&xattr("user.overlay.redirect"), b"/")])
                .dir("d"),
        ),
        (
            "whiteouts",
            t().file(".wh.a", b"")
                .dir("d")
                .file("d/.wh.b", b"")
                .file("x", b"")
                .file(".wh.x", b"")
                .dir("e")
                .file(".wh.e", b""),
        ),
        ("a directory in place of a whiteout", t().file(".wh.d", b"").dir("d").file("d/f", b"")),
        (
            "opaque directories",
            t().dir("d").file("d/.wh..wh..opq", b"").file("e/f/.wh..wh..opq", b"").file("e/f/g", b""),
        ),
        ("an opaque file", t().file("f", b"").file("f/.wh..wh..opq", b"")),
        ("an opaque root", t().file(".wh..wh..opq", b"").file("f", b"")),
        (
            "through links",
            t().dir("c")
                .symlink("l", "c")
                .file("l/f", b"1")
                .symlink("m", "/c/../c/./")
                .file("m/g/h", b"2")
                .symlink("up", "../../../c")
                .file("up/i", b"3"),
        ),
        ("a link to nowhere on the way", t().symlink("l", "nowhere").file("l/f", b"")),
        ("a link to a file on the way", t().file("f", b"").symlink("l", "f").file("l/g", b"")),
        ("links in a circle", t().symlink("a", "b").symlink("b", "a").file("a/f", b"")),
        (
            "forty links",
            (0..40)
                .fold(t().dir("0"), |tar, number: u32| {
                    tar.symlink(&(number + 1).to_string(), &number.to_string())
                })
                .file("40/f", b""),
        ),
        (
            "forty-one links",
            (0..41)
                .fold(t().dir("0"), |tar, number: u32| {
                    tar.symlink(&(number + 1).to_string(), &number.to_string())
                })
                .file("41/f", b""),
        ),
        (
            "replacements",
            t().file("a/b/c", b"")
                .file("a", b"")
                .file("a2", b"")
                .dir("a2")
                .dir("s")
                .symlink("s", "x")
                .header(&Header::new("p", b'6'))
                .file("p", b"x"),
        ),
        ("dots and slashes", t().dir("./").dir(".//a/./").file("/a//b", b"x").file("./a/./c", b"y")),
        ("a described root", t().header(&Header::new("./", b'5').mode(0o1701).owner(5, 6)).file("f", b"")),
        (
            "a root with large attributes",
            t().pax(&[(&xattr("user.a"), &[b'x'; 2000])]).dir("./").file("f", b""),
        ),
        (
            "holes",
            t().pax(&[
                ("GNU.sparse.map", b"0,1,5000,1"),
                ("GNU.sparse.size", b"9000"),
                ("GNU.sparse.name", b"s"),
            ])
            .file("x", b"ab"),
        ),
        (
            "padding that is not zero",
            t().header(&Header::new("f", b'0').size(3)).raw(&[b'x'; 512]).file("g", b"1"),
        ),
        (
            "padding that is not zero in the middle of much",
            t().file("big", &[b'y'; 700_000])
                .header(&Header::new("f", b'0').size(3))
                .raw(&[b'x'; 512])
                .file("last", &[b'z'; 700_000]),
        ),
        ("long zeros", t().file("zeros", &vec![0; 3_000_000]).file("after", b"x")),
    ]
}

#[test]
fn every_format_shows_the_same_files() {
    let directories = Scratch::of_directories();
    let Some(images) = Scratch::of_images() else { return };
    for (name, tar) in streams() {
        let tar = tar.finish();
        compare(&directories, &images, &tar, name);
        compare(&directories, &images, &gzip(&tar), name);
        // What follows the end belongs to the layer, and zeros cost nothing.
        compare(&directories, &images, &[tar, vec![0; 10_000], b"behind".to_vec()].concat(), name);
    }
    images.check_empty("all of them");
}

#[test]
fn a_directory_of_100_000_files_is_whole() {
    let Some(images) = Scratch::of_images() else { return };
    let count = 100_000;
    let tar = (0..count).fold(Tar::new(), |tar, number| tar.file(&format!("d/{number:x}"), b""));
    let id = images.import(&gzip(&tar.finish())).unwrap();
    assert!(images.has_image());
    let directory = images.top(&id).join("d");
    let mut names: Vec<_> =
        fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), count);
    for number in (0..count).step_by(997) {
        assert!(directory.join(format!("{number:x}")).exists(), "{number}");
    }
    assert!(!directory.join("x").exists());
}

/// One entry of a random layer.
#[derive(Debug, Clone)]
enum Step {
    File(String, usize),
    Directory(String),
    Link(String, String),
    HardLink(String, String),
    Node(String, u8),
    Whiteout(String),
    Opaque(String),
    Attribute(String, u8),
}

fn steps() -> impl Strategy<Value = Vec<(Step, u32)>> {
    // Few names, so that they meet.
    let name = || prop::sample::select(vec!["a", "b", "c", "dd", "eee"]);
    let path = move || prop::collection::vec(name(), 1..4).prop_map(|parts| parts.join("/"));
    let target = prop_oneof![
        path(),
        path().prop_map(|path| format!("/{path}")),
        path().prop_map(|path| format!("../{path}")),
        Just(".".to_owned()),
        Just("a/..".to_owned()),
    ];
    let size = prop_oneof![Just(0_usize), Just(1), Just(511), Just(512), Just(513), 0..6000_usize];
    let step = prop_oneof![
        4 => (path(), size).prop_map(|(path, size)| Step::File(path, size)),
        3 => path().prop_map(Step::Directory),
        2 => (path(), target).prop_map(|(path, target)| Step::Link(path, target)),
        2 => (path(), path()).prop_map(|(path, target)| Step::HardLink(path, target)),
        1 => (path(), prop::sample::select(vec![b'3', b'4', b'6'])).prop_map(|(path, kind)| Step::Node(path, kind)),
        1 => path().prop_map(Step::Whiteout),
        1 => path().prop_map(Step::Opaque),
        1 => (path(), any::<u8>()).prop_map(|(path, value)| Step::Attribute(path, value)),
    ];
    prop::collection::vec((step, 0..0o10000_u32), 1..25)
}

fn stream_of(steps: &[(Step, u32)]) -> Vec<u8> {
    let marked = |path: &str, name: &str| match path.rsplit_once('/') {
        Some((parent, last)) => format!("{parent}/{}", name.replace('*', last)),
        None => name.replace('*', path),
    };
    let described =
        |path: &str, kind: u8, mode: &u32| Header::new(path, kind).mode(*mode).owner(*mode * 7, mode % 5);
    let tar = steps.iter().fold(Tar::new(), |tar, (step, mode)| match step {
        Step::File(path, size) => {
            let header = described(path, b'0', mode).size(*size as u64);
            tar.header(&header).data(&vec![b'a' + (size % 26) as u8; *size])
        }
        Step::Directory(path) => tar.header(&described(path, b'5', mode)),
        Step::Link(path, target) => tar.header(&described(path, b'2', mode).link(target)),
        Step::HardLink(path, target) => tar.hardlink(path, target),
        Step::Node(path, kind) => {
            tar.header(&Header { minor: octal(u64::from(*mode), 8), ..described(path, *kind, mode) })
        }
        Step::Whiteout(path) => tar.file(&marked(path, ".wh.*"), b""),
        Step::Opaque(path) => tar.file(&format!("{path}/.wh..wh..opq"), b""),
        Step::Attribute(path, value) => tar
            .pax(&[(&format!("SCHILY.xattr.user.{}", value % 3), &[*value; 40])])
            .header(&described(path, b'5', mode)),
    });
    tar.finish()
}

#[test]
fn random_layers_are_the_same_in_every_format() {
    let directories = Scratch::of_directories();
    let Some(images) = Scratch::of_images() else { return };
    let cases = std::env::var("PROPTEST_CASES").map_or(100, |cases| cases.parse().unwrap());
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    runner
        .run(&steps(), |steps| {
            compare(&directories, &images, &stream_of(&steps), &format!("{steps:?}"));
            Ok(())
        })
        .unwrap();
    directories.check_canary("random layers");
    images.check_canary("random layers");
}

fn mounts(scratch: &Scratch) -> usize {
    let root = scratch.dir.path().to_str().unwrap().to_owned();
    fs::read_to_string("/proc/self/mountinfo").unwrap().lines().filter(|line| line.contains(&root)).count()
}

#[test]
fn an_image_is_mounted_when_it_is_needed_and_as_long_as_it_is_there() {
    let Some(mut scratch) = Scratch::of_images() else { return };
    let layers = [Tar::new().file("a", b"1").finish(), Tar::new().file("b", b"2").finish()];
    let archive = docker_archive("x:1", &layers.each_ref().map(|layer| &layer[..]));
    let id = scratch.load(&archive).unwrap()[0].id;
    let snapshot = scratch.images.create_snapshot("one", &id).unwrap();
    let file = |layer: usize, name: &str| snapshot.base.join(&snapshot.lower[layer]).join(name);
    assert_eq!(mounts(&scratch), 2);
    scratch.images.snapshot("one").unwrap();
    assert_eq!(mounts(&scratch), 2, "once is enough");

    // By another's hand, and as after a reboot.
    rustix::mount::unmount(snapshot.base.join(&snapshot.lower[0]), UnmountFlags::DETACH).unwrap();
    assert!(!file(0, "b").exists());
    scratch.images.snapshot("one").unwrap();
    assert_eq!(fs::read(file(0, "b")).unwrap(), b"2");
    scratch.reopen();
    assert_eq!(mounts(&scratch), 0, "an engine that ends leaves none");
    scratch.images.snapshot("one").unwrap();
    assert_eq!(fs::read(file(1, "a")).unwrap(), b"1");

    // An open file outlives its mount, as an overlay does.
    let open = fs::File::open(file(1, "a")).unwrap();
    scratch.images.remove_snapshot("one").unwrap();
    scratch.images.remove("x:1", false, &|_| Vec::new()).unwrap();
    assert_eq!(mounts(&scratch), 0);
    let mut byte = [0];
    open.read_exact_at(&mut byte, 0).unwrap();
    assert_eq!(byte, *b"1");
    drop(open);
    scratch.check_empty("the removal of a mounted image");
}

#[test]
fn damage_to_a_layer_is_found() {
    let Some(scratch) = Scratch::of_images() else { return };
    let long = "n".repeat(90);
    let tar = (0..20).fold(Tar::new(), |tar, number| tar.file(&format!("{long}{number}"), &[b'x'; 3000]));
    scratch.import(&tar.finish()).unwrap();
    let layer = fs::read_dir(scratch.data().join("snapshots")).unwrap().flatten();
    let image = layer.map(|entry| entry.path().join("layer.erofs")).find(|path| path.exists()).unwrap();
    assert_eq!(scratch.images.damaged_layers().unwrap(), []);
    let file = fs::File::options().read(true).write(true).open(&image).unwrap();
    let length = file.metadata().unwrap().len();
    let mut found = Vec::new();
    for at in [0, 17, 1024, 4096, 50_000, length - 4096] {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 1], at).unwrap();
        found.extend(scratch.images.damaged_layers().unwrap().into_iter().map(|(_, what)| what));
        file.write_all_at(&byte, at).unwrap();
    }
    let part = |text: &String| text.split_whitespace().take(3).collect::<Vec<_>>().join(" ");
    let found: Vec<String> = found.iter().map(part).collect();
    let expected = [
        "the header of",
        "its tar stream",
        "the index of",
        "its tar stream",
        "its tar stream",
        "the index of",
    ];
    assert_eq!(found, expected);
    assert_eq!(scratch.images.damaged_layers().unwrap(), []);
}

#[test]
fn a_layer_that_an_image_cannot_hold_becomes_a_directory() {
    let Some(scratch) = Scratch::of_images() else { return };
    let plain = Tar::new().file("f", b"x");
    let odd = [
        plain.clone().header(&Header::new("g", b'0').size(1)).raw(&[b'x'; 512]),
        plain.clone().pax(&[("SCHILY.xattr.security.capability", &[1; 24])]).file("c", b""),
        plain
            .clone()
            .pax(&[("GNU.sparse.map", b"0,1"), ("GNU.sparse.size", b"9000"), ("GNU.sparse.name", b"s")])
            .file("x", b"a"),
    ];
    for (number, tar) in odd.into_iter().enumerate() {
        // The kernel's word counts: a capability it refuses is refused.
        if let Ok(id) = scratch.import(&tar.finish()) {
            assert!(!scratch.has_image(), "{number}");
            assert_eq!(fs::read(scratch.top(&id).join("f")).unwrap(), b"x");
            scratch.images.remove(&id.to_string(), false, &|_| Vec::new()).unwrap();
        }
        scratch.check_empty("a layer that is a directory");
    }
    assert!(scratch.import(&plain.finish()).is_ok() && scratch.has_image());
}

#[test]
fn what_is_below_describes_what_a_layer_only_implies() {
    for scratch in Scratch::of_each_format() {
        let base = Tar::new().header(&Header::new("a", b'5').mode(0o1770).owner(11, 12)).finish();
        let middle = Tar::new().file("a/b/c", b"").finish();
        let top = Tar::new().file("a/b/d", b"").finish();
        let id = scratch.load(&docker_archive("x:1", &[&base, &middle, &top])).unwrap()[0].id;
        let seen = survey(&scratch.top(&id));
        let look =
            |path: &str| (seen[Path::new(path)].mode, seen[Path::new(path)].uid, seen[Path::new(path)].gid);
        assert_eq!(look("a"), (0o1770, 11, 12));
        assert_eq!(look("a/b"), (0o755, 0, 0));
        assert_eq!(scratch.images.damaged_layers().unwrap(), []);
    }
}

#[test]
fn each_of_many_directories_is_found_below() {
    for scratch in Scratch::of_each_format() {
        let name = |number: u32| format!("d/{number}{}", "n".repeat(number as usize % 200));
        let base = (0..300).fold(Tar::new().dir("d"), |tar, number| {
            tar.long(b'L', name(number).as_bytes())
                .header(&Header::new("x", b'5').mode(number).owner(number, 1000 + number))
        });
        let base = base.symlink("to", "d").finish();
        let top = (0..300).fold(Tar::new(), |tar, number| {
            tar.long(b'L', format!("{}/f", name(number)).as_bytes()).file("x", b"")
        });
        let top = top.file("to/0/f", b"").finish();
        let id = scratch.load(&docker_archive("x:1", &[&base, &top])).unwrap()[0].id;
        let seen = survey(&scratch.top(&id));
        for number in 0..300 {
            let seen = &seen[Path::new(&name(number))];
            assert_eq!((seen.mode, seen.uid, seen.gid), (number, number, 1000 + number));
        }
        // A link below is no directory: the one above replaces it.
        assert_eq!(seen[Path::new("to/0")].mode, 0o755);
    }
}

#[test]
fn a_layer_without_a_row_goes_at_the_next_start_with_its_mount() {
    let Some(mut scratch) = Scratch::of_images() else { return };
    let id = scratch.import(&Tar::new().file("f", b"x").finish()).unwrap();
    let snapshot = scratch.images.create_snapshot("one", &id).unwrap();
    // As if the engine had died between the bytes and the row, with the layer attached.
    let from = snapshot.base.join(Path::new(&snapshot.lower[0]).parent().unwrap());
    let stray = snapshot.base.join("77");
    fs::create_dir_all(stray.join("fs")).unwrap();
    fs::copy(from.join("layer.erofs"), stray.join("layer.erofs")).unwrap();
    let mounted = std::process::Command::new("mount")
        .args(["-t", "erofs", "-o", "ro"])
        .args([stray.join("layer.erofs"), stray.join("fs")])
        .status()
        .unwrap();
    assert!(mounted.success());
    scratch.reopen();
    assert_eq!(mounts(&scratch), 0);
    assert!(!stray.exists());
    scratch.images.snapshot("one").unwrap();
    assert_eq!(fs::read(snapshot.base.join(&snapshot.lower[0]).join("f")).unwrap(), b"x");
}
