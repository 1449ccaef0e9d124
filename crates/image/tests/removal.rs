//! Removal by Docker's rules and in Docker's words (each text compared with Docker 28.5.2), and what stays on disk.
#![allow(clippy::unwrap_used, reason = "a failing helper is a failing test")]

mod support;

use std::fs;

use support::{Scratch, Tar, docker_archive, docker_archive_of};
use wharf_image::{Error, Removed, User};
use wharf_model::{Digest, Reference};

const RUNNING: &str = "1b77d65b4cce0123456789";
const STOPPED: &str = "c2906d8522b20123456789";

fn nobody(_: &Digest) -> Vec<User> {
    Vec::new()
}

fn stopped(_: &Digest) -> Vec<User> {
    vec![(STOPPED.to_owned(), false)]
}

fn running(_: &Digest) -> Vec<User> {
    vec![(STOPPED.to_owned(), false), (RUNNING.to_owned(), true)]
}

fn layer(name: &str) -> Vec<u8> {
    Tar::new().file(name, name.as_bytes()).finish()
}

/// A store with one image of one layer under these names.
fn store(names: &[&str]) -> (Scratch, Digest) {
    let scratch = Scratch::new();
    let id = scratch.import(&layer("f")).unwrap();
    for name in names {
        scratch.images.tag(&id.to_string(), &name.parse().unwrap()).unwrap();
    }
    (scratch, id)
}

fn untagged(name: &str) -> Removed {
    Removed::Untagged(name.to_owned())
}

#[test]
fn one_of_several_names_is_only_untagged() {
    let (scratch, id) = store(&["app:1", "app:2"]);
    assert_eq!(scratch.images.remove("app:1", false, &running).unwrap(), [untagged("app:1")]);
    assert_eq!(scratch.images.resolve("app:2").unwrap().id, id);
}

#[test]
fn the_last_name_takes_the_image_and_its_layers_along() {
    let (scratch, id) = store(&["app:1"]);
    let chain = wharf_content::digest_of(&layer("f"));
    let removed = scratch.images.remove("app:1", false, &nobody).unwrap();
    assert_eq!(removed, [untagged("app:1"), Removed::Deleted(id), Removed::Deleted(chain)]);
    scratch.check_empty("removal");
}

#[test]
fn the_last_name_of_an_image_in_use_stays() {
    let (scratch, id) = store(&["app:1"]);
    let error = scratch.images.remove("app:1", false, &stopped).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "conflict: unable to remove repository reference \"app:1\" (must force) - container c2906d8522b2 is using its referenced image {}",
            id.short()
        )
    );
    // Forced: the name goes, and the image with it unless a container runs.
    assert_eq!(scratch.images.remove("app:1", true, &running).unwrap(), [untagged("app:1")]);
    assert_eq!(scratch.images.list().unwrap().len(), 1);
    assert_eq!(scratch.images.remove(&id.to_string(), true, &stopped).unwrap()[0], Removed::Deleted(id));
}

#[test]
fn an_id_removes_the_only_name_too() {
    let (scratch, id) = store(&["app:1"]);
    assert_eq!(
        scratch.images.remove(&id.short(), false, &nobody).unwrap()[..2],
        [untagged("app:1"), Removed::Deleted(id)]
    );
}

#[test]
fn conflicts_of_an_id_have_dockers_words() {
    let (scratch, id) = store(&["app:1", "other:1"]);
    let message = |force: bool, users: &dyn Fn(&Digest) -> Vec<User>| {
        scratch.images.remove(&id.hex(), force, users).unwrap_err().to_string()
    };
    let short = id.short();
    let in_use = format!(
        "conflict: unable to delete {short} (cannot be forced) - image is being used by running container 1b77d65b4cce"
    );
    assert_eq!(
        message(false, &nobody),
        format!(
            "conflict: unable to delete {short} (must be forced) - image is referenced in multiple repositories"
        )
    );
    assert_eq!(message(false, &running), in_use);
    assert_eq!(message(true, &running), in_use);
    scratch.images.remove("other:1", false, &nobody).unwrap();
    scratch.images.remove("app:1", true, &running).unwrap();
    assert_eq!(
        message(false, &stopped),
        format!(
            "conflict: unable to delete {short} (must be forced) - image is being used by stopped container c2906d8522b2"
        )
    );
    // What failed changed nothing.
    assert_eq!(scratch.images.list().unwrap().len(), 1);

    scratch.images.tag(&id.to_string(), &"app:1".parse().unwrap()).unwrap();
    scratch.images.tag(&id.to_string(), &"b:1".parse().unwrap()).unwrap();
    assert_eq!(
        scratch.images.remove(&id.hex(), true, &nobody).unwrap()[..3],
        [untagged("app:1"), untagged("b:1"), Removed::Deleted(id)]
    );
}

