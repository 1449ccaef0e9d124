//! The rows IM-* of the attack catalogue: archives that want out, in, or more than their share.
#![allow(clippy::unwrap_used, reason = "a failing helper is a failing test")]

mod support;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use support::{Header, Scratch, Tar, docker_archive, docker_archive_of, evil, gzip, octal, xattrs_of};
use wharf_image::{Error, Limits};

#[test]
fn im_01_no_entry_reaches_outside_the_root() {
    for scratch in Scratch::of_each_format() {
        let canary = scratch.canary();
        let shapes = evil::traversals(canary.to_str().unwrap());
        assert!(shapes.len() >= 60, "{}", shapes.len());
        for (name, tar) in shapes {
            let tar = tar.finish();
            let imported = scratch.import(&tar);
            scratch.check_canary(&format!("import of {name}"));
            if let Ok(id) = &imported {
                // What was unpacked has no second name outside, either.
                assert!(
                    !scratch.top(id).join("h").exists()
                        || fs::symlink_metadata(scratch.top(id).join("h")).unwrap().ino()
                            != fs::metadata(canary.join("secret")).unwrap().ino(),
                    "{name}"
                );
                scratch.images.remove(&id.to_string(), false, &|_| Vec::new()).unwrap();
            }
            let loaded = scratch.load(&docker_archive("evil:1", &[&tar]));
            scratch.check_canary(&format!("load of {name}"));
            assert_eq!(imported.is_ok(), loaded.is_ok(), "{name}: {imported:?} {loaded:?}");
            if loaded.is_ok() {
                scratch.images.remove("evil:1", false, &|_| Vec::new()).unwrap();
            }
            scratch.check_canary(&format!("removal of {name}"));
        }
        scratch.check_empty("hostile archives");
    }
}

#[test]
fn im_01_an_absolute_link_leads_to_the_roots_own_file() {
    for scratch in Scratch::of_each_format() {
        let tar = Tar::new().dir("etc").symlink("l", "/etc").file("l/passwd", b"x").finish();
        let id = scratch.import(&tar).unwrap();
        assert_eq!(fs::read(scratch.top(&id).join("etc/passwd")).unwrap(), b"x");
        // Names with a leading slash are beneath the root as well.
        let id = scratch.import(&Tar::new().file("/abs/file", b"y").finish()).unwrap();
        assert_eq!(fs::read(scratch.top(&id).join("abs/file")).unwrap(), b"y");
    }
}

#[test]
fn im_02_the_root_is_never_replaced() {
    for scratch in Scratch::of_each_format() {
        for name in [".", "/", "./", "//", "./."] {
            for typeflag in [b'0', b'1', b'2', b'3', b'6'] {
                let tar = Tar::new().header(&Header::new(name, typeflag).link("/tmp")).finish();
                let error = scratch.import(&tar).unwrap_err();
                assert!(matches!(error, Error::Archive { .. }), "{name:?} {typeflag}: {error}");
            }
            let tar =
                Tar::new().header(&Header::new(name, b'5').mode(0o700).owner(5, 6)).file("f", b"").finish();
            let id = scratch.import(&tar).unwrap();
            let root = fs::metadata(scratch.top(&id)).unwrap();
            assert_eq!((root.mode() & 0o7777, root.uid(), root.gid()), (0o700, 5, 6), "{name:?}");
            // The writable directory above shows the same root.
            let mounts = scratch.images.create_snapshot("s", &id).unwrap();
            let upper = fs::metadata(mounts.base.join(mounts.upper)).unwrap();
            assert_eq!((upper.mode() & 0o7777, upper.uid(), upper.gid()), (0o700, 5, 6), "{name:?}");
            scratch.images.remove_snapshot("s").unwrap();
        }
        assert!(scratch.import(&Tar::new().header(&Header::new("", b'5')).finish()).is_err());
        // In a second layer too.
        let base = Tar::new().dir("./").file("keep", b"x").finish();
        let evil = Tar::new().symlink(".", "/tmp").file("keep", b"y").finish();
        assert!(scratch.load(&docker_archive("a:1", &[&base, &evil])).is_err());
        scratch.check_canary("entries for the root");
    }
}

