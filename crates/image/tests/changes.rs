//! What a container changed, listed and as a layer: the overlay is the kernel's, mounted nowhere.
#![allow(clippy::unwrap_used, reason = "a failing helper is a failing test")]

mod support;

use std::fs;
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use support::{Scratch, Tar, survey};
use wharf_image::{ChangeKind, CommitOptions, RunConfig, SnapshotMounts};
use wharf_model::{Digest, Reference};

/// A container's files, reached as the test's own.
struct View(OwnedFd);

impl View {
    fn writable(mounts: &SnapshotMounts) -> Self {
        Self(mounts.writable_tree().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}/{name}", std::process::id(), self.0.as_raw_fd()))
    }
}

fn base() -> Vec<u8> {
    Tar::new()
        .dir("etc")
        .file("etc/config", b"old")
        .file("etc/gone", b"old")
        .dir("opt")
        .dir("opt/app")
        .file("opt/app/one", b"1")
        .file("opt/app/two", b"2")
        .dir("var")
        .file("var/kept", b"kept")
        .finish()
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn listed(scratch: &Scratch, key: &str) -> Vec<String> {
    let letter = |kind| match kind {
        ChangeKind::Modified => 'C',
        ChangeKind::Added => 'A',
        ChangeKind::Deleted => 'D',
    };
    let changes = scratch.images.changes(key).unwrap();
    changes
        .iter()
        .map(|change| format!("{} {}", letter(change.kind), String::from_utf8_lossy(&change.path)))
        .collect()
}

fn commit(scratch: &Scratch, key: &str, image: &Digest, name: &str) -> Digest {
    let options = CommitOptions {
        reference: Some(Reference::parse_normalized(name).unwrap()),
        author: "somebody".to_owned(),
        comment: "why".to_owned(),
        changes: vec!["ENV A=2".to_owned(), "WORKDIR /opt".to_owned()],
        container: RunConfig {
            env: vec!["A=1".to_owned(), "B=1".to_owned()],
            cmd: Some(vec!["sleep".to_owned(), "1".to_owned()]),
            ..RunConfig::default()
        },
        ..CommitOptions::default()
    };
    scratch.images.commit_snapshot(key, image, options).unwrap()
}

/// One of every change.
fn change(view: &View) {
    fs::write(view.path("etc/config"), "new!").unwrap();
    fs::remove_file(view.path("etc/gone")).unwrap();
    fs::remove_dir_all(view.path("opt/app")).unwrap();
    fs::create_dir(view.path("opt/app")).unwrap();
    fs::write(view.path("opt/app/three"), "3").unwrap();
    fs::write(view.path("opt/app/two"), "2 again").unwrap();
    let file = view.path("var/file");
    fs::write(&file, "text").unwrap();
    fs::hard_link(&file, view.path("var/hard")).unwrap();
    std::os::unix::fs::chown(&file, Some(1234), Some(4_000_000_000)).unwrap();
    fs::set_permissions(&file, PermissionsExt::from_mode(0o4751)).unwrap();
    let text = |name: &str| view.path(name).to_str().unwrap().to_owned();
    let set = |name: &str, value: &[u8]| {
        rustix::fs::setxattr(&file, name, value, rustix::fs::XattrFlags::empty()).unwrap();
    };
    set("user.note", b"a\nb=\0");
    set("security.capability", b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    run("touch", &["-d", "2001-02-03 04:05:06.123456789", &text("var/file")]);
    symlink("../etc/config", view.path("var/link")).unwrap();
    run("mkfifo", &[&text("var/fifo")]);
    run("mknod", &[&text("var/null"), "c", "1", "3"]);
    run("mknod", &[&text("var/disk"), "b", "8", "17"]);
    let odd = view.path("var").join(std::ffi::OsStr::from_bytes(b"\xff\xfe not text"));
    fs::write(odd, "x").unwrap();
    let deep = format!("var/{}/{}", "d".repeat(200), "e".repeat(200));
    fs::create_dir_all(view.path(&deep)).unwrap();
    let sparse = fs::File::create(view.path("var/sparse")).unwrap();
    sparse.set_len(64 << 20).unwrap();
    sparse.write_all_at(b"middle", 1 << 24).unwrap();
    drop(std::os::unix::net::UnixListener::bind(view.path("var/socket")).unwrap());
    run("touch", &["-d", "2002-02-03 04:05:06.5", &text("var")]);
}

#[test]
fn every_change_is_listed_and_nothing_else() {
    let scratch = Scratch::on_disk();
    let image = scratch.import(&base()).unwrap();
    let mounts = scratch.images.create_snapshot("c", &image).unwrap();
    assert_eq!(listed(&scratch, "c"), Vec::<String>::new());
    let view = View::writable(&mounts);
    fs::write(view.path("etc/config"), "new!").unwrap();
    fs::remove_file(view.path("etc/gone")).unwrap();
    fs::remove_dir_all(view.path("opt/app")).unwrap();
    fs::create_dir(view.path("opt/app")).unwrap();
    fs::write(view.path("opt/app/three"), "3").unwrap();
    fs::write(view.path("opt/app/two"), "2 again").unwrap();
    fs::create_dir_all(view.path("srv/deep")).unwrap();
    // Opened for writing and not written: copied up, and no change.
    drop(fs::OpenOptions::new().append(true).open(view.path("var/kept")).unwrap());
    // Made and gone again: nothing to delete.
    fs::write(view.path("var/short"), "").unwrap();
    fs::remove_file(view.path("var/short")).unwrap();
    // What the engine makes to mount on.
    fs::create_dir_all(view.path("dev/pts")).unwrap();
    fs::create_dir(view.path("proc")).unwrap();
    fs::write(view.path("etc/hosts"), "").unwrap();
    let wanted = [
        "C /etc",
        "C /etc/config",
        "D /etc/gone",
        "C /opt",
        "C /opt/app",
        "D /opt/app/one",
        "A /opt/app/three",
        "C /opt/app/two",
        "A /srv",
        "A /srv/deep",
    ];
    assert_eq!(listed(&scratch, "c"), wanted);
    // With something in them they are the container's own.
    fs::write(view.path("dev/pts/x"), "").unwrap();
    fs::write(view.path("etc/hosts"), "x").unwrap();
    let now = listed(&scratch, "c");
    let news: Vec<&String> = now.iter().filter(|line| !wanted.contains(&line.as_str())).collect();
    assert_eq!(news, ["A /dev", "A /dev/pts", "A /dev/pts/x", "A /etc/hosts"]);
}

#[test]
fn a_committed_container_comes_back_bit_for_bit_from_an_archive() {
    let scratch = Scratch::on_disk();
    let image = scratch.import(&base()).unwrap();
    let mounts = scratch.images.create_snapshot("c", &image).unwrap();
    let view = View::writable(&mounts);
    change(&view);
    let before = survey(&view.path("."));
    assert!(before.len() > 18);
    let committed = commit(&scratch, "c", &image, "committed:1");
    let mut archive = Vec::new();
    scratch.images.save(&["committed:1".to_owned()], &mut archive).unwrap();

    let other = Scratch::on_disk();
    assert_eq!(other.load(&archive).unwrap()[0].id, committed);
    for (store, key) in [(&scratch, "again"), (&other, "there")] {
        let mounts = store.images.create_snapshot(key, &committed).unwrap();
        let view = View(mounts.tree().unwrap());
        let mut after = survey(&view.path("."));
        let mut before = before.clone();
        // A socket is of use to its process only.
        before.remove(Path::new("var/socket"));
        for survey in [&mut before, &mut after] {
            survey.remove(Path::new(""));
        }
        for (path, seen) in &before {
            assert_eq!(after.get(path), Some(seen), "{key}: {}", path.display());
        }
        assert_eq!(after.len(), before.len(), "{key}");
        let sparse = fs::metadata(view.path("var/sparse")).unwrap();
        assert!(sparse.size() == 64 << 20 && sparse.blocks() < 1000, "{key}: the hole is a hole");
        let one = fs::metadata(view.path("var/file")).unwrap();
        assert_eq!(
            (one.nlink(), one.ino()),
            (2, fs::metadata(view.path("var/hard")).unwrap().ino()),
            "{key}"
        );
    }
}

#[test]
fn the_image_tells_how_it_was_made() {
    let scratch = Scratch::on_disk();
    let image = scratch.import(&base()).unwrap();
    let mounts = scratch.images.create_snapshot("c", &image).unwrap();
    // Without a change there is a step and no layer.
    let same = commit(&scratch, "c", &image, "same");
    let view = View::writable(&mounts);
    fs::write(view.path("new"), "").unwrap();
    let changed = commit(&scratch, "c", &image, "changed");
    let layers = |id: &Digest| scratch.images.resolve(&id.to_string()).unwrap().diff_ids.len();
    assert_eq!((layers(&image), layers(&same), layers(&changed)), (1, 1, 2));
    let found = scratch.images.resolve("changed").unwrap();
    let config = found.config.config().as_ref().unwrap();
    assert_eq!(config.env().clone().unwrap(), ["A=2", "B=1"]);
    assert_eq!(config.working_dir().as_deref(), Some("/opt"));
    assert_eq!((found.docker.comment.as_str(), found.config.author().as_deref()), ("why", Some("somebody")));
    let history = scratch.images.history("changed").unwrap();
    assert_eq!(
        (history.len(), history[0].created_by.as_str(), history[0].comment.as_str()),
        (2, "sleep 1", "why")
    );
}

#[test]
fn the_layer_is_what_gnu_tar_unpacks() {
    let scratch = Scratch::on_disk();
    let image = scratch.import(&base()).unwrap();
    let mounts = scratch.images.create_snapshot("c", &image).unwrap();
    change(&View::writable(&mounts));
    let committed = commit(&scratch, "c", &image, "committed");
    let work = tempfile::tempdir().unwrap();
    let mut archive = Vec::new();
    scratch.images.save(&["committed".to_owned()], &mut archive).unwrap();
    fs::write(work.path().join("image.tar"), &archive).unwrap();
    let at = |name: &str| work.path().join(name).to_str().unwrap().to_owned();
    run("tar", &["-C", &at(""), "-xf", &at("image.tar")]);
    let manifest: serde_json::Value =
        serde_json::from_slice(&fs::read(work.path().join("manifest.json")).unwrap()).unwrap();
    let layer = manifest[0]["Layers"][1].as_str().unwrap();
    fs::create_dir(work.path().join("layer")).unwrap();
    run(
        "tar",
        &["-C", &at("layer"), "--numeric-owner", "--xattrs", "--xattrs-include=*", "-xpf", &at(layer)],
    );
    // The same as we unpacked, but for the marks of what is deleted.
    let (ours, mut theirs) = (survey(&scratch.top(&committed)), survey(&work.path().join("layer")));
    let mark = |path: &Path| path.file_name().is_some_and(|name| name.as_bytes().starts_with(b".wh."));
    let mut marks: Vec<PathBuf> = theirs.keys().filter(|path| mark(path)).cloned().collect();
    marks.sort();
    assert_eq!(marks, [Path::new("etc/.wh.gone"), Path::new("opt/app/.wh..wh..opq")]);
    theirs.retain(|path, _| !mark(path));
    for (path, seen) in &theirs {
        // The marks changed the times of the directories they are in.
        if !["", "etc", "opt/app"].map(Path::new).contains(&path.as_path()) {
            assert_eq!(ours.get(path), Some(seen), "{}", path.display());
        }
    }
    assert!(theirs.len() > 15);
    // Compressed once, and readable by gzip.
    let mut first = [0; 2];
    fs::File::open(work.path().join(layer)).unwrap().read_exact(&mut first).unwrap();
    assert_eq!(first, [0x1f, 0x8b]);
}

#[test]
fn a_redirected_directory_is_refused_and_not_lost() {
    let scratch = Scratch::on_disk();
    let image = scratch.import(&base()).unwrap();
    let mounts = scratch.images.create_snapshot("c", &image).unwrap();
    fs::create_dir_all(mounts.base.join(&mounts.upper).join("moved")).unwrap();
    let moved = mounts.base.join(&mounts.upper).join("moved");
    rustix::fs::setxattr(&moved, "trusted.overlay.redirect", b"/opt", rustix::fs::XattrFlags::empty())
        .unwrap();
    let before = scratch.leftovers();
    let error = scratch.images.changes("c").unwrap_err().to_string();
    assert!(error.contains("/moved") && error.contains("redirect_dir"), "{error}");
    scratch.images.commit_snapshot("c", &image, CommitOptions::default()).unwrap_err();
    assert_eq!(scratch.leftovers(), before);
}
