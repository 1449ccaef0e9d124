//! The store as its callers see it.
#![allow(clippy::unwrap_used, reason = "a failing helper is a failing test")]

use std::io::Write;

use wharf_content::spec::{self, Descriptor, DocumentError, Index, Manifest};
use wharf_content::{Error, Store, digest_of};

#[test]
fn a_published_blob_is_found_by_its_digest() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let mut ingest = store.ingest().unwrap();
    ingest.write_all(b"hello").unwrap();
    let staged = ingest.finish();
    let digest = *staged.digest();
    assert_eq!(store.size(&digest).unwrap(), None);
    store.publish(vec![staged]).unwrap();
    assert_eq!(store.document(&digest).unwrap(), b"hello");
    assert_eq!(store.size(&digest).unwrap(), Some(5));
    assert_eq!(store.list().unwrap(), [digest]);
    store.verify(&digest).unwrap();
    store.remove(&digest).unwrap();
    store.remove(&digest).unwrap();
    assert!(matches!(store.reader(&digest), Err(Error::NotFound(missing)) if missing == digest));
}

#[test]
fn what_is_not_published_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    drop(store.stage(b"x").unwrap());
    drop(store.ingest().unwrap());
    // As after a kill: a file that nobody owns.
    std::fs::write(dir.path().join("ingest/7"), "half").unwrap();
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(std::fs::read_dir(dir.path().join("ingest")).unwrap().count(), 0);
    assert_eq!(store.list().unwrap(), []);
}

#[test]
fn im_11_damaged_content_is_noticed_before_it_is_used() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let staged = store.stage(b"{}").unwrap();
    let digest = *staged.digest();
    store.publish(vec![staged]).unwrap();
    std::fs::write(store.path(&digest), "[]").unwrap();
    assert!(matches!(store.document(&digest), Err(Error::Mismatch { .. })));
    assert!(matches!(store.verify(&digest), Err(Error::Mismatch { .. })));
}

#[test]
fn the_directory_is_an_image_layout_and_the_index_is_the_same_bytes_each_time() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let layout = std::fs::read_to_string(dir.path().join("oci-layout")).unwrap();
    assert_eq!(layout, r#"{"imageLayoutVersion":"1.0.0"}"#);
    let mut descriptor = Descriptor::new(spec::MANIFEST, digest_of(b""), 0);
    descriptor.annotations =
        Some([("b", "2"), ("a", "1")].map(|(k, v)| (k.to_owned(), v.to_owned())).into_iter().collect());
    store.write_index(&Index { manifests: vec![descriptor], ..Index::default() }).unwrap();
    let index = std::fs::read_to_string(dir.path().join("index.json")).unwrap();
    assert_eq!(
        index,
        r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":0,"annotations":{"a":"1","b":"2"}}]}"#
    );
    // Opening again keeps it.
    drop(Store::open(dir.path()).unwrap());
    assert_eq!(std::fs::read_to_string(dir.path().join("index.json")).unwrap(), index);
}

const CONFIG: &str = r#"{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":0}"#;