#[test]
fn unknown_names_have_dockers_words() {
    let (scratch, _) = store(&["app:1"]);
    for (name, message) in [
        ("nothing", "No such image: nothing:latest".to_owned()),
        ("app", "No such image: app:latest".to_owned()),
        ("abcdef", "No such image: abcdef:latest".to_owned()),
        ("quay.io/a/b:c", "No such image: quay.io/a/b:c".to_owned()),
        (&"0".repeat(64), format!("No such image: sha256:{}", "0".repeat(64))),
        ("Bad", "invalid reference format: repository name (library/Bad) must be lowercase".to_owned()),
    ] {
        let error = scratch.images.remove(name, false, &nobody).unwrap_err();
        assert_eq!(error.to_string(), message);
        assert_eq!(scratch.images.resolve(name).unwrap_err().to_string(), message);
        assert_eq!(scratch.images.tag(name, &"x".parse().unwrap()).unwrap_err().to_string(), message);
    }
    let digest: Reference = format!("x@sha256:{}", "0".repeat(64)).parse().unwrap();
    let error = scratch.images.tag("app:1", &digest).unwrap_err();
    assert_eq!(error.to_string(), "refusing to create a tag with a digest reference");
}

#[test]
fn a_name_wins_over_the_start_of_an_id() {
    let (scratch, id) = store(&[]);
    let start = &id.hex()[..4];
    assert_eq!(scratch.images.resolve(start).unwrap().id, id);
    let other = scratch.import(&layer("g")).unwrap();
    scratch.images.tag(&other.to_string(), &start.parse().unwrap()).unwrap();
    assert_eq!(scratch.images.resolve(start).unwrap().id, other);
}

#[test]
fn shared_layers_stay_as_long_as_someone_stands_on_them() {
    for scratch in Scratch::of_each_format() {
        let (base, one, two) = (layer("base"), layer("one"), layer("two"));
        scratch
            .load(&docker_archive_of(&[("a:1", &[&base, &one]), ("a:2", &[&base, &two]), ("a:3", &[&base])]))
            .unwrap();
        let image = scratch.images.resolve("a:1").unwrap();
        let removed = scratch.images.remove("a:1", false, &nobody).unwrap();
        assert_eq!(removed.len(), 3, "{removed:?}");
        scratch.images.remove("a:3", false, &nobody).unwrap();
        scratch.images.collect().unwrap();
        let mounts = scratch.images.create_snapshot("c", &scratch.images.resolve("a:2").unwrap().id).unwrap();
        assert!(mounts.base.join(&mounts.lower[1]).join("base").exists());
        assert!(scratch.images.create_snapshot("d", &image.id).is_err());

        // A container keeps its layers when the image is taken away.
        scratch.images.remove("a:2", true, &stopped).unwrap();
        scratch.images.collect().unwrap();
        assert!(mounts.base.join(&mounts.lower[0]).join("two").exists());
        assert_eq!(scratch.images.snapshot("c").unwrap(), mounts);
        scratch.images.remove_snapshot("c").unwrap();
        scratch.check_empty("the container that held the last layers");
    }
}

