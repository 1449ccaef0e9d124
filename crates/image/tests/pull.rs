//! Pulls from registries that are slow, broken or hostile.
#![allow(clippy::unwrap_used, reason = "a failing helper is a failing test")]

mod support;

use std::sync::{Arc, Barrier};
use std::time::Duration;

use support::fake::{Fake, INDEX};
use support::{Scratch, Tar, config_of};
use wharf_image::{Error, LayerState, Limits, Progress, PullRequest, Pulled};
use wharf_model::Reference;

const PATIENCE: Duration = Duration::from_secs(20);

fn request(fake: &Fake, reference: Reference) -> PullRequest {
    PullRequest { reference, platform: None, repository: fake.repository(), identity: None }
}

async fn pull(scratch: &Scratch, fake: &Fake, tag: &str) -> Result<Pulled, Error> {
    let transfer = scratch.images.pull(request(fake, fake.reference(tag)));
    tokio::time::timeout(PATIENCE, transfer.result()).await.expect("a pull ends")
}

/// Layers that do not compress to nothing.
fn layer(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    })
    .take(bytes)
    .collect();
    Tar::new().dir("data").file(&format!("data/{seed}"), &noise).finish()
}

/// Nothing is there but what a next attempt goes on with.
fn check_only_downloads(scratch: &Scratch, what: &str) {
    scratch.images.collect().unwrap();
    let left: Vec<_> =
        scratch.leftovers().into_iter().filter(|path| !path.starts_with("content/ingest")).collect();
    assert!(left.is_empty(), "after {what}: {left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pulled_is_there_under_both_names() {
    let (scratch, fake) = (Scratch::new(), Fake::start());
    let digest = fake.image("1", &[&layer(1, 5000), &layer(2, 7000)]);
    let pulled = pull(&scratch, &fake, "1").await.unwrap();
    assert_eq!((pulled.digest, pulled.up_to_date), (digest, false));
    let image = scratch.images.resolve(&fake.reference("1").familiar()).unwrap();
    assert_eq!(image.id, pulled.id);
    assert_eq!(image.repo_digests, [fake.reference("1").with_digest(digest)]);
    assert_eq!(std::fs::read(scratch.top(&image.id).join("data/2")).unwrap().len(), 7000);

    fake.forget_requests();
    assert!(pull(&scratch, &fake, "1").await.unwrap().up_to_date);
    assert_eq!(fake.blobs_asked_for(), [], "nothing is fetched twice");
    scratch.images.remove(&image.id.to_string(), true, &|_| Vec::new()).unwrap();
    scratch.check_empty("removal");
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_pulls_share_the_work_and_everyone_sees_it() {
    let (scratch, fake) = (Scratch::new(), Fake::start());
    fake.image("1", &[&layer(1, 50_000)]);
    let barrier = Arc::new(Barrier::new(2));
    let stall = Arc::clone(&barrier);
    let mut first = true;
    fake.tamper(move |path, answer| {
        if path.starts_with("blobs/") && answer.body.len() > 10_000 && std::mem::take(&mut first) {
            answer.stall = Some(Arc::clone(&stall));
        }
    });
    let one = scratch.images.pull(request(&fake, fake.reference("1")));
    tokio::task::spawn_blocking({
        let barrier = Arc::clone(&barrier);
        move || barrier.wait()
    })
    .await
    .unwrap();
    let mut two = scratch.images.pull(request(&fake, fake.reference("1")));
    tokio::task::spawn_blocking(move || barrier.wait()).await.unwrap();
    let mut news = Vec::new();
    while let Some(more) = two.progress().await {
        news.extend(more);
    }
    let (one, two) = (one.result().await.unwrap(), two.result().await.unwrap());
    assert_eq!(one, two);
    assert_eq!(news.first(), Some(&Progress::Started), "who comes late sees it from the beginning");
    assert!(matches!(news.last(), Some(Progress::Layer(_, LayerState::Pulled))));
    assert_eq!(fake.blobs_asked_for().len(), 2, "one layer and one config");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_images_fetch_a_layer_they_share_once() {
    let (scratch, fake) = (Scratch::new(), Fake::start());
    let (shared, one, two) = (layer(1, 300_000), layer(2, 100), layer(3, 100));
    fake.image("1", &[&shared, &one]);
    fake.image("2", &[&shared, &two]);
    let (digest, own) = (support::gzip(&shared), support::gzip(&one));
    let (id, own) = (wharf_content::digest_of(&digest).short(), wharf_content::digest_of(&own));
    // The first pull has the shared layer and is held up by its own one.
    let barrier = Arc::new(Barrier::new(2));
    let stall = Arc::clone(&barrier);
    fake.tamper(move |path, answer| {
        if path.ends_with(&own.hex()) {
            answer.stall = Some(Arc::clone(&stall));
        }
    });
    let mut first = scratch.images.pull(request(&fake, fake.reference("1")));
    let here = Progress::Layer(id, LayerState::Downloaded);
    while !first.progress().await.unwrap().contains(&here) {}
    let two = pull(&scratch, &fake, "2").await.unwrap();
    let wait = move || [barrier.wait(), barrier.wait()];
    tokio::task::spawn_blocking(wait).await.unwrap();
    assert_ne!(first.result().await.unwrap().id, two.id);
    let digest = wharf_content::digest_of(&support::gzip(&shared));
    let times = fake.blobs_asked_for().iter().filter(|(path, _)| path.ends_with(&digest.hex())).count();
    assert_eq!(times, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_nobody_waits_for_stops_and_the_next_one_goes_on_there() {
    let (scratch, fake) = (Scratch::new(), Fake::start());
    let big = layer(1, 400_000);
    fake.image("1", &[&big]);
    let barrier = Arc::new(Barrier::new(2));
    let stall = Arc::clone(&barrier);
    let mut first = true;
    fake.tamper(move |path, answer| {
        if path.starts_with("blobs/") && answer.body.len() > 10_000 && std::mem::take(&mut first) {
            answer.stall = Some(Arc::clone(&stall));
        }
    });
    let mut transfer = scratch.images.pull(request(&fake, fake.reference("1")));
    let half = u64::try_from(support::gzip(&big).len() / 2).unwrap();
    tokio::task::spawn_blocking({
        let barrier = Arc::clone(&barrier);
        move || barrier.wait()
    })
    .await
    .unwrap();
    // Until the half that was sent has arrived.
    loop {
        let news = transfer.progress().await.unwrap();
        let far = |news: &Progress| matches!(news, Progress::Layer(_, LayerState::Downloading(done, _)) if *done >= half);
        if news.iter().any(far) {
            break;
        }
    }
    drop(transfer);
    tokio::task::spawn_blocking(move || barrier.wait()).await.unwrap();
    fake.forget_requests();
    pull(&scratch, &fake, "1").await.unwrap();
    let asked = fake.blobs_asked_for();
    let from = asked.iter().map(|(_, from)| *from).max().unwrap();
    assert!(from > 0, "went on instead of beginning again: {asked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn im_13_a_stream_cut_anywhere_leaves_nothing_and_the_next_pull_works() {
    let (scratch, fake) = (Scratch::new(), Fake::start());
    fake.image("1", &[&layer(1, 40_000)]);
    let mut transferred = 0;
    for kilobyte in 0..40 {
        fake.tamper(move |path, answer| {
            if path.starts_with("blobs/") && answer.body.len() > 10_000 {
                // Of what is left, so that each attempt gets a little further.
                answer.cut = Some(if kilobyte % 2 == 0 { 1024 } else { 0 });
            }
        });
        let error = pull(&scratch, &fake, "1").await.unwrap_err();
        assert!(!matches!(error, Error::Damaged(_)), "{error}");
        check_only_downloads(&scratch, &format!("cut {kilobyte}"));
        transferred += if kilobyte % 2 == 0 { 1024 } else { 0 };
    }
    fake.honest();
    fake.forget_requests();
    pull(&scratch, &fake, "1").await.unwrap();
    let from = fake.blobs_asked_for().iter().map(|(_, from)| *from).max().unwrap();
    assert_eq!(from, transferred, "no byte was fetched twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn im_11_altered_bytes_are_refused_wherever_they_are() {
    let (scratch, fake) = (Scratch::new(), Fake::start());
    let digest = fake.image("1", &[&layer(1, 20_000)]);
    for (what, at) in
        [("blobs/", 9), ("blobs/", 5000), ("blobs/", 10_000), ("config", 30), ("manifests/", 60)]
    {
        fake.tamper(move |path, answer| {
            let is_config = path.starts_with("blobs/") && answer.body.len() < 2000;
            let hit = match what {
                "config" => is_config,
                "blobs/" => path.starts_with("blobs/") && !is_config,
                other => path.starts_with(other),
            };
            if hit {
                answer.body[at] ^= 1;
            }
        });
        let by_digest = fake.reference("1").with_digest(digest);
        let transfer = scratch.images.pull(request(&fake, by_digest));
        let error = transfer.result().await.unwrap_err();
        check_only_downloads(&scratch, &format!("{what} {at}: {error}"));
    }
    fake.honest();
    pull(&scratch, &fake, "1").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn im_11_a_layer_that_is_not_what_the_config_says_is_refused() {
    let (scratch, fake) = (Scratch::new(), Fake::start());
    let config = config_of(&[&layer(9, 10)]);
    fake.image_with("1", &config, &[&layer(1, 1000)]);
    let error = pull(&scratch, &fake, "1").await.unwrap_err();
    assert!(error.to_string().contains("is damaged"), "{error}");
    check_only_downloads(&scratch, "a wrong diff id");
    let config = config_of(&[&layer(1, 1000), &layer(2, 10)]);
    fake.image_with("2", &config, &[&layer(1, 1000)]);
    let error = pull(&scratch, &fake, "2").await.unwrap_err();
    assert!(error.to_string().contains("has 1 layers and its config describes 2"), "{error}");
    check_only_downloads(&scratch, "a missing layer");
}

#[tokio::test(flavor = "multi_thread")]
async fn im_11_what_an_earlier_attempt_left_is_not_believed() {
    let (scratch, fake) = (Scratch::new(), Fake::start());
    let plain = layer(1, 30_000);
    fake.image("1", &[&plain]);
    let digest = wharf_content::digest_of(&support::gzip(&plain));
    let ingest = scratch.data().join("content/ingest").join(digest.hex());
    for garbage in [vec![0_u8; 10_000], vec![7; 100], vec![1; 10_000_000]] {
        std::fs::write(&ingest, garbage).unwrap();
        let pulled = pull(&scratch, &fake, "1").await;
        let id = match pulled {
            Ok(pulled) => pulled.id,
            Err(error) => panic!("{error}"),
        };
        scratch.images.remove(&id.to_string(), true, &|_| Vec::new()).unwrap();
        scratch.check_empty("removal");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn im_08_a_bomb_stops_at_the_limit_and_leaves_nothing() {
    let limits = Limits { ratio_from: 1 << 20, ratio: 100, ..Limits::default() };
    let (scratch, fake) = (Scratch::with(limits), Fake::start());
    fake.image("1", &[&Tar::new().file("zeros", &vec![0; 64 << 20]).finish()]);
    let error = pull(&scratch, &fake, "1").await.unwrap_err();
    assert!(error.to_string().contains("bomb"), "{error}");
    check_only_downloads(&scratch, "a bomb");
}

#[tokio::test(flavor = "multi_thread")]
async fn im_09_indexes_are_followed_only_so_far() {
    let (scratch, fake) = (Scratch::new(), Fake::start());
    let inner = fake.image("inner", &[&layer(1, 10)]);
    let mut child = (support::fake::MANIFEST, inner);
    for depth in 0..6 {
        let size = fake.size_of(&child.1);
        let platform = r#""platform":{"os":"linux","architecture":"amd64"}"#;
        let index = format!(
            r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[{{"mediaType":"{}","digest":"{}","size":{size},{platform}}}]}}"#,
            child.0, child.1
        );
        child = (INDEX, fake.manifest(&format!("deep{depth}"), INDEX, index.as_bytes()));
    }
    pull(&scratch, &fake, "deep3").await.unwrap();
    let error = pull(&scratch, &fake, "deep5").await.unwrap_err();
    assert!(error.to_string().contains("nested too deeply"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_platform_that_is_asked_for_is_chosen_or_named() {
    let (scratch, fake) = (Scratch::new(), Fake::start());
    let tar = layer(1, 10);
    let amd64 = fake.image("amd64", &[&tar]);
    let config = config_of(&[&tar]).replace("amd64", "arm64");
    let arm64 = fake.image_with("arm64", &config, &[&tar]);
    let child = |digest, architecture: &str| {
        format!(
            r#"{{"mediaType":"{}","digest":"{digest}","size":{},"platform":{{"os":"linux","architecture":"{architecture}"}}}}"#,
            support::fake::MANIFEST,
            fake.size_of(&digest)
        )
    };
    let index = format!(
        r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[{},{}]}}"#,
        child(arm64, "arm64"),
        child(amd64, "amd64")
    );
    let top = fake.manifest("1", INDEX, index.as_bytes());
    let on = |platform: &str| PullRequest {
        platform: Some(platform.to_owned()),
        ..request(&fake, fake.reference("1"))
    };
    let arm = scratch.images.pull(on("linux/arm64")).result().await.unwrap();
    assert_eq!((arm.digest, &arm.mismatch), (top, &None), "the name means the index");
    assert_eq!(scratch.images.resolve(&arm.id.to_string()).unwrap().manifest, arm64);
    let intel = scratch.images.pull(on("linux/amd64")).result().await.unwrap();
    assert_ne!(intel.id, arm.id);
    let error = scratch.images.pull(on("linux/s390x")).result().await.unwrap_err();
    assert_eq!(error.to_string(), "no matching manifest for linux/s390x in the manifest list entries");
    // A name without a choice gives what there is, and says so.
    let only = PullRequest { reference: fake.reference("arm64"), ..on("linux/amd64") };
    let mismatch = scratch.images.pull(only).result().await.unwrap().mismatch;
    assert_eq!(mismatch, Some(("linux/amd64".to_owned(), "linux/arm64".to_owned())));
}