#[test]
fn im_03_metadata_stays_with_the_entry_that_has_it() {
    for scratch in Scratch::of_each_format() {
        let canary = scratch.canary().to_str().unwrap().to_owned();
        let capability: &[u8] = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
        for target in [canary.clone(), format!("{canary}/dir"), format!("{canary}/secret")] {
            for first in [b'2', b'5'] {
                for second in [b'5', b'0', b'2', b'6'] {
                    let header =
                        |typeflag: u8| Header::new("x", typeflag).link(&target).mode(0o6777).owner(7, 7);
                    let records: &[(&str, &[u8])] =
                        &[("SCHILY.xattr.security.capability", capability), ("SCHILY.xattr.user.x", b"y")];
                    let tar =
                        Tar::new().pax(records).header(&header(first)).pax(records).header(&header(second));
                    let _ = scratch.import(&tar.finish());
                    scratch.check_canary(&format!("{first} then {second} on {target}"));
                }
            }
        }
        // And where it belongs, it arrives.
        let tar = Tar::new()
            .pax(&[("SCHILY.xattr.security.capability", capability), ("mtime", b"1234567890.123456789")])
            .header(&Header::new("f", b'0').mode(0o4755).owner(1000, 1001).size(1))
            .data(b"x")
            .finish();
        let id = scratch.import(&tar).unwrap();
        let file = scratch.top(&id).join("f");
        let metadata = fs::metadata(&file).unwrap();
        assert_eq!((metadata.mode() & 0o7777, metadata.uid(), metadata.gid()), (0o4755, 1000, 1001));
        assert_eq!((metadata.mtime(), metadata.mtime_nsec()), (1_234_567_890, 123_456_789));
        assert_eq!(xattrs_of(&file, 'f')[OsStr::new("security.capability")], capability);
    }
}

#[test]
fn im_06_whiteouts_become_overlays_and_escape_nowhere() {
    for scratch in Scratch::of_each_format() {
        let bad = [".wh.", ".wh..", ".wh...", ".wh./x", "a/.wh..wh.x", ".wh.a/b", "a/.wh../../x"];
        for name in bad {
            let error = scratch.import(&Tar::new().file(name, b"").finish()).unwrap_err();
            assert!(matches!(error, Error::Archive { .. }), "{name}: {error}");
        }
        let base = Tar::new()
            .dir("d")
            .file("d/a", b"1")
            .file("d/b", b"2")
            .dir("e")
            .file("e/x", b"3")
            .file("f", b"4")
            .finish();
        let top = Tar::new()
            .file("d/.wh.a", b"")
            .file("e/.wh..wh..opq", b"")
            .file("e/new", b"5")
            .file(".wh.f", b"")
            .dir("f")
            .file("g", b"6")
            .file(".wh.g", b"")
            .finish();
        let id = scratch.load(&docker_archive("w:1", &[&base, &top])).unwrap()[0].id;
        let files = scratch.top(&id);
        let hidden = fs::symlink_metadata(files.join("d/a")).unwrap();
        assert_eq!((hidden.mode() & 0o170_000, hidden.rdev()), (0o020_000, 0));
        let opaque =
            |name: &str| xattrs_of(&files.join(name), 'd').get(OsStr::new("trusted.overlay.opaque")).cloned();
        assert_eq!(opaque("e"), Some(b"y".to_vec()));
        // A directory in the place of a removed file must not show a lower directory through.
        assert_eq!(opaque("f"), Some(b"y".to_vec()));
        assert_eq!(opaque("d"), None);
        // A file of the same layer wins over its whiteout.
        assert_eq!(fs::read(files.join("g")).unwrap(), b"6");
        scratch.check_canary("whiteouts");
    }
}

#[test]
fn im_06_an_opaque_root_hides_all_layers_below() {
    for scratch in Scratch::of_each_format() {
        let base = Tar::new().file("old", b"1").finish();
        let top = Tar::new().file(".wh..wh..opq", b"").file("new", b"2").finish();
        let id = scratch.load(&docker_archive("o:1", &[&base, &top])).unwrap()[0].id;
        let mounts = scratch.images.create_snapshot("s", &id).unwrap();
        assert_eq!(mounts.lower.len(), 1);
        assert!(mounts.base.join(&mounts.lower[0]).join("new").exists());
    }
}

#[test]
fn im_07_overlays_own_attributes_are_dropped() {
    for scratch in Scratch::of_each_format() {
        let tar = evil::overlay_attributes().finish();
        let id = scratch.import(&tar).unwrap();
        let files = scratch.top(&id);
        for (path, kind) in [("d", 'd'), ("d/f", 'f')] {
            let xattrs = xattrs_of(&files.join(path), kind);
            assert_eq!(xattrs.keys().collect::<Vec<_>>(), [OsStr::new("user.kept")], "{path}");
        }
    }
}