#[test]
fn im_10_a_document_that_reads_as_two_things_is_refused() {
    let plain = format!(r#"{{"schemaVersion":2,"config":{CONFIG},"layers":[]}}"#);
    assert!(Manifest::parse(plain.as_bytes(), spec::MANIFEST).is_ok());
    for (text, media_type) in [
        (format!(r#"{{"schemaVersion":2,"config":{CONFIG},"layers":[],"manifests":[]}}"#), spec::MANIFEST),
        (
            format!(r#"{{"schemaVersion":2,"mediaType":"{}","config":{CONFIG},"layers":[]}}"#, spec::INDEX),
            spec::MANIFEST,
        ),
        (format!(r#"{{"schemaVersion":2,"config":{CONFIG},"layers":[],"layers":[]}}"#), spec::MANIFEST),
        (format!(r#"{{"schemaVersion":1,"config":{CONFIG},"layers":[]}}"#), spec::MANIFEST),
        // Docker reads these as the keys they resemble.
        (format!(r#"{{"schemaVersion":2,"config":{CONFIG},"layers":[],"Layers":[]}}"#), spec::MANIFEST),
        (format!(r#"{{"schemaVersion":2,"config":{CONFIG},"layers":[],"MANIFESTS":[]}}"#), spec::MANIFEST),
        (format!(r#"{{"schemaVersion":2,"config":{CONFIG},"layers":[],"layer\u017f":[]}}"#), spec::MANIFEST),
        (format!(r#"{{"schemaVersion":2,"config":{CONFIG},"layers":[],"mediatype":"x"}}"#), spec::MANIFEST),
        (plain.replace("sha256:e3", "sha256:E3"), spec::MANIFEST),
        (plain.replace("sha256:e3", "sha256:../../"), spec::MANIFEST),
    ] {
        assert!(Manifest::parse(text.as_bytes(), media_type).is_err(), "{text}");
    }
    for text in [
        r#"{"schemaVersion":2,"manifests":[],"layers":[]}"#.to_owned(),
        format!(r#"{{"schemaVersion":2,"manifests":[],"config":{CONFIG}}}"#),
        r#"{"schemaVersion":2,"manifests":[],"manifests":[]}"#.to_owned(),
    ] {
        assert!(Index::parse(text.as_bytes(), spec::INDEX).is_err(), "{text}");
    }
}

#[test]
fn im_09_a_document_is_bounded_in_size_and_depth() {
    let large = vec![b' '; usize::try_from(spec::MAX_DOCUMENT).unwrap() + 1];
    assert!(matches!(Manifest::parse(&large, spec::MANIFEST), Err(DocumentError::TooLarge(_))));
    // Where a value is looked at, depth is an error; where it is skipped, it costs no stack.
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let used = format!(r#"{{"schemaVersion":2,"manifests":{deep}}}"#);
    assert!(matches!(Index::parse(used.as_bytes(), spec::INDEX), Err(DocumentError::Json(_))));
    let skipped = format!(r#"{{"schemaVersion":2,"manifests":[],"x":{deep}}}"#);
    assert!(Index::parse(skipped.as_bytes(), spec::INDEX).is_ok());
}

#[test]
fn a_download_goes_on_after_a_restart() {
    let scratch = tempfile::tempdir().unwrap();
    let bytes = b"twelve bytes".as_slice();
    let digest = digest_of(bytes);
    {
        let store = Store::open(scratch.path()).unwrap();
        let mut first = store.download(&digest).unwrap();
        first.write_all(&bytes[..5]).unwrap();
    }
    let store = Store::open(scratch.path()).unwrap();
    let mut again = store.download(&digest).unwrap();
    assert_eq!(again.kept(), 5);
    // The kept bytes are hashed and not written twice, however the pieces fall.
    for piece in bytes.chunks(3) {
        again.write_all(piece).unwrap();
    }
    let staged = again.finish();
    assert_eq!((staged.digest(), staged.size()), (&digest, 12));
    store.publish(vec![staged]).unwrap();
    assert_eq!(store.document(&digest).unwrap(), bytes);
    assert_eq!(store.download(&digest).unwrap().kept(), 0, "a published download is not left in ingest");
}

#[test]
fn a_download_that_is_wrong_is_forgotten() {
    let scratch = tempfile::tempdir().unwrap();
    let store = Store::open(scratch.path()).unwrap();
    let digest = digest_of(b"right");
    let mut ingest = store.download(&digest).unwrap();
    ingest.write_all(b"wrong").unwrap();
    let staged = ingest.finish();
    assert_ne!(staged.digest(), &digest);
    staged.discard();
    assert_eq!(store.download(&digest).unwrap().kept(), 0);
}

#[test]
fn the_same_download_published_twice_is_no_error() {
    let scratch = tempfile::tempdir().unwrap();
    let store = Store::open(scratch.path()).unwrap();
    let digest = digest_of(b"once");
    let mut one = store.download(&digest).unwrap();
    one.write_all(b"once").unwrap();
    let one = one.finish();
    let mut two = store.download(&digest).unwrap();
    assert_eq!(two.kept(), 4);
    two.write_all(b"once").unwrap();
    let two = two.finish();
    store.publish(vec![one]).unwrap();
    store.publish(vec![two]).unwrap();
    assert_eq!(store.document(&digest).unwrap(), b"once");
}

#[test]
fn a_download_that_is_published_under_a_later_one_can_still_be_read_by_it() {
    let scratch = tempfile::tempdir().unwrap();
    let store = Store::open(scratch.path()).unwrap();
    let digest = digest_of(b"once");
    let mut one = store.download(&digest).unwrap();
    one.write_all(b"once").unwrap();
    let one = one.finish();
    let mut two = store.download(&digest).unwrap();
    store.publish(vec![one]).unwrap();
    let mut kept = Vec::new();
    std::io::Read::read_to_end(&mut two.kept_reader().unwrap(), &mut kept).unwrap();
    two.write_all(&kept).unwrap();
    let two = two.finish();
    assert_eq!(two.digest(), &digest);
    store.publish(vec![two]).unwrap();
    assert_eq!(store.document(&digest).unwrap(), b"once");
}

#[test]
fn old_downloads_go() {
    let scratch = tempfile::tempdir().unwrap();
    let store = Store::open(scratch.path()).unwrap();
    let digest = digest_of(b"x");
    store.download(&digest).unwrap().write_all(b"y").unwrap();
    store.forget_downloads(std::time::Duration::from_secs(60)).unwrap();
    assert_eq!(store.download(&digest).unwrap().kept(), 1);
    store.forget_downloads(std::time::Duration::ZERO).unwrap();
    assert_eq!(store.download(&digest).unwrap().kept(), 0);
}