#[test]
fn snapshots_are_writable_directories_of_their_own() {
    let (mut scratch, id) = store(&["app:1"]);
    let mounts = scratch.images.create_snapshot("one", &id).unwrap();
    let other = scratch.images.create_snapshot("two", &id).unwrap();
    assert_ne!(mounts.upper, other.upper);
    assert!(matches!(scratch.images.create_snapshot("one", &id).unwrap_err(), Error::SnapshotExists(_)));
    let upper = mounts.base.join(&mounts.upper);
    fs::write(upper.join("a"), "12345").unwrap();
    fs::hard_link(upper.join("a"), upper.join("b")).unwrap();
    fs::create_dir(upper.join("d")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", upper.join("d/link")).unwrap();
    assert_eq!(scratch.images.snapshot_size("one").unwrap(), 5 + 11);

    // A restart keeps them, and sweeps what has no row.
    fs::create_dir_all(scratch.data().join("snapshots/99/fs/left")).unwrap();
    fs::create_dir_all(scratch.data().join("snapshots/.trash/98/fs/left")).unwrap();
    fs::write(scratch.data().join("content/ingest/5"), "half").unwrap();
    fs::write(scratch.data().join("content/blobs/sha256").join("0".repeat(64)), "no image's").unwrap();
    fs::write(scratch.data().join("content/index.json"), "{}").unwrap();
    scratch.reopen();
    assert_eq!(scratch.images.snapshots().unwrap(), ["one", "two"]);
    assert_eq!(scratch.images.snapshot("one").unwrap(), mounts);
    let third = scratch.images.create_snapshot("three", &id).unwrap();
    let number = |upper: &str| upper.split('/').next().unwrap().parse::<u64>().unwrap();
    assert!(number(&third.upper) > 99, "{third:?}");
    scratch.images.collect().unwrap();
    assert!(
        !scratch.data().join("snapshots/99").exists() && !scratch.data().join("snapshots/.trash/98").exists()
    );
    let index = fs::read_to_string(scratch.data().join("content/index.json")).unwrap();
    assert!(index.contains("docker.io/library/app:1"), "{index}");

    for key in ["one", "two", "three", "three", "never"] {
        scratch.images.remove_snapshot(key).unwrap();
    }
    assert!(matches!(scratch.images.snapshot("one").unwrap_err(), Error::NoSnapshot(_)));
    scratch.images.remove("app:1", false, &nobody).unwrap();
    scratch.check_empty("all snapshots and the image");
}

#[test]
fn a_snapshot_whose_files_a_power_cut_took_is_forgotten() {
    let (mut scratch, id) = store(&["app:1"]);
    let mounts = scratch.images.create_snapshot("one", &id).unwrap();
    fs::remove_dir_all(mounts.base.join(mounts.upper.split('/').next().unwrap())).unwrap();
    scratch.reopen();
    assert_eq!(scratch.images.snapshots().unwrap(), Vec::<String>::new());
}

#[test]
fn prune_takes_what_no_container_uses() {
    let scratch = Scratch::new();
    let used = scratch.import(&layer("used")).unwrap();
    let dangling = scratch.import(&layer("dangling")).unwrap();
    scratch.load(&docker_archive("tagged:1", &[&layer("tagged")])).unwrap();
    let users = |id: &Digest| if *id == used { vec![(STOPPED.to_owned(), false)] } else { Vec::new() };
    let pruned = scratch.images.prune(true, &users).unwrap();
    assert_eq!(pruned.removed[0], Removed::Deleted(dangling));
    assert_eq!((pruned.removed.len(), pruned.reclaimed), (2, 8));
    let pruned = scratch.images.prune(false, &users).unwrap();
    assert_eq!(pruned.removed[0], untagged("tagged:1"));
    assert_eq!(scratch.images.list().unwrap().iter().map(|image| image.id).collect::<Vec<_>>(), [used]);
    assert_eq!(scratch.images.prune(true, &nobody).unwrap().removed.len(), 2);
    scratch.check_empty("prune");
}

#[test]
fn loads_removals_and_snapshots_at_the_same_time_agree() {
    for scratch in Scratch::of_each_format() {
        let base = layer("base");
        std::thread::scope(|scope| {
            for worker in 0..4 {
                let (scratch, base) = (&scratch, &base);
                scope.spawn(move || {
                    for round in 0..6 {
                        let name = format!("w{worker}:r{round}");
                        let archive = docker_archive(&name, &[base, &layer(&format!("l{}", round % 2))]);
                        let id = scratch.load(&archive).unwrap()[0].id;
                        let key = format!("{worker}-{round}");
                        // Another worker may have removed the image in between: then both sides must say so.
                        match scratch.images.create_snapshot(&key, &id) {
                            Ok(mounts) => {
                                for lower in &mounts.lower {
                                    assert!(mounts.base.join(lower).exists(), "{lower}");
                                }
                                scratch.images.remove_snapshot(&key).unwrap();
                            }
                            Err(Error::NotFound(_)) => {}
                            Err(error) => panic!("{error}"),
                        }
                        scratch.images.remove(&name, true, &nobody).unwrap();
                    }
                });
            }
        });
        scratch.check_empty("all of it");
    }
}