#[test]
fn im_08_bombs_are_stopped_and_leave_nothing() {
    let limits = Limits { ratio_from: 16 << 20, layer_bytes: 128 << 20, entries: 1000, ..Limits::default() };
    let scratch = Scratch::with(limits);
    let bomb = evil::gzip_bomb(2560);
    let error = scratch.import(&bomb).unwrap_err();
    assert!(error.to_string().contains("the unpacked size of a layer"), "{error}");
    let error = scratch.import(&evil::gzip_bomb(30)).unwrap_err();
    assert!(error.to_string().contains("taken for a bomb"), "{error}");

    // A window of 2 GiB is refused, one of 8 MiB is not.
    let tar = Tar::new().file("f", &[7; 100_000]).finish();
    let error = scratch.import(&evil::zstd_frame(&tar, 31)).unwrap_err();
    assert!(matches!(error, Error::Archive { .. }), "{error}");
    scratch.import(&evil::zstd_frame(&tar, 23)).unwrap();

    // A sparse file that claims a pebibyte.
    let error = scratch.import(&evil::pebibyte()).unwrap_err();
    assert!(matches!(error, Error::Limit { .. }), "{error}");

    let many = (0..1001).fold(Tar::new(), |tar, number| tar.file(&format!("f{number}"), b""));
    assert!(matches!(scratch.import(&many.finish()).unwrap_err(), Error::Limit { .. }));

    // Many empty members and frames are slow for some decoders; they are not for these.
    let mut empty: Vec<u8> = gzip(b"").repeat(20_000);
    empty.extend_from_slice(&gzip(&tar));
    scratch.import(&empty).unwrap();
    scratch.import(&evil::empty_frames(&tar)).unwrap();

    for image in scratch.images.list().unwrap() {
        scratch.images.remove(&image.id.to_string(), false, &|_| Vec::new()).unwrap();
    }
    scratch.check_empty("bombs");
}

#[test]
fn im_09_manifests_are_bounded() {
    let scratch = Scratch::with(Limits { layers: 100, ..Limits::default() });
    let large = format!("[{}]", " ".repeat(5 << 20));
    let error = scratch.load(&Tar::new().file("manifest.json", large.as_bytes()).finish()).unwrap_err();
    assert!(error.to_string().contains("more than the 4194304 a manifest may have"), "{error}");

    let layer = Tar::new().file("f", b"").finish();
    let layers: Vec<&[u8]> = std::iter::repeat_n(&layer[..], 101).collect();
    assert!(matches!(scratch.load(&docker_archive("a:1", &layers)).unwrap_err(), Error::Limit { .. }));

    let descriptor = format!(
        r#"{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{}","size":1}}"#,
        wharf_content::digest_of(b"")
    );
    let index = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, vec![descriptor; 20_000].join(","));
    let tar = Tar::new()
        .file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)
        .file("index.json", index.as_bytes());
    assert!(matches!(scratch.load(&tar.finish()).unwrap_err(), Error::Limit { .. }));
    scratch.check_empty("large manifests");
}

#[test]
fn im_11_nothing_is_used_before_its_digest_is_checked() {
    for scratch in Scratch::of_each_format() {
        let layer = Tar::new().file("f", b"good").finish();
        let evil = Tar::new().file("f", b"evil").finish();
        let good = docker_archive("a:1", &[&layer]);
        // The layer is exchanged, the config is not.
        let at = good.windows(4).position(|window| window == b"good").unwrap();
        let mut swapped = good.clone();
        swapped[at..at + 4].copy_from_slice(b"evil");
        let error = scratch.load(&swapped).unwrap_err();
        assert!(
            matches!(&error, Error::Mismatch { found, .. } if *found == wharf_content::digest_of(&evil)),
            "{error}"
        );
        assert!(scratch.images.list().unwrap().is_empty());
        scratch.check_empty("a swapped layer");

        // A blob under another's digest in an image layout.
        let name = format!("blobs/sha256/{}", wharf_content::digest_of(&layer).hex());
        let error = scratch.load(&Tar::new().file(&name, &evil).finish()).unwrap_err();
        assert!(matches!(error, Error::Mismatch { .. }), "{error}");
        scratch.check_empty("a blob under a wrong name");
    }
}

