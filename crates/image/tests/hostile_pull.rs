//! The rows IM-* through a pull: a registry that sends what nobody should keep.
#![allow(clippy::unwrap_used, reason = "a failing helper is a failing test")]

mod support;

use std::time::{Duration, Instant};

use support::fake::{Fake, INDEX, MANIFEST};
use support::{Scratch, Tar, config_of, evil, survey, xattrs_of};
use wharf_image::{Error, Limits, PullRequest, Pulled};
use wharf_registry::{Repository, Timeouts};

const PATIENCE: Duration = Duration::from_secs(60);
const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";

async fn pull_from(
    repository: Repository,
    scratch: &Scratch,
    fake: &Fake,
    tag: &str,
) -> Result<Pulled, Error> {
    let reference = fake.reference(tag);
    let request = PullRequest { reference, platform: None, repository, identity: None };
    let transfer = scratch.images.pull(request);
    tokio::time::timeout(PATIENCE, transfer.result()).await.expect("a pull ends")
}

async fn pull(scratch: &Scratch, fake: &Fake, tag: &str) -> Result<Pulled, Error> {
    pull_from(fake.repository(), scratch, fake, tag).await
}

/// Nothing is there but what a next attempt goes on with, once the workers of other layers have noticed the end.
fn check_only_downloads(scratch: &Scratch, what: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        scratch.images.collect().unwrap();
        let left: Vec<_> =
            scratch.leftovers().into_iter().filter(|path| !path.starts_with("content/ingest")).collect();
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "after {what}: {left:?}");
        std::thread::yield_now();
    }
}

