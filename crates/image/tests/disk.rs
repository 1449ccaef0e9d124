//! A full disk, and trees that change while they are worked on.
#![allow(clippy::unwrap_used, reason = "a failing helper is a failing test")]

mod support;

use std::ffi::OsStr;
use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use support::{Scratch, Tar, docker_archive, gzip, survey};
use wharf_image::{Images, ImportOptions};
use wharf_model::ErrorKind;
use wharf_state::Database;

/// Runs one ignored test of this file in a mount namespace of its own, where it may mount what it likes.
fn in_own_mounts(test: &str) {
    let output = Command::new("unshare")
        .args(["-m", "--propagation", "private"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored", "--nocapture"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn mount(arguments: &[&OsStr]) {
    let status = Command::new("mount").args(arguments).status().unwrap();
    assert!(status.success(), "mount {arguments:?}");
}

#[test]
fn a_full_disk_fails_with_its_name_and_leaves_nothing() {
    in_own_mounts("full_disk_inside");
}

#[test]
#[ignore = "run by a_full_disk_fails_with_its_name_and_leaves_nothing"]
fn full_disk_inside() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("full");
    fs::create_dir(&root).unwrap();
    mount(
        &["-t", "tmpfs", "-o", "size=12m", "tmpfs"]
            .map(OsStr::new)
            .into_iter()
            .chain([root.as_os_str()])
            .collect::<Vec<_>>(),
    );
    // The state file lies elsewhere: what fails is the store.
    let db = Database::open(&dir.path().join("state.db")).unwrap();
    let images = Images::open(&root, db).unwrap();
    let free = || rustix::fs::statvfs(&root).unwrap().f_bavail;
    let at_start = free();
    // Incompressible, so that each of blob and files can be the one that does not fit.
    let mut noise = vec![0_u8; 9 << 20];
    let mut state = 1_u64;
    for byte in &mut noise {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        *byte = state.to_be_bytes()[0];
    }
    let zeros = vec![0_u8; 30 << 20];
    for content in [&noise, &zeros] {
        let layer = Tar::new().file("small", b"x").file("large", content).finish();
        for stream in [layer.clone(), gzip(&layer)] {
            let import = images.import(&mut &stream[..], ImportOptions::default()).unwrap_err();
            let load = images.load(&mut &docker_archive("a:1", &[&layer])[..], &mut |_| {}).unwrap_err();
            for error in [import, load] {
                assert_eq!(error.kind(), ErrorKind::Exhausted, "{error}");
                assert!(error.to_string().contains("no space left on device"), "{error}");
                assert!(
                    error.to_string().contains(root.to_str().unwrap()) || error.to_string().contains("large"),
                    "{error}"
                );
            }
            images.collect().unwrap();
            assert!(free().abs_diff(at_start) <= 4, "blocks are lost: {} of {at_start} are free", free());
            assert!(images.list().unwrap().is_empty());
        }
    }
    // And it goes on working.
    images.import(&mut &Tar::new().file("f", b"x").finish()[..], ImportOptions::default()).unwrap();
}

#[test]
fn the_kernel_merges_layers_as_they_were_meant() {
    in_own_mounts("overlay_inside");
}

#[test]
#[ignore = "run by the_kernel_merges_layers_as_they_were_meant"]
fn overlay_inside() {
    for scratch in Scratch::of_each_format() {
        let base = Tar::new()
            .header(&support::Header::new("./", b'5').mode(0o711))
            .dir("keep")
            .file("keep/a", b"base")
            .file("keep/gone", b"base")
            .dir("opaque")
            .file("opaque/old", b"base")
            .dir("replaced")
            .file("replaced/old", b"base")
            .file("file", b"base");
        let middle = Tar::new()
            .file("keep/.wh.gone", b"")
            .dir("opaque")
            .file("opaque/.wh..wh..opq", b"")
            .file("opaque/new", b"middle")
            .file(".wh.replaced", b"")
            .file("file", b"middle");
        let top = Tar::new()
            .dir("replaced")
            .file("replaced/new", b"top")
            .symlink("file", "keep/a")
            .file("keep/b/c", b"top");
        let layers = [base.finish(), middle.finish(), top.finish()];
        let archive = docker_archive("x:1", &layers.each_ref().map(|layer| &layer[..]));
        let id = scratch.load(&archive).unwrap()[0].id;
        let mounts = scratch.images.create_snapshot("c", &id).unwrap();
        let target = scratch.dir.path().join("merged");
        fs::create_dir(&target).unwrap();
        let path = |name: &str| mounts.base.join(name).to_str().unwrap().to_owned();
        let lower: Vec<String> = mounts.lower.iter().map(|name| path(name)).collect();
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            lower.join(":"),
            path(&mounts.upper),
            path(&mounts.work)
        );
        mount(
            &["-t", "overlay", "overlay", "-o", &options]
                .map(OsStr::new)
                .into_iter()
                .chain([target.as_os_str()])
                .collect::<Vec<_>>(),
        );

        let merged = survey(&target);
        let names: Vec<&str> = merged.keys().filter_map(|path| path.to_str()).collect();
        assert_eq!(
            names,
            [
                "",
                "file",
                "keep",
                "keep/a",
                "keep/b",
                "keep/b/c",
                "opaque",
                "opaque/new",
                "replaced",
                "replaced/new"
            ]
        );
        assert_eq!(merged[Path::new("")].mode, 0o711);
        assert_eq!(merged[Path::new("file")].kind, 'l');
        fs::write(target.join("keep/a"), "changed").unwrap();
        fs::remove_file(target.join("opaque/new")).unwrap();
        assert!(Command::new("umount").arg(&target).status().unwrap().success());
        assert_eq!(fs::read(mounts.base.join(&mounts.lower[2]).join("keep/a")).unwrap(), b"base");
        assert_eq!(scratch.images.snapshot_size("c").unwrap(), 7);
    }
}

