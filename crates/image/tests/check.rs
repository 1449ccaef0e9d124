//! `system check`: what is damaged on disk is found, named, and made whole where that is possible.
#![allow(clippy::unwrap_used, reason = "a failing helper is a failing test")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::PathBuf;

use support::{Scratch, Seen, Tar, docker_archive, gzip, survey};
use wharf_image::{Finding, Part, Report};
use wharf_model::Digest;

fn check(scratch: &Scratch) -> Report {
    scratch.images.check(&|_, _| true).unwrap()
}

/// Repairs without a registry.
fn repair(scratch: &Scratch) -> Report {
    let mut report = check(scratch);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(scratch.images.repair(&mut report, &|_| None)).unwrap();
    report
}

/// An image of two layers; the second stands on a directory that only the first describes.
fn archive() -> Vec<u8> {
    let base = Tar::new()
        .header(&support::Header::new("d", b'5').mode(0o711).owner(5, 6))
        .file("d/a", &[7; 5000])
        .hardlink("d/b", "d/a")
        .symlink("d/l", "a")
        .finish();
    let top = Tar::new().file("d/c", b"c").file("d/.wh.a", b"").file("new/x", b"x").finish();
    docker_archive("a:1", &[&base, &top])
}

fn blob(scratch: &Scratch, digest: &Digest) -> PathBuf {
    scratch.data().join("content/blobs/sha256").join(digest.hex())
}