#[test]
fn im_12_names_in_archives_are_held_to_the_rules() {
    for scratch in Scratch::of_each_format() {
        let layer = Tar::new().file("f", b"").finish();
        for name in ["../../x", "a/../b:1", "/abs:1", "UPPER:1", "a b", "a:.x", "a@sha256:x", "x/", ""] {
            let archive = docker_archive("a:1", &[&layer]);
            let text = String::from_utf8_lossy(&archive).into_owned();
            assert!(text.contains("\"a:1\""));
            let tar = Tar::new()
                .file("l.tar", &layer)
                .file("c.json", support::config_of(&[&layer]).as_bytes())
                .file(
                    "manifest.json",
                    format!(r#"[{{"Config":"c.json","RepoTags":[{name:?}],"Layers":["l.tar"]}}]"#).as_bytes(),
                );
            let error = scratch.load(&tar.finish()).unwrap_err();
            assert!(error.to_string().contains("the name"), "{name}: {error}");
        }
        for (config, layer_name) in [
            ("../c.json", "l.tar"),
            ("c.json", "../l.tar"),
            ("c.json", "/etc/passwd"),
            ("/etc/passwd", "l.tar"),
        ] {
            let tar = Tar::new()
                .file("l.tar", &layer)
                .file("c.json", support::config_of(&[&layer]).as_bytes())
                .file(
                    "manifest.json",
                    format!(r#"[{{"Config":{config:?},"RepoTags":null,"Layers":[{layer_name:?}]}}]"#)
                        .as_bytes(),
                );
            assert!(
                matches!(scratch.load(&tar.finish()).unwrap_err(), Error::Archive { .. }),
                "{config} {layer_name}"
            );
        }
        // Links of the archive lead to entries of the archive only.
        for target in ["../../../../../../etc/passwd", "/etc/passwd", "self"] {
            let tar = Tar::new()
                .symlink("self", target)
                .file("c.json", support::config_of(&[&layer]).as_bytes())
                .file("manifest.json", br#"[{"Config":"c.json","RepoTags":null,"Layers":["self"]}]"#);
            assert!(matches!(scratch.load(&tar.finish()).unwrap_err(), Error::Archive { .. }), "{target}");
        }
        // One name for two images, one entry twice.
        let other = Tar::new().file("g", b"").finish();
        let error = scratch.load(&docker_archive_of(&[("a:1", &[&layer]), ("a:1", &[&other])])).unwrap_err();
        assert!(error.to_string().contains("to two images"), "{error}");
        let twice = Tar::new().file("manifest.json", b"[]").file("./manifest.json", b"[]").finish();
        assert!(scratch.load(&twice).unwrap_err().to_string().contains("twice"));
        scratch.check_empty("archives with bad names");
    }
}

#[test]
fn im_12_ids_and_digests_of_archives_are_no_paths() {
    let scratch = Scratch::new();
    let layer = Tar::new().file("f", b"").finish();
    // Before 2016 directories were named after layers, by whoever wrote the archive.
    for id in ["../../x", "a/b", "x", "..", "", "/abs", "sha256:../x"] {
        let tar = Tar::new()
            .file(&format!("./{}/json", id.trim_start_matches("../")), b"{}")
            .file(&format!("./{}/layer.tar", id.trim_start_matches("../")), &layer)
            .file("repositories", format!(r#"{{"a":{{"1":{id:?}}}}}"#).as_bytes());
        let error = scratch.load(&tar.finish()).unwrap_err();
        assert!(matches!(error, Error::Archive { .. }), "{id}: {error}");
        let id_or_name = ["layer id", "\"..\""].iter().any(|part| error.to_string().contains(part));
        assert!(id_or_name, "{id}: {error}");
    }
    let good = wharf_content::digest_of(&layer).to_string();
    for (digest, annotation) in [
        ("sha256:../../../etc/passwd", "a:1"),
        ("../../etc/passwd", "a:1"),
        ("sha256:E3B0C44298FC1C149AFBF4C8996FB92427AE41E4649B934CA495991B7852B855", "a:1"),
        (&good, "../../x:1"),
        (&good, "a/../b:1"),
        (&good, "a/UPPER:1"),
    ] {
        let index = format!(
            r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{}","digest":"{digest}","size":1,"annotations":{{"io.containerd.image.name":"{annotation}"}}}}]}}"#,
            support::fake::MANIFEST
        );
        let tar = Tar::new()
            .file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)
            .file("index.json", index.as_bytes());
        let error = scratch.load(&tar.finish()).unwrap_err();
        let reason = if digest == good { "the name" } else { "index.json" };
        assert!(error.to_string().contains(reason), "{digest} {annotation}: {error}");
    }
    scratch.check_empty("archives with paths for ids");
}

#[test]
fn im_13_a_cut_or_damaged_stream_leaves_nothing_and_can_be_tried_again() {
    for scratch in Scratch::of_each_format() {
        let big: Vec<u8> = (0..60_000_u32).flat_map(u32::to_le_bytes).collect();
        let layer = Tar::new().dir("d").file("d/f", &big).symlink("l", "d/f").finish();
        let archive = docker_archive("a:1", &[&layer]);
        let whole = gzip(&archive);
        for cut in (0..archive.len() - 1024).step_by(8 * 1024 + 100) {
            let error = scratch.load(&archive[..cut]).unwrap_err();
            assert!(matches!(error, Error::Archive { .. }), "cut at {cut}: {error}");
        }
        for cut in (0..whole.len()).step_by(4 * 1024 + 33) {
            let error = scratch.load(&whole[..cut]).unwrap_err();
            assert!(matches!(error, Error::Archive { .. }), "cut at {cut}: {error}");
            let mut damaged = whole.clone();
            damaged[cut] ^= 0x55;
            assert!(scratch.load(&damaged).is_err(), "damaged at {cut}");
        }
        for cut in (0..layer.len()).step_by(512) {
            let imported = scratch.import(&layer[..cut]);
            // The second zero block alone may be missing.
            assert_eq!(imported.is_ok(), cut >= layer.len() - 512, "cut at {cut}");
            if let Ok(id) = imported {
                scratch.images.remove(&id.to_string(), false, &|_| Vec::new()).unwrap();
            }
        }
        scratch.check_empty("cut streams");
        scratch.load(&whole).unwrap();
        scratch.images.remove("a:1", false, &|_| Vec::new()).unwrap();
        scratch.check_empty("the whole stream");
    }
}

#[test]
fn cp_06_special_files_of_an_image_are_made_and_never_opened() {
    for scratch in Scratch::of_each_format() {
        let device = |name: &str, typeflag: u8, major: u64, minor: u64| Header {
            major: octal(major, 8),
            minor: octal(minor, 8),
            ..Header::new(name, typeflag)
        };
        let tar = Tar::new()
            .header(&device("null", b'3', 1, 3).mode(0o666).owner(3, 4))
            .header(&device("loop", b'4', 7, 200).mode(0o660))
            .header(&Header::new("fifo", b'6').mode(0o4640))
            .hardlink("null2", "null")
            .finish();
        let id = scratch.import(&tar).unwrap();
        let stat = |name: &str| fs::symlink_metadata(scratch.top(&id).join(name)).unwrap();
        assert_eq!(stat("null").rdev(), rustix::fs::makedev(1, 3));
        assert_eq!((stat("null").mode(), stat("null").uid(), stat("null").gid()), (0o020_666, 3, 4));
        assert_eq!(stat("null2").ino(), stat("null").ino());
        assert_eq!((stat("loop").mode(), stat("loop").rdev()), (0o060_660, rustix::fs::makedev(7, 200)));
        assert_eq!(stat("fifo").mode(), 0o014_640);
    }
}

#[test]
fn an_error_names_the_entry_and_the_reason() {
    for scratch in Scratch::of_each_format() {
        let error = scratch.import(&Tar::new().file("a/../../b", b"").finish()).unwrap_err().to_string();
        assert_eq!(error, r#"tar entry "a/../../b": a name with "..""#);
        let error = scratch.import(b"\xfd7zXZ\0\0\0").unwrap_err().to_string();
        assert!(error.starts_with("root filesystem: xz compression is not supported"), "{error}");
        let error = scratch.import(b"hello, world").unwrap_err().to_string();
        assert!(error.starts_with("invalid tar: "), "{error}");
        let error =
            scratch.import(&Tar::new().dir("d").file("f", b"").file("f/x", b"").finish()).unwrap_err();
        assert!(error.to_string().starts_with("tar entry \"f/x\": cannot "), "{error}");
        assert!(Path::new(&scratch.data()).exists());
    }
}