#[test]
fn rt_28_removal_crosses_no_mount() {
    in_own_mounts("mounts_inside");
}

#[test]
#[ignore = "run by rt_28_removal_crosses_no_mount"]
fn mounts_inside() {
    let scratch = Scratch::new();
    let id = scratch.import(&Tar::new().file("f", b"x").finish()).unwrap();
    let mounts = scratch.images.create_snapshot("c", &id).unwrap();
    let upper = mounts.base.join(&mounts.upper);
    // As after an unmount that failed: a bind of something precious is still in there, beside ordinary files.
    fs::create_dir_all(upper.join("a/volume")).unwrap();
    fs::write(upper.join("a/file"), "").unwrap();
    fs::write(upper.join("b"), "").unwrap();
    mount(&[OsStr::new("--bind"), scratch.canary().as_os_str(), upper.join("a/volume").as_os_str()]);
    scratch.images.remove_snapshot("c").unwrap();
    let error = scratch.images.collect().unwrap_err().to_string();
    assert!(error.contains("volume"), "{error}");
    scratch.check_canary("removal of a directory with a mount in it");
    // The rest is gone, and once the mount is, so is that.
    let trash = scratch.data().join("snapshots/.trash");
    let left: Vec<PathBuf> = survey(&trash)
        .into_keys()
        .filter(|path| path.ends_with("file") && !path.ends_with("dir/file") || path.ends_with("b"))
        .collect();
    assert_eq!(left, Vec::<PathBuf>::new());
    let volume = fs::read_dir(&trash).unwrap().next().unwrap().unwrap().path().join("fs/a/volume");
    assert!(Command::new("umount").arg(volume).status().unwrap().success());
    scratch.images.collect().unwrap();
    assert_eq!(fs::read_dir(&trash).unwrap().count(), 0);
}

/// Exchanges a directory and a link to the canary as fast as it can until told to stop.
fn swap(directory: &Path, link: &Path, stop: &AtomicBool) -> u64 {
    let mut swaps = 0;
    while !stop.load(Ordering::Relaxed) {
        if renameat_with(CWD, directory, CWD, link, RenameFlags::EXCHANGE).is_ok() {
            swaps += 1;
        }
    }
    swaps
}