fn flip(path: &std::path::Path, at: u64) {
    let file = fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

/// A tree, without the time of its root, which nobody described.
fn files(root: &std::path::Path) -> BTreeMap<PathBuf, Seen> {
    let mut tree = survey(root);
    tree.get_mut(std::path::Path::new("")).unwrap().mtime = (0, 0);
    tree
}

fn only(report: &Report) -> &Finding {
    assert_eq!(report.findings.len(), 1, "{:#?}", report.findings);
    &report.findings[0]
}

#[test]
fn a_whole_store_has_no_findings() {
    for scratch in Scratch::of_each_format() {
        scratch.load(&archive()).unwrap();
        scratch.import(&gzip(&Tar::new().file("f", b"x").finish())).unwrap();
        let report = check(&scratch);
        assert_eq!(report.findings, []);
        assert_eq!((report.images, report.layers, report.garbage.len()), (2, 3, 0));
        assert_eq!(report.blobs, 2 + 2 + 1 + 2);
        assert!(report.bytes > 5000);
        // The comparison leaves nothing.
        let left = scratch.leftovers().len();
        check(&scratch);
        assert_eq!(scratch.leftovers().len(), left);
    }
}

#[test]
fn a_check_ends_when_it_is_told_to() {
    let scratch = Scratch::new();
    scratch.load(&archive()).unwrap();
    assert!(scratch.images.check(&|_, _| false).unwrap_err().to_string().contains("stopped"));
}

#[test]
fn damage_to_any_blob_is_found_with_its_images() {
    let scratch = Scratch::new();
    let id = scratch.load(&archive()).unwrap()[0].id;
    let blobs: Vec<PathBuf> = fs::read_dir(scratch.data().join("content/blobs/sha256"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    assert_eq!(blobs.len(), 4);
    for path in blobs {
        let whole = fs::read(&path).unwrap();
        let digest = Digest::from_hex(path.file_name().unwrap().to_str().unwrap()).unwrap();
        for damage in ["flipped", "cut", "missing"] {
            match damage {
                "flipped" => flip(&path, whole.len() as u64 / 2),
                "cut" => fs::File::options().write(true).open(&path).unwrap().set_len(3).unwrap(),
                _ => fs::remove_file(&path).unwrap(),
            }
            let report = check(&scratch);
            let finding = only(&report);
            assert_eq!((finding.part, finding.id), (Part::Blob, digest), "{damage}");
            assert_eq!(finding.images, ["a:1"]);
            assert!(finding.reason.contains(if damage == "missing" { "missing" } else { "digest" }));
            fs::write(&path, &whole).unwrap();
        }
    }
    assert_eq!(check(&scratch).findings, []);
    assert_eq!(check(&scratch).images, 1, "{id}");
}

#[test]
fn every_difference_of_a_directory_is_found_and_repaired() {
    type Change = fn(&std::path::Path);
    let changes: [(&str, Change); 9] = [
        ("content", |top| flip(&top.join("d/a"), 100)),
        ("size", |top| fs::write(top.join("d/a"), [7; 4999]).unwrap()),
        ("entries", |top| fs::write(top.join("d/more"), "").unwrap()),
        ("entries", |top| fs::remove_file(top.join("d/l")).unwrap()),
        ("mode", |top| fs::set_permissions(top.join("d/a"), fs::Permissions::from_mode(0o666)).unwrap()),
        ("owner", |top| std::os::unix::fs::chown(top.join("d"), Some(9), None).unwrap()),
        ("time", |top| fs::File::open(top.join("d/a")).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap()),
        ("points elsewhere", |top| {
            let time = fs::symlink_metadata(top.join("d/l")).unwrap();
            fs::remove_file(top.join("d/l")).unwrap();
            std::os::unix::fs::symlink("b", top.join("d/l")).unwrap();
            let seconds = std::os::unix::fs::MetadataExt::mtime(&time);
            let at = rustix::fs::Timespec { tv_sec: seconds, tv_nsec: 0 };
            let times = rustix::fs::Timestamps { last_access: at, last_modification: at };
            let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
            rustix::fs::utimensat(rustix::fs::CWD, top.join("d/l"), &times, flags).unwrap();
        }),
        ("attributes", |top| {
            rustix::fs::setxattr(
                top.join("d"),
                "trusted.overlay.opaque",
                b"y",
                rustix::fs::XattrFlags::empty(),
            )
            .unwrap();
        }),
    ];
    let scratch = Scratch::of_directories();
    let id = scratch.load(&archive()).unwrap()[0].id;
    let bottom = || {
        let mounts = scratch.images.create_snapshot("look", &id).unwrap();
        scratch.images.remove_snapshot("look").unwrap();
        mounts.base.join(mounts.lower.last().unwrap())
    };
    let whole = files(&bottom());
    for (what, change) in changes {
        let top = bottom();
        // Directories remember that somebody was there.
        change(&top);
        if what != "time" {
            let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_500_000_000);
            for path in ["d", "d/a"] {
                fs::File::open(top.join(path)).unwrap().set_modified(time).unwrap();
            }
        }
        let report = check(&scratch);
        // Its owner is also that of the directory in the layer above, which does not describe it.
        assert_eq!(report.findings.len(), if what == "owner" { 2 } else { 1 }, "{what}: {report:#?}");
        assert!(report.findings.iter().any(|finding| finding.reason.contains(what)), "{what}: {report:#?}");
        let repaired = repair(&scratch);
        assert!(repaired.findings.iter().all(|finding| finding.repaired), "{what}: {repaired:#?}");
        assert_ne!(bottom(), top, "nothing is changed in place");
        assert_eq!(files(&bottom()), whole, "{what}");
        assert_eq!(check(&scratch).findings, []);
    }
}

#[test]
fn a_damaged_layer_is_made_again_and_containers_keep_the_old_files() {
    for mut scratch in Scratch::of_each_format() {
        let id = scratch.load(&archive()).unwrap()[0].id;
        let old = scratch.images.create_snapshot("c", &id).unwrap();
        let place = old.base.join(&old.lower[1]);
        let whole = files(&place);
        let image = place.parent().unwrap().join("layer.erofs");
        if image.exists() {
            flip(&image, 4096 + 1024)
        } else {
            flip(&place.join("d/a"), 1)
        }
        let report = check(&scratch);
        assert_eq!(only(&report).part, Part::Layer);
        assert!(only(&repair(&scratch)).repaired);
        assert_eq!(check(&scratch).findings, []);
        let new = scratch.images.snapshot("c").unwrap();
        assert_ne!(new.lower[1], old.lower[1]);
        assert_eq!(files(&new.base.join(&new.lower[1])), whole);
        // Until the container is gone, over a restart too.
        assert!(place.exists());
        scratch.reopen();
        assert!(place.exists());
        scratch.images.remove_snapshot("c").unwrap();
        scratch.images.collect().unwrap();
        assert!(!place.exists());
        scratch.images.remove("a:1", false, &|_| Vec::new()).unwrap();
        scratch.check_empty("repair and removal");
    }
}

#[test]
fn layers_without_their_files_are_made_again() {
    for mut scratch in Scratch::of_each_format() {
        let id = scratch.load(&archive()).unwrap()[0].id;
        let top = scratch.top(&id);
        scratch.images.detach_layers().unwrap();
        fs::remove_dir_all(top.parent().unwrap()).unwrap();
        scratch.reopen();
        assert!(only(&check(&scratch)).reason.contains("missing"));
        assert!(only(&repair(&scratch)).repaired);
        assert_eq!(check(&scratch).findings, []);
    }
}

#[test]
fn an_uncompressed_blob_is_copied_from_its_layer() {
    let Some(scratch) = Scratch::of_images() else { return };
    let layer = Tar::new().file("f", &[1; 9000]).finish();
    scratch.load(&docker_archive("a:1", &[&layer])).unwrap();
    let digest = wharf_content::digest_of(&layer);
    flip(&blob(&scratch, &digest), 700);
    assert!(only(&repair(&scratch)).repaired);
    assert_eq!(check(&scratch).findings, []);
    assert_eq!(fs::read(blob(&scratch, &digest)).unwrap(), layer);
}

#[test]
fn what_nobody_has_is_set_aside_and_comes_back_with_the_next_load() {
    for scratch in Scratch::of_each_format() {
        let id = scratch.load(&archive()).unwrap()[0].id;
        flip(&blob(&scratch, &id), 5);
        let report = repair(&scratch);
        let finding = only(&report);
        assert!(!finding.repaired);
        assert!(finding.reason.contains("no registry is known to have it"), "{}", finding.reason);
        assert!(finding.reason.contains("run `wharf pull a:1` or load it again"), "{}", finding.reason);
        assert!(only(&check(&scratch)).reason.contains("missing"));
        scratch.load(&archive()).unwrap();
        assert_eq!(check(&scratch).findings, []);
    }
}

#[test]
fn a_directory_and_its_blob_that_are_both_damaged_need_a_load_and_a_repair() {
    let scratch = Scratch::of_directories();
    let layer = Tar::new().file("f", &[1; 9000]).finish();
    let archive = docker_archive("a:1", &[&layer]);
    let id = scratch.load(&archive).unwrap()[0].id;
    flip(&blob(&scratch, &wharf_content::digest_of(&layer)), 700);
    flip(&scratch.top(&id).join("f"), 3);
    assert_eq!(only(&check(&scratch)).part, Part::Blob);
    assert!(repair(&scratch).findings.iter().all(|finding| !finding.repaired));
    scratch.load(&archive).unwrap();
    assert_eq!(only(&check(&scratch)).part, Part::Layer);
    assert!(only(&repair(&scratch)).repaired);
    assert_eq!(check(&scratch).findings, []);
}

#[test]
fn blobs_that_nobody_needs_are_no_damage() {
    let scratch = Scratch::new();
    scratch.load(&archive()).unwrap();
    let stray = wharf_content::digest_of(b"stray");
    fs::write(blob(&scratch, &stray), b"stray").unwrap();
    let report = check(&scratch);
    assert_eq!((report.findings.len(), report.garbage), (0, vec![stray]));
    repair(&scratch);
    assert_eq!(check(&scratch).garbage, []);
}