/// Pulls each shape: as an import sees it, a pull sees it, and the canary sees nothing.
async fn pull_as_import(shapes: impl Fn(&str) -> Vec<(String, Tar)>) {
    for scratch in Scratch::of_each_format() {
        let fake = Fake::start();
        for (number, (name, tar)) in shapes(scratch.canary().to_str().unwrap()).into_iter().enumerate() {
            let (tag, tar) = (format!("t{number}"), tar.finish());
            let imported = scratch.import(&tar);
            let seen = imported.as_ref().ok().map(|id| survey(&scratch.top(id)));
            if let Ok(id) = &imported {
                scratch.images.remove(&id.to_string(), false, &|_| Vec::new()).unwrap();
                scratch.images.collect().unwrap();
            }
            fake.image(&tag, &[&tar]);
            let pulled = pull(&scratch, &fake, &tag).await;
            scratch.check_canary(&format!("pull of {name}"));
            assert_eq!(imported.is_ok(), pulled.is_ok(), "{name}: {imported:?} {pulled:?}");
            if let Ok(pulled) = pulled {
                let mut files = survey(&scratch.top(&pulled.id));
                let mut seen = seen.unwrap();
                // Nobody gave it a time.
                for tree in [&mut files, &mut seen] {
                    tree.values_mut().for_each(|file| file.mtime = (0, 0));
                }
                assert_eq!(seen, files, "{name}");
                scratch.images.remove(&pulled.id.to_string(), true, &|_| Vec::new()).unwrap();
            }
            // Behind an honest layer it is no better.
            fake.image(&tag, &[&Tar::new().dir("d").file("f", b"1").finish(), &tar]);
            let pulled = pull(&scratch, &fake, &tag).await;
            scratch.check_canary(&format!("pull of {name} as a second layer"));
            if let Ok(pulled) = pulled {
                scratch.images.remove(&pulled.id.to_string(), true, &|_| Vec::new()).unwrap();
            }
        }
        check_only_downloads(&scratch, "hostile layers");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn im_01_no_pulled_entry_reaches_outside_the_root() {
    pull_as_import(evil::traversals).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn im_02_a_pull_never_replaces_the_root() {
    pull_as_import(|_| evil::roots()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn im_03_metadata_of_a_pulled_layer_stays_with_its_entry() {
    pull_as_import(evil::metadata).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn im_06_whiteouts_of_a_pulled_layer_escape_nowhere() {
    pull_as_import(|_| evil::whiteouts()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn im_05_layers_with_the_same_parents_are_unpacked_at_once_and_stay_inside() {
    for scratch in Scratch::of_each_format() {
        let fake = Fake::start();
        let out = scratch.canary().to_str().unwrap().to_owned();
        // Each layer turns the directory of the others into a link, and goes through it.
        let layers: Vec<Vec<u8>> = (0..12)
            .map(|number| {
                let tar = Tar::new().dir("d").file(&format!("d/{number}"), b"x");
                let tar = match number % 4 {
                    0 => tar.symlink("d", &out),
                    2 => tar.symlink("d", "../../../../canary"),
                    _ => tar,
                };
                tar.file(&format!("d/secret{number}"), b"x").finish()
            })
            .collect();
        for round in 0..3 {
            let tags: Vec<String> = (0..4).map(|tag| format!("r{round}-{tag}")).collect();
            for (turn, tag) in tags.iter().enumerate() {
                let mut layers: Vec<&[u8]> = layers.iter().map(Vec::as_slice).collect();
                layers.rotate_left(turn);
                fake.image(tag, &layers);
            }
            let pulls =
                futures_util::future::join_all(tags.iter().map(|tag| pull(&scratch, &fake, tag))).await;
            scratch.check_canary("parallel pulls");
            for pulled in pulls.into_iter().flatten() {
                scratch.images.remove(&pulled.id.to_string(), true, &|_| Vec::new()).unwrap();
            }
        }
        check_only_downloads(&scratch, "parallel pulls");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn im_07_overlays_attributes_of_a_pulled_layer_are_dropped() {
    for scratch in Scratch::of_each_format() {
        let fake = Fake::start();
        fake.image(
            "1",
            &[&Tar::new().file("other", b"secret").finish(), &evil::overlay_attributes().finish()],
        );
        let files = scratch.top(&pull(&scratch, &fake, "1").await.unwrap().id);
        for (path, kind) in [("d", 'd'), ("d/f", 'f')] {
            let xattrs = xattrs_of(&files.join(path), kind);
            assert_eq!(xattrs.keys().collect::<Vec<_>>(), ["user.kept"], "{path}");
        }
    }
}

/// The largest resident size of this process so far, in bytes.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap() * 1024
}

/// Runs a test of this file alone in a process of its own, whose memory is nobody else's; true in that process.
fn alone(test: &str) -> bool {
    if std::env::var_os("WHARF_TEST_ALONE").is_some() {
        return true;
    }
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env("WHARF_TEST_ALONE", "1")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    false
}

#[test]
fn im_08_pulled_bombs_are_stopped_in_little_memory_and_leave_nothing() {
    if !alone("im_08_pulled_bombs_are_stopped_in_little_memory_and_leave_nothing") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let limits = Limits { ratio_from: 256 << 20, layer_bytes: 1 << 30, ..Limits::default() };
        let (scratch, fake) = (Scratch::with(limits), Fake::start());
        let tar = Tar::new().file("f", &[7; 100_000]).finish();
        let config = config_of(&[&tar]);
        let too_deep = support::gzip(&evil::deep(400));
        let bombs = [
            (evil::gzip_bomb(2560), GZIP, "size of a layer"),
            (evil::gzip_bomb(200), GZIP, "taken for a bomb"),
            (evil::zstd_frame(&tar, 31), ZSTD, "larger window"),
            (support::gzip(&evil::pebibyte()), GZIP, "size of a layer"),
            (too_deep, GZIP, "names of directories"),
        ];
        let before = peak();
        for (number, (blob, kind, reason)) in bombs.into_iter().enumerate() {
            let tag = format!("bomb{number}");
            fake.image_of_blobs(&tag, &config, &[blob], kind);
            let error = pull(&scratch, &fake, &tag).await.unwrap_err();
            assert!(error.to_string().contains(reason), "{tag}: {error}");
            // Not even the download stays: it is what it was meant to be.
            scratch.check_empty(&tag);
        }
        let grown = (peak() - before) >> 20;
        assert!(grown < 128, "{grown} MiB");
        for (tag, blob, kind) in [
            ("frames", evil::empty_frames(&tar), ZSTD),
            ("window", evil::zstd_frame(&tar, 23), ZSTD),
            ("members", [support::gzip(b"").repeat(20_000), support::gzip(&tar)].concat(), GZIP),
        ] {
            fake.image_of_blobs(tag, &config, &[blob], kind);
            let pulled = pull(&scratch, &fake, tag).await.unwrap();
            scratch.images.remove(&pulled.id.to_string(), true, &|_| Vec::new()).unwrap();
            scratch.check_empty(tag);
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn im_08_deep_directories_are_bounded_in_each_format() {
    for scratch in Scratch::of_each_format() {
        // What one entry implies is no reason yet.
        let id = scratch.import(&evil::deep(1)).unwrap();
        scratch.images.remove(&id.to_string(), false, &|_| Vec::new()).unwrap();
        let error = scratch.import(&evil::deep(400)).unwrap_err();
        assert!(matches!(error, Error::Limit { .. }), "{error}");
        scratch.check_empty("deep directories");
    }
}

fn impatient(fake: &Fake) -> Repository {
    let soon = Duration::from_millis(400);
    let backoff = Duration::from_millis(1);
    fake.repository_with(Timeouts { idle: soon, document: soon, backoff, ..Timeouts::default() })
}

#[tokio::test(flavor = "multi_thread")]
async fn im_09_a_drip_of_anything_ends_the_pull() {
    let (scratch, fake) = (Scratch::new(), Fake::start());
    fake.image("1", &[&Tar::new().file("f", &[1; 3000]).finish()]);
    for what in ["manifests/", "config", "layer"] {
        fake.tamper(move |path, answer| {
            let is_config = answer.body.starts_with(b"{");
            let hit = match what {
                "manifests/" => path.starts_with(what),
                "config" => path.starts_with("blobs/") && is_config,
                _ => path.starts_with("blobs/") && !is_config,
            };
            // Faster than one byte a second, so that each wait alone would be short enough.
            answer.drip = hit.then_some(Duration::from_millis(50));
        });
        let error = pull_from(impatient(&fake), &scratch, &fake, "1").await.unwrap_err();
        assert!(matches!(error, Error::Shared(_)), "{what}: {error:?}");
        check_only_downloads(&scratch, what);
    }
    fake.honest();
    pull(&scratch, &fake, "1").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn im_09_documents_of_too_many_parts_are_refused_before_any_blob_is_asked_for() {
    let (scratch, fake) = (Scratch::new(), Fake::start());
    let tar = Tar::new().file("f", b"x").finish();
    let config = config_of(&[&tar]);
    let config_digest = fake.blob(config.as_bytes());
    let layer = fake.blob(&support::gzip(&tar));
    let manifest_of = |layers: usize| {
        let one = format!(r#"{{"mediaType":"{GZIP}","digest":"{layer}","size":100}}"#);
        format!(
            r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{config_digest}","size":{}}},"layers":[{}]}}"#,
            config.len(),
            vec![one; layers].join(",")
        )
    };
    fake.manifest("many", MANIFEST, manifest_of(25_000).as_bytes());
    fake.manifest("some", MANIFEST, manifest_of(200).as_bytes());
    fake.manifest("million", MANIFEST, manifest_of(1_000_000).as_bytes());
    let child = format!(r#"{{"mediaType":"{MANIFEST}","digest":"{layer}","size":1}}"#);
    let index_of = |children: usize| {
        format!(
            r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[{}]}}"#,
            vec![&*child; children].join(",")
        )
    };
    fake.manifest("index", INDEX, index_of(100_000).as_bytes());
    fake.manifest("smaller-index", INDEX, index_of(24_000).as_bytes());
    let deep = format!("{}{}", "[".repeat(200_000), "]".repeat(200_000));
    fake.manifest(
        "deep",
        MANIFEST,
        manifest_of(1).replace(r#""layers":["#, &format!(r#""layers":[{deep},"#)).as_bytes(),
    );
    let gigabyte = vec![b' '; 64 << 20];
    fake.manifest("large", MANIFEST, &gigabyte);
    for (tag, reason) in [
        ("many", "number of layers"),
        ("some", "200 layers and its config describes 1"),
        ("million", "4194304"),
        ("index", "4194304"),
        ("smaller-index", "no matching manifest"),
        ("deep", "malformed"),
        ("large", "4194304"),
    ] {
        fake.forget_requests();
        let error = pull(&scratch, &fake, tag).await.unwrap_err();
        assert!(error.to_string().contains(reason), "{tag}: {error}");
        let layer = format!("blobs/{layer}");
        assert!(!fake.blobs_asked_for().iter().any(|(path, _)| *path == layer), "{tag}");
        scratch.check_empty(tag);
    }
    // A layer that cannot be is not begun.
    fake.manifest(
        "huge",
        MANIFEST,
        manifest_of(1).replace(r#""size":100"#, r#""size":18446744073709551615"#).as_bytes(),
    );
    fake.forget_requests();
    let error = pull(&scratch, &fake, "huge").await.unwrap_err();
    assert!(error.to_string().contains("the size of a layer"), "{error}");
    assert_eq!(fake.blobs_asked_for().len(), 1, "the config alone");
    // A config that is deep.
    let deep = config.replacen('{', &format!(r#"{{"config":{deep},"#), 1);
    fake.image_with("deep-config", &deep, &[&tar]);
    assert!(pull(&scratch, &fake, "deep-config").await.is_err());
    scratch.check_empty("a deep config");
}

#[tokio::test(flavor = "multi_thread")]
async fn im_10_a_pulled_document_has_one_reading() {
    let (scratch, fake) = (Scratch::new(), Fake::start());
    let tar = Tar::new().file("f", b"x").finish();
    let digest = fake.image("1", &[&tar]);
    let size = fake.size_of(&digest);
    let child = format!(r#"{{"mediaType":"{MANIFEST}","digest":"{digest}","size":{size}}}"#);
    let manifest = fake.document(&digest);
    for (tag, media_type, body) in [
        ("both", MANIFEST, manifest.replacen('{', &format!(r#"{{"manifests":[{child}],"#), 1)),
        (
            "both-index",
            INDEX,
            manifest.replacen('{', &format!(r#"{{"manifests":[{child}],"#), 1).replace(MANIFEST, INDEX),
        ),
        ("two-layers", MANIFEST, manifest.replacen('{', r#"{"layers":[],"#, 1)),
        ("two-types", MANIFEST, manifest.replacen('{', &format!(r#"{{"mediaType":"{INDEX}","#), 1)),
        ("two-configs", MANIFEST, manifest.replacen('{', &format!(r#"{{"config":{child},"#), 1)),
        ("other-case", MANIFEST, manifest.replacen('{', r#"{"Layers":[],"#, 1)),
        ("other-case-index", MANIFEST, manifest.replacen('{', r#"{"Manifests":[],"#, 1)),
        ("folded", MANIFEST, manifest.replacen('{', "{\"layer\u{17f}\":[],", 1)),
        ("other-type", MANIFEST, manifest.replace(MANIFEST, INDEX)),
        (
            "two-digests",
            MANIFEST,
            manifest.replacen(r#""digest":"#, &format!(r#""digest":"{digest}","digest":"#), 1),
        ),
    ] {
        fake.manifest(tag, media_type, body.as_bytes());
        fake.forget_requests();
        let error = pull(&scratch, &fake, tag).await.unwrap_err();
        assert_eq!(fake.blobs_asked_for(), [], "{tag}: {error}");
    }
    scratch.check_empty("documents of two readings");
    // The same bytes under another type: refused, before the honest pull and after it.
    for _ in 0..2 {
        for flipped in [INDEX, "application/vnd.docker.distribution.manifest.v2+json", "text/html"] {
            fake.tamper(move |path, answer| {
                if path.starts_with("manifests/") {
                    flipped.clone_into(&mut answer.media_type);
                }
            });
            assert!(pull(&scratch, &fake, "1").await.is_err(), "{flipped}");
        }
        fake.honest();
        assert_eq!(pull(&scratch, &fake, "1").await.unwrap().digest, digest);
    }
}