#[test]
fn rt_28_removal_follows_no_link_that_is_swapped_in() {
    let scratch = Scratch::new();
    let work = scratch.dir.path().join("work");
    fs::create_dir(&work).unwrap();
    let mut swaps = 0;
    // As seen from where the link is swapped in.
    for target in [scratch.canary(), PathBuf::from("../../canary"), PathBuf::from("../../canary/")] {
        let stop = AtomicBool::new(false);
        swaps += std::thread::scope(|scope| {
            let swapper = scope.spawn(|| swap(&work.join("tree/d"), &work.join("link"), &stop));
            let directory = wharf_linux::hostfs::open_dir(&work).unwrap();
            // A build without the guard loses files in one of some ten thousand attempts.
            let begun = Instant::now();
            for _ in 0..12_000 {
                if begun.elapsed() > Duration::from_secs(8) {
                    break;
                }
                // Made elsewhere and moved into place, so that only the removal meets the swapped link. What the
                // canary has, the tree has too: a link that is followed costs the canary its files.
                fs::create_dir_all(work.join("new/d/dir")).unwrap();
                fs::write(work.join("new/d/secret"), "x").unwrap();
                fs::write(work.join("new/d/dir/file"), "x").unwrap();
                let _ = std::os::unix::fs::symlink(&target, work.join("link"));
                if fs::rename(work.join("new"), work.join("tree")).is_err() {
                    wharf_linux::hostfs::remove_dir_all(&work.join("new")).unwrap();
                }
                // It may report what it could not remove while the tree moved; it must not remove anything else.
                let _ = wharf_linux::tree::remove(directory.as_fd(), OsStr::new("tree"));
                let _ = wharf_linux::hostfs::remove_dir_all(&work.join("link"));
            }
            stop.store(true, Ordering::Relaxed);
            swapper.join().unwrap()
        });
        for name in ["tree", "link"] {
            wharf_linux::hostfs::remove_dir_all(&work.join(name)).unwrap();
        }
        scratch.check_canary("removal of a tree that changes");
    }
    assert!(swaps > 2000, "only {swaps} swaps happened: the race was not tried");
}

#[test]
fn im_05_unpacking_stays_inside_while_the_tree_changes() {
    let scratch = Scratch::new();
    let canary = scratch.canary();
    let mut tar = Tar::new().dir("d").dir("d/dir").file("z", b"x");
    for number in 0..300 {
        // Each entry in another directory than the one before, so that each is looked up anew.
        tar = tar
            .file(&format!("d/f{number}"), b"x")
            .header(&support::Header::new("d/dir", b'5').mode(0o777).owner(7, 7))
            .file(&format!("d/dir/f{number}"), b"x")
            .hardlink(&format!("d/h{number}"), "d/secret")
            .file("d/secret", b"x")
            .symlink(&format!("d/dir/l{number}"), "x")
            .file("d/.wh.link", b"");
    }
    // It ends in an error: nothing is synced, the next attempt begins at once.
    let tar = tar.dir("..").finish();
    let mut swaps = 0;
    for target in [canary.clone(), PathBuf::from("../../../../canary"), PathBuf::from("../../../../canary/")]
    {
        let stop = AtomicBool::new(false);
        let snapshots = scratch.data().join("snapshots");
        let link = scratch.dir.path().join("swap");
        swaps += std::thread::scope(|scope| {
            let swapper = scope.spawn(|| {
                let mut swaps = 0;
                while !stop.load(Ordering::Relaxed) {
                    let _ = wharf_linux::hostfs::remove_dir_all(&link);
                    let _ = std::os::unix::fs::symlink(&target, &link);
                    let numbers = fs::read_dir(&snapshots).unwrap().flatten();
                    let newest =
                        numbers.filter_map(|entry| entry.file_name().to_str()?.parse::<u64>().ok()).max();
                    let Some(newest) = newest else { continue };
                    let directory = snapshots.join(format!("{newest}/fs/d"));
                    for _ in 0..500 {
                        let swapped = renameat_with(CWD, &directory, CWD, &link, RenameFlags::EXCHANGE);
                        swaps += u64::from(swapped.is_ok());
                    }
                }
                swaps
            });
            for _ in 0..40 {
                scratch.import(&tar).unwrap_err();
            }
            stop.store(true, Ordering::Relaxed);
            swapper.join().unwrap()
        });
        wharf_linux::hostfs::remove_dir_all(&link).unwrap();
        scratch.check_canary("unpacking into a tree that changes");
    }
    assert!(swaps > 1000, "only {swaps} swaps happened: the race was not tried");
}
